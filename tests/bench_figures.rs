//! The comparison of `make bench PART=instructions`: it must fail when a request takes more.

#![cfg(not(target_arch = "wasm32"))]

#[path = "../benches/system/instructions/figures.rs"]
mod figures;

use figures::Figures;

fn figures(instructions: &[(&str, u64)]) -> Figures {
    Figures {
        envoy: "1.40.0".into(),
        processor: "x86_64".into(),
        instructions: instructions
            .iter()
            .map(|(variant, figure)| ((*variant).to_owned(), *figure))
            .collect(),
    }
}

#[test]
fn a_figure_that_is_raised_by_3_percent_is_a_complaint_with_both() {
    let recorded = figures(&[("local-hit", 200_000), ("none", 150_000)]);
    let now = figures(&[("local-hit", 206_000), ("none", 150_000)]);
    assert_eq!(
        now.complaints(&recorded),
        ["local-hit: 206000, 3.0 % above 200000"]
    );
}

#[test]
fn a_figure_within_2_percent_or_below_is_none() {
    let recorded = figures(&[("a", 200_000), ("b", 200_000), ("c", 200_000)]);
    let now = figures(&[("a", 204_000), ("b", 200_000), ("c", 100_000)]);
    assert!(now.complaints(&recorded).is_empty());
    assert_eq!(now.improved(&recorded), ["c"]);
}

#[test]
fn a_variant_in_only_one_of_the_two_is_a_complaint() {
    let recorded = figures(&[("old", 1), ("both", 2)]);
    let now = figures(&[("new", 1), ("both", 2)]);
    assert_eq!(
        now.complaints(&recorded),
        [
            "new: 1, and the file has no figure",
            "old: in the file, and not measured"
        ]
    );
}

#[test]
fn what_is_written_is_read_again() {
    let written = figures(&[("a", 1), ("b", 20)]);
    assert_eq!(Figures::parse(&written.to_text()), written);
}

#[test]
fn the_committed_file_is_one() {
    let figures = Figures::parse(include_str!("../benches/instructions.tsv"));
    assert!(figures.instructions["local-hit"] > figures.instructions["none"]);
}

#[test]
fn figures_of_another_envoy_are_not_compared_or_kept() {
    let older = Figures {
        envoy: "1.39.3".into(),
        ..figures(&[("a", 1), ("b", 2)])
    };
    let newer = figures(&[("a", 3)]);
    assert!(!newer.are_comparable(&older) && newer.are_comparable(&newer));
    assert_eq!(older.with(&newer), newer);
    let kept = figures(&[("a", 1), ("b", 2)]).with(&newer);
    assert_eq!(kept, figures(&[("a", 3), ("b", 2)]));
}

const PERFORMANCE: &str = include_str!("../docs/performance.md");
const BENCHMARKS: &str = include_str!("../docs/internals/benchmarks.md");

/// The rows of a page's table, each as its cells.
fn rows(page: &'static str, header: &str) -> Vec<Vec<&'static str>> {
    let (_, table) = page.split_once(header).expect("the table is there");
    let table = table.split("\n\n").next().unwrap_or_default();
    let rows = table.lines().skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

fn number(cell: &str) -> u64 {
    cell.replace(',', "").parse().expect("a number")
}

/// What the same request takes without a filter.
fn without_filter(figures: &Figures, variant: &str) -> u64 {
    let without = match variant {
        "federation" => "none-federation",
        "media" => "none-media",
        "upload" => "none-upload",
        _ => "none",
    };
    figures.instructions[without]
}

#[test]
fn the_page_has_the_figures_of_the_file() {
    let figures = Figures::parse(include_str!("../benches/instructions.tsv"));
    let rows = rows(
        PERFORMANCE,
        "| variant | what | instructions | added | ratio |",
    );
    assert_eq!(rows.len(), figures.instructions.len());
    for row in rows {
        let [variant, _, instructions, added, ratio] = row[..] else {
            panic!("{row:?}");
        };
        let variant = variant.trim_matches('`');
        let taken = number(instructions);
        assert_eq!(taken, figures.instructions[variant], "{variant}");
        if !added.is_empty() {
            let without = without_filter(&figures, variant);
            assert_eq!(number(added), taken - without, "{variant}");
            let times = format!("{:.2}", taken as f64 / without as f64);
            assert_eq!(ratio, times, "{variant}");
        }
    }
}

#[test]
fn the_page_says_which_goals_the_figures_reach() {
    let figures = Figures::parse(include_str!("../benches/instructions.tsv"));
    let rows = rows(
        PERFORMANCE,
        "| goal, instructions | variant | at most | reached |",
    );
    assert!(rows.len() >= 9, "{rows:?}");
    for row in rows {
        let [goal, variant, at_most, reached] = row[..] else {
            panic!("{row:?}");
        };
        let variant = variant.trim_matches('`');
        let mut taken = figures.instructions[variant];
        if !goal.ends_with(", in all") {
            taken -= without_filter(&figures, variant);
        }
        let is_reached = taken <= number(at_most);
        let said = if is_reached { "yes" } else { "no" };
        assert_eq!(reached, said, "{goal}: {taken}");
    }
}

#[test]
fn the_page_compares_the_module_with_those_written_by_hand() {
    let figures = Figures::parse(include_str!("../benches/instructions.tsv"));
    let rows = rows(BENCHMARKS, "| variant | beside | compared | times |");
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        let [variant, beside, compared, times] = row[..] else {
            panic!("{row:?}");
        };
        let name = |cell: &'static str| cell.split('`').nth(1).expect("a name");
        let [whole, added] = [0.0, 1.0].map(|part| {
            let [ours, theirs] = [name(variant), name(beside)].map(|variant| {
                let without = without_filter(&figures, variant) as f64;
                figures.instructions[variant] as f64 - part * without
            });
            format!("{:.2}", ours / theirs)
        });
        let is_compared = |what: &str| compared.contains(what);
        assert!(is_compared("what is added") || is_compared("the whole request"));
        for (what, ratio) in [("what is added", added), ("the whole request", whole)] {
            assert!(!is_compared(what) || times == ratio, "{variant}: {ratio}");
        }
    }
}
