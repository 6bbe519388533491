//! Voiding records: for a user, or one device of the user, the moment up to which cached answers are void. They are
//! written when MAS tells the homeserver that sessions have ended.
//!
//! Shared data cannot be listed, so nothing is searched for and removed. Instead a record says at which
//! moment answers about a user, or about one device of the user, became void, and a look-up compares
//! it with the moment *before the question was sent*, unless the user's epoch says that there is nothing to compare, see
//! [`super::epoch`]. So an answer that was on its way at the time is void
//! too. All moments are on the one monotonic clock of the process. Of answers that name no user there is one moment for all;
//! nearly all of them are "inactive".
//!
//! Two versions of the module may write at once, while an update takes its time. So the beginning of a slot, with its latest
//! moment, is the same in every format: neither version forgets what the other one was told.
//!
//! Records live in a fixed number of slots. A record that makes room for another user's leaves its latest
//! moment behind as the slot's *floor*, which holds for every user of the slot: room is made by voiding too
//! much, which costs an introspection, and never too little. The same holds where a record cannot be read: it may void the
//! answer, so it does.

use alloc::{vec, vec::Vec};

use super::inactive::KeptMark;
use crate::{
    clock::Instant,
    host::{NotWritten, Store, Unreadable, update},
    mas::{
        introspection::{ActiveAnswer, ActiveToken},
        provisioning::{MAX_NAMED_DEVICES, Voiding},
        user::{DeviceKey, UserKey},
    },
    matrix::{
        identity::{self, ScopeRights},
        reply::Rejection,
    },
    shared_data::{
        key_space::KeySpace,
        name::{self, FORMAT_VERSION, Space},
    },
};

/// Slots for the records of users.
const SLOTS: u32 = 16_384;

/// Devices of a user with a moment of their own. The others share one.
const MAX_DEVICES: usize = MAX_NAMED_DEVICES;

/// The records, as any worker sees them.
#[derive(Debug)]
pub struct Voidings {
    keys: KeySpace,
    kept: KeptMark,
}

impl Default for Voidings {
    fn default() -> Self {
        Self {
            keys: KeySpace::new(Space::Users, SLOTS),
            kept: KeptMark::default(),
        }
    }
}

impl Voidings {
    /// Voids answers about `user` to questions that were sent at `now` or before. What cannot be written leaves the rest to be
    /// written: each of the three voids answers that the other two do not.
    pub fn add(
        &self,
        store: &impl Store,
        user: &UserKey,
        voiding: &Voiding,
        now: Instant,
    ) -> Result<(), NotWritten> {
        let key = self.keys.key(store, &user.0);
        let recorded = update(store, key.as_bytes(), &mut |stored| {
            let mut slot = stored.and_then(Slot::decode).unwrap_or_default();
            slot.enter(*user).void(voiding, now);
            slot.encode()
        });
        match voiding {
            Voiding::All | Voiding::Inactive => {
                let revived = update(store, name::REVIVED, &mut |stored| {
                    let latest = stored.and_then(moment).unwrap_or_default().max(now);
                    latest.to_le_bytes().to_vec()
                });
                let voided = self.kept.void(store);
                recorded.and(revived).and(voided)
            }
            Voiding::AllExcept(_) | Voiding::Device(_) => recorded,
        }
    }

    /// Whether an answer that a token of `user` is active is void, which was asked for at `asked_at`. Its texts are looked for
    /// only if there is a record.
    pub fn voids_active(
        &self,
        store: &impl Store,
        user: &UserKey,
        answer: &ActiveAnswer,
        asked_at: Instant,
    ) -> bool {
        let slot = match self.read(store, user) {
            Ok(Some(slot)) => slot,
            Ok(None) => return false,
            Err(Unreadable) => return true,
        };
        let since = match slot.record_of(user) {
            Some(record) => match device_key(&answer.token()) {
                Ok(device) => record.of(device),
                // Whatever device has ended may be the token's.
                Err(_) => record.active(),
            },
            None => Instant::default(),
        };
        asked_at <= since.max(slot.floor)
    }

    /// Whether an answer of "inactive" is void. `user` is known if the token was active before.
    pub fn voids_inactive(
        &self,
        store: &impl Store,
        user: Option<&UserKey>,
        asked_at: Instant,
    ) -> bool {
        let Some(user) = user else {
            return self.voids_unowned(store, asked_at);
        };
        match self.read(store, user) {
            Ok(Some(slot)) => {
                let revived = slot.record_of(user).map(|record| record.inactive);
                asked_at <= revived.unwrap_or_default().max(slot.floor)
            }
            Ok(None) => false,
            Err(Unreadable) => true,
        }
    }

    /// Whether an answer is void that names no user: MAS has told of some user since, who may be the token's.
    pub fn voids_unowned(&self, store: &impl Store, asked_at: Instant) -> bool {
        let Ok(told) = store.try_read(name::REVIVED) else {
            return true;
        };
        let since = told.and_then(|stored| moment(&stored.value));
        since.is_some_and(|since| asked_at <= since)
    }

    fn read(&self, store: &impl Store, user: &UserKey) -> Result<Option<Slot>, Unreadable> {
        let stored = store.try_read(self.keys.key(store, &user.0).as_bytes())?;
        Ok(stored.and_then(|stored| Slot::decode(&stored.value)))
    }
}

/// Returns the key of the device that `token` belongs to; `None` without one. An error: there are several, or it is none that the
/// homeserver takes, such as one that is too long.
fn device_key(token: &ActiveToken<'_>) -> Result<Option<DeviceKey>, Rejection> {
    let rights = ScopeRights::of(token.scope);
    let device_id = identity::device_id(token, &rights)?;
    Ok(device_id.map(DeviceKey::of))
}

