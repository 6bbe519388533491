//! The state of a MAS: users, sessions and their tokens, and what introspection, revocation and logout make of them.
//!
//! No I/O and no clock: time is an argument, since the Unix epoch. RFC 7662, RFC 7009.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use serde::Serialize;

use super::{
    client::Client,
    session::{Kind, Session, ulid},
    token,
};

/// Everything that MAS has in its database.
#[derive(Default)]
pub(super) struct State {
    next_session: u64,
    sessions: HashMap<u64, Session>,
    tokens: HashMap<String, Token>,
    locked: HashSet<String>,
    deactivated: HashSet<String>,
}

#[derive(Clone)]
struct Token {
    session: u64,
    token_use: TokenUse,
    issued: Duration,
    expires: Option<Duration>,
    jti: Option<String>,
    /// Of an access token: whether it was ever introspected as active.
    is_used: bool,
    /// Of a refresh token: the access token that was issued with it.
    access_token: Option<String>,
    /// Of a refresh token that was used: the refresh token that was issued for it.
    replaced_by: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum TokenUse {
    AccessToken,
    RefreshToken,
}

/// A refresh between its two ends: the refresh token was found good, and nothing has changed yet.
pub(super) struct RefreshInProgress {
    session: u64,
    refresh_token: String,
    /// The pair that an earlier refresh with the same token issued, and that its client seems never to have received.
    lost: Option<Pair>,
}

/// The tokens that one refresh issues.
struct Pair {
    access_token: Option<String>,
    refresh_token: String,
}

/// The members of an active answer, in MAS's order; absent ones are left out, never null.
#[derive(Debug, Serialize)]
pub(super) struct Active {
    active: bool,
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    token_type: TokenUse,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<u64>,
    iat: u64,
    nbf: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
}

/// The outcome of an introspection.
#[derive(Debug)]
pub(super) enum Introspection {
    Active(Box<Active>),
    Inactive,
    /// The token cannot be put into a query.
    DatabaseError,
}

/// The outcome of a revocation.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Revocation {
    /// Ended, or nothing there to end; with the user whose devices MAS then syncs.
    Done(Option<String>),
    /// The session belongs to another client.
    AnotherClient,
    /// A `token_type_hint` that names no kind of token.
    UnsupportedTokenType,
}

impl State {
    /// Holds `session` from `now` on, under `token`; whatever the token was before is forgotten.
    pub(super) fn insert(&mut self, token: &str, session: Session, now: Duration) {
        let id = self.next_session;
        self.next_session += 1;
        let with_jti = session.kind == Kind::OAuth2;
        let jti = |given: &Option<String>, token: &str| {
            with_jti.then(|| given.clone().unwrap_or_else(|| ulid(token)))
        };
        let access = Token {
            session: id,
            token_use: TokenUse::AccessToken,
            issued: session.issued.unwrap_or(now),
            expires: session.expires(now),
            jti: jti(&session.jti, token),
            is_used: false,
            access_token: None,
            replaced_by: None,
        };
        if let Some(refresh) = &session.refresh {
            let held = Token {
                token_use: TokenUse::RefreshToken,
                expires: None,
                jti: jti(&refresh.jti, &refresh.token),
                access_token: Some(token.to_owned()),
                ..access.clone()
            };
            self.hold(refresh.token.clone(), held);
        }
        self.sessions.insert(id, session);
        self.hold(token.to_owned(), access);
    }

    /// Begins a session of the legacy login API, which takes the device over: all sessions of the user that have it
    /// end, OAuth 2.0 ones as well.
    pub(super) fn log_in(&mut self, token: &str, session: Session, now: Duration) {
        if let (Some(user), Some(device)) = (&session.username, &session.device) {
            self.sessions
                .retain(|_, held| !held.gives_way_to(user, device));
        }
        self.insert(token, session, now);
    }

    fn hold(&mut self, token: String, held: Token) {
        let session = held.session;
        if let Some(before) = self.tokens.insert(token, held)
            && before.session != session
        {
            self.sessions.remove(&before.session);
        }
    }

    /// Ends the session of `token`, with all its tokens. Returns the user whose devices MAS then syncs: none if there
    /// was no session, or none that the homeserver has to know of.
    pub(super) fn end(&mut self, token: &str) -> Option<String> {
        let token = self.tokens.get(token)?;
        let session = self.sessions.remove(&token.session)?;
        session.synced_user().map(str::to_owned)
    }

    /// Holds nothing of `token` any more, nor of its session.
    pub(super) fn forget(&mut self, token: &str) {
        if let Some(token) = self.tokens.remove(token) {
            self.sessions.remove(&token.session);
        }
    }

