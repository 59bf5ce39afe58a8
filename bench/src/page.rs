//! The page and the plots of a comparison, in a directory of the documentation.

use std::path::Path;

use crate::compare::{ComparisonReport, Figure};
use crate::svg::Bars;
use crate::table::{self, Style};

/// Writes a page with the machine, the command, the table and the settings, and one plot for each kind of figure.
///
/// # Errors
/// A file cannot be written; the error names it.
pub(crate) fn write(report: &ComparisonReport, directory: &Path) -> Result<(), String> {
    let plots = plots(report);
    let mut page = format!(
        "# How fast it is\n\n\
         Made by `{}`, on {}. Others can make their own: [the load generator](../../bench/README.md).\n\n\
         How cost grows with connections, subscriptions, subscribers and stored messages stands on \
         [a page of its own](growth.md).\n\n",
        command(),
        machine(),
    );
    page.push_str(&table::render(report, Style::Markdown));
    for (name, svg) in &plots {
        write_file(&directory.join(name), svg)?;
        page.push_str(&format!("![{}]({name})\n\n", name.trim_end_matches(".svg")));
    }
    write_file(&directory.join("README.md"), &format!("{}\n", page.trim_end()))
}

/// Writes a file and the directory it is in.
///
/// # Errors
/// It cannot be written; the error names it.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), String> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(path, text))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// One plot for each name of figures, with a row for each row of the table that has it.
fn plots(report: &ComparisonReport) -> Vec<(String, String)> {
    let split =
        |figure: &Figure| figure.row.rsplit_once(": ").map(|(row, name)| (row.to_owned(), name.to_owned()));
    let mut names: Vec<(String, &str)> = Vec::new();
    for figure in &report.figures {
        if let Some((_, name)) = split(figure)
            && !names.iter().any(|(known, _)| *known == name)
        {
            names.push((name, figure.unit));
        }
    }
    let series: Vec<String> = report.brokers.iter().map(|broker| broker.label.clone()).collect();
    let plot = |(name, unit): (String, &str)| {
        let rows = report.figures.iter().filter_map(|figure| {
            let (row, _) = split(figure).filter(|(_, found)| *found == name)?;
            Some((row, figure.cells.iter().map(|cell| cell.median).collect()))
        });
        let title = format!("{name}, {unit}; each row has its own scale");
        let file = format!("{}.svg", name.to_lowercase().replace(' ', "-"));
        (file, Bars { title, series: series.clone(), rows: rows.collect() }.render())
    };
    names.into_iter().map(plot).collect()
}

/// The command line that was typed, with the name of the program alone.
pub(crate) fn command() -> String {
    let words = std::env::args().skip(1);
    std::iter::once("veilmq-bench".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// Processor, memory and kernel of this machine, in words.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    };
    let model =
        value(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "an unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let memory = value(&read("/proc/meminfo"), "MemTotal").unwrap_or_else(|| "unknown".to_owned());
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cores} cores, memory {memory}, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Cell, Contestant, Settings};

    #[test]
    fn a_page_links_to_every_plot_that_was_written() {
        let cells =
            |median| vec![Cell { broker: "mosquitto".to_owned(), samples: vec![], median, ratio: None }];
        let figure = |row: &str, unit, median| Figure { row: row.to_owned(), unit, cells: cells(median) };
        let report = ComparisonReport {
            brokers: vec![Contestant {
                label: "mosquitto".to_owned(),
                version: "2".to_owned(),
                settings: "so",
            }],
            baseline: "mosquitto".to_owned(),
            settings: Settings {
                protocol: "3.1.1",
                payload_bytes: 100,
                deliveries: 1,
                window: 1,
                inflight_max: 1,
                generator_threads: 1,
                rounds: 1,
            },
            figures: vec![
                figure("1-1 QoS 0: CPU per delivery", "us", Some(3.0)),
                figure("1-1 QoS 1: CPU per delivery", "us", Some(4.0)),
                figure("idle: PSS per connection", "B", None),
            ],
            faults: vec![],
        };
        let directory = tempfile::tempdir().unwrap();

        write(&report, &directory.path().join("made")).unwrap();

        let read = |name: &str| std::fs::read_to_string(directory.path().join("made").join(name)).unwrap();
        let page = read("README.md");
        assert!(page.contains("![cpu-per-delivery](cpu-per-delivery.svg)"), "{page}");
        assert!(page.contains("| 1-1 QoS 0: CPU per delivery | us"), "{page}");
        let plot = read("cpu-per-delivery.svg");
        assert!(plot.contains(">1-1 QoS 0<") && plot.contains(">1-1 QoS 1<"), "{plot}");
        assert!(read("pss-per-connection.svg").contains(">idle<"));
    }
}
