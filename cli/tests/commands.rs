//! `explain`, `token`, `digest` and `schema`.

mod support;

use std::{
    fs,
    io::Write as _,
    process::{self, Command, Stdio},
};

use self::support::{Output, program, repository};

/// A token of MAS's format that nobody has.
const TOKEN: &str = "mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY1";
const GATEWAY: &str = "introspection: { cluster: mas, path: /auth/oauth2/introspect, credential: { injected: true } }\n\
                       server_name: example.org\n";

/// A file with a gateway's configuration, and its folder.
fn configuration(more: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gateway.yaml");
    fs::write(&path, format!("{GATEWAY}{more}")).expect("a file");
    let path = path.to_str().expect("UTF-8").to_owned();
    (folder, path)
}

/// What a line of the output says after its name.
fn line<'o>(output: &'o Output, name: &str) -> &'o str {
    let mut lines = output.stdout.lines().map(str::trim_start);
    let found = lines.find_map(|line| line.strip_prefix(name));
    found
        .unwrap_or_else(|| panic!("no {name} in {}", output.stdout))
        .trim_start()
}

#[test]
fn an_endpoint_is_explained() {
    let output = program(&["explain", "GET", "/_matrix/client/v3/sync"], "");
    assert_eq!(output.code, 0);
    assert_eq!(line(&output, "needs"), "a token");
    assert_eq!(
        line(&output, "decided by"),
        "the family `sync` of the endpoint table"
    );
    assert!(line(&output, "source").contains("\"Syncing\""));
    assert!(line(&output, "no token").starts_with("401 {\"errcode\":\"M_MISSING_TOKEN\""));
    assert!(line(&output, "an inactive token").starts_with("401 {\"errcode\":\"M_UNKNOWN_TOKEN\""));
    let active = line(&output, "an active token");
    assert_eq!(
        active,
        "goes on, with x-matrix-user-id and x-matrix-device-id"
    );
    assert!(line(&output, "no verdict").starts_with("503 "));
    assert_eq!(
        line(&output, "a foreign token"),
        "goes on, without an identity"
    );
}

#[test]
fn who_decides_is_told() {
    for (method, path, needs, decider) in [
        (
            "GET",
            "/_synapse/admin/v1/rooms",
            "a token with the admin scope",
            "the line `/_synapse/admin/**`",
        ),
        (
            "GET",
            "/_synapse/%6das/x",
            "is never served to the public",
            "the list of paths",
        ),
        (
            "POST",
            "/oauth2/token",
            "what MAS wants",
            "the line `/oauth2/**`",
        ),
        ("GET", "/another", "nothing that is known", "no rule"),
        (
            "GET",
            "/_matrix/client/v3/account/whoami",
            "a token",
            "the line `account/whoami` of the family `account`",
        ),
    ] {
        let output = program(&["explain", method, path], "");
        assert!(
            line(&output, "needs").starts_with(needs),
            "{path}: {}",
            output.stdout
        );
        assert!(
            line(&output, "decided by").starts_with(decider),
            "{path}: {}",
            output.stdout
        );
    }
}

#[test]
fn an_admin_is_told_from_a_user() {
    let output = program(&["explain", "GET", "/_synapse/admin/v1/rooms"], "");
    assert!(line(&output, "an active token").starts_with("403 {\"errcode\":\"M_FORBIDDEN\""));
    assert!(line(&output, "an admin's token").starts_with("goes on, with"));
}

#[test]
fn a_path_that_no_line_of_its_family_has_is_told() {
    let output = program(
        &["explain", "GET", "/_matrix/client/v3/account/whoami;x"],
        "",
    );
    assert_eq!(
        line(&output, "decided by"),
        "no line: the family `account` of the endpoint table has none for the path"
    );
}

/// Envoy refuses such a request, or everyone on the machine would see its token.
#[test]
fn what_is_no_request_is_not_explained() {
    for (method, path, why) in [
        ("", "/", "a method is one word"),
        ("G ET", "/", "a method is one word"),
        ("s3cret", "/", "a method is one word"),
        ("GET", "sync", "a path begins with"),
        ("CONNECT", "/", "a tunnel gets 404 M_UNRECOGNIZED"),
        ("GET", "/a\nb", "a path is visible ASCII"),
        ("GET", "/a b", "a path is visible ASCII"),
        ("GET", "/a#b", "a path has no fragment"),
        (
            "GET",
            "/a?b=1&access_token=s3cret",
            "leave the token out of the path",
        ),
    ] {
        let output = program(&["explain", method, path], "");
        assert_eq!(output.code, 2, "{path}");
        assert_eq!(output.stdout, "", "{path}");
        assert!(
            output.stderr.starts_with(&format!("error: {why}")),
            "{}",
            output.stderr
        );
        assert!(!output.stderr.contains("s3cret"));
    }
    let queried = program(&["explain", "GET", "/_matrix/client/v3/sync?timeout=0"], "");
    assert_eq!(queried.code, 0);
}