    /// Puts the access token `new` in the place of `old`.
    pub(super) fn refresh(&mut self, old: &str, new: &str, now: Duration) {
        let Some(id) = self
            .tokens
            .get(old)
            .filter(|token| token.token_use == TokenUse::AccessToken)
            .map(|token| token.session)
        else {
            return;
        };
        let Some(token) = self.issue(id, TokenUse::AccessToken, new, now) else {
            return;
        };
        self.tokens.remove(old);
        for refresh in self.tokens.values_mut() {
            if refresh.access_token.as_deref() == Some(old) {
                refresh.access_token = Some(new.to_owned());
            }
        }
        self.hold(new.to_owned(), token);
    }

    /// The first half of a refresh, where MAS looks whether `refresh_token` is good; `None` if it refuses.
    ///
    /// An OAuth 2.0 refresh token that was used is good once more while its successor and the access token issued with
    /// that are unused: the client may not have received them. A compat one is never good twice. Whether the user is
    /// locked, MAS does not ask here.
    pub(super) fn begin_refresh(&self, refresh_token: &str) -> Option<RefreshInProgress> {
        let token = self
            .tokens
            .get(refresh_token)
            .filter(|token| token.token_use == TokenUse::RefreshToken)?;
        let session = self.sessions.get(&token.session)?;
        let lost = match &token.replaced_by {
            None => None,
            Some(_) if session.kind == Kind::Compat => return None,
            Some(next) => Some(self.unused_pair(next)?),
        };
        Some(RefreshInProgress {
            session: token.session,
            refresh_token: refresh_token.to_owned(),
            lost,
        })
    }

    /// The refresh token and the access token issued with it, if neither was used.
    fn unused_pair(&self, refresh_token: &str) -> Option<Pair> {
        let token = self
            .tokens
            .get(refresh_token)
            .filter(|token| token.replaced_by.is_none())?;
        let is_used = token
            .access_token
            .as_ref()
            .and_then(|access| self.tokens.get(access))
            .is_some_and(|access| access.is_used);
        (!is_used).then(|| Pair {
            access_token: token.access_token.clone(),
            refresh_token: refresh_token.to_owned(),
        })
    }

    /// The second half of a refresh, where MAS issues the new pair and ends what it replaces: the access token that was
    /// issued with the refresh token, and a pair that was lost. A pair that another refresh has issued since the first
    /// half is not among them. Of a compat session MAS also uses up all other refresh tokens.
    pub(super) fn commit_refresh(
        &mut self,
        refresh: RefreshInProgress,
        new_access: &str,
        new_refresh: &str,
        now: Duration,
    ) {
        let id = refresh.session;
        let (Some(access), Some(next)) = (
            self.issue(id, TokenUse::AccessToken, new_access, now),
            self.issue(id, TokenUse::RefreshToken, new_refresh, now),
        ) else {
            return;
        };
        if let Some(lost) = refresh.lost {
            self.tokens.remove(&lost.refresh_token);
            if let Some(access) = lost.access_token {
                self.tokens.remove(&access);
            }
        }
        if let Some(used) = self.tokens.get_mut(&refresh.refresh_token) {
            used.replaced_by = Some(new_refresh.to_owned());
            if let Some(access) = used.access_token.clone() {
                self.tokens.remove(&access);
            }
        }
        if self.sessions.get(&id).map(|session| session.kind) == Some(Kind::Compat) {
            self.tokens
                .values_mut()
                .filter(|token| token.session == id && token.token_use == TokenUse::RefreshToken)
                .for_each(|token| token.replaced_by = Some(new_refresh.to_owned()));
        }
        self.hold(new_access.to_owned(), access);
        let next = Token {
            access_token: Some(new_access.to_owned()),
            ..next
        };
        self.hold(new_refresh.to_owned(), next);
    }

    /// What is left of a token's life; `None` if it does not expire.
    pub(super) fn left_of(&self, token: &str, now: Duration) -> Option<Duration> {
        let expires = self.tokens.get(token)?.expires?;
        Some(expires.saturating_sub(now))
    }

    /// A new token for a session that has not ended.
    fn issue(&self, id: u64, token_use: TokenUse, token: &str, now: Duration) -> Option<Token> {
        let session = self.sessions.get(&id)?;
        Some(Token {
            session: id,
            token_use,
            issued: now,
            expires: session
                .expires(now)
                .filter(|_| token_use == TokenUse::AccessToken),
            jti: (session.kind == Kind::OAuth2).then(|| ulid(token)),
            is_used: false,
            access_token: None,
            replaced_by: None,
        })
    }

