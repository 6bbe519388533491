//! The bounds that the manual names are those of the code. A number that is changed in one of them alone is found here.

#![cfg(not(target_arch = "wasm32"))]

use std::{fs, path::Path};

/// A file below `src/`, a constant of it, a page, and a part of the line of that page that has the constant's value.
const NUMBERS: &str = "
cache/entry.rs MAX_ANSWER_BYTES docs/internals/design.md | shared, active |
cache/table.rs MAX_BUCKET_BYTES docs/internals/design.md | shared, active |
cache/inactive.rs MAX_KEPT docs/internals/design.md | `LocalInactive`
cache/inactive.rs MAX_KEPT docs/configuration.md | `local_entries` |
cache/voiding.rs SLOTS docs/internals/design.md | voidings, `uN` |
cache/table/misses.rs MAX_MISSES docs/internals/design.md | buckets looked into in vain
cache/table/misses.rs MAX_MISS_BYTES docs/internals/design.md | buckets looked into in vain
cache/token_events.rs HISTORIES docs/internals/design.md | ends and refusals of tokens, `hN` |
cache/token_events.rs NAMED docs/internals/design.md | ends and refusals of tokens, `hN` |
mas/provisioning.rs MAX_NAMED_DEVICES docs/internals/design.md | voidings, `uN` |
mas/provisioning.rs MAX_NAMED_DEVICES docs/internals/design.md Of a long list of devices
matrix/session_end.rs MAX_REVOCATION_BYTES docs/internals/design.md | form of a revocation |
resolver/clients/budget.rs COUNTS docs/internals/design.md | counts of inactive tokens, `bN` |
resolver/clients/budget.rs MAX_TAGS docs/internals/design.md | counts of inactive tokens, `bN` |
resolver/clients/budget.rs COUNTS docs/configuration.md when it comes back. And it remembers
resolver/clients/budget.rs MAX_TAGS docs/configuration.md tokens of each address.
config/header_name.rs MAX_BYTES docs/configuration.md A name is `x-` and then
config/header_name.rs MAX_BYTES CHANGELOG.md `x-`, have more than
resolver/clients/line.rs MAX_BYTES docs/internals/design.md in which their users take turns
resolver/clients/line.rs MAX_QUESTIONS docs/internals/design.md in which their users take turns
resolver/failure.rs FAILURE_TTL docs/internals/design.md | `FailureLog` |
resolver/failure.rs MAX_FAILURES docs/internals/design.md | `FailureLog` |
resolver/flight.rs MAX_WAITERS docs/internals/design.md | waiters of a flight |
resolver/flight.rs MAX_WAITERS_PER_FLIGHT docs/internals/design.md | waiters of a flight |
resolver/reports.rs WAYS docs/internals/design.md | lines of the log, `oN` |
resolver/steps/start.rs MAX_TOKEN_BYTES docs/internals/design.md | `Resolver::flights` |
resolver/steps/start.rs MAX_TOKEN_BYTES docs/roles.md with a token of more than
resolver/workers/lease.rs LEASE docs/internals/design.md | leases and tombstones, `lN` |
resolver/workers/lease.rs LEASES docs/internals/design.md | leases and tombstones, `lN` |
resolver/workers/membership.rs MAX_WORKERS docs/internals/design.md | `Membership::others` |
role/body.rs BEGINNING docs/internals/design.md | bodies, `BodyBudget` |
role/body.rs BODY_BUDGET docs/internals/design.md | bodies, `BodyBudget` |
role/body.rs BODY_BUDGET docs/roles.md that an Envoy worker holds have
role/gateway/ends.rs MAX_ENDS docs/internals/design.md | `SessionEnds` |
role/gateway/ends.rs MAX_ENDS docs/internals/design.md | ends that VMs have left
role/gateway/learned.rs MAX_REFUSED_TOKENS docs/internals/design.md | `RefusedTokens` |
role/gateway/learned.rs REFUSAL_COOLDOWN docs/internals/design.md | `RefusedTokens` |
role/gateway/recognized.rs MAX_INACTIVE docs/internals/design.md | `RecognizedTokens` |
role/introspection/awaiting_body.rs BODY_TIMEOUT docs/internals/design.md | `AwaitingBody` |
role/introspection/awaiting_body.rs MAX_REQUESTS docs/internals/design.md | `AwaitingBody` |
role/introspection/callers.rs ACCEPTED docs/roles.md forwards a caller's first request
role/introspection/callers.rs CHECK docs/roles.md the others are answered meanwhile
role/introspection/callers.rs LONGEST docs/internals/design.md | `AcceptedCallers` |
role/introspection/callers.rs LONGEST docs/roles.md after MAS last accepted it
role/introspection/callers.rs MAX_CALLERS docs/internals/design.md | `AcceptedCallers` |
role/introspection/request.rs MAX_FORM_BYTES docs/internals/design.md So a request is held only if
role/introspection/request.rs MAX_FORM_BYTES docs/roles.md with a token of more than
role/origin.rs MAX_TRACE_BYTES docs/internals/design.md | `Resolver::flights` |
role/provisioning.rs MAX_BODY_BYTES docs/internals/design.md are kept while it passes, of MAS's
role/provisioning.rs MAX_BODY_BYTES docs/roles.md Of such a body it reads
role/provisioning.rs MAX_UNPROVEN_BODY_BYTES docs/roles.md Of such a body it reads
";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The type of a constant, and how its value is written.
fn constant(file: &str, name: &str) -> (String, String) {
    let text = read(&format!("src/{file}"));
    let start = format!("const {name}: ");
    let line = text.lines().find_map(|line| line.split_once(&start));
    let (_, rest) = line.unwrap_or_else(|| panic!("{file} has no {name}"));
    let (kind, value) = rest.split_once(" = ").expect("a value");
    (kind.to_owned(), value.trim_end_matches(';').to_owned())
}

