//! `matrix-edge-auth check`: reads files, applies the rules, tells what they found.

pub mod deployment;
mod duration;
mod envoy;
mod finding;
mod headers;
mod pattern;
mod report;
mod rules;
pub mod source;

use std::process::ExitCode;

use clap::{Args, ValueEnum, builder::PossibleValuesParser};

use self::{
    deployment::Deployment,
    finding::{Finding, Severity},
    source::Fault,
};
use crate::{output::print, yaml::Tree};

/// No finding.
const CLEAN: u8 = 0;
/// At least one finding.
const FOUND: u8 = 1;
/// A file cannot be read, or no file uses the module.
const UNREADABLE: u8 = 2;

/// The exit codes, at the end of the help.
const EXIT_CODES: &str = "Exit codes:
  0  nothing found
  1  at least one finding; notes are none
  2  a file cannot be read, none of the files uses the module, an argument is wrong, or the output
     cannot be written; also if there are findings";

/// What `check` takes.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct Arguments {
    /// Files of one deployment, which are looked at together; `-` is standard input
    #[arg(required_unless_present = "rules", value_name = "FILE")]
    files: Vec<String>,
    /// Lists the rules, and looks at no file
    #[arg(long)]
    rules: bool,
    /// Tells the findings of a rule as notes, which do not count for the exit code; may be given again
    #[arg(long, value_name = "RULE", value_parser = rule_names(), hide_possible_values = true)]
    allow: Vec<String>,
    /// How findings are told
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// With the lines that they are about
    Text,
    /// One JSON object
    Json,
}

fn rule_names() -> PossibleValuesParser {
    PossibleValuesParser::new(rules::RULES.iter().map(|rule| rule.name))
}

/// Runs the command. The exit code is 0 without findings, 1 with some, and 2 if a file cannot be read.
pub fn run(arguments: &Arguments) -> ExitCode {
    if arguments.rules {
        return print(&report::rules(rules::RULES), CLEAN);
    }
    let mut trees = Vec::new();
    let mut faults = Vec::new();
    for read in source::read_all(&arguments.files) {
        match read {
            Ok(tree) => trees.push(tree),
            Err(fault) => faults.push(fault),
        }
    }
    let deployment = Deployment::of(&trees);
    let mut findings = rules::apply(&deployment);
    // In a file that was given up, much looks as if it were missing.
    findings.retain(|finding| !finding.tree.is_exhausted());
    findings.sort_by_key(|finding| {
        let place = &finding.place;
        let inner = place.inner.as_ref().map(|inner| inner.bytes.start);
        (order(&trees, finding), place.start, inner, finding.rule)
    });
    for finding in &mut findings {
        if arguments.allow.iter().any(|name| name == finding.rule) {
            finding.severity = Severity::Note;
        }
    }
    faults.extend(given_up(&trees));
    if deployment.uses.is_empty() && faults.is_empty() {
        faults.push(Fault::without_use(&arguments.files));
    }
    let remaining = rules::remaining(&deployment);
    let text = match arguments.format {
        Format::Text => report::text(&trees, &findings, &faults, deployment.uses.len(), remaining),
        Format::Json => report::json(&findings, &faults, remaining),
    };
    let code = if !faults.is_empty() {
        UNREADABLE
    } else if findings
        .iter()
        .any(|finding| finding.severity != Severity::Note)
    {
        FOUND
    } else {
        CLEAN
    };
    print(&text, code)
}

/// One fault for each text that should hold a document and holds none, and one for each file that was given up.
fn given_up(trees: &[Tree]) -> impl Iterator<Item = Fault> {
    let broken = trees.iter().flat_map(|tree| {
        tree.broken().iter().map(|error| Fault {
            position: Some(tree.position(error.place.start)),
            ..Fault::new(
                &tree.name,
                report::with_inner(tree, &error.place, &error.message),
            )
        })
    });
    let exhausted = trees.iter().filter(|tree| tree.is_exhausted());
    let message = "looking at it was given up, after too many steps: its aliases repeat each other too often, or it has too many \
                   regular expressions, listeners or resources; give `check` a part of it";
    broken.chain(exhausted.map(move |tree| Fault::new(&tree.name, message)))
}

fn order(trees: &[Tree], finding: &Finding<'_>) -> Option<usize> {
    trees
        .iter()
        .position(|tree| std::ptr::eq(tree, finding.tree))
}
