//! Seeds found by name: TXT records that hold multiaddrs.
//!
//! A and AAAA records would say where to go and not whom to expect there, and a node that dials whoever
//! answers lets whoever answers choose its network. So a seed is a name whose TXT records read
//! `dnsaddr=/ip4/…/udp/…/quic-v1/p2p/12D3KooW…`, under `_dnsaddr.` and the name (libp2p's dnsaddr). tokio
//! and libc look up addresses only; hence a resolver library.
//!
//! # What it reveals
//! To the resolver, and to whoever sees its traffic, that somebody here starts a node of this chain. Answers
//! are not authenticated: whoever forges them chooses whom we hear of first. So names are asked
//! only when none of the peers we know could be reached for a while, their answers go into the address book
//! as one source, and nothing is asked unless names are configured.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use ghost_discovery::{address::Endpoint, overlay::Input};
use ghost_proto::{Multiaddr, PeerId};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::RData,
};
use tokio::time::{Instant, timeout};

use super::{Report, Running, setup::static_peer};

/// So long a node tries the peers it knows before names are asked: 11 s, as Bitcoin Core.
const KNOWN_FIRST: Duration = Duration::from_secs(11);

/// Names are asked again after so long, if there is still nobody.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// Time a name has to answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Records taken from one name.
const RECORDS_MAX: usize = 64;

/// When to ask names.
#[derive(Debug, Default)]
pub(super) struct NameSeeds {
    alone_since: Option<Instant>,
    asked: Option<Instant>,
}

impl NameSeeds {
    /// Whether to ask now. `knows_nobody`: neither the book nor the operator names anyone to try first.
    fn due(&mut self, alone: bool, knows_nobody: bool, now: Instant) -> bool {
        if !alone {
            self.alone_since = None;
            return false;
        }
        let since = *self.alone_since.get_or_insert(now);
        let waited = knows_nobody || now.saturating_duration_since(since) >= KNOWN_FIRST;
        let due = waited && self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= ASK_AGAIN);
        if due {
            self.asked = Some(now);
        }
        due
    }
}

impl Running {
    /// Asks the configured names if nobody else can be found.
    pub(super) fn ask_names(&mut self) {
        // # Security: behind Tor alone no name is looked up, whatever else is set.
        if self.service.dns_seeds.is_empty() || self.service.tor_only {
            return;
        }
        let knows_nobody = {
            let discovery = self.service.book.lock();
            discovery.book().is_empty() && discovery.dialler().static_peers().is_empty()
        };
        if !self.name_seeds.due(self.up.is_empty(), knows_nobody, Instant::now()) {
            return;
        }
        for name in self.service.dns_seeds.clone() {
            let (report, server) = (self.report.clone(), self.service.dns_server);
            tokio::spawn(async move {
                let found = timeout(ANSWER_TIME, look_up(&name, server)).await;
                match found.unwrap_or_else(|_| Err("it does not answer".into())) {
                    Ok(seeds) => {
                        tracing::info!(name, seeds = seeds.len(), "looked up a seed");
                        // The task that asked ends only with the node.
                        let _ = report.send(Report::Seeds(seeds)).await;
                    }
                    Err(error) => tracing::warn!(name, error, "a seed cannot be looked up"),
                }
            });
        }
    }

    pub(super) fn seeds_found(&mut self, seeds: Vec<(PeerId, Endpoint)>) {
        self.input(Input::Seeds(seeds));
    }
}

