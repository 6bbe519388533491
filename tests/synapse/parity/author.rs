//! Requests made up at random from what Synapse serves and from the pieces that parsers trip over.
//!
//! A request is made from the seed and its number alone, so that one of them can be sent again.

use std::sync::Arc;

use fastrand::Rng;
use stand_in::mas::token;

use super::{
    request::{Request, Version},
    tokens::{Tokens, USERS},
};
use crate::support::synapse::AS_TOKEN;

/// Endpoints of Synapse, of MAS and of the specification.
const ROUTES: &str = include_str!("../../vectors/routes.tsv");

/// Endpoints that wait for something to happen, or keep what cannot be taken back and then answer otherwise.
const LEFT_OUT: [&str; 5] = [
    "/upload/{server_name}/{media_id}",
    "/media/create",
    "/media/v1/create",
    "fi.mau.msc2246/create",
    "/events",
];

/// A request, and how it is to be sent.
pub struct Case {
    pub request: Request,
    /// Whether it goes to the listener that asks MAS about every token.
    pub is_strict: bool,
    /// Tokens that MAS has to know, with their users.
    pub sessions: Vec<(String, &'static str)>,
}

/// What all requests are made from.
#[derive(Clone)]
pub struct Material {
    routes: Arc<Vec<(String, String)>>,
    tokens: Arc<Tokens>,
}

impl Material {
    /// With these tokens to choose from.
    pub fn new(tokens: Tokens) -> Self {
        let routes = ROUTES
            .lines()
            .skip(1)
            .map(|line| line.split('\t').collect::<Vec<_>>())
            .filter(|cells| cells[1].starts_with('/'))
            .filter(|cells| !LEFT_OUT.iter().any(|path| cells[1].ends_with(path)))
            .flat_map(|cells| {
                let path = cells[1].to_owned();
                cells[0]
                    .split(',')
                    .map(move |method| (method.to_owned(), path.clone()))
                    .filter(|(method, _)| method != "*")
                    .collect::<Vec<_>>()
            })
            .collect();
        Self {
            routes: Arc::new(routes),
            tokens: Arc::new(tokens),
        }
    }

