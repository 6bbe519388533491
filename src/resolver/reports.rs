//! When the log tells of a MAS that gives no verdicts, and when it does again. `reports/text.rs` has what it says.
//!
//! With a wrong cluster, path or secret every client gets 503. So the log names the key to look at. One line on each
//! topic comes in a minute, from all workers together: the moments of the last lines are in shared data. `reports/long_answer.rs`
//! is simpler: it tells of answers that are too long to be kept, once a minute in each worker.
//!
//! The non-obvious rule: a line has fixed words, a status and what the configuration says of MAS; no token, no secret,
//! and nothing that a client or a server sent.

use alloc::vec::Vec;
use core::time::Duration;

pub mod long_answer;
mod text;
mod topic;

use self::{
    text::{failure, location},
    topic::Topic,
};
use super::upstream::Upstream;
use crate::{
    clock::Instant,
    host::{Backend, Callback, NotWritten, Store, until_written},
    mas::introspection::NoVerdict,
    shared_data::{
        bucket::{Bucket, Buckets},
        name::Space,
    },
};

/// How long the log is silent on a topic after a line on it.
const QUIET: Duration = Duration::from_secs(60);

/// Ways of asking that are remembered: each is told of on its own.
const WAYS: u32 = 64;

/// What the log was told of one way of asking.
///
/// ```text
/// offset  bytes  what
///      0      8  who is asked, see [`Upstream::fingerprint`]; all numbers little-endian
///      8      1  1: the last line says that there is no verdict
///      9    n*8  the moment of the last line on each topic, milliseconds; 0: there was none
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    is_failing: bool,
    at: [Instant; Topic::NUMBER],
}

impl Told {
    fn decode(bytes: &[u8]) -> Option<(u64, Self)> {
        let (fingerprint, rest) = bytes.split_first_chunk()?;
        let (is_failing, moments) = rest.split_first()?;
        let mut told = Self {
            is_failing: *is_failing != 0,
            ..Self::default()
        };
        for (at, bytes) in told.at.iter_mut().zip(moments.chunks_exact(8)) {
            *at = Instant::from_le_bytes(bytes.try_into().ok()?);
        }
        Some((u64::from_le_bytes(*fingerprint), told))
    }

    fn encode(&self, fingerprint: u64) -> Vec<u8> {
        let mut bytes = fingerprint.to_le_bytes().to_vec();
        bytes.push(u8::from(self.is_failing));
        for at in self.at {
            bytes.extend_from_slice(&at.to_le_bytes());
        }
        bytes
    }

    /// Returns the moment of the last line on `topic`; the clock's base if there was none.
    fn last(&self, topic: Topic) -> Instant {
        self.at.get(topic as usize).copied().unwrap_or_default()
    }

    fn set(&mut self, topic: Topic, now: Instant) {
        if let Some(at) = self.at.get_mut(topic as usize) {
            *at = now;
        }
    }

    fn is_quiet(&self, topic: Topic, now: Instant) -> bool {
        let last = self.last(topic);
        last != Instant::default() && now < last + QUIET
    }

    /// Whether a line on `topic` is due.
    fn is_due(&self, topic: Topic, now: Instant) -> bool {
        // That MAS answers is news if it did not before.
        let is_news = match topic {
            Topic::Answers => self.is_failing || self.last(topic) == Instant::default(),
            _ => true,
        };
        is_news && !self.is_quiet(topic, now)
    }

    /// What was told after a line on `topic`.
    fn after(mut self, topic: Topic, now: Instant) -> Self {
        self.set(topic, now);
        self.is_failing = match topic {
            Topic::Answers => false,
            // Too many questions at once say nothing of MAS.
            Topic::Overloaded => self.is_failing,
            _ => true,
        };
        self
    }
}

/// The log of one worker, as far as MAS goes.
#[derive(Debug)]
pub struct Reports {
    shared: Buckets,
    /// What this worker knows of the lines so far. In its view a way of asking fails as soon as one question does.
    known: Vec<(u64, Told)>,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            shared: Buckets::new(Space::Outages, WAYS),
            known: Vec::new(),
        }
    }
}

