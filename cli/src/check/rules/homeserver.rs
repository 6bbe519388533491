//! Which of the routes that a path of the homeserver's may take are the homeserver's.
//!
//! The non-obvious rule: a route that names no path may be any service's. It counts if it names a host or a server of the
//! homeserver's, or if nothing says which these are and all lead to one server. A host of MAS's is none.

use std::{collections::HashSet, hash::Hash};

use super::Deployment;
use crate::check::deployment::Use;

/// Whose the hosts of a route are, by their names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// That cannot be told.
    Unknown,
    /// MAS.
    Mas,
    /// Whoever is at the `server_name`: the homeserver, or a website.
    ServerName,
    /// The homeserver.
    Homeserver,
}

/// The names in the module's configurations.
pub(super) struct Names<'t> {
    servers: HashSet<&'t str>,
    authorities: HashSet<&'t str>,
}

impl<'t> Names<'t> {
    /// Reads them.
    pub fn of(deployment: &Deployment<'t>) -> Self {
        let configurations = || deployment.gateways().filter_map(|one| one.configuration);
        let authorities =
            configurations().filter_map(|it| it.text_at(&["introspection", "authority"]));
        Self {
            servers: configurations()
                .filter_map(|it| it.text_at(&["server_name"]))
                .collect(),
            authorities: authorities
                .map(|authority| authority.split(':').next().unwrap_or(authority))
                .collect(),
        }
    }

    /// Those of one use.
    pub fn of_use(one: &'t Use<'_>) -> Self {
        let config = one.config();
        let authority = config.map(|config| config.introspection.authority.as_str());
        Self {
            servers: config
                .map(|it| it.server_name.as_str())
                .into_iter()
                .collect(),
            authorities: authority.into_iter().collect(),
        }
    }

    /// Whose these hosts are.
    pub fn owner<'h>(&self, hosts: impl Iterator<Item = &'h str>) -> Owner {
        let owner = |host: &str| {
            if self.authorities.contains(host) {
                Owner::Mas
            } else if host.starts_with("matrix.") {
                Owner::Homeserver
            } else if self.servers.contains(host) {
                Owner::ServerName
            } else {
                Owner::Unknown
            }
        };
        hosts.map(owner).max().unwrap_or(Owner::Unknown)
    }
}

/// A route that a path of the homeserver's may take.
pub(super) struct Lead<S> {
    /// Whether it names such a path.
    pub names_path: bool,
    /// Whose its hosts are.
    pub owner: Owner,
    /// The servers that it leads to.
    pub servers: Vec<S>,
}

/// Which of these are the homeserver's, in their order. `None`: nothing says it, and they lead to different servers.
pub(super) fn are_own<S: Eq + Hash>(leads: &[Lead<S>]) -> Option<Vec<bool>> {
    let is_named = |one: &Lead<S>| one.names_path || one.owner == Owner::Homeserver;
    let has_name = |one: &Lead<S>| one.owner == Owner::ServerName;
    let is_any = |one: &Lead<S>| one.owner != Owner::Mas;
    let is_own: &dyn Fn(&Lead<S>) -> bool = if leads.iter().any(is_named) {
        &is_named
    } else if leads.iter().any(has_name) {
        &has_name
    } else if lead_together(leads.iter().filter(|one| is_any(one))) {
        &is_any
    } else {
        return None;
    };
    let own = leads.iter().filter(|one| is_own(one));
    let servers: HashSet<&S> = own.flat_map(|one| &one.servers).collect();
    let leads_there = |one: &Lead<S>| one.servers.iter().any(|it| servers.contains(it));
    let is_it = |one: &Lead<S>| is_own(one) || is_any(one) && leads_there(one);
    Some(leads.iter().map(is_it).collect())
}

/// Whether all that lead anywhere lead to the same servers.
fn lead_together<'l, S: Eq + Hash + 'l>(leads: impl Iterator<Item = &'l Lead<S>>) -> bool {
    let mut sets = leads
        .map(|one| one.servers.iter().collect::<HashSet<&S>>())
        .filter(|servers| !servers.is_empty());
    let first = sets.next();
    sets.all(|servers| Some(servers) == first)
}
