//! Which services of Docker Compose run an Envoy.
//!
//! The non-obvious rule: a service may stand in several files. Docker Compose takes all that they say of one name together, and
//! only one of them need say which image it is.

use std::collections::HashMap;

use super::{Deployment, image};
use crate::yaml::Value;

/// A service of Docker Compose.
pub struct Service<'t> {
    /// Its name.
    pub name: &'t str,
    /// What each file says of it, in their order.
    pub parts: Vec<Value<'t>>,
}

impl<'t> Service<'t> {
    /// The services in the documents of all files.
    pub(super) fn all(roots: &[Value<'t>]) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        let lists = roots
            .iter()
            .filter(|root| root.get("kind").is_none())
            .filter_map(|root| root.get("services"));
        for (name, part) in lists.flat_map(Value::members) {
            let place = *places.entry(name).or_insert(found.len());
            match found.get_mut(place) {
                Some(service) => service.parts.push(part),
                None => found.push(Self {
                    name,
                    parts: vec![part],
                }),
            }
        }
        let has_image = |part: &Value<'t>| part.get("image").or(part.get("build")).is_some();
        found.retain(|service| service.parts.iter().any(has_image));
        found
    }

    /// Whether it is an Envoy by its image.
    fn is_envoy(&self) -> bool {
        let mut images = self
            .parts
            .iter()
            .filter_map(|part| part.text_at(&["image"]));
        images.any(image::is_envoy)
    }

    /// Whether it is given the file that a value stands in, by the file's name.
    fn is_given(&self, value: Value<'t>) -> bool {
        self.parts.iter().any(|part| is_given(*part, value))
    }
}

impl<'t> Deployment<'t> {
    /// The services that are an Envoy by their image, or are given the file of this value.
    pub fn services_with<'d>(
        &'d self,
        value: Value<'t>,
    ) -> impl Iterator<Item = &'d Service<'t>> + 'd {
        let services = self.resources.services.iter();
        services.filter(move |service| service.is_envoy() || service.is_given(value))
    }

    /// What files say of the services that are given the file of this value, or else of those that are an Envoy by their image.
    pub fn services_of(&self, value: Value<'t>) -> Vec<Value<'t>> {
        let services = self.resources.services.iter();
        let (given, others): (Vec<_>, Vec<_>) =
            services.partition(|service| service.is_given(value));
        let parts = |service: &Service<'t>| service.parts.clone();
        if given.is_empty() {
            let envoys = others.into_iter().filter(|it| it.is_envoy());
            envoys.flat_map(parts).collect()
        } else {
            given.into_iter().flat_map(parts).collect()
        }
    }
}

/// Whether a part of a service names the file that a value stands in.
fn is_given(service: Value<'_>, value: Value<'_>) -> bool {
    let file = value.tree.name.rsplit('/').next().unwrap_or_default();
    let of = |key| {
        let value = service.get(key);
        let items = value.into_iter().flat_map(Value::items);
        let sources = items.filter_map(|item| item.text().or_else(|| item.text_at(&["source"])));
        sources.chain(value.and_then(Value::text))
    };
    let has_file = |text: &str| {
        let is_part = |part: &str| part.rsplit('/').next() == Some(file);
        text.split([':', ' ']).any(is_part)
    };
    ["volumes", "configs", "command", "entrypoint"]
        .into_iter()
        .flat_map(of)
        .any(has_file)
}
