//! What a packet meets between two nodes: delay, loss, reordering, bottlenecks.

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::Instant;

/// Bytes that IP and UDP add to each datagram; they take their share of a bottleneck.
pub const HEADER_BYTES: usize = 28;

/// Longest UDP payload that an Ethernet path carries unfragmented.
pub const MTU_ETHERNET: usize = 1500 - HEADER_BYTES;

/// No delay is longer: the tail of a distribution must not outlive a test.
pub const DELAY_MAX: Duration = Duration::from_secs(10);

/// A distribution of delays, each at most [`DELAY_MAX`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Delay {
    /// Always the same.
    Constant(Duration),
    /// Anything between the two.
    Uniform(Duration, Duration),
    /// Log-normal: half of the draws are below `median`; `sigma` is the standard deviation of the
    /// logarithm (0.5 puts the 95th percentile at 2.3 × the median).
    LogNormal {
        /// The median.
        median: Duration,
        /// Standard deviation of the logarithm.
        sigma: f64,
    },
}

impl Delay {
    /// No delay.
    pub const NONE: Self = Self::Constant(Duration::ZERO);

    /// A constant delay in milliseconds.
    pub const fn ms(ms: u64) -> Self {
        Self::Constant(Duration::from_millis(ms))
    }

    /// One of its delays.
    pub fn draw(&self, rng: &mut impl Rng) -> Duration {
        match *self {
            Self::Constant(delay) => delay,
            Self::Uniform(least, most) => rng.random_range(least..=most),
            Self::LogNormal { median, sigma } => {
                // Box-Muller; 1 − u lies in (0, 1], where the logarithm is finite.
                let (u, v): (f64, f64) = (rng.random(), rng.random());
                let normal = (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
                median.mul_f64((sigma * normal).exp().min(1e6))
            }
        }
        .min(DELAY_MAX)
    }
}

/// Which packets get lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// None.
    None,
    /// Each with this probability.
    Random(f64),
    /// In bursts (Gilbert 1960, Elliott 1963): the path is good or bad, and may change with each
    /// packet.
    Bursty {
        /// Probability that a good path turns bad.
        turns_bad: f64,
        /// Probability that a bad path turns good; a bad spell lasts 1 / this many packets.
        turns_good: f64,
        /// Probability of loss while bad. While good nothing is lost.
        lost_when_bad: f64,
    },
}

impl Loss {
    /// Bursts in which every packet is lost, `burst` packets long on average, such that `mean` of
    /// all packets get lost.
    pub fn bursts(mean: f64, burst: f64) -> Self {
        let turns_good = 1.0 / burst;
        Self::Bursty { turns_bad: turns_good * mean / (1.0 - mean), turns_good, lost_when_bad: 1.0 }
    }
}

/// A bottleneck: what it carries, and how much may wait in front of it. What finds the queue full is
/// dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bytes per second, headers included.
    pub bytes_per_second: u64,
    /// Bytes that may wait, headers included.
    pub queue_bytes: usize,
}

impl Rate {
    /// A bottleneck with a queue of `queue` at full rate.
    pub fn new(bytes_per_second: u64, queue: Duration) -> Self {
        Self { bytes_per_second, queue_bytes: (bytes_per_second as f64 * queue.as_secs_f64()) as usize }
    }

    fn time_for(&self, bytes: usize) -> Duration {
        Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_second.max(1))
    }
}

/// How a node is attached to the network. `None` is as fast as need be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// What it sends passes here first.
    pub up: Option<Rate>,
    /// What it receives passes here last.
    pub down: Option<Rate>,
}

impl Access {
    /// The same both ways.
    pub fn symmetric(rate: Rate) -> Self {
        Self { up: Some(rate), down: Some(rate) }
    }
}

/// The way from one node to another. The way back is another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Path {
    /// One-way delay. Drawn once for each pair of nodes and the same both ways while both have the
    /// same model, as distance is.
    pub delay: Delay,
    /// Added to it, drawn for each packet. Packets stay in order nevertheless.
    pub jitter: Delay,
    /// Probability that a packet is overtaken: it comes later by `reordered_by`.
    pub reordered: f64,
    /// By how much.
    pub reordered_by: Delay,
    /// Which packets get lost.
    pub loss: Loss,
    /// The narrowest place.
    pub rate: Option<Rate>,
    /// Longest UDP payload that gets through.
    pub mtu: usize,
}

impl Path {
    /// A perfect path of this one-way delay.
    pub const fn new(delay: Delay) -> Self {
        Self {
            delay,
            jitter: Delay::NONE,
            reordered: 0.0,
            reordered_by: Delay::NONE,
            loss: Loss::None,
            rate: None,
            mtu: MTU_ETHERNET,
        }
    }

