//! The seeds of the fuzz targets are of the formats that the module writes today. `fuzz/seeds.py` writes them, in another
//! language, so they would go stale unseen: the fuzzer would begin with bytes that are passed over.

#[allow(dead_code, reason = "the fuzz targets use the rest")]
#[path = "../fuzz/fuzz_targets/planted.rs"]
mod planted;

use std::{fs, path::Path, time::Duration};

use matrix_edge_auth::{
    cache::{
        Cached, SharedCache,
        question::QuestionKey,
        token_events::{Event, Point, TokenEvents},
        voiding::Voidings,
    },
    clock::Instant,
    config,
    host::{Fields, RequestHead},
    mas::{
        introspection::{Answer, IntrospectionResponse, read},
        user::UserKey,
    },
    matrix::{
        credential::{Authorization, Credential, FormPost, extract},
        endpoint::{AuthRequirement, Method, classify},
    },
    resolver::workers::lease::{Acquired, Claim, LEASE, Leases, OnHeld},
    token::TokenDigest,
};
use planted::{Planted, Values};

/// As `fuzz_targets/shared_data.rs` has it.
const FINGERPRINT: u64 = 1;

/// One seed of `shared_data`: a token, the time, and what is planted.
struct Seed {
    digest: TokenDigest,
    now: Instant,
    store: Planted,
}

/// A seed of a target.
fn seed(target: &str, name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    fs::read(folder.join(target).join(name)).expect("a seed")
}

/// The lines of a seed, so many of them.
fn lines<const COUNT: usize>(target: &str, name: &str) -> [String; COUNT] {
    let text = String::from_utf8(seed(target, name)).expect("UTF-8");
    let lines: Vec<String> = text.splitn(COUNT, '\n').map(str::to_owned).collect();
    lines.try_into().expect("so many lines")
}

impl Seed {
    fn read(name: &str) -> Self {
        let bytes = seed("shared_data", name);
        let (digest, rest) = bytes.split_first_chunk().expect("a digest");
        let (now, planted) = rest.split_first_chunk().expect("a time");
        Self {
            digest: TokenDigest(*digest),
            now: Instant::from_millis(u64::from_le_bytes(*now)),
            store: Planted::new(Values::cut(planted)),
        }
    }

    fn lookup(&self) -> Option<Cached> {
        cache().lookup(&self.store, &self.digest, self.now)
    }

    fn acquire(&self) -> Acquired {
        let key = QuestionKey {
            digest: self.digest,
            fingerprint: FINGERPRINT,
        };
        let claim = Claim {
            asker: None,
            key: &key,
            holder: 1,
            now: self.now,
            cache_read_at: self.now.minus(LEASE),
            on_held: OnHeld::Wait,
        };
        Leases::default().claim(&self.store, &claim)
    }
}

fn cache() -> SharedCache {
    let settings = config::Cache {
        ttl: Duration::from_secs(120),
        negative_ttl: Duration::from_secs(10),
        stale_if_error: Duration::from_secs(60),
        refresh_ahead: true,
        slots: 4,
        negative_slots: 4,
        local_entries: 0,
    };
    SharedCache::new(&settings, FINGERPRINT)
}

#[test]
fn answers() {
    let Some(Cached::Active(known)) = Seed::read("live").lookup() else {
        panic!("an active answer");
    };
    assert_eq!(known.user, Some(UserKey::of("alice")));
    assert_eq!(known.answer.token().username, Some("alice"));
    assert_eq!(known.answer.token().scope, "urn:matrix:client:api:*");
    let inactive = Seed::read("inactive").lookup();
    assert!(matches!(inactive, Some(Cached::Inactive(_))));
    let stale = Seed::read("stale");
    assert!(stale.lookup().is_none());
    let known = cache().lookup_stale(&stale.store, &stale.digest, stale.now);
    assert!(known.is_some());
}

#[test]
fn ends() {
    let body = br#"{"active":true,"username":"alice","device_id":"A"}"#;
    let Ok(Answer::Active(answer)) = Answer::parse(body.to_vec()) else {
        panic!("it is active");
    };
    let (user, voidings) = (UserKey::of("alice"), Voidings::default());
    for name in ["void", "void_foreign"] {
        let seed = Seed::read(name);
        assert!(voidings.voids_active(&seed.store, &user, &answer, seed.now));
    }

    let seed = Seed::read("ends");
    let ended = TokenEvents::default();
    // Some of its events are not named any more.
    let since = ended.since(&seed.store, &seed.digest, Point::default());
    assert_eq!(since, Ok(Some(Event::End)));
}

#[test]
fn leases() {
    assert!(matches!(
        Seed::read("lease").acquire(),
        Acquired::Held { .. }
    ));
    assert!(matches!(
        Seed::read("stored").acquire(),
        Acquired::Tombstone(_)
    ));
    assert_eq!(Seed::read("failed").acquire(), Acquired::Failed);
}

/// What was found by attack is where the fuzzing begins.
#[test]
fn a_configuration_that_cannot_be_right_is_refused_and_one_that_looks_so_is_not() {
    for (name, refused) in [
        ("authority-with-scheme", Some("authority")),
        ("header-of-envoy", Some("\"x-envoy-\"")),
        ("header-of-others", Some("identity_headers.device_id")),
        ("secret-with-scheme", Some("Bearer")),
        ("basic-secret", None),
    ] {
        for kind in ["json", "struct"] {
            let bytes = seed("configuration", &format!("{name}.{kind}"));
            let refusal = config::parse(&bytes, &|_| Some("s3cret".to_owned())).err();
            let refusal = refusal.map(|refusal| refusal.to_string());
            match (&refusal, refused) {
                (Some(refusal), Some(part)) => assert!(refusal.contains(part), "{name}: {refusal}"),
                _ => assert_eq!((refusal.is_some(), refused), (false, None), "{name}.{kind}"),
            }
        }
    }
}

#[test]
fn a_token_with_a_control_byte_is_one() {
    let [_, _, _, target] = lines("credential", "control-byte");
    let head = RequestHead::new(Fields::of([(":path", target.as_bytes())].into_iter()));
    let found = extract(Authorization::None, head.query(), || FormPost::No);
    let Ok(Credential::Token { token, .. }) = found else {
        panic!("a token: {found:?}");
    };
    assert!(token.has_control_bytes());
}

#[test]
fn endpoints_are_those_that_synapse_serves() {
    for (name, expected) in [
        ("client-encoded", AuthRequirement::Required),
        ("empty-segment", AuthRequirement::None),
    ] {
        let [method, target] = lines("endpoint", name);
        let found = classify(target.as_bytes(), Method::from_bytes(method.as_bytes()));
        assert_eq!(found, expected, "{name}");
    }
    for name in ["blocked-nested", "blocked-nested-slashes"] {
        let [_, target] = lines("endpoint", name);
        let found = classify(target.as_bytes(), Method::Get);
        assert_eq!(found, AuthRequirement::Blocked, "{name}");
    }
}

#[test]
fn a_device_may_hold_a_newline() {
    let [_, _, _, body] = lines("introspection", "device-with-newline");
    let answer = read(IntrospectionResponse {
        status: Some(200),
        content_type: Some(b"application/json"),
        lifetime: None,
        body: Some(body.as_bytes().into()),
    });
    let Ok(Answer::Active(answer)) = answer else {
        panic!("an active answer: {answer:?}");
    };
    let token = answer.token();
    let device = token.device_id.expect("a device");
    assert!(device.contains('\n'), "{device}");
}
