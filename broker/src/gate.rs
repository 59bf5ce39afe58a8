//! Who connects waits: until the broker serves, and while the configuration is read again.
//!
//! Invariant: who connects after SIGHUP was sent is served by what the configuration says then, however late the thread comes to run that
//! reads it. The signal is blocked in every thread, so it is pending from the moment it is sent, and every thread can see that.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::sync::watch;

/// How often is looked whether the signal was taken.
const GLANCE: Duration = Duration::from_millis(1);

/// SIGHUP, from the moment it is sent until it is taken.
#[derive(Clone, Debug)]
pub(crate) struct HangUp(Arc<SignalFd>);

impl HangUp {
    /// Receives the signal from now on. It must not be called once there are other threads, which would be ended by it.
    ///
    /// # Errors
    /// The operating system has no more descriptors.
    pub(crate) fn receive() -> io::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGHUP);
        signals.thread_block()?;
        let descriptor = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self(Arc::new(descriptor)))
    }

    /// Takes the signal.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if it was not sent.
    pub(crate) fn take(&self) -> io::Result<()> {
        self.0.read_signal()?.map(drop).ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// Tells whether it was sent and not taken yet.
    fn is_pending(&self) -> bool {
        let mut looked_at = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut looked_at, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for HangUp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for HangUp {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Where connections wait.
#[derive(Clone, Debug)]
pub struct Gate {
    open: watch::Receiver<bool>,
    hang_up: HangUp,
}

impl Gate {
    /// Makes a gate that is open while the value is true and SIGHUP does not wait to be taken. Who takes it closes the gate first.
    pub(crate) const fn new(open: watch::Receiver<bool>, hang_up: HangUp) -> Self {
        Self { open, hang_up }
    }

    /// Waits until the gate is open. Without anybody to open it the broker is ending.
    pub(crate) async fn pass(&mut self) {
        while self.hang_up.is_pending() && self.open.has_changed().is_ok() {
            tokio::time::sleep(GLANCE).await;
        }
        let _ = self.open.wait_for(|is_open| *is_open).await;
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;
    use tokio::time::timeout;

    use super::*;

    const A_WHILE: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn nobody_passes_between_the_signal_and_the_end_of_what_it_asks_for() {
        let (open, is_open) = watch::channel(true);
        let hang_up = HangUp::receive().unwrap();
        let mut gate = Gate::new(is_open, hang_up.clone());
        gate.pass().await;
        assert_eq!(hang_up.take().unwrap_err().kind(), io::ErrorKind::WouldBlock);

        // To this thread, as other tests run in others.
        raise(Signal::SIGHUP).unwrap();
        assert!(timeout(A_WHILE, gate.pass()).await.is_err(), "open still, but not for long");
        open.send_replace(false);
        hang_up.take().unwrap();
        assert!(timeout(A_WHILE, gate.pass()).await.is_err(), "the configuration is being read");

        open.send_replace(true);
        gate.pass().await;
    }
}
