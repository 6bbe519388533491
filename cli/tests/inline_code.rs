//! What the manual names in its sentences exists: between back quotes, and in indented lines, stand commands, files, keys,
//! metrics, headers, variables and functions. Each is looked for where it would have to be.
//!
//! The blocks of the manual are run by other tests (`documentation.rs` has the list). What only another program knows, such as
//! a setting of Synapse, is in `OUTSIDE`, with whose it is.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;

use self::support::{program, repository};

/// What is named and is not this project's: by whom it is known.
const OUTSIDE: &[(&str, &str)] = &[
    ("--flatten", "wasm-opt"),
    ("--gufa-optimizing", "wasm-opt"),
    ("--no-wasm-inlining", "V8"),
    ("--rereloop", "wasm-opt"),
    ("--trace-wasm-compilation-times", "V8"),
    ("--volumes", "docker compose"),
    ("ANY_MEMBER:10001", "whose address the reader knows"),
    ("ANY_MEMBER:10002", "whose address the reader knows"),
    ("PILOT_FILTER_GATEWAY_CLUSTER_CONFIG", "istiod"),
    ("SCHED_IDLE", "Linux"),
    ("STREAMED", "Envoy"),
    ("bandwidth_limit", "Envoy"),
    ("body_format", "Envoy"),
    ("cluster_manager.cluster_modified", "Envoy"),
    ("cx_connect_fail", "Envoy"),
    ("delayed_close_timeout", "Envoy"),
    ("envoy_cluster_upstream_cx_connect_fail", "Envoy"),
    ("envoy_http_conn_manager_prefix", "Envoy"),
    ("envoy_http_downstream_rq_total", "Envoy"),
    ("envoy_listener_downstream_cx_overflow", "Envoy"),
    ("envoy_listener_downstream_global_cx_overflow", "Envoy"),
    ("envoy_cluster_upstream_rq_active_overflow", "Envoy"),
    ("envoy_cluster_upstream_rq_pending_overflow", "Envoy"),
    ("experimental.inactive_session_expiration", "MAS"),
    ("experimental_features.msc3861", "Synapse"),
    ("ext_proc", "Envoy"),
    ("health_flags", "Envoy"),
    ("internal_redirect_policy", "Envoy"),
    ("http_local_rate_limit.rate_limited", "Envoy"),
    ("matrix_authentication_service.secret", "Synapse"),
    ("rq_active_overflow", "Envoy"),
    ("rq_pending_overflow", "Envoy"),
    ("x.matrix-user_id", "a client that cheats"),
    ("ssl.connection_error", "Envoy"),
    ("synapse_legacy", "MAS"),
    ("synapse_modern", "MAS"),
    ("xds.cluster_name", "Envoy"),
];

/// The page that may name what is gone.
const HISTORY: &str = "CHANGELOG.md";

/// What is installed, built or left by a run, and so not part of a checkout.
const MADE: &[&str] = &[
    "dist/",
    "matrix-edge-auth.wasm.cdx.json",
    "target/",
    ".tools",
    ".venv",
    "fuzz/corpus/",
    "run/bootstrap.yaml",
];

/// One thing that a page names.
struct Named {
    page: String,
    text: String,
}

impl Named {
    /// The words of a command: `cargo test --lib` has three.
    fn words(&self) -> Vec<&str> {
        self.text.split_whitespace().collect()
    }
}

/// Everything of the repository that is no page of the manual, as text by its path.
struct Repository {
    files: BTreeMap<String, String>,
}

