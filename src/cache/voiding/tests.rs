//! What MAS tells of users: what it voids, for how long, and in which formats it is written.

use std::rc::Rc;

use serde_json::json;

use super::*;
use crate::{
    host::{If, Versioned, memory::MemoryStore},
    mas::introspection::Answer,
};

fn at(seconds: u64) -> Instant {
    Instant::from_millis(1_000_000 + 1_000 * seconds)
}

fn token(username: &str, device_id: Option<&str>) -> Rc<ActiveAnswer> {
    let body = json!({ "active": true, "username": username, "device_id": device_id });
    match Answer::parse(body.to_string().into()) {
        Ok(Answer::Active(answer)) => answer,
        other => panic!("{other:?}"),
    }
}

fn devices(ids: &[&str]) -> Vec<DeviceKey> {
    ids.iter().map(|id| DeviceKey::of(id)).collect()
}

/// Which of some tokens asked about at `asked` are void: `-` is one without a device.
fn void(voidings: &Voidings, store: &MemoryStore, user: &str, asked: u64) -> String {
    let is_void = |id: &&str| {
        let token = token(user, (*id != "-").then_some(*id));
        voidings.voids_active(store, &UserKey::of(user), &token, at(asked))
    };
    ["A", "B", "C", "-"].into_iter().filter(is_void).collect()
}

#[test]
fn each_kind_of_voiding_ends_what_it_names() {
    for (voiding, expected, inactive) in [
        (Voiding::All, "ABC-", true),
        (Voiding::AllExcept(devices(&["A", "C"])), "B-", false),
        (Voiding::AllExcept(Vec::new()), "ABC-", false),
        (Voiding::Device(DeviceKey::of("B")), "B", false),
        (Voiding::Inactive, "", true),
    ] {
        let (voidings, store) = (Voidings::default(), MemoryStore::default());
        let user = UserKey::of("alice");
        voidings.add(&store, &user, &voiding, at(10)).unwrap();
        for asked in [9, 10] {
            let found = void(&voidings, &store, "alice", asked);
            assert_eq!(found, expected, "{voiding:?}");
        }
        assert_eq!(void(&voidings, &store, "alice", 11), "");
        assert_eq!(void(&voidings, &store, "bob", 9), "");
        for user in [Some(&user), None] {
            let voids = |asked| voidings.voids_inactive(&store, user, at(asked));
            assert_eq!((voids(10), voids(11)), (inactive, false), "{voiding:?}");
        }
    }
}

#[test]
fn what_was_void_before_stays_void() {
    let (voidings, store) = (Voidings::default(), MemoryStore::default());
    let user = UserKey::of("alice");
    let add = |voiding, seconds| {
        voidings.add(&store, &user, &voiding, at(seconds)).unwrap();
    };
    add(Voiding::AllExcept(devices(&["A", "B"])), 10);
    add(Voiding::Device(DeviceKey::of("A")), 20);
    add(Voiding::AllExcept(devices(&["A", "B", "C"])), 30);
    // C came back after 10, A after 20.
    assert_eq!(void(&voidings, &store, "alice", 10), "AC-");
    assert_eq!(void(&voidings, &store, "alice", 20), "A-");
    assert_eq!(void(&voidings, &store, "alice", 21), "-");
    assert_eq!(void(&voidings, &store, "alice", 31), "");
}

#[test]
fn the_number_of_devices_is_bounded_and_none_is_forgotten() {
    let (voidings, store) = (Voidings::default(), MemoryStore::default());
    let user = UserKey::of("alice");
    let ids: Vec<String> = (0..10 * MAX_DEVICES).map(|n| n.to_string()).collect();
    for (seconds, id) in (10..).zip(&ids) {
        let voiding = Voiding::Device(DeviceKey::of(id));
        voidings.add(&store, &user, &voiding, at(seconds)).unwrap();
        let largest = 49 + MAX_DEVICES * 24;
        store.damage(|value| assert!(value.len() <= largest));
    }
    for (seconds, id) in (10..).zip(&ids) {
        let token = token("alice", Some(id));
        assert!(voidings.voids_active(&store, &user, &token, at(seconds)));
    }
    let all = Voiding::AllExcept(ids.iter().map(|id| DeviceKey::of(id)).collect());
    voidings.add(&store, &user, &all, at(1_000)).unwrap();
    let late = |id: &str| {
        let token = token("alice", Some(id));
        voidings.voids_active(&store, &user, &token, at(999))
    };
    assert!(!late("0"), "a survivor");
    assert!(late("319"), "a survivor too many: one more call");
}

