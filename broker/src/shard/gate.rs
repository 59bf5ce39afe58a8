//! Who may have a connection: so many in all, so many from one address, so many that are not established yet, and none from a banned
//! address or while memory is short.
//!
//! Invariant: what a connection was given by the gate comes back when it is gone.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use veilmq_config::{LimitsConfig, RatesConfig};
use veilmq_core::MemoryPressure;

use super::limit::{ConnectionLimit, Permit};
use super::meter::Meters;
use super::worker::Worker;
use crate::access::network;
use crate::listener::Carrier;

/// Lets connections in, for all shards.
#[derive(Clone)]
pub struct Admission(Arc<Inner>);

struct Inner {
    all: ConnectionLimit,
    opening: ConnectionLimit,
    /// Counts the broker's own bridges, which nothing limits.
    own: ConnectionLimit,
    per_address_max: AtomicUsize,
    addresses: Addresses,
    opening_per_address_max: AtomicUsize,
    opening_addresses: Addresses,
    /// How long a client may take no bytes, in seconds.
    write_seconds_max: AtomicU64,
    measured: Mutex<Measured>,
}

/// How fast clients may send, and what measures them.
struct Measured {
    rates: RatesConfig,
    meters: Option<Arc<Meters>>,
}

/// How many connections each address has.
type Addresses = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One of the connections that an address may have; given back when dropped.
#[derive(Debug)]
pub(super) struct AddressPlace {
    addresses: Addresses,
    address: IpAddr,
}

impl Admission {
    /// Makes the gate of a broker.
    pub fn new(limits: &LimitsConfig, rates: &RatesConfig) -> Self {
        Self(Arc::new(Inner {
            all: ConnectionLimit::new(limits.connections_max as usize),
            opening: ConnectionLimit::new(limits.opening_connections_max as usize),
            own: ConnectionLimit::new(usize::MAX),
            per_address_max: AtomicUsize::new(limits.connections_per_address_max as usize),
            addresses: Addresses::default(),
            opening_per_address_max: AtomicUsize::new(limits.opening_connections_per_address_max as usize),
            opening_addresses: Addresses::default(),
            write_seconds_max: AtomicU64::new(limits.write_seconds_max.into()),
            measured: Mutex::new(Measured { rates: *rates, meters: Meters::new(rates) }),
        }))
    }

    /// Goes by other limits for connections from now on. Who is connected stays connected, and is measured as before.
    pub fn change(&self, limits: &LimitsConfig, rates: &RatesConfig) {
        let inner = &*self.0;
        inner.all.allow(limits.connections_max as usize);
        inner.opening.allow(limits.opening_connections_max as usize);
        inner.per_address_max.store(limits.connections_per_address_max as usize, Ordering::Relaxed);
        let opening = limits.opening_connections_per_address_max as usize;
        inner.opening_per_address_max.store(opening, Ordering::Relaxed);
        inner.write_seconds_max.store(limits.write_seconds_max.into(), Ordering::Relaxed);
        let mut measured = lock(&inner.measured);
        if measured.rates != *rates {
            *measured = Measured { rates: *rates, meters: Meters::new(rates) };
        }
    }

    /// Returns what measures clients, if anything does.
    pub(super) fn meters(&self) -> Option<Arc<Meters>> {
        lock(&self.0.measured).meters.clone()
    }

    /// Returns how long a client may take no bytes, in seconds.
    pub(super) fn write_seconds_max(&self) -> u64 {
        self.0.write_seconds_max.load(Ordering::Relaxed)
    }

    /// Tells whether there may be one more connection in all, and by a listener with this limit.
    pub(super) fn has_room(&self, listener: Option<&ConnectionLimit>) -> bool {
        self.0.all.has_room() && listener.is_none_or(ConnectionLimit::has_room)
    }

    fn permit(&self, listener: Option<&ConnectionLimit>) -> Result<Permit, &'static str> {
        let permit = self.0.all.permit().ok_or("limits.connections_max connections are open")?;
        let permit = match listener {
            None => permit,
            Some(limit) => {
                let own = limit.permit();
                permit.with(own.ok_or("listeners[].connections_max connections are open on one listener")?)
            }
        };
        let opening = self.0.opening.permit();
        Ok(permit
            .opening(opening.ok_or("limits.opening_connections_max connections are not established yet")?))
    }

    /// Gives a connection the place of its address.
    fn place(&self, permit: &mut Permit, meters: Option<&Meters>, peer: &str) -> Result<(), &'static str> {
        let inner = &*self.0;
        let per_address_max = inner.per_address_max.load(Ordering::Relaxed);
        let opening_max = inner.opening_per_address_max.load(Ordering::Relaxed);
        // A client on a Unix socket has none.
        let address = peer.parse().map(|peer: SocketAddr| network(peer.ip())).ok();
        if let Some(address) = address.filter(|_| opening_max > 0) {
            let place = AddressPlace::take(&inner.opening_addresses, address, opening_max);
            permit.opening_place(place.ok_or(
                "limits.opening_connections_per_address_max connections of one address are not established yet",
            )?);
        }
        let place = match address.filter(|_| per_address_max > 0) {
            None => None,
            Some(address) => Some(
                AddressPlace::take(&inner.addresses, address, per_address_max)
                    .ok_or("limits.connections_per_address_max connections are open from one address")?,
            ),
        };
        permit.place(place, meters.map(|meters| meters.meter(address)));
        Ok(())
    }
}

