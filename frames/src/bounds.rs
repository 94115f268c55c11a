//! Counting the items of a payload before anything is made for them.
//!
//! A frame's length bounds its bytes, not what they become: an empty item of a protobuf list takes
//! two bytes on the wire and a hundred times that in memory.

use ghost_proto::layout::{Cursor, LayoutError};

use crate::writer::PayloadError;

/// How many entries of `entry_len` bytes are left, between 1 and `max`.
pub(crate) fn count_entries(
    field: &'static str,
    cursor: &Cursor,
    entry_len: usize,
    max: usize,
) -> Result<usize, LayoutError> {
    let (count, rest) = (cursor.remaining() / entry_len, cursor.remaining() % entry_len);
    if rest != 0 {
        return Err(LayoutError::Truncated { field, have: rest, need: entry_len - rest });
    }
    if count == 0 || count > max {
        return Err(LayoutError::OutOfRange { field, value: count as u64, min: 1, max: max as u64 });
    }
    Ok(count)
}

/// How the items of a repeated field stand on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Items {
    /// Each behind a tag of its own: bytes, strings, messages.
    Each,
    /// Integers, many behind one tag.
    Packed,
}

/// A repeated field of a protobuf message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repeated {
    /// Its number in the schema.
    pub(crate) field: u32,
    /// How its items stand on the wire.
    pub(crate) items: Items,
    /// Its name in errors.
    pub(crate) name: &'static str,
    /// Most items it may hold.
    pub(crate) max: usize,
}

/// Walks over the fields of a protobuf message, allocating nothing, and refuses it if a repeated
/// field holds more items than it may. Integers are counted in the packed form and in the other one.
pub(crate) fn check_repeated(mut bytes: &[u8], repeated: &[Repeated]) -> Result<(), PayloadError> {
    let broken = |what: &str| PayloadError::Protobuf(what.into());
    let mut counts = [0usize; 4];
    debug_assert!(repeated.len() <= counts.len());
    while !bytes.is_empty() {
        let tag = take_varint(&mut bytes).ok_or_else(|| broken("a field's tag is broken"))?;
        let bound = repeated.iter().position(|bound| u64::from(bound.field) == tag >> 3);
        let value = match tag & 7 {
            0 => take_varint(&mut bytes).map(|_| None),
            1 => take(&mut bytes, 8).map(|_| None),
            5 => take(&mut bytes, 4).map(|_| None),
            2 => take_varint(&mut bytes)
                .and_then(|length| take(&mut bytes, usize::try_from(length).ok()?))
                .map(Some),
            _ => return Err(broken("groups are not used")),
        }
        .ok_or_else(|| broken("ends inside a field"))?;
        let Some(index) = bound else { continue };
        let bound = &repeated[index];
        counts[index] += match value {
            // Each integer of a packed list ends with the one byte that has no continuation bit.
            Some(packed) if bound.items == Items::Packed => packed.iter().filter(|b| **b < 0x80).count(),
            _ => 1,
        };
        if counts[index] > bound.max {
            return Err(LayoutError::OutOfRange {
                field: bound.name,
                value: counts[index] as u64,
                min: 0,
                max: bound.max as u64,
            }
            .into());
        }
    }
    Ok(())
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

/// A protobuf varint: little-endian groups of seven bits, at most ten bytes.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let len = bytes.iter().take(10).position(|byte| *byte < 0x80)? + 1;
    let taken = take(bytes, len)?;
    Some(taken.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSIONS: &[Repeated] = &[
        Repeated { field: 2, items: Items::Packed, name: "versions", max: 16 },
        Repeated { field: 9, items: Items::Each, name: "rows", max: 2 },
    ];

    fn counted(field: &'static str, value: u64, max: u64) -> Result<(), PayloadError> {
        Err(LayoutError::OutOfRange { field, value, min: 0, max }.into())
    }

    #[test]
    fn packed_and_single_integers_count_alike_from_both_sides() {
        let packed = |n: u8| [[0x12, n].as_slice(), &vec![1; n.into()]].concat();
        assert_eq!(check_repeated(&packed(16), VERSIONS), Ok(()));
        assert_eq!(check_repeated(&packed(17), VERSIONS), counted("versions", 17, 16));
        assert_eq!(check_repeated(&[0x10, 1].repeat(16), VERSIONS), Ok(()));
        assert_eq!(check_repeated(&[0x10, 1].repeat(17), VERSIONS), counted("versions", 17, 16));
        let both = [packed(10), [0x10, 0x81, 0x01].repeat(7)].concat();
        assert_eq!(check_repeated(&both, VERSIONS), counted("versions", 17, 16));
    }

    #[test]
    fn empty_items_count_from_both_sides() {
        assert_eq!(check_repeated(&[0x4a, 0].repeat(2), VERSIONS), Ok(()));
        assert_eq!(check_repeated(&[0x4a, 0].repeat(3), VERSIONS), counted("rows", 3, 2));
    }

    #[test]
    fn nothing_hides_behind_a_broken_or_grouped_field() {
        for hidden in
            [&[0x0b, 0x0c][..], &[0x0c], &[0x4a, 5, 1], &[0x4a], &[0x80; 11], &[0x09, 1, 2], &[0x10]]
        {
            assert!(
                matches!(check_repeated(hidden, VERSIONS), Err(PayloadError::Protobuf(_))),
                "{hidden:x?}"
            );
        }
    }
}
