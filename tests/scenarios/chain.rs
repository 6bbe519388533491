//! Envoys in a chain: the gateway and the introspection role of each ask the introspection role of the one before,
//! and the first asks MAS. However often an answer is cached, aged and rounded on its way, nobody is logged out
//! before the token's end.

use std::{rc::Rc, time::Duration};

use matrix_edge_auth::{mas::introspection::IntrospectionResponse, worker::Plugin};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    ALICE, INACTIVE, alice, not_active,
    simulated::{Call, Fate, Process, Request, SimulatedWorker, gateway, plugin},
    whoami,
};

const LIFETIME: &str = "x-matrix-edge-auth-lifetime";

/// How often a timer fires, in milliseconds.
const TICK: u64 = 250;

/// The longest way of a question or an answer, in milliseconds.
const MAX_TRANSIT: u64 = 800;

/// One Envoy with a clock of its own.
struct Hop {
    process: Rc<Process>,
    worker: SimulatedWorker,
    gateway: Rc<Plugin>,
    role: Rc<Plugin>,
    /// Something on the way to this Envoy takes [`LIFETIME`] away.
    loses_header: bool,
}

/// What comes back to a question.
struct Response {
    body: String,
    lifetime: Option<String>,
}

/// MAS and the Envoys before it. The first asks MAS.
struct Chain {
    hops: Vec<Hop>,
    /// The true time in milliseconds.
    now: u64,
    /// When the token ends.
    end: u64,
    /// How long questions and answers are on their way, in turn.
    transits: Vec<u64>,
    /// How many of them were.
    taken: usize,
}

impl Chain {
    /// Envoys with clocks that are ahead by this much. `transits` may not be empty.
    fn new(life: u64, clocks: &[u64], transits: Vec<u64>) -> Self {
        let hop = |(at, ahead): (usize, &u64)| {
            let process = Process::new();
            process.advance(Duration::from_millis(*ahead));
            let config =
                json!({"cache": {"ttl": "1h", "negative_ttl": "0s", "refresh_ahead": false}});
            let root = 2 * at as u32;
            Hop {
                worker: SimulatedWorker::new(&process),
                process,
                gateway: gateway(root, config.clone()),
                role: plugin(root + 1, "introspection", config),
                loses_header: false,
            }
        };
        Self {
            hops: clocks.iter().enumerate().map(hop).collect(),
            now: 0,
            end: life,
            transits,
            taken: 0,
        }
    }

    /// Time passes, and timers fire.
    fn pass(&mut self, millis: u64) {
        let end = self.now + millis;
        while self.now < end {
            let piece = TICK.min(end - self.now);
            self.now += piece;
            for hop in &mut self.hops {
                hop.process.advance(Duration::from_millis(piece));
                hop.worker.tick();
            }
        }
    }

    fn transit(&mut self) {
        let millis = self.transits[self.taken % self.transits.len()];
        self.taken += 1;
        self.pass(millis);
    }

    /// What MAS says now, with `expires_in` to the nearest second.
    fn mas(&self) -> Response {
        let body = match self.direct() {
            Some(expires_in) => json!({
                "active": true, "username": "alice", "scope": "urn:matrix:client:api:*",
                "expires_in": expires_in,
            })
            .to_string(),
            None => INACTIVE.to_owned(),
        };
        Response {
            body,
            lifetime: None,
        }
    }

    /// The `expires_in` that MAS itself would give now.
    fn direct(&self) -> Option<u64> {
        (self.now < self.end).then(|| (self.end - self.now + 500) / 1_000)
    }

    /// A client's request to the gateway of this Envoy. What becomes of it, and whether that was known at once.
    fn client(&mut self, at: usize) -> (Fate, bool) {
        let hop = &mut self.hops[at];
        let stream = hop.worker.request(&hop.gateway, whoami(ALICE));
        let is_known = hop.worker.fate(stream) != Fate::Held;
        self.serve(at);
        (self.hops[at].worker.fate(stream), is_known)
    }

    /// The homeserver's question to the introspection role of this Envoy.
    fn introspect(&mut self, at: usize) -> Response {
        let hop = &mut self.hops[at];
        let request = Request::new("POST", "/oauth2/introspect")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("x-mas-supports-device-id", "1")
            .bearer("secret")
            .body(format!("token={ALICE}&token_type_hint=access_token"));
        let stream = hop.worker.request(&hop.role, request);
        self.serve(at);
        let worker = &self.hops[at].worker;
        match worker.fate(stream) {
            Fate::Replied(200, body) => Response {
                body,
                lifetime: worker.reply_header(stream, LIFETIME),
            },
            // The role leaves it to the next one, whose response passes.
            Fate::Forwarded { .. } => self.ask_before(at),
            fate => panic!("{fate:?}"),
        }
    }

