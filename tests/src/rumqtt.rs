//! Drives rumqttc, in both of its protocol versions, as a [`Backend`].
//!
//! Each connection is one task that polls rumqttc's event loop; it ends at the first error, because rumqttc would
//! reconnect otherwise. Dropping the runtime drops the socket without a DISCONNECT.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use rumqttc::v5;
use rumqttc::v5::mqttbytes::v5::SubscribeProperties;
use tokio::runtime::{Builder, Runtime};

use crate::message::{Message, Properties};
use crate::puppet::{Backend, Connect, Event, Order, Reply, Version};

/// The broker's own limit.
const PACKET_BYTES_MAX: u32 = 16 << 20;

/// A rumqttc client; see the module.
pub(crate) struct Rumqtt {
    runtime: Runtime,
    version: Version,
    port: u16,
    watch: Watch,
    handle: Option<Handle>,
}

enum Handle {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// What the polling task shares with the side that gives the orders.
#[derive(Clone)]
struct Watch {
    events: Sender<Event>,
    phase: Arc<AtomicU8>,
}

const CONNECTING: u8 = 0;
const CONNECTED: u8 = 1;
const DISCONNECTING: u8 = 2;

impl Watch {
    fn tell(&self, event: Event) {
        // The test may have ended already, and then nobody listens.
        let _ = self.events.send(event);
    }

    fn connected(&self, session_present: bool, assigned_id: Option<String>) {
        self.phase.store(CONNECTED, Ordering::SeqCst);
        let session_present = Some(session_present);
        self.tell(Event::Reply(Ok(Reply { session_present, assigned_id, code: None })));
    }

    fn subscribed(&self, code: u8) {
        self.tell(Event::Reply(Ok(Reply { code: Some(code), ..Reply::default() })));
    }

    fn ended(&self, error: &str, reason: Option<u8>) {
        self.tell(match self.phase.load(Ordering::SeqCst) {
            CONNECTING => Event::Reply(Err(error.to_owned())),
            DISCONNECTING => Event::Reply(Ok(Reply::default())),
            _ => Event::Closed(reason),
        });
    }
}

impl Rumqtt {
    pub(crate) fn new(version: Version, port: u16, events: Sender<Event>) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let watch = Watch { events, phase: Arc::default() };
        Self { runtime: runtime.expect("a runtime can be started"), version, port, watch, handle: None }
    }

    fn connect(&mut self, connect: Connect) {
        self.watch.phase.store(CONNECTING, Ordering::SeqCst);
        let watch = self.watch.clone();
        self.handle = Some(match self.version {
            Version::V311 => {
                let (client, event_loop) = rumqttc::AsyncClient::new(options_v4(connect, self.port), 10);
                self.runtime.spawn(poll_v4(event_loop, watch));
                Handle::V4(client)
            }
            Version::V5 => {
                let (client, event_loop) = v5::AsyncClient::new(options_v5(connect, self.port), 10);
                self.runtime.spawn(poll_v5(event_loop, watch));
                Handle::V5(client)
            }
        });
    }
}

impl Backend for Rumqtt {
    fn give(&mut self, order: Order) {
        if let Order::Connect(options) = order {
            return self.connect(options);
        }
        let is_sent_at_once = matches!(&order, Order::Publish(message) if message.qos == 0);
        if matches!(order, Order::Disconnect) {
            self.watch.phase.store(DISCONNECTING, Ordering::SeqCst);
        }
        let outcome = match self.handle.as_ref().expect("the first order is to connect") {
            Handle::V4(client) => {
                self.runtime.block_on(give_v4(client, order)).map_err(|error| error.to_string())
            }
            Handle::V5(client) => {
                self.runtime.block_on(give_v5(client, order)).map_err(|error| error.to_string())
            }
        };
        match outcome {
            Ok(()) if is_sent_at_once => self.watch.tell(Event::Reply(Ok(Reply::default()))),
            Ok(()) => {}
            Err(error) => self.watch.tell(Event::Reply(Err(error))),
        }
    }
}

