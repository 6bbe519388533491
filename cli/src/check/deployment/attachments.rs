//! Policies of Envoy Gateway, by their targets: by name, or by labels, in the policy's own namespace. Of those for one place the
//! nearest counts, and replaces those that are further away.
//!
//! The non-obvious rule: files may have thousands of routes and a policy for each. So each policy is read once, and the
//! policies for a resource are found by the resource's name.

use std::{collections::HashMap, rc::Rc};

use super::namespace;
use crate::yaml::Value;

const GATEWAY: &str = "Gateway";

/// A resource that a policy may be for.
#[derive(Clone)]
pub struct Target<'t> {
    /// Its kind.
    pub kind: &'t str,
    /// Its namespace; if it names none, the user's command does.
    pub namespace: Option<&'t str>,
    /// Its name.
    pub name: &'t str,
    /// Its labels. `None` if they cannot be seen.
    labels: Option<Rc<HashMap<&'t str, &'t str>>>,
}

impl<'t> Target<'t> {
    /// A resource of the files.
    pub fn of(resource: Value<'t>) -> Self {
        let labels = texts(resource.at(&["metadata", "labels"])).collect();
        Self {
            kind: resource.text_at(&["kind"]).unwrap_or_default(),
            namespace: namespace::of(resource),
            name: resource.text_at(&["metadata", "name"]).unwrap_or_default(),
            labels: Some(Rc::new(labels)),
        }
    }

    /// A resource that is not in the files.
    pub fn unseen(kind: &'t str, namespace: Option<&'t str>, name: &'t str) -> Self {
        Self {
            kind,
            namespace,
            name,
            labels: None,
        }
    }
}

/// What a policy may be for.
#[derive(Clone)]
pub enum Level<'t> {
    /// A listener of a Gateway or ListenerSet, or a rule of a route.
    Section(Target<'t>, &'t str),
    /// A whole resource.
    Whole(Target<'t>),
    /// A resource, or any section of it: its sections are not known.
    Anywhere(Target<'t>),
    /// Any Gateway, or any listener of one: which one it is is not known.
    AnyGateway,
    /// Any Gateway as a whole: which one it is is not known.
    AnyWholeGateway,
}

/// All policies of one kind, by their targets.
#[derive(Default)]
pub struct Attachments<'t> {
    named: HashMap<(&'t str, &'t str), Vec<Attachment<'t>>>,
    selecting: Vec<(Selector<'t>, Attachment<'t>)>,
    /// Those for Gateways, by name or by labels.
    of_gateways: Vec<Attachment<'t>>,
    /// Those without any target.
    untargeted: Vec<Value<'t>>,
}

