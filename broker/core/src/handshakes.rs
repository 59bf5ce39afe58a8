//! The VEIL-1 handshakes that are half open: how many there are, and who may begin another while there are many.
//!
//! Below the limit anybody may. Above it each address gets a few a second, so an address that leaves many half open cannot keep
//! the others out (VEIL-1 section 4.9). Invariant: a handshake is counted exactly as long as its [`HalfOpen`] lives.

use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use crate::time::Moment;

/// How many handshakes one address may begin in [`WINDOW_MILLISECONDS`] while there are many.
const BEGUN_PER_WINDOW_MAX: u32 = 4;
const WINDOW_MILLISECONDS: u64 = 1_000;
/// How many addresses are told apart within a window; if there are more, the rest has to wait for the next.
const ADDRESSES_MAX: usize = 4_096;

/// The handshakes of all shards.
#[derive(Default)]
pub(crate) struct Handshakes {
    half_open: AtomicUsize,
    recent: DashMap<Source, Window>,
}

/// A handshake that is half open.
pub(crate) struct HalfOpen(Arc<Handshakes>);

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.half_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who pays for a handshake: an IPv4 address, or the /64 that an IPv6 host chooses its addresses from.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    V4([u8; 4]),
    V6Network([u16; 4]),
    /// The driver names its peers in another way; they share one allowance.
    Other,
}

impl Source {
    fn of(peer: &str) -> Self {
        match peer.parse::<SocketAddr>().map(|address| address.ip().to_canonical()) {
            Ok(IpAddr::V4(address)) => Self::V4(address.octets()),
            Ok(IpAddr::V6(address)) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6Network([a, b, c, d])
            }
            Err(_) => Self::Other,
        }
    }
}

/// What one source did since a moment.
struct Window {
    since: Moment,
    begun: u32,
}

impl Window {
    fn is_over(&self, now: Moment) -> bool {
        now.since(self.since) >= WINDOW_MILLISECONDS
    }
}

impl Handshakes {
    /// Counts one more handshake; None if `peer` has to wait. `many` is the limit below which nobody waits.
    pub(crate) fn begin(self: &Arc<Self>, peer: &str, now: Moment, many: usize) -> Option<HalfOpen> {
        let counted = self.half_open.fetch_add(1, Ordering::Relaxed);
        let half_open = HalfOpen(Arc::clone(self));
        (counted < many || self.has_allowance(Source::of(peer), now)).then_some(half_open)
    }

    fn has_allowance(&self, source: Source, now: Moment) -> bool {
        if self.recent.len() >= ADDRESSES_MAX {
            self.recent.retain(|_, window| !window.is_over(now));
        }
        if self.recent.len() >= ADDRESSES_MAX && !self.recent.contains_key(&source) {
            return false;
        }
        let mut window = self.recent.entry(source).or_insert(Window { since: now, begun: 0 });
        if window.is_over(now) {
            *window = Window { since: now, begun: 0 };
        }
        window.begun = window.begun.saturating_add(1);
        window.begun <= BEGUN_PER_WINDOW_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_milliseconds(1_800_000_000_000);

    #[test]
    fn nobody_waits_below_the_limit() {
        let handshakes = Arc::<Handshakes>::default();

        let held: Vec<_> = (0..100).map(|_| handshakes.begin("192.0.2.1:1", NOW, 100)).collect();

        assert!(held.iter().all(Option::is_some));
    }

    #[test]
    fn above_the_limit_an_address_begins_four_a_second_and_leaves_the_others_theirs() {
        let handshakes = Arc::<Handshakes>::default();
        let begin = |peer: &str, now| handshakes.begin(peer, now, 0).is_some();

        for port in 1..=4 {
            assert!(begin(&format!("192.0.2.1:{port}"), NOW));
        }
        assert!(!begin("192.0.2.1:5", NOW));
        assert!(!begin("[::ffff:192.0.2.1]:5", NOW), "the same address on a listener for both families");
        assert!(begin("192.0.2.2:1", NOW));
        assert!(!begin("192.0.2.1:6", NOW + 999));
        assert!(begin("192.0.2.1:7", NOW + 1_000));
    }

    #[test]
    fn a_host_cannot_gain_by_changing_addresses_within_its_ipv6_network() {
        let handshakes = Arc::<Handshakes>::default();
        let begin = |peer: &str| handshakes.begin(peer, NOW, 0).is_some();

        let begun = (0..10).filter(|host| begin(&format!("[2001:db8::{host:x}]:1"))).count();

        assert_eq!(begun, 4);
        assert!(begin("[2001:db8:0:1::1]:1"));
    }

    #[test]
    fn the_memory_of_addresses_is_bounded_and_those_it_holds_keep_their_allowance() {
        let handshakes = Arc::<Handshakes>::default();
        let begin = |host: usize, now| {
            handshakes.begin(&format!("10.0.{}.{}:1", host / 256, host % 256), now, 0).is_some()
        };

        assert_eq!((0..ADDRESSES_MAX + 50).filter(|host| begin(*host, NOW)).count(), ADDRESSES_MAX);
        assert!(begin(0, NOW));
        assert!(begin(ADDRESSES_MAX, NOW + 1_000), "a second later the old ones are forgotten");
        assert_eq!(handshakes.recent.len(), 1);
    }
}
