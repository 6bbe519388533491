//! What MAS tells the homeserver. Only a JSON object with a localpart says anything, and the beginning of a body tells
//! of the same user as the whole, or of nobody.

#![no_main]

mod json;

use libfuzzer_sys::fuzz_target;
use matrix_edge_auth::mas::{
    provisioning::{ProvisioningEndpoint, Voiding},
    user::UserKey,
};

/// Every beginning is read in turn, so a long body costs its square.
const MAX_CUT: usize = 256;

fuzz_target!(|body: &[u8]| {
    for name in [
        "delete_device",
        "delete_user",
        "provision_user",
        "reactivate_user",
        "sync_devices",
    ] {
        let target = format!("/_synapse/mas/{name}");
        let endpoint = ProvisioningEndpoint::of(b"POST", target.as_bytes()).expect("known");
        let beginning = endpoint.read_beginning(body);
        let Some(event) = endpoint.read(body) else {
            continue;
        };
        let members = json::object(body).expect("what is understood is a JSON object");
        let localpart: String =
            serde_json::from_str(members["localpart"].get()).expect("a localpart is a string");
        assert_eq!(event.user, UserKey::of(&localpart));
        let beginning = beginning.expect("the whole is a beginning too");
        assert_eq!(beginning.user, event.user);
        assert_eq!(beginning.voiding, Voiding::All);
        for length in 0..body.len().min(MAX_CUT) {
            let cut = endpoint.read_beginning(&body[..length]);
            assert!(cut.is_none_or(|cut| cut.user == event.user), "{length}");
        }
    }
});
