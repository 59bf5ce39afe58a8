//! Broker group keys of one shard: which connections share one, when it changes, and the message that all of them get
//! (VEIL-1 sections 6.3 and 6.4).
//!
//! A connection becomes a member of a group with the first message that is for the group's topics, and gets the key right before
//! it. So a key goes only to who is being sent what it protects, and nothing is granted for topics that nobody publishes to. A group
//! takes a new key with the next message after a member has left. Invariant: a message is sealed under a key that no connection
//! holds which had left when the key was made, and a connection is sent no message under a key that it was not granted.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use veilmq_protocol::veil::channel::{
    GROUP_TAG_LEN, GroupFan, GroupSealer, Operations, Protection, Secret32,
};
use veilmq_protocol::veil::fanout::put_shared_properties;
use veilmq_protocol::veil::layout::LayoutError;
use veilmq_protocol::veil::record::{ControlOp, SharedBody};
use veilmq_protocol::veil::{Scheme, Suite};
use veilmq_protocol::{TopicFilter, TopicName};

use crate::id::{ConnectionId, IdMap};
use crate::message::Message;
use crate::time::Moment;

/// The groups that one connection takes part in at one time; messages for others are sealed for it alone. A client holds two
/// keys of each, and at most 1,024.
const GROUPS_PER_CONNECTION_MAX: usize = 256;
/// The group keys in one CONNACK.
const GRANTS_AHEAD_MAX: usize = 16;
/// The longest name of a group, so that its grant fits into a record.
const SCOPE_BYTES_MAX: usize = 1_024;
/// One for each suite, in Schemes 3 and 4, with outer tag and without.
const KINDS: usize = 4 * Suite::ALL.len();

/// How messages are fanned out, and how long a group key lasts.
#[derive(Clone, Debug)]
pub struct FanOut {
    /// How a message is authenticated to each subscriber.
    pub form: FanOutForm,
    /// The least time between two keys of a group when members leave, in milliseconds.
    pub rekey_milliseconds_min: u64,
    /// The age at which a group key is replaced, in milliseconds.
    pub key_milliseconds: u64,
    /// Whether a group takes a new key when a member joins.
    pub join_secrecy: bool,
    /// Topic Filters whose topics share one group; every other topic has a group of its own.
    pub scopes: Vec<Arc<str>>,
}

/// How a message is authenticated to each subscriber (VEIL-1 section 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FanOutForm {
    /// FAN-D in Scheme 4; FAN-GE with a tag under the subscriber's own key in Scheme 3.
    #[default]
    Digest,
    /// FAN-G and FAN-GE as in the paper: any member can forge messages of the broker to the others.
    Group,
    /// FAN-G and FAN-GE with a tag under the subscriber's own key.
    GroupOuter,
}

impl Default for FanOut {
    fn default() -> Self {
        Self {
            form: FanOutForm::Digest,
            rekey_milliseconds_min: 1_000,
            key_milliseconds: 3_600_000,
            join_secrecy: false,
            scopes: Vec::new(),
        }
    }
}

impl FanOut {
    /// Returns the kind of groups that a connection takes part in, which may be one as in the paper; None if it is sent no messages
    /// under group keys.
    pub(crate) fn group(
        &self,
        Protection { scheme, suite, .. }: Protection,
        is_paper: bool,
    ) -> Option<GroupKind> {
        let is_weak = is_paper || self.form == FanOutForm::Group;
        let uses_groups = match scheme {
            Scheme::One | Scheme::Two => false,
            Scheme::Three => true,
            Scheme::Four => is_weak || self.form == FanOutForm::GroupOuter,
        };
        uses_groups.then_some(GroupKind { scheme, suite, outer_tag: !is_weak })
    }
}

/// What the members of a group have in common beside its topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupKind {
    pub(crate) scheme: Scheme,
    suite: Suite,
    /// Each member also gets a tag under its own key.
    outer_tag: bool,
}

impl GroupKind {
    fn index(self) -> usize {
        let of_suite = 4 * (usize::from(self.suite.value()) - 1);
        of_suite + 2 * usize::from(self.outer_tag) + usize::from(self.scheme == Scheme::Three)
    }
}

/// What a message looks like to every member of a group.
#[derive(Clone)]
pub(crate) struct GroupMessage {
    /// Tells it from the others of its group.
    number: u64,
    pub(crate) fan: GroupFan,
    pub(crate) body: GroupBody,
}

