//! What cannot be read is told in one line, and costs little.

mod support;

use std::{
    fmt::Write as _,
    fs,
    time::{Duration, Instant},
};

use base64ct::{Base64, Encoding as _};

use self::support::{Output, program, with_needed};

/// More than any of these takes, and far less than an exponential one would.
const LIMIT: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "what is measured is real time")]
fn check(text: impl AsRef<[u8]>) -> Output {
    let started = Instant::now();
    let output = program(&["check", "-"], text);
    assert!(started.elapsed() < LIMIT, "it took {:?}", started.elapsed());
    output
}

fn refuses(text: impl AsRef<[u8]>, expected: &str) {
    let output = check(text);
    assert_eq!(output.code, 2, "{}", output.stdout);
    let wanted = format!("error: <standard input>{expected}");
    assert!(output.stdout.contains(&wanted), "{}", output.stdout);
}

#[test]
fn a_fault_has_a_place_and_a_reason() {
    refuses("b: 1\na: [}", ":2:4: this is not YAML: ");
    refuses(
        "a: &a\n  b: *a\n",
        ":2:6: this alias stands inside of what it names",
    );
    refuses(b"\xff\xfe", ": it is not UTF-8");
    refuses("", ": there is no use of the module in it");
    refuses("services: {}\n", ": there is no use of the module in it");
    refuses("? [a]\n: b\n", ":1:3: a key must be a text");
}

/// A name that may be a secret is not shown, so its place says which one is meant.
#[test]
fn a_file_that_cannot_be_opened_is_told_by_its_name_or_its_place() {
    let good = "envoy/local/envoy.yaml";
    for (files, expected) in [
        (
            [good, "s3cret", good],
            "error: <file 2, not shown: it may be a secret>: ",
        ),
        (
            [good, good, "absent.yaml"],
            "error: absent.yaml: No such file or directory",
        ),
        (
            ["docs", good, good],
            "error: docs: it is a folder: name the files in it\n",
        ),
    ] {
        let arguments = [&["check"], &files[..]].concat();
        let output = program(&arguments, "");
        assert_eq!(output.code, 2, "{}", output.stdout);
        assert!(output.stdout.contains(expected), "{}", output.stdout);
        assert!(!output.stdout.contains("s3cret"), "{}", output.stdout);
    }
}

#[test]
fn a_broken_document_inside_of_another_is_told_at_its_place() {
    let text = "kind: ConfigMap\napiVersion: v1\ndata:\n  envoy.yaml: |\n    static_resources:\n      listeners: [}\n";
    refuses(text, ":6:18: this is not YAML");
}

/// A Secret has its texts in base64, and a ConfigMap some of them.
#[test]
fn a_configuration_in_base64_is_looked_at() {
    let good = fs::read_to_string(support::repository().join("envoy/sync-workers/envoy.yaml"))
        .expect("a file");
    for (resource, key) in [("Secret", "data"), ("ConfigMap", "binaryData")] {
        for (configuration, code) in [
            (good.clone(), 0),
            (good.replace("FAIL_RELOAD", "FAIL_OPEN"), 1),
        ] {
            let text = Base64::encode_string(configuration.as_bytes());
            let output = check(format!(
                "apiVersion: v1\nkind: {resource}\n{key}:\n  envoy.yaml: {text}\n"
            ));
            assert_eq!(output.code, code, "{}", output.stdout);
            assert!(output.stdout.contains("1 use of the module"));
            assert_eq!(output.stdout.contains("error[fail-open]"), code == 1);
        }
    }
}

/// What cannot be known is told, and fails no pipeline. Here the Deployment is not given.
#[test]
fn a_note_is_no_finding() {
    let files = ["envoy.yaml", "network-policies.yaml"];
    let files = files.map(|file| format!("envoy/kubernetes/base/{file}"));
    let text = program(&["check", &files[0], &files[1]], "");
    assert_eq!(text.code, 0, "{}", text.stdout);
    for role in ["introspection", "provisioning"] {
        let expected = format!(
            "note[internal-address]: the {role} listener is taken to be closed by a NetworkPolicy: whether it is one for the \
             pods with this port is not in these files\n"
        );
        assert!(text.stdout.contains(&expected), "{}", text.stdout);
    }
    assert!(
        text.stdout
            .contains("4 uses of the module, nothing found\n"),
        "{}",
        text.stdout
    );
    let json = program(&["check", "--format", "json", &files[0], &files[1]], "");
    let report: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json.code, 0);
    assert_eq!(report["findings"], serde_json::json!([]));
    assert_eq!(report["notes"][0]["severity"], "note");
    assert_eq!(report["notes"][0]["file"], files[0].as_str());
}

/// Copies of these texts under these names are looked at together.
fn check_files(files: &[(&str, &str)], format: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let mut arguments = vec!["check".to_owned(), "--format".to_owned(), format.to_owned()];
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        arguments.push(path.to_str().expect("UTF-8").to_owned());
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    program(&arguments, "")
}

/// The Envoy and the Compose file of a rule's file.
fn envoy_and_compose() -> (String, String) {
    let text = with_needed(include_str!("rules/internal-address/good-compose.yaml"));
    let (envoy, compose) = text.split_once("---\n").expect("two files");
    (envoy.to_owned(), compose.to_owned())
}

