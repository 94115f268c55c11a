//! How often a host may start a handshake.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::address::Host;

/// Most hosts whose handshake rate is remembered: 8,192 × about 100 bytes = 800 KiB.
pub const HOSTS_REMEMBERED_MAX: usize = 8192;
/// Handshakes a host may start at once before it has to slow down.
pub const HANDSHAKES_BURST: u32 = 32;
/// One more handshake every so often.
pub const HANDSHAKE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Pace {
    left: u32,
    filled: Instant,
}

/// The paces of hosts that started handshakes lately.
#[derive(Debug, Default)]
pub(super) struct Paces(BTreeMap<Host, Pace>);

impl Paces {
    /// True if the host has to slow down.
    pub(super) fn is_spent(&self, host: &Host, now: Instant) -> bool {
        self.0.get(host).is_some_and(|pace| refill(*pace, now).left == 0)
    }

    /// Charges one handshake; false if the host is too fast.
    pub(super) fn spend(&mut self, host: &Host, now: Instant) -> bool {
        if self.0.len() >= HOSTS_REMEMBERED_MAX && !self.0.contains_key(host) {
            self.on_deadline(now);
            if self.0.len() >= HOSTS_REMEMBERED_MAX {
                // Thousands of real hosts at once: the limits per host and netgroup still hold.
                return true;
            }
        }
        let pace = self.0.entry(host.clone()).or_insert(Pace { left: HANDSHAKES_BURST, filled: now });
        *pace = refill(*pace, now);
        if pace.left == 0 {
            return false;
        }
        pace.left -= 1;
        true
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let full = HANDSHAKE_EVERY * HANDSHAKES_BURST;
        self.0.values().map(|pace| pace.filled + full).min()
    }

    pub(super) fn on_deadline(&mut self, now: Instant) {
        self.0.retain(|_, pace| refill(*pace, now).left < HANDSHAKES_BURST);
    }
}

fn refill(mut pace: Pace, now: Instant) -> Pace {
    let gained = now.saturating_duration_since(pace.filled).as_secs() / HANDSHAKE_EVERY.as_secs();
    let gained = u32::try_from(gained).unwrap_or(u32::MAX).min(2 * HANDSHAKES_BURST);
    pace.left = pace.left.saturating_add(gained).min(HANDSHAKES_BURST);
    pace.filled = if gained == 2 * HANDSHAKES_BURST { now } else { pace.filled + HANDSHAKE_EVERY * gained };
    pace
}
