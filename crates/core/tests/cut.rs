//! How data is cut into datagrams, whatever a list says.

use portcullis_core::Cut;
use proptest::prelude::*;

/// As many bytes as a buffer can have, and sizes around it, those of the fields of a list included.
fn bytes() -> impl Strategy<Value = usize> {
    prop_oneof![0_usize..70, 0_usize..70_000]
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), 1_usize..80, 0_usize..0x10_0000]
}

/// The datagrams make up the data, in order, and only the last is shorter than the others.
fn assert_whole(cut: Cut, bytes: usize, size: usize) {
    assert_eq!(cut.bytes(), bytes);
    let mut left = cut;
    let lengths: Vec<_> = std::iter::from_fn(|| left.next()).collect();
    assert_eq!(lengths.len(), cut.datagrams());
    assert_eq!((left.datagrams(), left.bytes()), (0, 0));
    assert_eq!(lengths.iter().sum::<usize>(), bytes);
    let (last, others) = lengths.split_last().expect("at least one");
    assert!(others.iter().all(|&length| length == size));
    assert!(others.is_empty() || (1..=size).contains(last));
}

proptest! {
    #[test]
    fn what_is_sent_is_cut_by_its_size(bytes in bytes(), size in size()) {
        let cut = Cut::sent(bytes, size);
        assert_whole(cut, bytes, size);
        let is_cut = size > 0 && size < bytes;
        prop_assert_eq!(cut.datagrams(), if is_cut { bytes.div_ceil(size) } else { 1 });
    }

    #[test]
    fn what_was_received_is_cut_if_the_count_fits_and_else_is_one(bytes in bytes(), count in 0_usize..0x1_0000, size in size()) {
        let cut = Cut::received(bytes, count, size);
        assert_whole(cut, bytes, size);
        let fits = count > 1 && size > 0 && size * (count - 1) < bytes && bytes <= size * count;
        prop_assert_eq!(cut.datagrams(), if fits { count } else { 1 });
    }

    #[test]
    fn a_right_count_always_fits(count in 2_usize..600, size in 1_usize..100, last in any::<prop::sample::Index>()) {
        let bytes = size * (count - 1) + 1 + last.index(size);
        prop_assert_eq!(Cut::received(bytes, count, size).datagrams(), count);
        prop_assert_eq!(Cut::received(bytes, count + 1, size), Cut::one(bytes));
        prop_assert_eq!(Cut::received(bytes, count - 1, size), Cut::one(bytes));
    }

    #[test]
    fn what_is_left_is_told_at_every_step(bytes in bytes(), size in size()) {
        let mut cut = Cut::sent(bytes, size);
        let (mut count, mut left) = (cut.datagrams(), bytes);
        while let Some(length) = cut.next() {
            count -= 1;
            left -= length;
            prop_assert_eq!((cut.datagrams(), cut.bytes()), (count, left));
            if count > 2_000 {
                break;
            }
        }
    }
}
