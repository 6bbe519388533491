//! The seeds of the fuzz targets are of the formats that the module writes today. `fuzz/seeds.py` writes them, in another
//! language, so they would go stale unseen: the fuzzer would begin with bytes that are passed over.

#[allow(dead_code, reason = "the fuzz targets use the rest")]
#[path = "../fuzz/fuzz_targets/planted.rs"]
mod planted;

use std::{fs, path::Path, time::Duration};

use matrix_edge_auth::{
    cache::{
        Cached, SharedCache,
        ended::{EndedTokens, Event},
        question::QuestionKey,
        revocation::Revocations,
    },
    clock::Instant,
    config,
    mas::{introspection::ActiveToken, user::UserKey},
    resolver::lease::{Acquired, LEASE, Leases},
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

impl Seed {
    fn read(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/shared_data");
        let bytes = fs::read(folder.join(name)).expect("a seed");
        let (digest, rest) = bytes.split_first_chunk().expect("a digest");
        let (now, planted) = rest.split_first_chunk().expect("a time");
        Self {
            digest: TokenDigest(*digest),
            now: Instant::from_millis(u64::from_le_bytes(*now)),
            store: Planted::new(Values::cut(planted)),
        }
    }

    fn lookup(&self) -> Option<Cached> {
        cache().lookup(&self.store, &self.digest, self.now, |_| {})
    }

    fn acquire(&self) -> Acquired {
        let key = QuestionKey {
            digest: self.digest,
            fingerprint: FINGERPRINT,
        };
        let asked_at = self.now.minus(LEASE);
        Leases::default().acquire(&self.store, &key, 1, self.now, asked_at)
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
    let seed = Seed::read("void");
    let token = ActiveToken {
        username: Some("alice"),
        device_id: Some("A"),
        ..ActiveToken::default()
    };
    let (user, revocations) = (UserKey::of("alice"), Revocations::default());
    assert!(revocations.revokes_active(&seed.store, &user, &token, seed.now));

    let seed = Seed::read("ends");
    let ended = EndedTokens::default();
    let now = ended.now(&seed.store, &seed.digest);
    let nothing_yet = ended.now(&Seed::read("live").store, &seed.digest);
    assert_ne!(now, nothing_yet);
    // It has more events than it names.
    let since = ended.since(&seed.store, &seed.digest, nothing_yet);
    assert_eq!(since, Some(Event::End));
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