    /// Answers the call that this Envoy makes, if it makes one.
    fn serve(&mut self, at: usize) {
        let calls = self.hops[at].worker.calls();
        let Some(Call { id, .. }) = calls.first() else {
            return;
        };
        let response = self.ask_before(at);
        let hop = &mut self.hops[at];
        let lifetime = response.lifetime.filter(|_| !hop.loses_header);
        hop.worker.respond(
            *id,
            IntrospectionResponse {
                status: Some(200),
                content_type: Some(b"application/json"),
                lifetime: lifetime.as_ref().map(String::as_bytes),
                body: Some(response.body.as_bytes().into()),
            },
        );
    }

    /// A question of this Envoy on its way to the one before, or to MAS, and the answer on its way back.
    fn ask_before(&mut self, at: usize) -> Response {
        self.transit();
        let response = match at.checked_sub(1) {
            Some(before) => self.introspect(before),
            None => self.mas(),
        };
        self.transit();
        response
    }

    /// A client and the homeserver ask this Envoy. Checks what they are told.
    fn check(&mut self, at: usize) -> Result<(), TestCaseError> {
        let is_exact = self.hops[..=at].iter().all(|hop| !hop.loses_header);
        let (fate, is_known) = self.client(at);
        if fate == alice() {
            let is_served_late = is_known && self.now >= self.end + 500;
            prop_assert!(!(is_exact && is_served_late), "served past the end");
        } else {
            prop_assert_eq!(fate, not_active());
            prop_assert!(self.now >= self.end, "401 before the end");
        }

        let said = self.introspect(at).body;
        if said == INACTIVE {
            prop_assert!(self.now >= self.end, "called inactive before the end");
            return Ok(());
        }
        let said: Value = serde_json::from_str(&said).unwrap();
        let expires_in = said["expires_in"].as_u64().unwrap();
        if let Some(direct) = self.direct() {
            prop_assert!(
                expires_in >= direct,
                "{expires_in} s, and {direct} s by MAS"
            );
        }
        let round_trips = (at as u64 + 1) * 2 * MAX_TRANSIT;
        let latest = self.end + 1_500 + round_trips;
        prop_assert!(
            !is_exact || self.now + expires_in * 1_000 <= latest,
            "{expires_in} s overstates what is left"
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// A 401 and `active: false` come after the end only; the homeserver is told no less than by MAS itself; and a
    /// cached answer is served for no longer than half a second after the end, the half by which MAS rounds.
    #[test]
    fn nobody_is_logged_out_early_and_nothing_is_served_late(
        life in 1..12_000_u64,
        clocks in prop::collection::vec(0..2_000_u64, 1..=3),
        losses in prop::array::uniform3(prop::bool::weighted(0.1)),
        transits in prop::collection::vec(0..=MAX_TRANSIT, 1..20),
        steps in prop::collection::vec((0..3_usize, 0..1_500_u64), 1..30),
    ) {
        let mut chain = Chain::new(life, &clocks, transits);
        for (hop, loses_header) in chain.hops.iter_mut().zip(losses) {
            hop.loses_header = loses_header;
        }
        for (at, pause) in steps {
            chain.pass(pause);
            chain.check(at % clocks.len())?;
        }
    }
}

/// The homeserver of the second Envoy counts from when it was told, and says 401 by itself after that.
#[test]
fn an_answer_that_is_aged_twice_is_still_good_to_the_last_second() {
    let mut chain = Chain::new(10_400, &[0, 700], vec![0]);
    assert_eq!(chain.client(0), (alice(), false));
    chain.pass(300);
    assert_eq!(chain.client(1), (alice(), false));
    // Each of the two would have rounded an age up.
    chain.pass(300);
    let told: Value = serde_json::from_str(&chain.introspect(1).body).unwrap();
    assert_eq!(told["expires_in"], 10);
    chain.pass(9_799);
    assert_eq!(chain.now, chain.end - 1);
    assert_eq!(chain.client(1).0, alice());
    chain.pass(1_000);
    assert_eq!(chain.client(1).0, not_active());
}

/// However slow the chain is, its last gateway never takes an answer for fresh past the end that the first knows.
#[test]
fn every_gateway_of_a_chain_asks_again_when_the_token_may_have_ended() {
    let mut chain = Chain::new(5_000, &[0, 1, 2], vec![300]);
    chain.client(2);
    // The question was on its way for 900 ms when MAS said 4 s.
    chain.pass(4_100);
    assert_eq!(chain.now, 5_900);
    let (fate, is_known) = chain.client(2);
    assert_eq!((fate, is_known), (not_active(), false));
}
