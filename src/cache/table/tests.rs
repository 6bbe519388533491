//! How records come into a table, leave it, make room, and are found under every size.

use super::{
    misses::{MAX_MISS_BYTES, MAX_MISSES},
    *,
};
use crate::{
    host::{If, memory::MemoryStore},
    mas::introspection::{Answer, InactiveAnswer},
};

const NOW: Instant = Instant::from_millis(1_000_000);

fn after(seconds: u64) -> Instant {
    NOW + Duration::from_secs(seconds)
}

fn entry(token: &[u8], fresh_for: u64) -> Entry {
    Entry {
        digest: TokenDigest::of(token),
        fingerprint: 1,
        user: None,
        used_at: NOW,
        asked_at: NOW,
        answered_at: NOW,
        useful_until: NOW + Duration::from_secs(fresh_for),
        expiry: None,
        is_doubted: false,
        answer: Answer::Inactive(InactiveAnswer::default()),
    }
}

fn key(token: &[u8]) -> QuestionKey {
    entry(token, 0).question()
}

fn registered(store: &MemoryStore) -> Vec<u32> {
    let mut numbers = Vec::new();
    Sizes::new(Space::Active).for_each(store, |number| numbers.push(number));
    numbers
}

fn holds(table: &Table, store: &MemoryStore, token: &[u8]) -> bool {
    table.find(store, &key(token), NOW).is_some()
}

#[test]
fn an_answer_is_written_beside_what_came_since_its_bucket_was_looked_into() {
    for others in [0, 1, MAX_MISSES - 1, MAX_MISSES, 3 * MAX_MISSES] {
        let (store, [table, other]) = (
            MemoryStore::default(),
            [0; 2].map(|_| Table::new(Space::Active, 8)),
        );
        let is_there = |token: &[u8]| table.find(&store, &key(token), NOW).is_some();
        assert!(!is_there(b"first") && !is_there(b"mine"));
        for number in 0..others {
            assert!(!is_there(&number.to_le_bytes()));
        }
        assert_eq!(
            other.put(&store, &entry(b"theirs", 60), NOW).fate,
            Fate::Stored
        );
        for token in [&b"first"[..], b"mine"] {
            assert_eq!(table.put(&store, &entry(token, 60), NOW).fate, Fate::Stored);
        }
        for token in [&b"first"[..], b"mine", b"theirs"] {
            assert!(is_there(token), "after {others} others");
        }
    }
}

#[test]
fn of_a_token_that_is_looked_for_again_and_again_one_bucket_is_remembered() {
    let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 8));
    let look = |token: &[u8]| assert!(table.find(&store, &key(token), NOW).is_none());
    for number in 1..MAX_MISSES {
        look(&number.to_le_bytes());
    }
    (0..MAX_MISSES).for_each(|_| look(b"again"));
    assert_eq!(table.misses.len(), MAX_MISSES);
    assert!(
        table
            .misses
            .take(&key(&1_usize.to_le_bytes()).digest)
            .is_some()
    );
    assert!(table.misses.take(&key(b"again").digest).is_some());
    assert!(table.misses.take(&key(b"again").digest).is_none());
}

#[test]
fn a_few_short_buckets_are_remembered() {
    let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 8));
    let look = |token: &[u8]| assert!(table.find(&store, &key(token), NOW).is_none());
    let remembered = || table.misses.len();
    for number in 0..3 * MAX_MISSES {
        look(&number.to_le_bytes());
        assert_eq!(remembered(), MAX_MISSES.min(number + 1));
    }
    let body = format!(
        r#"{{"active":true,"username":"{}"}}"#,
        "x".repeat(MAX_MISS_BYTES)
    );
    let long = Entry {
        answer: Answer::parse(body.into()).unwrap(),
        ..entry(b"long", 60)
    };
    table.put(&store, &long, NOW);
    look(b"beside it");
    assert!(table.misses.take(&key(b"beside it").digest).is_none());
    assert!(
        table
            .misses
            .take(&key(&(3 * MAX_MISSES - 1).to_le_bytes()).digest)
            .is_some()
    );
    assert_eq!(remembered(), MAX_MISSES - 1, "each is taken once");
}

