//! The results of the experiment as tables and plots.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::contestant::Contestant;
use super::crypto::CryptoCost;
use super::part::Counts;
use crate::page::{command, machine, write_file};
use crate::stats::ratio;
use crate::svg::{Lines, rounded};
use crate::table::{Style, table};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct SchemesReport {
    pub(crate) messages: u64,
    pub(crate) rounds: u32,
    pub(crate) payload_bytes: usize,
    pub(crate) qos: u8,
    /// What the brokers say of their versions.
    pub(crate) brokers: Vec<String>,
    pub(crate) measured: Vec<Measured>,
    pub(crate) counted: Vec<Counted>,
    pub(crate) crypto: Vec<CryptoCost>,
}

/// Medians of the rounds of one contestant. CPU time is that of one message.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) contestant: Contestant,
    pub(crate) suite: u8,
    pub(crate) subscribers: u16,
    pub(crate) publisher_connect_micros: f64,
    pub(crate) subscriber_connect_micros: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
    pub(crate) publisher_cpu_micros: f64,
    pub(crate) broker_cpu_micros: f64,
    pub(crate) subscribers_cpu_micros: f64,
    pub(crate) broker_cpu_samples: Vec<f64>,
}

/// The operations that one message took.
#[derive(Debug, Serialize)]
pub(crate) struct Counted {
    pub(crate) contestant: Contestant,
    pub(crate) suite: u8,
    pub(crate) subscribers: u16,
    pub(crate) publisher: Counts,
    pub(crate) broker: Counts,
    pub(crate) each_subscriber: Counts,
    /// They are those of the paper's Table 2.
    pub(crate) as_in_table_2: bool,
}

impl Counted {
    pub(super) fn new(
        contestant: Contestant,
        suite: veilmq_protocol::veil::Suite,
        subscribers: u16,
        operations: [Counts; 3],
    ) -> Self {
        let expected = contestant.table_2(subscribers.into()).map(|rows| rows.map(Counts::from));
        let [publisher, broker, each_subscriber] = operations;
        Self {
            contestant,
            suite: suite as u8,
            subscribers,
            publisher,
            broker,
            each_subscriber,
            as_in_table_2: expected == Some(operations),
        }
    }
}

/// A kind of figure: its title, the name of its plots, and where it stands.
type Figure = (&'static str, &'static str, fn(&Measured) -> f64);

const FIGURES: [Figure; 7] = [
    ("Broker CPU per message, us", "broker-cpu", |run| run.broker_cpu_micros),
    ("Publisher CPU per message, us", "publisher-cpu", |run| run.publisher_cpu_micros),
    ("CPU per message of all subscribers, us", "subscribers-cpu", |run| run.subscribers_cpu_micros),
    ("Publish to receive, median, us", "latency", |run| run.p50_micros),
    ("Publish to receive, 99th percentile, us", "latency-p99", |run| run.p99_micros),
    ("Connecting the publisher, median, us", "publisher-connect", |run| run.publisher_connect_micros),
    ("Connecting a subscriber, median, us", "subscriber-connect", |run| run.subscriber_connect_micros),
];
/// Those with a plot for each suite.
const PLOTTED: [&str; 4] = ["broker-cpu", "publisher-cpu", "subscribers-cpu", "latency"];
/// Names of the suites.
const SUITES: [&str; 3] = ["AES-CBC with HMAC", "AES-GCM", "ChaCha20-Poly1305"];

impl SchemesReport {
    /// Every message that was counted took the operations of Table 2.
    pub(crate) fn is_as_in_table_2(&self) -> bool {
        self.counted.iter().all(|counted| counted.as_in_table_2)
    }

