//! The answers of the admin listener.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, State};
use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde_json::{Value, json};
use veilmq_config::Mode;
use veilmq_protocol::veil::{Kid, vmc::CERTIFICATE_BYTES_MAX};

use super::state::{AdminState, Status};
use super::{api, page};
use crate::trust::{self, TrustError};

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
pub(super) const JSON_TYPE: &str = "application/json";
const CERTIFICATE_TYPE: &str = "application/octet-stream";
const TRUST_REFUSED: &str = "this broker has a configuration file, so it takes no authority from the admin listener; \
     use `veilmq trust add FILE` or veil.trust in the configuration";
const TRUST_REMOTE: &str = "an authority is taken from this machine only";
const TRUST_BROWSER: &str = "an authority is not taken from a web page";
const TRUST_HOST: &str = "an authority is taken only from who asks for localhost or a loopback address";
const TRUST_KID: &str = "a key identifier has sixteen hexadecimal digits";
const TRUST_TYPE: &str = "send the certificate as it is, with Content-Type: application/octet-stream";

/// Returns the router over the state of the broker.
pub(super) fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/readyz/clients", get(ready_for_clients))
        .route("/healthz", get(livez))
        .route("/veil/identity", get(identity))
        .route("/veil/trust", post(add_trust))
        .route("/veil/trust/{kid}", delete(remove_trust))
        .nest("/api/v1", api::router(&state))
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
        Status::Starting | Status::Impaired | Status::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer(status, &json!(readiness))
}

async fn ready_for_clients(State(state): State<Arc<AdminState>>) -> Response {
    let readiness = state.readiness();
    let status = match readiness.admits_clients() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer(status, &json!(readiness))
}

async fn identity(State(state): State<Arc<AdminState>>) -> Response {
    match state.certificate() {
        // A broker that offers no channel has none.
        [] => StatusCode::NOT_FOUND.into_response(),
        certificate => ([(CONTENT_TYPE, CERTIFICATE_TYPE)], certificate.to_vec()).into_response(),
    }
}

/// Development mode only: takes the public certificate of an authority from a program on this machine.
async fn add_trust(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err((status, error)) = check_development_program(&state, peer, &headers) {
        return refuse(status, error);
    }
    if headers.get(CONTENT_TYPE).is_none_or(|value| value != CERTIFICATE_TYPE) {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, TRUST_TYPE);
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

/// Development mode only: a program on this machine takes back what it has introduced.
async fn remove_trust(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(kid): Path<String>,
) -> Response {
    if let Err((status, error)) = check_development_program(&state, peer, &headers) {
        return refuse(status, error);
    }
    let Ok(kid) = kid.parse::<Kid>() else { return refuse(StatusCode::BAD_REQUEST, TRUST_KID) };
    match state.trust().remove(kid) {
        Ok(()) => answer(StatusCode::OK, &json!({ "kid": kid.to_string() })),
        Err(error @ TrustError::Absent { .. }) => refuse(StatusCode::NOT_FOUND, &error.to_string()),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// In development mode, tells a program on this machine from others, and from a browser on this machine that shows somebody
/// else's page: such a page can send a request here, but not without `Origin`, and if its own name was made to resolve to this
/// machine, `Host` says so.
fn check_development_program(
    state: &AdminState,
    peer: SocketAddr,
    headers: &HeaderMap,
) -> Result<(), (StatusCode, &'static str)> {
    if state.mode() != Mode::Development {
        return Err((StatusCode::FORBIDDEN, TRUST_REFUSED));
    }
    if !peer.ip().to_canonical().is_loopback() {
        return Err((StatusCode::FORBIDDEN, TRUST_REMOTE));
    }
    if headers.contains_key(ORIGIN) {
        return Err((StatusCode::FORBIDDEN, TRUST_BROWSER));
    }
    let host = headers.get(HOST).and_then(|value| value.to_str().ok());
    if !host.is_some_and(is_loopback_host) {
        return Err((StatusCode::FORBIDDEN, TRUST_HOST));
    }
    Ok(())
}

/// Judges the value of `Host`: a name or an address, then perhaps a port (RFC 9110 section 7.2).
fn is_loopback_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn refuse(status: StatusCode, error: &str) -> Response {
    answer(status, &json!({ "error": error }))
}

/// Makes an answer in JSON.
pub(super) fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, JSON_TYPE)], format!("{body}\n")).into_response()
}
