//! The differences that are meant: each has a name, the condition under which it is expected, and a section in
//! `docs/parity.md` that says why it is safe. Any other difference fails the test.
//!
//! No condition lets a request be served, or act as somebody, that Synapse alone would refuse: see [`is_bypass`].

use matrix_edge_auth::matrix::endpoint::{AuthRequirement, Method, classify};

use super::{
    outcome::{Outcome, Reply},
    request::{Request, Version},
};

/// What became of one request on its ways.
pub struct Outcomes {
    /// Sent to Synapse itself; HTTP/1.1 only.
    pub direct: Option<Outcome>,
    /// Through an Envoy without the module.
    pub plain: Outcome,
    /// Through the module.
    pub gated: Outcome,
    /// What Synapse says to the same credential on an endpoint that looks at the token first. Asked only where the
    /// module refuses and Synapse does otherwise.
    pub reference: Option<Outcome>,
}

/// A difference that is meant.
pub struct Difference {
    /// As `docs/parity.md` names it.
    pub name: &'static str,
    /// Whether it is what these outcomes show.
    pub covers: fn(&Request, &Outcomes) -> bool,
}

/// Between the module and an Envoy without it. The first that covers a difference counts.
pub const OF_MODULE: [Difference; 7] = [
    Difference {
        name: "A path that is never public",
        covers: |request, outcomes| {
            let method = Method::from_bytes(request.method.as_bytes());
            outcomes.gated.is_edge_refusal(404)
                && classify(&request.target, method) == AuthRequirement::Blocked
        },
    },
    Difference {
        name: "A bad credential where Synapse serves nothing",
        covers: |_, outcomes| {
            outcomes.is_right_about_credential() && matches!(outcomes.plain.status(), 404 | 405)
        },
    },
    Difference {
        name: "A bad credential and another fault",
        covers: |_, outcomes| {
            outcomes.is_right_about_credential()
                && matches!(outcomes.plain.status(), 400 | 413 | 415 | 500)
        },
    },
    Difference {
        name: "A second token in a form",
        covers: |_, outcomes| outcomes.is_right_about_credential() && outcomes.plain.is_mixed(),
    },
    Difference {
        name: "An endpoint that Synapse can be told to leave open",
        covers: |request, outcomes| {
            outcomes.is_right_about_credential()
                && request.path().ends_with(b"/io.element.msc4388/rendezvous")
        },
    },
    Difference {
        name: "A token with a control byte",
        covers: |_, outcomes| {
            let Some(reference) = &outcomes.reference else {
                return false;
            };
            let token = reference.token().unwrap_or_default();
            outcomes.gated.is_edge_refusal(401)
                && reference.status() == 503
                && token.iter().any(u8::is_ascii_control)
        },
    },
    Difference {
        name: "An account or a device that Synapse does not have",
        covers: |_, outcomes| {
            outcomes.gated.is_edge_refusal(403)
                && matches!(&outcomes.reference, Some(reference) if reference.lacks_account())
        },
    },
];

/// Between an Envoy without the module and Synapse itself. The first that covers a difference counts.
pub const OF_ENVOY: [Difference; 6] = [
    Difference {
        name: "An absolute request target",
        covers: |request, _| {
            let target = request.target.to_ascii_lowercase();
            [&b"http://"[..], b"https://"]
                .iter()
                .any(|scheme| target.starts_with(scheme))
        },
    },
    Difference {
        name: "A request target that is no path",
        covers: |request, outcomes| {
            let is_odd = |byte: &u8| !byte.is_ascii_graphic() || *byte == b'#';
            outcomes.has_refusal_of_bytes()
                && (!request.target.starts_with(b"/") || request.target.iter().any(is_odd))
        },
    },
    Difference {
        name: "A method that Envoy does not know",
        covers: |request, outcomes| {
            outcomes.plain.is_envoys(400)
                && Method::from_bytes(request.method.as_bytes()) == Method::Other
        },
    },
    Difference {
        name: "A control byte in a header",
        covers: |request, outcomes| {
            let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
            outcomes.plain.is_envoys(400)
                && request
                    .fields
                    .iter()
                    .any(|(_, value)| value.iter().any(is_control))
        },
    },
    Difference {
        name: "Two fields of one name",
        covers: |request, _| {
            request.values("authorization").count() > 1
                || request.values("content-type").count() > 1
        },
    },
    Difference {
        name: "A connection that Synapse ends",
        covers: |_, outcomes| {
            outcomes.plain.is_envoys(503)
                && matches!(&outcomes.direct, Some(direct) if direct.reply == Reply::Ended)
        },
    },
];

