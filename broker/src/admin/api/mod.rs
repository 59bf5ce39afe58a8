//! What operators can do over HTTP, below `/api/v1`: JSON in and out, for whoever shows the token.
//!
//! Invariant: nothing here answers without the token, no answer has a payload or a secret, and every answer is bounded.

mod bans;
mod retained;
mod sessions;
mod settings;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::controls::{Controls, Unanswered};
use super::routes::{JSON_TYPE, answer};
use super::state::AdminState;

const CLOSED: &str = "admin.token_file is not set, so this broker cannot be administered here";
const TOKEN_WANTED: &str = "send the token of admin.token_file: Authorization: Bearer TOKEN";
const STARTING: &str = "the broker is starting";

const SCHEME: &[u8] = b"Bearer ";
/// The longest text of an error that others make.
const ERROR_BYTES_MAX: usize = 1_024;

/// The entries of a page, unless asked otherwise, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// Returns the routes below `/api/v1`.
pub(super) fn router(state: &Arc<AdminState>) -> Router<Arc<AdminState>> {
    Router::new()
        .route("/sessions", get(sessions::list))
        .route("/clients", get(sessions::list_clients))
        .route("/sessions/{client_id}", get(sessions::show).delete(sessions::end))
        .route("/sessions/{client_id}/disconnect", post(sessions::disconnect))
        .route("/session", get(sessions::show_named).delete(sessions::end_named))
        .route("/session/disconnect", post(sessions::disconnect_named))
        .route("/bans", get(bans::list).post(bans::ban).delete(bans::lift_named))
        .route("/bans/{kind}/{name}", delete(bans::lift))
        .route("/retained", get(retained::list))
        .route("/log", get(settings::log).put(settings::set_log))
        .route("/reload", post(settings::reload))
        .fallback(async || Refusal::absent("there is nothing of this name below /api/v1"))
        .layer(middleware::from_fn(in_json))
        .layer(middleware::from_fn_with_state(Arc::clone(state), authorize))
}

/// Lets a request pass that shows the token.
async fn authorize(State(state): State<Arc<AdminState>>, request: Request, next: Next) -> Response {
    let shown = request.headers().get(AUTHORIZATION).map(axum::http::HeaderValue::as_bytes);
    // The name of the scheme has no case (RFC 9110 section 11.1).
    let token = shown.and_then(|shown| match shown.split_at_checked(SCHEME.len())? {
        (scheme, token) if scheme.eq_ignore_ascii_case(SCHEME) => Some(token),
        _ => None,
    });
    let mut response = match state.admits(token) {
        None => Refusal(StatusCode::FORBIDDEN, CLOSED.into()).into_response(),
        Some(true) => next.run(request).await,
        Some(false) => {
            let refusal = Refusal(StatusCode::UNAUTHORIZED, TOKEN_WANTED.into());
            ([(WWW_AUTHENTICATE, "Bearer")], refusal).into_response()
        }
    };
    response.headers_mut().insert(CACHE_CONTROL, axum::http::HeaderValue::from_static("no-store"));
    response
}

/// Makes JSON of what is wrong with a request that no function here was asked about.
async fn in_json(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == JSON_TYPE);
    if !status.is_client_error() || is_json {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = axum::body::to_bytes(body, ERROR_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let what = if text.is_empty() { status.canonical_reason().unwrap_or_default() } else { &text };
    let mut answer = Refusal(status, what.to_owned()).into_response();
    // What a method that is not allowed was answered with says which are.
    if let Some(allowed) = parts.headers.get(ALLOW) {
        answer.headers_mut().insert(ALLOW, allowed.clone());
    }
    answer
}

/// Why a request is not done, as status and words.
pub(super) struct Refusal(StatusCode, String);

impl Refusal {
    fn bad(what: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, what.into())
    }

    fn absent(what: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, what.into())
    }
}

impl From<Unanswered> for Refusal {
    fn from(error: Unanswered) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        answer(self.0, &json!({ "error": self.1 }))
    }
}

type Answer = Result<Response, Refusal>;

fn done(body: &Value) -> Answer {
    Ok(answer(StatusCode::OK, body))
}

fn controls(state: &AdminState) -> Result<&Controls, Refusal> {
    state.controls().ok_or_else(|| Refusal(StatusCode::SERVICE_UNAVAILABLE, STARTING.into()))
}

fn asked<T>(query: Result<Query<T>, axum::extract::rejection::QueryRejection>) -> Result<T, Refusal> {
    query.map(|Query(query)| query).map_err(|error| Refusal::bad(error.body_text()))
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Refusal::bad("the body is a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| Refusal::bad(format!("the body: {error}")))
}

/// Returns the entries of a page.
fn page(limit: Option<usize>) -> Result<usize, Refusal> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=PAGE_MAX => Ok(limit),
        _ => Err(Refusal::bad(format!("limit is a whole number from 1 to {PAGE_MAX}"))),
    }
}
