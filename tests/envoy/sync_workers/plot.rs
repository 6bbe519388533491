//! The figures of the sync workers as text: comma-separated values, and a picture (SVG 1.1) of them.

use std::fmt::Write as _;

use super::{Hash, Measured, REFRESHES, USERS};

impl Hash {
    fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Token => "token",
        }
    }
}

/// All figures, one step a line.
pub(super) fn csv(measured: &[Measured]) -> String {
    let mut text = "hashed by,step,users that moved,users at their first worker\n".to_owned();
    for Measured {
        hash,
        step,
        moved,
        at_first,
    } in measured
    {
        line(
            &mut text,
            format_args!("{},{step},{moved},{at_first}", hash.name()),
        );
    }
    text
}

const WIDTH: usize = 720;
const HEIGHT: usize = 360;
const LEFT: usize = 60;
const RIGHT: usize = 150;
const TOP: usize = 50;
const BOTTOM: usize = 60;

/// How many users are at their first worker after each step, by user and by token.
pub(super) fn svg(measured: &[Measured]) -> String {
    let mut text = String::new();
    line(
        &mut text,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\">"
        ),
    );
    line(
        &mut text,
        format_args!("<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>"),
    );
    label(
        &mut text,
        LEFT,
        26,
        "start",
        "Users at the sync worker where they began, of 100",
    );
    for users in [0, 25, 50, 75, 100] {
        let (y, end) = (y(users), WIDTH - RIGHT);
        line(
            &mut text,
            format_args!("<path d=\"M{LEFT} {y}H{end}\" stroke=\"#ddd\" fill=\"none\"/>"),
        );
        label(&mut text, LEFT - 8, y + 4, "end", &users.to_string());
    }
    for step in 0..=REFRESHES {
        label(
            &mut text,
            x(step),
            HEIGHT - BOTTOM + 20,
            "middle",
            &step.to_string(),
        );
    }
    label(
        &mut text,
        x(REFRESHES / 2),
        HEIGHT - BOTTOM + 42,
        "middle",
        "refreshes of every token",
    );
    label(
        &mut text,
        x(REFRESHES + 1),
        HEIGHT - BOTTOM + 42,
        "middle",
        "5th worker",
    );
    for (hash, colour) in [(Hash::User, "#0b6e4f"), (Hash::Token, "#b3261e")] {
        let of_hash = measured.iter().filter(|measured| measured.hash == hash);
        let users: Vec<usize> = [USERS]
            .into_iter()
            .chain(of_hash.map(|measured| measured.at_first))
            .collect();
        let points: Vec<String> = users
            .iter()
            .enumerate()
            .map(|(step, users)| format!("{},{}", x(step), y(*users)))
            .collect();
        line(
            &mut text,
            format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>",
                points.join(" ")
            ),
        );
        for (step, users) in users.iter().enumerate() {
            line(
                &mut text,
                format_args!(
                    "<circle cx=\"{}\" cy=\"{}\" r=\"3.5\" fill=\"{colour}\"/>",
                    x(step),
                    y(*users)
                ),
            );
        }
        let last = users.last().copied().unwrap_or_default();
        let name = format!("by {}: {last}", hash.name());
        label(
            &mut text,
            x(REFRESHES + 1) + 12,
            y(last) + 4,
            "start",
            &name,
        );
    }
    text.push_str("</svg>\n");
    text
}

fn x(step: usize) -> usize {
    LEFT + step * (WIDTH - LEFT - RIGHT) / (REFRESHES + 1)
}

fn y(users: usize) -> usize {
    HEIGHT - BOTTOM - users * (HEIGHT - TOP - BOTTOM) / USERS
}

fn label(text: &mut String, x: usize, y: usize, anchor: &str, words: &str) {
    line(
        text,
        format_args!(
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" fill=\"#333\">{words}</text>"
        ),
    );
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("a String takes everything");
}