/// The bytes that all members get alike.
#[derive(Clone)]
pub(crate) enum GroupBody {
    /// FAN-G: what stands before the payload, and the group's tag behind it.
    Clear(Arc<[u8]>, [u8; GROUP_TAG_LEN]),
    /// FAN-GE: everything.
    Encrypted(Arc<[u8]>),
}

/// One group under its present key.
struct Group {
    gid: u32,
    scope: Box<[u8]>,
    kind: GroupKind,
    epoch: u32,
    sealer: GroupSealer,
    since: Moment,
    /// How many messages were sealed.
    sealed: u64,
    members: IdMap<ConnectionId, Member>,
    has_lost_member: bool,
}

/// What a member has.
struct Member {
    /// The epoch of its key.
    epoch: u32,
    /// The last message it was sent; it takes none twice.
    number: u64,
}

/// The groups of one shard.
pub(crate) struct Groups {
    settings: FanOut,
    /// What the next key is made from; None until a connection needs groups.
    source: Option<Secret32>,
    next_gid: u32,
    groups: HashMap<u32, Group>,
    by_scope: HashMap<Box<[u8]>, [Option<u32>; KINDS]>,
    memberships: IdMap<ConnectionId, BTreeSet<u32>>,
    /// The message that was sealed last, for each group that it was sealed for; the next member most likely gets the same.
    last: Last,
    rekeys: u64,
    /// Those of the turn.
    operations: Option<Operations>,
}

/// A message for one member, and the key it lacks for it.
pub(crate) struct Admission<'a> {
    pub(crate) grant: Option<ControlOp<'a>>,
    pub(crate) message: GroupMessage,
}

impl Groups {
    pub(crate) fn new(settings: FanOut) -> Self {
        Self {
            settings,
            source: None,
            next_gid: 1,
            groups: HashMap::new(),
            by_scope: HashMap::new(),
            memberships: IdMap::default(),
            last: None,
            rekeys: 0,
            operations: None,
        }
    }

    /// Makes group keys possible, once.
    pub(crate) fn seed(&mut self, entropy: &mut dyn FnMut(&mut [u8])) {
        self.source.get_or_insert_with(|| Secret32::generate(entropy));
    }

    /// Ends the turn: what was sealed is not kept for longer. Returns the operations that sealing it took, if anything was.
    pub(crate) fn end_turn(&mut self) -> Option<Operations> {
        self.last = None;
        self.operations.take()
    }

    /// Returns how many keys took the place of another.
    pub(crate) fn rekeys(&self) -> u64 {
        self.rekeys
    }

