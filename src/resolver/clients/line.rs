//! Questions that wait for a free call.
//!
//! More clients than calls arrive at once after every restart, and MAS answers each in a few milliseconds. So
//! a question over the cap waits in line instead of failing.
//!
//! The line is fair by client: the clients take turns, so a flood of one client waits behind itself. It is
//! bounded in questions and in bytes; when it is full, the client with most questions in it gives up its newest
//! one to a client that has fewer.

use super::{ClientKey, load::PoolId};
use crate::{cache::question::QuestionKey, maps::sorted::SortedMap};

/// Questions that may wait in one line.
const MAX_QUESTIONS: usize = 4_096;

/// Bytes of tokens and trace headers that may wait in one line.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// Largest question that may wait. A client with fewer questions than the longest one always finds room, since
/// each question that leaves makes room for one that is no larger than this.
const MAX_QUESTION_BYTES: usize = 8 * 1024;

/// A place in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    client: Option<ClientKey>,
    number: u64,
}

/// A place in one of the lines of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The pool.
    pub pool: PoolId,
    /// Whether it is in the line of known tokens.
    pub is_known: bool,
    /// The place in that line.
    pub ticket: Ticket,
}

/// The line has no room for this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineFull;

/// What becomes of the question whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It leaves the line: a call for it is free.
    Call,
    /// It keeps its place: its client has as many calls under way as it may. The next client's turn comes.
    Pass,
    /// It keeps its place, as all do: no call is free. So a line of thousands of clients is not gone through.
    Stop,
}

/// The line.
#[derive(Debug, Default)]
pub struct Line {
    /// The questions of each client, oldest first. Clients without an address are one.
    clients: SortedMap<Option<ClientKey>, SortedMap<u64, Waiting>>,
    /// The clients by how many questions they have.
    by_length: SortedMap<(usize, Option<ClientKey>), ()>,
    /// The client that was served last.
    served: Option<Option<ClientKey>>,
    next_number: u64,
    questions: usize,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    key: QuestionKey,
    bytes: usize,
}

impl Line {
    /// Puts a question of `bytes` bytes at the client's end of the line. Returns its place, and the questions
    /// that had to leave for it.
    pub fn push(
        &mut self,
        key: QuestionKey,
        client: Option<ClientKey>,
        bytes: usize,
    ) -> Result<(Ticket, Vec<QuestionKey>), LineFull> {
        if bytes > MAX_QUESTION_BYTES {
            return Err(LineFull);
        }
        let mut displaced = Vec::new();
        while !self.has_room(bytes) {
            let Some(newest) = self.displace(client) else {
                // Nobody leaves for one that finds no room.
                for (ticket, waiting) in displaced {
                    self.insert(ticket, waiting);
                }
                return Err(LineFull);
            };
            displaced.push(newest);
        }
        let ticket = Ticket {
            client,
            number: self.next_number,
        };
        self.next_number += 1;
        self.insert(ticket, Waiting { key, bytes });
        let keys = displaced.iter().map(|(_, waiting)| waiting.key);
        Ok((ticket, keys.collect()))
    }

    /// Takes out the next question: the oldest of the next client in turn, if `turn` says so.
    pub fn pop(
        &mut self,
        turn: impl Fn(Option<ClientKey>, &QuestionKey) -> Turn,
    ) -> Option<QuestionKey> {
        let after = self.served.iter().flat_map(|it| self.clients.after(it));
        let mut next = None;
        for (client, questions) in after.chain(self.clients.iter()) {
            let Some((number, waiting)) = questions.first() else {
                continue;
            };
            match turn(*client, &waiting.key) {
                Turn::Call => {
                    next = Some((*client, *number, waiting.key));
                    break;
                }
                Turn::Pass => {}
                Turn::Stop => break,
            }
        }
        let (client, number, key) = next?;
        self.served = Some(client);
        self.remove(Ticket { client, number });
        Some(key)
    }

    /// Takes a question out of the line.
    pub fn remove(&mut self, Ticket { client, number }: Ticket) {
        let length = self.length(client);
        let Some(questions) = self.clients.get_mut(&client) else {
            return;
        };
        let Some(removed) = questions.remove(&number) else {
            return;
        };
        if questions.is_empty() {
            self.clients.remove(&client);
        }
        self.questions -= 1;
        self.bytes -= removed.bytes;
        self.by_length.remove(&(length, client));
        if length > 1 {
            self.by_length.insert((length - 1, client), ());
        }
    }

    /// Returns whether no question waits.
    pub fn is_empty(&self) -> bool {
        self.questions == 0
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.questions < MAX_QUESTIONS && self.bytes + bytes <= MAX_BYTES
    }

    /// Takes out the newest question of the client that has most, if that is more than `client` would have.
    fn displace(&mut self, client: Option<ClientKey>) -> Option<(Ticket, Waiting)> {
        let (&(length, longest), ()) = self.by_length.last()?;
        if length <= self.length(client) + 1 {
            return None;
        }
        let (number, waiting) = self.clients.get(&longest)?.last()?;
        let ticket = Ticket {
            client: longest,
            number: *number,
        };
        let waiting = *waiting;
        self.remove(ticket);
        Some((ticket, waiting))
    }

    fn insert(&mut self, Ticket { client, number }: Ticket, waiting: Waiting) {
        let length = self.length(client);
        self.by_length.remove(&(length, client));
        self.by_length.insert((length + 1, client), ());
        self.clients.update(client, |questions| {
            questions.insert(number, waiting);
        });
        self.questions += 1;
        self.bytes += waiting.bytes;
    }

    fn length(&self, client: Option<ClientKey>) -> usize {
        self.clients.get(&client).map_or(0, SortedMap::len)
    }
}

#[cfg(test)]
mod tests {
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
}
