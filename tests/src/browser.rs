//! A headless Chromium that shows one page, driven over the DevTools protocol.
//!
//! Refuses to guess: what the page is asked comes back as JSON, and an exception in the page fails the test. Invariant: the browser and
//! its profile are gone when the handle is dropped.

use std::fs;
use std::io::Result;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::tools::require_tool;
use crate::websocket::{TEXT, WebSocket, frame, request};

const START_SECONDS_MAX: u64 = 60;

/// A browser with one page.
pub struct Browser {
    child: Child,
    _profile: TempDir,
    channel: WebSocket,
    /// The page's, once there is one.
    session: Option<String>,
    calls: u64,
    /// What the page has logged as errors, and what its policy has refused.
    complaints: Vec<String>,
}

impl Browser {
    /// Starts a browser; None where there is none.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        let program = require_tool("chromium")?;
        let profile = TempDir::new().expect("the temporary directory is writable");
        let child = Command::new(program)
            // A container's root may not make the name spaces of its sandbox; the page is ours.
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args(["--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromium can be started");
        let (address, path) = debugging_address(&profile.path().join("DevToolsActivePort"));
        let asked = request("devtools").replace("/mqtt", &path);
        // It speaks to who asks for this machine, and offers no subprotocol.
        let asked = asked
            .replace("Sec-WebSocket-Protocol: devtools\r\n", "")
            .replace("Host: broker", "Host: 127.0.0.1");
        let (channel, _) = WebSocket::open_with(address, &asked).expect("chromium can be driven");
        let mut browser =
            Self { child, _profile: profile, channel, session: None, calls: 0, complaints: Vec::new() };
        let targets = browser.call("Target.getTargets", &json!({}));
        let targets = targets["targetInfos"].as_array().cloned().unwrap_or_default();
        let page = targets.iter().find(|target| target["type"] == "page").expect("chromium has a page");
        let attached = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", &attached);
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, &json!({}));
        }
        Some(browser)
    }

    /// Gives the page this size, in CSS pixels, and this colour scheme, `light` or `dark`.
    pub fn look_like(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", &features);
    }

    /// Opens an address.
    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", &json!({ "url": url }));
    }

    /// Returns what an expression is worth in the page; a promise is waited for.
    ///
    /// # Panics
    /// If it throws.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", &asked);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    ///
    /// # Panics
    /// If it is not within twenty seconds.
    pub fn wait_until(&mut self, expression: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.evaluate(&format!("Boolean({expression})")) != true {
            assert!(
                Instant::now() < until,
                "{expression} is not true: {}",
                self.evaluate("document.body.innerText")
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Returns a picture of the page as PNG, in base64.
    pub fn picture(&mut self) -> String {
        let answer = self.call("Page.captureScreenshot", &json!({ "captureBeyondViewport": true }));
        answer["data"].as_str().unwrap_or_default().to_owned()
    }

    /// What the page has complained of so far.
    #[must_use]
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let mut asked = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            asked["sessionId"] = json!(session);
        }
        self.channel.send_raw(&frame(TEXT, asked.to_string().as_bytes())).expect("the page can be driven");
        loop {
            let message = self.next_message().unwrap_or_else(|error| panic!("{method}: {error}"));
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].clone();
            }
            self.hear(&message);
        }
    }

    fn hear(&mut self, event: &Value) {
        let entry = &event["params"]["entry"];
        if event["method"] == "Runtime.exceptionThrown" || entry["level"] == "error" {
            self.complaints.push(event["params"].to_string());
        }
    }

    fn next_message(&mut self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.channel.frame()?.payload)?)
    }
}

/// Waits for the file in which Chromium says at which port and path it can be driven.
fn debugging_address(file: &Path) -> (SocketAddr, String) {
    let until = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        if let Some((port, path)) = text.trim_end().split_once('\n')
            && let Ok(port) = port.parse::<u16>()
        {
            return (SocketAddr::from(([127, 0, 0, 1], port)), path.to_owned());
        }
        assert!(Instant::now() < until, "chromium did not start within {START_SECONDS_MAX} s");
        thread::sleep(Duration::from_millis(50));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
