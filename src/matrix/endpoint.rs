//! What each endpoint needs of its caller: from method and raw path to an [`AuthRequirement`].
//!
//! The table names the families of endpoints that need a token, and the exceptions among them. A
//! path that it does not know passes without a token, since it is a 404, an endpoint of the future,
//! or another service's. A wrong *required* on a path that Synapse serves to anyone would be an
//! outage; a wrong *optional* is harmless, because Synapse checks for itself.
//!
//! MAS may live below a path of any host that the edge serves. Everything below that path is MAS's, but for a path with `..`,
//! in any disguise. MAS resolves no dots and answers 404 to it, so nothing is lost by checking its token. A proxy that does
//! resolve them would hand the request to the homeserver, unverified.
//!
//! The non-obvious rule: Synapse reads paths in two ways. It matches the raw path of every API, so
//! `%61ccount` is another, unknown, path. What is no API, such as `/_synapse/client/unsubscribe`, it
//! finds in a tree, and there it decodes each segment once and skips empty ones before the first.
//! The table says which is which. The paths that are never public are of the second kind too, and
//! are looked for in every encoding, since a proxy in between may decode more often.

use alloc::{borrow::ToOwned, string::String, vec::Vec};

mod blocked;
mod class;
#[cfg(not(target_arch = "wasm32"))]
mod explanation;
mod family;
mod line;
mod method;
mod path;
mod reading;
mod requirement;
mod rule;
mod spelling;
mod table;

use crate::text::scan::position;

#[cfg(not(target_arch = "wasm32"))]
pub use self::explanation::{Decider, Explanation};
pub use self::{
    class::{Class, Served},
    method::Method,
    path::Path,
    requirement::AuthRequirement,
    rule::{PathMatch, Rule},
};
use self::{
    reading::{Readings, has_dots},
    rule::stricter,
    spelling::Spelling,
};

/// What the built-in table says of a request for `target`, the raw `:path`.
pub fn classify(target: &[u8], method: Method) -> AuthRequirement {
    if blocked::is_blocked(path(target)) {
        return AuthRequirement::Blocked;
    }
    table::classify(path(target), method).requirement
}

/// The paths that need a token in the built-in table, as it writes them: `{}` is one segment, `{+}` one that is not empty, and a
/// final `**` any number. `{version}` is a version.
#[cfg(not(target_arch = "wasm32"))]
pub fn patterns_with_token() -> Vec<String> {
    table::patterns(|it| matches!(it, AuthRequirement::Admin | AuthRequirement::Required))
}

/// The endpoints of one configuration: its rules are tried, in order, before the built-in table.
/// Neither they nor the prefix of MAS can open a blocked path. What they restrict is restricted in every spelling.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    rules: Vec<Rule>,
    /// The paths of all rules, as segments. Empty if no rule restricts.
    spellings: Vec<Spelling>,
    /// The path that MAS lives below, without the slash at its end; empty if that is the root.
    mas_prefix: String,
}

impl Endpoints {
    /// The first rule that matches a request decides.
    pub fn new(rules: Vec<Rule>) -> Self {
        let restricts = rules.iter().any(|rule| rule.strictness() > 0);
        let spelt = rules.iter().filter(|_| restricts);
        Self {
            spellings: spelt.map(|rule| rule.path.spelling()).collect(),
            rules,
            mas_prefix: String::new(),
        }
    }

    /// Whether there are rules beside the built-in table.
    pub fn have_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Whether a rule asks for a token where none would be needed without it.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn restricts(&self) -> bool {
        !self.spellings.is_empty()
    }

    /// The same for a MAS whose introspection endpoint is `target`: what stands before
    /// `/oauth2/introspect` is its prefix on every host.
    #[must_use]
    pub fn with_introspection_at(mut self, target: &str) -> Self {
        let path = target.split('?').next().unwrap_or(target);
        let prefix = path.strip_suffix("/oauth2/introspect");
        self.mas_prefix = prefix.unwrap_or_default().to_owned();
        self
    }

    /// Like [`classify`], with the rules first.
    pub fn classify(&self, target: &[u8], method: Method) -> AuthRequirement {
        self.classify_path(path(target).into(), method).requirement
    }