impl Repository {
    fn read() -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![repository()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                let name = relative(&path);
                // What is built, fetched or found by a run, and no part of the repository.
                let built = ["target", "dist", ".git", ".venv", ".tools"].contains(&&*name);
                let fuzzed = ["fuzz/target", "fuzz/corpus", "fuzz/artifacts"].contains(&&*name);
                if built
                    || fuzzed
                    || name.ends_with("node_modules")
                    || name.ends_with("__pycache__")
                {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = fs::read(&path).expect("a file");
                    files.insert(name, String::from_utf8_lossy(&text).into_owned());
                }
            }
        }
        Self { files }
    }

    fn text(&self, path: &str) -> &str {
        self.files
            .get(path)
            .unwrap_or_else(|| panic!("there is no {path}"))
    }

    /// Returns whether a name is in code, a configuration or a script, and not only in sentences.
    fn knows(&self, name: &str) -> bool {
        let code = self.files.iter().filter(|(path, _)| {
            let data = [
                "Cargo.lock",
                "package-lock.json",
                "tests/vectors/",
                "fuzz/seeds/",
            ];
            !path.ends_with(".md")
                && !path.ends_with("inline_code.rs")
                && !path.ends_with("folder_pages.rs")
                && !data.iter().any(|data| path.contains(data))
        });
        let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        code.into_iter().any(|(_, text)| {
            text.match_indices(name).any(|(at, _)| {
                let (before, after) = (&text[..at], &text[at + name.len()..]);
                let starts = is_part(name.chars().next()) && is_part(before.chars().next_back());
                let ends = is_part(name.chars().next_back()) && is_part(after.chars().next());
                !starts && !ends
            })
        })
    }

    /// Returns whether a path leads somewhere: from the root, from the page's folder, or as the end of a longer one. Words in
    /// capitals and `*` stand for any name.
    fn has_path(&self, page: &str, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let folder = page.rsplit_once('/').map_or("", |(folder, _)| folder);
        let (path, function) = path.split_once("::").unwrap_or((path, ""));
        let pattern: Vec<&str> = path.split('/').collect();
        let from_page: Vec<&str> = folder.split('/').chain(pattern.iter().copied()).collect();
        self.files.iter().any(|(file, text)| {
            let parts: Vec<&str> = file.split('/').collect();
            let begins = |pattern: &[&str]| {
                parts.len() >= pattern.len()
                    && pattern.iter().zip(&parts).all(|(a, b)| matches(a, b))
            };
            let ends = (0..parts.len()).any(|at| {
                parts.len() - at == pattern.len()
                    && pattern.iter().zip(&parts[at..]).all(|(a, b)| matches(a, b))
            });
            (begins(&pattern) || begins(&from_page) || ends)
                && (function.is_empty() || text.contains(&format!("fn {function}(")))
        })
    }
}

/// Returns whether a name is meant by a pattern: `*` stands for anything, and so does a first part in capitals (`FILE.rs`).
fn matches(pattern: &str, name: &str) -> bool {
    let stem = pattern.split('.').next().unwrap_or_default();
    if !stem.is_empty() && stem.chars().all(|c| c.is_ascii_uppercase()) && stem != "README" {
        return name.ends_with(&pattern[stem.len()..]);
    }
    match pattern.split_once('*') {
        Some((start, end)) => name.starts_with(start) && name.ends_with(end),
        None => pattern == name,
    }
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(repository()).expect("it is below");
    path.display().to_string()
}

/// The pages: all that end in `.md`.
fn pages(repository: &Repository) -> impl Iterator<Item = (&String, &String)> {
    repository
        .files
        .iter()
        .filter(|(path, _)| path.ends_with(".md"))
}

/// What a page has between back quotes, outside of its blocks, and on its indented lines.
fn named(page: &str, text: &str) -> Vec<Named> {
    let prose = text
        .split("\n```")
        .step_by(2)
        .collect::<Vec<_>>()
        .join("\n");
    let mut found: Vec<String> = Vec::new();
    let (indented, sentences): (Vec<&str>, Vec<&str>) = prose
        .lines()
        .partition(|line| line.starts_with("    ") && !line.contains('|'));
    // What explains a command stands some spaces behind it.
    let commands = indented
        .iter()
        .map(|line| line.trim_start().split("  ").next());
    found.extend(commands.flatten().map(str::to_owned));
    for paragraph in sentences.join("\n").split("\n\n") {
        found.extend(paragraph.split('`').skip(1).step_by(2).map(str::to_owned));
    }
    found
        .into_iter()
        .map(|text| Named {
            page: page.to_owned(),
            text: text
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .replace("\\|", "|"),
        })
        .filter(|named| !named.text.is_empty())
        .collect()
}

/// All that is named, and the repository.
fn everything() -> (Repository, Vec<Named>) {
    let repository = Repository::read();
    let named = pages(&repository)
        .flat_map(|(page, text)| named(page, text))
        .collect();
    (repository, named)
}

/// The commands of a line: those that `&&` joins, each without the variables before it, and these.
fn commands(line: &str) -> Vec<(Vec<&str>, Vec<&str>)> {
    let parts = line.split(" && ");
    parts
        .map(|part| {
            let words: Vec<&str> = part.split_whitespace().collect();
            let is_variable = |word: &&str| {
                word.split_once('=').is_some_and(|(name, _)| {
                    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
                })
            };
            let first = words
                .iter()
                .position(|word| !is_variable(word))
                .unwrap_or(words.len());
            (words[first..].to_vec(), words[..first].to_vec())
        })
        .collect()
}

