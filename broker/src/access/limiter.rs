//! Who tries too many passwords: addresses and users are banned for a while.
//!
//! Invariant: what is remembered is bounded, however many addresses and names attackers have. A ban of a user does not concern
//! addresses from which it has proved who it is before, so nobody can be kept out by others who guess.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use veilmq_config::BansConfig;

/// How many addresses, users, and addresses of users are remembered; some megabytes.
const ENTRIES_MAX: usize = 65_536;
/// What is shown of a banned user's name.
const NAME_BYTES_MAX: usize = 256;

/// Counts wrong passwords and says who is banned.
pub(super) struct Limiter {
    config: BansConfig,
    addresses: Table<IpAddr>,
    /// By a keyed hash of the name, which may be long.
    users: Table<u64>,
    /// From where users have proved who they are.
    familiar: HashMap<(u64, IpAddr), Instant>,
    names: RandomState,
    /// The names of users that were banned, shortened, for those who look.
    banned_names: HashMap<u64, Box<str>>,
}

/// Whom a ban concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Banned {
    /// An IPv4 address, or the IPv6 addresses with the same first 64 bits.
    Address(IpAddr),
    /// A User Name.
    User(String),
}

/// A ban in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Whom it concerns.
    pub banned: Banned,
    /// How long it still lasts.
    pub left: Duration,
    /// Whether an operator made it.
    pub by_operator: bool,
}

/// Who is banned from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NewBans {
    pub(super) address: bool,
    pub(super) user: bool,
}

impl Limiter {
    pub(super) fn new(config: BansConfig) -> Self {
        Self {
            config,
            addresses: Table::default(),
            users: Table::default(),
            familiar: HashMap::new(),
            names: RandomState::new(),
            banned_names: HashMap::new(),
        }
    }

    /// Goes by other limits from now on; who is banned stays so.
    pub(super) fn set_config(&mut self, config: BansConfig) {
        self.config = config;
    }

    /// Tells whether an attempt is refused without a look at the password.
    pub(super) fn is_banned(&self, address: Option<IpAddr>, user: &str, now: Instant) -> bool {
        let address = address.map(network);
        if address.is_some_and(|address| self.addresses.is_banned(&address, now)) {
            return true;
        }
        let user = self.names.hash_one(user);
        if self.users.is_banned_by_operator(&user, now) {
            return true;
        }
        let is_familiar = address.is_some_and(|address| self.familiar.contains_key(&(user, address)));
        !is_familiar && self.users.is_banned(&user, now)
    }

    /// Takes note of a wrong password; returns who is banned because of it.
    pub(super) fn failed(&mut self, address: Option<IpAddr>, user: &str, now: Instant) -> NewBans {
        let config = self.config;
        let hash = self.names.hash_one(user);
        let new = NewBans {
            address: address.is_some_and(|address| {
                self.addresses.failed(network(address), config.failures_per_address_max, &config, now)
            }),
            // A client without a user name is no user.
            user: !user.is_empty() && self.users.failed(hash, config.failures_per_user_max, &config, now),
        };
        if new.user {
            self.remember_name(hash, user, now);
        }
        new
    }

    /// Bans somebody because an operator says so. Familiar addresses do not help.
    pub(super) fn ban(&mut self, banned: &Banned, lasting: Duration, now: Instant) {
        let window = Duration::from_secs(self.config.window_seconds.into());
        match banned {
            Banned::Address(address) => self.addresses.ban(network(*address), lasting, window, now),
            Banned::User(user) => {
                let hash = self.names.hash_one(user.as_str());
                self.users.ban(hash, lasting, window, now);
                self.remember_name(hash, user, now);
            }
        }
    }

    /// Lifts a ban, whoever made it, and forgets the failures that led to it; false if there is none.
    pub(super) fn lift(&mut self, banned: &Banned, now: Instant) -> bool {
        match banned {
            Banned::Address(address) => self.addresses.lift(&network(*address), now),
            Banned::User(user) => {
                let hash = self.names.hash_one(user.as_str());
                self.banned_names.remove(&hash);
                self.users.lift(&hash, now)
            }
        }
    }

    /// Returns the bans in force, at most `count_max` of each kind, those of operators first.
    pub(super) fn bans(&self, count_max: usize, now: Instant) -> Vec<Ban> {
        let addresses = self.addresses.in_force(count_max, now).map(|(address, left, by_operator)| Ban {
            banned: Banned::Address(*address),
            left,
            by_operator,
        });
        let users = self.users.in_force(count_max, now).map(|(user, left, by_operator)| Ban {
            banned: Banned::User(self.banned_names.get(user).map(ToString::to_string).unwrap_or_default()),
            left,
            by_operator,
        });
        addresses.chain(users).collect()
    }

    /// Tells whether an operator has banned an address.
    pub(super) fn is_banned_by_operator(&self, address: IpAddr, now: Instant) -> bool {
        self.addresses.is_banned_by_operator(&network(address), now)
    }

