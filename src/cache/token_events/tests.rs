//! What a worker learns of a token that ended or was refused while MAS was asked.

use super::*;
use crate::host::memory::MemoryStore;

const EVENTS: [Event; 2] = [Event::End, Event::Refusal];

fn token(number: u32) -> TokenDigest {
    TokenDigest::of(&number.to_le_bytes())
}

/// All tokens share one history.
fn crowded() -> TokenEvents {
    TokenEvents {
        keys: KeySpace::new(Space::Histories, 1),
        ..TokenEvents::default()
    }
}

/// The present point, by a worker that has not looked.
fn present(store: &MemoryStore) -> Point {
    crowded().point(store, Instant::default())
}

#[test]
fn an_event_is_read_as_it_was_named() {
    for event in EVENTS {
        let name = event_name(&token(1), event);
        assert_eq!(event_of(name, &token(1)), Some(event));
        for bit in 1..u64::BITS {
            assert_eq!(event_of(name ^ 1 << bit, &token(1)), None, "{bit}");
        }
    }
}

#[test]
fn each_event_is_told_of_its_token_to_every_worker() {
    let store = MemoryStore::default();
    let [one, two] = [crowded(), crowded()];
    let first = present(&store);
    for event in EVENTS {
        for _ in 0..3 {
            let before = present(&store);
            two.add(&store, &token(1), event).unwrap();
            assert_eq!(one.since(&store, &token(1), before).unwrap(), Some(event));
            assert_eq!(
                one.since(&store, &token(2), before).unwrap(),
                None,
                "another's"
            );
        }
    }
    let since = |earlier| one.since(&store, &token(1), earlier).unwrap();
    assert_eq!(since(first), Some(Event::End), "it counts for more");
    assert_eq!(since(present(&store)), None);
}

#[test]
fn a_look_serves_a_quarter_of_a_second_and_never_hides_an_event() {
    let at = |millis: u64| Instant::from_millis(1_000 + millis);
    let store = MemoryStore::default();
    let [one, two] = [crowded(), crowded()];
    let add = |ended: &TokenEvents| ended.add(&store, &token(1), Event::End).unwrap();
    let first = one.point(&store, at(0));
    add(&two);
    assert_eq!(one.point(&store, at(249)), first);
    assert_eq!(one.point(&store, at(250)), present(&store));
    add(&two);
    let earlier = one.point(&store, at(499));
    assert_ne!(earlier, present(&store));
    assert_eq!(
        one.since(&store, &token(1), earlier).unwrap(),
        Some(Event::End)
    );
    let later = one.point(&store, at(499));
    assert_eq!(later, present(&store), "that was told");
    assert_eq!(one.since(&store, &token(1), later).unwrap(), None);
    add(&one);
    assert_eq!(one.point(&store, at(500)), present(&store), "its own");
    add(&two);
    assert_eq!(
        one.point(&store, at(400)),
        present(&store),
        "the clock went back"
    );
}

#[test]
fn an_event_counts_however_many_come_after_it() {
    for event in EVENTS {
        for others in 0..3 * NAMED {
            let (store, ended) = (MemoryStore::default(), crowded());
            for number in 0..u32::try_from(others).unwrap() {
                ended.add(&store, &token(100 + number), Event::End).unwrap();
            }
            let before = present(&store);
            ended.add(&store, &token(1), event).unwrap();
            for number in 0..u32::try_from(others).unwrap() {
                ended.add(&store, &token(200 + number), Event::End).unwrap();
            }
            let told = ended.since(&store, &token(1), before).unwrap();
            // One that is not named any more counts as an end.
            let is_named = others < NAMED - 1;
            let expected = if is_named { event } else { Event::End };
            assert_eq!(told, Some(expected), "{others}");
            let other = ended.since(&store, &token(2), before).unwrap();
            assert_eq!(other.is_none(), is_named, "{others}");
        }
    }
}

#[test]
fn an_event_is_told_whatever_stood_there_before() {
    for damaged in [
        &b""[..],
        b"1234567",
        &[0; 16],
        &[1; 17],
        &[1; 16 * (NAMED + 2)],
    ] {
        let (store, ended) = (MemoryStore::default(), crowded());
        ended.add(&store, &token(1), Event::Refusal).unwrap();
        store.damage(|value| {
            // Their number stays. Any seed will do.
            if value.len() != 8 {
                *value = damaged.to_vec();
            }
        });
        let before = present(&store);
        ended.add(&store, &token(1), Event::Refusal).unwrap();
        let told = ended.since(&store, &token(1), before).unwrap();
        assert!(told.is_some(), "{damaged:?}");
    }
}

/// The event with the lowest number comes into the history late, as that of a busy worker.
#[test]
fn an_event_that_is_written_late_hides_none() {
    let last = 3 * u32::try_from(NAMED).unwrap();
    for late in 0..last {
        let mut numbers: Vec<u32> = (2..=last).collect();
        numbers.insert(usize::try_from(late).unwrap(), 1);
        let mut history = History::default();
        for number in numbers {
            history.add(number.into(), event_name(&token(number), Event::End));
        }
        for number in 1..=last {
            let told = history.since(Point(u64::from(number) - 1), &token(number));
            assert_eq!(told, Some(Event::End), "{number}, with the first at {late}");
        }
    }
}

#[test]
fn an_event_that_loses_a_race_is_told_all_the_same() {
    for event in EVENTS {
        for other in EVENTS {
            for has_ended_before in [false, true] {
                let (store, ended) = (MemoryStore::default(), crowded());
                if has_ended_before {
                    ended.add(&store, &token(1), Event::End).unwrap();
                }
                let before = present(&store);
                *store.interfere.borrow_mut() = Some(Box::new(move |store: &MemoryStore| {
                    crowded().add(store, &token(2), other).unwrap();
                }));
                ended.add(&store, &token(1), event).unwrap();
                for (number, event) in [(1, event), (2, other)] {
                    let told = ended.since(&store, &token(number), before).unwrap();
                    assert_eq!(told, Some(event), "{event:?} and {other:?}");
                }
            }
        }
    }
}

#[test]
fn no_number_of_tokens_takes_more_than_the_fixed_number_of_keys() {
    let store = MemoryStore::default();
    let ended = TokenEvents {
        keys: KeySpace::new(Space::Histories, 4),
        ..TokenEvents::default()
    };
    for number in 0..1_000 {
        ended.add(&store, &token(number), Event::End).unwrap();
    }
    assert_eq!(store.len(), 4 + 2, "the histories, their number, the seed");
}

#[test]
fn what_cannot_be_read_is_not_taken_for_nothing() {
    let store = MemoryStore::default();
    store.is_unreadable.set(true);
    let told = crowded().since(&store, &token(1), Point::default());
    assert_eq!(told, Err(Unreadable));
}
