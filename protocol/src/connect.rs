//! CONNECT and the Will Message it carries (section 3.1 of MQTT 5.0, 3.1.1 and 3.1).
//!
//! Checks the format only: whether an empty Client Identifier or an absent password is welcome
//! is for the server to say.

use core::fmt;

use crate::{
    ConnectProperties, DecodeError, EncodeError, Frame, PacketType, ProtocolVersion, PublishProperties, QoS,
    TopicName,
    property::{Property, PropertyReader, not_allowed},
    publish_properties::AsSent,
    reader::Reader,
    sink::{Body, Properties, Sink},
};

/// Connection request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version asked for, which holds for everything that follows on the Network Connection.
    pub version: ProtocolVersion,
    /// Says that the client is a bridge: bit 7 of the protocol level, a convention of MQTT 3.
    pub bridge: bool,
    /// Discards an earlier session (Clean Session in MQTT 3).
    pub clean_start: bool,
    /// The longest silence of the client in seconds; 0 turns the check off.
    pub keep_alive_seconds: u16,
    /// The key of the session; may be empty.
    pub client_id: &'a str,
    /// The user name, if there is one.
    pub username: Option<&'a str>,
    /// The password; without a user name only in MQTT 5.0.
    pub password: Option<&'a [u8]>,
    /// What to publish when the connection is lost.
    pub will: Option<Will<'a>>,
    /// The properties; ignored when writing MQTT 3.
    pub properties: ConnectProperties<'a>,
}

/// The Will Message of a CONNECT.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Will<'a> {
    /// The QoS it is published with.
    pub qos: QoS,
    /// Publishes it as a retained message.
    pub retain: bool,
    /// The Topic Name it is published to.
    pub topic: TopicName<'a>,
    /// The Application Message.
    pub payload: &'a [u8],
    /// How long to wait before publishing it, in seconds.
    pub delay_seconds: u32,
    /// Its properties; a Topic Alias or Subscription Identifier here is not written.
    pub properties: PublishProperties<'a>,
}

const RESERVED: u8 = 0x01;
const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_QOS_SHIFT: u8 = 3;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;
/// Bit 7 of the protocol level.
const BRIDGE: u8 = 0x80;

impl<'a> Connect<'a> {
    /// Reads protocol name and level of a CONNECT, and whether it is from a bridge.
    ///
    /// Tells which version to answer in when [`crate::Packet::decode`] refuses the rest.
    ///
    /// # Errors
    /// [`DecodeError::UnsupportedVersion`], or [`DecodeError::Truncated`] before the level.
    pub fn version_of(frame: &Frame<'_>) -> Result<(ProtocolVersion, bool), DecodeError> {
        read_version(&mut Reader::new(frame.body))
    }

    /// Reads the version from the first bytes of a CONNECT that is too large to wait for; `None` if they do not show it.
    #[must_use]
    pub fn version_of_start(bytes: &[u8]) -> Option<ProtocolVersion> {
        let mut start = Reader::new(bytes);
        let is_connect = start.u8("packet type").ok()? == PacketType::Connect.header();
        start.variable_byte_integer("Remaining Length").ok()?;
        let (version, _) = read_version(&mut start).ok()?;
        is_connect.then_some(version)
    }

    pub(crate) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut body = Reader::new(body);
        let (version, bridge) = read_version(&mut body)?;
        let flags = ConnectFlags::read(&mut body, version)?;
        let keep_alive_seconds = body.u16("Keep Alive")?;
        let properties = if version.has_properties() {
            ConnectProperties::decode(&mut body)?
        } else {
            ConnectProperties::default()
        };
        // [MQTT-3.1.3-1] The payload fields come in this order.
        // [MQTT-3.1.3-3], [MQTT-3.1.3-4]
        let client_id = body.string("Client Identifier")?;
        if client_id.is_empty() && version == ProtocolVersion::V31 {
            return Err(DecodeError::ClientIdInvalid("Client Identifier"));
        }
        // [MQTT-3.1.2-9]
        let will = flags.will.map(|will| will.read(&mut body, version)).transpose()?;
        // MQTT 3.1 section 3.1: a user name or password announced by its flag may be missing.
        let may_be_missing = version == ProtocolVersion::V31;
        // [MQTT-3.1.2-16], [MQTT-3.1.2-17], [MQTT-3.1.3-12]
        let username = match flags.username && !(may_be_missing && body.is_empty()) {
            true => Some(body.string("User Name")?),
            false => None,
        };
        // [MQTT-3.1.2-18], [MQTT-3.1.2-19]
        let password = match flags.password && !(may_be_missing && body.is_empty()) {
            true => Some(body.binary("Password")?),
            false => None,
        };
        body.finish(PacketType::Connect.name())?;
        let clean_start = flags.clean_start;
        Ok(Self {
            version,
            bridge,
            clean_start,
            keep_alive_seconds,
            client_id,
            username,
            password,
            will,
            properties,
        })
    }

    fn flags(&self) -> u8 {
        let will = self.will.map_or(0, |will| {
            WILL | will.qos.value() << WILL_QOS_SHIFT | if will.retain { WILL_RETAIN } else { 0 }
        });
        let clean_start = if self.clean_start { CLEAN_START } else { 0 };
        let username = if self.username.is_some() { USER_NAME } else { 0 };
        let password = if self.password.is_some() { PASSWORD } else { 0 };
        will | clean_start | username | password
    }
}

