//! What a broker opens before it recovers.

use std::path::Path;
use std::sync::Arc;

use tracing::{info, warn};
use veilmq_config::{BrokerConfig, LimitsConfig};
use veilmq_core::{Settings, Shared, Store, VeilServer};
use veilmq_protocol::veil::channel::Identity;

use super::listeners::{Listeners, Plan};
use super::{RunError, mosquitto, settings};
use crate::access::AccessKeeper;
use crate::admin::{self, AdminServer, AdminState, Token, read_token};
use crate::bridge::BridgePlan;
use crate::clock;
use crate::files;
use crate::identity::IdentityFolder;
use crate::logging::LogMetrics;
use crate::store::{self, OpenReport};
use crate::tls::TlsKeeper;
use crate::trust::{TrustFolder, TrustKeeper};

/// What the configuration and the files that it names say, before anything is opened.
pub(super) struct Prepared {
    pub(super) limits: LimitsConfig,
    pub(super) tls: TlsKeeper,
    pub(super) listeners: Listeners,
    pub(super) plan: Plan,
    pub(super) bridges: Vec<BridgePlan>,
    /// Taken by the admin interface.
    token: Option<Token>,
}

impl Prepared {
    pub(super) fn read(config: &BrokerConfig) -> Result<Self, RunError> {
        let limits = settings::within_open_files(config);
        let tls = TlsKeeper::new(config.limits.tls_handshakes_max as usize);
        let listeners = Listeners::new(settings::shards(config.shards.count));
        let plan = listeners.plan(config, &tls)?;
        let token = read_token(config.admin.token_file.as_deref())?;
        Ok(Self { limits, tls, listeners, plan, bridges: BridgePlan::all(config)?, token })
    }
}

/// What is kept over restarts, who may use it, and the admin interface, which answers from here on.
pub(super) struct Opened {
    pub(super) store: Box<dyn Store>,
    pub(super) report: OpenReport,
    pub(super) shared: Arc<Shared>,
    pub(super) trust: Arc<TrustKeeper>,
    pub(super) access: Arc<AccessKeeper>,
    pub(super) state: Arc<AdminState>,
    pub(super) admin: Option<AdminServer>,
}

impl Opened {
    /// `file` is the configuration's, by which `veilmq health` finds this broker.
    pub(super) fn open(
        config: &BrokerConfig,
        file: Option<&Path>,
        prepared: &mut Prepared,
    ) -> Result<Self, RunError> {
        let folder = TrustFolder::in_data_dir(&config.data_dir);
        let (store, report) = open_store(config)?;
        let identity = identity(config, &folder)?;
        let certificate = identity.as_ref().map(|own| own.certificate().as_bytes().to_vec());
        let shared = share(config, identity)?;
        let trust = Arc::new(TrustKeeper::new(folder, &config.veil, Arc::clone(&shared))?);
        let access = Arc::new(AccessKeeper::new(config, Arc::clone(&shared))?);
        let state = Arc::new(AdminState::new(
            config.mode,
            shared.shards(),
            certificate.unwrap_or_default(),
            Arc::clone(&trust),
        ));
        state.record_globally();
        state.add_metrics(prepared.tls.metrics());
        state.add_metrics(Arc::new(LogMetrics));
        state.set_token(prepared.token.take());
        let admin = start_admin(config, &state)?;
        if let Err(error) = admin::local::open(Arc::clone(&state), file) {
            warn!(%error, "`veilmq health` finds this broker only by its admin address");
        }
        Ok(Self { store, report, shared, trust, access, state, admin })
    }
}

/// Opens the store, in the place of a database of Mosquitto if it stands in one.
fn open_store(config: &BrokerConfig) -> Result<(Box<dyn Store>, OpenReport), RunError> {
    if config.needs_data_dir() {
        files::create_private_folder(&config.data_dir)?;
    }
    let database = config.mosquitto.database.as_deref();
    if let Some(database) = database {
        mosquitto::follow_removal(database, &config.data_dir)?;
    }
    let threads = settings::shards(config.shards.count);
    let opened = store::open(&config.data_dir, &config.storage, threads)?;
    if let Some(database) = database {
        mosquitto::leave_sign(database, &config.data_dir)?;
    }
    Ok(opened)
}

/// Returns who the broker is, if it offers the channel that clients want to know it for.
fn identity(config: &BrokerConfig, trust: &TrustFolder) -> Result<Option<Identity>, RunError> {
    if !config.veil.enabled {
        return Ok(None);
    }
    trust.create()?;
    let folder = IdentityFolder::in_data_dir(&config.data_dir, config.veil.certificate.clone());
    Ok(Some(folder.load_or_create(clock::unix_seconds())?))
}

fn share(config: &BrokerConfig, identity: Option<Identity>) -> Result<Arc<Shared>, RunError> {
    let (mut hash_key, mut id) = ([0; 16], [0; 8]);
    for bytes in [&mut hash_key[..], &mut id[..]] {
        getrandom::fill(bytes).map_err(|error| RunError::system("get random bytes")(error.into()))?;
    }
    let veil = identity.map(|identity| VeilServer {
        identity,
        policy: settings::server_policy(&config.veil),
        paper_modes: settings::paper_modes(&config.veil),
        property_requires_tls: config.veil.property_requires_tls,
        retry_milliseconds: config.veil.retry_milliseconds,
        join_milliseconds: config.veil.join_milliseconds,
        one_trip: settings::one_trip(&config.veil, clock::unix_ms()),
        fan_out: settings::fan_out(&config.veil),
    });
    let broker_id = Some(Arc::from(format!("{:016x}", u64::from_be_bytes(id))));
    Ok(Shared::new(Settings { broker_id, ..settings::core_settings(config) }, hash_key, veil))
}

fn start_admin(config: &BrokerConfig, state: &Arc<AdminState>) -> Result<Option<AdminServer>, RunError> {
    let Some(address) = config.admin.address else { return Ok(None) };
    let server = AdminServer::start(address, Arc::clone(state))?;
    info!("metrics and health: http://{}/metrics, /livez, /readyz", server.address());
    Ok(Some(server))
}
