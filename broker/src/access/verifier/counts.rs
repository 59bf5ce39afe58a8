//! What is counted of logins, and of questions to a service about them.

use std::sync::atomic::{AtomicU64, Ordering};

use veilmq_core::{Sample, SampleKind, Verdict};

use super::NewBans;
use crate::access::http::{Event, Reply};

/// What is counted; each only grows.
#[derive(Default)]
pub(super) struct Counts {
    succeeded: AtomicU64,
    failed: AtomicU64,
    banned: AtomicU64,
    busy: AtomicU64,
    addresses_banned: AtomicU64,
    users_banned: AtomicU64,
    rehashed: AtomicU64,
    logins: Replies,
    renewals: Replies,
    recalled: AtomicU64,
}

#[derive(Default)]
struct Replies {
    allowed: AtomicU64,
    denied: AtomicU64,
    passed_on: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    pub(super) fn verdict(&self, verdict: &Verdict) {
        increment(match verdict {
            Verdict::Right(_) | Verdict::Vouched { .. } => &self.succeeded,
            Verdict::Wrong => &self.failed,
            Verdict::Banned => &self.banned,
            Verdict::Busy => &self.busy,
        });
    }

    pub(super) fn bans(&self, bans: NewBans) {
        if bans.address {
            increment(&self.addresses_banned);
        }
        if bans.user {
            increment(&self.users_banned);
        }
    }

    pub(super) fn rehashed(&self) {
        increment(&self.rehashed);
    }

    /// A question to a service came to this.
    pub(super) fn asked(&self, event: Event, reply: Reply) {
        let replies = match event {
            Event::Connect => &self.logins,
            Event::Renew => &self.renewals,
        };
        increment(match reply {
            Reply::Allow => &replies.allowed,
            Reply::Deny => &replies.denied,
            Reply::Next => &replies.passed_on,
            Reply::Failure => &replies.failed,
        });
    }

    /// An answer was known.
    pub(super) fn recalled(&self) {
        increment(&self.recalled);
    }

    pub(super) fn visit(&self, visit: &mut dyn FnMut(Sample)) {
        let mut counter = |name, help, label, cell: &AtomicU64| {
            let value = cell.load(Ordering::Relaxed);
            visit(Sample { name, help, kind: SampleKind::Counter, label, value });
        };
        for (result, cell) in [
            ("success", &self.succeeded),
            ("failure", &self.failed),
            ("banned", &self.banned),
            ("busy", &self.busy),
        ] {
            let help = "User names and passwords that were to be checked.";
            counter("veilmq_auth_attempts_total", help, Some(("result", result)), cell);
        }
        for (kind, cell) in [("address", &self.addresses_banned), ("user", &self.users_banned)] {
            let help = "Bans because of too many wrong passwords.";
            counter("veilmq_auth_bans_total", help, Some(("kind", kind)), cell);
        }
        let help = "Passwords that were hashed anew because their hash was weak.";
        counter("veilmq_auth_rehashed_total", help, None, &self.rehashed);
        for (result, cell) in self.logins.cells() {
            let help = "Questions to the service of access.http about logins.";
            counter("veilmq_auth_http_logins_total", help, Some(("result", result)), cell);
        }
        for (result, cell) in self.renewals.cells() {
            let help = "Questions to the service of access.http about clients that are connected.";
            counter("veilmq_auth_http_renewals_total", help, Some(("result", result)), cell);
        }
        let help = "Logins that an answer of the service of access.http was known for.";
        counter("veilmq_auth_http_cache_hits_total", help, None, &self.recalled);
    }
}

impl Replies {
    fn cells(&self) -> [(&'static str, &AtomicU64); 4] {
        [
            ("allow", &self.allowed),
            ("deny", &self.denied),
            ("next", &self.passed_on),
            ("failure", &self.failed),
        ]
    }
}

fn increment(cell: &AtomicU64) {
    cell.fetch_add(1, Ordering::Relaxed);
}
