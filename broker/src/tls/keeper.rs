//! Keeps what TLS listeners have read equal to their files: looks at them every few seconds, and when it is told to.
//!
//! Invariant: a set of files that cannot be used changes nothing, and is complained about once.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::{error, info};
use veilmq_config::BrokerConfig;

use super::acceptor::{Stamp, TlsAcceptor, TlsError};
use super::stats::TlsStats;
use crate::admin::metrics::MetricSource;

/// All TLS listeners of a broker.
pub struct TlsKeeper {
    /// In the order of the listeners; None stands for one without TLS.
    acceptors: Vec<Option<Arc<TlsAcceptor>>>,
    /// What the files looked like when they were last read, in the same order.
    seen: Mutex<Vec<Vec<Stamp>>>,
    stats: Arc<TlsStats>,
}

impl TlsKeeper {
    /// Reads the files of every listener.
    ///
    /// # Errors
    /// [`TlsError`], naming the option and the file.
    pub fn new(config: &BrokerConfig) -> Result<Self, TlsError> {
        let stats = Arc::new(TlsStats::new(config.limits.tls_handshakes_max as usize));
        let mut acceptors = Vec::new();
        let mut seen = Vec::new();
        for listener in &config.listeners {
            let Some(tls) = &listener.tls else {
                acceptors.push(None);
                seen.push(Vec::new());
                continue;
            };
            let (name, certificates) = (listener.address.to_string(), config.certificates_of(tls));
            let acceptor = TlsAcceptor::load(name, tls, certificates, Arc::clone(&stats))?;
            seen.push(acceptor.stamps());
            acceptors.push(Some(Arc::new(acceptor)));
        }
        Ok(Self { acceptors, seen: Mutex::new(seen), stats })
    }

    /// Returns the acceptor of the listener at this place in the configuration, if it has TLS.
    pub fn acceptor(&self, listener: usize) -> Option<Arc<TlsAcceptor>> {
        self.acceptors.get(listener)?.clone()
    }

    /// Returns what is counted.
    pub fn metrics(&self) -> Arc<dyn MetricSource> {
        Arc::clone(&self.stats) as _
    }

    /// Reads the files that have changed since they were last read; tells whether any were taken.
    pub fn rescan(&self) -> bool {
        self.read(|now, before| now != before)
    }

    /// Reads all files again; tells whether any were taken.
    pub fn reload(&self) -> bool {
        self.read(|_, _| true)
    }

    fn read(&self, is_due: impl Fn(&[Stamp], &[Stamp]) -> bool) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_changed = false;
        for (acceptor, before) in self.acceptors.iter().zip(seen.iter_mut()) {
            let Some(acceptor) = acceptor else { continue };
            let now = acceptor.stamps();
            if !is_due(&now, before) {
                continue;
            }
            *before = now;
            let listener = acceptor.name();
            let result = match acceptor.reload() {
                Ok(()) => {
                    info!(listener, "TLS: certificates were read again");
                    is_changed = true;
                    "success"
                }
                Err(error) => {
                    error!(listener, "TLS: {error}; what was read before stays in force");
                    "failure"
                }
            };
            metrics::counter!("veilmq_tls_reloads_total", "result" => result).increment(1);
        }
        if is_changed {
            self.tell_expiry();
        }
        is_changed
    }

    /// Shows on `/metrics` until when certificates are good.
    pub fn tell_expiry(&self) {
        for acceptor in self.acceptors.iter().flatten() {
            let listener = acceptor.name().to_owned();
            metrics::gauge!("veilmq_tls_certificate_not_after_timestamp_seconds", "listener" => listener)
                .set(acceptor.not_after() as f64);
        }
    }
}