    /// Makes a connection a member of the message's group, if it is not, and seals the message for the group, if it is not; None
    /// if the connection is in too many groups.
    pub(crate) fn admit(
        &mut self,
        connection: ConnectionId,
        kind: GroupKind,
        message: &Arc<Message>,
        now: Moment,
    ) -> Option<Result<Admission<'_>, LayoutError>> {
        let gid = self.join(connection, kind, message, now)?;
        let (key_milliseconds, source) = (self.settings.key_milliseconds, self.source.as_mut()?);
        let group = self.groups.get_mut(&gid)?;
        let age = now.since(group.since);
        if age >= key_milliseconds || (group.has_lost_member && age >= self.settings.rekey_milliseconds_min) {
            group.rekey(source, now);
            forget(&mut self.last, gid);
            self.rekeys += 1;
        }
        let before = group.members.get(&connection).map(|member| (member.epoch, member.number));
        let same = sealed_before(&mut self.last, message, gid);
        // A second copy for one member, of another subscription, is another message to the group.
        let sealed = match same.filter(|sealed| before != Some((group.epoch, sealed.number))) {
            Some(sealed) => sealed,
            None => match group.seal(message, now) {
                Ok(sealed) => {
                    *self.operations.get_or_insert_default() += group.sealer.take_operations();
                    forget(&mut self.last, gid);
                    if let Some((_, all)) = &mut self.last {
                        all.push((gid, sealed.clone()));
                    }
                    sealed
                }
                Err(error) => return Some(Err(error)),
            },
        };
        let epoch = group.epoch;
        group.members.insert(connection, Member { epoch, number: sealed.number });
        let lacks_key = before.is_none_or(|(before, _)| before != epoch);
        let valid_ms = u32::try_from(key_milliseconds).unwrap_or(u32::MAX);
        let grant = lacks_key.then(|| group.sealer.grant(valid_ms, &group.scope));
        Some(Ok(Admission { grant, message: sealed }))
    }

    /// Makes a connection a member of groups that are there for topics of its subscriptions already, and returns their keys, each
    /// as in a GroupGrant. A group that is due for a new key is left out, and so is every group where joining means a new key.
    pub(crate) fn admit_ahead(
        &mut self,
        connection: ConnectionId,
        kind: GroupKind,
        filters: &[TopicFilter<'_>],
    ) -> Vec<Vec<u8>> {
        let mut grants = Vec::new();
        if self.settings.join_secrecy || filters.is_empty() {
            return grants;
        }
        let valid_ms = u32::try_from(self.settings.key_milliseconds).unwrap_or(u32::MAX);
        let joined = self.memberships.entry(connection).or_default();
        for (gid, group) in &mut self.groups {
            let is_wanted = group.kind == kind && !group.has_lost_member && group.is_for(filters);
            if !is_wanted || grants.len() >= GRANTS_AHEAD_MAX {
                continue;
            }
            let mut grant = Vec::new();
            if group.sealer.grant(valid_ms, &group.scope).encode_content(&mut grant).is_ok() {
                group.members.insert(connection, Member { epoch: group.epoch, number: 0 });
                joined.insert(*gid);
                grants.push(grant);
            }
        }
        grants
    }

    /// Returns the group of a message for a connection, a new one if there is none.
    fn join(
        &mut self,
        connection: ConnectionId,
        kind: GroupKind,
        message: &Message,
        now: Moment,
    ) -> Option<u32> {
        let scope = scope_of(&self.settings.scopes, message);
        let known = self.by_scope.get(scope).and_then(|kinds| kinds.get(kind.index()).copied().flatten());
        if scope.len() > SCOPE_BYTES_MAX {
            return None;
        }
        let joined = self.memberships.entry(connection).or_default();
        if let Some(gid) = known
            && joined.contains(&gid)
        {
            return Some(gid);
        }
        if joined.len() >= GROUPS_PER_CONNECTION_MAX {
            return None;
        }
        let gid = match known {
            Some(gid) => {
                // Who joins must not read what was sent before.
                if self.settings.join_secrecy
                    && let Some(group) = self.groups.get_mut(&gid)
                {
                    group.rekey(self.source.as_mut()?, now);
                    forget(&mut self.last, gid);
                    self.rekeys += 1;
                }
                gid
            }
            None => {
                let gid = self.next_gid;
                self.next_gid = self.next_gid.wrapping_add(1);
                let group = Group::new(gid, scope, kind, self.source.as_mut()?, now);
                self.groups.insert(gid, group);
                self.by_scope.entry(scope.into()).or_default()[kind.index()] = Some(gid);
                gid
            }
        };
        joined.insert(gid);
        Some(gid)
    }

    /// Takes a connection that has ended out of its groups.
    pub(crate) fn leave_all(&mut self, connection: ConnectionId) {
        for gid in self.memberships.remove(&connection).unwrap_or_default() {
            self.lose(gid, connection);
        }
    }

    /// Takes a connection out of the groups that a Topic Filter brought it into, and returns what is to be sent to it. If another
    /// filter matches too, it comes back with the next message.
    pub(crate) fn leave(&mut self, connection: ConnectionId, filter: TopicFilter<'_>) -> Vec<(u32, u32)> {
        let Some(joined) = self.memberships.get(&connection) else { return Vec::new() };
        let concerned = |gid: &&u32| {
            self.groups.get(*gid).is_some_and(|group| {
                // A scope with wildcards is left whatever the filter: it may be the one that it was joined for.
                match std::str::from_utf8(&group.scope).ok().and_then(|scope| TopicName::new(scope).ok()) {
                    Some(topic) => filter.inner().matches(topic),
                    None => true,
                }
            })
        };
        let left: Vec<u32> = joined.iter().filter(concerned).copied().collect();
        let mut revoked = Vec::with_capacity(left.len());
        for gid in left {
            if let Some(joined) = self.memberships.get_mut(&connection) {
                joined.remove(&gid);
            }
            revoked.extend(self.lose(gid, connection).map(|epoch| (gid, epoch)));
        }
        revoked
    }

    /// Takes a member from a group; returns the epoch whose key it has.
    fn lose(&mut self, gid: u32, connection: ConnectionId) -> Option<u32> {
        let group = self.groups.get_mut(&gid)?;
        let epoch = group.members.remove(&connection).map(|member| member.epoch);
        group.has_lost_member = true;
        if group.members.is_empty()
            && let Some(group) = self.groups.remove(&gid)
            && let Some(kinds) = self.by_scope.get_mut(&group.scope)
        {
            kinds[group.kind.index()] = None;
            if kinds.iter().all(Option::is_none) {
                self.by_scope.remove(&group.scope);
            }
        }
        epoch
    }
}