    /// Makes the request `number` of `seed`.
    pub fn case(&self, seed: u64, number: u64) -> Case {
        // Neighbouring numbers must not make similar requests.
        let mixed = Rng::with_seed(number).u64(..) ^ seed;
        let mut author = Author {
            material: self,
            rng: Rng::with_seed(mixed),
            sessions: Vec::new(),
        };
        let request = author.request();
        Case {
            request,
            is_strict: author.rng.bool(),
            sessions: author.sessions,
        }
    }
}

#[rustfmt::skip]
const COMMON: [(&str, &str); 20] = [
    ("GET", "/_matrix/client/v3/account/whoami"),
    ("GET", "/_matrix/client/v3/account/whoami"),
    ("GET", "/_matrix/client/v3/account/whoami"),
    ("GET", "/_matrix/client/versions"),
    ("GET", "/_matrix/client/v3/sync"),
    ("GET", "/_matrix/client/v3/joined_rooms"),
    ("GET", "/_matrix/client/v3/profile/{user_id}"),
    ("PUT", "/_matrix/client/v3/profile/{user_id}/displayname"),
    ("POST", "/_matrix/client/v3/rooms/{room_id}/forget"),
    ("POST", "/_matrix/client/v3/keys/query"),
    ("POST", "/_matrix/client/v3/search"),
    ("POST", "/_matrix/media/v3/upload"),
    ("GET", "/_synapse/client/unsubscribe"),
    ("POST", "/_synapse/client/unsubscribe"),
    ("GET", "/_synapse/client/pick_idp"),
    ("GET", "/_synapse/mas/query_user"),
    ("POST", "/_synapse/mas/sync_devices"),
    ("GET", "/_synapse/admin/v1/whois/{user_id}"),
    ("GET", "/.well-known/matrix/client"),
    ("GET", "/_matrix/client/v3/nowhere/at/all"),
];
#[rustfmt::skip]
const METHODS: [&str; 12] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "TRACE", "QUERY", "get", "Post",
];
#[rustfmt::skip]
const NAMES: [&str; 22] = [
    "access_token", "access_token", "access_token", "access_token", "access_token", "access_token",
    "access%5Ftoken", "access%5ftoken", "%61ccess_token", "access_toke%6e", "access_toke%6",
    "access%255Ftoken", "Access_token", "access+token", "+access_token", "access_token%20", "access_token%00",
    "access_token[]", "xaccess_token", "a", "", "user_id",
];
const SEPARATORS: [&str; 7] = ["&", "&", ";", ";", "&&", "?", "%26"];
const EQUALS: [&str; 9] = ["=", "=", "=", "=", "=", "=", "==", "%3D", ""];
const BEFORE_TOKEN: [&str; 12] = ["", "", "", "", "", "", "", "", "", "%20", "+", "%"];
#[rustfmt::skip]
const AFTER_TOKEN: [&str; 32] = [
    "", "", "", "", "", "", "", "", "", "", "", "",
    "%", "%4", "%zz", "+", "%2B", "%20", "%25", "%ff", "%00", "%0a", "%09", "%7f", "%C3%A9",
    "/", "?", "=", "'", "~", "%2F", "%3B",
];
#[rustfmt::skip]
const SCHEMES: [&str; 20] = [
    " Bearer ", " Bearer ", " Bearer ", " Bearer ", " Bearer ", " Bearer ", " Bearer ", " Bearer ", " Bearer ",
    "Bearer ", "\t Bearer ", " Bearer", " bearer ", " BEARER ", " Bearer  ", " Bearer\t", " Basic ", " X-Matrix ",
    " Token ", " ",
];
#[rustfmt::skip]
const AFTER_HEADER_TOKEN: [&str; 18] = [
    "", "", "", "", "", "", "", "", "", " ", "\t", " x", ",x", "\tx", "=", "%20", " , Bearer x", "\u{e9}",
];
#[rustfmt::skip]
const CONTENT_TYPES: [&str; 17] = [
    "application/json", "application/json", "application/json", "application/json",
    "application/x-www-form-urlencoded", "application/x-www-form-urlencoded",
    "application/x-www-form-urlencoded", "Application/X-WWW-Form-Urlencoded",
    "application/x-www-form-urlencoded ; charset=utf-8", "application/x-www-form-urlencoded;",
    "application/x-www-form-urlencoded, text/plain", "application/x-www-form-urlencoded x",
    "application /x-www-form-urlencoded", "\"application/x-www-form-urlencoded\"",
    "multipart/form-data; boundary=x", "", "application/json;a==?",
];
/// What a token may end in once it is decoded. MAS knows a token of [`Author::new_token`] with each of them, and each
/// is another user's: one that is cut or decoded wrongly shows.
#[rustfmt::skip]
const ENDINGS: [&str; 13] = [
    "", "%", "%4", "%zz", " ", "+", "/", "?", "=", "'", "~", ",x", "%20",
];
/// Fields that must not count.
#[rustfmt::skip]
const OTHER_FIELDS: [(&str, &str); 18] = [
    ("X-Matrix-User-Id", " @mallory:example.org"),
    ("x-matrix-user-id", "@mallory:example.org"),
    ("X-Matrix-Device-Id", " MALLORY"),
    ("X-MATRIX-USER-ID", "\t@mallory:example.org "),
    ("X-Matrix-User-Id", ""),
    ("X_Matrix_User_Id", " @mallory:example.org"),
    ("x-matrix_device-id", " MALLORY"),
    ("X-HTTP-Method-Override", " OPTIONS"),
    ("X-Original-URL", " /health"),
    ("X-Rewrite-URL", " /health"),
    ("X-Forwarded-Prefix", " /health"),
    ("X-Forwarded-Authorization", " Bearer x"),
    ("Proxy-Authorization", " Bearer x"),
    ("Cookie", " access_token=x"),
    ("X-Access-Token", " x"),
    ("Origin", " https://app.example.org"),
    ("Accept", " */*"),
    ("Accept-Encoding", " identity"),
];

struct Author<'a> {
    material: &'a Material,
    rng: Rng,
    sessions: Vec<(String, &'static str)>,
}

