//! What the page has seen of MAS: the callbacks of [`Options`](crate::mas::Options) lead here.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;

use super::{
    Member,
    estimate::{Estimate, Said},
    journal::{Entry, Journal, Tone, Who},
    millis,
};
use crate::{
    clock::Clock,
    mas::{Introspected, ProvisioningCall},
};

/// Takes note of what MAS is asked and tells. It exists before MAS does.
#[derive(Default)]
pub struct Observer {
    clock: Clock,
    seen: Mutex<Seen>,
    /// Counts what was noted, so that watchers wake.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Seen {
    journal: Journal,
    estimate: Estimate,
}

impl Observer {
    /// Takes note of an introspection that MAS has answered.
    pub fn introspected(&self, introspected: &Introspected) {
        let name = introspected.name.as_deref();
        let now = self.now_ms();
        let outcome = &introspected.outcome;
        self.note(|seen| {
            let of = |member: &Member| Some(member.title()) == name;
            let said = match outcome.as_str() {
                "active" => Some(Said::Active),
                "inactive" => Some(Said::Inactive),
                _ => None,
            };
            if let Some((member, said)) = Member::ALL.into_iter().find(of).zip(said) {
                seen.estimate.answered(member, said, now);
            }
            let token = name.unwrap_or("a token that has no name here");
            let text = format!("asked about {token}: {outcome}");
            let tone = if said.is_some() {
                Tone::Plain
            } else {
                Tone::Failed
            };
            seen.journal.write(now, Who::Mas, tone, text);
        });
    }

    /// Takes note of an attempt to tell the homeserver something.
    pub fn told(&self, call: &ProvisioningCall) {
        let now = self.now_ms();
        let name = call.path.rsplit('/').next().unwrap_or_default();
        self.note(|seen| {
            let agreed = call
                .status
                .is_some_and(|status| (200..300).contains(&status));
            if agreed {
                seen.estimate.told(call);
            }
            let (came, tone) = match call.status {
                _ if agreed => (String::new(), Tone::Plain),
                Some(status) => (format!(": answered {status}"), Tone::Failed),
                None => (": no answer".to_owned(), Tone::Failed),
            };
            let text = format!("told the homeserver, through the edge: {name}{came}");
            seen.journal.write(now, Who::Mas, tone, text);
        });
    }

    /// A member's answer is dropped: the edge has seen why.
    pub(super) fn ended(&self, member: Member, reason: &'static str) {
        self.note(|seen| seen.estimate.end(member, reason));
    }

    /// A member has another token.
    pub(super) fn forget(&self, member: Member) {
        self.note(|seen| seen.estimate.forget(member));
    }

    pub(super) fn write(&self, who: Who, tone: Tone, text: String) {
        let now = self.now_ms();
        self.note(|seen| seen.journal.write(now, who, tone, text));
    }

    /// Wakes the watchers: something that the observer does not hold has changed.
    pub(super) fn wake(&self) {
        self.note(|_| {});
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.seen().journal.entries()
    }

    pub(super) fn cached(&self, member: Member) -> Option<super::estimate::Cached> {
        self.seen().estimate.of(member).cloned()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn now_ms(&self) -> u64 {
        millis(self.clock.now())
    }

    fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.seen());
        self.changed.send_modify(|changes| *changes += 1);
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
