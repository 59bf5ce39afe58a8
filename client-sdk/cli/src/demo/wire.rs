//! What crosses the wire: a proxy between one client of the demonstration and the broker, and the names of what passed.
//!
//! Every byte is kept, so it is for demonstrations only. Invariant: nothing is decrypted here; what cannot be told from
//! outside is shown as bytes.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use veilmq_protocol::{
    PACKET_BYTES_MAX, next_frame,
    veil::record::{HEADER_LEN, RecordHeader, RecordType},
};

use crate::{failure::Failure, format::hex};

/// How much of a unit is shown.
const SHOWN_BYTES: usize = 24;
const READ_BYTES: usize = 16 << 10;
/// There is no packet type 0, and no record type as high as this in the first phase of a channel.
const FIRST_PACKET: u8 = 0x10;

type Captured = Arc<Mutex<Vec<u8>>>;

/// A proxy for one client.
pub(super) struct Wire {
    port: u16,
    to_broker: Captured,
    from_broker: Captured,
}

/// One MQTT packet or record, or several of the same name in a row.
#[derive(Debug, PartialEq, Eq)]
struct Unit {
    name: String,
    count: usize,
    bytes: usize,
    start: Vec<u8>,
}

impl Wire {
    /// Listens for one client of the broker at `host` and `port`.
    ///
    /// # Errors
    /// There is no free port.
    pub(super) async fn before(host: &str, port: u16) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::new(format!("the proxy of the demonstration: {error}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let wire = Self {
            port: listener.local_addr().map_err(failed)?.port(),
            to_broker: Captured::default(),
            from_broker: Captured::default(),
        };
        let (up, down) = (Arc::clone(&wire.to_broker), Arc::clone(&wire.from_broker));
        let host = host.to_owned();
        tokio::spawn(async move {
            let Ok((client, _)) = listener.accept().await else { return };
            // A broker that refuses is seen by the client as a closed connection.
            let Ok(broker) = TcpStream::connect((host, port)).await else { return };
            let ((from_client, to_client), (from_broker, to_broker)) =
                (client.into_split(), broker.into_split());
            tokio::spawn(forward(from_client, to_broker, up));
            tokio::spawn(forward(from_broker, to_client, down));
        });
        Ok(wire)
    }

    /// Where the client connects, on the loopback.
    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// Whether `secret` passed in clear, in either direction.
    pub(super) fn has_shown(&self, secret: &[u8]) -> bool {
        let holds =
            |captured: &Captured| lock(captured).windows(secret.len().max(1)).any(|window| window == secret);
        holds(&self.to_broker) || holds(&self.from_broker)
    }

    /// Whether the broker has sent a record of this type.
    pub(super) fn has_brought(&self, record: RecordType) -> bool {
        let name = record_name(record);
        units(&lock(&self.from_broker)).iter().any(|unit| unit.name == name)
    }

    /// Prints what passed, in both directions.
    pub(super) fn print(&self, who: &str) {
        for (captured, title) in
            [(&self.to_broker, format!("{who} -> broker")), (&self.from_broker, format!("broker -> {who}"))]
        {
            let captured = lock(captured);
            say!("  {title}: {} bytes", captured.len());
            for unit in units(&captured) {
                let more = if unit.start.len() < unit.bytes { " ..." } else { "" };
                let times = if unit.count > 1 { format!(" x {}", unit.count) } else { String::new() };
                let name = format!("{}{times}", unit.name);
                say!("    {name:<42} {:>7} bytes  {}{more}", unit.bytes, hex(&unit.start));
            }
        }
    }
}

fn lock(captured: &Captured) -> std::sync::MutexGuard<'_, Vec<u8>> {
    captured.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, captured: Captured) {
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let passed = buffer.get(..count).unwrap_or_default();
        lock(&captured).extend_from_slice(passed);
        if to.write_all(passed).await.is_err() {
            return;
        }
    }
    // The other direction may have closed it already.
    let _ = to.shutdown().await;
}

/// Takes bytes apart: packets, and records once the first of them comes. No packet begins as a record does whose keys are
/// the first of the connection.
fn units(mut bytes: &[u8]) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    while !bytes.is_empty() {
        let (name, len) = first_unit(bytes).unwrap_or_else(|| ("other bytes".to_owned(), bytes.len()));
        let (unit, rest) = bytes.split_at_checked(len).unwrap_or((bytes, &[]));
        match units.last_mut().filter(|last| last.name == name) {
            Some(last) => {
                last.count += 1;
                last.bytes += unit.len();
            }
            None => units.push(Unit {
                name,
                count: 1,
                bytes: unit.len(),
                start: unit.get(..SHOWN_BYTES).unwrap_or(unit).to_vec(),
            }),
        }
        bytes = rest;
    }
    units
}

fn first_unit(bytes: &[u8]) -> Option<(String, usize)> {
    if bytes.first().is_some_and(|first| *first < FIRST_PACKET) {
        let header = RecordHeader::read(bytes).ok()??;
        let body = usize::try_from(header.len).ok()?;
        return Some((record_name(header.record_type), HEADER_LEN.checked_add(body)?));
    }
    let (frame, len) = next_frame(bytes, PACKET_BYTES_MAX).ok()??;
    Some((frame.packet_type().name().to_owned(), len))
}

fn record_name(record: RecordType) -> String {
    let (form, what) = match record {
        RecordType::Integrity => ("I", "packets, authenticated"),
        RecordType::Encrypted => ("EI", "packets, encrypted"),
        RecordType::FanDigest => ("FAN-D", "one body, a tag for each"),
        RecordType::FanGroup => ("FAN-G", "one body, a group MAC"),
        RecordType::FanGroupEncrypted => ("FAN-GE", "one body, encrypted once"),
        RecordType::Control => ("CTRL", "encrypted"),
    };
    format!("record {form} ({what})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_and_records_are_told_apart_and_repeats_are_counted() {
        let pingreq = [0xC0, 0];
        let subscribe = [0x82, 2, 0, 1];
        let record = [0x02, 0, 0, 0, 3, 9, 9, 9];
        let bytes = [&pingreq[..], &pingreq, &subscribe, &record, &record[..4]].concat();

        let found: Vec<_> =
            units(&bytes).into_iter().map(|unit| (unit.name, unit.count, unit.bytes)).collect();

        let named = |name: &str, count, bytes| (name.to_owned(), count, bytes);
        assert_eq!(
            found,
            [
                named("PINGREQ", 2, 4),
                named("SUBSCRIBE", 1, 4),
                named("record EI (packets, encrypted)", 1, 8),
                named("other bytes", 1, 4),
            ]
        );
    }
}
