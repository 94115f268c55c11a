//! QUIC parameters, and why they are what they are.

use std::{sync::Arc, time::Duration};

use quinn::{TransportConfig, VarInt, congestion::CubicConfig};

/// Unidirectional streams a peer may have open: one for each push stream type, as many again for
/// types to come, and grease. Each slot costs the library memory for as long as the connection lives.
pub const UNI_STREAMS_MAX: u32 = 12;

/// Bidirectional streams granted to a peer to begin with. The grant doubles whenever half of it is in
/// use, up to what the role allows: the library keeps a slot in two tables for every stream that may
/// be opened, about 75 bytes, and 14 with the 12 above just fit the table sizes below the next power
/// of two. Most peers are idle most of the time.
pub const BIDI_STREAMS_FIRST: u32 = 14;

/// Bidirectional streams a node may have open: 8 + 8 + 4 + 2 concurrent requests of the classes that
/// nodes use among themselves, and some to be refused politely.
pub const BIDI_STREAMS_MAX: u32 = 32;

/// The same for clients, which call and subscribe: 64 + 16, and some to be refused politely.
pub const CLIENT_BIDI_STREAMS_MAX: u32 = 128;

/// Bytes a peer may send on one stream before we read: 1 MiB holds the bandwidth-delay product of
/// 80 Mbit/s at 100 ms.
pub const STREAM_WINDOW: u32 = 1 << 20;

/// The same over all streams of a connection. It is spent by whatever is sent and not read, so it is
/// more than all push streams that may wait for us together (blocks, transactions, consensus): a peer
/// can always say something on its control stream. With 128 peers that all fill it: 416 MiB.
///
/// What *we* ask for comes on top: [`STREAM_WINDOW`] for each answer that may be large, as long as it
/// lasts. We may be slow to read those.
pub const CONNECTION_WINDOW: u32 = 3 * STREAM_WINDOW + (256 << 10);

/// The same for a client: 64 calls and 16 subscriptions of which a few may wait to be read, at one node
/// that it chose.
pub const CLIENT_CONNECTION_WINDOW: u32 = 16 << 20;

/// Bytes that wait for acknowledgement before writers are held back. With the 2.3 MiB of all outboxes
/// a peer that takes nothing costs less than 4 MiB, and 1.5 MiB still is more than one stream's window.
/// It is less than the peer's [`CONNECTION_WINDOW`], whose credit comes in steps of an eighth: so it is
/// acknowledgements, which come steadily, that make room.
pub const SEND_WINDOW: u64 = 3 << 19;

/// Congestion window of a new connection: 64 kB carries the announcement of a large block in one
/// flight where the 14.7 kB of RFC 9002 need three.
pub const INITIAL_WINDOW: u64 = 64 * 1024;

/// A connection on which nothing is heard for so long is lost.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A node says something at least this often; three may be lost before the connection is.
pub const KEEP_ALIVE: Duration = Duration::from_secs(9);

/// Buffer for datagrams, each way.
const DATAGRAM_BUFFER: usize = 64 * 1024;

/// Receive and send buffers asked of the operating system for the socket.
pub const SOCKET_BUFFER: usize = 4 << 20;

const _: () = assert!(SEND_WINDOW <= CONNECTION_WINDOW as u64 - 2 * CONNECTION_WINDOW as u64 / 8);

/// All of the above, as the library takes it.
pub fn transport() -> Arc<TransportConfig> {
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(UNI_STREAMS_MAX.into())
        .max_concurrent_bidi_streams(BIDI_STREAMS_FIRST.into())
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        // Without fairness the library ignores priorities.
        .send_fairness(true)
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("30 s fit a varint of milliseconds")))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER)
        .congestion_controller_factory(Arc::new(congestion));
    Arc::new(config)
}