/// One policy for one target.
#[derive(Clone, Copy)]
struct Attachment<'t> {
    policy: Value<'t>,
    namespace: Option<&'t str>,
    section: Option<&'t str>,
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
    pub fn of(policies: impl Iterator<Item = Value<'t>>) -> Self {
        let mut all = Self::default();
        for policy in policies {
            all.add(policy);
        }
        all
    }

    fn add(&mut self, policy: Value<'t>) {
        let attachment = Attachment {
            policy,
            namespace: namespace::of(policy),
            section: None,
        };
        let mut is_untargeted = true;
        for target in targets(policy) {
            is_untargeted = false;
            let kind = kind(target);
            let key = (kind, target.text_at(&["name"]).unwrap_or_default());
            let own = Attachment {
                section: target.text_at(&["sectionName"]),
                ..attachment
            };
            self.named.entry(key).or_default().push(own);
            self.of_gateways.extend((kind == GATEWAY).then_some(own));
        }
        for selector in policy.list(&["spec", "targetSelectors"]).map(Selector::of) {
            is_untargeted = false;
            let is_of_gateway = selector.kind == GATEWAY;
            self.of_gateways.extend(is_of_gateway.then_some(attachment));
            self.selecting.push((selector, attachment));
        }
        self.untargeted.extend(is_untargeted.then_some(policy));
    }

    /// The policies for exactly this.
    pub fn at(&self, level: &Level<'t>) -> Vec<Value<'t>> {
        let found: Vec<Attachment<'t>> = match level {
            Level::Section(target, section) => self
                .for_target(target)
                .filter(|one| one.section == Some(*section))
                .collect(),
            Level::Whole(target) => self
                .for_target(target)
                .filter(|one| one.section.is_none())
                .collect(),
            Level::Anywhere(target) => self.for_target(target).collect(),
            Level::AnyGateway => self.for_gateways().collect(),
            Level::AnyWholeGateway => self
                .for_gateways()
                .filter(|one| one.section.is_none())
                .collect(),
        };
        found.into_iter().map(|one| one.policy).collect()
    }

    /// The nearest policies on a way from near to far; none if there are none.
    pub fn nearest(&self, chain: &[Level<'t>]) -> Vec<Value<'t>> {
        let mut levels = chain.iter().map(|level| self.at(level));
        levels
            .find(|policies| !policies.is_empty())
            .unwrap_or_default()
    }

    /// The nearest policies that set something, on a way from near to far. One that is not added to those further away hides
    /// them.
    pub fn setting(&self, chain: &[Level<'t>], path: &[&str]) -> Vec<Value<'t>> {
        let others = self.untargeted().collect();
        let levels = chain.iter().map(|level| self.at(level));
        for policies in levels.chain([others]) {
            let hides = |it: &Value<'t>| it.at(&["spec", "mergeType"]).is_none();
            let is_last = !policies.is_empty() && policies.iter().all(hides);
            let setting: Vec<_> = policies
                .into_iter()
                .filter(|it| it.at(path).is_some())
                .collect();
            if is_last || !setting.is_empty() {
                return setting;
            }
        }
        Vec::new()
    }

    /// The policies without any target, which the user's tools may add.
    pub fn untargeted(&self) -> impl Iterator<Item = Value<'t>> {
        let all = self.untargeted.iter().copied();
        all.take_while(|policy| policy.tree.spend(1))
    }

    fn for_gateways(&self) -> impl Iterator<Item = Attachment<'t>> {
        let all = self.of_gateways.iter().copied();
        all.take_while(|one| one.policy.tree.spend(1))
    }

    fn for_target(&self, target: &Target<'t>) -> impl Iterator<Item = Attachment<'t>> {
        let named = self.named.get(&(target.kind, target.name));
        let selecting = self.selecting.iter();
        let selected = selecting
            .take_while(|(_, attachment)| attachment.policy.tree.spend(1))
            .filter(|(selector, _)| selector.is_for(target));
        named
            .into_iter()
            .flatten()
            .chain(selected.map(|(_, attachment)| attachment))
            .filter(|one| namespace::may_be_same(one.namespace, target.namespace))
            .copied()
    }
}

/// The targets that a policy names.
pub fn targets<'t>(policy: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    let one = policy.at(&["spec", "targetRef"]);
    policy.list(&["spec", "targetRefs"]).chain(one)
}

/// The kind of a target or a parent.
pub fn kind<'t>(target: Value<'t>) -> &'t str {
    target.text_at(&["kind"]).unwrap_or(GATEWAY)
}

impl<'t> Selector<'t> {
    fn of(selector: Value<'t>) -> Self {
        let expression = |one: Value<'t>| Expression {
            key: one.text_at(&["key"]).unwrap_or_default(),
            operator: one.text_at(&["operator"]).unwrap_or_default(),
            values: one.list(&["values"]).filter_map(Value::text).collect(),
        };
        Self {
            kind: kind(selector),
            labels: texts(selector.get("matchLabels")).collect(),
            expressions: selector
                .list(&["matchExpressions"])
                .map(expression)
                .collect(),
        }
    }

    /// Whether it selects a target. A target whose labels cannot be seen may be selected.
    fn is_for(&self, target: &Target<'_>) -> bool {
        let fits = |labels: &Rc<HashMap<&str, &str>>| {
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
