//! Which services of Docker Compose run an Envoy.
//!
//! The non-obvious rule: a service may stand in several files. Docker Compose takes all that they say of one name together, and
//! only one of them need say which image it is. What `!override` marks takes the place of what files before say, and what `!reset`
//! marks is taken back.

use std::collections::HashMap;

use super::{Deployment, image, interpolation::with_defaults};
use crate::yaml::{Merging, Value};

/// How the name of a file goes on that Docker Compose reads behind the others by itself.
const LATER: &str = ".override.";

/// A service of Docker Compose.
pub struct Service<'t> {
    /// Its name.
    pub name: &'t str,
    /// What each file says of it, in their order.
    parts: Vec<Value<'t>>,
    /// The files that its files name by a name of their own (`configs`).
    configs: Vec<(&'t str, &'t str)>,
}

/// A file or a folder that a service is given, and where.
struct Mount {
    source: String,
    target: String,
}

impl<'t> Service<'t> {
    /// The services in the documents of all files.
    pub(super) fn all(roots: &[Value<'t>]) -> Vec<Self> {
        let mut files: Vec<Value<'t>> = roots
            .iter()
            .filter(|root| root.get("kind").is_none() && root.get("services").is_some())
            .copied()
            .collect();
        files.sort_by_key(|root| base(&root.tree.name).contains(LATER));
        let configs = files.iter().filter_map(|root| root.get("configs"));
        let configs: Vec<_> = configs
            .flat_map(Value::members)
            .filter_map(|(name, config)| Some((name, config.text_at(&["file"])?)))
            .collect();
        let mut found: Vec<Self> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for services in files.iter().filter_map(|root| root.get("services")) {
            if services.merging().is_some() {
                found.iter_mut().for_each(|service| service.parts.clear());
            }
            let is_reset = services.merging() == Some(Merging::Reset);
            for (name, part) in services.members().filter(|_| !is_reset) {
                let place = *places.entry(name).or_insert(found.len());
                if place == found.len() {
                    found.push(Self {
                        name,
                        parts: Vec::new(),
                        configs: configs.clone(),
                    });
                }
                if let Some(service) = found.get_mut(place) {
                    add(&mut service.parts, part);
                }
            }
        }
        found.retain(|service| {
            let is_said = |key| !service.said(&[key]).is_empty();
            is_said("image") || is_said("build")
        });
        found
    }

    /// What each file says of it.
    pub fn parts(&self) -> Vec<Value<'t>> {
        self.parts.clone()
    }

    /// What the files say at a path of keys, in their order.
    pub fn said(&self, path: &[&str]) -> Vec<Value<'t>> {
        let mut values = self.parts.clone();
        for key in path {
            let mut next = Vec::new();
            for value in values.iter().filter_map(|value| value.get(key)) {
                add(&mut next, value);
            }
            values = next;
        }
        values
    }

    /// The text that counts under a key that has one alone, and the part that has it: the last.
    pub fn said_last(&self, key: &str) -> Option<(Value<'t>, &'t str)> {
        let value = self.said(&[key]).last().copied()?;
        let is_its = |part: &&Value<'t>| part.get(key).map(Value::key) == Some(value.key());
        let part = self.parts.iter().rev().find(is_its)?;
        Some((*part, value.text()?))
    }

    /// Whether it is an Envoy by its image.
    fn is_envoy(&self) -> bool {
        let image = self.said_last("image");
        image.is_some_and(|(_, image)| image::is_envoy(&with_defaults(image)))
    }

    /// Whether it is given the file of a value, by the file's name: as the source of what it mounts, or in its command, unless
    /// another file is mounted there.
    fn is_given(&self, value: Value<'t>) -> bool {
        let file = base(&value.tree.name);
        let mounts = self.mounts();
        let is_file = |path: &str| base(path) == file;
        let is_other = |path: &str| {
            let mut at = mounts.iter().filter(|mount| mount.target == path);
            at.any(|mount| !is_file(&mount.source))
        };
        let commands = ["command", "entrypoint"].into_iter();
        let words = commands
            .filter_map(|key| self.said(&[key]).last().copied())
            .flat_map(|command| command.items().chain([command]))
            .filter_map(Value::text)
            .map(with_defaults);
        let mut words = words.filter(|text| {
            let mut words = text.split([' ', '=']);
            words.any(|word| is_file(word) && !is_other(word))
        });
        mounts.iter().any(|mount| is_file(&mount.source)) || words.next().is_some()
    }

    /// What it mounts.
    fn mounts(&self) -> Vec<Mount> {
        let items = |key| self.said(&[key]).into_iter().flat_map(Value::items);
        let mut found = Vec::new();
        for item in items("volumes") {
            let said = |key| text_of(item.text_at(&[key]));
            found.push(if item.text().is_some() {
                let text = text_of(item.text());
                let mut parts = text.split(':').map(str::to_owned);
                Mount {
                    source: parts.next().unwrap_or_default(),
                    target: parts.next().unwrap_or_default(),
                }
            } else {
                Mount {
                    source: said("source"),
                    target: said("target"),
                }
            });
        }
        for item in items("configs") {
            let name = item.text().or_else(|| item.text_at(&["source"]));
            let name = name.unwrap_or_default();
            let file = self.configs.iter().find(|(own, _)| *own == name);
            found.push(Mount {
                source: text_of(Some(file.map_or(name, |(_, file)| file))),
                target: text_of(item.text_at(&["target"])),
            });
        }
        found
    }
}

impl<'t> Deployment<'t> {
    /// The services that are given the file of this value, or else those that are an Envoy by their image.
    pub fn services_of<'d>(&'d self, value: Value<'t>) -> Vec<&'d Service<'t>> {
        let services = self.resources.services.iter();
        let (given, others): (Vec<_>, Vec<_>) =
            services.partition(|service| service.is_given(value));
        if given.is_empty() {
            let envoys = others.into_iter();
            envoys.filter(|service| service.is_envoy()).collect()
        } else {
            given
        }
    }
}

/// Adds what a file says to what those before it say of the same.
fn add<'t>(said: &mut Vec<Value<'t>>, value: Value<'t>) {
    if value.merging().is_some() {
        said.clear();
    }
    if value.merging() != Some(Merging::Reset) {
        said.push(value);
    }
}

/// A text with its variables put in, or an empty one.
fn text_of(text: Option<&str>) -> String {
    text.map(with_defaults).unwrap_or_default().into_owned()
}

/// The last part of a path.
fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}
