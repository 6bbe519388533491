//! Telling what was found: for people with the lines that it is about, for programs as one JSON object.
//!
//! The non-obvious rule: a line with a secret in it is not shown. What may be one stands in quotes or after `value`, so of
//! a finding about a secret only the place is told.

use std::io::{IsTerminal as _, Write as _, stdout};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet, renderer::DecorStyle};
use serde::Serialize;

use super::{
    finding::{Finding, Severity},
    source::Fault,
};

/// Rules whose place may be that of a secret.
const SECRETIVE: [&str; 2] = ["visible-secret", "configuration"];

/// Prints for people.
pub fn text(findings: &[Finding<'_>], faults: &[Fault], uses: usize) {
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
        let place = fault
            .position
            .map(|(line, column)| format!(":{line}:{column}"));
        let place = place.unwrap_or_default();
        out += &format!("error: {}{place}: {}\n", fault.file, fault.message);
    }
    out += &summary(findings, uses);
    // Who reads may have gone.
    let _ = stdout().lock().write_all(out.as_bytes());
}

fn summary(findings: &[Finding<'_>], uses: usize) -> String {
    let count = |severity| {
        let of = |finding: &&Finding<'_>| finding.severity == severity;
        findings.iter().filter(of).count()
    };
    let plural = |count: usize, word: &str| {
        let end = if count == 1 { "" } else { "s" };
        format!("{count} {word}{end}")
    };
    let uses = plural(uses, "use");
    if findings.is_empty() {
        return format!("{uses} of the module, nothing found\n");
    }
    let errors = plural(count(Severity::Error), "error");
    let warnings = plural(count(Severity::Warning), "warning");
    format!("{uses} of the module: {errors}, {warnings}\n")
}

fn shown(finding: &Finding<'_>, renderer: &Renderer) -> String {
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(&finding.message).id(finding.rule);
    let help = Level::HELP.message(&finding.help);
    let (line, column) = finding.tree.position(finding.place.start);
    if SECRETIVE.contains(&finding.rule) {
        let place = format!("{}:{line}:{column}", finding.tree.name);
        let origin = annotate_snippets::Origin::path(place);
        return renderer.render(&[title.element(origin).element(help)]);
    }
    // A file may be large, and every finding would have it searched again: only its own line is handed over.
    let text = finding.tree.text.as_str();
    let start = text
        .get(..finding.place.start)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |at| at + 1);
    let rest = text.get(start..).unwrap_or_default();
    let shown = rest.lines().next().unwrap_or_default();
    let from = finding.place.start.saturating_sub(start).min(shown.len());
    let until = finding.place.end.saturating_sub(start).clamp(from, shown.len());
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
    unreadable: Vec<Broken<'r>>,
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
pub fn json(findings: &[Finding<'_>], faults: &[Fault]) {
    let findings = findings
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
        .collect();
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
        unreadable,
    };
    let text = serde_json::to_string_pretty(&report).unwrap_or_default();
    let _ = writeln!(stdout().lock(), "{text}");
}
