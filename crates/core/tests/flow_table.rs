//! A table of flows that has more room as time goes by.

mod shared;

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use portcullis_core::{Connection, FlowHandle, NotFollowed};
use proptest::prelude::*;
use shared::driver::{Core, Flows, core_over, outgoing};

fn begin(core: &Core, flow: u64) -> Result<FlowHandle, NotFollowed> {
    core.flow_established(&Connection {
        flow,
        ..outgoing(17, 4000)
    })
}

/// The flows that the system has, by what it calls them.
fn followed(core: &Core) -> HashSet<u64> {
    let mut found = HashSet::new();
    core.flows().for_each(|flow| {
        assert!(found.insert(flow.system_flow), "each is shown once");
    });
    found
}

fn grow(core: &Core, count: usize) {
    let storage = core.flows().storage();
    storage.count.store(count, Ordering::Release);
    core.flows().grow();
}

#[test]
fn a_full_table_that_grows_has_room_again_and_keeps_its_flows() {
    let core = core_over(Flows::new(2, 8), "");
    assert!(!core.flows().is_filling());
    let handles = [1, 2].map(|flow| begin(&core, flow).expect("there is room"));
    assert!(core.flows().is_filling());
    assert!(begin(&core, 3).is_err(), "it is full");
    grow(&core, 4);
    assert_eq!(core.flows().capacity(), 4);
    begin(&core, 3).expect("there is room");
    begin(&core, 4).expect("there is room");
    assert!(begin(&core, 5).is_err(), "it is full again");
    assert_eq!(followed(&core), HashSet::from([1, 2, 3, 4]));
    core.flow_deleted(handles[0]);
    begin(&core, 6).expect("there is room");
    assert_eq!(followed(&core), HashSet::from([2, 3, 4, 6]));
}

#[test]
fn a_table_that_is_told_to_grow_without_more_memory_stays_as_it_is() {
    let core = core_over(Flows::new(1, 1), "");
    grow(&core, 1);
    begin(&core, 1).expect("there is room");
    assert!(begin(&core, 2).is_err());
}

#[test]
fn a_table_may_begin_without_room() {
    let core = core_over(Flows::new(0, 1), "");
    assert!(begin(&core, 1).is_err());
    grow(&core, 1);
    begin(&core, 1).expect("there is room");
    assert!(core.is_followed(1) && !core.is_followed(0));
}

proptest! {
    /// Whatever begins, ends and grows: as many flows are followed as a set with a bound would have.
    #[test]
    fn a_growing_table_follows_what_a_bounded_set_would(steps in prop::collection::vec(any::<u8>(), 1..200)) {
        const MOST: usize = 16;
        let core = core_over(Flows::new(1, MOST), "");
        let mut capacity = 1;
        let mut live: Vec<(u64, FlowHandle)> = Vec::new();
        for (step, flow) in steps.iter().zip(1..) {
            match step % 8 {
                0 => {
                    capacity = (capacity + usize::from(step / 64)).min(MOST);
                    grow(&core, capacity);
                }
                1..=2 if !live.is_empty() => {
                    let (_, handle) = live.swap_remove(usize::from(step / 8) % live.len());
                    core.flow_deleted(handle);
                }
                _ => {
                    if let Ok(handle) = begin(&core, flow) {
                        live.push((flow, handle));
                    } else {
                        prop_assert_eq!(live.len(), capacity);
                    }
                }
            }
            prop_assert!(live.len() <= capacity);
            let expected: HashSet<u64> = live.iter().map(|(flow, _)| *flow).collect();
            for flow in 1..=steps.len() as u64 {
                prop_assert_eq!(core.is_followed(flow), expected.contains(&flow), "by its identifier");
            }
            prop_assert_eq!(followed(&core), expected);
        }
    }
}
