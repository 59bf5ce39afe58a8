//! The policies on end-to-end encryption, from the configuration to the form that the shards apply.

use std::sync::Arc;

use veilmq_config::{E2eChannel, E2eConfig, E2eDistribution, E2eFormat, E2eMode, E2ePolicyConfig};
use veilmq_core::{
    DistributionRule, Enforcement, MessageFormat, Policies, Policy, PolicyError, RequiredChannel,
};
use veilmq_protocol::veil::Suite;

/// Makes the table of policies.
///
/// # Errors
/// [`PolicyError`], naming the policy.
pub(super) fn policies(config: &E2eConfig) -> Result<Policies, PolicyError> {
    let policies = Policies::new(config.policies.iter().map(policy).collect())?;
    Ok(policies.with_distribution(match config.distribution() {
        E2eDistribution::Observe => DistributionRule::Observe,
        E2eDistribution::Verify => DistributionRule::Verify,
        E2eDistribution::Enforce => DistributionRule::Enforce,
    }))
}

fn policy(config: &E2ePolicyConfig) -> Policy {
    Policy {
        name: Arc::from(config.name.as_str()),
        topics: Arc::from(config.topics.as_str()),
        enforcement: match config.mode {
            E2eMode::Off => Enforcement::Off,
            E2eMode::Prefer => Enforcement::Prefer,
            E2eMode::Require => Enforcement::Require,
        },
        formats: config.formats.iter().map(format).collect(),
        scope: config.scope.as_deref().map(Arc::from),
        suites: config.suites.iter().filter_map(|suite| Suite::try_from(suite.id()).ok()).collect(),
        require_signed: config.require_signed,
        verify_signature: config.verify_signature,
        epoch_monotonic: config.epoch_monotonic,
        transition_milliseconds: u64::from(config.transition_seconds) * 1_000,
        epoch_milliseconds_max: config.epoch_seconds_max.map(|seconds| u64::from(seconds) * 1_000),
        sender_binding: config.sender_binding,
        bridges: config.bridges.iter().map(|name| Arc::from(name.as_str())).collect(),
        // What is no key identifier was refused with the configuration.
        bridged_senders: config.bridged_senders.iter().filter_map(|kid| kid.parse().ok()).collect(),
        skew_milliseconds_max: config.skew_seconds_max.map(|seconds| u64::from(seconds) * 1_000),
        payload_bytes_max: config.payload_bytes_max.map_or(usize::MAX, |bytes| bytes as usize),
        channel: match config.require_channel {
            E2eChannel::Any => RequiredChannel::Any,
            E2eChannel::Tls => RequiredChannel::Tls,
            E2eChannel::Veil => RequiredChannel::Veil,
        },
        members_only: config.members_only,
    }
}

fn format(format: &E2eFormat) -> MessageFormat {
    match format {
        E2eFormat::Ve1 => MessageFormat::Ve1,
        E2eFormat::Article => MessageFormat::Article,
    }
}
