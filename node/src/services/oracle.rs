//! The one task that owns the oracle's core: reports come in from peers and publishers, and go out to peers
//! and subscribers.

use std::sync::Arc;

use bytes::Bytes;
use ghost_frames::{
    EncodedFrame, Frame, Payload, StreamType,
    price::{PriceEvidence, PriceReport},
};
use ghost_proto::{PeerId, Report, limits::PRICE_PUBLISH_REPORTS_MAX, message};
use ghost_protocol::{Overlay, inbox::Pushed};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    conduct::{Conduct, Offence},
    prices::PriceFeeds,
};
use crate::{
    clock::Clock,
    metrics::Metrics,
    oracle::relay::{Board, Effect, Oracle, Verdict},
};

/// What the task is told by the node.
#[derive(Debug)]
pub(crate) enum ToOracle {
    /// A publisher brings reports by a remote call.
    Publish {
        /// At most [`PRICE_PUBLISH_REPORTS_MAX`].
        reports: Vec<Report>,
        /// What became of each.
        done: oneshot::Sender<Vec<Verdict>>,
    },
}

/// What the task needs.
pub(crate) struct OracleService {
    pub(crate) oracle: Oracle,
    pub(crate) overlay: Overlay,
    pub(crate) clock: Clock,
    pub(crate) conduct: Conduct,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) pushes: mpsc::Receiver<Pushed>,
    pub(crate) commands: mpsc::Receiver<ToOracle>,
    pub(crate) board: watch::Sender<Board>,
    pub(crate) feeds: PriceFeeds,
}

impl OracleService {
    /// Runs until the node stops.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::select! {
                Some(pushed) = self.pushes.recv() => {
                    let peer = pushed.session.peer();
                    for frame in pushed.frames {
                        self.frame(peer, frame);
                    }
                }
                command = self.commands.recv() => match command {
                    Some(ToOracle::Publish { reports, done }) => {
                        let verdicts = reports.into_iter().map(|report| self.report(None, report)).collect();
                        // Who asked may be gone; the reports are good all the same.
                        let _ = done.send(verdicts);
                    }
                    None => return,
                },
            }
        }
    }

    fn frame(&mut self, peer: PeerId, frame: Frame) {
        match frame {
            Frame::PriceReport(PriceReport(report)) => {
                self.report(Some(peer), report);
            }
            Frame::PriceEvidence(PriceEvidence(evidence)) => {
                let (verdict, effects) =
                    self.oracle.evidence(Some(peer), evidence, Instant::now().into_std());
                self.metrics.price_report(verdict.name());
                self.perform(effects);
            }
            // The registry allows no other on this stream.
            _ => {}
        }
    }

    fn report(&mut self, from: Option<PeerId>, report: Report) -> Verdict {
        let (now, now_unix_ms) = (Instant::now().into_std(), self.clock.unix_ms());
        let (verdict, effects) = self.oracle.report(from, report, now, now_unix_ms);
        self.metrics.price_report(verdict.name());
        self.perform(effects);
        verdict
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        let mut changed = false;
        for effect in effects {
            match effect {
                Effect::Forward { report, except } => {
                    self.gossip(&PriceReport(report).to_frame(), except);
                    self.feeds.report(&report, self.clock.unix_ms());
                }
                Effect::ForwardEvidence { evidence, except } => {
                    tracing::warn!(
                        feed = evidence.feed(),
                        publisher = evidence.publisher(),
                        sequence = evidence.reports()[0].sequence,
                        "a publisher signed two prices for one sequence; it counts no more"
                    );
                    self.metrics.price_equivocations.inc();
                    self.gossip(&PriceEvidence(evidence).to_frame(), except);
                    self.feeds.evidence(&evidence, self.clock.unix_ms());
                    changed = true;
                }
                Effect::Offence(peer) => self.conduct.offence(peer, Offence::InvalidReport),
                Effect::Price(_) => changed = true,
            }
        }
        if changed {
            self.board.send_replace(self.oracle.board().clone());
        }
    }

    fn gossip(&self, frame: &EncodedFrame, except: Option<PeerId>) {
        for session in self.overlay.sessions() {
            if Some(session.peer()) != except {
                session.push(StreamType::Oracle, frame);
            }
        }
    }
}

/// Takes reports for remote calls.
#[derive(Debug, Clone)]
pub(crate) struct Publishing(pub(crate) mpsc::Sender<ToOracle>);

impl Publishing {
    /// Parses, hands over, and says what became of each.
    pub(crate) async fn publish(&self, reports: Vec<Bytes>) -> message::PublishAnswer {
        let parsed: Vec<_> = reports.into_iter().take(PRICE_PUBLISH_REPORTS_MAX).map(Report::parse).collect();
        let (done, verdicts) = oneshot::channel();
        let good = parsed.iter().filter_map(|report| report.as_ref().ok()).copied().collect();
        // Both fail only while the node stops.
        let verdicts = match self.0.send(ToOracle::Publish { reports: good, done }).await {
            Ok(()) => verdicts.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let mut verdicts = verdicts.into_iter();
        let results = parsed.into_iter().map(|report| match report {
            Err(error) => message::PublishResult { taken: false, reason: error.to_string() },
            Ok(_) => match verdicts.next() {
                // A report that is here already is where it is to be.
                Some(Verdict::Taken | Verdict::Known) => {
                    message::PublishResult { taken: true, reason: String::new() }
                }
                Some(verdict) => message::PublishResult { taken: false, reason: verdict.to_string() },
                None => message::PublishResult { taken: false, reason: "the node is stopping".into() },
            },
        });
        message::PublishAnswer { results: results.collect() }
    }
}