/// Another Envoy has a file of its own, and so ports of its own.
#[test]
fn a_service_with_another_file_is_another_envoy() {
    let (envoy, _) = envoy_and_compose();
    let image = "image: envoyproxy/envoy:v1.40.0";
    let own = format!("envoy: {{ {image}, volumes: [\"./envoy.yaml:/etc/envoy/envoy.yaml:ro\"] }}");
    let other = |more: &str| format!("grpc: {{ {image}, {more} }}");
    let is_open = |services: &[&str], more: &str| {
        let compose = format!("services:\n  {}\n{more}", services.join("\n  "));
        let output = check_files(
            &[("envoy.yaml", &envoy), ("compose.yaml", &compose)],
            "text",
        );
        let is_open = output.stdout.contains("error[internal-address]");
        assert_eq!(output.code, i32::from(is_open), "{}", output.stdout);
        is_open
    };
    let ports = "ports: [\"10001:10001\"]";
    for apart in [
        "volumes: [\"./grpc.yaml:/etc/envoy/grpc.yaml\"], ",
        // The name on the container's side is that of any file.
        "volumes: [\"./grpc.yaml:/etc/envoy/envoy.yaml\"], ",
        "volumes: [{ type: bind, source: ./grpc.yaml, target: /etc/envoy/envoy.yaml }], ",
        "volumes: [\"./grpc.yaml:/etc/envoy/envoy.yaml\"], command: [-c, /etc/envoy/envoy.yaml], ",
        "volumes: [\"${FOLDER:-.}/grpc.yaml:/etc/envoy/envoy.yaml\"], command: [-c, /etc/envoy/envoy.yaml], ",
        "",
    ] {
        assert!(
            !is_open(&[&own, &other(&format!("{apart}{ports}"))], ""),
            "{apart}"
        );
        assert!(
            !is_open(&[&own, &other(&format!("{apart}network_mode: host"))], ""),
            "{apart}"
        );
    }
    for given in [
        "volumes: [\"./envoy.yaml:/etc/edge.yaml\"], ",
        "volumes: [\"${FOLDER:-.}/envoy.yaml:/etc/edge.yaml\"], ",
        "volumes: [\"${FILE:-./envoy.yaml}:/etc/edge.yaml\"], ",
        "volumes: [{ type: bind, source: ./envoy.yaml, target: /etc/edge.yaml }], ",
        "command: [-c, /etc/envoy/envoy.yaml], ",
        "command: envoy -c /etc/envoy/envoy.yaml, ",
        "volumes: [\"./:/etc/envoy\"], command: [--config-path=/etc/envoy/envoy.yaml], ",
        "configs: [{ source: edge, target: /etc/envoy/edge.yaml }], ",
    ] {
        let configs = "configs: { edge: { file: ./envoy.yaml } }\n";
        assert!(
            is_open(&[&own, &other(&format!("{given}{ports}"))], configs),
            "{given}"
        );
    }
    // With no service that is given the file, each Envoy may be it.
    assert!(is_open(&[&other(ports)], ""));
}

/// A Compose file may have the files of a container in it.
#[test]
fn a_configuration_may_stand_in_a_compose_file() {
    let (envoy, compose) = envoy_and_compose();
    let content = envoy.replace('\n', "\n      ");
    let whole = format!("{compose}configs:\n  edge:\n    content: |\n      {content}\n");
    let output = check(&whole);
    assert_eq!(output.code, 0, "{}", output.stdout);
    let finds = |old: &str, new: &str, rule: &str| {
        let text = whole.replacen(old, new, 1);
        let (before, _) = text.split_once(new).expect("it is there");
        let line = before.lines().count();
        let output = check(&text);
        let told = "1 error, 0 warnings\n";
        assert!(output.stdout.contains(told), "{}", output.stdout);
        let (_, rest) = output.stdout.split_once(rule).expect("a finding");
        let (_, place) = rest.split_once("<standard input>:").expect("a place");
        assert!(place.starts_with(&format!("{line}:")), "{rest}");
    };
    finds(
        "127.0.0.1:10001:10001",
        "10001:10001",
        "error[internal-address]",
    );
    finds(
        "failure_policy: FAIL_RELOAD",
        "failure_policy: FAIL_OPEN",
        "error[fail-open]",
    );
}

/// Docker Compose reads it behind the other by itself, and a shell names it before.
#[test]
fn an_override_file_counts_behind_the_other() {
    let (envoy, compose) = envoy_and_compose();
    let compose = compose.replace("127.0.0.1:10001:10001", "10001:10001");
    let reset = "services: { envoy: { ports: !reset [] } }\n";
    for (file, code) in [("compose.override.yaml", 0), ("compose-more.yaml", 1)] {
        let files = [
            (file, reset),
            ("compose.yaml", &compose),
            ("envoy.yaml", &envoy),
        ];
        let output = check_files(&files, "text");
        assert_eq!(output.code, code, "{}", output.stdout);
    }
}

/// Two routes with the same fault, in a text whose values have no place of their own in the file.
#[test]
fn two_faults_in_a_text_in_base64_are_two() {
    let good = include_str!("../../envoy/local/envoy.yaml");
    let last = "                        - match: { prefix: / }\n                          route:\n                            cluster: homeserver\n";
    assert!(good.contains(last));
    let route = |path: &str| {
        format!(
            "                        - match: {{ path: {path} }}\n                          route: {{ cluster: homeserver, timeout: 20s }}\n"
        )
    };
    let first = route("/_matrix/client/v3/sync");
    let second = route("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync");
    let text = good.replacen(last, &format!("{first}{second}{last}"), 1);
    let number = 2;
    assert_eq!(
        check(&text).stdout.matches("error[sync-timeout]").count(),
        number
    );
    let lines: Vec<usize> = (1..)
        .zip(text.lines())
        .filter(|(_, line)| line.contains("timeout: 20s"))
        .map(|(number, _)| number)
        .collect();
    let escaped = serde_json::to_string(&text).expect("a text");
    for data in [
        format!(
            "binaryData: {{ envoy.yaml: {} }}",
            Base64::encode_string(text.as_bytes())
        ),
        format!("data: {{ envoy.yaml: {escaped} }}"),
    ] {
        let resource = format!("apiVersion: v1\nkind: ConfigMap\n{data}\n");
        let output = check(&resource);
        let told = output.stdout.matches("error[sync-timeout]").count();
        assert_eq!(told, number, "{}", output.stdout);
        let json = program(&["check", "--format", "json", "-"], &resource);
        let report: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
        let findings = report["findings"].as_array().expect("a list");
        assert_eq!(findings.len(), number);
        for finding in findings {
            assert_eq!(finding["line"], 3);
            let line = finding["inner"]["line"].as_u64().expect("a number");
            let column = &finding["inner"]["column"];
            assert!(lines.contains(&(line as usize)), "{finding}");
            let place = format!("line {line}, column {column} of the text that stands here");
            assert!(output.stdout.contains(&place), "{}", output.stdout);
        }
    }
    // Where each value has a place of its own, nothing else tells it.
    let json = program(&["check", "--format", "json", "-"], &text);
    assert!(!json.stdout.contains("inner"), "{}", json.stdout);
}

