//! The life of a broker: open what is stored, recover it, listen, serve until told to end, and leave nothing half done.
//!
//! Invariant: listeners open only after recovery, and what was acknowledged is durable before the process ends.

mod error;
mod listeners;
mod memory;
mod mosquitto;
mod notify;
mod opening;
mod process;
mod recovery;
mod reload;
mod settings;
mod signals;
mod weakenings;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};
use veilmq_config::{BrokerConfig, Durability, Mode};
use veilmq_core::{Record, Shard, ShardIndex, Shared, Store, StoreError};

pub use self::error::RunError;
use self::listeners::Listeners;
use self::memory::MemoryWatch;
use self::notify::Notifier;
use self::opening::{Opened, Prepared};
use self::process::PidFile;
use self::recovery::Recovered;
pub use self::reload::Origin;
use self::reload::{Outcome, Reloader};
use self::signals::Signals;
use crate::access::{self, Control, Reply, Verifier};
use crate::admin::{
    AdminServer, AdminState, Controls, ReloadRequest, Status, StorageDamage, mode_name, read_token,
};
use crate::bridge::{BridgeCounters, BridgeMemory, BridgePlan, Bridges, Door, Visits};
use crate::gate::Gate;
use crate::http_api::HttpApi;
use crate::identity::IdentityFolder;
use crate::listener::{self, Listener};
use crate::logging::{self, Wording};
use crate::shard::{self, Admission, Announcer, Completion, Counters, Exchange, Mail, Tally, WorkerParts};
use crate::store::{Condition, OpenReport, Room, StorageHandle, StorageWriter, WriterOptions, WriterParts};
use crate::tls::TlsKeeper;
use crate::trust::{self};

/// The most bytes of records that may wait for the storage writer; shards stop reading at a quarter of it.
const STORAGE_BACKLOG_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Reloads that operators may wait for at one time.
const RELOADS_MAX: usize = 4;

/// Runs the broker until SIGTERM or SIGINT. The configuration is made from `origin`, again on SIGHUP.
///
/// # Errors
/// [`RunError`], naming the thing at fault.
pub fn run(config: &BrokerConfig, origin: Origin) -> Result<(), RunError> {
    let wording = match config.mode {
        Mode::Mosquitto => Wording::Mosquitto,
        Mode::Development | Mode::Configured => Wording::Own,
    };
    logging::start(&config.log, wording).or_else(|error| match config.mode {
        // Mosquitto goes on without the file.
        Mode::Mosquitto => {
            error!("{error}");
            Ok(())
        }
        Mode::Development | Mode::Configured => Err(error),
    })?;
    logging::end_process_when_a_shard_panics();
    let _pid_file = config.process.pid_file.as_deref().map(PidFile::write).transpose()?;
    if let Some(user) = &config.process.user {
        process::become_user(user, config.mode)?;
    }
    let signals = Signals::receive()?;
    // From here on there are threads, which have the user and the blocked signals of this one.
    logging::start_writing().map_err(RunError::system("start the thread that writes the log"))?;
    let mut notifier = Notifier::of_environment();
    let mut running = Broker::start(config, origin, &signals)?;
    signals.serve_until_told_to_end(&mut running, &mut notifier);
    notifier.stopping();
    running.stop()
}

/// Looks whether a broker could be run with this configuration, as far as can be seen without running it: every file that it names
/// is read, and the users, folders and network interfaces in it have to be there.
///
/// # Errors
/// [`RunError`], naming the thing at fault.
pub fn check(config: &BrokerConfig) -> Result<(), RunError> {
    access::check(config)?;
    BridgePlan::all(config)?;
    read_token(config.admin.token_file.as_deref())?;
    TlsKeeper::check(config)?;
    config.veil.trust.iter().try_for_each(|path| trust::read_authority(path).map(drop))?;
    config.veil.revocations.iter().try_for_each(|path| trust::read_list(path).map(drop))?;
    if let issued @ Some(_) = &config.veil.certificate {
        IdentityFolder::in_data_dir(&config.data_dir, issued.clone()).certificate()?;
    }
    if let Some(user) = &config.process.user {
        process::find_user(user, config.mode)?;
    }
    if let Some(path) = &config.process.pid_file {
        PidFile::check(path)?;
    }
    config.listeners.iter().try_for_each(listener::check_interface)?;
    config.listeners.iter().try_for_each(listener::check_http_directory)?;
    match config.mode {
        // It starts without the file.
        Mode::Mosquitto => Ok(()),
        Mode::Development | Mode::Configured => Ok(logging::check(&config.log)?),
    }
}

