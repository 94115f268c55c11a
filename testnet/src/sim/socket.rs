//! A node's end of the wire.

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use tokio::time::{Instant, Sleep, sleep_until};

use super::wire::{NodeId, Wire};

/// A UDP socket on the wire. Dropping it closes it.
pub struct SimSocket {
    wire: Wire,
    node: NodeId,
    number: u64,
    local: SocketAddr,
    timer: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimSocket").field("local", &self.local).finish_non_exhaustive()
    }
}

impl SimSocket {
    pub(super) fn new(wire: Wire, node: NodeId, number: u64, local: SocketAddr) -> Self {
        Self { wire, node, number, local, timer: Mutex::new(None) }
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.wire.lock().close(self.node, self.number);
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut state = self.wire.lock();
        if state.is_open(self.node, self.number) {
            let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
            for bytes in transmit.contents.chunks(segment) {
                state.send(self.node, transmit, bytes);
            }
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let now = Instant::now();
            let mut state = self.wire.lock();
            if !state.is_open(self.node, self.number) {
                // Killed: silent for ever, as its process would be.
                return Poll::Pending;
            }
            let mut count = 0;
            for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()) {
                let Some(packet) = state.take_due(self.node, now) else { break };
                let len = packet.bytes.len().min(buf.len());
                buf[..len].copy_from_slice(&packet.bytes[..len]);
                *meta = RecvMeta {
                    addr: packet.source,
                    len,
                    stride: len,
                    ecn: packet.ecn,
                    dst_ip: Some(packet.destination.ip()),
                };
                count += 1;
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            let due = state.wait(self.node, cx.waker());
            drop(state);
            let Some(due) = due else { return Poll::Pending };
            let mut timer = self.timer.lock().expect("no code panics while it holds the timer");
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    /// Paths drop what is too long, so the search for the path's MTU works as on a real network.
    fn may_fragment(&self) -> bool {
        false
    }
}

/// The wire takes everything; what is too much is dropped on the way.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