/// A ConfigMap may have scripts and manuals, which name fields of Envoy's.
#[test]
fn a_text_that_is_no_yaml_by_its_name_is_noted() {
    let good = include_str!("../../envoy/sync-workers/envoy.yaml");
    let script = "#!/bin/sh\ncat > /etc/envoy.yaml <<EOF\nstatic_resources: { listeners: [] }\nadmin: {{ .Env.X }}\nEOF\n";
    let with = |key: &str, text: &str, is_base64: bool| {
        let data = if is_base64 {
            format!(
                "binaryData: {{ {key}: {} }}",
                Base64::encode_string(text.as_bytes())
            )
        } else {
            format!("data:\n  {key}: |\n    {}\n", text.replace('\n', "\n    "))
        };
        check(format!(
            "{good}\n---\napiVersion: v1\nkind: ConfigMap\n{data}"
        ))
    };
    for (key, text) in [
        ("entrypoint.sh", script),
        (
            "README.md",
            "# How to\nWrite `typed_config: {\"@type\": ...}` below `http_filters`.\n",
        ),
        ("envoy.yaml.tmpl", script),
        ("envoy", script),
    ] {
        for is_base64 in [false, true] {
            let output = with(key, text, is_base64);
            assert_eq!(output.code, 0, "{key}: {}", output.stdout);
            let note = "note[configuration]: this text has words of Envoy's configuration, and is not looked at: ";
            assert_eq!(
                output.stdout.matches(note).count(),
                1,
                "{key}: {}",
                output.stdout
            );
            assert!(!output.stdout.contains(".Env.X"), "{}", output.stdout);
        }
    }
    for key in ["envoy.yaml", "envoy.yml", "envoy.json"] {
        for is_base64 in [false, true] {
            let output = with(key, script, is_base64);
            assert_eq!(output.code, 2, "{key}: {}", output.stdout);
            assert!(
                output
                    .stdout
                    .contains("this is a template, and no YAML yet"),
                "{}",
                output.stdout
            );
        }
    }
    // Of what ends as no YAML nothing counts.
    let open = good.replace("FAIL_RELOAD", "FAIL_OPEN");
    for is_base64 in [false, true] {
        let output = with("run.sh", &format!("{open}\n---\na: [}}\n"), is_base64);
        assert_eq!(output.code, 0, "{}", output.stdout);
    }
    // What is YAML is looked at under any name.
    let output = with("envoy", &open, false);
    assert!(
        output.stdout.contains("error[fail-open]"),
        "{}",
        output.stdout
    );
}

/// The commonest mistake: what makes the file was not run.
#[test]
fn a_template_is_told_from_broken_yaml() {
    const TEMPLATE: &str =
        "this is a template, and no YAML yet: render it first, as by `helm template`";
    for (text, place) in [
        ("a: 1\nserver_name: {{ .Values.serverName }}\n", ":2:15: "),
        ("a: {{x}}\n", ":1:"),
        ("{{- if .Values.x }}\na: 1\n{{- end }}\n", ":1:"),
        ("{% if x %}\na: 1\n{% endif %}\n", ":1:"),
        ("a:\n  {{- toYaml .Values.a | nindent 2 }}\nb: [\n", ":"),
    ] {
        let output = check(text);
        assert_eq!(output.code, 2);
        assert!(
            output.stdout.contains(TEMPLATE),
            "{text}: {}",
            output.stdout
        );
        let place = format!("<standard input>{place}");
        assert!(output.stdout.contains(&place), "{text}: {}", output.stdout);
    }
    for text in ["? [a]\n: b\n", "{ {a: b}: c }\n", "a: [}\n"] {
        assert!(!check(text).stdout.contains("template"), "{text}");
    }
}

/// Each says what is to be done.
#[test]
fn a_fault_says_what_to_do() {
    let utf16: Vec<u8> = "a: 1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    refuses(
        [&b"\xff\xfe"[..], &utf16].concat(),
        ": it is not UTF-8, in which Envoy wants it: write it anew",
    );
    for text in ["", "# nothing\n", "services: {}\n"] {
        let output = check(text);
        assert_eq!(output.code, 2);
        assert!(
            output
                .stdout
                .ends_with("no use of the module, and nothing to check\n"),
            "{}",
            output.stdout
        );
        assert!(
            !output.stdout.contains("not everything"),
            "{}",
            output.stdout
        );
    }
    let twice = program(
        &["check", "-", "-"],
        include_str!("../../envoy/sync-workers/envoy.yaml"),
    );
    assert_eq!(twice.code, 2);
    let expected = "error: <standard input>: it can be read once, and is named twice: write the second part into a file\n";
    assert!(twice.stdout.contains(expected), "{}", twice.stdout);
    assert!(
        twice.stdout.contains("1 use of the module"),
        "{}",
        twice.stdout
    );
}

/// A program can open the file that is named.
#[test]
fn of_several_files_without_a_use_the_first_is_named() {
    for (files, others) in [
        (1, ""),
        (2, ", or in the other file"),
        (3, ", or in the other 2 files"),
    ] {
        let all = [
            ("a.yaml", "a: 1\n"),
            ("b.yaml", "b: 1\n"),
            ("c.yaml", "c: 1\n"),
        ];
        let (given, _) = all.split_at(files);
        let output = check_files(given, "json");
        assert_eq!(output.code, 2);
        let report: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
        let fault = &report["unreadable"][0];
        let file = fault["file"].as_str().expect("a name");
        assert!(file.ends_with("/a.yaml"), "{file}");
        let message = fault["message"].as_str().expect("a text");
        let expected = format!("there is no use of the module in it{others}: give ");
        assert!(message.starts_with(&expected), "{message}");
    }
}