/// Runs the program with a token as its input, and its output goes there.
fn run_into(arguments: &[&str], output: Stdio) -> process::Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_matrix-edge-auth"))
        .args(arguments)
        .current_dir(repository())
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("is piped");
    let _ = stdin.write_all(TOKEN.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("the program ends")
}

/// As in `... | head -1`.
#[test]
fn a_reader_that_has_gone_is_no_fault() {
    for arguments in [
        &["explain", "GET", "/_matrix/client/v3/sync"][..],
        &["schema"],
        &["check", "--rules"],
        &["check", "envoy/local/envoy.yaml"],
        &["token"],
        &["digest"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = run_into(arguments, writer.into());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), &*stderr),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}

/// As on a full disk: an empty file would be taken for an answer.
#[cfg(target_os = "linux")]
#[test]
fn an_output_that_is_lost_is_a_fault() {
    for arguments in [
        &["explain", "GET", "/_matrix/client/v3/sync"][..],
        &["schema"],
        &["check", "--rules"],
        &["check", "envoy/local/envoy.yaml"],
        &["check", "--format", "json", "envoy/local/envoy.yaml"],
        &["token"],
        &["digest"],
        &["--help"],
        &["--version"],
        &["check", "--help"],
    ] {
        let full = fs::File::options()
            .write(true)
            .open("/dev/full")
            .expect("a device");
        let output = run_into(arguments, full.into());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(
            stderr.starts_with("error: the output cannot be written: "),
            "{arguments:?}: {stderr}"
        );
    }
}

/// It has the token, and cannot have the configuration as well.
#[test]
fn standard_input_has_one_thing() {
    let output = program(&["token", "--config", "-"], GATEWAY);
    assert_eq!(output.code, 2);
    assert_eq!(
        output.stderr,
        "error: standard input has the token: give `--config` a file\n"
    );
    let explain = ["explain", "GET", "/_matrix/client/v3/sync", "--config", "-"];
    assert_eq!(program(&explain, GATEWAY).code, 0);
    let none = program(&explain, "a: 1\n");
    assert_eq!(none.code, 2);
    let expected =
        "error: <standard input>: there is no gateway in it: give a file with a use of the module";
    assert!(none.stderr.starts_with(expected), "{}", none.stderr);
}

#[test]
fn a_preflight_and_an_unserved_method_wait_for_no_verdict() {
    for (method, why) in [
        ("OPTIONS", "a browser's pre-flight"),
        ("DELETE", "Synapse does not serve it"),
    ] {
        let output = program(&["explain", method, "/_matrix/client/v3/sync"], "");
        assert!(
            line(&output, "method").starts_with(why),
            "{}",
            output.stdout
        );
        assert_eq!(line(&output, "needs"), "nothing with this method");
        assert_eq!(line(&output, "no token"), "goes on, without an identity");
        for token in ["an inactive token", "an active token", "no verdict"] {
            let expected = "goes on: the homeserver does not look at the token";
            assert_eq!(line(&output, token), expected, "{method}, {token}");
        }
    }
}

#[test]
fn a_configuration_counts() {
    let more = "mode: shadow\nunrecognized_tokens: reject\nidentity_headers: { user_id: x-user, device_id: null }\nendpoints: [{ \
                prefix: /_matrix/provision/, auth: foreign }]\n";
    let (_folder, file) = configuration(more);
    let explain = |path: &str| program(&["explain", "GET", path, "--config", &file], "");
    let sync = explain("/_matrix/client/v3/sync");
    assert_eq!(line(&sync, "an active token"), "goes on, with x-user");
    assert!(line(&sync, "a foreign token").starts_with("401"));
    assert!(line(&sync, "mode:").starts_with("shadow"));
    let ruled = explain("/_matrix/provision/v3/x");
    assert_eq!(
        line(&ruled, "decided by"),
        "endpoints[0] of the configuration"
    );
    let below = explain("/auth/anything");
    assert_eq!(line(&below, "decided by"), "the prefix of MAS");
}

#[test]
fn a_configuration_that_is_refused_is_told_at_its_place() {
    let (_folder, file) = configuration("mode: on\n");
    let output = program(&["explain", "GET", "/", "--config", &file], "");
    assert_eq!(output.code, 2);
    assert!(
        output
            .stderr
            .starts_with(&format!("error: {file}:3:1: mode: takes")),
        "{}",
        output.stderr
    );
}

