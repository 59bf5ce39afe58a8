//! The admin listener's connections: few, and none of them for long.
//!
//! Invariant: whoever sends nothing, sends slowly or does not read costs one of a few places, for a bounded time, and only until
//! somebody else wants it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

use super::places::{Places, Visitor};

/// Connections at one time; one more takes the place of one of them.
const CONNECTIONS_MAX: usize = 64;
/// From the first byte that is waited for to the end of a request's header.
const HEADER_SECONDS_MAX: u64 = 10;
/// From the end of the header to the answer: the body arrives, and shards answer.
const ANSWER_SECONDS_MAX: u64 = 15;
/// A whole connection, however often it is used.
const CONNECTION_SECONDS_MAX: u64 = 300;
const HEADER_BYTES_MAX: usize = 16 * 1024;
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is said that nobody can be let in.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts and serves; connections end when the runtime does.
pub(super) async fn serve_for_ever(listener: TcpListener, router: Router) {
    let router = router.layer(middleware::from_fn(answer_in_time));
    let places = Places::new(CONNECTIONS_MAX);
    let mut complained_at: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let visitor = Arc::new(places.take());
                let router =
                    router.clone().layer(Extension(ConnectInfo(peer))).layer(Extension(Arc::clone(&visitor)));
                tokio::spawn(async move {
                    tokio::select! {
                        () = serve(stream, peer, router) => {}
                        () = visitor.lost_place() => debug!(%peer, "a connection of the admin listener gives way"),
                    }
                });
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    if complained_at.is_none_or(|at| at.elapsed() > COMPLAINT_INTERVAL) {
                        warn!(%error, "the admin listener accepts nothing");
                        complained_at = Some(Instant::now());
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEADER_SECONDS_MAX))
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let served = tokio::time::timeout(Duration::from_secs(CONNECTION_SECONDS_MAX), connection).await;
    if let Ok(Err(error)) = served {
        debug!(%peer, %error, "a connection of the admin listener ended");
    }
}

async fn answer_in_time(
    Extension(visitor): Extension<Arc<Visitor>>,
    request: Request,
    next: Next,
) -> Response {
    let _asking = visitor.asks();
    let answered = tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS_MAX), next.run(request)).await;
    answered.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
}
