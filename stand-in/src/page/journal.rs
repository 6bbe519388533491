//! The last things that happened, to be read on the page. Bounded: the oldest go first.

use std::collections::VecDeque;

use serde::Serialize;

/// How many entries are kept.
const KEPT: usize = 60;

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entry {
    /// Counts up; never the same twice.
    number: u64,
    at_ms: u64,
    /// Who did it.
    pub(super) who: Who,
    pub(super) text: String,
    pub(super) tone: Tone,
}

/// Who did something.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Who {
    /// A client, or the homeserver, sent a request and got its answer.
    Client,
    /// MAS answered, or told the homeserver.
    Mas,
    /// A person pressed a button.
    You,
}

/// How it is to be taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tone {
    /// A request passed.
    Passed,
    /// A request was refused.
    Refused,
    /// There was no verdict.
    Failed,
    /// None of these.
    Plain,
}

/// The entries, newest last.
#[derive(Debug, Default)]
pub(super) struct Journal {
    entries: VecDeque<Entry>,
    written: u64,
}

impl Journal {
    pub(super) fn write(&mut self, at_ms: u64, who: Who, tone: Tone, text: String) {
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.written += 1;
        self.entries.push_back(Entry {
            number: self.written,
            at_ms,
            who,
            text,
            tone,
        });
    }

    /// The entries, newest first.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.entries.iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let mut journal = Journal::default();
        for number in 1..=1000 {
            journal.write(number, Who::You, Tone::Plain, number.to_string());
        }
        let entries = journal.entries();
        assert_eq!(entries.len(), KEPT);
        assert_eq!(
            (entries[0].number, entries[KEPT - 1].number),
            (1000, 1000 - KEPT as u64 + 1)
        );
    }
}