/// Whoever reads a file decides what becomes of two equal keys.
#[test]
fn of_another_programs_file_nobody_says_that_envoy_reads_it() {
    let (envoy, compose) = envoy_and_compose();
    let twice = compose.replace(
        "  envoy:\n",
        "  envoy:\n    restart: always\n    restart: no\n",
    );
    assert_ne!(twice, compose);
    let output = check_files(&[("envoy.yaml", &envoy), ("compose.yaml", &twice)], "text");
    assert!(
        output.stdout.contains("error[duplicate-key]"),
        "{}",
        output.stdout
    );
    assert!(
        !output.stdout.contains("Envoy keeps the last"),
        "{}",
        output.stdout
    );
    let both = envoy.replace(
        "    - name: gateway\n",
        "    - name: gateway\n      name: gateway\n",
    );
    assert_ne!(both, envoy);
    let output = check(both);
    assert!(
        output
            .stdout
            .contains("Envoy keeps the last and tells nobody"),
        "{}",
        output.stdout
    );
}

/// Aliases of lists that have one value each: a chain is as deep as the file is long, and no bracket tells.
#[test]
fn a_chain_of_aliases_is_followed_to_its_end() {
    let mut text = "a0: &a0 [x]\n".to_owned();
    for level in 1..=240_000 {
        let _ = writeln!(text, "a{level}: &a{level} [*a{}]", level - 1);
    }
    let good = include_str!("../../envoy/sync-workers/envoy.yaml");
    let protocol = "    - name: homeserver\n";
    assert!(good.contains(protocol));
    let options = "      typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { \"@type\": \
                   type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, http_filters: *a240000 } }\n";
    let with = good.replacen(protocol, &format!("{protocol}{options}"), 1);
    let output = check(text + &with);
    assert!(matches!(output.code, 0 | 2), "{}", output.stdout);
}

/// What the user has looked at and takes as it is: it is still told, and fails no pipeline. Other rules are as they were.
#[test]
fn a_rule_that_is_allowed_is_told_as_a_note() {
    let path = support::repository().join("envoy/sync-workers/envoy.yaml");
    let text = fs::read_to_string(path).expect("a file");
    let text = text.replace("FAIL_RELOAD", "FAIL_OPEN").replace(
        "host_env_keys: [MAS_SECRET]",
        "key_values: { MAS_SECRET: s3cret }",
    );
    let check = |options: &[&str]| program(&[&["check", "-"], options].concat(), &text);
    for (options, code, errors, warnings, notes) in [
        (&[][..], 1, 1, 1, 0),
        (&["--allow", "fail-open"], 1, 0, 1, 1),
        (&["--allow", "visible-secret"], 1, 1, 0, 1),
        (
            &["--allow", "fail-open", "--allow=visible-secret"],
            0,
            0,
            0,
            2,
        ),
    ] {
        let output = check(options);
        let count = |severity: &str| output.stdout.matches(&format!("{severity}[")).count();
        assert_eq!(output.code, code, "{options:?}: {}", output.stdout);
        assert_eq!(
            (count("error"), count("warning"), count("note")),
            (errors, warnings, notes),
            "{options:?}: {}",
            output.stdout
        );
    }
    let json = check(&["--format", "json", "--allow", "fail-open"]);
    let report: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(report["notes"][0]["rule"], "fail-open");
    assert_eq!(report["notes"][0]["severity"], "note");
    assert_eq!(report["findings"][0]["rule"], "visible-secret");

    let unknown = check(&["--allow", "fail-closd"]);
    assert_eq!(unknown.code, 2);
    assert!(!unknown.stderr.contains("closd"), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("fail-closed"), "{}", unknown.stderr);
}

/// A name that Envoy Gateway may give to a Service: whether it does so is in an EnvoyProxy, or in no file.
#[test]
fn a_cluster_that_envoy_gateway_makes_is_told_as_a_note() {
    let path = "cli/tests/rules/unknown-cluster/good-envoy-gateway-merged.yaml";
    let text = fs::read_to_string(support::repository().join(path)).expect("a file");
    let (without_proxy, _) = text
        .rsplit_once("---\n")
        .expect("the EnvoyProxy comes last");
    for text in [&*text, without_proxy] {
        let output = check(text);
        assert_eq!(output.code, 0, "{}", output.stdout);
        let expected = "note[unknown-cluster]: Envoy Gateway makes this cluster for MAS's Service";
        assert!(output.stdout.contains(expected), "{}", output.stdout);
    }
}

/// While the module only counts, the Ingress from before it may still be there.
#[test]
fn an_ingress_from_before_the_rollout_is_told_as_a_note() {
    let path = "cli/tests/rules/unguarded-route/bad-ingress-envoy-gateway.yaml";
    let text = fs::read_to_string(support::repository().join(path)).expect("a file");
    let enforced = check(&text);
    let expected = "[unguarded-route]: this Ingress leads to the homeserver past the module";
    assert!(enforced.stdout.contains(&format!("error{expected}")));
    let shadow = check(text.replace("role: gateway\n", "mode: shadow\n"));
    assert_eq!(shadow.code, 0, "{}", shadow.stdout);
    assert!(shadow.stdout.contains(&format!("note{expected}")));
}

/// The way back of the rollout guide: the filter is turned off, and stays in the file.
#[test]
fn a_module_that_is_turned_off_is_told() {
    let path = support::repository().join("envoy/sync-workers/envoy.yaml");
    let text = fs::read_to_string(path).expect("a file");
    let name = "- name: envoy.filters.http.wasm\n";
    let off = text.replace(name, &format!("{name}                    disabled: true\n"));
    assert_ne!(off, text);
    let output = check(off);
    assert_eq!(output.code, 0, "{}", output.stdout);
    let expected = "note[unguarded-route]: the module is turned off here";
    assert!(output.stdout.contains(expected), "{}", output.stdout);
}

