//! What a peer may do with streams, and what happens when it does more.

use std::time::Duration;

use ghost_frames::{
    Code, Payload, StreamType,
    control::Ping,
    tx::{ShortId, TxAnnounce, TxAnnounceEntry},
};
use ghost_proto::{GenesisId, message::StatusRequest};
use ghost_protocol::{
    class::{Class, ClassTable},
    session::Delivery,
    tally::Event,
    transport::{ClosedBy, Link, ReadError, SendStream},
};
use ghost_testnet::sim::{
    NodeId, Path, Peer, Setup, World,
    adversary::{Raw, frame_bytes, open_push, open_request},
};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use tokio::time::{Instant, sleep, timeout};

const GENESIS: GenesisId = GenesisId([1; 32]);
const NODE: NodeId = NodeId(0);

async fn world(path: Path) -> World<Peer> {
    World::of_peers(1, path, 1, &Setup::default()).await.unwrap()
}

/// An adversary that has said an honest hello to the node.
struct Guest {
    link: Link,
    control: SendStream,
    _raw: Raw,
}

async fn guest(world: &mut World<Peer>) -> Guest {
    let seat = world.seat();
    let raw = Raw::start(&seat).unwrap();
    let node = world.node(NODE);
    let link = raw.dial(node.peer_id(), node.address).await.unwrap();
    let control = raw.greet(&link, &raw.hello(GENESIS)).await.unwrap();
    let came = |event: &ghost_testnet::sim::world::Happened| matches!(event, ghost_testnet::sim::world::Happened::Up(peer, ..) if *peer == raw.peer_id());
    node.wait_for(Duration::from_secs(5), came).await.expect("the guest is greeted");
    Guest { link, control, _raw: raw }
}

fn announce(number: u64) -> ghost_frames::EncodedFrame {
    TxAnnounce { entries: vec![TxAnnounceEntry { id: ShortId(number), bytes: 250, fee_class: 0 }] }.to_frame()
}

/// The code with which the peer stopped a stream of ours.
async fn stopped(send: &SendStream) -> Option<Code> {
    send.stopped().await.ok().flatten()
}

