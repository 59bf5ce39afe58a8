//! What the demonstration prints: claims with their outcome, and messages in two columns.

use crate::{failure::Failure, format::hex};

const LEFT_COLUMNS: usize = 50;
const RIGHT_COLUMNS: usize = 56;
const HEX_LINES_MAX: usize = 4;

/// Keeps count of what was claimed and what did not hold.
#[derive(Default)]
pub(super) struct Report {
    claims: usize,
    failed: Vec<String>,
}

impl Report {
    /// Checks one claim and prints it.
    pub(super) fn claim(&mut self, claim: &str, holds: bool) {
        self.claims += 1;
        say!("  [{}] {claim}", if holds { "holds" } else { "FAILS" });
        if !holds {
            self.failed.push(claim.to_owned());
        }
    }

    /// The end: a summary, or everything that did not hold.
    pub(super) fn finish(self) -> Result<(), Failure> {
        if self.failed.is_empty() {
            say!("\nAll {} claims hold.", self.claims);
            return Ok(());
        }
        let (failed, claims) = (self.failed.len(), self.claims);
        Err(Failure::new(format!("{failed} of {claims} claims do not hold: {}", self.failed.join("; "))))
    }
}

pub(super) fn heading(text: &str) {
    say!("\n{text}");
}

/// The two columns' titles.
pub(super) fn column_titles() {
    let rule = (LEFT_COLUMNS, RIGHT_COLUMNS);
    say!("  {:<LEFT_COLUMNS$} | what the subscriber reads", "what the broker stores and forwards");
    say!("  {:-<1$}-+-{2:-<3$}", "", rule.0, "", rule.1);
}

/// One message, as ciphertext on the left and as plaintext on the right.
pub(super) fn message(header: &[String], payload: &[u8], plaintext: &str) {
    let mut left = header.to_vec();
    let digits = hex(payload);
    let lines = wrap(&digits, LEFT_COLUMNS);
    left.extend(lines.iter().take(HEX_LINES_MAX).cloned());
    if lines.len() > HEX_LINES_MAX {
        let shown = HEX_LINES_MAX * LEFT_COLUMNS / 2;
        left.push(format!("... {} more bytes", payload.len() - shown));
    }
    let right = wrap(plaintext, RIGHT_COLUMNS);
    for line in 0..left.len().max(right.len()) {
        let cell = |column: &[String]| column.get(line).cloned().unwrap_or_default();
        let row = format!("  {:<LEFT_COLUMNS$} | {}", cell(&left), cell(&right));
        say!("{}", row.trim_end());
    }
    say!("  {:<LEFT_COLUMNS$} |", "");
}

fn wrap(text: &str, columns: usize) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    letters.chunks(columns).map(|line| line.iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_claim_that_fails_fails_the_report_and_is_named() {
        let mut report = Report::default();
        report.claim("water is wet", true);
        report.claim("fire is cold", false);

        let failure = report.finish().unwrap_err();

        assert_eq!(failure.to_string(), "1 of 2 claims do not hold: fire is cold");
        assert_ne!(failure.status(), 0);
    }

    #[test]
    fn text_is_wrapped_at_letters_and_loses_none() {
        assert_eq!(wrap("abcdeé", 4), ["abcd", "eé"]);
        assert!(wrap("", 4).is_empty());
    }
}
