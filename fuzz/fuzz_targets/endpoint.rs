//! What an endpoint needs of its caller. A blocked path stays blocked however one more of its bytes is encoded, and
//! no rule of the configuration opens it.
//!
//! Not so the bytes that separate: `/_synapse%2fx` may as well be one segment.
//!
//! An input is the method on a line, and the target.

#![no_main]

use libfuzzer_sys::fuzz_target;
use matrix_edge_auth::matrix::endpoint::{
    AuthRequirement::{self, Blocked},
    Endpoints, Method, PathMatch, Rule, classify,
};

/// Every byte is encoded in turn, so a long path costs its square.
const MAX_PATH: usize = 128;

fuzz_target!(|input: &[u8]| {
    let mut lines = input.splitn(2, |&byte| byte == b'\n');
    let method = Method::from_bytes(lines.next().unwrap_or_default());
    let target = lines.next().unwrap_or_default();

    let requirement = classify(target, method);
    let open = Endpoints::new(vec![Rule {
        path: PathMatch::Prefix(String::new()),
        methods: None,
        requirement: AuthRequirement::None,
    }]);
    let overridden = open.classify(target, method);
    assert_eq!(overridden == Blocked, requirement == Blocked);

    let path = target
        .split(|&byte| byte == b'?')
        .next()
        .unwrap_or_default();
    if requirement != Blocked || path.len() > MAX_PATH {
        return;
    }
    let separates = |byte| b"/\\;?#".contains(byte);
    for (at, byte) in path.iter().enumerate().filter(|(_, byte)| !separates(byte)) {
        let escape = format!("%{byte:02x}");
        let encoded = [&target[..at], escape.as_bytes(), &target[at + 1..]].concat();
        assert_eq!(
            classify(&encoded, method),
            Blocked,
            "{} is blocked, {} is not",
            target.escape_ascii(),
            encoded.escape_ascii()
        );
    }
});
