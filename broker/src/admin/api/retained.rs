//! Retained messages by topic and by size, without their payloads.
//!
//! They are looked at some thousands at a time, so that nobody who wants to retain a message waits for long.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use veilmq_core::{RetainedSummary, Shared};
use veilmq_protocol::TopicFilter;

use super::{Answer, Refusal, asked, controls, done, page};
use crate::admin::state::AdminState;
use crate::clock;

/// Topics that are looked at while others wait.
const STEP: usize = 4_096;
/// Topics that one request in the order of topics looks at; it then says where to go on.
const LOOKS_MAX: usize = 64 * STEP;

/// What a page is asked for with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    filter: Option<String>,
    after: Option<String>,
    #[serde(default)]
    order: Order,
    #[serde(default)]
    bytes_min: usize,
    limit: Option<usize>,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Order {
    #[default]
    Topic,
    Size,
}

/// `GET /retained`: a page in the order of topics, or the largest messages.
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Answer {
    let asked = asked(query)?;
    let limit = page(asked.limit)?;
    if asked.order == Order::Size && asked.after.is_some() {
        return Err(Refusal::bad("after goes with order=topic"));
    }
    let filter = asked.filter.as_deref().map(TopicFilter::new).transpose();
    let filter = filter.map_err(|error| Refusal::bad(format!("filter: {error}")))?;
    let walk = Walk { shared: &controls(&state)?.shared, filter, bytes_min: asked.bytes_min };
    let (found, next) = match asked.order {
        Order::Topic => walk.in_order(asked.after, limit).await,
        Order::Size => (walk.largest(limit).await, None),
    };
    let (messages, bytes) = walk.shared.retained_totals();
    done(&json!({
        "retained": found.iter().map(show).collect::<Vec<_>>(),
        "next": next,
        "messages": messages,
        "bytes": bytes,
    }))
}

struct Walk<'a> {
    shared: &'a Shared,
    filter: Option<TopicFilter<'a>>,
    bytes_min: usize,
}

impl Walk<'_> {
    /// Returns up to `limit` messages behind a topic, and the topic to go on behind, if there may be more.
    async fn in_order(&self, after: Option<String>, limit: usize) -> (Vec<RetainedSummary>, Option<String>) {
        let mut found = Vec::new();
        let mut position = after;
        for _ in 0..LOOKS_MAX / STEP {
            let (part, next) = self.step(position.as_deref());
            found.extend(part);
            position = next;
            if found.len() > limit {
                found.truncate(limit);
                let next = found.last().map(|last| last.topic.to_string());
                return (found, next);
            }
            if position.is_none() {
                break;
            }
            tokio::task::yield_now().await;
        }
        (found, position)
    }

    /// Returns the largest messages of all, the largest first.
    async fn largest(&self, limit: usize) -> Vec<RetainedSummary> {
        let mut found = BTreeMap::new();
        let mut position = None;
        loop {
            let (part, next) = self.step(position.as_deref());
            for message in part {
                found.insert((Reverse(message.bytes), Arc::clone(&message.topic)), message);
                if found.len() > limit {
                    found.pop_last();
                }
            }
            position = next;
            if position.is_none() {
                break;
            }
            tokio::task::yield_now().await;
        }
        found.into_values().collect()
    }

    fn step(&self, after: Option<&str>) -> (impl Iterator<Item = RetainedSummary> + use<>, Option<String>) {
        let part = self.shared.retained_part(self.filter, after, STEP, clock::now());
        let bytes_min = self.bytes_min;
        let large = part.messages.into_iter().filter(move |message| message.payload_bytes >= bytes_min);
        (large, part.next.map(|topic| topic.to_string()))
    }
}

fn show(message: &RetainedSummary) -> Value {
    json!({
        "topic": &*message.topic,
        "payload_bytes": message.payload_bytes,
        "bytes": message.bytes,
        "qos": message.qos as u8,
        "expires_seconds": message.expires_seconds,
    })
}
