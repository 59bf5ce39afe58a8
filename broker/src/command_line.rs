//! What Mosquitto says of its command line: its usage, and what is wrong with an argument.
//!
//! The arguments are read elsewhere. Invariant: what is complained of here would be refused there, or does nothing there.

use std::ffi::OsString;

/// How Mosquitto is used.
pub(crate) const USAGE: &str = "mosquitto [-c config_file] [-d] [-h] [-p port] [-v]";

/// The options that have a value, and what it is called.
const WITH_VALUE: [(&str, &str); 5] = [
    ("-c", "config file"),
    ("--config-file", "config file"),
    ("-p", "port"),
    ("--port", "port"),
    ("--tls-keylog", "file"),
];

/// Returns Mosquitto's words for the first argument that it would not take; None if it would take these.
pub(crate) fn complaint(arguments: &[OsString]) -> Option<String> {
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        let argument = argument.to_string_lossy();
        let Some((_, what)) = WITH_VALUE.iter().find(|(option, _)| *option == argument) else { continue };
        let Some(value) = arguments.next() else {
            return Some(format!("{argument} argument given, but no {what} specified."));
        };
        let value = value.to_string_lossy();
        let is_port = || value.parse::<u16>().is_ok_and(|port| port > 0);
        if *what == "port" && !is_port() {
            return Some(format!("Invalid port specified ({value})."));
        }
    }
    None
}

/// Says that an option is not known.
pub(crate) fn unknown(option: &str) -> String {
    format!("Unknown option '{option}'.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_complained_of_in_mosquittos_words() {
        for (arguments, expected) in [
            ("-c", Some("-c argument given, but no config file specified.")),
            ("-v -p", Some("-p argument given, but no port specified.")),
            ("-p 0", Some("Invalid port specified (0).")),
            ("--port 65536", Some("Invalid port specified (65536).")),
            ("-p x", Some("Invalid port specified (x).")),
            ("--tls-keylog", Some("--tls-keylog argument given, but no file specified.")),
            ("-c -p -d", None),
            ("-c FILE -p 1883 -v", None),
        ] {
            let line = std::iter::once("mosquitto").chain(arguments.split(' ')).map(OsString::from);

            assert_eq!(complaint(&line.collect::<Vec<_>>()).as_deref(), expected, "{arguments}");
        }
    }
}
