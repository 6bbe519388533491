//! Every row of `tests/vectors/extraction.tsv`: the same bytes sent through the gateway and to
//! Synapse.
//!
//! MAS knows every token that a row mentions, not only the one that Synapse takes: a token that is
//! read or cut in the wrong place is then somebody's, and shows.

use std::fmt::Debug;

use serde_json::Value;

use super::{
    answer::Answer,
    recorder::Head,
    rig::{Asked, Gateway, Rig, SERVER_NAME, device, localpart, with_rig},
    vectors::{self, Row},
};
use crate::support::http;

/// Rows where the gateway's answer is not Synapse's, or where Synapse behind it takes another
/// token.
struct Difference {
    rows: &'static [&'static str],
    reason: &'static str,
    /// What the gateway answers.
    answer: (u16, &'static str),
    /// Alice's token that the gateway takes, if it takes one: it then sends the request on as hers.
    token: Option<&'static str>,
}

const DIFFERENCES: [Difference; 7] = [
    Difference {
        rows: &["H26", "Q29", "Q32"],
        reason: "MAS calls every token with a control byte inactive, and the gateway knows that without asking",
        answer: (
            401,
            r#"{"errcode":"M_UNKNOWN_TOKEN","error":"Token is not active","soft_logout":false}"#,
        ),
        token: None,
    },
    Difference {
        rows: &["B07"],
        reason: "Envoy joins two Content-Type headers, and then Synapse too sees no form",
        answer: (200, "{}"),
        token: Some("alice86"),
    },
    Difference {
        rows: &["H15", "H16", "H17", "H18"],
        reason: "Envoy joins two Authorization headers, and then Synapse too sees an invalid one",
        answer: (
            401,
            r#"{"errcode":"M_MISSING_TOKEN","error":"Invalid Authorization header."}"#,
        ),
        token: None,
    },
    Difference {
        rows: &["H35", "P16", "Q36"],
        reason: "Envoy refuses a NUL in a header, a target beyond ASCII, a method in lower case",
        answer: (400, "Bad Request"),
        token: None,
    },
    Difference {
        rows: &["M12", "Q27"],
        reason: "Envoy refuses a fragment in the request target",
        answer: (400, ""),
        token: None,
    },
    Difference {
        rows: &["P07", "P08", "P15"],
        reason: "the gateway has nothing under /_synapse/mas, in any spelling",
        answer: (
            404,
            r#"{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}"#,
        ),
        token: None,
    },
    Difference {
        rows: &["Q35"],
        reason: "Envoy turns an absolute request target into a path, and Synapse has that path",
        answer: (
            200,
            r#"{"user_id":"@alice:example.org","is_guest":false,"device_id":"ALICEPHONE"}"#,
        ),
        token: Some("alice76"),
    },
];

/// Rows that Synapse refuses without a look at the token, and Alice's token that the gateway takes.
/// It sends them on as hers.
const REFUSED_ELSEHOW: [(&str, &str); 10] = [
    // There is a second token in the body, which only Synapse sees.
    ("B03", "alice81"),
    // Synapse takes no bodies of this type.
    ("B13", "alice96"),
    // Synapse does not know the path. The gateway leaves that to Synapse.
    ("P01", "alice103"),
    ("P02", "alice104"),
    ("P03", "alice105"),
    ("P04", "alice106"),
    ("P05", "alice107"),
    ("P06", "alice108"),
    ("P12", "alice109"),
    ("P13", "alice110"),
];

/// Rows about `/_synapse/mas` where the gateway, which does not send them on, says what Synapse
/// says.
const BLOCKED_ALIKE: [&str; 2] = ["P10", "P11"];

