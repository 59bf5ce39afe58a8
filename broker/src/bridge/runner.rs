//! The life of one bridge: subscribe here, connect there, let messages cross, and begin again when that ends.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info, warn};
use veilmq_bridge::{Blame, Event, Fault, Link, Settings, Side, Suspect, TRIES};
use veilmq_config::{BridgeStart, RemoteAddress};
use veilmq_core::BridgeErrand;
use veilmq_protocol::{ProtocolVersion, ReasonCode};

use super::door::Door;
use super::leaving;
use super::memory::BridgeMemory;
use super::plan::{BridgePlan, Threshold};
use super::remote::{self, Duplex};
use super::state::BridgeCounters;
use super::wires::{LinkEnd, Wires, now};

/// How often a bridge that is down tells this broker that its session is still wanted.
const PARK_INTERVAL: Duration = Duration::from_secs(24 * 3_600);
/// How long a farewell may take.
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// How often a bridge that is up elsewhere looks whether its first address answers again.
const PREFERENCE_INTERVAL: Duration = Duration::from_secs(30);
/// How often a lazy bridge looks how much waits for it.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// What notifications say.
const UP: &str = "1";
const DOWN: &str = "0";

/// What a bridge is told while it works.
#[derive(Debug)]
pub(super) struct Orders {
    /// What it is to do from its next connection on.
    pub(super) plan: Arc<BridgePlan>,
    /// How often it was to begin anew at once.
    pub(super) interruptions: u64,
    /// Whether it is to end, and how.
    pub(super) leave: Option<Leave>,
}

impl Orders {
    pub(super) fn new(plan: Arc<BridgePlan>) -> Self {
        Self { plan, interruptions: 0, leave: None }
    }
}

/// How a bridge ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// The broker ends, and what waits for the bridge goes on waiting.
    Stopped,
    /// There is no such bridge any more, and nothing waits for it.
    Forgotten,
}

/// What becomes of messages at QoS 0 that are published while a bridge is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QoS0 {
    /// They wait like others, within the limits of any session.
    Kept,
    Lost,
}

/// Why a bridge has stopped for now.
enum End {
    /// There are new orders.
    Interrupted,
    /// Something failed, in words.
    Failed(String),
    /// The other broker does not know of bridges: begin again as an ordinary client.
    NotAsBridge,
    /// Nothing crossed for so long that a lazy bridge leaves.
    Idle,
    /// The first address answers again.
    Preferred,
    /// A careful connection has shown that nothing is wrong with what waits.
    Settled,
}

/// One bridge at work.
pub(super) struct Runner {
    orders: watch::Receiver<Orders>,
    plan: Arc<BridgePlan>,
    /// Those of the plan, as far as the other broker takes them.
    settings: Arc<Settings>,
    interruptions: u64,
    memory: Rc<RefCell<BridgeMemory>>,
    door: Door,
    counters: Arc<BridgeCounters>,
    parked_at: Option<Instant>,
    /// Who waits for the first time that this broker keeps what is published.
    first_parked: Option<oneshot::Sender<()>>,
    /// The address that is tried first.
    first_address: usize,
    last_identifier: u16,
    /// Which message the other broker does not take.
    blame: Blame,
    wait: Duration,
}

impl Runner {
    pub(super) fn new(
        orders: watch::Receiver<Orders>,
        memory: Rc<RefCell<BridgeMemory>>,
        door: Door,
        counters: Arc<BridgeCounters>,
        first_parked: oneshot::Sender<()>,
    ) -> Self {
        let (plan, interruptions) = {
            let orders = orders.borrow();
            (Arc::clone(&orders.plan), orders.interruptions)
        };
        let mut settings = plan.settings.clone();
        settings.drop_filters(memory.borrow().recall(&plan.name, &settings));
        memory.borrow_mut().note(&plan.name, &settings);
        Self {
            settings: Arc::new(settings),
            wait: plan.waits().0,
            orders,
            plan,
            interruptions,
            memory,
            door,
            counters,
            parked_at: None,
            first_parked: Some(first_parked),
            first_address: 0,
            last_identifier: 0,
            blame: Blame::default(),
        }
    }

