//! Asking a peer to show a head as good as ours.

use std::{collections::BTreeMap, time::Duration};

use ghost_discovery::address::{Endpoint, Network};
use ghost_frames::{Frame, Payload, StreamType, sync::HeadersRequest};
use ghost_proto::{BlockId, Header, PeerId, limits::HEADERS_PER_ANSWER_MAX};
use ghost_protocol::{Session, transport::Remote};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Report, Running};
use crate::chain::HeadView;

/// Time a peer has to show a head as good as ours, as it was when it was asked.
const CHALLENGE_TIME: Duration = Duration::from_secs(20);

/// Between two questions to a peer that is behind: it may be catching up.
const ASK_AGAIN: Duration = Duration::from_secs(5);

impl Running {
    pub(super) fn challenge(&self, peer: PeerId) {
        let (report, session) = (self.report.clone(), self.service.overlay.session(&peer));
        let Some(session) = session else { return };
        let view = self.service.views.load_full();
        tokio::spawn(async move {
            // Genesis is as good as any head.
            let passed = view.head().height == 0 || passes(&session, &view).await;
            // The task that asked ends only with the node; a peer that is gone has failed nothing.
            if passed || !session.is_closing() {
                let _ = report.send(Report::Challenged { peer, passed }).await;
            }
        });
    }
}

impl Running {
    /// With peers on more than one network, asks one of each for its head, so that it can be seen when they
    /// disagree. It costs one small request for each network every ten seconds.
    pub(super) fn compare_tips(&self) {
        let mut by_network = BTreeMap::new();
        for session in self.service.overlay.sessions() {
            let network = match session.remote() {
                Remote::Ip(address) => Endpoint::from(address).network(),
                Remote::Onion(_) | Remote::Tor => Network::Onion,
                Remote::Local => continue,
            };
            // The one that is connected longest was chosen when we knew least about this moment.
            let longest = by_network.entry(network).or_insert_with(|| session.clone());
            if session.established() < longest.established() {
                *longest = session;
            }
        }
        if by_network.len() < 2 {
            return;
        }
        let view = self.service.views.load_full();
        let Ok(mut locator) = view.locator() else { return };
        locator.retain(|id| *id != view.head().id);
        if locator.is_empty() {
            return;
        }
        for (network, session) in by_network {
            let (report, locator) = (self.report.clone(), locator.clone());
            tokio::spawn(async move {
                // No header after those we have: it is behind us, by how much does not show.
                let headers = shown(&session, locator).await.unwrap_or_default();
                if let Some(height) = headers.last().map(|last| last.height) {
                    // The task that asked ends only with the node.
                    let _ = report.send(Report::TipSeen { network, height }).await;
                }
            });
        }
    }
}

async fn passes(session: &Session, view: &HeadView) -> bool {
    let (height, deadline) = (view.head().height, Instant::now() + CHALLENGE_TIME);
    // The head is left out: who has it answers with it.
    let Ok(mut locator) = view.locator() else { return true };
    locator.retain(|id| *id != view.head().id);
    if locator.is_empty() {
        locator.push(view.genesis().block_id());
    }
    while Instant::now() < deadline {
        match timeout_at(deadline, shown(session, locator.clone())).await {
            Ok(Some(headers)) if is_as_good(&headers, height) => return true,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return false,
        }
        sleep(ASK_AGAIN).await;
    }
    false
}

/// Headers that go on from what we have and reach as high. They are not verified: a peer that makes some
/// up is found out by the sync, and an eclipse that needs forged headers is no cheaper for this question.
fn is_as_good(headers: &[Header], height: u64) -> bool {
    headers.last().is_some_and(|last| last.height >= height)
        // A peer on another branch may have more to show than fits one answer.
        || headers.len() == HEADERS_PER_ANSWER_MAX
}

async fn shown(session: &Session, locator: Vec<BlockId>) -> Option<Vec<Header>> {
    let request = HeadersRequest { limit: HEADERS_PER_ANSWER_MAX as u16, locator }.to_frame();
    let answer = session.request(StreamType::Sync, &request, CHALLENGE_TIME).await.ok()?;
    match answer.single().await.ok()? {
        Frame::Headers(headers) => Some(headers.headers),
        _ => None,
    }
}
