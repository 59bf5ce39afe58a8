//! The VEIL-1 channel, as the broker offers it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The VEIL-1 channel, as the broker offers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VeilConfig {
    /// Whether a client may ask for Authentication Method `VEIL-1`.
    pub enabled: bool,
    /// The suites offered (VEIL-1 section 2), none twice.
    pub suites: Vec<Suite>,
    /// The schemes offered (VEIL-1 section 7), none twice.
    pub schemes: Vec<Scheme>,
    /// The modes of the paper that are served beside (VEIL-1 section 7), none twice; each is a weakening.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paper_modes: Vec<PaperMode>,
    /// Files with public authority certificates (VEIL-1 section 3); more may be added while the broker runs.
    pub trust: Vec<PathBuf>,
    /// Files with revocation lists of those authorities (VEIL-1 section 3.2); more may come while the broker runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revocations: Vec<PathBuf>,
    /// The file with the broker's own certificate; `None` presents the one made at the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Handshakes in progress at one time beyond which each address may begin 4 a second; further ones get 0x97, Quota
    /// exceeded.
    pub half_open_max: u32,
    /// Whether a client may use the mode COMPACT, which needs no AUTH packet (VEIL-1 section 4.6).
    pub compact: bool,
    /// How far the clock of a client that uses COMPACT may be from the broker's, in seconds.
    pub clock_skew_seconds: u32,
    /// The most CONNECTs of COMPACT that are remembered, so that none is taken twice, and the most used tickets.
    pub replays_max: u32,
    /// The time that a client has for its first record after COMPACT or RESUME, in milliseconds.
    pub proof_milliseconds: u32,
    /// How long a ticket for RESUME is good for, in seconds; 0 gives none (VEIL-1 section 4.7).
    pub ticket_seconds: u32,
    /// Whether a client may protect each PUBLISH with a property instead of sending records (VEIL-1 section 5.3).
    pub property_mode: bool,
    /// Whether that is only for connections that are encrypted by TLS; without TLS, only PUBLISH is protected: a weakening.
    pub property_requires_tls: bool,
    /// How messages are authenticated to subscribers (VEIL-1 section 6.3).
    pub fan_out: FanOut,
    /// Topic Filters whose topics share a group key; every other topic has its own.
    pub group_scopes: Vec<String>,
    /// The age at which a group key is replaced, in seconds (VEIL-1 section 6.4).
    pub group_key_seconds: u32,
    /// The least time between two keys of a group when members leave, in milliseconds.
    pub group_rekey_milliseconds: u32,
    /// Whether a group takes a new key when a member joins.
    pub join_secrecy: bool,
    /// How long CONNACK waits for the issuer of keys that a client asks for with CONNECT, in milliseconds; 0 passes no request on.
    pub join_milliseconds: u32,
    /// When clients are told to come back if the broker goes away, in milliseconds; some are told up to twice as long.
    pub retry_milliseconds: u32,
    /// The age at which the keys of a channel are renewed, in seconds (VEIL-1 section 4.8).
    pub rekey_seconds: u32,
    /// The records after which the keys of a channel are renewed, whichever comes first.
    pub rekey_records: u32,
}

/// How messages are authenticated to subscribers (VEIL-1 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FanOut {
    /// FAN-D in Scheme 4, FAN-GE with the subscriber's own tag in Scheme 3.
    Digest,
    /// FAN-G and FAN-GE as in the paper: any subscriber can forge messages to the others; a weakening.
    Group,
    /// FAN-G and FAN-GE with the subscriber's own tag.
    GroupOuter,
}

/// A suite of the VEIL-1 registry (section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Suite {
    /// AES-256-CBC with HMAC-SHA-256, encrypt-then-MAC.
    #[serde(rename = "aes-256-cbc-hmac-sha-256")]
    Aes256CbcHmacSha256,
    /// AES-256-GCM.
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    #[serde(rename = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

impl Suite {
    /// The byte that stands for the suite on the wire.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::Aes256CbcHmacSha256 => 1,
            Self::Aes256Gcm => 2,
            Self::ChaCha20Poly1305 => 3,
        }
    }
}

/// A scheme of VEIL-1 section 7, as far as the broker offers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    /// Scheme 1: plain MQTT after an authenticated CONNECT; a weakening.
    #[serde(rename = "scheme-1")]
    Scheme1,
    /// Scheme 2: every record is encrypted and authenticated (EI).
    #[serde(rename = "scheme-2")]
    Scheme2,
    /// Scheme 3: as Scheme 2, and messages are encrypted once for a group of subscribers (FAN-GE).
    #[serde(rename = "scheme-3")]
    Scheme3,
    /// Scheme 4: every record is authenticated (I), with FAN-D towards subscribers.
    #[serde(rename = "scheme-4")]
    Scheme4,
}

impl Scheme {
    /// The number that stands for the scheme on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Scheme1 => 1,
            Self::Scheme2 => 2,
            Self::Scheme3 => 3,
            Self::Scheme4 => 4,
        }
    }
}

/// A scheme as the paper has it (VEIL-1 section 7): COMPACT, suite 1, and group keys that alone authenticate messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PaperMode {
    /// Scheme 1.
    #[serde(rename = "paper-1")]
    Paper1,
    /// Scheme 2.
    #[serde(rename = "paper-2")]
    Paper2,
    /// Scheme 3.
    #[serde(rename = "paper-3")]
    Paper3,
    /// Scheme 4.
    #[serde(rename = "paper-4")]
    Paper4,
}

impl Default for VeilConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            suites: vec![Suite::Aes256Gcm, Suite::ChaCha20Poly1305, Suite::Aes256CbcHmacSha256],
            schemes: vec![Scheme::Scheme4, Scheme::Scheme2],
            paper_modes: Vec::new(),
            trust: Vec::new(),
            revocations: Vec::new(),
            certificate: None,
            half_open_max: 1_000,
            compact: true,
            clock_skew_seconds: 120,
            replays_max: 1 << 20,
            proof_milliseconds: 5_000,
            ticket_seconds: 86_400,
            property_mode: true,
            property_requires_tls: true,
            fan_out: FanOut::Digest,
            group_scopes: Vec::new(),
            group_key_seconds: 3_600,
            group_rekey_milliseconds: 1_000,
            join_secrecy: false,
            join_milliseconds: 3_000,
            retry_milliseconds: 1_000,
            rekey_seconds: 3_600,
            rekey_records: 1 << 24,
        }
    }
}
