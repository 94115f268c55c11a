//! Prices for who asks and who subscribes.
//!
//! Who wants speed gets the newest price at a fixed rate, in datagrams; who wants every report gets a feed
//! of them, whose snapshot is the newest of each publisher. Either way what travels are the reports.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ghost_frames::{Code, Frame, Payload, price::PriceTick};
use ghost_proto::{
    FeedPosition, Genesis, Quote, Report,
    limits::{HEADERS_PER_ANSWER_MAX, PRICE_FEEDS_MAX},
    merkle, message,
    price::{CommittedPrice, Equivocation, ORACLE_ADDRESS, PRICE_UPDATED_TOPIC, feed_key},
};
use ghost_protocol::feed::{Feed, FeedLimits, Hub, Place, Source};
use ghost_protocol::{Session, inbox::Asked, request::Responder};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::rpc::{Access, Failure};
use crate::{
    chain::HeadView,
    oracle::{relay::Board, state::price_at},
};

/// Rates of ticks, in milliseconds.
pub(crate) const RATES_MS: [u32; 4] = [1, 50, 200, 1_000];

/// A price that did not change is sent again after so long: a datagram that was lost is made up for.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// What a feed of reports keeps: 256 KiB of history, 2,500 reports, for those who come back; with 64 feeds
/// 16 MiB. A subscriber may be behind by 64 KiB, 600 reports, before a snapshot stands for them.
const FEED_LIMITS: FeedLimits = FeedLimits { ring_bytes_max: 256 * 1024, behind_bytes_max: 64 * 1024 };

/// The newest report of each publisher, and evidence: what a subscriber begins with.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    reports: Vec<Report>,
    evidence: Vec<Equivocation>,
    now_unix_ms: u64,
}

impl Source for Newest {
    fn snapshot(&self) -> (Bytes, Bytes) {
        let mut out = vec![self.reports.len() as u8];
        self.reports.iter().for_each(|report| out.extend_from_slice(report.bytes()));
        self.evidence.iter().for_each(|evidence| out.extend_from_slice(&evidence.encode()));
        (out.into(), self.mark())
    }

    fn mark(&self) -> Bytes {
        Bytes::copy_from_slice(&self.now_unix_ms.to_be_bytes())
    }
}

/// The feeds of reports, in the order of the genesis. Cloning gives another handle.
#[derive(Debug, Clone)]
pub(crate) struct PriceFeeds(Arc<[Hub<Newest>]>);

impl PriceFeeds {
    /// Empty ones, under an epoch of this start of the node.
    pub(crate) fn new(genesis: &Genesis, epoch: u64) -> Self {
        let hub = |spec: &ghost_proto::FeedSpec| {
            let origin = FeedPosition::origin(epoch, spec.name.as_bytes());
            Hub::new(Feed::new(epoch, origin, FEED_LIMITS), Newest::default())
        };
        Self(genesis.feeds.iter().map(hub).collect())
    }

    /// Tells subscribers of a report.
    pub(crate) fn report(&self, report: &Report, now_unix_ms: u64) {
        let Some(hub) = self.0.get(usize::from(report.feed)) else { return };
        hub.publish(|feed, newest| {
            newest.now_unix_ms = now_unix_ms;
            newest.reports.retain(|other| other.publisher != report.publisher);
            newest.reports.push(*report);
            feed.publish(&[Bytes::copy_from_slice(report.bytes())], &newest.mark());
        });
    }

    /// Tells subscribers of evidence.
    pub(crate) fn evidence(&self, evidence: &Equivocation, now_unix_ms: u64) {
        let Some(hub) = self.0.get(usize::from(evidence.feed())) else { return };
        hub.publish(|feed, newest| {
            newest.now_unix_ms = now_unix_ms;
            newest.reports.retain(|report| report.publisher != evidence.publisher());
            newest.evidence.push(*evidence);
            feed.publish(&[Bytes::copy_from_slice(&evidence.encode())], &newest.mark());
        });
    }

