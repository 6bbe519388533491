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