    /// The same for a path, with the methods that are served there.
    #[inline]
    pub fn classify_path(&self, path: Path<'_>, method: Method) -> Class {
        let may_leave = !blocked::stays_in_matrix(path);
        let path = path.text;
        if may_leave && blocked::may_be_blocked(path) {
            return AuthRequirement::Blocked.into();
        }
        let ruled = if self.rules.is_empty() {
            None
        } else {
            self.deciding_rule(path, method)
        };
        let class = match ruled {
            Some(rule) => rule.requirement.into(),
            None => match table::classify(path, method) {
                // Only here: a prefix such as `/_matrix` must not open what the homeserver serves.
                Class {
                    requirement: AuthRequirement::Unknown | AuthRequirement::None,
                    ..
                } if self.below_mas_prefix(path).is_some() => AuthRequirement::MasOwned.into(),
                // A rule may name the path for another method, and then nothing is known of it.
                class if self.rules.is_empty() => class,
                class => class.requirement.into(),
            },
        };
        if may_leave && has_dots(path) {
            // Dots may lead from where no token is looked at to where one counts, and to where other methods are served.
            return match class.requirement {
                requirement if requirement.ignores_tokens() => AuthRequirement::Dotted.into(),
                AuthRequirement::Unknown => AuthRequirement::Dotted.into(),
                requirement => requirement.into(),
            };
        }
        class
    }

    /// Whether the homeserver answers a request without a look at its token, so that none can be wrong: a browser's pre-flight,
    /// which has no credentials and gets 204 on every path, or a method that is not served there. `served` is what
    /// [`Self::classify_path`] found. What is blocked stays so.
    pub fn ignores_token(&self, target: &[u8], method: Method, served: Served) -> bool {
        method == Method::Options
            || served
                .refuses(method)
                .unwrap_or_else(|| self.refuses(target, method))
    }

    /// Whether the homeserver refuses a request for its method alone, before it looks at a token. Nothing
    /// is known of paths that a rule names, whatever methods the rule is for: who serves them is the
    /// operator's knowledge.
    pub fn refuses(&self, target: &[u8], method: Method) -> bool {
        let path = path(target);
        if has_dots(path) {
            return false;
        }
        let is_ruled = self.rules.iter().any(|rule| rule.path.matches(path));
        !is_ruled && table::refuses(path, method) && self.restriction(path, method).is_none()
    }

    /// The target as MAS has it: without its prefix, if it is below that.
    pub fn mas_target<'t>(&self, target: &'t [u8]) -> &'t [u8] {
        self.below_mas_prefix(target).unwrap_or(target)
    }

    /// The rule that decides about a path: the first that names it, unless one that is stricter has it in another spelling.
    fn deciding_rule(&self, path: &[u8], method: Method) -> Option<&Rule> {
        let mut rules = self.rules.iter();
        let named = rules.find(|rule| rule.path.matches(path) && rule.is_for(method));
        stricter(named, self.restriction(path, method))
    }

    /// The strictest rule that restricts a path in any reading of it. In each reading the first rule decides here too, but a
    /// rule that opens is none in another spelling. Where dots lead cannot be told, so a path with `..` needs what any rule
    /// restricts to.
    #[inline]
    fn restriction(&self, path: &[u8], method: Method) -> Option<&Rule> {
        if self.spellings.is_empty() {
            return None;
        }
        self.strictest(path, method)
    }

    /// The same where a rule restricts.
    fn strictest(&self, path: &[u8], method: Method) -> Option<&Rule> {
        let found = match Readings::of(path).filter(|readings| !readings.have_dots()) {
            Some(readings) => self.strictest_reading(&readings, path, method),
            None => {
                let rules = self.rules.iter().filter(|rule| rule.is_for(method));
                rules.fold(None, |found, rule| stricter(found, Some(rule)))
            }
        };
        found.filter(|rule| rule.strictness() > 0)
    }

    /// The strictest of the rules that decide about the readings of a path.
    fn strictest_reading(&self, readings: &Readings, path: &[u8], method: Method) -> Option<&Rule> {
        let mut found = None;
        for names in readings.each() {
            for skipped in readings.authority_ends(&names) {
                let names = spelling::first(names.clone().skip(skipped), &self.spellings);
                let mut rules = self.rules.iter().zip(&self.spellings);
                let first = rules.find(|(rule, spelling)| {
                    (rule.strictness() > 0 || rule.path.matches(path))
                        && spelling.matches(&names)
                        && rule.is_for(method)
                });
                found = stricter(found, first.map(|(rule, _)| rule));
            }
        }
        found
    }

    /// What of `target` follows MAS's prefix, if it has one.
    #[inline]
    fn below_mas_prefix<'t>(&self, target: &'t [u8]) -> Option<&'t [u8]> {
        if self.mas_prefix.is_empty() {
            return None;
        }
        let rest = target.strip_prefix(self.mas_prefix.as_bytes())?;
        matches!(rest.first(), None | Some(b'/' | b'?')).then_some(rest)
    }
}

/// The path of a request target: everything before the first `?`.
pub(super) fn path(target: &[u8]) -> &[u8] {
    let end = position(target, b'?');
    end.and_then(|end| target.get(..end)).unwrap_or(target)
}

#[cfg(test)]
mod tests;
