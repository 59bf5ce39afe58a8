//! SUBSCRIBE: many Topic Filters in packets of a moderate size, and what the broker grants.

use tokio::time::timeout;
use veilmq_protocol::{
    Packet, PacketId, QoS, RetainHandling, Subscribe, SubscribeFiltersBuf, SubscribeOptions, TopicFilter,
    UserProperties,
};

use crate::link::{ANSWER_SECONDS_MAX, Link, LinkError, unexpected};
use crate::load::LoadError;

/// Filters of one packet at most; brokers limit packets before CONNACK says so.
const FILTERS_MAX: usize = 100;

/// Subscribes to `filters`, without their retained messages, and waits for the broker to grant exactly `qos` for each.
///
/// # Errors
/// The broker refuses a subscription, grants less, or does not answer in time.
pub(crate) async fn subscribe(link: &mut Link, filters: &[String], qos: QoS) -> Result<(), LoadError> {
    for chunk in filters.chunks(FILTERS_MAX) {
        push(link, chunk, qos, RetainHandling::DoNotSend)?;
        let answered = timeout(ANSWER_SECONDS_MAX, suback(link, qos));
        answered.await.unwrap_or(Err(LinkError::Late("SUBACK", ANSWER_SECONDS_MAX).into()))?;
    }
    Ok(())
}

/// Queues one SUBSCRIBE.
///
/// # Errors
/// A filter is none, or there are too many for a packet.
pub(crate) fn push(
    link: &mut Link,
    filters: &[String],
    qos: QoS,
    retain_handling: RetainHandling,
) -> Result<(), LoadError> {
    let options = SubscribeOptions { qos, no_local: false, retain_as_published: false, retain_handling };
    let mut buffer = SubscribeFiltersBuf::default();
    for text in filters {
        let filter = TopicFilter::new(text).map_err(|_| LoadError::Topic(text.clone()))?;
        buffer.push(filter, options).map_err(LinkError::from)?;
    }
    link.outbox.push(&Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(1).ok_or(LoadError::NotInFlight(1))?,
        subscription_id: None,
        user: UserProperties::default(),
        filters: buffer.as_filters(),
    }))?;
    Ok(())
}

/// Says what the first filter that was not granted `qos` was granted instead.
///
/// # Errors
/// There is one, or the answer has none.
pub(crate) fn check_granted(reasons: &[u8], qos: QoS) -> Result<(), LoadError> {
    let asked = qos as u8;
    match reasons.iter().find(|granted| **granted != asked) {
        None if !reasons.is_empty() => Ok(()),
        granted => Err(LoadError::NotGranted { asked, granted: granted.copied() }),
    }
}

async fn suback(link: &mut Link, qos: QoS) -> Result<(), LoadError> {
    loop {
        match link.inbox.next()? {
            None => {}
            Some(Packet::SubAck(answer)) => return check_granted(answer.reasons, qos),
            Some(other) => return Err(unexpected(&other, "SUBACK").into()),
        }
        link.turn().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_filter_must_be_granted_what_was_asked_for() {
        let granted = |reasons: &[u8]| match check_granted(reasons, QoS::AtLeastOnce) {
            Ok(()) => Ok(()),
            Err(LoadError::NotGranted { asked: 1, granted }) => Err(granted),
            Err(other) => panic!("{other}"),
        };

        assert_eq!(granted(&[1, 1]), Ok(()));
        assert_eq!(granted(&[1, 0]), Err(Some(0)));
        assert_eq!(granted(&[0x80]), Err(Some(0x80)));
        assert_eq!(granted(&[]), Err(None));
    }
}