/// Fails with all faults at once.
fn report(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// The value of a variable in a command, without its quotes: `LAYER="native core"` has two words.
fn value<'a>(line: &'a str, variable: &str) -> Vec<&'a str> {
    let Some((_, rest)) = line.split_once(&format!("{variable}=")) else {
        return Vec::new();
    };
    let value = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split_whitespace().next(),
    };
    value.unwrap_or_default().split_whitespace().collect()
}

#[test]
fn every_make_command_names_a_target_and_variables_that_it_reads() {
    let (repository, named) = everything();
    let makefile = repository.text("Makefile");
    let targets: BTreeMap<&str, &str> = makefile
        .lines()
        .filter_map(|line| line.split_once(": ## "))
        .collect();
    let scripts: String = repository
        .files
        .iter()
        .filter(|(path, _)| {
            let read = ["scripts/", "tests/", "benches/", "stand-in/"];
            read.iter().any(|folder| path.starts_with(folder))
        })
        .map(|(_, text)| text.as_str())
        .collect();
    let (mut faults, mut seen) = (Vec::new(), 0);
    for named in &named {
        for (words, before) in commands(&named.text) {
            let ["make", arguments @ ..] = &words[..] else {
                continue;
            };
            seen += 1;
            let quoted: Vec<&str> = ["LAYER", "PART", "TARGET"]
                .iter()
                .flat_map(|variable| value(&named.text, variable))
                .collect();
            for word in arguments.iter().chain(&before) {
                let is_known = match word.split_once('=') {
                    Some((name, _)) => {
                        makefile.contains(&format!("$({name})"))
                            || makefile.contains(&format!("$(or $({name})"))
                            || scripts.contains(&format!("${{{name}:"))
                            || scripts.contains(&format!("${name}"))
                            || scripts.contains(&format!("\"{name}\""))
                    }
                    None => targets.contains_key(word) || quoted.contains(&word.trim_matches('"')),
                };
                if !is_known {
                    faults.push(format!("{}: `{}`: {word}", named.page, named.text));
                }
            }
        }
        for (variable, script) in [
            ("LAYER", "scripts/test"),
            ("PART", "scripts/bench"),
            ("TARGET", "scripts/fuzz"),
        ] {
            for word in value(&named.text, variable) {
                let is_known = match variable {
                    "TARGET" => repository.has_path("", &format!("fuzz/fuzz_targets/{word}.rs")),
                    _ => repository.text(script).lines().any(|line| {
                        let list = ["layers=(", "others=(", "parts=("];
                        list.iter().any(|start| line.starts_with(start))
                            && line.split(['(', ' ', ')']).any(|name| name == word)
                    }),
                };
                if !is_known {
                    faults.push(format!(
                        "{}: `{}`: no {variable} {word}",
                        named.page, named.text
                    ));
                }
            }
        }
    }
    report(&faults);
    assert!(seen > 50, "{seen} commands");
}

#[test]
fn every_command_of_the_program_has_its_flags() {
    let (_, named) = everything();
    let help = program(&["help"], "").stdout;
    let subcommands: BTreeSet<&str> = help
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .collect();
    let (mut faults, mut seen) = (Vec::new(), 0);
    for named in &named {
        let words = named.words();
        let ["matrix-edge-auth", subcommand, arguments @ ..] = &words[..] else {
            continue;
        };
        if subcommand.starts_with(|c: char| c == '.' || c.is_ascii_digit()) {
            continue; // a line of the log, which begins with name and version
        }
        seen += 1;
        if !subcommands.contains(subcommand) {
            faults.push(format!("{}: `{}`", named.page, named.text));
            continue;
        }
        let help = program(&[subcommand, "--help"], "").stdout;
        for flag in arguments.iter().filter(|word| word.starts_with('-')) {
            if !help.contains(&format!("{flag} ")) {
                faults.push(format!("{}: `{}`: {flag}", named.page, named.text));
            }
        }
    }
    report(&faults);
    assert!(seen >= 5, "{seen} commands");
}