    /// Writes `figures.md` and the plots.
    ///
    /// # Errors
    /// A file cannot be written; the error names it.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), String> {
        let mut page = format!(
            "# The experiment in figures\n\nMade by `{}`, on {}. {} What they mean stands on [another page](README.md).\n\n",
            command(),
            machine(),
            self.settings(),
        );
        page.push_str(&self.render(Style::Markdown));
        page.push_str("## Plots\n\n");
        for (name, svg) in self.plots() {
            write_file(&directory.join(&name), &svg)?;
            page.push_str(&format!("![{}]({name})\n\n", name.trim_end_matches(".svg")));
        }
        let json = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        write_file(&directory.join("figures.json"), &(json + "\n"))?;
        write_file(&directory.join("figures.md"), &format!("{}\n", page.trim_end()))
    }

    fn settings(&self) -> String {
        let Self { messages, rounds, payload_bytes, qos, brokers, .. } = self;
        format!(
            "{messages} messages of {payload_bytes} B at QoS {qos}; medians of {rounds} interleaved rounds, each on a fresh broker \
             with one shard: {}.",
            brokers.join(", ")
        )
    }

    fn render(&self, style: Style) -> String {
        let mut out = String::new();
        let mut section = |title: &str, lines: Vec<Vec<String>>, names| {
            let head =
                if style == Style::Markdown { format!("## {title}\n\n") } else { format!("{title}\n") };
            out.push_str(&head);
            out.push_str(&table(&lines, style, names));
            out.push('\n');
        };
        for (title, _, of) in FIGURES {
            section(title, self.grid(of), 1);
        }
        section("Broker CPU as a multiple of plain", self.multiples(), 1);
        section("The broker's cryptography alone, us per message", self.crypto_lines(), 1);
        section("Operations per message", self.counted_lines(), 2);
        section("From cheapest to dearest", self.orders(), 1);
        out
    }

    fn points(&self) -> BTreeSet<(u8, u16)> {
        self.measured.iter().map(|run| (run.suite, run.subscribers)).collect()
    }

    fn contestants(&self) -> BTreeSet<Contestant> {
        self.measured.iter().map(|run| run.contestant).collect()
    }

    fn find(&self, contestant: Contestant, (suite, subscribers): (u8, u16)) -> Option<&Measured> {
        self.measured
            .iter()
            .find(|run| (run.contestant, run.suite, run.subscribers) == (contestant, suite, subscribers))
    }

    /// A row for each suite and number of subscribers, a column for each contestant.
    fn lines_of(
        &self,
        contestants: &BTreeSet<Contestant>,
        value: impl Fn(Contestant, (u8, u16)) -> Option<f64>,
    ) -> Vec<Vec<String>> {
        let mut lines = vec![vec!["suite, subscribers".to_owned()]];
        lines[0].extend(contestants.iter().map(|contestant| contestant.name().to_owned()));
        for point in self.points() {
            let mut line = vec![format!("{}, {}", point.0, point.1)];
            line.extend(contestants.iter().map(|contestant| {
                value(*contestant, point).as_ref().map_or_else(|| "-".to_owned(), rounded)
            }));
            lines.push(line);
        }
        lines
    }

    fn grid(&self, of: fn(&Measured) -> f64) -> Vec<Vec<String>> {
        self.lines_of(&self.contestants(), |contestant, point| self.find(contestant, point).map(of))
    }

    fn multiples(&self) -> Vec<Vec<String>> {
        self.lines_of(&self.contestants(), |contestant, point| {
            let plain = self.find(Contestant::Plain, point)?;
            ratio(self.find(contestant, point)?.broker_cpu_micros, plain.broker_cpu_micros)
        })
    }

    fn crypto_lines(&self) -> Vec<Vec<String>> {
        let contestants = self.crypto.iter().map(|cost| cost.contestant).collect();
        self.lines_of(&contestants, |contestant, (suite, subscribers)| {
            let key = (contestant, suite, subscribers);
            let found =
                self.crypto.iter().find(|cost| (cost.contestant, cost.suite, cost.subscribers) == key);
            found.map(|cost| cost.micros)
        })
    }

    /// Suites in which a message took the same operations share a row.
    fn counted_lines(&self) -> Vec<Vec<String>> {
        let head = ["", "suites", "subscribers", "publisher", "broker", "each subscriber", "Table 2"];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        for counted in &self.counted {
            let cells = [
                counted.subscribers.to_string(),
                shown(counted.publisher),
                shown(counted.broker),
                shown(counted.each_subscriber),
                if counted.as_in_table_2 { "as there" } else { "differs" }.to_owned(),
            ];
            let name = counted.contestant.name();
            match lines.iter_mut().find(|line| line[0] == name && line[2..] == cells) {
                Some(line) => line[1].push_str(&format!(" {}", counted.suite)),
                None => {
                    let mut line = vec![name.to_owned(), counted.suite.to_string()];
                    line.extend(cells);
                    lines.push(line);
                }
            }
        }
        lines
    }

    /// The paper's schemes in the order of what they cost.
    fn orders(&self) -> Vec<Vec<String>> {
        let head = ["suite, subscribers", "broker CPU", "CPU of all", "median latency"];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        let all =
            |run: &Measured| run.publisher_cpu_micros + run.broker_cpu_micros + run.subscribers_cpu_micros;
        for point in self.points() {
            lines.push(vec![
                format!("{}, {}", point.0, point.1),
                self.order(point, |run| run.broker_cpu_micros),
                self.order(point, all),
                self.order(point, |run| run.p50_micros),
            ]);
        }
        lines
    }

    fn order(&self, point: (u8, u16), cost: impl Fn(&Measured) -> f64) -> String {
        let schemes = [
            Contestant::Scheme1,
            Contestant::Scheme2,
            Contestant::Scheme3,
            Contestant::Scheme4,
            Contestant::Veil,
        ];
        let mut found: Vec<&Measured> =
            schemes.into_iter().filter_map(|contestant| self.find(contestant, point)).collect();
        found.sort_by(|one, other| cost(one).total_cmp(&cost(other)));
        let names = found.iter().map(|run| run.contestant.name().trim_start_matches("Scheme "));
        names.collect::<Vec<_>>().join(" < ")
    }

    fn plots(&self) -> Vec<(String, String)> {
        let mut plots = Vec::new();
        let suites: BTreeSet<u8> = self.measured.iter().map(|run| run.suite).collect();
        for suite in suites {
            for (title, name, of) in FIGURES.into_iter().filter(|(_, name, _)| PLOTTED.contains(name)) {
                let line = |contestant: Contestant| {
                    let runs = self
                        .measured
                        .iter()
                        .filter(move |run| run.contestant == contestant && run.suite == suite);
                    let points = runs.map(|run| (f64::from(run.subscribers), of(run))).collect();
                    (contestant.name().to_owned(), points)
                };
                let title = format!("{title}; {}", SUITES.get(usize::from(suite) - 1).unwrap_or(&""));
                let series = self.contestants().into_iter().map(line).collect();
                let lines = Lines { title, across: "subscribers".to_owned(), series };
                plots.push((format!("{name}-suite-{suite}.svg"), lines.render()));
            }
        }
        plots
    }
}

