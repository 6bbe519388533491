//! The glossary of README.md is kept: one thing has one name on every page, in every text that the module logs, in what the
//! program says, in the alerts, on the dashboard and on the page of `make run`.
//!
//! Two rules can be held by a machine. A word that means what the glossary has another word for is in `FORBIDDEN`. And "worker"
//! alone is nobody: Envoy has workers, and Synapse has. A page for contributors may say once whose it means.

mod support;

use std::fs;

use serde_json::Value;

use self::support::repository;

/// The terms, as the glossary has them.
const TERMS: [&str; 15] = [
    "Envoy worker:",
    "VM",
    "Synapse process:",
    "Inactive token:",
    "No verdict:",
    "Known token:",
    "Unproven token:",
    "Question:",
    "Foreign token:",
    "TTL:",
    "Stale answer:",
    "Slot:",
    "Compat token:",
    "Herd:",
    "Waiting line:",
];

/// Words that are not to be used, and what the glossary has instead. Those with `token` stand for `tokens` too.
const FORBIDDEN: &[(&str, &str)] = &[
    ("bad token", "inactive token"),
    ("dead token", "inactive token"),
    ("invalid token", "inactive token"),
    ("revoked token", "inactive token"),
    ("good token", "active token"),
    ("live token", "active token"),
    ("valid token", "active token"),
    ("cold token", "unproven token"),
    ("fresh token", "unproven token"),
    ("new token", "unproven token"),
    ("unseen token", "unproven token"),
    (
        "unknown token",
        "unproven token, foreign token or inactive token",
    ),
    ("unrecognised token", "foreign token"),
    ("unrecognized token", "foreign token"),
    ("compatibility token", "compat token"),
    ("legacy login", "compat token"),
    ("legacy token", "compat token"),
    ("time to live", "TTL"),
    ("time-to-live", "TTL"),
    ("worker thread", "Envoy worker"),
    ("unknown verdict", "no verdict"),
    ("indeterminate", "no verdict"),
];

/// What says whose worker it is, right before the word or right after it.
const BEFORE: &[&str] = &[
    "envoy",
    "envoy's",
    "federation",
    "generic",
    "media",
    "own",
    "sync",
    "synapse",
    "synapse's",
];
const AFTER: &[&str] = &[
    "of envoy",
    "of each envoy",
    "of its envoy",
    "of one envoy",
    "of synapse",
    "process",
];

/// The page that says what a Synapse process is.
const README: &str = "README.md";
/// With these words a page says whose its workers are. Where it speaks of the other one too, it says so each time.
const DECLARED: [(&str, &str); 2] = [
    ("a worker is an envoy worker", "Synapse"),
    ("a worker is a sync worker", "Envoy"),
];

/// A text, and where it is from.
struct Text {
    place: String,
    text: String,
}

/// The files below a folder with one of these endings.
fn files(folder: &str, endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(repository().join(folder)).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.strip_prefix(repository()).expect("it is below");
        let name = name.to_str().expect("UTF-8").to_owned();
        if path.is_dir() {
            found.extend(files(&name, endings));
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(name);
        }
    }
    found.sort();
    found
}

