//! `envoy/production/deliver` splits `envoy.yaml` by its lines. What it cannot split it must refuse: Envoy would take a file
//! without listeners, and close every port.
//!
//! The Envoy here is a stand-in that takes every file. `tests/envoy/rollout_guide.rs` runs the script with a real one.
#![cfg(not(target_arch = "wasm32"))]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

const TYPE: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

/// The folder, with a file that can be split.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy/production");
        for name in ["deliver", "envoy.yaml"] {
            fs::copy(source.join(name), folder.path().join(name)).expect("a copy");
        }
        let envoy = folder.path().join("envoy");
        fs::write(&envoy, "#!/bin/sh\n").expect("a stand-in");
        fs::set_permissions(&envoy, fs::Permissions::from_mode(0o755)).expect("our own file");
        for tool in [
            "awk", "mv", "cmp", "mkdir", "mktemp", "rm", "dirname", "sed", "grep",
        ] {
            let found = ["/usr/bin", "/bin"].map(|place| Path::new(place).join(tool));
            let found = found.iter().find(|path| path.exists()).expect("a tool");
            symlink(found, folder.path().join(tool)).expect("a link");
        }
        Self(folder)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).expect("a file")
    }

    fn write(&self, text: &str) {
        fs::write(self.0.path().join("envoy.yaml"), text).expect("a file");
    }

    /// Whether it succeeds, and what it says.
    fn deliver(&self) -> (bool, String) {
        let output = Command::new("/bin/sh")
            .arg(self.0.path().join("deliver"))
            .env("PATH", self.0.path())
            .output()
            .expect("the script runs");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        (output.status.success(), said)
    }
}

/// The listeners of `envoy.yaml`, its clusters, and what stands before both.
fn parts(text: &str) -> [&str; 3] {
    let (head, rest) = text.split_once("  listeners:\n").expect("listeners");
    let (listeners, clusters) = rest.split_once("  clusters:\n").expect("clusters");
    [head, listeners, clusters]
}

#[test]
fn each_listener_gets_its_type_and_the_rest_stays() {
    let folder = Folder::new();
    let text = folder.read("envoy.yaml");
    let [head, listeners, clusters] = parts(&text);
    let listeners_of = listeners.matches("\n    - name: ").count() + 1;
    // The keys of a listener have no order, and one file has more space after the hyphen than another.
    let address = "    - address:\n        socket_address: { address: 127.0.0.1, port_value: 9 }\n      name: address-first\n";
    let wide = "    -   name: wide\n        address: { socket_address: { address: 127.0.0.1, port_value: 10 } }\n";
    folder.write(&format!(
        "{head}  listeners:\n{address}{wide}{listeners}  clusters: # of the listeners\n{clusters}"
    ));
    assert_eq!(folder.deliver(), (true, String::new()));
    let written = folder.read("run/listeners.yaml");
    assert_eq!(written.matches(TYPE).count(), listeners_of + 2);
    assert!(
        written.contains(&format!(
            "    -   \"@type\": {TYPE}\n        name: wide\n        address:"
        )),
        "{written}"
    );
    let bootstrap = folder.read("run/bootstrap.yaml");
    let (before, after) = head
        .split_once("static_resources:\n")
        .expect("what has listeners");
    let after = format!("static_resources:\n{after}  clusters: # of the listeners\n{clusters}");
    let between = bootstrap.strip_prefix(before).expect("what comes before");
    let between = between.strip_suffix(&*after).expect("what comes after");
    assert!(
        between.starts_with("dynamic_resources:\n  lds_config:\n"),
        "{between}"
    );
}