/// An EnvoyFilter for a host, a route or a port that the other files do not tell of may be right.
#[test]
fn an_envoyfilter_for_what_is_not_seen_is_told() {
    let path = support::repository().join("cli/tests/rules/unguarded-route/good-istio-unseen.yaml");
    let output = check(fs::read_to_string(path).expect("a file"));
    assert_eq!(output.code, 0, "{}", output.stdout);
    for (expected, count) in [
        (
            "note[unguarded-route]: the module is turned off here: whether requests that need a token come this way is not in \
             these files\n",
            2,
        ),
        (
            "note[unguarded-route]: this takes the module out on one port: whether Matrix is served there is not in these files\n",
            1,
        ),
    ] {
        let told = output.stdout.matches(expected).count();
        assert_eq!(told, count, "{}", output.stdout);
    }
}

/// How many workers an Envoy has is seldom in its configuration. Where a machine of usual size has more than the limits are made
/// for, that is told.
#[test]
fn limits_for_few_workers_are_told() {
    let path = support::repository().join("envoy/local/envoy.yaml");
    let text = fs::read_to_string(path).expect("a file");
    let limits = |number: u32| {
        let limits = format!(
            "max_connections: {number}, max_requests: {number}, max_pending_requests: {number}"
        );
        assert!(
            text.contains("max_connections: 5120, max_requests: 5120, max_pending_requests: 5120")
        );
        text.replace(
            "max_connections: 5120, max_requests: 5120, max_pending_requests: 5120",
            &limits,
        )
    };
    let few = check(limits(5119));
    assert_eq!(few.code, 0, "{}", few.stdout);
    let expected = "note[circuit-breaker]: the limits of this cluster are enough for 7 Envoy workers, each with 640 calls at a \
                    time";
    assert!(few.stdout.contains(expected), "{}", few.stdout);
    assert!(!check(limits(5120)).stdout.contains("note["));
}

/// How many Envoys run is in no configuration of Envoy's. Where the resources around it say so, a longer TTL is told, with both
/// ways to have one. Whether a provisioning role is there decides what else is missing.
#[test]
fn a_long_ttl_of_several_envoys_is_told() {
    let read = |rule: &str| {
        let path = support::repository().join("cli/tests/rules").join(rule);
        fs::read_to_string(path).expect("a file")
    };
    let ways = "write `ttl: 120s`: a longer one is for one Envoy alone, or for several that tell each other, as in envoy/fleet";
    for (file, kind) in [
        ("long-ttl/bad-replicas.yaml", "Deployment"),
        ("long-ttl/bad-autoscaler.yaml", "HorizontalPodAutoscaler"),
        ("long-ttl/bad-configmap.yaml", "StatefulSet"),
        ("long-ttl/bad-scaled-object.yaml", "ScaledObject"),
        ("long-ttl/bad-compose.yaml", "Compose file"),
        ("long-ttl/bad-envoyfilter.yaml", "Deployment"),
        ("long-ttl/bad-envoy-gateway.yaml", "EnvoyProxy"),
        ("long-ttl/bad-envoy-gateway-autoscaler.yaml", "EnvoyProxy"),
    ] {
        let output = check(read(file));
        let message = format!(
            "warning[long-ttl]: the {kind} lets several Envoys run, and they do not tell each other: only the one that hears of a \
             session's end ends it, and the others serve it for up to 1800 s\n"
        );
        for expected in [&message, &format!("{ways}\n")] {
            assert!(
                output.stdout.contains(expected),
                "{file}: {}",
                output.stdout
            );
        }
    }

    // How many nodes there are is in no file.
    let one = read("long-ttl/good-one-pod.yaml");
    let daemon = one.replacen("kind: Deployment", "kind: DaemonSet", 1);
    assert_ne!(daemon, one);
    assert!(!check(one).stdout.contains("long-ttl"));
    let output = check(daemon);
    assert!(!output.stdout.contains("warning["), "{}", output.stdout);
    let expected = "note[long-ttl]: a DaemonSet runs an Envoy on each node";
    assert!(output.stdout.contains(expected), "{}", output.stdout);

    // The Gateway has another EnvoyProxy.
    let gateway = read("long-ttl/bad-envoy-gateway.yaml");
    let other = gateway.replace(
        "kind: EnvoyProxy, name: matrix",
        "kind: EnvoyProxy, name: one-pod",
    );
    assert_ne!(other, gateway);
    assert!(!check(other).stdout.contains("long-ttl"));

    // No provisioning role, and one gateway or two.
    let plugin = read("long-ttl/bad-istio.yaml").replace(
        "  url: oci",
        "  selector: { matchLabels: { istio: ingressgateway } }\n  url: oci",
    );
    let pods = |replicas: u8| {
        format!(
            "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: istio-ingressgateway }}\nspec: {{ replicas: {replicas}, \
             template: {{ metadata: {{ labels: {{ istio: ingressgateway }} }}, spec: {{ containers: [] }} }} }}\n"
        )
    };
    for (replicas, expected) in [
        (
            1,
            "write `ttl: 120s`, or add a listener with `role: provisioning`".to_owned(),
        ),
        (
            2,
            format!("{ways}, each with a listener with `role: provisioning`"),
        ),
    ] {
        let output = check(plugin.clone() + &pods(replicas));
        let message = "warning[long-ttl]: nothing here hears of a session that MAS ends";
        for expected in [message, &expected] {
            assert!(
                output.stdout.contains(expected),
                "{replicas}: {}",
                output.stdout
            );
        }
    }
}

