//! All names in shared data.
//!
//! Each begins with the name of this module, since other modules may have the same `vm_id`. An old and a new version of this
//! one have it as well, while one takes the other's place, and after an update that is rolled back. So each value says
//! which format it has, or a new format takes a new name.
//!
//! | name | bytes | what a new format changes |
//! |---|---|---|
//! | [`Space`] and a number | buckets, or records of users | [`FORMAT_VERSION`], their first byte |
//! | [`Space::Histories`] and a number | see `cache::token_events` | the letter |
//! | [`EPOCHS`], [`EVENTS`], [`REVIVED`], [`ENDS`], [`SEED`], [`TOKEN_SECRET`] | see where they are used | the name |
//! | [`sizes()`], [`seat()`], [`line()`] | see where they are used | the name |
//! | [`mark()`] | none | nothing |

use alloc::{format, string::String};

/// The format of buckets and all records in them, and of what voids answers: the one that this module writes, and the only one
/// that it reads. It is one number for both, so that a module which can read an answer can also read what voids it.
pub const FORMAT_VERSION: u8 = 10;

/// What all names begin with.
const PREFIX: &[u8; 17] = b"matrix-edge-auth.";

/// Counters of what was invalidated, see `cache::epoch`.
pub const EPOCHS: &[u8] = b"matrix-edge-auth.epoch";

/// How many tokens have ended or were refused, see `cache::token_events`.
pub const EVENTS: &[u8] = b"matrix-edge-auth.events";

/// Since when answers count that name no user, see `cache::voiding`.
pub const REVIVED: &[u8] = b"matrix-edge-auth.revived";

/// Ends that one VM leaves to another, see `role::gateway::ends`.
pub const ENDS: &[u8] = b"matrix-edge-auth.ends";

/// The secret by which a digest gets its key, see [`super::key_space`].
pub const SEED: &[u8] = b"matrix-edge-auth.seed";

/// The secret by which a token gets its digest, see `cache::token_secret`.
pub const TOKEN_SECRET: &[u8] = b"matrix-edge-auth.token-secret";

/// What has many keys, which are told apart by numbers: the letter in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Space {
    /// Active answers.
    Active = b'a',
    /// Inactive answers.
    Negative = b'n',
    /// What voids answers about users.
    Users = b'u',
    /// Histories of ended and refused tokens.
    Histories = b'h',
    /// Leases on asking about a token.
    Leases = b'l',
    /// Budgets of clients.
    Budgets = b'b',
    /// What was told of ways of asking.
    Outages = b'o',
}

/// The name of a number of a space. It is as long as a string that Envoy holds without memory of its own. Nobody has to read the
/// number, so it is not written in digits.
pub type Numbered = [u8; PREFIX.len() + 5];

/// Returns the name of this number of a space.
#[inline]
pub fn numbered(space: Space, number: u32) -> Numbered {
    let mut name = *b"matrix-edge-auth.\0\0\0\0\0";
    let [.., letter, a, b, c, d] = &mut name;
    *letter = space as u8;
    [*a, *b, *c, *d] = number.to_le_bytes();
    name
}

/// The register of the sizes that a table was used with, see `cache::sizes`.
pub fn sizes(space: Space) -> String {
    format!("matrix-edge-auth.{}.sizes", char::from(space as u8))
}

/// The mark of a table's changes in `what`, see [`super::mark`].
pub fn mark(space: Space, what: &str) -> String {
    format!("matrix-edge-auth.{}.{what}.mark", char::from(space as u8))
}

/// The seat of a worker, see `resolver::workers`.
pub fn seat(number: u32) -> String {
    format!("matrix-edge-auth.w.{number}")
}

/// The shared queue of a seat. Envoy keeps queues apart from shared data; their names are apart all the same.
pub fn queue(number: u32) -> String {
    format!("matrix-edge-auth.q.{number}")
}

/// The place of a line that was written to the log, see `role::announcement`.
pub fn line(place: u8) -> String {
    format!("matrix-edge-auth.line.{place}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SPACES: [Space; 7] = [
        Space::Active,
        Space::Negative,
        Space::Users,
        Space::Histories,
        Space::Leases,
        Space::Budgets,
        Space::Outages,
    ];

    #[test]
    fn a_number_of_a_space_is_its_letter_and_four_bytes() {
        for number in [0, 7, 256, u32::from(b'.'), u32::MAX] {
            let expected = [&b"matrix-edge-auth.u"[..], &number.to_le_bytes()].concat();
            assert_eq!(numbered(Space::Users, number)[..], expected);
            assert_eq!(expected.len(), 22);
        }
    }

    #[test]
    fn all_names_are_different_and_begin_with_that_of_the_module() {
        let fixed = [EPOCHS, EVENTS, REVIVED, ENDS, SEED, TOKEN_SECRET].map(<[u8]>::to_vec);
        let mut names = Vec::from(fixed);
        for space in SPACES {
            names.extend([0, 1, u32::MAX].map(|number| numbered(space, number).to_vec()));
            names.push(sizes(space).into());
            names.extend(["sizes", "kept"].map(|what| mark(space, what).into()));
        }
        for number in 0..=200 {
            names.extend([seat(number), queue(number)].map(String::into_bytes));
        }
        names.extend((0..64).map(|place| line(place).into_bytes()));
        assert!(names.iter().all(|name| name.starts_with(PREFIX)));
        let different: BTreeSet<&Vec<u8>> = names.iter().collect();
        assert_eq!(different.len(), names.len());
    }

    /// A name of the length of a numbered one would be one, of a number that its last four letters make.
    #[test]
    fn no_name_is_that_of_a_number_that_a_space_has() {
        let letters: Vec<u8> = SPACES.map(|space| space as u8).into();
        let others = [EPOCHS, EVENTS, REVIVED, ENDS, SEED, TOKEN_SECRET].map(<[u8]>::to_vec);
        let seats =
            (0..=200).flat_map(|number| [seat(number), queue(number)].map(String::into_bytes));
        for name in others.into_iter().chain(seats) {
            let is_numbered = name.len() == numbered(Space::Active, 0).len();
            assert!(!is_numbered || !letters.contains(&name[PREFIX.len()]));
        }
    }
}
