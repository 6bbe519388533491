//! Pictures of the figures, for docs/performance.md: `docs/plots/*.svg`.
//!
//! They are drawn from files of figures in the repository, which the parts of the bench write when they run in full, so a
//! picture can be drawn again without measuring. Each brings its own background, light or dark as the reader wants.

use std::{fs, path::PathBuf};

use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{extent, support::envoy::repository};

const WIDTH: u32 = 860;
const BAR: u32 = 24;
const FONT: &str = "sans-serif";
/// The ends of the palette differ for eyes that see red and green alike.
const COLOURS: [RGBColor; 4] = [
    RGBColor(47, 111, 208),
    RGBColor(222, 143, 5),
    RGBColor(20, 158, 115),
    RGBColor(148, 103, 189),
];
const GREY: RGBColor = RGBColor(128, 128, 128);

/// The kinds of requests on the first picture of the page, as someone calls them who knows no names of the bench.
const IN_WORDS: [(&str, &str); 8] = [
    ("none", "without the module"),
    ("federation", "federation, which passes"),
    ("local-hit", "known token (a hit)"),
    ("shared-hit", "known token, new to this worker"),
    ("ext-authz", "known token, ext_authz (Envoy's part alone)"),
    ("offline-reject", "token that cannot exist: 401"),
    ("cold-inactive", "unproven token: MAS says inactive, 401"),
    ("cold-active", "unproven token: MAS says active"),
];

/// What is drawn as text takes the colour of the theme, whatever plotters writes.
const THEME: &str = "<style>text{fill:#24292f}.b{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#d0d7de}.b{fill:#0d1117}}</style>\
                     <rect class=\"b\" width=\"100%\" height=\"100%\"/>";

/// One bar, of one part or of several that are added up.
struct Bar {
    label: String,
    parts: Vec<f64>,
}

/// Writes the figures of a part, for its picture: one line each, with tabs.
pub fn save(part: &str, lines: &[String]) {
    // Those of a quick run are too rough to be kept.
    if extent(true, false) {
        let text = format!(
            "# `make bench PART={part}` writes this file: docs/performance.md.\n{}\n",
            lines.join("\n")
        );
        fs::write(file(part), text).expect("a file of the repository");
    }
}

/// Draws all pictures whose figures are there.
pub fn draw() {
    if let Some(lines) = figures("instructions") {
        let bars = || lines.iter().map(|line| bar(line));
        let in_words = bars().filter_map(|bar| {
            let (_, words) = IN_WORDS.iter().find(|(label, _)| *label == bar.label)?;
            let label = (*words).to_owned();
            Some(Bar { label, ..bar })
        });
        for (name, title, bars) in [
            (
                "requests",
                "Work of an Envoy worker for one request",
                in_words.collect(),
            ),
            (
                "instructions",
                "Instructions of one request",
                bars().collect(),
            ),
        ] {
            draw_bars(
                name,
                title,
                "thousand instructions",
                &[],
                &in_thousands(bars),
            );
        }
    }
    if let Some(lines) = figures("alternatives") {
        let bars: Vec<_> = lines.iter().map(|line| bar(line)).collect();
        let legend = ["proxy", "service that it asks"];
        draw_bars(
            "alternatives",
            "CPU of a request with a known token, HTTP/1.1, one worker",
            "microseconds",
            &legend,
            &bars,
        );
    }
    if let Some(lines) = figures("growth") {
        let bars: Vec<_> = lines.iter().map(|line| bar(line)).collect();
        draw_bars(
            "growth",
            "CPU of a hit among few and among many sessions",
            "microseconds",
            &[],
            &bars,
        );
    }
    if let Some(lines) = figures("latency") {
        draw_latency(&lines);
    }
}

fn file(part: &str) -> PathBuf {
    let folder = match part {
        "instructions" => "benches",
        _ => "benches/figures",
    };
    repository().join(folder).join(format!("{part}.tsv"))
}

/// The lines of a file of figures, without comments.
fn figures(part: &str) -> Option<Vec<Vec<String>>> {
    let text = fs::read_to_string(file(part)).ok()?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Some(
        lines
            .map(|line| line.split('\t').map(str::to_owned).collect())
            .collect(),
    )
}

fn bar(line: &[String]) -> Bar {
    let (label, parts) = line.split_first().expect("a label");
    Bar {
        label: label.clone(),
        parts: parts
            .iter()
            .map(|part| part.parse().expect("a number"))
            .collect(),
    }
}

/// The longest last.
fn in_thousands(mut bars: Vec<Bar>) -> Vec<Bar> {
    for part in bars.iter_mut().flat_map(|bar| &mut bar.parts) {
        *part /= 1_000.0;
    }
    bars.sort_by(|one, other| total(one).total_cmp(&total(other)));
    bars
}

fn total(bar: &Bar) -> f64 {
    bar.parts.iter().sum()
}

