//! One exchange on its way through the filter: how far it has come, and what is still to be learned of it.

use std::cell::{Cell, RefCell};

use super::{answer::Introspection, learn::Refusal, provision::Provisioning};
use crate::{cache::TokenDigest, host::HostError, matrix::logout::SessionEnd};

/// How far a request has come. Whoever holds its body back asks this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for a verdict, or for the rest of itself: nothing of it may go on.
    Held,
    /// It goes on upstream.
    Forwarded,
    /// It was answered here: nothing of it may go on.
    Answered,
}

/// A request and its response, shared by their stream and whoever decides them.
#[derive(Debug)]
pub struct Exchange {
    phase: Cell<Phase>,
    interest: RefCell<Interest>,
}

/// What is still to be read of an exchange, and for what.
#[derive(Debug, Default)]
pub(super) enum Interest {
    /// Nothing.
    #[default]
    None,
    /// Whether the homeserver refuses this token, which is active as far as is known.
    Active(TokenDigest),
    /// Why the homeserver refuses a token.
    Refusal(Refusal),
    /// Whether MAS ends this session.
    SessionEnd(SessionEnd, Collector),
    /// What MAS tells the homeserver.
    Provisioning(Provisioning),
    /// What the homeserver asks MAS.
    Introspection(Introspection),
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            phase: Cell::new(Phase::Held),
            interest: RefCell::default(),
        }
    }
}

impl Exchange {
    /// How far the request has come.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Whether the request's body is read, so that a large one passes at no cost.
    pub fn reads_request_body(&self) -> bool {
        self.interest
            .try_borrow()
            .is_ok_and(|interest| match &*interest {
                Interest::None | Interest::Active(_) | Interest::Refusal(_) => false,
                Interest::SessionEnd(end, _) => *end == SessionEnd::Revocation,
                Interest::Provisioning(_) | Interest::Introspection(_) => true,
            })
    }

    /// Whether the response's headers are read.
    pub fn reads_response(&self) -> bool {
        self.interest
            .try_borrow()
            .is_ok_and(|interest| !matches!(*interest, Interest::None))
    }

    /// Whether the response's body is read.
    pub fn reads_response_body(&self) -> bool {
        self.interest
            .try_borrow()
            .is_ok_and(|interest| matches!(*interest, Interest::Refusal(_)))
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.set(phase);
    }

    pub(super) fn set_interest(&self, interest: Interest) {
        self.interest.replace(interest);
    }

    /// Takes the interest out; nothing is left to be read unless it is put back.
    pub(super) fn take_interest(&self) -> Interest {
        self.interest.take()
    }
}

/// The pieces of a body that passes, up to a limit.
#[derive(Debug)]
pub(super) struct Collector {
    bytes: Vec<u8>,
    limit: usize,
    is_truncated: bool,
}

impl Collector {
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            limit,
            is_truncated: false,
        }
    }

    /// Takes in a piece of `size` bytes, of which `read` gives as many as it is told.
    pub fn add(&mut self, size: usize, read: impl FnOnce(usize) -> Result<Vec<u8>, HostError>) {
        let room = self.limit.saturating_sub(self.bytes.len());
        self.is_truncated |= size > room;
        let wanted = size.min(room);
        if wanted == 0 {
            return;
        }
        match read(wanted) {
            Ok(piece) => self.bytes.extend_from_slice(&piece),
            Err(HostError(status)) => {
                log::error!("Envoy refused to show a body with status {status}");
                self.is_truncated = true;
            }
        }
    }

    /// The bytes so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether there was more.
    pub fn is_truncated(&self) -> bool {
        self.is_truncated
    }
}
