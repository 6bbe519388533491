//! What a test says about a token: whose it is, of which kind, for how long.

use std::{collections::BTreeSet, fmt, time::Duration};

use sha2::{Digest, Sha256};

/// The Matrix client-server API scope, stable and unstable spelling; MAS grants both together.
const API_SCOPES: [&str; 2] = [
    "urn:matrix:client:api:*",
    "urn:matrix:org.matrix.msc2967.client:api:*",
];
/// The device scopes, stable and unstable spelling; MAS grants both together.
const DEVICE_SCOPES: [&str; 2] = [
    "urn:matrix:client:device:",
    "urn:matrix:org.matrix.msc2967.client:device:",
];
/// The Synapse admin scope.
const ADMIN_SCOPE: &str = "urn:synapse:admin:*";
/// What MAS lets an OAuth 2.0 access token live by default.
const DEFAULT_ACCESS_TTL: Duration = Duration::from_secs(300);
/// The client that the sessions made here belong to unless they name another.
const DEFAULT_CLIENT: &str = "0000000000000000000000APP1";

/// A session as MAS would hold it, to be attached to a token with [`Mas::insert`](super::Mas::insert).
///
/// `Debug` shows the user and the device, never a token.
#[derive(Clone)]
pub struct Session {
    pub(super) kind: Kind,
    pub(super) username: Option<String>,
    pub(super) sub: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) device: Option<String>,
    pub(super) display_name: Option<String>,
    /// The user that a personal token belongs to, where it acts as another.
    pub(super) owner: Option<String>,
    pub(super) jti: Option<String>,
    pub(super) issued: Option<Duration>,
    expiry: Expiry,
    pub(super) refresh: Option<Refresh>,
    scopes: Scopes,
}

/// Which part of MAS issued the session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// OAuth 2.0, with a user or (client credentials) without.
    OAuth2,
    /// The legacy Matrix login API.
    Compat,
    /// A personal access token.
    Personal,
}

#[derive(Clone, Copy, Debug)]
enum Expiry {
    Never,
    /// After the moment of insertion.
    After(Duration),
    /// At a time since the Unix epoch.
    At(Duration),
}

#[derive(Clone)]
pub(super) struct Refresh {
    pub(super) token: String,
    pub(super) jti: Option<String>,
}

#[derive(Clone)]
enum Scopes {
    /// What MAS grants: the API and the device in both spellings, and these besides.
    Granted(BTreeSet<String>),
    /// Exactly this.
    Verbatim(String),
}

impl Session {
    /// An OAuth 2.0 access token of a user's device; expires after 300 s, as in MAS by default.
    pub fn access(username: &str, device: &str) -> Self {
        Self {
            client_id: Some(DEFAULT_CLIENT.to_owned()),
            expiry: Expiry::After(DEFAULT_ACCESS_TTL),
            ..Self::of_user(Kind::OAuth2, username, device)
        }
    }

    /// A token of the legacy login API (`mct_`, `syt_`, macaroon); does not expire.
    pub fn compat(username: &str, device: &str) -> Self {
        Self::of_user(Kind::Compat, username, device)
    }

    /// A personal access token (`mpt_`); does not expire.
    pub fn personal(username: &str, device: &str) -> Self {
        Self::of_user(Kind::Personal, username, device)
    }

    /// A client's own token: no user, no device, no Matrix API; expires after 300 s.
    pub fn client_credentials(client_id: &str) -> Self {
        Self {
            kind: Kind::OAuth2,
            username: None,
            sub: None,
            client_id: Some(client_id.to_owned()),
            device: None,
            display_name: None,
            owner: None,
            jti: None,
            issued: None,
            expiry: Expiry::After(DEFAULT_ACCESS_TTL),
            refresh: None,
            scopes: Scopes::Verbatim("urn:mas:admin urn:mas:graphql:*".to_owned()),
        }
    }

    fn of_user(kind: Kind, username: &str, device: &str) -> Self {
        Self {
            kind,
            username: Some(username.to_owned()),
            sub: Some(ulid(username)),
            client_id: None,
            device: Some(device.to_owned()),
            display_name: None,
            owner: None,
            jti: None,
            issued: None,
            expiry: Expiry::Never,
            refresh: None,
            scopes: Scopes::Granted(BTreeSet::new()),
        }
    }

    /// Ends this long after it is inserted.
    #[must_use]
    pub fn expires_in(self, after: Duration) -> Self {
        Self {
            expiry: Expiry::After(after),
            ..self
        }
    }

    /// Ends at this time since the Unix epoch, by the stand-in's clock.
    #[must_use]
    pub fn expires_at(self, since_epoch: Duration) -> Self {
        Self {
            expiry: Expiry::At(since_epoch),
            ..self
        }
    }

