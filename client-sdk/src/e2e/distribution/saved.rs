//! What a [`Distribution`] has to remember over a restart, as bytes: keys, prekeys, rosters, the newest heads and lists.
//!
//! The bytes hold secrets. Whoever stores them encrypts and authenticates them, so they carry no checksum of their own.

use veilmq_protocol::veil::{
    Certificate, Kid,
    channel::Secret32,
    distribution::{Crl, Prekey},
    layout::{LayoutError, Reader},
};
use zeroize::Zeroizing;

use super::{
    Distribution,
    issuer::{Epoch, Issuer, Member},
    membership::{Mark, Membership},
    prekeys::{OwnPrekey, Prekeys},
};
use crate::e2e::{
    E2e, Entropy,
    error::StateError,
    keyring::{GroupKey, Window},
    rings::Rings,
    scope::Scope,
    sessions::SessionsUsed,
};

const MAGIC: [u8; 4] = *b"VEKD";
const VERSION: u8 = 5;
/// Reserved at once: growing would leave copies of secrets behind.
const CAPACITY: usize = 64 << 10;

/// Writes fields into a buffer that is erased; when it must grow, the old one is erased as well.
pub(super) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        if self.0.capacity() - self.0.len() < bytes.len() {
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * self.0.capacity() + bytes.len()));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    pub(super) fn v32(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.bytes(bytes);
    }

    pub(super) fn kids(&mut self, kids: impl Iterator<Item = Kid>) {
        let kids: Vec<Kid> = kids.collect();
        self.count(kids.len());
        for kid in kids {
            self.bytes(kid.as_bytes());
        }
    }

    pub(super) fn optional<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn window(&mut self, window: Window) {
        for moment in [window.activate_ms, window.retire_ms, window.drop_ms] {
            self.u64(moment);
        }
        self.u8(u8::from(window.no_transition));
    }
}

impl Distribution {
    /// Returns everything as bytes, secrets included: encrypt them before they are stored.
    pub fn export(&self, e2e: &E2e) -> Zeroizing<Vec<u8>> {
        let mut out = Writer(Zeroizing::new(Vec::with_capacity(CAPACITY)));
        out.bytes(&MAGIC);
        out.u8(VERSION);
        out.bytes(self.identity.kid().as_bytes());
        self.prekeys.write(&mut out);
        out.count(self.lists.len());
        for list in self.lists.values() {
            out.v32(list.as_bytes());
        }
        let senders: Vec<&Certificate> = e2e.directory().introduced().collect();
        out.count(senders.len());
        for certificate in senders {
            out.v32(certificate.as_bytes());
        }
        out.count(self.memberships.len());
        for membership in self.memberships.iter() {
            membership.write(e2e.rings(&membership.scope), &mut out);
        }
        out.count(self.issuers.len());
        let used = e2e.sessions_used();
        for issuer in self.issuers.iter() {
            issuer.write(used.get(issuer.scope.as_str()).copied(), &mut out);
        }
        self.write_pairs(e2e, &mut out);
        out.0
    }

    /// Takes back what [`export`](Self::export) gave, after the scopes were added and before anything else. Scopes that are
    /// there no longer are passed over.
    ///
    /// # Errors
    /// [`StateError`]; nothing may be done with this object then.
    pub fn import(&mut self, e2e: &mut E2e, bytes: &[u8], entropy: Entropy<'_>) -> Result<(), StateError> {
        let mut reader = Reader::new(bytes);
        if reader.array("magic").map_err(|_| StateError::NotState)? != MAGIC {
            return Err(StateError::NotState);
        }
        let version = reader.u8("version")?;
        if version != VERSION {
            return Err(StateError::Version(version));
        }
        if Kid::from_bytes(reader.array("kid")?) != self.identity.kid() {
            return Err(LayoutError::Value("identity").into());
        }
        self.prekeys = Prekeys::read(&mut reader)?;
        for _ in 0..reader.u32("list count")? {
            let list = Crl::parse(reader.v32("list")?).map_err(|_| LayoutError::Value("list"))?;
            self.lists.insert(list.issuer.kid(), list);
        }
        for _ in 0..reader.u32("sender count")? {
            e2e.directory_mut().reintroduce(read_certificate(&mut reader)?);
        }
        for _ in 0..reader.u32("scope count")? {
            let scope = read_scope(&mut reader)?;
            let rings = e2e.rings_mut(&scope);
            let marks = read_membership(&mut reader, rings)?;
            if let Some(membership) = self.memberships.iter_mut().find(|known| known.scope == scope) {
                membership.marks.extend(marks);
            }
        }
        for _ in 0..reader.u32("issuer count")? {
            let scope = read_scope(&mut reader)?;
            let issuer = self.issuers.iter_mut().find(|issuer| issuer.scope == scope);
            read_issuer(&mut reader, issuer)?;
            let used = optional(&mut reader, |reader| {
                Ok(SessionsUsed { epoch: reader.u32("epoch")?, count: reader.u32("session count")? })
            })?;
            if let Some(used) = used {
                e2e.resume_sessions(&scope, used);
            }
        }
        self.read_pairs(e2e, &mut reader)?;
        reader.finish()?;
        let lists: Vec<Crl> = self.lists.values().cloned().collect();
        for list in lists {
            self.apply(e2e, list.issuer.kid(), &list, None, &mut *entropy);
        }
        self.events.clear();
        for issuer in self.issuers.iter_mut() {
            if let Some(rings) = e2e.rings_mut(&issuer.scope) {
                issuer.install(rings);
            }
        }
        Ok(())
    }
}

