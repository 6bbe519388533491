//! Draws the dashboard's panels from what Prometheus holds, with plotters, as one SVG.
//!
//! It is a drawing, not a screenshot of Grafana: same panels, same places, same questions, same data.

use plotters::{
    coord::Shift,
    prelude::*,
    style::{
        Color,
        text_anchor::{HPos, Pos, VPos},
    },
};
use serde_json::Value;

use super::dashboard::{Kind, Panel};

/// The points of a series: moments in seconds, and values.
type Points = Vec<(f64, f64)>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 1_200;
/// Pixels for one unit of the grid.
const COLUMN: u32 = WIDTH / 24;
const ROW: u32 = 24;
const NOTE: u32 = 26;
const GAP: u32 = 4;
/// Pixels for one line of the legend, and how many there are.
const LEGEND_LINE: u32 = 13;
const LEGEND_LINES: u32 = 3;

const BACKGROUND: RGBColor = RGBColor(0x11, 0x12, 0x17);
const PANEL: RGBColor = RGBColor(0x18, 0x1b, 0x1f);
const TEXT: RGBColor = RGBColor(0xcc, 0xcc, 0xdc);
const FAINT: RGBColor = RGBColor(0x8e, 0x8e, 0x9a);
const GRID: RGBColor = RGBColor(0x2c, 0x30, 0x36);
const COLORS: [RGBColor; 8] = [
    RGBColor(0x73, 0xbf, 0x69),
    RGBColor(0xf2, 0xcc, 0x0c),
    RGBColor(0x57, 0x94, 0xf2),
    RGBColor(0xff, 0x98, 0x30),
    RGBColor(0xf2, 0x49, 0x5c),
    RGBColor(0xb8, 0x77, 0xd9),
    RGBColor(0x5c, 0xc8, 0xd0),
    RGBColor(0xe0, 0x9b, 0xb5),
];

/// Returns what Grafana calls a series with these labels.
pub fn name(legend: &str, labels: &Value) -> String {
    let mut name = String::new();
    let mut rest = legend;
    while let Some((before, after)) = rest.split_once("{{") {
        name.push_str(before);
        let (label, after) = after.split_once("}}").expect("a label ends");
        name.push_str(labels[label].as_str().unwrap_or_default());
        rest = after;
    }
    name + rest
}

/// Draws all panels with their series, from `start` to `end`.
pub fn draw(panels: &[(Panel, Vec<(String, Points)>)], [start, end]: [f64; 2]) -> String {
    let rows = panels
        .iter()
        .map(|(panel, _)| panel.grid[1] + panel.grid[3]);
    let height = rows.max().unwrap_or_default() * ROW + NOTE;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&BACKGROUND).expect("a drawing in memory");
        for (panel, series) in panels {
            let [x, y, w, h] = panel.grid;
            let area = root
                .clone()
                .shrink((x * COLUMN, y * ROW), (w * COLUMN, h * ROW));
            match panel.kind {
                Kind::Row => write(&area, &panel.title, (6, 6), 15, TEXT),
                Kind::Stat => draw_stat(&area, panel, series),
                Kind::Series { is_stacked } => {
                    draw_series(&area, panel, series, [start, end], is_stacked);
                }
            }
        }
        let note = format!(
            "Drawn from the data of a test run of {:.0} seconds; not a screenshot of Grafana. Series that stayed at 0 are left out.",
            end - start
        );
        write(&root, &note, (6, (height - NOTE + 8) as i32), 12, FAINT);
        root.present().expect("a drawing in memory");
    }
    svg
}

/// The last number of a panel.
fn draw_stat(area: &Area<'_>, panel: &Panel, series: &[(String, Points)]) {
    let area = framed(area, panel);
    let last = series
        .iter()
        .flat_map(|(_, points)| points.last())
        .next_back();
    let text = last.map_or("no data".to_owned(), |(_, value)| {
        shown(*value, &panel.unit)
    });
    let (width, height) = area.dim_in_pixel();
    let style = ("sans-serif", 30).into_font().color(&COLORS[0]);
    let style = style.pos(Pos::new(HPos::Center, VPos::Center));
    let middle = (width as i32 / 2, height as i32 / 2 + 8);
    area.draw_text(&text, &style, middle)
        .expect("a drawing in memory");
}

