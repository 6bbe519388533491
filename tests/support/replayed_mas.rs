//! A stand-in MAS in the state that each recorded exchange needs.
//!
//! Sessions are derived from the recorded active answers; what the recording only shows the end of (a session revoked,
//! a user locked) stands in [`before`].

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use serde_json::Value;
use stand_in::{
    clock::Clock,
    mas::{Client, Database, Mas, Options, Session},
};

use super::recorded_mas::{Record, SECRET};

/// A stand-in that is taken through the recording.
pub struct Replay {
    /// The stand-in.
    pub mas: Mas,
    clock: Clock,
    sessions: Sessions,
    held: HashMap<String, Option<u64>>,
}

impl Replay {
    /// Starts a stand-in with the recorded clients and no sessions yet.
    pub async fn start(records: &[Record]) -> Self {
        let clock = Clock::manual(Duration::ZERO);
        let mas = Mas::start(Options {
            secret: SECRET.to_owned(),
            clients: vec![
                Client::basic("0000000000000000000000BAS1", "basic-secret-1"),
                Client::post("0000000000000000000000P0ST", "post-secret-1"),
                Client::public("0000000000000000000000PVB1"),
            ],
            clock: clock.clone(),
            issuer: Some("http://auth.rig.test/".to_owned()),
            pool_timeout: Duration::ZERO,
            ..Options::default()
        })
        .await
        .expect("a free port");
        Self {
            mas,
            clock,
            sessions: Sessions::derive(records),
            held: HashMap::new(),
        }
    }

    /// Brings the stand-in into the state that MAS was in when `record` was made. All records before it have been
    /// replayed.
    pub fn advance_to(&mut self, record: &Record) {
        if let Some(now) = record.now() {
            self.clock.set(now);
        }
        before(&record.name, &self.mas);
        for (token, recorded) in self.sessions.first_needed_by(record, &self.held) {
            self.mas.insert(&token, recorded.session.clone());
            self.held.insert(token, recorded.exp);
        }
    }
}

/// Does what happened to the recorded MAS, besides the recorded requests, right before the record of this name:
/// sessions that the recording does not show active, and what an administrator or a refresh did to them.
fn before(name: &str, mas: &Mas) {
    const APP: &str = "0000000000000000000000PVB1";
    match name {
        "28-expired-oauth2" => mas.insert(
            "mat_ADmfbJBvTR2hK4YzdClHEELAQeI3hJ_t6Wxa4",
            Session::access("alice", "EXPIRED").expired(),
        ),
        "29-expired-compat" => mas.insert(
            "mct_cQQDrsPx9sD2aUOrmJf45EcFEVIXvj_gAR4q2",
            Session::compat("alice", "EXPIRED").expired(),
        ),
        "80-revoke-request-response" => mas.insert(
            "mat_GnHxahi9yh1GHmkqwZxF94P573bhqg_03RNgb",
            Session::access("alice", "REVOKED")
                .client_id(APP)
                .refresh_token("mar_HtlkmMRxnsBATmG0JBtV91P8zSCjrU_dM4x33"),
        ),
        "88-compat-logout" => mas.insert(
            "mct_3Br6pUQe7Ex1fXyvdmjO6RWaV4MbCb_MtLD74",
            Session::compat("erin", "LOGOUT"),
        ),
        "94-compat-logout-lowercase-bearer" => mas.insert(
            "mct_iXOVe5c1zZOFiNrv6B71kSgKMOYava_bUafl3",
            Session::compat("erin", "LOWERCASE"),
        ),
        "97-after-personal-token-revoke" => mas.revoke("mpt_8cZqjBanu2ExtGKQaxFUQ28HXNEQXM_yUyt23"),
        "98-old-access-token-after-refresh-before-new-used" => {
            let old = "mat_QUyf66qmdaLHQ8lZYX8c0QLXGeC9wo_QGmU11";
            mas.insert(old, Session::access("alice", "ROTATE"));
            mas.revoke(old);
        }
        "102-user-locked-compat" => {
            mas.insert(
                "mpt_8vMDx6ICEkXPzU5IxijvXvl8VqkTJo_LUu713",
                Session::personal("lock1", "LOCKPAT"),
            );
            mas.lock_user("lock1");
        }
        "106-user-unlocked-again-compat" => mas.unlock_user("lock1"),
        "108-user-deactivated-compat" => {
            mas.insert(
                "mct_bZBCWQUTgMfJwLyC0qqcHxICSsXtE8_Uceyz2",
                Session::compat("gone", "GONE1"),
            );
            mas.insert(
                "mat_yu2YCoEAybhpTNYkKM6wESemcabk5S_nHl3t2",
                Session::access("gone", "GONE2"),
            );
            mas.deactivate_user("gone");
        }
        "after-compat-refresh-old-access-token" => {
            let old = "mct_5JB3X4AOX9G3KK0GdvCjeKEkUO4XDD_5uM1i1";
            mas.insert(old, Session::compat("bob", "BOBR2"));
            mas.revoke(old);
        }
        "dbdown-introspect-valid-1" => mas.set_database(Database::DownAndExiting),
        "dbdown-noworker-badcrc" => mas.set_database(Database::Down),
        "health" => mas.set_database(Database::Up),
        _ => {}
    }
}