impl Reports {
    /// Tells that a question got no verdict, if a line is due.
    pub fn note_failure<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        why: NoVerdict,
    ) {
        let Some(topic) = Topic::of(why) else { return };
        let (fingerprint, now) = (upstream.fingerprint(), cb.now());
        let is_due = self.learn(fingerprint, |known| {
            known.is_failing |= topic != Topic::Overloaded;
            known.is_due(topic, now)
        });
        if is_due && self.tell(cb.host, fingerprint, topic, now).is_some() {
            log::warn!("{}", failure(&upstream.settings, topic, why));
        }
    }

    /// Tells that MAS has answered, if the log does not say so.
    pub fn note_answer<H: Backend>(&mut self, cb: &Callback<'_, H>, upstream: &Upstream) {
        let (fingerprint, now) = (upstream.fingerprint(), cb.now());
        let topic = Topic::Answers;
        if !self.learn(fingerprint, |known| known.is_due(topic, now)) {
            return;
        }
        if let Some(before) = self.tell(cb.host, fingerprint, topic, now) {
            let again = if before.is_failing { " again" } else { "" };
            log::info!("MAS answers{again}, at {}", location(&upstream.settings));
        }
    }

    /// Notes a line on `topic` in shared data, if it is due there. Returns what was told before; `None` if the line is not due.
    fn tell(
        &mut self,
        store: &impl Store,
        fingerprint: u64,
        topic: Topic,
        now: Instant,
    ) -> Option<Told> {
        let noted = until_written(|| {
            let (bucket, mut records) = self.read(store, fingerprint);
            let found = records.iter().find(|(other, _)| *other == fingerprint);
            let before = found.map(|(_, told)| *told).unwrap_or_default();
            if !before.is_due(topic, now) {
                self.learn(fingerprint, |known| {
                    known.set(topic, before.last(topic));
                    if topic == Topic::Answers {
                        known.is_failing &= before.is_failing;
                    }
                });
                return Ok(None);
            }
            let told = before.after(topic, now);
            records.retain(|(other, _)| *other != fingerprint);
            if records.len() >= self.shared.capacity {
                records.remove(0);
            }
            records.push((fingerprint, told));
            write(store, &bucket, &records)?;
            self.learn(fingerprint, |known| {
                // Whether MAS fails for this worker it knows by itself.
                let is_failing = known.is_failing && topic != Topic::Answers;
                *known = told;
                known.is_failing = is_failing;
            });
            Ok(Some(before))
        });
        noted.unwrap_or_else(|_| {
            // Better one line from each worker than none.
            self.learn(fingerprint, |known| {
                let before = *known;
                *known = before.after(topic, now);
                Some(before)
            })
        })
    }

    /// Changes what this worker knows of one way of asking. Returns what `change` returns.
    fn learn<R>(&mut self, fingerprint: u64, change: impl FnOnce(&mut Told) -> R) -> R {
        let mut known = self.known.iter_mut();
        if let Some((_, told)) = known.find(|(other, _)| *other == fingerprint) {
            return change(told);
        }
        if self.known.len() >= WAYS as usize {
            self.known.remove(0);
        }
        let mut told = Told::default();
        let result = change(&mut told);
        self.known.push((fingerprint, told));
        result
    }

    fn read(&self, store: &impl Store, fingerprint: u64) -> (Bucket, Vec<(u64, Told)>) {
        let bucket = self.shared.read(store, &bucket_name(fingerprint));
        let records = bucket.records().filter_map(Told::decode).collect();
        (bucket, records)
    }
}

/// Returns the bytes that a bucket is chosen by.
fn bucket_name(fingerprint: u64) -> [u8; 16] {
    (u128::from(fingerprint) << 64 | u128::from(fingerprint)).to_le_bytes()
}

