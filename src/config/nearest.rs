//! What a misspelled key was meant to be.
//!
//! A slip of the finger changes one or two letters that stand together: one is lost, doubled, wrong or swapped with
//! its neighbour. So that is the measure, and not a distance over the whole word, which takes more code.

/// Most letters that a slip changes.
const MAX_CHANGED: usize = 2;

/// Returns the first name that a slip can have made `given` of; case, and `-` for `_`, make no difference.
pub(super) fn nearest<'n>(
    given: &str,
    names: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    names.into_iter().find(|name| is_near(given, name))
}

fn is_near(given: &str, name: &str) -> bool {
    let before = count_equal(given.bytes(), name.bytes());
    let (Some(given), Some(name)) = (
        given.as_bytes().get(before..),
        name.as_bytes().get(before..),
    ) else {
        return false;
    };
    let after = count_equal(given.iter().rev().copied(), name.iter().rev().copied());
    let changed = given.len().max(name.len()).saturating_sub(after);
    // A short word that has little in common with a name is another word.
    changed <= MAX_CHANGED && changed < before + after
}

fn count_equal(one: impl Iterator<Item = u8>, other: impl Iterator<Item = u8>) -> usize {
    let plain = |byte: u8| match byte {
        b'-' => b'_',
        _ => byte.to_ascii_lowercase(),
    };
    one.zip(other)
        .take_while(|(one, other)| plain(*one) == plain(*other))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised() {
        for given in [
            "sever_name",
            "serverr_name",
            "sevrer_name",
            "server_nam",
            "erver_name",
            "server_nome",
            "server-name",
            "serverName",
            "SERVER_NAME",
            "servername",
            "server_name_",
        ] {
            assert_eq!(
                nearest(given, ["role", "server_name"]),
                Some("server_name"),
                "{given}"
            );
        }
        assert_eq!(nearest("tl", ["slots", "ttl"]), Some("ttl"));
        assert_eq!(nearest("slot", ["slots", "negative_slots"]), Some("slots"));
    }

    #[test]
    fn another_word_is_not() {
        for given in [
            "",
            "x",
            "ro",
            "name",
            "sever_nmae",
            "rölé",
            "\u{fffd}",
            "reason",
        ] {
            assert_eq!(
                nearest(given, ["role", "server_name", "ttl"]),
                None,
                "{given}"
            );
        }
    }
}