#[test]
fn a_full_table_keeps_working_and_never_grows() {
    let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 128));
    for n in 0..10_000_u32 {
        let token = n.to_le_bytes();
        table.put(&store, &entry(&token, u64::from(n)), NOW);
        assert!(
            holds(&table, &store, &token),
            "the latest entry is always found"
        );
    }
    // All buckets, the seed, the register of sizes and its mark.
    assert_eq!(store.len(), 128 / 8 + 3);
}

#[test]
fn most_of_the_table_is_filled_before_anything_live_is_lost() {
    let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 1024));
    for n in 0..512_u32 {
        table.put(&store, &entry(&n.to_le_bytes(), 100), NOW);
    }
    let kept = (0..512_u32)
        .filter(|n| holds(&table, &store, &n.to_le_bytes()))
        .count();
    assert!(kept >= 504, "{kept} of 512");
}

#[test]
fn what_has_ended_gives_way_before_what_is_live() {
    let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 2));
    table.put(&store, &entry(b"live", 100), NOW);
    assert_eq!(table.put(&store, &entry(b"ended", 0), NOW).evicted, []);
    assert_eq!(
        table.put(&store, &entry(b"new", 50), NOW).evicted,
        [(Evicted::Expired, TokenDigest::of(b"ended"))]
    );
    assert!(holds(&table, &store, b"live") && !holds(&table, &store, b"ended"));
}

#[test]
fn what_was_not_used_for_longer_gives_way_to_what_was() {
    let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 2));
    table.put(&store, &entry(b"old", 100), NOW);
    table.put(&store, &entry(b"new", 100), NOW);
    assert!(table.find(&store, &key(b"old"), after(1)).is_some());
    let late = Entry {
        used_at: after(2),
        ..entry(b"late", 100)
    };
    assert_eq!(
        table.put(&store, &late, after(2)).evicted,
        [(Evicted::Live, TokenDigest::of(b"new"))]
    );
    assert!(holds(&table, &store, b"old") && !holds(&table, &store, b"new"));
}

#[test]
fn a_question_has_one_entry() {
    let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 1024));
    for fresh_for in [1, 2, 3] {
        table.put(&store, &entry(b"token", fresh_for), NOW);
    }
    assert_eq!(store.len(), 4);
    let found = table.find(&store, &key(b"token"), NOW).unwrap();
    assert_eq!(found.useful_until, NOW + Duration::from_secs(3));
    table.settle(&store, &key(b"token"), NOW, NOW);
    assert!(!holds(&table, &store, b"token"));
}

#[test]
fn a_table_that_is_configured_smaller_tells_all_that_it_gives_up() {
    let store = MemoryStore::default();
    let tokens = [b"a", b"b", b"c", b"d"];
    for token in tokens {
        Table::new(Space::Active, 4).put(&store, &entry(token, 100), NOW);
    }
    let mut evicted = Table::new(Space::Active, 1)
        .put(&store, &entry(b"new", 100), NOW)
        .evicted;
    evicted.sort();
    let mut all = tokens.map(|token| (Evicted::Live, TokenDigest::of(token)));
    all.sort();
    assert_eq!(evicted, all);
}

#[test]
fn long_answers_leave_room_for_fewer() {
    let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 8));
    let long = |token: &[u8]| Entry {
        answer: Answer::parse(
            format!(r#"{{"active":true,"scope":"{}"}}"#, "x".repeat(7_970)).into(),
        )
        .unwrap(),
        ..entry(token, 100)
    };
    for token in [b"a", b"b", b"c", b"d"] {
        table.put(&store, &entry(token, 100), NOW);
    }
    assert_eq!(table.put(&store, &long(b"e"), after(1)).evicted, []);
    // They were not used for longest.
    let evicted = table.put(&store, &long(b"f"), after(2)).evicted;
    assert_eq!(evicted.len(), 3);
    assert_eq!(table.put(&store, &long(b"g"), after(3)).evicted.len(), 2);
    assert!(holds(&table, &store, b"g") && !holds(&table, &store, b"a"));
    for value in store.values() {
        assert!(value.len() <= MAX_BUCKET_BYTES + 100, "{}", value.len());
    }
}

