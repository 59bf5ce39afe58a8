//! A client as the paper has it (VEIL-1 section 7).

use veilmq_protocol::veil::{Kid, Scheme, Schemes, Suite};

use super::{Asked, Builder};
use crate::{
    e2e::{ConfigError, Scope},
    session::Handshake,
};

/// The only suite of the paper: AES-256-CBC and HMAC-SHA-256 with tags of 32 bytes.
const SUITE: Suite = Suite::Aes256CbcHmacSha256;

impl Builder {
    /// Follows the paper to the letter in one of its schemes: COMPACT without tickets, suite 1 on the channel and in every scope, and in Schemes
    /// 3 and 4 group keys that alone protect messages. The broker must serve it (`veil.paper_modes`); the join in CONNECT is
    /// [`ask_with_connect`](Self::ask_with_connect).
    ///
    /// Each of these is weaker than what stands in its place otherwise, and warned of: this is for comparison. Needs
    /// [`broker_name`](Self::broker_name) and a clock.
    pub const fn paper(mut self, scheme: Scheme) -> Self {
        self.paper = Some(scheme);
        self
    }

    /// Asks an issuer for the keys of a scope with CONNECT, as in the paper: the broker passes the request on and CONNACK brings the
    /// answer, if the issuer is there (VEIL-1 section 9.1). The scope has to be [joined](Self::join_scope), and the keys come as
    /// usual if they do not come so. The request shows scope and certificate to the network. The last call counts: CONNECT has room for one.
    ///
    /// # Errors
    /// [`ConfigError`] for what is no filter.
    pub fn ask_with_connect(mut self, filter: &str, issuer: Kid) -> Result<Self, ConfigError> {
        self.asks = Some(Asked::Scope(Scope::new(filter)?, issuer));
        Ok(self)
    }

    /// Sets every option that the paper decides.
    pub(super) fn follow_paper(&mut self) {
        let Some(scheme) = self.paper else { return };
        self.schemes = Some(Schemes::of(&[scheme]));
        self.suites = Some(vec![SUITE]);
        self.handshake = Handshake::Compact;
        self.resume = false;
        self.weak_groups = matches!(scheme, Scheme::Three | Scheme::Four);
        for scope in &mut self.scopes {
            scope.seal_with(SUITE);
        }
        for (_, options) in &mut self.joined {
            options.suite = SUITE;
        }
        for (_, options) in &mut self.pairs {
            options.suite = SUITE;
        }
        if let Some((options, _)) = &mut self.issued_pairs {
            options.suite = SUITE;
        }
        for (_, options, policy) in &mut self.issued {
            options.suite = SUITE;
            policy.suites = vec![SUITE];
        }
    }
}
