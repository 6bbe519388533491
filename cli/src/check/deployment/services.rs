//! Which services of Docker Compose run an Envoy.

use super::{Deployment, image};
use crate::yaml::Value;

impl<'t> Deployment<'t> {
    /// The services that are an Envoy by their image, or are given the file of this value.
    pub fn services_with<'d>(&'d self, value: Value<'t>) -> impl Iterator<Item = Value<'t>> + 'd {
        let services = self.resources.services.iter().copied();
        services.filter(move |service| is_envoy(*service) || is_given(*service, value))
    }

    /// The services that are given the file of this value, or else those that are an Envoy by their image.
    pub fn services_of(&self, value: Value<'t>) -> Vec<Value<'t>> {
        let services = self.resources.services.iter().copied();
        let (given, others): (Vec<_>, Vec<_>) =
            services.partition(|service| is_given(*service, value));
        if given.is_empty() {
            others.into_iter().filter(|it| is_envoy(*it)).collect()
        } else {
            given
        }
    }
}

fn is_envoy(service: Value<'_>) -> bool {
    service.text_at(&["image"]).is_some_and(image::is_envoy)
}

/// Whether a service is given the file that a value stands in, by the file's name.
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