/// Each of these is the file that it was, to Envoy.
#[test]
fn what_yaml_has_other_ways_to_write_is_split_as_well() {
    let folder = Folder::new();
    let text = folder.read("envoy.yaml");
    assert_eq!(folder.deliver(), (true, String::new()));
    let expected = ["run/bootstrap.yaml", "run/listeners.yaml"].map(|name| folder.read(name));
    for (what, item, split) in [
        (
            "a comment behind the hyphen",
            "    - # the first\n      # of all\n\n      name: redirect\n",
            "    - # the first\n      # of all\n\n      TYPE\n      name: redirect\n",
        ),
        (
            "nothing behind the hyphen",
            "    -\n      name: redirect\n",
            "    -\n      TYPE\n      name: redirect\n",
        ),
        (
            "an anchor",
            "    - &redirect\n      name: redirect\n",
            "    - &redirect\n      TYPE\n      name: redirect\n",
        ),
        (
            "a tag and an anchor",
            "    -  !!map &redirect\t# one\n      name: redirect\n",
            "    -  !!map &redirect\t# one\n      TYPE\n      name: redirect\n",
        ),
        (
            "tabs before comments and in empty lines",
            "\t# one\n    \t# another\n\t\n  \n    - name: redirect\n",
            "\t# one\n    \t# another\n\t\n  \n    - TYPE\n      name: redirect\n",
        ),
    ] {
        folder.write(&with_redirect(&text, item));
        assert_eq!(folder.deliver(), (true, String::new()), "{what}");
        let typed = format!("\"@type\": {TYPE}");
        let one = format!("\n    - {typed}\n      name: redirect\n");
        let other = format!("\n{}", split.replace("TYPE", &typed));
        assert_eq!(
            folder.read("run/listeners.yaml"),
            expected[1].replace(&one, &other),
            "{what}"
        );
        assert_eq!(folder.read("run/bootstrap.yaml"), expected[0], "{what}");
    }
    folder.write(
        &text
            .replace("static_resources:\n", "static_resources:\t# all\n")
            .replace("\n  listeners:\n", "\n  listeners:\t # of these\n")
            .replace("\n  clusters:\n", "\n  clusters: \t# of those\n"),
    );
    assert!(folder.deliver().0);
    assert_eq!(folder.read("run/listeners.yaml"), expected[1]);
}

/// The file with other lines where the listener `redirect` begins.
fn with_redirect(text: &str, item: &str) -> String {
    let first = "\n    - name: redirect\n";
    assert_eq!(text.matches(first).count(), 1);
    text.replace(first, &format!("\n{item}"))
}

#[test]
fn lines_may_end_as_on_windows() {
    let folder = Folder::new();
    let text = folder.read("envoy.yaml");
    assert_eq!(folder.deliver(), (true, String::new()));
    let expected = ["run/bootstrap.yaml", "run/listeners.yaml"].map(|name| folder.read(name));
    folder.write(&text.replace('\n', "\r\n"));
    assert!(folder.deliver().0);
    let written = ["run/bootstrap.yaml", "run/listeners.yaml"].map(|name| folder.read(name));
    for (written, expected) in written.iter().zip(expected) {
        assert_eq!(written.replace("\r\n", "\n"), expected);
        // The first line of the listeners is the script's own.
        let odd = written.lines().count() - written.matches("\r\n").count();
        assert!(odd <= 1, "{odd}");
    }
}

/// Whatever comes after the end of a document is lost to Envoy.
#[test]
fn no_end_of_a_document_hides_where_the_listeners_are() {
    let folder = Folder::new();
    let text = folder.read("envoy.yaml");
    for end in ["...\n", "---\n", "---\nadmin: {}\n"] {
        folder.write(&format!("{text}{end}"));
        assert!(folder.deliver().0, "{end}");
        let bootstrap = folder.read("run/bootstrap.yaml");
        let (document, _) = bootstrap.split_once(&format!("\n{end}")).expect("the end");
        assert!(document.contains("lds_config"), "{end}");
    }
}

/// The path of the folder is text, whatever YAML makes of it.
#[test]
fn the_folder_may_be_called_anything() {
    for name in [
        "a #b",
        "a, b",
        "a: b",
        "br}ace",
        "quo\"te",
        "back\\slash",
        "-n",
    ] {
        let folder = Folder::new();
        let inside = folder.0.path().join(name);
        fs::create_dir(&inside).expect("a folder");
        for file in ["deliver", "envoy.yaml"] {
            fs::copy(folder.0.path().join(file), inside.join(file)).expect("a copy");
        }
        let output = Command::new("/bin/sh")
            .arg(inside.join("deliver"))
            .env("PATH", folder.0.path())
            // It leads nowhere.
            .env("CDPATH", "/usr")
            .output()
            .expect("the script runs");
        assert!(output.status.success(), "{name}: {output:?}");
        let bootstrap = fs::read_to_string(inside.join("run/bootstrap.yaml")).expect("a file");
        let written = bootstrap
            .lines()
            .find_map(|line| line.trim().strip_prefix("path: "));
        let path: String = serde_json::from_str(written.expect("a path")).expect("a JSON string");
        assert_eq!(
            Path::new(&path),
            inside.join("run/listeners.yaml"),
            "{name}"
        );
    }
}