    /// Works until it is told to leave.
    pub(super) async fn run(mut self) {
        self.announce(DOWN).await;
        loop {
            self.take_orders().await;
            let leave = self.orders.borrow().leave;
            match leave {
                Some(Leave::Stopped) => return,
                Some(Leave::Forgotten) => {
                    if self.forget(&self.settings).await {
                        self.memory.borrow_mut().forget(&self.plan.name);
                    }
                    return;
                }
                None => {}
            }
            match self.live().await {
                End::Interrupted | End::NotAsBridge | End::Preferred | End::Settled => continue,
                End::Idle => debug!(bridge = &*self.plan.name, "the bridge leaves until messages wait"),
                End::Failed(reason) => {
                    self.counters.failed();
                    match self.blame.suspect() {
                        None => warn!(bridge = &*self.plan.name, reason, "the bridge is down"),
                        Some(Suspect { topic, payload_bytes, .. }) => warn!(
                            bridge = &*self.plan.name,
                            reason,
                            topic,
                            payload_bytes,
                            "the bridge is down: the other broker may not take this message"
                        ),
                    }
                    self.pause().await;
                }
            }
        }
    }

    /// Goes by the plan that is wanted now.
    async fn take_orders(&mut self) {
        let (plan, interruptions) = {
            let orders = self.orders.borrow_and_update();
            (Arc::clone(&orders.plan), orders.interruptions)
        };
        self.interruptions = interruptions;
        if plan == self.plan {
            return;
        }
        let mut settings = plan.settings.clone();
        if settings.local.client_id == self.settings.local.client_id {
            settings.drop_filters(self.settings.subscribed());
        } else {
            self.forget(&self.settings).await;
        }
        self.settings = Arc::new(settings);
        self.remember();
        (self.wait, self.blame) = (plan.waits().0, Blame::default());
        // As with Mosquitto, whose bridge begins anew.
        self.last_identifier = 0;
        (self.plan, self.parked_at, self.first_address) = (plan, None, 0);
    }

    /// Has what the sessions have now outlive this process.
    fn remember(&self) {
        self.memory.borrow_mut().note(&self.plan.name, &self.settings);
    }

    /// Waits until there are orders that cannot wait.
    async fn interruption(&self) {
        let (mut orders, known) = (self.orders.clone(), self.interruptions);
        // Without anybody to give orders the broker is ending.
        let _ = orders.wait_for(|orders| orders.leave.is_some() || orders.interruptions != known).await;
    }

    /// Waits before the next attempt, each time longer.
    async fn pause(&mut self) {
        if self.plan.config.start == BridgeStart::Once {
            info!(bridge = &*self.plan.name, "the bridge starts once only");
            return self.interruption().await;
        }
        let (shortest, longest) = self.plan.waits();
        let wait = spread(self.wait, shortest, longest, random_byte());
        self.wait = (self.wait * 2).min(longest);
        tokio::select! {
            () = sleep(wait) => {}
            () = self.interruption() => {}
        }
    }

    /// Has one connection, and before that, of a lazy bridge, a reason for it.
    async fn live(&mut self) -> End {
        if let Err(reason) = self.park_if_due().await {
            warn!(bridge = &*self.plan.name, reason, "the bridge cannot subscribe here");
        }
        if let Some(first) = self.first_parked.take() {
            // Nobody may wait any more.
            let _ = first.send(());
        }
        if let Some(threshold) = self.plan.threshold
            && let Err(end) = self.wait_for(threshold).await
        {
            return end;
        }
        self.attempt().await
    }

    /// Has this broker keep what is published while the other one is away.
    async fn park_if_due(&mut self) -> Result<(), String> {
        let is_kept = self.parked_at.is_some_and(|at| at.elapsed() < PARK_INTERVAL);
        if self.settings.local.clean_start || is_kept {
            return Ok(());
        }
        self.park(Arc::clone(&self.settings), self.away()).await?;
        self.parked_at = Some(Instant::now());
        Arc::make_mut(&mut self.settings).dropped.local.clear();
        self.remember();
        Ok(())
    }