#[test]
fn a_user_who_makes_room_for_another_stays_void() {
    let store = MemoryStore::default();
    let voidings = Voidings {
        keys: KeySpace::new(Space::Users, 1),
        ..Voidings::default()
    };
    let users: Vec<UserKey> = (0..50).map(|n| UserKey::of(&n.to_string())).collect();
    for (seconds, user) in (10..).zip(&users) {
        let voiding = Voiding::Device(DeviceKey::of("A"));
        voidings.add(&store, user, &voiding, at(seconds)).unwrap();
    }
    let alice = token("-", Some("A"));
    for (seconds, user) in (10..).zip(&users) {
        assert!(voidings.voids_active(&store, user, &alice, at(seconds)));
        assert!(!voidings.voids_active(&store, user, &alice, at(60)));
    }
    // The slots, the seed.
    assert_eq!(store.len(), 2);
}

#[test]
fn a_worker_that_writes_late_takes_nothing_back() {
    let (voidings, store) = (Voidings::default(), MemoryStore::default());
    let user = UserKey::of("alice");
    for seconds in [20, 10] {
        voidings
            .add(&store, &user, &Voiding::All, at(seconds))
            .unwrap();
    }
    assert_eq!(void(&voidings, &store, "alice", 20), "ABC-");
    for user in [Some(&user), None] {
        assert!(voidings.voids_inactive(&store, user, at(20)));
    }
}

#[test]
fn a_race_loses_no_voiding() {
    let (voidings, store) = (Voidings::default(), MemoryStore::default());
    let user = UserKey::of("alice");
    *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
        let voiding = Voiding::Device(DeviceKey::of("A"));
        let user = UserKey::of("alice");
        Voidings::default()
            .add(store, &user, &voiding, at(10))
            .unwrap();
    }));
    let voiding = Voiding::Device(DeviceKey::of("B"));
    voidings.add(&store, &user, &voiding, at(10)).unwrap();
    assert_eq!(void(&voidings, &store, "alice", 10), "AB");
}

/// The homeserver takes no such device, so it is not known here which one has ended.
#[test]
fn a_token_of_an_impossible_device_ends_with_any() {
    let long = "x".repeat(256);
    let of_two = |ids: &[&str]| {
        let scope: Vec<String> = ids
            .iter()
            .map(|id| format!("urn:matrix:client:device:{id}"))
            .collect();
        let body = json!({ "active": true, "username": "alice", "scope": scope.join(" ") });
        match Answer::parse(body.to_string().into()) {
            Ok(Answer::Active(answer)) => answer,
            other => panic!("{other:?}"),
        }
    };
    let (voidings, store) = (Voidings::default(), MemoryStore::default());
    let user = UserKey::of("alice");
    let tokens = [
        token("alice", Some(&long)),
        token("alice", Some("")),
        of_two(&["AAAAAAAAAA", "BBBBBBBBBB"]),
    ];
    let are_void = |asked_at: Instant| {
        tokens
            .each_ref()
            .map(|token| voidings.voids_active(&store, &user, token, asked_at))
    };
    assert_eq!(are_void(at(10)), [false; 3]);
    for device in [&*long, "C"] {
        let voiding = Voiding::Device(DeviceKey::of(device));
        voidings.add(&store, &user, &voiding, at(10)).unwrap();
        assert_eq!(are_void(at(10)), [true; 3]);
        assert_eq!(are_void(at(11)), [false; 3]);
    }
    let unlocked = Voiding::Inactive;
    voidings.add(&store, &user, &unlocked, at(20)).unwrap();
    assert_eq!(are_void(at(11)), [false; 3], "that voids no active one");
}

