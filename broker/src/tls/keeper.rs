//! Keeps what TLS listeners have read equal to their files: looks at them every few seconds, and when it is told to.
//!
//! Invariant: a set of files that cannot be used changes nothing, and is complained about once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{error, info};
use veilmq_config::{BrokerConfig, ListenerConfig};

use super::acceptor::{InForce, Stamp, TlsAcceptor, TlsError};
use super::stats::TlsStats;
use crate::admin::metrics::MetricSource;

/// All TLS listeners of a broker.
pub struct TlsKeeper {
    kept: Mutex<Vec<Kept>>,
    stats: Arc<TlsStats>,
}

/// One of them. A listener that is gone is kept for as long as it has connections: their clients may lose what they have proved.
struct Kept {
    acceptor: Arc<TlsAcceptor>,
    /// What the files looked like when they were last read.
    seen: Vec<Stamp>,
}

/// TLS of a listener as it is to become: read, and in force nowhere.
pub enum Reading {
    /// That of a listener without TLS until now.
    New(Arc<TlsAcceptor>),
    /// Something else for a listener that has it.
    Changed(Arc<TlsAcceptor>, InForce),
}

impl TlsKeeper {
    /// Makes a keeper of nothing, which allows so many handshakes at one time.
    pub fn new(handshakes_max: usize) -> Self {
        Self { kept: Mutex::default(), stats: Arc::new(TlsStats::new(handshakes_max)) }
    }

    /// Allows another number of handshakes at one time.
    pub fn allow(&self, handshakes_max: usize) {
        self.stats.allow(handshakes_max);
    }

    /// Reads the files of a listener, which has been spoken to with `present` until now; None if it has no TLS.
    ///
    /// # Errors
    /// [`TlsError`], naming the option and the file.
    pub fn read(
        &self,
        config: &BrokerConfig,
        listener: &ListenerConfig,
        present: Option<&Arc<TlsAcceptor>>,
    ) -> Result<Option<Reading>, TlsError> {
        let Some(tls) = &listener.tls else { return Ok(None) };
        let certificates = config.certificates_of(tls);
        let reading = match present {
            Some(acceptor) => Reading::Changed(Arc::clone(acceptor), acceptor.read_as(tls, certificates)?),
            None => {
                let name = listener.address.to_string();
                let stats = Arc::clone(&self.stats);
                Reading::New(Arc::new(TlsAcceptor::load(name, tls, certificates, stats)?))
            }
        };
        Ok(Some(reading))
    }

    /// Reads the files of all listeners, and does nothing with them.
    ///
    /// # Errors
    /// [`TlsError`], naming the option and the file.
    pub fn check(config: &BrokerConfig) -> Result<(), TlsError> {
        let keeper = Self::new(0);
        config.listeners.iter().try_for_each(|listener| keeper.read(config, listener, None).map(drop))
    }

    /// Goes by what was read, and keeps it equal to its files from now on. Tell the shards that some clients may not be trusted any more.
    pub fn keep(&self, reading: Reading) -> Arc<TlsAcceptor> {
        let mut kept = self.kept();
        let acceptor = match reading {
            Reading::New(acceptor) => {
                kept.push(Kept { acceptor: Arc::clone(&acceptor), seen: Vec::new() });
                acceptor
            }
            Reading::Changed(acceptor, now) => {
                acceptor.go_by(now);
                count_reload("success");
                acceptor
            }
        };
        for kept in kept.iter_mut().filter(|kept| Arc::ptr_eq(&kept.acceptor, &acceptor)) {
            kept.seen = acceptor.stamps();
        }
        tell_expiry(&acceptor);
        acceptor
    }

    /// Returns what is counted.
    pub fn metrics(&self) -> Arc<dyn MetricSource> {
        Arc::clone(&self.stats) as _
    }

    /// Reads the files that have changed since they were last read; tells whether any were taken.
    pub fn rescan(&self) -> bool {
        let mut kept = self.kept();
        kept.retain(|kept| {
            // Neither a listener nor a connection has it.
            let is_gone = Arc::strong_count(&kept.acceptor) == 1;
            if is_gone {
                expiry_of(&kept.acceptor).set(f64::INFINITY);
                next_update_of(&kept.acceptor).set(f64::INFINITY);
            }
            !is_gone
        });
        let mut is_changed = false;
        for Kept { acceptor, seen } in kept.iter_mut() {
            let now = acceptor.stamps();
            if now == *seen {
                continue;
            }
            *seen = now;
            let listener = acceptor.name();
            match acceptor.reload() {
                Ok(()) => {
                    info!(listener, "TLS: certificates were read again");
                    is_changed = true;
                    count_reload("success");
                    tell_expiry(acceptor);
                }
                Err(error) => {
                    error!(listener, "TLS: {error}; what was read before stays in force");
                    count_reload("failure");
                }
            }
        }
        is_changed
    }

    /// Takes note that files could not be used in a reload.
    pub fn note_failure(&self) {
        count_reload("failure");
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count_reload(result: &'static str) {
    metrics::counter!("veilmq_tls_reloads_total", "result" => result).increment(1);
}

/// Shows on `/metrics` until when certificates are good, and lists of revocations are new.
fn tell_expiry(acceptor: &TlsAcceptor) {
    expiry_of(acceptor).set(acceptor.not_after() as f64);
    next_update_of(acceptor).set(acceptor.next_update().map_or(f64::INFINITY, |at| at as f64));
}

fn expiry_of(acceptor: &TlsAcceptor) -> metrics::Gauge {
    let listener = acceptor.name().to_owned();
    metrics::gauge!("veilmq_tls_certificate_not_after_timestamp_seconds", "listener" => listener)
}

fn next_update_of(acceptor: &TlsAcceptor) -> metrics::Gauge {
    let listener = acceptor.name().to_owned();
    metrics::gauge!("veilmq_tls_crl_next_update_timestamp_seconds", "listener" => listener)
}
