//! `matrix-edge-auth digest`: the configuration's `appservice_tokens`, out of the files by which appservices are registered.
//!
//! Only the `as_token` counts, which a bridge sends. No token is printed.
//!
//! The non-obvious rule: standard input may be a registration in one line, as JSON often is. A digest of the whole line would
//! look right, and let nobody in.

use std::{
    collections::HashSet,
    io::{self, Read as _},
    process::ExitCode,
};

use clap::Args;
use matrix_edge_auth::{config::AppserviceTokens, token::AccessToken};

use crate::{
    check::source,
    output::{print, refuse},
    yaml::{Reader, Tree, Value},
};

/// Most bytes that are read from standard input.
const MAX_BYTES: u64 = 1 << 20;

/// What `digest` takes.
#[derive(Args)]
pub struct Arguments {
    /// Registration files; without any, standard input has one token a line, or one such file
    #[arg(long, value_name = "FILE", num_args = 1..)]
    registration: Vec<String>,
}

/// A token's digest, and whose it is.
struct Entry {
    digest: [u8; 32],
    id: Option<String>,
}

/// Runs the command. The exit code is 2 if something cannot be read.
pub fn run(arguments: &Arguments) -> ExitCode {
    match entries(arguments) {
        Ok(entries) => print(&written(&entries), 0),
        Err(error) => refuse(&error),
    }
}

fn entries(arguments: &Arguments) -> Result<Vec<Entry>, String> {
    if arguments.registration.is_empty() {
        return of_input();
    }
    let mut all = Vec::new();
    for read in source::read_all(&arguments.registration) {
        let tree = read.map_err(|fault| fault.line())?;
        all.extend(of_file(&tree)?);
    }
    Ok(all)
}

fn of_input() -> Result<Vec<Entry>, String> {
    const NAME: &str = "<standard input>";
    let mut text = String::new();
    let mut stdin = io::stdin().lock().take(MAX_BYTES + 1);
    stdin
        .read_to_string(&mut text)
        .map_err(|error| format!("{NAME}: {error}"))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!(
            "{NAME}: it has more than 1 MiB, and is not read: give a part of it"
        ));
    }
    let is_registration = text.lines().any(is_member);
    match Tree::read(NAME.to_owned(), text.clone()) {
        Ok(tree) if is_registration || has_member(&tree) => return of_file(&tree),
        Err(error) if is_registration => return Err(format!("{NAME}: {error}")),
        _ => {}
    }
    let lines = text.lines().map(str::trim).enumerate();
    let tokens = lines.filter(|(_, line)| !line.is_empty());
    let entries: Vec<_> = tokens
        .map(|(number, line)| {
            let place = format!("{NAME}:{}", number + 1);
            if line.starts_with(['{', '[']) {
                return Err(format!(
                    "{place}: this is the beginning of a document, and no token: a registration has a member `as_token`"
                ));
            }
            entry(line, None, &place)
        })
        .collect::<Result<_, _>>()?;
    if entries.is_empty() {
        return Err(format!(
            "{NAME}: there is no token in it: give one a line, or a registration that has `as_token`"
        ));
    }
    Ok(entries)
}

/// Whether a document is a registration, also one that is written in one line.
fn has_member(tree: &Tree) -> bool {
    let mut roots = tree.documents.iter().map(|it| tree.value(it.root));
    roots.any(|root| root.get("as_token").is_some())
}

/// Whether a line of YAML or JSON begins with the member `as_token`. It tells a registration that is no YAML from tokens.
fn is_member(line: &str) -> bool {
    let punctuation = |c: char| matches!(c, '{' | '"' | '\'') || c.is_whitespace();
    let rest = line
        .trim_start_matches(punctuation)
        .strip_prefix("as_token");
    rest.is_some_and(|rest| rest.trim_start_matches(punctuation).starts_with(':'))
}

fn of_file(tree: &Tree) -> Result<Vec<Entry>, String> {
    let roots = tree.documents.iter().map(|it| tree.value(it.root));
    let mut entries = Vec::new();
    for root in roots {
        let Some(token) = root.get("as_token") else {
            continue;
        };
        let (line, column) = tree.position(token.place().start);
        let place = format!("{}:{line}:{column}", tree.name);
        let is_text = token
            .scalar()
            .is_some_and(|scalar| scalar.json(Reader::Json).is_string());
        let text = token
            .text()
            .filter(|_| is_text)
            .ok_or_else(|| format!("{place}: as_token takes a text: write it in quotes"))?;
        entries.push(entry(text, root.get("id").and_then(Value::text), &place)?);
    }
    if entries.is_empty() {
        return Err(format!(
            "{}: there is no as_token in it: give the file by which the appservice is registered",
            tree.name
        ));
    }
    Ok(entries)
}

fn entry(token: &str, id: Option<&str>, place: &str) -> Result<Entry, String> {
    let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
    match AccessToken::new(token.as_bytes()).filter(|_| is_visible) {
        Some(token) => Ok(Entry {
            digest: AppserviceTokens::digest(token.as_bytes()),
            id: id.map(printable),
        }),
        None => Err(format!(
            "{place}: a token is visible ASCII without white space: give it alone, one a line"
        )),
    }
}

/// An id as it may stand in a comment.
fn printable(id: &str) -> String {
    let shown = id.chars().take(64);
    shown
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn written(entries: &[Entry]) -> String {
    let mut text = "appservice_tokens:\n".to_owned();
    let mut seen = HashSet::new();
    for Entry { digest, id } in entries.iter().filter(|entry| seen.insert(entry.digest)) {
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        // In quotes: a digest of digits alone would be a number.
        text += &format!("  - \"{hex}\"");
        if let Some(id) = id {
            text += &format!(" # {id}");
        }
        text.push('\n');
    }
    text
}
