//! The whole story of one peer.

use ghost_proto::PeerId;

use super::{ExplainedAddress, Explanation, Overlay};
use crate::{book::Row, clock::Now, dial::Kind, inbound::Refusal, netgroup::Source};

impl Overlay {
    /// Everything about one peer.
    pub fn explain(&self, peer: &PeerId, now: Now) -> Explanation {
        let address = |row: Row| {
            let endpoint = &row.key.endpoint;
            let paused = self.dialler.paused_until(peer, endpoint);
            ExplainedAddress {
                address: endpoint.to_string(),
                table: if row.tried { "tried" } else { "new" },
                source: row.source.to_string(),
                netgroup: self.book.policy().group(endpoint).to_string(),
                last_seen_s: row.last_seen_s,
                last_try_s: row.last_try_s,
                last_success_s: row.last_success_s,
                attempts: row.attempts,
                paused_s: paused.map_or(0, |until| until.saturating_duration_since(now.at).as_secs()),
                refused: {
                    let source = Source::Peer(endpoint.clone());
                    let discouraged = self.discouraged(&source, now);
                    self.inbound.refuses(&source, discouraged, now.at).map(Refusal::name)
                },
            }
        };
        let connected = self.sources.contains_key(peer);
        Explanation {
            peer: peer.to_string(),
            connection: connected.then(|| self.dialler.kind(peer).map_or("inbound", Kind::name)),
            is_static: self.dialler.is_static(peer),
            score: self.ledger.score(peer, now.unix_ms),
            ban: self.ledger.banned(peer, now.unix_ms).cloned(),
            refused_as: {
                let banned = self.ledger.banned(peer, now.unix_ms).is_some();
                self.inbound.refuses_peer(peer, banned, self.dialler.is_static(peer)).map(Refusal::name)
            },
            addresses: self.book.rows_of(peer).into_iter().map(address).collect(),
            story: self.ledger.story(peer).cloned(),
        }
    }
}
