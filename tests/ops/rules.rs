//! The rules: what Prometheus's own tool says of them, and that each alert tells all that an operator needs.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

use crate::support::envoy::{read, repository, yaml};

/// The file.
pub const PATH: &str = "ops/prometheus/rules.yaml";

const TESTS: &str = "ops/prometheus/rules_test.yaml";
const RUNBOOK: &str = "docs/runbook.md";

/// Its sections that are about no alert.
const GENERAL: [&str; 5] = [
    "Stop all rejections",
    "Take the module out",
    "One person is refused",
    "What the commands need",
    TABLE,
];

/// The section that has a row for each alert.
const TABLE: &str = "When each alert fires";

/// The alert that compares so much that its own section says when it fires.
const IN_ITS_SECTION: &str = "MatrixEdgeAuthRejectionSpike";

/// How a command of the runbook begins: a program, or a question to a database or to Prometheus. `tests/envoy/runbook.rs` runs
/// those of `curl` and `grep`.
const COMMANDS: [&str; 6] = ["SELECT", "count", "curl", "date", "grep", "up"];

/// A rule.
pub struct Rule {
    /// Of the alert, or of the series that is recorded.
    pub name: String,
    pub is_alert: bool,
    pub expression: String,
    json: Value,
}

impl Rule {
    /// Returns what the expression compares, without what it is compared with.
    ///
    /// `and`, `or`, `unless` and comparisons stand at the start of lines, unless they are in parentheses.
    pub fn operands(&self) -> Vec<String> {
        let mut operands = vec![String::new()];
        for line in self.expression.lines().map(str::trim) {
            let operand = operands.last_mut().expect("one");
            match line.split(' ').next() {
                Some("and" | "or" | "unless") => {
                    assert!(
                        !line.contains(' ') || line == "and on (job)",
                        "{}: {line}",
                        self.name
                    );
                    operands.push(String::new());
                }
                Some(">" | "<" | "==") => {}
                _ => {
                    let outer = outside_parentheses(line);
                    for comparison in [" > ", " == ", " < ", " and ", " or ", " unless "] {
                        assert!(!outer.contains(comparison), "{}: {line}", self.name);
                    }
                    operand.push_str(line);
                    operand.push(' ');
                }
            }
        }
        operands
    }
}

/// Returns what of a line is in no parentheses.
fn outside_parentheses(line: &str) -> String {
    let mut depth = 0;
    let is_outside = |c: &char| {
        depth += i32::from(*c == '(') - i32::from(*c == ')');
        depth == 0
    };
    line.chars().filter(is_outside).collect()
}

/// All rules.
pub fn rules() -> Vec<Rule> {
    let file = yaml(&read(PATH));
    let groups = file["groups"].as_array().expect("groups").iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().expect("rules"));
    rules
        .map(|rule| {
            let name = rule["alert"].as_str().or(rule["record"].as_str());
            Rule {
                name: name.expect("a name").to_owned(),
                is_alert: rule["alert"].is_string(),
                expression: rule["expr"].as_str().expect("an expression").to_owned(),
                json: rule.clone(),
            }
        })
        .collect()
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    for arguments in [["check", "rules", PATH], ["test", "rules", TESTS]] {
        let done = Command::new(std::env::var("PROMTOOL").unwrap_or("promtool".into()))
            .args(arguments)
            .current_dir(repository())
            .output()
            .expect("promtool runs: it comes with Prometheus, see `make setup`");
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        assert!(done.status.success(), "{said}");
    }
}

/// The parameter that operators set has the value that a configuration without the key has.
#[test]
fn the_limit_of_calls_is_the_default_of_the_configuration() {
    let json = br#"{"role":"introspection","introspection":{"cluster":"mas","credential":{"injected":true}}}"#;
    let config = matrix_edge_auth::config::parse(json, &|_| None).expect("a configuration");
    let limit = rules()
        .into_iter()
        .find(|rule| rule.name == "matrix_edge_auth:max_in_flight");
    let expected = format!("vector({})", config.introspection.max_in_flight);
    assert_eq!(limit.expect("the rule").expression, expected);
    let used = rules()
        .into_iter()
        .filter(|rule| rule.expression.contains("matrix_edge_auth:max_in_flight"));
    assert_eq!(used.count(), 1, "no rule has a number of its own");
}

/// The command that docs/operations.md gives makes a link of each path to the runbook.
#[test]
fn the_paths_to_the_runbook_become_links() {
    let page = read("docs/operations.md");
    let command = page.lines().find(|line| line.starts_with("sed -i "));
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("rules.yaml");
    std::fs::copy(repository().join(PATH), &path).expect("a copy");
    let done = Command::new("bash")
        .args(["-c", command.expect("a command")])
        .current_dir(folder.path())
        .status();
    assert!(done.expect("bash starts").success());
    let rules = std::fs::read_to_string(path).expect("the copy");
    let link = "runbook_url: https://git.example.org/matrix-edge-auth/docs/runbook.md#";
    assert_eq!(
        rules.matches(link).count(),
        rules.matches("runbook_url:").count()
    );
    assert_eq!(
        rules.matches(link).count(),
        rules.matches("- alert:").count()
    );
}