fn options_v4(connect: Connect, port: u16) -> rumqttc::MqttOptions {
    let mut options = rumqttc::MqttOptions::new(connect.id, "127.0.0.1", port);
    options.set_clean_session(connect.clean).set_keep_alive(Duration::from_secs(30));
    options.set_max_packet_size(PACKET_BYTES_MAX as usize, PACKET_BYTES_MAX as usize);
    if let Some(will) = connect.will {
        options.set_last_will(rumqttc::LastWill::new(
            will.topic,
            will.payload,
            qos_v4(will.qos),
            will.retain,
        ));
    }
    options
}

fn options_v5(connect: Connect, port: u16) -> v5::MqttOptions {
    let mut options = v5::MqttOptions::new(connect.id, "127.0.0.1", port);
    options.set_clean_start(connect.clean).set_keep_alive(Duration::from_secs(30));
    options.set_session_expiry_interval(Some(connect.expiry)).set_max_packet_size(Some(PACKET_BYTES_MAX));
    options.set_receive_maximum(connect.receive_maximum);
    options.set_topic_alias_max((connect.topic_alias_maximum > 0).then_some(connect.topic_alias_maximum));
    if let Some(will) = connect.will {
        options.set_last_will(will_v5(will));
    }
    options
}

async fn give_v4(client: &rumqttc::AsyncClient, order: Order) -> Result<(), rumqttc::ClientError> {
    match order {
        Order::Connect(_) => Ok(()),
        Order::Subscribe { filter, qos, .. } => client.subscribe(filter, qos_v4(qos)).await,
        Order::Unsubscribe { filter } => client.unsubscribe(filter).await,
        Order::Publish(Message { topic, payload, qos, retain, .. }) => {
            client.publish(topic, qos_v4(qos), retain, payload).await
        }
        Order::Disconnect => client.disconnect().await,
    }
}

async fn give_v5(client: &v5::AsyncClient, order: Order) -> Result<(), v5::ClientError> {
    match order {
        Order::Connect(_) => Ok(()),
        Order::Subscribe { filter, qos, id: None } => client.subscribe(filter, qos_v5(qos)).await,
        Order::Subscribe { filter, qos, id: Some(id) } => {
            let properties = SubscribeProperties { id: Some(id as usize), user_properties: Vec::new() };
            client.subscribe_with_properties(filter, qos_v5(qos), properties).await
        }
        Order::Unsubscribe { filter } => client.unsubscribe(filter).await,
        Order::Publish(Message { topic, payload, qos, retain, properties }) => {
            let properties = properties_v5(properties);
            client.publish_with_properties(topic, qos_v5(qos), retain, payload, properties).await
        }
        Order::Disconnect => client.disconnect().await,
    }
}

async fn poll_v4(mut event_loop: rumqttc::EventLoop, watch: Watch) {
    use rumqttc::{Event as Polled, Packet, SubscribeReasonCode};

    loop {
        match event_loop.poll().await {
            Ok(Polled::Incoming(Packet::ConnAck(connack))) => watch.connected(connack.session_present, None),
            Ok(Polled::Incoming(Packet::SubAck(suback))) => {
                let code = match suback.return_codes.first() {
                    Some(SubscribeReasonCode::Success(qos)) => *qos as u8,
                    Some(SubscribeReasonCode::Failure) | None => 0x80,
                };
                watch.subscribed(code);
            }
            Ok(Polled::Incoming(Packet::UnsubAck(_) | Packet::PubAck(_) | Packet::PubComp(_))) => {
                watch.tell(Event::Reply(Ok(Reply::default())));
            }
            Ok(Polled::Incoming(Packet::Publish(publish))) => watch.tell(Event::Message(Box::new(Message {
                topic: publish.topic,
                payload: publish.payload.to_vec(),
                qos: publish.qos as u8,
                retain: publish.retain,
                properties: Properties::default(),
            }))),
            Ok(Polled::Incoming(_) | Polled::Outgoing(_)) => {}
            Err(error) => return watch.ended(&error.to_string(), None),
        }
    }
}

