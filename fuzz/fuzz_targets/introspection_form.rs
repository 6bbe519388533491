//! The forms of Synapse's introspections and clients' revocations. They are read as MAS reads them, and
//! what is understood means the same when it is written anew.

#![no_main]

use libfuzzer_sys::fuzz_target;
use matrix_edge_auth::{
    form, mas::token, matrix::session_end::revoked_token, role::introspection::request,
    token::TokenDigest,
};

fuzz_target!(|input: &[u8]| {
    let pairs: Vec<_> = form::pairs(input).collect();
    let by_mas: Vec<_> = form_urlencoded::parse(input).collect();
    let lossy: Vec<_> = pairs
        .iter()
        .map(|(name, value)| {
            (
                String::from_utf8_lossy(name),
                String::from_utf8_lossy(value),
            )
        })
        .collect();
    assert_eq!(lossy, by_mas);
    let written = write(&pairs);
    assert!(form::pairs(&written).eq(pairs.iter().cloned()));

    let first = pairs.iter().find(|(name, _)| name == b"token");
    let digest = first.map(|(_, token)| TokenDigest::of(token));
    assert_eq!(revoked_token(input), digest);

    if let Some(found) = request::token(input) {
        assert!(!found.as_str().is_empty() && !found.has_control_bytes());
        assert_eq!(pairs.len(), 2);
        assert_eq!(first.map(|(_, token)| &**token), Some(found.as_bytes()));
        assert!(pairs.contains(&(b"token_type_hint".to_vec(), b"access_token".to_vec())));
        assert_eq!(request::token(&written), Some(found.clone()));
        let _ = token::shape(found.as_bytes());
    }
});

fn write(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut form = Vec::new();
    for (name, value) in pairs {
        if !form.is_empty() {
            form.push(b'&');
        }
        form::encode(name, &mut form);
        form.push(b'=');
        form::encode(value, &mut form);
    }
    form
}