impl Prekeys {
    fn write(&self, out: &mut Writer) {
        out.u32(self.last_id);
        for prekey in [&self.current, &self.previous] {
            out.optional(prekey.as_ref(), |out, OwnPrekey { id, secret, public, made_ms }| {
                out.u32(*id);
                out.bytes(secret.as_bytes());
                out.bytes(public);
                out.u64(*made_ms);
            });
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        let last_id = reader.u32("prekey number")?;
        let mut own = || {
            optional(reader, |reader| {
                let id = reader.u32("prekey id")?;
                let secret = Secret32::new(&Zeroizing::new(reader.array("prekey")?));
                Ok(OwnPrekey { id, secret, public: reader.array("prekey")?, made_ms: reader.u64("prekey")? })
            })
        };
        Ok(Self { current: own()?, previous: own()?, last_id })
    }
}

impl Membership {
    fn write(&self, rings: Option<&Rings>, out: &mut Writer) {
        out.v32(self.scope.as_str().as_bytes());
        out.count(self.marks.len());
        for (issuer, mark) in &self.marks {
            out.bytes(issuer.as_bytes());
            out.u32(mark.epoch);
            out.u64(mark.created_ms);
            out.bytes(&mark.link);
            out.u8(u8::from(mark.opened));
        }
        let rings: Vec<_> = rings.into_iter().flat_map(Rings::iter).collect();
        out.count(rings.len());
        for (issuer, ring) in rings {
            out.bytes(issuer.as_bytes());
            out.u8(u8::from(ring.authority) | u8::from(ring.signed_only) << 1);
            let suites: Vec<u8> = ring.suites.iter().map(|suite| suite.value()).collect();
            out.v32(&suites);
            out.optional(ring.vouched.as_ref(), |out, (issuer, serial)| {
                out.bytes(issuer.as_bytes());
                out.u64(*serial);
            });
            let held: Vec<_> = ring.keyring.held().collect();
            out.count(held.len());
            for (epoch, key, window) in held {
                out.u32(epoch);
                out.bytes(key.as_bytes());
                out.window(window);
            }
        }
    }
}

fn read_membership(
    reader: &mut Reader<'_>,
    mut rings: Option<&mut Rings>,
) -> Result<Vec<(Kid, Mark)>, StateError> {
    let mut marks = Vec::new();
    for _ in 0..reader.u32("mark count")? {
        let issuer = Kid::from_bytes(reader.array("issuer")?);
        let mark = Mark {
            epoch: reader.u32("epoch")?,
            created_ms: reader.u64("created")?,
            link: reader.array("link")?,
            opened: reader.u8("opened")? != 0,
        };
        marks.push((issuer, mark));
    }
    for _ in 0..reader.u32("ring count")? {
        let issuer = Kid::from_bytes(reader.array("issuer")?);
        let flags = reader.u8("ring flags")?;
        let suites = reader.v32("suites")?;
        let vouched = optional(reader, |reader| {
            Ok((Kid::from_bytes(reader.array("authority")?), reader.u64("serial")?))
        })?;
        let mut ring = rings.as_mut().map(|rings| rings.ring(issuer));
        if let Some(ring) = &mut ring {
            ring.authority = flags & 1 != 0;
            ring.signed_only = flags & 2 != 0;
            ring.vouched = vouched;
            ring.suites = suites.iter().filter_map(|suite| (*suite).try_into().ok()).collect();
        }
        for _ in 0..reader.u32("key count")? {
            let epoch = reader.u32("epoch")?;
            let key = GroupKey::new(&Zeroizing::new(reader.array("group key")?));
            let window = read_window(reader)?;
            if let Some(ring) = &mut ring {
                ring.keyring.install(epoch, key, window);
            }
        }
    }
    Ok(marks)
}

impl Issuer {
    fn write(&self, used: Option<SessionsUsed>, out: &mut Writer) {
        out.v32(self.scope.as_str().as_bytes());
        out.optional(self.tip.as_ref(), |out, (number, link)| {
            out.u32(*number);
            out.bytes(link);
        });
        out.u64(self.head_ms);
        out.count(self.epochs.len());
        for (number, epoch) in &self.epochs {
            out.u32(*number);
            out.bytes(epoch.key.as_bytes());
            out.bytes(&epoch.previous);
            out.u64(epoch.lead_ms);
            out.u8(u8::from(epoch.no_transition));
            out.optional(epoch.activate_ms.as_ref(), |out, moment| out.u64(*moment));
        }
        out.count(self.members.len());
        for member in self.members.values() {
            out.v32(member.certificate.as_bytes());
            out.optional(member.prekey.as_ref(), |out, prekey| out.v32(prekey.as_bytes()));
        }
        out.kids(self.barred.iter());
        out.kids(self.cleared.iter().copied());
        out.optional(used.as_ref(), |out, SessionsUsed { epoch, count }| {
            out.u32(*epoch);
            out.u32(*count);
        });
    }
}

/// Reads the state of an issuer into `issuer`, or past it.
fn read_issuer(reader: &mut Reader<'_>, issuer: Option<&mut Issuer>) -> Result<(), StateError> {
    let tip = optional(reader, |reader| Ok((reader.u32("epoch")?, reader.array("link")?)))?;
    let head_ms = reader.u64("head")?;
    let mut read = Issuer {
        tip,
        head_ms,
        ..Issuer::new(Scope::new("#")?, Kid::from_bytes([0; 8]), false, Default::default())
    };
    for _ in 0..reader.u32("epoch count")? {
        let number = reader.u32("epoch")?;
        let epoch = Epoch {
            key: GroupKey::new(&Zeroizing::new(reader.array("group key")?)),
            previous: reader.array("previous")?,
            lead_ms: reader.u64("lead")?,
            no_transition: reader.u8("transition")? != 0,
            activate_ms: optional(reader, |reader| Ok(reader.u64("activation")?))?,
        };
        read.epochs.insert(number, epoch);
    }
    for _ in 0..reader.u32("member count")? {
        let certificate = read_certificate(reader)?;
        let prekey = optional(reader, |reader| {
            Ok(Prekey::parse(reader.v32("prekey")?).map_err(|_| LayoutError::Value("prekey"))?)
        })?;
        read.members.insert(certificate.kid(), Member { certificate, prekey });
    }
    for _ in 0..reader.u32("barred count")? {
        read.barred.bar(Kid::from_bytes(reader.array("barred")?));
    }
    for _ in 0..reader.u32("cleared count")? {
        read.cleared.insert(Kid::from_bytes(reader.array("cleared")?));
    }
    if let Some(issuer) = issuer {
        let Issuer { tip, head_ms, epochs, members, barred, cleared, .. } = read;
        issuer.tip = tip;
        issuer.head_ms = head_ms;
        issuer.issued_ms = head_ms;
        issuer.epochs = epochs;
        issuer.members.extend(members);
        issuer.barred = barred;
        issuer.cleared = cleared;
    }
    Ok(())
}

pub(super) fn read_certificate(reader: &mut Reader<'_>) -> Result<Certificate, StateError> {
    Ok(Certificate::parse(reader.v32("certificate")?).map_err(|_| LayoutError::Value("certificate"))?)
}

fn read_scope(reader: &mut Reader<'_>) -> Result<Scope, StateError> {
    let filter = str::from_utf8(reader.v32("scope")?).map_err(|_| LayoutError::Value("scope"))?;
    Ok(Scope::new(filter)?)
}

pub(super) fn read_window(reader: &mut Reader<'_>) -> Result<Window, StateError> {
    Ok(Window {
        activate_ms: reader.u64("activation")?,
        retire_ms: reader.u64("retirement")?,
        drop_ms: reader.u64("drop")?,
        no_transition: reader.u8("transition")? != 0,
    })
}

pub(super) fn optional<T>(
    reader: &mut Reader<'_>,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, StateError>,
) -> Result<Option<T>, StateError> {
    match reader.u8("presence")? {
        0 => Ok(None),
        1 => read(reader).map(Some),
        2.. => Err(LayoutError::Value("presence").into()),
    }
}