/// A running broker.
struct Broker {
    state: Arc<AdminState>,
    reloader: Reloader,
    /// What operators want read again.
    reloads: mpsc::Receiver<ReloadRequest>,
    exchange: Arc<Exchange<Mail>>,
    threads: Vec<JoinHandle<()>>,
    writer: StorageWriter,
    bridges: Arc<Bridges>,
    /// Answers until the broker has ended.
    _admin: Option<AdminServer>,
}

impl Broker {
    fn start(config: &BrokerConfig, origin: Origin, signals: &Signals) -> Result<Self, RunError> {
        announce(config);
        memory::give_freed_memory_back();
        settings::forbid_core_dumps();
        let mut prepared = Prepared::read(config)?;
        let mut opened = Opened::open(config, origin.file.as_deref(), &mut prepared)?;
        let recovered = recovery::recover(opened.store.as_mut(), &opened.shared)?;
        opened.shared.revoke_retained();
        tell_recovered(&opened.state, &opened.report, &recovered);
        prepared.listeners.bind(&mut prepared.plan)?;
        Self::serve(config, origin, signals, prepared, opened, recovered)
    }

    /// Lets clients in to what was recovered.
    fn serve(
        config: &BrokerConfig,
        origin: Origin,
        signals: &Signals,
        prepared: Prepared,
        opened: Opened,
        recovered: Recovered,
    ) -> Result<Self, RunError> {
        let Prepared { limits, tls, mut listeners, plan, bridges, .. } = prepared;
        let Opened { store, report, shared, trust, access, state, admin } = opened;
        let exchange =
            Arc::new(Exchange::new(shared.shards(), settings::bytes(config.limits.mailbox_bytes_max)));
        let room = Room::on_file_system_of(&config.data_dir, settings::reserve_bytes(&config.storage));
        let reserve = room.reserve();
        let writer = start_writer(config, (store, room), recovered.owed, &shared, &exchange, &state)?;
        state.watch(Arc::clone(&exchange) as _);
        let storage = writer.handle();
        let metrics =
            settings::DaemonMetrics { shared: Arc::clone(&shared), storage: storage.clone(), report };
        state.add_metrics(Arc::new(metrics));
        state.add_metrics(Arc::clone(access.verifier()) as _);
        let outcome = Outcome::of_start();
        state.add_metrics(Arc::clone(&outcome) as _);
        let control = Control::start(Arc::clone(&access), Arc::clone(&exchange) as _)
            .map_err(RunError::system("start the control thread"))?;
        let services = Services {
            exchange: &exchange,
            storage: &storage,
            verifier: access.verifier(),
            control: &Arc::new(control),
            state: &state,
        };
        let (door, visits) = Door::new();
        let (gate, is_open) = watch::channel(false);
        let closed = Gate::new(is_open, signals.hang_up().clone());
        let (sys_interval, interval) =
            watch::channel(Duration::from_secs(config.sys.interval_seconds.into()));
        let changed = listeners.apply(plan, &tls);
        let entrances = Entrances { sockets: changed.sockets, visits, gate: closed.clone(), interval };
        let admission = Admission::new(&limits, &config.rates);
        let (threads, tally) = start_shards(&admission, &shared, recovered.shards, entrances, &services)?;
        let http_api = HttpApi::new(Arc::clone(&shared), Arc::clone(access.verifier()), tally, closed);
        http_api.show(config);
        http_api.serve(changed.apis).map_err(RunError::system("start a listener of the HTTP API"))?;
        let bridges = start_bridges(config, bridges, door, &state)?;
        gate.send_replace(true);
        tell_ready(config, &state, &listeners);
        let (reload, reloads) = mpsc::channel(RELOADS_MAX);
        state.control(Controls {
            exchange: Arc::clone(&exchange),
            shared: Arc::clone(&shared),
            verifier: Arc::clone(access.verifier()),
            reload,
        });
        let reloader = Reloader {
            origin,
            config: config.clone(),
            listeners,
            tls,
            trust,
            access,
            exchange: Arc::clone(&exchange),
            admission,
            bridges: Arc::clone(&bridges),
            outcome,
            state: Arc::clone(&state),
            shared,
            memory: MemoryWatch::new(config.limits.memory_bytes),
            reserve,
            sys_interval,
            gate,
            http_api,
        };
        Ok(Self { state, reloader, reloads, exchange, threads, writer, bridges, _admin: admin })
    }