/// The sessions that the active answers tell of, by access token.
struct Sessions(HashMap<String, Vec<Recorded>>);

struct Recorded {
    session: Session,
    exp: Option<u64>,
    refresh: Option<String>,
    /// What identifies the session: user, client, scope, device, time of issue.
    identity: Vec<Value>,
}

impl Sessions {
    fn derive(records: &[Record]) -> Self {
        let mut sessions: HashMap<String, Vec<Recorded>> = HashMap::new();
        let mut refresh_tokens = HashMap::new();
        for record in records {
            let Some((token, body)) = record.token().zip(record.active_body()) else {
                continue;
            };
            let device = if body["device_id"].is_null() {
                "scope"
            } else {
                "device_id"
            };
            let identity = ["username", "client_id", "iat", device]
                .map(|name| body[name].clone())
                .to_vec();
            if body["token_type"] == "refresh_token" {
                refresh_tokens.insert(token, (identity, body["jti"].as_str().map(str::to_owned)));
                continue;
            }
            let exp = body["exp"].as_u64();
            let versions = sessions.entry(token).or_default();
            // The recorder moved one token's expiry between two records.
            if versions.iter().all(|version| version.exp != exp) {
                versions.push(Recorded {
                    session: session(&body),
                    exp,
                    refresh: None,
                    identity,
                });
            }
        }
        for (token, (identity, jti)) in refresh_tokens {
            let of = sessions
                .values_mut()
                .flatten()
                .find(|recorded| recorded.identity == identity)
                .unwrap_or_else(|| panic!("no recorded session has the refresh token {token}"));
            of.session = match jti {
                Some(jti) => of.session.clone().refresh_token_with_jti(&token, &jti),
                None => of.session.clone().refresh_token(&token),
            };
            of.refresh = Some(token);
        }
        Self(sessions)
    }

    /// The sessions of a record's tokens that are not held yet, or with another expiry than this record shows.
    fn first_needed_by(
        &self,
        record: &Record,
        held: &HashMap<String, Option<u64>>,
    ) -> Vec<(String, &Recorded)> {
        let shown = record
            .active_body()
            .filter(|body| body["token_type"] == "access_token")
            .map(|body| body["exp"].as_u64());
        self.0
            .iter()
            .flat_map(|(token, versions)| versions.iter().map(move |version| (token, version)))
            .filter(|(token, version)| {
                let named = record.names(token)
                    || version
                        .refresh
                        .as_ref()
                        .is_some_and(|token| record.names(token));
                let wanted = shown.is_none_or(|exp| exp == version.exp);
                let is_held = match held.get(*token) {
                    None => false,
                    Some(exp) => *exp == version.exp || shown.is_none(),
                };
                named && wanted && !is_held
            })
            .map(|(token, version)| (token.clone(), version))
            .collect()
    }
}

/// The session of a user, client and device as the body of an active answer tells it.
fn session(body: &Value) -> Session {
    let text = |name: &str| body[name].as_str();
    let scope = text("scope").expect("every active answer has a scope");
    let devices: BTreeSet<&str> = scope
        .split(' ')
        .filter_map(|scope| scope.strip_prefix("urn:matrix:client:device:"))
        .collect();
    let device = text("device_id").or_else(|| devices.first().copied());
    let user = text("username");
    let mut session = match (user, text("client_id")) {
        (None, client) => Session::client_credentials(client.expect("a client, since no user")),
        (Some(user), Some("legacy")) => Session::compat(user, device.unwrap_or_default()),
        (Some(user), _) if body["jti"].is_null() => {
            Session::personal(user, device.unwrap_or_default())
        }
        (Some(user), _) => Session::access(user, device.unwrap_or_default()),
    };
    if device.is_none() {
        session = session.no_device();
    }
    if !scope.contains("urn:matrix:client:api:*") || devices.len() > 1 {
        session = session.scope(scope);
    } else {
        // The stand-in must make the rest of the scope itself.
        for extra in scope
            .split(' ')
            .filter(|scope| !scope.starts_with("urn:matrix:"))
        {
            session = session.grant(extra);
        }
    }
    session = match body["exp"].as_u64() {
        Some(exp) => session.expires_at(Duration::from_secs(exp)),
        None => session.permanent(),
    };
    if let Some(client) = text("client_id") {
        session = session.client_id(client);
    }
    if let Some(sub) = text("sub") {
        session = session.subject(sub);
    }
    if let Some(jti) = text("jti") {
        session = session.jti(jti);
    }
    session.issued_at(Duration::from_secs(
        body["iat"].as_u64().expect("every active answer has iat"),
    ))
}