#[test]
fn every_row_is_read_alike_by_the_gateway_and_by_synapse() {
    with_rig(async |rig| {
        let gateway = rig.gateway().await;
        let rows = vectors::extraction();
        rows.iter().for_each(|row| give_tokens(&rig, row));
        let mut failures = Vec::new();
        for row in &rows {
            let exchange = Exchange::of(row, &rig, &gateway).await;
            let wrong = exchange.failures(row);
            if !wrong.is_empty() {
                let (id, case) = (&row.id, &row.case);
                failures.push(format!(
                    "{id} ({case}): {}\n{exchange:#?}",
                    wrong.join("; ")
                ));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n\n"));
        assert_eq!(rows.len(), 137, "rows of the file");
    });
}

fn give_tokens(rig: &Rig, row: &Row) {
    for (token, user) in row.tokens_mentioned() {
        rig.give_token(&token, user);
    }
    if let (Some(token), Some(requester)) = (&row.token, &row.requester) {
        rig.give_token(token, localpart(requester));
    }
}

/// What became of one row.
#[derive(Debug)]
struct Exchange {
    /// Through the gateway; what Synapse asks MAS is part of it.
    through: Answer,
    asked_through: Asked,
    /// What reached Synapse that way.
    reached: Vec<Head>,
    /// From Synapse, which does not ask MAS again for what it knows.
    direct: Answer,
    asked_direct: Asked,
}

impl Exchange {
    async fn of(row: &Row, rig: &Rig, gateway: &Gateway) -> Self {
        let request = row.request(SERVER_NAME);
        let before = rig.mas.total_calls();
        let through = http::send_raw(gateway.addr(), &request).await;
        let asked_through = rig.asked_since(before);
        let before = rig.mas.total_calls();
        let direct = http::send_raw(rig.synapse.addr(), &request).await;
        Self {
            through: Answer::from(&through),
            asked_through,
            reached: gateway.recorder.take(),
            direct: Answer::from(&direct),
            asked_direct: rig.asked_since(before),
        }
    }

    /// What is wrong with it; nothing, if all is well.
    fn failures(&self, row: &Row) -> Vec<String> {
        let mut failures = Failures::default();
        self.check_direct(row, &mut failures);
        match Difference::of(row) {
            Some(difference) => self.check_difference(row, difference, &mut failures),
            None => self.check_agreement(row, &mut failures),
        }
        self.check_gateway(&Expected::of(row), &mut failures);
        failures.0
    }

    /// Synapse does what it did when the row was recorded: else the rest would prove nothing.
    fn check_direct(&self, row: &Row, failures: &mut Failures) {
        let json: Value = serde_json::from_str(&self.direct.body).unwrap_or_default();
        let (errcode, error) = (json["errcode"].as_str(), json["error"].as_str());
        failures.unequal("Synapse's status", self.direct.status, row.status);
        failures.unequal("Synapse's errcode", errcode, row.errcode.as_deref());
        failures.unequal("Synapse's error", error, row.error.as_deref());
        if row.target.ends_with(b"whoami") {
            let user = json["user_id"].as_str();
            failures.unequal("Synapse's user", user, row.requester.as_deref());
        }
    }

    /// Synapse takes the row's token, whichever way it first comes, and answers alike both ways.
    fn check_agreement(&self, row: &Row, failures: &mut Failures) {
        failures.unequal("the answer", &self.through, &self.direct);
        let asked = [&self.asked_through, &self.asked_direct].map(tokens_of_synapse);
        failures.unequal(
            "Synapse's token",
            asked.concat(),
            Vec::from_iter(row.token.as_deref()),
        );
    }

    fn check_difference(&self, row: &Row, difference: &Difference, failures: &mut Failures) {
        let answer = (self.through.status, self.through.body.as_str());
        failures.unequal("the answer", answer, difference.answer);
        let token = tokens_of_synapse(&self.asked_through);
        if self.through == self.direct && token == Vec::from_iter(row.token.as_deref()) {
            failures
                .0
                .push(format!("no difference any more: {}", difference.reason));
        }
    }

    fn check_gateway(&self, expected: &Expected, failures: &mut Failures) {
        let asked = self
            .asked_through
            .by_edge
            .iter()
            .map(String::as_str)
            .collect();
        failures.unequal(
            "the token",
            asked,
            Vec::from_iter(expected.token.as_deref()),
        );
        let sent_on = self.reached.len();
        failures.unequal("times sent on", sent_on, usize::from(expected.is_sent_on));
        let user = Vec::from_iter(expected.user.as_deref());
        let device = expected.user.as_deref().map(|user| device(localpart(user)));
        let device = Vec::from_iter(device.as_deref());
        for head in &self.reached {
            failures.unequal("the user", head.texts("x-matrix-user-id"), user.clone());
            failures.unequal(
                "the device",
                head.texts("x-matrix-device-id"),
                device.clone(),
            );
        }
    }
}

/// Without the empty ones, which the file cannot tell from none.
fn tokens_of_synapse(asked: &Asked) -> Vec<&str> {
    let tokens = asked.by_synapse.iter().map(String::as_str);
    tokens.filter(|token| !token.is_empty()).collect()
}

impl Difference {
    fn of(row: &Row) -> Option<&'static Self> {
        let mut differences = DIFFERENCES.iter();
        differences.find(|difference| difference.rows.contains(&row.id.as_str()))
    }
}

/// What the gateway is to make of a row.
#[derive(Default)]
struct Expected {
    /// The token that it introspects.
    token: Option<String>,
    is_sent_on: bool,
    /// As whom it is sent on.
    user: Option<String>,
}

impl Expected {
    fn of(row: &Row) -> Self {
        let id = row.id.as_str();
        if let Some(difference) = Difference::of(row) {
            return difference.token.map(Self::of_alice).unwrap_or_default();
        }
        if let Some((_, token)) = REFUSED_ELSEHOW.iter().find(|(elsehow, _)| *elsehow == id) {
            return Self::of_alice(token);
        }
        if BLOCKED_ALIKE.contains(&id) {
            return Self::default();
        }
        match &row.token {
            // The gateway does not see it.
            Some(_) if row.is_decided_by_form() => Self::unannotated(),
            Some(token) => Self {
                token: Some(token.clone()),
                is_sent_on: row.requester.is_some(),
                user: row.requester.clone(),
            },
            None if row.is_decided_by_form() => Self::unannotated(),
            // No token, or a malformed one.
            None if matches!(row.status, 401 | 500) => Self::default(),
            // Nobody asks for one, or it is the bridge's.
            None => Self::unannotated(),
        }
    }

    fn of_alice(token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            is_sent_on: true,
            user: Some("@alice:example.org".to_owned()),
        }
    }

    fn unannotated() -> Self {
        Self {
            is_sent_on: true,
            ..Self::default()
        }
    }
}

#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn unequal<T: PartialEq + Debug>(&mut self, what: &str, is: T, should_be: T) {
        if is != should_be {
            self.0.push(format!("{what} is {is:?}, not {should_be:?}"));
        }
    }
}
