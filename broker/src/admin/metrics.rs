//! `/metrics`: the samples of all shards and of the daemon, summed when somebody asks.
//!
//! Nothing is counted here: each thread counts for itself, without sharing a cache line, and a scrape adds up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use veilmq_core::{PolicySample, Sample, SampleKind, Stats};

use super::process;
use crate::clock;
use crate::shard::Counters;

/// Recorded by the storage writer.
const COMMIT_SECONDS: &str = "veilmq_storage_commit_seconds";
const COMMIT_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// How long clients wait for the keys that they ask for with CONNECT.
const JOIN_SECONDS: &str = "veilmq_join_seconds";
const JOIN_BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

static METADATA: Metadata<'static> = Metadata::new("veilmq", Level::INFO, None);

const REFUSED: Sample = Sample {
    name: "veilmq_admin_refused_total",
    help: "Requests of operators without the right token.",
    kind: SampleKind::Counter,
    label: None,
    value: 0,
};

/// Somebody who counts.
pub trait MetricSource: Send + Sync {
    /// Shows every sample; samples of equal name and labels are summed over all sources.
    fn visit(&self, visit: &mut dyn FnMut(Sample));

    /// Shows every counter of policies; only one source has any.
    fn visit_policies(&self, _visit: &mut dyn FnMut(PolicySample<'_>)) {}

    /// Shows how long joins took since this was called last, in seconds; only one source knows.
    fn visit_joins(&self, _visit: &mut dyn FnMut(f64)) {}
}

impl MetricSource for Stats {
    fn visit(&self, visit: &mut dyn FnMut(Sample)) {
        Self::visit(self, visit);
    }
}

impl MetricSource for Counters {
    fn visit(&self, visit: &mut dyn FnMut(Sample)) {
        Self::visit(self, visit);
    }
}

/// Adds up the samples of its sources and writes them in the text format of Prometheus.
pub struct MetricsPage {
    sources: RwLock<Vec<Arc<dyn MetricSource>>>,
    /// One scrape at a time: a scrape sets the totals, then writes them.
    recorder: Mutex<Arc<PrometheusRecorder>>,
    handle: PrometheusHandle,
}

/// What identifies a value: the metric's name and its label.
type Identity = (&'static str, Option<(&'static str, &'static str)>);
type Totals = BTreeMap<Identity, Sample>;

impl MetricsPage {
    /// Makes a page with what is known of the program itself.
    pub(super) fn new() -> Self {
        let histograms = [(COMMIT_SECONDS, COMMIT_BUCKETS.as_slice()), (JOIN_SECONDS, &JOIN_BUCKETS)];
        // It refuses an empty list of buckets only.
        let builder = histograms.into_iter().fold(PrometheusBuilder::new(), |builder, (name, buckets)| {
            builder.set_buckets_for_metric(Matcher::Full(name.into()), buckets).unwrap_or_default()
        });
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        describe_program(&recorder);
        Self { sources: RwLock::default(), recorder: Mutex::new(Arc::new(recorder)), handle }
    }

    /// Becomes the recorder of the process, unless another page is already.
    pub(super) fn record_globally(&self) {
        let _ = metrics::set_global_recorder(Arc::clone(&self.lock()));
    }

    /// Folds measurements into histograms.
    pub(super) fn keep_small(&self) {
        self.take_joins(&self.lock());
        self.handle.run_upkeep();
    }

    fn take_joins(&self, recorder: &PrometheusRecorder) {
        let histogram = recorder.register_histogram(&Key::from_static_name(JOIN_SECONDS), &METADATA);
        for source in self.sources().iter() {
            source.visit_joins(&mut |seconds| histogram.record(seconds));
        }
    }

    /// Adds a source.
    pub(super) fn add(&self, source: Arc<dyn MetricSource>) {
        self.sources.write().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    /// Returns the page; `refused` operators have shown no token, or a wrong one.
    pub(super) fn render(&self, refused: u64) -> String {
        let recorder = self.lock();
        record(&recorder, &Sample { value: refused, ..REFUSED }, &[]);
        for sample in self.totals().values() {
            record(&recorder, sample, sample.label.as_slice());
        }
        for source in self.sources().iter() {
            source.visit_policies(&mut |sample| record_policy(&recorder, &sample));
        }
        self.take_joins(&recorder);
        let mut page = self.handle.render();
        process::append(&mut page);
        page
    }

    fn lock(&self) -> MutexGuard<'_, Arc<PrometheusRecorder>> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sources(&self) -> RwLockReadGuard<'_, Vec<Arc<dyn MetricSource>>> {
        self.sources.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::new();
        for source in self.sources().iter() {
            source.visit(&mut |sample| {
                let identity = (sample.name, sample.label);
                let total = totals.entry(identity).or_insert(Sample { value: 0, ..sample });
                total.value = total.value.saturating_add(sample.value);
            });
        }
        totals
    }
}

/// Records what does not change while the program runs.
fn describe_program(recorder: &PrometheusRecorder) {
    let gauge = |name, help, value| Sample { name, help, kind: SampleKind::Gauge, label: None, value };
    let build = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("revision", env!("VEILMQ_REVISION")),
        ("rustc", env!("VEILMQ_RUSTC")),
    ];
    record(recorder, &gauge("veilmq_build_info", "What this broker was built from.", 1), &build);
    let started = clock::now().milliseconds() / 1_000;
    let help = "When the broker started, in unix seconds.";
    record(recorder, &gauge("veilmq_start_time_seconds", help, started), &[]);
    let help = "How long a group of batches took to become durable, in seconds.";
    recorder.describe_histogram(KeyName::from_const_str(COMMIT_SECONDS), None, help.into());
    let help = "How long clients waited for the keys that they had asked for with CONNECT, in seconds.";
    recorder.describe_histogram(KeyName::from_const_str(JOIN_SECONDS), None, help.into());
    let help = "Times that certificates, authorities and revocations of TLS listeners were read again.";
    recorder.describe_counter(KeyName::from_const_str("veilmq_tls_reloads_total"), None, help.into());
    for (name, help) in [
        (
            "veilmq_tls_certificate_not_after_timestamp_seconds",
            "When the first certificate of a TLS listener is over, in unix seconds.",
        ),
        (
            "veilmq_tls_crl_next_update_timestamp_seconds",
            "When the first revocation list of a TLS listener needs a successor, in unix seconds; infinite without one.",
        ),
        ("veilmq_storage_bytes", "Bytes of the store on disk."),
        (
            "veilmq_storage_free_bytes",
            "Free bytes of the file system that has the store, when last looked at.",
        ),
    ] {
        recorder.describe_gauge(KeyName::from_const_str(name), None, help.into());
    }
}

fn record(recorder: &PrometheusRecorder, sample: &Sample, labels: &[(&'static str, &'static str)]) {
    let name = KeyName::from_const_str(sample.name);
    let labels: Vec<Label> = labels.iter().map(|(key, value)| Label::from_static_parts(key, value)).collect();
    let key = Key::from_parts(sample.name, labels);
    match sample.kind {
        SampleKind::Counter => {
            recorder.describe_counter(name, None, sample.help.into());
            recorder.register_counter(&key, &METADATA).absolute(sample.value);
        }
        SampleKind::Gauge => {
            recorder.describe_gauge(name, None, sample.help.into());
            recorder.register_gauge(&key, &METADATA).set(sample.value as f64);
        }
    }
}

/// The names of policies are the operator's, so they live no longer than the sample.
fn record_policy(recorder: &PrometheusRecorder, sample: &PolicySample<'_>) {
    recorder.describe_counter(KeyName::from_const_str(sample.name), None, sample.help.into());
    let labels: Vec<Label> =
        sample.labels.iter().map(|(key, value)| Label::new(*key, (*value).to_owned())).collect();
    let key = Key::from_parts(sample.name, labels);
    recorder.register_counter(&key, &METADATA).absolute(sample.value);
}