    pub(super) fn lock(&mut self, username: &str) {
        self.locked.insert(username.to_owned());
    }

    pub(super) fn unlock(&mut self, username: &str) {
        self.locked.remove(username);
    }

    pub(super) fn is_locked(&self, username: &str) -> bool {
        self.locked.contains(username)
    }

    /// Ends all sessions of the user, and the personal tokens that the user owns but that act as another.
    pub(super) fn deactivate(&mut self, username: &str) {
        self.deactivated.insert(username.to_owned());
        self.sessions
            .retain(|_, session| session.users().all(|user| user != username));
    }

    pub(super) fn reactivate(&mut self, username: &str) {
        self.deactivated.remove(username);
    }

    /// The devices of the user's sessions. A session has its device until it ends, also with no token left in time.
    pub(super) fn devices(&self, username: &str) -> BTreeSet<&str> {
        self.sessions
            .values()
            .filter(|session| session.username.as_deref() == Some(username))
            .flat_map(Session::devices)
            .collect()
    }

    /// Whether `token` is an access token that an introspection would call active.
    pub(super) fn is_active(&self, token: &str, now: Duration) -> bool {
        self.valid(token, now)
            .is_some_and(|(found, _)| found.token_use == TokenUse::AccessToken)
    }

    /// RFC 7662. `with_device_id`: the caller understands the `device_id` member. An active token counts as used from
    /// then on.
    pub(super) fn introspect(
        &mut self,
        token: &str,
        hint: Option<&str>,
        with_device_id: bool,
        now: Duration,
    ) -> Introspection {
        let introspection = self.introspection(token, hint, with_device_id, now);
        if matches!(introspection, Introspection::Active(_))
            && let Some(token) = self.tokens.get_mut(token)
        {
            token.is_used = true;
        }
        introspection
    }

    fn introspection(
        &self,
        token: &str,
        hint: Option<&str>,
        with_device_id: bool,
        now: Duration,
    ) -> Introspection {
        let Some((found, session)) = self.valid(token, now) else {
            return if token.contains('\0') && token::is_possible(token) {
                Introspection::DatabaseError
            } else {
                Introspection::Inactive
            };
        };
        let hinted = match hint {
            None => true,
            Some("access_token") => found.token_use == TokenUse::AccessToken,
            Some("refresh_token") => found.token_use == TokenUse::RefreshToken,
            Some(_) => false,
        };
        if !hinted {
            return Introspection::Inactive;
        }
        let is_compat = session.kind == Kind::Compat;
        // A compat device that is no scope token can only be told in `device_id`; without it MAS gives up.
        let Some(scope) = session.scope_member(!(is_compat && with_device_id)) else {
            return Introspection::Inactive;
        };
        let iat = nearest_second(found.issued);
        Introspection::Active(Box::new(Active {
            active: true,
            scope,
            client_id: if is_compat {
                Some("legacy".to_owned())
            } else {
                session.client_id.clone()
            },
            username: session.username.clone(),
            token_type: found.token_use,
            exp: found.expires.map(nearest_second),
            expires_in: found
                .expires
                .map(|expires| nearest_second(expires.saturating_sub(now))),
            iat,
            nbf: iat,
            sub: session.sub.clone(),
            jti: found.jti.clone(),
            device_id: session.device.clone().filter(|_| is_compat),
        }))
    }

    /// RFC 7009. Ends the whole session; tokens of the legacy login API and personal ones it does not touch.
    pub(super) fn revoke(
        &mut self,
        token: &str,
        hint: Option<&str>,
        client: &Client,
        now: Duration,
    ) -> Revocation {
        let wanted = match hint {
            None => None,
            Some("access_token") => Some(TokenUse::AccessToken),
            Some("refresh_token") => Some(TokenUse::RefreshToken),
            Some(_) => return Revocation::UnsupportedTokenType,
        };
        let Some((found, session)) = self.valid(token, now) else {
            return Revocation::Done(None);
        };
        if session.kind != Kind::OAuth2 || wanted.is_some_and(|wanted| wanted != found.token_use) {
            return Revocation::Done(None);
        }
        if session.client_id.as_deref() != Some(client.id.as_str()) {
            return Revocation::AnotherClient;
        }
        Revocation::Done(self.end(token))
    }

