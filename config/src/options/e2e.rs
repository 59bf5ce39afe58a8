//! The options of what the broker asks of messages that are sealed end to end.

use super::{OptionSpec, option, unset};
use crate::kind::Kind;

pub(super) const OPTIONS: &[OptionSpec] = &[
    unset(
        option(
            "e2e.distribution",
            Kind::Choice(&["observe", "verify", "enforce"]),
            "Whether objects of key distribution are refused that do not verify, and also what another client writes or reads than their topics name.",
        ),
        "`enforce` if a policy has `members_only`, else `verify` if one requires something, else `observe`",
    ),
    unset(
        option(
            "e2e.policies[].name",
            Kind::Text { bytes_max: 64 },
            "What metrics call the policy; no two alike.",
        ),
        "must be given",
    ),
    unset(
        option(
            "e2e.policies[].topics",
            Kind::TopicFilter,
            "Topic Filter of its topics; a topic falls under the most specific one. Read again on SIGHUP, as all of them.",
        ),
        "must be given",
    ),
    unset(
        option(
            "e2e.policies[].mode",
            Kind::Choice(&["off", "prefer", "require"]),
            "Whether what breaks a rule is refused, counted and let through, or not looked at.",
        ),
        "`require`",
    ),
    unset(
        option(
            "e2e.policies[].formats",
            Kind::Choices(&["ve1", "article"]),
            "Formats that are allowed; the article's is recognised by its length and by not being text.",
        ),
        "`[\"ve1\"]`",
    ),
    unset(
        option(
            "e2e.policies[].scope",
            Kind::TopicFilter,
            "Scope that messages are sealed for; it covers `topics`.",
        ),
        "the same as `topics`",
    ),
    unset(
        option("e2e.policies[].suites", Kind::Choices(super::veil::SUITES), "Suites that are allowed."),
        "all of them",
    ),
    unset(
        option(
            "e2e.policies[].require_signed",
            Kind::Boolean,
            "Whether an envelope needs a source signature.",
        ),
        "`false`",
    ),
    unset(
        option(
            "e2e.policies[].verify_signature",
            Kind::Boolean,
            "Whether a source signature is verified, where there is one.",
        ),
        "`false`",
    ),
    unset(
        option(
            "e2e.policies[].epoch_monotonic",
            Kind::Boolean,
            "Whether an epoch has to be in use: of a verified KEYHEAD or, while none is known, not before the sender's last.",
        ),
        "`true`",
    ),
    unset(
        option(
            "e2e.policies[].transition_seconds",
            Kind::Integer { min: 0, max: 604_800 },
            "How long after the next epoch began one is still taken, in seconds.",
        ),
        "`600`",
    ),
    unset(
        option(
            "e2e.policies[].epoch_seconds_max",
            Kind::Integer { min: 1, max: 31_536_000 },
            "How long ago an epoch may have begun, in seconds; it needs a verified KEYHEAD then.",
        ),
        "any time",
    ),
    unset(
        option(
            "e2e.policies[].sender_binding",
            Kind::Boolean,
            "Whether the sender in an envelope has to be the client itself, by its VEIL-1 identity.",
        ),
        "`true`",
    ),
    unset(
        option(
            "e2e.policies[].bridges",
            Kind::Texts,
            "Clients that may pass on what others have sealed, by user name, or by Client Identifier if they have an identity.",
        ),
        "`[]`",
    ),
    unset(
        option(
            "e2e.policies[].bridged_senders",
            Kind::KeyIdentifiers,
            "Senders whose envelopes `bridges` may pass on.",
        ),
        "`[]`",
    ),
    unset(
        option(
            "e2e.policies[].skew_seconds_max",
            Kind::Integer { min: 1, max: 31_536_000 },
            "How far the time in an envelope may be from the broker's, in seconds; one without time is refused then.",
        ),
        "no time is looked at",
    ),
    unset(
        option(
            "e2e.policies[].payload_bytes_max",
            Kind::Integer { min: 1, max: 268_435_455 },
            "Largest payload, in bytes.",
        ),
        "no bound but `limits.payload_bytes_max`",
    ),
    unset(
        option(
            "e2e.policies[].require_channel",
            Kind::Choice(&["any", "tls", "veil"]),
            "What has to protect the connection of a publisher.",
        ),
        "`any`",
    ),
    unset(
        option(
            "e2e.policies[].members_only",
            Kind::Boolean,
            "Whether a SUBSCRIBE for any of these topics is refused to clients without a wrap in a verified KEYHEAD.",
        ),
        "`false`",
    ),
];
