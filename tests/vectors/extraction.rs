use std::collections::BTreeMap;

use matrix_edge_auth::{
    host::{Fields, RequestHead},
    matrix::{
        credential::{Authorization, Credential, CredentialError, Source, extract, form_post},
        endpoint::{AuthRequirement, Endpoints, Method, Served, classify},
    },
};

/// Rows where the edge does not read what Synapse read: what it reads, and why.
const DIFFERENCES: [(&str, &str, &str); 10] = [
    ("B01", "form body", BODY),
    ("B02", "form body", BODY),
    (
        "B03",
        "header: alice81",
        "the second token is in the body, and Synapse refuses it there",
    ),
    ("B05", "form body", BODY),
    ("B06", "form body", BODY),
    ("B07", "query: alice86", JOINED),
    ("B10", "form body", BODY),
    ("B11", "form body", BODY),
    ("B12", "form body", BODY),
    ("B17", "form body", BODY),
];

/// The same where Envoy joins the `Authorization` fields.
const DIFFERENCES_IF_JOINED: [(&str, &str, &str); 4] = [
    ("H15", "invalid header", JOINED),
    ("H16", "invalid header", JOINED),
    ("H17", "invalid header", JOINED),
    ("H18", "invalid header", JOINED),
];
const BODY: &str = "the body may hold a token and is not read; the request passes unannotated";
const JOINED: &str = "Envoy joins the fields with a comma, for Synapse too";

/// Rows that are answered before anyone asks for a token.
const ANSWERED_BEFORE: [(&str, &str); 23] = [
    ("H35", "400: NUL in a header"),
    ("M12", "404: the # belongs to the path"),
    ("Q30", "404: unknown path"),
    ("Q35", "404: absolute form"),
    ("Q36", "405: unknown method"),
    ("B13", "415: multipart body"),
    ("P01", "404: unknown path"),
    ("P02", "404: unknown path"),
    ("P03", "404: unknown path"),
    ("P04", "404: unknown path"),
    ("P05", "404: unknown path"),
    ("P06", "404: unknown path"),
    ("P09", "404: unknown path"),
    ("P10", "404: unknown path"),
    ("P11", "404: unknown path"),
    ("P12", "404: unknown path"),
    ("P13", "404: unknown path"),
    ("P15", "404: unknown path"),
    ("P16", "400: byte outside ASCII in the path"),
    ("P17", "404: unknown path"),
    ("O01", "204: pre-flight"),
    ("O02", "204: pre-flight"),
    ("O03", "204: pre-flight"),
];

/// How the edge sees a header that was sent several times.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Apart,
    Joined,
}

#[test]
fn every_credential_is_the_one_that_synapse_takes() {
    assert_is_synapses(Seen::Apart, &DIFFERENCES);
    assert_is_synapses(
        Seen::Joined,
        &[&DIFFERENCES[..], &DIFFERENCES_IF_JOINED].concat(),
    );
}

fn assert_is_synapses(seen: Seen, differences: &[(&str, &str, &str)]) {
    let mut differences: BTreeMap<_, _> = differences
        .iter()
        .map(|(id, found, _)| (*id, *found))
        .collect();
    let mut answered_before = Vec::new();
    let mut wrong = Vec::new();
    for row in rows() {
        let Some(expected) = row.expected() else {
            answered_before.push(row.id);
            continue;
        };
        let found = row.found(seen);
        match differences.remove(row.id) {
            Some(difference) if found == difference && found != expected => {}
            None if found == expected => {}
            _ => wrong.push(format!("{}: {expected} expected, {found} found", row.id)),
        }
    }
    assert!(wrong.is_empty(), "{seen:?}: {}", wrong.join("\n"));
    assert!(differences.is_empty(), "no such rows: {differences:?}");
    assert_eq!(answered_before, ANSWERED_BEFORE.map(|(id, _)| id));
}

/// Synapse's own answer to a request without a token must not be hidden behind a 401 of the edge.
#[test]
fn no_anonymous_answer_is_hidden() {
    for row in rows() {
        let anonymous = row.authorization.is_none() && row.found(Seen::Joined) == "missing";
        if anonymous && row.error != "Missing access token" {
            let requirement = row.requirement();
            let needs_token = matches!(
                requirement,
                AuthRequirement::Required | AuthRequirement::Admin
            );
            let passes = !needs_token || row.ignores_token();
            assert!(passes, "{}: {requirement:?}", row.id);
        }
    }
}

#[test]
fn the_door_for_mas_is_blocked_however_it_is_written() {
    for row in rows() {
        let blocked = row.requirement() == AuthRequirement::Blocked;
        let leads_there = ["P07", "P08", "P10", "P11", "P15"].contains(&row.id);
        assert_eq!(blocked, leads_there, "{}", row.id);
    }
}

#[test]
fn a_preflight_needs_nothing() {
    for row in rows().filter(|row| row.method == "OPTIONS") {
        assert!(row.ignores_token(), "{}", row.id);
    }
}

struct Row {
    id: &'static str,
    method: &'static str,
    target: Vec<u8>,
    authorization: Option<Vec<Vec<u8>>>,
    content_type: Option<Vec<u8>>,
    status: &'static str,
    error: &'static str,
    introspected: &'static str,
}

