//! How fast clients may send: messages, deliveries that these bring about, and bytes a second of one connection, of one address, and
//! of one user.
//!
//! Who is above the rate is read later, which TCP tells the client. Who has sent more than ten seconds' worth ahead is told 0x96
//! (Message rate too high); but nobody can know how many sessions want a message, so deliveries only make it wait. Invariant: a bucket lives as long as one of its connections, and no longer.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use veilmq_config::RatesConfig;

use super::worker::SCRATCH_BYTES;
use crate::access::network;

/// How far ahead of its rate somebody may be before the connection is ended.
const AHEAD_SECONDS_MAX: f64 = 10.0;
/// How long somebody is not read at most for what its messages bring about, in seconds.
const WAIT_SECONDS_MAX: f64 = 60.0;
/// Tables are swept of buckets that nobody uses when they have grown by this much.
const SWEEP_EVERY: usize = 1_024;

/// What one kind of bucket lets through in a second; 0 does not limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rate {
    /// Application Messages.
    pub messages: u32,
    /// Sessions that these are for, each counted for each message.
    pub deliveries: u32,
    /// Bytes, as they come from the socket.
    pub bytes: u64,
}

/// What a client has sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Amount {
    pub(super) messages: u64,
    pub(super) deliveries: u64,
    pub(super) bytes: u64,
}

impl Amount {
    /// Returns what has come since it was `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(before.messages),
            deliveries: self.deliveries.saturating_sub(before.deliveries),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }
}

/// What becomes of a client that has sent something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pace {
    /// It goes on.
    Within,
    /// It is read again after this time.
    Wait(Duration),
    /// It is too far ahead.
    Exceeded,
}

/// The buckets of all clients.
pub(super) struct Meters {
    client: Rate,
    address: Rate,
    user: Rate,
    addresses: Table<IpAddr>,
    users: Table<Arc<str>>,
}

/// The buckets of one connection.
#[derive(Debug)]
pub(super) struct Meter {
    own: Bucket,
    address: Option<Arc<Bucket>>,
    /// Known once the client has said who it is.
    user: OnceLock<Option<Arc<Bucket>>>,
}

/// What may still be sent; below zero it has been sent ahead.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    messages: f64,
    deliveries: f64,
    bytes: f64,
    at: Instant,
}

impl Meters {
    /// Makes the buckets of a broker; None if nothing is limited.
    pub(super) fn new(config: &RatesConfig) -> Option<Arc<Self>> {
        let client = Rate {
            messages: config.client_messages_per_second,
            deliveries: config.client_deliveries_per_second,
            bytes: config.client_bytes_per_second,
        };
        let address = Rate {
            messages: config.address_messages_per_second,
            deliveries: config.address_deliveries_per_second,
            bytes: config.address_bytes_per_second,
        };
        let user = Rate {
            messages: config.user_messages_per_second,
            deliveries: config.user_deliveries_per_second,
            bytes: config.user_bytes_per_second,
        };
        let limits = [client, address, user].iter().any(|rate| *rate != Rate::default());
        limits.then(|| {
            Arc::new(Self { client, address, user, addresses: Table::default(), users: Table::default() })
        })
    }

    /// Makes the meter of a connection from an address; a Unix socket has none.
    pub(super) fn meter(&self, address: Option<IpAddr>) -> Meter {
        let address = address.filter(|_| self.address != Rate::default());
        Meter {
            own: Bucket::full(self.client),
            address: address.map(|address| self.addresses.bucket(network(address), self.address)),
            user: OnceLock::new(),
        }
    }

    /// Lets a connection share the bucket of its user, once; `user` is asked for if that is still open.
    pub(super) fn identify(&self, meter: &Meter, user: impl FnOnce() -> Option<Option<Arc<str>>>) {
        if self.user == Rate::default() || meter.user.get().is_some() {
            return;
        }
        if let Some(user) = user() {
            // Only this connection's thread sets it.
            let _ = meter.user.set(user.map(|user| self.users.bucket(user, self.user)));
        }
    }
}

