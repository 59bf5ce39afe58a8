//! Two kinds of plots as SVG: bars by row, and lines over a logarithmic axis. No fonts, scripts or styles from elsewhere.
//!
//! Coordinates have one decimal, so that the same figures give the same file.

use std::fmt::Write as _;

/// Colours of series, told apart by colour-blind people too (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#999999"];
const WIDTH: f64 = 760.0;
const MARGIN: f64 = 16.0;
const LINE: f64 = 16.0;

/// Rows of horizontal bars. Bars are drawn to the scale of their row, each with its value.
pub(crate) struct Bars {
    pub(crate) title: String,
    pub(crate) series: Vec<String>,
    /// Name of the row, and the value of each series.
    pub(crate) rows: Vec<(String, Vec<Option<f64>>)>,
}

/// Lines of points over a logarithmic horizontal axis and a vertical axis that begins at zero.
pub(crate) struct Lines {
    pub(crate) title: String,
    pub(crate) across: String,
    pub(crate) series: Vec<(String, Vec<(f64, f64)>)>,
}

impl Bars {
    pub(crate) fn render(&self) -> String {
        const NAMES: f64 = 230.0;
        const VALUES: f64 = 70.0;
        let bar = LINE - 4.0;
        let mut body = legend(&self.series);
        let mut y = 3.0 * LINE + MARGIN;
        for (name, values) in &self.rows {
            let largest = values.iter().flatten().copied().fold(0.0, f64::max);
            text(&mut body, NAMES - 8.0, y + bar * values.len() as f64 / 2.0 + 4.0, "end", name);
            for (value, colour) in values.iter().zip(COLOURS.iter().cycle()) {
                let width = match value {
                    Some(value) if largest > 0.0 => {
                        (WIDTH - MARGIN - NAMES - VALUES) * value.max(0.0) / largest
                    }
                    _ => 0.0,
                };
                let height = bar - 1.0;
                let _ = writeln!(
                    body,
                    r#"<rect x="{NAMES:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}"/>"#
                );
                let label = value.as_ref().map_or_else(|| "-".to_owned(), rounded);
                text(&mut body, NAMES + width + 4.0, y + bar - 2.0, "start", &label);
                y += bar;
            }
            y += LINE / 2.0;
        }
        document(&self.title, y + MARGIN, &body)
    }
}

impl Lines {
    pub(crate) fn render(&self) -> String {
        const HEIGHT: f64 = 340.0;
        let (left, right, top, bottom) = (MARGIN + 60.0, WIDTH - MARGIN, 4.0 * LINE, HEIGHT - 3.0 * LINE);
        let names: Vec<String> = self.series.iter().map(|(name, _)| name.clone()).collect();
        let mut body = legend(&names);
        let points = || self.series.iter().flat_map(|(_, points)| points);
        let least = points().map(|point| point.0).fold(f64::INFINITY, f64::min).max(1.0);
        let most = points().map(|point| point.0).fold(least * 10.0, f64::max);
        let highest = points().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max) * 1.1;
        let x = |value: f64| left + (right - left) * (value.max(least) / least).ln() / (most / least).ln();
        let y = |value: f64| bottom - (bottom - top) * value / highest;

        for step in 0..=4 {
            let value = highest * f64::from(step) / 4.0;
            let at = y(value);
            let _ = writeln!(body, r##"<path d="M{left:.1} {at:.1}H{right:.1}" stroke="#ddd"/>"##);
            text(&mut body, left - 6.0, at + 4.0, "end", &rounded(&value));
        }
        let mut tick = 10f64.powf(least.log10().floor());
        while tick <= most {
            if tick >= least {
                text(&mut body, x(tick), bottom + LINE, "middle", &format!("{tick}"));
            }
            tick *= 10.0;
        }
        text(&mut body, f64::midpoint(left, right), bottom + 2.0 * LINE, "middle", &self.across);
        for ((_, points), colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let places: Vec<String> =
                points.iter().map(|(across, up)| format!("{:.1},{:.1}", x(*across), y(*up))).collect();
            let line = places.join(" ");
            let _ = writeln!(
                body,
                r#"<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>"#
            );
            for (across, up) in points {
                let (cx, cy) = (x(*across), y(*up));
                let _ = writeln!(body, r#"<circle cx="{cx:.1}" cy="{cy:.1}" r="3" fill="{colour}"/>"#);
            }
        }
        document(&self.title, HEIGHT, &body)
    }
}

fn legend(series: &[String]) -> String {
    let mut body = String::new();
    let mut x = MARGIN;
    for (name, colour) in series.iter().zip(COLOURS.iter().cycle()) {
        let y = 2.0 * LINE;
        let _ = writeln!(body, r#"<rect x="{x:.1}" y="{y:.1}" width="10" height="10" fill="{colour}"/>"#);
        text(&mut body, x + 14.0, y + 9.0, "start", name);
        x += 30.0 + 7.5 * name.chars().count() as f64;
    }
    body
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(body, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{content}</text>"#);
}

fn document(title: &str, height: f64, body: &str) -> String {
    let mut head = String::new();
    text(&mut head, MARGIN, LINE + 4.0, "start", title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" width=\"{WIDTH:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{head}{body}</svg>\n"
    )
}

/// Three significant digits, without an exponent.
pub(crate) fn rounded(value: &f64) -> String {
    let decimals = match value.abs() {
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_drawn_to_the_scale_of_their_row_and_name_their_values() {
        let bars = Bars {
            title: "CPU <us>".to_owned(),
            series: vec!["a".to_owned(), "b".to_owned()],
            rows: vec![
                ("1-1".to_owned(), vec![Some(8.0), Some(2.0)]),
                ("idle".to_owned(), vec![Some(500.0), None]),
            ],
        };

        let svg = bars.render();

        assert!(svg.contains("CPU &lt;us>"), "{svg}");
        for width in ["width=\"444.0\"", "width=\"111.0\""] {
            assert!(svg.contains(width), "{width}: {svg}");
        }
        for value in [">8.00<", ">2.00<", ">500<", ">-<"] {
            assert!(svg.contains(value), "{value}: {svg}");
        }
    }

    #[test]
    fn each_tenfold_is_equally_far_across() {
        let series = vec![("cost".to_owned(), vec![(10.0, 1.0), (100.0, 1.0), (1_000.0, 2.0)])];
        let lines = Lines { title: String::new(), across: "connections".to_owned(), series };

        let svg = lines.render();

        let line = svg.lines().find(|line| line.starts_with("<polyline")).unwrap();
        let places = line.split('"').nth(1).unwrap();
        let across: Vec<f64> =
            places.split(' ').map(|place| place.split(',').next().unwrap().parse().unwrap()).collect();
        assert!((across[1] - across[0] - (across[2] - across[1])).abs() < 0.3, "{places}");
        assert!(svg.contains(">connections<"), "{svg}");
    }
}
