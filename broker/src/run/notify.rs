//! What a service manager is told about the life of the process: sd_notify(3), datagrams to the socket in `NOTIFY_SOCKET`.
//!
//! Without that variable nothing is told. Nobody is told that the process is alive while a shard does not turn.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tracing::warn;

use crate::admin::Pulse;

/// Tells the service manager, if there is one.
pub(super) struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants a sign of life, at least.
    watchdog: Option<Duration>,
    /// The turns that each shard had made when it was last asked to make one.
    asked: Option<Vec<u64>>,
}

impl Notifier {
    /// Finds the service manager in the environment.
    pub(super) fn of_environment() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET");
        let manager = socket.and_then(|name| {
            attach(&name).inspect_err(|error| warn!(?name, %error, "NOTIFY_SOCKET cannot be used")).ok()
        });
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|_| is_meant && manager.is_some());
        Self { manager, watchdog: watchdog.map(Duration::from_micros), asked: None }
    }

    /// Returns how often [`Notifier::alive`] is to be called; None if nobody watches.
    pub(super) fn alive_interval(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }

    /// Says that clients are served.
    pub(super) fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving clients");
    }

    /// Says that the configuration is read again; [`Notifier::ready`] follows.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        self.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reading the configuration",
            now.as_micros()
        ));
    }

    /// Says that clients are told farewell.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=ending");
    }

    /// Says that the process is alive, if every shard has turned since it was last asked to.
    pub(super) fn alive(&mut self, shards: &impl Pulse) {
        if self.watchdog.is_none() {
            return;
        }
        let turns = shards.turns();
        let have_turned = |asked: &Vec<u64>| asked.iter().zip(&turns).all(|(before, now)| before < now);
        if self.asked.as_ref().is_none_or(have_turned) {
            self.tell("WATCHDOG=1");
            self.asked = Some(shards.ping());
        }
    }

    fn tell(&self, state: &str) {
        let Some((socket, manager)) = &self.manager else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), manager) {
            warn!(%error, "the service manager cannot be told: {state:?}");
        }
    }
}

/// A name that begins with `@` is in the abstract namespace.
fn attach(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    Ok((UnixDatagram::unbound()?, address))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    /// Two shards of which the second may hang.
    struct Shards {
        turns: AtomicU64,
        second_hangs: AtomicBool,
    }

    impl Pulse for Shards {
        fn ping(&self) -> Vec<u64> {
            let before = self.turns();
            self.turns.fetch_add(1, Ordering::Relaxed);
            before
        }

        fn turns(&self) -> Vec<u64> {
            let turns = self.turns.load(Ordering::Relaxed);
            vec![turns, if self.second_hangs.load(Ordering::Relaxed) { 0 } else { turns }]
        }
    }

    fn manager(folder: &tempfile::TempDir, watchdog: Option<Duration>) -> (UnixDatagram, Notifier) {
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let notifier = Notifier { manager: Some(attach(path.as_os_str()).unwrap()), watchdog, asked: None };
        (manager, notifier)
    }

    fn heard(manager: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 256];
        let bytes = manager.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..bytes].to_vec()).unwrap())
    }

    #[test]
    fn a_shard_that_does_not_turn_keeps_the_sign_of_life_back() {
        let folder = tempfile::tempdir().unwrap();
        let (manager, mut notifier) = manager(&folder, Some(Duration::from_secs(2)));
        let shards = Shards { turns: AtomicU64::new(1), second_hangs: AtomicBool::new(false) };
        let mut signs = |hangs: bool| {
            shards.second_hangs.store(hangs, Ordering::Relaxed);
            notifier.alive(&shards);
            heard(&manager)
        };

        assert_eq!(signs(false).as_deref(), Some("WATCHDOG=1"));
        assert_eq!(signs(false).as_deref(), Some("WATCHDOG=1"));
        assert_eq!(signs(true), None);
        assert_eq!(signs(true), None);
        assert_eq!(signs(false).as_deref(), Some("WATCHDOG=1"));
    }

    #[test]
    fn a_name_with_an_at_sign_is_in_the_abstract_namespace() {
        let name = format!("veilmq-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let attached = attach(OsStr::new(&format!("@{name}"))).unwrap();
        let notifier = Notifier { manager: Some(attached), watchdog: None, asked: None };

        notifier.reloading();

        let text = heard(&manager).unwrap();
        let stamp = text.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
        assert!(text.starts_with("RELOADING=1\n") && stamp.parse::<u64>().unwrap() > 0, "{text}");
    }
}
