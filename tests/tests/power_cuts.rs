//! Power cuts under load: whatever was acknowledged is there when the broker starts on what a disk would hold.
//!
//! A broker that serves a fleet is recorded once, down to its writes and syncs. Each cut takes the recording up to some moment,
//! keeps what was synced by then and 0, 50 or 90 % of the rest, starts a broker on that, and compares what it has with
//! what it had acknowledged before the moment. `VEILMQ_CUTS` is the number of cuts, `VEILMQ_SEED` repeats the choices of an earlier
//! run (of the cuts; what the recording holds depends on the scheduler too).

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use tempfile::TempDir;
use veilmq_tests::broker::Broker;
use veilmq_tests::crash::dice::{Dice, from_environment, seed};
use veilmq_tests::crash::disk::{Disk, Syncs};
use veilmq_tests::crash::fleet::Fleet;
use veilmq_tests::crash::log::Position;
use veilmq_tests::crash::trace::{Call, Recording, recorder};
use veilmq_tests::tools::require_tool;

/// A delay would be waited for after each cut.
const WILL_DELAY_SECONDS: u32 = 0;
const PERCENT_KEPT: [u64; 3] = [0, 50, 90];
const WORKERS: usize = 2;

/// What the recorded broker found when it started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// No data directory.
    Empty,
    /// What a broker left that was killed under load.
    Grown,
}

/// A recorded broker, and what its clients knew.
struct Session {
    /// What was there when the recording began.
    before: TempDir,
    recording: Recording,
    fleet: Fleet,
    /// The connections that were made before the recording began.
    earlier_connections: usize,
    /// The recorded connection of each connection of the clients, if the broker came to accept it.
    connections: Vec<Option<usize>>,
}

/// A moment of the recording.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cut {
    /// The calls before the cut.
    calls: usize,
    percent_kept: u64,
}

impl Session {
    /// The recordings of this test program, each made once; none where `strace` is absent and need not be there.
    fn shared(start: Start) -> Option<&'static Self> {
        static EMPTY: OnceLock<Option<Session>> = OnceLock::new();
        static GROWN: OnceLock<Option<Session>> = OnceLock::new();
        let session = if start == Start::Empty { &EMPTY } else { &GROWN };
        session.get_or_init(|| require_tool("strace").map(|strace| Self::record(&strace, start))).as_ref()
    }

    fn record(strace: &Path, start: Start) -> Self {
        let mut broker = Broker::not_started();
        let mut fleet = Fleet::new(Dice::new(seed()), WILL_DELAY_SECONDS);
        fleet.remember();
        let time = Duration::from_millis(from_environment("VEILMQ_RECORD_MILLISECONDS", 1_000));
        let before = tempfile::tempdir().expect("the temporary directory is writable");
        if start == Start::Grown {
            broker.restart();
            fleet.enlist(broker.address()).expect("the broker takes subscriptions");
            fleet.work(&mut broker, time);
            copy(&broker.data_dir(), &before.path().join("data")).expect("the data directory can be copied");
        }
        let earlier_connections = fleet.ports().len();
        let earlier_messages = fleet.acknowledged();

        let folder = tempfile::tempdir().expect("the temporary directory is writable");
        let file = folder.path().join("trace");
        broker.run_under(recorder(strace, &file));
        broker.restart();
        let process_id = broker.process_id().expect("the broker runs");
        if start == Start::Empty {
            fleet.enlist(broker.address()).expect("the broker takes subscriptions");
        }
        fleet.work(&mut broker, time);
        assert_eq!(fleet.faults(), [""; 0], "already while it was recorded");

        let trace = finished_trace(&file, process_id);
        let root = broker.directory().canonicalize().expect("the directory of the broker exists");
        let recording = Recording::read(&trace, &root).unwrap_or_else(|error| panic!("{error}"));
        let ports = fleet.ports().split_off(earlier_connections);
        let connections = (0..ports.len()).map(|index| {
            let earlier = ports[..index].iter().filter(|port| **port == ports[index]).count();
            let same = recording.ports.iter().enumerate().filter(|(_, port)| **port == ports[index]);
            same.map(|(connection, _)| connection).nth(earlier)
        });
        let connections = connections.collect();
        println!(
            "recorded: {} calls, {} messages acknowledged after {earlier_messages} that were not recorded",
            recording.calls.len(),
            fleet.acknowledged() - earlier_messages
        );
        Self { before, recording, fleet, earlier_connections, connections }
    }

    /// Half of the moments are anywhere, and half when an answer has just been sent.
    fn cuts(&self, count: u64, dice: &mut Dice) -> Vec<Cut> {
        let calls = &self.recording.calls;
        let answers: Vec<usize> =
            (0..calls.len()).filter(|call| matches!(calls[*call], Call::Send { count: 1.., .. })).collect();
        let mut cuts: Vec<Cut> = (0..count as usize)
            .map(|cut| Cut {
                calls: match cut % 2 {
                    0 => dice.below(calls.len() as u64 + 1) as usize,
                    _ => answers[dice.below(answers.len() as u64) as usize] + 1,
                },
                percent_kept: PERCENT_KEPT[cut % PERCENT_KEPT.len()],
            })
            .collect();
        cuts.sort_unstable();
        cuts
    }

    /// Makes the cuts, which are in order; returns the promises that each broke.
    fn make(&self, cuts: &[Cut], syncs: Syncs, settle_limit: Duration, mut dice: Dice) -> Vec<Vec<String>> {
        let mut disk = Disk::new(syncs);
        disk.import(self.before.path()).expect("the copy can be read");
        let mut sent = vec![0; self.recording.ports.len()];
        let mut calls = self.recording.calls.iter().enumerate().peekable();
        let outcome = |cut: &Cut| {
            while let Some((_, call)) = calls.next_if(|(index, _)| *index < cut.calls) {
                disk.apply(call);
                if let Call::Send { connection, count } = call {
                    sent[*connection] += count;
                }
            }
            let is_past = |position: Position| match position.connection.checked_sub(self.earlier_connections)
            {
                None => true,
                Some(connection) => self.connections[connection]
                    .is_some_and(|connection| sent[connection] >= position.received_bytes),
            };
            let mut broker = Broker::not_started();
            disk.cut(broker.directory(), cut.percent_kept, &mut dice).expect("the copy can be written");
            broken_by(&mut broker, self.fleet.at(is_past, dice.split()), settle_limit)
        };
        cuts.iter().map(outcome).collect()
    }
}

