//! The dashboard as data: its panels, where they stand, and what they ask Prometheus.

use serde_json::Value;

use crate::support::envoy::read;

/// The file.
pub const PATH: &str = "ops/grafana/matrix-edge-auth.json";

/// How a panel shows what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A heading.
    Row,
    /// One number.
    Stat,
    /// Lines over time, side by side or on top of each other.
    Series { is_stacked: bool },
}

/// A panel.
pub struct Panel {
    pub title: String,
    pub kind: Kind,
    pub unit: String,
    /// Left, top, width and height in the grid, which is 24 wide.
    pub grid: [u32; 4],
    pub targets: Vec<Target>,
}

/// A question to Prometheus.
pub struct Target {
    pub expression: String,
    /// What a series is called, such as `{{table}} {{reason}}`.
    pub legend: String,
}

impl Target {
    /// Returns the expression as Grafana sends it for all jobs and instances, with rates over `range`.
    pub fn query(&self, range: &str) -> String {
        let expression = self.expression.replace("$__rate_interval", range);
        let query = expression.replace("$job", ".*").replace("$instance", ".*");
        assert!(!query.contains('$'), "an unknown variable: {query}");
        query
    }

    /// Returns the labels that the name of a series is made of.
    pub fn labels(&self) -> Vec<&str> {
        let parts = self.legend.split("{{").skip(1);
        parts
            .filter_map(|part| Some(part.split_once("}}")?.0))
            .collect()
    }
}

/// All panels, from top to bottom.
pub fn panels() -> Vec<Panel> {
    let dashboard: Value = serde_json::from_str(&read(PATH)).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    panels.iter().map(panel).collect()
}

fn panel(panel: &Value) -> Panel {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let defaults = &panel["fieldConfig"]["defaults"];
    let kind = match panel["type"].as_str() {
        Some("row") => Kind::Row,
        Some("stat") => Kind::Stat,
        Some("timeseries") => Kind::Series {
            is_stacked: defaults["custom"]["stacking"]["mode"] == "normal",
        },
        other => panic!("a panel of an unknown type: {other:?}"),
    };
    let targets = panel["targets"].as_array().into_iter().flatten();
    Panel {
        title: text(&panel["title"]),
        kind,
        unit: text(&defaults["unit"]),
        grid: ["x", "y", "w", "h"].map(|side| {
            let side = panel["gridPos"][side]
                .as_u64()
                .expect("a place in the grid");
            u32::try_from(side).expect("a small number")
        }),
        targets: targets
            .map(|target| Target {
                expression: text(&target["expr"]),
                legend: text(&target["legendFormat"]),
            })
            .collect(),
    }
}

#[test]
fn every_panel_has_a_place_of_its_own_a_description_and_the_chosen_data_source() {
    let dashboard: Value = serde_json::from_str(&read(PATH)).expect("JSON");
    let variables = dashboard["templating"]["list"]
        .as_array()
        .expect("variables");
    assert_eq!(variables[0]["type"], "datasource");
    let mut taken = std::collections::BTreeSet::new();
    let mut rows = Vec::new();
    for (panel, json) in panels()
        .iter()
        .zip(dashboard["panels"].as_array().expect("panels"))
    {
        let [x, y, w, h] = panel.grid;
        assert!(x + w <= 24, "{}", panel.title);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{} covers another", panel.title);
        }
        if panel.kind == Kind::Row {
            rows.push(panel.title.clone());
            continue;
        }
        let description = json["description"].as_str().unwrap_or_default();
        assert!(!description.is_empty(), "{}", panel.title);
        assert!(!panel.targets.is_empty(), "{}", panel.title);
        for target in json["targets"].as_array().expect("targets") {
            assert_eq!(
                target["datasource"]["uid"], "${datasource}",
                "{}",
                panel.title
            );
        }
    }
    let expected = [
        "Verdicts",
        "What MAS is spared",
        "Cache",
        "Latency: held and asked",
        "Rejections",
        "Invalidations",
        "VM health",
    ];
    assert_eq!(rows, expected);
}

/// The runbook and the manual name panels in quotes.
#[test]
fn every_panel_that_the_documents_name_exists() {
    let panels = panels();
    for path in ["docs/runbook.md", "docs/operations.md"] {
        let text = read(path).replace('\n', " ");
        for part in text.split("anel \"").skip(1) {
            let name = part.split('"').next().unwrap_or_default();
            assert!(
                panels.iter().any(|panel| panel.title == name),
                "{path}: {name}"
            );
        }
    }
}