#[tokio::test(start_paused = true)]
async fn scenario_07_garbage_on_any_stream_ends_in_the_right_code_and_never_in_a_panic() {
    let mut rng = ChaCha12Rng::seed_from_u64(7);
    let ban = [Code::ProtocolViolation, Code::FrameTooLarge, Code::Malformed];
    for stream in StreamType::ALL {
        for round in 0..12 {
            let mut world = world(Path::ms(1)).await;
            let Guest { link, mut control, .. } = guest(&mut world).await;
            let mut garbage = vec![0; rng.random_range(1..300)];
            rng.fill_bytes(&mut garbage);
            if round % 3 == 0 {
                // A kind that belongs there, a length that is allowed, and then garbage.
                let kinds = ghost_frames::frame::REGISTRY;
                let kind = kinds.iter().find(|kind| kind.is_allowed_on(*stream)).unwrap();
                let len = garbage.len().min(kind.payload_max);
                garbage = frame_bytes(kind.kind.0, len as u64, &garbage[..len]);
            }
            // What a model reader says of the same bytes.
            let mut reader = ghost_frames::FrameReader::new(*stream);
            reader.push(&garbage);
            let verdict = loop {
                match reader.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => break reader.finish().err(),
                    Err(error) => break Some(error),
                }
            };
            let name = format!("{stream:?} round {round}: {verdict:?}");
            let mut request = None;
            match stream {
                StreamType::Control => {
                    control.write_all(&garbage).await.unwrap();
                    let _ = control.finish();
                }
                _ if stream.direction() == ghost_frames::stream::Direction::Push => {
                    let _ = open_push(&link, stream.number(), &garbage).await.unwrap().finish();
                }
                _ => {
                    let (mut send, recv) = open_request(&link, stream.number(), &garbage).await.unwrap();
                    let _ = send.finish();
                    request = Some(recv);
                }
            }
            sleep(Duration::from_secs(1)).await;
            match verdict.map(|error| error.code()) {
                // Whoever is newer than we are may mean something by it.
                Some(Code::UnknownKind) if *stream != StreamType::Control => {
                    assert_eq!(link.close_reason(), None, "{name}");
                    if let Some(mut recv) = request {
                        let end = recv.read_to_end(10).await.unwrap_err();
                        assert_eq!(end, ReadError::Reset(Code::UnknownKind), "{name}");
                    }
                }
                Some(code) => {
                    let closed = link.close_reason().unwrap_or_else(|| panic!("{name}: still open"));
                    assert_eq!((closed.by, closed.code), (ClosedBy::Peer, Some(code)), "{name}");
                    assert!(ban.contains(&code) || code == Code::UnknownKind, "{name}");
                }
                None => {}
            }
            // The node itself is as well as ever.
            let Guest { link, .. } = guest(&mut world).await;
            assert_eq!(link.close_reason(), None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_stream_type_is_refused_and_grease_is_free() {
    let mut world = world(Path::ms(1)).await;
    let Guest { link, .. } = guest(&mut world).await;
    for _ in 0..2_000 {
        let grease = open_push(&link, ghost_frames::stream::GREASE_STREAM_FIRST, &[1, 2, 3]).await.unwrap();
        assert_eq!(stopped(&grease).await, Some(Code::UnknownStream));
    }
    let unknown = open_push(&link, 0x3e, &[]).await.unwrap();
    assert_eq!(stopped(&unknown).await, Some(Code::UnknownStream));
    assert_eq!(link.close_reason(), None);
    assert_eq!(world.node(NODE).overlay.tally().get(Event::ClosedByUs(Code::Flooding)), 0);
}

/// Round-trip times of pings, one every 100 ms, in milliseconds and ascending.
async fn ping_times(session: &ghost_protocol::Session, count: usize) -> Vec<f64> {
    let mut times = Vec::new();
    for _ in 0..count {
        times.push(session.ping(Duration::from_secs(5)).await.unwrap().as_secs_f64() * 1e3);
        sleep(Duration::from_millis(100)).await;
    }
    times.sort_by(f64::total_cmp);
    times
}

#[tokio::test(start_paused = true)]
async fn scenario_09_one_byte_per_second_is_refused_as_stalled_at_10_s_and_hurts_nobody_else() {
    let mut world = World::of_peers(1, Path::ms(20), 2, &Setup::default()).await.unwrap();
    let honest = world.dial(NodeId(1), NODE).await.unwrap();
    let quiet = ping_times(&honest, 100).await;

    let Guest { link, .. } = guest(&mut world).await;
    // Every stream the node grants: 12 one way, of which one is control, and 32 both ways.
    let latency = Duration::from_millis(20);
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..11 {
        let stream = [StreamType::TxPush, StreamType::BlockPush, StreamType::Consensus][n % 3];
        // The head of a long frame that is allowed there; its payload never ends.
        let kind = ghost_frames::frame::REGISTRY.iter().find(|kind| kind.is_allowed_on(stream)).unwrap();
        let head = frame_bytes(kind.kind.0, kind.payload_max as u64, &[]);
        let mut send = open_push(&link, stream.number(), &head).await.unwrap();
        let limit = ghost_protocol::class::frame_deadline(kind.payload_max);
        tasks.spawn(async move { (drip(&mut send, started).await, limit) });
    }
    for n in 0..32 {
        let stream = [StreamType::TxFetch, StreamType::BlockFetch, StreamType::Sync, StreamType::Rpc][n % 4];
        let concurrent = ClassTable::default().spec(Class::of(stream)).concurrent_requests;
        let kind = ghost_frames::frame::REGISTRY.iter().find(|kind| kind.is_allowed_on(stream)).unwrap();
        let head = frame_bytes(kind.kind.0, kind.payload_max.clamp(1, 20) as u64, &[]);
        // Half of them leave even the length open, and fall silent.
        let silent = n % 8 < 4;
        let head = if silent { &head[..1] } else { &head[..] };
        if n / 4 >= usize::from(concurrent) || kind.payload_max == 0 {
            continue;
        }
        let (mut send, recv) = open_request(&link, stream.number(), head).await.unwrap();
        let limit = ghost_protocol::class::frame_deadline(0);
        tasks.spawn(async move {
            let end = if silent {
                let code = stopped(&send).await;
                (started.elapsed(), code)
            } else {
                drip(&mut send, started).await
            };
            drop(recv);
            (end, limit)
        });
    }
    let mut pinging = tokio::spawn(async move { ping_times(&honest, 100).await });
    let mut refused = 0;
    while let Some(ended) = tasks.join_next().await {
        let ((at, code), limit) = ended.unwrap();
        assert_eq!(code, Some(Code::Stalled));
        // There and back on the wire; the deadline itself is met within 100 ms.
        let at_node = at - 2 * latency;
        assert!(at_node > limit - Duration::from_millis(100), "{at_node:?} is before {limit:?}");
        assert!(at_node < limit + Duration::from_millis(100), "{at_node:?} is after {limit:?}");
        refused += 1;
    }
    assert!(refused >= 25, "{refused}");
    assert_eq!(link.close_reason(), None, "slowness alone is no reason to part");
    let busy = (&mut pinging).await.unwrap();
    assert!(busy[98] <= 1.1 * quiet[98], "p99 {} ms, {} ms when quiet", busy[98], quiet[98]);
}

/// Sends a byte each second until refused: after how long, and with what code.
async fn drip(send: &mut SendStream, started: Instant) -> (Duration, Option<Code>) {
    loop {
        tokio::select! {
            code = stopped(send) => return (started.elapsed(), code),
            () = sleep(Duration::from_secs(1)) => {
                let _ = send.write_all(&[0]).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn scenario_10_streams_opened_in_vain_run_out_of_credit_and_then_of_patience() {
    let mut world = world(Path::ms(5)).await;
    let Guest { link, .. } = guest(&mut world).await;
    let started = Instant::now();
    let mut opened = 0_u64;
    let mut in_first_second = 0;
    // 10,000 a second if the node lets us.
    let flood = async {
        loop {
            let Ok(mut stream) = link.open_uni().await else { return };
            let _ = stream.write_all(&[3]).await;
            let _ = stream.reset(Code::Done);
            opened += 1;
            if started.elapsed() <= Duration::from_secs(1) {
                in_first_second = opened;
            }
            if opened.is_multiple_of(10) {
                sleep(Duration::from_millis(1)).await;
            }
        }
    };
    timeout(Duration::from_secs(60), flood).await.expect("it ends");
    let lasted = started.elapsed();
    let closed = link.close_reason().unwrap();
    assert_eq!((closed.by, closed.code), (ClosedBy::Peer, Some(Code::Flooding)));
    assert!(lasted > Duration::from_secs(10), "{lasted:?}");
    assert!(lasted < Duration::from_secs(14), "{lasted:?}");
    // A burst of 256, 128 a second, and what was granted when the first pause began.
    let allowed = |seconds: f64| 256.0 + 128.0 * seconds + 44.0;
    assert!(in_first_second as f64 <= allowed(1.0), "{in_first_second}");
    assert!(opened as f64 <= allowed(lasted.as_secs_f64()), "{opened} in {lasted:?}");
    assert_eq!(world.node(NODE).overlay.tally().get(Event::ClosedByUs(Code::Flooding)), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_nothing_but_skipped_frames_is_not_stalled() {
    let mut world = world(Path::ms(10)).await;
    let Guest { link, .. } = guest(&mut world).await;
    let frame = frame_bytes(ghost_frames::kind::SKIPPABLE_FIRST.0, 100, &[0; 100]);
    // Each write ends one frame and begins the next, so that the reader is always in the middle of one.
    let mut send = open_push(&link, StreamType::TxPush.number(), &frame[..50]).await.unwrap();
    for _ in 0..30 {
        sleep(Duration::from_secs(1)).await;
        send.write_all(&[&frame[50..], &frame[..50]].concat()).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    assert!(timeout(Duration::ZERO, send.stopped()).await.is_err(), "the node still reads");
    // Once a frame comes to a halt its time runs.
    let code = timeout(Duration::from_secs(12), stopped(&send)).await;
    assert_eq!(code, Ok(Some(Code::Stalled)));
}

#[tokio::test(start_paused = true)]
async fn scenario_10_a_hundred_cancelled_streams_a_second_are_nobodys_flood() {
    let mut world = world(Path::ms(5)).await;
    let Guest { link, .. } = guest(&mut world).await;
    for _ in 0..3_000 {
        let (mut send, _recv) = open_request(&link, StreamType::Rpc.number(), &[]).await.unwrap();
        let _ = send.reset(Code::Done);
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(link.close_reason(), None);
}

#[tokio::test(start_paused = true)]
async fn scenario_11_a_peer_that_reads_nothing_costs_at_most_4_mib_and_the_policy_of_each_class() {
    const MIB: usize = 1 << 20;
    let mut world = world(Path::ms(10)).await;
    let Guest { link, control, .. } = guest(&mut world).await;
    let session = world.node(NODE).overlay.sessions()[0].clone();
    let queued = |session: &ghost_protocol::Session| -> usize {
        [StreamType::Control, StreamType::TxPush, StreamType::BlockPush, StreamType::Consensus]
            .map(|stream| session.queued_bytes(stream))
            .iter()
            .sum()
    };
    // Batches of transactions as large as they get: one frame is as long as many small ones.
    let batch = ghost_frames::EncodedFrame::new(ghost_frames::Kind(0x12), &vec![0; 256 * 1024 - 16]);
    let vote = ghost_frames::EncodedFrame::new(ghost_frames::Kind(0x40), &[0; ghost_proto::vote::VOTE_LEN]);
    let block =
        ghost_frames::EncodedFrame::new(ghost_frames::Kind(0x20), &[0; ghost_proto::block::HEADER_LEN]);
    let mut most = 0;
    let mut accepted = [0_usize; 3];
    let mut refused = 0;
    for second in 0..120 {
        for _ in 0..400 {
            for (n, (stream, frame)) in [
                (StreamType::TxPush, &batch),
                (StreamType::Consensus, &vote),
                (StreamType::BlockPush, &block),
            ]
            .into_iter()
            .enumerate()
            {
                match session.push(stream, frame) {
                    Delivery::Queued => accepted[n] += frame.len(),
                    Delivery::BackOff => refused += 1,
                    other => panic!("{stream:?}: {other:?}"),
                }
            }
            most = most.max(queued(&session));
        }
        sleep(Duration::from_secs(1)).await;
        if second == 60 {
            // From here on it does not even acknowledge.
            world.wire().apply(ghost_testnet::sim::Fault::Partition(vec![vec![NODE]]));
        }
        if session.is_closing() {
            break;
        }
    }
    let tally = world.node(NODE).overlay.tally();
    // Transactions are refused to their maker, who keeps them; votes and blocks make room. 400 a second
    // for the 61 s before the network fails and the 30 s until that is noticed, but for a few.
    assert!(refused > 36_000, "{refused}");
    assert_eq!(tally.get(Event::QueueRefused(Class::Tx)), refused);
    assert!(tally.get(Event::QueueDropped(Class::Consensus)) > 10_000);
    assert!(tally.get(Event::QueueDropped(Class::Block)) > 1_000);
    // What the transport holds besides is bounded by the send window.
    let send_window = ghost_protocol::transport::quic::tuning::SEND_WINDOW as usize;
    assert!(most + send_window <= 4 * MIB, "{most} queued and {send_window} in the transport");
    // The peer's windows and our queues hold all the transactions ever accepted.
    assert!(accepted[0] <= 4 * MIB, "{}", accepted[0]);
    let _ = (link, control);
}

#[tokio::test(start_paused = true)]
async fn scenario_11_who_reads_no_pongs_is_closed_as_too_slow() {
    // A control window of its own would be needed to stop the node's pongs from leaving, so the
    // network stops them.
    let mut world = world(Path::ms(10)).await;
    let Guest { link, mut control, .. } = guest(&mut world).await;
    let session = world.node(NODE).overlay.sessions()[0].clone();
    world.wire().apply(ghost_testnet::sim::Fault::Partition(vec![vec![NODE]]));
    let mut pushed = 0_u64;
    let delivery = loop {
        let delivery = session.push(StreamType::Control, &Ping(pushed).to_frame());
        if delivery != Delivery::Queued {
            break delivery;
        }
        pushed += 1;
        assert!(session.queued_bytes(StreamType::Control) <= 16 * 1024);
        assert!(pushed < 1_000_000, "endless");
        if pushed.is_multiple_of(1_000) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert_eq!(delivery, Delivery::Closed);
    assert_eq!(world.node(NODE).overlay.tally().get(Event::ClosedByUs(Code::TooSlow)), 1);
    let _ = control.write_all(&[]).await;
    drop(link);
}

#[tokio::test(start_paused = true)]
async fn over_its_quota_a_peer_is_read_later_and_never_thrown_out() {
    let mut world = world(Path::ms(5)).await;
    let mut pushes = world.node_mut(NODE).pushes(StreamType::TxPush);
    let Guest { link, .. } = guest(&mut world).await;
    let total = 20_000_u64;
    let sender = link.clone();
    let started = Instant::now();
    let sending = tokio::spawn(async move {
        let mut stream = open_push(&sender, StreamType::TxPush.number(), &[]).await.unwrap();
        for number in 0..total {
            stream.write_all(announce(number).bytes()).await.unwrap();
        }
        stream.finish().unwrap();
        let _ = stream.stopped().await;
    });
    let mut received = 0;
    let mut first_two_seconds = 0;
    while received < total {
        let pushed = pushes.recv().await.unwrap();
        for frame in pushed.frames {
            let ghost_frames::Frame::TxAnnounce(announce) = frame else { panic!("{frame:?}") };
            assert_eq!(announce.entries[0].id.0, received, "in order, none lost");
            received += 1;
        }
        if started.elapsed() < Duration::from_secs(2) {
            first_two_seconds = received;
        }
    }
    sending.await.unwrap();
    let spec = ClassTable::default().spec(Class::Tx).clone();
    let rate = f64::from(spec.messages_per_second);
    let elapsed = started.elapsed().as_secs_f64();
    // A burst of two seconds' worth, then the rate; a chunk of 64 KiB may be read ahead of its time.
    let ahead = (64 * 1024 / announce(0).len()) as f64;
    assert!((first_two_seconds as f64) <= 4.0 * rate + ahead, "{first_two_seconds}");
    let least = (total as f64 - 2.0 * rate - ahead) / rate;
    assert!(elapsed >= least && elapsed < least + 4.0, "{elapsed} s, at least {least} s");
    assert_eq!(link.close_reason(), None);
    let tally = world.node(NODE).overlay.tally();
    assert!(tally.get(Event::Throttled(Class::Tx)) > 0);
    // Other classes were not held up by it.
    let status = StatusRequest {}.to_frame();
    let (_send, _recv) = open_request(&link, StreamType::Rpc.number(), status.bytes()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_link_that_was_down_in_mid_frame_does_not_silence_the_class_for_good() {
    let mut world = World::of_peers(3, Path::ms(10), 2, &Setup::default()).await.unwrap();
    let mut pushes = world.node_mut(NODE).pushes(StreamType::TxPush);
    let session = world.dial(NodeId(1), NODE).await.unwrap();
    // Long frames that take seconds on this link, so that the outage cuts one in two.
    let slow = ghost_testnet::sim::Rate::new(100_000, Duration::from_millis(200));
    world.wire().set_path(NodeId(1), NODE, Path::ms(10).with_rate(slow));
    let entries = |first: u64| {
        let entry = |n| TxAnnounceEntry { id: ShortId(first + n), bytes: 250, fee_class: 0 };
        TxAnnounce { entries: (0..ghost_proto::limits::ANNOUNCE_ENTRIES_MAX as u64).map(entry).collect() }
            .to_frame()
    };
    let frame = entries(0);
    for _ in 0..40 {
        assert_eq!(session.push(StreamType::TxPush, &frame), Delivery::Queued);
    }
    sleep(Duration::from_secs(1)).await;
    world.wire().apply(ghost_testnet::sim::Fault::Partition(vec![vec![NODE]]));
    sleep(Duration::from_secs(14)).await;
    world.wire().apply(ghost_testnet::sim::Fault::Heal);
    // The class works again within a few round trips of the transport's next probe.
    sleep(Duration::from_secs(20)).await;
    assert!(!session.is_closing(), "{:?}", session.link().close_reason());
    assert_eq!(session.push(StreamType::TxPush, &announce(u64::MAX)), Delivery::Queued);
    let arrived = timeout(Duration::from_secs(20), async {
        loop {
            let pushed = pushes.recv().await.unwrap();
            for frame in pushed.frames {
                let ghost_frames::Frame::TxAnnounce(announce) = frame else { panic!("{frame:?}") };
                if announce.entries[0].id.0 == u64::MAX {
                    return;
                }
            }
        }
    });
    arrived.await.expect("pushes go on after the outage");
    let stalled = world.node(NODE).overlay.tally().get(Event::ResetByUs(Code::Stalled));
    assert_eq!(stalled, 1, "the outage did cut a frame in two");
}