/// Starts the broker on what is left and returns what is missing.
fn broken_by(broker: &mut Broker, mut fleet: Fleet, settle_limit: Duration) -> Vec<String> {
    if let Err(reason) = broker.try_restart() {
        return vec![reason];
    }
    if !broker.get("/readyz").body.contains("\"storage_quarantined\":null") {
        fleet.fault("the store was set aside".to_owned());
    }
    fleet.audit(broker.address());
    fleet.settle(broker, settle_limit);
    fleet.faults()
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Waits until the recorder has written that the broker is dead, and returns all that it wrote.
fn finished_trace(file: &PathBuf, process_id: u32) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    let end = format!("{process_id} +++ killed by SIGKILL +++");
    while Instant::now() < deadline {
        let trace = fs::read_to_string(file).unwrap_or_default();
        if trace.lines().next_back().is_some_and(|line| line.split_whitespace().eq(end.split_whitespace())) {
            return trace;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("the recorder does not come to an end")
}

/// Makes so many cuts of a recording and tells of each that broke a promise.
fn cut_and_compare(start: Start, count: u64) {
    let Some(session) = Session::shared(start) else { return };
    let mut dice = Dice::new(seed());
    let cuts = session.cuts(count, &mut dice);

    let started = Instant::now();
    let broken: Vec<String> = thread::scope(|scope| {
        let share = cuts.len().div_ceil(WORKERS).max(1);
        let workers = cuts.chunks(share).map(|cuts| {
            let dice = dice.split();
            (cuts, scope.spawn(move || session.make(cuts, Syncs::Kept, Duration::from_secs(30), dice)))
        });
        let workers: Vec<_> = workers.collect();
        let outcomes = workers
            .into_iter()
            .flat_map(|(cuts, worker)| cuts.iter().zip(worker.join().expect("a cut can be made")));
        let told = outcomes.filter(|(_, broken)| !broken.is_empty()).map(|(cut, broken)| {
            format!("cut after call {}, {} % kept:\n{}", cut.calls, cut.percent_kept, broken.join("\n"))
        });
        told.collect()
    });

    println!("{} cuts in {:?}", cuts.len(), started.elapsed());
    assert!(broken.is_empty(), "\n{} cuts of {}:\n{}\n", broken.len(), cuts.len(), broken.join("\n"));
}

#[test]
fn a_broker_that_began_with_nothing_keeps_its_promises_over_power_cuts() {
    // [E02]
    cut_and_compare(Start::Empty, from_environment("VEILMQ_CUTS", 12).div_ceil(2));
}

#[test]
fn a_broker_that_had_been_killed_before_keeps_its_promises_over_power_cuts() {
    cut_and_compare(Start::Grown, from_environment("VEILMQ_CUTS", 12) / 2);
}

#[test]
fn a_broker_whose_files_are_never_synced_is_found_to_lose_what_it_acknowledged() {
    let Some(session) = Session::shared(Start::Empty) else { return };
    let calls = session.recording.calls.len();
    let cuts = PERCENT_KEPT.map(|percent_kept| Cut { calls, percent_kept });

    let broken = session.make(&cuts, Syncs::OfNamesAlone, Duration::from_secs(1), Dice::new(1));

    for (cut, broken) in cuts.iter().zip(broken) {
        assert!(!broken.is_empty(), "nothing was lost with {} % kept", cut.percent_kept);
    }
}
