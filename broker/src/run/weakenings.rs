//! Options that give protection up, and what that means; the broker says it when it starts.

use std::borrow::Cow;

use veilmq_config::{
    BrokerConfig, E2eConfig, E2eDistribution, E2eFormat, E2eMode, E2ePolicyConfig, PaperMode, VeilConfig,
};

/// An option that gives protection up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Weakening {
    pub(super) option: &'static str,
    pub(super) meaning: Cow<'static, str>,
}

/// Returns all that a configuration gives up of what VEIL-1 protects.
pub(super) fn all(config: &BrokerConfig) -> Vec<Weakening> {
    let mut found = of_channel(&config.veil);
    found.extend(of_distribution(&config.e2e));
    found.extend(config.e2e.policies.iter().flat_map(of_policy));
    found
}

/// Returns what is given up of the channel's protection.
fn of_channel(veil: &VeilConfig) -> Vec<Weakening> {
    let mut found = Vec::new();
    if !veil.enabled {
        return found;
    }
    if veil.schemes.contains(&veilmq_config::Scheme::Scheme1) {
        found.push(Weakening {
            option: "veil.schemes",
            meaning: "scheme-1 protects CONNECT only: the packets that follow are plain MQTT".into(),
        });
    }
    for mode in &veil.paper_modes {
        found.push(Weakening {
            option: "veil.paper_modes",
            meaning: Cow::Borrowed(match mode {
                PaperMode::Paper1 => "paper-1 protects CONNECT only, and that by a clock: the packets that follow are plain MQTT",
                PaperMode::Paper2 => "paper-2 shows certificates to the network, and its first packet is protected by a clock",
                PaperMode::Paper3 => {
                    "in paper-3 a group key alone protects messages: any subscriber can forge them to the others"
                }
                PaperMode::Paper4 => {
                    "in paper-4 a group key alone authenticates messages: any subscriber can forge them to the others"
                }
            }),
        });
    }
    if veil.property_mode && !veil.property_requires_tls {
        found.push(Weakening {
            option: "veil.property_requires_tls",
            meaning:
                "in property mode without TLS, packets other than PUBLISH are neither authentic nor secret"
                    .into(),
        });
    }
    if veil.fan_out == veilmq_config::FanOut::Group {
        found.push(Weakening {
            option: "veil.fan_out",
            meaning: "a group key alone authenticates messages: any subscriber can forge them to the others"
                .into(),
        });
    }
    found
}

/// Returns what is given up where messages have to be sealed under keys that nobody looks at.
fn of_distribution(config: &E2eConfig) -> Option<Weakening> {
    let is_any_required = config.policies.iter().any(|policy| policy.mode == E2eMode::Require);
    let is_observed = config.distribution() == E2eDistribution::Observe;
    (is_any_required && is_observed).then_some(Weakening {
        option: "e2e.distribution",
        meaning:
            "old and forged objects of key distribution are passed on: receivers are left to notice them"
                .into(),
    })
}

/// Returns what a policy on end-to-end encryption gives up.
fn of_policy(policy: &E2ePolicyConfig) -> impl Iterator<Item = Weakening> {
    let is_applied = policy.mode != E2eMode::Off;
    [
        (
            "e2e.policies[].sender_binding",
            !policy.sender_binding,
            "any member can publish under the name of another, unless readers demand signatures",
        ),
        (
            "e2e.policies[].epoch_monotonic",
            !policy.epoch_monotonic,
            "messages under keys of earlier epochs are passed on, also those of members that were removed",
        ),
        (
            "e2e.policies[].formats",
            policy.formats.contains(&E2eFormat::Article),
            "the article's format is recognised by its shape alone, and its messages are not authentic",
        ),
    ]
    .into_iter()
    .filter(move |(_, is_given_up, _)| is_applied && *is_given_up)
    .map(|(option, _, meaning)| {
        let meaning = format!("policy {}: {meaning}", policy.name).into();
        Weakening { option, meaning }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weakening_of_the_channel_has_a_name_and_the_defaults_have_none() {
        let veil = VeilConfig::default();
        let options = |veil: &VeilConfig| {
            of_channel(veil).into_iter().map(|weakening| weakening.option).collect::<Vec<_>>()
        };

        assert_eq!(options(&veil), [""; 0]);
        let schemes = vec![veilmq_config::Scheme::Scheme1];
        assert_eq!(options(&VeilConfig { schemes, ..veil.clone() }), ["veil.schemes"]);
        let paper_modes = vec![PaperMode::Paper1, PaperMode::Paper2, PaperMode::Paper3, PaperMode::Paper4];
        assert_eq!(options(&VeilConfig { paper_modes, ..veil.clone() }), ["veil.paper_modes"; 4]);
        let property_requires_tls = false;
        assert_eq!(
            options(&VeilConfig { property_requires_tls, ..veil.clone() }),
            ["veil.property_requires_tls"]
        );
        let fan_out = veilmq_config::FanOut::Group;
        assert_eq!(options(&VeilConfig { fan_out, ..veil.clone() }), ["veil.fan_out"]);
        assert_eq!(options(&VeilConfig { fan_out, enabled: false, ..veil }), [""; 0]);
    }

    #[test]
    fn policies_that_give_something_up_are_named() {
        let policy = |name: &str, mode: &str, option: &str, value: serde_json::Value| -> E2ePolicyConfig {
            let policy = serde_json::json!({ "name": name, "topics": "f/#", "mode": mode, option: value });
            serde_json::from_value(policy).unwrap()
        };
        let policies = vec![
            policy("bound", "require", "sender_binding", true.into()),
            policy("open", "prefer", "sender_binding", false.into()),
            policy("idle", "off", "sender_binding", false.into()),
            policy("late", "require", "epoch_monotonic", false.into()),
            policy("old", "require", "formats", serde_json::json!(["ve1", "article"])),
        ];
        let mut config = BrokerConfig::default();
        config.e2e.policies = policies;

        let named = |config: &BrokerConfig| -> Vec<_> {
            let found = all(config).into_iter();
            let first = |meaning: &str| meaning.split(": ").next().unwrap().to_owned();
            found.map(|weakening| (weakening.option, first(&weakening.meaning))).collect()
        };
        let policies = [
            ("e2e.policies[].sender_binding", "policy open".to_owned()),
            ("e2e.policies[].epoch_monotonic", "policy late".to_owned()),
            ("e2e.policies[].formats", "policy old".to_owned()),
        ];
        assert_eq!(named(&config), policies);
        config.e2e.distribution = Some(E2eDistribution::Observe);
        assert_eq!(named(&config)[0].0, "e2e.distribution");
        config.e2e.policies.retain(|policy| policy.mode != E2eMode::Require);
        assert_eq!(named(&config), policies[..1], "what is only preferred needs no keys that hold");
    }
}
