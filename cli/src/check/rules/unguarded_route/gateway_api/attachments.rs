//! The targets of policies: by name, or by labels, in the policy's own namespace.
//!
//! The non-obvious rule: files may have thousands of routes and a policy for each. So each policy is read once, and the
//! policies for a resource are found by the resource's name.

use std::collections::{HashMap, HashSet};

use crate::{check::deployment::namespace, yaml::Value};

/// A resource that a policy may be for.
pub struct Target<'t> {
    /// Its kind.
    pub kind: &'t str,
    /// Its namespace; if it names none, the user's command does.
    pub namespace: Option<&'t str>,
    /// Its name.
    pub name: &'t str,
    /// Its labels. `None` if they cannot be seen.
    labels: Option<HashMap<&'t str, &'t str>>,
}

impl<'t> Target<'t> {
    /// A resource of the files.
    pub fn of(resource: Value<'t>) -> Self {
        Self {
            kind: resource.text_at(&["kind"]).unwrap_or_default(),
            namespace: namespace::of(resource),
            name: resource.text_at(&["metadata", "name"]).unwrap_or_default(),
            labels: Some(texts(resource.at(&["metadata", "labels"])).collect()),
        }
    }

    /// A Gateway that is not in the files.
    pub fn unseen(namespace: Option<&'t str>, name: &'t str) -> Self {
        Self {
            kind: GATEWAY,
            namespace,
            name,
            labels: None,
        }
    }
}

const GATEWAY: &str = "Gateway";

/// All policies, by their targets.
#[derive(Default)]
pub struct Attachments<'t> {
    named: HashMap<(&'t str, &'t str), Vec<Attachment<'t>>>,
    selecting: Vec<(Selector<'t>, Attachment<'t>)>,
    /// The namespaces of policies with the module.
    namespaces: HashSet<Option<&'t str>>,
    /// Whether a policy with the module is for a Gateway.
    is_at_gateway: bool,
}

/// One policy for one target.
#[derive(Clone, Copy)]
struct Attachment<'t> {
    namespace: Option<&'t str>,
    section: Option<&'t str>,
    has_module: bool,
    /// Whether the policy is added to those further away, and replaces none of them.
    is_added: bool,
}

/// A selection by labels.
struct Selector<'t> {
    kind: &'t str,
    labels: Vec<(&'t str, &'t str)>,
    expressions: Vec<Expression<'t>>,
}

struct Expression<'t> {
    key: &'t str,
    operator: &'t str,
    values: Vec<&'t str>,
}

impl<'t> Attachments<'t> {
    /// Reads policies.
    pub fn of(
        policies: impl Iterator<Item = Value<'t>>,
        has_module: impl Fn(Value<'t>) -> bool,
    ) -> Self {
        let mut all = Self::default();
        for policy in policies {
            all.add(policy, has_module(policy));
        }
        all
    }

    fn add(&mut self, policy: Value<'t>, has_module: bool) {
        let attachment = Attachment {
            namespace: namespace::of(policy),
            section: None,
            has_module,
            is_added: is_added(policy),
        };
        if has_module {
            self.namespaces.insert(attachment.namespace);
        }
        let one = policy.at(&["spec", "targetRef"]);
        for target in policy.list(&["spec", "targetRefs"]).chain(one) {
            let kind = target.text_at(&["kind"]).unwrap_or(GATEWAY);
            let key = (kind, target.text_at(&["name"]).unwrap_or_default());
            self.is_at_gateway |= has_module && kind == GATEWAY;
            self.named.entry(key).or_default().push(Attachment {
                section: target.text_at(&["sectionName"]),
                ..attachment
            });
        }
        for selector in policy.list(&["spec", "targetSelectors"]).map(Selector::of) {
            self.is_at_gateway |= has_module && selector.kind == GATEWAY;
            self.selecting.push((selector, attachment));
        }
    }

    /// Whether a policy for a resource, or for a section of it, has the module. `None` without such a policy.
    pub fn decided(&self, target: &Target<'t>, section: Option<&str>) -> Option<bool> {
        let own = self.for_target(target);
        decided(own.filter(|one| one.section == section))
    }

    /// Whether a policy for a resource, or for any section of it, has the module. `None` without such a policy.
    pub fn decided_anywhere(&self, target: &Target<'t>) -> Option<bool> {
        decided(self.for_target(target))
    }

    /// Whether a policy for a Gateway has the module.
    pub fn have_module_at_gateway(&self) -> bool {
        self.is_at_gateway
    }

    /// Whether a policy of a namespace has the module.
    pub fn have_module_in(&self, namespace: Option<&str>) -> bool {
        self.namespaces
            .iter()
            .any(|own| namespace::may_be_same(*own, namespace))
    }

    fn for_target(&self, target: &Target<'t>) -> impl Iterator<Item = &Attachment<'t>> {
        let named = self.named.get(&(target.kind, target.name));
        let selecting = self.selecting.iter();
        let selected = selecting.filter(|(selector, _)| selector.is_for(target));
        named
            .into_iter()
            .flatten()
            .chain(selected.map(|(_, attachment)| attachment))
            .filter(|one| namespace::may_be_same(one.namespace, target.namespace))
    }
}

/// Whether a policy is added to those further away. A JSON merge replaces each list that the policy has.
fn is_added(policy: Value<'_>) -> bool {
    let plugins = policy.at(&["spec", "wasm"]);
    policy
        .text_at(&["spec", "mergeType"])
        .is_some_and(|kind| kind != "JSONMerge" || plugins.is_none())
}

fn decided<'a, 't: 'a>(attachments: impl Iterator<Item = &'a Attachment<'t>>) -> Option<bool> {
    attachments
        .filter(|one| one.has_module || !one.is_added)
        .fold(None, |before, one| {
            Some(before == Some(true) || one.has_module)
        })
}

impl<'t> Selector<'t> {
    fn of(selector: Value<'t>) -> Self {
        let expression = |one: Value<'t>| Expression {
            key: one.text_at(&["key"]).unwrap_or_default(),
            operator: one.text_at(&["operator"]).unwrap_or_default(),
            values: one.list(&["values"]).filter_map(Value::text).collect(),
        };
        Self {
            kind: selector.text_at(&["kind"]).unwrap_or(GATEWAY),
            labels: texts(selector.get("matchLabels")).collect(),
            expressions: selector
                .list(&["matchExpressions"])
                .map(expression)
                .collect(),
        }
    }

    /// Whether it selects a target. A target whose labels cannot be seen may be selected.
    fn is_for(&self, target: &Target<'_>) -> bool {
        let fits = |labels: &HashMap<&str, &str>| {
            let of_labels = self.labels.iter();
            let mut missing = of_labels.filter(|(key, value)| labels.get(key) != Some(value));
            let expressions = &self.expressions;
            missing.next().is_none() && expressions.iter().all(|one| one.holds(labels))
        };
        self.kind == target.kind && target.labels.as_ref().is_none_or(fits)
    }
}

impl Expression<'_> {
    fn holds(&self, labels: &HashMap<&str, &str>) -> bool {
        let own = labels.get(self.key);
        let is_listed = own.is_some_and(|own| self.values.contains(own));
        match self.operator {
            "In" => is_listed,
            "NotIn" => !is_listed,
            "Exists" => own.is_some(),
            "DoesNotExist" => own.is_none(),
            _ => false,
        }
    }
}

fn texts<'t>(mapping: Option<Value<'t>>) -> impl Iterator<Item = (&'t str, &'t str)> {
    let members = mapping.into_iter().flat_map(Value::members);
    members.filter_map(|(key, value)| Some((key, value.text()?)))
}
