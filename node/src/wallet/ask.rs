//! What a wallet can be asked, by the command line in this process or another.

use ghost_proto::Address;
use serde::{Deserialize, Serialize};

/// One question. Peers are named by key, or `KEY@MULTIADDR` where their presence is not known yet; ids are hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is a command of `ghostd wallet`, whose help says what it does")]
pub enum Ask {
    Status,
    Open {
        peer: String,
        invitation: Option<String>,
    },
    Close {
        peer: String,
    },
    Invite,
    Uninvite,
    Say {
        peer: String,
        text: String,
    },
    File {
        peer: String,
        path: String,
    },
    Request {
        peer: String,
        value: String,
        memo: String,
    },
    Pay {
        request: String,
        memo: String,
    },
    Send {
        to: Address,
        value: String,
    },
    Channels,
    Requests,
    Payments,
    Files,
    Groups,
    History {
        after: u64,
        limit: u64,
    },
    GroupNew {
        label: String,
        threshold: u16,
        members: Vec<String>,
    },
    GroupJoin {
        group: String,
    },
    GroupPropose {
        group: String,
        to: Address,
        value: String,
    },
    GroupApprove {
        group: String,
        proposal: String,
    },
    /// Answered when nothing is on its way to a mailbox any more.
    Settle,
}
