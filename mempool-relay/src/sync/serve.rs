//! Answering those who are behind. Pure functions over the caller's store: no state, no waiting.
//!
//! What one request can cost is bounded here; how many a peer may make is the session's quota.

use bytes::Bytes;
use ghost_frames::{
    EncodedFrame,
    block::{BlocksRequest, WholeBlock},
    sync::{Headers, HeadersRequest},
    writer::Registered,
};
use ghost_proto::{BlockId, Header, limits::HEADERS_PER_ANSWER_MAX};

/// Most bytes of blocks in one answer, unless the first block alone is larger. Askers keep their requests
/// below it by the headers, so an honest one never meets it.
pub const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Answers a request for headers: those after the first id of the locator that stands on our
/// canonical chain, up to our head. Empty if none does.
///
/// `height_of` gives the height of an id on the canonical chain, `header_at` the canonical
/// header at a height. A reorganisation between two calls ends the answer early; it never makes one that does not connect.
pub fn headers(
    request: &HeadersRequest,
    mut height_of: impl FnMut(&BlockId) -> Option<u64>,
    mut header_at: impl FnMut(u64) -> Option<Header>,
) -> Headers {
    let limit = usize::from(request.limit).min(HEADERS_PER_ANSWER_MAX);
    let mut headers: Vec<Header> = Vec::new();
    let Some((height, mut parent)) = request.locator.iter().find_map(|id| Some((height_of(id)?, *id))) else {
        return Headers { headers };
    };
    while headers.len() < limit
        && let Some(header) = header_at(height + 1 + headers.len() as u64)
        && header.parent == parent
    {
        parent = header.id();
        headers.push(header);
    }
    Headers { headers }
}

/// Answers a request for blocks: one frame for each that `read` has, in the order asked for, read only as the
/// caller takes it. `read` gives header and body as stored. Ends before the block that would exceed
/// [`ANSWER_BYTES_MAX`].
pub fn blocks<'a>(
    request: &'a BlocksRequest,
    read: impl FnMut(&BlockId) -> Option<Bytes> + 'a,
) -> impl Iterator<Item = EncodedFrame> + 'a {
    let mut sent = 0;
    request.ids.iter().filter_map(read).map_while(move |block| {
        let fits = sent == 0 || sent + block.len() <= ANSWER_BYTES_MAX;
        sent += block.len();
        fits.then(|| EncodedFrame::new(WholeBlock::KIND, &block))
    })
}