/// What Envoy reads separately is looked at file by file, and that is told. Here the listeners are in a file of their own, and of
/// one the routes, of another the plugin.
#[test]
fn what_comes_from_another_file_is_told() {
    let path = support::repository().join("envoy/sync-workers/envoy.yaml");
    let whole = fs::read_to_string(path).expect("a file");
    assert!(!check(&whole).stdout.contains("note["));

    let (head, rest) = whole.split_once("  listeners:\n").expect("listeners");
    let (listeners, clusters) = rest.split_once("\n  clusters:").expect("clusters");
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let bootstrap = write("bootstrap.yaml", format!("{head}  clusters:{clusters}"));
    let listeners = write("listeners.yaml", format!("resources:\n{listeners}\n"));
    let output = program(&["check", &bootstrap, &listeners], "");
    assert_eq!(output.code, 0, "{}", output.stdout);
    let expected =
        "note[unknown-cluster]: this file is not the whole of an Envoy: its clusters and labels";
    assert!(output.stdout.contains(expected), "{}", output.stdout);
    assert!(output.stdout.contains("before it is split"));

    // A bootstrap that names the file is looked at with it, in any order.
    let source = "lds_config: { path_config_source: { path: /etc/envoy/run/listeners.yaml } }";
    let naming = format!("dynamic_resources: {{ {source} }}\n{head}  clusters:{clusters}");
    let bootstrap = write("bootstrap.yaml", naming);
    for files in [[&bootstrap, &listeners], [&listeners, &bootstrap]] {
        let output = program(&["check", files[0], files[1]], "");
        assert_eq!(output.code, 0, "{}", output.stdout);
        assert!(!output.stdout.contains("note["), "{}", output.stdout);
        let uses = "1 use of the module, nothing found\n";
        assert!(output.stdout.contains(uses), "{}", output.stdout);
    }

    let asked = "cluster: mas-introspection";
    assert!(whole.contains(asked));
    for (from, to, expected) in [
        (
            "static_resources:",
            "dynamic_resources: { cds_config: { path_config_source: { path: /etc/envoy/clusters.yaml } } }\nstatic_resources:",
            "note[unknown-cluster]: this cluster comes from elsewhere",
        ),
        (
            "route_config:",
            "rds: { route_config_name: matrix }\n                unread:",
            "note[sync-timeout]: the routes of this listener come from elsewhere",
        ),
        (
            "                  - name: envoy.filters.http.router",
            "                  - name: other\n                    config_discovery: { type_urls: \
             [type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm] }\n\
             \x20                 - name: envoy.filters.http.router",
            "note[configuration]: this plugin comes from elsewhere (ECDS)",
        ),
    ] {
        assert!(whole.contains(from), "{from}");
        let changed = whole.replace(from, to);
        let changed = if from.starts_with("static") {
            changed.replace(asked, "cluster: mas-by-cds")
        } else {
            changed
        };
        let output = check(&changed);
        assert!(
            output.stdout.contains(expected),
            "{expected}: {}",
            output.stdout
        );
    }
}

#[test]
fn a_file_that_is_not_there_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let absent = folder.path().join("absent.yaml");
    for path in [absent.as_path(), folder.path()] {
        let path = path.to_str().expect("UTF-8");
        let output = program(&["check", path], "");
        assert_eq!(output.code, 2);
        assert!(
            output.stdout.starts_with(&format!("error: {path}: ")),
            "{}",
            output.stdout
        );
    }
}

#[test]
fn one_bad_file_does_not_hide_what_another_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let broken = write("broken.yaml", "[");
    let trap = write(
        "trap.yaml",
        "{role: gateway, introspection: {}, server_name: a}",
    );
    let output = program(&["check", &broken, &trap], "");
    assert_eq!(output.code, 2);
    assert!(
        output.stdout.contains("error[configuration]"),
        "{}",
        output.stdout
    );
    assert!(
        output.stdout.contains("not everything was looked at"),
        "{}",
        output.stdout
    );
}

#[test]
fn a_file_of_100_mb_is_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("large.json");
    // Without content: the file system keeps only its length.
    let file = fs::File::create(&path).expect("a file");
    file.set_len(100_000_000).expect("a length");
    let output = program(&["check", path.to_str().expect("UTF-8")], "");
    assert_eq!(output.code, 2);
    assert!(
        output.stdout.contains("more than 8 MiB"),
        "{}",
        output.stdout
    );
}

/// Each list repeats the one before it ten times: ten thousand million in all.
fn laughs() -> String {
    let mut text = "a0: &a0 [x]\n".to_owned();
    for level in 1..=10 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        let _ = writeln!(text, "a{level}: &a{level} [{items}]");
    }
    text
}

#[test]
fn a_billion_laughs_are_not_written_out() {
    let configuration = "server_name: example.org\nintrospection: { cluster: *a10 }\n";
    let output = check(laughs() + configuration);
    assert_eq!(output.code, 1);
    assert!(
        output.stdout.contains("the configuration is too large"),
        "{}",
        output.stdout
    );
    let listeners = "static_resources: { listeners: *a10, clusters: *a10 }\n";
    refuses(
        laughs() + listeners,
        ": there is no use of the module in it",
    );
}

/// Lists of filters in lists of managers in lists of chains, all of them aliases: the structure is followed, and given up.
#[test]
fn filters_that_aliases_multiply_are_given_up() {
    let filter = "{ typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm, config: { name: \
                  matrix-edge-auth } } }";
    let manager = "\"@type\": \
                   type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let many = |name: &str| vec![format!("*{name}"); 300].join(", ");
    let text = format!(
        "f: &f {filter}\nm: &m {{ typed_config: {{ {manager}, http_filters: [{}] }} }}\nc: &c {{ filters: [{}] }}\n\
         l: &l {{ filter_chains: [{}] }}\nstatic_resources: {{ listeners: [{}] }}\n",
        many("f"),
        many("m"),
        many("c"),
        many("l")
    );
    refuses(
        text,
        ": looking at it was given up, after too many steps: its aliases repeat each other too often",
    );
}

/// Each virtual host has a regular expression of its own.
#[test]
fn thousands_of_regular_expressions_are_no_aliases() {
    let mut hosts = String::new();
    for number in 0..3000 {
        let _ = writeln!(
            hosts,
            "                    - {{ name: v{number}, domains: [h{number}.matrix.test], routes: [{{ match: {{ safe_regex: {{ \
             regex: \"/(a+)+{number}\" }} }}, route: {{ cluster: homeserver, timeout: 0s }} }}] }}"
        );
    }
    let good = include_str!("../../envoy/sync-workers/envoy.yaml");
    let line = "                  virtual_hosts:\n";
    let text = good.replacen(line, &format!("{line}{hosts}"), 1);
    assert_ne!(text, good);
    let output = check(text);
    assert_eq!(output.code, 0, "{}", output.stdout);
}

