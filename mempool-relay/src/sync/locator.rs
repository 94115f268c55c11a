use ghost_frames::sync::HeadersRequest;
use ghost_proto::{
    BlockId,
    limits::{HEADERS_PER_ANSWER_MAX, LOCATOR_IDS_MAX},
};

/// Ids of our chain that stand one by one before distances double.
const DENSE: u64 = 10;

/// Offsets below the newest: 0, 1, … 9, then 11, 13, 17, 25, 41, …
fn offsets() -> impl Iterator<Item = u64> {
    (0..DENSE).chain((1..60).map(|step| DENSE - 1 + (1 << step)))
}

/// Builds the request of [`super::Effect::RequestHeaders`]: the ids above our chain, then our chain's own from
/// `head` downwards at doubling distances, then genesis. `canonical` gives the id at a height of
/// our canonical chain; heights it does not know are left out.
pub fn headers_request(
    after: &[BlockId],
    head: u64,
    mut canonical: impl FnMut(u64) -> Option<BlockId>,
) -> HeadersRequest {
    let mut locator: Vec<BlockId> = after.iter().copied().take(LOCATOR_IDS_MAX / 2).collect();
    let heights = offsets().map_while(|offset| head.checked_sub(offset)).filter(|height| *height > 0);
    let room = LOCATOR_IDS_MAX - 1 - locator.len();
    locator.extend(heights.take(room).filter_map(&mut canonical));
    locator.extend(canonical(0));
    HeadersRequest { limit: HEADERS_PER_ANSWER_MAX as u16, locator }
}

/// Positions in a list of `len` ids, newest first: 5 dense, then at doubling distances. At most 17
/// for the largest window, so that half a locator holds them.
pub(crate) fn sparse(len: usize) -> impl Iterator<Item = usize> {
    let offsets = (0..5).chain((1..20).map(|step| 4 + (1usize << step)));
    offsets.map_while(move |offset| len.checked_sub(offset + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::HEADER_WINDOW_MAX;

    fn id(height: u64) -> BlockId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&height.to_be_bytes());
        BlockId(bytes)
    }

    #[test]
    fn newest_first_dense_then_doubling_then_genesis() {
        let request = headers_request(&[id(999)], 100, |height| Some(id(height)));
        let heights = [999, 100, 99, 98, 97, 96, 95, 94, 93, 92, 91, 89, 87, 83, 75, 59, 27, 0];
        assert_eq!(request.locator, heights.map(id));
    }

    #[test]
    fn fits_at_every_height_and_ends_in_genesis() {
        let after: Vec<BlockId> = sparse(HEADER_WINDOW_MAX).map(|at| id(at as u64)).collect();
        assert!(after.len() <= LOCATOR_IDS_MAX / 2, "{}", after.len());
        for head in [0, 1, 9, 10, 11, 1 << 20, 1 << 40, u64::MAX] {
            let request = headers_request(&after, head, |height| Some(id(height)));
            assert!(request.locator.len() <= LOCATOR_IDS_MAX);
            assert_eq!(request.locator.last(), Some(&id(0)));
        }
    }
}