#[test]
fn every_cargo_command_names_a_test_that_is_there() {
    let (repository, named) = everything();
    let manifest = repository.text("Cargo.toml");
    let (mut faults, mut seen) = (Vec::new(), 0);
    for named in &named {
        for (words, _) in commands(&named.text) {
            let ["cargo", "test", arguments @ ..] = &words[..] else {
                continue;
            };
            seen += 1;
            let mut arguments = arguments.iter().take_while(|word| **word != "--");
            while let Some(word) = arguments.next() {
                let is_known = match *word {
                    "--features" => {
                        let features = arguments.next().expect("features").split(',');
                        features
                            .into_iter()
                            .all(|name| manifest.contains(&format!("\n{name} = [")))
                    }
                    "--test" => {
                        let name = arguments.next().expect("a test");
                        ["tests/NAME.rs", "tests/NAME/main.rs", "cli/tests/NAME.rs"]
                            .iter()
                            .any(|path| repository.has_path("", &path.replace("NAME", name)))
                    }
                    "-p" | "--package" => {
                        let name = arguments.next().expect("a package");
                        repository.knows(&format!("name = \"{name}\""))
                    }
                    "--lib" | "--no-run" | "--workspace" | "--quiet" => true,
                    // Modules, or a part of a function's name.
                    filter if filter.starts_with('-') => false,
                    filter => filter.split("::").all(|part| {
                        let is_placeholder = part.chars().all(|c| c.is_ascii_uppercase());
                        is_placeholder
                            || repository.has_path("", &format!("{part}.rs"))
                            || repository.files.iter().any(|(path, text)| {
                                path.ends_with(".rs")
                                    && text
                                        .lines()
                                        .any(|line| line.contains("fn ") && line.contains(part))
                            })
                    }),
                };
                if !is_known {
                    faults.push(format!("{}: `{}`: {word}", named.page, named.text));
                }
            }
        }
    }
    report(&faults);
    assert!(seen > 20, "{seen} commands");
}

/// Returns whether a word is the path of a file of the project: it says a folder of it, or how its name ends.
fn is_path(word: &str, repository: &Repository) -> bool {
    const ENDINGS: &[&str] = &[
        ".rs", ".py", ".sh", ".mjs", ".md", ".yaml", ".json", ".toml", ".tsv", ".csv", ".txt",
        ".svg", ".png", ".wat", ".c", ".cc",
    ];
    if word.starts_with('/')
        || word.starts_with("../")
        || word.contains("://")
        || word.contains('=')
    {
        return false;
    }
    let path = word.split("::").next().unwrap_or_default();
    let first = path.split('/').next().unwrap_or_default();
    let in_folder = path.contains('/')
        && repository
            .files
            .keys()
            .any(|file| file.split('/').next() == Some(first) && file.contains('/'));
    in_folder
        || ENDINGS
            .iter()
            .any(|ending| path.ends_with(ending) && path.len() > ending.len())
}

#[test]
fn every_path_leads_to_a_file_or_a_folder() {
    let (repository, named) = everything();
    let (mut faults, mut seen) = (Vec::new(), 0);
    for named in &named {
        for word in named.words().into_iter().flat_map(expanded) {
            let word = word.trim_matches(|c| "\"'(),;".contains(c));
            let is_made = MADE.iter().any(|made| word.starts_with(made));
            if is_made || is_outside(word) || !is_path(word, &repository) {
                continue;
            }
            seen += 1;
            if !repository.has_path(&named.page, word) {
                faults.push(format!("{}: `{}`: {word}", named.page, named.text));
            }
        }
    }
    report(&faults);
    assert!(seen > 200, "{seen} paths");
}

/// The paths that a shell makes of one with braces: of `folder/{a,b}` there are two.
fn expanded(word: &str) -> Vec<String> {
    let parts = word
        .split_once("/{")
        .and_then(|(folder, rest)| Some((folder, rest.split_once('}')?)));
    match parts {
        Some((folder, (names, rest))) => names
            .split(',')
            .map(|name| format!("{folder}/{name}{rest}"))
            .collect(),
        None => vec![word.to_owned()],
    }
}

fn is_outside(word: &str) -> bool {
    OUTSIDE.iter().any(|(name, _)| *name == word)
}

/// The paths of the configuration's keys, such as `cache.ttl`.
fn keys(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (name, value) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        keys(value, &path, found);
        if value["items"].is_object() {
            found.insert(format!("{path}[]"));
            keys(&value["items"], &format!("{path}[]"), found);
        }
        for part in ["oneOf", "anyOf"]
            .iter()
            .flat_map(|of| value[of].as_array())
            .flatten()
        {
            keys(part, &path, found);
        }
        found.insert(path);
    }
}

#[test]
fn every_key_of_the_configuration_is_one() {
    let (repository, named) = everything();
    let schema = serde_json::from_str(repository.text("docs/configuration.schema.json"));
    let mut known = BTreeSet::new();
    keys(&schema.expect("the schema"), "", &mut known);
    let (mut faults, mut seen) = (Vec::new(), 0);
    for named in &named {
        let key = named.text.split([':', ' ']).next().unwrap_or_default();
        let Some((first, _)) = key.split_once(['.', '[']) else {
            continue;
        };
        let is_file = is_path(key, &repository);
        if !known.contains(first) || is_file || is_outside(key) {
            continue;
        }
        seen += 1;
        if !known.contains(key) {
            faults.push(format!("{}: `{}`", named.page, named.text));
        }
    }
    report(&faults);
    assert!(seen > 30, "{seen} keys");
}

