//! From a dial to a session, and everything that must not become one.

use std::time::Duration;

use ghost_frames::{
    Code, Frame, Payload, StreamType,
    control::Ping,
    tx::{ShortId, Transactions, TxAnnounce, TxAnnounceEntry},
};
use ghost_proto::{GenesisId, message::StatusRequest, vote::VOTE_LEN};
use ghost_protocol::{
    handshake::HelloError,
    overlay::ConnectError,
    session::{Delivery, Direction},
    tally::Event,
    transport::{Closed, ClosedBy, DialError, Link},
};
use ghost_testnet::sim::{
    NodeId, Path, Peer, Setup, World,
    adversary::{Raw, frame_bytes, open_push, open_request},
    world::Happened,
};
use tokio::time::{Instant, sleep, timeout};

const GENESIS: GenesisId = GenesisId([1; 32]);

async fn world(path: Path, peers: usize) -> World<Peer> {
    World::of_peers(1, path, peers, &Setup::default()).await.unwrap()
}

/// An adversary with a link to the first node.
async fn adversary(world: &mut World<Peer>) -> (Raw, Link) {
    let seat = world.seat();
    let raw = Raw::start(&seat).unwrap();
    let target = world.node(NodeId(0));
    let link = raw.dial(target.peer_id(), target.address).await.unwrap();
    (raw, link)
}

async fn closed_within(link: &Link, limit: Duration) -> Closed {
    timeout(limit, link.closed()).await.expect("the node closes the connection in time")
}

