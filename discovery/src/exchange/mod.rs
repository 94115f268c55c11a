//! Peer exchange: what we answer to "whom do you know?", and whom we ask.

pub mod answer;
pub mod ask;

pub use answer::{Answer, Answers, AnswersConfig};
pub use ask::{Asking, AskingConfig};