#[test]
fn several_at_once_leave_whole_files() {
    let folder = Folder::new();
    assert!(folder.deliver().0);
    let names = ["run/bootstrap.yaml", "run/listeners.yaml"];
    let expected = names.map(|name| folder.read(name));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(folder.deliver(), (true, String::new())));
        }
    });
    assert!(names.map(|name| folder.read(name)) == expected);
    let left = fs::read_dir(folder.0.path().join("run")).expect("a folder");
    assert_eq!(left.count(), 2);
}

/// Envoy is asked whether it can read each of the two files.
#[test]
fn what_envoy_cannot_read_is_not_written() {
    for file in ["metadata", "rest"] {
        let folder = Folder::new();
        let envoy = folder.0.path().join("envoy");
        let refusing = format!("#!/bin/sh\ncase $* in *{file}.yaml) exit 1 ;; esac\n");
        fs::write(envoy, refusing).expect("a stand-in");
        let (succeeds, said) = folder.deliver();
        assert!(!succeeds && said.starts_with("deliver: Envoy "), "{said}");
        let left = fs::read_dir(folder.0.path().join("run")).expect("a folder");
        assert_eq!(left.count(), 0, "{file}");
    }
}

#[test]
fn what_cannot_be_split_is_refused_and_what_was_written_stays() {
    let folder = Folder::new();
    let text = folder.read("envoy.yaml");
    assert_eq!(folder.deliver(), (true, String::new()));
    let before = ["run/bootstrap.yaml", "run/listeners.yaml"].map(|name| folder.read(name));
    let [head, listeners, clusters] = parts(&text);
    let narrow: String = listeners
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line)))
        .collect();
    // With a value before the listeners, one in the first of them, and one behind the clusters.
    let with = |before: &str, within: &str, behind: &str| {
        let first = format!("    - stat_prefix: {within}\n      name: ");
        let listeners = listeners.replacen("    - name: ", &first, 1);
        format!(
            "x: {before}\n{head}  listeners:\n{listeners}  clusters:\n{clusters}y: [{behind}]\n"
        )
    };
    for (what, changed) in [
        (
            "clusters first",
            format!("{head}  clusters:\n{clusters}  listeners:\n{listeners}"),
        ),
        ("quoted", text.replace("  listeners:", "  \"listeners\":")),
        ("a value", text.replace("  listeners:", "  listeners: &all")),
        (
            "a key between",
            text.replace("\n  clusters:", "\n  secrets: []\n  clusters:"),
        ),
        (
            "a block between",
            text.replace(
                "\n  clusters:",
                "\nlayered_runtime: {}\nstatic_resources:\n  clusters:",
            ),
        ),
        ("no clusters", format!("{head}  listeners:\n{listeners}")),
        (
            "no listener",
            format!("{head}  listeners:\n  clusters:\n{clusters}"),
        ),
        (
            "an empty list",
            format!("{head}  listeners: []\n  clusters:\n{clusters}"),
        ),
        (
            "less indented",
            format!("{head}  listeners:\n{narrow}  clusters:\n{clusters}"),
        ),
        (
            "a flow mapping",
            text.replace(
                "  listeners:\n",
                "  listeners:\n    - { name: one, address: { pipe: { path: /run/one } } }\n",
            ),
        ),
        (
            "an anchor before a key",
            with_redirect(&text, "    - &redirect name: redirect\n"),
        ),
        (
            "an alias of a listener, which would have its type as well",
            with_redirect(&text, "    - &redirect\n      name: redirect\n")
                .replace(
                    "  listeners:\n",
                    "  listeners:\n    - name: one\n      metadata: { filter_metadata: { own: *redirect } }\n",
                ),
        ),
        (
            "an item without a key",
            with_redirect(&text, "    - # none\n    - name: redirect\n"),
        ),
        (
            "an item without a key at the end",
            text.replace("\n  clusters:", "\n    -\n  clusters:"),
        ),
        (
            "a flow mapping below its hyphen",
            text.replace("  listeners:\n", "  listeners:\n    -\n      { name: one }\n"),
        ),
        (
            "its own listeners file",
            format!("{text}\ndynamic_resources: {{}}\n"),
        ),
        (
            "its own listeners file, quoted",
            format!("{text}\n'dynamic_resources' : {{}}\n"),
        ),
        (
            "other listeners, quoted",
            text.replace("\nadmin:", "\nstatic_resources:\n  'listeners': []\nadmin:"),
        ),
        (
            "an alias of what comes before",
            with("&here here", "*here", ""),
        ),
        (
            "an alias of what a listener defines",
            with("", "&here here", "*here"),
        ),
        (
            "an anchor that both define",
            with("&here there", "&here here", ""),
        ),
        (
            "a carriage return alone, which ends a line as well",
            with_redirect(&text, "    # one\r    - name: redirect\n"),
        ),
        (
            "carriage returns alone",
            text.replace('\n', "\r"),
        ),
        ("two documents", format!("---\n{text}---\n{text}")),
    ] {
        folder.write(&changed);
        let (succeeds, said) = folder.deliver();
        assert!(!succeeds, "{what}");
        assert!(
            said.starts_with("deliver: ") && said.contains("nothing was written"),
            "{what}: {said}"
        );
        let after = ["run/bootstrap.yaml", "run/listeners.yaml"].map(|name| folder.read(name));
        assert!(before == after, "{what}");
        let left = fs::read_dir(folder.0.path().join("run")).expect("a folder");
        assert_eq!(left.count(), 2, "{what}");
    }
}

