//! Why an endpoint needs what it needs: the rule that decides, and where that is from. For people, and so in no module.
//!
//! The requirement is [`Endpoints::classify`]'s own. Here it is only told who decided, by the same lookups; a test holds
//! the two together.

use super::{
    AuthRequirement, Endpoints, Method, blocked, path,
    table::{self, Said},
};

/// What an endpoint needs, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What it needs.
    pub requirement: AuthRequirement,
    /// The rule that decides.
    pub decider: Decider,
    /// Whether the homeserver refuses the method before it looks at a token.
    pub is_refused: bool,
}

/// The rule that decides about an endpoint.
#[derive(Debug, PartialEq, Eq)]
pub enum Decider {
    /// The list of paths that are never public.
    Blocked,
    /// The entry of `endpoints` in the configuration with this number.
    Configured(usize),
    /// What a family of endpoints says of all of its paths that are not listed.
    Family {
        /// Its name: the first segment after the version, or an unstable feature.
        name: &'static str,
    },
    /// One line of the table.
    Line {
        /// The family that it is in; `None` for the list by whole paths.
        family: Option<&'static str>,
        /// Its path, where `{}` is one segment, `{+}` one that is not empty, and `**` any number.
        path: &'static str,
    },
    /// The path has a segment `..`, by which it may lead elsewhere.
    Dots,
    /// The path lies below the prefix of MAS.
    MasPrefix,
    /// No rule knows the path.
    Nothing,
}

impl Endpoints {
    /// Explains what [`Self::classify`] says.
    pub fn explain(&self, target: &[u8], method: Method) -> Explanation {
        let requirement = self.classify(target, method);
        Explanation {
            requirement,
            decider: self.decider(target, method, requirement),
            is_refused: self.refuses(target, method),
        }
    }

    fn decider(&self, target: &[u8], method: Method, requirement: AuthRequirement) -> Decider {
        if blocked::is_blocked(path(target)) {
            return Decider::Blocked;
        }
        if let Some(rule) = self.deciding_rule(path(target), method) {
            if rule.requirement != requirement {
                return Decider::Dots;
            }
            let at = self.rules.iter().position(|one| core::ptr::eq(one, rule));
            return Decider::Configured(at.unwrap_or_default());
        }
        let (table, decider) = match table::said(path(target), method) {
            Said::Line(family, line) => {
                let path = line.path;
                (line.requirement, Decider::Line { family, path })
            }
            Said::Family(family) => (family.otherwise, Decider::Family { name: family.name }),
            Said::Nothing => (AuthRequirement::Unknown, Decider::Nothing),
        };
        if table == requirement
            && (table != AuthRequirement::Unknown || self.below_mas_prefix(path(target)).is_none())
        {
            decider
        } else if requirement == AuthRequirement::MasOwned {
            Decider::MasPrefix
        } else {
            Decider::Dots
        }
    }
}

impl Decider {
    /// Where the rule is from.
    pub fn source(&self, requirement: AuthRequirement) -> String {
        match self {
            Self::Blocked => {
                "Synapse's resources for MAS, for its own workers and for metrics".to_owned()
            }
            Self::Configured(_) => "this configuration".to_owned(),
            Self::Dots => "a proxy may resolve the `..` and so lead to another path".to_owned(),
            Self::MasPrefix => {
                "this configuration: what stands before /oauth2/introspect in introspection.path"
                    .to_owned()
            }
            Self::Nothing => {
                "neither Synapse, nor MAS, nor the specification has this path".to_owned()
            }
            Self::Line { .. } if requirement == AuthRequirement::MasOwned => {
                "the routes of MAS 1.22".to_owned()
            }
            Self::Family { .. } if requirement == AuthRequirement::MasOwned => {
                "the routes of MAS 1.22".to_owned()
            }
            Self::Line { family: None, .. } => {
                "the resources of Synapse 1.163.2, each asked with no token and with a bad one"
                    .to_owned()
            }
            Self::Family { name }
            | Self::Line {
                family: Some(name), ..
            } => format!(
                "{}; Synapse 1.163.2, asked with no token and with a bad one",
                specification(name)
            ),
        }
    }
}

/// Where a family of endpoints is specified.
fn specification(family: &str) -> String {
    if let Some(number) = proposal(family) {
        return format!("MSC{number}");
    }
    let found = SECTIONS.iter().find(|(name, _)| *name == family);
    found.map_or_else(
        || "an extension of Synapse".to_owned(),
        |(_, section)| format!("Matrix client-server API, \"{section}\""),
    )
}

/// The number of the proposal in an unstable feature's name: 4306 of `io.element.msc4306`.
fn proposal(feature: &str) -> Option<&str> {
    let digits = match feature.split_once("msc") {
        Some((before, digits)) if before.ends_with(['.', '_']) => digits,
        _ => {
            let known = NAMED_OTHERWISE.iter().find(|(name, _)| *name == feature);
            return known.map(|(_, number)| *number);
        }
    };
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits.get(..end.unwrap_or(digits.len()))
}

/// Features whose names do not tell the number of their proposal.
const NAMED_OTHERWISE: &[(&str, &str)] = &[
    ("im.nheko.summary", "3266"),
    ("mutual_rooms", "2666"),
    ("password_policy", "2000"),
    ("room_summary", "3266"),
    ("xyz.amorgan.knock", "2403"),
];