    /// Compat logout: ends the session of a valid compat access token and returns its user; `None` for other tokens.
    pub(super) fn log_out(&mut self, token: &str, now: Duration) -> Option<String> {
        self.valid(token, now).filter(|(found, session)| {
            session.kind == Kind::Compat && found.token_use == TokenUse::AccessToken
        })?;
        self.end(token)
    }

    /// Compat logout of everything: ends all compat sessions of the user of a valid compat access token.
    pub(super) fn log_out_all(&mut self, token: &str, now: Duration) -> Option<String> {
        let user = self.log_out(token, now)?;
        self.sessions.retain(|_, session| {
            session.kind != Kind::Compat || session.username.as_ref() != Some(&user)
        });
        Some(user)
    }

    /// `sub` and `username` of a valid OAuth 2.0 access token with a user.
    pub(super) fn user_info(&self, token: &str, now: Duration) -> Option<(String, String)> {
        let (found, session) = self.valid(token, now)?;
        let is_access = session.kind == Kind::OAuth2 && found.token_use == TokenUse::AccessToken;
        let (sub, username) = (session.sub.clone()?, session.username.clone()?);
        is_access.then_some((sub, username))
    }

    /// The token and its session, if neither has ended and the user may act.
    fn valid(&self, token: &str, now: Duration) -> Option<(&Token, &Session)> {
        let token = self.tokens.get(token)?;
        let session = self.sessions.get(&token.session)?;
        let expired = token.expires.is_some_and(|expires| expires <= now);
        let replaced = token.replaced_by.is_some();
        let barred = session
            .users()
            .any(|user| self.locked.contains(user) || self.deactivated.contains(user));
        (!expired && !replaced && !barred).then_some((token, session))
    }
}