    /// Has ended already.
    #[must_use]
    pub fn expired(self) -> Self {
        self.expires_in(Duration::ZERO)
    }

    /// Never ends: MAS then sends neither `exp` nor `expires_in`.
    #[must_use]
    pub fn permanent(self) -> Self {
        Self {
            expiry: Expiry::Never,
            ..self
        }
    }

    /// Was issued at this time since the Unix epoch (`iat`, `nbf`); the moment of insertion unless said.
    #[must_use]
    pub fn issued_at(self, since_epoch: Duration) -> Self {
        Self {
            issued: Some(since_epoch),
            ..self
        }
    }

    /// Adds the Synapse admin scope.
    #[must_use]
    pub fn admin(self) -> Self {
        self.grant(ADMIN_SCOPE)
    }

    /// Adds one scope token to what MAS grants.
    #[must_use]
    pub fn grant(mut self, scope: &str) -> Self {
        match &mut self.scopes {
            Scopes::Granted(granted) => {
                granted.insert(scope.to_owned());
            }
            Scopes::Verbatim(scopes) => {
                scopes.push(' ');
                scopes.push_str(scope);
            }
        }
        self
    }

    /// Sends exactly this scope, whatever MAS would grant: other spellings, none, two devices.
    #[must_use]
    pub fn scope(self, scope: &str) -> Self {
        Self {
            scopes: Scopes::Verbatim(scope.to_owned()),
            ..self
        }
    }

    /// Belongs to this device.
    #[must_use]
    pub fn device(self, device: &str) -> Self {
        Self {
            device: Some(device.to_owned()),
            ..self
        }
    }

    /// Belongs to no device.
    #[must_use]
    pub fn no_device(self) -> Self {
        Self {
            device: None,
            ..self
        }
    }

    /// Gives the device this name, which [`Mas::compat_login`](super::Mas::compat_login) tells the homeserver.
    #[must_use]
    pub fn display_name(self, name: &str) -> Self {
        Self {
            display_name: Some(name.to_owned()),
            ..self
        }
    }

    /// Belongs to this user and acts as the one it was made for. Only personal tokens can. It is active while both
    /// users may act, and ends when either is deactivated.
    #[must_use]
    pub fn owned_by(self, owner: &str) -> Self {
        Self {
            owner: Some(owner.to_owned()),
            ..self
        }
    }

    /// Belongs to this client.
    #[must_use]
    pub fn client_id(self, client_id: &str) -> Self {
        Self {
            client_id: Some(client_id.to_owned()),
            ..self
        }
    }

    /// Has this `sub`; a ULID made from the user's name unless said.
    #[must_use]
    pub fn subject(self, sub: &str) -> Self {
        Self {
            sub: Some(sub.to_owned()),
            ..self
        }
    }

    /// Has this `jti`; a ULID made from the token unless said. Only OAuth 2.0 tokens have one.
    #[must_use]
    pub fn jti(self, jti: &str) -> Self {
        Self {
            jti: Some(jti.to_owned()),
            ..self
        }
    }

    /// Has this refresh token beside the access token. It lives as long as the session.
    #[must_use]
    pub fn refresh_token(self, token: &str) -> Self {
        Self {
            refresh: Some(Refresh {
                token: token.to_owned(),
                jti: None,
            }),
            ..self
        }
    }

    /// Like [`refresh_token`](Self::refresh_token), with the `jti` it has itself.
    #[must_use]
    pub fn refresh_token_with_jti(self, token: &str, jti: &str) -> Self {
        Self {
            refresh: Some(Refresh {
                token: token.to_owned(),
                jti: Some(jti.to_owned()),
            }),
            ..self
        }
    }

    pub(super) fn is_compat(&self) -> bool {
        self.kind == Kind::Compat
    }

    /// When an access token issued `now` ends.
    pub(super) fn expires(&self, now: Duration) -> Option<Duration> {
        match self.expiry {
            Expiry::Never => None,
            Expiry::After(after) => Some(now + after),
            Expiry::At(at) => Some(at),
        }
    }

    /// The devices that the homeserver has for this session: those in its scope, or the one of a compat session.
    pub(super) fn devices(&self) -> Vec<&str> {
        match &self.scopes {
            Scopes::Verbatim(scope) if self.kind != Kind::Compat => scope
                .split(' ')
                .filter_map(|scope| {
                    DEVICE_SCOPES
                        .iter()
                        .find_map(|prefix| scope.strip_prefix(prefix))
                })
                .collect(),
            _ => self.device.as_deref().into_iter().collect(),
        }
    }