#[test]
fn what_cannot_be_read_may_say_that_an_answer_is_void() {
    let (voidings, store) = (Voidings::default(), MemoryStore::default());
    let user = UserKey::of("alice");
    let add = || voidings.add(&store, &user, &Voiding::All, at(10));
    add().unwrap();
    store.is_unreadable.set(true);
    assert_eq!(void(&voidings, &store, "alice", 11), "ABC-");
    for user in [Some(&user), None] {
        assert!(voidings.voids_inactive(&store, user, at(11)));
    }
    assert_eq!(add(), Err(NotWritten::Refused), "others' moments are there");
    store.is_unreadable.set(false);
    assert_eq!(void(&voidings, &store, "alice", 11), "");
}

/// A store that writes nothing under keys which begin so.
struct Refusing<'s>(&'s MemoryStore, &'s [u8]);

impl Store for Refusing<'_> {
    fn try_read(&self, key: &[u8]) -> Result<Option<Versioned>, Unreadable> {
        self.0.try_read(key)
    }

    fn write(&self, key: &[u8], value: &[u8], condition: If) -> Result<(), NotWritten> {
        if key.starts_with(self.1) {
            return Err(NotWritten::Refused);
        }
        self.0.write(key, value, condition)
    }

    fn random(&self) -> u64 {
        self.0.random()
    }
}

#[test]
fn of_a_voiding_all_is_written_that_can_be() {
    let mark = name::mark(Space::Negative, "kept");
    let keys: [&[u8]; 3] = [b"matrix-edge-auth.u", name::REVIVED, mark.as_bytes()];
    for refused in keys {
        let (voidings, store) = (Voidings::default(), MemoryStore::default());
        let user = UserKey::of("alice");
        let before = KeptMark::default().read(&store);
        let store_refusing = Refusing(&store, refused);
        let added = voidings.add(&store_refusing, &user, &Voiding::All, at(10));
        assert_eq!(added, Err(NotWritten::Refused));
        let written = [
            voidings.voids_inactive(&store, Some(&user), at(10)),
            voidings.voids_inactive(&store, None, at(10)),
            KeptMark::default().read(&store) != before,
        ];
        assert_eq!(written, keys.map(|key| key != refused));
    }
}

#[test]
fn other_bytes_void_nothing() {
    let mut slot = Slot::default();
    slot.enter(UserKey::of("alice"))
        .void(&Voiding::Device(DeviceKey::of("A")), at(10));
    let mut bytes = slot.encode();
    assert_eq!(Slot::decode(&bytes), Some(slot));
    for length in (0..bytes.len()).filter(|length| ![17, 49].contains(length)) {
        assert_eq!(Slot::decode(&bytes[..length]), None, "{length}");
    }
    bytes[0] += 1;
    for length in 0..9 {
        assert_eq!(Slot::decode(&bytes[..length]), None, "{length}");
    }
}

/// The other one knows only the beginning of what this one writes, and the other way round.
#[test]
fn two_versions_of_the_module_forget_nothing_of_each_other() {
    let (voidings, store) = (Voidings::default(), MemoryStore::default());
    let add = |name: &str, at: Instant| {
        let voiding = Voiding::Device(DeviceKey::of("A"));
        let user = UserKey::of(name);
        voidings.add(&store, &user, &voiding, at).unwrap();
    };
    let written_by_another = || {
        store.damage(|value| {
            if value.first() == Some(&FORMAT_VERSION) {
                value[0] += 1;
            }
        });
    };
    add("alice", at(10));
    written_by_another();
    assert_eq!(void(&voidings, &store, "alice", 10), "ABC-");
    assert_eq!(void(&voidings, &store, "alice", 11), "");
    add("alice", at(20));
    assert_eq!(void(&voidings, &store, "alice", 10), "ABC-");
    assert_eq!(void(&voidings, &store, "alice", 20), "A");
    written_by_another();
    assert_eq!(void(&voidings, &store, "alice", 20), "ABC-");
    assert_eq!(void(&voidings, &store, "alice", 21), "");
}

#[cfg(not(target_arch = "wasm32"))]
proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Slot::decode(&bytes);
    }
}
