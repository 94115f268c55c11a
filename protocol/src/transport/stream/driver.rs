//! What runs for a stream link: the multiplexer, and the talk about the link itself.
//!
//! The first stream, opened by the dialler, is the link's own. On it both sides ping each other, which shows
//! that the other is alive and how far away, and say why they close.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_io::{AsyncRead as _, AsyncWrite};
use ghost_frames::Code;
use ghost_proto::layout::{peek_varint, put_varint};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use super::{
    Accepted, FAREWELL, HEAD_BI, HEAD_LINK, HEAD_UNI, KEEP_ALIVE, Opening, Shared,
    pipe::{Opened, Pipe},
};
use crate::transport::{Closed, ClosedBy, quic::tuning::IDLE_TIMEOUT};

/// Reasons for people are cut to this.
const REASON_BYTES_MAX: usize = 120;

const PING: u8 = 0;
const PONG: u8 = 1;
const CLOSE: u8 = 2;

/// A stream of the peer's whose first byte has not come.
struct Untold {
    io: yamux::Stream,
    opened: Opened,
}

/// Runs the multiplexer until the connection ends or the talk says that it is over.
pub(super) async fn drive<T>(
    mut connection: yamux::Connection<T>,
    shared: Arc<Shared>,
    mut openings: mpsc::Receiver<Opening>,
    accepted: Accepted,
    link_stream: oneshot::Sender<yamux::Stream>,
    over: oneshot::Receiver<()>,
) where
    T: futures_io::AsyncRead + AsyncWrite + Unpin,
{
    let mut link_stream = Some(link_stream);
    let mut wanted: Option<Opening> = None;
    let mut untold: Vec<Untold> = Vec::new();
    let run = poll_fn(|context| {
        loop {
            let mut moved = false;
            if wanted.is_none()
                && let Poll::Ready(Some(opening)) = openings.poll_recv(context)
            {
                wanted = Some(opening);
            }
            if wanted.is_some() {
                match connection.poll_new_outbound(context) {
                    Poll::Ready(Ok(io)) => {
                        moved = true;
                        if let Some(opening) = wanted.take() {
                            // Whoever wanted it may be gone: then it is dropped, and nothing was sent.
                            let _ = opening.send(io);
                        }
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Closed::network(error.to_string())),
                    Poll::Pending => {}
                }
            }
            match connection.poll_next_inbound(context) {
                Poll::Ready(Some(Ok(io))) => {
                    moved = true;
                    match shared.opened_by_peer() {
                        Some(opened) => untold.push(Untold { io, opened }),
                        None => shared.close(Code::ProtocolViolation, "too many streams at once"),
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Closed::network(error.to_string())),
                Poll::Ready(None) => return Poll::Ready(Closed::network("the stream below ended".into())),
                Poll::Pending => {}
            }
            for Untold { mut io, opened } in std::mem::take(&mut untold) {
                let mut head = [0];
                let head = match Pin::new(&mut io).poll_read(context, &mut head) {
                    Poll::Pending => {
                        untold.push(Untold { io, opened });
                        continue;
                    }
                    Poll::Ready(Ok(1)) => head[0],
                    // Given up before it said anything.
                    Poll::Ready(_) => continue,
                };
                moved = true;
                // At most as many wait as may be open, so there is room.
                match head {
                    HEAD_UNI => {
                        let pipe = Pipe::theirs(io, shared.clone(), opened, false);
                        let _ = accepted.uni.try_send(pipe);
                    }
                    HEAD_BI => {
                        let pipe = Pipe::theirs(io, shared.clone(), opened, true);
                        let _ = accepted.bi.try_send(pipe);
                    }
                    HEAD_LINK if link_stream.is_some() && shared.inbound => {
                        if let Some(link_stream) = link_stream.take() {
                            let _ = link_stream.send(io);
                        }
                    }
                    _ => shared.close(Code::ProtocolViolation, "a stream of no kind"),
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    });
    let closed = tokio::select! {
        closed = run => closed,
        _ = over => Closed::lost(),
    };
    // Before the streams end with the multiplexer: their readers ask why.
    shared.set_closed(closed);
    drop(connection);
    shared.wake_all();
}

enum Said {
    Ping,
    Pong,
    Close { code: u64, reason: Vec<u8> },
}

/// The talk on the link's own stream. Ends when the link does; then the multiplexer may stop.
pub(super) async fn talk(
    shared: Arc<Shared>,
    io: oneshot::Receiver<yamux::Stream>,
    over: oneshot::Sender<()>,
) {
    // Whoever dials opens it at once: without it within the time a silence may last, nobody is there.
    if let Ok(Ok(io)) = timeout(IDLE_TIMEOUT, io).await {
        let (mut reading, mut writing) = tokio::io::split(io.compat());
        let (said, mut heard) = mpsc::channel(4);
        let listening = tokio::spawn(async move {
            while let Ok(one) = listen(&mut reading).await {
                if said.send(one).await.is_err() {
                    return;
                }
            }
        });
        if let Err(closed) = speak(&shared, &mut writing, &mut heard).await {
            shared.set_closed(closed);
        }
        if let Some(Closed { by: ClosedBy::Us, code, reason }) = shared.close_reason() {
            let farewell = async {
                let mut bytes = vec![CLOSE];
                put_varint(&mut bytes, code.map_or(0, Code::number));
                let reason = &reason.as_bytes()[..reason.len().min(REASON_BYTES_MAX)];
                put_varint(&mut bytes, reason.len() as u64);
                bytes.extend_from_slice(reason);
                writing.write_all(&bytes).await?;
                writing.flush().await?;
                // The peer hangs up when it has heard it.
                while heard.recv().await.is_some() {}
                Ok::<_, io::Error>(())
            };
            // A peer that does not take it finds out by silence.
            let _ = timeout(FAREWELL, farewell).await;
        }
        listening.abort();
    } else {
        shared.set_closed(Closed::network("the dialler said nothing about its link".into()));
    }
    // The multiplexer may have ended first.
    let _ = over.send(());
}

async fn listen(reading: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Said> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    Ok(match reading.read_u8().await? {
        PING => Said::Ping,
        PONG => Said::Pong,
        CLOSE => {
            let code = read_varint(reading).await?;
            let length = read_varint(reading).await?;
            if length > REASON_BYTES_MAX as u64 {
                return Err(malformed());
            }
            let mut reason = vec![0; length as usize];
            reading.read_exact(&mut reason).await?;
            Said::Close { code, reason }
        }
        _ => return Err(malformed()),
    })
}

async fn read_varint(reading: &mut (impl AsyncReadExt + Unpin)) -> io::Result<u64> {
    let mut bytes = vec![reading.read_u8().await?];
    loop {
        if let Some((value, _)) = peek_varint(&bytes) {
            return Ok(value);
        }
        bytes.push(reading.read_u8().await?);
    }
}

/// Pings and answers until the link is over, and says how it ended if that was heard or seen here.
async fn speak(
    shared: &Shared,
    writing: &mut (impl AsyncWriteExt + Unpin),
    heard: &mut mpsc::Receiver<Said>,
) -> Result<(), Closed> {
    let lost = |error: io::Error| Closed::network(error.to_string());
    let mut tick = interval(KEEP_ALIVE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pinged: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = shared.over() => return Ok(()),
            _ = tick.tick() => {
                if shared.silence() >= IDLE_TIMEOUT {
                    return Err(Closed::network("timed out".into()));
                }
                // One that is not answered for long is superseded: its answer measures the wait, not the way.
                pinged = Some(Instant::now());
                writing.write_u8(PING).await.map_err(lost)?;
                writing.flush().await.map_err(lost)?;
            }
            said = heard.recv() => match said {
                Some(Said::Ping) => {
                    writing.write_u8(PONG).await.map_err(lost)?;
                    writing.flush().await.map_err(lost)?;
                }
                Some(Said::Pong) => {
                    if let Some(pinged) = pinged.take() {
                        shared.measured(pinged.elapsed());
                    }
                }
                Some(Said::Close { code, reason }) => return Err(Closed::by_peer(code, &reason)),
                // Its stream ended, or what it said means nothing.
                None => return Err(Closed::network("the peer hung up".into())),
            }
        }
    }
}

/// Writes the first byte of the link's own stream.
pub(super) async fn begin_link_stream(io: &mut yamux::Stream) -> io::Result<()> {
    let mut sent = 0;
    poll_fn(|context: &mut Context<'_>| {
        while sent == 0 {
            match Pin::new(&mut *io).poll_write(context, &[HEAD_LINK]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(count)) => sent = count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}
