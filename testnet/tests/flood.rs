//! A whole node under a flood of handshake starts from addresses that are not the sender's.

#![allow(missing_docs, clippy::print_stdout)]

use std::{
    collections::VecDeque,
    fmt, io,
    io::IoSliceMut,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use ghost_node::{
    clock::Clock,
    config::Config,
    metrics::resident_bytes,
    run::{NodeParts, RunningNode, start_parts},
    store::MemoryStore,
};
use ghost_protocol::{
    Identity,
    tally::{Event, Tally},
    transport::quic::{Endpoint, Socket},
};
use ghost_testnet::sim::{NetworkPlan, Path, Peer, Setup, World, network::genesis_of, world::Seat};
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use tokio::time::{Instant, sleep, timeout};

/// A round trip between the node and honest peers.
const ROUND_TRIP: Duration = Duration::from_millis(100);
const STARTS_PER_SECOND: usize = 10_000;

/// The node's socket. What is put into `flood` comes in before what is on the wire.
struct FloodedSocket {
    wire: Arc<dyn AsyncUdpSocket>,
    flood: Arc<Mutex<Flood>>,
}

#[derive(Default)]
struct Flood {
    packets: VecDeque<(SocketAddr, Bytes)>,
    waker: Option<Waker>,
}

impl fmt::Debug for FloodedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FloodedSocket")
    }
}

impl AsyncUdpSocket for FloodedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.wire.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.wire.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut flood = self.flood.lock().unwrap();
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()) {
            let Some((addr, bytes)) = flood.packets.pop_front() else { break };
            let len = bytes.len();
            buf[..len].copy_from_slice(&bytes);
            *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        flood.waker = Some(cx.waker().clone());
        drop(flood);
        self.wire.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.wire.local_addr()
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// A socket that only remembers the first datagram of each dial.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<Bytes>>);

impl AsyncUdpSocket for Recorder {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        #[derive(Debug)]
        struct Always;
        impl UdpPoller for Always {
            fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        Box::pin(Always)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let first = &transmit.contents[..transmit.segment_size.unwrap_or(transmit.contents.len())];
        self.0.lock().unwrap().push(Bytes::copy_from_slice(first));
        Ok(())
    }

    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        _: &mut [IoSliceMut<'_>],
        _: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, 1).into())
    }
}

/// First datagrams of handshakes with `node`, all with connection ids of their own.
async fn first_datagrams(node: ghost_proto::PeerId, address: SocketAddr, count: usize) -> Vec<Bytes> {
    let recorder = Arc::new(Recorder::default());
    let identity = Identity::from_seed(&[200; 32]);
    let socket = Socket::Custom(recorder.clone());
    let endpoint = Endpoint::open(&identity, socket, false, None, Tally::default()).unwrap();
    for _ in 0..count {
        // One poll of the dial sends the first flight; nothing will ever answer.
        let _ = timeout(Duration::from_millis(1), endpoint.dial(node, address)).await;
    }
    let recorded = recorder.0.lock().unwrap().clone();
    // Of each flight the first: it has the connection id that the server has not seen.
    let mut seen = std::collections::BTreeSet::new();
    let id = |bytes: &Bytes| bytes.slice(6..6 + usize::from(bytes[5]));
    recorded.into_iter().filter(|bytes| seen.insert(id(bytes))).collect()
}

async fn node(seat: &Seat, plan: &NetworkPlan, flood: Arc<Mutex<Flood>>) -> RunningNode {
    let socket = FloodedSocket { wire: seat.socket.clone(), flood };
    start_parts(NodeParts {
        tor: None,
        control: None,
        config: Config::default(),
        genesis: Arc::new(genesis_of(plan, 1_767_225_600_000).unwrap()),
        identity: seat.identity.clone(),
        authority: None,
        operators: Vec::new(),
        store: Arc::new(MemoryStore::new()),
        peer_store: None,
        mempool_file: None,
        sockets: vec![Socket::Custom(Arc::new(socket))],
        clock: Clock::Virtual { origin_unix_ms: 1_767_225_600_000, origin: Instant::now(), skew_ms: 0 },
        seed: Some(seat.seed),
    })
    .await
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn scenario_01_ten_thousand_spoofed_handshakes_a_second_keep_no_honest_peer_out() {
    let plan = NetworkPlan::default();
    let genesis = genesis_of(&plan, 1_767_225_600_000).unwrap().id();
    let mut world: World<Peer> = World::new(1, Path::ms(ROUND_TRIP.as_millis() as u64 / 2));
    let seat = world.seat();
    let flood = Arc::new(Mutex::new(Flood::default()));
    let node = node(&seat, &plan, flood.clone()).await;
    let setup = Setup { genesis, ..Setup::default() };
    let mut honest = Vec::new();
    for _ in 0..60 {
        honest.push(world.add_peer(&setup).await.unwrap());
    }
    let starts = first_datagrams(node.peer_id, seat.address, 2_000).await;
    assert!(starts.len() >= 2_000, "{}", starts.len());

    let before = resident_bytes().unwrap();
    let counted = |event| node.overlay().tally().get(event);
    let (mut most, mut sent) = (0, 0);
    let mut took = Vec::new();
    let mut dials = tokio::task::JoinSet::new();
    let mut left = honest.iter();
    for millisecond in 0..5_000usize {
        {
            let mut flood = flood.lock().unwrap();
            for _ in 0..STARTS_PER_SECOND / 1_000 {
                // Every start from an address of its own, none of which hears an answer.
                let spoofed =
                    Ipv4Addr::from_bits(0x3000_0000 + (sent as u32).wrapping_mul(2_654_435_761) % (1 << 26));
                flood.packets.push_back(((spoofed, 4_001).into(), starts[sent % starts.len()].clone()));
                sent += 1;
            }
            if let Some(waker) = flood.waker.take() {
                waker.wake();
            }
        }
        // After the first half second an honest peer dials every 75 ms.
        if millisecond >= 500
            && millisecond % 75 == 0
            && let Some(id) = left.next()
        {
            let overlay = world.node(*id).overlay.clone();
            let (peer, address) = (node.peer_id, seat.address);
            dials.spawn(async move {
                let begun = Instant::now();
                overlay.dial(peer, address).await.map(|_| begun.elapsed())
            });
        }
        sleep(Duration::from_millis(1)).await;
        if millisecond % 100 == 0 {
            most = most.max(resident_bytes().unwrap());
        }
    }
    while let Some(dialled) = dials.join_next().await {
        took.push(dialled.unwrap().expect("an honest peer gets in"));
    }
    took.sort();
    let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    let challenged = counted(Event::AddressChallenged);
    let grown_mib = most.saturating_sub(before) >> 20;
    println!(
        "{sent} spoofed starts in 5 s: {challenged} sent back to prove their address; {} honest peers got in, p50 {p50:?}, \
         p99 {p99:?}; memory grew by {grown_mib} MiB",
        took.len()
    );
    assert_eq!(took.len(), 60);
    assert!(p99 < Duration::from_millis(500), "{p99:?}");
    assert!(challenged as usize > sent / 2, "{challenged} of {sent}");
    assert!(grown_mib < 64, "{grown_mib} MiB");
    // The flood is over: what it left behind is gone when its handshakes time out, and nobody has to prove
    // anything any more.
    sleep(Duration::from_secs(15)).await;
    let late = world.add_peer(&setup).await.unwrap();
    let challenged = counted(Event::AddressChallenged);
    world.node(late).overlay.dial(node.peer_id, seat.address).await.unwrap();
    assert_eq!(counted(Event::AddressChallenged), challenged);
}