/// The value of a product of numbers.
fn product(text: &str) -> u64 {
    let factors = text.split('*').map(|factor| factor.trim().replace('_', ""));
    factors
        .map(|factor| factor.parse::<u64>().expect("a number"))
        .product()
}

/// A number as the manual writes it.
fn grouped(number: u64) -> String {
    match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", grouped(number / 1_000), number % 1_000),
    }
}

/// The value of a constant as the manual writes it.
fn written(name: &str, kind: &str, value: &str) -> String {
    if kind == "Duration" {
        let seconds = value
            .strip_prefix("Duration::from_secs(")
            .and_then(|rest| rest.strip_suffix(')'));
        return match product(seconds.expect("whole seconds")) {
            1 => "a second",
            10 => "ten seconds",
            120 => "two minutes",
            300 => "five minutes",
            3_600 => "an hour",
            other => panic!("{name}: no word for {other} seconds"),
        }
        .to_owned();
    }
    let number = product(value);
    let is_size = name.contains("BYTES") || ["BODY_BUDGET", "BEGINNING"].contains(&name);
    match (is_size, number) {
        (false, _) => grouped(number),
        (true, 0..1_024) => format!("{number} bytes"),
        (true, 0..1_048_576) => format!("{} KiB", number / 1_024),
        (true, _) => format!("{} MiB", number / 1_048_576),
    }
}

#[test]
fn the_manual_has_the_numbers_of_the_code() {
    let mut wrong = Vec::new();
    for row in NUMBERS.trim().lines() {
        let mut columns = row.splitn(4, ' ');
        let mut column = || columns.next().expect("four columns");
        let (file, name, page, part) = (column(), column(), column(), column());
        let (kind, value) = constant(file, name);
        let expected = written(name, &kind, &value);
        let text = read(page);
        let line = text.lines().find(|line| line.contains(part));
        let line = line.unwrap_or_else(|| panic!("{page} has no line with {part:?}"));
        // Not the end of a longer number.
        let is_there = line
            .match_indices(&*expected)
            .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_ascii_digit() || c == ','));
        if !is_there {
            wrong.push(format!("src/{file}: {name} is {expected}; {page}: {line}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn numbers_are_written_as_the_manual_writes_them() {
    for (name, kind, value, expected) in [
        ("MAX", "usize", "64", "64"),
        ("MAX", "usize", "1_024", "1,024"),
        ("MAX", "usize", "1_000_007", "1,000,007"),
        ("MAX_BYTES", "usize", "512", "512 bytes"),
        ("MAX_BYTES", "usize", "8 * 1024", "8 KiB"),
        ("BODY_BUDGET", "usize", "4 * 1024 * 1024", "4 MiB"),
        (
            "LONGEST",
            "Duration",
            "Duration::from_secs(3_600)",
            "an hour",
        ),
    ] {
        assert_eq!(written(name, kind, value), expected);
    }
}
