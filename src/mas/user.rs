//! Users and devices as shared data names them: by a digest, since a stored name would be personal data.

use sha2::{Digest as _, Sha256};

use super::introspection::ActiveToken;
use crate::form::steps;

/// A user: half the SHA-256 of the localpart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserKey(pub [u8; 16]);

/// A device of a user: half the SHA-256 of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceKey(pub [u8; 16]);

impl UserKey {
    /// The key of the user with this localpart. MAS knows no other part of a user id.
    pub fn of(localpart: &str) -> Self {
        Self(half_digest(localpart))
    }

    /// The key of the user that `token` belongs to, if it belongs to one.
    pub fn of_token(token: &ActiveToken<'_>) -> Option<Self> {
        token.username.map(Self::of)
    }
}

impl DeviceKey {
    /// The key of the device with this id.
    pub fn of(device_id: &str) -> Self {
        Self(half_digest(device_id))
    }
}

fn half_digest(text: &str) -> [u8; 16] {
    // A block of SHA-256, which is what the shortest text costs, too.
    steps::note(text.len().max(64));
    let digest = Sha256::digest(text).0;
    let mut half = [0; 16];
    half.iter_mut()
        .zip(digest)
        .for_each(|(half, byte)| *half = byte);
    half
}
