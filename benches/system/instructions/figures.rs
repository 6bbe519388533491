//! The committed figures, and the comparison of a measured one with them.
//!
//! A file of lines: a variant and its instructions, with a tab between. Two comments say with which Envoy and on which
//! kind of processor they were measured; figures of another are not comparable.

use std::{collections::BTreeMap, fmt::Write as _};

/// By which a figure may be above the one of the file. Two runs on one machine differ by less than 0.1 %; the rest is for
/// another version of the compiler, of QEMU and of the C library.
pub const TOLERANCE: f64 = 0.02;

/// What was measured, and with what.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Envoy's version.
    pub envoy: String,
    /// The processor's architecture.
    pub processor: String,
    /// Instructions of one request, by variant.
    pub instructions: BTreeMap<String, u64>,
}

impl Figures {
    /// Reads the file.
    ///
    /// # Panics
    ///
    /// If it is not such a file.
    pub fn parse(text: &str) -> Self {
        let comment = |name: &str| {
            let prefix = format!("# {name} ");
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
            lines
                .next()
                .unwrap_or_else(|| panic!("no line {prefix:?}"))
                .to_owned()
        };
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self {
            envoy: comment("Envoy"),
            processor: comment("processor"),
            instructions: lines
                .map(|line| {
                    let (variant, figure) = line.split_once('\t').expect("a tab");
                    (variant.to_owned(), figure.parse().expect("a number"))
                })
                .collect(),
        }
    }

    /// Returns the file's text.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "# Instructions that a worker of Envoy executes for one request: docs/performance.md.\n\
             # UPDATE_FIGURES=1 make bench PART=instructions writes this file.\n\
             # Envoy {}\n# processor {}\n",
            self.envoy, self.processor
        );
        for (variant, figure) in &self.instructions {
            let _ = writeln!(text, "{variant}\t{figure}");
        }
        text
    }

    /// Returns whether the two were measured with the same Envoy and on the same kind of processor.
    pub fn are_comparable(&self, other: &Self) -> bool {
        (&self.envoy, &self.processor) == (&other.envoy, &other.processor)
    }

    /// Returns these with some newer ones in their place. Those of another Envoy or processor are not kept.
    pub fn with(mut self, newer: &Self) -> Self {
        if !self.are_comparable(newer) {
            return newer.clone();
        }
        self.instructions.extend(newer.instructions.clone());
        self
    }

    /// Returns why these figures, which were measured now, are not as good as the recorded ones: a line for each variant
    /// that takes more instructions than the tolerance allows, or is in only one of the two.
    pub fn complaints(&self, recorded: &Self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (variant, now) in &self.instructions {
            match recorded.instructions.get(variant) {
                None => complaints.push(format!("{variant}: {now}, and the file has no figure")),
                Some(before) if *now as f64 > *before as f64 * (1.0 + TOLERANCE) => {
                    let more = 100.0 * (*now as f64 / *before as f64 - 1.0);
                    complaints.push(format!("{variant}: {now}, {more:.1} % above {before}"));
                }
                Some(_) => {}
            }
        }
        let gone = |variant: &&String| !self.instructions.contains_key(*variant);
        for variant in recorded.instructions.keys().filter(gone) {
            complaints.push(format!("{variant}: in the file, and not measured"));
        }
        complaints
    }

    /// Returns the variants that take fewer instructions than the tolerance: the file is out of date.
    pub fn improved(&self, recorded: &Self) -> Vec<&str> {
        let is_better = |(variant, now): &(&String, &u64)| {
            let before = recorded.instructions.get(*variant);
            before.is_some_and(|before| (**now as f64) < *before as f64 * (1.0 - TOLERANCE))
        };
        let better = self.instructions.iter().filter(is_better);
        better.map(|(variant, _)| variant.as_str()).collect()
    }
}
