//! The keys, the accounts and the chain of a test network: the same for the same seed, every time.

use std::path::Path;

use crate::orders;
use ghost_node::{
    cli::{output::Failure, tx::send::Sender},
    config::commented_file,
    home::{Contents, Home},
};
use ghost_proto::{AuthoritySet, Genesis, KeyPair};
use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng, SeedableRng},
};

/// The seed when none is given.
pub const SEED_DEFAULT: u64 = 7;

/// Most nodes of a network: a node takes some 30 MiB and a few descriptors, so 64 of them 2 GiB.
pub const NODES_MAX: u16 = 64;

/// Most authorities. Every block brings a vote from each, and every vote goes to everybody: 16
/// authorities among 16 nodes make 240 votes a slot to send and check, 64 would make 4,032. Nodes
/// beyond it follow, relay and take traffic like any other.
pub const AUTHORITIES_MAX: u16 = 16;

/// What each account owns at first, in base units.
pub const BALANCE: u128 = 1_000_000_000_000_000_000;

/// Gas of a block: 4,761 plain transfers, or 6 MiB of payload.
pub const BLOCK_GAS_MAX: u64 = 100_000_000;

/// Body bytes of a block.
pub const BLOCK_BYTES_MAX: u64 = 4 << 20;

/// Id of every test chain.
pub const CHAIN_ID: u64 = 77_777;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A node's identity.
    Node,
    /// A node's operator.
    Operator,
    /// Proposing and voting.
    Authority,
    /// An account with money.
    Account,
    /// A client connection of ours.
    Client,
    /// Reporting prices.
    Publisher,
    /// An account that trades.
    Trader,
}

/// The key for a purpose: ChaCha12 from the seed, one stream for each purpose and index.
pub fn key(seed: u64, purpose: Purpose, index: u32) -> KeyPair {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream((purpose as u64) << 32 | u64::from(index));
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    KeyPair::from_seed(&bytes)
}

/// What a network is made of.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Decides every key.
    pub seed: u64,
    /// How many nodes.
    pub nodes: u16,
    /// How many accounts with money.
    pub accounts: u32,
    /// Slot length in milliseconds.
    pub slot_ms: u64,
    /// Authorities that no node is: their keys follow those of the nodes.
    pub spare_authorities: u16,
    /// How many publishers of prices; without any, the chain has no feeds.
    pub publishers: u16,
}

impl Plan {
    /// How many of the nodes propose and vote.
    pub fn authorities(&self) -> u16 {
        self.nodes.min(AUTHORITIES_MAX)
    }

    /// The chain, beginning at a time.
    pub fn genesis(&self, time_unix_ms: u64) -> Result<Genesis, Failure> {
        let authorities = (0..self.authorities() + self.spare_authorities)
            .map(|n| key(self.seed, Purpose::Authority, n.into()).public())
            .collect();
        let genesis = Genesis {
            name: format!("testnet-{}", self.seed),
            chain_id: CHAIN_ID,
            time_unix_ms,
            slot_ms: self.slot_ms,
            gas_price_min: 1,
            block_gas_max: BLOCK_GAS_MAX,
            block_bytes_max: BLOCK_BYTES_MAX,
            authorities: AuthoritySet::new(authorities)?,
            markets: orders::markets(self.seed),
            allocation: (0..self.accounts)
                .map(|n| key(self.seed, Purpose::Account, n))
                .chain((0..orders::TRADERS).map(|n| orders::trader(self.seed, n)))
                .map(|key| (key.address(), BALANCE))
                .collect(),
            feeds: crate::prices::feeds(self.seed, self.publishers),
        };
        Ok(Genesis::from_toml(&genesis.to_toml())?)
    }

    /// Makes the home of a node. It listens on a port that the system picks.
    pub fn make_home(&self, root: &Path, index: u16, genesis: &Genesis) -> Result<Home, Failure> {
        let authority = index < self.authorities();
        let mut config = vec![("network.listen", "[\"/ip4/127.0.0.1/udp/0/quic-v1\"]".to_owned())];
        if authority {
            config.push(("chain.role", "\"authority\"".into()));
        }
        let contents = Contents {
            config: commented_file(&config),
            genesis: genesis.to_toml(),
            node_key: key(self.seed, Purpose::Node, index.into()),
            operator_key: key(self.seed, Purpose::Operator, index.into()),
            authority_key: authority.then(|| key(self.seed, Purpose::Authority, index.into())),
            accounts: Vec::new(),
        };
        Ok(Home::create(root, &contents)?)
    }

    /// The accounts, ready to sign.
    pub fn senders(&self) -> Vec<Sender> {
        (0..self.accounts)
            .map(|n| Sender {
                key: key(self.seed, Purpose::Account, n),
                chain_id: CHAIN_ID,
                gas_price: 1,
                nonce: 0,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const PURPOSES: [Purpose; 5] =
        [Purpose::Node, Purpose::Operator, Purpose::Authority, Purpose::Account, Purpose::Client];

    #[test]
    fn one_seed_gives_the_same_keys_and_no_two_keys_are_alike() {
        let all = |seed| -> Vec<_> {
            PURPOSES
                .iter()
                .flat_map(|p| (0..50).map(|n| key(seed, *p, n).public()).collect::<Vec<_>>())
                .collect()
        };
        assert_eq!(all(1), all(1));
        let distinct: HashSet<_> = all(1).into_iter().chain(all(2)).collect();
        assert_eq!(distinct.len(), 2 * 5 * 50);
    }

    #[test]
    fn authorities_are_capped_and_every_account_has_money() {
        for (nodes, authorities) in [(1, 1), (4, 4), (16, 16), (17, 16), (64, 16)] {
            let plan =
                Plan { seed: 1, nodes, accounts: 3, slot_ms: 1_000, spare_authorities: 0, publishers: 0 };
            let genesis = plan.genesis(1_000_000).unwrap();
            assert_eq!(genesis.authorities.len(), authorities);
            for sender in plan.senders() {
                assert_eq!(genesis.allocation[&sender.key.address()], BALANCE);
            }
        }
    }

    #[test]
    fn a_home_of_the_network_is_one_the_node_can_use() {
        let dir = tempfile::tempdir().unwrap();
        let plan =
            Plan { seed: 1, nodes: 17, accounts: 1, slot_ms: 500, spare_authorities: 0, publishers: 0 };
        let genesis = plan.genesis(1_000_000).unwrap();
        let first = plan.make_home(&dir.path().join("0"), 0, &genesis).unwrap();
        let last = plan.make_home(&dir.path().join("16"), 16, &genesis).unwrap();
        assert_eq!(first.genesis().unwrap().id(), genesis.id());
        let config = |home: &Home| {
            ghost_node::config::Layers::new().file(&home.config_path()).unwrap().finish().unwrap()
        };
        assert_eq!(config(&first).chain.role, ghost_node::config::Role::Authority);
        assert_eq!(config(&last).chain.role, ghost_node::config::Role::Follower);
        assert_eq!(config(&last).network.listen.len(), 1);
    }
}