    /// Says farewell to the clients, makes everything durable, and ends.
    fn stop(self) -> Result<(), RunError> {
        self.state.update(|readiness| readiness.status = Status::Draining);
        self.bridges.stop();
        self.exchange.shut_down();
        for thread in self.threads {
            if thread.join().is_err() {
                error!("a shard ended early");
            }
        }
        self.writer.stop()?;
        info!("VeilMQ has ended");
        Ok(())
    }
}

/// Says what starts, and what of it is weaker than it could be.
fn announce(config: &BrokerConfig) {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        revision = env!("VEILMQ_REVISION"),
        mode = mode_name(config.mode),
        "VeilMQ starts"
    );
    for weakening in weakenings::all(config) {
        warn!(option = weakening.option, "{}", weakening.meaning);
    }
}

/// Starts the bridges, with what they have subscribed to as far as anything outlives this process.
fn start_bridges(
    config: &BrokerConfig,
    plans: Vec<BridgePlan>,
    door: Door,
    state: &AdminState,
) -> Result<Arc<Bridges>, RunError> {
    let memory = match config.needs_data_dir() {
        true => BridgeMemory::in_data_dir(&config.data_dir),
        false => BridgeMemory::default(),
    };
    let counters = Arc::<BridgeCounters>::default();
    state.add_metrics(Arc::clone(&counters) as _);
    let bridges = Bridges::start(plans, memory, door, counters);
    Ok(Arc::new(bridges.map_err(RunError::system("start the bridges"))?))
}

fn tell_recovered(state: &AdminState, report: &OpenReport, recovered: &Recovered) {
    let summary = &recovered.summary;
    info!(
        sessions = summary.sessions,
        subscriptions = summary.subscriptions,
        deliveries = summary.deliveries,
        retained = summary.retained,
        "recovered"
    );
    state.update(|readiness| {
        readiness.recovered_sessions = summary.sessions;
        readiness.storage_quarantined.clone_from(&report.quarantined);
        readiness.storage_damage = report.is_damaged().then(|| StorageDamage {
            set_aside: report.set_aside.clone(),
            damaged_rows: report.replay.damaged_rows,
            orphans: report.replay.orphans,
            lost_batches: report.replay.lost_batches,
        });
    });
}

fn start_writer(
    config: &BrokerConfig,
    (store, room): (Box<dyn Store>, Room),
    owed: Vec<Record>,
    shared: &Arc<Shared>,
    exchange: &Arc<Exchange<Mail>>,
    state: &Arc<AdminState>,
) -> Result<StorageWriter, RunError> {
    let options =
        WriterOptions { durability: config.storage.durability, backlog_bytes_max: STORAGE_BACKLOG_BYTES_MAX };
    let exchange = Arc::clone(exchange);
    let completing = Arc::clone(&exchange);
    let tell = move |shard, ticket, result: Result<(), &StoreError>| {
        let completion = if result.is_ok() { Completion::Committed } else { Completion::Failed };
        completing.complete(shard, completion(ticket));
    };
    let reply = move |shard, fetched| exchange.fetched(shard, fetched);
    let (refreshing, state) = (Arc::clone(shared), Arc::clone(state));
    let refresh = move |records: &mut [Record]| refreshing.refresh(records);
    let committing = Arc::clone(shared);
    // What is kept nowhere cannot be read back.
    let keeps = config.storage.durability != Durability::Memory;
    let committed = move |records: &[Record], is_durable| {
        if keeps {
            committing.committed(records, is_durable);
        }
    };
    let shared = Arc::clone(shared);
    let watch = move |condition: &Condition| {
        shared.show_storage(condition.state());
        let trouble = (*condition != Condition::Ready).then(|| condition.to_string());
        state.update(|readiness| readiness.storage(trouble));
    };
    StorageWriter::start(WriterParts {
        store,
        options,
        room,
        owed,
        refresh: Box::new(refresh),
        committed: Box::new(committed),
        completion: Box::new(tell),
        reply: Box::new(reply),
        watch: Box::new(watch),
    })
    .map_err(RunError::system("start the storage thread"))
}

