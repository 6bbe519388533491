//! How much longer a token lives, as far as an answer tells: an interval, never one number.
//!
//! MAS says `expires_in` (RFC 7662, section 2.2) in whole seconds. It rounds to the nearest, so it may say up to
//! half a second too much. An answer out of another edge's cache may say too little by up to a second. From
//! `expires_in: e` alone follows that the token lives for at least `e` seconds, save for MAS's own half second,
//! and for at most `e` and one more.
//!
//! The non-obvious rule: an answer may pass the caches of several edges, and each counts from an `expires_in` that
//! was rounded before. If each gave away only such a number, the interval would grow by a second at each of them.
//! So an edge sends its interval along, in [`LIFETIME`]. The next one counts from that, and its interval grows only
//! by the time that the call took.

use core::{fmt, str, time::Duration};

use crate::clock;

/// The response header that carries a [`Lifetime`]: two numbers of milliseconds, `1500-2501`. Only an edge sends
/// it, and only with an `expires_in`.
pub const LIFETIME: &str = "x-matrix-edge-auth-lifetime";

/// How much more than `expires_in` a token may live.
const ROUNDING: Duration = Duration::from_secs(1);

/// No lifetime has more digits, in milliseconds: this is 31,000 years.
const MAX_DIGITS: usize = 15;

/// What is left of a token's life, counted from one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Until then the token counts as active. It ends no earlier, save for the half second by which MAS rounds up.
    pub at_least: Duration,
    /// From then on it has certainly ended.
    pub at_most: Duration,
}

impl Lifetime {
    /// Returns what an answer tells that says `expires_in`. `header` is its [`LIFETIME`], which is believed if it
    /// is well-formed and agrees with `expires_in`.
    pub fn told(expires_in: i64, header: Option<&[u8]>) -> Self {
        let rounded = Self::rounded(expires_in);
        let exact = header.and_then(Self::parse);
        // So no header lets a token serve for longer than `expires_in` says. A wide one only makes MAS be asked more often.
        let agrees =
            |exact: &Self| exact.at_least <= rounded.at_least && rounded.at_least <= exact.at_most;
        exact.filter(agrees).unwrap_or(rounded)
    }

    /// Returns the interval that a number of seconds stands for. A negative number is a token that has ended; its
    /// answer is not that of an active one.
    fn rounded(expires_in: i64) -> Self {
        let at_least = Duration::from_secs(u64::try_from(expires_in).unwrap_or(0));
        Self {
            at_least,
            at_most: at_least + ROUNDING,
        }
    }

    /// Returns the `expires_in` that stands for this interval: the smallest that does not shorten it, so that who
    /// is told it never calls the token expired too early.
    pub fn expires_in(&self) -> i64 {
        let shortest = self.at_most.saturating_sub(ROUNDING);
        let seconds = shortest.as_secs() + u64::from(shortest.subsec_nanos() > 0);
        i64::try_from(seconds).unwrap_or(i64::MAX)
    }

    /// Reads the value of a header.
    fn parse(value: &[u8]) -> Option<Self> {
        let (at_least, at_most) = str::from_utf8(value).ok()?.split_once('-')?;
        Some(Self {
            at_least: millis(at_least)?,
            at_most: millis(at_most)?,
        })
    }
}

impl fmt::Display for Lifetime {
    /// Writes the value of the header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}-{}",
            clock::millis(self.at_least),
            clock::millis(self.at_most)
        )
    }
}

fn millis(digits: &str) -> Option<Duration> {
    let is_number = digits.len() <= MAX_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number
        .then(|| digits.parse().ok())
        .flatten()
        .map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lifetime(at_least: u64, at_most: u64) -> Lifetime {
        Lifetime {
            at_least: Duration::from_millis(at_least),
            at_most: Duration::from_millis(at_most),
        }
    }

    #[test]
    fn seconds_alone_stand_for_an_interval_of_a_second() {
        assert_eq!(Lifetime::told(30, None), lifetime(30_000, 31_000));
        assert_eq!(Lifetime::told(0, None), lifetime(0, 1_000));
        assert_eq!(Lifetime::told(-5, None), lifetime(0, 1_000));
        assert_eq!(Lifetime::told(i64::MIN, None), lifetime(0, 1_000));
        assert_eq!(Lifetime::told(i64::MAX, None).expires_in(), i64::MAX);
    }

    #[test]
    fn a_header_that_agrees_takes_the_place_of_the_seconds() {
        for (expires_in, header, expected) in [
            (30, "29100-30101", lifetime(29_100, 30_101)),
            (30, "30000-30000", lifetime(30_000, 30_000)),
            (0, "0-1", lifetime(0, 1)),
            (-5, "0-1", lifetime(0, 1)),
        ] {
            let told = Lifetime::told(expires_in, Some(header.as_bytes()));
            assert_eq!(told, expected, "{header}");
        }
    }

    #[test]
    fn a_header_that_is_malformed_or_disagrees_is_passed_over() {
        let lives_too_long = format!("0-1{}", "0".repeat(MAX_DIGITS));
        for header in [
            "",
            "-",
            "30000",
            "-30000",
            "29000-",
            "29000-31000-31000",
            "29000-31000 ",
            " 29000-31000",
            "29000 - 31000",
            "+29000-31000",
            "29000-+31000",
            "2.9e4-31000",
            "0x1-31000",
            "29000-\u{661}1000",
            "30001-31000",
            "29000-29999",
            "31000-29000",
            &lives_too_long,
        ] {
            let told = Lifetime::told(30, Some(header.as_bytes()));
            assert_eq!(told, lifetime(30_000, 31_000), "{header}");
        }
        let told = Lifetime::told(30, Some(b"29000-\xff31000"));
        assert_eq!(told, lifetime(30_000, 31_000));
    }

    #[test]
    fn an_interval_is_told_by_the_smallest_number_that_does_not_shorten_it() {
        for (at_most, expires_in) in [
            (0, 0),
            (1_000, 0),
            (1_001, 1),
            (2_000, 1),
            (2_001, 2),
            (31_000, 30),
            (31_001, 31),
        ] {
            assert_eq!(lifetime(0, at_most).expires_in(), expires_in, "{at_most}");
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(at_least in 0..100_000_u64, wider in 1_000..100_000_u64) {
            let sent = lifetime(at_least, at_least + wider);
            let read = Lifetime::told(sent.expires_in(), Some(sent.to_string().as_bytes()));
            proptest::prop_assert_eq!(read, sent);
            let rounded = Lifetime::told(sent.expires_in(), None);
            proptest::prop_assert!(rounded.at_most >= sent.at_most);
        }

        #[test]
        fn arbitrary_bytes_never_panic(expires_in: i64, value: Vec<u8>) {
            let told = Lifetime::told(expires_in, Some(&value));
            proptest::prop_assert!(told.at_least <= told.at_most);
            let _ = told.expires_in();
        }
    }
}
