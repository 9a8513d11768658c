//! Packets as callouts see them: offsets, MDLs, what has to be put back, references and clones.

use std::cell::Cell;
use std::rc::Rc;

use wfp_schema::{Action, LayerKind, NtStatus};

use super::support::{
    Classify, Driver, OK, Shown, absorb, behave, into, run, run_clean, status, v4,
};
use crate::access::{Out, POISON};
use crate::fwp::Config;
use crate::fwp::nbl::{
    FwpsAllocateCloneNetBufferList0, FwpsDereferenceNetBufferList0, FwpsFreeCloneNetBufferList0,
    FwpsReferenceNetBufferList0,
};
use crate::ndis::MdlLayout;
use crate::ndis::chain;
use crate::ndis::layout::{NetBuffer, NetBufferData, NetBufferList};
use crate::ndis::position::{
    NdisAdvanceNetBufferDataStart, NdisGetDataBuffer, NdisRetreatNetBufferDataStart,
};
use crate::net::Outcome;
use crate::verifier::{CLASSIFY_RIGHTS, NBL_STATE, OBJECT_STALE};

/// IP header 20 bytes, UDP header 8 bytes, then data.
pub(super) fn udp_packet() -> Vec<u8> {
    let mut packet: Vec<u8> = (0..128).collect();
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&128_u16.to_be_bytes());
    packet[9] = 17;
    packet
}

const IP: u32 = 20;
const UDP: u32 = 8;
const DATA: usize = 28;

/// Every layout that a driver has to cope with.
fn layouts() -> impl Iterator<Item = Config> {
    std::iter::once(MdlLayout::Whole)
        .chain((0..100).map(MdlLayout::Seeded))
        .map(|mdl_layout| Config {
            mdl_layout,
            ..Config::default()
        })
}

fn list(classify: &Classify<'_>) -> (Out<NetBufferList>, Out<NetBuffer>) {
    let list = classify.layer_data::<NetBufferList>();
    (list, list.get().expect("a packet").first)
}

/// The data of a net buffer as a driver reads it.
fn data(buffer: Out<NetBuffer>) -> Vec<u8> {
    let length = chain::data_of(buffer).expect("a net buffer").data_length;
    let mut storage = vec![0_u8; length];
    // SAFETY: written during the call only.
    let at = unsafe { Out::new(storage.as_mut_ptr()) };
    let found = NdisGetDataBuffer(buffer, u32::try_from(length).expect("short"), at, 1, 0);
    assert!(!found.is_null() || length == 0);
    let mut copy = vec![0; length];
    found.as_in().copy_to(&mut copy);
    copy
}

fn inbound_datagram(driver: &mut Driver<'_>) -> Outcome {
    let packet = udp_packet();
    let shown = Shown {
        headers: Some((IP, UDP)),
        ..Shown::packet(&packet, DATA)
    };
    driver.classify(v4(LayerKind::DatagramData), &[], shown)
}

#[test]
fn an_inbound_packet_starts_at_its_data_and_retreats_to_its_headers() {
    for config in layouts() {
        run_clean(config, |driver| {
            driver.filtered(v4(LayerKind::DatagramData), Action::CalloutInspection);
            behave(|classify| {
                let (_, buffer) = list(classify);
                let packet = udp_packet();
                assert_eq!(data(buffer), packet[DATA..]);
                let headers =
                    classify.metadata.ip_header_size + classify.metadata.transport_header_size;
                assert_eq!(NdisRetreatNetBufferDataStart(buffer, headers, 0, None), OK);
                assert_eq!(data(buffer), packet);
                NdisAdvanceNetBufferDataStart(buffer, headers, 0, None);
                assert_eq!(data(buffer), packet[DATA..]);
            });
            assert_eq!(inbound_datagram(driver), Outcome::Permit);
        });
    }
}

#[test]
fn an_outbound_packet_starts_at_its_transport_header_and_has_no_ip_header_yet() {
    for config in layouts() {
        run_clean(config, |driver| {
            let at = v4(LayerKind::OutboundTransport);
            driver.filtered(at, Action::CalloutInspection);
            behave(|classify| {
                let (_, buffer) = list(classify);
                assert_eq!(data(buffer), udp_packet()[IP as usize..]);
                assert_eq!(NdisRetreatNetBufferDataStart(buffer, IP, 0, None), OK);
                assert_eq!(data(buffer)[..IP as usize], [POISON; IP as usize]);
                NdisAdvanceNetBufferDataStart(buffer, IP, 0, None);
            });
            driver.classify(at, &[], Shown::packet(&udp_packet(), IP as usize));
        });
    }
}

