//! Sessions and clients: pages of them, one of them, and the end of one.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;
use veilmq_core::{ConnectionSummary, SessionDetail, SessionQuery, SessionSummary};
use veilmq_protocol::ProtocolVersion;

use super::{Answer, Refusal, asked, controls, done, page};
use crate::admin::state::AdminState;

/// What a page is asked for with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    after: Option<String>,
    #[serde(default)]
    prefix: String,
    connected: Option<bool>,
    limit: Option<usize>,
}

/// `GET /sessions`: a page in the order of Client Identifiers.
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Answer {
    list_asked(&state, asked(query)?).await
}

/// `GET /clients`: the sessions with a Network Connection.
pub(super) async fn list_clients(
    State(state): State<Arc<AdminState>>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Answer {
    list_asked(&state, Asked { connected: Some(true), ..asked(query)? }).await
}

async fn list_asked(state: &AdminState, asked: Asked) -> Answer {
    let limit = page(asked.limit)?;
    let Asked { after, prefix, connected, .. } = asked;
    // One more tells whether there is another page.
    let query = SessionQuery { after, prefix, connected, limit: limit + 1 };
    let mut sessions = controls(state)?.sessions(query).await?;
    let has_more = sessions.len() > limit;
    sessions.truncate(limit);
    let next = sessions.last().filter(|_| has_more).map(|last| last.client_id.to_string());
    done(&json!({ "sessions": sessions.iter().map(summary).collect::<Vec<_>>(), "next": next }))
}

/// Whose session. A Client Identifier such as `..` is one that no path can hold: browsers and proxies take it out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    client_id: String,
}

type NamedQuery = Result<Query<Named>, QueryRejection>;

/// `GET /session?client_id=…`
pub(super) async fn show_named(state: State<Arc<AdminState>>, query: NamedQuery) -> Answer {
    show(state, Path(asked(query)?.client_id)).await
}

/// `POST /session/disconnect?client_id=…`
pub(super) async fn disconnect_named(state: State<Arc<AdminState>>, query: NamedQuery) -> Answer {
    disconnect(state, Path(asked(query)?.client_id)).await
}

/// `DELETE /session?client_id=…`
pub(super) async fn end_named(state: State<Arc<AdminState>>, query: NamedQuery) -> Answer {
    end(state, Path(asked(query)?.client_id)).await
}

/// `GET /sessions/{client_id}`
pub(super) async fn show(State(state): State<Arc<AdminState>>, Path(client_id): Path<String>) -> Answer {
    let session = controls(&state)?.session(&client_id).await?;
    done(&detail(&session.ok_or_else(|| unknown(&client_id))?))
}

/// `POST /sessions/{client_id}/disconnect`: the session stays, as far as its Session Expiry Interval lets it.
pub(super) async fn disconnect(
    State(state): State<Arc<AdminState>>,
    Path(client_id): Path<String>,
) -> Answer {
    let session = dismiss(&state, &client_id, false).await?;
    done(&json!({ "client_id": client_id, "was_connected": session.summary.connection.is_some() }))
}

/// `DELETE /sessions/{client_id}`: the session ends, with all that waits for it.
pub(super) async fn end(State(state): State<Arc<AdminState>>, Path(client_id): Path<String>) -> Answer {
    let session = dismiss(&state, &client_id, true).await?;
    let dropped = session.summary.queued_messages + session.summary.inflight_messages;
    let was_connected = session.summary.connection.is_some();
    done(&json!({ "client_id": client_id, "was_connected": was_connected, "dropped_messages": dropped }))
}

async fn dismiss(state: &AdminState, client_id: &str, ends_session: bool) -> Result<SessionDetail, Refusal> {
    let dismissed = controls(state)?.dismiss(client_id, ends_session).await?;
    let session = dismissed.ok_or_else(|| unknown(client_id))?;
    info!(client = client_id, ends_session, "an operator disconnects a client");
    Ok(session)
}

fn unknown(client_id: &str) -> Refusal {
    Refusal::absent(format!("there is no session with the Client Identifier {client_id:?}"))
}

fn detail(detail: &SessionDetail) -> Value {
    let subscriptions = detail.subscriptions.iter().map(|(filter, record)| {
        json!({
            "filter": &**filter,
            "qos": record.options.qos as u8,
            "no_local": record.options.no_local,
            "subscription_id": record.subscription_id,
        })
    });
    let mut value = summary(&detail.summary);
    value["subscription_list"] = subscriptions.collect();
    value
}

fn summary(session: &SessionSummary) -> Value {
    json!({
        "client_id": &*session.client_id,
        "user": session.user.as_deref(),
        "authenticated": session.authenticated,
        "durable": session.durable,
        "session_expiry_seconds": session.expiry_seconds,
        "subscriptions": session.subscriptions,
        "queued_messages": session.queued_messages,
        "queued_bytes": session.queued_bytes,
        "inflight_messages": session.inflight_messages,
        "will_topic": session.will_topic,
        "connection": session.connection.as_ref().map(connection),
    })
}

fn connection(connection: &ConnectionSummary) -> Value {
    json!({
        "peer": &*connection.peer,
        "protocol": match connection.version {
            ProtocolVersion::V31 => "3.1",
            ProtocolVersion::V311 => "3.1.1",
            ProtocolVersion::V5 => "5.0",
        },
        "keep_alive_seconds": connection.keep_alive_seconds,
        "channel": connection.channel,
        "unsent_bytes": connection.unsent_bytes,
    })
}
