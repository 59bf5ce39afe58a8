//! The listeners of a running broker: which there are, and how a reload makes others of them.
//!
//! A reload first reads what listeners need and binds new sockets, all beside what is in force; only then does any of it change. A
//! listener is known by its address and keeps its number for as long as the broker runs, also when it is gone, for sessions remember it.
//! Invariant: a connection that is there is not touched by a change of its listener, and does not outlive it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{error, warn};
use veilmq_config::{
    BrokerConfig, ListenAddress, ListenerConfig, ListenerDurability, ListenerProtocol, Mode,
};
use veilmq_core::{EntranceId, Promise, ShardIndex};

use super::RunError;
use crate::listener::{self, Bound, Carrier, Listener, Sharing, SocketFile};
use crate::shard::ConnectionLimit;
use crate::tls::{Reading, TlsAcceptor, TlsKeeper};

/// All listeners that there have been, by their numbers.
pub(super) struct Listeners {
    shards: usize,
    slots: Vec<Slot>,
}

/// The place of a listener.
struct Slot {
    config: ListenerConfig,
    /// None for one that is gone, or whose address this machine does not have.
    live: Option<Live>,
}

/// A listener that accepts.
struct Live {
    /// With the port that was chosen for port 0.
    address: ListenAddress,
    /// Without it the shards stop.
    carrier: watch::Sender<Arc<Carrier>>,
    _file: Option<SocketFile>,
}

/// What is to become of the listeners.
pub(super) struct Plan {
    mode: Mode,
    planned: Vec<Planned>,
    /// The numbers of those that will be gone.
    removed: Vec<usize>,
}

/// One listener as it is to become.
struct Planned {
    number: usize,
    config: ListenerConfig,
    message_bytes_max: usize,
    tls: Option<Reading>,
    needs_sockets: bool,
    bound: Option<Bound>,
}

/// What has become of them.
#[derive(Default)]
pub(super) struct Changed {
    /// The sockets that each shard is to listen on.
    pub(super) sockets: Vec<(ShardIndex, Listener)>,
    /// Those of the HTTP API.
    pub(super) apis: Vec<Listener>,
    /// What has changed, a sentence each.
    pub(super) changes: Vec<String>,
}

impl Listeners {
    /// Makes the listeners of a broker of so many shards that has none yet.
    pub(super) fn new(shards: u16) -> Self {
        Self { shards: shards.into(), slots: Vec::new() }
    }

    /// Finds out what has to be done to get the listeners of a configuration, and reads the files that they need.
    ///
    /// # Errors
    /// A file of TLS that cannot be used.
    pub(super) fn plan(&self, config: &BrokerConfig, tls: &TlsKeeper) -> Result<Plan, RunError> {
        let mut planned = Vec::with_capacity(config.listeners.len());
        for (listener, number) in config.listeners.iter().zip(self.numbers(&config.listeners)) {
            listener::check_http_directory(listener)?;
            let slot = self.slots.get(number);
            let live = slot.and_then(|slot| slot.live.as_ref());
            let moves = slot.is_some_and(|slot| {
                slot.config.interface != listener.interface || is_api(&slot.config) != is_api(listener)
            });
            planned.push(Planned {
                number,
                config: listener.clone(),
                message_bytes_max: config.limits.packet_bytes_max as usize,
                tls: tls.read(config, listener, live.and_then(Live::tls).as_ref())?,
                needs_sockets: live.is_none() || moves,
                bound: None,
            });
        }
        let stays = |number: &usize| planned.iter().any(|planned| planned.number == *number);
        let live = (0..self.slots.len()).filter(|number| self.slots[*number].live.is_some());
        let removed = live.filter(|number| !stays(number)).collect();
        Ok(Plan { mode: config.mode, planned, removed })
    }

    /// Returns the numbers of listeners: those that they have had, or new ones.
    fn numbers(&self, listeners: &[ListenerConfig]) -> Vec<usize> {
        let mut numbers: Vec<Option<usize>> = vec![None; listeners.len()];
        // Several may have one address, each on an interface of its own, which may change too.
        for needs_interface in [true, false] {
            for index in 0..listeners.len() {
                if numbers[index].is_some() {
                    continue;
                }
                let listener = &listeners[index];
                let is_it = |slot: &ListenerConfig| {
                    slot.address == listener.address
                        && (slot.interface == listener.interface || !needs_interface)
                };
                let mut slots = self.slots.iter().enumerate();
                let free =
                    slots.find(|(number, slot)| is_it(&slot.config) && !numbers.contains(&Some(*number)));
                numbers[index] = free.map(|(number, _)| number);
            }
        }
        let mut next = self.slots.len()..;
        numbers.into_iter().map(|number| number.or_else(|| next.next()).unwrap_or(usize::MAX)).collect()
    }