impl AddressPlace {
    fn take(addresses: &Addresses, address: IpAddr, maximum: usize) -> Option<Self> {
        let mut counts = lock(addresses);
        let count = counts.entry(address).or_insert(0);
        if *count >= maximum {
            return None;
        }
        *count += 1;
        Some(Self { addresses: Arc::clone(addresses), address })
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut counts = lock(&self.addresses);
        match counts.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(counts.remove(&self.address)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets a connection in that was accepted; behind a proxy its address is not known yet.
///
/// # Errors
/// Why it is closed at once instead.
pub(super) fn admit(worker: &Worker, carrier: &Carrier, peer: &str) -> Result<Permit, &'static str> {
    if worker.with_shard(|shard| shard.memory()) != MemoryPressure::None {
        return Err("limits.memory_bytes is nearly reached");
    }
    let mut permit = worker.gate().permit(carrier.limit.as_ref())?;
    if carrier.proxies.is_none() {
        locate(worker, &mut permit, peer)?;
    }
    Ok(permit)
}

/// Lets a bridge of this broker in. It is part of the broker: limits and rates are for clients, and when memory is short what waits for
/// another broker is best sent there.
///
/// # Errors
/// There are more bridges than can be counted.
pub(super) fn admit_own(worker: &Worker) -> Result<Permit, &'static str> {
    worker.gate().0.own.permit().ok_or("there are too many bridges")
}

/// Looks at the address of a client, once that is known.
///
/// # Errors
/// Why its connection is ended.
pub(super) fn locate(worker: &Worker, permit: &mut Permit, peer: &str) -> Result<(), &'static str> {
    if worker.is_banned(peer) {
        return Err("an operator has banned the address");
    }
    worker.gate().place(permit, worker.meters().as_deref(), peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_gets_each_back() {
        // [A01]
        let addresses = Addresses::default();
        let here = IpAddr::from([192, 0, 2, 1]);
        let first = AddressPlace::take(&addresses, here, 2).unwrap();
        let second = AddressPlace::take(&addresses, here, 2).unwrap();

        assert!(AddressPlace::take(&addresses, here, 2).is_none());
        assert!(AddressPlace::take(&addresses, [192, 0, 2, 2].into(), 2).is_some());
        drop(first);
        assert!(AddressPlace::take(&addresses, here, 2).is_some());
        drop(second);
        assert!(lock(&addresses).is_empty(), "nothing is remembered of who has left");
    }

    #[test]
    fn addresses_that_one_host_can_have_at_will_are_one() {
        // [A01] Whoever has one IPv6 address has 2^64.
        let limits = LimitsConfig { connections_per_address_max: 1, ..LimitsConfig::default() };
        let gate = Admission::new(&limits, &RatesConfig::default());
        let mut permits = [(); 4].map(|()| gate.permit(None).unwrap());
        let [first, second, third, fourth] = &mut permits;

        assert!(gate.place(first, None, "[2001:db8::1]:1000").is_ok());
        assert!(gate.place(second, None, "[2001:db8::ffff:0:0:2]:1000").is_err());
        assert!(gate.place(third, None, "[2001:db8:0:1::1]:1000").is_ok(), "of the next network");
        assert!(gate.place(fourth, None, "192.0.2.1:1000").is_ok());
    }

    #[test]
    fn a_connection_that_is_established_makes_room_for_one_that_is_not() {
        let limits = LimitsConfig { opening_connections_max: 1, ..LimitsConfig::default() };
        let gate = Admission::new(&limits, &RatesConfig::default());
        let mut permit = gate.permit(None).unwrap();
        assert!(permit.is_opening() && gate.permit(None).is_err());

        permit.established();

        assert!(!permit.is_opening() && gate.permit(None).is_ok());
    }

    #[test]
    fn one_address_does_not_take_all_the_places_before_connack() {
        // [A01]
        let limits = LimitsConfig { opening_connections_per_address_max: 1, ..LimitsConfig::default() };
        let gate = Admission::new(&limits, &RatesConfig::default());
        let mut permits = [(); 4].map(|()| gate.permit(None).unwrap());
        let [first, second, third, fourth] = &mut permits;

        assert!(gate.place(first, None, "192.0.2.1:1").is_ok());
        assert!(gate.place(second, None, "192.0.2.1:2").is_err());
        assert!(gate.place(third, None, "192.0.2.2:1").is_ok(), "another address");
        first.established();
        assert!(gate.place(fourth, None, "192.0.2.1:3").is_ok(), "the first is established");
    }

    #[test]
    fn limits_that_change_hold_from_then_on_and_rates_that_do_not_keep_their_meters() {
        let (limits, rates) = (LimitsConfig::default(), RatesConfig::default());
        let gate = Admission::new(&limits, &rates);
        let permits = [gate.permit(None).unwrap(), gate.permit(None).unwrap()];

        gate.change(&LimitsConfig { connections_max: 2, ..limits.clone() }, &rates);
        assert!(gate.permit(None).is_err() && gate.meters().is_none());
        let measured = RatesConfig { client_messages_per_second: 1, ..rates };
        gate.change(&limits, &measured);
        let meters = gate.meters().unwrap();
        gate.change(&limits, &measured);

        assert!(gate.permit(None).is_ok() && Arc::ptr_eq(&gate.meters().unwrap(), &meters));
        drop(permits);
    }
}
