//! `veilmq store …`: the command line of upkeep, and what it prints.
//!
//! Results go to standard output, progress and errors to standard error.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{CheckReport, Compaction, Imported, UpkeepError, Users};

/// What to do with the store of a broker that does not run.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read the whole store and change nothing; status 0: clean, 1: damaged, 2: cannot be read or is in use
    Check {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write everything that is stored as lines of JSON
    Export {
        /// File to create, or - for standard output
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        output: PathBuf,
    },
    /// Make a store from an export, in a data directory that has none
    Import {
        /// File to read, or - for standard input
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        input: PathBuf,
    },
    /// Make a store from what `mosquitto_db_dump --json` prints, in a data directory that has none
    ImportMosquitto {
        /// File to read, or - for standard input
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        input: PathBuf,
        /// User names prove nothing on this broker, as without a password file: anybody may resume a session
        #[arg(long)]
        unproven: bool,
    },
    /// Write what is stored into a new, smaller store that takes the place of the present one
    Compact,
}

/// Why a command ended without success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreCommandError {
    /// A check could not be made.
    #[error(transparent)]
    Unchecked(UpkeepError),
    /// Another command failed.
    #[error(transparent)]
    Failed(#[from] UpkeepError),
    /// Standard output does not take the result.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl StoreCommandError {
    /// Returns the exit status.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Unchecked(_) => 2,
            Self::Failed(_) | Self::Output(_) => 1,
        }
    }
}

/// Runs a command and returns the exit status.
///
/// # Errors
/// [`StoreCommandError`], which has a status too.
pub(crate) fn execute(
    command: &StoreCommand,
    data_dir: &Path,
    out: &mut impl Write,
) -> Result<u8, StoreCommandError> {
    match command {
        StoreCommand::Check { json } => {
            let report = super::check(data_dir).map_err(StoreCommandError::Unchecked)?;
            print_report(&report, *json, out)?;
            return Ok(if report.clean { 0 } else { 1 });
        }
        StoreCommand::Export { output } => {
            let tally = super::export(data_dir, output)?;
            // Standard output may be the export.
            writeln!(io::stderr(), "veilmq: exported {tally}")?;
        }
        StoreCommand::Import { input } => {
            let tally = super::import(data_dir, input)?;
            writeln!(out, "imported {tally}")?;
        }
        StoreCommand::ImportMosquitto { input, unproven } => {
            let users = if *unproven { Users::Claimed } else { Users::Proven };
            let Imported { tally, left_out } = super::import_mosquitto(data_dir, input, users)?;
            writeln!(out, "imported {tally}")?;
            if left_out > 0 {
                writeln!(out, "left out: {left_out} deliveries that the dump does not identify")?;
            }
        }
        StoreCommand::Compact => {
            let Compaction { bytes_before, bytes_after } = super::compact(data_dir)?;
            writeln!(out, "compacted: {bytes_before} bytes before, {bytes_after} bytes after")?;
        }
    }
    Ok(0)
}

fn print_report(report: &CheckReport, json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        let line = serde_json::to_string(report).map_err(io::Error::other)?;
        return writeln!(out, "{line}");
    }
    let CheckReport { clean, tally, disk_bytes, rows, damage } = report;
    for (name, count) in [
        ("sessions", tally.sessions),
        ("subscriptions", tally.subscriptions),
        ("messages", tally.messages),
        ("deliveries", tally.deliveries),
        ("received", tally.received),
        ("retained", tally.retained),
        ("message bytes", tally.message_bytes),
        ("disk bytes", *disk_bytes),
        ("rows", *rows),
    ] {
        writeln!(out, "{name:<14}{count}")?;
    }
    if *clean { writeln!(out, "clean") } else { writeln!(out, "damaged: {damage}") }
}