/// Each has the module, and its routes lead where those of the others lead.
#[test]
fn hundreds_of_listeners_are_looked_at() {
    let good = include_str!("../../envoy/sync-workers/envoy.yaml");
    let (head, rest) = good.split_once("  listeners:\n").expect("listeners");
    let (listeners, clusters) = rest.split_once("\n  clusters:").expect("clusters");
    let all = format!("{listeners}\n").repeat(400);
    let output = check(format!("{head}  listeners:\n{all}  clusters:{clusters}"));
    assert_eq!(output.code, 0, "{}", output.stdout);
    let uses = "400 uses of the module, nothing found\n";
    assert!(output.stdout.contains(uses), "{}", output.stdout);
}

/// Each route has a policy of its own, which replaces that of the Gateway.
#[test]
fn thousands_of_routes_and_policies_are_looked_at() {
    let mut text = include_str!("rules/unguarded-route/good-gateway.yaml").to_owned();
    for number in 0..3000 {
        let _ = write!(
            text,
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r{number}, namespace: matrix }}\n\
             spec: {{ parentRefs: [{{ name: matrix }}], rules: [{{ backendRefs: [{{ name: synapse, port: 8008 }}] }}] }}\n\
             ---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyExtensionPolicy\n\
             metadata: {{ name: p{number}, namespace: matrix }}\n\
             spec: {{ targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r{number} }}], lua: [] }}\n"
        );
    }
    let output = check(text);
    assert_eq!(output.code, 1, "{}", output.stdout);
    let told = output.stdout.matches("error[unguarded-route]");
    assert_eq!(told.count(), 3000);
}

/// A whole cluster may be in the files. Of its Services two lead to the same pods.
#[test]
fn thousands_of_services_and_workloads_are_looked_at() {
    let mut text = include_str!("rules/unguarded-route/bad-ingress.yaml").to_owned();
    let mut add = |name: &str, app: &str| {
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: matrix }}\nspec: {{ selector: {{ app: {app} }}, \
             ports: [{{ port: 8008 }}] }}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: {name}, namespace: matrix \
             }}\nspec: {{ template: {{ metadata: {{ labels: {{ app: {app} }} }}, spec: {{ containers: [] }} }} }}\n---\napiVersion: \
             networking.k8s.io/v1\nkind: Ingress\nmetadata: {{ name: {name}, namespace: matrix }}\nspec: {{ defaultBackend: {{ \
             service: {{ name: {name}, port: {{ number: 8008 }} }} }} }}\n"
        );
    };
    add("synapse", "homeserver");
    add("old", "homeserver");
    for number in 0..3000 {
        add(&format!("s{number}"), &format!("a{number}"));
    }
    let output = check(with_needed(&text));
    assert_eq!(output.code, 1, "{}", output.stdout);
    let told = output.stdout.matches("error[unguarded-route]");
    assert_eq!(told.count(), 3, "that of the file, and one for each");
}

/// A file may have as many findings as lines, or all of them in one line.
#[test]
fn each_of_many_findings_costs_little() {
    let bad = include_str!("rules/injected-route/bad.yaml");
    let line = "                          route: { cluster: mas-introspection }\n";
    for (number, text) in [
        (12_000, {
            let route = format!("                        - match: {{ prefix: / }}\n{line}");
            assert!(bad.contains(&route));
            bad.replacen(&route, &route.repeat(12_000), 1)
        }),
        (2_000, {
            let copy = "{ cluster: mas-introspection }";
            let copies = vec![copy; 1_999].join(", ");
            let route = format!(
                "                          route: {{ cluster: mas-introspection, request_mirror_policies: [{copies}] }}\n"
            );
            bad.replacen(line, &route, 1)
        }),
    ] {
        let output = check(text);
        assert_eq!(output.code, 1);
        let own = output.stdout.matches("error[injected-route]");
        assert_eq!(own.count(), number);
    }
}

/// A script may be as long as a file, and write as often.
#[test]
fn each_of_many_writes_of_a_script_costs_little() {
    let good = include_str!("rules/identity-header/good.yaml");
    let line = "function envoy_on_request(handle)\n";
    let write =
        "                            handle:headers():replace(\"x-matrix-user-id\", \"a\")\n";
    let script = good.replacen(line, &format!("{line}{}", write.repeat(10_000)), 1);
    let output = check(with_needed(&script));
    assert_eq!(output.code, 1);
    let told = output.stdout.matches("error[identity-header]");
    assert_eq!(told.count(), 10_000);
    assert!(output.stdout.contains(":10058:54\n"));
}

/// Of what was given up nothing is told as missing.
#[test]
fn a_file_that_is_given_up_has_no_findings() {
    let repeated = "a{1,9}".repeat(400);
    let mut hosts = String::new();
    for number in 0..10 {
        let _ = writeln!(
            hosts,
            "                    - {{ name: v{number}, domains: [h{number}.matrix.test], routes: [{{ match: {{ safe_regex: {{ \
             regex: \"{repeated}{number}\" }} }}, route: {{ cluster: homeserver }} }}] }}"
        );
    }
    let good = include_str!("../../envoy/sync-workers/envoy.yaml");
    let line = "                  virtual_hosts:\n";
    let output = check(good.replacen(line, &format!("{line}{hosts}"), 1));
    assert_eq!(output.code, 2, "{}", output.stdout);
    let given_up = "error: <standard input>: looking at it was given up, after too many steps";
    assert!(output.stdout.starts_with(given_up), "{}", output.stdout);
}

#[test]
fn the_number_of_values_and_their_nesting_are_bounded() {
    refuses(format!("[{}]", "1,".repeat(600_000)), ":1:");
    refuses("[".repeat(200_000), ":1:");
    let mut merges = "a: &a {".to_owned();
    for key in 0..1000 {
        let _ = write!(merges, "k{key}: 1,");
    }
    merges += "}\n";
    for key in 0..1000 {
        let _ = writeln!(merges, "b{key}: {{<<: *a}}");
    }
    refuses(merges, ":");
}

