//! Peer records, address book, peer exchange, dialling policy and the persistent peer store.