#[test]
fn a_retreat_beyond_the_first_mdl_allocates_and_the_advance_frees() {
    for config in layouts() {
        run_clean(config, |driver| {
            driver.filtered(v4(LayerKind::DatagramData), Action::CalloutInspection);
            behave(|classify| {
                let (_, buffer) = list(classify);
                let before = chain::data_of(buffer);
                assert_eq!(NdisRetreatNetBufferDataStart(buffer, 200, 10, None), OK);
                assert_eq!(data(buffer).len(), 300);
                NdisAdvanceNetBufferDataStart(buffer, 200, 1, None);
                assert_eq!(chain::data_of(buffer), before);
            });
            inbound_datagram(driver);
        });
    }
}

#[test]
fn a_retreat_that_is_not_undone_is_found() {
    let report = run(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::DatagramData), Action::CalloutInspection);
        behave(|classify| {
            let (_, buffer) = list(classify);
            assert_eq!(NdisRetreatNetBufferDataStart(buffer, UDP, 0, None), OK);
        });
        inbound_datagram(driver);
    });
    assert_eq!(report.violations.len(), 1, "{report:#?}");
    assert_eq!(report.violations[0].rule, NBL_STATE.name);
    assert!(
        report.violations[0].message.contains("not put back"),
        "{report:#?}"
    );
}

#[test]
fn a_change_of_the_data_or_before_it_is_found() {
    /// What a callout does with the first byte of a packet.
    type Change = fn(Out<u8>);
    let changes: [(Change, &str); 2] = [
        (|first| assert!(first.set(0xff)), "in place"),
        (
            |first| assert!(first.offset::<u8>(0_usize.wrapping_sub(1)).set(0)),
            "before the buffer",
        ),
    ];
    for (change, words) in changes {
        let report = run(Config::default(), |driver| {
            driver.filtered(v4(LayerKind::InboundIpPacket), Action::CalloutInspection);
            behave(move |classify| {
                let (_, buffer) = list(classify);
                change(NdisGetDataBuffer(buffer, 1, Out::null(), 1, 0));
            });
            let packet = udp_packet();
            let shown = Shown {
                headers: Some((IP, 0)),
                ..Shown::packet(&packet, 0)
            };
            driver.classify(v4(LayerKind::InboundIpPacket), &[], shown);
        });
        assert_eq!(report.violations.len(), 1, "{report:#?}");
        assert!(report.violations[0].message.contains(words), "{report:#?}");
    }
}

#[test]
fn the_data_ends_where_a_page_begins_that_nobody_may_touch() {
    run_clean(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::DatagramData), Action::CalloutInspection);
        behave(|classify| {
            let (_, buffer) = list(classify);
            let length = chain::data_of(buffer).expect("a net buffer").data_length;
            let first = NdisGetDataBuffer(buffer, 1, Out::null(), 1, 0);
            assert_eq!((first.address() + length) % 0x1000, 0);
        });
        inbound_datagram(driver);
    });
}

#[test]
fn a_buffer_that_does_not_fit_gives_no_data() {
    run_clean(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::DatagramData), Action::CalloutInspection);
        behave(|classify| {
            let (_, buffer) = list(classify);
            assert!(NdisGetDataBuffer(buffer, 101, Out::null(), 1, 0).is_null());
            assert!(!NdisGetDataBuffer(buffer, 100, Out::null(), 1, 0).is_null());
        });
        inbound_datagram(driver);
    });
}

#[test]
fn a_referenced_packet_stays_until_it_is_dereferenced() {
    run_clean(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::DatagramData), Action::CalloutUnknown);
        let kept: Rc<Cell<Out<NetBufferList>>> = Rc::new(Cell::new(Out::null()));
        let slot = Rc::clone(&kept);
        behave(move |classify| {
            let (list, _) = list(classify);
            FwpsReferenceNetBufferList0(list, 0);
            slot.set(list);
            absorb(classify);
        });
        assert_eq!(inbound_datagram(driver), Outcome::Absorb);
        behave(|_| ());
        let other = [0_u8; 64];
        let shown = Shown {
            headers: Some((IP, UDP)),
            ..Shown::packet(&other, DATA)
        };
        driver.classify(v4(LayerKind::DatagramData), &[], shown);
        let buffer = kept.get().get().expect("still there").first;
        assert_eq!(
            data(buffer),
            udp_packet()[DATA..],
            "another packet does not take its place"
        );
        FwpsDereferenceNetBufferList0(kept.get(), 0);
    });
}

