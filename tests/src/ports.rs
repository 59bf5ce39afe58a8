//! Reserves TCP ports on 127.0.0.1 for the lifetime of a test.
//!
//! Ports come from below the range that the kernel uses for outgoing connections, so that no client can take one
//! by chance, and each is guarded by a locked file, so that test processes running side by side never share one.

use std::fs::{File, create_dir_all};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Holds one port of 127.0.0.1 until it is dropped.
#[derive(Debug)]
pub struct ReservedPort {
    port: u16,
    _lock: File,
}

impl ReservedPort {
    /// Reserves a port on which nothing listens.
    ///
    /// # Panics
    /// If the lock directory cannot be written or every port is taken.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);

        let locks = std::env::temp_dir().join("veilmq-test-ports");
        create_dir_all(&locks).unwrap_or_else(|error| panic!("cannot create {}: {error}", locks.display()));
        let start = (std::process::id() % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
            let port = FIRST + (u32::from(start) + u32::from(step)).rem_euclid(u32::from(COUNT)) as u16;
            let path = locks.join(port.to_string());
            let lock = File::create(&path)
                .unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Self { port, _lock: lock };
            }
        }
        panic!("no free port between {FIRST} and {}", FIRST + COUNT)
    }

    /// The port number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.port
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }
}

impl Default for ReservedPort {
    fn default() -> Self {
        Self::new()
    }
}