#[tokio::test(start_paused = true)]
async fn scenario_02_a_dial_that_reaches_another_key_blames_nobody() {
    let world = world(Path::ms(50), 3).await;
    let [dialler, named, reached] = [0, 1, 2].map(|n| world.node(NodeId(n)));
    let started = Instant::now();
    let error = dialler.overlay.dial(named.peer_id(), reached.address).await.unwrap_err();
    match error {
        ConnectError::Dial(DialError::IdentityMismatch { peer, address }) => {
            assert_eq!((peer, address), (named.peer_id(), reached.address.into()));
        }
        other => panic!("{other}"),
    }
    assert!(started.elapsed() <= Duration::from_millis(101), "{:?}", started.elapsed());
    sleep(Duration::from_secs(30)).await;
    assert_eq!(dialler.overlay.tally().snapshot(), [(Event::IdentityMismatch, 1)]);
    for bystander in [named, reached] {
        assert_eq!(bystander.overlay.tally().snapshot(), []);
    }
    for peer in [dialler, named, reached] {
        assert_eq!(peer.log(), []);
        assert_eq!(peer.overlay.sessions().len(), 0);
    }
    // Who was named is as welcome as before.
    dialler.overlay.dial(named.peer_id(), named.address).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn scenario_03_another_genesis_is_told_so_within_one_round_trip_of_hello() {
    let mut world = world(Path::ms(50), 1).await;
    let other = Setup { genesis: GenesisId([2; 32]), ..Setup::default() };
    let stranger = world.add_peer(&other).await.unwrap();
    let started = Instant::now();
    let error = world.dial(stranger, NodeId(0)).await.unwrap_err();
    // One round trip for the handshake, after which the dialler says hello; one more until it knows.
    let elapsed = started.elapsed();
    assert!(elapsed <= Duration::from_millis(203), "{elapsed:?}");
    let code = match &error {
        ConnectError::Hello(error) => error.code(),
        ConnectError::Refused { code, .. } => *code,
        other => panic!("{other}"),
    };
    assert_eq!(code, Code::WrongGenesis, "{error}");
    let (dialler, acceptor) = (world.node(stranger), world.node(NodeId(0)));
    let failed = |peer: &Peer, direction| Happened::Failed(peer.peer_id(), direction, Code::WrongGenesis);
    let (at, _) = acceptor
        .wait_for(Duration::from_secs(1), |event| *event == failed(dialler, Direction::Inbound))
        .await
        .expect("the acceptor knows");
    assert!(at - started <= Duration::from_millis(203), "{:?}", at - started);
    dialler
        .wait_for(Duration::from_secs(1), |event| *event == failed(acceptor, Direction::Outbound))
        .await
        .expect("the dialler knows");
    sleep(Duration::from_secs(5)).await;
    for peer in [dialler, acceptor] {
        assert_eq!(peer.overlay.sessions().len(), 0);
        assert_eq!(peer.log().len(), 1, "{:?}", peer.log());
    }
    let counted: u64 = [dialler, acceptor]
        .iter()
        .map(|peer| peer.overlay.tally().get(Event::ClosedByUs(Code::WrongGenesis)))
        .sum();
    assert!(counted >= 1, "one of them closed");
}

/// Both dial at once; each pushes a numbered frame every 5 ms on whatever session it has, from as
/// soon as it has one.
async fn cross_dial(seed: u64, forth: Path, back: Path, apart: Duration) {
    let mut world = World::of_peers(seed, Path::ms(1), 2, &Setup::default()).await.unwrap();
    let ids = [NodeId(0), NodeId(1)];
    world.wire().set_path(ids[0], ids[1], forth);
    world.wire().set_path(ids[1], ids[0], back);
    let case = format!("seed {seed}, {forth:?} forth, {back:?} back, {apart:?} apart");
    let pushes = ids.map(|id| world.node_mut(id).pushes(StreamType::TxPush));
    let peers = ids.map(|id| world.node(id));
    let dial = |from: usize, delay: Duration| {
        let (overlay, target) = (peers[from].overlay.clone(), peers[1 - from]);
        let (peer, address) = (target.peer_id(), target.address);
        async move {
            sleep(delay).await;
            overlay.dial(peer, address).await
        }
    };
    // The dial itself may lose against the other and still ends with the session that stays.
    let dials = [tokio::spawn(dial(0, Duration::ZERO)), tokio::spawn(dial(1, apart))];
    let pushing = [0, 1].map(|n| {
        let (overlay, other) = (peers[n].overlay.clone(), peers[1 - n].peer_id());
        tokio::spawn(async move {
            let mut sent = 0_u64;
            while sent < 400 {
                sleep(Duration::from_millis(5)).await;
                let Some(session) = overlay.session(&other) else { continue };
                let entry = TxAnnounceEntry { id: ShortId(sent), bytes: 250, fee_class: 0 };
                let frame = TxAnnounce { entries: vec![entry] }.to_frame();
                match session.push(StreamType::TxPush, &frame) {
                    Delivery::Queued => sent += 1,
                    Delivery::Closed => {}
                    other => panic!("{other:?}"),
                }
            }
        })
    });
    let receiving = pushes.map(|mut receiver| {
        tokio::spawn(async move {
            let mut seen = std::collections::BTreeSet::new();
            while seen.len() < 400 {
                let Ok(Some(pushed)) = timeout(Duration::from_secs(10), receiver.recv()).await else { break };
                for frame in pushed.frames {
                    let Frame::TxAnnounce(announce) = frame else { panic!("{frame:?}") };
                    assert!(seen.insert(announce.entries[0].id.0), "twice");
                }
            }
            seen.len()
        })
    });
    for dial in dials {
        dial.await.unwrap().unwrap_or_else(|error| panic!("{case}: {error}"));
    }
    for task in pushing {
        let pushed = timeout(Duration::from_secs(30), task).await;
        assert!(pushed.is_ok(), "{case}: no session to push on: {:?}", peers.map(Peer::log));
        pushed.unwrap().unwrap();
    }
    for task in receiving {
        assert_eq!(task.await.unwrap(), 400, "{case}: pushed frames are missing");
    }
    sleep(Duration::from_secs(5)).await;
    let smaller = usize::from(peers[1].peer_id().to_bytes() < peers[0].peer_id().to_bytes());
    for (n, peer) in peers.iter().enumerate() {
        let sessions = peer.overlay.sessions();
        assert_eq!(sessions.len(), 1, "{case}");
        let direction = if n == smaller { Direction::Outbound } else { Direction::Inbound };
        assert_eq!(sessions[0].direction(), direction, "{case}: started by the smaller PeerId");
        assert!(!sessions[0].is_closing(), "{case}");
        let lost = peer.log().iter().filter(|(_, event)| matches!(event, Happened::Down(..))).count();
        assert_eq!(lost, 0, "{case}: {:?}", peer.log());
        assert_eq!(peer.overlay.open_connections(), 1, "{case}: the loser is closed");
    }
    // It is the same connection: one's ping comes back over the other's.
    assert!(peers[0].overlay.sessions()[0].ping(Duration::from_secs(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn scenario_04_a_cross_dial_leaves_one_session_the_same_on_both_sides_and_loses_nothing() {
    let ms = Duration::from_millis;
    for seed in 0..12 {
        cross_dial(seed, Path::ms(50), Path::ms(50), Duration::ZERO).await;
        cross_dial(seed, Path::ms(10), Path::ms(90), Duration::ZERO).await;
        cross_dial(seed, Path::ms(120), Path::ms(5), ms(20)).await;
        cross_dial(seed, Path::ms(0), Path::ms(0), Duration::ZERO).await;
        cross_dial(seed, Path::ms(30), Path::ms(40), ms(7 * seed)).await;
        let lossy = Path::ms(25).with_loss(ghost_testnet::sim::Loss::Random(0.02));
        cross_dial(seed, lossy, lossy, ms(3 * seed)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn scenario_04_a_node_that_reaches_itself_finds_out() {
    let mut world = world(Path::ms(10), 1).await;
    let node = world.node(NodeId(0));
    // By name: not one packet is sent.
    let error = node.overlay.dial(node.peer_id(), node.address).await.unwrap_err();
    assert!(matches!(error, ConnectError::Hello(HelloError::SelfDial)), "{error}");
    assert_eq!(world.wire().totals().sent.packets, 0);
    // Under somebody else's name, as a false record would have it.
    let somebody = ghost_protocol::Identity::from_seed(&[9; 32]).peer_id();
    let error = node.overlay.dial(somebody, node.address).await.unwrap_err();
    assert!(matches!(error, ConnectError::Dial(DialError::IdentityMismatch { .. })), "{error}");
    // By a key that several addresses share: the nonce tells.
    let (raw, link) = adversary(&mut world).await;
    let mut control = link.accept_uni().await.unwrap();
    let mut reader = ghost_frames::FrameReader::new(StreamType::Control);
    let hello = loop {
        let chunk = control.read_chunk().await.unwrap().unwrap();
        reader.push(if reader.buffered() == 0 { &chunk[1..] } else { &chunk });
        if let Some(Frame::Hello(hello)) = reader.next().unwrap() {
            break hello;
        }
    };
    let mut echo = raw.hello(GENESIS);
    echo.nonce = hello.nonce;
    raw.greet(&link, &echo).await.unwrap();
    let closed = closed_within(&link, Duration::from_millis(100)).await;
    assert_eq!((closed.by, closed.code), (ClosedBy::Peer, Some(Code::SelfDial)));
    let event = Happened::Failed(raw.peer_id(), Direction::Inbound, Code::SelfDial);
    assert!(world.node(NodeId(0)).wait_for(Duration::from_secs(1), |seen| *seen == event).await.is_some());
}

/// What an adversary does instead of saying hello and then something else.
#[derive(Debug, Clone, Copy)]
enum Deed {
    VoteInPlaceOfControl,
    PingInPlaceOfHello,
    RequestAndNoHello,
    PushBehindEmptyControl,
    PushBehindHalfAHello,
    SecondHello,
    SecondControlStream,
    FeatureThatNobodyHas,
}

impl Deed {
    const ALL: [Self; 8] = [
        Self::VoteInPlaceOfControl,
        Self::PingInPlaceOfHello,
        Self::RequestAndNoHello,
        Self::PushBehindEmptyControl,
        Self::PushBehindHalfAHello,
        Self::SecondHello,
        Self::SecondControlStream,
        Self::FeatureThatNobodyHas,
    ];

    /// Does it. The streams stay open for as long as what is returned lives.
    async fn commit(self, raw: &Raw, link: &Link) -> Box<dyn std::any::Any> {
        const CONTROL: u64 = StreamType::Control.number();
        let hello = raw.hello(GENESIS).to_frame();
        match self {
            Self::VoteInPlaceOfControl => {
                let vote = frame_bytes(0x40, VOTE_LEN as u64, &[0; VOTE_LEN]);
                Box::new(open_push(link, StreamType::Consensus.number(), &vote).await)
            }
            Self::PingInPlaceOfHello => Box::new(open_push(link, CONTROL, Ping(1).to_frame().bytes()).await),
            Self::RequestAndNoHello => {
                let status = StatusRequest {}.to_frame();
                Box::new(open_request(link, StreamType::Rpc.number(), status.bytes()).await)
            }
            Self::PushBehindEmptyControl => {
                let control = open_push(link, CONTROL, &[]).await;
                let batch = Transactions::default().to_frame();
                Box::new((control, open_push(link, StreamType::TxPush.number(), batch.bytes()).await))
            }
            Self::PushBehindHalfAHello => {
                let control = open_push(link, CONTROL, &hello.bytes()[..hello.len() / 2]).await;
                Box::new((control, open_push(link, StreamType::TxPush.number(), &[0x10]).await))
            }
            Self::SecondHello => {
                let twice = [hello.bytes().as_ref(), hello.bytes().as_ref()].concat();
                Box::new(open_push(link, CONTROL, &twice).await)
            }
            Self::SecondControlStream => {
                let first = open_push(link, CONTROL, hello.bytes()).await;
                Box::new((first, open_push(link, CONTROL, hello.bytes()).await))
            }
            Self::FeatureThatNobodyHas => {
                let mut hello = raw.hello(GENESIS);
                hello.required = vec![77];
                Box::new(open_push(link, CONTROL, hello.to_frame().bytes()).await)
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn scenario_05_frames_out_of_turn_end_the_connection_within_100_ms() {
    for deed in Deed::ALL {
        // 5 ms each way: what is done arrives at once, and so does the verdict.
        let mut world = world(Path::ms(5), 1).await;
        let (raw, link) = adversary(&mut world).await;
        sleep(Duration::from_millis(20)).await;
        let started = Instant::now();
        let _kept = deed.commit(&raw, &link).await;
        let closed = closed_within(&link, Duration::from_secs(11)).await;
        assert_eq!((closed.by, closed.code), (ClosedBy::Peer, Some(Code::ProtocolViolation)), "{deed:?}");
        let at_node = started.elapsed() - Duration::from_millis(10);
        assert!(at_node <= Duration::from_millis(102), "{deed:?}: {at_node:?}");
        let overlay = &world.node(NodeId(0)).overlay;
        assert_eq!(overlay.sessions().len(), 0, "{deed:?}");
        assert_eq!(overlay.tally().get(Event::ClosedByUs(Code::ProtocolViolation)), 1, "{deed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn scenario_05_streams_may_overtake_hello_by_100_ms_or_three_round_trips_and_no_more() {
    // (one-way latency, hello comes so long after the request, is it in time)
    for (latency, late, in_time) in [(5, 90, true), (5, 115, false), (50, 285, true), (50, 330, false)] {
        let mut world = world(Path::ms(latency), 1).await;
        let mut rpc = world.node_mut(NodeId(0)).requests(StreamType::Rpc);
        let (raw, link) = adversary(&mut world).await;
        let status = StatusRequest {}.to_frame();
        // The control stream is opened first, as it must be; its content was lost on the way.
        let control = link.open_uni().await.unwrap();
        let (mut send, recv) = open_request(&link, StreamType::Rpc.number(), status.bytes()).await.unwrap();
        send.finish().unwrap();
        sleep(Duration::from_millis(late)).await;
        let hello = ghost_testnet::sim::adversary::stream_bytes(0, raw.hello(GENESIS).to_frame().bytes());
        let mut control = control;
        let written = control.write_all(&hello).await;
        sleep(Duration::from_millis(4 * latency + 50)).await;
        let name = format!("{late} ms late at {latency} ms");
        if in_time {
            written.unwrap();
            assert_eq!(world.node(NodeId(0)).overlay.sessions().len(), 1, "{name}");
            assert!(rpc.try_recv().is_ok(), "{name}: what came before hello is served after it");
        } else {
            let closed = closed_within(&link, Duration::from_millis(1)).await;
            assert_eq!(closed.code, Some(Code::ProtocolViolation), "{name}");
            assert!(rpc.try_recv().is_err(), "{name}");
        }
        drop(recv);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_word_is_closed_after_10_s() {
    let mut world = world(Path::ms(5), 1).await;
    let (_raw, link) = adversary(&mut world).await;
    let started = Instant::now();
    sleep(Duration::from_millis(9_900)).await;
    assert_eq!(link.close_reason(), None);
    let closed = closed_within(&link, Duration::from_secs(1)).await;
    assert_eq!((closed.by, closed.code), (ClosedBy::Peer, Some(Code::Timeout)));
    assert!(started.elapsed() <= Duration::from_millis(10_100), "{:?}", started.elapsed());
}