/// A duration of Prometheus's as the runbook has it: `5m` is "5 minutes".
fn in_words(duration: &str) -> String {
    let (number, unit) = duration.split_at(duration.len() - 1);
    let unit = match unit {
        "m" => "minute",
        "h" => "hour",
        "d" => "day",
        _ => panic!("{duration}"),
    };
    let plural = if number == "1" { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

/// What the words about an expression must have in them: what it compares with, and over which time. With them the numbers.
fn limits(expression: &str, all: &[Rule]) -> (BTreeSet<String>, BTreeSet<u32>) {
    let (mut words, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for line in expression.lines().map(str::trim) {
        let Some((sign @ (">" | "=="), limit)) = line.split_once(' ') else {
            continue;
        };
        let limit: f64 = limit.parse().expect("a number");
        let is_part = limit > 0.0 && limit < 1.0;
        let (shown, unit) = if is_part {
            (limit * 100.0, " %")
        } else {
            (limit, "")
        };
        let number = format!("{shown:.0}");
        numbers.insert(number.parse().expect("a whole number"));
        if sign == ">" {
            words.insert(format!("more than {number}{unit}"));
        }
    }
    let recorded = all
        .iter()
        .filter(|rule| !rule.is_alert && expression.contains(&rule.name));
    let expressions = recorded.map(|rule| rule.expression.as_str());
    for range in expressions
        .chain([expression])
        .flat_map(|expression| expression.split('[').skip(1))
        .filter_map(|rest| rest.split_once(']'))
    {
        let text = in_words(range.0);
        let number = text.split(' ').next().unwrap_or_default();
        numbers.insert(number.parse().expect("a whole number"));
        words.insert(text);
    }
    (words, numbers)
}

/// The table has each alert's figures, and no others.
#[test]
fn the_runbook_says_when_each_alert_fires() {
    let runbook = read(RUNBOOK);
    let section = runbook.split_once(&format!("\n## {TABLE}\n"));
    let section = section.expect("the section").1.split("\n## ").next();
    let rows = section.unwrap_or_default().lines();
    let rows: Vec<Vec<&str>> = rows
        .filter(|line| line.starts_with("| ["))
        .map(|row| row.trim_matches(['|', ' ']).split(" | ").collect())
        .collect();
    let all = rules();
    let alerts: Vec<&Rule> = all.iter().filter(|rule| rule.is_alert).collect();
    assert_eq!(rows.len(), alerts.len());
    for (row, alert) in rows.iter().zip(alerts) {
        let Rule { name, json, .. } = alert;
        let [link, fires, lasts, severity] = row[..] else {
            panic!("{row:?}");
        };
        assert_eq!(link, format!("[{name}](#{})", name.to_lowercase()));
        assert_eq!(json["labels"]["severity"], severity, "{name}");
        let mut expected = json["for"].as_str().map_or("at once".to_owned(), in_words);
        if let Some(longer) = json["keep_firing_for"].as_str() {
            expected += &format!(", and then stays for {}", in_words(longer));
        }
        assert_eq!(lasts, expected, "{name}");
        if name == IN_ITS_SECTION {
            continue;
        }
        let (words, numbers) = limits(&alert.expression, &all);
        let fires = fires.replace(',', "");
        for text in &words {
            assert!(fires.contains(text), "{name}: {text}");
        }
        let said = fires.split(|c: char| !c.is_ascii_digit());
        let said = said.filter_map(|digits| digits.parse().ok()).collect();
        assert_eq!(numbers, said, "{name}");
    }
}

#[test]
fn every_alert_is_complete_tested_and_in_the_runbook() {
    let (runbook, tests) = (read(RUNBOOK), read(TESTS));
    let alerts: Vec<Rule> = rules().into_iter().filter(|rule| rule.is_alert).collect();
    for Rule { name, json, .. } in &alerts {
        let severity = json["labels"]["severity"].as_str();
        assert!(
            severity.is_some_and(|severity| ["critical", "warning", "info"].contains(&severity)),
            "{name}: {severity:?}"
        );
        // The reload of a VM is one event.
        assert!(
            json["for"].is_string() || name == "MatrixEdgeAuthVmReload",
            "{name}"
        );
        for annotation in ["summary", "description"] {
            assert!(
                json["annotations"][annotation].is_string(),
                "{name}: {annotation}"
            );
        }
        let url = format!("{RUNBOOK}#{}", name.to_lowercase());
        assert_eq!(json["annotations"]["runbook_url"], url, "{name}");
        let section = runbook.split_once(&format!("\n## {name}\n"));
        let section = section
            .unwrap_or_else(|| panic!("{RUNBOOK} has no section {name}"))
            .1;
        let section = section.split("\n## ").next().unwrap_or_default();
        let causes = section
            .lines()
            .filter(|line| line.starts_with("| "))
            .count()
            - 1;
        assert!(causes >= 2, "{name}: {causes} causes");
        let rows = section.lines().filter(|line| line.starts_with("| "));
        for row in rows.skip(1) {
            let quoted = row.split('`').skip(1).step_by(2);
            let mut programs = quoted.filter_map(|text| text.split([' ', '{']).next());
            assert!(
                programs.any(|program| COMMANDS.contains(&program)),
                "{name}: no command tells\n{row}"
            );
        }
        assert!(
            tests.contains(&format!(r#"{{alertname="{name}", alertstate="firing""#))
                || tests.contains(&format!("alertname: {name}\n")),
            "{TESTS} lets {name} never fire"
        );
    }
    let sections = runbook.lines().filter_map(|line| line.strip_prefix("## "));
    let about_alerts = sections.filter(|title| !GENERAL.contains(title));
    let about_alerts = about_alerts.count();
    assert_eq!(about_alerts, alerts.len(), "a section without an alert");
}
