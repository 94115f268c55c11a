//! `ghostd status`.

use std::{fmt::Write, process::ExitCode};

use ghost_proto::message;
use serde_json::{Map, Value, json};

use super::{
    Globals,
    connect::{ask, block_ref_json, block_ref_text, peer_text},
    output::{Failure, Out, bytes_for_people, count_for_people, duration_for_people},
};

pub(super) async fn run(globals: &Globals, out: &Out) -> Result<ExitCode, Failure> {
    let status = ask(globals, async |node| Ok(node.client.status().await?)).await?;
    out.answer(&to_json(&status), to_text(&status))
}

/// How many peers a status counts that are nodes.
pub(crate) fn node_peers(status: &message::Status) -> u32 {
    status.peers.iter().filter(|row| row.role == "node").map(|row| row.count).sum()
}

fn to_json(status: &message::Status) -> Value {
    let sync = status.sync.unwrap_or_default();
    let mempool = status.mempool.unwrap_or_default();
    let relay = status.relay.clone().unwrap_or_default();
    let peers: Vec<Value> = status
        .peers
        .iter()
        .map(|row| {
            json!({ "direction": row.direction, "network": row.network, "role": row.role, "count": row.count })
        })
        .collect();
    let refusals: Map<String, Value> =
        status.refusals.iter().map(|row| (row.name.clone(), row.count.into())).collect();
    json!({
        "version": status.version,
        "peer_id": peer_text(&status.peer),
        "chain": { "name": status.chain_name, "id": status.chain_id, "genesis": hex::encode(&status.genesis) },
        "head": block_ref_json(status.head.as_ref()),
        "finalized": block_ref_json(status.finalized.as_ref()),
        "sync": { "syncing": sync.syncing, "target_height": sync.target_height },
        "peers_total": node_peers(status),
        "peers": peers,
        "mempool": {
            "count": mempool.count, "bytes": mempool.bytes, "parked": mempool.parked,
            "gas_price_min": mempool.gas_price_min,
        },
        "relay": {
            "transactions": relay.transactions, "duplicates": relay.duplicates,
            "bytes_useful": relay.bytes_useful, "bytes_other": relay.bytes_other,
            "announce_to_have_us": relay.announce_to_have_us,
            "reconciliations": relay.reconciliations, "reconciliations_failed": relay.reconciliations_failed,
            "reconciliations_listed": relay.reconciliations_listed,
            "symbols": relay.symbols, "differences": relay.differences,
        },
        "included_total": status.included_total,
        "uptime_ms": status.uptime_ms,
        "listen": status.listen,
        "external_address": (!status.external_address.is_empty()).then_some(&status.external_address),
        "authority": status.authority,
        "rss_bytes": status.rss_bytes,
        "time_unix_ms": status.time_unix_ms,
        "slot_ms": status.slot_ms,
        "refusals": refusals,
        "reachability": {
            "state": status.reachability.as_ref().map_or("unknown", |reach| reach.state.as_str()),
            "detail": status.reachability.as_ref().map_or("", |reach| reach.detail.as_str()),
        },
        "alarms": status.alarms,
        "tor": status.tor.as_ref().map(|tor| json!({
            "mode": tor.mode, "ready": tor.ready, "percent": tor.percent, "detail": tor.detail,
            "onion": (!tor.onion.is_empty()).then_some(&tor.onion), "service": tor.service,
        })),
    })
}

