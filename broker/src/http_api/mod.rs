//! The HTTP API as Mosquitto has it: a listener that says what the broker counts and which listeners there are, and serves a directory of
//! files.
//!
//! It changes nothing, so operators use the admin listener. Each listener has a thread of its own, which asks no shard for anything. Who may
//! read what is decided like for clients of MQTT: users and passwords of the listener, and rules in which paths are topics. Invariant:
//! whoever sends nothing, sends slowly or does not read costs one of a few places, for a bounded time.

mod answer;
mod request;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tracing::{debug, error, warn};
use veilmq_config::BrokerConfig;
use veilmq_core::{
    Admission, ConnectionId, Credentials, EntranceId, ShardIndex, Shared, Terms, Verdict, Visitor,
};
use veilmq_protocol::TopicName;
use zeroize::Zeroizing;

use self::answer::{Answer, Body, list};
use self::request::{Basic, END, Malformed, Request};
use crate::access::{Reply, Verifier};
use crate::gate::Gate;
use crate::listener::{Carrier, Listener, ListeningSocket};
use crate::shard::{ConnectionLimit, Tally};

/// Connections at one time of a listener without a limit of its own; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// From the first byte that is waited for to the end of a request's head, and for a TLS handshake.
const HEAD_SECONDS_MAX: u64 = 10;
/// Until a password was checked.
const CHECK_SECONDS_MAX: u64 = 15;
/// Until a client takes the next part of an answer.
const WRITE_SECONDS_MAX: u64 = 15;
/// A whole connection.
const CONNECTION_SECONDS_MAX: u64 = 300;
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// What is read, and how long, behind the head of a request.
const REST_BYTES_MAX: u64 = 64 * 1024;
const REST_SECONDS_MAX: u64 = 2;
const PART_BYTES: usize = 64 * 1024;
const PAUSE: Duration = Duration::from_millis(100);
/// What rules know visitors by in the place of a Client Identifier.
const CLIENT_ID: &str = "http-api";

/// Makes listeners of the HTTP API, and knows what they say.
pub(crate) struct HttpApi {
    source: Arc<Source>,
    gate: Gate,
}

/// What answers are made from.
struct Source {
    shared: Arc<Shared>,
    verifier: Arc<Verifier>,
    tally: Arc<Tally>,
    /// The listeners, as they are listed.
    listeners: RwLock<Value>,
}

/// Where a request came from.
#[derive(Clone)]
struct Origin {
    peer: SocketAddr,
    carrier: Arc<Carrier>,
}

impl HttpApi {
    /// Makes what listeners answer from, which begin when the gate opens.
    pub(crate) fn new(shared: Arc<Shared>, verifier: Arc<Verifier>, tally: Arc<Tally>, gate: Gate) -> Self {
        let listeners = RwLock::new(Value::Null);
        Self { source: Arc::new(Source { shared, verifier, tally, listeners }), gate }
    }

    /// Lists the listeners of this configuration from now on.
    pub(crate) fn show(&self, config: &BrokerConfig) {
        *self.source.listeners.write().unwrap_or_else(PoisonError::into_inner) = list(config);
    }

    /// Serves these listeners, each until it is gone.
    ///
    /// # Errors
    /// The operating system gives no thread or event queue.
    pub(crate) fn serve(&self, listeners: Vec<Listener>) -> io::Result<()> {
        for Listener { socket, carrier } in listeners {
            let ListeningSocket::Tcp(socket) = socket else {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the HTTP API is served over TCP only",
                ));
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (source, gate) = (Arc::clone(&self.source), self.gate.clone());
            let serve = move || {
                if let Err(error) = runtime.block_on(serve_until_gone(socket, carrier, source, gate)) {
                    error!(%error, "a listener of the HTTP API cannot be used");
                }
            };
            thread::Builder::new().name("http-api".into()).spawn(serve)?;
        }
        Ok(())
    }
}

