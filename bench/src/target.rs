//! The broker to load: an address that must be loopback unless the user says otherwise.

use std::net::{SocketAddr, ToSocketAddrs};

use thiserror::Error;

/// Why a target is not loaded.
#[derive(Debug, Error)]
pub(crate) enum TargetError {
    #[error("target {target:?} is not a host:port that resolves: {source}")]
    Unresolvable {
        target: String,
        #[source]
        source: std::io::Error,
    },
    #[error("target {target:?} has no address")]
    NoAddress { target: String },
    #[error("target {target:?} is {address}, not a loopback address: pass --allow-remote to load it")]
    Remote { target: String, address: SocketAddr },
}

/// Resolves `host:port`, preferring IPv4, and refuses a name with any address that is not loopback.
///
/// # Errors
/// The name does not resolve, or it is remote and `allow_remote` is not set.
pub(crate) fn resolve(target: &str, allow_remote: bool) -> Result<SocketAddr, TargetError> {
    let mut addresses: Vec<SocketAddr> = target
        .to_socket_addrs()
        .map_err(|source| TargetError::Unresolvable { target: target.to_owned(), source })?
        .collect();
    // Brokers that listen on one loopback address only listen on 127.0.0.1.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    if let Some(remote) = addresses.iter().find(|address| !address.ip().is_loopback() && !allow_remote) {
        return Err(TargetError::Remote { target: target.to_owned(), address: *remote });
    }
    addresses.first().copied().ok_or_else(|| TargetError::NoAddress { target: target.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_addresses_are_accepted() {
        for target in ["127.0.0.1:1883", "127.9.9.9:1", "[::1]:1883"] {
            assert_eq!(resolve(target, false).unwrap(), target.parse().unwrap());
        }
        assert!(resolve("localhost:1883", false).unwrap().ip().is_loopback());
    }

    #[test]
    fn remote_addresses_need_permission() {
        for target in ["192.0.2.1:1883", "0.0.0.0:1883", "[2001:db8::1]:1883"] {
            let error = resolve(target, false).unwrap_err();

            assert!(error.to_string().contains("--allow-remote"), "{error}");
            assert_eq!(resolve(target, true).unwrap(), target.parse().unwrap());
        }
    }

    #[test]
    fn a_target_without_a_port_is_named() {
        for target in ["localhost", "localhost:99999", "localhost:mqtt?", ""] {
            let error = resolve(target, true).unwrap_err();

            assert!(error.to_string().contains(&format!("{target:?}")), "{error}");
        }
    }
}
