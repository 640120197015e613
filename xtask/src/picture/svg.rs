//! Panels as SVG, near enough to how Grafana shows them.

use std::collections::BTreeMap;
use std::fmt::Write;

// `tests` alone is the module below.
use ::tests::prometheus::Panel;

/// Pixels of one of the 24 columns, and of a row of the grid.
const COLUMN: f64 = 50.0;
const ROW: f64 = 30.0;
/// Between panels.
const GAP: f64 = 8.0;
/// Left of a chart for the values, below it for times and names, above it for the title.
const LEFT: f64 = 58.0;
const BELOW: f64 = 36.0;
const ABOVE: f64 = 28.0;

const COLOURS: [&str; 10] = [
    "#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d",
    "#ffb357", "#ca95e5",
];

/// Why writing into a string cannot fail.
const TAKES_ALL: &str = "a string takes all";

/// A named line.
pub(crate) struct Series {
    pub(crate) name: String,
    /// Seconds since 1970, and value; finite, in the order of time.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A panel and what its queries gave.
pub(crate) struct Drawing {
    pub(crate) panel: Panel,
    pub(crate) series: Vec<Series>,
}

/// Where a chart is drawn, and what its edges stand for.
struct Frame {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    /// Seconds since 1970 at the left and the right edge.
    span: (f64, f64),
    /// Value at the upper edge; the lower one is 0.
    top_value: f64,
}

impl Frame {
    fn x(&self, time: f64) -> f64 {
        self.left + (time - self.span.0) / (self.span.1 - self.span.0) * self.width
    }

