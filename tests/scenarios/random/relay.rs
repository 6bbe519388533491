//! MAS's answer as it comes through the introspection listeners of other Envoys: kept for a while by each, and rounded.
//!
//! The relays are modelled by the functions of the core that keep an answer and tell of it, with times of their own.

use std::time::Duration;

use fastrand::Rng;
use matrix_edge_auth::{
    cache::{Cached, Introspected, SharedCache},
    clock::Instant,
    config,
    mas::introspection::{Answer, LIFETIME},
    role::introspection::request::active_reply,
    token::TokenSecret,
};
use serde_json::Value;

/// The header with the lifetime may be lost: then up to a second is added to what is left.
const ROUNDING: u64 = 1_000;

/// What an answer tells of the life that is left, in milliseconds.
#[derive(Clone, Debug)]
pub struct Left {
    pub expires_in: u64,
    /// The value of the header.
    pub lifetime: Option<String>,
    /// For so long the token counts as active.
    pub at_least: u64,
    /// By so much the relays may overstate what MAS said.
    pub widened: u64,
    /// Every relay was told the lifetime.
    pub is_exact: bool,
}

impl Left {
    /// What MAS itself tells.
    pub fn direct(expires_in: u64) -> Self {
        Self {
            expires_in,
            lifetime: None,
            at_least: expires_in * 1_000,
            widened: 0,
            is_exact: true,
        }
    }
}

/// One relay, by when it asked, and when it was asked itself.
struct Relay {
    asked_at: u64,
    answered_at: u64,
    replied_at: u64,
}

/// Returns what the last of some relays says now, and what that tells. `say` is what MAS says at a moment, and says
/// the same of the token since `since`. `None`: the answer would be from before, or has ended in one of the caches.
pub fn relay(
    say: impl Fn(u64) -> (Value, u64),
    since: u64,
    now: u64,
    rng: &mut Rng,
) -> Option<(Value, Left)> {
    let mut relays = Vec::new();
    let mut said_at = now;
    for _ in 0..rng.usize(1..=3) {
        let mut before = |moment: u64| {
            let longest = rng.choice([1, 2, 400, 3_000]).unwrap();
            moment.checked_sub(rng.u64(0..longest))
        };
        let replied_at = said_at;
        let answered_at = before(replied_at)?;
        said_at = before(answered_at)?;
        let asked_at = before(said_at)?;
        relays.push(Relay {
            asked_at,
            answered_at,
            replied_at,
        });
    }
    if said_at <= since {
        return None;
    }
    let (mut body, expires_in) = say(said_at);
    let mut left = Left::direct(expires_in);
    while let Some(relay) = relays.pop() {
        (body, left) = relay.pass_on(body, left, said_at)?;
        said_at = relay.replied_at;
        if rng.u32(..8) == 0 {
            left.lifetime = None;
            left.at_least = left.expires_in * 1_000;
            left.widened += ROUNDING;
            left.is_exact = false;
        }
    }
    Some((body, left))
}

impl Relay {
    fn pass_on(&self, body: Value, left: Left, said_at: u64) -> Option<(Value, Left)> {
        let settings = config::Cache {
            ttl: Duration::from_secs(3_600),
            negative_ttl: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            refresh_ahead: false,
            slots: 1,
            negative_slots: 1,
            local_entries: 0,
        };
        let answer = Answer::parse(body.to_string().into()).expect("an answer");
        let cache = SharedCache::new(&settings, 1);
        let lifetime = left.lifetime.as_ref().map(String::as_bytes);
        let lifetime = answer.lifetime(lifetime);
        let introspected = Introspected::new(
            TokenSecret::NONE.digest(b"token"),
            Instant::from_millis(self.asked_at),
            Instant::from_millis(self.answered_at),
            answer,
            lifetime,
        );
        let Cached::Active(entry) = cache.view_for(&introspected, &cache) else {
            panic!("the token is active");
        };
        let now = Instant::from_millis(self.replied_at);
        let reply = active_reply(&entry, now).filter(|_| now < entry.fresh_until)?;
        let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
        let header = reply.headers.iter().find(|(name, _)| *name == LIFETIME);
        let lifetime = header.map(|(_, value)| value.to_string());
        let told = lifetime.as_ref().expect("the token expires");
        let (at_least, _) = told.split_once('-').expect("two numbers");
        let left = Left {
            expires_in: body["expires_in"].as_u64().expect("a number"),
            at_least: at_least.parse().expect("a number"),
            // The clocks are cut to milliseconds.
            widened: left.widened + self.answered_at - said_at + 1,
            lifetime,
            ..left
        };
        Some((body, left))
    }
}