#[test]
fn every_metric_is_counted() {
    let (repository, named) = everything();
    let sources = repository
        .files
        .iter()
        .filter(|(path, _)| path.starts_with("src/"));
    let sources: String = sources.map(|(_, text)| text.as_str()).collect();
    let (mut faults, mut seen) = (Vec::new(), 0);
    // Those of Envoy have the filter's name within theirs.
    for named in named
        .iter()
        .filter(|named| !named.text.starts_with("envoy_") && named.page != HISTORY)
    {
        for part in named.text.split("matrix_edge_auth_").skip(1) {
            let name: String = part
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            let name = name.split("_verdict_").next().unwrap_or_default();
            // Prometheus has three series of a histogram.
            let name = name.trim_end_matches("_sum").trim_end_matches("_count");
            if name.is_empty() || is_outside(&format!("matrix_edge_auth_{name}")) {
                continue;
            }
            seen += 1;
            if !sources.contains(&format!("\"{name}\"")) {
                faults.push(format!("{}: `{}`", named.page, named.text));
            }
        }
    }
    report(&faults);
    assert!(seen > 40, "{seen} metrics");
}

/// Names that have the form of one: with `_`, `::` or a prefix, or in capitals. Words of a sentence have none of these.
fn is_name(word: &str) -> bool {
    let is_identifier = word
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_-:.".contains(c));
    let has_letters = word.chars().filter(char::is_ascii_alphabetic).count() > 2;
    let is_upper = word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    is_identifier
        && !word.starts_with('_')
        && has_letters
        && (word.contains('_')
            || word.contains("::")
            || word.starts_with("x-")
            || word.starts_with("--")
            || is_upper)
}

/// How commands begin whose words are looked at, or that are run, elsewhere. `tests/envoy/runbook.rs` runs those of the runbook.
const COMMANDS: &[&str] = &["cargo ", "curl ", "grep ", "helm ", "make ", "SELECT "];

#[test]
fn every_name_is_in_the_code() {
    let (repository, named) = everything();
    let names: BTreeMap<&str, &Named> = named
        .iter()
        .filter(|named| named.page != HISTORY)
        .filter(|named| {
            !COMMANDS
                .iter()
                .any(|program| named.text.starts_with(program))
        })
        .flat_map(|named| {
            let words = named
                .text
                .split(|c: char| c.is_whitespace() || "=\"'(){}[]|,;/&*$<>@%^?".contains(c));
            words.map(move |word| (word.trim_matches(['.', ':']), named))
        })
        .filter(|(word, _)| {
            is_name(word)
                && !word.starts_with("matrix_edge_auth_")
                && !is_outside(word)
                && !is_path(word, &repository)
        })
        .collect();
    let mut faults = Vec::new();
    for (name, named) in &names {
        // `Worker::roots` is written apart where it is defined.
        let parts: Vec<&str> = name.split("::").filter(|part| !part.is_empty()).collect();
        if !parts.iter().all(|part| repository.knows(part)) {
            faults.push(format!("{}: `{}`: {name}", named.page, named.text));
        }
    }
    report(&faults);
    assert!(names.len() > 150, "{} names", names.len());
}

/// The list is as short as it can be.
#[test]
fn what_is_known_elsewhere_is_named_and_not_known_here() {
    let (repository, named) = everything();
    for (name, whose) in OUTSIDE {
        assert!(
            named.iter().any(|named| named.text.contains(name)),
            "{name} of {whose} is not named"
        );
        assert!(!repository.knows(name), "{name} of {whose} is known here");
    }
}

/// A name that nothing has is found: what the tests above see is not only what is right.
#[test]
fn a_name_that_nothing_has_is_found() {
    let repository = Repository::read();
    assert!(repository.knows("introspection"));
    assert!(!repository.knows("introspectio"));
    assert!(!repository.has_path("docs/page.md", "src/nothing.rs"));
    assert!(!repository.has_path("docs/page.md", "tests/configuration.rs::nothing"));
    assert!(repository.has_path("docs/page.md", "operations.md"));
    assert_eq!(expanded("docs/{a,b}.md"), ["docs/a.md", "docs/b.md"]);
    let page =
        "Run `make\nnothing`:\n\n    cargo test --test nothing   explains\n\n```\n`no`\n```\n";
    let found: Vec<String> = named("a.md", page)
        .into_iter()
        .map(|named| named.text)
        .collect();
    assert_eq!(found, ["cargo test --test nothing", "make nothing"]);
}
