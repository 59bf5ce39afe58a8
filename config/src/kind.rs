//! The values that an option may have: which are allowed, and how that is said in words.
//!
//! Invariant: what is allowed here can be read into the type of the option.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use veilmq_protocol::veil::Kid;
use veilmq_protocol::{TopicFilter, TopicName};

use crate::address::{FileMode, ListenAddress};
use crate::bridge::RemoteAddress;
use crate::http::HttpUrl;
use crate::options::OFF;
use crate::proxy::Network;
use crate::value::{Given, Shape};

/// The longest text in a list: that of a Client Identifier.
const TEXT_BYTES_MAX: usize = 65_535;

/// The names of users, of which the system says more.
const USER: Kind = Kind::Text { bytes_max: 256 };
/// Linux's IFNAMSIZ, without the NUL at its end.
const INTERFACE: Kind = Kind::Text { bytes_max: 15 };

/// The values an option may have; `Display` says it in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number, both ends included.
    Integer {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// `true` or `false`.
    Boolean,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Some of these words, at least one, none twice.
    Choices(&'static [&'static str]),
    /// Some of these words or none, none twice.
    ChoicesOrNone(&'static [&'static str]),
    /// A text of at most this many bytes in UTF-8, not empty and without NUL.
    Text {
        /// The most bytes.
        bytes_max: usize,
    },
    /// A text as above, which may be empty.
    TextOrNone {
        /// The most bytes.
        bytes_max: usize,
    },
    /// A user of the system.
    User,
    /// A network interface.
    Interface,
    /// A Topic Name that does not begin with `$`.
    TopicPrefix,
    /// A path in UTF-8, relative to the working directory.
    Path,
    /// A list of paths.
    Paths,
    /// A list of texts, none empty or with NUL.
    Texts,
    /// A Topic Filter, not of a Shared Subscription.
    TopicFilter,
    /// A Topic Name.
    TopicName,
    /// A list of Topic Filters, none of a Shared Subscription.
    TopicFilters,
    /// A list of key identifiers of VEIL-1.
    KeyIdentifiers,
    /// An IP address with a port, or a Unix socket.
    ListenAddress,
    /// The permissions of a file.
    FileMode,
    /// An IP address.
    IpAddress,
    /// A list of host names or IP addresses, perhaps with ports, at least one.
    RemoteAddresses,
    /// A list of IP addresses and networks.
    Networks,
    /// An IP address with a port, or `off`.
    AddressOrOff,
    /// A URL of HTTP, with or without TLS.
    HttpUrl,
}

impl Kind {
    /// How the text of an environment variable is read for it.
    pub(crate) fn shape(self) -> Shape {
        match self {
            Self::Choices(_)
            | Self::ChoicesOrNone(_)
            | Self::Paths
            | Self::Texts
            | Self::TopicFilters
            | Self::KeyIdentifiers
            | Self::RemoteAddresses
            | Self::Networks => Shape::List,
            Self::Integer { .. } => Shape::Integer,
            Self::Boolean => Shape::Boolean,
            Self::Choice(_)
            | Self::Text { .. }
            | Self::TextOrNone { .. }
            | Self::TopicName
            | Self::IpAddress
            | Self::TopicPrefix
            | Self::User
            | Self::Interface
            | Self::Path
            | Self::TopicFilter
            | Self::ListenAddress
            | Self::FileMode
            | Self::HttpUrl
            | Self::AddressOrOff => Shape::Text,
        }
    }

