//! What ends the program early: one line for a person, one status for a script.

use std::{
    fmt,
    io::{self, Write as _},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};
use veilmq_client::{
    Client, ConnectError, PublishError, ReasonCode, RequestError, SubscribeError, identity::IdentityError,
    sealed_file::SealedFileError, session::CloseReason,
};

/// The status mosquitto's clients give for every other error.
const ERROR: u8 = 1;
/// The status of mosquitto_sub when `-W` runs out (MOSQ_ERR_TIMEOUT).
const TIMED_OUT: u8 = 27;

/// An error message with its exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    status: u8,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: ERROR }
    }

    const fn is_timed_out(&self) -> bool {
        self.status == TIMED_OUT
    }

    pub(crate) const fn status(&self) -> u8 {
        self.status
    }

    fn with_status(message: String, status: Option<u8>) -> Self {
        Self { message, status: status.unwrap_or(ERROR) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What `-W` leaves of the time.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// So many seconds from now, or never.
    pub(crate) fn after(seconds: Option<u64>) -> Self {
        Self(seconds.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds))))
    }

    /// Waits for something as long as there is time.
    pub(crate) async fn limit<T, E: Into<Failure>>(
        self,
        future: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        let done = match self.0 {
            Some(deadline) => timeout_at(deadline, future).await,
            None => Ok(future.await),
        };
        done.map_err(|_| Failure { message: "timed out".to_owned(), status: TIMED_OUT })?.map_err(Into::into)
    }
}

/// Disconnects after what was to be done, which may have run out of time.
pub(crate) async fn disconnect(client: &Client, outcome: Result<(), Failure>) -> Result<(), Failure> {
    if outcome.as_ref().err().is_none_or(Failure::is_timed_out) {
        let ended = client.disconnect().await;
        // Why it ends is what was there first.
        return outcome.and_then(|()| Ok(ended?));
    }
    outcome
}

/// Says on standard error what is wrong and does not end the program.
pub(crate) fn complain(text: &str) {
    // Standard error may be closed; there is nobody else to tell.
    let _ = writeln!(io::stderr(), "veil: {text}");
}

/// A refused connection gives its Reason Code, as mosquitto's clients do.
fn refusal(reason: &CloseReason) -> Option<u8> {
    match reason {
        CloseReason::Refused { reason, .. } | CloseReason::Disconnected { reason, .. } => {
            Some(reason.value())
        }
        _ => None,
    }
}

impl From<CloseReason> for Failure {
    fn from(reason: CloseReason) -> Self {
        Self::with_status(reason.to_string(), refusal(&reason))
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let status = match &error {
            ConnectError::Failed { reason, .. } => refusal(reason),
            _ => None,
        };
        let hint = match &error {
            ConnectError::Failed {
                reason: CloseReason::Refused { reason: ReasonCode::NotAuthorized, .. },
                ..
            } => {
                "; the broker does not trust this client's certificate, or wants one, or a user name and password"
            }
            ConnectError::Failed {
                reason: CloseReason::Refused { reason: ReasonCode::BadAuthenticationMethod, .. },
                ..
            } => "; to an ordinary MQTT broker, veil pub and veil sub connect with --no-channel",
            _ => "",
        };
        Self::with_status(format!("{error}{hint}"), status)
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<SubscribeError> for Failure {
    fn from(error: SubscribeError) -> Self {
        let status = match &error {
            SubscribeError::Refused { reason, .. } => Some(reason.value()),
            _ => None,
        };
        Self::with_status(error.to_string(), status)
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<SealedFileError> for Failure {
    fn from(error: SealedFileError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        Self::new(error.to_string())
    }
}
