//! Hostile and accidental bytes.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use wfp_schema::{ConditionFlags, LayerKind};

use super::build::{Dialogue, fragment, socket, udp};
use super::recorder::{Recorder, SECOND, host_with};
use crate::net::{
    Completion, Ends, Host, Injection, InjectionMark, InjectionPoint, LocalSide, Outcome, Packet,
    flow_hash,
};

/// A fixed seed, so that every run is the same; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` try others.
pub(super) fn config(cases: u32) -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if config.rng_seed == RngSeed::Random {
        (config.rng_seed, config.cases) = (RngSeed::Fixed(1), cases);
    }
    config
}

/// Bytes that look like packets of a few flows, and bytes that look like nothing.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let flows = prop_oneof![Just("192.0.2.1:443"), Just("192.0.2.2:53")];
    let near = (
        flows,
        any::<bool>(),
        any::<u8>(),
        0..64_u32,
        0..64_u32,
        0..80_usize,
    );
    let segment = near.prop_map(
        |(server, from_client, flags, sequence, acknowledgment, length)| {
            let mut talk = Dialogue::new("10.0.0.1:50000", server);
            talk.next = [sequence, acknowledgment];
            talk.segment(from_client, flags, &vec![b'x'; length])
        },
    );
    let pieces = (any::<bool>(), 0..200_usize, 0..4_usize).prop_map(|(inbound, length, index)| {
        let (here, there) = (socket("10.0.0.1:5000"), socket("192.0.2.1:53"));
        let data = vec![0; length];
        let packet = if inbound {
            udp(there, here, &data)
        } else {
            udp(here, there, &data)
        };
        let mut pieces = fragment(&packet, 64);
        pieces.swap_remove(index % pieces.len())
    });
    let noise = proptest::collection::vec(any::<u8>(), 0..120).prop_map(|mut bytes| {
        if let Some(first) = bytes.first_mut() {
            *first = if *first & 1 == 0 { 0x45 } else { 0x60 };
        }
        bytes
    });
    let whole = prop_oneof![6 => segment, 2 => pieces, 2 => noise];
    let damage = proptest::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    let cut = proptest::option::weighted(0.1, any::<prop::sample::Index>());
    (whole, damage, cut).prop_map(|(mut bytes, damage, cut)| {
        if let Some((at, value)) = damage
            && !bytes.is_empty()
        {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(at) = cut
            && !bytes.is_empty()
        {
            let at = at.index(bytes.len());
            bytes.truncate(at);
        }
        bytes
    })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Permit),
        Just(Outcome::Block),
        Just(Outcome::Absorb),
        Just(Outcome::Pend)
    ]
}

/// Everything that was begun has ended, and every packet has been accounted for.
fn check(host: &mut Host<Recorder>, packets: usize) -> Result<(), TestCaseError> {
    host.finish();
    let counters = host.counters();
    let counted: u64 = host
        .flows()
        .iter()
        .map(|flow| flow.packets.iter().sum::<u64>())
        .sum();
    for flow in host.flows() {
        prop_assert!(flow.passed[0] <= flow.packets[0] && flow.passed[1] <= flow.packets[1]);
    }
    prop_assert!(counted <= packets as u64);
    prop_assert_eq!(counters.packets, packets as u64);
    let recorder = host.filtering();
    prop_assert!(recorder.live.is_empty());
    prop_assert_eq!(recorder.count("FLOW_CREATED"), recorder.count("FLOW_ENDED"));
    // A bind that was pended and completed is classified once more.
    let again = u64::from(ConditionFlags::IS_RECLASSIFY.bits());
    let binds = recorder.shown.iter().filter(|shown| {
        shown.what == "ALE_RESOURCE_ASSIGNMENT" && shown.fields["FLAGS"] & again == 0
    });
    prop_assert_eq!(binds.count(), recorder.count("ALE_RESOURCE_RELEASE"));
    Ok(())
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Packet::parse(&bytes);
        let _ = flow_hash(&bytes);
        let ends = Ends::of(&bytes);
        let local = LocalSide::discover(ends.into_iter()).local;
        let setup = crate::net::Setup { local, ..Default::default() };
        let mut host = Host::new(Recorder::default(), setup);
        let report = host.packet(0, &bytes);
        if ends.is_some() {
            prop_assert_ne!(report.reason, Some(crate::net::Reason::Foreign));
        }
        check(&mut host, 1)?;
    }

    #[test]
    fn whatever_happens_everything_that_begins_ends(
        steps in proptest::collection::vec((packet(), 0..40_u64), 0..60),
        answers in proptest::collection::vec((0..LayerKind::ALL.len(), outcome()), 0..4),
    ) {
        let mut host = host_with(Recorder::of_everything());
        for (kind, outcome) in answers {
            host.filtering().answers.insert(LayerKind::ALL[kind], outcome);
        }
        let mut now = 0;
        let mut settled = std::collections::BTreeSet::new();
        let mut pending = std::collections::BTreeSet::new();
        for (index, (bytes, seconds)) in steps.iter().enumerate() {
            now += seconds * SECOND;
            let report = host.packet(now, bytes);
            if report.reason.is_some_and(crate::net::Reason::is_pending) {
                pending.insert(report.id);
            }
            if index % 3 == 0 {
                let point = [
                    InjectionPoint::NetworkSend,
                    InjectionPoint::NetworkReceive,
                    InjectionPoint::TransportSend,
                    InjectionPoint::TransportReceive,
                ][index % 4];
                host.inject(&Injection { point, bytes, mark: InjectionMark(1), origin: None, link: 0, hops: 0 });
            }
            let handles: Vec<_> =
                host.filtering().shown.iter().map(|shown| shown.pend_handle).collect();
            for (at, handle) in handles.into_iter().enumerate() {
                let completion = [Completion::Permit, Completion::Block, Completion::Again][at % 3];
                if !host.complete(now, handle) {
                    host.complete_classify(now, handle, completion, &[]);
                }
            }
            for (id, _) in host.settled() {
                prop_assert!(settled.insert(id), "{id:?} settled twice");
            }
        }
        check(&mut host, steps.len())?;
        for (id, _) in host.settled() {
            prop_assert!(settled.insert(id), "{id:?} settled twice");
        }
        prop_assert_eq!(settled, pending, "each pending packet is settled, no other");
    }
}
