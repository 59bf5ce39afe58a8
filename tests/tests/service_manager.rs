//! What systemd is told about the life of the broker, and the unit that it is started by.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use veilmq_tests::broker::Broker;
use veilmq_tests::tools::workspace_root;
use veilmq_tests::wire::Wire;

/// Hears what the broker tells, without its signs of life.
struct Manager(UnixDatagram);

impl Manager {
    /// Waits for a datagram with this line.
    fn hears(&self, line: &str) -> String {
        let until = Instant::now() + Duration::from_secs(20);
        let mut buffer = [0; 1024];
        while Instant::now() < until {
            let Ok(bytes) = self.0.recv(&mut buffer) else { continue };
            let text = String::from_utf8_lossy(&buffer[..bytes]).into_owned();
            if text.lines().any(|heard| heard == line) {
                return text;
            }
            assert_eq!(text, "WATCHDOG=1", "while waiting for {line}");
        }
        panic!("{line} was not heard");
    }
}

#[test]
fn the_service_manager_hears_of_start_reload_signs_of_life_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let manager = Manager(manager);
    let mut broker = Broker::not_started();
    let socket = format!("NOTIFY_SOCKET={}", path.display());
    broker.run_under(vec!["env".into(), socket, "WATCHDOG_USEC=200000".into()]);

    broker.spawn();

    manager.hears("READY=1");
    let _ = Wire::connect(broker.address(), "served", true);
    manager.hears("WATCHDOG=1");

    let process = Pid::from_raw(i32::try_from(broker.process_id().unwrap()).unwrap());
    kill(process, Signal::SIGHUP).unwrap();

    let reloading = manager.hears("RELOADING=1");
    assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    manager.hears("READY=1");

    assert_eq!(broker.terminate(10).code(), Some(0));
    manager.hears("STOPPING=1");
}

#[test]
fn the_unit_waits_for_the_broker_watches_it_and_takes_every_privilege_from_it() {
    let unit = std::fs::read_to_string(workspace_root().join("deploy/veilmq.service")).unwrap();
    let says = |line: &str| unit.lines().any(|given| given == line);

    for line in [
        "Type=notify",
        "WatchdogSec=30",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "User=veilmq",
        "StateDirectory=veilmq",
        "CapabilityBoundingSet=",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateDevices=yes",
        "MemoryDenyWriteExecute=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "SystemCallFilter=@system-service",
    ] {
        assert!(says(line), "{line} is missing");
    }
    let sysusers = std::fs::read_to_string(workspace_root().join("deploy/veilmq.sysusers")).unwrap();
    assert!(sysusers.starts_with("u veilmq "), "{sysusers}");
}