    fn remember_name(&mut self, hash: u64, user: &str, now: Instant) {
        if self.banned_names.len() >= ENTRIES_MAX {
            let users = &self.users;
            self.banned_names.retain(|hash, _| users.is_banned(hash, now));
        }
        if self.banned_names.len() < ENTRIES_MAX {
            let shortened = user.floor_char_boundary(NAME_BYTES_MAX);
            self.banned_names.insert(hash, user[..shortened].into());
        }
    }

    /// Takes note of a right password.
    pub(super) fn succeeded(&mut self, address: Option<IpAddr>, user: &str, now: Instant) {
        let Some(address) = address.map(network) else { return };
        if self.familiar.len() >= ENTRIES_MAX {
            // The younger half stays; users and addresses that come again are remembered again.
            let mut times: Vec<Instant> = self.familiar.values().copied().collect();
            let middle = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(middle);
            let median = *median;
            self.familiar.retain(|_, at| *at > median);
        }
        self.familiar.insert((self.names.hash_one(user), address), now);
    }

    /// Returns how many addresses and how many users are banned.
    pub(super) fn banned(&self, now: Instant) -> (usize, usize) {
        (self.addresses.banned(now), self.users.banned(now))
    }
}

/// Returns the addresses that are one with this one where somebody is counted: whoever has one IPv6 address has all 2^64 with the
/// same first half.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

struct Table<K> {
    entries: HashMap<K, Entry>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

#[derive(Clone, Copy)]
struct Entry {
    since: Instant,
    failures: u32,
    banned_until: Option<Instant>,
    by_operator: bool,
}

impl Entry {
    fn is_banned(&self, now: Instant) -> bool {
        self.banned_until.is_some_and(|until| now < until)
    }

