//! Who waits, who leaves and whose turn it is.

use super::*;
use crate::token::TokenDigest;

fn key(number: usize) -> QuestionKey {
    QuestionKey {
        digest: TokenDigest::of(&number.to_le_bytes()),
        fingerprint: 1,
    }
}

fn client(number: u8) -> Option<ClientKey> {
    Some(ClientKey([number; 32]))
}

fn pop(line: &mut Line) -> Option<QuestionKey> {
    line.pop(|_, _| Turn::Call)
}

#[test]
fn one_client_is_served_in_order() {
    let mut line = Line::default();
    for number in 0..3 {
        line.push(key(number), None, 10).unwrap();
    }
    let served = [(); 4].map(|()| pop(&mut line));
    assert_eq!(served, [Some(key(0)), Some(key(1)), Some(key(2)), None]);
    assert!(line.questions == 0 && line.bytes == 0 && line.by_length.is_empty());
}

#[test]
fn clients_take_turns_so_a_flood_waits_behind_itself() {
    let mut line = Line::default();
    for number in 0..1_000 {
        line.push(key(number), client(1), 10).unwrap();
    }
    line.push(key(2_000), client(2), 10).unwrap();
    line.push(key(3_000), client(3), 10).unwrap();
    let served = [(); 5].map(|()| pop(&mut line));
    let expected = [0, 2_000, 3_000, 1, 2].map(|number| Some(key(number)));
    assert_eq!(served, expected);
}

#[test]
fn a_client_that_may_not_call_is_passed_over_and_keeps_its_place() {
    let mut line = Line::default();
    line.push(key(1), client(1), 10).unwrap();
    line.push(key(2), client(2), 10).unwrap();
    let not_one = |who: Option<ClientKey>, _: &QuestionKey| {
        if who == client(1) {
            Turn::Pass
        } else {
            Turn::Call
        }
    };
    assert_eq!(line.pop(not_one), Some(key(2)));
    assert_eq!(line.pop(not_one), None);
    assert_eq!(pop(&mut line), Some(key(1)));
}

#[test]
fn a_full_pool_is_noticed_at_the_first_client() {
    let mut line = Line::default();
    for number in 0..1_000 {
        let [low, high, ..] = usize::to_le_bytes(number);
        let mut address = [low; 32];
        address[0] = high;
        line.push(key(number), Some(ClientKey(address)), 10)
            .unwrap();
    }
    let looks = std::cell::Cell::new(0);
    let popped = line.pop(|_, _| {
        looks.set(looks.get() + 1);
        Turn::Stop
    });
    assert_eq!((popped, looks.get()), (None, 1));
}

#[test]
fn a_full_line_displaces_the_newest_question_of_the_client_that_has_most() {
    let mut line = Line::default();
    for number in 0..MAX_QUESTIONS {
        line.push(key(number), client(1), 10).unwrap();
    }
    assert_eq!(line.push(key(9_000), client(1), 10), Err(LineFull));
    let (_, displaced) = line.push(key(9_001), client(2), 10).unwrap();
    assert_eq!(displaced, [key(MAX_QUESTIONS - 1)]);
    assert_eq!(line.questions, MAX_QUESTIONS);
}

#[test]
fn bytes_are_bounded_and_a_huge_token_finds_no_room() {
    let mut line = Line::default();
    assert_eq!(
        line.push(key(0), client(1), MAX_QUESTION_BYTES + 1),
        Err(LineFull)
    );
    let fit = MAX_BYTES / MAX_QUESTION_BYTES;
    for number in 0..fit {
        line.push(key(number), client(1), MAX_QUESTION_BYTES)
            .unwrap();
    }
    assert_eq!(line.push(key(9_000), client(1), 1), Err(LineFull));
    let (_, displaced) = line
        .push(key(9_001), client(2), MAX_QUESTION_BYTES)
        .unwrap();
    assert_eq!(displaced.len(), 1);
    assert!(line.bytes <= MAX_BYTES);
}

#[test]
fn nobody_leaves_for_one_that_finds_no_room() {
    let mut line = Line::default();
    let fit = u8::try_from(MAX_BYTES / MAX_QUESTION_BYTES - 1).unwrap();
    for number in 0..fit {
        let client = client(number);
        line.push(key(number.into()), client, MAX_QUESTION_BYTES)
            .unwrap();
    }
    for number in [9_000, 9_001] {
        line.push(key(number), client(255), MAX_QUESTION_BYTES / 2)
            .unwrap();
    }
    let before = line.questions;
    let last = line.push(key(9_002), None, MAX_QUESTION_BYTES);
    assert_eq!((last, line.questions), (Err(LineFull), before));
    let served = std::iter::from_fn(|| pop(&mut line)).count();
    assert_eq!(served, before);
}

#[test]
fn a_question_that_leaves_early_gives_its_room_back() {
    let mut line = Line::default();
    let (one, _) = line.push(key(1), client(1), 10).unwrap();
    let (two, _) = line.push(key(2), client(1), 20).unwrap();
    line.remove(one);
    line.remove(one);
    assert_eq!((line.questions, line.bytes), (1, 20));
    line.remove(two);
    assert!(line.questions == 0 && line.clients.is_empty() && line.by_length.is_empty());
    assert_eq!(pop(&mut line), None);
}

#[cfg(not(target_arch = "wasm32"))]
proptest::proptest! {
    #[test]
    fn the_books_balance(steps: Vec<(u8, u8, u16)>) {
        let mut line = Line::default();
        let mut tickets = Vec::new();
        for (step, (what, who, bytes)) in steps.into_iter().enumerate() {
            match what % 3 {
                0 | 1 => {
                    let pushed = line.push(key(step), client(who % 4), usize::from(bytes) % 9_000);
                    tickets.extend(pushed.map(|(ticket, _)| ticket));
                }
                _ => {
                    if let Some(ticket) = tickets.pop() {
                        line.remove(ticket);
                    }
                    pop(&mut line);
                }
            }
            let all = || line.clients.values().flat_map(SortedMap::values);
            proptest::prop_assert_eq!(line.questions, all().count());
            proptest::prop_assert_eq!(line.bytes, all().map(|waiting| waiting.bytes).sum::<usize>());
            proptest::prop_assert_eq!(line.by_length.len(), line.clients.len());
            proptest::prop_assert!(line.questions <= MAX_QUESTIONS && line.bytes <= MAX_BYTES);
        }
    }
}
