//! `veil topic`: what the broker sees of the topics of blind scopes, and which topic a name it shows belongs to.
//!
//! Owns how topic keys are given on the command line. Works without a broker.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{ArgGroup, Args, Subcommand};
use veilmq_client::{
    TopicFilter, TopicName,
    e2e::{EpochTiming, GroupKey, Keyring, MasterSecret, Naming},
};

use crate::{failure::Failure, format::unix_ms, secret};

/// The epoch of a topic key that none is given for.
const FIRST_EPOCH: u32 = 1;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Print the names that the broker sees in place of topics or filters
    Blind {
        /// Topics or filters
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        keys: NamingKeys,
    },
    /// Find the topics behind names that the broker shows, among those on standard input
    Find {
        /// Names with tokens, as in logs of the broker
        #[arg(required = true)]
        wire: Vec<String>,
        #[command(flatten)]
        keys: NamingKeys,
    },
}

/// The topic keys of blind scopes, as programs that connect are given them.
#[derive(Args)]
pub(crate) struct TopicKeys {
    /// File with a topic key (make one with `veil key new`) of an epoch, 1 unless given; the highest names what is published, all
    /// are read (repeatable)
    #[arg(long, value_name = "[EPOCH:]FILE", help_heading = "Blind topics")]
    topic_key: Vec<String>,
    /// Levels that stay in the clear before all blind names
    #[arg(long, value_name = "LEVELS", help_heading = "Blind topics", default_value = "")]
    topic_prefix: String,
}

/// The same for programs that have no master secret otherwise.
#[derive(Args)]
#[command(group(ArgGroup::new("naming").args(["topic_key", "master_key"]).required(true)))]
pub(crate) struct NamingKeys {
    #[command(flatten)]
    keys: TopicKeys,
    /// File with the master secret that the topic keys are derived from
    #[arg(long, value_name = "FILE", help_heading = "Blind topics")]
    master_key: Option<PathBuf>,
    /// Epoch of the master secret (repeatable)
    #[arg(
        long,
        value_name = "N",
        help_heading = "Blind topics",
        requires = "master_key",
        default_value = "1"
    )]
    epoch: Vec<u32>,
}

/// Names in certain epochs, whenever those are in use.
pub(crate) struct Names {
    pub(crate) naming: Naming,
    /// Ascending.
    pub(crate) epochs: Vec<u32>,
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Blind { names, keys } => {
            let keys = keys.load()?;
            for name in names {
                for wire in keys.filters(&name)? {
                    say!("{wire} {name}");
                }
            }
            Ok(())
        }
        Command::Find { wire, keys } => find(&wire, &keys.load()?),
    }
}

impl TopicKeys {
    /// Whether any topic key is given.
    pub(crate) fn is_given(&self) -> bool {
        !self.topic_key.is_empty()
    }

    /// How blind scopes are named: by the keys given, or else by keys derived from the master secret of a scope.
    pub(crate) fn naming(&self, master: Option<(&[u8; 32], u32)>) -> Result<Arc<Naming>, Failure> {
        let keyring = match (self.is_given(), master) {
            (true, _) => self.keyring(unix_ms())?.0,
            (false, Some((master, epoch))) => {
                Keyring::master(MasterSecret::new(master), epoch, EpochTiming::default())
            }
            (false, None) => {
                return Err(Failure::new("--blind needs --topic-key FILE where there is no master secret"));
            }
        };
        Ok(Arc::new(self.named(keyring)?))
    }

    /// The keys given; the first is in use since ever, the others from `now_unix_ms` on.
    fn keyring(&self, now_unix_ms: u64) -> Result<(Keyring, Vec<u32>), Failure> {
        let mut files = BTreeMap::new();
        for given in &self.topic_key {
            let (epoch, path) = match given.split_once(':').map(|(epoch, path)| (epoch.parse::<u32>(), path))
            {
                Some((Ok(epoch), path)) => (epoch, path),
                _ => (FIRST_EPOCH, given.as_str()),
            };
            if files.insert(epoch, path).is_some() {
                return Err(Failure::new(format!(
                    "--topic-key {given}: there is another key of epoch {epoch}"
                )));
            }
        }
        let mut keyring = Keyring::explicit(EpochTiming::default());
        for (index, (epoch, path)) in files.iter().enumerate() {
            let key = GroupKey::new(&*secret::load(Path::new(path))?);
            let activate_ms = if index == 0 { 0 } else { now_unix_ms };
            let added = keyring.insert(*epoch, key, activate_ms);
            added.map_err(|error| Failure::new(format!("--topic-key {path}: {error}")))?;
        }
        Ok((keyring, files.into_keys().collect()))
    }

    fn named(&self, keyring: Keyring) -> Result<Naming, Failure> {
        let prefix = &self.topic_prefix;
        Naming::new(prefix, keyring)
            .map_err(|error| Failure::new(format!("--topic-prefix {prefix:?}: {error}")))
    }
}

impl NamingKeys {
    /// Reads the keys.
    pub(crate) fn load(&self) -> Result<Names, Failure> {
        let Some(path) = &self.master_key else {
            let (keyring, epochs) = self.keys.keyring(unix_ms())?;
            return Ok(Names { naming: self.keys.named(keyring)?, epochs });
        };
        let mut epochs = self.epoch.clone();
        epochs.sort_unstable();
        epochs.dedup();
        let first = epochs.first().copied().unwrap_or(FIRST_EPOCH);
        let master = MasterSecret::new(secret::load(path)?.as_slice());
        let mut keyring = Keyring::master(master, first, EpochTiming::default());
        for epoch in epochs.iter().skip(1) {
            let announced = keyring.announce(*epoch, 0);
            announced.map_err(|error| Failure::new(format!("--epoch {epoch}: {error}")))?;
        }
        Ok(Names { naming: self.keys.named(keyring)?, epochs })
    }
}

impl Names {
    /// What a topic or filter is in every epoch.
    fn filters(&self, name: &str) -> Result<Vec<String>, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{name:?}: {error}"));
        let filter = TopicFilter::new(name).map_err(|error| failed(&error))?;
        let wire = self.epochs.iter().map(|epoch| self.naming.filter_in(*epoch, filter));
        wire.collect::<Result<_, _>>().map_err(|error| failed(&error))
    }
}

fn find(wanted: &[String], keys: &Names) -> Result<(), Failure> {
    let mut names = BTreeMap::new();
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| Failure::new(format!("standard input: {error}")))?;
        let Ok(topic) = TopicName::new(line.trim_end_matches('\r')) else { continue };
        for epoch in &keys.epochs {
            // What has no name made of tokens is not behind one.
            let Ok(wire) = keys.naming.topic_in(*epoch, topic) else { continue };
            names.insert(wire, topic.as_str().to_owned());
        }
    }
    let mut unknown = 0;
    for wire in wanted {
        match names.get(wire) {
            Some(name) => say!("{wire} {name}"),
            None => unknown += 1,
        }
    }
    match unknown {
        0 => Ok(()),
        unknown => Err(Failure::new(format!("{unknown} of {} names are none of these topics", wanted.len()))),
    }
}