/// What all shards use.
struct Services<'a> {
    exchange: &'a Arc<Exchange<Mail>>,
    storage: &'a StorageHandle,
    verifier: &'a Arc<Verifier>,
    control: &'a Arc<Control>,
    state: &'a AdminState,
}

/// How connections come to the shards.
struct Entrances {
    sockets: Vec<(ShardIndex, Listener)>,
    visits: Visits,
    gate: Gate,
    /// From one report on `$SYS` topics to the next.
    interval: watch::Receiver<Duration>,
}

fn start_shards(
    admission: &Admission,
    shared: &Arc<Shared>,
    shards: Vec<Shard>,
    entrances: Entrances,
    services: &Services<'_>,
) -> Result<(Vec<JoinHandle<()>>, Arc<Tally>), RunError> {
    let connection_ids = Arc::new(AtomicU64::new(1));
    let counters: Vec<Arc<Counters>> = shards.iter().map(|_| Arc::default()).collect();
    let counting =
        shards.iter().map(|shard| Arc::clone(shard.stats())).zip(counters.iter().cloned()).collect();
    let Services { exchange, storage, verifier, control, state } = services;
    let judging = Arc::clone(exchange);
    let reply: Arc<Reply> =
        Arc::new(move |shard, connection, verdict| judging.judge(shard, connection, verdict));
    let Entrances { mut sockets, visits, gate, interval } = entrances;
    let tally = Arc::new(Tally::new(Arc::clone(shared), counting));
    let mut announcer = Some(Announcer::new(interval, Arc::clone(&tally)));
    let mut visits = Some(visits);
    let mut threads = Vec::new();
    for (shard, counters) in shards.into_iter().zip(counters) {
        state.add_metrics(Arc::clone(shard.stats()) as _);
        state.add_metrics(Arc::clone(&counters) as _);
        let parts = WorkerParts {
            shard,
            exchange: Arc::clone(exchange),
            storage: (*storage).clone(),
            storage_backlog_bytes_max: STORAGE_BACKLOG_BYTES_MAX / 4,
            gate: admission.clone(),
            connection_ids: Arc::clone(&connection_ids),
            verifier: Arc::clone(verifier),
            reply: Arc::clone(&reply),
            control: Arc::clone(control),
            counters,
            opens: gate.clone(),
        };
        let index = parts.shard.index();
        let own = sockets.extract_if(.., |(shard, _)| *shard == index);
        let listeners = own.map(|(_, listener)| listener).collect();
        let thread = shard::start(parts, listeners, announcer.take(), visits.take());
        threads.push(thread.map_err(RunError::system("start a shard thread"))?);
    }
    Ok((threads, tally))
}

fn tell_ready(config: &BrokerConfig, state: &AdminState, listeners: &Listeners) {
    if config.mode == Mode::Development {
        info!(
            "development mode, because there is no configuration file: listening on loopback only, and whoever is on this \
             machine may connect; to serve other machines give a configuration with -c FILE"
        );
    }
    for note in &config.mosquitto.notes {
        match note.is_warning {
            true => warn!("{}: {}: {}", note.origin, note.option, note.text),
            false => info!("{}: {}: {}", note.origin, note.option, note.text),
        }
    }
    for (address, carrier) in listeners.live() {
        info!("listening for {carrier} on {address}");
    }
    state.update(|readiness| {
        readiness.listeners = listeners.of_mqtt();
        readiness.serve();
    });
    info!(shards = state.readiness().shards, data_dir = %config.data_dir.display(), "ready");
}
