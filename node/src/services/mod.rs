//! The node's tasks: one thin file for each thing it serves.
//!
//! | task | owns | hears from | tells |
//! | --- | --- | --- | --- |
//! | [`chain`] | chain, block relay and sync | block push, consensus, slots | everyone: the new head |
//! | [`transactions`] | transaction relay | transaction push and fetch, submissions, new heads | peers |
//! | [`peers`] | whom to be connected to | sessions that come and go, conduct, the operator | chain and transactions: peers |
//! | [`serve`] | nothing | block fetch, sync | reads the store |
//! | [`wallet`] | mailboxes | wallets, and peers that look for one | who collects |
//! | [`tor`] | the way to Tor | streams that come through it | the overlay: streams |
//! | [`books`] | what followers of markets see | new heads, subscriptions | subscribers |
//! | [`oracle`] | the oracle's core | reports from peers and publishers | peers; everyone: the prices |
//! | [`rpc`], [`events`], [`prices`] | nothing | remote calls, subscriptions | transactions: submissions; oracle: reports |
//!
//! [`contracts`] answers the calls about contracts for [`rpc`], on the threads of [`execution`].
//!
//! Values go one way: a transport's bytes become frames, frames go by stream type to one of these
//! tasks, the task changes its core, and the core's effects go back to sessions.

pub(crate) mod books;
pub(crate) mod chain;
pub(crate) mod conduct;
pub(crate) mod contracts;
pub(crate) mod events;
pub(crate) mod execution;
pub(crate) mod follow;
pub(crate) mod hidden;
pub(crate) mod markets;
pub(crate) mod oracle;
pub(crate) mod peers;
pub(crate) mod prices;
pub(crate) mod requests;
pub(crate) mod rpc;
pub(crate) mod serve;
pub(crate) mod submission;
pub(crate) mod tor;
pub(crate) mod transactions;
pub(crate) mod underway;
pub(crate) mod wallet;
