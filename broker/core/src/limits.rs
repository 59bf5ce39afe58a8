//! The limits that can change while the broker runs, as each shard goes by them.
//!
//! Only what nobody was promised: a limit that CONNACK has told clients stays as it is until the next start.

use crate::settings::Settings;

/// Limits that a reload may change; each is what the field of [`Settings`] with its name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(crate) payload_bytes_max: usize,
    pub(crate) upgrade_qos: bool,
    pub(crate) queue_qos0: bool,
    pub(crate) session_expiry_seconds_max: u32,
    pub(crate) inflight_max: u16,
    pub(crate) inflight_bytes_max: usize,
    pub(crate) session_queue_messages_max: usize,
    pub(crate) session_queue_bytes_max: usize,
    pub(crate) queue_bytes_max: usize,
}

impl Limits {
    /// Returns the limits of these settings.
    pub fn of(settings: &Settings) -> Self {
        Self {
            payload_bytes_max: settings.payload_bytes_max,
            upgrade_qos: settings.upgrade_qos,
            queue_qos0: settings.queue_qos0,
            session_expiry_seconds_max: settings.session_expiry_seconds_max,
            inflight_max: settings.inflight_max,
            inflight_bytes_max: settings.inflight_bytes_max,
            session_queue_messages_max: settings.session_queue_messages_max,
            session_queue_bytes_max: settings.session_queue_bytes_max,
            queue_bytes_max: settings.queue_bytes_max,
        }
    }
}
