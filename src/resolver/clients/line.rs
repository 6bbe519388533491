//! Questions that wait for a free call.
//!
//! More clients than calls arrive at once after every restart, and MAS answers each in a few milliseconds. So
//! a question over the cap waits in line instead of failing.
//!
//! A pool has a line of known tokens, which comes first, and one of unproven ones; and of both one for each cap, since several
//! configurations may share a pool, and what waits for a small cap must not stop what waits for a large one.
//!
//! A line is fair: who waits in it takes turns, so a flood of one client waits behind itself. In a line of known tokens it is the
//! users who take turns, in any other the clients. A line is bounded in bytes, of which a question takes 512 at the least; when it
//! is full, who takes most of it gives up the newest question to one who would still take less.

use super::{ClientKey, load::PoolId};
use crate::{cache::question::QuestionKey, maps::sorted::SortedMap};

/// Bytes of tokens and trace headers that may wait in one line.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// Bytes that a question counts as, at the least: so 4,096 may wait in one line.
const MIN_QUESTION_BYTES: usize = 512;

/// Largest question that may wait.
const MAX_QUESTION_BYTES: usize = 8 * 1024;

/// A place in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    client: Option<ClientKey>,
    number: u64,
}

/// Names a line. Those of one pool are in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineId {
    /// The pool.
    pub pool: PoolId,
    /// Whether it is not the line of known tokens.
    pub is_unproven: bool,
    /// How many calls of the pool may be under way when one for a question of the line is made, itself included.
    pub cap: usize,
}

/// A place in one of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: LineId,
    /// The place in it.
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
    /// It keeps its place: who waits has as many calls under way as may be. The next one's turn comes.
    Pass,
    /// It keeps its place, as all do: no call is free. So a line of thousands of clients is not gone through.
    Stop,
}

/// The line.
#[derive(Debug, Default)]
pub struct Line {
    /// Those who wait. Clients without an address are one, and so are users without a name.
    clients: SortedMap<Option<ClientKey>, Waiting>,
    /// None of them takes more bytes than this.
    most: usize,
    /// The client that was served last.
    served: Option<Option<ClientKey>>,
    next_number: u64,
    bytes: usize,
}

/// What waits of one client.
#[derive(Debug, Default)]
struct Waiting {
    /// Oldest first.
    questions: SortedMap<u64, Question>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Question {
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
        let bytes = bytes.max(MIN_QUESTION_BYTES);
        let mut displaced = Vec::new();
        while self.bytes + bytes > MAX_BYTES {
            let Some(newest) = self.displace(self.bytes_of(client) + bytes) else {
                // Nobody leaves for one that finds no room.
                for (ticket, question) in displaced {
                    self.insert(ticket, question);
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
        self.insert(ticket, Question { key, bytes });
        let keys = displaced.iter().map(|(_, question)| question.key);
        Ok((ticket, keys.collect()))
    }

    /// Takes out the next question: the oldest of the next client in turn, if `turn` says so.
    pub fn pop(&mut self, turn: impl Fn(Option<ClientKey>) -> Turn) -> Option<QuestionKey> {
        let after = self.served.iter().flat_map(|it| self.clients.after(it));
        let mut next = None;
        for (client, waiting) in after.chain(self.clients.iter()) {
            let Some((number, question)) = waiting.questions.first() else {
                continue;
            };
            match turn(*client) {
                Turn::Call => {
                    next = Some((*client, *number, question.key));
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
        let Some(waiting) = self.clients.get_mut(&client) else {
            return;
        };
        let Some(removed) = waiting.questions.remove(&number) else {
            return;
        };
        waiting.bytes -= removed.bytes;
        if waiting.questions.is_empty() {
            self.clients.remove(&client);
        }
        self.bytes -= removed.bytes;
    }

    /// Returns whether no question waits.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns how many questions of a client wait.
    pub fn questions(&self, client: Option<ClientKey>) -> usize {
        let waiting = self.clients.get(&client);
        waiting.map_or(0, |waiting| waiting.questions.len())
    }

    /// Takes out the newest question of the client that takes most bytes, if those are more than that. All clients are gone
    /// through only if one may take so many: so those who find no room cost little.
    fn displace(&mut self, bytes: usize) -> Option<(Ticket, Question)> {
        if self.most <= bytes {
            return None;
        }
        let clients = self.clients.iter();
        let (client, waiting) = clients.max_by_key(|(_, waiting)| waiting.bytes)?;
        self.most = waiting.bytes;
        if self.most <= bytes {
            return None;
        }
        let (number, question) = waiting.questions.last()?;
        let (client, number, question) = (*client, *number, *question);
        let ticket = Ticket { client, number };
        self.remove(ticket);
        Some((ticket, question))
    }

    fn insert(&mut self, Ticket { client, number }: Ticket, question: Question) {
        let bytes = self.clients.update(client, |waiting| {
            waiting.questions.insert(number, question);
            waiting.bytes += question.bytes;
            waiting.bytes
        });
        self.most = self.most.max(bytes);
        self.bytes += question.bytes;
    }

    fn bytes_of(&self, client: Option<ClientKey>) -> usize {
        self.clients.get(&client).map_or(0, |waiting| waiting.bytes)
    }
}

#[cfg(test)]
mod tests;