impl Outcomes {
    /// Whether the module lets something through that Synapse alone would not have: no list may have this.
    pub fn is_bypass(&self) -> bool {
        let is_success = |outcome: &Outcome| (200..400).contains(&outcome.status());
        let acts_otherwise =
            self.gated.actor().is_some() && self.gated.actor() != self.plain.actor();
        (is_success(&self.gated) && !is_success(&self.plain)) || acts_otherwise
    }

    /// Whether the module's own effect shows.
    pub fn has_difference_of_module(&self) -> bool {
        !self.gated.agrees_with(&self.plain)
    }

    /// Whether Envoy's effect shows.
    pub fn has_difference_of_envoy(&self) -> bool {
        self.direct
            .as_ref()
            .is_some_and(|direct| !self.plain.agrees_with(direct))
    }

    /// Whether Envoy, or Synapse's HTTP server before Synapse, refuses the bytes of the request.
    fn has_refusal_of_bytes(&self) -> bool {
        self.plain.is_envoys(400)
            || matches!(&self.direct, Some(direct) if direct.is_edge_refusal(400))
    }

    /// Whether the module refuses the credential in the words in which Synapse does where it looks at it.
    fn is_right_about_credential(&self) -> bool {
        self.gated.witness.is_none()
            && matches!(&self.reference, Some(reference) if reference.reply == self.gated.reply)
    }
}

impl Outcome {
    /// Whether this reply came from before Synapse.
    fn is_edge_refusal(&self, expected: u16) -> bool {
        self.witness.is_none() && self.status() == expected
    }

    /// Whether Envoy gave this reply itself.
    fn is_envoys(&self, expected: u16) -> bool {
        self.is_edge_refusal(expected)
    }

    /// Whether Synapse refuses a token in a header beside another one.
    fn is_mixed(&self) -> bool {
        matches!(&self.reply, Reply::Status { status: 401, error, .. } if error.starts_with("Mixing "))
    }

    /// Whether Synapse knows less of the user of an active token than MAS. Of a `HEAD` only the status says so.
    fn lacks_account(&self) -> bool {
        match &self.reply {
            Reply::Status {
                status: 500, error, ..
            } => error.is_empty() || error == "User not found",
            Reply::Status {
                status: 401, error, ..
            } => error.is_empty() || error == "Token is not active",
            _ => false,
        }
    }
}

/// The same credential for an endpoint of Synapse that looks at it before anything else. `outcome` is what the module
/// made of `request`: whether the caller is an administrator is decided elsewhere.
pub fn reference(request: &Request, outcome: &Outcome) -> Request {
    let (method, path) = match (&*request.method, outcome.status()) {
        ("HEAD", 403) => ("HEAD", "/_synapse/admin/v1/rooms"),
        (_, 403) => ("GET", "/_synapse/admin/v1/rooms"),
        ("POST", _) => ("POST", "/_matrix/client/v3/rooms/!nope:example.org/forget"),
        ("PUT", _) => (
            "PUT",
            "/_matrix/client/v3/rooms/!nope:example.org/typing/@alice:example.org",
        ),
        ("DELETE", _) => (
            "DELETE",
            "/_matrix/client/v3/pushrules/global/override/nope",
        ),
        ("HEAD", _) => ("HEAD", "/_matrix/client/v3/account/whoami"),
        _ => ("GET", "/_matrix/client/v3/account/whoami"),
    };
    let mut fields = request.fields.clone();
    // Synapse ends these requests before it looks at anything.
    fields.retain(|(_, value)| {
        !value
            .to_ascii_lowercase()
            .windows(9)
            .any(|part| part == b"multipart")
    });
    // Beside a token in a header the module does not look at a form.
    let has_header = request.values("authorization").next().is_some();
    let has_body = method != "GET" && !has_header;
    let query = &request.target[request.path().len()..];
    Request {
        version: Version::Http2,
        method: method.to_owned(),
        target: [path.as_bytes(), query].concat(),
        fields,
        body: if has_body {
            request.body.clone()
        } else {
            Vec::new()
        },
        is_chunked: false,
    }
}
