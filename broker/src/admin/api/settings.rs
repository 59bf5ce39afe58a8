//! The log level, which holds until the broker ends, and the reload that SIGHUP asks for too.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use veilmq_config::LogLevel;

use super::{Answer, Refusal, controls, done, parsed};
use crate::admin::controls::ReloadReport;
use crate::admin::state::AdminState;
use crate::logging;

/// The level to log at from now on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    level: LogLevel,
}

/// `GET /log`
pub(super) async fn log() -> Answer {
    done(&json!({ "level": logging::current_level() }))
}

/// `PUT /log` with `{"level": …}`
pub(super) async fn set_log(body: Bytes) -> Answer {
    let Asked { level } = parsed(&body)?;
    logging::change_level(level);
    log().await
}

/// `POST /reload`: answers when it is done with what has changed and what the next start will change, with 409 and the reason if nothing could come into force.
pub(super) async fn reload(State(state): State<Arc<AdminState>>) -> Answer {
    match controls(&state)?.reload().await? {
        Ok(ReloadReport { changed, next_start }) => {
            done(&json!({ "reloaded": true, "changed": changed, "next_start": next_start }))
        }
        Err(error) => Err(Refusal(StatusCode::CONFLICT, format!("{error}; nothing has changed"))),
    }
}