    /// What becomes of QoS 0 while the bridge is not there: a lazy one is there only for what waits.
    fn away(&self) -> QoS0 {
        if self.plan.threshold.is_some() { QoS0::Kept } else { QoS0::Lost }
    }

    /// Has what is published at QoS 0 wait too while the other broker is about to answer, or no more.
    async fn keep(&self, qos0: QoS0) {
        if self.settings.local.clean_start || self.away() == QoS0::Kept {
            return;
        }
        if let Err(reason) = self.park(Arc::clone(&self.settings), qos0).await {
            warn!(bridge = &*self.plan.name, reason, "the bridge cannot subscribe here");
        }
    }

    async fn park(&self, settings: Arc<Settings>, qos0: QoS0) -> Result<(), String> {
        let mut link = Link::park(settings, now()).map_err(|fault| fault.to_string())?;
        let errand = BridgeErrand { only_subscribes: true, ..self.errand(qos0) };
        let mut wires = Wires::local(self.connect_here(errand).await?);
        while !link.is_parked() {
            wires.turn(&mut link).await.map_err(|end| end.to_string())?;
            self.tell(&mut link);
        }
        wires.finish(&mut link).await;
        Ok(())
    }

    /// Leaves nothing on this broker that waits for a bridge; `false` if that cannot be.
    async fn forget(&self, settings: &Settings) -> bool {
        leaving::end_session(&self.door, &self.plan.name, &settings.local.client_id).await
    }

    /// Waits until there is enough for a lazy bridge.
    async fn wait_for(&mut self, threshold: Threshold) -> Result<(), End> {
        loop {
            let session = tokio::select! {
                session = self.door.look(&self.settings.local.client_id) => session,
                () = self.interruption() => return Err(End::Interrupted),
            };
            match session {
                Ok(Some(session)) if threshold.is_reached_by(&session) => return Ok(()),
                // It has expired, or an operator has ended it.
                Ok(None) => self.parked_at = None,
                Ok(Some(_)) | Err(_) => {}
            }
            tokio::select! {
                () = sleep(LOOK_INTERVAL) => {}
                () = self.interruption() => return Err(End::Interrupted),
            }
            self.park_if_due().await.map_err(End::Failed)?;
        }
    }

    /// What the bridge connects to this broker for.
    fn errand(&self, qos0: QoS0) -> BridgeErrand {
        BridgeErrand {
            last_identifier: self.last_identifier,
            keeps_qos0: qos0 == QoS0::Kept,
            only_subscribes: false,
        }
    }

    async fn connect_here(&self, errand: BridgeErrand) -> Result<UnixStream, String> {
        let connected = self.door.connect(&self.plan.name, errand, self.plan.config.tls.is_some()).await;
        connected.map_err(|error| error.to_string())
    }

    /// Tries every address once; the first that answers is used until that ends.
    async fn attempt(&mut self) -> End {
        let plan = Arc::clone(&self.plan);
        let count = plan.config.addresses.len();
        let mut reasons = Vec::new();
        for offset in 0..count {
            let index = (self.first_address + offset) % count;
            let Some(address) = plan.config.addresses.get(index) else { continue };
            let connected = tokio::select! {
                connected = remote::connect(&plan.config, address) => connected,
                () = self.interruption() => return End::Interrupted,
            };
            match connected {
                Ok(stream) => return self.serve(index, address, stream).await,
                Err(error) => reasons.push(format!("{address}: {error}")),
            }
        }
        End::Failed(format!("cannot connect to the other broker: {}", reasons.join(", ")))
    }

