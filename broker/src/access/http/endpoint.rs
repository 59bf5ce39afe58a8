//! One service: requests to it, over connections that are kept for the next one.
//!
//! Redirects are not followed, no proxy of the environment is used, and what comes back is bounded. Invariant: a request ends within
//! the time limit, whatever the other side does.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use veilmq_config::HttpUrl;

use super::answer::ANSWER_BYTES_MAX;

/// The most bytes of the head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const AGENT: &str = concat!("veilmq/", env!("CARGO_PKG_VERSION"));
const JSON: &str = "application/json";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum EndpointError {
    #[error("it did not answer in time")]
    TimedOut,
    #[error("it cannot be reached: {0}")]
    Unreachable(#[from] io::Error),
    #[error("it does not speak HTTP/1.1: {0}")]
    Http(#[from] hyper::Error),
    #[error("its answer has more than {ANSWER_BYTES_MAX} bytes, or breaks off")]
    Body,
}

/// One service.
pub(super) struct Endpoint {
    url: HttpUrl,
    /// Trusts whom the operator trusts; None without TLS.
    tls: Option<Arc<ClientConfig>>,
    /// What requests are authorised with.
    authorization: Option<HeaderValue>,
    content_type: &'static str,
    time: Duration,
    /// Connections that wait for the next request; no more than there were requests at one time.
    idle: Mutex<Vec<http1::SendRequest<Body>>>,
}

impl Endpoint {
    pub(super) fn new(
        url: HttpUrl,
        tls: Option<Arc<ClientConfig>>,
        authorization: Option<HeaderValue>,
        content_type: &'static str,
        time: Duration,
    ) -> Self {
        Self { url, tls, authorization, content_type, time, idle: Mutex::default() }
    }

    /// Sends a request, and returns the status and the body of what is answered.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub(super) async fn ask(&self, body: Bytes) -> Result<(u16, Bytes), EndpointError> {
        timeout(self.time, self.exchange(body)).await.unwrap_or(Err(EndpointError::TimedOut))
    }

    async fn exchange(&self, body: Bytes) -> Result<(u16, Bytes), EndpointError> {
        while let Some(mut kept) = self.take_idle() {
            // The other side may close a connection at any time. To ask twice does no harm.
            if kept.ready().await.is_ok()
                && let Ok(response) = kept.send_request(self.request(&body)).await
            {
                return self.read(kept, response).await;
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(self.request(&body)).await?;
        self.read(sender, response).await
    }

    async fn read(
        &self,
        sender: http1::SendRequest<Body>,
        response: Response<hyper::body::Incoming>,
    ) -> Result<(u16, Bytes), EndpointError> {
        let status = response.status().as_u16();
        let body = to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await;
        let body = body.map_err(|_| EndpointError::Body)?;
        if !sender.is_closed() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
        Ok((status, body))
    }

    fn take_idle(&self) -> Option<http1::SendRequest<Body>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn request(&self, body: &Bytes) -> Request<Body> {
        let mut request = Request::new(Body::from(body.clone()));
        *request.method_mut() = Method::POST;
        if let Ok(target) = self.url.target.parse() {
            *request.uri_mut() = target;
        }
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::from_str(&self.url.authority) {
            headers.insert(HOST, host);
        }
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT, HeaderValue::from_static(JSON));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        request
    }

    async fn connect(&self) -> Result<http1::SendRequest<Body>, EndpointError> {
        let stream = TcpStream::connect((self.url.host.as_str(), self.url.port)).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return speak(stream).await };
        let name = ServerName::try_from(self.url.host.clone()).map_err(io::Error::other)?;
        speak(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?).await
    }
}

/// Begins HTTP on a connection, which lives as long as there are requests to come.
async fn speak<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: T,
) -> Result<http1::SendRequest<Body>, EndpointError> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    // What goes wrong shows in the request.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}