/// Accepts while the gate is open, until the listener is gone; its connections are gone with it.
async fn serve_until_gone(
    socket: std::net::TcpListener,
    mut carrier: tokio::sync::watch::Receiver<Arc<Carrier>>,
    source: Arc<Source>,
    mut gate: Gate,
) -> io::Result<()> {
    let socket = TcpListener::from_std(socket)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = async {
                // It is never closed.
                let place = Arc::clone(&places).acquire_owned().await.ok();
                (socket.accept().await, place)
            } => accepted,
            changed = carrier.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
        };
        gate.pass().await;
        match accepted {
            (Ok((stream, peer)), place) => {
                let origin = Origin { peer, carrier: Arc::clone(&carrier.borrow()) };
                let limit = origin.carrier.limit.as_ref().map(ConnectionLimit::permit);
                if matches!(limit, Some(None)) || source.verifier.is_banned_by_operator(&peer.to_string()) {
                    continue;
                }
                let source = Arc::clone(&source);
                tokio::spawn(async move {
                    let served = timeout(
                        Duration::from_secs(CONNECTION_SECONDS_MAX),
                        connection(stream, &origin, &source),
                    );
                    if let Ok(Err(error)) = served.await {
                        debug!(peer = %origin.peer, %error, "a connection of the HTTP API ended");
                    }
                    drop((place, limit));
                });
            }
            (Err(error), _) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            (Err(error), _) => {
                warn!(%error, "a listener of the HTTP API accepts nothing");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, origin: &Origin, source: &Source) -> io::Result<()> {
    // Without it a small answer may wait; it arrives all the same.
    let _ = stream.set_nodelay(true);
    match &origin.carrier.tls {
        None => converse(stream, origin, source).await,
        Some(tls) => {
            let stream = in_time(HEAD_SECONDS_MAX, tls.accept(stream)).await?;
            converse(stream, origin, source).await
        }
    }
}

async fn in_time<T>(seconds: u64, done: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(Duration::from_secs(seconds), done).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Answers one request, as Mosquitto does, and closes; what else comes is read for a moment, so that the answer is not lost to a reset.
async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    origin: &Origin,
    source: &Source,
) -> io::Result<()> {
    // It may hold a password, and never grows.
    let mut arrived = Zeroizing::new(Vec::with_capacity(HEAD_BYTES_MAX));
    let Some(head) = in_time(HEAD_SECONDS_MAX, read_head(&mut stream, &mut arrived)).await? else {
        return Ok(());
    };
    let head = head.and_then(|bytes| arrived.get(..bytes));
    let answer = match head.ok_or(Malformed).and_then(Request::parse) {
        Err(Malformed) => Answer::malformed(),
        Ok(request) => source.answer(&request, origin).await,
    };
    send(&mut stream, answer).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(REST_BYTES_MAX);
    in_time(REST_SECONDS_MAX, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await.map(|_| ())
}

/// Reads until a head is there, and returns its length without its end: none if it is too long. None at all if nothing more comes.
async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    arrived: &mut Vec<u8>,
) -> io::Result<Option<Option<usize>>> {
    loop {
        if let Some(end) = arrived.windows(END.len()).position(|bytes| bytes == END) {
            return Ok(Some(Some(end)));
        }
        let room = HEAD_BYTES_MAX - arrived.len().min(HEAD_BYTES_MAX);
        if room == 0 {
            return Ok(Some(None));
        }
        if stream.take(room as u64).read_buf(arrived).await? == 0 {
            return Ok(None);
        }
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), answer: Answer) -> io::Result<()> {
    let Answer { status, headers, body } = answer;
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\nX-Content-Type-Options: nosniff\r\n{headers}\r\n",
        body.len()
    );
    match body {
        Body::Text(text) => write(stream, &[head.as_bytes(), &text].concat()).await,
        Body::File(file, bytes) => {
            write(stream, head.as_bytes()).await?;
            send_file(stream, file, bytes).await
        }
    }
}

/// Sends so much of a file; one that has become shorter ends the connection.
async fn send_file(
    stream: &mut (impl AsyncWrite + Unpin),
    file: std::fs::File,
    bytes: u64,
) -> io::Result<()> {
    use std::io::Read;

    let mut content = file.take(bytes);
    let mut part = vec![0; PART_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = content.read(&mut part)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write(stream, part.get(..length).unwrap_or_default()).await?;
        left -= length as u64;
    }
    Ok(())
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    in_time(WRITE_SECONDS_MAX, async {
        stream.write_all(bytes).await?;
        stream.flush().await
    })
    .await
}

