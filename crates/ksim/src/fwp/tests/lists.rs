//! Contexts of packets, headers that are made for transport packets, and chains of packets.

use std::cell::Cell;
use std::rc::Rc;

use wfp_schema::{Action, Guid, LayerKind, NtStatus};

use super::packets::udp_packet;
use super::support::{OK, Shown, at, behave, heard, into, run, run_clean, status, v4};
use crate::access::Out;
use crate::fwp::Config;
use crate::fwp::construct::{
    FwpsConstructIpHeaderForTransportPacket0, FwpsGetPacketListSecurityInformation0,
};
use crate::fwp::nbl::{FwpsAllocateCloneNetBufferList0, FwpsFreeCloneNetBufferList0};
use crate::fwp::nbl_context::{
    FwpsNetBufferListAssociateContext1, FwpsNetBufferListGetTagForContext0,
    FwpsNetBufferListRemoveContext0, FwpsNetBufferListRetrieveContext0,
};
use crate::fwp::reassemble::FwpsReassembleForwardFragmentGroup0;
use crate::ndis::chain;
use crate::ndis::layout::NetBufferList;
use crate::net::{
    Filtering, Indication, InjectionMark, Metadata, Offload, Outcome, PacketData, PacketId,
};
use crate::verifier::{ARGUMENT, NBL_STATE};

const PROVIDER: Guid = Guid::from_u128(0x9999);
const AF_INET: u16 = 2;

extern "win64" fn notify(
    event: u32,
    _list: Out<NetBufferList>,
    _new: Out<NetBufferList>,
    layer: u16,
    context: u64,
    _tag: u64,
) {
    heard(|heard| heard.deleted.push((layer, event, context)));
}

fn associate(list: Out<NetBufferList>, tag: u64, context: u64) -> i32 {
    let notify = notify as *const () as usize;
    FwpsNetBufferListAssociateContext1(list, 7, context, tag, at(&PROVIDER), 1, notify, 0)
}

fn packet(number: u64, bytes: &[u8]) -> Shown<'_> {
    let packet = Some(PacketData {
        bytes,
        offset: 0,
        id: PacketId(number),
        injection: None,
        offload: Offload::default(),
        more: &[],
    });
    Shown {
        packet,
        ..Shown::default()
    }
}

#[test]
fn a_packets_context_is_found_at_another_layer_until_the_packet_leaves() {
    run_clean(Config::default(), |driver| {
        let (first, second) = (
            v4(LayerKind::InboundIpPacket),
            v4(LayerKind::InboundTransport),
        );
        driver.filtered(first, Action::CalloutUnknown);
        driver.filtered(second, Action::CalloutUnknown);
        let tag = FwpsNetBufferListGetTagForContext0();
        behave(move |classify| {
            let list = classify.layer_data::<NetBufferList>();
            let mut context = 0;
            let retrieved = FwpsNetBufferListRetrieveContext0(list, tag, 0, 0, into(&mut context));
            if classify.layer == v4(LayerKind::InboundIpPacket).get() {
                assert_eq!(status(retrieved), NtStatus::NOT_FOUND);
                assert_eq!(associate(list, tag, 0xc0de), OK);
                let again = associate(list, tag, 1);
                assert_eq!(status(again), NtStatus::OBJECT_NAME_EXISTS);
            } else {
                assert_eq!((retrieved, context), (OK, 0xc0de));
            }
            classify.out.action = Action::Permit.value();
        });
        let bytes = udp_packet();
        driver.classify(first, &[], packet(1, &bytes));
        driver.classify(second, &[], packet(1, &bytes));
        assert!(heard(|heard| heard.deleted.is_empty()));
        driver.classify(first, &[], packet(2, &bytes));
        assert_eq!(
            heard(|heard| heard.deleted.clone()),
            [(7, 4, 0xc0de)],
            "it left the stack"
        );
        // Without a list, all are removed.
        assert_eq!(FwpsNetBufferListRemoveContext0(Out::null(), tag, 0), OK);
        assert_eq!(heard(|heard| heard.deleted.len()), 2);
        let none = FwpsNetBufferListRemoveContext0(Out::null(), tag, 0);
        assert_eq!(status(none), NtStatus::NOT_FOUND);
    });
}

#[test]
fn a_tag_that_was_not_given_is_found() {
    let report = run(Config::default(), |driver| {
        let layer = v4(LayerKind::InboundIpPacket);
        driver.filtered(layer, Action::CalloutUnknown);
        behave(|classify| {
            let refused = associate(classify.layer_data(), 5, 1);
            assert_eq!(status(refused), NtStatus::INVALID_PARAMETER);
            classify.out.action = Action::Permit.value();
        });
        driver.classify(layer, &[], packet(1, &udp_packet()));
    });
    assert_eq!(report.violations[0].rule, ARGUMENT.name);
}

