//! `matrix-edge-auth explain`: what an endpoint needs, who says so, and what becomes of a request.
//!
//! Every line comes from the module: its endpoint table, its policy, its replies.

use std::process::ExitCode;

use clap::Args;
use matrix_edge_auth::{
    config::{Config, Mode},
    host::{Fields, RequestHead},
    mas::introspection::{ActiveToken, InactiveAnswer, NoVerdict},
    matrix::{
        endpoint::{AuthRequirement, Decider, Explanation, Method, Served},
        reply::{Cors, Rejection},
    },
    resolver::Verdict,
    role::gateway::{
        policy::{Decision, Grant, Inspection, decide, ignores_token, inspect, unless_ignored},
        recognized::Recognized,
    },
    token::TokenSecret,
};

use crate::{
    arguments, configuration,
    output::{print, refuse},
};

/// What `explain` takes.
#[derive(Args)]
pub struct Arguments {
    /// The request's method, such as GET
    #[arg(value_name = "METHOD")]
    method: String,
    /// The request's path, as it is sent; it may have a query
    #[arg(value_name = "PATH")]
    path: String,
    /// A file with a gateway's configuration; without it every default counts
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
}

/// A token of MAS's format that nobody has.
const TOKEN: &str = "mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY1";
/// A token that MAS cannot have issued.
const FOREIGN: &str = "a-token-of-another-service";
/// Longer than each method that is registered.
const LONGEST_METHOD: usize = 20;
const SCOPE: &str = "urn:matrix:client:api:* urn:matrix:client:device:DEVICE";
const ADMIN: &str = "urn:synapse:admin:*";

/// Runs the command. The exit code is 2 if the configuration cannot be read, or if Envoy takes no such request.
pub fn run(arguments: &Arguments) -> ExitCode {
    let (method, path) = (arguments.method.as_str(), arguments.path.as_str());
    let config =
        fault(method, path).and_then(|()| configuration::gateway(arguments.config.as_deref()));
    match config {
        Ok(config) => print(&explained(&config, method, path), 0),
        Err(error) => refuse(&error),
    }
}

/// Refuses a request that Envoy would refuse, or that should not be an argument.
fn fault(method: &str, path: &str) -> Result<(), String> {
    let is_of_method = |c: char| c.is_ascii_uppercase() || c == '-';
    // A word of any other kind may be a token, and the method is shown.
    let is_method =
        (1..=LONGEST_METHOD).contains(&method.len()) && method.chars().all(is_of_method);
    let fault = if !is_method {
        "a method is one word in capitals, such as GET"
    } else if method == "CONNECT" {
        "a tunnel gets 404 M_UNRECOGNIZED, in every role and mode and whatever its token"
    } else if !path.starts_with('/') {
        "a path begins with \"/\""
    } else if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        "a path is visible ASCII: write other characters as %XX"
    } else if path.contains('#') {
        "a path has no fragment (`#`): clients do not send it"
    } else if has_token(path) {
        "leave the token out of the path: other users of this machine can see an argument. Each kind of token is explained \
         anyway"
    } else {
        return Ok(());
    };
    Err(fault.to_owned())
}

/// Whether a path has a token in it, in its query or elsewhere.
fn has_token(path: &str) -> bool {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    arguments::has_token(path)
        || query
            .split('&')
            .any(|pair| pair.split('=').next() == Some("access_token"))
}

fn explained(config: &Config, method: &str, path: &str) -> String {
    let explained = config
        .endpoints
        .explain(path.as_bytes(), Method::from_bytes(method.as_bytes()));
    let why = if method == "OPTIONS" {
        Some("a browser's pre-flight has no token, and none is asked for")
    } else if explained.is_refused {
        Some("Synapse does not serve it here and answers 405 before it looks at a token")
    } else {
        None
    };
    let needs = match why {
        Some(_) => "nothing with this method",
        None => needs(explained.requirement),
    };
    let mut out = format!(
        "{method} {path}\n\n  needs            {needs}\n  decided by       {}\n  source           {}\n",
        decider(&explained),
        explained.decider.source(explained.requirement)
    );
    if let Some(why) = why {
        out += &format!("  method           {why}\n");
    }
    out.push('\n');
    for (what, outcome) in outcomes(config, method, path) {
        out += &format!("  {what:<16} {outcome}\n");
    }
    if config.mode == Mode::Shadow {
        out += "\n  mode: shadow. Nothing is rejected: what is above is only counted, and the request goes on.\n";
    }
    out
}

const fn needs(requirement: AuthRequirement) -> &'static str {
    match requirement {
        AuthRequirement::Admin => "a token with the admin scope",
        AuthRequirement::Appservice => "an appservice's token, which only the homeserver can judge",
        AuthRequirement::Blocked => "is never served to the public",
        AuthRequirement::Dotted => {
            "nothing that is known: it may lead anywhere, so a token counts wherever it may stand"
        }
        AuthRequirement::Foreign => "another kind of token, which the edge does not look at",
        AuthRequirement::MasOwned => {
            "what MAS wants: MAS answers here, and judges the token itself"
        }
        AuthRequirement::None => "nothing: a token is not looked at",
        AuthRequirement::Optional => "no token, or a good one",
        AuthRequirement::Required => "a token",
        AuthRequirement::Unknown => "nothing that is known: it may be another service's",
    }
}

