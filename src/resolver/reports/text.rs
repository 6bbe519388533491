//! What the log says of a MAS that gives no verdicts: what happened, and what to look at.

use alloc::{borrow::ToOwned, format, string::String};

use super::topic::Topic;
use crate::{
    clock::duration_text,
    mas::introspection::{ClientCredential, ConnectionFault, NoVerdict, Settings},
};

/// Returns where MAS is asked, as configured.
pub(super) fn location(settings: &Settings) -> String {
    let Settings {
        cluster,
        authority,
        path,
        ..
    } = settings;
    format!("cluster {cluster} ({authority}{path})")
}

/// Returns the line about a question without a verdict.
pub(super) fn failure(settings: &Settings, topic: Topic, why: NoVerdict) -> String {
    format!(
        "no verdict on tokens from {}: {}",
        location(settings),
        explanation(settings, topic, why)
    )
}

/// Returns what happened, and what to look at.
fn explanation(settings: &Settings, topic: Topic, why: NoVerdict) -> String {
    let timeout = duration_text(settings.timeout);
    match why {
        NoVerdict::UnknownCluster => {
            "Envoy knows no cluster of that name; compare introspection.cluster with Envoy's clusters".to_owned()
        }
        NoVerdict::Undeliverable => {
            "Envoy does not send the question; see whether a host of the cluster is healthy, what its circuit \
             breakers allow, and whether there is a credential to inject"
                .to_owned()
        }
        NoVerdict::Unreachable(fault) => {
            let text = fault.text();
            match fault {
                ConnectionFault::Overflow => format!("{text}; see its circuit_breakers"),
                ConnectionFault::Failure => {
                    format!("{text}; see whether MAS runs at the cluster's endpoints, and the cluster's TLS settings")
                }
                _ => format!("{text}; see whether MAS runs at the cluster's endpoints"),
            }
        }
        NoVerdict::Timeout => format!(
            "no answer within introspection.timeout ({timeout}); see whether MAS or its database is overloaded"
        ),
        NoVerdict::Reset => "the answer broke off, was longer than Envoy keeps, or Envoy got the cluster anew; see MAS's log".to_owned(),
        NoVerdict::Status(status) => format!("MAS answered {status}; {}", advice_on_status(settings, topic)),
        NoVerdict::Oversized => {
            "the answer is too long for an introspection response; see whether introspection.authority is MAS's name"
                .to_owned()
        }
        NoVerdict::NotJson => {
            "the answer is not JSON, such as a page of HTML; see whether introspection.authority is MAS's name, and \
             introspection.path its endpoint"
                .to_owned()
        }
        NoVerdict::Malformed => {
            "the answer is no introspection response; see whether introspection.path is MAS's endpoint".to_owned()
        }
        NoVerdict::Lost => format!(
            "Envoy delivered no answer, not even its own after introspection.timeout ({timeout}); see whether Envoy \
             workers are blocked"
        ),
        NoVerdict::Overloaded => format!(
            "more questions at once than introspection.max_in_flight ({}) and the line behind it take; see whether MAS \
             is slow, or raise it",
            settings.max_in_flight
        ),
        NoVerdict::Elsewhere
        | NoVerdict::OverBudget { .. }
        | NoVerdict::Outdated
        | NoVerdict::TokenTooLong => String::new(),
    }
}

/// Returns what to look at because of a status.
fn advice_on_status(settings: &Settings, topic: Topic) -> &'static str {
    match (topic, &settings.credential) {
        (Topic::Credential, ClientCredential::Injected) => {
            "it does not take the credential that Envoy injects into the cluster's requests, if it injects any"
        }
        (Topic::Credential, ClientCredential::Known(_)) => {
            "it does not take introspection.credential; compare it with MAS's configuration"
        }
        (Topic::Path, _) => "see whether introspection.path is MAS's endpoint",
        (Topic::Authority, _) => {
            "see whether introspection.authority is MAS's name, and whether the cluster leads to it over TLS"
        }
        _ => "see MAS's log",
    }
}
