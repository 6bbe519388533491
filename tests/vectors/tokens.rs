use matrix_edge_auth::mas::token::{Shape, TokenFormatError, TokenKind, check, shape};

/// Strings that MAS never issues but an operator may have chosen for an appservice. MAS's check
/// refuses them; the edge leaves them to `unrecognized_tokens`, and with `reject` each of them is
/// inactive.
const UNRECOGNIZED: [&str; 14] = [
    "I06", "I14", "I18", "I19", "I20", "I21", "L04", "L05", "L10", "L11", "L12", "L14", "L15",
    "L16",
];

#[test]
fn every_token_has_the_kind_that_mas_gives_it() {
    for row in super::rows(include_str!("tokens.tsv")) {
        let (id, token, expected) = (row[0], unescape(row[1]), row[2]);
        let found = match check(token.as_bytes()) {
            Ok(TokenKind::AccessToken) => "AccessToken",
            Ok(TokenKind::CompatAccessToken) => "CompatAccessToken",
            Ok(TokenKind::CompatRefreshToken) => "CompatRefreshToken",
            Ok(TokenKind::PersonalAccessToken) => "PersonalAccessToken",
            Ok(TokenKind::RefreshToken) => "RefreshToken",
            Err(TokenFormatError::InvalidCrc) => "InvalidCrc",
            Err(TokenFormatError::InvalidFormat) => "InvalidFormat",
            Err(TokenFormatError::UnknownPrefix) => "UnknownPrefix",
        };
        // InvalidCrc is followed by the checksum that would have been right.
        let expected = expected.split('(').next().unwrap();
        assert_eq!(found, expected, "{id}");
    }
}

#[test]
fn every_token_gets_the_expected_action() {
    let mut unrecognized = Vec::new();
    for row in super::rows(include_str!("tokens.tsv")) {
        let (id, token, action) = (row[0], unescape(row[1]), row[4]);
        let shape = shape(token.as_bytes());
        if shape == Shape::Unrecognized {
            unrecognized.push(id);
        }
        let found = match shape {
            Shape::Introspectable(_) => "introspect",
            Shape::CannotExist | Shape::Unrecognized => "inactive",
        };
        let expected = match action.split([' ', ':']).next() {
            Some("introspect") => "introspect",
            Some("reject" | "inactive") => "inactive",
            // I20, an appservice token: with the policy `reject` it must be listed to pass.
            Some("never") => "inactive",
            _ => panic!("{id}: unknown action {action}"),
        };
        assert_eq!(found, expected, "{id}");
    }
    assert_eq!(unrecognized, UNRECOGNIZED);
}

fn unescape(token: &str) -> String {
    token.replace("\\n", "\n")
}
