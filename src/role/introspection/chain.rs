//! Property test: edges in a chain, each of which asks the introspection role of the one before. Only the arithmetic
//! runs here, with clocks that are cut to whole milliseconds; `tests/scenarios/chain.rs` runs whole workers.

use proptest::prelude::*;

use super::request::active_reply;
use crate::{
    cache::{ActiveEntry, expiry::Expiry},
    clock::Instant,
    mas::introspection::{Answer, LIFETIME},
    token::TokenDigest,
};

/// One edge of a chain, all times in microseconds.
#[derive(Clone, Debug)]
struct Hop {
    /// How far its clock is ahead.
    ahead: u64,
    /// How long its question was on its way, and the answer.
    question: u64,
    answer: u64,
    /// How long it keeps the answer before it is asked.
    age: u64,
    loses_header: bool,
}

impl Hop {
    fn any() -> impl Strategy<Value = Self> {
        let transit = || prop_oneof![0..300_u64, 0..900_000_u64];
        let age = prop_oneof![0..2_000_u64, 0..9_000_000_u64];
        let rest = (transit(), transit(), age, prop::bool::weighted(0.1));
        (0..5_000_u64, rest).prop_map(|(ahead, (question, answer, age, loses_header))| Self {
            ahead,
            question,
            answer,
            age,
            loses_header,
        })
    }

    /// What its clock shows at this true time: whole milliseconds.
    fn clock(&self, time: u64) -> Instant {
        Instant::from_millis((time + self.ahead) / 1_000)
    }
}

/// A time up to 14 s from now, often within a millisecond of a whole number of seconds and this.
fn time(more: u64) -> impl Strategy<Value = u64> {
    let near = (1..13_u64, 0..2_000_u64);
    let near = near.prop_map(move |(seconds, micros)| seconds * 1_000_000 + more + micros - 1_000);
    prop_oneof![1..14_000_000_u64, near]
}

/// The `expires_in` that MAS gives if this much is left: to the nearest second.
fn direct(micros: u64) -> i64 {
    ((micros + 500_000) / 1_000_000) as i64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// For a chain of edges, each with a clock of its own that counts whole milliseconds:
    ///
    /// - none takes the token for ended before its end;
    /// - none takes it for active later than half a second after its end, the half by which MAS rounds up;
    /// - who asks any of them is never told a smaller number than MAS itself would say at that moment.
    #[test]
    fn no_chain_of_edges_ends_a_token_early_or_late(
        hops in prop::collection::vec(Hop::any(), 1..=3),
        end in time(500_000),
        probes in prop::collection::vec(time(0), 1..20),
    ) {
        let mut said = (format!(r#"{{"active":true,"expires_in":{}}}"#, direct(end)), None);
        // MAS says so at 0, which is this late on all clocks.
        let start = 10_000_000;
        let end = start + end;
        let mut said_at = start;
        let mut is_exact = true;
        for hop in &hops {
            is_exact &= !hop.loses_header;
            let header = said.1.as_deref().filter(|_| !hop.loses_header);
            let answer = Answer::parse(said.0.clone().into()).unwrap();
            let lifetime = answer.lifetime(header.map(str::as_bytes)).unwrap();
            let Answer::Active(answer) = answer else {
                panic!("it is active");
            };
            let answered = said_at + hop.answer;
            let asked = hop.clock(said_at - hop.question);
            let expiry = Expiry::new(lifetime, asked, hop.clock(answered));
            let known = ActiveEntry {
                digest: TokenDigest::of(b"token"),
                user: None,
                answer,
                expiry: Some(expiry),
                asked_at: Instant::default(),
                fresh_until: expiry.earliest,
                refresh_at: None,
            };
            let reply_at = |time: u64| -> Option<(String, Option<String>)> {
                let reply = active_reply(&known, hop.clock(time))?;
                let header = reply.headers.iter().find(|(name, _)| *name == LIFETIME);
                let body = String::from_utf8(reply.body.to_vec()).unwrap();
                Some((body, header.map(|(_, value)| value.to_string())))
            };
            for time in probes.iter().map(|probe| (start + probe).max(answered)) {
                let now = hop.clock(time);
                prop_assert!(!expiry.has_passed(now) || time >= end, "early");
                if now >= known.fresh_until {
                    continue;
                }
                prop_assert!(time < end + 500_000 || !is_exact, "late");
                let (body, _) = reply_at(time).expect("a fresh answer is told");
                let told = Answer::parse(body.into()).unwrap();
                let Answer::Active(told) = told else {
                    panic!("it is active");
                };
                let left = direct(end.saturating_sub(time));
                prop_assert!(told.expires_in >= Some(left), "{left} s are left");
            }
            said_at = answered + hop.age;
            if hop.clock(said_at) >= known.fresh_until {
                break;
            }
            said = reply_at(said_at).expect("a fresh answer is told");
        }
    }
}