/// Before version 1.40 Envoy takes a list that is corrected later, and goes on with the one of before.
#[test]
fn a_list_of_functions_that_does_not_count_yet_is_told() {
    const LIST: &str = "proxy_on_request_headers: {}, ";
    const VM: &str = "                          vm_id: matrix_edge_auth\n";
    const FLAG: &str = "                        allow_on_headers_stop_iteration: true\n";
    let folder = Folder::new();
    let text = folder.read("envoy.yaml");
    for part in [LIST, VM, FLAG] {
        assert!(text.contains(part), "{part}");
    }
    let numbered = |number| {
        let configuration = format!(
            "{VM}                          configuration: {{ \"@type\": type.googleapis.com/google.protobuf.StringValue, value: \"{number}\" }}\n"
        );
        text.replace(VM, &configuration)
    };
    let lacking = text.replace(LIST, "");
    let all = Some("gateway introspection provisioning");
    for (what, before, after, told) in [
        ("the same", text.clone(), text.clone(), None),
        ("another list", lacking.clone(), text.clone(), all),
        (
            "another list, as on Windows",
            lacking.clone(),
            text.replace('\n', "\r\n"),
            all,
        ),
        ("another list in another VM", lacking.clone(), numbered(1), None),
        (
            "another list in another VM again",
            numbered(1).replace(LIST, ""),
            numbered(2),
            None,
        ),
        (
            "another list with another module",
            lacking.clone(),
            text.replace("matrix-edge-auth.wasm", "matrix-edge-auth-next.wasm"),
            None,
        ),
        (
            "another list with another environment",
            lacking,
            text.replace(
                VM,
                &format!("{VM}                          environment_variables:\n                            host_env_keys: [A]\n"),
            ),
            all,
        ),
        (
            "no list",
            text.clone(),
            text.replace("capability_restriction_config:", "# capability_restriction_config:")
                .replace("# capability_restriction_config: &capabilities", "x: &capabilities"),
            all,
        ),
        (
            "another body",
            text.replace(FLAG, ""),
            text.clone(),
            Some("introspection"),
        ),
        (
            "another body in JSON's words",
            text.replace(FLAG, ""),
            text.replace("allow_on_headers_stop_iteration", "allowOnHeadersStopIteration"),
            Some("introspection"),
        ),
        (
            "comments and lines",
            text.clone(),
            text.replace(LIST, &format!("# all\n                            {LIST}\n                            ")),
            None,
        ),
        (
            "another mode",
            text.clone(),
            text.replace("mode: enforce", "mode: shadow"),
            None,
        ),
    ] {
        folder.write(&before);
        assert!(folder.deliver().0, "{what}");
        folder.write(&after);
        let (succeeds, said) = folder.deliver();
        assert!(succeeds, "{what}: {said}");
        let mut warnings = said.lines().filter_map(|line| {
            let (_, rest) = line.split_once("differs from before in: ")?;
            rest.split_once(". Before Envoy 1.40")
        });
        let listed = warnings.next().map(|(listed, _)| listed);
        assert_eq!(listed, told, "{what}: {said}");
        assert_eq!(warnings.next(), None, "{what}: {said}");
    }
}