    /// Whether the value may be given to an option of this kind.
    pub(crate) fn allows(self, given: &Given) -> bool {
        match (self, given) {
            (Self::Integer { min, max }, Given::Integer(integer)) => (min..=max).contains(integer),
            (Self::Boolean, Given::Boolean(_)) => true,
            (Self::Choice(words), Given::Text(text)) => words.contains(&text.as_str()),
            (Self::Choices(words), Given::List(list)) => {
                !list.is_empty() && Self::ChoicesOrNone(words).allows(given)
            }
            (Self::ChoicesOrNone(words), Given::List(list)) => {
                list.iter().all(|element| Self::Choice(words).allows(element))
                    && (1..list.len()).all(|index| !list[..index].contains(&list[index]))
            }
            (Self::Text { bytes_max }, Given::Text(text)) => {
                (1..=bytes_max).contains(&text.len()) && !text.contains('\0')
            }
            (Self::TextOrNone { bytes_max }, Given::Text(text)) => {
                text.len() <= bytes_max && !text.contains('\0')
            }
            (Self::User, given) => USER.allows(given),
            (Self::Interface, given) => INTERFACE.allows(given),
            (Self::TopicName, Given::Text(text)) => TopicName::new(text).is_ok(),
            (Self::IpAddress, Given::Text(text)) => text.parse::<IpAddr>().is_ok(),
            (Self::RemoteAddresses, Given::List(list)) => {
                let is_address = |element: &Given| matches!(element, Given::Text(text) if text.parse::<RemoteAddress>().is_ok());
                !list.is_empty() && list.iter().all(is_address)
            }
            (Self::TopicPrefix, Given::Text(text)) => !text.starts_with('$') && TopicName::new(text).is_ok(),
            (Self::Path, Given::Text(text)) => !text.is_empty() && !text.contains('\0'),
            (Self::Paths, Given::List(list)) => list.iter().all(|element| Self::Path.allows(element)),
            (Self::Texts, Given::List(list)) => {
                list.iter().all(|element| Self::Text { bytes_max: TEXT_BYTES_MAX }.allows(element))
            }
            (Self::TopicFilter, given @ Given::Text(_)) => is_topic_filter(given),
            (Self::TopicFilters, Given::List(list)) => list.iter().all(is_topic_filter),
            (Self::KeyIdentifiers, Given::List(list)) => {
                list.iter().all(|element| matches!(element, Given::Text(text) if text.parse::<Kid>().is_ok()))
            }
            (Self::ListenAddress, Given::Text(text)) => text.parse::<ListenAddress>().is_ok(),
            (Self::FileMode, Given::Text(text)) => {
                (3..=4).contains(&text.len()) && text.parse::<FileMode>().is_ok_and(|mode| mode.0 <= 0o777)
            }
            (Self::Networks, Given::List(list)) => list
                .iter()
                .all(|element| matches!(element, Given::Text(text) if text.parse::<Network>().is_ok())),
            (Self::HttpUrl, Given::Text(text)) => text.parse::<HttpUrl>().is_ok(),
            (Self::AddressOrOff, Given::Text(text)) => text == OFF || text.parse::<SocketAddr>().is_ok(),
            (
                _,
                Given::Integer(_) | Given::Boolean(_) | Given::Text(_) | Given::List(_) | Given::Other(_),
            ) => false,
        }
    }
}

fn is_topic_filter(given: &Given) -> bool {
    let Given::Text(text) = given else { return false };
    TopicFilter::new(text).is_ok_and(|filter| filter.shared().is_none())
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Boolean => f.write_str("true or false"),
            Self::Choice(words) => write!(f, "one of {}", words.join(", ")),
            Self::Choices(words) => write!(f, "a list of some of {}, none twice", words.join(", ")),
            Self::ChoicesOrNone(words) => {
                write!(f, "a list of some of {}, none twice, or an empty one", words.join(", "))
            }
            Self::Text { bytes_max } => write!(f, "a text of 1 to {bytes_max} bytes without NUL"),
            Self::TextOrNone { bytes_max } => write!(f, "a text of at most {bytes_max} bytes without NUL"),
            Self::User => USER.fmt(f),
            Self::Interface => INTERFACE.fmt(f),
            Self::TopicName => f.write_str("a Topic Name"),
            Self::IpAddress => f.write_str("an IP address"),
            Self::RemoteAddresses => {
                f.write_str("a list of host names or IP addresses, such as broker.example:1883; the port, 1 to 65535, may be left out")
            }
            Self::TopicPrefix => f.write_str("a Topic Name that does not begin with $"),
            Self::Path => f.write_str("a path in UTF-8"),
            Self::Paths => f.write_str("a list of paths in UTF-8"),
            Self::Texts => write!(f, "a list of texts of 1 to {TEXT_BYTES_MAX} bytes without NUL"),
            Self::TopicFilter => f.write_str("a Topic Filter without $share"),
            Self::KeyIdentifiers => f.write_str("a list of key identifiers of 16 hexadecimal digits"),
            Self::TopicFilters => f.write_str("a list of Topic Filters without $share"),
            Self::ListenAddress => f.write_str(
                "an IP address with a port, such as 127.0.0.1:1883 or [::1]:1883, or unix: with a path of at most 107 bytes",
            ),
            Self::FileMode => f.write_str("permissions as an octal number, such as \"0660\""),
            Self::Networks => f.write_str("a list of IP addresses and networks, such as 10.0.0.0/8"),
            Self::HttpUrl => f.write_str(
                "a URL that begins with http:// or https://, without user name and fragment",
            ),
            Self::AddressOrOff => f.write_str("an IP address with a port, such as 127.0.0.1:9464, or off"),
        }
    }
}
