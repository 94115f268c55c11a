//! What a session survives below: new keys, new addresses, loss, and the death of the other side.

use std::time::Duration;

use ghost_frames::{
    Frame, Payload, StreamType,
    tx::{ShortId, TxAnnounce, TxAnnounceEntry},
};
use ghost_protocol::{
    Session,
    overlay::SILENCE_MAX,
    session::{Delivery, Direction},
    transport::{ClosedBy, Remote, quic::tuning},
};
use ghost_testnet::sim::{
    Delay, Fault, Loss, NodeId, Path, Peer, Schedule, Setup, World, wire::Dropped, world::Happened,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

const NODE: NodeId = NodeId(0);
const DIALLER: NodeId = NodeId(1);

fn announce(number: u64) -> ghost_frames::EncodedFrame {
    TxAnnounce { entries: vec![TxAnnounceEntry { id: ShortId(number), bytes: 250, fee_class: 0 }] }.to_frame()
}

async fn pair(path: Path) -> (World<Peer>, Session) {
    let world = World::of_peers(5, path, 2, &Setup::default()).await.unwrap();
    let session = world.dial(DIALLER, NODE).await.unwrap();
    sleep(Duration::from_millis(500)).await;
    (world, session)
}

/// Pushes `count` numbered frames, one each 10 ms.
fn pushing(session: Session, count: u64) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        for number in 0..count {
            assert_eq!(session.push(StreamType::TxPush, &announce(number)), Delivery::Queued);
            sleep(Duration::from_millis(10)).await;
        }
    })
}

/// Takes `count` numbered frames; the longest silence between two.
async fn taking(mut pushes: mpsc::Receiver<ghost_protocol::inbox::Pushed>, count: u64) -> Duration {
    let (mut next, mut last, mut longest) = (0, None::<Instant>, Duration::ZERO);
    while next < count {
        let pushed = timeout(Duration::from_secs(30), pushes.recv()).await.expect("frames go on").unwrap();
        if let Some(last) = last {
            longest = longest.max(last.elapsed());
        }
        last = Some(Instant::now());
        for frame in pushed.frames {
            let Frame::TxAnnounce(announce) = frame else { panic!("{frame:?}") };
            assert_eq!(announce.entries[0].id.0, next, "in order, none twice, none lost");
            next += 1;
        }
    }
    longest
}

