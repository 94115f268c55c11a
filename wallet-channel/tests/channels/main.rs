//! Channels between wallets over mailboxes, all in virtual time.

mod groups;
mod hostile;
mod payments;
mod survival;
mod vectors;
mod world;
