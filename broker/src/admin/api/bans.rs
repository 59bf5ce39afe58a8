//! Bans: those for guessing passwords and those of operators, seen, made and lifted.
//!
//! A ban lasts until its time is over, it is lifted, or the broker ends. An address that an operator has banned cannot connect at
//! all; other bans concern passwords only.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use super::{Answer, Refusal, asked, controls, done, parsed};
use crate::access::{Ban, Banned};
use crate::admin::state::AdminState;

const SECONDS: u64 = 3_600;
const SECONDS_MAX: u64 = 366 * 24 * 3_600;
/// The most bans of each kind that are listed.
const LISTED_MAX: usize = 1_000;

/// Whom to ban, and for how long.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    address: Option<String>,
    user: Option<String>,
    #[serde(default = "usual_seconds")]
    seconds: u64,
}

fn usual_seconds() -> u64 {
    SECONDS
}

/// `GET /bans`
pub(super) async fn list(State(state): State<Arc<AdminState>>) -> Answer {
    let bans = controls(&state)?.verifier.bans(LISTED_MAX);
    done(&json!({ "bans": bans.iter().map(show).collect::<Vec<_>>() }))
}

/// `POST /bans` with `{"address": …}` or `{"user": …}`, and perhaps `"seconds"`.
pub(super) async fn ban(State(state): State<Arc<AdminState>>, body: Bytes) -> Answer {
    let asked: Asked = parsed(&body)?;
    let banned = match (asked.address, asked.user) {
        (Some(address), None) => Banned::Address(parse_address(&address)?),
        (None, Some(user)) if !user.is_empty() => Banned::User(user),
        _ => return Err(Refusal::bad("the body names either an address or a user")),
    };
    if !(1..=SECONDS_MAX).contains(&asked.seconds) {
        return Err(Refusal::bad(format!("seconds is a whole number from 1 to {SECONDS_MAX}")));
    }
    let lasting = Duration::from_secs(asked.seconds);
    controls(&state)?.verifier.ban(&banned, lasting);
    info!(seconds = asked.seconds, "an operator bans {}", words(&banned));
    done(&show(&Ban { banned, left: lasting, by_operator: true }))
}

/// Whose ban.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    address: Option<String>,
    user: Option<String>,
}

/// `DELETE /bans?address=…` and `DELETE /bans?user=…`, for names too that no path can hold.
pub(super) async fn lift_named(
    state: State<Arc<AdminState>>,
    query: Result<Query<Named>, QueryRejection>,
) -> Answer {
    let (kind, name) = match asked(query)? {
        Named { address: Some(address), user: None } => ("address", address),
        Named { address: None, user: Some(user) } => ("user", user),
        _ => return Err(Refusal::bad("the query names either an address or a user")),
    };
    lift(state, Path((kind.to_owned(), name))).await
}

/// `DELETE /bans/address/{address}` and `DELETE /bans/user/{user}`
pub(super) async fn lift(
    State(state): State<Arc<AdminState>>,
    Path((kind, name)): Path<(String, String)>,
) -> Answer {
    let banned = match kind.as_str() {
        "address" => Banned::Address(parse_address(&name)?),
        "user" => Banned::User(name),
        _ => return Err(Refusal::absent("bans are of the kinds address and user")),
    };
    if !controls(&state)?.verifier.lift(&banned) {
        return Err(Refusal::absent(format!("{} is not banned", words(&banned))));
    }
    info!("an operator lifts the ban of {}", words(&banned));
    done(&json!({ "lifted": words(&banned) }))
}

/// Reads an address as it is listed: of IPv6 all with the same first 64 bits are one.
fn parse_address(text: &str) -> Result<IpAddr, Refusal> {
    let address = text.strip_suffix("/64").unwrap_or(text);
    address.parse().map_err(|_| Refusal::bad(format!("{text:?} is not an IP address")))
}

fn words(banned: &Banned) -> String {
    match banned {
        Banned::Address(address) => format!("the address {address}"),
        Banned::User(user) => format!("the user {user:?}"),
    }
}

fn show(ban: &Ban) -> Value {
    let (kind, name) = match &ban.banned {
        Banned::Address(address @ IpAddr::V4(_)) => ("address", address.to_string()),
        Banned::Address(address @ IpAddr::V6(_)) => ("address", format!("{address}/64")),
        Banned::User(user) => ("user", user.clone()),
    };
    let by = if ban.by_operator { "operator" } else { "wrong passwords" };
    json!({ kind: name, "seconds_left": ban.left.as_secs(), "because_of": by })
}
