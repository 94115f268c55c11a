//! Adversaries against real processes: `testnet up --adversary ROLE=N`.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, sync::atomic::Ordering};

use ghost_node::{cli::output::Failure, clock::Clock, doctor::socket_of};
use ghost_protocol::{Identity, transport::quic::Socket};

use super::network::Network;
use crate::{
    adversary::{Adversary, Arena, Role},
    genesis::{Purpose, key},
    prices::publisher_key,
};

/// Most adversaries of one kind: each is a socket and a connection to every node.
pub const COUNT_MAX: u16 = 64;

/// Most equivocators: each is an authority that no node is.
pub const EQUIVOCATORS_MAX: u16 = 4;

/// So many of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// What they do.
    pub role: Role,
    /// How many.
    pub count: u16,
}

/// Reads `eclipser=3`, or `liar` for one.
pub fn parse(text: &str) -> Result<Asked, String> {
    let (name, count) = text.split_once('=').unwrap_or((text, "1"));
    let role = Role::ALL.into_iter().find(|role| role.name() == name).ok_or_else(|| {
        let names: Vec<&str> = Role::ALL.iter().map(|role| role.name()).collect();
        format!("there is no {name}; there are {}", names.join(", "))
    })?;
    let most = if role.is_authority() { EQUIVOCATORS_MAX } else { COUNT_MAX };
    match count.parse() {
        Ok(count) if (1..=most).contains(&count) => Ok(Asked { role, count }),
        _ => Err(format!("write a number from 1 to {most} behind {name}=")),
    }
}

/// How many authorities have to be set aside for them.
pub fn authorities(asked: &[Asked]) -> u16 {
    asked.iter().filter(|asked| asked.role.is_authority()).map(|asked| asked.count).sum()
}

/// How many publishers have to be set aside for them: all price equivocators of a network are one.
pub fn publishers(asked: &[Asked]) -> u16 {
    asked.iter().any(|asked| asked.role.is_publisher()).into()
}

/// Starts one against all nodes that listen. `number` tells it from all others; an authority is the
/// spare one of number `spare`.
pub fn start(network: &Network, role: Role, number: u32, spare: u16) -> Result<Adversary, Failure> {
    let (plan, genesis) = (network.plan(), network.genesis());
    let authority = match role.is_authority() {
        true if spare >= plan.spare_authorities => {
            return Err(Failure::usage("every authority is a node; an equivocator needs one of its own"));
        }
        true => {
            let index = plan.authorities() + spare;
            Some((index, key(plan.seed, Purpose::Authority, index.into())))
        }
        false => None,
    };
    let targets = network.nodes().iter().filter(|node| node.pid().is_some());
    let targets = targets.filter_map(|node| Some((node.peer_id, socket_of(node.addresses.first()?)?)));
    let arena = Arena {
        genesis: Arc::new(genesis.clone()),
        targets: targets.collect(),
        authority,
        publisher: role.is_publisher().then(|| {
            let last = plan.publishers.saturating_sub(1);
            (last, publisher_key(plan.seed, last))
        }),
        clock: Clock::System,
    };
    // Clients have the lower numbers.
    let key = key(plan.seed, Purpose::Client, u32::MAX / 2 + number);
    let socket = Socket::Bind((Ipv4Addr::LOCALHOST, 0).into());
    Ok(Adversary::start(role, Identity::from_seed(&key.seed()), socket, *key.seed(), arena)?)
}

/// Starts all that were asked for.
pub fn start_all(network: &Network, asked: &[Asked]) -> Result<Vec<Adversary>, Failure> {
    let (mut hostile, mut spare) = (Vec::new(), 0);
    for asked in asked {
        for _ in 0..asked.count {
            hostile.push(start(network, asked.role, hostile.len() as u32, spare)?);
            spare += u16::from(asked.role.is_authority());
        }
    }
    Ok(hostile)
}

/// What they did, a line for each role.
pub fn deeds(hostile: &[Adversary]) -> Vec<String> {
    let mut roles: BTreeMap<Role, (u32, u64, u64)> = BTreeMap::new();
    for one in hostile {
        let sum = roles.entry(one.role).or_default();
        sum.0 += 1;
        sum.1 += one.deeds.sessions.load(Ordering::Relaxed);
        sum.2 += one.deeds.done.load(Ordering::Relaxed);
    }
    let line = |(role, (count, sessions, done)): (&Role, &(u32, u64, u64))| {
        format!("{count} {}: {sessions} sessions, {done} misdeeds", role.name())
    };
    roles.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_asked_for_by_name_and_number() {
        assert_eq!(parse("liar"), Ok(Asked { role: Role::Liar, count: 1 }));
        assert_eq!(parse("slow-reader=64"), Ok(Asked { role: Role::SlowReader, count: 64 }));
        assert!(parse("liar=65").unwrap_err().contains("1 to 64"));
        assert!(parse("equivocator=5").unwrap_err().contains("1 to 4"));
        assert!(parse("thief").unwrap_err().contains("slow-writer"));
        assert!(parse("liar=").is_err() && parse("liar=0").is_err());
        let asked = [parse("equivocator=2"), parse("liar"), parse("equivocator")].map(Result::unwrap);
        assert_eq!(authorities(&asked), 3);
    }
}