fn read(name: &str) -> String {
    fs::read_to_string(repository().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The paragraphs of a page, without blocks, code and addresses of links.
fn paragraphs(page: &str) -> Vec<String> {
    let prose: Vec<&str> = page.split("\n```").step_by(2).collect();
    let prose = prose.join("\n\n");
    let paragraphs = prose.split("\n\n").map(|paragraph| {
        let sentences = paragraph
            .split('`')
            .step_by(2)
            .collect::<Vec<_>>()
            .join("CODE");
        let mut text = String::new();
        let mut rest = sentences.as_str();
        while let Some((before, link)) = rest.split_once("](") {
            text += before;
            rest = link.split_once(')').map_or("", |(_, rest)| rest);
        }
        text += rest;
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    paragraphs.filter(|text| !text.is_empty()).collect()
}

/// The pages: for users, operators and contributors.
fn pages() -> Vec<(String, Vec<String>)> {
    let mut names = [README, "SECURITY.md", "CHANGELOG.md"]
        .map(str::to_owned)
        .to_vec();
    names.extend(files("docs", &[".md"]));
    names.extend(files("envoy", &[".md"]));
    let read = names.into_iter().map(|name| {
        let paragraphs = paragraphs(&read(&name));
        (name, paragraphs)
    });
    read.collect()
}

/// Sentences in the source of a program, without its tests: literals that have a blank.
fn literals(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let source = lines.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    let mut rest = source.as_str();
    while let Some((_, after)) = rest.split_once('"') {
        let mut is_escaped = false;
        let end = after.find(|c| {
            let ends = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            ends
        });
        let (literal, after) = after.split_at(end.unwrap_or(after.len()));
        let literal = literal.replace("\\\n", " ").replace('`', "");
        if literal.contains(' ') {
            found.push(literal.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        rest = after.get(1..).unwrap_or_default();
    }
    found
}

/// Values of these members, wherever they stand.
fn members(value: &Value, names: &[&str], found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, member) in map {
                match member.as_str().filter(|_| names.contains(&name.as_str())) {
                    Some(text) => found.push(text.to_owned()),
                    None => members(member, names, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| members(item, names, found)),
        _ => {}
    }
}

/// Texts that stand by themselves: of the log, of the program, of metrics, alerts and panels, of the page of `make run`.
fn short_texts() -> Vec<Text> {
    let mut found = Vec::new();
    let mut add = |place: &str, texts: Vec<String>| {
        let place = place.to_owned();
        let texts = texts.into_iter();
        found.extend(texts.map(|text| Text {
            place: place.clone(),
            text,
        }));
    };
    for folder in ["cli/src", "src", "stand-in/src/bin", "stand-in/src/page"] {
        for name in files(folder, &[".rs"]) {
            let is_test = name.ends_with("tests.rs") || name.contains("/fake.rs");
            if !is_test {
                add(&name, literals(&read(&name)));
            }
        }
    }
    for name in [
        "docs/configuration.schema.json",
        "ops/grafana/matrix-edge-auth.json",
    ] {
        let mut texts = Vec::new();
        let json = serde_json::from_str(&read(name)).expect("JSON");
        members(&json, &["description", "title", "legendFormat"], &mut texts);
        add(name, texts);
    }
    let rules = "ops/prometheus/rules.yaml";
    let yaml = serde_saphyr::from_str(&read(rules)).expect("YAML");
    let mut texts = Vec::new();
    members(&yaml, &["description", "summary"], &mut texts);
    add(rules, texts);
    let page = "stand-in/src/page/index.html";
    let html = read(page);
    let texts = html.split('<').filter_map(|part| part.split_once('>'));
    add(page, texts.map(|(_, text)| text.to_owned()).collect());
    found
}

/// Whether a text has the words by themselves; the last may be in the plural.
fn has(text: &str, words: &str) -> bool {
    let text = text.to_lowercase();
    let mut from = 0;
    while let Some(at) = text[from..].find(words).map(|at| at + from) {
        let end = at + words.len();
        let is_start = !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '-');
        let rest = text[end..].strip_prefix('s').unwrap_or(&text[end..]);
        if is_start && !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-') {
            return true;
        }
        from = end;
    }
    false
}

/// What stands around each "worker" of which nothing says whose it is.
fn nobodys(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split(' ').collect();
    let bare = |word: &str| {
        word.trim_matches(|c: char| !c.is_alphanumeric() && c != '\'')
            .to_lowercase()
    };
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let word = bare(word);
        if !["worker", "workers", "worker's", "workers'"].contains(&&*word) {
            continue;
        }
        let before: Vec<String> = words[at.saturating_sub(2)..at]
            .iter()
            .map(|it| bare(it))
            .collect();
        let after: Vec<String> = words[at + 1..].iter().take(3).map(|it| bare(it)).collect();
        let after = after.join(" ");
        let is_known = before.iter().any(|it| BEFORE.contains(&&**it))
            || AFTER.iter().any(|it| after.starts_with(it))
            // "Synapse process: the main process, or one of its workers".
            || text.contains("Synapse process:");
        if !is_known {
            let around = &words[at.saturating_sub(6)..words.len().min(at + 5)];
            found.push(around.join(" "));
        }
    }
    found
}

#[test]
fn the_glossary_has_these_terms() {
    let page = read(README);
    let (_, glossary) = page.split_once("\n## Glossary\n").expect("a glossary");
    let glossary = glossary.split("\n## ").next().unwrap_or_default();
    let mut terms: Vec<&str> = glossary.split("**").skip(1).step_by(2).collect();
    terms.retain(|term| *term != "Admin scope:");
    assert_eq!(terms, TERMS);
    for (word, instead) in FORBIDDEN {
        let is_term = |term: &str| has(instead, term) || instead.contains(term);
        let terms = TERMS.map(|term| term.trim_end_matches(':').to_lowercase());
        let is_known = terms.iter().any(|term| is_term(term))
            || *instead == "active token"
            || *instead == "TTL";
        assert!(is_known, "{word}: {instead} is not in the glossary");
    }
}

#[test]
fn no_page_and_no_text_has_another_word() {
    let mut texts = short_texts();
    let sentences = texts.len();
    for (name, paragraphs) in pages() {
        let place = |text| Text {
            place: name.clone(),
            text,
        };
        texts.extend(paragraphs.into_iter().map(place));
    }
    assert!(
        sentences > 700 && texts.len() > sentences + 700,
        "{sentences} of {}",
        texts.len()
    );
    let mut faults = Vec::new();
    for Text { place, text } in &texts {
        for (word, instead) in FORBIDDEN {
            if has(text, word) {
                faults.push(format!(
                    "{place}: \"{word}\" is {instead} in the glossary: {text}"
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_worker_is_somebodys() {
    let mut faults = Vec::new();
    for Text { place, text } in short_texts() {
        let found = nobodys(&text).into_iter();
        faults.extend(found.map(|around| format!("{place}: whose? ...{around}...")));
    }
    for (name, paragraphs) in pages() {
        let declared = DECLARED.iter().find(|(words, _)| {
            let mut texts = paragraphs.iter();
            texts.any(|text| text.to_lowercase().contains(words))
        });
        for text in paragraphs {
            for sentence in text.split(['.', '|', ';', ':']) {
                if declared.is_none_or(|(_, other)| sentence.contains(other)) {
                    let whole = if text.contains("Synapse process:") {
                        &*text
                    } else {
                        sentence
                    };
                    let found = nobodys(whole.trim()).into_iter();
                    faults.extend(found.map(|around| format!("{name}: whose? ...{around}...")));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_is_wrong_is_found() {
    assert!(has("An unknown token.", "unknown token"));
    assert!(has("for dead tokens", "dead token"));
    assert!(!has(
        "an invalid tokenizer, undead token-rings",
        "dead token"
    ));
    let whose = |text: &str| nobodys(text).len();
    assert_eq!(whose("A worker has it, and another worker asks"), 2);
    assert_eq!(
        whose("An Envoy worker has it. Synapse's sync worker, a media worker's cache"),
        0
    );
    assert_eq!(
        whose("the workers of Envoy; a worker process; each Envoy's own worker"),
        0
    );
    let source = "// \"a comment with a worker\"\nlog(\"one \\\"two\\\" \\\n    three\", \"four\");\n#[cfg(test)] \"a b\"";
    assert_eq!(literals(source), ["one \\\"two\\\" three"]);
    let page = "A `cold token` in\n[a link](cold-tokens.md).\n\n```\ncold token\n```\nEnd\n";
    assert_eq!(paragraphs(page), ["A CODE in [a link.", "End"]);
}
