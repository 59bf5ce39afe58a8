//! When a side has to hear of the bridge again, and when it has been silent for too long itself.

/// The silence that is allowed on one connection, and how long it has lasted.
#[derive(Debug)]
pub(crate) struct KeepAlive {
    /// Zero allows any.
    milliseconds: u64,
    sent_at: u64,
    pinged_at: Option<u64>,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// PINGREQ.
    Ping,
    /// Nothing helps: PINGREQ was not answered.
    End,
}

impl KeepAlive {
    pub(crate) fn new(seconds: u16, now: u64) -> Self {
        Self { milliseconds: u64::from(seconds) * 1_000, sent_at: now, pinged_at: None }
    }

    /// Takes over what the broker wants instead ([MQTT-3.2.2-21]).
    pub(crate) fn change(&mut self, seconds: u16) {
        self.milliseconds = u64::from(seconds) * 1_000;
    }

    /// A packet is sent.
    pub(crate) fn sent(&mut self, now: u64) {
        self.sent_at = now;
    }

    /// PINGRESP has come.
    pub(crate) fn answered(&mut self) {
        self.pinged_at = None;
    }

    /// When [`Self::due`] says something.
    pub(crate) fn deadline(&self) -> Option<u64> {
        (self.milliseconds > 0).then(|| self.pinged_at.unwrap_or(self.sent_at) + self.milliseconds)
    }

    /// Says what is due, once.
    pub(crate) fn due(&mut self, now: u64) -> Due {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Due::Nothing;
        }
        match self.pinged_at.replace(now) {
            None => Due::Ping,
            Some(_) => Due::End,
        }
    }
}
