//! Which of a peer's addresses first (happy eyeballs, RFC 8305).

use std::time::Duration;

use crate::address::{Endpoint, Network};

/// Most addresses in one dial.
pub const ADDRESSES_PER_DIAL: usize = 4;
/// Pause before the next address is tried as well (RFC 8305 §8 recommends 250 ms).
pub const STAGGER: Duration = Duration::from_millis(250);

/// One address of a dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Where.
    pub endpoint: Endpoint,
    /// Begin so long after the dial began, unless an earlier address answered. If all earlier ones
    /// failed, begin at once.
    pub after: Duration,
}

/// Orders addresses: the chosen one's family and the other in turn, IPv6 first if both are there.
/// Onion addresses and others are never mixed: to dial one peer both ways at once would link the two.
pub(super) fn order(chosen: &Endpoint, others: impl IntoIterator<Item = Endpoint>) -> Vec<Attempt> {
    let onion = |endpoint: &Endpoint| endpoint.network() == Network::Onion;
    let mut all = vec![chosen.clone()];
    for other in others {
        if onion(&other) == onion(chosen) && !all.contains(&other) {
            all.push(other);
        }
    }
    let (mut six, mut rest): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|endpoint| endpoint.network() == Network::Ip6);
    six.reverse();
    rest.reverse();
    let mut ordered = Vec::new();
    while ordered.len() < ADDRESSES_PER_DIAL {
        let take_six = ordered.len() % 2 == 0 && !six.is_empty() || rest.is_empty();
        let Some(endpoint) = (if take_six { six.pop() } else { rest.pop() }) else { break };
        let after = STAGGER * ordered.len() as u32;
        ordered.push(Attempt { endpoint, after });
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::endpoint;

    #[test]
    fn families_take_turns_and_ip6_begins() {
        let chosen = endpoint("1.2.3.4:1");
        let others = ["1.2.3.5:1", "[2a00::1]:1", "1.2.3.4:1", "[2a00::2]:1", "[2a00::3]:1"].map(endpoint);
        let ordered = order(&chosen, others);
        let expected = ["[2a00::1]:1", "1.2.3.4:1", "[2a00::2]:1", "1.2.3.5:1"].map(endpoint);
        assert_eq!(ordered.iter().map(|one| one.endpoint.clone()).collect::<Vec<_>>(), expected);
        assert_eq!(ordered[0].after, Duration::ZERO);
        assert_eq!(ordered[3].after, 3 * STAGGER);
        assert_eq!(order(&chosen, []).len(), 1);
    }
}