#[tokio::test(start_paused = true)]
async fn new_keys_in_mid_stream_are_not_noticed() {
    let (mut world, session) = pair(Path::ms(25)).await;
    let back = world.node(NODE).overlay.sessions()[0].clone();
    let forth = taking(world.node_mut(NODE).pushes(StreamType::TxPush), 1_000);
    let home = taking(world.node_mut(DIALLER).pushes(StreamType::TxPush), 1_000);
    let (one, other) = (pushing(session.clone(), 1_000), pushing(back.clone(), 1_000));
    let updating = tokio::spawn(async move {
        for n in 0..8 {
            sleep(Duration::from_secs(1)).await;
            if n % 2 == 0 { session.link().update_keys() } else { back.link().update_keys() }
        }
    });
    let (forth, home) = tokio::join!(forth, home);
    assert!(forth <= Duration::from_millis(20) && home <= Duration::from_millis(20), "{forth:?} {home:?}");
    for task in [one, other, updating] {
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn scenario_41_a_new_address_in_mid_stream_does_not_end_the_session() {
    let (mut world, session) = pair(Path::ms(25)).await;
    let back = world.node(NODE).overlay.sessions()[0].clone();
    let old = back.remote();
    let forth = taking(world.node_mut(NODE).pushes(StreamType::TxPush), 1_000);
    let home = taking(world.node_mut(DIALLER).pushes(StreamType::TxPush), 1_000);
    let (one, other) = (pushing(session.clone(), 1_000), pushing(back.clone(), 1_000));
    let new: Vec<std::net::SocketAddr> = ["77.1.2.3:50123", "77.1.2.3:50999", "88.3.2.1:1025"]
        .map(|address| address.parse().unwrap())
        .to_vec();
    let schedule = new.iter().zip([2, 4, 6]).fold(Schedule::new(), |schedule, (address, at)| {
        schedule.at(Duration::from_secs(at), Fault::Rebind(DIALLER, *address))
    });
    schedule.start(world.wire());
    let (forth, home) = tokio::join!(forth, home);
    // The way out is never interrupted; the way back once for as long as a packet needs to tell of
    // the new address.
    assert!(forth <= Duration::from_millis(20), "{forth:?}");
    assert!(home <= Duration::from_millis(300), "{home:?}");
    for task in [one, other] {
        task.await.unwrap();
    }
    assert_ne!(back.remote(), old);
    assert_eq!(back.remote(), Remote::Ip(new[2]));
    assert!(world.wire().totals().dropped_for(Dropped::NoRoute).packets > 0, "the old address is gone");
    for id in [NODE, DIALLER] {
        assert_eq!(world.node(id).log().len(), 1, "{:?}", world.node(id).log());
    }
}

#[tokio::test(start_paused = true)]
async fn scenario_39_bursts_of_loss_delay_and_do_not_disconnect() {
    let bad = Path::new(Delay::ms(100))
        .with_jitter(Delay::Uniform(Duration::ZERO, Duration::from_millis(10)))
        .with_reordering(0.01, Delay::ms(30))
        .with_loss(Loss::bursts(0.05, 5.0));
    let (mut world, session) = pair(bad).await;
    let taking = taking(world.node_mut(NODE).pushes(StreamType::TxPush), 3_000);
    let pushing = pushing(session.clone(), 3_000);
    let longest = taking.await;
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    pushing.await.unwrap();
    assert!(world.wire().totals().dropped_for(Dropped::Loss).packets > 100);
    assert!(!session.is_closing());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_session_within_21_s_of_the_last_sign_of_life() {
    let (world, session) = pair(Path::ms(25)).await;
    // Idle for long, but alive.
    sleep(Duration::from_secs(600)).await;
    assert!(!session.is_closing());
    let cut = Instant::now();
    world.wire().apply(Fault::Partition(vec![vec![NODE]]));
    for id in [NODE, DIALLER] {
        let (at, _) = world.node(id).wait_for(Duration::from_secs(60), is_silence).await.expect("it is lost");
        // The last sign of life was a keep-alive or its acknowledgement, at most 9 s before the cut; it is looked
        // for silence every 3 s.
        let silence = at - cut;
        assert!(silence >= SILENCE_MAX - tuning::KEEP_ALIVE - Duration::from_millis(100), "{silence:?}");
        assert!(silence <= SILENCE_MAX + Duration::from_secs(6), "{silence:?}");
    }
}

fn is_silence(event: &Happened) -> bool {
    matches!(event, Happened::Down(_, _, closed) if closed.by == ClosedBy::Us)
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_dialled_side_moves_ends_on_both_sides_and_the_next_dial_finds_it() {
    let (world, session) = pair(Path::ms(25)).await;
    let back = world.node(NODE).overlay.sessions()[0].clone();
    world.wire().apply(Fault::Rebind(NODE, "77.1.2.3:50123".parse().unwrap()));
    // Both have something to say, which only one of the ways carries, to one who must not follow.
    let one = pushing(session.clone(), 100);
    let other = pushing(back, 100);
    let moved = Instant::now();
    for id in [NODE, DIALLER] {
        let (at, _) = world.node(id).wait_for(Duration::from_secs(60), is_silence).await.expect("it is lost");
        assert!(at - moved <= SILENCE_MAX + Duration::from_secs(6), "{:?}", at - moved);
    }
    for task in [one, other] {
        task.await.unwrap();
    }
    let again = world.dial(DIALLER, NODE).await.unwrap();
    assert!(again.ping(Duration::from_secs(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_peer_replaces_its_stale_session_in_two_round_trips_whoever_dials() {
    for seed in 0..8 {
        let setup = Setup::default();
        let mut world = World::of_peers(seed, Path::ms(25), 2, &setup).await.unwrap();
        // The first session was started by either, the new one by the one that comes back.
        let (from, to) = if seed % 2 == 0 { (NODE, DIALLER) } else { (DIALLER, NODE) };
        world.dial(from, to).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        world.kill(NODE);
        sleep(Duration::from_secs(2)).await;
        world.restart(NODE, async |seat| Peer::start(seat, setup.clone()).await).await.unwrap();
        let started = Instant::now();
        let session = world.dial(NODE, DIALLER).await.unwrap();
        assert!(started.elapsed() <= Duration::from_millis(103), "{:?}", started.elapsed());
        sleep(Duration::from_secs(40)).await;
        let name = format!("seed {seed}: {:?}", world.node(DIALLER).log());
        assert!(!session.is_closing(), "{name}");
        let there = world.node(DIALLER).overlay.sessions();
        assert_eq!(there.len(), 1, "{name}");
        assert_eq!(there[0].direction(), Direction::Inbound, "{name}");
        assert_eq!(there[0].id(), world.node(DIALLER).overlay.session(&session_peer(&world)).unwrap().id());
        assert_eq!(world.node(DIALLER).overlay.open_connections(), 1, "{name}");
        assert!(session.ping(Duration::from_secs(1)).await.is_ok(), "{name}");
        let downs = world.node(DIALLER).log().iter().filter(|(_, e)| matches!(e, Happened::Down(..))).count();
        assert_eq!(downs, 0, "the session was replaced, not lost: {name}");
    }
}

fn session_peer(world: &World<Peer>) -> ghost_proto::PeerId {
    world.node(NODE).peer_id()
}

#[tokio::test(start_paused = true)]
async fn a_stale_session_ends_a_round_trip_after_the_first_packet_into_it() {
    let setup = Setup::default();
    let (mut world, _) = pair(Path::ms(25)).await;
    world.restart(NODE, async |seat| Peer::start(seat, setup.clone()).await).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let dialler = world.node(DIALLER);
    let stale = dialler.overlay.sessions()[0].clone();
    assert!(!stale.is_closing(), "nothing was sent yet, so nothing is known");
    let pushed = Instant::now();
    assert_eq!(stale.push(StreamType::TxPush, &announce(1)), Delivery::Queued);
    let is_down = |event: &Happened| matches!(event, Happened::Down(_, id, _) if *id == stale.id());
    let (at, down) = dialler.wait_for(Duration::from_secs(60), is_down).await.unwrap();
    assert!(at - pushed <= Duration::from_millis(53), "{:?}: {down:?}", at - pushed);
    assert!(matches!(down, Happened::Down(_, _, closed) if closed.by == ClosedBy::Network));
    // A new dial finds the new life.
    world.dial(DIALLER, NODE).await.unwrap();
}
