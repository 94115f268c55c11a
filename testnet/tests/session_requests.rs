//! Requests: answered, cancelled, overdue, too many, early; and sessions that end while some are
//! under way.

use std::time::Duration;

use bytes::Bytes;
use ghost_frames::{Code, EncodedFrame, Frame, FrameReader, Payload, StreamType, kind::Kind};
use ghost_proto::{
    limits::TX_BATCH_BYTES_MAX,
    message::{Status, StatusRequest, SubmitRequest},
};
use ghost_protocol::{
    Identity, Session,
    class::{Class, ClassTable},
    client::{ClientConfig, Connector},
    inbox::Asked,
    request::RequestError,
    session::Delivery,
    tally::Event,
    transport::{ClosedBy, ReadError, quic::Dialled},
};
use ghost_testnet::sim::{
    Fault, NodeId, Path, Peer, Rate, Setup, World,
    adversary::{Raw, stream_bytes},
    world::Happened,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

const NODE: NodeId = NodeId(0);
const ASKER: NodeId = NodeId(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// Two nodes with a session between them, as the second sees it.
async fn pair(path: Path) -> (World<Peer>, Session) {
    let world = World::of_peers(1, path, 2, &Setup::default()).await.unwrap();
    let session = world.dial(ASKER, NODE).await.unwrap();
    (world, session)
}

fn status_request() -> EncodedFrame {
    StatusRequest {}.to_frame()
}

fn status(version: &str) -> EncodedFrame {
    Status { version: version.into(), ..Status::default() }.to_frame()
}

/// Answers every status request at once.
fn serve_status(mut requests: mpsc::Receiver<Asked>) {
    tokio::spawn(async move {
        while let Some(asked) = requests.recv().await {
            let early = if asked.session.is_none() { "early" } else { "late" };
            let _ = asked.responder.answer(&status(early)).await;
        }
    });
}

#[tokio::test(start_paused = true)]
async fn an_answer_takes_one_round_trip() {
    let (mut world, session) = pair(Path::ms(50)).await;
    serve_status(world.node_mut(NODE).requests(StreamType::Rpc));
    let started = Instant::now();
    let answer = session.request(StreamType::Rpc, &status_request(), PATIENCE).await.unwrap();
    assert!(matches!(answer.single().await, Ok(Frame::Status(_))));
    assert!(started.elapsed() <= Duration::from_millis(102), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_answer_cancels_the_work_within_half_a_round_trip() {
    let (mut world, session) = pair(Path::ms(50)).await;
    let mut requests = world.node_mut(NODE).requests(StreamType::Rpc);
    let answer = session.request(StreamType::Rpc, &status_request(), PATIENCE).await.unwrap();
    let mut asked = requests.recv().await.unwrap();
    let still_wanted = timeout(Duration::from_secs(2), asked.responder.cancelled()).await;
    assert!(still_wanted.is_err(), "nobody cancelled yet");
    let dropped = Instant::now();
    drop(answer);
    timeout(PATIENCE, asked.responder.cancelled()).await.unwrap();
    assert!(dropped.elapsed() <= Duration::from_millis(52), "{:?}", dropped.elapsed());
    assert!(asked.responder.send(&status("")).await.is_err(), "what it makes now is not wanted");
}

#[tokio::test(start_paused = true)]
async fn a_request_dropped_in_mid_write_is_cancelled_and_costs_nobody_the_connection() {
    // 64 kB/s: the request of 256 KiB takes four seconds to send.
    let slow = Path::ms(10).with_rate(Rate::new(64_000, Duration::from_millis(100)));
    let (mut world, session) = pair(slow).await;
    let _requests = world.node_mut(NODE).requests(StreamType::Rpc);
    let large = SubmitRequest { transactions: vec![Bytes::from(vec![0; 1024]); 250], privacy: 0 }.to_frame();
    let asking: Vec<_> = (0..12)
        .map(|_| {
            let (session, large) = (session.clone(), large.clone());
            tokio::spawn(async move { session.request(StreamType::Rpc, &large, PATIENCE * 10).await })
        })
        .collect();
    sleep(Duration::from_secs(1)).await;
    for ask in asking {
        ask.abort();
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(session.link().close_reason(), None);
    for id in [NODE, ASKER] {
        let closed = world.node(id).overlay.tally().get(Event::ClosedByUs(Code::Malformed));
        assert_eq!(closed, 0);
        assert_eq!(world.node(id).overlay.sessions().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_is_waited_for_as_long_as_was_said() {
    let (mut world, session) = pair(Path::ms(50)).await;
    let mut requests = world.node_mut(NODE).requests(StreamType::Rpc);
    for patience in [300, 3_000] {
        let patience = Duration::from_millis(patience);
        let started = Instant::now();
        let answer = session.request(StreamType::Rpc, &status_request(), patience).await.unwrap();
        assert_eq!(answer.single().await.unwrap_err(), RequestError::TimedOut(patience));
        let elapsed = started.elapsed();
        assert!(elapsed >= patience && elapsed <= patience + Duration::from_millis(2), "{elapsed:?}");
        // The other side learns that nobody waits any more.
        let mut asked = requests.recv().await.unwrap();
        timeout(PATIENCE, asked.responder.cancelled()).await.unwrap();
        let known = started.elapsed();
        assert!(known <= patience + Duration::from_millis(53), "{known:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_request_too_many_is_refused_as_busy_and_the_others_are_served() {
    for (stream, frame) in [
        (StreamType::BlockFetch, EncodedFrame::new(Kind(0x21), &[7; 32])),
        (StreamType::TxFetch, EncodedFrame::new(Kind(0x11), &[7; 8])),
        (StreamType::Discovery, EncodedFrame::new(Kind(0x50), &[0, 1])),
    ] {
        let (mut world, session) = pair(Path::ms(10)).await;
        let mut requests = world.node_mut(NODE).requests(stream);
        let most = ClassTable::default().spec(Class::of(stream)).concurrent_requests;
        let mut answers = Vec::new();
        let mut held = Vec::new();
        for _ in 0..most {
            answers.push(session.request(stream, &frame, PATIENCE).await.unwrap());
            held.push(requests.recv().await.unwrap());
        }
        let started = Instant::now();
        let refused = session.request(stream, &frame, PATIENCE).await.unwrap().single().await.unwrap_err();
        assert_eq!(refused, RequestError::Refused(Code::Busy), "{stream:?}: the {most} and one more");
        assert!(started.elapsed() <= Duration::from_millis(22), "{:?}", started.elapsed());
        assert!(requests.try_recv().is_err());
        // One is done: there is room for one.
        held.pop().unwrap().responder.refuse(Code::Internal);
        let refused = answers.pop().unwrap().single().await.unwrap_err();
        assert_eq!(refused, RequestError::Refused(Code::Internal));
        let again = session.request(stream, &frame, PATIENCE).await.unwrap();
        held.push(requests.recv().await.unwrap());
        drop(again);
        assert_eq!(world.node(NODE).overlay.tally().get(Event::ResetByUs(Code::Busy)), 2, "both halves");
        assert_eq!(session.link().close_reason(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_lags_behind_makes_askers_busy_and_not_the_node() {
    let setup = Setup { capacity: 4, ..Setup::default() };
    let world = World::of_peers(1, Path::ms(10), 2, &setup).await.unwrap();
    let session = world.dial(ASKER, NODE).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(session.request(StreamType::Rpc, &status_request(), PATIENCE).await.unwrap());
        sleep(Duration::from_millis(50)).await;
    }
    let fifth = answers.pop().unwrap().single().await.unwrap_err();
    assert_eq!(fifth, RequestError::Refused(Code::Busy));
    assert_eq!(answers.pop().unwrap().single().await.unwrap_err(), RequestError::TimedOut(PATIENCE));
}

#[tokio::test(start_paused = true)]
async fn a_responder_that_is_dropped_says_so() {
    let (mut world, session) = pair(Path::ms(10)).await;
    let mut requests = world.node_mut(NODE).requests(StreamType::Rpc);
    let answer = session.request(StreamType::Rpc, &status_request(), PATIENCE).await.unwrap();
    drop(requests.recv().await.unwrap());
    assert_eq!(answer.single().await.unwrap_err(), RequestError::Refused(Code::Internal));
}

#[tokio::test(start_paused = true)]
async fn the_bytes_of_requests_are_held_to_their_quota_too() {
    // A tenth of the default, so that the network is not what holds them back.
    let mut setup = Setup::default();
    setup.table.spec_mut(Class::Rpc).bytes_per_second = 1 << 20;
    let mut world = World::of_peers(1, Path::ms(1), 2, &setup).await.unwrap();
    let session = world.dial(ASKER, NODE).await.unwrap();
    serve_status(world.node_mut(NODE).requests(StreamType::Rpc));
    let large = SubmitRequest { transactions: vec![Bytes::from(vec![0; 1024]); 250], privacy: 0 }.to_frame();
    assert!(large.len() > TX_BATCH_BYTES_MAX - 8 * 1024);
    let started = Instant::now();
    for _ in 0..40 {
        let answer = session.request(StreamType::Rpc, &large, PATIENCE).await.unwrap();
        answer.single().await.unwrap();
    }
    // 10 MB at 1 MiB/s, of which two seconds' worth come at once.
    let least = (40 * large.len()) as f64 / f64::from(1 << 20) - 2.0;
    let elapsed = started.elapsed().as_secs_f64();
    assert!(elapsed > least - 0.3 && elapsed < least + 1.5, "{elapsed} s, {least} s by the quota");
}

#[tokio::test(start_paused = true)]
async fn a_ping_ends_with_its_session() {
    let (world, session) = pair(Path::ms(10)).await;
    world.wire().apply(Fault::Partition(vec![vec![NODE]]));
    let pinging = {
        let session = session.clone();
        tokio::spawn(async move { session.ping(Duration::from_secs(1_000)).await })
    };
    sleep(Duration::from_secs(1)).await;
    session.close(Code::Dropped, "");
    let ended = timeout(Duration::from_secs(1), pinging).await.expect("at once").unwrap();
    assert!(matches!(ended, Err(RequestError::Disconnected(_))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_delivers_what_is_queued_and_answers_what_was_asked() {
    // 200 kB/s: what is queued takes seconds to send.
    let slow = Path::ms(40).with_rate(Rate::new(200_000, Duration::from_millis(300)));
    let (mut world, session) = pair(slow).await;
    let mut pushes = world.node_mut(NODE).pushes(StreamType::TxPush);
    let mut requests = world.node_mut(ASKER).requests(StreamType::Rpc);
    let there = world.node(NODE).overlay.sessions()[0].clone();
    let entry =
        |n| ghost_frames::tx::TxAnnounceEntry { id: ghost_frames::tx::ShortId(n), bytes: 250, fee_class: 0 };
    let mut queued = 0_u64;
    while session.queued_bytes(StreamType::TxPush) < 500_000 {
        let frame = ghost_frames::tx::TxAnnounce { entries: vec![entry(queued); 100] }.to_frame();
        assert_eq!(session.push(StreamType::TxPush, &frame), Delivery::Queued);
        queued += 1;
    }
    // A long answer is made at the last moment.
    let asking = tokio::spawn(async move {
        let answer =
            there.request(StreamType::Rpc, &status_request(), Duration::from_secs(20)).await.unwrap();
        answer.single().await
    });
    let asked = requests.recv().await.unwrap();
    tokio::spawn(async move {
        let rows = "x".repeat(15_000);
        asked.responder.answer(&status(&rows)).await.unwrap();
    });
    let started = Instant::now();
    world.node(ASKER).overlay.shut_down(Duration::from_secs(30)).await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}: it does not wait for its patience to end");
    let mut seen = 0;
    while let Ok(Some(pushed)) = timeout(Duration::from_secs(1), pushes.recv()).await {
        for frame in pushed.frames {
            let Frame::TxAnnounce(announce) = frame else { panic!("{frame:?}") };
            assert_eq!(announce.entries[0].id.0, seen);
            seen += 1;
        }
    }
    assert_eq!(seen, queued);
    let answer = asking.await.unwrap();
    assert!(matches!(&answer, Ok(Frame::Status(_))), "{answer:?}");
    let node = world.node(NODE);
    let is_down = |event: &Happened| match event {
        Happened::Down(_, _, closed) => {
            closed.by == ClosedBy::Peer && closed.code == Some(Code::ShuttingDown)
        }
        _ => false,
    };
    assert!(node.wait_for(Duration::from_secs(1), is_down).await.is_some(), "{:?}", node.log());
    // Nothing is taken any more.
    let frame = ghost_frames::tx::TxAnnounce { entries: vec![entry(0)] }.to_frame();
    assert_eq!(session.push(StreamType::TxPush, &frame), Delivery::Closed);
    assert_eq!(world.node(ASKER).overlay.open_connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_the_dead() {
    let (world, session) = pair(Path::ms(40)).await;
    world.wire().apply(Fault::Down(NODE));
    let frame = ghost_frames::tx::TxAnnounce {
        entries: vec![ghost_frames::tx::TxAnnounceEntry {
            id: ghost_frames::tx::ShortId(1),
            bytes: 250,
            fee_class: 0,
        }],
    };
    session.push(StreamType::TxPush, &frame.to_frame());
    let started = Instant::now();
    world.node(ASKER).overlay.shut_down(Duration::from_secs(3)).await;
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(3) && took <= Duration::from_millis(6_100), "{took:?}");
}

/// A client's connector at a seat of its own.
fn connector(world: &mut World<Peer>) -> Connector {
    let seat = world.seat();
    let identity = Identity::from_seed(&[77; 32]);
    Connector::with_socket(ClientConfig::new(identity), seat.socket()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_early_question_is_answered_before_the_node_knows_who_asks() {
    let mut world = World::of_peers(1, Path::ms(50), 1, &Setup::default()).await.unwrap();
    serve_status(world.node_mut(NODE).requests(StreamType::Rpc));
    let address = world.node(NODE).multiaddr();
    let connector = connector(&mut world);
    let question = Frame::from(StatusRequest {});
    let mut took = Vec::new();
    for expected in ["late", "early", "early"] {
        let started = Instant::now();
        let (answer, connecting) = connector.connect_asking(&address, &question).await.unwrap();
        took.push(started.elapsed());
        let client = connecting.client().await.unwrap();
        assert!(started.elapsed() <= Duration::from_millis(203), "{:?}", started.elapsed());
        let Frame::Status(status) = answer else { panic!("{answer:?}") };
        assert_eq!(status.version, expected);
        // The connection is whole: it takes what is not safe to repeat, and needs no new handshake.
        client.status().await.unwrap();
        client.close().await;
    }
    // Without a ticket a handshake comes first: two round trips. With one, the question goes at once, and
    // its answer does not wait for the handshake and the hello that the client needs.
    let most = [203, 103, 103].map(Duration::from_millis);
    assert!(took.iter().zip(&most).all(|(took, most)| took <= most), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_dropped_closes_its_connection_and_its_streams_keep_it() {
    let mut world = World::of_peers(1, Path::ms(50), 1, &Setup::default()).await.unwrap();
    serve_status(world.node_mut(NODE).requests(StreamType::Rpc));
    let mut events = world.node_mut(NODE).requests(StreamType::Events);
    let address = world.node(NODE).multiaddr();
    let connector = connector(&mut world);
    let client = connector.connect(&address).await.unwrap();
    let (heads, asked) = tokio::join!(client.heads(), events.recv());
    let (heads, _asked) = (heads.unwrap(), asked.unwrap());
    drop(client);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.node(NODE).overlay.clients().len(), 1);
    drop(heads);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.node(NODE).overlay.clients().len(), 0);
    assert_eq!(world.node(NODE).overlay.tally().get(Event::ClosedByPeer(Code::Done)), 1);
}

#[tokio::test(start_paused = true)]
async fn discarded_early_data_is_asked_again() {
    let setup = Setup::default();
    let mut world = World::of_peers(1, Path::ms(50), 1, &setup).await.unwrap();
    serve_status(world.node_mut(NODE).requests(StreamType::Rpc));
    let address = world.node(NODE).multiaddr();
    let connector = connector(&mut world);
    let question = Frame::from(StatusRequest {});
    let (_, connecting) = connector.connect_asking(&address, &question).await.unwrap();
    connecting.client().await.unwrap().close().await;
    // The node forgets its tickets with its life.
    world.restart(NODE, async |seat| Peer::start(seat, setup.clone()).await).await.unwrap();
    serve_status(world.node_mut(NODE).requests(StreamType::Rpc));
    let (answer, connecting) = connector.connect_asking(&address, &question).await.unwrap();
    let client = connecting.client().await.unwrap();
    let Frame::Status(status) = answer else { panic!("{answer:?}") };
    assert_eq!(status.version, "late");
    client.close().await;
    // The new ticket is good again.
    let (answer, connecting) = connector.connect_asking(&address, &question).await.unwrap();
    let client = connecting.client().await.unwrap();
    assert!(matches!(answer, Frame::Status(status) if status.version == "early"));
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_safe_to_repeat_is_refused_early_and_the_connection_lives() {
    let mut world = World::of_peers(1, Path::ms(20), 1, &Setup::default()).await.unwrap();
    let mut rpc = world.node_mut(NODE).requests(StreamType::Rpc);
    let mut fetches = world.node_mut(NODE).requests(StreamType::TxFetch);
    let seat = world.seat();
    let raw = Raw::start(&seat).unwrap();
    let (peer, address) = (world.node(NODE).peer_id(), world.node(NODE).address);
    // The first connection leaves a ticket.
    let link = raw.dial(peer, address).await.unwrap();
    let control = raw.greet(&link, &raw.hello(Setup::default().genesis)).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    drop(control);
    link.close(Code::Done, "");
    sleep(Duration::from_secs(1)).await;

    let submit = SubmitRequest { transactions: vec![Bytes::from_static(&[1; 64])], privacy: 0 }.to_frame();
    let unsafe_early = [
        (StreamType::Rpc, submit),
        (StreamType::TxFetch, EncodedFrame::new(Kind(0x11), &[7; 8])),
        (StreamType::Control, status_request()),
    ];
    let Dialled::Early(early) = raw.dial_early(peer, address).await.unwrap() else { panic!("no ticket") };
    let mut streams = Vec::new();
    for (stream, frame) in &unsafe_early {
        let (mut send, recv) = early.open_bi().await.unwrap();
        send.write_all(&stream_bytes(stream.number(), frame.bytes())).await.unwrap();
        send.finish().unwrap();
        streams.push(recv);
    }
    let (mut send, mut safe) = early.open_bi().await.unwrap();
    send.write_all(&stream_bytes(StreamType::Rpc.number(), status_request().bytes())).await.unwrap();
    send.finish().unwrap();
    let (link, accepted) = early.confirmed().await.unwrap();
    assert!(accepted);
    for mut recv in streams {
        let end = recv.read_to_end(100).await.unwrap_err();
        assert_eq!(end, ReadError::Reset(Code::TooEarly));
    }
    // The safe one among them is served, by nobody known.
    let asked = rpc.recv().await.unwrap();
    assert!(asked.session.is_none());
    asked.responder.answer(&status("early")).await.unwrap();
    let bytes = safe.read_to_end(1_000).await.unwrap();
    let mut reader = FrameReader::new(StreamType::Rpc);
    reader.push(&bytes);
    assert!(matches!(reader.next(), Ok(Some(Frame::Status(_)))));
    assert!(rpc.try_recv().is_err() && fetches.try_recv().is_err());
    // And the connection becomes a session like any other.
    let _control = raw.greet(&link, &raw.hello(Setup::default().genesis)).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(link.close_reason(), None);
    assert_eq!(world.node(NODE).overlay.sessions().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_client_of_a_connector_closes_while_another_lives() {
    let mut world = World::of_peers(1, Path::ms(10), 1, &Setup::default()).await.unwrap();
    serve_status(world.node_mut(NODE).requests(StreamType::Rpc));
    let address = world.node(NODE).multiaddr();
    let connector = connector(&mut world);
    let one = connector.connect(&address).await.unwrap();
    let other = connector.connect(&address).await.unwrap();
    let started = Instant::now();
    one.close().await;
    assert!(started.elapsed() <= Duration::from_millis(510), "{:?}", started.elapsed());
    other.status().await.unwrap();
    assert_eq!(world.node(NODE).overlay.clients().len(), 1);
    other.close().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.node(NODE).overlay.clients().len(), 0);
}
