//! Durations, as Envoy and the Gateway API write them: `15s`, `0.25s`, `1m30s`.

use std::time::Duration;

/// Reads a duration. `None` if the text is no duration.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * seconds;
        rest = after;
    }
    Duration::try_from_secs_f64(sum).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [
            ("0s", Some(0.0)),
            ("15s", Some(15.0)),
            ("0.25s", Some(0.25)),
            ("1m30s", Some(90.0)),
            ("500ms", Some(0.5)),
            ("15", None),
            ("s", None),
            ("1d", None),
            ("-1s", None),
        ] {
            assert_eq!(duration(text).map(|it| it.as_secs_f64()), seconds, "{text}");
        }
    }
}
