//! Export and import as JSON: for backups, for a look inside, and to give a new node a start.

use bytes::Bytes;
use ghost_proto::{Multiaddr, PeerId, PeerRecord, record::key_of};
use serde::{Deserialize, Serialize};

use super::Saved;
use crate::{
    address::{self, peer_id},
    book::{Key, Row},
    conduct::Story,
    dial::{ANCHORS_MAX, Anchor},
    netgroup::NetGroup,
};

/// The version of the JSON.
pub(super) const EXPORT_VERSION: u32 = 1;

/// Why a file can't be imported. Nothing of it was taken.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Not JSON, or not this shape.
    #[error("not an export of a peer store: {0}")]
    Json(#[from] serde_json::Error),
    /// Of another version.
    #[error("the export has version {0}, this program reads version {EXPORT_VERSION}")]
    Version(u32),
    /// One thing in it makes no sense.
    #[error("{what} number {index} can't be read: {reason}")]
    Invalid {
        /// Which list.
        what: &'static str,
        /// Where in it, from 0.
        index: usize,
        /// What is wrong.
        reason: String,
    },
}

/// A peer store as JSON. The secret of the book is not in it: whoever imports it has its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// 1.
    pub version: u32,
    /// The address book.
    pub addresses: Vec<ExportedAddress>,
    /// Anchors.
    pub anchors: Vec<ExportedAnchor>,
    /// Conduct and bans.
    pub conduct: Vec<ExportedStory>,
}

/// One entry of the book. Times are Unix seconds, 0 = never.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportedAddress {
    /// Multiaddr with the PeerId.
    pub address: String,
    /// A handshake proved it.
    pub tried: bool,
    /// Netgroup of the source, in hex.
    pub source: String,
    /// Last said or seen to be there.
    pub last_seen_s: u32,
    /// Last dialled.
    pub last_try_s: u32,
    /// Last reached.
    pub last_success_s: u32,
    /// Failures since.
    pub attempts: u16,
    /// Stream types it serves.
    pub stream_types: u64,
    /// Its signed record, in hex, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
}

/// One anchor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportedAnchor {
    /// Multiaddr with the PeerId.
    pub address: String,
    /// It was block-only.
    pub block_only: bool,
}

/// One peer's conduct.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportedStory {
    /// PeerId.
    pub peer: String,
    /// Its story.
    pub story: Story,
}

impl Export {
    /// What is saved, ready to be written as JSON.
    pub fn of(saved: &Saved) -> Self {
        Self {
            version: EXPORT_VERSION,
            addresses: saved.rows.iter().map(ExportedAddress::of).collect(),
            anchors: saved
                .anchors
                .iter()
                .map(|anchor| ExportedAnchor {
                    address: anchor.endpoint.with_peer(anchor.peer).to_string(),
                    block_only: anchor.block_only,
                })
                .collect(),
            conduct: saved
                .stories
                .iter()
                .map(|(peer, story)| ExportedStory { peer: peer.to_string(), story: story.clone() })
                .collect(),
        }
    }

    /// As JSON text.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("an export is plain data")
    }

    /// Reads JSON and checks everything in it: addresses, PeerIds, and the signatures of records. The result has
    /// no secret and no slots; the book places every entry anew.
    ///
    /// # Errors
    /// [`ExportError`] names what is wrong and where.
    pub fn read(json: &str) -> Result<Saved, ExportError> {
        let export: Self = serde_json::from_str(json)?;
        if export.version != EXPORT_VERSION {
            return Err(ExportError::Version(export.version));
        }
        let invalid = |what, index| move |reason: String| ExportError::Invalid { what, index, reason };
        let mut saved = Saved::default();
        for (index, one) in export.addresses.iter().enumerate() {
            saved.rows.push(one.row().map_err(invalid("address", index))?);
        }
        for (index, one) in export.anchors.iter().enumerate().take(ANCHORS_MAX) {
            let (peer, endpoint) = place(&one.address).map_err(invalid("anchor", index))?;
            saved.anchors.push(Anchor { peer, endpoint, block_only: one.block_only });
        }
        for (index, one) in export.conduct.into_iter().enumerate() {
            let peer: PeerId = one
                .peer
                .parse()
                .map_err(|_| invalid("conduct", index)(format!("{:?} is no PeerId", one.peer)))?;
            saved.stories.push((peer, one.story));
        }
        Ok(saved)
    }
}

impl ExportedAddress {
    fn of(row: &Row) -> Self {
        Self {
            address: row.key.endpoint.with_peer(peer_id(&row.key.peer)).to_string(),
            tried: row.tried,
            source: hex(row.source.as_bytes()),
            last_seen_s: row.last_seen_s,
            last_try_s: row.last_try_s,
            last_success_s: row.last_success_s,
            attempts: row.attempts,
            stream_types: row.stream_types,
            record: row.record.as_deref().map(hex),
        }
    }

    fn row(&self) -> Result<Row, String> {
        let (peer, endpoint) = place(&self.address)?;
        let key = key_of(&peer).ok_or("the PeerId holds no ed25519 key")?;
        let source: [u8; 8] = unhex(&self.source)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or("`source` is not 16 hex digits")?;
        let record = match &self.record {
            None => None,
            Some(text) => {
                let bytes = Bytes::from(unhex(text).ok_or("`record` is not hex")?);
                let record = PeerRecord::verify(bytes).map_err(|error| error.to_string())?;
                if record.peer() != peer {
                    return Err("the record is about another peer".into());
                }
                Some(record)
            }
        };
        Ok(Row {
            key: Key { peer: key, endpoint },
            source: NetGroup(source),
            last_seen_s: self.last_seen_s,
            last_try_s: self.last_try_s,
            last_success_s: self.last_success_s,
            attempts: self.attempts,
            tried: self.tried,
            slots: Vec::new(),
            sequence: record.as_ref().map_or(0, PeerRecord::sequence),
            stream_types: self.stream_types,
            record: record.map(|record| record.bytes().clone()),
        })
    }
}

fn place(text: &str) -> Result<(PeerId, address::Endpoint), String> {
    let multiaddr: Multiaddr = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
    let (endpoint, peer) = address::parse(&multiaddr).map_err(|error| error.to_string())?;
    Ok((peer.ok_or_else(|| format!("{text:?} does not end in /p2p/PEERID"))?, endpoint))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}