    /// Uses a connection until it ends, and chooses where to begin next.
    async fn serve(&mut self, index: usize, address: &RemoteAddress, stream: Box<dyn Duplex>) -> End {
        debug!(bridge = &*self.plan.name, %address, "connected to the other broker");
        let mut is_up = false;
        let began = Instant::now();
        self.keep(QoS0::Kept).await;
        let end = self.cross(index, address, stream, &mut is_up).await;
        if !is_up {
            self.keep(QoS0::Lost).await;
        }
        if began.elapsed() >= self.plan.waits().1 {
            self.wait = self.plan.waits().0;
        }
        if is_up {
            self.counters.down();
            self.announce(DOWN).await;
        }
        let next = (index + 1) % self.plan.config.addresses.len().max(1);
        self.first_address = match end {
            End::NotAsBridge | End::Settled => index,
            _ if is_up && !self.plan.config.round_robin => 0,
            _ => next,
        };
        end
    }

    async fn cross(
        &mut self,
        index: usize,
        address: &RemoteAddress,
        stream: Box<dyn Duplex>,
        is_up: &mut bool,
    ) -> End {
        let mut link = match Link::open(Arc::clone(&self.settings), self.last_identifier, now()) {
            Ok(link) => link,
            Err(fault) => return End::Failed(fault.to_string()),
        };
        if let Some(caution) = self.blame.caution() {
            debug!(bridge = &*self.plan.name, "one message at a time crosses the bridge");
            link.beware(caution);
        }
        let end = self.relay(index, address, stream, &mut link, is_up).await;
        if link.made_progress() {
            self.wait = self.plan.waits().0;
        }
        end
    }

    async fn relay(
        &mut self,
        index: usize,
        address: &RemoteAddress,
        stream: Box<dyn Duplex>,
        link: &mut Link,
        is_up: &mut bool,
    ) -> End {
        let mut wires = Wires::remote(stream);
        let preference = preference(Arc::clone(&self.plan), index);
        tokio::pin!(preference);
        loop {
            if link.wants_local() && !wires.has_local() {
                let errand = self.errand(self.away());
                match self.connect_here(errand).await {
                    Ok(local) => wires.add_local(local),
                    Err(reason) => return End::Failed(reason),
                }
            }
            let turned = tokio::select! {
                turned = wires.turn(link) => turned,
                () = self.interruption() => {
                    self.blame.ended(link);
                    self.say_farewell(link, &mut wires).await;
                    return End::Interrupted;
                }
                () = &mut preference => {
                    self.blame.ended(link);
                    self.say_farewell(link, &mut wires).await;
                    return End::Preferred;
                }
            };
            self.last_identifier = link.last_identifier();
            if self.tell(link) {
                *is_up = true;
                self.counters.up();
                info!(bridge = &*self.plan.name, %address, "the bridge is up");
                self.announce(UP).await;
            }
            // The brokers at other addresses have sessions of their own, which may hold it still.
            let is_gone = self.plan.config.addresses.len() == 1 && link.has_unsubscribed();
            if !self.settings.dropped.remote.is_empty() && is_gone {
                Arc::make_mut(&mut self.settings).dropped.remote.clear();
                self.remember();
            }
            match turned {
                Ok(()) if self.blame.is_settled_by(link) => {
                    self.blame.ended(link);
                    self.say_farewell(link, &mut wires).await;
                    return End::Settled;
                }
                Ok(()) => {}
                Err(LinkEnd::Fault(Fault::Idle)) => {
                    self.leave(link, &mut wires).await;
                    self.blame.ended(link);
                    self.say_farewell(link, &mut wires).await;
                    return End::Idle;
                }
                Err(reason) => {
                    match reason.by_remote() {
                        Some(words) => self.blame.ended_by_remote(link, words),
                        None => self.blame.ended(link),
                    }
                    return self.judge(&reason);
                }
            }
        }
    }