    /// Binds the sockets that a plan needs. They accept nothing yet.
    ///
    /// # Errors
    /// Names the address that cannot be listened on.
    pub(super) fn bind(&self, plan: &mut Plan) -> Result<(), RunError> {
        // What goes, or moves to another interface, shares its address with what comes in its place.
        let leaves = |number: usize| {
            let moves = |planned: &Planned| planned.number == number && planned.needs_sockets;
            plan.removed.contains(&number) || plan.planned.iter().any(moves)
        };
        let leaving: Vec<ListenAddress> = (0..self.slots.len())
            .filter(|number| leaves(*number))
            .filter_map(|number| Some(self.slots[number].live.as_ref()?.address.clone()))
            .collect();
        let both = twins_of_ipv4(plan.planned.iter().map(|planned| &planned.config.address));
        for planned in plan.planned.iter_mut().filter(|planned| planned.needs_sockets) {
            let sharing = match leaving.iter().any(|left| overlap(left, &planned.config.address)) {
                true => Sharing::AtOnce,
                false => Sharing::Afterwards,
            };
            let count = if is_api(&planned.config) { 1 } else { self.shards };
            match listener::bind(&planned.config, sharing, count) {
                Ok(bound) => planned.bound = Some(bound),
                // A machine that has no IPv6 is served over IPv4: without a configuration file of our own, or where that says both.
                Err(error)
                    if error.is_absent_ipv6()
                        && (plan.mode != Mode::Configured || both.contains(&planned.config.address)) =>
                {
                    warn!("{error}; going on without it");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Returns the listeners by their numbers as a plan would have them, and the numbers of those that would be gone.
    pub(super) fn roster(&self, plan: &Plan) -> (Vec<ListenerConfig>, Vec<usize>) {
        let mut roster: Vec<ListenerConfig> = self.slots.iter().map(|slot| slot.config.clone()).collect();
        for planned in &plan.planned {
            match roster.get_mut(planned.number) {
                Some(known) => known.clone_from(&planned.config),
                None => roster.push(planned.config.clone()),
            }
        }
        let stays = |number: &usize| plan.planned.iter().any(|planned| planned.number == *number);
        let gone = (0..roster.len()).filter(|number| !stays(number)).collect();
        (roster, gone)
    }

    /// Does what was planned. Nothing of it can fail but the permissions of a Unix socket, which is logged.
    pub(super) fn apply(&mut self, plan: Plan, tls: &TlsKeeper) -> Changed {
        let mut changed = Changed::default();
        for number in plan.removed {
            if let Some(live) = self.slots.get_mut(number).and_then(|slot| slot.live.take()) {
                changed.changes.push(format!("listener {} removed", live.address));
            }
        }
        for planned in plan.planned {
            self.apply_one(planned, tls, &mut changed);
        }
        changed
    }

    /// Returns where clients are waited for, and what carries MQTT there.
    pub(super) fn live(&self) -> impl Iterator<Item = (&ListenAddress, Arc<Carrier>)> {
        let live = self.slots.iter().filter_map(|slot| slot.live.as_ref());
        live.map(|live| (&live.address, Arc::clone(&live.carrier.borrow())))
    }

    /// Returns the addresses on which clients of MQTT are served.
    pub(super) fn of_mqtt(&self) -> Vec<ListenAddress> {
        let slots = self.slots.iter().filter(|slot| !is_api(&slot.config));
        slots.filter_map(|slot| Some(slot.live.as_ref()?.address.clone())).collect()
    }

    fn apply_one(&mut self, planned: Planned, tls: &TlsKeeper, changed: &mut Changed) {
        let Planned { number, config, bound, tls: reading, message_bytes_max, .. } = planned;
        let acceptor = reading.map(|reading| tls.keep(reading));
        let before = self.slots.get_mut(number);
        let present = before.as_ref().and_then(|slot| slot.live.as_ref());
        let limit = limit_of(&config, present.and_then(|live| live.carrier.borrow().limit.clone()));
        let address = bound.as_ref().map(|bound| &bound.address).or(present.map(|live| &live.address));
        let port = address.and_then(ListenAddress::tcp).map_or(0, |address| address.port());
        let carrier = Carrier { port, limit, ..carrier(&config, number, message_bytes_max, acceptor) };
        let carrier = Arc::new(carrier);
        let Some(bound) = bound else {
            let Some(slot) = before else {
                return self.slots.push(Slot { config, live: None });
            };
            if let Some(live) = &slot.live {
                live.carrier.send_replace(carrier);
                if slot.config != config {
                    changed.changes.push(format!("listener {} changed", live.address));
                }
            }
            heed_mode(&slot.config, &config);
            slot.config = config;
            return;
        };
        let Bound { address, sockets } = bound;
        let (sender, receiver) = watch::channel(carrier);
        let listeners = sockets.into_iter().map(|socket| Listener { socket, carrier: receiver.clone() });
        match is_api(&config) {
            true => changed.apis.extend(listeners),
            // Each shard gets one of them.
            false => changed.sockets.extend((0..).map(ShardIndex).zip(listeners)),
        }
        let has_moved = before.as_ref().is_some_and(|slot| slot.live.is_some());
        let change = if has_moved { "changed" } else { "added" };
        changed.changes.push(format!("listener {address} {change}"));
        let live = Some(Live { _file: SocketFile::of(&address), address, carrier: sender });
        match before {
            Some(slot) => *slot = Slot { config, live },
            None => self.slots.push(Slot { config, live }),
        }
    }
}

impl Live {
    fn tls(&self) -> Option<Arc<TlsAcceptor>> {
        self.carrier.borrow().tls.clone()
    }
}

/// Returns the limit of a listener: the present one, which knows how many connections there are, or one that begins to count.
fn limit_of(config: &ListenerConfig, present: Option<ConnectionLimit>) -> Option<ConnectionLimit> {
    let maximum = config.connections_max? as usize;
    match present {
        Some(limit) => {
            limit.allow(maximum);
            Some(limit)
        }
        None => Some(ConnectionLimit::new(maximum)),
    }
}

/// Makes what carries MQTT on a listener, but for its port and its limit.
fn carrier(
    config: &ListenerConfig,
    number: usize,
    message_bytes_max: usize,
    tls: Option<Arc<TlsAcceptor>>,
) -> Carrier {
    let origins = &config.websocket_origins;
    Carrier {
        protocol: config.protocol,
        origins: (!origins.is_empty()).then(|| Arc::from(origins.as_slice())),
        message_bytes_max,
        tls,
        proxies: config.proxy_protocol.clone().map(Arc::new),
        entrance: EntranceId(u16::try_from(number).unwrap_or(u16::MAX)),
        promise: match config.durability {
            None | Some(ListenerDurability::Commit) => Promise::Stored,
            Some(ListenerDurability::Interval) => Promise::Received,
        },
        limit: None,
        port: 0,
        http_directory: config.http_directory.as_deref().map(Arc::from),
    }
}

/// Tells whether it has no MQTT, so that its sockets are not for shards.
fn is_api(config: &ListenerConfig) -> bool {
    config.protocol == ListenerProtocol::HttpApi
}

/// Gives a Unix socket other permissions, if they have changed.
fn heed_mode(before: &ListenerConfig, now: &ListenerConfig) {
    if before.mode != now.mode
        && let Some(path) = now.address.unix()
        && let Err(error) = listener::set_mode(path, now.mode.unwrap_or_default())
    {
        error!("cannot change the permissions of {}: {error}", path.display());
    }
}

/// Tells whether two addresses of TCP cannot be bound both, unless they are shared.
fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    let (Some(one), Some(other)) = (one.tcp(), other.tcp()) else { return false };
    let is_same_family = one.is_ipv4() == other.is_ipv4();
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && is_same_family && (is_any || one.ip() == other.ip())
}

/// Returns the addresses for everybody of IPv6 whose port has everybody of IPv4 too.
fn twins_of_ipv4<'a>(addresses: impl Iterator<Item = &'a ListenAddress>) -> Vec<ListenAddress> {
    let addresses: Vec<SocketAddr> = addresses.filter_map(ListenAddress::tcp).collect();
    let for_everybody = |wanted: IpAddr| addresses.iter().filter(move |address| address.ip() == wanted);
    for_everybody(Ipv6Addr::UNSPECIFIED.into())
        .filter(|six| for_everybody(Ipv4Addr::UNSPECIFIED.into()).any(|four| four.port() == six.port()))
        .map(|address| (*address).into())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(addresses: &[&str]) -> BrokerConfig {
        let listeners = addresses.iter().map(|address| ListenerConfig::mqtt(address.parse().unwrap()));
        BrokerConfig { listeners: listeners.collect(), ..BrokerConfig::default() }
    }

    fn change(listeners: &mut Listeners, config: &BrokerConfig) -> Result<Changed, RunError> {
        let tls = TlsKeeper::new(1);
        let mut plan = listeners.plan(config, &tls)?;
        listeners.bind(&mut plan)?;
        Ok(listeners.apply(plan, &tls))
    }

    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn ipv6_may_be_absent_where_everybody_of_ipv4_is_served_at_the_same_port() {
        let addresses = ["0.0.0.0:1", "[::]:1", "[::]:2", "127.0.0.1:3", "[::]:3", "[::1]:1"];
        let addresses = addresses.map(|address| address.parse::<SocketAddr>().unwrap().into());

        assert_eq!(twins_of_ipv4(addresses.iter()), [addresses[1].clone()]);
    }

    #[test]
    fn a_listener_keeps_its_number_and_one_that_was_gone_gets_it_back() {
        let (first, second) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let mut listeners = Listeners::new(2);
        let number = |listeners: &Listeners, wanted: &str| {
            let mut live = listeners.live();
            live.find(|(address, _)| address.to_string() == wanted).map(|(_, carrier)| carrier.entrance.0)
        };

        let begun = change(&mut listeners, &configured(&[&first, &second])).unwrap();
        assert_eq!(begun.sockets.len(), 4, "one of each for each shard");
        assert_eq!((number(&listeners, &first), number(&listeners, &second)), (Some(0), Some(1)));
        let changed = change(&mut listeners, &configured(&[&second])).unwrap();
        assert_eq!((changed.sockets.len(), changed.changes), (0, vec![format!("listener {first} removed")]));
        assert_eq!((number(&listeners, &first), number(&listeners, &second)), (None, Some(1)));
        // As the shards do that listen there no more.
        drop(begun);

        let changed = change(&mut listeners, &configured(&[&second, &first])).unwrap();

        assert_eq!((changed.sockets.len(), changed.changes), (2, vec![format!("listener {first} added")]));
        assert_eq!((number(&listeners, &first), number(&listeners, &second)), (Some(0), Some(1)));
    }

    #[test]
    fn an_address_that_somebody_has_leaves_everything_as_it_was() {
        let mut listeners = Listeners::new(1);
        let own = format!("127.0.0.1:{}", free_port());
        let _sockets = change(&mut listeners, &configured(&[&own])).unwrap().sockets;
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let held_address = held.local_addr().unwrap().to_string();

        let error = change(&mut listeners, &configured(&[&held_address])).err().unwrap().to_string();

        assert!(error.starts_with(&format!("cannot listen on {held_address}: ")), "{error}");
        assert_eq!(listeners.live().count(), 1);
        assert!(std::net::TcpStream::connect(&own).is_ok());
    }

    #[test]
    fn all_interfaces_may_take_the_place_of_one_at_the_same_port() {
        let port = free_port();
        let mut listeners = Listeners::new(2);
        let _sockets = change(&mut listeners, &configured(&[&format!("127.0.0.1:{port}")])).unwrap().sockets;

        let changed = change(&mut listeners, &configured(&[&format!("0.0.0.0:{port}")])).unwrap();

        let changes =
            [format!("listener 127.0.0.1:{port} removed"), format!("listener 0.0.0.0:{port} added")];
        assert_eq!(changed.changes, changes);
    }

    #[test]
    fn a_limit_goes_on_counting_when_it_changes() {
        let address = format!("127.0.0.1:{}", free_port());
        let limited = |connections_max| {
            let mut config = configured(&[&address]);
            config.listeners[0].connections_max = connections_max;
            config
        };
        let mut listeners = Listeners::new(1);
        let limit = |listeners: &Listeners| listeners.live().next().unwrap().1.limit.clone();
        let _sockets = change(&mut listeners, &limited(Some(1))).unwrap().sockets;
        let open = limit(&listeners).unwrap().permit();
        assert!(open.is_some());

        let changed = change(&mut listeners, &limited(Some(2))).unwrap();

        assert_eq!(changed.changes, [format!("listener {address} changed")]);
        let limit_now = limit(&listeners).unwrap();
        let second = limit_now.permit();
        assert!(second.is_some() && limit_now.permit().is_none());
        change(&mut listeners, &limited(None)).unwrap();
        assert!(limit(&listeners).is_none());
    }
}
