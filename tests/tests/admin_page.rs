//! The page of the admin listener in a real browser: what it shows, to whom, in both colour schemes and on a phone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use veilmq_tests::broker::Broker;
use veilmq_tests::browser::Browser;
use veilmq_tests::wire::{Wire, publish_packet};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn broker() -> Broker {
    let mut broker = Broker::configured(|address| {
        format!(
            "access.anonymous = true\nshards.count = 2\nadmin.token_file = \"TOKEN\"\n[[listeners]]\naddress = \"{address}\"\n"
        )
    });
    let token = broker.directory().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    let file = broker.directory().join("veilmq.toml");
    let configuration = std::fs::read_to_string(&file).unwrap().replace("\"TOKEN\"", &format!("{token:?}"));
    std::fs::write(file, configuration).unwrap();
    broker.restart();
    broker
}

/// Writes the picture where `VEILMQ_PICTURES` says, for people to look at.
fn keep_picture(browser: &mut Browser, name: &str) {
    let Some(folder) = std::env::var_os("VEILMQ_PICTURES") else { return };
    std::fs::write(std::path::Path::new(&folder).join(format!("{name}.png.base64")), browser.picture())
        .unwrap();
}

#[test]
fn the_page_shows_the_broker_to_everybody_and_its_clients_to_operators() {
    let broker = broker();
    let Some(mut browser) = Browser::start() else { return };
    let mut wires: Vec<Wire> = ["boiler-1", "boiler-2", "\u{202e}pmal", ".."]
        .iter()
        .map(|name| Wire::connect(broker.address(), name, false).0)
        .collect();
    wires[0].subscribe("house/#", 1);
    browser.look_like(1240, 900, "light");

    browser.open(&format!("http://{}/", broker.admin()));

    browser.wait_until("document.querySelector('#state')?.textContent === 'ready'");
    browser.wait_until("document.querySelector('#f-connections b')?.textContent === '4'");
    wires[1].send(&publish_packet("house/1", 1, 1, false, b"warm")).unwrap();
    browser.wait_until("parseFloat(document.querySelector('#f-in b').textContent) > 0");
    let listeners = browser.evaluate("document.querySelector('#t-listeners').innerText");
    assert!(listeners.as_str().unwrap().contains(&broker.address().to_string()), "{listeners}");
    assert_eq!(browser.evaluate("document.querySelector('#clients').hidden"), true, "no token was shown");

    let log_in = |token: &str| format!("$('token').value = '{token}'; $('login').requestSubmit()");
    browser.evaluate(&log_in("wrong"));
    browser.wait_until("document.querySelector('#refused').textContent.includes('token')");
    browser.evaluate(&log_in(TOKEN));
    browser.wait_until("document.querySelectorAll('#list tbody tr').length === 4");
    // A path would have lost it on the way.
    browser.evaluate("document.querySelector('#list button').click()");
    assert_eq!(wires.pop().unwrap().until_closed().len(), 0);
    browser.wait_until("document.querySelectorAll('#list tbody tr').length === 3");
    let names = browser.evaluate("document.querySelector('#list').innerText");
    assert!(names.as_str().unwrap().contains(r"\u{202e}pmal"), "a name does not turn itself round: {names}");
    browser.evaluate("$('prefix').value = 'boiler'; $('prefix').oninput()");
    browser.wait_until("document.querySelectorAll('#list tbody tr').length === 2");

    assert_eq!(wires[0].packet().unwrap().first, 0x32, "the message of the other");
    browser.evaluate("document.querySelector('#list button').click()");
    assert_eq!(wires.remove(0).until_closed().len(), 0, "MQTT 3.1.1 has no DISCONNECT from the server");
    browser.wait_until("document.querySelectorAll('#list tbody tr').length === 1");
    browser.evaluate("$('banned').value = '192.0.2.9'; $('ban').requestSubmit()");
    browser.wait_until("document.querySelector('#bans').innerText.includes('192.0.2.9')");
    browser.evaluate("$('level').value = 'debug'; $('level').onchange()");
    browser.wait_until("document.querySelector('#said').textContent.includes('debug')");

    // The refused token is one that the browser logs as an error of the network.
    let complaints: Vec<_> = browser.complaints().iter().filter(|text| !text.contains("401")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[test]
fn the_page_fits_a_phone_and_has_a_dark_and_a_light_scheme() {
    let broker = broker();
    let Some(mut browser) = Browser::start() else { return };
    let _wires: Vec<Wire> = (0..20)
        .map(|number| {
            Wire::connect(broker.address(), &format!("a-device-with-a-long-name-{number:04}"), true).0
        })
        .collect();
    let mut papers = Vec::new();
    for (scheme, width) in [("light", 1240), ("dark", 1240), ("light", 375), ("dark", 375)] {
        browser.look_like(width, 800, scheme);
        browser.open(&format!("http://{}/", broker.admin()));
        browser.wait_until("document.querySelector('#f-connections b')?.textContent === '20'");
        browser
            .evaluate(&format!("if (!token) {{ $('token').value = '{TOKEN}'; $('login').requestSubmit() }}"));
        browser.wait_until("document.querySelectorAll('#list tbody tr').length === 20");

        let overflow =
            browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert_eq!(overflow, 0, "{scheme} {width}: the page is wider than the window");
        papers.push(browser.evaluate("getComputedStyle(document.body).backgroundColor"));
        keep_picture(&mut browser, &format!("{scheme}-{width}"));
    }
    assert_ne!(papers[0], papers[1]);
    assert_eq!(papers[..2], papers[2..]);
    browser.evaluate("document.querySelector('#theme').click()");
    assert_eq!(
        browser.evaluate("getComputedStyle(document.body).backgroundColor"),
        papers[0],
        "the button overrides"
    );
}
