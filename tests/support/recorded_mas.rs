//! What a real MAS 1.22 answered: `tests/wire/mas.jsonl`, one recorded exchange a line.
//!
//! [`Record::compare`] does not compare, each with its reason:
//! - `date`: it is the real time. Only its presence and its place (last) are checked.
//! - `content-length` of the discovery document: the recorder renamed the host in the body afterwards.
//! - the last newline of a body: the recorder cut it. Where the recorded length counts it, it must be there.
//! - the page of a 404: its markup is MAS's own. Ours says the same in other words, so only status, content type and
//!   the request that it names are compared.

use std::{net::SocketAddr, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The shared secret of the recorded MAS.
pub const SECRET: &str = "the-shared-secret";

/// The stand-in does not issue tokens, so it has neither login nor refresh: a test inserts the sessions that it wants.
pub const OUT_OF_SCOPE: [(&str, &str); 9] = [
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

/// All recorded exchanges, in order.
pub fn records() -> Vec<Record> {
    let records: Vec<Record> = include_str!("../wire/mas.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("one record per line"))
        .collect();
    assert!(!records.is_empty());
    records
}

/// A recorded exchange.
#[derive(Clone, Deserialize)]
pub struct Record {
    /// Unique.
    pub name: String,
    /// The request line.
    pub request: String,
    /// Lines, as all headers here.
    pub request_headers: Vec<String>,
    /// Cut by the recorder if it is long: see [`Self::request_bytes`].
    #[serde(default)]
    pub request_body: String,
    status: String,
    response_headers: Vec<String>,
    response_body: String,
}

impl Record {
    /// Whether the stand-in does not serve it.
    pub fn is_out_of_scope(&self) -> bool {
        OUT_OF_SCOPE.iter().any(|(name, _)| *name == self.name)
    }

    /// The token in the form, as it stands there.
    pub fn token(&self) -> Option<String> {
        let (_, token) = self
            .request_body
            .split('&')
            .find_map(|pair| pair.split_once('=').filter(|(name, _)| *name == "token"))?;
        Some(token.to_owned())
    }

    /// Whether the token stands anywhere in the request.
    pub fn names(&self, token: &str) -> bool {
        self.request_body.contains(token)
            || self
                .request_headers
                .iter()
                .any(|header| header.contains(token))
    }

    /// The answer, if it is that a token is active.
    pub fn active_body(&self) -> Option<Value> {
        let body: Value = serde_json::from_str(&self.response_body).ok()?;
        (body["active"] == true).then_some(body)
    }

    /// When the answer was made, where it tells.
    pub fn now(&self) -> Option<Duration> {
        let body = self.active_body()?;
        Some(Duration::from_secs(
            body["exp"].as_u64()? - body["expires_in"].as_u64()?,
        ))
    }

    /// The request as it was sent.
    pub fn request_bytes(&self) -> Vec<u8> {
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

    /// Whether `answer` is the recorded one, but for what the module's documentation says and the headers called
    /// `except`.
    ///
    /// # Errors
    ///
    /// If it is not: what differs.
    pub fn compare(&self, answer: &Answer, except: &[&str]) -> Result<(), String> {
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

        let (headers, recorded) = (
            without(&answer.headers, except),
            without(&self.response_headers, except),
        );
        let (date, headers) = headers.split_last().ok_or("no headers")?;
        let (recorded_date, recorded_headers) =
            recorded.split_last().ok_or("no recorded headers")?;
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

/// Header lines without the headers called `names`.
pub fn without(headers: &[String], names: &[&str]) -> Vec<String> {
    let is_named = |line: &&String| {
        line.split_once(": ")
            .is_some_and(|(name, _)| names.contains(&name))
    };
    headers
        .iter()
        .filter(|line| !is_named(line))
        .cloned()
        .collect()
}

/// A response as it came over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status line.
    pub status: String,
    /// Lines, in order.
    pub headers: Vec<String>,
    /// The body, which is text.
    pub body: String,
}

/// Sends the bytes and reads one response of the length that it announces.
pub async fn exchange(addr: SocketAddr, request: &[u8]) -> Answer {
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
