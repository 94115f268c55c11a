//! The wire itself: what arrives, when, and what does not.

use std::{future::poll_fn, io::IoSliceMut, net::SocketAddr, sync::Arc, time::Duration};

use ghost_testnet::sim::{
    Access, Delay, Fault, NodeId, Path, Rate, Wire,
    path::HEADER_BYTES,
    wire::{Dropped, SimSocket},
};
use quinn::{
    AsyncUdpSocket,
    udp::{RecvMeta, Transmit},
};
use tokio::time::{Instant, sleep, timeout};

fn address(n: u8) -> SocketAddr {
    ([10, n, 0, 1], 4001).into()
}

/// A wire with nodes 0 and 1, and more.
fn wire(path: Path, nodes: u8) -> (Wire, Vec<Arc<SimSocket>>) {
    let wire = Wire::new(1, path);
    let sockets = (0..nodes).map(|n| wire.open(wire.add(address(n)))).collect();
    (wire, sockets)
}

fn send(socket: &SimSocket, to: SocketAddr, first: u8, len: usize) {
    let mut contents = vec![0; len];
    contents[0] = first;
    let transmit =
        Transmit { destination: to, ecn: None, contents: &contents, segment_size: None, src_ip: None };
    socket.try_send(&transmit).unwrap();
}

/// The next packet: its first byte, its length and where it comes from.
async fn receive(socket: &SimSocket) -> (u8, usize, SocketAddr) {
    let mut buf = [0; 2048];
    let mut meta = [RecvMeta::default()];
    let mut bufs = [IoSliceMut::new(&mut buf)];
    let count = poll_fn(|cx| socket.poll_recv(cx, &mut bufs, &mut meta)).await.unwrap();
    assert_eq!(count, 1);
    (buf[0], meta[0].len, meta[0].addr)
}

async fn nothing_comes(socket: &SimSocket) {
    assert!(timeout(Duration::from_secs(60), receive(socket)).await.is_err());
}

const ONE: NodeId = NodeId(1);

