//! What bridges have subscribed to, in a small file of the data directory, so that it is known after a restart.
//!
//! A session on another broker outlives this process, and nobody but the bridge knows what it has subscribed to there.
//! Invariant: a filter is in the file before a bridge subscribes to it, and leaves it once it was unsubscribed from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::warn;
use veilmq_bridge::{Filters, Settings};

use super::plan::BridgePlan;
use crate::files;

const FILE: &str = "bridges.json";
const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;
const MODE: u32 = 0o600;

/// The filters of all bridges, by the names of these.
#[derive(Debug, Default)]
pub struct BridgeMemory {
    /// `None` without a data directory: then nothing outlives the process.
    file: Option<PathBuf>,
    bridges: BTreeMap<String, Subscribed>,
}

/// What the sessions of one bridge have.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Subscribed {
    client_id: String,
    local_client_id: String,
    remote: Vec<String>,
    local: Vec<String>,
}

impl BridgeMemory {
    /// Reads what was noted in a data directory. What cannot be read is nothing, with a warning: bridges work without.
    #[must_use]
    pub fn in_data_dir(directory: &Path) -> Self {
        let file = directory.join(FILE);
        let read = || match files::read(&file, FILE_BYTES_MAX) {
            Err(error) if error.is_not_found() => Ok(BTreeMap::new()),
            Err(error) => Err(error.to_string()),
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", file.display()))
            }
        };
        let bridges = read().unwrap_or_else(|error| {
            warn!(error, "what bridges have subscribed to is not known any more");
            BTreeMap::new()
        });
        Self { file: Some(file), bridges }
    }

    /// What the sessions of a bridge had when it was noted last.
    pub(super) fn recall(&self, bridge: &str, settings: &Settings) -> Filters {
        let Some(subscribed) = self.bridges.get(bridge) else { return Filters::default() };
        // Another Client Identifier is another session.
        let of = |is_same: bool, filters: &Vec<String>| if is_same { filters.clone() } else { Vec::new() };
        let is_same_here = subscribed.local_client_id == settings.local.client_id;
        Filters {
            local: of(is_same_here && !settings.local.clean_start, &subscribed.local),
            remote: of(subscribed.client_id == settings.remote.client_id, &subscribed.remote),
        }
    }

    /// The sessions on this broker that none of these bridges has, and the names of the bridges they were of.
    pub(super) fn orphans(&self, plans: &[Arc<BridgePlan>]) -> Vec<(Arc<str>, String)> {
        let is_used = |client_id: &str| plans.iter().any(|plan| plan.settings.local.client_id == client_id);
        let noted = self.bridges.iter().filter(|(_, noted)| !is_used(&noted.local_client_id));
        noted.map(|(bridge, noted)| (Arc::from(bridge.as_str()), noted.local_client_id.clone())).collect()
    }

    /// Notes what the sessions of a bridge have from now on.
    pub(super) fn note(&mut self, bridge: &str, settings: &Settings) {
        let Filters { local, remote } = settings.subscribed();
        let subscribed = Subscribed {
            client_id: settings.remote.client_id.clone(),
            local_client_id: settings.local.client_id.clone(),
            remote,
            local,
        };
        if self.bridges.get(bridge) != Some(&subscribed) {
            self.bridges.insert(bridge.to_owned(), subscribed);
            self.write();
        }
    }

    /// There is no such bridge any more.
    pub(super) fn forget(&mut self, bridge: &str) {
        if self.bridges.remove(bridge).is_some() {
            self.write();
        }
    }

    fn write(&self) {
        let Some(file) = &self.file else { return };
        let written = serde_json::to_vec_pretty(&self.bridges)
            .map_err(|error| error.to_string())
            .and_then(|bytes| files::write(file, &bytes, MODE).map_err(|error| error.to_string()));
        if let Err(error) = written {
            warn!(error, "what bridges have subscribed to will not be known after a restart");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), "{\"a\": 7}").unwrap();

        assert!(BridgeMemory::in_data_dir(directory.path()).bridges.is_empty());
    }
}