#[test]
fn a_token_is_described_and_not_shown() {
    // As Synapse's were before MAS, in this many bytes.
    let long = |bytes: usize| format!("syt_YWxpY2U_{}_y", "x".repeat(bytes - 14));
    for (token, kind, checksum, edge) in [
        (TOKEN, "access token of an OAuth", "holds", "asks MAS"),
        (
            "mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY2",
            "a token of MAS's format, with a wrong checksum",
            "does not hold",
            "refuses it, without asking MAS: 401",
        ),
        (
            "syt_YWxpY2U_x_y",
            "access token of a session made by /login",
            "none",
            "asks MAS",
        ),
        ("syr_YWxpY2U_x_y", "refresh token", "none", "refuses it"),
        (
            "mcr_short",
            "a text with a prefix of MAS's tokens",
            "none",
            "refuses it",
        ),
        (
            "of-a-bridge",
            "no token of MAS's format",
            "none",
            "lets it pass",
        ),
        (
            "with a blank",
            "no token of MAS's format",
            "none",
            "refuses it, without asking MAS: 401",
        ),
        (
            &long(4_096),
            "access token of a session made by /login",
            "none",
            "asks MAS",
        ),
        (
            &long(4_097),
            "access token of a session made by /login",
            "none",
            "refuses it, without asking MAS: 503",
        ),
    ] {
        let output = program(&["token"], format!("{token}\n"));
        assert_eq!(output.code, 0, "{token}");
        assert!(
            line(&output, "kind").starts_with(kind),
            "{token}: {}",
            output.stdout
        );
        assert!(
            line(&output, "checksum").starts_with(checksum),
            "{token}: {}",
            output.stdout
        );
        assert!(
            line(&output, "the edge").starts_with(edge),
            "{token}: {}",
            output.stdout
        );
        assert!(
            !output
                .stdout
                .contains(token.get(4..).expect("it is longer")),
            "{token}"
        );
    }
}

#[test]
fn a_secret_that_is_given_as_an_argument_is_not_shown() {
    // Of MAS's format, of MAS's format but mistyped, one of Synapse's own, and a secret of any form.
    let secrets = [
        TOKEN,
        "mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY2",
        "syt_YWxpY2U_qXzJvKwPqXzJvKwPqXzJ_0lFrY1",
        "qXzJvKwPqXzJvKwPqXzJ",
    ];
    for secret in secrets {
        let option = format!("--{secret}");
        let assigned = format!("--token={secret}");
        let format = format!("--format={secret}");
        let rules = format!("--rules={secret}");
        let path = format!("/{secret}");
        let mut all = vec![
            vec![secret],
            vec![&option],
            vec!["help", secret],
            vec!["check", secret],
            vec!["check", "--format", secret, "a.yaml"],
            vec!["check", &format, "a.yaml"],
            vec!["check", &rules],
            vec!["digest", "--registration", secret],
            vec!["explain", secret],
            vec!["explain", secret, "/"],
            vec!["explain", "GET", secret],
            vec!["explain", "GET", "/", "--config", secret],
            vec!["token", "--config", secret],
        ];
        for arguments in [
            &["check", "a.yaml"][..],
            &["digest"],
            &["explain", "GET", "/"],
            &["schema"],
            &["token"],
        ] {
            if arguments[0] != "check" {
                all.push([arguments, &[secret]].concat());
            }
            all.push([arguments, &[&option]].concat());
            all.push([arguments, &[&assigned]].concat());
            all.push([arguments, &["--token", secret]].concat());
        }
        // Any other word may be a path.
        if secret.starts_with('m') {
            all.push(vec!["explain", "GET", &path]);
        }
        for arguments in all {
            let output = program(&arguments, "");
            assert_eq!(output.code, 2, "{arguments:?}");
            let said = output.stdout + &output.stderr;
            assert!(said.contains("error: "), "{arguments:?}: {said}");
            // Nor the most of it.
            for part in [secret, &secret[4..], &secret[..12]] {
                assert!(!said.contains(part), "{arguments:?}: {said}");
            }
        }
    }
}

