//! The admin listener's connections: few, and none of them for long.
//!
//! Invariant: whoever sends nothing, sends slowly or does not read costs one of a few places, for a bounded time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Connections at one time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// From the first byte that is waited for to the end of a request's header.
const HEADER_SECONDS_MAX: u64 = 10;
/// From the end of the header to the answer: the body arrives, and shards answer.
const ANSWER_SECONDS_MAX: u64 = 15;
/// A whole connection, however often it is used.
const CONNECTION_SECONDS_MAX: u64 = 300;
const HEADER_BYTES_MAX: usize = 16 * 1024;
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts and serves; connections end when the runtime does.
pub(super) async fn serve_for_ever(listener: TcpListener, router: Router) {
    let router = router.layer(middleware::from_fn(answer_in_time));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let router = router.clone().layer(Extension(ConnectInfo(peer)));
                tokio::spawn(async move {
                    serve(stream, peer, router).await;
                    drop(place);
                });
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    warn!(%error, "the admin listener accepts nothing");
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

async fn answer_in_time(request: Request, next: Next) -> Response {
    let answered = tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS_MAX), next.run(request)).await;
    answered.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
}