#[test]
fn only_what_must_go_goes() {
    let surplus =
        |lengths: &[usize], capacity, bytes| surplus(lengths.iter().copied(), capacity, bytes);
    assert_eq!(surplus(&[], 7, 100), 0);
    assert_eq!(surplus(&[10; 7], 7, 70), 0);
    assert_eq!(surplus(&[10; 7], 7, 69), 1);
    assert_eq!(surplus(&[10; 8], 7, 1_000), 1);
    assert_eq!(surplus(&[10; 8], 0, 1_000), 8);
    assert_eq!(surplus(&[1, 50, 50, 1], 7, 60), 2);
    assert_eq!(surplus(&[50], 7, 0), 1);
}

#[test]
fn removing_a_token_leaves_its_neighbours() {
    let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 2));
    table.put(&store, &entry(b"one", 100), NOW);
    table.put(&store, &entry(b"two", 100), NOW);
    table.remove_token(&store, &TokenDigest::of(b"three"));
    assert!(holds(&table, &store, b"one") && holds(&table, &store, b"two"));
}

#[test]
fn an_interfering_write_is_not_overwritten_blindly() {
    let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 1));
    table.put(&store, &entry(b"seed", 0), NOW);
    *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
        Table::new(Space::Active, 1).put(store, &entry(b"other", 100), NOW);
    }));
    table.put(&store, &entry(b"mine", 100), NOW);
    assert!(holds(&table, &store, b"mine"), "a lost race is tried again");
    *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
        Table::new(Space::Active, 1).put(store, &entry(b"other", 100), NOW);
    }));
    table.remove_token(&store, &TokenDigest::of(b"mine"));
    assert!(
        holds(&table, &store, b"other"),
        "only the entry that was read is removed"
    );
}

#[test]
fn workers_agree_on_the_seed_and_processes_do_not() {
    let (one, two) = (
        Table::new(Space::Active, 1 << 20),
        Table::new(Space::Active, 1 << 20),
    );
    let store = MemoryStore::default();
    one.put(&store, &entry(b"token", 100), NOW);
    assert!(holds(&two, &store, b"token"));
    assert_eq!(one.configured.seed(&store), two.configured.seed(&store));
    let elsewhere = MemoryStore::default();
    elsewhere.write(b"other", b"", If::Absent).unwrap();
    let three = Table::new(Space::Active, 1 << 20);
    three.put(&elsewhere, &entry(b"token", 100), NOW);
    assert_ne!(
        one.configured.seed(&store),
        three.configured.seed(&elsewhere)
    );
}

#[test]
fn a_doubt_is_noted_once_in_every_answer_about_a_token_until_a_new_one_comes() {
    let store = MemoryStore::default();
    let (table, small) = (Table::new(Space::Active, 64), Table::new(Space::Active, 8));
    let of = |fingerprint| Entry {
        fingerprint,
        ..entry(b"token", 100)
    };
    let doubted = |table: &Table, fingerprint| {
        let found = table.find(&store, &of(fingerprint).question(), NOW);
        found.expect("it stays").is_doubted
    };
    let digest = TokenDigest::of(b"token");
    assert!(!table.doubt(&store, &digest), "there is none");
    for fingerprint in [1, 2] {
        table.put(&store, &of(fingerprint), NOW);
    }
    small.put(&store, &of(3), NOW);
    small.put(&store, &entry(b"other", 100), NOW);
    // Another worker writes in between.
    *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
        Table::new(Space::Active, 64).put(store, &entry(b"third", 100), NOW);
    }));
    assert!(table.doubt(&store, &digest));
    assert!(small.doubt(&store, &digest), "nothing new");
    let all = [(&table, 1), (&table, 2), (&small, 3)];
    assert!(all.iter().all(|(table, number)| doubted(table, *number)));
    let other = small.find(&store, &key(b"other"), NOW).unwrap();
    assert!(!other.is_doubted);
    table.put(&store, &of(1), NOW);
    assert!(!doubted(&table, 1) && doubted(&table, 2));
    assert!(table.doubt(&store, &digest));
}

#[test]
fn two_questions_about_one_token_have_a_record_each() {
    let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 8));
    let of = |fingerprint, fresh_for| Entry {
        fingerprint,
        ..entry(b"token", fresh_for)
    };
    for fingerprint in [1, 2, 3, 1] {
        let written = table.put(&store, &of(fingerprint, 100), NOW);
        assert_eq!(written, Fate::Stored.into());
    }
    let answered = || {
        let of = [1, 2, 3].map(|fingerprint| of(fingerprint, 0).question());
        of.map(|key| table.find(&store, &key, NOW).is_some())
    };
    assert_eq!(answered(), [true; 3]);
    let removed = table.settle(&store, &of(2, 0).question(), NOW, NOW).removed;
    let one = |fingerprint| Removed {
        fingerprint,
        user: None,
    };
    assert_eq!(removed, [one(2)]);
    assert_eq!(answered(), [true, false, true]);
    let removed = table.remove_token(&store, &TokenDigest::of(b"token"));
    assert_eq!(removed, [one(3), one(1)]);
    assert_eq!(answered(), [false; 3]);
    assert_eq!(table.remove_token(&store, &TokenDigest::of(b"token")), []);
}

