//! The Reason Codes of MQTT 5.0 (section 2.4) and their MQTT 3 CONNACK counterparts.

use core::fmt;

use crate::DecodeError;

macro_rules! reason_codes {
    ($($(#[$attribute:meta])* $name:ident = $value:literal, $words:literal;)*) => {
        /// One Reason Code of MQTT 5.0 section 2.4; `Display` writes its name in the standard's words.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum ReasonCode {
            $(
                $(#[$attribute])*
                #[doc = concat!($words, " (", stringify!($value), ").")]
                $name = $value,
            )*
        }

        impl ReasonCode {
            /// Every Reason Code in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            const fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
        }

        impl TryFrom<u8> for ReasonCode {
            type Error = DecodeError;

            fn try_from(value: u8) -> Result<Self, DecodeError> {
                match value {
                    $($value => Ok(Self::$name),)*
                    _ => Err(DecodeError::NotAllowed("Reason Code")),
                }
            }
        }
    };
}

reason_codes! {
    #[default]
    Success = 0x00, "Success";
    GrantedQos1 = 0x01, "Granted QoS 1";
    GrantedQos2 = 0x02, "Granted QoS 2";
    DisconnectWithWill = 0x04, "Disconnect with Will Message";
    NoMatchingSubscribers = 0x10, "No matching subscribers";
    NoSubscriptionExisted = 0x11, "No subscription existed";
    ContinueAuthentication = 0x18, "Continue authentication";
    ReAuthenticate = 0x19, "Re-authenticate";
    UnspecifiedError = 0x80, "Unspecified error";
    MalformedPacket = 0x81, "Malformed Packet";
    ProtocolError = 0x82, "Protocol Error";
    ImplementationSpecificError = 0x83, "Implementation specific error";
    UnsupportedProtocolVersion = 0x84, "Unsupported Protocol Version";
    ClientIdentifierNotValid = 0x85, "Client Identifier not valid";
    BadUserNameOrPassword = 0x86, "Bad User Name or Password";
    NotAuthorized = 0x87, "Not authorized";
    ServerUnavailable = 0x88, "Server unavailable";
    ServerBusy = 0x89, "Server busy";
    Banned = 0x8A, "Banned";
    ServerShuttingDown = 0x8B, "Server shutting down";
    BadAuthenticationMethod = 0x8C, "Bad authentication method";
    KeepAliveTimeout = 0x8D, "Keep Alive timeout";
    SessionTakenOver = 0x8E, "Session taken over";
    TopicFilterInvalid = 0x8F, "Topic Filter invalid";
    TopicNameInvalid = 0x90, "Topic Name invalid";
    PacketIdentifierInUse = 0x91, "Packet Identifier in use";
    PacketIdentifierNotFound = 0x92, "Packet Identifier not found";
    ReceiveMaximumExceeded = 0x93, "Receive Maximum exceeded";
    TopicAliasInvalid = 0x94, "Topic Alias invalid";
    PacketTooLarge = 0x95, "Packet too large";
    MessageRateTooHigh = 0x96, "Message rate too high";
    QuotaExceeded = 0x97, "Quota exceeded";
    AdministrativeAction = 0x98, "Administrative action";
    PayloadFormatInvalid = 0x99, "Payload format invalid";
    RetainNotSupported = 0x9A, "Retain not supported";
    QosNotSupported = 0x9B, "QoS not supported";
    UseAnotherServer = 0x9C, "Use another server";
    ServerMoved = 0x9D, "Server moved";
    SharedSubscriptionsNotSupported = 0x9E, "Shared Subscriptions not supported";
    ConnectionRateExceeded = 0x9F, "Connection rate exceeded";
    MaximumConnectTime = 0xA0, "Maximum connect time";
    SubscriptionIdentifiersNotSupported = 0xA1, "Subscription Identifiers not supported";
    WildcardSubscriptionsNotSupported = 0xA2, "Wildcard Subscriptions not supported";
}

impl ReasonCode {
    /// The byte on the wire.
    #[must_use]
    pub const fn value(self) -> u8 {
        self as u8
    }

    /// Says whether the code reports a failure (0x80 and above).
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.value() >= 0x80
    }

    /// The CONNACK return code of MQTT 3.1.1 section 3.2.2.3 (0 to 5) nearest to this code.
    ///
    /// Failures without a counterpart become 3 (server unavailable).
    #[must_use]
    pub const fn connack_v3(self) -> u8 {
        match self {
            code if !code.is_error() => 0,
            Self::UnsupportedProtocolVersion => 1,
            Self::ClientIdentifierNotValid => 2,
            Self::BadUserNameOrPassword => 4,
            Self::NotAuthorized | Self::Banned | Self::BadAuthenticationMethod => 5,
            _ => 3,
        }
    }

    /// The code that says what a CONNACK return code of MQTT 3.1.1 says; `None` above 5.
    #[must_use]
    pub const fn from_connack_v3(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Success),
            1 => Some(Self::UnsupportedProtocolVersion),
            2 => Some(Self::ClientIdentifierNotValid),
            3 => Some(Self::ServerUnavailable),
            4 => Some(Self::BadUserNameOrPassword),
            5 => Some(Self::NotAuthorized),
            _ => None,
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}