/// Neither the module's words nor a line that is shown may repeat what may be a secret.
#[test]
fn no_secret_is_shown() {
    for text in [
        "server_name: example.org\nintrospection: { cluster: a, retries: 0, credential: { bearer: { value: s3cret } } }\n",
        "server_name: example.org\nintrospection: { cluster: a, credential: { bearer: s3cret } }\n",
        "server_name: example.org\nintrospection: { cluster: a, credential: s3cret }\n",
        "server_name: example.org\nintrospection: { cluster: a, credential: { s3cret } }\n",
        "server_name: s3 cret s3cret\nintrospection: { cluster: a, credential: { injected: true } }\n",
    ] {
        for format in ["text", "json"] {
            let output = program(&["check", "--format", format, "-"], text);
            assert_eq!(output.code, 1, "{text}");
            assert!(!output.stdout.contains("s3cret"), "{}", output.stdout);
        }
    }
}

/// Variables may have any names, so nothing on their lines tells that there is a secret.
#[test]
fn no_secret_in_a_variable_is_shown() {
    let path = support::repository().join("envoy/sync-workers/envoy.yaml");
    let shipped = fs::read_to_string(path).expect("a file");
    let named = shipped.replace("{ env: MAS_SECRET }", "{ env: MAS_KEY }");
    let margin = " ".repeat(28);
    let given = |lines: &[&str]| {
        let lines = lines
            .iter()
            .map(|line| format!("{margin}  {line}\n"))
            .collect::<String>();
        let list = format!("{margin}host_env_keys: [MAS_SECRET]\n");
        assert!(named.contains(&list));
        named.replace(&list, &format!("{margin}key_values:\n{lines}"))
    };
    for (lines, rule) in [
        (&["MAS_KEY: hunter2"][..], "warning[visible-secret]"),
        (
            &["MAS_KEY: hunter2", "MAS_KEY: hunter2"],
            "error[duplicate-key]",
        ),
    ] {
        let output = check(given(lines));
        assert_eq!(output.code, 1, "{}", output.stdout);
        assert!(output.stdout.contains(rule), "{}", output.stdout);
        assert!(!output.stdout.contains("hunter2"), "{}", output.stdout);
    }
}

/// Whatever a line has beside what is found, and whatever a script says: only known words are shown.
#[test]
fn no_line_with_an_unknown_word_is_shown() {
    let (envoy, _) = envoy_and_compose();
    let compose = "services: { envoy: { image: envoyproxy/envoy, network_mode: host, environment: { DD_API_KEY: hunter2 } } }\n";
    let output = check_files(&[("envoy.yaml", &envoy), ("compose.yaml", compose)], "text");
    assert!(
        output.stdout.contains("error[internal-address]"),
        "{}",
        output.stdout
    );
    assert!(!output.stdout.contains("hunter2"), "{}", output.stdout);

    let good = include_str!("rules/identity-header/good.yaml");
    let line = "function envoy_on_request(handle)\n";
    assert!(good.contains(line));
    let (space, inner) = (" ".repeat(26), " ".repeat(28));
    let write = "handle:headers():replace(\"x-matrix-user-id\", \"hunter2\")\n";
    let lines = format!("local apikey = \"hunter2\"\n{space}{line}{inner}{write}");
    let output = check(with_needed(&good.replacen(line, &lines, 1)));
    assert!(
        output.stdout.contains("error[identity-header]"),
        "{}",
        output.stdout
    );
    assert!(!output.stdout.contains("hunter2"), "{}", output.stdout);

    // A Secret as it is, and in base64: not even a harmless line of it.
    let good = include_str!("../../envoy/sync-workers/envoy.yaml");
    let bad = good.replace("FAIL_RELOAD", "FAIL_OPEN");
    let text = bad.replace('\n', "\n    ");
    for (kind, key, text, is_shown) in [
        ("ConfigMap", "data", format!("|\n    {text}"), true),
        ("Secret", "stringData", format!("|\n    {text}"), false),
        (
            "Secret",
            "data",
            Base64::encode_string(bad.as_bytes()),
            false,
        ),
    ] {
        let output = check(format!(
            "apiVersion: v1\nkind: {kind}\n{key}:\n  envoy.yaml: {text}\n"
        ));
        assert!(
            output.stdout.contains("error[fail-open]"),
            "{}",
            output.stdout
        );
        assert_eq!(
            output.stdout.contains("    |"),
            is_shown,
            "{}",
            output.stdout
        );
    }
}

#[test]
fn json_is_a_configuration_too() {
    let text = "{\n\t\"server_name\": \"example.org\",\n\
                \t\"introspection\": {\"cluster\": \"a\\/b\", \"credential\": {\"injected\": true}}\n}\n";
    let output = check(text);
    assert_eq!(output.code, 0, "{}", output.stdout);
}

/// Each of the policies is a use of the module. Two such expressions may be compiled, if each is compiled once.
#[test]
fn expressions_of_routes_are_compiled_once_and_at_a_cost() {
    let good = include_str!("rules/sync-timeout/good-envoy-gateway.yaml");
    let (policy, rest) = good.split_once("---\n").expect("documents");
    let mut gateway = String::new();
    for number in 0..20 {
        let own = policy.replace("name: matrix-edge-auth,", &format!("name: p{number},"));
        let _ = writeln!(gateway, "{own}---");
    }
    gateway += rest;
    let route = |number| {
        let mut text = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r }\nspec:\n  rules:\n"
            .to_owned();
        for number in 0..number {
            let _ = writeln!(
                text,
                "    - matches: [{{ path: {{ type: RegularExpression, value: '/{}{number}' }} }}]",
                "a{1,9}".repeat(400)
            );
        }
        text
    };
    let service = |number| {
        route(number)
            .replace("gateway.networking.k8s.io", "networking.istio.io")
            .replace("HTTPRoute", "VirtualService")
            .replace("rules:", "gateways: [public]\n  http:")
            .replace("matches:", "match:")
            .replace("path: { type: RegularExpression, value:", "uri: { regex:")
    };
    let plugin = include_str!("rules/sync-timeout/good-istio.yaml");
    for (few, many) in [
        (route(2), format!("{gateway}{}", route(3))),
        (service(2), format!("{plugin}{}", service(3))),
    ] {
        assert_ne!(check(format!("{gateway}---\n{plugin}{few}")).code, 2);
        refuses(many, ": looking at it was given up, after too many steps");
    }
}