fn moment(bytes: &[u8]) -> Option<Instant> {
    let millis = u64::from_le_bytes(bytes.try_into().ok()?);
    Some(Instant::from_millis(millis))
}

/// A slot: the record of one user, and what earlier ones left behind.
#[derive(Debug, Default, PartialEq, Eq)]
struct Slot {
    floor: Instant,
    record: Option<(UserKey, Record)>,
}

/// Since when answers about a user count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Record {
    /// Answers of "inactive".
    inactive: Instant,
    /// Of "active", for tokens without a device and for devices that are not named below.
    others: Instant,
    /// Of "active", for these devices.
    devices: Vec<(DeviceKey, Instant)>,
}

impl Slot {
    fn record_of(&self, user: &UserKey) -> Option<&Record> {
        let (owner, record) = self.record.as_ref()?;
        (owner == user).then_some(record)
    }

    fn latest(&self) -> Instant {
        let record = self.record.as_ref().map(|(_, record)| record.latest());
        self.floor.max(record.unwrap_or_default())
    }

    /// The record of `user`, which takes the place of any other's.
    fn enter(&mut self, user: UserKey) -> &mut Record {
        if let Some((_, displaced)) = self.record.take_if(|(owner, _)| *owner != user) {
            self.floor = self.floor.max(displaced.latest());
        }
        &mut self.record.get_or_insert((user, Record::default())).1
    }

    /// ```text
    /// offset  bytes  what
    ///      0      1  format version
    ///      1      8  latest moment of all, milliseconds; all numbers little-endian. Up to here every format is the same
    ///      9      8  floor, milliseconds
    ///     17     16  user
    ///     33      8  inactive, milliseconds
    ///     41      8  others, milliseconds
    ///     49   n*24  devices: 16 bytes of key, 8 of milliseconds
    /// ```
    fn encode(&self) -> Vec<u8> {
        let moment = |moment: Instant| moment.to_le_bytes();
        let mut bytes = vec![FORMAT_VERSION];
        bytes.extend_from_slice(&moment(self.latest()));
        bytes.extend_from_slice(&moment(self.floor));
        if let Some((user, record)) = &self.record {
            bytes.extend_from_slice(&user.0);
            bytes.extend_from_slice(&moment(record.inactive));
            bytes.extend_from_slice(&moment(record.others));
            for (device, since) in &record.devices {
                bytes.extend_from_slice(&device.0);
                bytes.extend_from_slice(&moment(*since));
            }
        }
        bytes
    }

    /// Reads a slot back. One of another format has its latest moment as its floor. `None`: these bytes are no slot.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let moment = |bytes: &[u8; 8]| Instant::from_le_bytes(*bytes);
        let (version, bytes) = bytes.split_first()?;
        let (latest, bytes) = bytes.split_first_chunk()?;
        if *version != FORMAT_VERSION {
            return Some(Self {
                floor: moment(latest),
                record: None,
            });
        }
        let (floor, bytes) = bytes.split_first_chunk()?;
        let floor = moment(floor);
        if bytes.is_empty() {
            return Some(Self {
                floor,
                record: None,
            });
        }
        let (user, bytes) = bytes.split_first_chunk()?;
        let (inactive, bytes) = bytes.split_first_chunk()?;
        let (others, bytes) = bytes.split_first_chunk()?;
        let device = |bytes: &[u8]| {
            let (device, since) = bytes.split_first_chunk()?;
            Some((DeviceKey(*device), moment(since.try_into().ok()?)))
        };
        let record = Record {
            inactive: moment(inactive),
            others: moment(others),
            devices: bytes.chunks(24).map(device).collect::<Option<_>>()?,
        };
        Some(Self {
            floor,
            record: Some((UserKey(*user), record)),
        })
    }
}

impl Record {
    /// Since when "active" counts for a token of this device, or of none.
    fn of(&self, device: Option<DeviceKey>) -> Instant {
        let own = |device| self.devices.iter().find(|(known, _)| *known == device);
        device
            .and_then(own)
            .map_or(self.others, |(_, since)| *since)
    }

    fn void(&mut self, voiding: &Voiding, now: Instant) {
        // Another worker may have written a later moment first. Moments never go back.
        let now = now.max(self.latest());
        match voiding {
            Voiding::All => {
                *self = Self {
                    inactive: now,
                    others: now,
                    devices: Vec::new(),
                };
            }
            Voiding::AllExcept(survivors) => {
                let kept = survivors
                    .iter()
                    .map(|device| (*device, self.of(Some(*device))));
                self.devices = kept.take(MAX_DEVICES).collect();
                self.others = now;
            }
            Voiding::Device(device) => {
                self.devices.retain(|(known, _)| known != device);
                if self.devices.len() >= MAX_DEVICES {
                    // The one that has counted for longest; what it says must hold on.
                    let oldest = self.devices.iter().enumerate();
                    if let Some((at, (_, since))) = oldest.min_by_key(|(_, (_, since))| *since) {
                        self.others = self.others.max(*since);
                        self.devices.swap_remove(at);
                    }
                }
                self.devices.push((*device, now));
            }
            Voiding::Inactive => self.inactive = now,
        }
    }

    /// Since when "active" counts for a token of any device.
    fn active(&self) -> Instant {
        let devices = self.devices.iter().map(|(_, since)| *since);
        devices.fold(self.others, Instant::max)
    }

    fn latest(&self) -> Instant {
        self.active().max(self.inactive)
    }
}

#[cfg(test)]
mod tests;
