//! What became of a request, as far as it is compared.

use std::fmt;

use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::support::http::Response;

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub reply: Reply,
    /// What Synapse says that it did; `None` if the request did not reach it.
    pub witness: Option<Witness>,
}

/// What the client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The connection or the stream ended without a response.
    Ended,
    /// A status, and of a Matrix error `errcode` and `error`.
    Status {
        status: u16,
        errcode: String,
        error: String,
    },
}

/// What Synapse took a request for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Whom it acted as.
    pub actor: Option<Actor>,
    /// The access token that it took.
    pub token: Option<Vec<u8>>,
    /// The identity headers that came with the request, as `name=value`.
    pub identity: Vec<String>,
}

/// Whom Synapse acted as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    pub user: String,
    /// Empty if there is none.
    pub device: String,
    /// The appservice whose token it was; empty if it was a user's.
    pub appservice: String,
}

impl Outcome {
    /// Reads a response, `None` if there was none.
    pub fn new(response: Option<&Response>) -> Self {
        let Some(response) = response else {
            return Self {
                reply: Reply::Ended,
                witness: None,
            };
        };
        let json: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let member = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        let is_error = response.status >= 400;
        Self {
            reply: Reply::Status {
                status: response.status,
                errcode: if is_error {
                    member("errcode")
                } else {
                    String::new()
                },
                error: if is_error {
                    member("error")
                } else {
                    String::new()
                },
            },
            witness: witness(response),
        }
    }

    /// Whom Synapse acted as.
    pub fn actor(&self) -> Option<&Actor> {
        self.witness.as_ref()?.actor.as_ref()
    }

    /// The token that Synapse took.
    pub fn token(&self) -> Option<&[u8]> {
        self.witness.as_ref()?.token.as_deref()
    }

    /// The status; 0 if there is none.
    pub fn status(&self) -> u16 {
        match self.reply {
            Reply::Ended => 0,
            Reply::Status { status, .. } => status,
        }
    }

    /// Whether the client gets the same. If both came from Synapse, it acted as the same user, too.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let acts_alike = match (&self.witness, &other.witness) {
            (Some(witness), Some(other)) => witness.actor == other.actor,
            _ => true,
        };
        self.reply == other.reply && acts_alike
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reply {
            Reply::Ended => write!(f, "no response")?,
            Reply::Status {
                status,
                errcode,
                error,
            } => write!(f, "{status} {errcode} {error:?}")?,
        }
        let Some(witness) = &self.witness else {
            return write!(f, ", not Synapse's");
        };
        match &witness.actor {
            Some(Actor {
                user,
                device,
                appservice,
            }) => write!(f, ", as {user:?} {device:?} {appservice:?}")?,
            None => write!(f, ", as nobody")?,
        }
        if let Some(token) = &witness.token {
            write!(f, ", token \"{}\"", token.escape_ascii())?;
        }
        if !witness.identity.is_empty() {
            write!(f, ", headers {:?}", witness.identity)?;
        }
        Ok(())
    }
}

fn witness(response: &Response) -> Option<Witness> {
    let parts = |name: &str| -> Option<Vec<Vec<u8>>> {
        let text = response.header(name)?;
        Some(
            text.split(',')
                .map(|part| percent_decode_str(part).collect())
                .collect(),
        )
    };
    let texts = |name: &str| -> Option<Vec<String>> {
        Some(
            parts(name)?
                .into_iter()
                .map(|part| String::from_utf8_lossy(&part).into_owned())
                .collect(),
        )
    };
    let mut identity = texts("x-witness-identity")?;
    identity.retain(|part| !part.is_empty());
    Some(Witness {
        actor: texts("x-witness-actor").map(|parts| {
            let [user, device, appservice] = <[String; 3]>::try_from(parts).expect("three parts");
            Actor {
                user,
                device,
                appservice,
            }
        }),
        token: parts("x-witness-token").map(|parts| parts.concat()),
        identity,
    })
}