fn rows() -> impl Iterator<Item = Row> {
    super::rows(include_str!("extraction.tsv")).map(|row| {
        let fields = fields(row[5]);
        let named = |name: &'static str| {
            let values: Vec<Vec<u8>> = fields
                .iter()
                .filter(|(field_name, _)| field_name.eq_ignore_ascii_case(name))
                .map(|(_, value)| unescape(value))
                .collect();
            (!values.is_empty()).then_some(values)
        };
        Row {
            id: row[0],
            method: row[3],
            target: unescape(row[4]),
            authorization: named("authorization"),
            content_type: named("content-type").map(|values| join(&values)),
            status: row[7],
            error: row[9],
            introspected: row[10],
        }
    })
}

/// `Name: value | Name: value`, or `RAW` and a whole request.
fn fields(column: &'static str) -> Vec<(&'static str, String)> {
    let (fields, separator) = match column.strip_prefix("RAW ") {
        // Line folding is a space (RFC 9112, section 5.2).
        Some(raw) => (raw.split_once("\\r\\n").unwrap().1, "\\r\\n"),
        None => (column, " | "),
    };
    let mut found: Vec<(&str, String)> = Vec::new();
    for field in fields.split(separator) {
        match field.split_once(':') {
            Some((name, value)) if !field.starts_with(' ') => found.push((name, value.to_owned())),
            _ if field.starts_with(' ') => found.last_mut().unwrap().1.push_str(field),
            _ => assert_eq!(field, ""),
        }
    }
    found
}

/// How Envoy holds a header that was sent several times: each without the white space around it.
fn join(values: &[Vec<u8>]) -> Vec<u8> {
    match values {
        // Left as it is, so that the core has to deal with the white space.
        [value] => value.clone(),
        values => values
            .iter()
            .map(|value| value.trim_ascii())
            .collect::<Vec<_>>()
            .join(&b','),
    }
}

impl Row {
    fn found(&self, seen: Seen) -> String {
        let form_post = || form_post(self.method.as_bytes(), self.content_type.as_deref());
        let values = self.authorization.as_deref().unwrap_or_default();
        let joined = join(values);
        let authorization = match (values, seen) {
            ([], _) => Authorization::None,
            ([first, _, ..], Seen::Apart) => Authorization::Several { first },
            _ => Authorization::One(&joined),
        };
        let head = RequestHead::new(Fields::of([(":path", self.target.as_slice())].into_iter()));
        match extract(authorization, head.query(), form_post) {
            Ok(Credential::Missing) => "missing".into(),
            Ok(Credential::Empty) => "empty".into(),
            Ok(Credential::FormBody) => "form body".into(),
            Ok(Credential::Token {
                token,
                source: Source::Header,
                ..
            }) => {
                format!("header: {}", token.as_str())
            }
            Ok(Credential::Token {
                token,
                source: Source::Query,
                ..
            }) => {
                format!("query: {}", token.as_str())
            }
            Err(CredentialError::InvalidHeader) => "invalid header".into(),
            Err(CredentialError::Mixed) => "mixed".into(),
            Err(CredentialError::NotAscii) => "not ASCII".into(),
            Err(CredentialError::Several) => "too many headers".into(),
        }
    }

    /// What Synapse took from the request. `None` if it did not come to that.
    fn expected(&self) -> Option<String> {
        let expected = match (self.status, self.error) {
            ("401", "Missing access token") => "missing",
            ("401", "Invalid Authorization header.") => "invalid header",
            ("401", "Too many Authorization headers.") => "too many headers",
            ("401", e) if e.starts_with("Mixing ") => "mixed",
            ("401", "Token is not active") if self.introspected.is_empty() => "empty",
            ("500", "Internal server error") => "not ASCII",
            ("204" | "404" | "405" | "415", _) => return None,
            ("400" | "403", e) if !e.starts_with("Application service ") => return None,
            ("200" | "400" | "401" | "403", _) => {
                let source = if self.authorization.is_some() {
                    "header"
                } else {
                    "query"
                };
                return Some(format!("{source}: {}", self.token()));
            }
            _ => panic!("{}: unknown answer {} {}", self.id, self.status, self.error),
        };
        Some(expected.into())
    }

    /// The token that Synapse introspected, or else recognised by itself.
    fn token(&self) -> String {
        match self.introspected {
            "" if self.id.starts_with('P') => "SharedSecretForMas".into(),
            "" => "as_secret_token".into(),
            encoded => form_decode(encoded),
        }
    }

    fn requirement(&self) -> AuthRequirement {
        classify(&self.target, self.method())
    }

    fn method(&self) -> Method {
        Method::from_bytes(self.method.as_bytes())
    }

    /// Whether the edge takes no token for a wrong one.
    fn ignores_token(&self) -> bool {
        Endpoints::default().ignores_token(&self.target, self.method(), Served::default())
    }
}

/// Python's `quote_plus`, undone. The column is well-formed.
fn form_decode(text: &str) -> String {
    let mut parts = text.split('%');
    let mut decoded = parts.next().unwrap().replace('+', " ");
    for part in parts {
        let (escape, rest) = part.split_at(2);
        decoded.push(char::from(u8::from_str_radix(escape, 16).unwrap()));
        decoded.push_str(&rest.replace('+', " "));
    }
    decoded
}

/// `\t`, `\r`, `\n` and `\xff`.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let (escape, tail) = after.split_at(1);
        (rest, _) = match escape {
            "t" => (tail, bytes.push(b'\t')),
            "r" => (tail, bytes.push(b'\r')),
            "n" => (tail, bytes.push(b'\n')),
            "x" => {
                let (digits, tail) = tail.split_at(2);
                (tail, bytes.push(u8::from_str_radix(digits, 16).unwrap()))
            }
            _ => panic!("unknown escape in {text}"),
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}
