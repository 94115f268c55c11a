//! Peer records, address book, peer exchange, dialling policy, conduct and the persistent peer store.
//!
//! Everything here decides and nothing here acts: cores in virtual time, and a store. The node's shell
//! dials, accepts, sends and writes as [`overlay::Overlay`] says; its documentation gives the order
//! of calls. What the cores are:
//!
//! | module | told of | answers with |
//! | --- | --- | --- |
//! | [`book`] | who is said to be where, what dials found | whom to dial |
//! | [`record`] | records received | what of them to believe; our own record |
//! | [`exchange`] | questions, and whom we met | the answer of the day; whom to ask |
//! | [`dial`] | connections, failures, stale tips | dials and drops |
//! | [`inbound`], [`evict`] | first packets, peers that arrived | who gets in, and who goes for it |
//! | [`reach`] | where peers see us, dials back | whether we can be reached |
//! | [`lookup`] | whom we met, values to keep, answers | whom to ask next, what was found |
//! | [`meet`] | who wants to meet whom, packets | whether, and to whom to pass them |
//! | [`eclipse`] | stale tips, sources, tips | an alarm, with its reasons |
//! | [`conduct`] | offences and what else happened | bans, and each peer's story |
//! | [`store`] | batches of changes | what was kept |
//!
//! # Security
//! Provided: a source netgroup can fill 64 of 1,024 "new" buckets and nothing of "tried"; identities and
//! ports are free to mint and buy nothing; answers to peers do not add up to the book, and answers over
//! Tor and clearnet have nobody in common; inbound floods do not displace peers that are of use; after a
//! restart the first dials go to peers that no gossip chose.
//!
//! Not provided: defence against somebody who holds most of the netgroups that we know, or the whole
//! network around us; hiding from a peer that we dialled it; secrecy of the store on disk.

pub mod address;
pub mod book;
pub mod clock;
pub mod conduct;
pub mod dial;
pub mod eclipse;
pub mod evict;
pub mod exchange;
pub mod inbound;
pub mod lookup;
pub mod meet;
pub mod netgroup;
pub mod overlay;
pub mod prefix;
pub mod reach;
pub mod record;
pub mod store;
#[cfg(test)]
mod testing;