/// The series of a panel over time.
fn draw_series(
    area: &Area<'_>,
    panel: &Panel,
    series: &[(String, Points)],
    [start, end]: [f64; 2],
    is_stacked: bool,
) {
    let area = framed(area, panel);
    let shown_series: Vec<&(String, Points)> = series
        .iter()
        .filter(|(_, points)| {
            points
                .iter()
                .any(|(_, value)| value.is_finite() && *value != 0.0)
        })
        .collect();
    let mut base = vec![
        0.0;
        shown_series
            .iter()
            .map(|(_, points)| points.len())
            .max()
            .unwrap_or(0)
    ];
    let mut bands = Vec::new();
    for (_, points) in &shown_series {
        // A series that begins later is stacked at the end.
        let from = base.len() - points.len();
        let mut band = Vec::new();
        for (at, (moment, value)) in points.iter().enumerate() {
            let value = if value.is_finite() { *value } else { 0.0 };
            let below = if is_stacked { base[from + at] } else { 0.0 };
            band.push((*moment, below, below + value));
            base[from + at] = below + value;
        }
        bands.push(band);
    }
    let tops = bands.iter().flatten().map(|(_, _, top)| *top);
    let top = tops.fold(0.0, f64::max);
    let top = if top > 0.0 { top * 1.08 } else { 1.0 };
    let (width, height) = area.dim_in_pixel();
    let legend = LEGEND_LINES * LEGEND_LINE;
    let plot = area
        .clone()
        .shrink((4, 22), (width - 12, height - 28 - legend));
    let mut chart = ChartBuilder::on(&plot)
        .x_label_area_size(16)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..end - start, 0.0..top)
        .expect("axes");
    let small = ("sans-serif", 10).into_font().color(&FAINT);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .max_light_lines(0)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(small)
        .x_labels(5)
        .y_labels(4)
        .x_label_formatter(&|x| format!("{x:.0} s"))
        .y_label_formatter(&|y| shown(*y, &panel.unit))
        .draw()
        .expect("a drawing in memory");
    for (number, band) in bands.iter().enumerate() {
        let color = COLORS[number % COLORS.len()];
        let upper: Vec<_> = band.iter().map(|(x, _, y)| (x - start, *y)).collect();
        if is_stacked {
            let mut outline = upper.clone();
            outline.extend(band.iter().rev().map(|(x, y, _)| (x - start, *y)));
            let filled = Polygon::new(outline, color.mix(0.45).filled());
            chart.draw_series([filled]).expect("a drawing in memory");
        }
        let line = PathElement::new(upper, color.stroke_width(1));
        chart.draw_series([line]).expect("a drawing in memory");
    }
    let names: Vec<&str> = shown_series.iter().map(|(name, _)| &**name).collect();
    draw_legend(&area, &names, (height - legend) as i32, width as i32);
}

/// Names in their colours, from left to right and in as many lines as there are.
fn draw_legend(area: &Area<'_>, names: &[&str], top: i32, width: i32) {
    if names.is_empty() {
        write(area, "all at 0", (58, top), 11, FAINT);
        return;
    }
    let (mut x, mut y) = (10, top);
    for (number, name) in names.iter().enumerate() {
        // The width of a letter of this size, on the average.
        let length = 14 + 6 * name.len() as i32;
        if x + length > width && x > 10 {
            (x, y) = (10, y + LEGEND_LINE as i32);
        }
        if y >= top + (LEGEND_LINES * LEGEND_LINE) as i32 {
            let rest = format!("+{}", names.len() - number);
            write(area, &rest, (width - 34, y - LEGEND_LINE as i32), 11, FAINT);
            return;
        }
        let color = COLORS[number % COLORS.len()];
        area.draw(&Rectangle::new(
            [(x, y + 4), (x + 8, y + 7)],
            color.filled(),
        ))
        .expect("a drawing in memory");
        write(area, name, (x + 11, y), 11, TEXT);
        x += length;
    }
}

/// Draws the background and the title of a panel, and returns the area inside.
fn framed<'a>(area: &Area<'a>, panel: &Panel) -> Area<'a> {
    let area = area.margin(GAP / 2, GAP / 2, GAP / 2, GAP / 2);
    area.fill(&PANEL).expect("a drawing in memory");
    write(&area, &panel.title, (8, 6), 13, TEXT);
    area
}

fn write(area: &Area<'_>, text: &str, at: (i32, i32), size: i32, color: RGBColor) {
    let style = ("sans-serif", size).into_font().color(&color);
    area.draw_text(text, &style, at)
        .expect("a drawing in memory");
}

/// A value with its unit.
fn shown(value: f64, unit: &str) -> String {
    let short = |value: f64| match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 || value.fract() == 0.0 => {
            format!("{}", (value * 10.0).round() / 10.0)
        }
        _ => format!("{}", (value * 100.0).round() / 100.0),
    };
    match unit {
        "percentunit" => format!("{} %", short(value * 100.0)),
        "ms" => format!("{} ms", short(value)),
        "bytes" => format!("{} MB", short(value / 1e6)),
        "reqps" | "ops" => format!("{}/s", short(value)),
        "short" => short(value),
        other => panic!("an unknown unit: {other}"),
    }
}
