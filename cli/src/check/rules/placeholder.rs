//! The shipped files have gaps to fill in: a digest of zeros, a secret `change-me`, hosts below `example.org`. A gap that
//! is left fails late, and looks like another fault: MAS answers 401 to the secret, Istio answers 403 to every request
//! without the image, and with another server's name every request names a user who does not exist.
//!
//! The non-obvious rule: a placeholder is a fault only beside a host of the reader's own. Files in which all hosts are
//! examples are templates, a manual or a test. For these the report says how much is still to be filled in, and that is no
//! finding.
//!
//! A secret is MAS's if Envoy or the module reads it, or if it goes into a variable that the module takes its credential from. Any other
//! one is its own program's: who wrote MAS's secret there would give it away.
//!
//! Files of other programs have examples that stay: a comment, a description, the sender of mails. So hosts count in what Envoy
//! reads and in resources that say where requests go, and the module's image counts everywhere.

use std::{collections::HashSet, ops::Range};

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::{
    check::deployment::unlisted,
    yaml::{Id, Value},
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "placeholder",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "A digest, a secret or a host is still that of a shipped file.",
    check,
};

/// The digest that no image has.
const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The spelling of a secret that is to be changed, without what separates its words.
const TO_CHANGE: &str = "changeme";

/// The schemes that may stand before a secret.
const SCHEMES: [&str; 2] = ["Bearer ", "Basic "];

/// Domains that nobody can have (RFC 2606). A name below `localhost` is a real one, for a trial.
const EXAMPLES: [&str; 4] = ["example.org", "example.com", "example.net", "example"];

/// In every name of the module's image.
const IMAGE: &str = "matrix-edge-auth";

/// Resources that say where requests go, or that have the module in them.
const ROUTING: [&str; 19] = [
    "Backend",
    "BackendTLSPolicy",
    "DestinationRule",
    "EnvoyExtensionPolicy",
    "EnvoyFilter",
    "EnvoyPatchPolicy",
    "EnvoyProxy",
    "GRPCRoute",
    "Gateway",
    "HTTPRoute",
    "Ingress",
    "ListenerSet",
    "SecurityPolicy",
    "ServiceEntry",
    "TCPRoute",
    "TLSRoute",
    "VirtualService",
    "WasmPlugin",
    "XListenerSet",
];

/// Something that stands for a value of the reader's own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Digest,
    /// A secret for MAS.
    Secret,
    /// A secret of whom the files do not say.
    OtherSecret,
    Host,
}

impl Kind {
    /// What is wrong with it, and what to write.
    const fn fault(self) -> (&'static str, &'static str) {
        match self {
            Self::Digest => (
                "this digest is a placeholder, and no image has it: the module is not loaded",
                "write the digest that `make package` prints, or that your registry shows",
            ),
            Self::Secret => (
                "this secret is a placeholder: MAS answers 401 to it, and each unproven token gets 503",
                "write the secret: `matrix.secret` of MAS, for the module's calls",
            ),
            Self::OtherSecret => (
                "this secret is a placeholder, which anyone can guess",
                "write a secret of your own",
            ),
            Self::Host => (
                "this host is a placeholder, and other hosts of these files are real",
                "write your own; `server_name` is the part after the colon of user ids",
            ),
        }
    }
}

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    if !is_template(deployment) {
        for (value, kind) in all(deployment) {
            let (message, help) = kind.fault();
            found.add(Spot::value(value), message, help);
        }
    }
}

/// Returns how many digests, secrets and hosts are still to be filled in, if the files are templates.
pub fn remaining(deployment: &Deployment<'_>) -> [usize; 3] {
    if is_template(deployment) {
        let all = all(deployment);
        let count = |kinds: &[Kind]| all.iter().filter(|(_, one)| kinds.contains(one)).count();
        let secrets = [Kind::Secret, Kind::OtherSecret];
        [&[Kind::Digest][..], &secrets, &[Kind::Host]].map(count)
    } else {
        [0; 3]
    }
}

/// Whether no configuration of the module names a host of the reader's own.
fn is_template(deployment: &Deployment<'_>) -> bool {
    let configurations = deployment.uses.iter().filter_map(|one| one.configuration);
    configurations.flat_map(hosts_of).all(is_example)
}

/// All placeholders. A text that holds a document is passed over, since the document's own values are looked at.
fn all<'t>(deployment: &Deployment<'t>) -> Vec<(Value<'t>, Kind)> {
    let of_envoy: HashSet<_> = deployment
        .documents_of_envoy()
        .map(|(tree, document)| tree.value(document.root).key())
        .collect();
    let for_mas = SecretsForMas::of(deployment);
    let mut found = Vec::new();
    for (tree, document) in &deployment.documents {
        let root = tree.value(document.root);
        let is_envoys = of_envoy.contains(&root.key());
        let own = if is_envoys {
            HashSet::new()
        } else {
            for_mas.within(root, document.values.clone())
        };
        let routing = if is_envoys {
            HashSet::new()
        } else {
            routing(root)
        };
        let values = document.values.clone().map(|id| tree.value(id));
        let texts = values.filter(|value| value.embedded().is_none());
        found.extend(texts.filter_map(|value| {
            let has_hosts = is_envoys || routing.contains(&value.id);
            let kind = match kind(value.text()?, has_hosts)? {
                Kind::Secret if !has_hosts && !own.contains(&value.id) => Kind::OtherSecret,
                kind => kind,
            };
            Some((value, kind))
        }));
    }
    found
}

