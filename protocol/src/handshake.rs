//! Hello: what each side says first, and what it is checked for.
//!
//! Checks run in this order, and the first that fails names the close code:
//!
//! | check | code |
//! | --- | --- |
//! | fields within their bounds, record signed by this very peer | malformed |
//! | same genesis (a client may leave it open) | wrong genesis |
//! | a protocol version in common | no common version |
//! | nonce is not our own | self dial |
//! | no required feature that we lack | protocol violation |

use bytes::Bytes;
use ghost_frames::{Code, StreamType};
use ghost_proto::{
    BlockId, GenesisId, Multiaddr, PeerId, PeerRecord,
    limits::{HELLO_STREAM_TYPES_MAX, HELLO_VERSIONS_MAX, MULTIADDR_BYTES_MAX, USER_AGENT_BYTES_MAX},
    message,
};

/// The protocol version this code speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// Size of the salt for short transaction ids.
pub const TX_SALT_LEN: usize = 16;

/// Whether a peer relays or only asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Relays and serves.
    Node,
    /// Only asks; nothing is pushed to it unasked.
    Client,
}

/// A set of stream types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamSet(u64);

impl StreamSet {
    /// The set of these types.
    pub fn of(types: &[StreamType]) -> Self {
        types.iter().fold(Self(0), |set, stream| set.with(*stream))
    }

    /// With one more.
    pub fn with(self, stream: StreamType) -> Self {
        Self(self.0 | 1 << stream.number())
    }

    /// Without one of them.
    pub fn without(self, stream: StreamType) -> Self {
        Self(self.0 & !(1 << stream.number()))
    }

    /// True if the type is in it.
    pub fn contains(self, stream: StreamType) -> bool {
        self.0 & 1 << stream.number() != 0
    }

    /// As bits: bit *n* for type *n*.
    pub fn bits(self) -> u64 {
        self.0
    }

    fn numbers(self) -> Vec<u32> {
        (0..64).filter(|number| self.0 & 1 << number != 0).collect()
    }
}

/// What we say of ourselves.
#[derive(Debug, Clone)]
pub struct LocalHello {
    /// Our chain; `None` for a client that takes any.
    pub genesis: Option<GenesisId>,
    /// What we serve.
    pub serves: StreamSet,
    /// e.g. `ghostd/0.1.0`.
    pub user_agent: String,
    /// Where we listen, signed.
    pub record: Option<Bytes>,
    /// Height and id of our best block.
    pub best: (u64, BlockId),
    /// Height of our highest final block.
    pub finalized_height: u64,
    /// Random per process.
    pub nonce: u64,
    /// Whether we relay.
    pub role: Role,
    /// Announcements to us are hashed under it.
    pub tx_salt: Option<[u8; TX_SALT_LEN]>,
}

impl LocalHello {
    /// The message to one peer. `observed` is the address we see it at.
    pub fn message(&self, observed: Option<&Multiaddr>) -> message::Hello {
        message::Hello {
            genesis: self.genesis.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.0)),
            versions: vec![PROTOCOL_VERSION],
            stream_types: self.serves.numbers(),
            user_agent: self.user_agent.clone(),
            record: self.record.clone().unwrap_or_default(),
            best_height: self.best.0,
            best_block: Bytes::copy_from_slice(&self.best.1.0),
            nonce: self.nonce,
            role: match self.role {
                Role::Node => message::Role::Node,
                Role::Client => message::Role::Client,
            }
            .into(),
            observed: observed.map_or_else(Bytes::new, |address| address.to_vec().into()),
            required: Vec::new(),
            finalized_height: self.finalized_height,
            tx_salt: self.tx_salt.map_or_else(Bytes::new, |salt| Bytes::copy_from_slice(&salt)),
        }
    }
}

/// What a peer said of itself, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerHello {
    /// The chain it is of; only a client may be of none.
    pub genesis: Option<GenesisId>,
    /// What it serves. Types we do not know are left out.
    pub serves: StreamSet,
    /// Printable ASCII.
    pub user_agent: String,
    /// Where it listens, if it does; signed by the peer itself.
    pub record: Option<PeerRecord>,
    /// Height and id of its best block, as claimed.
    pub best: (u64, BlockId),
    /// Height of its highest final block, as claimed.
    pub finalized_height: u64,
    /// Whether it relays.
    pub role: Role,
    /// Which process of the peer this is: another nonce is another process, and the earlier is gone.
    pub nonce: u64,
    /// The address it sees us at, as claimed.
    pub observed: Option<Multiaddr>,
    /// Announcements to it are hashed under this.
    pub tx_salt: Option<[u8; TX_SALT_LEN]>,
}

/// Why a hello is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// A field is out of bounds or means nothing.
    #[error("hello `{0}` is out of bounds or malformed")]
    Malformed(&'static str),
    /// The peer is of another chain.
    #[error("the peer is of another chain, genesis {0}")]
    WrongGenesis(GenesisId),
    /// No protocol version in common.
    #[error("no protocol version in common: the peer speaks {0:?}, we speak 1")]
    NoCommonVersion(Vec<u32>),
    /// We reached ourselves.
    #[error("the connection leads back to this node")]
    SelfDial,
    /// The peer requires a feature that we lack.
    #[error("the peer requires feature {0}, which this node lacks")]
    Required(u32),
}

impl HelloError {
    /// The code to close with.
    pub fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::Malformed,
            Self::WrongGenesis(_) => Code::WrongGenesis,
            Self::NoCommonVersion(_) => Code::NoCommonVersion,
            Self::SelfDial => Code::SelfDial,
            Self::Required(_) => Code::ProtocolViolation,
        }
    }
}