/// MAS rounds to the nearest second, so `expires_in` may overstate by half a second, and `iat` may lie ahead by as much.
fn nearest_second(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_millis() >= 500)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_795_460_205);

    fn introspect(state: &mut State, token: &str, now: Duration) -> String {
        match state.introspect(token, Some("access_token"), true, now) {
            Introspection::Active(active) => serde_json::to_string(&active).expect("plain members"),
            Introspection::Inactive => "inactive".to_owned(),
            Introspection::DatabaseError => "database".to_owned(),
        }
    }

    fn member(
        state: &mut State,
        token: &str,
        now: Duration,
        name: &str,
    ) -> Option<serde_json::Value> {
        serde_json::from_str::<serde_json::Value>(&introspect(state, token, now))
            .ok()?
            .get(name)
            .cloned()
    }

    #[test]
    fn expires_in_is_rounded_to_the_nearest_second() {
        let mut state = State::default();
        state.insert(
            "t",
            Session::access("alice", "D").expires_in(Duration::from_secs(10)),
            NOW,
        );
        for (left_ms, expires_in) in [
            (10_000, 10),
            (1_600, 2),
            (1_500, 2),
            (1_200, 1),
            (900, 1),
            (499, 0),
            (1, 0),
        ] {
            let now = NOW + Duration::from_millis(10_000 - left_ms);
            assert_eq!(
                member(&mut state, "t", now, "expires_in"),
                Some(expires_in.into()),
                "{left_ms} ms left"
            );
        }
        assert_eq!(
            introspect(&mut state, "t", NOW + Duration::from_secs(10)),
            "inactive"
        );
    }

    #[test]
    fn a_fresh_token_may_be_issued_in_the_future() {
        let mut state = State::default();
        let now = NOW + Duration::from_millis(700);
        state.insert("t", Session::access("alice", "D"), now);
        assert_eq!(
            member(&mut state, "t", now, "iat"),
            Some((NOW.as_secs() + 1).into())
        );
        assert_eq!(
            member(&mut state, "t", now, "nbf"),
            Some((NOW.as_secs() + 1).into())
        );
    }

    #[test]
    fn revoking_ends_both_tokens_of_the_session() {
        let mut state = State::default();
        let app = Client::public("app");
        let session = || {
            Session::access("alice", "D")
                .client_id("app")
                .refresh_token("r")
        };
        for revoked in ["t", "r"] {
            state.insert("t", session(), NOW);
            assert_ne!(introspect(&mut state, "t", NOW), "inactive");
            assert_eq!(
                state.revoke(revoked, None, &Client::public("other"), NOW),
                Revocation::AnotherClient
            );
            assert_ne!(introspect(&mut state, "t", NOW), "inactive");
            assert_eq!(
                state.revoke(revoked, None, &app, NOW),
                Revocation::Done(Some("alice".to_owned()))
            );
            assert_eq!(introspect(&mut state, "t", NOW), "inactive");
            assert!(matches!(
                state.introspect("r", None, true, NOW),
                Introspection::Inactive
            ));
        }
    }

    #[test]
    fn revoking_with_the_wrong_hint_or_kind_does_nothing() {
        let mut state = State::default();
        let app = Client::public("app");
        state.insert("t", Session::access("alice", "D").client_id("app"), NOW);
        state.insert("c", Session::compat("alice", "D"), NOW);
        assert_eq!(
            state.revoke("t", Some("refresh_token"), &app, NOW),
            Revocation::Done(None)
        );
        assert_eq!(
            state.revoke("t", Some("foo"), &app, NOW),
            Revocation::UnsupportedTokenType
        );
        assert_eq!(state.revoke("c", None, &app, NOW), Revocation::Done(None));
        assert_ne!(introspect(&mut state, "t", NOW), "inactive");
        assert_ne!(introspect(&mut state, "c", NOW), "inactive");
    }

    #[test]
    fn unlocking_revives_the_same_token_and_deactivating_does_not() {
        let mut state = State::default();
        state.insert("t", Session::access("alice", "D"), NOW);
        state.lock("alice");
        assert_eq!(introspect(&mut state, "t", NOW), "inactive");
        state.unlock("alice");
        assert_ne!(introspect(&mut state, "t", NOW), "inactive");
        state.deactivate("alice");
        state.unlock("alice");
        assert_eq!(introspect(&mut state, "t", NOW), "inactive");
    }

    #[test]
    fn reactivating_does_not_revive_tokens() {
        let mut state = State::default();
        state.insert("before", Session::access("alice", "D"), NOW);
        state.deactivate("alice");
        state.insert("meanwhile", Session::access("alice", "E"), NOW);
        assert_eq!(introspect(&mut state, "meanwhile", NOW), "inactive");
        state.reactivate("alice");
        assert_eq!(introspect(&mut state, "before", NOW), "inactive");
        assert_ne!(introspect(&mut state, "meanwhile", NOW), "inactive");
    }

    #[test]
    fn a_refresh_keeps_the_session() {
        let mut state = State::default();
        let session = Session::access("alice", "D").expires_in(Duration::from_secs(10));
        state.insert("old", session.refresh_token("r"), NOW);
        let later = NOW + Duration::from_secs(8);
        state.refresh("r", "none", later);
        state.refresh("old", "new", later);
        assert_eq!(introspect(&mut state, "old", later), "inactive");
        assert_eq!(introspect(&mut state, "none", later), "inactive");
        assert_eq!(
            member(&mut state, "new", later, "expires_in"),
            Some(10.into()),
            "counted anew"
        );
        assert_eq!(state.end("r").as_deref(), Some("alice"));
        assert_eq!(introspect(&mut state, "new", later), "inactive");
    }

    #[test]
    fn logout_takes_compat_access_tokens_only() {
        let mut state = State::default();
        state.insert("oauth", Session::access("alice", "A"), NOW);
        state.insert(
            "compat",
            Session::compat("alice", "B").refresh_token("refresh"),
            NOW,
        );
        state.insert("compat2", Session::compat("alice", "C"), NOW);
        state.insert("bob", Session::compat("bob", "B"), NOW);
        let alice = Some("alice".to_owned());
        assert_eq!(state.log_out("oauth", NOW), None);
        assert_eq!(state.log_out("refresh", NOW), None);
        assert_eq!(state.log_out("compat", NOW), alice);
        assert_eq!(state.log_out("compat", NOW), None);
        assert_eq!(state.log_out_all("compat2", NOW), alice);
        assert_eq!(introspect(&mut state, "compat2", NOW), "inactive");
        assert_ne!(introspect(&mut state, "bob", NOW), "inactive");
        assert_ne!(introspect(&mut state, "oauth", NOW), "inactive");
    }

    #[test]
    fn inserting_again_replaces() {
        let mut state = State::default();
        state.insert("t", Session::access("alice", "D").refresh_token("r"), NOW);
        state.insert("t", Session::compat("bob", "E"), NOW);
        assert_eq!(member(&mut state, "t", NOW, "username"), Some("bob".into()));
        assert!(matches!(
            state.introspect("r", None, true, NOW),
            Introspection::Inactive
        ));
        assert_eq!(state.sessions.len(), 1);
    }

    #[test]
    fn only_tokens_that_reach_the_database_can_upset_it() {
        let mut state = State::default();
        assert_eq!(introspect(&mut state, "syt_a\0b", NOW), "database");
        assert_eq!(introspect(&mut state, "a\0b", NOW), "inactive");
    }
}