#[test]
fn a_wrong_argument_is_told_in_full_but_for_what_was_given() {
    let told = |arguments: &[&str]| program(arguments, "").stderr;
    let unexpected = told(&["token", "s3cret"]);
    for part in [
        "error: unexpected argument 'not shown: it may be a secret' found\n",
        "Usage: matrix-edge-auth token [OPTIONS]\n",
        "error: a token or a secret is never an argument",
    ] {
        assert!(unexpected.contains(part), "{unexpected}");
    }
    let value = told(&["check", "--format", "s3cret"]);
    assert!(
        value.contains("for '--format <FORMAT>'\n  [possible values: text, json]"),
        "{value}"
    );
    let none = told(&["token", "--config"]);
    assert!(
        none.contains("a value is required for '--config <FILE>' but none was supplied"),
        "{none}"
    );
    let twice = told(&["token", "--config", "a", "--config", "b"]);
    assert!(
        twice.contains("'--config <FILE>' cannot be used multiple times"),
        "{twice}"
    );
    let missing = told(&["explain", "GET"]);
    assert!(missing.contains("\n  <PATH>\n"), "{missing}");
    let command = told(&["s3cret"]);
    assert!(
        command.contains("unrecognized subcommand 'not shown"),
        "{command}"
    );
    assert!(told(&[]).contains("Usage: matrix-edge-auth <COMMAND>"));
    // What looks like a file is told by its name, unless a token is in the name.
    for file in ["absent.yaml", "docs/absent", "absent.json"] {
        let absent = told(&["token", "--config", file]);
        assert!(absent.starts_with(&format!("error: {file}: ")), "{absent}");
    }
    for file in [format!("{TOKEN}.yaml"), format!("docs/of-{TOKEN}")] {
        let absent = told(&["token", "--config", &file]);
        assert!(absent.starts_with("error: <file 1, not shown"), "{absent}");
        assert!(!absent.contains(TOKEN), "{absent}");
    }
}

#[test]
fn what_is_no_token_is_told() {
    for (input, why) in [
        (Vec::new(), "there is no token"),
        (b"\n".to_vec(), "there is no token"),
        (b"\xff".to_vec(), "not ASCII"),
        (vec![b'a'; 70_000], "at the most"),
    ] {
        let output = program(&["token"], input);
        assert_eq!(output.code, 2);
        assert!(output.stderr.contains(why), "{}", output.stderr);
    }
}

#[test]
fn a_listed_token_of_a_bridge_passes() {
    let digest = program(&["digest"], "mat_of_a_bridge\n");
    assert_eq!(digest.code, 0);
    let (_folder, file) = configuration(&format!("unrecognized_tokens: reject\n{}", digest.stdout));
    let output = program(&["token", "--config", &file], "mat_of_a_bridge");
    assert!(
        line(&output, "the edge").contains("listed under appservice_tokens"),
        "{}",
        output.stdout
    );
}

#[test]
fn a_token_passes_where_none_is_needed() {
    let endpoints = "endpoints: [{ prefix: /_matrix/client, auth: none }]\n";
    let (_folder, file) = configuration(&format!("unrecognized_tokens: reject\n{endpoints}"));
    let output = program(&["token", "--config", &file], "mat_cut");
    let line = line(&output, "the edge");
    assert!(
        line.contains("passes") || line.contains("lets it pass"),
        "{line}"
    );
    assert!(line.contains("`endpoints`"), "{line}");
    assert!(!line.contains("unrecognized_tokens"), "{line}");
}

/// The digests are those of `sha256sum`.
#[test]
fn digests_are_made_of_registrations_and_of_lines() {
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const XYZ: &str = "3608bca1e44ea6c4d268eb6db02260269892c0b42b86bbf1e77a6fa16c3c9282";
    let registration = "id: irc\nurl: http://localhost\nas_token: abc\nhs_token: hidden\n";
    let output = program(&["digest"], registration);
    assert_eq!(
        output.stdout,
        format!("appservice_tokens:\n  - \"{ABC}\" # irc\n")
    );
    for in_one_line in [
        "{\"id\":\"irc\",\"as_token\":\"abc\"}",
        "{\"as_token\": \"abc\", \"id\": \"irc\"}\n",
        "{id: irc, as_token: abc}\n",
    ] {
        let output = program(&["digest"], in_one_line);
        assert_eq!(
            output.stdout,
            format!("appservice_tokens:\n  - \"{ABC}\" # irc\n"),
            "{in_one_line}"
        );
    }
    let output = program(&["digest"], "abc\n\n xyz \n");
    assert_eq!(
        output.stdout,
        format!("appservice_tokens:\n  - \"{ABC}\"\n  - \"{XYZ}\"\n")
    );
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (irc, json) = (
        write("irc.yaml", registration),
        write("x.json", "{\"as_token\": \"xyz\"}"),
    );
    let output = program(&["digest", "--registration", &irc, &json], "");
    assert_eq!(
        output.stdout,
        format!("appservice_tokens:\n  - \"{ABC}\" # irc\n  - \"{XYZ}\"\n")
    );
}

