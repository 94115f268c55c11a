//! A slow link in front of a UDP socket: a rate, a delay, and a queue of bounded length each way.
//!
//! Datagrams that find the queue full are dropped, as a router would.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{BenchError, Doing, bare::LOOPBACK};

/// What the link is like, each way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) bytes_per_second: u64,
    pub(super) delay: Duration,
    /// How long a datagram may wait for those before it.
    pub(super) queue: Duration,
}

/// Datagrams under way at most; the shape's queue and delay hold far fewer.
const UNDER_WAY_MAX: usize = 16 * 1024;
const DATAGRAM_MAX: usize = 64 * 1024;

/// Opens a link for one dialler to `target` and says where to dial instead. It lasts as long as the
/// runtime.
pub(super) async fn open(target: SocketAddr, shape: Shape) -> Result<SocketAddr, BenchError> {
    const DOING: &str = "opening a link";
    let near = Arc::new(UdpSocket::bind(LOOPBACK).await.doing(DOING)?);
    let far = Arc::new(UdpSocket::bind(LOOPBACK).await.doing(DOING)?);
    let address = near.local_addr().doing(DOING)?;
    let (dialler, dialler_known) = watch::channel(None);
    let (_, target_known) = watch::channel(Some(target));
    tokio::spawn(carry(near.clone(), far.clone(), target_known, Some(dialler), shape));
    tokio::spawn(carry(far, near, dialler_known, None, shape));
    Ok(address)
}

/// Carries one way: from the socket that hears to the one that speaks.
async fn carry(
    hears: Arc<UdpSocket>,
    speaks: Arc<UdpSocket>,
    to: watch::Receiver<Option<SocketAddr>>,
    seen: Option<watch::Sender<Option<SocketAddr>>>,
    shape: Shape,
) {
    let (under_way, mut arrivals) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY_MAX);
    tokio::spawn(async move {
        while let Some((due, datagram)) = arrivals.recv().await {
            sleep_until(due).await;
            let target = *to.borrow();
            if let Some(target) = target {
                // A datagram that cannot be sent is lost, as on any link.
                let _ = speaks.send_to(&datagram, target).await;
            }
        }
    });
    let mut buffer = vec![0; DATAGRAM_MAX];
    let mut free = Instant::now();
    while let Ok((length, from)) = hears.recv_from(&mut buffer).await {
        if let Some(seen) = &seen {
            seen.send_replace(Some(from));
        }
        let now = Instant::now();
        free = free.max(now);
        if free - now > shape.queue {
            continue;
        }
        free += Duration::from_nanos(length as u64 * 1_000_000_000 / shape.bytes_per_second);
        let _ = under_way.try_send((free + shape.delay, buffer[..length].to_vec()));
    }
}