fn bytes_of(list: Out<NetBufferList>) -> Vec<u8> {
    let header = list.get().expect("a list");
    let data = chain::data_of(header.first).expect("a net buffer");
    chain::bytes_of(&data)
}

/// An UDP packet with four bytes of IPv4 options: a router alert.
fn udp_packet_with_options() -> Vec<u8> {
    let mut packet = udp_packet();
    packet.splice(20..20, [0x94, 4, 0, 0]);
    packet[0] = 0x46;
    let length = u16::try_from(packet.len()).expect("short").to_be_bytes();
    packet[2..4].copy_from_slice(&length);
    packet
}

#[test]
fn the_options_of_an_ipv4_header_stay_when_it_is_rebuilt() {
    run_clean(Config::default(), |driver| {
        let layer = v4(LayerKind::InboundTransport);
        driver.filtered(layer, Action::CalloutUnknown);
        let original = udp_packet_with_options();
        let expected = original.clone();
        behave(move |classify| {
            let mut clone = Out::null();
            let list = classify.layer_data::<NetBufferList>();
            let cloned = FwpsAllocateCloneNetBufferList0(list, 0, 0, 0, into(&mut clone));
            assert_eq!(cloned, OK);
            assert_eq!(construct(clone, 24, &[10, 0, 0, 1], &expected[16..20]), OK);
            let built = bytes_of(clone);
            assert_eq!(built.len(), expected.len());
            assert_eq!((built[0], built[9]), (0x46, 17), "six words of header");
            assert_eq!(built[12..16], [10, 0, 0, 1]);
            assert_eq!(built[20..24], [0x94, 4, 0, 0], "the options");
            assert_eq!(built[24..28], expected[24..28], "the ports");
            assert_eq!(crate::fwp::inject::header::ipv4_checksum(&built[..24]), 0);
            FwpsFreeCloneNetBufferList0(clone, 0);
            classify.out.action = Action::Permit.value();
        });
        let mut shown = Shown::packet(&original, 0);
        shown.headers = None;
        driver.classify(layer, &[], shown);
    });
}

fn construct(list: Out<NetBufferList>, old: u32, source: &[u8], remote: &[u8]) -> i32 {
    let (source, remote) = (at(&source[0]), at(&remote[0]));
    FwpsConstructIpHeaderForTransportPacket0(
        list, old, AF_INET, source, remote, 17, 0, 0, 0, 0, 0, 0, 0,
    )
}

#[test]
fn a_header_is_built_before_a_clone_without_touching_the_original() {
    run_clean(Config::default(), |driver| {
        let layer = v4(LayerKind::OutboundTransport);
        driver.filtered(layer, Action::CalloutUnknown);
        let original = udp_packet();
        let expected = original.clone();
        behave(move |classify| {
            let mut clone = Out::null();
            let list = classify.layer_data::<NetBufferList>();
            let cloned = FwpsAllocateCloneNetBufferList0(list, 0, 0, 0, into(&mut clone));
            assert_eq!(cloned, OK);
            let (source, remote) = (&expected[12..16], &expected[16..20]);
            assert_eq!(construct(clone, 0, source, remote), OK);
            let built = bytes_of(clone);
            assert_eq!(built.len(), expected.len());
            assert_eq!((built[0], built[9]), (0x45, 17));
            assert_eq!(built[12..20], expected[12..20]);
            assert_eq!(built[20..26], expected[20..26], "the ports and the length");
            // Rebuilding replaces it.
            assert_eq!(construct(clone, 20, &[10, 0, 0, 1], remote), OK);
            let rebuilt = bytes_of(clone);
            assert_eq!(
                (rebuilt.len(), &rebuilt[12..16]),
                (built.len(), &[10, 0, 0, 1][..])
            );
            FwpsFreeCloneNetBufferList0(clone, 0);
            classify.out.action = Action::Permit.value();
        });
        let mut shown = Shown::packet(&original, 20);
        shown.headers = None;
        driver.classify(layer, &[], shown);
    });
}

#[test]
fn whether_a_packet_was_injected_is_a_part_of_its_security_information() {
    run_clean(Config::default(), |driver| {
        let layer = v4(LayerKind::InboundIpPacket);
        driver.filtered(layer, Action::CalloutUnknown);
        let seen = Rc::new(Cell::new([9; 2]));
        let slot = Rc::clone(&seen);
        behave(move |classify| {
            let mut information = [9; 2];
            let list = classify.layer_data();
            let asked =
                FwpsGetPacketListSecurityInformation0(list, 0xffff_fffd, into(&mut information));
            assert_eq!(asked, OK);
            slot.set(information);
            classify.out.action = Action::Permit.value();
        });
        let bytes = udp_packet();
        driver.classify(layer, &[], packet(1, &bytes));
        assert_eq!(seen.get(), [0, 0]);
        let injected = Shown::injected(&bytes, 0, Some(InjectionMark(5)));
        driver.classify(layer, &[], injected);
        assert_eq!(seen.get(), [0, 1]);
        let null = FwpsGetPacketListSecurityInformation0(Out::null(), 0, Out::null());
        assert_eq!(status(null), NtStatus::FWP_NULL_POINTER);
    });
}

