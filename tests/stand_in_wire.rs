//! The stand-in MAS answers as a real MAS 1.22 was recorded to answer (`tests/wire/mas.jsonl`).
//!
//! Each recorded request goes over a raw socket, byte for byte, in the recorded order; the status line, the headers
//! with their order, and the body must be the recorded ones. Sessions are derived from the recorded active answers;
//! what the recording only shows the end of (a session revoked, a user locked) stands in [`before`].
//!
//! Not compared, each with its reason:
//! - `date`: it is the real time. Only its presence and its place (last) are checked.
//! - `content-length` of the discovery document: the recorder renamed the host in the body afterwards.
//! - the last newline of a body: the recorder cut it. Where the recorded length counts it, it must be there.
//! - the page of a 404: its markup is MAS's own. Ours says the same in other words, so only status, content type and
//!   the request that it names are compared.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file"
)]

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use stand_in::{
    clock::Clock,
    mas::{Client, Database, Mas, Options, Session},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const RECORDS: &str = include_str!("wire/mas.jsonl");

/// The stand-in does not issue tokens, so it has neither login nor refresh: a test inserts the sessions that it wants.
const OUT_OF_SCOPE: [(&str, &str); 9] = [
    ("105-login-locked-user", "login"),
    ("113-compat-login-get", "login"),
    ("114-token-endpoint-bad-refresh", "token endpoint"),
    ("compat-login-with-refresh", "login"),
    ("compat-login-wrong-password", "login"),
    ("compat-refresh-replayed", "compat refresh"),
    ("compat-refresh", "compat refresh"),
    ("oauth2-refresh", "token endpoint"),
    ("ratelimited-compat-login", "login, and its rate limit"),
];

#[tokio::test]
async fn every_recorded_exchange_is_answered_as_recorded() {
    let records = records();
    let clock = Clock::manual(Duration::ZERO);
    let mas = Mas::start(Options {
        secret: "the-shared-secret".to_owned(),
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

    let sessions = Sessions::derive(&records);
    let mut held = HashMap::new();
    let mut differences = Vec::new();
    let mut introspections = 0;
    for record in records.iter().filter(|record| !record.is_out_of_scope()) {
        if let Some(now) = record.now() {
            clock.set(now);
        }
        before(&record.name, &mas);
        for (token, recorded) in sessions.first_needed_by(record, &held) {
            mas.insert(&token, recorded.session.clone());
            held.insert(token, recorded.exp);
        }
        introspections += u64::from(record.request.starts_with("POST /oauth2/introspect "));
        let answer = exchange(mas.addr(), &record.request_bytes()).await;
        if let Err(difference) = record.compare(&answer) {
            differences.push(format!("{}: {difference}", record.name));
        }
    }
    assert!(
        differences.is_empty(),
        "{} differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
    assert_eq!(
        mas.total_calls(),
        introspections,
        "every introspection is counted"
    );
}

#[test]
fn what_is_out_of_scope_is_recorded_and_of_an_endpoint_that_is_not_served() {
    let records = records();
    let recorded: BTreeSet<&str> = records.iter().map(|record| record.name.as_str()).collect();
    assert_eq!(recorded.len(), records.len(), "names are unique");
    for (name, reason) in OUT_OF_SCOPE {
        assert!(recorded.contains(name), "{name} ({reason}) is not recorded");
    }
    for record in records.iter().filter(|record| record.is_out_of_scope()) {
        let target = record.request.split(' ').nth(1).expect("a request line");
        assert!(
            [
                "/_matrix/client/v3/login",
                "/_matrix/client/v3/refresh",
                "/oauth2/token"
            ]
            .contains(&target),
            "{}: {target} is served, so it must be replayed",
            record.name
        );
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

/// A recorded exchange.
#[derive(Deserialize)]
struct Record {
    name: String,
    request: String,
    request_headers: Vec<String>,
    #[serde(default)]
    request_body: String,
    status: String,
    response_headers: Vec<String>,
    response_body: String,
}

fn records() -> Vec<Record> {
    let records: Vec<Record> = RECORDS
        .lines()
        .map(|line| serde_json::from_str(line).expect("one record per line"))
        .collect();
    assert!(!records.is_empty());
    records
}

impl Record {
    fn is_out_of_scope(&self) -> bool {
        OUT_OF_SCOPE.iter().any(|(name, _)| *name == self.name)
    }

    /// The token in the form.
    fn token(&self) -> Option<String> {
        let (_, token) = self
            .request_body
            .split('&')
            .find_map(|pair| pair.split_once('=').filter(|(name, _)| *name == "token"))?;
        Some(token.to_owned())
    }

    /// Whether the token stands anywhere in the request.
    fn names(&self, token: &str) -> bool {
        self.request_body.contains(token)
            || self
                .request_headers
                .iter()
                .any(|header| header.contains(token))
    }

    fn active_body(&self) -> Option<Value> {
        let body: Value = serde_json::from_str(&self.response_body).ok()?;
        (body["active"] == true).then_some(body)
    }

    /// When the answer was made, where it tells.
    fn now(&self) -> Option<Duration> {
        let body = self.active_body()?;
        Some(Duration::from_secs(
            body["exp"].as_u64()? - body["expires_in"].as_u64()?,
        ))
    }

    fn request_bytes(&self) -> Vec<u8> {
        let mut bytes = format!(
            "{}\r\n{}\r\n\r\n",
            self.request,
            self.request_headers.join("\r\n")
        )
        .into_bytes();
        bytes.extend_from_slice(self.whole_body().as_bytes());
        bytes
    }

    /// The recorder cut long bodies, which repeat one letter, to `...(N bytes)`.
    fn whole_body(&self) -> String {
        let cut = self
            .request_body
            .rsplit_once("...(")
            .and_then(|(start, rest)| {
                let length: usize = rest.strip_suffix(" bytes)")?.parse().ok()?;
                Some((start, length))
            });
        let Some((start, length)) = cut else {
            return self.request_body.clone();
        };
        let last = start.chars().last().expect("a cut body has a beginning");
        let mut body = start.to_owned();
        // A form whose first value was cut ends as all the others do.
        let end = if length == 100_039 {
            "&token_type_hint=access_token"
        } else {
            ""
        };
        body.extend(std::iter::repeat_n(last, length - start.len() - end.len()));
        body + end
    }

    fn compare(&self, answer: &Answer) -> Result<(), String> {
        let expect = |what: &str, actual: &dyn std::fmt::Debug, recorded: &dyn std::fmt::Debug| {
            let (actual, recorded) = (format!("{actual:?}"), format!("{recorded:?}"));
            if actual == recorded {
                Ok(())
            } else {
                Err(format!(
                    "{what}\n  recorded {recorded}\n  answered {actual}"
                ))
            }
        };
        let is_page = self
            .response_headers
            .iter()
            .any(|header| header.starts_with("content-type: text/html"));
        let is_discovery = self.request.contains("/.well-known/openid-configuration");
        expect("status line", &answer.status, &self.status)?;

        let (date, headers) = answer.headers.split_last().ok_or("no headers")?;
        let (recorded_date, recorded_headers) = self
            .response_headers
            .split_last()
            .ok_or("no recorded headers")?;
        expect(
            "place of the date",
            &date.starts_with("date: "),
            &recorded_date.starts_with("date: "),
        )?;
        let length = format!("content-length: {}", answer.body.len());
        let recorded_headers: Vec<String> = recorded_headers
            .iter()
            .map(|header| match header.starts_with("content-length: ") {
                true if is_page || is_discovery => length.clone(),
                _ => header.clone(),
            })
            .collect();
        expect("headers", &headers, &recorded_headers)?;
        expect("content-length", &headers.contains(&length), &true)?;
        if is_page {
            let named = self.request.replace('/', "&#x2f;");
            return expect(
                "the request in the page",
                &answer.body.contains(&named),
                &self.response_body.contains(&named),
            );
        }
        let cut = if headers.contains(&format!("content-length: {}", self.response_body.len() + 1))
        {
            "\n"
        } else {
            ""
        };
        expect(
            "body",
            &answer.body,
            &format!("{}{cut}", self.response_body),
        )
    }
}

/// A response as it came over the wire.
struct Answer {
    status: String,
    headers: Vec<String>,
    body: String,
}

/// Sends the bytes and reads one response of the length that it announces.
async fn exchange(addr: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(addr)
        .await
        .expect("the stand-in listens");
    stream.write_all(request).await.expect("the stand-in reads");
    let mut received = Vec::new();
    let head_end = loop {
        if let Some(at) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        let read = stream
            .read_buf(&mut received)
            .await
            .expect("the stand-in answers");
        assert_ne!(read, 0, "closed after {} bytes", received.len());
    };
    let head = String::from_utf8(received[..head_end].to_vec()).expect("text");
    let mut lines = head.split("\r\n").map(str::to_owned);
    let status = lines.next().unwrap_or_default();
    let headers: Vec<String> = lines.collect();
    let length: usize = headers
        .iter()
        .find_map(|header| header.strip_prefix("content-length: "))
        .expect("MAS always sends a length")
        .parse()
        .expect("a number");
    while received.len() < head_end + 4 + length {
        let read = stream
            .read_buf(&mut received)
            .await
            .expect("the stand-in answers");
        assert_ne!(read, 0, "closed after {} bytes", received.len());
    }
    let body = String::from_utf8(received[head_end + 4..].to_vec()).expect("text");
    assert_eq!(body.len(), length, "no more than announced");
    if headers.iter().any(|header| header == "connection: close") {
        let after = stream
            .read_buf(&mut received)
            .await
            .expect("an orderly close");
        assert_eq!(after, 0, "announced to close");
    }
    Answer {
        status,
        headers,
        body,
    }
}
