//! Messages for one subscriber alone with the programs as people use them: `veil pub --to` and `veil sub --from`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use veilmq_tests::carrier::Carrier;
use veilmq_tests::tools::run;
use veilmq_tests::waiting::wait_until;

use super::plant::{Plant, Running, SECRET, TOPIC};

/// Certifies a publisher that may publish for single subscribers.
fn with_mill(plant: &Plant) {
    let scopes = ["--publish-scope", "factory/#", "--publish-scope", "_veil/1/p2p/#"];
    let who = ["ca", "issue", "--dir", "ca", "--subject", "mill", "--role", "publisher", "--out", "."];
    plant.made(&[&who[..], &scopes].concat());
}

fn read(plant: &Plant, name: &str) -> Running {
    let more = ["--from", "mill.vmc", "--require-signatures", "-t", "factory/#", "-v", "-q", "1"];
    plant.start(&["sub"], name, &more)
}

/// The status and the complaints of what `name` publishes.
fn publish(plant: &Plant, name: &str, more: &[&str]) -> (Option<i32>, String) {
    let base = ["--sign", "-t", TOPIC, "-q", "1"];
    let output = run(&mut plant.connecting(&["pub"], name, &[&base[..], more].concat()), 60);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn what_is_for_one_subscriber_is_read_by_that_one_alone(plant: &Plant) {
    with_mill(plant);
    let lake = read(plant, "lake");
    let _hill = read(plant, "hill");
    let line = |text: &str| format!("{TOPIC} {text}");
    let done = |more: &[&str]| {
        let (status, complaints) = publish(plant, "mill", more);
        assert_eq!(status, Some(0), "{complaints}");
    };

    done(&["--to", "lake.vmc", "-m", SECRET]);
    done(&["--to", "hill.vmc", "--to", "lake.vmc", "-m", "for both"]);

    plant.wait_for("lake", &line(SECRET));
    for name in ["lake", "hill"] {
        plant.wait_for(name, &line("for both"));
    }
    assert!(!plant.has_printed("hill", &line(SECRET)));

    // The key is there already.
    drop(lake);
    done(&["--to", "lake.vmc", "-m", "left behind", "-r"]);
    let _lake = read(plant, "lake");
    plant.wait_for("lake", &line("left behind"));

    let all = plant.run("sub", "press", &["-t", "_veil/1/p2p/#", "--json", "-C", "1", "-W", "20"]);
    assert!(all.contains(&format!("\"topic\":\"_veil/1/p2p/{}/{TOPIC}\"", plant.kid("lake"))), "{all}");
    // An envelope of a pair, and signed.
    assert!(all.contains("\"payload_hex\":\"5645100281"), "{all}");
}

#[test]
fn what_is_for_one_subscriber_is_read_by_that_one_alone_with_veilmq() {
    what_is_for_one_subscriber_is_read_by_that_one_alone(&Plant::new(Carrier::veilmq()));
}

#[test]
fn what_is_for_one_subscriber_is_read_by_that_one_alone_with_mosquitto_over_tls() {
    let Some(mosquitto) = Carrier::mosquitto_over_tls() else { return };
    what_is_for_one_subscriber_is_read_by_that_one_alone(&Plant::new(mosquitto));
}

#[test]
fn who_has_no_key_in_common_with_the_publisher_is_named_and_keeps_nothing_from_others() {
    let plant = Plant::new(Carrier::veilmq());
    with_mill(&plant);
    let _lake = read(&plant, "lake");
    sleep(Duration::from_millis(500));

    let begun = Instant::now();
    let both = ["--to", "hill.vmc", "--to", "lake.vmc", "-m", "for both", "--repeat", "3"];
    let both = [&both[..], &["--repeat-delay", "6"]].concat();
    let (status, complaints) = publish(&plant, "mill", &both);

    assert_eq!(status, Some(1));
    let absent = "veil: hill has no key in common with this client: ";
    assert_eq!(complaints.matches(absent).count(), 3, "{complaints}");
    assert!(complaints.ends_with("veil: 3 messages were not published\n"), "{complaints}");
    assert!(begun.elapsed() < Duration::from_secs(18), "ten seconds are waited once, not for each message");
    wait_until("three messages", || plant.printed("lake").lines().count() == 3);

    let (status, complaints) = publish(&plant, "press", &["--to", "lake.vmc", "-m", "x"]);
    assert_eq!(status, Some(1));
    assert!(complaints.contains("issue it with --publish-scope '_veil/1/p2p/#'"), "{complaints}");
}
