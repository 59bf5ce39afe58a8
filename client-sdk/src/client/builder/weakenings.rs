//! What options give up of what VEIL-1 protects.
//!
//! Invariant: nothing that weakens a channel or a scope is chosen without a warning that names the option.

use tracing::warn;
use veilmq_protocol::veil::Scheme;

use super::Builder;
use crate::session::Handshake;

impl Builder {
    /// Says what is given up, once all options are what they will be.
    pub(super) fn warn_of_weakenings(&self) {
        for (option, meaning) in self.weakenings() {
            warn!(option, "{meaning}");
        }
    }

    fn weakenings(&self) -> impl Iterator<Item = (&'static str, String)> {
        let has_scheme_1 = self.schemes.is_some_and(|schemes| schemes.contains(Scheme::One));
        let compact = if self.paper.is_some() { "paper" } else { "handshake" };
        let of_channel = [
            (
                compact,
                self.handshake == Handshake::Compact,
                "COMPACT shows the certificate to the network, and a clock alone protects its first packet",
            ),
            ("schemes", has_scheme_1, "with Scheme 1 the connection would be plain MQTT after CONNECT"),
            (
                "weak_groups",
                self.weak_groups,
                "group keys alone are accepted: any subscriber could forge messages of the broker",
            ),
        ];
        let given_up = of_channel.into_iter().filter(|(_, is_chosen, _)| *is_chosen);
        let article = self.scopes.iter().filter(|config| config.is_article());
        let of_article = article.map(|config| {
            let meaning = "whoever can publish there, the broker too, changes and repeats messages unnoticed";
            ("scope", format!("{} has the article's format: {meaning}", config.scope().as_str()))
        });
        let of_copies = self.legacy.iter().map(|(scope, _)| {
            let meaning = "each message is published once more, and that copy is not authentic";
            ("copy_to_legacy", format!("{}: {meaning}", scope.as_str()))
        });
        given_up.map(|(option, _, meaning)| (option, meaning.to_owned())).chain(of_article).chain(of_copies)
    }
}

#[cfg(test)]
mod tests {
    use veilmq_protocol::veil::Schemes;

    use super::*;
    use crate::{
        Client,
        e2e::{ArticleKey, ArticleKeys, MasterSecret, Scope, ScopeConfig},
    };

    fn options(mut builder: Builder) -> Vec<&'static str> {
        builder.follow_paper();
        builder.weakenings().map(|(option, _)| option).collect()
    }

    #[test]
    fn every_weakening_has_the_name_of_its_option_and_what_is_chosen_by_default_is_none() {
        let builder = || Client::builder("localhost", 1);
        let scope = || Scope::new("line/#").unwrap();
        let article = || ArticleKeys::new(ArticleKey::master(&[7; 32]));

        for (builder, expected) in [
            (builder().master_scope("line/#", MasterSecret::new(&[7; 32])).unwrap(), &[][..]),
            (builder().schemes(Schemes::of(&[Scheme::One, Scheme::Four])), &["schemes"]),
            (builder().weak_groups(true), &["weak_groups"]),
            (builder().handshake(Handshake::Compact), &["handshake"]),
            (builder().paper(Scheme::Two), &["paper"]),
            (builder().paper(Scheme::Four), &["paper", "weak_groups"]),
            (builder().scope(ScopeConfig::article(scope(), article())), &["scope"]),
            (builder().copy_to_legacy("line/#", article()).unwrap(), &["copy_to_legacy"]),
        ] {
            assert_eq!(options(builder), expected);
        }
    }
}
