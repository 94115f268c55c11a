//! To how many peers a body is pushed.

/// Copies of a body that a node should receive on average. More is waste, fewer means that most
/// bodies wait for an announcement and a request. 1,000 simulated nodes at 100 tx/s, fixed fanouts:
///
/// | fanout | copies | bytes received over size | p99 |
/// |---|---|---|---|
/// | 2 | 1.04 | 1.65 | 541 ms |
/// | 2.5 | 1.13 | 1.73 | 511 ms |
/// | 3 | 1.29 | 1.88 | 478 ms |
/// | 4 | 1.80 | 2.39 | 411 ms |
///
/// (With peers drawn uniformly; drawn by round trip it is 20 to 25 ms faster at equal copies.)
pub const COPIES_TARGET: f64 = 1.17;
const FANOUT_MIN: f64 = 1.0;
const FANOUT_MAX: f64 = 4.0;
const FANOUT_START: f64 = 2.3;
/// Bodies between two corrections: the mean of 64 is known to within 0.05.
const WINDOW: u32 = 64;
/// Correction for one copy too many. A fanout more makes a quarter to a half of a copy more, so the
/// loop gain is below one half, and it settles within a few windows.
const GAIN: f64 = 1.0;

/// Steers the fanout so that the copies received stay near [`COPIES_TARGET`]. A node sees only what
/// others push to it; since all do the same, that is the right thing to look at. A peer that pushes
/// everything can lower our fanout to 1, which costs a round trip and no delivery.
#[derive(Debug)]
pub(super) struct Fanout {
    value: f64,
    firsts: u32,
    copies: u32,
}

impl Fanout {
    pub(super) fn new() -> Self {
        Self { value: FANOUT_START, firsts: 0, copies: 0 }
    }

    /// The mean number of peers to push to.
    pub(super) fn value(&self) -> f64 {
        self.value
    }

    /// The number for one batch, given a uniform draw from [0, 1).
    pub(super) fn draw(&self, uniform: f64) -> usize {
        (self.value + uniform) as usize
    }

    /// A body came; `first` if it was not here yet.
    pub(super) fn received(&mut self, first: bool) {
        self.copies += 1;
        self.firsts += u32::from(first);
        if self.firsts >= WINDOW {
            let copies = f64::from(self.copies) / f64::from(self.firsts);
            self.value = (self.value + GAIN * (COPIES_TARGET - copies)).clamp(FANOUT_MIN, FANOUT_MAX);
            (self.firsts, self.copies) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(fanout: &mut Fanout, count: usize, copies_at: impl Fn(f64) -> f64) {
        let mut owed = 0.0;
        for _ in 0..count * WINDOW as usize {
            fanout.received(true);
            owed += copies_at(fanout.value()) - 1.0;
            while owed >= 1.0 {
                fanout.received(false);
                owed -= 1.0;
            }
        }
    }

    #[test]
    fn settles_where_the_copies_are_right() {
        let mut fanout = Fanout::new();
        windows(&mut fanout, 60, |value| COPIES_TARGET + 0.4 * (value - 2.0));
        assert!((fanout.value() - 2.0).abs() < 0.1, "{}", fanout.value());
    }

    #[test]
    fn stays_between_its_limits() {
        let mut fanout = Fanout::new();
        windows(&mut fanout, 30, |_| 9.0);
        assert_eq!(fanout.value(), FANOUT_MIN);
        assert_eq!((fanout.draw(0.0), fanout.draw(0.999)), (1, 1));
        windows(&mut fanout, 30, |_| 1.0);
        assert_eq!(fanout.value(), FANOUT_MAX);
        assert_eq!(fanout.draw(0.999), 4);
    }
}
