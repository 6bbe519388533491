//! The tokens that the token endpoint issues (RFC 6749, section 5.1).

use std::{fmt, sync::atomic::Ordering, time::Duration};

use super::{Shared, lock, token};

/// What a refresh gives out. `Debug` does not show it.
pub(super) struct Issued {
    pub(super) access_token: String,
    pub(super) refresh_token: String,
    /// `None`: the access token does not expire.
    pub(super) expires_in: Option<Duration>,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Exchanges a refresh token for new tokens; `None` if it is not good.
    pub(super) fn issue_by_refresh(&self, refresh_token: &str) -> Option<Issued> {
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let name = format!("issued by the token endpoint, {number}");
        let (access_token, refresh_token_issued) = (token("mat", &name), token("mar", &name));
        let now = self.clock.now();
        // Under one lock: of two requests with one refresh token the second finds it used.
        let mut state = lock(&self.state);
        let begun = state.begin_refresh(refresh_token)?;
        state.commit_refresh(begun, &access_token, &refresh_token_issued, now);
        Some(Issued {
            expires_in: state.left_of(&access_token, now),
            access_token,
            refresh_token: refresh_token_issued,
        })
    }
}