/// Where other programs' files have secrets for MAS: under the names of the variables that configurations of the module name, or in
/// the Secrets that such a variable has its value from.
struct SecretsForMas<'t> {
    variables: HashSet<&'t str>,
    /// The name of a Secret, and the key in it.
    keys: HashSet<(&'t str, &'t str)>,
}

impl<'t> SecretsForMas<'t> {
    fn of(deployment: &Deployment<'t>) -> Self {
        let configurations = deployment.uses.iter().filter_map(|one| one.configuration);
        let variables: HashSet<&str> = configurations.flat_map(variables).collect();
        let pods = deployment.resources.pods();
        let containers = pods.flat_map(|pod| {
            let first = pod.spec.list(&["initContainers"]);
            first.chain(pod.spec.list(&["containers"]))
        });
        let given = containers.flat_map(|container| container.list(&["env"]));
        let key = |given: Value<'t>| {
            let is_own = variables.contains(given.text_at(&["name"])?);
            let source = given.at(&["valueFrom", "secretKeyRef"]);
            let source = source.filter(|_| is_own)?;
            Some((source.text_at(&["name"])?, source.text_at(&["key"])?))
        };
        Self {
            keys: given.filter_map(key).collect(),
            variables,
        }
    }

    /// Those of a document.
    fn within(&self, root: Value<'t>, values: Range<Id>) -> HashSet<Id> {
        let mut found = HashSet::new();
        let tree = root.tree;
        for one in values.map(|id| tree.value(id)) {
            let named = one.get("name").and_then(Value::text);
            if named.is_some_and(|name| self.variables.contains(name)) {
                found.extend(one.get("value").map(|value| value.id));
            }
            let own = one
                .members()
                .filter(|(key, _)| self.variables.contains(key));
            found.extend(own.map(|(_, value)| value.id));
        }
        for one in unlisted(root) {
            let name = one.text_at(&["metadata", "name"]).unwrap_or_default();
            for data in ["data", "stringData"].iter().filter_map(|key| one.get(key)) {
                let own = data
                    .members()
                    .filter(|(key, _)| self.keys.contains(&(name, key)));
                found.extend(own.map(|(_, value)| value.id));
            }
        }
        found
    }
}

/// The variables that the credential of a configuration names.
fn variables<'t>(configuration: Value<'t>) -> impl Iterator<Item = &'t str> {
    let credential = configuration.at(&["introspection", "credential"]);
    let all = credential.map_or_else(Vec::new, |it| it.within(|_| false));
    all.into_iter().filter_map(|one| one.text_at(&["env"]))
}

/// The values of a document that say where requests go: what is below `spec` of such resources.
fn routing(root: Value<'_>) -> HashSet<Id> {
    let is_it = |one: &Value<'_>| {
        let kind = one.text_at(&["kind"]).unwrap_or_default();
        one.get("apiVersion").is_some() && ROUTING.contains(&kind)
    };
    let routing = unlisted(root).into_iter().filter(is_it);
    let specs = routing.filter_map(|one| one.get("spec"));
    let values = specs.flat_map(|spec| spec.within(|_| false));
    values.map(|value| value.id).collect()
}

/// The hosts that a configuration of the module names.
fn hosts_of<'t>(configuration: Value<'t>) -> impl Iterator<Item = &'t str> {
    let paths: [&[&str]; 2] = [&["server_name"], &["introspection", "authority"]];
    paths
        .into_iter()
        .filter_map(move |path| configuration.text_at(path))
}

/// What a text is to be filled in with. Elsewhere than in what has hosts of Matrix only the module's image names one.
fn kind(text: &str, has_hosts: bool) -> Option<Kind> {
    if text.strip_prefix("sha256:").unwrap_or(text) == ZEROS
        || text.ends_with(&format!("@sha256:{ZEROS}"))
    {
        Some(Kind::Digest)
    } else if is_unchanged_secret(text) {
        Some(Kind::Secret)
    } else if (has_hosts || text.contains(IMAGE)) && names_example(text) {
        Some(Kind::Host)
    } else {
        None
    }
}

fn is_unchanged_secret(text: &str) -> bool {
    let secret = SCHEMES
        .into_iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .unwrap_or(text);
    let letters = secret.chars().filter(|c| !matches!(c, '-' | '_' | ' '));
    letters.flat_map(char::to_lowercase).eq(TO_CHANGE.chars())
}

/// Whether a text has an example's host in it, as a URL or a document for clients may have. A text of several lines that is no
/// such document is a program or a manual, and may name any host.
fn names_example(text: &str) -> bool {
    let is_document = text.trim_start().starts_with(['{', '[']);
    let is_one_line = !text.trim_end().contains('\n');
    (is_one_line || is_document)
        && text
            .split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-')))
            .any(|word| word.contains('.') && is_example(word))
}

/// Whether a host, with or without a port, is an example's.
fn is_example(host: &str) -> bool {
    let name = host.split(':').next().unwrap_or_default();
    EXAMPLES.iter().any(|domain| {
        name.strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}