    async fn serve(self, genesis: Arc<Genesis>, request: message::PriceFollowRequest, responder: Responder) {
        let begun = feed_index(&genesis, &request.feed).and_then(|feed| {
            let place = |place: message::FeedPlace| {
                let hash = place.hash.as_ref().try_into();
                let hash = hash.map_err(|_| Failure::invalid("the hash of a place has 32 bytes"))?;
                Ok::<_, Failure>(Place { epoch: place.epoch, at: FeedPosition { seq: place.seq, hash } })
            };
            Ok((feed, request.resume.map(place).transpose()?))
        });
        match begun {
            Ok((feed, place)) => self.0[feed].serve(place, responder).await,
            // An asker that is gone wants no answer.
            Err(failure) => drop(responder.answer(&failure.frame()).await),
        }
    }
}

/// Serves subscriptions to prices for as long as the node runs.
pub(crate) async fn run(
    mut requests: mpsc::Receiver<Asked>,
    genesis: Arc<Genesis>,
    board: watch::Receiver<Board>,
    feeds: PriceFeeds,
    clock: crate::clock::Clock,
    access: Access,
) {
    while let Some(asked) = requests.recv().await {
        let Asked { session, frame, responder } = asked;
        if !access.may_ask(session.as_ref()) {
            responder.refuse(Code::Refused);
            continue;
        }
        match (frame, session) {
            (Frame::PriceTicksRequest(request), Some(session)) => {
                let genesis = genesis.clone();
                tokio::spawn(ticks(request, session, responder, genesis, board.clone(), clock.unix_ms()));
            }
            (Frame::PriceFollowRequest(request), _) => {
                tokio::spawn(feeds.clone().serve(genesis.clone(), request, responder));
            }
            // Datagrams need somebody to send them to.
            (Frame::PriceTicksRequest(_), None) => responder.refuse(Code::TooEarly),
            _ => responder.refuse(Code::ProtocolViolation),
        }
    }
}

/// The index of a feed by its name.
pub(crate) fn feed_index(genesis: &Genesis, name: &str) -> Result<usize, Failure> {
    genesis.feeds.iter().position(|feed| feed.name == name).ok_or_else(|| {
        let known: Vec<&str> = genesis.feeds.iter().map(|feed| feed.name.as_str()).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        Failure::not_found(format!("there is no feed {name:?}; this chain has: {known}"))
    })
}

fn feeds_named(genesis: &Genesis, names: &[String]) -> Result<Vec<usize>, Failure> {
    if names.is_empty() {
        return Ok((0..genesis.feeds.len()).collect());
    }
    let mut feeds = names.iter().map(|name| feed_index(genesis, name)).collect::<Result<Vec<_>, _>>()?;
    feeds.sort_unstable();
    feeds.dedup();
    Ok(feeds)
}

/// Sends the newest price of some feeds at a fixed rate, each only if it changed or was last sent long ago.
async fn ticks(
    request: message::PriceTicksRequest,
    session: Session,
    mut responder: Responder,
    genesis: Arc<Genesis>,
    mut board: watch::Receiver<Board>,
    time_unix_ms: u64,
) {
    let begun = match RATES_MS.contains(&request.rate_ms) {
        true => feeds_named(&genesis, &request.feeds),
        false => Err(Failure::invalid(format!("rate_ms is one of {RATES_MS:?}"))),
    };
    let feeds = match begun {
        Ok(feeds) => feeds,
        Err(failure) => {
            // An asker that is gone wants no answer.
            let _ = responder.answer(&failure.frame()).await;
            return;
        }
    };
    let indices = feeds.iter().map(|feed| *feed as u32).collect();
    if responder.send(&message::PriceTicksAnswer { feeds: indices, time_unix_ms }.to_frame()).await.is_err() {
        return;
    }
    let mut sent: Vec<Option<(Quote, Instant)>> = vec![None; feeds.len()];
    let mut number = 0;
    let rate = Duration::from_millis(request.rate_ms.into());
    let mut timer = interval_at(Instant::now(), rate);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = responder.cancelled() => return,
        }
        let now = Instant::now();
        let newest = board.borrow_and_update().clone();
        for (feed, last) in feeds.iter().zip(&mut sent) {
            let Some(quote) = newest.feeds.get(*feed).and_then(|row| row.quote.as_ref()) else { continue };
            if last.as_ref().is_some_and(|(sent, at)| sent == quote && now - *at < REPEAT_AFTER) {
                continue;
            }
            number += 1;
            let tick = PriceTick { token: request.token, number, quote: quote.clone() };
            // One that finds no room is made up for by the next; a peer that takes none will not.
            if session.send_datagram(tick.to_bytes()).is_ok() {
                *last = Some((quote.clone(), now));
            }
        }
        // Without a change there is nothing to look at until the oldest must be sent again.
        if rate < REPEAT_AFTER && !board.has_changed().unwrap_or(false) {
            let oldest =
                sent.iter().map(|last| last.as_ref().map_or(now, |(_, at)| *at)).min().unwrap_or(now);
            tokio::select! {
                changed = board.changed() => {
                    if changed.is_err() {
                        return responder.finish();
                    }
                }
                () = tokio::time::sleep_until(oldest + REPEAT_AFTER) => {}
                () = responder.cancelled() => return,
            }
        }
    }
}