fn draw_bars(name: &str, title: &str, unit: &str, legend: &[&str], bars: &[Bar]) {
    let height = 96 + BAR * bars.len() as u32 + if legend.is_empty() { 0 } else { 24 };
    write(name, (WIDTH, height), |area| {
        let longest = bars.iter().map(total).fold(0.0, f64::max);
        let rows = bars.len() as f64;
        let mut chart = ChartBuilder::on(area)
            .caption(title, (FONT, 18))
            .margin(10)
            .margin_right(70)
            .x_label_area_size(44)
            .y_label_area_size(310)
            .margin_bottom(if legend.is_empty() { 4 } else { 28 })
            .build_cartesian_2d(0.0..longest * 1.02, rows..0.0)
            .expect("a chart");
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .x_desc(unit)
            .x_labels(8)
            .light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.3))
            .axis_style(GREY)
            .label_style((FONT, 13))
            .x_label_formatter(&|value| format!("{value:.0}"))
            .draw()
            .expect("axes");
        for (row, bar) in bars.iter().enumerate() {
            let row = row as f64;
            let mut from = 0.0;
            for (part, colour) in bar.parts.iter().zip(COLOURS) {
                let corners = [(from, row + 0.15), (from + part, row + 0.85)];
                let drawn = chart.draw_series([Rectangle::new(corners, colour.filled())]);
                drawn.expect("a bar");
                from += part;
            }
            let middle = chart.backend_coord(&(0.0, row + 0.5));
            let end = chart.backend_coord(&(from, row + 0.5));
            let style = (FONT, 13).into_text_style(area);
            let right = style.pos(Pos::new(HPos::Right, VPos::Center));
            area.draw_text(&bar.label, &right, (middle.0 - 8, middle.1))
                .expect("a label");
            let left = style.pos(Pos::new(HPos::Left, VPos::Center));
            area.draw_text(&number(from), &left, (end.0 + 5, end.1))
                .expect("a number");
        }
        for (at, (entry, colour)) in legend.iter().zip(COLOURS).enumerate() {
            let left = 330 + 160 * at as i32;
            let top = height as i32 - 24;
            let swatch = Rectangle::new([(left, top), (left + 12, top + 12)], colour.filled());
            area.draw(&swatch).expect("a swatch");
            let style = (FONT, 13).into_text_style(area);
            let style = style.pos(Pos::new(HPos::Left, VPos::Center));
            area.draw_text(entry, &style, (left + 18, top + 7))
                .expect("an entry");
        }
    });
}

/// With one decimal where that says something.
fn number(value: f64) -> String {
    if value < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// Each line of the figures: who answers, invented tokens a second, p99 of live sessions.
fn draw_latency(lines: &[Vec<String>]) {
    let points: Vec<(&str, f64, f64)> = lines
        .iter()
        .map(|line| match line.as_slice() {
            [name, rate, p99] => (
                name.as_str(),
                rate.parse().expect("a rate"),
                p99.parse().expect("a time"),
            ),
            other => panic!("{other:?} is no line of the figures"),
        })
        .collect();
    let longest = points.iter().map(|point| point.2).fold(0.0, f64::max);
    let fastest = points.iter().map(|point| point.1).fold(0.0, f64::max);
    let mut names: Vec<&str> = points.iter().map(|point| point.0).collect();
    names.dedup();
    write("latency", (WIDTH, 420), |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(
                "Live sessions beside invented tokens: 99 of 100 are answered within",
                (FONT, 18),
            )
            .margin(10)
            .margin_right(30)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..fastest * 1.02, 0.0..longest * 1.1)
            .expect("a chart");
        chart
            .configure_mesh()
            .x_desc("invented tokens a second, one worker")
            .y_desc("microseconds")
            .light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.3))
            .axis_style(GREY)
            .label_style((FONT, 13))
            .x_label_formatter(&|value| format!("{value:.0}"))
            .y_label_formatter(&|value| format!("{value:.0}"))
            .draw()
            .expect("axes");
        for (at, (name, colour)) in names.iter().zip(COLOURS).enumerate() {
            let of_name = points.iter().filter(|point| point.0 == *name);
            let series: Vec<_> = of_name.map(|point| (point.1, point.2)).collect();
            let line = LineSeries::new(series.clone(), colour.stroke_width(2));
            chart.draw_series(line).expect("a line");
            let dots = series
                .iter()
                .map(|point| Circle::new(*point, 4, colour.filled()));
            chart.draw_series(dots).expect("dots");
            let top = 50 + 20 * at as i32;
            let swatch = Rectangle::new([(90, top), (102, top + 12)], colour.filled());
            area.draw(&swatch).expect("a swatch");
            let style = (FONT, 13).into_text_style(area);
            let style = style.pos(Pos::new(HPos::Left, VPos::Center));
            area.draw_text(name, &style, (108, top + 7))
                .expect("an entry");
        }
    });
}

/// Writes one picture, if it is another than the one that is there.
fn write(
    name: &str,
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>),
) {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&area);
        area.present().expect("text");
    }
    let start = text
        .find("<svg")
        .and_then(|at| Some(at + text[at..].find('>')? + 1));
    text.insert_str(start.expect("an SVG begins so"), THEME);
    let folder = repository().join("docs/plots");
    fs::create_dir_all(&folder).expect("a folder of the repository");
    fs::write(folder.join(format!("{name}.svg")), text).expect("a file of the repository");
}
