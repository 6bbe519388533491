//! What MAS tells the homeserver about its users and devices, and what of it ends answers: the requests
//! `POST /_synapse/mas/{name}`, with JSON bodies.
//!
//! The non-obvious rule: `sync_devices` lists the devices that *remain*. Tokens without a device are in no
//! list, so it ends the answers about them too. `provision_user` tells of a lock (`locked: true`), and
//! otherwise of a user who may have been unlocked: tokens called inactive may be active again. A lock or a deletion makes
//! no token active. It leaves the answers of "inactive" alone, since to void them would void everybody's. `upsert_device`
//! tells of a login, which may have taken the device over: MAS then ends the device's other sessions and says
//! nothing else.

use alloc::{string::String, vec::Vec};
use core::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::user::{DeviceKey, UserKey};
use crate::{json, metrics::InvalidationReason, text::work};

/// Devices of a list that are named. It is as many as are told apart of one user; of others MAS is asked once more.
pub const MAX_NAMED_DEVICES: usize = 32;

/// The requests that end answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProvisioningEndpoint {
    /// One device is no more.
    DeleteDevice,
    /// A user is no more.
    DeleteUser,
    /// A user is made or changed: also locked and unlocked.
    ProvisionUser,
    /// A deleted user is back.
    ReactivateUser,
    /// These devices remain.
    SyncDevices,
    /// A login has made a device, or has taken it over.
    UpsertDevice,
}

/// Which answers about a user are void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Voiding {
    /// All, also those of "inactive".
    All,
    /// Those of tokens without a device, and of all devices but these: [`MAX_NAMED_DEVICES`] at the most.
    AllExcept(Vec<DeviceKey>),
    /// Those of one device.
    Device(DeviceKey),
    /// Those of "inactive": the tokens may have come back to life.
    Inactive,
}

/// What a request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvisioningEvent {
    /// Who it is about.
    pub user: UserKey,
    /// Which answers it ends.
    pub voiding: Voiding,
}

impl ProvisioningEndpoint {
    /// The endpoint of a request, if it is one of these. `target` is the raw `:path`; MAS sends it plain,
    /// and puts the path of its `matrix.endpoint` before it. A path of the Matrix API is none of these,
    /// whatever its last segments are: clients choose them.
    pub fn of(method: &[u8], target: &[u8]) -> Option<Self> {
        if method != b"POST" || target.contains(&b'?') || target.starts_with(b"/_matrix/") {
            return None;
        }
        let slash = target.iter().rposition(|&byte| byte == b'/')?;
        let (directory, name) = target.split_at_checked(slash + 1)?;
        if !directory.ends_with(b"/_synapse/mas/") {
            return None;
        }
        let mut reasons = InvalidationReason::ALL.iter();
        let reason = reasons.find(|reason| reason.label().as_bytes() == name)?;
        Self::that_ends_by(*reason)
    }

    /// Returns the request by which answers end for this reason, if it is one.
    const fn that_ends_by(reason: InvalidationReason) -> Option<Self> {
        match reason {
            InvalidationReason::DeleteDevice => Some(Self::DeleteDevice),
            InvalidationReason::DeleteUser => Some(Self::DeleteUser),
            InvalidationReason::ProvisionUser => Some(Self::ProvisionUser),
            InvalidationReason::ReactivateUser => Some(Self::ReactivateUser),
            InvalidationReason::SyncDevices => Some(Self::SyncDevices),
            InvalidationReason::UpsertDevice => Some(Self::UpsertDevice),
            InvalidationReason::Homeserver
            | InvalidationReason::Introspection
            | InvalidationReason::Logout
            | InvalidationReason::Revocation => None,
        }
    }

    /// Returns why answers end. The metrics call it by the name of the request.
    pub const fn reason(self) -> InvalidationReason {
        match self {
            Self::DeleteDevice => InvalidationReason::DeleteDevice,
            Self::DeleteUser => InvalidationReason::DeleteUser,
            Self::ProvisionUser => InvalidationReason::ProvisionUser,
            Self::ReactivateUser => InvalidationReason::ReactivateUser,
            Self::SyncDevices => InvalidationReason::SyncDevices,
            Self::UpsertDevice => InvalidationReason::UpsertDevice,
        }
    }

    /// What a request with this body says; `None` if the homeserver will not understand it either.
    pub fn read(self, body: &[u8]) -> Option<ProvisioningEvent> {
        let body: Body = json::read_object(body)?;
        let voiding = match self {
            Self::DeleteDevice | Self::UpsertDevice => {
                Voiding::Device(DeviceKey::of(&body.device_id?))
            }
            Self::ReactivateUser => Voiding::All,
            Self::DeleteUser => Voiding::AllExcept(Vec::new()),
            Self::ProvisionUser if body.locked == Some(true) => Voiding::AllExcept(Vec::new()),
            Self::ProvisionUser => Voiding::Inactive,
            Self::SyncDevices => Voiding::AllExcept(body.devices?.0),
        };
        Some(ProvisioningEvent {
            user: UserKey::of(&body.localpart),
            voiding,
        })
    }

    /// What can be said from the beginning of a body that is too long to be kept: that of the user
    /// everything may have changed.
    pub fn read_beginning(self, beginning: &[u8]) -> Option<ProvisioningEvent> {
        let mut localpart = None;
        // It ends in an error, since the body does.
        let _ = json::visit_beginning(beginning, FindLocalpart(&mut localpart));
        Some(ProvisioningEvent {
            user: UserKey::of(&localpart?),
            voiding: Voiding::All,
        })
    }
}

#[derive(Deserialize)]
struct Body {
    localpart: String,
    devices: Option<Devices>,
    device_id: Option<String>,
    locked: Option<bool>,
}

/// A list of device ids, of which the first are named. The others are read, and no more: a list may hold twenty thousand,
/// and to name one takes as long as to read a hundred.
struct Devices(Vec<DeviceKey>);

impl<'de> Deserialize<'de> for Devices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ReadDevices)
    }
}

struct ReadDevices;

impl<'de> Visitor<'de> for ReadDevices {
    type Value = Devices;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of device ids")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Devices, A::Error> {
        let mut devices = Vec::new();
        while devices.len() < MAX_NAMED_DEVICES {
            match elements.next_element()? {
                Some(DeviceId(key)) => devices.push(key),
                None => return Ok(Devices(devices)),
            }
        }
        while elements.next_element::<AnyText>()?.is_some() {}
        Ok(Devices(devices))
    }
}

/// The key of a device id, made without a copy of it.
struct DeviceId(DeviceKey);

impl<'de> Deserialize<'de> for DeviceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ReadText(|id: &str| Self(DeviceKey::of(id))))
    }
}

/// A text that is read and not kept.
struct AnyText;

impl<'de> Deserialize<'de> for AnyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ReadText(|text: &str| {
            work::note(1 + text.len());
            Self
        }))
    }
}

struct ReadText<F>(F);

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for ReadText<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        Ok((self.0)(text))
    }
}

struct FindLocalpart<'a>(&'a mut Option<String>);

impl<'de> Visitor<'de> for FindLocalpart<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a localpart")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<String>()? {
            if name == "localpart" {
                *self.0 = Some(members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