    /// A broker that does not know of bridges is asked again as an ordinary client asks.
    fn judge(&mut self, reason: &LinkEnd) -> End {
        let settings = Arc::make_mut(&mut self.settings);
        let is_refusal = matches!(
            reason,
            LinkEnd::Fault(Fault::Refused {
                side: Side::Remote,
                reason: ReasonCode::UnsupportedProtocolVersion
            })
        );
        if is_refusal && settings.remote.version != ProtocolVersion::V5 && settings.remote.says_bridge {
            settings.remote.says_bridge = false;
            return End::NotAsBridge;
        }
        End::Failed(reason.to_string())
    }

    /// Takes farewell of this broker, and takes along what it had sent before it knew.
    async fn leave(&self, link: &mut Link, wires: &mut Wires) {
        let rest = async { while wires.turn(link).await.is_ok() {} };
        let _ = timeout(FAREWELL_MAX, rest).await;
        self.tell(link);
    }

    async fn say_farewell(&self, link: &mut Link, wires: &mut Wires) {
        // A link that cannot even say farewell is closed without.
        let _ = link.close();
        let _ = timeout(FAREWELL_MAX, wires.finish(link)).await;
    }

    /// Counts and logs what happened; tells whether the bridge has come up.
    fn tell(&self, link: &mut Link) -> bool {
        let mut is_up = false;
        let bridge = &*self.plan.name;
        while let Some(event) = link.next_event() {
            match event {
                Event::Up => is_up = true,
                Event::SubscriptionRefused { side, filter, reason } => {
                    self.counters.refused();
                    warn!(bridge, filter, %reason, "{side} refused a subscription of the bridge");
                }
                Event::MessageRefused { side, reason } => {
                    self.counters.refused();
                    warn!(bridge, %reason, "{side} refused a message of the bridge");
                }
                Event::MessageSetAside(message) => {
                    self.counters.set_aside();
                    let Suspect { topic, payload_bytes, .. } = message;
                    let addresses = &self.plan.config.addresses;
                    let remote: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                    let (remote, times) = (remote.join(", "), TRIES);
                    error!(
                        bridge,
                        topic,
                        payload_bytes,
                        remote,
                        times,
                        "the other broker ended every connection at this message, which is dropped"
                    );
                }
                Event::LoopStopped => {
                    self.counters.loop_stopped();
                    debug!(bridge, "a message that had crossed the bridge before was stopped");
                }
            }
        }
        is_up
    }

    async fn announce(&self, payload: &'static str) {
        if let Some(topic) = &self.plan.local_notification_topic {
            self.door.announce(topic.clone(), payload).await;
        }
    }
}

/// Waits until the first address answers again, if another one is in use and not as good.
async fn preference(plan: Arc<BridgePlan>, index: usize) {
    let config = &plan.config;
    let Some(preferred) = config.addresses.first().filter(|_| index > 0 && !config.round_robin) else {
        return std::future::pending().await;
    };
    loop {
        sleep(PREFERENCE_INTERVAL).await;
        if remote::answers(config, preferred).await {
            return info!(bridge = &*plan.name, address = %preferred, "the preferred address answers again");
        }
    }
}

/// A wait around `wait` that is not the same for all that failed at the same moment, not even for the first time.
fn spread(wait: Duration, shortest: Duration, longest: Duration, random: u8) -> Duration {
    let half = wait / 2;
    let least = (wait - half).max(shortest);
    (least + half * u32::from(random) / 255).min(longest.max(shortest))
}

/// A byte that differs between bridges which wait; how well does not matter.
fn random_byte() -> u8 {
    let mut byte = [0];
    // Without it all wait equally long.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridges_that_fail_together_do_not_come_back_together_not_even_the_first_time() {
        let [shortest, longest] = [2_000, 60_000].map(Duration::from_millis);
        for (wait, earliest, latest) in
            [(2_000, 2_000, 3_000), (4_000, 2_000, 4_000), (60_000, 30_000, 60_000)]
        {
            let wait = Duration::from_millis(wait);
            let waits = [0, 255].map(|random| spread(wait, shortest, longest, random).as_millis());

            assert_eq!(waits, [earliest, latest]);
        }

        assert_eq!(spread(shortest, shortest, shortest, 255), shortest, "the operator wants no other wait");
    }
}
