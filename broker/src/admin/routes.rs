//! The answers of the admin listener.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use veilmq_config::Mode;
use veilmq_protocol::veil::vmc::CERTIFICATE_BYTES_MAX;

use super::state::{AdminState, Status};
use crate::trust;

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const CERTIFICATE_TYPE: &str = "application/octet-stream";
const TRUST_REFUSED: &str = "this broker has a configuration file, so it takes no authority from the admin listener; \
     use `veilmq trust add FILE` or veil.trust in the configuration";
const TRUST_REMOTE: &str = "an authority is taken from this machine only";

/// Returns the router over the state of the broker.
pub(super) fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/healthz", get(livez))
        .route("/veil/identity", get(identity))
        .route("/veil/trust", post(add_trust))
        .layer(DefaultBodyLimit::max(CERTIFICATE_BYTES_MAX))
        .with_state(state)
}

async fn metrics(State(state): State<Arc<AdminState>>) -> Response {
    ([(CONTENT_TYPE, METRICS_TYPE)], state.render_metrics()).into_response()
}

/// The shards turn; whether anybody can be reached does not matter.
async fn livez(State(state): State<Arc<AdminState>>) -> Response {
    let stuck = state.stuck_shards().await;
    if stuck.is_empty() {
        return answer(StatusCode::OK, &json!({ "status": "alive" }));
    }
    answer(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "stuck", "shards": stuck }))
}

async fn readyz(State(state): State<Arc<AdminState>>) -> Response {
    let readiness = state.readiness();
    let status = match readiness.status {
        Status::Ready => StatusCode::OK,
        Status::Starting | Status::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer(status, &json!(readiness))
}

async fn identity(State(state): State<Arc<AdminState>>) -> Response {
    ([(CONTENT_TYPE, CERTIFICATE_TYPE)], state.certificate().to_vec()).into_response()
}

/// Development mode only: takes the public certificate of an authority from a program on this machine.
async fn add_trust(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Bytes,
) -> Response {
    match state.mode() {
        Mode::Configured => return refuse(StatusCode::FORBIDDEN, TRUST_REFUSED),
        Mode::Development if !peer.ip().to_canonical().is_loopback() => {
            return refuse(StatusCode::FORBIDDEN, TRUST_REMOTE);
        }
        Mode::Development => {}
    }
    let authority = match trust::parse_authority("request body", &body) {
        Ok(authority) => authority,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match state.trust().add(&authority) {
        Ok(()) => {
            let kid = authority.kid().to_string();
            answer(StatusCode::OK, &json!({ "kid": kid, "subject": authority.subject }))
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn refuse(status: StatusCode, error: &str) -> Response {
    answer(status, &json!({ "error": error }))
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}
