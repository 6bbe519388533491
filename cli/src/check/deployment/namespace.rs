//! Namespaces of resources.
//!
//! The non-obvious rule: a resource without a namespace may be in any, since the user's command then names one.

use crate::yaml::Value;

/// The namespace that a resource names.
pub fn of(resource: Value<'_>) -> Option<&str> {
    resource.text_at(&["metadata", "namespace"])
}

/// Whether the namespaces of two resources may be the same.
pub fn may_be_same(one: Option<&str>, other: Option<&str>) -> bool {
    one.is_none() || other.is_none() || one == other
}

/// Whether two resources may be in the same namespace.
pub fn may_be_shared(one: Value<'_>, other: Value<'_>) -> bool {
    may_be_same(of(one), of(other))
}
