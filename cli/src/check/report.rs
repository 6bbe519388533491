//! What is printed of findings: for people with the lines that they are about, for programs as one JSON object.
//!
//! The non-obvious rule: a line is shown if each word in it is known to be no secret (`visible.rs`). Of any other line only the
//! place is told. A value that the module refuses may itself be a secret, as in `bearer: s3cret`, and a key that is given twice may
//! be the name of a variable with one: what such a rule points at is never shown.

mod visible;

use std::io::{IsTerminal as _, stdout};

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet, renderer::DecorStyle};
use serde::Serialize;

use self::visible::{Secrets, visible};
use super::{
    finding::{Finding, Severity},
    rules::Rule,
    source::Fault,
};
use crate::yaml::{Place, Tree};

/// The report for people.
pub fn text(
    trees: &[Tree],
    findings: &[Finding<'_>],
    faults: &[Fault],
    uses: usize,
    remaining: [usize; 3],
) -> String {
    let renderer = if stdout().is_terminal() {
        Renderer::styled()
    } else {
        Renderer::plain()
    }
    .decor_style(DecorStyle::Ascii);
    let secrets = Secrets::of(trees);
    let mut out = String::new();
    for finding in findings {
        out += &shown(finding, &secrets, &renderer);
        out += "\n\n";
    }
    for fault in faults {
        out += &format!("error: {}\n", fault.line());
    }
    out += &summary(findings, faults, uses);
    out += &to_fill_in(remaining);
    out
}

/// A message of what stands in a text that the file has in another form, with its place there.
pub fn with_inner(tree: &Tree, place: &Place, message: &str) -> String {
    match inner(tree, place) {
        Some(inner) => format!("{message} ({inner})"),
        None => message.to_owned(),
    }
}

fn inner(tree: &Tree, place: &Place) -> Option<String> {
    let (line, column) = tree.inner_position(place)?;
    Some(format!(
        "line {line}, column {column} of the text that stands here"
    ))
}

fn summary(findings: &[Finding<'_>], faults: &[Fault], uses: usize) -> String {
    if uses == 0 && findings.is_empty() && !faults.iter().any(|fault| fault.is_unread) {
        return "no use of the module, and nothing to check\n".to_owned();
    }
    let count = |severity| {
        let of = |finding: &&Finding<'_>| finding.severity == severity;
        findings.iter().filter(of).count()
    };
    let uses = plural(uses, "use");
    let is_note = |finding: &Finding<'_>| finding.severity == Severity::Note;
    if findings.iter().all(is_note) && faults.is_empty() {
        return format!("{uses} of the module, nothing found\n");
    }
    let errors = plural(count(Severity::Error), "error");
    let warnings = plural(count(Severity::Warning), "warning");
    let unread = if faults.iter().any(|fault| fault.is_unread) {
        "; not everything was looked at"
    } else {
        ""
    };
    format!("{uses} of the module: {errors}, {warnings}{unread}\n")
}

fn plural(count: usize, word: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {word}{end}")
}

/// What is still to be filled in before these files can be deployed; empty if nothing is.
fn to_fill_in(remaining: [usize; 3]) -> String {
    let kinds = remaining.into_iter().zip(["digest", "secret", "host"]);
    let some: Vec<String> = kinds
        .filter(|(count, _)| *count > 0)
        .map(|(count, kind)| plural(count, kind))
        .collect();
    if some.is_empty() {
        String::new()
    } else {
        format!("still to be filled in: {}\n", some.join(", "))
    }
}

fn shown(finding: &Finding<'_>, secrets: &Secrets, renderer: &Renderer) -> String {
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let title = level.primary_title(&finding.message).id(finding.rule);
    let help = Level::HELP.message(&finding.help);
    let Finding { tree, place, .. } = finding;
    let (line, column) = tree.position(place.start);
    // Only the finding's own line is handed over: a large file would otherwise be searched again for every finding.
    let (start, whole) = tree.line(place.start);
    let is_hidden =
        finding.may_be_secret || place.inner.is_some() || secrets.has(tree, place.start);
    let Some(shown) = visible(whole).filter(|_| !is_hidden) else {
        let origin = Origin::path(&tree.name).line(line).char_column(column);
        let group = title.element(origin);
        let group = match inner(tree, place) {
            Some(inner) => group.element(Level::NOTE.message(inner)),
            None => group,
        };
        return renderer.render(&[group.element(help)]);
    };
    let from = place.start.saturating_sub(start).min(shown.len());
    let until = place.end.saturating_sub(start).clamp(from, shown.len());
    let snippet = Snippet::source(shown)
        .line_start(line)
        .path(&tree.name)
        .annotation(AnnotationKind::Primary.span(from..until));
    renderer.render(&[title.element(snippet).element(help)])
}

/// What `--format json` prints. Fields are added and never renamed.
#[derive(Serialize)]
struct Report<'r> {
    findings: Vec<Entry<'r>>,
    notes: Vec<Entry<'r>>,
    unreadable: Vec<Broken<'r>>,
    placeholders: usize,
}

#[derive(Serialize)]
struct Entry<'r> {
    file: &'r str,
    line: usize,
    column: usize,
    rule: &'r str,
    severity: &'r str,
    message: &'r str,
    help: &'r str,
    /// Where it stands in the text that is at this place, if that is in base64 or has escapes.
    #[serde(skip_serializing_if = "Option::is_none")]
    inner: Option<Position>,
}

#[derive(Serialize)]
struct Position {
    line: usize,
    column: usize,
}

#[derive(Serialize)]
struct Broken<'r> {
    file: &'r str,
    line: Option<usize>,
    column: Option<usize>,
    message: &'r str,
}

/// The report for programs.
pub fn json(findings: &[Finding<'_>], faults: &[Fault], remaining: [usize; 3]) -> String {
    let (notes, findings): (Vec<_>, Vec<_>) = findings
        .iter()
        .map(|finding| {
            let (line, column) = finding.tree.position(finding.place.start);
            Entry {
                file: &finding.tree.name,
                line,
                column,
                rule: finding.rule,
                severity: finding.severity.name(),
                message: &finding.message,
                help: &finding.help,
                inner: finding
                    .tree
                    .inner_position(&finding.place)
                    .map(|(line, column)| Position { line, column }),
            }
        })
        .partition(|entry| entry.severity == Severity::Note.name());
    let unreadable = faults
        .iter()
        .map(|fault| Broken {
            file: &fault.file,
            line: fault.position.map(|(line, _)| line),
            column: fault.position.map(|(_, column)| column),
            message: &fault.message,
        })
        .collect();
    let report = Report {
        findings,
        notes,
        unreadable,
        placeholders: remaining.iter().sum(),
    };
    let text = serde_json::to_string_pretty(&report).unwrap_or_default();
    format!("{text}\n")
}

/// The list of the rules.
pub fn rules(rules: &[Rule]) -> String {
    let width = rules.iter().map(|rule| rule.name.len()).max();
    let width = width.unwrap_or_default();
    let mut out = String::new();
    for rule in rules {
        out += &format!(
            "{:<width$} {:<8} {}\n",
            rule.name,
            rule.severity.name(),
            rule.about
        );
    }
    out
}
