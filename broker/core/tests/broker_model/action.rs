//! What happens to a broker: clients that send packets, connections that break, time that passes, restarts.

use proptest::prelude::*;

/// A step of a run. Clients go by their numbers.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Connect(Connect),
    /// The connection breaks without a word.
    Cut {
        client: usize,
    },
    /// A client sends something: this one, or the next one that is connected.
    Send {
        client: usize,
        request: Request,
    },
    Pass {
        seconds: u64,
    },
    /// The broker dies and comes back on the same store.
    Restart {
        shards: u16,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Connect {
    pub(crate) client: usize,
    pub(crate) is_v5: bool,
    pub(crate) clean_start: bool,
    pub(crate) expiry_seconds: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) keep_alive_seconds: u16,
    pub(crate) alias_maximum: u16,
    pub(crate) will: Option<Will>,
}

#[derive(Clone, Debug)]
pub(crate) struct Will {
    pub(crate) topic: &'static str,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) delay_seconds: u32,
    pub(crate) expiry_seconds: Option<u32>,
    pub(crate) has_properties: bool,
    /// Filled in when it is sent.
    pub(crate) payload: String,
}

/// A packet of a connected client.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Ping,
    /// DISCONNECT: 0x00 or, with the Will, 0x04.
    Disconnect {
        with_will: bool,
        expiry_seconds: Option<u32>,
    },
    Subscribe {
        id: Option<u32>,
        filters: Vec<(&'static str, Options)>,
    },
    /// UNSUBSCRIBE: each a filter that the client has subscribed to, if it has any, or one of all.
    Unsubscribe {
        filters: Vec<(bool, usize)>,
    },
    /// PUBLISH packets, several of them in one write.
    Publish(Vec<Publication>),
    /// PUBREL: for a message that awaits it, if there is one, or for any.
    Release {
        is_awaited: bool,
        which: usize,
    },
    /// What the client has to send next for one of the messages it is receiving.
    Answer {
        which: usize,
        manner: Manner,
    },
    /// The same for several of those that were sent on this connection, in one write.
    AnswerMany {
        which: usize,
        count: usize,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Manner {
    Proper,
    /// PUBACK or PUBREC with an error.
    Refuse,
    /// PUBREC again, after PUBREL or not.
    ReceiveAgain,
    /// An identifier that is not in use.
    Stray,
    /// A PUBACK where PUBREC is due, or the other way round.
    Confused,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// 0 always, 1 if the subscription is new, 2 never.
    pub(crate) retain_handling: u8,
}

#[derive(Clone, Debug)]
pub(crate) struct Publication {
    pub(crate) topic: &'static str,
    pub(crate) alias: Alias,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) id: u16,
    pub(crate) expiry_seconds: Option<u32>,
    pub(crate) has_properties: bool,
    pub(crate) is_empty: bool,
    /// Filled in when it is sent.
    pub(crate) payload: String,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Alias {
    None,
    /// The topic goes with its new alias.
    Bind(u16),
    /// The alias goes alone.
    Use(u16),
}

pub(crate) const CLIENTS: usize = 4;
/// The clients before this one speak either version, from connection to connection; the others speak MQTT 5.
pub(crate) const MIXED_CLIENTS: usize = 2;

const TOPICS: [&str; 9] = ["a", "a/b", "a/b", "a/c", "a/b/c", "d", "/d", "$x/y", "a/"];
const WILL_TOPICS: [&str; CLIENTS] = ["a/b/ann", "d/bob", "a/cid", "dee"];
pub(crate) const FILTERS: [&str; 22] = [
    "a",
    "a/b",
    "a/+",
    "a/#",
    "a/#",
    "#",
    "#",
    "+",
    "+/+",
    "+/b/#",
    "d",
    "$x/#",
    "$x/+",
    "/#",
    "d/+",
    "a/+/c",
    "$share/g/a/#",
    "$share/g/a/#",
    "$share/g/d",
    "$share/h/a/+",
    "$share/h/$x/y",
    "$share/h/#",
];

/// Any step.
pub(crate) fn action() -> impl Strategy<Value = Action> {
    let client = 0..CLIENTS;
    prop_oneof![
        12 => connect().prop_map(Action::Connect),
        3 => client.clone().prop_map(|client| Action::Cut { client }),
        110 => (client, request()).prop_map(|(client, request)| Action::Send { client, request }),
        5 => prop_oneof![8 => 1..12_u64, 2 => 12..400_u64].prop_map(|seconds| Action::Pass { seconds }),
        2 => (1..4_u16).prop_map(|shards| Action::Restart { shards }),
    ]
}

fn connect() -> impl Strategy<Value = Connect> {
    let keep_alive_seconds = prop_oneof![4 => Just(0), 1 => Just(20), 1 => Just(100)];
    let alias_maximum = prop_oneof![3 => Just(0), 1 => 1..3_u16];
    (
        0..CLIENTS,
        prop::bool::weighted(0.5),
        prop::bool::weighted(0.2),
        prop_oneof![1 => Just(0), 2 => Just(1), 3 => Just(2), 3 => Just(3)],
        1..5_u16,
        keep_alive_seconds,
        alias_maximum,
        prop::option::weighted(0.5, will()),
    )
        .prop_map(
            |(client, is_v5, clean_start, expiry, receive_maximum, keep_alive_seconds, alias, will)| {
                let is_v5 = is_v5 || client >= MIXED_CLIENTS;
                let expiry_seconds = match (is_v5, clean_start) {
                    (true, _) => expiries(client)[expiry],
                    (false, true) => 0,
                    (false, false) => u32::MAX,
                };
                Connect {
                    client,
                    is_v5,
                    clean_start,
                    expiry_seconds,
                    receive_maximum: if is_v5 { receive_maximum } else { u16::MAX },
                    keep_alive_seconds,
                    alias_maximum: if is_v5 { alias } else { 0 },
                    will: will.map(|will| will.of(client, is_v5)),
                }
            },
        )
}

/// No two deadlines fall on the same moment, where a broker could choose which to act on first, but for those of a restart.
fn expiries(client: usize) -> [u32; 4] {
    let client = u32::try_from(client).unwrap();
    [0, 30 + client, 300 + client, u32::MAX]
}

fn will() -> impl Strategy<Value = Will> {
    (qos(), any::<bool>(), 0..3_u32, expiry_seconds(), any::<bool>()).prop_map(
        |(qos, retain, delay_seconds, expiry_seconds, has_properties)| Will {
            topic: "",
            qos,
            retain,
            delay_seconds,
            expiry_seconds,
            has_properties,
            payload: String::new(),
        },
    )
}

impl Will {
    /// Makes it a Will of a client, within its protocol version.
    fn of(self, client: usize, is_v5: bool) -> Self {
        let later = u32::try_from(client).unwrap();
        let delay_seconds = [0, 5 + later, 60 + later][self.delay_seconds as usize];
        Self {
            topic: WILL_TOPICS[client],
            delay_seconds: if is_v5 { delay_seconds } else { 0 },
            expiry_seconds: self.expiry_seconds.filter(|_| is_v5),
            has_properties: self.has_properties && is_v5,
            ..self
        }
    }
}

fn request() -> impl Strategy<Value = Request> {
    let filter = prop::sample::select(&FILTERS[..]);
    let id = prop::option::weighted(0.4, 1..4_u32);
    let subscription = (filter.clone(), options()).prop_map(|(filter, options)| {
        // [MQTT-3.8.3-4]
        let no_local = options.no_local && !filter.starts_with("$share/");
        (filter, Options { no_local, ..options })
    });
    let filters = prop::collection::vec(subscription, 1..4);
    let expiry = prop::option::weighted(0.3, prop_oneof![Just(0), Just(45), Just(u32::MAX)]);
    prop_oneof![
        1 => Just(Request::Ping),
        2 => (any::<bool>(), expiry)
            .prop_map(|(with_will, expiry_seconds)| Request::Disconnect { with_will, expiry_seconds }),
        14 => (id, filters).prop_map(|(id, filters)| Request::Subscribe { id, filters }),
        4 => prop::collection::vec((prop::bool::weighted(0.8), 0..FILTERS.len()), 1..3)
            .prop_map(|filters| Request::Unsubscribe { filters }),
        34 => publication().prop_map(|publication| Request::Publish(vec![publication])),
        6 => prop::collection::vec(publication(), 2..5).prop_map(together),
        9 => (prop::bool::weighted(0.9), 0..4_usize)
            .prop_map(|(is_awaited, which)| Request::Release { is_awaited, which }),
        22 => (0..6_usize, manner()).prop_map(|(which, manner)| Request::Answer { which, manner }),
        6 => (0..6_usize, 2..5_usize).prop_map(|(which, count)| Request::AnswerMany { which, count }),
    ]
}

/// Makes PUBLISH packets fit to be sent in one write, so that the order of what follows is laid down.
///
/// A broker may hold QoS 2 messages back until they are stored, so they do not mix with others; and a packet that ends the
/// connection may go before answers that wait for a commit.
fn together(publications: Vec<Publication>) -> Request {
    let is_exactly_once = publications[0].qos == 2;
    let fit = |publication: Publication| {
        let qos = if is_exactly_once { 2 } else { publication.qos.min(1) };
        let alias = match publication.alias {
            Alias::Bind(alias) if alias < 17 => Alias::Bind(alias),
            Alias::None | Alias::Bind(_) | Alias::Use(_) => Alias::None,
        };
        Publication { qos, alias, ..publication }
    };
    Request::Publish(publications.into_iter().map(fit).collect())
}

fn publication() -> impl Strategy<Value = Publication> {
    let alias = prop_oneof![
        60 => Just(Alias::None),
        10 => (1..3_u16).prop_map(Alias::Bind),
        3 => (1..3_u16).prop_map(Alias::Use),
        // The maximum, and one more.
        1 => prop_oneof![Just(16), Just(17)].prop_map(Alias::Bind),
    ];
    let topic = prop_oneof![
        40 => prop::sample::select(&TOPICS[..]),
        8 => prop::sample::select(&WILL_TOPICS[..]),
        1 => Just("$SYS/x"),
    ];
    let flags =
        (prop::bool::weighted(0.3), prop::bool::weighted(0.15), prop::bool::weighted(0.1), any::<bool>());
    (topic, alias, qos(), 1..5_u16, expiry_seconds(), flags).prop_map(
        |(topic, alias, qos, id, expiry_seconds, (retain, dup, is_empty, has_properties))| Publication {
            topic,
            alias,
            qos,
            retain,
            dup,
            id,
            expiry_seconds,
            has_properties,
            is_empty,
            payload: String::new(),
        },
    )
}

fn manner() -> impl Strategy<Value = Manner> {
    prop_oneof![
        60 => Just(Manner::Proper),
        4 => Just(Manner::Refuse),
        4 => Just(Manner::ReceiveAgain),
        3 => Just(Manner::Stray),
        1 => Just(Manner::Confused),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    (qos(), prop::bool::weighted(0.2), any::<bool>(), 0..3_u8).prop_map(
        |(qos, no_local, retain_as_published, retain_handling)| Options {
            qos,
            no_local,
            retain_as_published,
            retain_handling,
        },
    )
}

fn qos() -> impl Strategy<Value = u8> {
    0..3_u8
}

fn expiry_seconds() -> impl Strategy<Value = Option<u32>> {
    prop::option::weighted(0.25, prop_oneof![1 => Just(0), 4 => Just(4), 4 => Just(40)])
}