#[tokio::test(start_paused = true)]
async fn a_packet_arrives_after_the_delay_of_its_direction() {
    let (wire, sockets) = wire(Path::ms(30), 2);
    wire.set_path(ONE, NodeId(0), Path::ms(70));
    for (from, to, ms) in [(0, 1, 30), (1, 0, 70)] {
        let sent = Instant::now();
        send(&sockets[from], address(to as u8), 9, 100);
        assert_eq!(receive(&sockets[to]).await, (9, 100, address(from as u8)));
        assert_eq!(sent.elapsed(), Duration::from_millis(ms));
    }
    assert_eq!(wire.totals().received.bytes, 200);
    assert_eq!(wire.in_flight().packets, 0);
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_receiver_wakes_for_what_overtakes() {
    let (wire, sockets) = wire(Path::ms(500), 3);
    wire.set_path(NodeId(2), ONE, Path::ms(20));
    let started = Instant::now();
    send(&sockets[0], address(1), 1, 10);
    let receiver = sockets[1].clone();
    let first = tokio::spawn(async move { (receive(&receiver).await, receive(&receiver).await) });
    sleep(Duration::from_millis(100)).await;
    send(&sockets[2], address(1), 2, 10);
    let (first, second) = first.await.unwrap();
    assert_eq!((first.0, second.0), (2, 1));
    assert_eq!(started.elapsed(), Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn jitter_keeps_the_order_and_reordering_does_not() {
    let jitter = Delay::Uniform(Duration::ZERO, Duration::from_millis(40));
    for (reordered, in_order) in [(0.0, true), (0.2, false)] {
        let path = Path::ms(30).with_jitter(jitter).with_reordering(reordered, Delay::ms(50));
        let (_wire, sockets) = wire(path, 2);
        for n in 0..200 {
            send(&sockets[0], address(1), n, 10);
            sleep(Duration::from_millis(2)).await;
        }
        let mut seen = Vec::new();
        for _ in 0..200 {
            seen.push(receive(&sockets[1]).await.0);
        }
        assert_eq!(seen.is_sorted(), in_order);
        seen.sort_unstable();
        assert_eq!(seen, (0..200).collect::<Vec<_>>(), "each once");
    }
}

#[tokio::test(start_paused = true)]
async fn partitions_and_downtime_hold_for_as_long_as_they_last() {
    let (wire, sockets) = wire(Path::ms(10), 4);
    let faults = [
        (Fault::Partition(vec![vec![NodeId(0), NodeId(2)]]), Fault::Heal, Dropped::Partitioned),
        (Fault::Partition(vec![vec![NodeId(0)], vec![ONE]]), Fault::Heal, Dropped::Partitioned),
        (Fault::Down(ONE), Fault::Up(ONE), Dropped::Down),
        (Fault::Down(NodeId(0)), Fault::Up(NodeId(0)), Dropped::Down),
    ];
    for (n, (fault, end, reason)) in faults.into_iter().enumerate() {
        let before = wire.totals().dropped_for(reason).packets;
        wire.apply(fault);
        send(&sockets[0], address(1), 1, 10);
        nothing_comes(&sockets[1]).await;
        assert_eq!(wire.totals().dropped_for(reason).packets, before + 1, "{n}");
        if n == 0 {
            // Within a side all is well, and the sides that are on no list are one.
            send(&sockets[0], address(2), 5, 10);
            assert_eq!(receive(&sockets[2]).await.0, 5);
            send(&sockets[1], address(3), 6, 10);
            assert_eq!(receive(&sockets[3]).await.0, 6);
        }
        wire.apply(end);
        send(&sockets[0], address(1), 2, 10);
        assert_eq!(receive(&sockets[1]).await.0, 2, "{n}");
    }
    // What was under way to a node when it went down is gone.
    send(&sockets[0], address(1), 1, 10);
    wire.apply(Fault::Down(ONE));
    wire.apply(Fault::Up(ONE));
    nothing_comes(&sockets[1]).await;
}

#[tokio::test(start_paused = true)]
async fn behind_a_nat_the_newest_address_counts() {
    let (wire, sockets) = wire(Path::ms(10), 2);
    let new: SocketAddr = "99.8.7.6:50000".parse().unwrap();
    wire.apply(Fault::Rebind(ONE, new));
    send(&sockets[1], address(0), 1, 10);
    assert_eq!(receive(&sockets[0]).await.2, new);
    send(&sockets[0], address(1), 2, 10);
    nothing_comes(&sockets[1]).await;
    assert_eq!(wire.totals().dropped_for(Dropped::NoRoute).packets, 1);
    send(&sockets[0], new, 3, 10);
    assert_eq!(receive(&sockets[1]).await.0, 3);
    assert_eq!(sockets[1].local_addr().unwrap(), address(1), "it does not know");
}

#[tokio::test(start_paused = true)]
async fn a_killed_socket_is_silent_and_its_successor_is_not() {
    let (wire, mut sockets) = wire(Path::ms(10), 2);
    let successor = wire.open(ONE);
    send(&sockets[1], address(0), 1, 10);
    nothing_comes(&sockets[0]).await;
    send(&sockets[0], address(1), 2, 10);
    assert_eq!(receive(&successor).await.0, 2);
    nothing_comes(&sockets[1]).await;
    // A ghost that is dropped at last does not close its successor.
    sockets.pop();
    send(&sockets[0], address(1), 3, 10);
    assert_eq!(receive(&successor).await.0, 3);
    drop(successor);
    send(&sockets[0], address(1), 4, 10);
    assert_eq!(wire.totals().dropped_for(Dropped::Down).packets, 1);
}

#[tokio::test(start_paused = true)]
async fn bottlenecks_delay_and_drop_at_the_path_and_at_both_ends() {
    // 972 bytes and 28 of headers at 100 kB/s: 10 ms each; four fit into the queue.
    let rate = Rate { bytes_per_second: 100_000, queue_bytes: 4_000 };
    for place in 0..3 {
        let (wire, sockets) = wire(Path::ms(10), 3);
        match place {
            0 => wire.set_path(NodeId(0), ONE, Path::ms(10).with_rate(rate)),
            1 => wire.set_access(NodeId(0), Access { up: Some(rate), down: None }),
            _ => wire.set_access(ONE, Access { up: None, down: Some(rate) }),
        }
        let started = Instant::now();
        for n in 0..10 {
            send(&sockets[0], address(1), n, 1_000 - HEADER_BYTES);
        }
        for n in 0..4 {
            assert_eq!(receive(&sockets[1]).await.0, n);
            let expected = Duration::from_millis(10 + 10 * (u64::from(n) + 1));
            assert_eq!(started.elapsed(), expected, "place {place}");
        }
        nothing_comes(&sockets[1]).await;
        assert_eq!(wire.totals().dropped_for(Dropped::QueueFull).packets, 6, "place {place}");
        assert_eq!(wire.in_flight().bytes, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_last_over_a_short_path_does_not_queue_behind_what_is_still_far_away() {
    let (wire, sockets) = wire(Path::ms(500), 3);
    wire.set_path(NodeId(2), ONE, Path::ms(5));
    let rate = Rate { bytes_per_second: 100_000, queue_bytes: 4_000 };
    wire.set_access(ONE, Access { up: None, down: Some(rate) });
    let started = Instant::now();
    send(&sockets[0], address(1), 1, 1_000 - HEADER_BYTES);
    send(&sockets[2], address(1), 2, 1_000 - HEADER_BYTES);
    assert_eq!(receive(&sockets[1]).await.0, 2);
    assert_eq!(started.elapsed(), Duration::from_millis(15));
    assert_eq!(receive(&sockets[1]).await.0, 1);
    assert_eq!(started.elapsed(), Duration::from_millis(510));
}

#[tokio::test(start_paused = true)]
async fn a_path_carries_its_mtu_and_not_one_byte_more() {
    let (wire, sockets) = wire(Path { mtu: 1_300, ..Path::ms(1) }, 2);
    send(&sockets[0], address(1), 1, 1_300);
    assert_eq!(receive(&sockets[1]).await.1, 1_300);
    send(&sockets[0], address(1), 1, 1_301);
    assert_eq!(wire.totals().dropped_for(Dropped::TooLong).packets, 1);
    nothing_comes(&sockets[1]).await;
}
