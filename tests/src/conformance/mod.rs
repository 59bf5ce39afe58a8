//! Conformance scripts: what a broker must do, written as packets, and run against the pure core in virtual time and
//! against the real broker over a network.
//!
//! `tests/conformance/README.md` describes the language. Packets are written and read by code of this module alone, so that
//! a mistake in the broker's codec cannot cancel itself out, and a script can say what the codec refuses to write; what the
//! broker sends must in addition pass the strict decoder. Invariant: the same scenario means the same on every transport.

mod decode;
mod encode;
mod expect;
mod line;
mod network;
mod run;
mod script;
mod settings;
mod simulated;
mod tcp;
mod tls;
mod value;
mod vocabulary;
mod websocket;

pub use self::network::{Dial, Link, Network};
pub use self::run::{Failure, Received, Transport, run};
pub use self::script::{Scenario, ScriptError, Version, load, parse};
pub use self::settings::Change;
pub use self::simulated::Simulated;
pub use self::tcp::Tcp;
pub use self::tls::OverTls;
pub use self::websocket::OverWebSocket;
