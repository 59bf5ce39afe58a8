//! `-D command property value`: MQTT 5 properties, in the words of mosquitto's clients.
//!
//! `user-property` takes a name and a value, every other property one value; anything unknown is refused by name.

use std::str::FromStr;

use veilmq_client::Properties;

use crate::failure::Failure;

/// What `-D` gave, by the packet it is for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) connect: ConnectProperties,
    pub(crate) publish: Properties,
    pub(crate) will: Properties,
    pub(crate) will_delay_seconds: Option<u32>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectProperties {
    pub(crate) session_expiry_seconds: Option<u32>,
    pub(crate) receive_maximum: Option<std::num::NonZeroU16>,
    pub(crate) packet_bytes_max: Option<std::num::NonZeroU32>,
    pub(crate) user: Vec<(String, String)>,
}

impl Given {
    /// Reads the words of all `-D` options in a row.
    pub(crate) fn parse(words: &[String]) -> Result<Self, Failure> {
        let mut given = Self::default();
        let mut words = words.iter().map(String::as_str);
        while let Some(command) = words.next() {
            let property = words.next().ok_or_else(|| incomplete(command))?;
            let value = words.next().ok_or_else(|| incomplete(command))?;
            let pair = match property {
                "user-property" => Some(words.next().ok_or_else(|| incomplete(command))?),
                _ => None,
            };
            given.set(command, property, value, pair)?;
        }
        Ok(given)
    }

    fn set(&mut self, command: &str, property: &str, value: &str, pair: Option<&str>) -> Result<(), Failure> {
        let pair = pair.map(|second| (value.to_owned(), second.to_owned()));
        let known = match command {
            "connect" => self.connect.set(property, value, pair)?,
            "publish" => set_message(&mut self.publish, property, value, pair)?,
            "will" if property == "will-delay-interval" => {
                self.will_delay_seconds = Some(number(property, value)?);
                true
            }
            "will" => set_message(&mut self.will, property, value, pair)?,
            _ => return Err(Failure::new(format!("-D {command}: give connect, publish or will"))),
        };
        if known {
            Ok(())
        } else {
            Err(Failure::new(format!("-D {command} {property}: no such property for this packet")))
        }
    }
}

impl ConnectProperties {
    fn set(&mut self, property: &str, value: &str, pair: Option<(String, String)>) -> Result<bool, Failure> {
        match property {
            "session-expiry-interval" => self.session_expiry_seconds = Some(number(property, value)?),
            "receive-maximum" => self.receive_maximum = Some(number(property, value)?),
            "maximum-packet-size" => self.packet_bytes_max = Some(number(property, value)?),
            "user-property" => self.user.extend(pair),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn set_message(
    properties: &mut Properties,
    property: &str,
    value: &str,
    pair: Option<(String, String)>,
) -> Result<bool, Failure> {
    match property {
        "payload-format-indicator" => {
            properties.payload_is_utf8 = Some(number::<u8>(property, value)? != 0);
        }
        "message-expiry-interval" => properties.message_expiry_seconds = Some(number(property, value)?),
        "content-type" => properties.content_type = Some(value.to_owned()),
        "response-topic" => properties.response_topic = Some(value.to_owned()),
        "correlation-data" => properties.correlation_data = Some(value.as_bytes().to_vec()),
        "user-property" => properties.user.extend(pair),
        _ => return Ok(false),
    }
    Ok(true)
}

fn number<T: FromStr>(property: &str, value: &str) -> Result<T, Failure> {
    value.parse().map_err(|_| Failure::new(format!("-D {property}: {value:?} is not a number in range")))
}

fn incomplete(command: &str) -> Failure {
    Failure::new(format!(
        "-D {command}: give a property and its value (a name and a value for user-property)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Given, Failure> {
        Given::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn properties_go_to_the_packet_they_are_for() {
        let given = parse(
            "publish user-property a b connect receive-maximum 7 will will-delay-interval 3 publish content-type x",
        )
        .unwrap();

        assert_eq!(given.publish.user, [("a".to_owned(), "b".to_owned())]);
        assert_eq!(given.publish.content_type.as_deref(), Some("x"));
        assert_eq!(given.connect.receive_maximum.map(std::num::NonZeroU16::get), Some(7));
        assert_eq!(given.will_delay_seconds, Some(3));
    }

    #[test]
    fn what_is_wrong_with_a_property_is_named() {
        let rows = [
            ("subscribe user-property a b", "-D subscribe: give connect, publish or will"),
            ("publish topic-alias 3", "-D publish topic-alias: no such property for this packet"),
            (
                "publish message-expiry-interval soon",
                "-D message-expiry-interval: \"soon\" is not a number in range",
            ),
            ("connect receive-maximum 0", "-D receive-maximum: \"0\" is not a number in range"),
            (
                "publish user-property a",
                "-D publish: give a property and its value (a name and a value for user-property)",
            ),
        ];
        for (text, message) in rows {
            assert_eq!(parse(text).unwrap_err().to_string(), message);
        }
    }
}