/// A fragment of a datagram with these bytes.
fn fragment(offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut packet = udp_packet()[..20].to_vec();
    let flags = (offset / 8) | if more { 0x2000 } else { 0 };
    packet[6..8].copy_from_slice(&flags.to_be_bytes());
    packet.extend_from_slice(payload);
    let length = u16::try_from(packet.len()).expect("small");
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet
}

#[test]
fn a_fragment_group_is_a_chain_and_is_reassembled() {
    run_clean(Config::default(), |driver| {
        let forward = v4(LayerKind::IpForward);
        driver.filtered(forward, Action::CalloutUnknown);
        let pieces = [
            fragment(0, true, &[1; 16]),
            fragment(24, false, &[3; 5]),
            fragment(16, true, &[2; 8]),
        ];
        behave(|classify| {
            let group = classify.layer_data::<NetBufferList>();
            assert_eq!(chain::lists(group).count(), 3);
            let mut whole = Out::null();
            let made =
                FwpsReassembleForwardFragmentGroup0(AF_INET, group, 0, 0, 0, into(&mut whole));
            assert_eq!(made, OK);
            let bytes = bytes_of(whole);
            let expected = [&[1; 16][..], &[2; 8], &[3; 5]].concat();
            assert_eq!(bytes[20..], expected);
            assert_eq!(bytes[2..4], [0, 49], "the length of the whole");
            assert_eq!(bytes[6..8], [0, 0], "no fragment");
            crate::fwp::nbl::FwpsFreeNetBufferList0(whole);
            classify.out.action = Action::Permit.value();
        });
        let identity = driver.identity();
        let metadata = Metadata::nothing(&identity);
        let rest: Vec<&[u8]> = pieces[1..].iter().map(Vec::as_slice).collect();
        let indication = Indication {
            packet: packet(1, &pieces[0]).packet,
            chain: &rest,
            ..Indication::new(forward, &[], &metadata)
        };
        assert_eq!(driver.filtering.classify(&indication), Outcome::Permit);
    });
}

#[test]
fn a_group_with_a_hole_is_not_reassembled() {
    run_clean(Config::default(), |driver| {
        let forward = v4(LayerKind::IpForward);
        driver.filtered(forward, Action::CalloutUnknown);
        behave(|classify| {
            let mut whole = Out::null();
            let group = classify.layer_data();
            let made =
                FwpsReassembleForwardFragmentGroup0(AF_INET, group, 0, 0, 0, into(&mut whole));
            assert_eq!(status(made), NtStatus::INVALID_PARAMETER);
            classify.out.action = Action::Permit.value();
        });
        let pieces = [fragment(0, true, &[1; 16]), fragment(24, false, &[3; 5])];
        let identity = driver.identity();
        let metadata = Metadata::nothing(&identity);
        let rest = [pieces[1].as_slice()];
        let indication = Indication {
            packet: packet(1, &pieces[0]).packet,
            chain: &rest,
            ..Indication::new(forward, &[], &metadata)
        };
        driver.filtering.classify(&indication);
    });
}

#[test]
fn a_chained_packet_that_is_changed_is_found() {
    let report = run(Config::default(), |driver| {
        let forward = v4(LayerKind::IpForward);
        driver.filtered(forward, Action::CalloutUnknown);
        behave(|classify| {
            let second = classify
                .layer_data::<NetBufferList>()
                .get()
                .expect("a list")
                .next;
            let header = second.get().expect("a second list");
            let data = chain::data_of(header.first).expect("a net buffer");
            let mdl = data.current_mdl.get().expect("an MDL");
            let inside = data.current_mdl_offset as usize;
            mdl.buffer().offset::<u8>(inside).set(0xff);
            classify.out.action = Action::Permit.value();
        });
        let pieces = [fragment(0, true, &[1; 16]), fragment(16, false, &[3; 5])];
        let identity = driver.identity();
        let metadata = Metadata::nothing(&identity);
        let rest = [pieces[1].as_slice()];
        let indication = Indication {
            packet: packet(1, &pieces[0]).packet,
            chain: &rest,
            ..Indication::new(forward, &[], &metadata)
        };
        driver.filtering.classify(&indication);
    });
    assert_eq!(report.violations[0].rule, NBL_STATE.name);
}
