//! Shaping, against the plainest account of the same; all time is given.

use parking_lot::RawMutex;
use portcullis_core::Transfer;
use portcullis_core::shape::{
    Bucket, Fate, Limit, LimitSlot, Limits, MAX_WAIT, Random, Rate, Schedule, Shape, Waiting, Way,
};
use proptest::prelude::*;

const SECOND: u64 = 10_000_000;
const START: u64 = 1 << 57;

const fn limit(bytes_per_second: u64, burst: u64, queue: u64) -> Shape {
    Shape {
        rate: Some(Rate {
            bytes_per_second,
            burst,
            queue,
        }),
        ..Shape::NONE
    }
}

/// Lets packets come, each some time after the one before. When each goes on; `None` if it is dropped.
fn pass(shape: &Shape, packets: &[(u64, u64)], seed: u64) -> Vec<(u64, u64, Option<u64>)> {
    let random = Random::new(seed);
    let mut way = Way::NEW;
    let mut now = START;
    let mut waiting = Vec::new();
    let mut passed = Vec::new();
    for &(gap, length) in packets {
        now += gap;
        waiting.retain(|&due| {
            if due <= now {
                way.leave();
            }
            due > now
        });
        let (fate, next) = way.arrive(shape, None, length, now, &random);
        way = next;
        passed.push((
            now,
            length,
            match fate {
                Fate::Now => Some(now),
                Fate::At(due) => {
                    way.wait();
                    waiting.push(due);
                    Some(due)
                }
                Fate::Lost | Fate::Full => None,
            },
        ));
    }
    passed
}

fn packets() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0..SECOND / 20, 40_u64..1500), 1..80)
}

proptest! {
    #[test]
    fn no_more_passes_in_any_time_than_the_bucket_lets(
        packets in packets(), rate in 1_000_u64..1_000_000, burst in 1_500_u64..20_000, queue in 0_u64..50_000,
    ) {
        let passed = pass(&limit(rate, burst, queue), &packets, 1);
        let left: Vec<(u64, u64)> = passed.iter().filter_map(|&(_, length, due)| Some((due?, length))).collect();
        for first in 0..left.len() {
            let mut bytes = 0;
            for &(due, length) in &left[first..] {
                bytes += length;
                let time = u128::from(due - left[first].0);
                let most = u128::from(burst) + time * u128::from(rate) / u128::from(SECOND);
                // The bucket is kept in time, whose units are a little coarse.
                prop_assert!(u128::from(bytes) <= most + 2 + u128::from(rate) * 80 / u128::from(SECOND));
            }
        }
    }

    #[test]
    fn a_bucket_is_as_a_naive_one(
        packets in packets(), rate in 10_000_u64..1_000_000, burst in 1_500_u64..20_000,
    ) {
        // Tokens as a fraction, counted up packet by packet.
        let passed = pass(&limit(rate, burst, u64::MAX), &packets, 1);
        let (mut tokens, mut at) = (f64::from(u32::try_from(burst).unwrap()), START);
        let per_tick = f64::from(u32::try_from(rate).unwrap()) / 1e7;
        for (now, length, due) in passed {
            let from = now.max(at);
            let grown = |since: u64, until: u64| f64::from(u32::try_from(until - since).unwrap()) * per_tick;
            tokens = (tokens + grown(at, from)).min(f64::from(u32::try_from(burst).unwrap()));
            let missing = f64::from(u32::try_from(length).unwrap()) - tokens;
            let wait = if missing > 0.0 { missing / per_tick } else { 0.0 };
            let Some(due) = due else {
                prop_assert!(f64::from(u32::try_from(from - now).unwrap()) + wait > f64::from(u32::try_from(MAX_WAIT).unwrap()) - 100.0);
                break;
            };
            let wanted = f64::from(u32::try_from(from - START).unwrap()) + wait;
            let got = f64::from(u32::try_from(due - START).unwrap());
            prop_assert!((wanted - got).abs() < 200.0, "{} and {}", wanted, got);
            tokens = (tokens + grown(from, due.max(from))).min(f64::from(u32::try_from(burst).unwrap())) - f64::from(u32::try_from(length).unwrap());
            at = due.max(from);
        }
    }

    #[test]
    fn flows_that_share_a_bucket_pass_together_what_one_flow_would(
        packets in prop::collection::vec((0..SECOND / 20, 40_u64..1500, 0_usize..4), 1..80),
        rate in 1_000_u64..1_000_000, burst in 1_500_u64..20_000, queue in 0_u64..50_000,
    ) {
        let shape = limit(rate, burst, queue);
        let one: Vec<(u64, u64)> = packets.iter().map(|&(gap, length, _)| (gap, length)).collect();
        let random = Random::new(1);
        let (mut bucket, mut ways, mut now) = (Bucket::FULL, [Way::NEW; 4], START);
        for ((_, _, due), (gap, length, flow)) in pass(&shape, &one, 1).into_iter().zip(packets) {
            now += gap;
            let (fate, next) = ways[flow].arrive(&shape, Some(&mut bucket), length, now, &random);
            ways[flow] = next;
            let goes_on = match fate {
                Fate::Now => Some(now),
                Fate::At(due) => Some(due),
                Fate::Lost | Fate::Full => None,
            };
            prop_assert_eq!(goes_on, due);
        }
    }

    #[test]
    fn none_overtakes_another(
        packets in packets(), delay in 0..SECOND, jitter in 0..SECOND, rate in 10_000_u64..1_000_000, seed in any::<u64>(),
    ) {
        let shape = Shape { delay, jitter, ..limit(rate, 3_000, 100_000) };
        let passed = pass(&shape, &packets, seed);
        let due: Vec<u64> = passed.iter().filter_map(|packet| packet.2).collect();
        prop_assert!(due.is_sorted());
        for (now, _, due) in passed {
            if let Some(due) = due {
                prop_assert!(due >= now + delay && due <= now + 2 * MAX_WAIT);
            }
        }
        prop_assert_eq!(pass(&shape, &packets, seed), pass(&shape, &packets, seed));
    }

    #[test]
    fn what_waits_leaves_in_order_of_time_and_of_coming(times in prop::collection::vec(0_u64..20, 0..60)) {
        let places: Vec<Waiting<usize>> = (0..40).map(|_| Waiting::new()).collect();
        let mut schedule = Schedule::new(places);
        let mut wanted = Vec::new();
        for (index, &due) in times.iter().enumerate() {
            match schedule.push(due, index) {
                Ok(is_first) => {
                    prop_assert_eq!(is_first, wanted.iter().all(|&(before, _)| due < before));
                    wanted.push((due, index));
                }
                Err(back) => {
                    prop_assert_eq!(back, index);
                    prop_assert_eq!(wanted.len(), 40);
                }
            }
        }
        wanted.sort_unstable();
        for now in 0..20 {
            while let Some(index) = schedule.pop_due::<usize>(now) {
                prop_assert_eq!(wanted.remove(0), (now, index));
            }
            prop_assert_eq!(schedule.next_due::<usize>(), wanted.first().map(|first| first.0));
        }
        prop_assert!(schedule.is_empty());
    }
}

