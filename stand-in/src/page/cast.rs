//! Whose tokens the local stack's requests bring, and what MAS knows of each.
//!
//! There are as many as there are [`Member`]s, however often a button is pressed: where one gets a new token, MAS forgets
//! the one before. Tokens are made of names, so they are the same at each start.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;

use crate::mas::{Mas, Session, token};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A token that a button sends.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Member {
    /// Of an OAuth 2.0 session.
    Alice,
    /// Of a session of the legacy login API; the device id has a space.
    Bob,
    /// Of a session that has just begun, and that no cache knows.
    New,
    /// The one that a thousand requests bring at once.
    Herd,
    /// Of a session whose time is over.
    Expired,
    /// Of a session that has ended.
    LoggedOut,
    /// MAS could have made it, and has not.
    Unknown,
}

impl Member {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Alice,
        Self::Bob,
        Self::New,
        Self::Herd,
        Self::Expired,
        Self::LoggedOut,
        Self::Unknown,
    ];

    /// What the log and the page call it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Alice => "alice's phone",
            Self::Bob => "bob's old client",
            Self::New => "a new session",
            Self::Herd => "the herd",
            Self::Expired => "an expired token",
            Self::LoggedOut => "a logged-out token",
            Self::Unknown => "a token that nobody has",
        }
    }

    /// Whose it is.
    pub const fn user(self) -> Option<&'static str> {
        match self {
            Self::Alice | Self::Expired | Self::LoggedOut => Some("alice"),
            Self::Bob => Some("bob"),
            Self::New => Some("dave"),
            Self::Herd => Some("carol"),
            Self::Unknown => None,
        }
    }

    /// On which device.
    pub const fn device(self) -> Option<&'static str> {
        match self {
            Self::Alice => Some("PHONE"),
            Self::Bob => Some("OLD CLIENT"),
            Self::New => Some("NEW"),
            Self::Herd => Some("HERD"),
            Self::Expired => Some("TABLET"),
            Self::LoggedOut => Some("LAPTOP"),
            Self::Unknown => None,
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Bob => "mct",
            _ => "mat",
        }
    }

    /// The token that it begins with.
    pub fn first_token(self) -> String {
        self.token(0)
    }

    fn token(self, generation: u64) -> String {
        let title = self.title();
        match generation {
            0 => token(self.prefix(), title),
            _ => token(self.prefix(), &format!("{title}, {generation}")),
        }
    }

    fn session(self) -> Option<Session> {
        let (user, device) = self.user().zip(self.device())?;
        Some(match self {
            Self::Bob => Session::compat(user, device),
            Self::Expired => Session::access(user, device).expired(),
            _ => Session::access(user, device).expires_in(DAY),
        })
    }
}

/// The sessions of the local stack. `Debug` shows no token.
pub struct Cast {
    mas: Arc<Mas>,
    /// How many tokens a member has had before this one.
    generations: Mutex<BTreeMap<Member, u64>>,
}

impl Cast {
    /// Begins the sessions at `mas`. The herd and the new session begin with their buttons.
    pub fn begin(mas: Arc<Mas>) -> Self {
        for member in Member::ALL {
            let token = member.first_token();
            mas.name(&token, member.title());
            if matches!(member, Member::New | Member::Herd) {
                continue;
            }
            if let Some(session) = member.session() {
                mas.insert(&token, session);
            }
        }
        mas.revoke(&Member::LoggedOut.first_token());
        Self {
            mas,
            generations: Mutex::default(),
        }
    }

    /// The token that a member brings now.
    pub fn token(&self, member: Member) -> String {
        member.token(self.generation(member))
    }

    /// Begins another session of a member, whose token no cache knows, and returns the token. MAS forgets the one before.
    pub(super) fn begin_again(&self, member: Member) -> String {
        let mut generations = self.generations();
        let generation = generations.entry(member).or_default();
        self.mas.forget(&member.token(*generation));
        *generation += 1;
        let token = member.token(*generation);
        self.mas.name(&token, member.title());
        match member.session() {
            Some(session) if member == Member::Bob => self.mas.compat_login(&token, session),
            Some(session) => self.mas.insert(&token, session),
            None => {}
        }
        token
    }

    fn generation(&self, member: Member) -> u64 {
        self.generations().get(&member).copied().unwrap_or_default()
    }

    fn generations(&self) -> std::sync::MutexGuard<'_, BTreeMap<Member, u64>> {
        self.generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cast")
    }
}
