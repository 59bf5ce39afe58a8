//! What a handshake ends in, the same on both sides.

use super::{
    error::HandshakeError,
    handshake_server::Protection,
    kdf::Secret32,
    opener::RecordOpener,
    property_mode::{PropertyOpener, PropertySealer},
    record::Side,
    schedule::ApplicationSecrets,
    sealer::RecordSealer,
    ticket::{Resumption, TicketFields, TicketKeys},
};
use crate::veil::{
    hello::{ChannelForm, ServerFinishParams},
    layout::{LayoutError, Reader},
    record::ControlOp,
    registry::{Kid, Scheme, Suite},
    vmc::Certificate,
};
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// What a handshake leaves for the re-authentication of its channel (VEIL-1 section 4.8): a secret that chains one to the
/// other, and what must stay as it was.
pub struct Predecessor {
    pub(super) exporter: Secret32,
    pub(super) peer: Kid,
    pub(super) scheme: Scheme,
    pub(super) suite: Suite,
    pub(super) resumption: Secret32,
    pub(super) certificate: Certificate,
}

impl Predecessor {
    /// Makes another ticket for the client of this channel, for [`ControlOp::Ticket`].
    ///
    /// # Errors
    /// [`HandshakeError::Encode`], which does not happen with a certificate that was parsed.
    pub fn ticket(
        &self,
        keys: &mut TicketKeys,
        now_unix_ms: u64,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Vec<u8>, HandshakeError> {
        let Self { resumption, scheme, suite, certificate: client, .. } = self;
        let fields = TicketFields { resumption, scheme: *scheme, suite: *suite, client };
        keys.issue(&fields, now_unix_ms, entropy).map_err(HandshakeError::Encode)
    }

    /// Takes a ticket that came over the channel; `None` when it is too short to be one.
    #[must_use]
    pub fn resumption(&self, ticket: &[u8]) -> Option<Resumption> {
        Resumption::new(ticket, &self.resumption, self.scheme, self.suite, &self.certificate)
    }
}

/// An established channel: who is at the other end, and the keys of both directions.
///
/// Where packets do not travel in records the sealer and opener go unused, but for operations in property mode.
pub struct Established {
    /// Seals what this side sends.
    pub sealer: RecordSealer,
    /// Opens what the peer sends.
    pub opener: RecordOpener,
    /// The chosen scheme.
    pub scheme: Scheme,
    /// The chosen suite.
    pub suite: Suite,
    /// How packets are protected.
    pub form: ChannelForm,
    /// The peer's certificate, which is verified.
    pub peer: Certificate,
    /// A secret for protocols above the channel, equal on both sides.
    pub exporter: Secret32,
    resumption: Secret32,
    property: Option<(PropertySealer, PropertyOpener)>,
    /// A group key came with ServerFinish that alone authenticates messages (VEIL-1 section 6.3).
    pub has_weak_groups: bool,
    /// What the broker told the client with ServerFinish, apart from group keys, which a client keeps in the opener only.
    pub params: ServerFinishParams,
}

/// A channel in property mode (VEIL-1 section 5.3).
pub struct PropertyChannel {
    /// Protects what this side publishes.
    pub publishes: PropertySealer,
    /// Checks what the peer publishes.
    pub published: PropertyOpener,
    /// Seals the operations of section 5.4, each of which is the payload of a PUBLISH.
    pub operations: RecordSealer,
    /// Opens those of the peer.
    pub operated: RecordOpener,
}

impl Established {
    pub(super) fn new(
        side: Side,
        Protection { scheme, suite, form }: Protection,
        peer: Certificate,
        secrets: ApplicationSecrets,
        params: ServerFinishParams,
    ) -> Self {
        let (sending, receiving) = match side {
            Side::Client => (secrets.client, secrets.server),
            Side::Broker => (secrets.server, secrets.client),
        };
        let property = (form == ChannelForm::Property)
            .then(|| (PropertySealer::new(side, &sending), PropertyOpener::new(side, &receiving)));
        Self {
            sealer: RecordSealer::new(suite, scheme, sending),
            opener: RecordOpener::new(side, suite, scheme, receiving),
            scheme,
            suite,
            form,
            peer,
            exporter: secrets.exporter,
            resumption: secrets.resumption,
            property,
            has_weak_groups: false,
            params,
        }
    }

    /// Takes the channel apart: both directions, and what its re-authentication takes.
    #[must_use]
    pub fn into_parts(self) -> (RecordSealer, RecordOpener, Predecessor) {
        let Self { sealer, opener, scheme, suite, peer, exporter, resumption, .. } = self;
        let predecessor =
            Predecessor { exporter, peer: peer.kid(), scheme, suite, resumption, certificate: peer };
        (sealer, opener, predecessor)
    }

    /// Takes the channel apart in property mode; `None` in any other.
    #[must_use]
    pub fn into_property_mode(self) -> Option<PropertyChannel> {
        let Self { sealer, opener, property, .. } = self;
        let (publishes, published) = property?;
        Some(PropertyChannel { publishes, published, operations: sealer, operated: opener })
    }

    /// Takes the ticket that the broker gave with ServerFinish, if it gave one (VEIL-1 section 4.7).
    #[must_use]
    pub fn take_resumption(&mut self) -> Option<Resumption> {
        let ticket = self.params.ticket.take()?;
        Resumption::new(&ticket, &self.resumption, self.scheme, self.suite, &self.peer)
    }

    /// Moves the group keys that came with ServerFinish into the opener (VEIL-1 section 4.4).
    pub(super) fn install_groups(&mut self) -> Result<(), LayoutError> {
        for content in core::mem::take(&mut self.params.group_grants).into_iter().map(Zeroizing::new) {
            let mut reader = Reader::new(&content);
            let grant = ControlOp::read_group_grant(&mut reader)?;
            reader.finish()?;
            self.has_weak_groups |= matches!(grant, ControlOp::GroupGrant { outer_tag: false, .. });
            self.opener.install_group(&grant)?;
        }
        Ok(())
    }
}
