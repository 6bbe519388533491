//! Questions that wait for a free call.
//!
//! More clients than calls arrive at once after every restart, and MAS answers each in a few milliseconds. So
//! a question over the cap waits in line instead of failing.
//!
//! The line is fair by client: the clients take turns, so a flood of one client waits behind itself. It is
//! bounded in questions and in bytes; when it is full, the client with most questions in it gives up its newest
//! one to a client that has fewer.

use alloc::vec::Vec;

use super::{ClientKey, load::PoolId};
use crate::{cache::question::QuestionKey, maps::sorted::SortedMap};

/// Questions that may wait in one line.
const MAX_QUESTIONS: usize = 4_096;

/// Bytes of tokens and trace headers that may wait in one line.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// Largest question that may wait, in bytes. Some hundreds of clients with one such question each fill the line. Then another
/// client finds no room, since none of them has more questions than it would have.
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
mod tests;
