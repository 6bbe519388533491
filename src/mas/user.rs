//! Users and devices as shared data names them: by a hash, since a stored name would be personal data.

use crate::{
    hashes::sip_hash::{self, Key},
    text::work,
};

/// The key of the hash, which everyone knows. So a user may find two names with one hash. Then the end of one user's sessions
/// voids answers about the other user as well, and the worker asks MAS once more; and both take turns as one in the line for free calls.
/// Nothing else may depend on these hashes.
const KEY: Key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

/// A user: a hash of the localpart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserKey(pub [u8; 16]);

/// A device of a user: a hash of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceKey(pub [u8; 16]);

impl UserKey {
    /// The key of the user with this localpart. MAS knows no other part of a user id.
    pub fn of(localpart: &str) -> Self {
        Self(hash(localpart))
    }
}

impl DeviceKey {
    /// The key of the device with this id.
    pub fn of(device_id: &str) -> Self {
        Self(hash(device_id))
    }
}

fn hash(text: &str) -> [u8; 16] {
    work::note(text.len());
    sip_hash::hash(KEY, text.as_bytes())
}