#[test]
fn a_reference_that_is_not_given_back_is_a_leak_and_one_too_many_a_violation() {
    let report = run(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::DatagramData), Action::CalloutInspection);
        behave(|classify| {
            let (list, _) = list(classify);
            FwpsReferenceNetBufferList0(list, 0);
        });
        inbound_datagram(driver);
    });
    assert_eq!(report.leaks.len(), 1, "{report:#?}");
    assert_eq!(report.leaks[0].kind, "net buffer list reference");
    let report = run(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::DatagramData), Action::CalloutInspection);
        behave(|classify| FwpsDereferenceNetBufferList0(list(classify).0, 0));
        inbound_datagram(driver);
    });
    assert_eq!(report.violations.len(), 1, "{report:#?}");
    assert_eq!(report.violations[0].rule, NBL_STATE.name);
}

#[test]
fn a_packet_that_is_to_be_modified_later_is_dropped_for_good() {
    let report = run(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::DatagramData), Action::CalloutUnknown);
        behave(|classify| {
            let (list, _) = list(classify);
            FwpsReferenceNetBufferList0(list, 1);
            FwpsDereferenceNetBufferList0(list, 0);
            classify.out.action = Action::Permit.value();
        });
        inbound_datagram(driver);
    });
    assert_eq!(report.violations.len(), 1, "{report:#?}");
    assert_eq!(report.violations[0].rule, CLASSIFY_RIGHTS.name);
}

#[test]
fn a_clone_shares_the_data_and_keeps_the_packet() {
    for config in layouts() {
        run_clean(config, |driver| {
            driver.filtered(v4(LayerKind::DatagramData), Action::CalloutUnknown);
            let kept: Rc<Cell<Out<NetBufferList>>> = Rc::new(Cell::new(Out::null()));
            let slot = Rc::clone(&kept);
            behave(move |classify| {
                let (list, _) = list(classify);
                let mut clone = Out::null();
                assert_eq!(
                    FwpsAllocateCloneNetBufferList0(list, 0, 0, 0, into(&mut clone)),
                    OK
                );
                slot.set(clone);
                absorb(classify);
            });
            assert_eq!(inbound_datagram(driver), Outcome::Absorb);
            let buffer = kept.get().get().expect("a clone").first;
            assert_eq!(data(buffer), udp_packet()[DATA..]);
            assert_eq!(NdisRetreatNetBufferDataStart(buffer, IP + UDP, 0, None), OK);
            assert_eq!(data(buffer), udp_packet(), "the clone inherits the offset");
            NdisAdvanceNetBufferDataStart(buffer, IP + UDP, 0, None);
            FwpsFreeCloneNetBufferList0(kept.get(), 0);
        });
    }
}

#[test]
fn a_packet_is_not_cloned_after_its_classify() {
    let report = run(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::DatagramData), Action::CalloutInspection);
        let seen: Rc<Cell<Out<NetBufferList>>> = Rc::new(Cell::new(Out::null()));
        let slot = Rc::clone(&seen);
        behave(move |classify| slot.set(list(classify).0));
        inbound_datagram(driver);
        let mut clone = Out::null();
        let late = FwpsAllocateCloneNetBufferList0(seen.get(), 0, 0, 0, into(&mut clone));
        assert_eq!(status(late), NtStatus::INVALID_PARAMETER);
    });
    assert_eq!(report.violations.len(), 1, "{report:#?}");
    assert_eq!(report.violations[0].rule, OBJECT_STALE.name);
}

#[test]
fn the_same_seed_gives_the_same_mdls() {
    let shape = |seed| {
        let mut shapes = Vec::new();
        run_clean(
            Config {
                mdl_layout: MdlLayout::Seeded(seed),
                ..Config::default()
            },
            |driver| {
                driver.filtered(v4(LayerKind::InboundIpPacket), Action::CalloutInspection);
                let seen = Rc::new(std::cell::RefCell::new(Vec::new()));
                let slot = Rc::clone(&seen);
                behave(move |classify| {
                    let (_, buffer) = list(classify);
                    let NetBufferData {
                        mdl_chain,
                        data_offset,
                        ..
                    } = chain::data_of(buffer).expect("a net buffer");
                    let sizes: Vec<_> = chain::mdls(mdl_chain)
                        .map(|(_, mdl)| mdl.byte_count)
                        .collect();
                    slot.borrow_mut().push((data_offset, sizes));
                });
                let packet = udp_packet();
                for _ in 0..20 {
                    let shown = Shown {
                        headers: Some((IP, 0)),
                        ..Shown::packet(&packet, 0)
                    };
                    driver.classify(v4(LayerKind::InboundIpPacket), &[], shown);
                }
                shapes = seen.take();
            },
        );
        shapes
    };
    let first = shape(7);
    assert_eq!(first, shape(7));
    assert_ne!(first, shape(8));
    assert!(first.iter().any(|(_, sizes)| sizes.len() > 1), "{first:?}");
}
