//! Any segmentation, order, repetition and overlap gives the stream that was sent.

use std::ops::ControlFlow;

use proptest::prelude::*;

use super::robustness::config;
use crate::net::reassembly::Reassembler;

/// Delivers segments and returns what came out.
fn assemble(
    start: u32,
    segments: &[(usize, Vec<u8>)],
    end: Option<usize>,
) -> (Vec<u8>, Reassembler) {
    let mut reassembler = Reassembler::default();
    reassembler.start(start);
    let mut out = Vec::new();
    for (offset, bytes) in segments {
        let sequence = start.wrapping_add(u32::try_from(*offset).expect("small"));
        let fin = end == Some(offset + bytes.len());
        let wire_len = u32::try_from(bytes.len()).expect("small");
        let _ = reassembler.push(sequence, bytes, wire_len, fin, &mut |_, bytes| {
            out.extend_from_slice(bytes);
            ControlFlow::Continue(())
        });
    }
    (out, reassembler)
}

/// A stream, and segments that cover it: any cuts, any extra segments, in any order.
fn stream() -> impl Strategy<Value = (Vec<u8>, Vec<(usize, usize)>)> {
    proptest::collection::vec(any::<u8>(), 1..400).prop_flat_map(|data| {
        let length = data.len();
        let cuts = proptest::collection::btree_set(1..length.max(2), 0..12);
        let extra = proptest::collection::vec((0..length, 1..60_usize), 0..12);
        (Just(data), cuts, extra).prop_flat_map(move |(data, cuts, extra)| {
            let mut bounds: Vec<_> = cuts.into_iter().filter(|&cut| cut < length).collect();
            bounds.insert(0, 0);
            bounds.push(length);
            let mut ranges: Vec<_> = bounds.windows(2).map(|pair| (pair[0], pair[1])).collect();
            ranges.extend(
                extra
                    .iter()
                    .map(|&(from, size)| (from, length.min(from + size))),
            );
            (Just(data), Just(ranges).prop_shuffle())
        })
    })
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn the_stream_comes_out_as_it_was_sent((data, ranges) in stream(), start in any::<u32>()) {
        let segments: Vec<_> = ranges.iter().map(|&(from, to)| (from, data[from..to].to_vec())).collect();
        let (out, reassembler) = assemble(start, &segments, Some(data.len()));
        prop_assert_eq!(out, data);
        prop_assert!(reassembler.is_finished());
        prop_assert_eq!(reassembler.skipped(), 0);
    }

    #[test]
    fn of_data_that_differs_the_first_wins((data, ranges) in stream(), start in any::<u32>()) {
        let mut first: Vec<Option<u8>> = vec![None; data.len()];
        let mut segments = Vec::new();
        for (index, &(from, to)) in ranges.iter().enumerate() {
            let mark = u8::try_from(index).expect("few");
            first[from..to].iter_mut().for_each(|byte| { byte.get_or_insert(mark); });
            segments.push((from, vec![mark; to - from]));
        }
        let expected: Vec<u8> = first.into_iter().map(|byte| byte.expect("covered")).collect();
        let (out, _) = assemble(start, &segments, None);
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn any_segments_at_all_end_without_panic_and_in_bounds(
        segments in proptest::collection::vec((any::<u32>(), 0..40_usize, 0..80_u32, any::<bool>()), 0..200),
    ) {
        let mut reassembler = Reassembler::default();
        let mut out = 0;
        let mut given = 0;
        for (sequence, length, cut, fin) in segments {
            given += length;
            let wire_len = u32::try_from(length).expect("small") + cut;
            let _ = reassembler.push(sequence, &vec![0; length], wire_len, fin, &mut |_, bytes| {
                out += bytes.len();
                ControlFlow::Continue(())
            });
            reassembler.acknowledged(sequence.wrapping_add(100));
        }
        let _ = reassembler.skip_all(&mut |_, bytes| { out += bytes.len(); ControlFlow::Continue(()) });
        prop_assert!(out <= given);
    }
}