    /// The users who must be neither locked nor deactivated for this session to be active.
    pub(super) fn users(&self) -> impl Iterator<Item = &str> {
        self.username.iter().chain(&self.owner).map(String::as_str)
    }

    /// Whether a compat login of the user with this device ends the session. Personal tokens stay.
    pub(super) fn gives_way_to(&self, username: &str, device: &str) -> bool {
        self.kind != Kind::Personal
            && self.username.as_deref() == Some(username)
            && self.devices().contains(&device)
    }

    /// The user whose devices MAS syncs when this session ends: none without a user, nor for a personal token
    /// without a device.
    pub(super) fn synced_user(&self) -> Option<&str> {
        self.username
            .as_deref()
            .filter(|_| self.kind != Kind::Personal || !self.devices().is_empty())
    }

    /// The scope member, with the device in it or not; `None` if the device cannot be written as a scope token.
    pub(super) fn scope_member(&self, with_device: bool) -> Option<String> {
        let granted = match &self.scopes {
            Scopes::Verbatim(scope) => return Some(scope.clone()),
            Scopes::Granted(granted) => granted,
        };
        let mut scopes = granted.clone();
        scopes.extend(API_SCOPES.map(str::to_owned));
        if let Some(device) = self.device.as_deref().filter(|_| with_device) {
            if !device.bytes().all(is_scope_byte) {
                return None;
            }
            scopes.extend(DEVICE_SCOPES.map(|prefix| format!("{prefix}{device}")));
        }
        // MAS keeps scopes as a sorted set.
        Some(scopes.into_iter().collect::<Vec<_>>().join(" "))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("kind", &self.kind)
            .field("username", &self.username)
            .field("device", &self.device)
            .field("expiry", &self.expiry)
            .finish_non_exhaustive()
    }
}

/// RFC 6749, appendix A.4: what a scope token is made of.
const fn is_scope_byte(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E)
}

/// A stable ULID for a name: the shape of the identifiers of MAS.
pub(super) fn ulid(name: &str) -> String {
    const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let digest = Sha256::digest(name.as_bytes());
    digest
        .iter()
        .take(24)
        .map(|byte| char::from(CROCKFORD[usize::from(byte % 32)]))
        .fold(String::from("01"), |mut ulid, digit| {
            ulid.push(digit);
            ulid
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_sorted() {
        let scope = Session::access("alice", "DEV")
            .admin()
            .grant("openid")
            .scope_member(true);
        assert_eq!(
            scope.as_deref(),
            Some(
                "openid urn:matrix:client:api:* urn:matrix:client:device:DEV urn:matrix:org.matrix.msc2967.client:api:* \
                 urn:matrix:org.matrix.msc2967.client:device:DEV urn:synapse:admin:*"
            )
        );
    }

    #[test]
    fn a_device_that_is_no_scope_token_has_no_scope() {
        for device in ["a b", "a\"b", "a\\b", "é"] {
            assert_eq!(Session::compat("bob", device).scope_member(true), None);
            assert!(Session::compat("bob", device).scope_member(false).is_some());
        }
    }

    #[test]
    fn devices_are_those_of_the_scope() {
        let of = |session: Session| session.devices().join(" ");
        assert_eq!(of(Session::access("alice", "DEV")), "DEV");
        assert_eq!(of(Session::access("alice", "DEV").no_device()), "");
        assert_eq!(of(Session::access("alice", "DEV").scope("openid")), "");
        let two = "urn:matrix:client:device:A urn:matrix:org.matrix.msc2967.client:device:B";
        assert_eq!(of(Session::access("alice", "DEV").scope(two)), "A B");
        assert_eq!(of(Session::compat("bob", "a b").scope("openid")), "a b");
    }

    #[test]
    fn not_every_end_of_a_session_is_told() {
        assert_eq!(
            Session::access("alice", "D").no_device().synced_user(),
            Some("alice")
        );
        assert_eq!(Session::personal("alice", "D").synced_user(), Some("alice"));
        assert_eq!(
            Session::personal("alice", "D").no_device().synced_user(),
            None
        );
        assert_eq!(Session::client_credentials("app").synced_user(), None);
    }

    #[test]
    fn ulids_have_their_shape_and_are_stable() {
        assert_eq!(ulid("alice").len(), 26);
        assert_eq!(ulid("alice"), ulid("alice"));
        assert_ne!(ulid("alice"), ulid("bob"));
    }

    #[test]
    fn debug_shows_no_token() {
        let session = Session::access("alice", "DEV")
            .refresh_token("mar_secret")
            .jti("JTI");
        let shown = format!("{session:?}");
        assert!(
            !shown.contains("mar_secret") && !shown.contains("JTI"),
            "{shown}"
        );
    }
}