    fn is_over(&self, window: Duration, now: Instant) -> bool {
        !self.is_banned(now) && now.saturating_duration_since(self.since) >= window
    }
}

impl<K: Eq + Hash> Table<K> {
    fn is_banned(&self, key: &K, now: Instant) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.is_banned(now))
    }

    fn is_banned_by_operator(&self, key: &K, now: Instant) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.by_operator && entry.is_banned(now))
    }

    fn ban(&mut self, key: K, lasting: Duration, window: Duration, now: Instant) {
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&key) {
            self.make_room(window, now);
        }
        let banned_until = now.checked_add(lasting);
        self.entries.insert(key, Entry { since: now, failures: 0, banned_until, by_operator: true });
    }

    fn lift(&mut self, key: &K, now: Instant) -> bool {
        self.entries.remove(key).is_some_and(|entry| entry.is_banned(now))
    }

    /// Returns who is banned, for how long still, and whether by an operator; those by operators first.
    fn in_force(&self, count_max: usize, now: Instant) -> impl Iterator<Item = (&K, Duration, bool)> {
        let of = move |by_operator| {
            self.entries.iter().filter_map(move |(key, entry)| {
                let until =
                    entry.banned_until.filter(|until| now < *until && entry.by_operator == by_operator)?;
                Some((key, until.duration_since(now), by_operator))
            })
        };
        of(true).chain(of(false)).take(count_max)
    }

    fn banned(&self, now: Instant) -> usize {
        self.entries.values().filter(|entry| entry.is_banned(now)).count()
    }

    /// Counts a failure; true if it is the one that bans. A limit of 0 bans nobody.
    fn failed(&mut self, key: K, failures_max: u32, config: &BansConfig, now: Instant) -> bool {
        if failures_max == 0 {
            return false;
        }
        let window = Duration::from_secs(config.window_seconds.into());
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&key) {
            self.make_room(window, now);
        }
        let fresh = Entry { since: now, failures: 0, banned_until: None, by_operator: false };
        let entry = self.entries.entry(key).or_insert(fresh);
        if entry.is_over(window, now) {
            *entry = fresh;
        }
        entry.failures = entry.failures.saturating_add(1);
        if entry.failures < failures_max || entry.is_banned(now) {
            return false;
        }
        entry.banned_until = Some(now + Duration::from_secs(config.seconds.into()));
        entry.by_operator = false;
        true
    }

    fn make_room(&mut self, window: Duration, now: Instant) {
        self.entries.retain(|_, entry| !entry.is_over(window, now));
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.retain(|_, entry| entry.is_banned(now));
        }
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.retain(|_, entry| entry.by_operator);
        }
        if self.entries.len() >= ENTRIES_MAX {
            // So many bans are no protection any more. To keep the oldest would be to let everybody else try for free.
            self.entries.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BansConfig = BansConfig {
        failures_per_address_max: 3,
        failures_per_user_max: 5,
        window_seconds: 60,
        seconds: 300,
    };
    const NONE: NewBans = NewBans { address: false, user: false };

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn an_address_that_fails_too_often_is_banned_for_a_while() {
        // [B14]
        let mut limiter = Limiter::new(CONFIG);
        let start = Instant::now();
        assert_eq!(limiter.failed(address(1), "a", start), NONE);
        assert_eq!(limiter.failed(address(1), "b", start), NONE);
        assert!(!limiter.is_banned(address(1), "c", start));

        assert!(limiter.failed(address(1), "c", start).address);

        assert!(limiter.is_banned(address(1), "d", start));
        assert!(!limiter.is_banned(address(2), "d", start));
        assert_eq!(limiter.banned(start), (1, 0));
        let later = start + Duration::from_secs(300);
        assert!(!limiter.is_banned(address(1), "d", later));
        assert_eq!(limiter.failed(address(1), "a", later), NONE, "it begins anew");
    }

    #[test]
    fn failures_that_are_far_apart_ban_nobody() {
        let mut limiter = Limiter::new(CONFIG);
        let start = Instant::now();
        for minute in 0..100 {
            let now = start + Duration::from_secs(60 * minute);

            assert_eq!(limiter.failed(address(1), "a", now), NONE);
        }
    }

    #[test]
    fn a_user_whose_password_is_guessed_from_everywhere_is_banned_where_it_has_never_been() {
        // [B14]
        let mut limiter = Limiter::new(CONFIG);
        let now = Instant::now();
        limiter.succeeded(address(100), "ann", now);
        for last in 1..=4 {
            assert_eq!(limiter.failed(address(last), "ann", now), NONE);
        }

        assert!(limiter.failed(address(5), "ann", now).user);

        assert!(limiter.is_banned(address(6), "ann", now));
        assert!(limiter.is_banned(None, "ann", now));
        assert!(!limiter.is_banned(address(100), "ann", now));
        assert!(!limiter.is_banned(address(6), "bob", now));
    }

    #[test]
    fn one_who_has_a_whole_prefix_is_one() {
        // [B14]
        let mut limiter = Limiter::new(CONFIG);
        let now = Instant::now();
        let of = |last: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]));
        for last in 1..=3 {
            limiter.failed(of(last), "a", now);
        }

        assert!(limiter.is_banned(of(4), "a", now));
        assert!(!limiter.is_banned(Some(IpAddr::from([0x2001, 0xdb8, 0, 2, 0, 0, 0, 1])), "a", now));
    }

    #[test]
    fn a_limit_of_zero_bans_nobody() {
        let config = BansConfig { failures_per_address_max: 0, failures_per_user_max: 0, ..CONFIG };
        let mut limiter = Limiter::new(config);
        let now = Instant::now();
        for _ in 0..1_000 {
            assert_eq!(limiter.failed(address(1), "a", now), NONE);
        }
    }

    #[test]
    fn a_ban_of_an_operator_holds_everywhere_until_it_is_lifted() {
        let mut limiter = Limiter::new(CONFIG);
        let now = Instant::now();
        let ann = Banned::User("ann".into());
        let place = Banned::Address([192, 0, 2, 1].into());
        limiter.succeeded(address(7), "ann", now);

        limiter.ban(&ann, Duration::from_secs(60), now);
        limiter.ban(&place, Duration::from_secs(30), now);

        assert!(limiter.is_banned(address(7), "ann", now), "a familiar address does not help");
        assert!(limiter.is_banned(address(1), "bob", now));
        assert!(limiter.is_banned_by_operator([192, 0, 2, 1].into(), now));
        let ban = |banned: &Banned, seconds| Ban {
            banned: banned.clone(),
            left: Duration::from_secs(seconds),
            by_operator: true,
        };
        assert_eq!(limiter.bans(10, now), [ban(&place, 30), ban(&ann, 60)]);

        assert!(limiter.lift(&ann, now) && !limiter.lift(&ann, now));
        assert!(!limiter.is_banned(address(7), "ann", now));
        assert_eq!(limiter.bans(10, now + Duration::from_secs(30)), [], "it ends by itself");
    }

    #[test]
    fn a_ban_for_guessing_is_listed_with_its_name_and_can_be_lifted() {
        let mut limiter = Limiter::new(CONFIG);
        let now = Instant::now();
        for last in 1..=5 {
            limiter.failed(address(last), "ann", now);
        }
        let ann = Banned::User("ann".into());

        let listed = limiter.bans(10, now);

        assert_eq!(listed, [Ban { banned: ann.clone(), left: Duration::from_secs(300), by_operator: false }]);
        assert!(limiter.lift(&ann, now));
        assert!(!limiter.is_banned(address(6), "ann", now));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        // [B14]
        let mut limiter = Limiter::new(CONFIG);
        let now = Instant::now();
        for number in 0..200_000_u32 {
            let address = Some(IpAddr::from(number.to_be_bytes()));
            limiter.failed(address, &number.to_string(), now);
            limiter.succeeded(address, &number.to_string(), now + Duration::from_nanos(number.into()));
        }

        assert!(limiter.addresses.entries.len() <= ENTRIES_MAX);
        assert!(limiter.users.entries.len() <= ENTRIES_MAX);
        assert!(limiter.familiar.len() <= ENTRIES_MAX);
    }
}