#[test]
fn a_look_in_vain_settles_what_was_asked_no_later_under_one_size() {
    let (store, key) = (MemoryStore::default(), key(b"token"));
    let table = Table::new(Space::Active, 8);
    let looks = |at| assert!(table.find(&store, &key, at).is_none());
    let was_missed = |since| table.take_miss(&key.digest) >= Some(since);
    let is_settled = |since| was_missed(since) && table.has_one_size(after(2));
    looks(after(1));
    assert!(!is_settled(after(1)), "the sizes were not looked at");
    table.settle(&store, &key, NOW, after(2));
    looks(after(1));
    assert!(is_settled(after(1)));
    assert!(!is_settled(after(1)), "it counts once");
    looks(after(1));
    assert!(!is_settled(after(2)), "from before");
    looks(after(2));
    assert!(is_settled(after(1)));
    table.put(&store, &entry(b"token", 100), NOW);
    assert!(table.find(&store, &key, after(2)).is_some());
    assert!(!is_settled(after(1)), "not in vain");
    table.remove_token(&store, &key.digest);
    Table::new(Space::Active, 128).find(&store, &key, NOW);
    table.settle(&store, &key, NOW, after(3));
    table.find(&store, &key, after(3));
    assert!(was_missed(after(3)));
    assert!(!table.has_one_size(after(3)), "two sizes");
}

#[test]
fn a_later_answer_stays_and_is_told_of_under_every_size() {
    let store = MemoryStore::default();
    let [one, two] = [8, 128].map(|slots| Table::new(Space::Active, slots));
    let key = key(b"token");
    for (own, asked_at, is_superseded, stays) in [
        (&one, Instant::default(), false, false),
        (&two, NOW, false, false),
        (&one, after(1), true, true),
        (&two, after(1), true, true),
    ] {
        let entry = Entry {
            asked_at,
            ..entry(b"token", 100)
        };
        own.put(&store, &entry, NOW);
        for table in [&one, &two] {
            let settled = table.settle(&store, &key, NOW, NOW);
            assert_eq!(settled.is_superseded, is_superseded);
            assert!(settled.removed.len() <= usize::from(!stays));
        }
        assert_eq!(holds(own, &store, b"token"), stays);
    }
}

#[test]
fn an_entry_is_kept_for_as_long_as_the_one_before_it_would_have_been() {
    let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 1));
    let put = |token: &[u8], fingerprint, fresh_for, at| {
        let entry = Entry {
            fingerprint,
            ..entry(token, fresh_for)
        };
        table.put(&store, &entry, at).evicted
    };
    assert_eq!(put(b"token", 1, 100, NOW), []);
    assert_eq!(put(b"token", 1, 10, NOW), []);
    let useful_until = table
        .find(&store, &key(b"token"), NOW)
        .unwrap()
        .useful_until;
    assert_eq!(useful_until, after(100));
    let live = (Evicted::Live, TokenDigest::of(b"token"));
    assert_eq!(put(b"token", 2, 10, after(20)), [live]);
    let useful_until = |fingerprint| {
        let key = QuestionKey {
            fingerprint,
            ..key(b"token")
        };
        Some(table.find(&store, &key, NOW)?.useful_until)
    };
    assert_eq!(useful_until(2), Some(after(10)), "of another question");
    assert_eq!(useful_until(1), None);
}

/// Numbers of slots that put most tokens into different buckets.
const SIZES: [u32; 4] = [8, 64, 1_000, 65_536];