impl Meter {
    /// Takes note of what was sent.
    pub(super) fn sent(&self, amount: Amount, now: Instant) -> Pace {
        let shared = [self.address.as_deref(), self.user.get().and_then(Option::as_deref)];
        let mut wait = Duration::ZERO;
        for bucket in std::iter::once(&self.own).chain(shared.into_iter().flatten()) {
            match bucket.take(amount, now) {
                Pace::Within => {}
                Pace::Wait(longer) => wait = wait.max(longer),
                Pace::Exceeded => return Pace::Exceeded,
            }
        }
        if wait.is_zero() { Pace::Within } else { Pace::Wait(wait) }
    }
}

impl Bucket {
    /// Makes a bucket that lets a second's worth through at once.
    fn full(rate: Rate) -> Self {
        let level = Level {
            messages: rate.messages.into(),
            deliveries: rate.deliveries.into(),
            bytes: rate.bytes as f64,
            at: Instant::now(),
        };
        Self { rate, level: Mutex::new(level) }
    }

    fn take(&self, amount: Amount, now: Instant) -> Pace {
        let mut level = lock(&self.level);
        let passed = now.saturating_duration_since(level.at).as_secs_f64();
        level.at = level.at.max(now);
        let messages = pour(&mut level.messages, f64::from(self.rate.messages), passed, amount.messages);
        let deliveries =
            pour(&mut level.deliveries, f64::from(self.rate.deliveries), passed, amount.deliveries);
        let bytes = pour(&mut level.bytes, self.rate.bytes as f64, passed, amount.bytes);
        // What one read brings is not the client's choice.
        let spare = if self.rate.bytes == 0 { 0.0 } else { SCRATCH_BYTES as f64 / self.rate.bytes as f64 };
        if messages > AHEAD_SECONDS_MAX || bytes > AHEAD_SECONDS_MAX + spare {
            return Pace::Exceeded;
        }
        match messages.max(bytes).max(deliveries.min(WAIT_SECONDS_MAX)) {
            0.0 => Pace::Within,
            seconds => Pace::Wait(Duration::from_secs_f64(seconds)),
        }
    }
}

/// Fills a level with what has come in `passed` seconds, takes `amount` out, and returns how many seconds that is ahead. A rate of 0
/// does not limit.
fn pour(level: &mut f64, rate: f64, passed: f64, amount: u64) -> f64 {
    *level = (*level + passed * rate).min(rate) - amount as f64;
    if rate == 0.0 { 0.0 } else { (-*level / rate).max(0.0) }
}