#[test]
fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
    // 1,000 bytes a second, 3,000 at once.
    let passed = pass(&limit(1_000, 3_000, 2_000), &[(0, 1_000); 7], 1);
    let due: Vec<Option<u64>> = passed
        .iter()
        .map(|packet| packet.2.map(|due| (due - START) / SECOND))
        .collect();
    let full = None;
    assert_eq!(
        due,
        [Some(0), Some(0), Some(0), Some(1), Some(2), full, full]
    );
}

#[test]
fn without_a_queue_what_is_too_much_is_dropped() {
    let passed = pass(
        &limit(1_000, 1_000, 0),
        &[(0, 1_000), (1, 1_000), (SECOND, 1_000)],
        1,
    );
    let passed: Vec<bool> = passed.iter().map(|packet| packet.2.is_some()).collect();
    assert_eq!(passed, [true, false, true]);
}

#[test]
fn what_comes_while_another_waits_waits_behind_it() {
    let shape = Shape {
        delay: SECOND,
        ..Shape::NONE
    };
    let random = Random::new(1);
    let (fate, mut way) = Way::NEW.arrive(&shape, None, 100, START, &random);
    assert_eq!(fate, Fate::At(START + SECOND));
    way.wait();
    // The rule is gone, and the first packet's time has come, but it has not left.
    let (fate, next) = way.arrive(&Shape::NONE, None, 100, START + SECOND + 5, &random);
    assert_eq!(fate, Fate::At(START + SECOND + 5));
    way = next;
    way.leave();
    let (fate, _) = way.arrive(&Shape::NONE, None, 100, START + SECOND + 6, &random);
    assert_eq!(fate, Fate::Now);
}

#[test]
fn a_new_policys_limits_are_whole_and_who_is_under_the_old_one_has_no_part_in_them() {
    let limits = Limits::new(vec![LimitSlot::<RawMutex>::new()]);
    let rate = limit(1, 1_000, 0).rate.expect("a rate");
    let take = |number, epoch, transfer| {
        let limit = Limit { number, epoch };
        let taken = limits.with(limit, transfer, |bucket| bucket.take(&rate, 1_000, START));
        taken.map(|taken| taken.is_some())
    };
    assert_eq!(take(0, 7, Transfer::Sent), Some(true));
    assert_eq!(take(0, 7, Transfer::Sent), Some(false), "it is empty");
    assert_eq!(take(0, 7, Transfer::Received), Some(true), "a bucket each");
    assert_eq!(take(0, 8, Transfer::Sent), Some(true), "another policy");
    assert_eq!(take(0, 7, Transfer::Sent), None, "not decided again yet");
    assert_eq!(take(0, 8, Transfer::Sent), Some(false));
    assert_eq!(take(1, 8, Transfer::Sent), None, "no such limit");
}

#[test]
fn so_many_are_lost_as_the_rule_says_and_the_same_with_the_same_seed() {
    let shape = Shape {
        loss: 250_000,
        ..Shape::NONE
    };
    let packets = vec![(1, 100); 10_000];
    let passed = pass(&shape, &packets, 7);
    let lost = passed.iter().filter(|packet| packet.2.is_none()).count();
    assert!((2_300..2_700).contains(&lost), "{lost} of 10,000");
    assert_eq!(passed, pass(&shape, &packets, 7));
    assert_ne!(passed, pass(&shape, &packets, 8));
    let all = Shape {
        loss: 1_000_000,
        ..Shape::NONE
    };
    assert!(
        pass(&all, &packets, 7)
            .iter()
            .all(|packet| packet.2.is_none())
    );
}