    /// A perfect path of this many milliseconds one way.
    pub const fn ms(ms: u64) -> Self {
        Self::new(Delay::ms(ms))
    }

    /// With this loss.
    pub const fn with_loss(mut self, loss: Loss) -> Self {
        self.loss = loss;
        self
    }

    /// With this jitter.
    pub const fn with_jitter(mut self, jitter: Delay) -> Self {
        self.jitter = jitter;
        self
    }

    /// With some packets overtaken.
    pub const fn with_reordering(mut self, probability: f64, by: Delay) -> Self {
        (self.reordered, self.reordered_by) = (probability, by);
        self
    }

    /// With this bottleneck.
    pub const fn with_rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }
}

/// A bottleneck at work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bottleneck {
    /// When all that waits will have passed.
    free_at: Instant,
}

impl Bottleneck {
    pub(super) fn new(now: Instant) -> Self {
        Self { free_at: now }
    }

    /// When a packet that arrives here at `at` is through, or `None` if the queue is full. Packets
    /// must be presented in the order of their arrival.
    pub(super) fn pass(&mut self, rate: Option<Rate>, len: usize, at: Instant) -> Option<Instant> {
        let Some(rate) = rate else { return Some(at) };
        let wait = self.free_at.saturating_duration_since(at);
        let queued = wait.as_secs_f64() * rate.bytes_per_second as f64;
        let len = len + HEADER_BYTES;
        // What is being sent counts as queued: a packet always fits into an idle bottleneck.
        if !wait.is_zero() && queued + len as f64 > rate.queue_bytes as f64 {
            return None;
        }
        self.free_at = at.max(self.free_at) + rate.time_for(len);
        Some(self.free_at)
    }
}

/// Whether a bursty path is in a bad spell.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spell {
    bad: bool,
}

impl Spell {
    /// Whether the next packet gets lost.
    pub(super) fn loses(&mut self, loss: &Loss, rng: &mut impl Rng) -> bool {
        match *loss {
            Loss::None => false,
            Loss::Random(probability) => rng.random_bool(probability),
            Loss::Bursty { turns_bad, turns_good, lost_when_bad } => {
                let turns = if self.bad { turns_good } else { turns_bad };
                self.bad ^= rng.random_bool(turns);
                self.bad && rng.random_bool(lost_when_bad)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    use super::*;

    fn rng() -> ChaCha12Rng {
        ChaCha12Rng::seed_from_u64(7)
    }

    #[test]
    fn a_log_normal_delay_has_its_median_and_its_tail() {
        let delay = Delay::LogNormal { median: Duration::from_millis(50), sigma: 0.5 };
        let mut rng = rng();
        let mut draws: Vec<_> = (0..10_001).map(|_| delay.draw(&mut rng).as_secs_f64() * 1e3).collect();
        draws.sort_by(f64::total_cmp);
        assert!((48.0..52.0).contains(&draws[5_000]), "median {}", draws[5_000]);
        assert!((109.0..119.0).contains(&draws[9_500]), "95th {}, 113.8 by the formula", draws[9_500]);
        let endless = Delay::LogNormal { median: Duration::from_secs(1), sigma: 9.0 };
        assert!((0..1_000).all(|_| endless.draw(&mut rng) <= DELAY_MAX));
    }

    #[test]
    fn bursts_have_the_mean_and_the_length_asked_for() {
        let (loss, mut spell, mut rng) = (Loss::bursts(0.05, 8.0), Spell::default(), rng());
        let lost: Vec<_> = (0..400_000).map(|_| spell.loses(&loss, &mut rng)).collect();
        let total = lost.iter().filter(|lost| **lost).count() as f64;
        let bursts = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count() as f64;
        assert!((0.045..0.055).contains(&(total / lost.len() as f64)), "{total}");
        assert!((7.4..8.6).contains(&(total / bursts)), "{total} in {bursts} bursts");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bottleneck_takes_its_time_and_drops_what_does_not_fit() {
        let now = Instant::now();
        let rate = Some(Rate { bytes_per_second: 100_000, queue_bytes: 10_000 });
        let mut bottleneck = Bottleneck::new(now);
        // 1,000 bytes with headers take 10 ms; ten of them fill the queue.
        for n in 1..=10 {
            let through = bottleneck.pass(rate, 1_000 - HEADER_BYTES, now).unwrap();
            assert_eq!(through - now, Duration::from_millis(10 * n));
        }
        assert_eq!(bottleneck.pass(rate, 1_000 - HEADER_BYTES, now), None);
        let later = now + Duration::from_millis(10);
        assert_eq!(
            bottleneck.pass(rate, 1_000 - HEADER_BYTES, later).map(|at| at - now),
            Some(Duration::from_millis(110))
        );
    }
}
