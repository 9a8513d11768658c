//! Whose traffic it is: the user in a token's access information.

/// Offset of `SidHash` in `TOKEN_ACCESS_INFORMATION`.
const SID_HASH: usize = 0;
/// Offset of `SidCount` in `SID_AND_ATTRIBUTES_HASH`.
const SID_COUNT: usize = 0;
/// Offset of `SidAttr` in `SID_AND_ATTRIBUTES_HASH`.
const SID_ATTR: usize = 8;
/// Offset of `Sid` in `SID_AND_ATTRIBUTES`.
const SID: usize = 0;
/// Bytes of a `SID` before its sub-authorities.
const SID_HEADER: usize = 8;
/// `SID_MAX_SUB_AUTHORITIES`.
const MAX_SUB_AUTHORITIES: usize = 15;

/// The security identifier of the user in `information`, the bytes of a
/// `TOKEN_ACCESS_INFORMATION` together with all that it points at.
///
/// The first entry of `SidHash` is the token's user (header `ntifs.h`). Every pointer is
/// followed only within `information`; `None` if one leads out of it, or to no SID.
#[must_use]
pub fn user(information: &[u8]) -> Option<&[u8]> {
    let groups = follow(information, SID_HASH)?;
    let count = *groups.get(SID_COUNT..)?.first_chunk::<4>()?;
    if u32::from_ne_bytes(count) == 0 {
        return None;
    }
    let first = follow_at(information, groups, SID_ATTR)?;
    sid(follow_at(information, first, SID)?)
}

/// The bytes of the SID that `bytes` begins with: revision 1, with all its sub-authorities.
#[must_use]
pub fn sid(bytes: &[u8]) -> Option<&[u8]> {
    let &[revision, sub_authorities, ..] = bytes else {
        return None;
    };
    let sub_authorities = usize::from(sub_authorities);
    if revision != 1 || sub_authorities > MAX_SUB_AUTHORITIES {
        return None;
    }
    bytes.get(..SID_HEADER + 4 * sub_authorities)
}

/// What the pointer at `offset` of `whole` points at, up to the end of `whole`.
fn follow(whole: &[u8], offset: usize) -> Option<&[u8]> {
    follow_at(whole, whole, offset)
}

/// What the pointer at `offset` of `part` points at, up to the end of `whole`.
fn follow_at<'a>(whole: &'a [u8], part: &[u8], offset: usize) -> Option<&'a [u8]> {
    let pointer = *part
        .get(offset..)?
        .first_chunk::<{ size_of::<usize>() }>()?;
    let distance = usize::from_ne_bytes(pointer).checked_sub(whole.as_ptr().addr())?;
    whole.get(distance..)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::{sid, user};

    const ADMINISTRATOR: [u8; 28] = [
        1, 5, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0xF4, 1, 0, 0,
    ];

    /// Access information as the kernel lays it out: each part behind the one that points at it.
    fn information(count: u32, sid: &[u8]) -> Vec<u8> {
        const HASH: usize = 96;
        const ATTRIBUTES: usize = HASH + 272;
        const SID: usize = ATTRIBUTES + 16;
        let mut bytes = std::vec![0; SID];
        bytes.extend_from_slice(sid);
        let base = bytes.as_ptr().addr();
        bytes[0..8].copy_from_slice(&(base + HASH).to_ne_bytes());
        bytes[HASH..HASH + 4].copy_from_slice(&count.to_ne_bytes());
        bytes[HASH + 8..HASH + 16].copy_from_slice(&(base + ATTRIBUTES).to_ne_bytes());
        bytes[ATTRIBUTES..ATTRIBUTES + 8].copy_from_slice(&(base + SID).to_ne_bytes());
        bytes
    }

    #[test]
    fn the_first_sid_is_the_user() {
        assert_eq!(
            user(&information(3, &ADMINISTRATOR)),
            Some(&ADMINISTRATOR[..])
        );
    }

    #[test]
    fn no_group_means_no_user() {
        assert_eq!(user(&information(0, &ADMINISTRATOR)), None);
    }

    #[test]
    fn every_truncation_is_noticed() {
        let whole = information(1, &ADMINISTRATOR);
        for end in 0..whole.len() {
            assert_eq!(user(&whole[..end]), None, "of {end} bytes");
        }
    }

    #[test]
    fn a_pointer_out_of_the_information_leads_nowhere() {
        for pointer in [0, 8, usize::MAX] {
            let mut bytes = information(1, &ADMINISTRATOR);
            bytes[0..8].copy_from_slice(&pointer.to_ne_bytes());
            assert_eq!(user(&bytes), None);
        }
    }

    #[test]
    fn a_sid_has_revision_1_and_at_most_15_sub_authorities() {
        assert_eq!(sid(&[2, 0, 0, 0, 0, 0, 0, 5]), None);
        let mut bytes = [0; 8 + 4 * 16];
        bytes[0] = 1;
        bytes[1] = 16;
        assert_eq!(sid(&bytes), None);
        bytes[1] = 15;
        assert_eq!(sid(&bytes).map(<[u8]>::len), Some(8 + 4 * 15));
    }
}