async fn look_up(name: &str, server: Option<SocketAddr>) -> Result<Vec<(PeerId, Endpoint)>, String> {
    let builder = match server {
        None => TokioResolver::builder_tokio().map_err(|error| error.to_string())?,
        Some(server) => {
            let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            connections.iter_mut().for_each(|connection| connection.port = server.port());
            let server = NameServerConfig::new(server.ip(), true, connections.to_vec());
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let resolver = builder.build().map_err(|error| error.to_string())?;
    // Fully qualified: no search domain learns of it.
    let question = format!("_dnsaddr.{}.", name.trim_end_matches('.'));
    let answer = resolver.txt_lookup(question).await.map_err(|error| error.to_string())?;
    let texts = answer.answers().iter().filter_map(|record| match &record.data {
        RData::TXT(txt) => Some(txt.txt_data.concat()),
        _ => None,
    });
    Ok(seeds_in(texts))
}

/// The peers in TXT records; what is not one is left out.
fn seeds_in(texts: impl Iterator<Item = Vec<u8>>) -> Vec<(PeerId, Endpoint)> {
    let mut seen = BTreeSet::new();
    texts
        .take(RECORDS_MAX)
        .filter_map(|text| {
            let text = String::from_utf8(text).ok()?;
            let address: Multiaddr = text.strip_prefix("dnsaddr=")?.trim().parse().ok()?;
            let seed = static_peer(&address).ok()?;
            Some((seed.peer?, seed.endpoint))
        })
        .filter(|seed| seen.insert(seed.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::*;

    const PEER: &str = "12D3KooWGC6b4zqRu8WvfLmkKxqgLKhPSUexo7qsmwnPcNaKQdBq";

    #[test]
    fn names_are_asked_late_and_rarely_and_at_once_by_who_knows_nobody() {
        let start = Instant::now();
        let mut seeds = NameSeeds::default();
        assert!(!seeds.due(true, false, start));
        assert!(!seeds.due(true, false, start + KNOWN_FIRST - Duration::from_millis(1)));
        assert!(seeds.due(true, false, start + KNOWN_FIRST));
        assert!(!seeds.due(true, false, start + KNOWN_FIRST + ASK_AGAIN - Duration::from_millis(1)));
        assert!(seeds.due(true, false, start + KNOWN_FIRST + ASK_AGAIN));
        assert!(!NameSeeds::default().due(false, true, start));
        assert!(NameSeeds::default().due(true, true, start));
    }

    #[test]
    fn records_that_are_no_seed_are_left_out() {
        let good = format!("dnsaddr=/ip4/203.0.113.7/udp/4001/quic-v1/p2p/{PEER}");
        let texts = [
            good.as_str(),
            good.as_str(),
            "v=spf1 -all",
            "dnsaddr=/ip4/203.0.113.7/udp/4001/quic-v1",
            "dnsaddr=/ip4/203.0.113.7/tcp/1",
            "dnsaddr=",
        ];
        let found = seeds_in(texts.iter().map(|text| text.as_bytes().to_vec()));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0.to_string(), PEER);
        let many =
            (0..1000).map(|n| format!("dnsaddr=/ip4/1.2.3.4/udp/{}/quic-v1/p2p/{PEER}", n + 1).into_bytes());
        assert_eq!(seeds_in(many).len(), RECORDS_MAX);
    }

    /// Answers every question with one TXT record, as RFC 1035 §4 lays it out.
    async fn name_server(text: String) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
                let question_end = 12 + buffer[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
                let mut answer = buffer[..question_end].to_vec();
                // A response, recursion available, one question, one answer, nothing else.
                answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
                let (length, ttl) = (text.len() as u16 + 1, 60u32);
                answer.extend_from_slice(&[0xc0, 12, 0, 16, 0, 1]);
                answer.extend_from_slice(&ttl.to_be_bytes());
                answer.extend_from_slice(&length.to_be_bytes());
                answer.push(text.len() as u8);
                answer.extend_from_slice(text.as_bytes());
                let _ = socket.send_to(&answer, from).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn a_name_leads_to_peers_through_a_real_resolver() {
        let text = format!("dnsaddr=/ip4/203.0.113.7/udp/4001/quic-v1/p2p/{PEER}");
        let server = name_server(text).await;
        let found = look_up("seeds.example.org", Some(server)).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1.to_string(), "/ip4/203.0.113.7/udp/4001/quic-v1");
    }
}