/// What this node knows of prices.
pub(crate) fn list(
    view: &HeadView,
    board: &Board,
    names: &[String],
    time_unix_ms: u64,
) -> Result<message::PricesAnswer, Failure> {
    let genesis = view.genesis();
    if names.len() > PRICE_FEEDS_MAX {
        return Err(Failure::invalid(format!("name at most {PRICE_FEEDS_MAX} feeds")));
    }
    let mut prices = Vec::new();
    for feed in feeds_named(genesis, names)? {
        let spec = &genesis.feeds[feed];
        let row = board.feeds.get(feed).cloned().unwrap_or_default();
        let mut encoded = Vec::new();
        spec.encode(&mut encoded);
        prices.push(message::PriceRow {
            feed: feed as u32,
            spec: encoded.into(),
            quote: row.quote.as_ref().map(Quote::to_bytes).unwrap_or_default(),
            committed: committed(view, feed)?
                .map(|price| Bytes::copy_from_slice(&price.encode()))
                .unwrap_or_default(),
            flagged: row.accused().into(),
        });
    }
    Ok(message::PricesAnswer { time_unix_ms, prices })
}

/// The price of a feed at the head.
pub(crate) fn committed(view: &HeadView, feed: usize) -> Result<Option<CommittedPrice>, Failure> {
    let Some(spec) = view.genesis().feeds.get(feed) else { return Ok(None) };
    Ok(price_at(view.state(), &spec.key())?)
}

/// Proves the committed price of a feed, from its receipt to a final block where there is one near enough.
pub(crate) fn prove(view: &HeadView, name: &str) -> Result<message::PriceProof, Failure> {
    let feed = feed_index(view.genesis(), name)?;
    let Some(price) = committed(view, feed)? else {
        return Err(Failure::not_found(format!("the chain has no price of {name} yet")));
    };
    let gone = || Failure::internal("the block of the price is not stored");
    let header_at = |height| -> Result<_, Failure> {
        let id = view.canonical_id(height)?.ok_or_else(gone)?;
        view.header(&id)?.ok_or_else(gone)
    };
    let header = header_at(price.height)?;
    let receipts = view.receipts(&header)?;
    let key = feed_key(name).unwrap_or_default();
    let index = receipts.iter().position(|receipt| {
        receipt
            .logs
            .iter()
            .any(|log| log.address == ORACLE_ADDRESS && log.topics == [PRICE_UPDATED_TOPIC, key])
    });
    let index = index.ok_or_else(gone)?;
    let encoded: Vec<_> = receipts.iter().map(ghost_proto::Receipt::encode).collect();
    let path = merkle::proof(&encoded, index).ok_or_else(gone)?;
    let mut headers = vec![header.bytes().clone()];
    let mut certificate = Bytes::new();
    if let Some(by) = view.finalized_by()
        && let Some(last) = by.finalizes()
        && last.height >= price.height
        && last.height - price.height < HEADERS_PER_ANSWER_MAX as u64
    {
        for height in price.height + 1..=last.height {
            headers.push(header_at(height)?.bytes().clone());
        }
        certificate = by.encode().into();
    }
    Ok(message::PriceProof {
        headers,
        receipt: encoded[index].clone().into(),
        index: index as u32,
        path: path.iter().map(|hash| Bytes::copy_from_slice(hash)).collect(),
        certificate,
    })
}