fn write(store: &impl Store, bucket: &Bucket, records: &[(u64, Told)]) -> Result<(), NotWritten> {
    let records: Vec<_> = records
        .iter()
        .map(|(fingerprint, told)| told.encode(*fingerprint))
        .collect();
    bucket.replace(store, records.iter().map(Vec::as_slice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::MemoryStore;

    const NOW: Instant = Instant::from_millis(1_000_000);

    /// Tells of a failure. Returns whether that is a line.
    fn fail(reports: &mut Reports, store: &MemoryStore, fingerprint: u64, now: Instant) -> bool {
        reports
            .tell(store, fingerprint, Topic::Timeout, now)
            .is_some()
    }

    #[test]
    fn what_was_told_is_read_as_it_was_written() {
        let mut told = Told::default();
        for (topic, at) in [
            (Topic::Answers, 1),
            (Topic::Path, 2),
            (Topic::Overloaded, 3),
        ] {
            told.set(topic, Instant::from_millis(at));
        }
        for is_failing in [false, true] {
            told.is_failing = is_failing;
            assert_eq!(Told::decode(&told.encode(7)), Some((7, told)));
        }
        assert_eq!(
            Told::decode(b"too short"),
            Some((
                u64::from_le_bytes(*b"too shor"),
                Told {
                    is_failing: true,
                    ..Told::default()
                }
            ))
        );
        assert_eq!(Told::decode(b"short"), None);
    }

    #[test]
    fn two_workers_tell_of_one_failure_once_in_a_minute() {
        let store = MemoryStore::default();
        let (mut one, mut two) = (Reports::default(), Reports::default());
        for minute in 0..3 {
            let now = NOW + QUIET * minute;
            assert!(fail(&mut one, &store, 7, now));
            assert!(!fail(&mut two, &store, 7, now));
            assert!(!fail(&mut one, &store, 7, now + QUIET.mul_f64(0.99)));
        }
    }

    #[test]
    fn each_topic_is_told_of_once_in_a_minute() {
        let store = MemoryStore::default();
        let mut workers = [Reports::default(), Reports::default()];
        for topic in Topic::ALL {
            let told = workers
                .each_mut()
                .map(|worker| worker.tell(&store, 7, *topic, NOW).is_some());
            assert_eq!(told, [true, false], "{topic:?}");
        }
        for topic in Topic::ALL {
            let [worker, _] = &mut workers;
            assert!(worker.tell(&store, 7, *topic, NOW).is_none(), "{topic:?}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let store = MemoryStore::default();
        let mut reports = Reports::default();
        for fingerprint in 0..1_000 {
            assert!(fail(&mut reports, &store, fingerprint, NOW));
        }
        assert!(reports.known.len() <= WAYS as usize);
        // The seed of the buckets is one more.
        assert!(store.len() <= WAYS as usize / reports.shared.capacity + 1);
        let (_, records) = reports.read(&store, 999);
        assert!(records.len() <= reports.shared.capacity);
        assert!(records.iter().any(|(fingerprint, _)| *fingerprint == 999));
    }

    #[test]
    fn twelve_ways_of_asking_are_each_told_of_once() {
        let store = MemoryStore::default();
        let (mut one, mut two) = (Reports::default(), Reports::default());
        let fingerprints = (1..=12_u64).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for fingerprint in fingerprints.clone() {
            assert!(fail(&mut one, &store, fingerprint, NOW));
        }
        let again = fingerprints.filter(|fingerprint| fail(&mut two, &store, *fingerprint, NOW));
        assert_eq!(again.count(), 0);
    }

    /// Too many questions at once are the clients' doing.
    #[test]
    fn an_overload_says_nothing_of_mas() {
        for is_failing in [false, true] {
            let told = Told {
                is_failing,
                ..Told::default()
            };
            assert_eq!(told.after(Topic::Overloaded, NOW).is_failing, is_failing);
            assert!(told.after(Topic::Timeout, NOW).is_failing);
            assert!(!told.after(Topic::Answers, NOW).is_failing);
        }
    }
}