async fn poll_v5(mut event_loop: v5::EventLoop, watch: Watch) {
    use v5::mqttbytes::v5::{Packet, SubscribeReasonCode};
    use v5::{ConnectionError, Event as Polled, StateError};

    let mut aliases = HashMap::new();
    loop {
        match event_loop.poll().await {
            Ok(Polled::Incoming(Packet::ConnAck(connack))) => {
                let assigned_id = connack.properties.and_then(|all| all.assigned_client_identifier);
                watch.connected(connack.session_present, assigned_id);
            }
            Ok(Polled::Incoming(Packet::SubAck(suback))) => {
                let code = match suback.return_codes.first() {
                    Some(SubscribeReasonCode::Success(qos)) => *qos as u8,
                    _ => 0x80,
                };
                watch.subscribed(code);
            }
            Ok(Polled::Incoming(Packet::UnsubAck(_) | Packet::PubAck(_) | Packet::PubComp(_))) => {
                watch.tell(Event::Reply(Ok(Reply::default())));
            }
            Ok(Polled::Incoming(Packet::Publish(publish))) => {
                watch.tell(Event::Message(Box::new(message_v5(publish, &mut aliases))));
            }
            Ok(Polled::Incoming(_) | Polled::Outgoing(_)) => {}
            Err(ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. })) => {
                return watch.ended("DISCONNECT", Some(reason_code as u8));
            }
            Err(error) => return watch.ended(&error.to_string(), None),
        }
    }
}

/// Takes a PUBLISH over; rumqttc shows it as it is on the wire, without a topic if it has an alias.
fn message_v5(publish: v5::mqttbytes::v5::Publish, aliases: &mut HashMap<u16, String>) -> Message {
    let all = publish.properties.unwrap_or_default();
    let mut topic = String::from_utf8_lossy(&publish.topic).into_owned();
    if let Some(alias) = all.topic_alias {
        if topic.is_empty() {
            topic = aliases.get(&alias).cloned().unwrap_or_default();
        } else {
            aliases.insert(alias, topic.clone());
        }
    }
    let id = |id: usize| u32::try_from(id).expect("a Subscription Identifier has 28 bits");
    let mut subscription_ids: Vec<u32> = all.subscription_identifiers.into_iter().map(id).collect();
    subscription_ids.sort_unstable();
    Message {
        topic,
        payload: publish.payload.to_vec(),
        qos: publish.qos as u8,
        retain: publish.retain,
        properties: Properties {
            is_utf8: all.payload_format_indicator == Some(1),
            expiry_seconds: all.message_expiry_interval,
            topic_alias: all.topic_alias,
            response_topic: all.response_topic,
            correlation_data: all.correlation_data.map(|data| data.to_vec()),
            content_type: all.content_type,
            subscription_ids,
            user: all.user_properties,
        },
    }
}

fn properties_v5(properties: Properties) -> v5::mqttbytes::v5::PublishProperties {
    v5::mqttbytes::v5::PublishProperties {
        payload_format_indicator: properties.is_utf8.then_some(1),
        message_expiry_interval: properties.expiry_seconds,
        topic_alias: properties.topic_alias,
        response_topic: properties.response_topic,
        correlation_data: properties.correlation_data.map(Into::into),
        user_properties: properties.user,
        subscription_identifiers: Vec::new(),
        content_type: properties.content_type,
    }
}

fn will_v5(will: Message) -> v5::mqttbytes::v5::LastWill {
    let all = will.properties;
    let properties = v5::mqttbytes::v5::LastWillProperties {
        delay_interval: None,
        payload_format_indicator: all.is_utf8.then_some(1),
        message_expiry_interval: all.expiry_seconds,
        content_type: all.content_type,
        response_topic: all.response_topic,
        correlation_data: all.correlation_data.map(Into::into),
        user_properties: all.user,
    };
    v5::mqttbytes::v5::LastWill::new(
        will.topic,
        will.payload,
        qos_v5(will.qos),
        will.retain,
        Some(properties),
    )
}

fn qos_v4(level: u8) -> rumqttc::QoS {
    rumqttc::qos(level).expect("the tests use QoS 0, 1 and 2")
}

fn qos_v5(level: u8) -> v5::mqttbytes::QoS {
    v5::mqttbytes::qos(level).expect("the tests use QoS 0, 1 and 2")
}
