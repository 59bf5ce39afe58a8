//! A comparison as a table: aligned text, or Markdown with the same columns.

use crate::compare::{ComparisonReport, Figure};
use crate::svg::rounded;
use crate::workload::{HEAD, Preset};

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Text,
    Markdown,
}

/// The table, the settings and the faults of a comparison.
pub(crate) fn render(report: &ComparisonReport, style: Style) -> String {
    let mut text = table(&cells(report), style, 2);
    text.push('\n');
    text.push_str(&paragraph(&settings(report), style));
    for broker in &report.brokers {
        let version = if broker.version.is_empty() { "version unknown" } else { &broker.version };
        text.push_str(&paragraph(&format!("{}: {version}; {}.", broker.label, broker.settings), style));
    }
    for fault in &report.faults {
        text.push_str(&paragraph(&format!("FAULT {fault}"), style));
    }
    text
}

/// The named scenarios.
pub(crate) fn scenarios() -> String {
    let head = HEAD.map(str::to_owned).to_vec();
    let lines: Vec<_> = std::iter::once(head).chain(Preset::all().iter().map(Preset::cells)).collect();
    table(&lines, Style::Text, 1)
}

fn settings(report: &ComparisonReport) -> String {
    let settings = &report.settings;
    format!(
        "Medians of {} interleaved rounds; MQTT {}, {} B payload, {} deliveries a run, clean sessions, \
         at most {} messages undelivered in all and {} unacknowledged for each publisher, {} generator thread(s). \
         TLS with one ECDSA P-256 certificate; VEIL-1 with MQTT 5 and AES-256-GCM.",
        settings.rounds,
        settings.protocol,
        settings.payload_bytes,
        settings.deliveries,
        settings.window,
        settings.inflight_max,
        settings.generator_threads,
    )
}

fn cells(report: &ComparisonReport) -> Vec<Vec<String>> {
    let others = || report.brokers.iter().filter(|broker| broker.label != report.baseline);
    let mut head = vec![String::new(), "unit".to_owned()];
    head.extend(report.brokers.iter().map(|broker| broker.label.clone()));
    head.extend(others().map(|broker| format!("{} / {}", broker.label, report.baseline)));
    let line = |figure: &Figure| {
        let mut line = vec![figure.row.clone(), figure.unit.to_owned()];
        line.extend(
            figure.cells.iter().map(|cell| cell.median.as_ref().map_or_else(|| "-".to_owned(), rounded)),
        );
        let compared = figure.cells.iter().filter(|cell| cell.broker != report.baseline);
        line.extend(
            compared.map(|cell| cell.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))),
        );
        line
    };
    std::iter::once(head).chain(report.figures.iter().map(line)).collect()
}

/// The first `names` columns stand at the left, the others are numbers.
pub(crate) fn table(lines: &[Vec<String>], style: Style, names: usize) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width =
        |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let written = lines.iter().map(|line| row(line, &widths, style, names));
    let mut text: Vec<String> = written.collect();
    if style == Style::Markdown {
        text.insert(1, rule(&widths, names));
    }
    text.concat()
}

fn row(line: &[String], widths: &[usize], style: Style, names: usize) -> String {
    let padded = line.iter().zip(widths).enumerate().map(|(column, (cell, &width))| {
        if column < names { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
    });
    let padded: Vec<String> = padded.collect();
    match style {
        Style::Text => format!("{}\n", padded.join("  ").trim_end()),
        Style::Markdown => format!("| {} |\n", padded.join(" | ")),
    }
}

fn rule(widths: &[usize], names: usize) -> String {
    let dashes = widths.iter().enumerate().map(|(column, &width)| {
        if column < names { "-".repeat(width) } else { format!("{}:", "-".repeat(width - 1)) }
    });
    let dashes: Vec<String> = dashes.collect();
    format!("| {} |\n", dashes.join(" | "))
}

fn paragraph(text: &str, style: Style) -> String {
    match style {
        Style::Text => format!("{text}\n"),
        Style::Markdown => format!("{text}\n\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Cell, Contestant, Settings};

    fn report() -> ComparisonReport {
        let contestant = |label: &str, version: &str| Contestant {
            label: label.to_owned(),
            version: version.to_owned(),
            settings: "as it comes",
        };
        let cell =
            |broker: &str, median, ratio| Cell { broker: broker.to_owned(), samples: vec![], median, ratio };
        ComparisonReport {
            brokers: vec![contestant("mosquitto", "mosquitto 2"), contestant("veilmq", "")],
            baseline: "mosquitto".to_owned(),
            settings: Settings {
                protocol: "3.1.1",
                payload_bytes: 100,
                deliveries: 1000,
                window: 10,
                inflight_max: 5,
                generator_threads: 1,
                rounds: 3,
            },
            figures: vec![
                Figure {
                    row: "1-1".to_owned(),
                    unit: "us",
                    cells: vec![
                        cell("mosquitto", Some(3.004), Some(1.0)),
                        cell("veilmq", Some(12.34), Some(4.108)),
                    ],
                },
                Figure {
                    row: "idle".to_owned(),
                    unit: "B",
                    cells: vec![cell("mosquitto", Some(729.4), Some(1.0)), cell("veilmq", None, None)],
                },
            ],
            faults: vec!["veilmq, idle, round 1: gone".to_owned()],
        }
    }

    #[test]
    fn markdown_has_a_rule_and_pipes() {
        let text = render(&report(), Style::Markdown);

        let expected = "\
            |      | unit | mosquitto | veilmq | veilmq / mosquitto |\n\
            | ---- | ---- | --------: | -----: | -----------------: |\n\
            | 1-1  | us   |      3.00 |   12.3 |               4.11 |\n\
            | idle | B    |       729 |      - |                  - |\n\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.contains("\nmosquitto: mosquitto 2; as it comes.\n\nveilmq: version unknown;"),
            "{text}"
        );
    }

    #[test]
    fn text_is_aligned_and_names_faults() {
        let text = render(&report(), Style::Text);

        assert!(text.starts_with("      unit  mosquitto  veilmq  veilmq / mosquitto\n1-1   us "), "{text}");
        assert!(text.ends_with("\nFAULT veilmq, idle, round 1: gone\n"), "{text}");
    }
}
