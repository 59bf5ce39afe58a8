//! How an issuer runs the epochs of a scope, and whom it lets in (VEIL-1 sections 8.3, 9.4, 17).

use veilmq_protocol::veil::{Certificate, Roles, Suite, distribution::WrapSuite, vmc::scope_covers};

use super::super::{keyring::EpochTiming, scope::Scope, sessions::SESSIONS_MAX};

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;

/// Who becomes a member without being named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    /// Whoever shows a certificate that names the scope: subscribers by a subscribe scope that covers it, publishers by a
    /// publish scope that does. A certificate without scopes names none.
    #[default]
    Certified,
    /// Nobody: only members that were admitted by name.
    Named,
}

impl Admission {
    pub(super) fn admits(self, certificate: &Certificate, scope: &Scope) -> bool {
        let covers = |scopes: &[String]| scopes.iter().any(|outer| scope_covers(outer, scope.as_str()));
        match self {
            Self::Named => false,
            Self::Certified => {
                let reads =
                    certificate.roles.contains(Roles::SUBSCRIBER) && covers(&certificate.subscribe_scopes);
                let writes =
                    certificate.roles.contains(Roles::PUBLISHER) && covers(&certificate.publish_scopes);
                reads || writes
            }
        }
    }
}

/// How an issuer runs the epochs of a scope. All times are milliseconds.
#[derive(Clone, Debug)]
pub struct IssuePolicy {
    /// How long an epoch is used before the next one replaces it (default 24 h).
    pub rotate_every_ms: u64,
    /// How many sender sessions may use one key before the next one replaces it (default and at most 65,536). The issuer counts
    /// those of the messages that it seals and opens itself, Wills among them.
    pub sessions_max: u32,
    /// How long before its activation an epoch is announced (default 60 s).
    pub key_lead_ms: u64,
    /// The same when a member was removed (default 5 s).
    pub removal_lead_ms: u64,
    /// How long members go on with an epoch that nobody is there to replace (default 7 days).
    pub outage_ms: u64,
    /// How often a head is issued again, so that members know it is not an old one (default 12 h).
    pub reissue_every_ms: u64,
    /// The least time between two issues of one epoch, which gathers what changed meanwhile (default 1 s).
    pub settle_ms: u64,
    /// What members know anyway; see [`EpochTiming`].
    pub timing: EpochTiming,
    /// A new epoch for every new member, so that it reads nothing from before.
    pub join_secrecy: bool,
    /// How many epochs before the one in use new members get the keys of, for what is retained or queued (default 0; with
    /// `join_secrecy` none).
    pub shared_history: u8,
    /// Wraps for the key in the certificate of a member without a prekey (default true): for members that cannot keep
    /// state, and for those that were not there yet. There is no forward secrecy for them.
    pub allow_static_wrap: bool,
    /// Who becomes a member.
    pub admission: Admission,
    /// Members refuse messages that are not signed.
    pub signed_only: bool,
    /// The suites messages may be sealed with (default AES-256-GCM and ChaCha20-Poly1305).
    pub suites: Vec<Suite>,
    /// How keys are wrapped (default with AES-256-GCM).
    pub wrap_suite: WrapSuite,
    /// The largest roster (default 10,000; at most 65,535).
    pub members_max: u16,
}

impl Default for IssuePolicy {
    fn default() -> Self {
        Self {
            rotate_every_ms: 24 * HOUR,
            sessions_max: SESSIONS_MAX,
            key_lead_ms: 60 * SECOND,
            removal_lead_ms: 5 * SECOND,
            outage_ms: 7 * 24 * HOUR,
            reissue_every_ms: 12 * HOUR,
            settle_ms: SECOND,
            timing: EpochTiming::default(),
            join_secrecy: false,
            shared_history: 0,
            allow_static_wrap: true,
            admission: Admission::default(),
            signed_only: false,
            suites: vec![Suite::Aes256Gcm, Suite::ChaCha20Poly1305],
            wrap_suite: WrapSuite::Aes256Gcm,
            members_max: 10_000,
        }
    }
}