/// Sections of the Matrix client-server API by the first segment after the version.
const SECTIONS: &[(&str, &str)] = &[
    ("account", "Account management"),
    ("admin", "Server Administration"),
    ("appservice", "Pinging (Application Service API)"),
    ("auth", "User-Interactive Authentication API"),
    ("auth_metadata", "OAuth 2.0 API"),
    ("capabilities", "Capabilities negotiation"),
    ("config", "Content repository"),
    ("create", "Content repository"),
    ("createRoom", "Creation"),
    ("delete_devices", "Device Management"),
    ("devices", "Device Management"),
    ("directory", "Room aliases"),
    ("download", "Content repository"),
    ("events", "Syncing"),
    ("initialSync", "Syncing"),
    ("join", "Joining rooms"),
    ("joined_rooms", "Room membership"),
    ("keys", "End-to-End Encryption"),
    ("knock", "Knocking on rooms"),
    ("login", "Login"),
    ("logout", "Login"),
    ("media", "Content repository"),
    ("notifications", "Push Notifications"),
    ("presence", "Presence"),
    ("preview_url", "Content repository"),
    ("profile", "Profiles"),
    ("publicRooms", "Published room directory"),
    ("pushers", "Push Notifications"),
    ("pushrules", "Push Notifications"),
    ("refresh", "Refreshing access tokens"),
    ("register", "Account registration"),
    ("room_keys", "Server-side key backups"),
    ("rooms", "Rooms"),
    ("search", "Server Side Search"),
    ("sendToDevice", "Send-to-Device messaging"),
    ("sync", "Syncing"),
    ("thirdparty", "Third-party Networks"),
    ("thumbnail", "Content repository"),
    ("upload", "Content repository"),
    ("user", "Filtering"),
    ("user_directory", "User Directory"),
    ("users", "Reporting Content"),
    ("voip", "Voice over IP"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::endpoint::{PathMatch, Rule};

    fn endpoints() -> Endpoints {
        Endpoints::new(vec![Rule {
            path: PathMatch::Prefix("/_matrix/provision/".to_owned()),
            methods: Some(vec![Method::Post]),
            requirement: AuthRequirement::Foreign,
        }])
        .with_introspection_at("/auth/oauth2/introspect")
    }

    #[test]
    fn each_way_to_decide_is_told() {
        use AuthRequirement::{Blocked, Dotted, Foreign, MasOwned, Required, Unknown};
        let line = |family, path| Decider::Line { family, path };
        for (method, target, requirement, decider) in [
            (Method::Get, "/_synapse/mas/x", Blocked, Decider::Blocked),
            (
                Method::Post,
                "/_matrix/provision/v3/x",
                Foreign,
                Decider::Configured(0),
            ),
            (
                Method::Get,
                "/_matrix/provision/v3/x",
                Unknown,
                Decider::Nothing,
            ),
            (
                Method::Get,
                "/_matrix/client/v3/sync?since=1",
                Required,
                Decider::Family { name: "sync" },
            ),
            (
                Method::Get,
                "/_matrix/client/v3/account/whoami",
                Required,
                line(Some("account"), "account/whoami"),
            ),
            (
                Method::Get,
                "/_matrix/federation/v1/version",
                AuthRequirement::None,
                line(None, "/_matrix/federation/**"),
            ),
            (
                Method::Post,
                "/oauth2/revoke",
                MasOwned,
                line(None, "/oauth2/**"),
            ),
            (
                Method::Post,
                "/auth/oauth2/revoke",
                MasOwned,
                Decider::MasPrefix,
            ),
            (Method::Get, "/auth/../x", Dotted, Decider::Dots),
            (Method::Get, "/oauth2/%2e%2e/x", Dotted, Decider::Dots),
            (Method::Get, "/x/../auth/x", Dotted, Decider::Dots),
        ] {
            let explained = endpoints().explain(target.as_bytes(), method);
            assert_eq!(explained.requirement, requirement, "{target}");
            assert_eq!(explained.decider, decider, "{target}");
        }
    }

    #[test]
    fn a_method_that_is_not_served_is_told() {
        let refused = |method| endpoints().explain(b"/_matrix/client/v3/sync", method);
        assert!(refused(Method::Delete).is_refused);
        assert!(!refused(Method::Get).is_refused);
    }

    #[test]
    fn each_family_has_a_source() {
        for name in table::family_names() {
            let is_of_synapse = ["account_validity", "tokenrefresh"].contains(&name);
            let source = specification(name);
            assert_eq!(source.starts_with("an extension"), is_of_synapse, "{name}");
        }
        assert_eq!(specification("io.element.msc4306"), "MSC4306");
        assert_eq!(specification("org.matrix.msc3814.v1"), "MSC3814");
    }

    #[test]
    fn every_section_is_of_a_family() {
        let names = || {
            SECTIONS
                .iter()
                .chain(NAMED_OTHERWISE)
                .map(|(name, _)| *name)
        };
        for name in names() {
            assert!(table::family_names().any(|family| family == name), "{name}");
        }
    }

    proptest::proptest! {
        /// Without a prefix of MAS only the table and the blocked paths decide, and they say what is told.
        #[test]
        fn who_is_told_to_decide_decides(
            path in "/(_matrix|_synapse|oauth2|auth)/(client|media|mas)?/(v3|r0|unstable)?/(sync|account|login|rooms|x|profile)?(/[a-z]{0,3}){0,3}",
            method in proptest::sample::select(vec![Method::Get, Method::Post, Method::Delete]),
        ) {
            let explained = Endpoints::default().explain(path.as_bytes(), method);
            let told = match explained.decider {
                Decider::Blocked => AuthRequirement::Blocked,
                Decider::Nothing => AuthRequirement::Unknown,
                Decider::Family { .. } | Decider::Line { .. } => explained.requirement,
                Decider::Configured(_) | Decider::Dots | Decider::MasPrefix => {
                    return Err(proptest::test_runner::TestCaseError::fail("there is no such rule"));
                }
            };
            proptest::prop_assert_eq!(told, explained.requirement);
        }
    }
}