fn decider(explained: &Explanation) -> String {
    match &explained.decider {
        Decider::Blocked => "the list of paths that are never public".to_owned(),
        Decider::Configured(number) => format!("endpoints[{number}] of the configuration"),
        Decider::Family { name } if explained.requirement == AuthRequirement::Unknown => {
            format!("no line: the family `{name}` of the endpoint table has none for the path")
        }
        Decider::Family { name } => format!("the family `{name}` of the endpoint table"),
        Decider::Line { family: None, path } => format!("the line `{path}` of the endpoint table"),
        Decider::Line {
            family: Some(family),
            path,
        } => format!("the line `{path}` of the family `{family}` in the endpoint table"),
        Decider::Dots => "a segment `..` in the path".to_owned(),
        Decider::MasPrefix => "the prefix of MAS".to_owned(),
        Decider::Nothing => "no rule: the endpoint table does not know the path".to_owned(),
    }
}

/// What becomes of the request with each kind of token.
fn outcomes(config: &Config, method: &str, path: &str) -> Vec<(&'static str, String)> {
    let request = Request {
        config,
        method,
        path,
    };
    let user = Verdict::Active(grant(config, SCOPE));
    let inactive = || Verdict::Inactive(InactiveAnswer::default());
    let timeout = Verdict::None(NoVerdict::Timeout);
    let mut all = vec![
        ("no token", request.outcome(None, inactive())),
        (
            "an inactive token",
            request.outcome(Some(TOKEN), inactive()),
        ),
        ("an active token", request.outcome(Some(TOKEN), user)),
    ];
    let method = Method::from_bytes(method.as_bytes());
    if config.endpoints.classify(path.as_bytes(), method) == AuthRequirement::Admin {
        let admin = Verdict::Active(grant(config, &format!("{SCOPE} {ADMIN}")));
        all.push(("an admin's token", request.outcome(Some(TOKEN), admin)));
    }
    all.push(("no verdict", request.outcome(Some(TOKEN), timeout)));
    all.push((
        "a foreign token",
        request.outcome(Some(FOREIGN), inactive()),
    ));
    all
}

/// The rights of an active token with this scope.
fn grant(config: &Config, scope: &str) -> Grant {
    let token = ActiveToken {
        username: Some("alice"),
        device_id: None,
        client_id: None,
        scope,
    };
    Grant::new(&token, config.grant_terms())
}

/// The head of a request.
pub fn head(method: &str, path: &str, token: Option<&str>) -> RequestHead {
    let authorization = token.map(|token| format!("Bearer {token}"));
    let mut fields = vec![(":method", method.as_bytes()), (":path", path.as_bytes())];
    if let Some(value) = &authorization {
        fields.push(("authorization", value.as_bytes()));
    }
    RequestHead::new(Fields::of(fields.iter().copied()))
}

/// A request without its token.
struct Request<'r> {
    config: &'r Config,
    method: &'r str,
    path: &'r str,
}

impl Request<'_> {
    /// What becomes of the request with this token, if this is MAS's verdict on it.
    fn outcome(&self, token: Option<&str>, verdict: Verdict<Grant>) -> String {
        let Self {
            config,
            method,
            path,
        } = *self;
        let head = head(method, path, token);
        let recognize = |token: &[u8]| Recognized::of(config, TokenSecret::NONE, token);
        let decision = match inspect(config, &head, recognize) {
            Inspection::Forward => Decision::Forward,
            Inspection::ForwardAndWatch(_) => {
                return "goes on; if MAS answers with 2xx, the cached answers about the session end"
                    .to_owned();
            }
            Inspection::Identify(_) => {
                return "goes on once it is known whose token it is; if MAS answers with 2xx, all answers about the user end"
                    .to_owned();
            }
            Inspection::Reject(rejection) => Decision::Reject(rejection),
            Inspection::Inactive => Decision::Reject(Rejection::NotActive),
            Inspection::Introspect(_) if ignores_token(config, &head, Served::default()) => {
                return "goes on: the homeserver does not look at the token".to_owned();
            }
            Inspection::Introspect(need) => decide(config, need.terms, verdict),
        };
        let decision = unless_ignored(config, &head, Served::default(), decision);
        shown(config, path, decision)
    }
}

fn shown(config: &Config, path: &str, decision: Decision) -> String {
    match decision {
        Decision::Forward => "goes on, without an identity".to_owned(),
        Decision::Annotate(_) => {
            let names: Vec<&str> = config.identity_headers.configured().collect();
            match names.as_slice() {
                [] => "goes on".to_owned(),
                names => format!("goes on, with {}", names.join(" and ")),
            }
        }
        Decision::Reject(rejection) => {
            let reply = rejection.reply(Cors::of(path.as_bytes()));
            format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body))
        }
    }
}
