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
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, WWW_AUTHENTICATE};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::controls::{Controls, Unanswered};
use super::routes::answer;
use super::state::AdminState;

const CLOSED: &str = "admin.token_file is not set, so this broker cannot be administered here";
const TOKEN_WANTED: &str = "send the token of admin.token_file: Authorization: Bearer TOKEN";
const STARTING: &str = "the broker is starting";

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
        .route("/bans", get(bans::list).post(bans::ban))
        .route("/bans/{kind}/{name}", delete(bans::lift))
        .route("/retained", get(retained::list))
        .route("/log", get(settings::log).put(settings::set_log))
        .route("/reload", post(settings::reload))
        .layer(middleware::from_fn_with_state(Arc::clone(state), authorize))
}

/// Lets a request pass that shows the token.
async fn authorize(State(state): State<Arc<AdminState>>, request: Request, next: Next) -> Response {
    let shown = request.headers().get(AUTHORIZATION).map(axum::http::HeaderValue::as_bytes);
    let token = shown.and_then(|shown| shown.strip_prefix(b"Bearer "));
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
    serde_json::from_slice(body).map_err(|error| Refusal::bad(format!("the body: {error}")))
}

/// Returns the entries of a page.
fn page(limit: Option<usize>) -> Result<usize, Refusal> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=PAGE_MAX => Ok(limit),
        _ => Err(Refusal::bad(format!("limit is a whole number from 1 to {PAGE_MAX}"))),
    }
}