fn to_text(status: &message::Status) -> String {
    let sync = status.sync.unwrap_or_default();
    let mempool = status.mempool.unwrap_or_default();
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<11} {value}");
    };
    line("node", format!("{} (ghostd {})", peer_text(&status.peer), status.version));
    line("chain", format!("{} (id {}, slots of {} ms)", status.chain_name, status.chain_id, status.slot_ms));
    line("head", block_ref_text(status.head.as_ref()));
    line("finalized", block_ref_text(status.finalized.as_ref()));
    let head = status.head.as_ref().map_or(0, |head| head.height);
    line(
        "sync",
        if sync.syncing {
            format!("catching up: {head} of {}", sync.target_height)
        } else {
            "in step".into()
        },
    );
    let peers: Vec<String> = status
        .peers
        .iter()
        .filter(|row| row.count > 0)
        .map(|row| format!("{} {} {} over {}", row.count, row.direction, row.role, row.network))
        .collect();
    line(
        "peers",
        format!(
            "{} ({})",
            node_peers(status),
            if peers.is_empty() { "none".into() } else { peers.join(", ") }
        ),
    );
    line(
        "mempool",
        format!(
            "{}, {} with what is kept beside them, {} parked; gas price from {}",
            count_for_people(mempool.count, "transaction"),
            bytes_for_people(mempool.bytes),
            mempool.parked,
            mempool.gas_price_min
        ),
    );
    let relay = status.relay.clone().unwrap_or_default();
    if relay.transactions + relay.duplicates > 0 {
        let copies = (relay.transactions + relay.duplicates) as f64 / relay.transactions.max(1) as f64;
        let all = (relay.bytes_useful + relay.bytes_other).max(1);
        let useful = 100.0 * relay.bytes_useful as f64 / all as f64;
        line(
            "relay",
            format!(
                "{} transactions from peers, {copies:.2} copies of each, {useful:.0} % of bytes useful",
                relay.transactions
            ),
        );
    }
    if relay.reconciliations + relay.reconciliations_failed > 0 {
        let symbols = match relay.differences {
            0 => "no differences".to_owned(),
            count => {
                format!("{:.2} symbols for each of {count} differences", relay.symbols as f64 / count as f64)
            }
        };
        line(
            "reconciled",
            format!(
                "{} times ({} by a list), {} in vain; {symbols}",
                relay.reconciliations, relay.reconciliations_listed, relay.reconciliations_failed
            ),
        );
    }
    line("included", count_for_people(status.included_total, "transaction"));
    line("role", status.authority.map_or("follower".into(), |index| format!("authority {index}")));
    line("uptime", duration_for_people(status.uptime_ms));
    line("memory", bytes_for_people(status.rss_bytes));
    for (index, address) in status.listen.iter().enumerate() {
        line(if index == 0 { "listens on" } else { "" }, address.clone());
    }
    if !status.external_address.is_empty() {
        line("seen at", status.external_address.clone());
    }
    if let Some(reach) = &status.reachability {
        line("reached", format!("{}: {}", reach.state, reach.detail));
    }
    if let Some(tor) = &status.tor {
        let ready = if tor.ready { "ready".to_owned() } else { format!("{} % there", tor.percent) };
        let service =
            if tor.service.is_empty() { String::new() } else { format!("; onion service {}", tor.service) };
        line("Tor", format!("{} ({}): {}{service}", ready, tor.mode, tor.detail));
    }
    for alarm in &status.alarms {
        line("ALARM", alarm.clone());
    }
    for (index, row) in status.refusals.iter().enumerate() {
        line(if index == 0 { "refusals" } else { "" }, format!("{} {}", row.count, row.name));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_not_counted_as_peers() {
        let row = |role: &str, count| message::PeerCount {
            direction: "inbound".into(),
            network: "ip4".into(),
            role: role.into(),
            count,
        };
        let status = message::Status {
            peers: vec![row("node", 2), row("client", 5), row("node", 1)],
            ..Default::default()
        };
        assert_eq!(node_peers(&status), 3);
        assert_eq!(to_json(&status)["peers_total"], 3);
    }

    #[test]
    fn an_empty_status_is_shown_without_a_panic() {
        let status = message::Status::default();
        assert!(to_text(&status).contains("head        none"));
        let value = to_json(&status);
        assert_eq!(value["head"], Value::Null);
        assert_eq!(value["authority"], Value::Null);
        assert_eq!(value["external_address"], Value::Null);
        for key in
            ["version", "chain", "sync", "peers", "mempool", "relay", "uptime_ms", "listen", "refusals"]
        {
            assert!(value.get(key).is_some(), "{key}");
        }
    }
}
