//! Prints findings: for people with the lines that they are about, for programs as one JSON object.
//!
//! The non-obvious rule: a line that may hold a secret is not shown, and neither is a long line. Only its place is told. A
//! value that the module refuses may itself be a secret, as in `bearer: s3cret`, and a key that is given twice may be the
//! name of a variable with one. In other lines the keys tell.

use std::io::{IsTerminal as _, stdout};

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet, renderer::DecorStyle};
use serde::Serialize;

use super::{
    finding::{Finding, Severity},
    rules::Rule,
    source::Fault,
};
use crate::output::print;

/// Words in a line that may have a secret in it.
const SECRETIVE: [&str; 6] = [
    "secret",
    "credential",
    "value",
    "inline_",
    "token",
    "password",
];

/// The longest line that is shown, in bytes. Otherwise a file of one line would be gone through again for each of its
/// findings.
const LONGEST_LINE: usize = 2_000;

/// Prints for people.
pub fn text(findings: &[Finding<'_>], faults: &[Fault], uses: usize, remaining: [usize; 3]) {
    let renderer = if stdout().is_terminal() {
        Renderer::styled()
    } else {
        Renderer::plain()
    }
    .decor_style(DecorStyle::Ascii);
    let mut out = String::new();
    for finding in findings {
        out += &shown(finding, &renderer);
        out += "\n\n";
    }
    for fault in faults {
        out += &format!("error: {}\n", fault.line());
    }
    out += &summary(findings, faults, uses);
    out += &to_fill_in(remaining);
    print(&out);
}

fn summary(findings: &[Finding<'_>], faults: &[Fault], uses: usize) -> String {
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
    let unread = if faults.is_empty() {
        ""
    } else {
        "; not everything was looked at"
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

fn is_secretive(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    SECRETIVE.iter().any(|word| lower.contains(word))
}

fn shown(finding: &Finding<'_>, renderer: &Renderer) -> String {
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let title = level.primary_title(&finding.message).id(finding.rule);
    let help = Level::HELP.message(&finding.help);
    let (line, column) = finding.tree.position(finding.place.start);
    // Only the finding's own line is handed over: a large file would otherwise be searched again for every finding.
    let (start, shown) = finding.tree.line(finding.place.start);
    let is_long = shown.len() > LONGEST_LINE;
    if is_long || finding.may_be_secret || is_secretive(shown) {
        let origin = Origin::path(&finding.tree.name)
            .line(line)
            .char_column(column);
        return renderer.render(&[title.element(origin).element(help)]);
    }
    let from = finding.place.start.saturating_sub(start).min(shown.len());
    let until = finding
        .place
        .end
        .saturating_sub(start)
        .clamp(from, shown.len());
    let snippet = Snippet::source(shown)
        .line_start(line)
        .path(&finding.tree.name)
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
}

#[derive(Serialize)]
struct Broken<'r> {
    file: &'r str,
    line: Option<usize>,
    column: Option<usize>,
    message: &'r str,
}

/// Prints for programs.
pub fn json(findings: &[Finding<'_>], faults: &[Fault], remaining: [usize; 3]) {
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
    print(&format!("{text}\n"));
}

/// Lists the rules.
pub fn rules(rules: &[Rule]) {
    let mut out = String::new();
    for rule in rules {
        out += &format!(
            "{:<20} {:<8} {}\n",
            rule.name,
            rule.severity.name(),
            rule.about
        );
    }
    print(&out);
}
