//! A broker, an authority that it trusts, a device and a reader that the authority certified, and the programs that use them.
//!
//! What passes the wire goes through a tap, so that a test can search it.

use std::path::Path;
use std::process::{Command, Output};

use crate::broker::Broker;
use crate::tap::Tap;
use crate::tools::{built_program, run};
use crate::waiting::wait_until;

/// The parties of an exchange that is sealed end to end. The device and the reader have a key in common, in the file `key`.
#[derive(Debug)]
pub struct Parties {
    /// The broker, which trusts the authority.
    pub broker: Broker,
    /// What everything passes on its way to the broker.
    pub tap: Tap,
}

impl Parties {
    /// Introduces a broker to an authority and to those that it certifies.
    ///
    /// # Panics
    /// If a program fails.
    #[must_use]
    pub fn meet(broker: Broker, tap: Tap) -> Self {
        let parties = Self { broker, tap };
        parties.make_authority("ca");
        parties.issue("ca", "device", "publisher");
        parties.issue("ca", "reader", "subscriber");
        parties.made(&["key", "new", &parties.path("key")]);
        parties.trust("ca");
        parties
    }

    /// The path of a file beside the broker's configuration.
    ///
    /// # Panics
    /// If temporary directories are not UTF-8.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        self.broker.directory().join(name).to_str().expect("temporary directories are UTF-8").to_owned()
    }

    /// Runs `veil` to its end.
    #[must_use]
    pub fn veil(&self, arguments: &[&str]) -> Output {
        run(Command::new(built_program("veil")).args(arguments), 60)
    }

    /// Runs `veil` for something that it makes.
    ///
    /// # Panics
    /// If it fails.
    pub fn made(&self, arguments: &[&str]) {
        let output = self.veil(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Makes an authority in the directory `name`.
    ///
    /// # Panics
    /// If that fails.
    pub fn make_authority(&self, name: &str) {
        self.made(&["ca", "init", "--dir", &self.path(name), "--name", name]);
    }

    /// Lets an authority certify a subject, in a directory of its name.
    ///
    /// # Panics
    /// If that fails.
    pub fn issue(&self, authority: &str, subject: &str, role: &str) {
        let (authority, out) = (self.path(authority), self.path(subject));
        self.made(&["ca", "issue", "--dir", &authority, "--subject", subject, "--role", role, "--out", &out]);
    }

    /// Tells the running broker to trust an authority; it looks at its folder of authorities once a second.
    ///
    /// # Panics
    /// If it does not notice.
    pub fn trust(&self, authority: &str) {
        let certificate = Path::new(&self.path(authority)).join("ca.vmc");
        let mut command = Command::new(built_program("veilmq"));
        command.args(["trust", "add"]).arg(certificate).arg("--data-dir").arg(self.broker.data_dir());
        let output = run(&mut command, 30);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let is_known = || self.broker.log().contains("authority is trusted");
        wait_until("the broker knows the authority", is_known);
    }

    /// Runs `veil pub` or `veil sub` as `subject`, with the key of `scope` in the file `key`, through the tap.
    ///
    /// # Panics
    /// If temporary directories are not UTF-8.
    #[must_use]
    pub fn exchange(&self, command: &str, subject: &str, key: &str, scope: &str, more: &[&str]) -> Output {
        let port = self.tap.address().port().to_string();
        let broker = self.broker.data_dir().join("identity/broker.vmc");
        let (identity, key, broker) =
            (self.path(subject), self.path(key), broker.to_str().expect("UTF-8").to_owned());
        let base =
            [command, "-h", "127.0.0.1", "-p", &port, "-q", "1", "--identity", &identity, "--trust", &broker];
        self.veil(&[&base, ["--scope", scope, "--master-key", &key].as_slice(), more].concat())
    }
}
