//! The role that breaks the promise of a publisher.

use std::time::Duration;

use ghost_frames::{Payload, StreamType, price::PriceReport};
use ghost_proto::{Report, price::ReportFields};
use tokio::time::sleep;

use super::Stage;

/// How often it lies.
const LIE_EVERY: Duration = Duration::from_millis(500);

/// Signs two prices for each sequence, and tells one half of the network the one and the other half the
/// other.
pub(super) async fn equivocate(stage: &Stage) {
    let Some((publisher, key)) = &stage.arena.publisher else { return };
    let genesis = stage.arena.genesis.id();
    loop {
        let now = stage.arena.clock.unix_ms();
        for feed in 0..stage.arena.genesis.feeds.len() as u16 {
            let frames = [1_000_000, 2_000_000].map(|price| {
                let fields = ReportFields {
                    feed,
                    publisher: *publisher,
                    sequence: now,
                    time_unix_ms: now,
                    price,
                    confidence: 1,
                };
                PriceReport(Report::sign(fields, &genesis, key)).to_frame()
            });
            for (n, session) in stage.sessions().iter().enumerate() {
                stage.push(session, StreamType::Oracle, &frames[n % 2]);
            }
        }
        sleep(LIE_EVERY).await;
    }
}