impl Group {
    fn new(gid: u32, scope: &[u8], kind: GroupKind, source: &mut Secret32, now: Moment) -> Self {
        let epoch = 1;
        Self {
            gid,
            scope: scope.into(),
            kind,
            epoch,
            sealer: GroupSealer::new(gid, epoch, kind.suite, kind.outer_tag, next_key(source)),
            since: now,
            sealed: 0,
            members: IdMap::default(),
            has_lost_member: false,
        }
    }

    /// Tells whether its one topic is among those of a subscription.
    fn is_for(&self, filters: &[TopicFilter<'_>]) -> bool {
        let topic = std::str::from_utf8(&self.scope).ok().and_then(|scope| TopicName::new(scope).ok());
        topic.is_some_and(|topic| {
            filters.iter().any(|filter| filter.shared().is_none() && filter.matches(topic))
        })
    }

    fn rekey(&mut self, source: &mut Secret32, now: Moment) {
        let GroupKind { suite, outer_tag, .. } = self.kind;
        self.epoch = self.epoch.wrapping_add(1);
        self.sealer = GroupSealer::new(self.gid, self.epoch, suite, outer_tag, next_key(source));
        self.since = now;
        self.has_lost_member = false;
    }

    fn seal(&mut self, message: &Message, now: Moment) -> Result<GroupMessage, LayoutError> {
        let mut properties = Vec::new();
        let expiry = message.expiry().map(|expiry| expiry.interval_seconds);
        put_shared_properties(message.application_properties(), expiry, &mut properties);
        let payload = message.payload().as_wire_bytes();
        let topic = message.topic_as_bytes();
        let body = SharedBody { stamp: None, topic, properties: &properties, payload };
        let mut bytes = Vec::new();
        self.sealed += 1;
        let number = self.sealed;
        if self.kind.scheme == Scheme::Three {
            let fan = self.sealer.encrypt(body, now.milliseconds(), &mut bytes)?;
            return Ok(GroupMessage { number, fan, body: GroupBody::Encrypted(bytes.into()) });
        }
        let (fan, tag) = self.sealer.authenticate(body, now.milliseconds(), &mut bytes)?;
        Ok(GroupMessage { number, fan, body: GroupBody::Clear(bytes.into(), tag) })
    }
}

/// What was sealed, and for which groups.
type Last = Option<(Arc<Message>, Vec<(u32, GroupMessage)>)>;

/// Returns the message as it was sealed for a group; makes room for it if it is another message.
fn sealed_before(last: &mut Last, message: &Arc<Message>, gid: u32) -> Option<GroupMessage> {
    match last {
        Some((sealed, all)) if Arc::ptr_eq(sealed, message) => {
            all.iter().find(|(group, _)| *group == gid).map(|(_, sealed)| sealed.clone())
        }
        _ => {
            *last = Some((Arc::clone(message), Vec::new()));
            None
        }
    }
}

fn forget(last: &mut Last, gid: u32) {
    if let Some((_, all)) = last {
        all.retain(|(group, _)| *group != gid);
    }
}

/// Takes the next key from a source that cannot give the same again.
fn next_key(source: &mut Secret32) -> Secret32 {
    let key = source.derive("group key", &[]);
    *source = source.derive("group next", &[]);
    key
}

/// Returns what a message's group is named after: the narrowest configured filter that matches, or the topic itself.
fn scope_of<'a>(scopes: &'a [Arc<str>], message: &'a Message) -> &'a [u8] {
    let topic = message.topic_as_bytes();
    if scopes.is_empty() {
        return topic;
    }
    let Ok(name) = TopicName::new(message.topic()) else { return topic };
    let matches = |scope: &&Arc<str>| TopicFilter::new(scope).is_ok_and(|filter| filter.matches(name));
    // VEIL-1 section 8.1: the most literal levels, then the longest.
    let literal = |scope: &&Arc<str>| {
        (scope.split('/').filter(|level| !matches!(*level, "+" | "#")).count(), scope.len())
    };
    scopes.iter().filter(matches).max_by_key(literal).map_or(topic, |scope| scope.as_bytes())
}