/// Buckets that several connections share.
struct Table<K>(Mutex<HashMap<K, Weak<Bucket>>>);

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Table<K> {
    fn bucket(&self, key: K, rate: Rate) -> Arc<Bucket> {
        let mut buckets = lock(&self.0);
        if let Some(bucket) = buckets.get(&key).and_then(Weak::upgrade) {
            return bucket;
        }
        if buckets.len() % SWEEP_EVERY == SWEEP_EVERY - 1 {
            buckets.retain(|_, bucket| bucket.strong_count() > 0);
        }
        let bucket = Arc::new(Bucket::full(rate));
        buckets.insert(key, Arc::downgrade(&bucket));
        bucket
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meters(config: RatesConfig) -> Arc<Meters> {
        Meters::new(&config).unwrap()
    }

    fn amount(messages: u64, bytes: usize) -> Amount {
        Amount { messages, deliveries: 0, bytes: bytes as u64 }
    }

    fn deliveries(deliveries: u64) -> Amount {
        Amount { deliveries, ..amount(1, 1) }
    }

    #[test]
    fn a_client_above_its_rate_waits_as_long_as_it_is_ahead() {
        let meters = meters(RatesConfig { client_messages_per_second: 10, ..RatesConfig::default() });
        let meter = meters.meter(None);
        let start = Instant::now() + Duration::from_secs(1);

        assert_eq!(meter.sent(amount(10, 1_000_000), start), Pace::Within, "a second's worth at once");
        assert_eq!(meter.sent(amount(5, 0), start), Pace::Wait(Duration::from_millis(500)));
        assert_eq!(meter.sent(amount(0, 0), start + Duration::from_millis(500)), Pace::Within);
        assert_eq!(meter.sent(amount(5, 0), start + Duration::from_secs(1)), Pace::Within);
        assert_eq!(meter.sent(amount(200, 0), start + Duration::from_secs(1)), Pace::Exceeded);
    }

    #[test]
    fn bytes_are_limited_too_and_one_read_is_never_too_much() {
        let meters = meters(RatesConfig { client_bytes_per_second: 1_000, ..RatesConfig::default() });
        let meter = meters.meter(None);
        let start = Instant::now();

        assert!(matches!(meter.sent(amount(1_000, SCRATCH_BYTES), start), Pace::Wait(_)));
        assert_eq!(meter.sent(amount(0, 2 * SCRATCH_BYTES), start), Pace::Exceeded);
    }

    #[test]
    fn messages_for_many_cost_as_many_and_their_publisher_waits_but_is_not_sent_away() {
        // [D07]
        let meters = meters(RatesConfig { user_deliveries_per_second: 100, ..RatesConfig::default() });
        let (one, two) = (meters.meter(None), meters.meter(None));
        for meter in [&one, &two] {
            meters.identify(meter, || Some(Some("tenant".into())));
        }
        let start = Instant::now() + Duration::from_secs(1);

        assert_eq!(one.sent(deliveries(100), start), Pace::Within, "a second's worth at once");
        assert_eq!(two.sent(deliveries(50), start), Pace::Wait(Duration::from_millis(500)));
        let much = Pace::Wait(Duration::from_secs_f64(WAIT_SECONDS_MAX));
        assert_eq!(one.sent(deliveries(1_000_000), start), much);
        let other = meters.meter(None);
        meters.identify(&other, || Some(Some("another tenant".into())));
        assert_eq!(other.sent(deliveries(100), start), Pace::Within);
    }

    #[test]
    fn connections_of_an_address_and_of_a_user_share_what_these_may_send() {
        let meters = meters(RatesConfig {
            address_messages_per_second: 10,
            user_messages_per_second: 5,
            ..RatesConfig::default()
        });
        let start = Instant::now();
        let (one, two) =
            (meters.meter(Some([192, 0, 2, 1].into())), meters.meter(Some([192, 0, 2, 1].into())));
        let elsewhere = meters.meter(Some([192, 0, 2, 2].into()));
        for meter in [&one, &elsewhere] {
            meters.identify(meter, || Some(Some("ann".into())));
        }
        meters.identify(&two, || None);

        assert_eq!(one.sent(amount(5, 0), start), Pace::Within);
        assert!(matches!(elsewhere.sent(amount(1, 0), start), Pace::Wait(_)), "the user is used up");
        assert_eq!(two.sent(amount(5, 0), start), Pace::Within);
        assert!(matches!(two.sent(amount(1, 0), start), Pace::Wait(_)), "and so is the address");
    }

    #[test]
    fn without_a_limit_there_is_nothing_to_measure() {
        assert!(Meters::new(&RatesConfig::default()).is_none());
    }

    #[test]
    fn buckets_that_nobody_uses_are_forgotten() {
        let meters = meters(RatesConfig { address_bytes_per_second: 1, ..RatesConfig::default() });

        for number in 0..50_000_u32 {
            drop(meters.meter(Some(IpAddr::from(number.to_be_bytes()))));
        }

        assert!(lock(&meters.addresses.0).len() <= 2 * SWEEP_EVERY);
    }
}
