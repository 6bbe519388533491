//! Regular expressions for the JSON Schema, in the part of ECMA-262 that all implementations share.

use super::key::DurationRange;
use crate::clock::UNITS;

/// Returns a pattern that the whole string must match.
pub(super) fn exactly(inner: &str) -> String {
    format!("^{inner}$")
}

/// Returns the pattern of the durations in a range, in each unit that has one.
pub(super) fn durations(span: DurationRange) -> String {
    let in_unit = UNITS.iter().filter_map(|(unit, size)| {
        let (from, to) = (span.from.div_ceil(*size), span.to / size);
        let numbers = numbers(from, to).join("|");
        (from <= to).then(|| format!("({numbers}){unit}"))
    });
    let in_unit: Vec<String> = in_unit.collect();
    exactly(&format!("0*({})", in_unit.join("|")))
}

/// Returns alternatives that together match the decimal numbers in a range, written without leading zeros.
pub(super) fn numbers(from: u32, to: u32) -> Vec<String> {
    let mut alternatives = Vec::new();
    let mut first = from;
    while first <= to {
        // The longest run of numbers that begins here and differs only in its last digits.
        let mut size = 1;
        while first.is_multiple_of(size * 10) && first != 0 && first + (size * 10 - 1) <= to {
            size *= 10;
        }
        // The digit before those may run too.
        let digit = first / size % 10;
        let runs = (to - first + 1) / size;
        let last_digit = (digit + runs - 1).min(9);
        alternatives.push(run(first / size / 10, digit, last_digit, size));
        first += (last_digit - digit + 1) * size;
    }
    alternatives
}

/// Returns the pattern of a head, then a digit in a range, then as many digits as `size` has zeros.
fn run(head: u32, digit: u32, last_digit: u32, size: u32) -> String {
    let head = match head {
        0 => String::new(),
        _ => head.to_string(),
    };
    let digits = if digit == last_digit {
        digit.to_string()
    } else {
        format!("[{digit}-{last_digit}]")
    };
    let rest = match size.ilog10() {
        0 => String::new(),
        1 => "[0-9]".to_owned(),
        zeros => format!("[0-9]{{{zeros}}}"),
    };
    format!("{head}{digits}{rest}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Expands the alternatives into the numbers that they match.
    fn matched(alternatives: &[String]) -> Vec<u32> {
        let mut numbers = Vec::new();
        for alternative in alternatives {
            let (head, count) = match alternative.split_once("[0-9]") {
                Some((head, "")) if !head.is_empty() => (head, 1),
                Some((head, zeros)) if !head.is_empty() => {
                    let zeros = zeros.trim_matches(['{', '}']);
                    (head, zeros.parse().unwrap())
                }
                _ => (alternative.as_str(), 0),
            };
            let size = 10_u32.pow(count);
            let heads = match head.split_once('[') {
                None => vec![head.to_owned()],
                Some((head, class)) => {
                    let (first, last) = class.trim_end_matches(']').split_once('-').unwrap();
                    let digits = first.parse::<u32>().unwrap()..=last.parse().unwrap();
                    digits.map(|digit| format!("{head}{digit}")).collect()
                }
            };
            for head in heads {
                let first = head.parse::<u32>().unwrap() * size;
                numbers.extend(first..first + size);
            }
        }
        numbers
    }

    proptest::proptest! {
        #[test]
        fn a_range_is_matched_and_nothing_else(from in 0..70_000_u32, more in 0..70_000_u32) {
            let to = from + more;
            let numbers = matched(&numbers(from, to));
            let distinct: BTreeSet<u32> = numbers.iter().copied().collect();
            proptest::prop_assert_eq!(numbers.len(), distinct.len());
            proptest::prop_assert!(distinct.into_iter().eq(from..=to));
        }
    }

    /// One digit stands for itself, and not for the end of a longer number.
    #[test]
    fn a_range_of_one_digit_is_matched() {
        for to in [8, 9, 10, 19, 99, 100] {
            assert!(matched(&numbers(0, to)).into_iter().eq(0..=to), "{to}");
        }
    }

    #[test]
    fn a_range_is_short() {
        assert_eq!(numbers(0, 0), ["0"]);
        assert_eq!(numbers(1, 60), ["[1-9]", "[1-5][0-9]", "60"]);
        let span = DurationRange {
            from: 1_000,
            to: 120_000,
            default: 0,
        };
        assert_eq!(
            durations(span),
            "^0*(([1-9][0-9]{3}|[1-9][0-9]{4}|1[0-1][0-9]{4}|120000)ms\
             |([1-9]|[1-9][0-9]|1[0-1][0-9]|120)s|([1-2])m)$"
        );
    }
}