impl Body for Connect<'_> {
    /// Writes the packet in its own version.
    fn write<S: Sink>(&self, _: ProtocolVersion, out: &mut S) -> Result<(), EncodeError> {
        let version = self.version;
        // [MQTT311-3.1.2-22]
        if self.password.is_some() && self.username.is_none() && !version.has_properties() {
            return Err(EncodeError::Missing("User Name"));
        }
        let bridge = if self.bridge && !version.has_properties() { BRIDGE } else { 0 };
        out.string(version.name(), "protocol name")?;
        out.u8(version.level() | bridge);
        out.u8(self.flags());
        out.u16(self.keep_alive_seconds);
        if version.has_properties() {
            out.properties(&self.properties)?;
        }
        out.string(self.client_id, "Client Identifier")?;
        if let Some(will) = &self.will {
            if version.has_properties() {
                out.properties(&WillProperties(will))?;
            }
            out.string(will.topic.as_str(), "Will Topic")?;
            out.binary(will.payload, "Will Payload")?;
        }
        if let Some(username) = self.username {
            out.string(username, "User Name")?;
        }
        if let Some(password) = self.password {
            out.binary(password, "Password")?;
        }
        Ok(())
    }
}

struct ConnectFlags {
    clean_start: bool,
    will: Option<WillFlags>,
    username: bool,
    password: bool,
}

#[derive(Clone, Copy)]
struct WillFlags {
    qos: QoS,
    retain: bool,
}

impl ConnectFlags {
    fn read(body: &mut Reader<'_>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let flags = body.u8("Connect Flags")?;
        let is_set = |flag| flags & flag != 0;
        // [MQTT-3.1.2-3]
        if is_set(RESERVED) {
            return Err(DecodeError::Reserved("Connect Flags"));
        }
        // [MQTT-3.1.2-12]
        let qos = QoS::from_bits(flags >> WILL_QOS_SHIFT & 0b11).ok_or(DecodeError::Reserved("Will QoS"))?;
        // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
        if !is_set(WILL) && qos != QoS::AtMostOnce {
            return Err(DecodeError::Reserved("Will QoS"));
        }
        if !is_set(WILL) && is_set(WILL_RETAIN) {
            return Err(DecodeError::Reserved("Will Retain"));
        }
        // [MQTT311-3.1.2-22] MQTT 5.0 allows a password alone.
        if is_set(PASSWORD) && !is_set(USER_NAME) && !version.has_properties() {
            return Err(DecodeError::Reserved("Password Flag"));
        }
        Ok(Self {
            clean_start: is_set(CLEAN_START),
            will: is_set(WILL).then_some(WillFlags { qos, retain: is_set(WILL_RETAIN) }),
            username: is_set(USER_NAME),
            password: is_set(PASSWORD),
        })
    }
}

impl WillFlags {
    fn read<'a>(self, body: &mut Reader<'a>, version: ProtocolVersion) -> Result<Will<'a>, DecodeError> {
        let (delay_seconds, properties) = match version.has_properties() {
            true => read_will_properties(body)?,
            false => (0, PublishProperties::default()),
        };
        // [MQTT-3.1.3-11]
        let topic = body.topic_name("Will Topic")?;
        let payload = body.binary("Will Payload")?;
        Ok(Will { qos: self.qos, retain: self.retain, topic, payload, delay_seconds, properties })
    }
}

fn read_version(body: &mut Reader<'_>) -> Result<(ProtocolVersion, bool), DecodeError> {
    // [MQTT-3.1.2-1], [MQTT-3.1.2-2]
    let name = body.binary("protocol name")?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(DecodeError::UnsupportedVersion("protocol name"));
    }
    match (name, body.u8("protocol level")?) {
        (b"MQTT", 5) => Ok((ProtocolVersion::V5, false)),
        (b"MQTT", level @ (4 | 0x84)) => Ok((ProtocolVersion::V311, level & BRIDGE != 0)),
        (b"MQIsdp", level @ (3 | 0x83)) => Ok((ProtocolVersion::V31, level & BRIDGE != 0)),
        _ => Err(DecodeError::UnsupportedVersion("protocol level")),
    }
}

fn read_will_properties<'a>(body: &mut Reader<'a>) -> Result<(u32, PublishProperties<'a>), DecodeError> {
    let mut delay_seconds = 0;
    let mut properties = PublishProperties::default();
    let mut block = PropertyReader::open(body)?;
    while let Some(property) = block.next()? {
        match property {
            Property::WillDelayInterval => delay_seconds = block.value().u32(property.name())?,
            other if properties.read_message(other, block.value())? => {}
            other => return not_allowed(other),
        }
    }
    properties.user = block.user();
    properties.sent = AsSent::of(block.block());
    Ok((delay_seconds, properties))
}

struct WillProperties<'w, 'a>(&'w Will<'a>);

impl Properties for WillProperties<'_, '_> {
    fn write<S: Sink>(&self, out: &mut S) -> Result<(), EncodeError> {
        let Will { delay_seconds, properties, .. } = self.0;
        out.u32_property(Property::WillDelayInterval, (*delay_seconds > 0).then_some(*delay_seconds));
        properties.write_message(out)
    }
}

impl fmt::Debug for Connect<'_> {
    /// Leaves the password out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("bridge", &self.bridge)
            .field("clean_start", &self.clean_start)
            .field("keep_alive_seconds", &self.keep_alive_seconds)
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("has_password", &self.password.is_some())
            .field("will", &self.will)
            .field("properties", &self.properties)
            .finish()
    }
}

impl fmt::Debug for Will<'_> {
    /// Shows only the length of the payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Will")
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("topic", &self.topic)
            .field("payload_len", &self.payload.len())
            .field("delay_seconds", &self.delay_seconds)
            .field("properties", &self.properties)
            .finish()
    }
}
