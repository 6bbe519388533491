//! The plugin configuration, JSON or a protobuf `Struct`. It is taken, or refused with one line; neither shows a
//! secret, and none that is taken opens a blocked path.

#![no_main]

use libfuzzer_sys::fuzz_target;
use matrix_edge_auth::{
    config,
    matrix::endpoint::{AuthRequirement, Method},
};

const SECRET: &str = "do-not-print-me";

fuzz_target!(|bytes: &[u8]| {
    let shown = match config::parse(bytes, &|_| Some(SECRET.to_owned())) {
        Ok(config) => {
            let requirement = config
                .endpoints
                .classify(b"/_synapse/mas/query_user", Method::Get);
            assert_eq!(requirement, AuthRequirement::Blocked);
            let headers = &config.identity_headers;
            let names = [
                &headers.user_id,
                &headers.device_id,
                &headers.client_id,
                &headers.scope,
                &headers.token_kind,
            ];
            assert!(
                names
                    .into_iter()
                    .flatten()
                    .all(|name| name.starts_with("x-"))
            );
            format!("{config:?}")
        }
        Err(error) => {
            let line = error.to_string();
            assert!(!line.is_empty());
            assert!(!line.contains(char::is_control), "{line:?}");
            line
        }
    };
    let was_given = bytes
        .windows(SECRET.len())
        .any(|window| window == SECRET.as_bytes());
    assert!(was_given || !shown.contains(SECRET), "{shown}");
});
