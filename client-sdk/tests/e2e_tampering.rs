//! Whatever an attacker changes about a message, it does not open, and the genuine one still does.

mod e2e_support;

use std::num::NonZeroU32;

use e2e_support::{
    EPOCH, JSON, NOW, SCOPE, TOPIC, counter, keyring, member, member_with, plain, press, seed, topic,
    unsigned,
};
use veilmq_client::e2e::{
    BoundProperties, E2e, EnvelopeOptions, EpochTiming, GroupKey, Keyring, Member, OpenError, Padding,
};
use veilmq_protocol::{PublishProperties, veil::Suite};

fn all_options() -> Vec<EnvelopeOptions> {
    let mut all = Vec::new();
    for suite in Suite::ALL {
        for sign in [false, true] {
            let rich = EnvelopeOptions {
                suite,
                sign,
                timestamp: true,
                bound: BoundProperties::Always,
                padding: Padding::Multiple(NonZeroU32::new(48).expect("48 is not zero")),
                ..EnvelopeOptions::default()
            };
            all.push(EnvelopeOptions { suite, sign, ..EnvelopeOptions::default() });
            all.push(rich);
        }
    }
    all
}

fn request() -> PublishProperties<'static> {
    PublishProperties {
        payload_is_utf8: Some(true),
        content_type: Some("application/json"),
        response_topic: Some(topic("factory/line-3/answers")),
        correlation_data: Some(b"17"),
        ..plain()
    }
}

fn sealed(options: &EnvelopeOptions, properties: &PublishProperties<'_>) -> Vec<u8> {
    member(press(), options.clone())
        .seal(topic(TOPIC), JSON, properties, NOW, &mut counter())
        .expect("the scope has a key")
}

fn reader(options: &EnvelopeOptions) -> E2e {
    let mut reader = member(unsigned(1), options.clone());
    let Member::Identity(identity) = press() else { panic!("the reference publisher has an identity") };
    reader.directory_mut().pin(identity.certificate().clone());
    reader
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    for options in all_options() {
        let payload = sealed(&options, &plain());
        let mut reader = reader(&options);

        for bit in 0..payload.len() * 8 {
            let mut forged = payload.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let result = reader.open(topic(TOPIC), &forged, false, &plain(), NOW);
            assert!(result.is_err(), "bit {bit} of {options:?} gave {result:?}");
        }
        // Nothing at all is a tombstone, which proves nothing.
        for length in 1..payload.len() {
            assert!(reader.open(topic(TOPIC), &payload[..length], false, &plain(), NOW).is_err());
        }

        let genuine = reader.open(topic(TOPIC), &payload, false, &plain(), NOW).unwrap();
        assert_eq!(genuine.plaintext, JSON, "{options:?}");
    }
}

#[test]
fn flips_behind_the_header_are_all_the_same_error() {
    for options in all_options() {
        let payload = sealed(&options, &plain());
        let mut reader = reader(&options);
        for index in 41..payload.len() {
            let mut forged = payload.clone();
            forged[index] ^= 0x80;
            let result = reader.open(topic(TOPIC), &forged, false, &plain(), NOW);
            assert_eq!(result, Err(OpenError::BadTag), "byte {index} of {options:?}");
        }
    }
}

#[test]
fn a_message_opens_under_no_other_topic() {
    for options in all_options() {
        let payload = sealed(&options, &plain());
        let mut reader = reader(&options);
        for other in
            ["factory/line-3/sensor/humidity", "factory/line-3/sensor/temperature/", "factory/line-3"]
        {
            assert_eq!(
                reader.open(topic(other), &payload, false, &plain(), NOW),
                Err(OpenError::BadTag),
                "{other}"
            );
        }
        assert_eq!(
            reader.open(topic("factory/line-4/sensor/temperature"), &payload, false, &plain(), NOW),
            Err(OpenError::TopicMismatch)
        );
    }
}

#[test]
fn a_message_opens_under_no_other_scope_even_with_the_same_key() {
    for options in all_options() {
        let payload = sealed(&options, &plain());
        let mut wider = member_with(unsigned(1), "factory/#", keyring(), options.clone());
        assert_eq!(wider.open(topic(TOPIC), &payload, false, &plain(), NOW), Err(OpenError::TopicMismatch));

        // The tag in the header is only a hint: with the hint of the wider scope it still must not open.
        let unrelated = EnvelopeOptions { sign: false, ..options.clone() };
        let wide = member_with(unsigned(1), "factory/#", keyring(), unrelated)
            .seal(topic(TOPIC), JSON, &plain(), NOW, &mut counter())
            .unwrap();
        let mut forged = payload.clone();
        forged[5..9].copy_from_slice(&wide[5..9]);
        assert!(wider.open(topic(TOPIC), &forged, false, &plain(), NOW).is_err());
    }
}

