//! Sessions over streams of bytes: what they promise on QUIC they keep here.
//!
//! In memory and in virtual time, and once over TCP: Tor gives nothing but such streams.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use ghost_frames::{
    Code, EncodedFrame, Frame, Payload, StreamType,
    block::BlocksRequest,
    control::Ping,
    kind::GREASE_FIRST,
    tx::{ShortId, TxAnnounce, TxAnnounceEntry},
};
use ghost_proto::{BlockId, GenesisId, layout::put_varint};
use ghost_protocol::{
    Identity, Overlay, Session,
    class::{Class, ClassTable},
    handshake::{HelloError, LocalHello, Role},
    inbox::{Asked, InboxBuilder, Pushed},
    overlay::{ConnectError, Gate, OnionFace, OverlayConfig, OverlayEvent},
    request::RequestError,
    session::{Delivery, Direction, SessionContext},
    tally::Event,
    transport::{
        Carrier, ClosedBy, Connecting, DialError, Isolation, Link, Onion, ReadError, Remote,
        stream::{BoxedStream, OPENED_MAX, StreamEndpoint},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that a stream between two nodes holds.
const PIPE_BYTES: usize = 64 * 1024;

/// Leads from onion addresses to overlays, and remembers which paths were asked for.
#[derive(Default)]
struct Wires {
    ends: Mutex<BTreeMap<Onion, Overlay>>,
    asked: Mutex<Vec<Isolation>>,
}

impl Carrier for Wires {
    fn connect(&self, onion: Onion, isolation: Isolation) -> Connecting<'_> {
        self.asked.lock().unwrap().push(isolation);
        let end = self.ends.lock().unwrap().get(&onion).cloned();
        Box::pin(async move {
            let end = end.ok_or_else(|| io::Error::other("nobody publishes that"))?;
            let (near, far) = duplex(PIPE_BYTES);
            tokio::spawn(async move { end.accept_stream(Box::new(far), Remote::Tor).await });
            Ok(Box::new(near) as BoxedStream)
        })
    }
}

fn onion(number: u8) -> Onion {
    Onion { name: [number; 35], port: 4001 }
}

fn identity(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

struct Node {
    overlay: Overlay,
    events: mpsc::Receiver<OverlayEvent>,
    announced: mpsc::Receiver<Pushed>,
    asked: mpsc::Receiver<Asked>,
    at: Onion,
}

fn hello(seed: u8, inbox: &ghost_protocol::inbox::Inbox) -> LocalHello {
    LocalHello {
        genesis: Some(GenesisId([1; 32])),
        serves: inbox.serves(),
        user_agent: "test".into(),
        record: None,
        best: (0, BlockId::ZERO),
        finalized_height: 0,
        nonce: seed.into(),
        role: Role::Node,
        tx_salt: Some([seed; 16]),
    }
}

/// A node whose key is of `seed` over IP, which it does not speak here, and of `seed + 100` behind Tor.
fn node(wires: &Arc<Wires>, seed: u8) -> Node {
    let mut inbox = InboxBuilder::new();
    let announced = inbox.pushes(StreamType::TxPush, 4);
    let asked = inbox.requests(StreamType::Sync, 64);
    let inbox = inbox.build();
    let config = OverlayConfig {
        onion: Some(OnionFace {
            identity: identity(seed + 100),
            hello: hello(seed + 100, &inbox),
            carrier: wires.clone(),
        }),
        dials_ip: false,
        identity: identity(seed),
        hello: hello(seed, &inbox),
        context: SessionContext { inbox, ..SessionContext::default() },
        gate: Gate::default(),
        rng_seed: None,
    };
    let (overlay, events) = Overlay::start(config, Vec::new()).unwrap();
    assert_eq!(overlay.local_addresses(), [], "not one socket");
    let at = onion(seed);
    wires.ends.lock().unwrap().insert(at, overlay.clone());
    Node { overlay, events, announced, asked, at }
}

impl Node {
    fn peer(&self) -> ghost_proto::PeerId {
        self.overlay.onion_peer_id().unwrap()
    }

    async fn up(&mut self) -> Session {
        loop {
            match timeout(PATIENCE, self.events.recv()).await.expect("in time").expect("it runs") {
                OverlayEvent::Up(session) => return session,
                other => drop(other),
            }
        }
    }
}

async fn pair() -> (Arc<Wires>, Node, Node, Session, Session) {
    let wires = Arc::new(Wires::default());
    let (mut one, mut two) = (node(&wires, 1), node(&wires, 2));
    let session = one.overlay.dial(two.peer(), two.at).await.unwrap();
    let back = two.up().await;
    one.up().await;
    (wires, one, two, session, back)
}

fn announce(number: u64) -> EncodedFrame {
    TxAnnounce { entries: vec![TxAnnounceEntry { id: ShortId(number), bytes: 250, fee_class: 0 }] }.to_frame()
}

fn question() -> EncodedFrame {
    BlocksRequest { ids: vec![BlockId([3; 32])] }.to_frame()
}

fn filler(bytes: usize) -> EncodedFrame {
    EncodedFrame::new(GREASE_FIRST, &vec![7; bytes])
}

/// Pushes one way, asks the other way, and checks that all of it came.
async fn exchange(session: &Session, two: &mut Node) {
    for number in 0..50 {
        while session.push(StreamType::TxPush, &announce(number)) != Delivery::Queued {
            sleep(Duration::from_millis(10)).await;
        }
    }
    let mut seen = 0;
    while seen < 50 {
        let pushed = timeout(PATIENCE, two.announced.recv()).await.unwrap().unwrap();
        for frame in pushed.frames {
            let Frame::TxAnnounce(announce) = frame else { panic!("{frame:?}") };
            assert_eq!(announce.entries[0].id, ShortId(seen));
            seen += 1;
        }
    }
    let answering = async {
        let asked = two.asked.recv().await.unwrap();
        let mut responder = asked.responder;
        // More than any window on the way.
        for _ in 0..40 {
            responder.send(&filler(32 << 10)).await.unwrap();
        }
        responder.send(&Ping(7).to_frame()).await.unwrap();
        responder.finish();
    };
    let asking = async {
        let answer = session.request(StreamType::Sync, &question(), PATIENCE).await.unwrap();
        // Frames of reserved kinds are skipped; a ping is none that may stand here, and comes last.
        let error = answer.single().await.unwrap_err();
        assert!(matches!(error, RequestError::Undecodable(_)), "{error}");
    };
    tokio::join!(answering, asking);
}

#[tokio::test(start_paused = true)]
async fn pushes_and_requests_go_over_a_stream_of_bytes() {
    let (wires, mut one, mut two, session, back) = pair().await;
    assert_eq!((session.direction(), back.direction()), (Direction::Outbound, Direction::Inbound));
    assert_eq!((session.remote(), back.remote()), (Remote::Onion(two.at), Remote::Tor));
    assert_eq!(back.hello().observed, None, "behind Tor nobody is seen anywhere");
    assert_eq!(session.short_id_key(), back.short_id_key());
    assert!(session.short_id_key().is_some());
    exchange(&session, &mut two).await;
    exchange(&back, &mut one).await;
    session.ping(PATIENCE).await.unwrap();
    assert!(session.send_datagram(Bytes::from_static(b"x")).is_err(), "there are none");
    let (received, sent) = session.wire_bytes();
    assert!(received > 1 << 20 && sent > 1 << 20, "{received} {sent}");
    assert_eq!(*wires.asked.lock().unwrap(), [Isolation::Peer(two.peer())], "a path for this peer alone");
}

#[tokio::test(start_paused = true)]
async fn what_is_said_behind_tor_is_not_what_is_said_elsewhere() {
    let (_wires, one, _two, session, back) = pair().await;
    assert_eq!(back.peer(), identity(101).peer_id());
    assert_ne!(one.overlay.peer_id(), back.peer());
    assert_eq!(back.hello().nonce, 101);
    assert_eq!(back.hello().tx_salt, Some([101; 16]));
    assert_eq!(session.own_salt(), Some([101; 16]));
    one.overlay.update_clear_hello(|hello| hello.best = (7, BlockId::ZERO));
    one.overlay.update_onion_hello(|hello| hello.best = (9, BlockId::ZERO));
    session.close(Code::Done, "");
    let wires = _wires;
    let mut three = node(&wires, 3);
    one.overlay.dial(three.peer(), three.at).await.unwrap();
    assert_eq!(three.up().await.hello().best.0, 9);
}

#[tokio::test(start_paused = true)]
async fn an_identity_mismatch_blames_nobody_and_we_are_never_dialled() {
    let wires = Arc::new(Wires::default());
    let (one, two) = (node(&wires, 1), node(&wires, 2));
    let error = one.overlay.dial(identity(9).peer_id(), two.at).await.unwrap_err();
    match error {
        ConnectError::Dial(DialError::IdentityMismatch { peer, address }) => {
            assert_eq!((peer, address), (identity(9).peer_id(), Remote::Onion(two.at)));
        }
        other => panic!("{other}"),
    }
    assert_eq!(one.overlay.tally().get(Event::IdentityMismatch), 1);
    for us in [one.overlay.peer_id(), one.peer()] {
        let error = one.overlay.dial(us, one.at).await.unwrap_err();
        assert!(matches!(error, ConnectError::Hello(HelloError::SelfDial)), "{error}");
    }
    // Nobody publishes that; and IP is not spoken.
    let error = one.overlay.dial(two.peer(), onion(77)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Dial(DialError::Refused { .. })), "{error}");
    let address: std::net::SocketAddr = "127.0.0.1:9".parse().unwrap();
    let error = one.overlay.dial(two.peer(), address).await.unwrap_err();
    assert!(matches!(error, ConnectError::Dial(DialError::Local { .. })), "{error}");
    assert_eq!(one.overlay.sessions().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cross_dial_leaves_one_session_and_loses_nothing() {
    let wires = Arc::new(Wires::default());
    let (one, mut two) = (node(&wires, 1), node(&wires, 2));
    let (there, back) =
        tokio::join!(one.overlay.dial(two.peer(), two.at), two.overlay.dial(one.peer(), one.at));
    there.unwrap();
    back.unwrap();
    sleep(Duration::from_secs(5)).await;
    let (ours, theirs) =
        (one.overlay.session(&two.peer()).unwrap(), two.overlay.session(&one.peer()).unwrap());
    assert_ne!(ours.direction(), theirs.direction(), "the same connection");
    assert_eq!(ours.short_id_key(), theirs.short_id_key());
    assert_eq!(one.overlay.open_connections(), 1, "the other is gone");
    let dialled_by_one = one.peer().to_bytes() < two.peer().to_bytes();
    assert_eq!(ours.direction() == Direction::Outbound, dialled_by_one);
    exchange(&ours, &mut two).await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_request_stops_and_a_refused_one_says_why() {
    let (_wires, _one, mut two, session, _back) = pair().await;
    let answer = session.request(StreamType::Sync, &question(), PATIENCE).await.unwrap();
    let mut asked = two.asked.recv().await.unwrap();
    assert!(timeout(Duration::from_secs(1), asked.responder.cancelled()).await.is_err(), "still wanted");
    drop(answer);
    timeout(Duration::from_secs(1), asked.responder.cancelled()).await.expect("heard");
    drop(asked);

    let answer = session.request(StreamType::Sync, &question(), PATIENCE).await.unwrap();
    two.asked.recv().await.unwrap().responder.refuse(Code::Busy);
    assert_eq!(answer.single().await.unwrap_err(), RequestError::Refused(Code::Busy));
    // Many, one after the other: places come back.
    for _ in 0..200 {
        let answer = session.request(StreamType::Sync, &question(), PATIENCE).await.unwrap();
        two.asked.recv().await.unwrap().responder.refuse(Code::Busy);
        answer.single().await.unwrap_err();
    }
    // One more at once than are served.
    let table = ClassTable::default();
    let most = usize::from(table.spec(Class::Sync).concurrent_requests);
    let mut kept = Vec::new();
    for _ in 0..most {
        kept.push(session.request(StreamType::Sync, &question(), PATIENCE).await.unwrap());
    }
    sleep(Duration::from_millis(100)).await;
    let answer = session.request(StreamType::Sync, &question(), PATIENCE).await.unwrap();
    assert_eq!(answer.single().await.unwrap_err(), RequestError::Refused(Code::Busy));
}

#[tokio::test(start_paused = true)]
async fn who_reads_nothing_holds_up_nobody_else() {
    let (_wires, _one, mut two, session, back) = pair().await;
    // Nobody takes what is pushed to the second node, and nobody reads what it answers.
    let _unread = session.request(StreamType::Sync, &question(), Duration::from_secs(60)).await.unwrap();
    let mut asked = two.asked.recv().await.unwrap();
    let flood = tokio::spawn(async move {
        let mut sent = 0;
        while asked.responder.send(&filler(32 << 10)).await.is_ok() {
            sent += 32 << 10;
        }
        sent
    });
    let mut number = 0;
    while session.push(StreamType::TxPush, &announce(number)) == Delivery::Queued {
        number += 1;
        tokio::task::yield_now().await;
    }
    for session in [&session, &back] {
        let took = session.ping(PATIENCE).await.unwrap();
        assert!(took < Duration::from_millis(200), "{took:?}");
    }
    let queued = session.queued_bytes(StreamType::TxPush);
    assert!(queued <= ClassTable::default().spec(Class::Tx).queue_bytes, "{queued}");
    // The answer is given up as too slow, at what its windows and queues hold.
    let sent = flood.await.unwrap();
    assert!(sent < 1 << 20, "{sent}");
    session.ping(PATIENCE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_queued_arrives_before_a_drained_session_closes() {
    let (_wires, _one, mut two, session, back) = pair().await;
    for number in 0..1000 {
        while session.push(StreamType::TxPush, &announce(number)) != Delivery::Queued {
            sleep(Duration::from_millis(1)).await;
        }
    }
    let draining = session.clone();
    let drain = tokio::spawn(async move {
        draining.drain(Code::ShuttingDown, "going", false, Duration::from_secs(30)).await;
    });
    let mut seen = 0;
    while seen < 1000 {
        seen += timeout(PATIENCE, two.announced.recv()).await.unwrap().unwrap().frames.len();
    }
    drain.await.unwrap();
    let closed = timeout(PATIENCE, back.closed()).await.unwrap();
    assert_eq!((closed.by, closed.code), (ClosedBy::Peer, Some(Code::ShuttingDown)));
    assert_eq!(closed.reason, "going");
}

/// Two ends of a link without a session above.
async fn links(bytes: usize) -> (Link, Link, StreamEndpoint, StreamEndpoint) {
    let (near, far) = duplex(bytes);
    let (one, two) = (StreamEndpoint::new(&identity(1)).unwrap(), StreamEndpoint::new(&identity(2)).unwrap());
    let (dialled, accepted) =
        tokio::join!(one.dial(near, identity(2).peer_id(), onion(2).into()), two.accept(far, Remote::Tor));
    (dialled.unwrap(), accepted.unwrap(), one, two)
}

#[tokio::test(start_paused = true)]
async fn ends_resets_and_stops_say_what_they_say_on_quic() {
    let (one, two, ..) = links(PIPE_BYTES).await;
    // An end, acknowledged when all of it was taken.
    let mut send = one.open_uni().await.unwrap();
    send.write_all(&[7; 100_000]).await.unwrap();
    send.finish().unwrap();
    let stopped = send.stopped();
    tokio::pin!(stopped);
    assert!(timeout(Duration::from_secs(1), &mut stopped).await.is_err(), "nobody has it yet");
    let mut recv = two.accept_uni().await.unwrap();
    assert_eq!(recv.read_to_end(200_000).await.unwrap().len(), 100_000);
    assert_eq!(timeout(Duration::from_secs(1), stopped).await.unwrap(), Ok(None));
    // A reset, with its code.
    let mut send = one.open_uni().await.unwrap();
    send.write_all(b"half").await.unwrap();
    send.reset(Code::Stalled).unwrap();
    let mut recv = two.accept_uni().await.unwrap();
    assert_eq!(recv.read_to_end(100).await, Err(ReadError::Reset(Code::Stalled)));
    // A stop, with its code, also for a writer that is stuck.
    let mut send = one.open_uni().await.unwrap();
    send.write_all(b"x").await.unwrap();
    let mut recv = two.accept_uni().await.unwrap();
    let writing = tokio::spawn(async move {
        loop {
            if let Err(error) = send.write_all(&[0; 50_000]).await {
                return error;
            }
        }
    });
    sleep(Duration::from_secs(1)).await;
    recv.stop(Code::Busy).unwrap();
    let error = timeout(Duration::from_secs(1), writing).await.unwrap().unwrap();
    assert_eq!(error, ghost_protocol::transport::WriteError::Stopped(Code::Busy));
    // Two ways at once, each ending for itself.
    let (mut send, mut recv) = one.open_bi().await.unwrap();
    send.write_all(b"question").await.unwrap();
    send.finish().unwrap();
    let (mut answer, mut question) = two.accept_bi().await.unwrap();
    assert_eq!(question.read_to_end(100).await.unwrap(), b"question");
    answer.write_all(b"answer").await.unwrap();
    drop(answer);
    assert_eq!(recv.read_to_end(100).await.unwrap(), b"answer");
    // A close, with code and reason, while much is under way.
    let mut send = one.open_uni().await.unwrap();
    let writing = tokio::spawn(async move { send.write_all(&[0; 10_000_000]).await });
    sleep(Duration::from_secs(1)).await;
    two.close(Code::Flooding, "enough");
    let closed = timeout(Duration::from_secs(3), one.closed()).await.unwrap();
    assert_eq!(
        (closed.by, closed.code, closed.reason.as_str()),
        (ClosedBy::Peer, Some(Code::Flooding), "enough")
    );
    assert!(matches!(writing.await.unwrap(), Err(ghost_protocol::transport::WriteError::Lost(_))));
    assert!(one.open_uni().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_link_on_which_nothing_is_heard_is_lost_after_thirty_seconds() {
    let (near, far) = duplex(PIPE_BYTES);
    let (one, two) = (StreamEndpoint::new(&identity(1)).unwrap(), StreamEndpoint::new(&identity(2)).unwrap());
    // The wire between them can be cut without either end noticing.
    let (mut outer, inner) = duplex(PIPE_BYTES);
    let cut = Arc::new(tokio::sync::Notify::new());
    let cutting = cut.clone();
    tokio::spawn(async move {
        let mut far: DuplexStream = far;
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut far, &mut outer) => {}
            () = cutting.notified() => std::future::pending::<()>().await,
        }
    });
    let (dialled, accepted) =
        tokio::join!(one.dial(near, identity(2).peer_id(), onion(2).into()), two.accept(inner, Remote::Tor));
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    // Idle is not silent: both say something every few seconds.
    sleep(Duration::from_secs(120)).await;
    assert_eq!(dialled.close_reason(), None);
    assert!(dialled.rtt() < Duration::from_millis(100), "{:?}", dialled.rtt());
    cut.notify_one();
    let begun = Instant::now();
    for link in [&dialled, &accepted] {
        let closed = timeout(Duration::from_secs(60), link.closed()).await.unwrap();
        assert_eq!(closed.by, ClosedBy::Network);
    }
    let took = begun.elapsed();
    assert!((Duration::from_secs(20)..Duration::from_secs(50)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_is_refused_as_stalled_at_its_deadline() {
    let wires = Arc::new(Wires::default());
    let mut one = node(&wires, 1);
    let (near, far) = duplex(PIPE_BYTES);
    let overlay = one.overlay.clone();
    tokio::spawn(async move { overlay.accept_stream(Box::new(far), Remote::Tor).await });
    let endpoint = StreamEndpoint::new(&identity(9)).unwrap();
    let link = endpoint.dial(near, one.peer(), one.at.into()).await.unwrap();
    let mut control = link.open_uni().await.unwrap();
    let mut bytes = Vec::new();
    put_varint(&mut bytes, StreamType::Control.number());
    let inbox = InboxBuilder::new().build();
    bytes.extend_from_slice(hello(9, &inbox).message(None).to_frame().bytes());
    control.write_all(&bytes).await.unwrap();
    one.up().await;
    let mut push = link.open_uni().await.unwrap();
    let mut bytes = Vec::new();
    put_varint(&mut bytes, StreamType::TxPush.number());
    bytes.extend_from_slice(&announce(1).bytes()[..5]);
    push.write_all(&bytes).await.unwrap();
    let begun = Instant::now();
    assert_eq!(timeout(Duration::from_secs(20), push.stopped()).await.unwrap(), Ok(Some(Code::Stalled)));
    let took = begun.elapsed();
    assert!((Duration::from_millis(9_990)..Duration::from_millis(10_200)).contains(&took), "{took:?}");
    assert_eq!(link.close_reason(), None, "only that stream");
}

/// Yamux by hand (its specification): a client that opens streams and writes whatever it likes.
struct Rude {
    io: tokio_rustls::client::TlsStream<DuplexStream>,
}

impl Rude {
    async fn dial(io: DuplexStream) -> Self {
        let (_, mut client) = ghost_protocol::transport::quic::tls::configs(&identity(9)).unwrap();
        ghost_protocol::transport::quic::tls::disable_resumption(&mut client);
        let name = ghost_protocol::transport::quic::tls::server_name(&identity(2).peer_id()).unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let io = connector.connect(name.try_into().unwrap(), io).await.unwrap();
        Self { io }
    }

    async fn open(&mut self, stream: u32, bytes: &[u8]) -> io::Result<()> {
        let mut frame = vec![0, 0, 0, 1];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        frame.extend_from_slice(bytes);
        self.io.write_all(&frame).await?;
        self.io.flush().await
    }
}

#[tokio::test(start_paused = true)]
async fn streams_of_no_kind_no_segments_and_too_many_streams_end_the_link() {
    let too_many = OPENED_MAX as u32 + 1;
    for (what, opens, expected) in [
        ("a one-way stream in good order", vec![(3, vec![1, 0x10, 1, 2, 1])], None),
        ("no such kind of stream", vec![(3, vec![9])], Some(Code::ProtocolViolation)),
        ("no such segment", vec![(3, vec![1, 7])], Some(Code::ProtocolViolation)),
        ("data behind the end", vec![(3, vec![1, 1, 0x10, 1, 2])], Some(Code::ProtocolViolation)),
        ("a stop of what sends nothing", vec![(3, vec![1, 3])], Some(Code::ProtocolViolation)),
        ("a second stream of the link's own", vec![(3, vec![0])], Some(Code::ProtocolViolation)),
        (
            "as many streams as may be open",
            (1..too_many).map(|n| (2 * n + 1, vec![1, 0x10, 1])).collect(),
            None,
        ),
        (
            "one more",
            (1..=too_many).map(|n| (2 * n + 1, vec![1, 0x10, 1])).collect(),
            Some(Code::ProtocolViolation),
        ),
    ] {
        let (near, far) = duplex(PIPE_BYTES);
        let endpoint = StreamEndpoint::new(&identity(2)).unwrap();
        let (mut rude, link) = tokio::join!(Rude::dial(near), endpoint.accept(far, Remote::Tor));
        let link = link.unwrap();
        rude.open(1, &[0]).await.unwrap();
        let mut held = Vec::new();
        for (stream, bytes) in opens {
            let _ = rude.open(stream, &bytes).await;
            while let Ok(Ok(mut recv)) = timeout(Duration::from_millis(5), link.accept_uni()).await {
                let _ = timeout(Duration::from_millis(1), recv.read_to_end(100)).await;
                held.push(recv);
            }
        }
        sleep(Duration::from_secs(1)).await;
        let code = link.close_reason().map(|closed| (closed.by, closed.code));
        assert_eq!(code, expected.map(|code| (ClosedBy::Us, Some(code))), "{what}");
        let mut rest = [0; 100];
        if expected.is_none() {
            // It still answers pings.
            assert!(timeout(PATIENCE, rude.io.read(&mut rest)).await.unwrap().unwrap() > 0, "{what}");
        }
    }
}

/// Dials TCP instead of Tor.
struct Tcp(std::net::SocketAddr);

impl Carrier for Tcp {
    fn connect(&self, _: Onion, _: Isolation) -> Connecting<'_> {
        Box::pin(async { Ok(Box::new(TcpStream::connect(self.0).await?) as BoxedStream) })
    }
}

#[tokio::test]
async fn the_same_over_tcp() {
    let wires = Arc::new(Wires::default());
    let mut two = node(&wires, 2);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let overlay = two.overlay.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let overlay = overlay.clone();
            tokio::spawn(async move { overlay.accept_stream(Box::new(stream), Remote::Tor).await });
        }
    });
    let inbox = InboxBuilder::new().build();
    let config = OverlayConfig {
        onion: Some(OnionFace {
            identity: identity(1),
            hello: hello(1, &inbox),
            carrier: Arc::new(Tcp(address)),
        }),
        dials_ip: false,
        identity: identity(3),
        hello: hello(3, &inbox),
        context: SessionContext { inbox, ..SessionContext::default() },
        gate: Gate::default(),
        rng_seed: None,
    };
    let (overlay, _events) = Overlay::start(config, Vec::new()).unwrap();
    let session = overlay.dial(two.peer(), two.at).await.unwrap();
    two.up().await;
    exchange(&session, &mut two).await;
    overlay.shut_down(Duration::from_secs(5)).await;
    assert_eq!(overlay.open_connections(), 0);
}