impl Author<'_> {
    fn request(&mut self) -> Request {
        let version = self.one_of(&[Version::Http1, Version::Http2]);
        let (mut method, path) = self.route();
        if self.one_in(8) {
            method = self.one_of(&METHODS).to_owned();
        }
        let mut target = self.path(&path);
        let mut fields = Vec::new();
        let mut form = None;
        let content_type = self.one_of(&CONTENT_TYPES);
        let token = self.token();
        let mut query = if path.ends_with("/sync") {
            vec!["timeout=0".to_owned()]
        } else {
            Vec::new()
        };
        match self.rng.u8(..20) {
            0..9 => self.add_authorization(&token, &mut fields),
            9..13 => query.push(self.parameter(&token)),
            13..15 => form = Some(self.parameter(&token)),
            15..18 => {
                // In more places than one.
                if self.rng.bool() {
                    self.add_authorization(&token, &mut fields);
                }
                if self.rng.bool() {
                    query.push(self.parameter(&token));
                    let other = self.token();
                    query.push(self.parameter(&other));
                }
                if self.rng.bool() {
                    let other = self.token();
                    form = Some(self.parameter(&other));
                }
            }
            _ => {}
        }
        if token == AS_TOKEN.as_bytes() || self.one_in(12) {
            let masquerade = self.masquerade();
            match &mut form {
                Some(form) if self.rng.bool() => form.push_str(&format!("&{masquerade}")),
                _ => query.push(masquerade),
            }
        }
        while self.one_in(4) {
            let other = if self.one_in(3) {
                Vec::new()
            } else {
                self.token()
            };
            let at = self.rng.usize(..=query.len());
            query.insert(at, self.parameter(&other));
        }
        for (number, parameter) in query.iter().enumerate() {
            let separator = if number == 0 {
                "?"
            } else {
                self.one_of(&SEPARATORS)
            };
            target.extend_from_slice(separator.as_bytes());
            target.extend_from_slice(parameter.as_bytes());
        }
        while self.one_in(8) {
            let (name, value) = self.one_of(&OTHER_FIELDS);
            fields.push((name.to_owned(), value.as_bytes().to_vec()));
        }
        let has_form = form.is_some();
        if has_form && self.rng.u8(..8) > 0 {
            method = "POST".to_owned();
        }
        let body = match form {
            Some(form) => form,
            None if matches!(&*method, "POST" | "PUT" | "DELETE") => {
                self.one_of(&["{", "{", "{}", "", "[]"]).to_owned()
            }
            None => String::new(),
        };
        let body = if is_for_effect(&path) && body == "{}" {
            "{".to_owned()
        } else {
            body
        };
        if !body.is_empty() || self.one_in(3) {
            let content_type = if has_form && self.rng.bool() {
                CONTENT_TYPES[4]
            } else {
                content_type
            };
            fields.push((
                "Content-Type".to_owned(),
                format!(" {content_type}").into_bytes(),
            ));
            if self.one_in(40) {
                fields.push(("Content-Type".to_owned(), b" text/plain".to_vec()));
            }
        }
        self.rng.shuffle(&mut fields);
        Request {
            version,
            is_chunked: !body.is_empty() && self.one_in(6),
            method,
            target,
            fields,
            body: body.into_bytes(),
        }
    }

    fn route(&mut self) -> (String, String) {
        if self.one_in(2) {
            let (method, path) = self.one_of(&COMMON);
            return (method.to_owned(), path.to_owned());
        }
        let at = self.rng.usize(..self.material.routes.len());
        self.material.routes[at].clone()
    }

    /// The path with its parameters filled in, and in every third request with something odd about it.
    fn path(&mut self, template: &str) -> Vec<u8> {
        let mut path = String::new();
        for (number, part) in template.split('{').enumerate() {
            match part.split_once('}').filter(|_| number > 0) {
                Some((name, rest)) => {
                    path.push_str(self.parameter_of_path(name));
                    path.push_str(rest);
                }
                None => path.push_str(part),
            }
        }
        let mut path = path.into_bytes();
        if self.one_in(5) {
            for _ in 0..self.rng.u8(1..3) {
                self.make_odd(&mut path);
            }
        }
        path
    }

    fn parameter_of_path(&mut self, name: &str) -> &'static str {
        if self.one_in(25) {
            return "";
        }
        match name {
            "user_id" | "target_user_id" | "state_key" => self.one_of(&[
                "@alice:example.org",
                "%40alice%3Aexample.org",
                "@bob:example.org",
                "@root:example.org",
                "@no%2Fone:example.org",
            ]),
            "room_id" | "room_identifier" | "room_id_or_alias" => self.one_of(&[
                "!nope:example.org",
                "%21nope%3Aexample.org",
                "!no%2Fpe:example.org",
            ]),
            "room_alias" => "%23nope:example.org",
            "server_name" | "server" | "destination" => "example.org",
            "event_id" | "parent_id" | "thread_root_id" => "$nope",
            _ => self.one_of(&["NOPE", "m.nope", "no%20pe", "n%C3%B6pe", "no%2Fpe", "1"]),
        }
    }

    fn make_odd(&mut self, path: &mut Vec<u8>) {
        let slash = self.rng.choice(positions(path, b'/')).unwrap_or_default();
        let letter = self.rng.choice(letters(path));
        match self.rng.u8(..16) {
            // An encoded letter, once or twice.
            0..4 => {
                if let Some(at) = letter {
                    let upper = self.rng.bool();
                    let escape = if upper {
                        format!("%{:02X}", path[at])
                    } else {
                        format!("%{:02x}", path[at])
                    };
                    let escape = if self.one_in(4) {
                        escape.replace('%', "%25")
                    } else {
                        escape
                    };
                    path.splice(at..=at, escape.bytes());
                }
            }
            // An empty segment, a dot segment.
            4..8 => {
                let segment = self.one_of(&[
                    "/", "/", "/.", "/..", "/%2e", "/%2e%2E", "/x/..", "/;", "/%2F",
                ]);
                path.splice(slash..slash, segment.bytes());
            }
            // Another end.
            8..12 => {
                let end = self.one_of(&[
                    "/",
                    "//",
                    "/.",
                    ";",
                    ";x=1",
                    "%00",
                    "%0a",
                    "%20",
                    "%2F",
                    "%3F",
                    "%3faccess_token=x",
                    "%23",
                    ".",
                    "/x",
                    "%",
                    "%zz",
                ]);
                path.extend(end.bytes());
            }
            // Another case, another byte.
            12 => {
                if let Some(at) = letter {
                    path[at].make_ascii_uppercase();
                }
            }
            13 => {
                let at = self.rng.usize(1..=path.len());
                let text = self.one_of(&[
                    "\\", "%5c", "\u{e9}", "\t", "\"", "<", "|", "^", "`", "#", ":", "@", "*", "+",
                    "%", "..", "\x01", "\x7f",
                ]);
                path.splice(at..at, text.bytes());
            }
            // Another version.
            14 => {
                let text = String::from_utf8_lossy(path);
                let other = self.one_of(&[
                    "/r0/",
                    "/v1/",
                    "/v2/",
                    "/v99/",
                    "/v/",
                    "/unstable/",
                    "/api/v1/",
                    "/api/v3/",
                    "/V3/",
                    "/v3.1/",
                ]);
                *path = text.replacen("/v3/", other, 1).into_bytes();
            }
            // Another form of the whole.
            _ => {
                let before = self.one_of(&[
                    "http://example.org",
                    "https://other.example.org",
                    "/",
                    "//example.org",
                    "/x/..",
                    "/%2e",
                    "x",
                ]);
                path.splice(0..0, before.bytes());
            }
        }
    }

    fn add_authorization(&mut self, token: &[u8], fields: &mut Vec<(String, Vec<u8>)>) {
        let name = self.one_of(&[
            "Authorization",
            "Authorization",
            "authorization",
            "AUTHORIZATION",
        ]);
        let value = self.authorization(token);
        fields.push((name.to_owned(), value));
        if self.one_in(25) {
            let other = self.token();
            let value = if self.one_in(4) {
                Vec::new()
            } else {
                self.authorization(&other)
            };
            fields.push(("Authorization".to_owned(), value));
        }
    }

    fn authorization(&mut self, token: &[u8]) -> Vec<u8> {
        if self.one_in(40) {
            return self
                .one_of(&[
                    "",
                    " ",
                    " Bearer",
                    " Bearer ",
                    " Basic YTpi",
                    " Digest x=\"y\"",
                    " ,",
                ])
                .as_bytes()
                .to_vec();
        }
        let (scheme, after) = if self.one_in(4) {
            (self.one_of(&SCHEMES), self.one_of(&AFTER_HEADER_TOKEN))
        } else {
            (" Bearer ", "")
        };
        let value = [scheme.as_bytes(), token, after.as_bytes()].concat();
        // A line break would be the end of the field.
        let is_break = |byte: &u8| matches!(byte, b'\r' | b'\n');
        value.into_iter().filter(|byte| !is_break(byte)).collect()
    }

    /// Of a query or a form.
    fn parameter(&mut self, token: &[u8]) -> String {
        let is_plain = self.rng.bool();
        let name = if is_plain {
            "access_token"
        } else {
            self.one_of(&NAMES)
        };
        let equals = if is_plain { "=" } else { self.one_of(&EQUALS) };
        let (before, after) = if is_plain {
            ("", "")
        } else {
            (self.one_of(&BEFORE_TOKEN), self.one_of(&AFTER_TOKEN))
        };
        let token: String = token.iter().map(|&byte| self.encoded(byte)).collect();
        format!("{name}{equals}{before}{token}{after}")
    }

    fn encoded(&mut self, byte: u8) -> String {
        let is_needed = !(byte.is_ascii_alphanumeric() || b"-_.~!*'()/:?@$,[]".contains(&byte));
        if is_needed || self.one_in(60) {
            format!("%{byte:02X}")
        } else {
            char::from(byte).to_string()
        }
    }

    /// What an appservice adds to act as one of its users.
    fn masquerade(&mut self) -> String {
        let user = self.one_of(&[
            "@bridge_1:example.org",
            "@bridge_1:example.org",
            "%40bridge_2:example.org",
            "@bridgebot:example.org",
            "@alice:example.org",
            "@bridge_nobody:example.org",
            "@bridge_1:other.example.org",
            "bridge_1",
            "",
            "%ff",
        ]);
        let name = self.one_of(&["user_id", "user_id", "user_id", "user%5Fid", "User_id"]);
        let device = match self.rng.u8(..6) {
            0 => "&device_id=DEVB1",
            1 => "&org.matrix.msc3202.device_id=DEVB1",
            2 => "&device_id=NOPE",
            3 => "&user_id=@bridge_2:example.org",
            _ => "",
        };
        format!("{name}={user}{device}")
    }

    fn token(&mut self) -> Vec<u8> {
        match self.rng.u8(..16) {
            0..3 => self.new_token().into_bytes(),
            3 => {
                let prefix = self.one_of(&["mat", "mct", "mpt", "mar", "mcr"]);
                token(prefix, &self.rng.u64(..).to_string()).into_bytes()
            }
            4 => {
                let mut bytes = self.pooled().into_bytes();
                if !bytes.is_empty() {
                    let at = self.rng.usize(..bytes.len());
                    bytes[at] = self.one_of(b"xX0_\t\x01\x7f\xff ,;%&+=");
                }
                bytes
            }
            _ => self.pooled().into_bytes(),
        }
    }

    fn pooled(&mut self) -> String {
        let Tokens { live, dead } = &*self.material.tokens;
        let tokens = if self.one_in(3) { dead } else { live };
        tokens[self.rng.usize(..tokens.len())].clone()
    }

    /// A token that was in no other request, so that Synapse and the module have to ask MAS.
    fn new_token(&mut self) -> String {
        let first = self.rng.usize(..USERS.len());
        let new = format!("{}-{:016x}", USERS[first], self.rng.u64(..));
        for (number, ending) in ENDINGS.iter().enumerate() {
            let user = USERS[(first + number) % USERS.len()];
            self.sessions.push((format!("{new}{ending}"), user));
        }
        new
    }

    fn one_in(&mut self, number: u32) -> bool {
        self.rng.u32(..number) == 0
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.rng.usize(..all.len())]
    }
}

/// Endpoints that make or end something if they understand the request.
fn is_for_effect(path: &str) -> bool {
    [
        "/createRoom",
        "/_synapse/admin",
        "/devices/",
        "dehydrated_device",
        "room_keys",
        "/openid/",
        "/filter",
    ]
    .iter()
    .any(|part| path.contains(part))
}

fn positions(path: &[u8], wanted: u8) -> Vec<usize> {
    let all = path.iter().enumerate();
    all.filter(|(_, byte)| **byte == wanted)
        .map(|(at, _)| at)
        .collect()
}

fn letters(path: &[u8]) -> Vec<usize> {
    let all = path.iter().enumerate();
    all.filter(|(_, byte)| byte.is_ascii_alphabetic())
        .map(|(at, _)| at)
        .collect()
}
