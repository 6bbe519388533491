//! Which of MAS's answers are verdicts, and which none.

use super::*;

fn json(body: &str) -> Result<Answer, NoVerdict> {
    read(IntrospectionResponse::json(200, body))
}

fn is_inactive(answer: Result<Answer, NoVerdict>) -> bool {
    matches!(answer, Ok(Answer::Inactive(_)))
}

#[test]
fn active_false_is_the_only_inactive_answer() {
    assert!(is_inactive(json(r#"{"active":false}"#)));
    assert!(is_inactive(json(r#"{"active":false,"expires_in":5}"#)));
    // Ended by the answer's own word, as Synapse reads it.
    for ended in ["-1", "-300", "-9223372036854775808"] {
        let body = format!(r#"{{"active":true,"expires_in":{ended}}}"#);
        assert!(is_inactive(json(&body)), "{body}");
    }
    assert!(!is_inactive(json(r#"{"active":true,"expires_in":0}"#)));
    for body in [
        "",
        "{}",
        "[]",
        "null",
        "false",
        r#"{"active":"false"}"#,
        r#"{"active":null}"#,
        r#"{"active":0}"#,
        r#"{"Active":false}"#,
        r#"{"active":false"#,
        r#"{"active":false}x"#,
        r#"{"active":true,"active":false}"#,
        r#"{"active":false,"active":true}"#,
        r#"{"result":{"active":false}}"#,
        "[false]",
        r#" [true,"urn:matrix:client:api:*","alice"]"#,
    ] {
        assert_eq!(json(body).err(), Some(NoVerdict::Malformed), "{body}");
    }
    for body in [&b"{\"active\":false,\"x\":\"\xff\"}"[..], b"\xff"] {
        assert_eq!(
            Answer::parse(body.to_vec()).err(),
            Some(NoVerdict::Malformed)
        );
    }
    assert!(is_inactive(json("\r\n {\"active\":false}\n")));
}

#[test]
fn only_a_json_200_is_read() {
    let inactive: &[u8] = br#"{"active":false}"#;
    let response = IntrospectionResponse {
        status: Some(200),
        content_type: Some(b"application/json; charset=utf-8"),
        lifetime: None,
        body: Some(inactive.into()),
    };
    assert!(is_inactive(read(response.clone())));
    for status in [
        100, 201, 204, 302, 400, 401, 403, 404, 429, 500, 502, 503, 504,
    ] {
        let other = IntrospectionResponse {
            status: Some(status),
            ..response.clone()
        };
        assert_eq!(
            read(other).err(),
            Some(NoVerdict::Status(status)),
            "{status}"
        );
    }
    let none = IntrospectionResponse {
        status: None,
        content_type: None,
        lifetime: None,
        body: None,
    };
    assert_eq!(read(none).err(), Some(NoVerdict::Reset));
    for content_type in [
        None,
        Some("text/html".as_bytes()),
        Some(b""),
        Some(b"application/jsonp"),
    ] {
        let other = IntrospectionResponse {
            content_type,
            ..response.clone()
        };
        assert_eq!(read(other).err(), Some(NoVerdict::NotJson));
    }
    let unread = IntrospectionResponse {
        body: None,
        ..response
    };
    assert_eq!(read(unread).err(), Some(NoVerdict::Oversized));
    let large = vec![b' '; MAX_RESPONSE_BYTES + 1];
    let large = IntrospectionResponse {
        body: Some((&large).into()),
        ..response
    };
    assert_eq!(read(large).err(), Some(NoVerdict::Oversized));
}

#[test]
fn an_active_answer_keeps_what_the_edge_uses() {
    let answer = json(
        r#"{"active":true,"scope":"urn:matrix:client:api:*","client_id":"legacy","username":"bob",
            "token_type":"access_token","exp":1,"expires_in":300,"iat":1,"nbf":1,"sub":"S",
            "device_id":"we ird/\"dev\"\\é"}"#,
    );
    let expected = ActiveToken {
        username: Some("bob"),
        device_id: Some("we ird/\"dev\"\\é"),
        client_id: Some("legacy"),
        scope: "urn:matrix:client:api:*",
    };
    assert!(matches!(
        answer,
        Ok(Answer::Active(answer)) if answer.token() == expected && answer.expires_in == Some(300)
    ));
}

#[test]
fn only_an_active_token_that_expires_has_a_lifetime() {
    let header: Option<&[u8]> = Some(b"299000-300001");
    let lifetime = |body: &str| json(body).unwrap().lifetime(header);
    let told = lifetime(r#"{"active":true,"expires_in":300}"#);
    assert_eq!(told, Some(Lifetime::told(300, header)));
    for body in [
        r#"{"active":true}"#,
        r#"{"active":true,"expires_in":null}"#,
        r#"{"active":false,"expires_in":300}"#,
    ] {
        assert_eq!(lifetime(body), None, "{body}");
    }
}

#[test]
fn only_the_number_of_seconds_changes() {
    let body =
        r#"{ "active":true, "x":{"expires_in":1}, "expires_in" : 300 ,"exp":300,"y":"\u00e9 é"}"#;
    let changed = |body: &str, seconds| {
        let Ok(Answer::Active(answer)) = Answer::parse(body.into()) else {
            panic!("{body} is active");
        };
        String::from_utf8(answer.body_with_expires_in(seconds)).unwrap()
    };
    assert_eq!(changed(body, 7), body.replace(": 300 ", ": 7 "));
    for body in [r#"{"active":true}"#, r#"{"active":true,"expires_in":null}"#] {
        assert_eq!(changed(body, 7), body);
    }
}

#[test]
fn debug_shows_no_identity() {
    let answer = Answer::parse(br#"{"active":true,"username":"alice"}"#.to_vec()).unwrap();
    assert_eq!(format!("{answer:?}"), "ActiveAnswer(..)");
}

#[test]
fn members_of_the_wrong_type_are_no_verdict() {
    for body in [
        r#"{"active":true,"username":7}"#,
        r#"{"active":true,"scope":["a"]}"#,
        r#"{"active":true,"expires_in":"300"}"#,
        r#"{"active":true,"device_id":{}}"#,
    ] {
        assert_eq!(json(body).err(), Some(NoVerdict::Malformed), "{body}");
    }
}
