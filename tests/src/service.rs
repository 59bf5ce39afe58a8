//! A service that brokers ask about their users over HTTP/1.1, with or without TLS: the test says what it answers.
//!
//! It shares nothing with the broker's HTTP. Invariant: its connections end when it is dropped; its thread ends with the test.

use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::certificates::Certificate;

const WAIT_MAX: Duration = Duration::from_secs(20);

/// A question that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The request line, such as `POST /auth HTTP/1.1`.
    pub line: String,
    /// The header lines, in lower case but for their values.
    pub headers: Vec<(String, String)>,
    /// The body, as sent.
    pub body: String,
}

/// What the service does with a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It answers with this status and body.
    Status(u16, String),
    /// It answers with these bytes, and closes the connection.
    Bytes(Vec<u8>),
    /// It answers so after a while.
    Late(Duration, Box<Reply>),
}

impl Reply {
    /// Status 200 with this body.
    #[must_use]
    pub fn ok(body: &str) -> Self {
        Self::Status(200, body.to_owned())
    }
}

type Answer = dyn FnMut(&Question) -> Reply + Send;

/// A running service.
pub struct Service {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    answer: Mutex<Box<Answer>>,
    seen: Mutex<Seen>,
    more: Condvar,
}

#[derive(Default)]
struct Seen {
    questions: Vec<Question>,
    connections: Vec<TcpStream>,
}

impl Service {
    /// Starts a service on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn start(answer: impl FnMut(&Question) -> Reply + Send + 'static) -> Self {
        Self::start_over(None, answer)
    }

    /// Starts a service that speaks TLS and shows this certificate.
    ///
    /// # Panics
    /// If the files cannot be read, or there is no port.
    #[must_use]
    pub fn start_with_tls(
        certificate: &Certificate,
        answer: impl FnMut(&Question) -> Reply + Send + 'static,
    ) -> Self {
        let chain = vec![CertificateDer::from_pem_file(&certificate.certificate).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(&certificate.key).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring knows them")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a key that fits");
        Self::start_over(Some(Arc::new(config)), answer)
    }

    fn start_over(
        tls: Option<Arc<ServerConfig>>,
        answer: impl FnMut(&Question) -> Reply + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let state = Arc::new(State {
            answer: Mutex::new(Box::new(answer)),
            seen: Mutex::default(),
            more: Condvar::new(),
        });
        let served = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, tls) = (Arc::clone(&served), tls.clone());
                lock(&state.seen).connections.extend(stream.try_clone());
                // A connection that breaks off is the broker's business.
                thread::spawn(move || serve(stream, tls, &state).ok());
            }
        });
        Self { address, state }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers otherwise from now on.
    pub fn answer_with(&self, answer: impl FnMut(&Question) -> Reply + Send + 'static) {
        *lock(&self.state.answer) = Box::new(answer);
    }

    /// What was asked so far, in order.
    #[must_use]
    pub fn questions(&self) -> Vec<Question> {
        lock(&self.state.seen).questions.clone()
    }

    /// How many connections there were so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        lock(&self.state.seen).connections.len()
    }

    /// Waits until so many questions were asked.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn wait_for_questions(&self, count: usize) {
        let deadline = Instant::now() + WAIT_MAX;
        let mut seen = lock(&self.state.seen);
        while seen.questions.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} questions, not {count}", seen.questions.len());
            seen = self.state.more.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Closes the connections that are open; others can be made.
    pub fn hang_up(&self) {
        for connection in &lock(&self.state.seen).connections {
            // It may be closed already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.hang_up();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: TcpStream, tls: Option<Arc<ServerConfig>>, state: &State) -> Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        None => answer_all(stream, state),
        Some(config) => {
            let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
            answer_all(StreamOwned::new(connection, stream), state)
        }
    }
}

fn answer_all(stream: impl Read + Write, state: &State) -> Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(question) = read(&mut stream)? {
        lock(&state.seen).questions.push(question.clone());
        state.more.notify_all();
        let mut reply = (lock(&state.answer))(&question);
        while let Reply::Late(delay, later) = reply {
            thread::sleep(delay);
            reply = *later;
        }
        let stream = stream.get_mut();
        match reply {
            Reply::Status(status, body) => {
                let length = body.len();
                write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}")?;
                stream.flush()?;
            }
            Reply::Bytes(bytes) => {
                stream.write_all(&bytes)?;
                return stream.flush();
            }
            Reply::Late(..) => {}
        }
    }
    Ok(())
}

fn read(stream: &mut impl BufRead) -> Result<Option<Question>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(Question { line: line.trim_end().to_owned(), headers, body }))
}
