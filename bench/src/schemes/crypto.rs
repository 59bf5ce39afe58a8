//! What the broker computes for one message, apart from everything else that it does: the same calls on the same records as in
//! the broker, on one thread, without a socket.

use std::hint::black_box;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use veilmq_protocol::veil::channel::{GroupSealer, RecordOpener, RecordSealer, Secret32, Side, gbody_digest};
use veilmq_protocol::veil::record::SharedBody;
use veilmq_protocol::veil::{Scheme, Suite};

use super::contestant::Contestant;
use crate::Failure;

/// Batches of messages; the figure is the lower quartile of theirs, which other programs on the machine disturb least.
const BATCHES: usize = 24;
/// Records of one batch, about, and messages, at least.
const BATCH_RECORDS: usize = 200;
const BATCH_MESSAGES_MIN: usize = 10;
/// The per-subscriber part of a fan-out record: flags, Packet Identifier, no properties.
const HEADER: [u8; 5] = [0x02, 0, 1, 0, 0];
const RECORD_BYTES_MAX: usize = 1 << 20;

/// What the broker's cryptography takes for one message.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct CryptoCost {
    pub(crate) contestant: Contestant,
    pub(crate) suite: u8,
    pub(crate) payload_bytes: usize,
    pub(crate) subscribers: u16,
    pub(crate) micros: f64,
}

/// The two ends of a publisher's channel and the broker's ends of its subscribers'.
struct Bench {
    contestant: Contestant,
    publisher: RecordSealer,
    from_publisher: RecordOpener,
    to_subscribers: Vec<RecordSealer>,
    group: GroupSealer,
    payload: Vec<u8>,
    out: Vec<u8>,
    prefix: Vec<u8>,
}

/// Measures one contestant with channels.
///
/// # Errors
/// It has none, or a record does not open.
pub(crate) fn measure(
    contestant: Contestant,
    suite: Suite,
    payload_bytes: usize,
    subscribers: u16,
) -> Result<CryptoCost, Failure> {
    let scheme = contestant.scheme().ok_or("there is no channel")?;
    let secret = |byte: u8| Secret32::new(&[byte; 32]);
    let mut bench = Bench {
        contestant,
        publisher: RecordSealer::new(suite, scheme, secret(1)),
        from_publisher: RecordOpener::new(Side::Broker, suite, scheme, secret(1)),
        to_subscribers: (0..subscribers)
            .map(|index| RecordSealer::new(suite, scheme, secret(index.to_be_bytes()[1])))
            .collect(),
        group: GroupSealer::new(1, 1, suite, false, secret(2)),
        payload: vec![0x5A; payload_bytes],
        out: Vec::new(),
        prefix: Vec::new(),
    };
    let copies = if scheme == Scheme::Two { usize::from(subscribers) } else { 1 };
    let messages = (BATCH_RECORDS / usize::from(subscribers).max(1)).max(BATCH_MESSAGES_MIN);
    let mut samples = Vec::with_capacity(BATCHES);
    for batch in 0..=BATCHES {
        let arriving: Vec<Vec<Vec<u8>>> =
            (0..messages).map(|_| (0..copies).map(|_| bench.arriving()).collect()).collect();
        let start = thread_time()?;
        for message in arriving {
            bench.message(message)?;
        }
        // The first batch warms up.
        if batch > 0 {
            samples.push((thread_time()? - start).as_secs_f64() * 1e6 / messages as f64);
        }
    }
    samples.sort_by(f64::total_cmp);
    let micros = samples.get(BATCHES / 4).copied().ok_or("nothing was measured")?;
    Ok(CryptoCost { contestant, suite: suite as u8, payload_bytes, subscribers, micros })
}

impl Bench {
    /// A record of one message from the publisher, whose sealing is not the broker's.
    fn arriving(&mut self) -> Vec<u8> {
        let mut record = Vec::new();
        let open = self.publisher.begin(&mut record);
        record.extend_from_slice(&self.payload);
        self.publisher.finish(&mut record, open);
        record
    }

    /// Opens what arrived, which is one copy for each subscriber where there is no group key, and seals what leaves.
    fn message(&mut self, records: Vec<Vec<u8>>) -> Result<(), Failure> {
        let Self { contestant, from_publisher, to_subscribers, group, payload, out, prefix, .. } = self;
        for mut record in records {
            from_publisher.next(&mut record, RECORD_BYTES_MAX)?.ok_or("a record is not whole")?;
            black_box(&record);
        }
        out.clear();
        let body = SharedBody { stamp: None, topic: b"factory/line-3/reading", properties: &[], payload };
        match contestant {
            Contestant::Scheme2 => {
                for sealer in to_subscribers {
                    out.clear();
                    let open = sealer.begin(out);
                    out.extend_from_slice(payload);
                    sealer.finish(out, open);
                    black_box(&out);
                }
            }
            Contestant::Scheme3 => {
                let fan = group.encrypt(body, 0, out)?;
                for sealer in to_subscribers {
                    prefix.clear();
                    black_box(sealer.fan_group(prefix, &HEADER, &fan)?);
                }
            }
            Contestant::Scheme4 => {
                let (fan, _) = group.authenticate(body, 0, out)?;
                for sealer in to_subscribers {
                    prefix.clear();
                    black_box(sealer.fan_group(prefix, &HEADER, &fan)?);
                }
            }
            Contestant::Veil => {
                body.encode_head(out)?;
                let digest = gbody_digest(&[out, payload]);
                let body_bytes = out.len() + payload.len();
                for sealer in to_subscribers {
                    prefix.clear();
                    black_box(sealer.fan_d(prefix, &HEADER, &digest, body_bytes)?);
                }
            }
            Contestant::Plain | Contestant::Scheme1 | Contestant::Conventional => {}
        }
        Ok(())
    }
}

fn thread_time() -> Result<Duration, Failure> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
