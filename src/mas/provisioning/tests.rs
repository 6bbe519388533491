//! MAS's calls to Synapse: which end answers, and whose.

use super::{ProvisioningEndpoint::*, *};

fn event(voiding: Voiding) -> Option<ProvisioningEvent> {
    Some(ProvisioningEvent {
        user: UserKey::of("alice"),
        voiding,
    })
}

fn all_but(ids: &[&str]) -> Voiding {
    Voiding::AllExcept(ids.iter().map(|id| DeviceKey::of(id)).collect())
}

#[test]
fn endpoints_are_named_by_method_and_path() {
    let of =
        |method: &str, target: &str| ProvisioningEndpoint::of(method.as_bytes(), target.as_bytes());
    for (endpoint, name) in [
        (DeleteDevice, "delete_device"),
        (DeleteUser, "delete_user"),
        (ProvisionUser, "provision_user"),
        (ReactivateUser, "reactivate_user"),
        (SyncDevices, "sync_devices"),
        (UpsertDevice, "upsert_device"),
    ] {
        assert_eq!(endpoint.reason().label(), name);
        let target = format!("/_synapse/mas/{name}");
        assert_eq!(of("POST", &target), Some(endpoint));
        assert_eq!(of("GET", &target), None);
        assert_eq!(of("POST", &format!("{target}/")), None);
        // Below the path of `matrix.endpoint`.
        assert_eq!(of("POST", &format!("/synapse{target}")), Some(endpoint));
        assert_eq!(of("POST", &format!("/a/b{target}")), Some(endpoint));
        assert_eq!(of("POST", &format!("/x?y={target}")), None);
        assert_eq!(of("POST", &format!("/_matrix/client/v3/x{target}")), None);
    }
    for target in [
        "/_synapse/mas/update_device_display_name",
        "/_synapse/mas/query_user",
        "/_synapse/mas/homeserver",
        "/_synapse/mas/logout",
        "/sync_devices",
        "/x_synapse/mas/sync_devices",
        "sync_devices",
        "",
    ] {
        assert_eq!(of("POST", target), None);
    }
}

#[test]
fn of_a_long_list_the_first_devices_are_named() {
    let ids: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let body = serde_json::json!({"localpart": "alice", "devices": ids}).to_string();
    let named: Vec<&str> = ids
        .iter()
        .take(MAX_NAMED_DEVICES)
        .map(String::as_str)
        .collect();
    assert_eq!(SyncDevices.read(body.as_bytes()), event(all_but(&named)));
    // What is not named is still what the homeserver understands.
    for wrong in [r#""99""#, "\"98\",\"99\"]"] {
        let body = body.replace(wrong, if wrong.ends_with(']') { "98" } else { "{}" });
        assert_eq!(SyncDevices.read(body.as_bytes()), None, "{body}");
    }
}

#[test]
fn what_a_list_of_devices_costs_is_in_proportion_to_its_length() {
    for list in [r#""","#, r#""a","#, r#""\u0061","#, r#""abcdefghij","#] {
        for kib in [1, 4, 16, 64] {
            let devices = list.repeat(kib * 1024 / list.len());
            let body = format!(r#"{{"localpart":"alice","devices":[{devices}""]}}"#);
            let steps = work::count(|| {
                let event = SyncDevices.read(body.as_bytes());
                assert!(event.is_some(), "{list}");
            });
            // As many texts as are named cost some steps each.
            let most = body.len() + 64 * (MAX_NAMED_DEVICES + 1);
            assert!(steps > 0 && steps <= most, "{list}: {steps} at {kib} KiB");
        }
    }
}

#[test]
fn each_request_ends_what_it_tells_of() {
    for (endpoint, body, expected) in [
        (
            SyncDevices,
            r#"{"localpart":"alice","devices":["A","B"]}"#,
            all_but(&["A", "B"]),
        ),
        (
            SyncDevices,
            r#"{"devices":[],"localpart":"alice","new":{}}"#,
            all_but(&[]),
        ),
        (
            DeleteDevice,
            r#"{"localpart":"alice","device_id":"A"}"#,
            Voiding::Device(DeviceKey::of("A")),
        ),
        (
            UpsertDevice,
            r#"{"localpart":"alice","device_id":"A","display_name":"Phone"}"#,
            Voiding::Device(DeviceKey::of("A")),
        ),
        (
            DeleteUser,
            r#"{"localpart":"alice","erase":false}"#,
            all_but(&[]),
        ),
        (ReactivateUser, r#"{"localpart":"alice"}"#, Voiding::All),
        (
            ProvisionUser,
            r#"{"localpart":"alice","locked":true}"#,
            all_but(&[]),
        ),
        (
            ProvisionUser,
            r#"{"localpart":"alice","locked":false}"#,
            Voiding::Inactive,
        ),
        (
            ProvisionUser,
            r#"{"localpart":"alice","unset_displayname":true}"#,
            Voiding::Inactive,
        ),
    ] {
        assert_eq!(endpoint.read(body.as_bytes()), event(expected), "{body}");
    }
}

#[test]
fn what_the_homeserver_refuses_ends_nothing() {
    for (endpoint, body) in [
        (SyncDevices, ""),
        (SyncDevices, "{}"),
        (SyncDevices, r#"{"localpart":"alice"}"#),
        (SyncDevices, r#"{"localpart":"alice","devices":[1]}"#),
        (SyncDevices, r#"{"localpart":"alice","devices":["A"]"#),
        (DeleteDevice, r#"{"localpart":"alice"}"#),
        (UpsertDevice, r#"{"localpart":"alice","device_id":null}"#),
        (DeleteUser, r#"{"localpart":7}"#),
        (ProvisionUser, r#"{"localpart":"alice","locked":"yes"}"#),
        (DeleteUser, r#"["alice"]"#),
        (SyncDevices, r#"["alice",["A"],"A",true]"#),
    ] {
        assert_eq!(endpoint.read(body.as_bytes()), None, "{body}");
    }
}

#[test]
fn the_beginning_tells_the_user() {
    let beginning = br#"{"devices":["A"],"localpart":"alice","more":["A","#;
    assert_eq!(SyncDevices.read_beginning(beginning), event(Voiding::All));
    for beginning in [&b""[..], b"{", br#"{"localpart":"ali"#, b"[1]"] {
        assert_eq!(SyncDevices.read_beginning(beginning), None);
    }
}
