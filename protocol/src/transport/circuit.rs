//! A socket whose packets travel through sessions: QUIC between two peers who can only meet through a third.
//!
//! A circuit is named by its number on the session with the common peer. To the library it is an address under
//! [`is_circuit`], which exists inside this process only. Packets are pushed as [`CircuitPacket`]s; what finds the
//! session's queue full is lost, as on any narrow path, and the congestion control of the connection inside sees it.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use ghost_frames::{Payload, StreamType, meet::CircuitPacket};
use ghost_proto::PeerId;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use crate::session::Session;

/// Circuits that a node is an end of at once.
pub const CIRCUITS_OWN_MAX: usize = 32;

/// Packets that wait to be taken: 256 × 1,472 bytes = 368 KiB for all circuits together.
const PACKETS_MAX: usize = 256;

/// fd67:686f:7374::/64, "ghost" in a unique local prefix (RFC 4193), and the number of the circuit.
const PREFIX: [u16; 4] = [0xfd67, 0x686f, 0x7374, 0];

fn address_of(number: u64) -> SocketAddr {
    let bits = u128::from(u64::from_be_bytes(prefix_bytes())) << 64 | u128::from(number);
    (Ipv6Addr::from_bits(bits), 1).into()
}

fn prefix_bytes() -> [u8; 8] {
    let mut bytes = [0; 8];
    for (pair, group) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(PREFIX) {
        *pair = group.to_be_bytes();
    }
    bytes
}

/// True for the addresses that stand for circuits.
pub fn is_circuit(address: &SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V6(ip) if ip.segments()[..4] == PREFIX)
}

#[derive(Debug)]
struct Route {
    relay: Session,
    circuit: u64,
}

#[derive(Debug, Default)]
struct State {
    routes: HashMap<SocketAddr, Route>,
    next: u64,
    received: VecDeque<(SocketAddr, Bytes)>,
    waker: Option<Waker>,
}

/// See the [module documentation](self).
#[derive(Default)]
pub struct CircuitSocket(Mutex<State>);

impl fmt::Debug for CircuitSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CircuitSocket({} circuits)", self.lock().routes.len())
    }
}

impl CircuitSocket {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no code panics while it holds the circuits")
    }

    /// This node is an end of a circuit through `relay`. Answers the address that stands for the other end; `None`
    /// if there are [`CIRCUITS_OWN_MAX`].
    pub fn open(&self, relay: Session, circuit: u64) -> Option<SocketAddr> {
        let mut state = self.lock();
        state.routes.retain(|_, route| !route.relay.is_closing());
        if state.routes.len() >= CIRCUITS_OWN_MAX {
            return None;
        }
        state.next += 1;
        let address = address_of(state.next);
        state.routes.insert(address, Route { relay, circuit });
        Some(address)
    }

    /// The circuit is of no more use.
    pub fn close(&self, address: &SocketAddr) {
        self.lock().routes.remove(address);
    }

    /// A packet came through `relay`. False if this node is no end of that circuit.
    pub fn deliver(&self, relay: &PeerId, packet: CircuitPacket) -> bool {
        let mut state = self.lock();
        let here = |route: &Route| route.circuit == packet.circuit && route.relay.peer() == *relay;
        let from = state.routes.iter().find(|(_, route)| here(route)).map(|(address, _)| *address);
        let Some(from) = from else { return false };
        if state.received.len() < PACKETS_MAX {
            state.received.push_back((from, packet.packet));
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
        true
    }
}

impl AsyncUdpSocket for CircuitSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let route =
            self.lock().routes.get(&transmit.destination).map(|route| (route.relay.clone(), route.circuit));
        // A circuit that is gone loses what is sent into it.
        let Some((relay, circuit)) = route else { return Ok(()) };
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for packet in transmit.contents.chunks(segment) {
            let frame = CircuitPacket { circuit, packet: Bytes::copy_from_slice(packet) }.to_frame();
            // What does not fit is lost.
            let _ = relay.push(StreamType::Circuit, &frame);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()) {
            let Some((addr, packet)) = state.received.pop_front() else { break };
            let len = packet.len().min(buf.len());
            buf[..len].copy_from_slice(&packet[..len]);
            *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(address_of(0))
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// A session takes everything; what is too much is lost.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_circuits_are_told_from_all_others() {
        assert!(is_circuit(&address_of(0)) && is_circuit(&address_of(u64::MAX)));
        assert_ne!(address_of(1), address_of(2));
        for other in ["[fd67:686f:7375::1]:1", "[::1]:1", "10.0.0.1:1", "[2001:db8::1]:1"] {
            assert!(!is_circuit(&other.parse().unwrap()), "{other}");
        }
    }
}
