//! Datagrams that are one packet.

use std::cell::Cell;

use portcullis_core::{Cut, DatagramVerdict, FlowHandle, MAX_DATAGRAMS, Transfer};
use portcullis_proto::Counter;

use crate::shared::driver::{Core, core, count, outgoing, set_policy};
use crate::{BLOCK_EVIL, UDP, establish};

const BLOCK_SECRET: &str =
    "default = \"permit\"\n[[rule]]\naction = \"block\"\ncontent = [\"secret\"]";

/// What becomes of these datagrams, and how many of them were looked at.
fn give(
    core: &Core,
    flow: FlowHandle,
    transfer: Transfer,
    data: &[&[u8]],
) -> (DatagramVerdict, usize) {
    let bytes = data.iter().map(|data| data.len()).sum();
    let cut = Cut::sent(bytes, data[0].len());
    assert_eq!(cut.datagrams(), data.len());
    let looked_at = Cell::new(0);
    let verdict = core.datagrams(Some(flow), transfer, cut, |length| {
        let next = data[looked_at.replace(looked_at.get() + 1)];
        assert_eq!(next.len(), length);
        [next]
    });
    (verdict, looked_at.get())
}

fn traffic(core: &Core, flow: FlowHandle) -> [(u64, u64); 2] {
    let of = |flow: &mut portcullis_core::flow::Flow| {
        [flow.sent(), flow.received()].map(|traffic| (traffic.packets, traffic.bytes))
    };
    core.flows().with(flow, of).expect("it lives")
}

#[test]
fn the_first_of_a_flow_is_looked_at_and_the_rest_is_counted() {
    let core = core(4, BLOCK_EVIL);
    let flow = establish(&core, &outgoing(UDP, 4000));
    let data = [&b"four"[..], b"more", b"end"];
    let permit = DatagramVerdict::Permit;
    assert_eq!(
        give(&core, flow, Transfer::Sent, &data),
        (permit, 1),
        "it is not QUIC"
    );
    assert_eq!(give(&core, flow, Transfer::Sent, &data), (permit, 0));
    assert_eq!(
        give(&core, flow, Transfer::Received, &data[..2]),
        (permit, 0)
    );
    assert_eq!(traffic(&core, flow), [(6, 22), (2, 8)]);
    set_policy(&core, "default = \"block\"");
    assert_eq!(
        give(&core, flow, Transfer::Received, &data),
        (DatagramVerdict::Block, 1),
        "decided again"
    );
    assert_eq!(count(&core, Counter::DatagramsBlocked), 3);
}

#[test]
fn where_contents_count_each_is_looked_at_up_to_the_bound() {
    let core = core(4, BLOCK_SECRET);
    let flow = establish(&core, &outgoing(UDP, 4000));
    let data = vec![&b"harmless"[..]; MAX_DATAGRAMS + 1];
    let permit = DatagramVerdict::Permit;
    assert_eq!(
        give(&core, flow, Transfer::Sent, &data[1..]),
        (permit, MAX_DATAGRAMS)
    );
    assert_eq!(count(&core, Counter::DatagramsTooMany), 0);
    let (verdict, looked_at) = give(&core, flow, Transfer::Sent, &data);
    assert_eq!(
        (verdict, looked_at),
        (DatagramVerdict::Block, MAX_DATAGRAMS)
    );
    assert_eq!(count(&core, Counter::DatagramsTooMany), 1);
    assert_eq!(count(&core, Counter::DatagramsBlocked), data.len() as u64);
    let all = 2 * data.len() as u64 - 1;
    assert_eq!(traffic(&core, flow)[0], (all, all * 8), "all are counted");
    assert_eq!(
        give(&core, flow, Transfer::Sent, &data[..2]),
        (permit, 2),
        "for that packet only"
    );
}

#[test]
fn without_a_flow_they_pass_and_that_is_counted_once() {
    let core = core(4, BLOCK_EVIL);
    let verdict = core.datagrams(
        None,
        Transfer::Sent,
        Cut::sent(100, 10),
        |_| -> [&[u8]; 1] { panic!("nobody looks") },
    );
    assert_eq!(verdict, DatagramVerdict::Permit);
    assert_eq!(count(&core, Counter::FlowMissing), 1);
}