#[test]
fn no_other_key_and_no_other_epoch_opens_a_message() {
    for options in all_options() {
        let payload = sealed(&options, &plain());
        let with_keys = |keys: &[(u32, [u8; 32])]| {
            let mut keyring = Keyring::explicit(EpochTiming::default());
            for (epoch, key) in keys {
                keyring.insert(*epoch, GroupKey::new(key), 0).unwrap();
            }
            let lenient = EnvelopeOptions { sign: false, ..options.clone() };
            let mut other = member_with(unsigned(1), SCOPE, keyring, lenient);
            let Member::Identity(identity) = press() else {
                panic!("the reference publisher has an identity")
            };
            other.directory_mut().pin(identity.certificate().clone());
            other.open(topic(TOPIC), &payload, false, &plain(), NOW)
        };
        let right = seed("gk epoch 7");

        assert_eq!(with_keys(&[(EPOCH, [0; 32])]), Err(OpenError::BadTag));
        assert_eq!(with_keys(&[(8, right)]), Err(OpenError::NoKey { epoch: EPOCH }));
        assert!(with_keys(&[(EPOCH, right)]).is_ok());

        let mut relabelled = payload.clone();
        relabelled[12] = 8;
        let mut keyring = keyring();
        keyring.insert(8, GroupKey::new(&right), 0).unwrap();
        let mut reader = member_with(unsigned(1), SCOPE, keyring, options.clone());
        assert!(reader.open(topic(TOPIC), &relabelled, false, &plain(), NOW).is_err());
    }
}

#[test]
fn bound_properties_cannot_be_changed_added_or_removed() {
    type Change = fn(&mut PublishProperties<'static>);
    let changes: [(&str, Change); 8] = [
        ("payload format", |p| p.payload_is_utf8 = Some(false)),
        ("no payload format", |p| p.payload_is_utf8 = None),
        ("content type", |p| p.content_type = Some("text/plain")),
        ("no content type", |p| p.content_type = None),
        ("response topic", |p| p.response_topic = Some(topic("attacker/inbox"))),
        ("no response topic", |p| p.response_topic = None),
        ("correlation data", |p| p.correlation_data = Some(b"18")),
        ("no correlation data", |p| p.correlation_data = None),
    ];
    for suite in Suite::ALL {
        let options = EnvelopeOptions { suite, ..EnvelopeOptions::default() };
        let payload = sealed(&options, &request());
        let mut reader = reader(&options);
        assert_eq!(payload[4] & 0x04, 0x04);

        for (name, change) in changes {
            let mut changed = request();
            change(&mut changed);
            let result = reader.open(topic(TOPIC), &payload, false, &changed, NOW);
            assert_eq!(result, Err(OpenError::BadTag), "{name}");
        }

        assert!(reader.open(topic(TOPIC), &payload, false, &request(), NOW).is_ok());
    }
}

#[test]
fn a_response_topic_cannot_be_added_to_a_message_that_was_sent_without_one() {
    let options = EnvelopeOptions::default();
    let payload = sealed(&options, &plain());

    assert_eq!(payload[4] & 0x04, 0);
    let mut strict = reader(&options);
    assert_eq!(strict.open(topic(TOPIC), &payload, false, &request(), NOW), Err(OpenError::BadTag));
    let never = EnvelopeOptions { bound: BoundProperties::Never, ..options };
    assert!(reader(&never).open(topic(TOPIC), &payload, false, &request(), NOW).is_ok());
}

#[test]
fn properties_a_broker_may_change_are_not_bound() {
    let options = EnvelopeOptions { bound: BoundProperties::Always, ..EnvelopeOptions::default() };
    let sent = PublishProperties { message_expiry_seconds: Some(60), ..request() };
    let received = PublishProperties { message_expiry_seconds: Some(41), ..request() };

    let payload = sealed(&options, &sent);

    assert!(reader(&options).open(topic(TOPIC), &payload, false, &received, NOW).is_ok());
}

#[test]
fn another_member_cannot_sign_for_the_publisher() {
    let options = EnvelopeOptions { sign: true, require_signature: true, ..EnvelopeOptions::default() };
    let genuine = sealed(&options, &plain());
    let unsigned_options = EnvelopeOptions::default();
    let mut reader = reader(&options);
    let Member::Identity(identity) = press() else { panic!("the reference publisher has an identity") };

    // A member knows the group key, so it can seal under any key identifier, but it cannot sign.
    let mut insider = member(Member::Unsigned(identity.kid()), unsigned_options);
    let unsigned_forgery = insider.seal(topic(TOPIC), b"{}", &plain(), NOW, &mut counter()).unwrap();
    let mut borrowed_signature = unsigned_forgery.clone();
    borrowed_signature[4] |= 0x01;
    borrowed_signature.extend_from_slice(&genuine[genuine.len() - 64..]);

    for forgery in [unsigned_forgery, borrowed_signature] {
        assert_eq!(reader.open(topic(TOPIC), &forgery, false, &plain(), NOW), Err(OpenError::BadTag));
    }
}