/// Those that there are, with their number: `201 E, 201 M`.
fn shown(counts: Counts) -> String {
    let letters = ["E", "M", "t", "D"];
    let parts = counts.all().into_iter().zip(letters).filter(|(count, _)| *count != 0.0);
    let parts: Vec<String> = parts.map(|(count, letter)| format!("{count} {letter}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

impl fmt::Display for SchemesReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}{}", self.render(Style::Text), self.settings())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use veilmq_protocol::veil::Suite;

    fn measured(contestant: Contestant, broker_cpu_micros: f64) -> Measured {
        Measured {
            contestant,
            suite: 2,
            subscribers: 10,
            publisher_connect_micros: 1.0,
            subscriber_connect_micros: 1.0,
            p50_micros: 1.0,
            p99_micros: 1.0,
            publisher_cpu_micros: 1.0,
            broker_cpu_micros,
            subscribers_cpu_micros: 1.0,
            broker_cpu_samples: vec![broker_cpu_micros],
        }
    }

    fn report() -> SchemesReport {
        let operations = Contestant::Veil.table_2(10).unwrap().map(Counts::from);
        let mut others = operations;
        others[1].macs += 0.5;
        let counted = |suite, operations| Counted::new(Contestant::Veil, suite, 10, operations);
        SchemesReport {
            messages: 1,
            rounds: 1,
            payload_bytes: 256,
            qos: 1,
            brokers: vec!["veilmq 0".to_owned()],
            measured: vec![
                measured(Contestant::Plain, 40.0),
                measured(Contestant::Scheme2, 90.0),
                measured(Contestant::Veil, 50.0),
            ],
            counted: vec![
                counted(Suite::Aes256Gcm, operations),
                counted(Suite::ChaCha20Poly1305, operations),
                counted(Suite::Aes256CbcHmacSha256, others),
            ],
            crypto: Vec::new(),
        }
    }

    #[test]
    fn tables_show_multiples_orders_and_counts() {
        let text = report().to_string();

        let words: Vec<&str> = text.split_whitespace().collect();
        for line in ["2, 10 1.00 2.25 1.25", "2, 10 veil < 2 veil < 2"] {
            assert!(words.join(" ").contains(line), "{line}: {text}");
        }
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("veil")).collect();
        assert_eq!(rows.len(), 2, "{text}");
        assert!(
            rows[0].contains("2 3") && rows[0].contains("1 M, 10 t, 1 D") && rows[0].ends_with("as there")
        );
        assert!(rows[1].contains("1.5 M") && rows[1].ends_with("differs"), "{text}");
        assert!(!report().is_as_in_table_2());
    }

    #[test]
    fn the_page_links_to_every_plot_that_was_written() {
        let directory = tempfile::tempdir().unwrap();

        report().write(directory.path()).unwrap();

        let page = std::fs::read_to_string(directory.path().join("figures.md")).unwrap();
        for name in PLOTTED {
            assert!(page.contains(&format!("({name}-suite-2.svg)")), "{page}");
            assert!(directory.path().join(format!("{name}-suite-2.svg")).is_file());
        }
    }
}