/// Checks what `peer` said against what we are.
pub fn check(local: &LocalHello, peer: &PeerId, hello: message::Hello) -> Result<PeerHello, HelloError> {
    use HelloError::Malformed;

    let role = match message::Role::try_from(hello.role) {
        Ok(message::Role::Node) => Role::Node,
        Ok(message::Role::Client) => Role::Client,
        Err(_) => return Err(Malformed("role")),
    };
    let genesis = match hello.genesis.len() {
        0 if role == Role::Client => None,
        _ => Some(GenesisId::try_from(hello.genesis.as_ref()).map_err(|_| Malformed("genesis"))?),
    };
    if hello.versions.len() > HELLO_VERSIONS_MAX {
        return Err(Malformed("versions"));
    }
    if hello.stream_types.len() > HELLO_STREAM_TYPES_MAX {
        return Err(Malformed("stream_types"));
    }
    let agent_ok = hello.user_agent.len() <= USER_AGENT_BYTES_MAX
        && hello.user_agent.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if !agent_ok {
        return Err(Malformed("user_agent"));
    }
    if hello.required.len() > HELLO_VERSIONS_MAX {
        return Err(Malformed("required"));
    }
    let record = match hello.record.len() {
        0 => None,
        _ => {
            let record = PeerRecord::verify(hello.record).map_err(|_| Malformed("record"))?;
            if record.peer() != *peer {
                return Err(Malformed("record"));
            }
            Some(record)
        }
    };
    let best_block = BlockId::try_from(hello.best_block.as_ref()).map_err(|_| Malformed("best_block"))?;
    let observed = match hello.observed.len() {
        0 => None,
        1..=MULTIADDR_BYTES_MAX => {
            Some(Multiaddr::try_from(hello.observed.to_vec()).map_err(|_| Malformed("observed"))?)
        }
        _ => return Err(Malformed("observed")),
    };
    let tx_salt = match hello.tx_salt.len() {
        0 if role == Role::Client => None,
        _ => Some(hello.tx_salt.as_ref().try_into().map_err(|_| Malformed("tx_salt"))?),
    };

    if let (Some(ours), Some(theirs)) = (local.genesis, genesis)
        && ours != theirs
    {
        return Err(HelloError::WrongGenesis(theirs));
    }
    if !hello.versions.contains(&PROTOCOL_VERSION) {
        return Err(HelloError::NoCommonVersion(hello.versions));
    }
    if hello.nonce == local.nonce {
        return Err(HelloError::SelfDial);
    }
    if let Some(feature) = hello.required.first() {
        return Err(HelloError::Required(*feature));
    }

    let serves = hello
        .stream_types
        .iter()
        .filter_map(|number| StreamType::from_number(u64::from(*number)))
        .fold(StreamSet::default(), StreamSet::with);
    Ok(PeerHello {
        genesis,
        serves,
        user_agent: hello.user_agent,
        record,
        best: (hello.best_height, best_block),
        finalized_height: hello.finalized_height,
        role,
        nonce: hello.nonce,
        observed,
        tx_salt,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn local(nonce: u64) -> LocalHello {
        LocalHello {
            genesis: Some(GenesisId([1; 32])),
            serves: StreamSet::of(&[StreamType::Rpc, StreamType::Control]),
            user_agent: "ghostd/test".into(),
            record: None,
            best: (3, BlockId([3; 32])),
            finalized_height: 2,
            nonce,
            role: Role::Node,
            tx_salt: Some([7; 16]),
        }
    }

    #[test]
    fn an_honest_hello_passes_and_every_flaw_has_its_code() {
        let peer = Identity::from_seed(&[1; 32]);
        let us = local(1);
        let verdict = |hello: message::Hello| check(&us, &peer.peer_id(), hello);
        let honest = || local(2).message(None);
        let accepted = verdict(honest()).unwrap();
        assert!(accepted.serves.contains(StreamType::Rpc));
        assert!(!accepted.serves.contains(StreamType::Sync));

        type Flaw = fn(&mut message::Hello);
        let flaws: [(&str, Code, Flaw); 11] = [
            ("genesis length", Code::Malformed, |h| h.genesis.truncate(31)),
            ("other genesis", Code::WrongGenesis, |h| h.genesis = vec![2; 32].into()),
            ("no genesis from a node", Code::Malformed, |h| h.genesis.clear()),
            ("version", Code::NoCommonVersion, |h| h.versions = vec![2, 3]),
            ("too many versions", Code::Malformed, |h| h.versions = vec![1; 17]),
            ("own nonce", Code::SelfDial, |h| h.nonce = 1),
            ("feature", Code::ProtocolViolation, |h| h.required = vec![9]),
            ("agent", Code::Malformed, |h| h.user_agent = "a\n".into()),
            ("salt", Code::Malformed, |h| h.tx_salt = vec![0; 15].into()),
            ("role", Code::Malformed, |h| h.role = 9),
            ("record", Code::Malformed, |h| h.record = vec![1, 2, 3].into()),
        ];
        for (name, code, flaw) in flaws {
            let mut hello = honest();
            flaw(&mut hello);
            assert_eq!(verdict(hello).unwrap_err().code(), code, "{name}");
        }
    }

    #[test]
    fn a_record_about_somebody_else_is_refused() {
        let (peer, other) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
        let record = |identity: &Identity| {
            PeerRecord::sign(identity.key(), Vec::new(), 0, 1, 0).unwrap().bytes().clone()
        };
        let mut hello = local(2).message(None);
        hello.record = record(&peer);
        assert!(check(&local(1), &peer.peer_id(), hello.clone()).is_ok());
        hello.record = record(&other);
        assert_eq!(check(&local(1), &peer.peer_id(), hello), Err(HelloError::Malformed("record")));
    }
}
