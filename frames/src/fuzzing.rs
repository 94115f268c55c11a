//! The bodies of the fuzz targets (`fuzz/`), here so that ordinary tests run the same code.
//!
//! Only panics, hangs and the broken invariants asserted below are bugs; an error is a good answer.

use bytes::Bytes;
use ghost_proto::{Block, PeerRecord, Presence, SignedValue};

use crate::{
    frame::{self, Frame},
    kind::Kind,
    reader::{DecodeError, FrameReader},
    stream::StreamType,
    wallet::{PresenceAnswer, PresencePublish},
};

/// Decodes `payload` as a frame of this kind, as [`FrameReader`] would after it checked the length.
///
/// What decodes must encode within its limit, and decode from there to the same frame. What has one
/// encoding only (every layout but protobuf) must come out as it went in.
pub fn payload(kind: Kind, payload: &[u8]) {
    let info = frame::info(kind).expect("targets exist for registered kinds");
    if payload.len() > info.payload_max {
        return;
    }
    let Ok(frame) = Frame::decode(kind, Bytes::copy_from_slice(payload)) else { return };
    assert_eq!(frame.info(), info);
    if !encodes_no_longer(&frame) {
        return;
    }
    let encoded = frame.encode();
    assert_eq!(encoded.kind(), kind);
    let mut reader = FrameReader::new(info.streams[0]);
    reader.push(encoded.bytes());
    assert_eq!(reader.next().as_ref(), Ok(&Some(frame.clone())), "encoding and decoding differ");
    assert_eq!((reader.next(), reader.is_mid_frame()), (Ok(None), false));
    if !is_protobuf(&frame) {
        assert!(encoded.bytes().ends_with(payload), "a second encoding of one meaning");
    }
    deeper(frame);
}

/// What the receivers of a frame parse next.
fn deeper(frame: Frame) {
    match frame {
        Frame::WholeBlock(whole) => {
            if let Ok(block) = Block::from_parts(whole.header.clone(), whole.body.clone()) {
                let encoded = block.encode();
                assert_eq!(encoded[..whole.header.bytes().len()], whole.header.bytes()[..]);
                assert_eq!(encoded[whole.header.bytes().len()..], whole.body[..]);
            }
        }
        Frame::Peers(peers) => peers.records.into_iter().for_each(record),
        Frame::FindAnswer(answer) => {
            answer.value.into_iter().for_each(value);
            answer.closer.into_iter().for_each(record);
        }
        Frame::StoreRequest(request) => value(request.value),
        Frame::Hello(hello) => record(hello.record),
        Frame::PresencePublish(PresencePublish { record })
        | Frame::PresenceAnswer(PresenceAnswer { record }) => {
            if let Ok(presence) = Presence::verify(record.clone()) {
                assert_eq!(presence.bytes(), &record);
            }
        }
        _ => {}
    }
}

fn value(bytes: Bytes) {
    if let Ok(value) = SignedValue::verify(bytes.clone()) {
        assert_eq!(value.bytes(), &bytes);
    }
}

fn record(bytes: Bytes) {
    if let Ok(record) = PeerRecord::verify(bytes.clone()) {
        assert_eq!(record.bytes(), &bytes);
    }
}

fn is_protobuf(frame: &Frame) -> bool {
    let kind = frame.info().kind.0;
    let fixed = matches!(
        frame,
        Frame::CallRequest(_)
            | Frame::CallAnswer(_)
            | Frame::SimulateRequest(_)
            | Frame::EstimateRequest(_)
            | Frame::PriceReport(_)
            | Frame::PriceEvidence(_)
            | Frame::FeedNotice(_)
            | Frame::FeedSnapshot(_)
            | Frame::FeedEntries(_)
            | Frame::FeedStep(_)
            | Frame::FeedIdle(_)
    );
    (kind == 0x00 || kind >= 0x60) && !fixed && !(0xb0..0xd0).contains(&kind)
}

/// False for a negative protobuf enum: it may come in five bytes and always leaves in ten, which a
/// payload at its limit has no room for. Nobody sends on such a frame.
fn encodes_no_longer(frame: &Frame) -> bool {
    match frame {
        Frame::Hello(hello) => hello.role >= 0,
        Frame::RpcFailure(failure) => failure.code >= 0,
        Frame::BlockRequest(request) => request.detail >= 0,
        Frame::SubmitRequest(request) => request.privacy >= 0,
        Frame::BookRequest(request) => request.view >= 0,
        _ => true,
    }
}

/// Reads `data` as a whole stream: its type, then frames; once all at once and once in pieces whose
/// sizes the first bytes choose. Both ways must give the same frames and the same end.
pub fn stream(data: &[u8]) {
    let Some((&[stream, first, second], rest)) = data.split_first_chunk::<3>() else { return };
    let Some(stream) = StreamType::from_number(stream.into()) else { return };
    let whole = read(stream, [rest].into_iter());
    let sizes = [1 + usize::from(first), 1 + usize::from(second)];
    let mut left = rest;
    let mut turn = 0;
    let pieces = std::iter::from_fn(|| {
        turn += 1;
        let size = sizes[turn % 2].min(left.len());
        let (piece, rest) = left.split_at(size);
        left = rest;
        (size > 0).then_some(piece)
    });
    assert_eq!(read(stream, pieces), whole);
    if !whole.0.iter().all(encodes_no_longer) {
        return;
    }
    // What decodes can be sent again, and is the same at its next reader.
    let again: Vec<u8> = whole.0.iter().flat_map(|frame| frame.encode().bytes().to_vec()).collect();
    assert_eq!(read(stream, [again.as_slice()].into_iter()), (whole.0, Ok(())));
}

/// All frames of a stream that comes in pieces, and how it ends.
fn read<'a>(
    stream: StreamType,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Frame>, Result<(), DecodeError>) {
    let mut reader = FrameReader::new(stream);
    let mut frames = Vec::new();
    for piece in pieces {
        let before = reader.buffered();
        reader.push(piece);
        loop {
            match reader.next() {
                Ok(Some(frame)) => {
                    assert!(frame.info().is_allowed_on(stream));
                    frames.push(frame);
                }
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
        assert!(reader.buffered() <= before + piece.len());
    }
    let end = reader.finish();
    (frames, end)
}