#[test]
fn a_removal_finds_what_was_written_under_any_size() {
    for written in SIZES {
        for removing in SIZES {
            let store = MemoryStore::default();
            let tables = SIZES.map(|slots| Table::new(Space::Active, slots));
            // All sizes are known before, as after some updates.
            for table in &tables {
                assert!(!holds(table, &store, b"token"));
            }
            Table::new(Space::Active, written).put(&store, &entry(b"token", 100), NOW);
            let fresh = Table::new(Space::Active, removing);
            let removed = fresh.remove_token(&store, &TokenDigest::of(b"token"));
            assert_eq!(removed.len(), 1, "{written} {removing}");
            for table in &tables {
                assert!(!holds(table, &store, b"token"));
            }
        }
    }
}

/// What is told of others, and counted, must have happened.
#[test]
fn a_removal_or_a_doubt_that_the_store_refuses_is_none() {
    let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 8));
    let digest = TokenDigest::of(b"token");
    table.put(&store, &entry(b"token", 100), NOW);
    for fault in [&store.is_read_only, &store.is_unreadable] {
        fault.set(true);
        assert_eq!(table.remove_token(&store, &digest), []);
        assert!(!table.doubt(&store, &digest));
        fault.set(false);
        assert!(holds(&table, &store, b"token"));
    }
    assert!(table.doubt(&store, &digest));
    assert_eq!(table.remove_token(&store, &digest).len(), 1);
}

#[test]
fn a_removal_and_a_doubt_outlast_many_writes_of_others() {
    fn write_before_each(store: &MemoryStore, left: u64) {
        if left == 0 {
            return;
        }
        *store.interfere.borrow_mut() = Some(Box::new(move |store: &MemoryStore| {
            let used_at = NOW + Duration::from_secs(left);
            let other = Entry {
                used_at,
                asked_at: used_at,
                ..entry(b"other", 100)
            };
            Table::new(Space::Active, 8).put(store, &other, NOW);
            write_before_each(store, left - 1);
        }));
    }
    let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 8));
    let digest = TokenDigest::of(b"token");
    table.put(&store, &entry(b"token", 100), NOW);
    write_before_each(&store, 40);
    assert!(table.doubt(&store, &digest));
    write_before_each(&store, 40);
    assert_eq!(table.remove_token(&store, &digest).len(), 1);
    assert!(!holds(&table, &store, b"token"));
}

#[test]
fn a_table_is_registered_before_it_is_written() {
    let store = MemoryStore::default();
    Table::new(Space::Active, 8).put(&store, &entry(b"other", 100), NOW);
    // Whatever it writes first, a removal in between knows it.
    *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
        assert_eq!(registered(store), [1]);
        assert!(!holds(&Table::new(Space::Active, 8), store, b"token"));
    }));
    let table = Table::new(Space::Active, 64);
    table.put(&store, &entry(b"token", 100), NOW);
    assert_eq!(registered(&store), [1, 8]);
    assert!(holds(&table, &store, b"token"));
}

#[test]
fn without_room_in_the_register_a_table_takes_a_size_that_removals_know() {
    let store = MemoryStore::default();
    for number in 1..=64 {
        Table::new(Space::Active, 8 * number).find(&store, &key(b"other"), NOW);
    }
    let keys = store.len();
    let large = Table::new(Space::Active, 1 << 20);
    large.put(&store, &entry(b"token", 100), NOW);
    assert!(holds(&large, &store, b"token"));
    assert!(holds(&Table::new(Space::Active, 8 * 64), &store, b"token"));
    let removed = Table::new(Space::Active, 8).remove_token(&store, &TokenDigest::of(b"token"));
    assert_eq!(removed.len(), 1);
    assert!(!holds(&large, &store, b"token"));
    for number in 0..10_000_u32 {
        large.put(&store, &entry(&number.to_le_bytes(), 100), NOW);
    }
    assert!(store.len() <= keys + 64, "no more keys than registered");
}

/// It may hold the answer to a later question.
#[test]
fn a_bucket_that_could_not_be_read_is_no_look_that_found_nothing() {
    let (store, table) = (MemoryStore::default(), Table::new(Space::Negative, 8));
    assert_eq!(
        table.put(&store, &entry(b"one", 60), NOW).fate,
        Fate::Stored
    );
    store.is_unreadable.set(true);
    assert!(!holds(&table, &store, b"two"));
    assert_eq!(table.take_miss(&TokenDigest::of(b"two")), None);
    store.is_unreadable.set(false);
    assert!(!holds(&table, &store, b"two"));
    assert_eq!(table.take_miss(&TokenDigest::of(b"two")), Some(NOW));
}