#[test]
fn what_has_no_token_is_refused_and_not_shown() {
    for (input, why) in [
        ("", "there is no token in it"),
        (
            "as_token: [s3cret]\n",
            "<standard input>:1:11: as_token takes a text",
        ),
        ("as_token: \"s3 cret\"\n", ":1:11: a token is visible ASCII"),
        ("s3 cret\n", ":1: a token is visible ASCII"),
        (
            "{\"id\":\"x\",\"token\":\"s3cret\"}\n",
            ":1: this is the beginning of a document, and no token",
        ),
        (
            "bridge:\n  as_token: s3cret\n",
            "<standard input>: there is no as_token in it",
        ),
        // The closing brace is missing.
        (
            "{\n\"id\":\"x\",\n\"as_token\":\"s3cret\"\n",
            ": this is not YAML: ",
        ),
        ("\"as_token\":\"s3cret\",\n}\n", ": this is not YAML: "),
        (
            "abc\n[{\"as_token\":\"s3cret\"}]\n",
            ":2: this is the beginning of a document, and no token",
        ),
    ] {
        let output = program(&["digest"], input);
        assert_eq!(output.code, 2, "{input}");
        assert!(output.stderr.contains(why), "{}", output.stderr);
        assert!(!output.stderr.contains("cret"), "{}", output.stderr);
    }
    let (_folder, file) = configuration("");
    let output = program(&["digest", "--registration", &file], "");
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("there is no as_token in it"),
        "{}",
        output.stderr
    );
}

#[test]
fn the_schema_is_the_one_of_the_documentation() {
    let output = program(&["schema"], "");
    let path = repository().join("docs/configuration.schema.json");
    let expected = fs::read_to_string(path).expect("docs/configuration.schema.json");
    assert_eq!(output.code, 0);
    assert_eq!(output.stdout, expected);
}

#[test]
fn every_command_has_a_help() {
    for command in ["check", "digest", "explain", "schema", "token"] {
        let output = program(&[command, "--help"], "");
        assert_eq!(output.code, 0);
        assert!(
            output.stdout.contains("Usage: matrix-edge-auth"),
            "{command}"
        );
    }
    let check = program(&["check", "--help"], "").stdout;
    for code in [
        "\n  0  nothing found\n",
        "\n  1  at least one",
        "\n  2  a file cannot",
    ] {
        assert!(check.contains(code), "{check}");
    }
}

/// Of a list that is cut, the last tokens would be missing, or be others.
#[test]
fn a_long_list_of_tokens_is_refused() {
    let line = "a-token-of-a-bridge\n";
    let longest = (1 << 20) / line.len();
    let output = program(&["digest"], line.repeat(longest));
    assert_eq!(output.code, 0, "{}", output.stderr);
    let output = program(&["digest"], line.repeat(longest + 1));
    assert_eq!(output.code, 2, "{}", output.stdout);
    assert_eq!(
        output.stderr,
        "error: <standard input>: it has more than 1 MiB, and is not read: give a part of it\n"
    );
}

/// The id stands in a comment, and ends no line of it. Of a long one the beginning is enough.
#[test]
fn an_id_is_printed_as_one_line_of_text() {
    let output = program(&["digest"], "id: \"a\\nb\\e[31m\"\nas_token: abc\n");
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(
        output.stdout.ends_with("\" # a?b?[31m\n"),
        "{}",
        output.stdout
    );
    let long = program(
        &["digest"],
        format!("id: {}\nas_token: abc\n", "i".repeat(65)),
    );
    let expected = format!("\" # {}\n", "i".repeat(64));
    assert!(long.stdout.ends_with(&expected), "{}", long.stdout);
}

/// What YAML takes for something else is no token to Synapse either.
#[test]
fn a_token_of_a_registration_is_a_text() {
    for value in ["null", "12345", "0123", "true", "~", "1.5", "[a]"] {
        let output = program(&["digest"], format!("id: irc\nas_token: {value}\n"));
        assert_eq!(output.code, 2, "{value}: {}", output.stdout);
        assert_eq!(
            output.stderr,
            "error: <standard input>:2:11: as_token takes a text: write it in quotes\n"
        );
        assert_eq!(output.stdout, "");
    }
    let quoted = program(&["digest"], "id: irc\nas_token: \"12345\"\n");
    assert_eq!(quoted.code, 0);
}

#[test]
fn a_token_that_is_given_twice_is_listed_once() {
    let output = program(&["digest"], "abc\ndef\nabc\n");
    assert_eq!(output.code, 0);
    assert_eq!(output.stdout.lines().count(), 3, "{}", output.stdout);
}