    fn y(&self, value: f64) -> f64 {
        self.top + self.height * (1.0 - value / self.top_value)
    }
}

/// The whole dashboard. `span` is the time shown, `step` the seconds between points.
pub(crate) fn dashboard(drawings: &[Drawing], span: (f64, f64), step: f64) -> String {
    let rows = drawings.iter().map(|drawing| drawing.panel.place);
    let height = rows.map(|[_, y, _, h]| y + h).max().unwrap_or(0);
    let (width, height) = (24.0 * COLUMN + GAP, f64::from(height) * ROW + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         font-family=\"Inter, Helvetica, Arial, sans-serif\" font-size=\"11\" fill=\"#ccccdc\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#111217\"/>\n"
    );
    for drawing in drawings {
        let [x, y, w, h] = drawing.panel.place.map(f64::from);
        let (left, top) = (x * COLUMN + GAP, y * ROW + GAP);
        let (width, height) = (w * COLUMN - GAP, h * ROW - GAP);
        if drawing.panel.kind == "row" {
            text(
                &mut svg,
                left,
                top + 15.0,
                "font-size=\"14\" font-weight=\"600\"",
                &drawing.panel.title,
            );
            continue;
        }
        put(
            &mut svg,
            format_args!(
                "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" rx=\"2\" \
             fill=\"#181b1f\" stroke=\"#2c2f36\"/>"
            ),
        );
        text(
            &mut svg,
            left + 10.0,
            top + 18.0,
            "font-size=\"12\" font-weight=\"500\"",
            &drawing.panel.title,
        );
        let frame = Frame {
            left: left + LEFT,
            top: top + ABOVE,
            width: width - LEFT - 12.0,
            height: height - ABOVE - BELOW,
            span,
            top_value: 1.0,
        };
        match drawing.panel.kind.as_str() {
            "stat" => stat(
                &mut svg,
                drawing,
                left + width / 2.0,
                top + height / 2.0 + 18.0,
            ),
            "heatmap" => heat_map(&mut svg, drawing, &frame, step),
            _ => lines(&mut svg, drawing, frame, step),
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// The last value, large.
fn stat(svg: &mut String, drawing: &Drawing, x: f64, y: f64) {
    let last = drawing
        .series
        .first()
        .and_then(|series| series.points.last());
    let shown = last.map_or("no data".to_owned(), |(_, value)| {
        shown(*value, &drawing.panel.unit)
    });
    text(
        svg,
        x,
        y,
        "font-size=\"34\" font-weight=\"600\" text-anchor=\"middle\" fill=\"#73bf69\"",
        &shown,
    );
}

/// Lines, or areas on top of each other.
fn lines(svg: &mut String, drawing: &Drawing, mut frame: Frame, step: f64) {
    let mut bases = vec![Vec::<(f64, f64)>::new(); drawing.series.len()];
    let mut tops = Vec::<Vec<(f64, f64)>>::new();
    for (number, series) in drawing.series.iter().enumerate() {
        let below = |time: f64| -> f64 {
            let all = drawing.series[..number]
                .iter()
                .flat_map(|series| &series.points);
            all.filter(|(at, _)| *at == time)
                .map(|(_, value)| value)
                .sum()
        };
        bases[number] = match drawing.panel.stacked {
            true => series
                .points
                .iter()
                .map(|(time, _)| (*time, below(*time)))
                .collect(),
            false => series.points.iter().map(|(time, _)| (*time, 0.0)).collect(),
        };
        let sums = series.points.iter().zip(&bases[number]);
        tops.push(
            sums.map(|((time, value), (_, base))| (*time, value + base))
                .collect(),
        );
    }
    let highest = tops
        .iter()
        .flatten()
        .map(|(_, value)| *value)
        .fold(0.0, f64::max);
    let (tick, count) = match drawing.panel.unit.as_str() {
        "percentunit" if highest <= 1.0 && highest > 0.4 => (0.25, 4),
        "bytes" if highest >= 1024.0 => {
            let unit = 1024_f64.powf(highest.log(1024.0).floor());
            let (tick, count) = ticks(highest / unit);
            (tick * unit, count)
        }
        _ => ticks(highest),
    };
    frame.top_value = tick * f64::from(count);
    for number in 0..=count {
        let value = tick * f64::from(number);
        let y = frame.y(value);
        grid(svg, &frame, y);
        text(
            svg,
            frame.left - 6.0,
            y + 4.0,
            "text-anchor=\"end\" fill=\"#8e8e99\"",
            &shown(value, &drawing.panel.unit),
        );
    }
    times(svg, &frame);
    for (number, (points, bases)) in tops.iter().zip(&bases).enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        for run in runs(points, step) {
            let path = |points: &[(f64, f64)], first: char| -> String {
                let mut letter = first;
                let mut path = String::new();
                for (time, value) in points {
                    put_path(&mut path, letter, frame.x(*time), frame.y(*value));
                    letter = 'L';
                }
                path
            };
            let upper = path(&points[run.clone()], 'M');
            let mut lower = bases[run].to_vec();
            lower.reverse();
            let opacity = if drawing.panel.stacked { 0.35 } else { 0.08 };
            put(
                svg,
                format_args!(
                    "<path d=\"{upper}{}Z\" fill=\"{colour}\" fill-opacity=\"{opacity}\"/>\n\
                 <path d=\"{upper}\" fill=\"none\" stroke=\"{colour}\"/>",
                    path(&lower, 'L')
                ),
            );
        }
    }
    legend(svg, drawing, &frame);
}

/// Stretches of points without a hole.
fn runs(points: &[(f64, f64)], step: f64) -> Vec<std::ops::Range<usize>> {
    let mut runs = Vec::new();
    let mut begin = 0;
    for end in 1..=points.len() {
        if end == points.len() || points[end].0 - points[end - 1].0 > 1.5 * step {
            runs.push(begin..end);
            begin = end;
        }
    }
    runs
}

/// A histogram's cumulative buckets over time: the more in a bucket, the brighter.
fn heat_map(svg: &mut String, drawing: &Drawing, frame: &Frame, step: f64) {
    let mut buckets: Vec<(f64, &Series)> = drawing
        .series
        .iter()
        .filter_map(|series| Some((series.name.parse().ok()?, series)))
        .collect();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut cells = Vec::new();
    for (row, (_, series)) in buckets.iter().enumerate() {
        for (time, value) in &series.points {
            let below = row.checked_sub(1).and_then(|below| {
                let points = &buckets[below].1.points;
                points.iter().find(|(at, _)| at == time)
            });
            let count = value - below.map_or(0.0, |(_, value)| *value);
            if count > 0.0 {
                cells.push((row, *time, count));
            }
        }
    }
    // Rows above the highest and below the lowest that ever held something are left out.
    let first = cells.iter().map(|cell| cell.0).min().unwrap_or(0);
    let last = cells.iter().map(|cell| cell.0).max().unwrap_or(0);
    let height = frame.height / (last - first + 1) as f64;
    let most = cells.iter().map(|cell| cell.2).fold(0.0, f64::max);
    let top = |row: usize| frame.top + height * (last - row) as f64;
    for row in first..=last {
        let name = match buckets.get(row) {
            Some((bound, _)) if bound.is_finite() => shown(*bound, &drawing.panel.unit),
            _ => "more".to_owned(),
        };
        grid(svg, frame, top(row));
        text(
            svg,
            frame.left - 6.0,
            top(row) + height / 2.0 + 4.0,
            "text-anchor=\"end\" fill=\"#8e8e99\"",
            &name,
        );
    }
    let width = step / (frame.span.1 - frame.span.0) * frame.width;
    // Cells of the same brightness are one element.
    let mut shades = BTreeMap::<u32, String>::new();
    for (row, time, count) in cells {
        let x = (frame.x(time) - width).max(frame.left);
        let shade = (12.0 * (count / most).sqrt()).round() as u32;
        let (y, right, low) = (top(row) + 0.5, width - 0.5, height - 1.0);
        let path = shades.entry(shade).or_default();
        write!(path, "M{x:.1} {y:.1}h{right:.1}v{low:.1}h-{right:.1}z").expect(TAKES_ALL);
    }
    for (shade, path) in shades {
        let light = 22 + 4 * shade;
        put(
            svg,
            format_args!("<path d=\"{path}\" fill=\"hsl(28,90%,{light}%)\"/>"),
        );
    }
    times(svg, frame);
}

fn legend(svg: &mut String, drawing: &Drawing, frame: &Frame) {
    let (mut x, y) = (frame.left - LEFT + 12.0, frame.top + frame.height + 29.0);
    for (number, series) in drawing.series.iter().enumerate() {
        // About what this font takes.
        let width = 6.0 * series.name.chars().count() as f64 + 28.0;
        if x + width > frame.left + frame.width {
            text(svg, x, y, "", "…");
            break;
        }
        let colour = COLOURS[number % COLOURS.len()];
        put(
            svg,
            format_args!(
                "<rect x=\"{x:.0}\" y=\"{:.0}\" width=\"12\" height=\"3\" fill=\"{colour}\"/>",
                y - 5.0
            ),
        );
        text(svg, x + 17.0, y, "", &series.name);
        x += width;
    }
}

/// Minutes and seconds since the left edge.
fn times(svg: &mut String, frame: &Frame) {
    let seconds = frame.span.1 - frame.span.0;
    let minutes = (seconds / 60.0).floor() as u32;
    let room = frame.width / seconds * 60.0;
    // About what a label takes.
    let every = (45.0 / room).ceil().max(1.0) as u32;
    for minute in (1..=minutes).filter(|minute| minute % every == 0) {
        let x = frame.x(frame.span.0 + 60.0 * f64::from(minute));
        let anchor = if minute == minutes { "end" } else { "middle" };
        text(
            svg,
            x,
            frame.top + frame.height + 14.0,
            &format!("text-anchor=\"{anchor}\" fill=\"#8e8e99\""),
            &format!("{minute} min"),
        );
    }
}

fn grid(svg: &mut String, frame: &Frame, y: f64) {
    let right = frame.left + frame.width;
    put(
        svg,
        format_args!(
            "<path d=\"M{:.1} {y:.1}H{right:.1}\" stroke=\"#2c2f36\"/>",
            frame.left
        ),
    );
}

fn put(svg: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(svg, "{element}").expect(TAKES_ALL);
}

fn put_path(path: &mut String, letter: char, x: f64, y: f64) {
    write!(path, "{letter}{x:.1} {y:.1}").expect(TAKES_ALL);
}

fn text(svg: &mut String, x: f64, y: f64, attributes: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    put(
        svg,
        format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{text}</text>"),
    );
}

/// A round distance between ticks, and how many of them reach the highest value.
fn ticks(highest: f64) -> (f64, u32) {
    if highest <= 0.0 {
        return (1.0, 1);
    }
    let rough = highest / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let tick = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let tick = tick
        .into_iter()
        .find(|tick| *tick >= rough)
        .unwrap_or(10.0 * power);
    (tick, (highest / tick).ceil() as u32)
}

/// A value with its unit, as Grafana names units.
fn shown(value: f64, unit: &str) -> String {
    let scaled = |base: f64, names: [&str; 4]| {
        let mut value = value;
        let mut names = names.into_iter();
        let mut name = names.next().unwrap_or_default();
        while value >= base
            && let Some(next) = names.next()
        {
            value /= base;
            name = next;
        }
        format!("{}{name}", rounded(value))
    };
    match unit {
        "percentunit" => format!("{} %", rounded(value * 100.0)),
        "ms" if value >= 1000.0 => format!("{} s", rounded(value / 1e3)),
        "ms" if value >= 1.0 || value == 0.0 => format!("{} ms", rounded(value)),
        "ms" => format!("{} µs", rounded(value * 1e3)),
        "s" if value > 0.0 && value < 1.0 => shown(value * 1e3, "ms"),
        "s" if value >= 7200.0 => format!("{} h", rounded(value / 3600.0)),
        "s" => format!("{} s", rounded(value)),
        "bytes" => scaled(1024.0, [" B", " KiB", " MiB", " GiB"]),
        "Bps" => scaled(1e3, [" B/s", " kB/s", " MB/s", " GB/s"]),
        "ops" => scaled(1e3, [" ops/s", "k ops/s", "M ops/s", "G ops/s"]),
        "cps" => scaled(1e3, ["/s", "k/s", "M/s", "G/s"]),
        _ => scaled(1e3, ["", "k", "M", "G"]),
    }
}

/// Three digits that count, without zeros behind the point.
fn rounded(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        medium if medium >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_units() {
        for (value, unit, wanted) in [
            (0.935, "percentunit", "93.5 %"),
            (0.05, "ms", "50 µs"),
            (0.0, "ms", "0 ms"),
            (2500.0, "ms", "2.5 s"),
            (0.0025, "s", "2.5 ms"),
            (7200.0, "s", "2 h"),
            (65536.0, "bytes", "64 KiB"),
            (1234.0, "ops", "1.23k ops/s"),
            (100.0, "none", "100"),
        ] {
            assert_eq!(shown(value, unit), wanted);
        }
    }

    #[test]
    fn ticks_are_round_and_reach_the_top() {
        assert_eq!(ticks(0.0), (1.0, 1));
        assert_eq!(ticks(8.0), (2.0, 4));
        assert_eq!(ticks(870.0), (500.0, 2));
        assert_eq!(ticks(610.0), (200.0, 4));
    }

    #[test]
    fn a_hole_ends_a_line() {
        let at = |times: &[f64]| times.iter().map(|time| (*time, 0.0)).collect::<Vec<_>>();
        assert_eq!(runs(&at(&[0.0, 4.0, 20.0, 24.0]), 4.0), [0..2, 2..4]);
        assert_eq!(runs(&[], 4.0), []);
    }
}