/// Somebody who was let in.
struct Reader {
    user: Option<Arc<str>>,
    terms: Option<Terms>,
}

impl Source {
    async fn answer(&self, request: &Request, origin: &Origin) -> Answer {
        if !request.is_get {
            return Answer::wrong_method();
        }
        let entrance = origin.carrier.entrance;
        let reader = match self.admit(request.credentials.as_ref(), entrance, origin.peer).await {
            Ok(reader) => reader,
            Err(answer) => return answer,
        };
        let Some((path, topic)) =
            request.path.as_deref().and_then(|path| Some((path, TopicName::new(path).ok()?)))
        else {
            return Answer::not_found();
        };
        let visitor = Visitor {
            entrance,
            user: reader.user.as_deref(),
            client_id: CLIENT_ID,
            terms: reader.terms.as_ref(),
        };
        if !self.shared.access().may_read(visitor, topic) {
            return Answer::not_authorized();
        }
        match path {
            "/api/v1/version" => Answer::line(env!("CARGO_PKG_VERSION")),
            "/api/v1/listeners" => {
                Answer::json(&self.listeners.read().unwrap_or_else(PoisonError::into_inner))
            }
            "/api/v1/systree" => Answer::json(&self.counts()),
            path if path.starts_with("/api/") => Answer::not_found(),
            path => Answer::file(origin.carrier.http_directory.as_deref(), path),
        }
    }

    /// What is on `$SYS` topics, as it is at this moment.
    fn counts(&self) -> Value {
        let counts = self.tally.sys_values().into_iter().map(|(topic, value)| (topic, value.into()));
        Value::Object(counts.collect::<Map<_, _>>())
    }

    /// Lets somebody in as a client of MQTT would be.
    async fn admit(
        &self,
        credentials: Option<&Basic>,
        entrance: EntranceId,
        peer: SocketAddr,
    ) -> Result<Reader, Answer> {
        let user = credentials.map(|credentials| &*credentials.user);
        let admission = self.shared.access().admission(entrance, user);
        match (admission, credentials) {
            (Admission::Open, _) => Ok(Reader { user: user.map(Arc::from), terms: None }),
            (Admission::Check, Some(credentials)) => match self.check(credentials, entrance, peer).await {
                Some(Verdict::Right(_)) => Ok(Reader { user: user.map(Arc::from), terms: None }),
                Some(Verdict::Vouched { user, terms, .. }) => {
                    Ok(Reader { user: Some(user), terms: Some(terms) })
                }
                Some(Verdict::Wrong | Verdict::Banned) => Err(Answer::not_authorized()),
                Some(Verdict::Busy) | None => Err(Answer::busy()),
            },
            (Admission::Check | Admission::Closed, _) => Err(Answer::not_authorized()),
        }
    }

    /// Has a password checked; None if that takes too long.
    async fn check(&self, credentials: &Basic, entrance: EntranceId, peer: SocketAddr) -> Option<Verdict> {
        let (tell, told) = oneshot::channel();
        let tell = Mutex::new(Some(tell));
        let reply: Arc<Reply> = Arc::new(move |_, _, verdict| {
            if let Some(tell) = tell.lock().unwrap_or_else(PoisonError::into_inner).take() {
                // Who asked may have given up waiting.
                let _ = tell.send(verdict);
            }
        });
        let credentials = Credentials {
            entrance,
            peer: peer.to_string().into(),
            client_id: CLIENT_ID.into(),
            user: Arc::from(&*credentials.user),
            password: credentials.password.clone(),
            certificate: None,
        };
        // No shard and no connection of MQTT waits for it.
        self.verifier.verify(ShardIndex(0), ConnectionId(0), Box::new(credentials), &reply);
        drop(reply);
        timeout(Duration::from_secs(CHECK_SECONDS_MAX), told).await.ok()?.ok()
    }
}
