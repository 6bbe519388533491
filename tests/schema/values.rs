//! Values that are put into every place of a configuration.

use serde_json::{Value, json};

/// Values of every type, at every edge of every range.
pub fn values() -> Vec<Value> {
    let mut values = vec![
        Value::Null,
        json!(true),
        json!(false),
        json!([]),
        json!({}),
        json!([null]),
        json!([{}]),
        json!({"s3cret": null}),
        json!({"env": "MAS_SECRET"}),
        json!({"value": "s"}),
        json!({"env": "MAS_SECRET", "value": "s"}),
        json!({"injected": true}),
        json!({"injected": false}),
        json!({"injected": true, "bearer": {"value": "s"}}),
        json!({"prefix": "/", "auth": "none"}),
        json!({"prefix": "/", "exact": "/", "auth": "none"}),
        json!([{"prefix": "/", "auth": "none"}]),
        json!(["GET"]),
        json!({"per_source": 1}),
    ];
    let numbers = [
        -1.0,
        -0.0,
        0.5,
        1.0,
        1.5,
        2.0,
        3.0,
        1e6,
        1e12,
        1e300,
        4_194_304.0,
        4_194_304.5,
    ];
    values.extend(numbers.map(|number| json!(number)));
    for edge in [0, 2, 65_536, 1_000_000, 1_048_576, 4_194_304, u64::MAX] {
        values.extend([edge.saturating_sub(1), edge, edge.saturating_add(1)].map(Value::from));
    }
    values.extend(texts().into_iter().map(Value::from));
    values
}

/// Strings at the edges of every form.
#[rustfmt::skip]
pub fn texts() -> Vec<String> {
    let plain = [
        // Any.
        "", " ", "a", "é", "\u{0}", "\u{7f}", "a\n", "\na", "\u{2028}", "null", "true", "1",
        // Choices.
        "gateway", "introspection", "provisioning", "Gateway", "enforce", "shadow", "reject", "pass", "introspect",
        "accept", "none", "optional", "required", "admin", "foreign", "appservice", "GET", "PATCH", "HEAD", "get",
        // Durations.
        "0s", "0ms", "00s", "s", "ms", "0", "0d", "1ms", "01ms", "0001ms", "999ms", "1000ms", "59999ms", "60000ms",
        "60001ms", "060s", "1s", "2s", "10s", "59s", "60s", "61s", "120s", "121s", "3600s", "3601s", "1m", "2m",
        "3m", "59m", "60m", "61m", "1h", "2h", "120000ms", "120001ms", "3599999ms", "3600000ms", "3600001ms",
        "1.0s", "+1s", "-1s", " 1s", "1s ", "1 s", "1S", "1s\n", "١s", "18446744073709551615s",
        "18446744073709551616s", "000000000000000000000000000000001s", "0h", "1sm",
        // Hosts.
        "example.org", "example.org.", ".example.org", "a..b", "a_b", "a_b:1", "-", "a:", "a:0", "a:00001",
        "a:000001", "a:1", "a:65535", "a:65536", "a:99999", "a:+1", "a:1:2", "a:1\n", "[::]", "[::1]", "[::1]:1",
        "[::1]:0", "[1::]", "[::1.2.3.4]", "[::01.2.3.4]", "[::256.2.3.4]", "[1:2:3:4:5:6:7:8]",
        "[1:2:3:4:5:6:7::]", "[::2:3:4:5:6:7:8]", "[1:2:3:4:5:6:7:8::]", "[1:2:3:4::5:6:7:8]", "[1:2:3::5:6:7:8]",
        "[1:2:3:4:5:6:1.2.3.4]", "[1:2:3:4:5:6:7:1.2.3.4]", "[1:2:3:4:5::1.2.3.4]", "[::1::]", "[:::]", "[::12345]",
        "[::g]", "[]", "[::1", "::1", "[::1]a", "[fe80::1%1]", "https://a", "a/", "a b", "@a:b",
        // Paths.
        "/", "//", "/a?b", "/a#b", "/a b", "/é", "/~", "/ ", "/\n", "a/", "/oauth2/introspect", "/@", "/\"",
        // Header names.
        "x", "x-", "x--", "x-a", "x-a-", "x--a", "X-a", "x-A", "x_a", "x-a_b", "x-a ", "x-é", "authorization",
        "origin", "x-forwarded", "x-forwarded-", "x-forwarded-for", "x-forwardedfor", "x-host", "x-hosts",
        "x-envoy-", "x-envoy", "x-envoy-a", "x-request-id", "x-request-id-a", "x-matrix-user-id",
        "x-matrix-device-id", "x-user", "x-a\n",
        // Secrets.
        "Bearer s", "bearer s", "bEARER  s", "Bearer", "Bearer ", "Bearers s", "Basic s", "BASIC s", "Basics",
        "a b", " a", "a ", "a\tb", "Bearer\u{a0}s", "basic:s", "a:b", ":", "a=b", "=", "a\u{0}b",
    ];
    let mut texts: Vec<String> = plain.map(str::to_owned).into();
    for (unit, counts) in [
        ("a", [255, 256]),
        ("x-", [64, 65]),
        ("0", [63, 64]),
        ("f", [64, 65]),
        ("F", [64, 64]),
        ("é", [32, 64]),
        ("a.", [127, 128]),
    ] {
        texts.extend(counts.map(|count| unit.repeat(count)));
    }
    texts.extend([126, 127].map(|count| format!("x-{}", "a".repeat(count))));
    texts.extend([249, 250].map(|count| format!("{}:65535", "a".repeat(count))));
    texts
}
