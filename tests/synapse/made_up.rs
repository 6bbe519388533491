//! Requests made up at random from the pieces that parsers trip over: the gateway answers as
//! Synapse does, and names no other user than the one that Synapse acts as.
//!
//! Every request has tokens of its own, so Synapse has to ask MAS for the one that it takes. Next
//! to an `Authorization` there is no body: that Synapse alone sees a second token there is a row of
//! the vectors.
//!
//! The seed is printed. `MADE_UP_SEED=n` makes up the same requests again, and `MADE_UP_REQUESTS=n`
//! another number of them.

use std::env;

use fastrand::Rng;

use super::{
    answer::Answer,
    rig::{Gateway, Rig, SERVER_NAME, localpart, with_rig},
};
use crate::support::http;

const REQUESTS: u64 = 400;

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";
const VERSIONS: &str = "/_matrix/client/versions";
const FORGET: &str = "/_matrix/client/v3/rooms/!nope:example.org/forget";

#[rustfmt::skip]
const NAMES: [&str; 24] = [
    "access_token", "access_token", "access_token", "access_token", "access_token",
    "access_token", "access_token", "access_token", "access%5Ftoken",
    "access%5ftoken", "%61ccess_token", "access_toke%6e", "access_toke%6", "access%255Ftoken",
    "Access_token", "access+token", "+access_token", "access_token%20", "access_token%00",
    "access_token[]", "xaccess_token", "user_id", "a", "",
];
const SEPARATORS: [&str; 7] = ["&", "&", ";", ";", "&&", "?", "%26"];
const EQUALS: [&str; 9] = ["=", "=", "=", "=", "=", "=", "==", "%3D", ""];
const BEFORE_TOKEN: [&str; 9] = ["", "", "", "", "", "", "%20", "+", "%"];
#[rustfmt::skip]
const AFTER_TOKEN: [&str; 20] = [
    "", "", "", "", "%", "%4", "%zz", "+", "%2B", "%20", "%25", "%ff", "%00", "%0a", "%C3%A9",
    "/", "?", "=", "'", "~",
];
#[rustfmt::skip]
const SCHEMES: [&str; 11] = [
    "Bearer ", "Bearer ", "Bearer ", " Bearer ", " Bearer ", "Bearer", "bearer ",
    "Bearer  ", "Bearer\t", "Basic ", "",
];
const AFTER_HEADER_TOKEN: [&str; 9] = ["", "", " ", "\t", " x", ",x", "\tx", "=", "%20"];
const CONTENT_TYPES: [&str; 12] = [
    "application/json",
    "application/x-www-form-urlencoded",
    "Application/X-WWW-Form-Urlencoded",
    " application/x-www-form-urlencoded ; charset=utf-8",
    "application/x-www-form-urlencoded;",
    "application/x-www-form-urlencoded, text/plain",
    "application/x-www-form-urlencoded x",
    "application/x-www-form-urlencoded/x",
    "application /x-www-form-urlencoded",
    "\"application/x-www-form-urlencoded\"",
    "text/plain",
    "",
];
/// What a token may end in once it is decoded: MAS knows each token with each of them. It knows none with a control
/// byte.
#[rustfmt::skip]
const ENDINGS: [&str; 13] = [
    "", "%", "%4", "%zz", " ", "+", "/", "?", "=", "'", "~", ",x", "%20",
];

#[test]
fn no_request_is_read_otherwise_than_by_synapse() {
    let number = |name| {
        env::var(name)
            .ok()
            .map(|text| text.parse().expect("a number"))
    };
    let seed = number("MADE_UP_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("to repeat: MADE_UP_SEED={seed}");
    with_rig(async |rig| {
        let gateway = rig.gateway().await;
        let mut author = Author {
            rng: Rng::with_seed(seed),
            rig: &rig,
        };
        let mut failures = Vec::new();
        let mut annotated = 0;
        let requests = number("MADE_UP_REQUESTS").unwrap_or(REQUESTS);
        for _ in 0..requests {
            let request = author.request();
            match compare(&rig, &gateway, &request).await {
                Ok(users) => annotated += users,
                Err(failure) => failures.push(format!("{failure}\n{}", request.escape_ascii())),
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n\n"));
        println!("{annotated} of {requests} requests had a user");
        assert!(annotated > 0, "no request had a user");
    });
}

/// How many users were named; what is wrong, if something is.
async fn compare(rig: &Rig, gateway: &Gateway, request: &[u8]) -> Result<usize, String> {
    let before = rig.mas.total_calls();
    let through = Answer::from(&http::send_raw(gateway.addr(), request).await);
    let reached = gateway.recorder.take();
    let asked = rig.asked_since(before);
    let direct = Answer::from(&http::send_raw(rig.synapse.addr(), request).await);
    if through != direct {
        return Err(format!("the answer is {through:?}, not {direct:?}"));
    }
    let users: Vec<_> = reached
        .iter()
        .flat_map(|head| head.texts("x-matrix-user-id"))
        .collect();
    match (users.as_slice(), asked.by_synapse.as_slice()) {
        ([], _) => Ok(0),
        ([user], [token]) if token.starts_with(localpart(user)) => Ok(1),
        (users, tokens) => Err(format!(
            "annotated as {users:?}, and Synapse took {tokens:?}"
        )),
    }
}

struct Author<'a> {
    rng: Rng,
    rig: &'a Rig,
}

impl Author<'_> {
    fn request(&mut self) -> Vec<u8> {
        let (method, path) = self.one_of(&[
            ("GET", WHOAMI),
            ("HEAD", WHOAMI),
            ("GET", VERSIONS),
            ("POST", FORGET),
            ("POST", FORGET),
        ]);
        let mut head = format!("{method} {path}");
        for number in 0..self.rng.u8(..4) {
            head.push_str(if number == 0 {
                "?"
            } else {
                self.one_of(&SEPARATORS)
            });
            head.push_str(&self.parameter());
        }
        head.push_str(&format!(" HTTP/1.1\r\nHost: {SERVER_NAME}\r\n"));
        let mut body = String::new();
        if self.rng.u8(..3) == 0 {
            let (scheme, token) = (self.one_of(&SCHEMES), self.token());
            let after = self.one_of(&AFTER_HEADER_TOKEN);
            head.push_str(&format!("Authorization:{scheme}{token}{after}\r\n"));
        } else if method == "POST" {
            for _ in 0..self.rng.u8(..3) {
                body.push_str(&self.parameter());
                body.push_str(self.one_of(&SEPARATORS));
            }
        }
        if method == "POST" {
            let content_type = self.one_of(&CONTENT_TYPES);
            head.push_str(&format!("Content-Type:{content_type}\r\n"));
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        format!("{head}\r\n{body}").into_bytes()
    }

    /// Of a query or a form.
    fn parameter(&mut self) -> String {
        let (name, equals) = (self.one_of(&NAMES), self.one_of(&EQUALS));
        let (before, after) = (self.one_of(&BEFORE_TOKEN), self.one_of(&AFTER_TOKEN));
        let token = if self.rng.u8(..6) == 0 {
            String::new()
        } else {
            self.token()
        };
        format!("{name}{equals}{before}{token}{after}")
    }

    /// A new token, of alice, of bob, or of nobody.
    fn token(&mut self) -> String {
        let user = self.one_of(&["alice", "bob", "nobody"]);
        let token = format!("{user}-{:016x}", self.rng.u64(..));
        if user != "nobody" {
            for ending in ENDINGS {
                self.rig.give_token(&format!("{token}{ending}"), user);
            }
        }
        token
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.rng.usize(..all.len())]
    }
}
