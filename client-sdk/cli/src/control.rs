//! How a running key authority is told what to do: a socket beside its state, for its owner only.
//!
//! A request is one line, `VERB SCOPE [ARGUMENT]` with tabs between; the answer is text until the end, its first line `ok` or `error`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};

use crate::failure::{Failure, complain};

/// The longest request, in bytes; certificates travel in hexadecimal.
const REQUEST_BYTES_MAX: u64 = 16 << 10;
const ANSWER_SECONDS_MAX: u64 = 30;
/// After a request could not be accepted.
const PAUSE: Duration = Duration::from_secs(1);

/// The socket of the authority that has its state in `state`.
pub(crate) fn path(state: &Path) -> PathBuf {
    let mut path = state.as_os_str().to_owned();
    path.push(".sock");
    path.into()
}

/// Fails if another program takes requests beside this state.
pub(crate) async fn check_is_free(state: &Path) -> Result<(), Failure> {
    match is_answered(Some(state)).await {
        true => {
            let path = path(state);
            Err(Failure::new(format!("{}: another program issues keys with this state", path.display())))
        }
        false => Ok(()),
    }
}

/// Whether a program that has its state there takes requests.
pub(crate) async fn is_answered(state: Option<&Path>) -> bool {
    match state {
        Some(state) => match UnixStream::connect(path(state)).await {
            Ok(_) => true,
            // Whoever is too busy to be connected to is there all the same.
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        },
        None => false,
    }
}

/// Listens for requests beside a state that is this program's: a socket that a dead process left behind is replaced.
pub(crate) async fn listen(state: &Path) -> Result<UnixListener, Failure> {
    // Where the system has no locks, two programs may have the state.
    check_is_free(state).await?;
    let path = path(state);
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Waits for somebody who has a request. Where the system has no file left for one, that is said once and tried again a second later.
pub(crate) async fn accept(listener: &UnixListener) -> UnixStream {
    let mut is_told = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    complain(&format!("requests wait: {error}"));
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// Reads one request: its tab-separated words.
pub(crate) async fn read(stream: &mut UnixStream) -> Option<Vec<String>> {
    let mut text = String::new();
    let mut limited = stream.take(REQUEST_BYTES_MAX);
    let read = limited.read_to_string(&mut text);
    timeout(Duration::from_secs(ANSWER_SECONDS_MAX), read).await.ok()?.ok()?;
    Some(text.split('\t').map(str::to_owned).collect())
}

/// Answers a request; whoever asked may have gone.
pub(crate) async fn answer(mut stream: UnixStream, outcome: Result<String, String>) {
    let text = match outcome {
        Ok(text) => format!("ok\n{text}"),
        Err(text) => format!("error\n{text}"),
    };
    let write = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await
    };
    let _ = timeout(Duration::from_secs(ANSWER_SECONDS_MAX), write).await;
}

/// Asks the authority that has its state in `state`.
pub(crate) async fn ask(state: &Path, words: &[&str]) -> Result<String, Failure> {
    let path = path(state);
    let failed = |error: std::io::Error| {
        Failure::new(format!(
            "{}: {error}; does the authority, or whoever else issues the keys, run?",
            path.display()
        ))
    };
    let mut stream = UnixStream::connect(&path).await.map_err(failed)?;
    stream.write_all(words.join("\t").as_bytes()).await.map_err(failed)?;
    stream.shutdown().await.map_err(failed)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.map_err(failed)?;
    match text.split_once('\n') {
        Some(("ok", rest)) => Ok(rest.to_owned()),
        Some((_, rest)) => Err(Failure::new(rest.trim_end().to_owned())),
        None => Err(Failure::new("the authority did not answer")),
    }
}
