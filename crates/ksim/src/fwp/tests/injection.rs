//! Injection: the way of a packet out of a classify and back into the stack.

use std::cell::Cell;
use std::rc::Rc;

use wfp_engine::{InjectionCompletion, Options};
use wfp_schema::codes::PacketInjectionState;
use wfp_schema::flags::InjectionType;
use wfp_schema::{Action, LayerKind, NtStatus};

use super::packets::udp_packet;
use super::support::{
    Driver, OK, Shown, absorb, behave, block, heard, into, run, run_clean, status, v4,
};
use crate::Kernel;
use crate::access::{In, Out};
use crate::cpu::{DISPATCH, PASSIVE};
use crate::fwp::Config;
use crate::fwp::inject::handle::{FwpsInjectionHandleCreate0, FwpsInjectionHandleDestroy0};
use crate::fwp::inject::{
    FwpsInjectNetworkReceiveAsync0, FwpsInjectNetworkSendAsync0, FwpsInjectTransportSendAsync0,
    FwpsQueryPacketInjectionState0,
};
use crate::fwp::layout::kernel::InjectComplete;
use crate::fwp::nbl::{FwpsAllocateCloneNetBufferList0, FwpsFreeCloneNetBufferList0};
use crate::fwp::stack::{InjectedPacket, StackRequest};
use crate::ndis::layout::NetBufferList;
use crate::net::{InjectionMark, InjectionPoint, Outcome, PacketId};
use crate::verifier::{INJECTION_HANDLE, NBL_STATE, OBJECT_STALE};

const AF_INET: u16 = 2;

extern "win64" fn complete(context: usize, list: Out<NetBufferList>, dispatch: u8) {
    assert_eq!(dispatch, 1);
    let done = list.get().expect("a list");
    heard(|heard| heard.completed.push((context, done.status)));
    FwpsFreeCloneNetBufferList0(list, 0);
}

const COMPLETE: Option<InjectComplete> = Some(complete);

fn handle(types: InjectionType) -> usize {
    let mut handle = 0;
    assert_eq!(
        FwpsInjectionHandleCreate0(AF_INET, types.bits(), into(&mut handle)),
        OK
    );
    handle
}

/// Absorbs an outbound packet and injects its clone again with `handle`; what the stack was asked.
fn reinject(driver: &mut Driver<'_>, handle: usize, mark: Option<InjectionMark>) -> InjectedPacket {
    let at = v4(LayerKind::OutboundIpPacket);
    behave(move |classify| {
        let mut clone = Out::null();
        let original = classify.layer_data::<NetBufferList>();
        assert_eq!(
            FwpsAllocateCloneNetBufferList0(original, 0, 0, 0, into(&mut clone)),
            OK
        );
        assert_eq!(
            FwpsInjectNetworkSendAsync0(handle, 0xc0de, 0, 0, clone, COMPLETE, 0xf00d),
            OK
        );
        absorb(classify);
    });
    let packet = udp_packet();
    assert_eq!(
        driver.classify(at, &[], Shown::injected(&packet, 0, mark)),
        Outcome::Absorb
    );
    let mut requests: Vec<_> = driver.cpu.machine().take_stack_requests().into();
    match requests.pop() {
        Some(StackRequest::Inject(injected)) if requests.is_empty() => injected,
        other => panic!("{other:?} after {requests:?}"),
    }
}

/// What `handle` is told about a packet with this mark, and the context.
fn state(driver: &mut Driver<'_>, handle: usize, mark: Option<InjectionMark>) -> (u32, usize) {
    let seen = Rc::new(Cell::new((u32::MAX, 0)));
    let slot = Rc::clone(&seen);
    behave(move |classify| {
        let mut context = 0;
        let state =
            FwpsQueryPacketInjectionState0(handle, classify.layer_data(), into(&mut context));
        slot.set((state, context));
        classify.out.action = Action::Permit.value();
    });
    driver.classify(
        v4(LayerKind::OutboundIpPacket),
        &[],
        Shown::injected(&udp_packet(), 0, mark),
    );
    seen.get()
}

#[test]
fn a_packet_goes_round_and_is_known_again() {
    run_clean(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::OutboundIpPacket), Action::CalloutUnknown);
        let [mine, other] = [InjectionType::NETWORK; 2].map(handle);
        // INJ-06
        assert_eq!(
            state(driver, mine, None),
            (PacketInjectionState::NotInjected.value(), 0)
        );
        let injected = reinject(driver, mine, None);
        assert_eq!(injected.bytes, udp_packet());
        assert_eq!(injected.point, InjectionPoint::NetworkSend);
        assert_eq!(
            injected.origin,
            Some(PacketId(3)),
            "the clone knows its parent"
        );
        // INJ-04
        let mark = Some(injected.mark);
        assert_eq!(
            state(driver, mine, mark),
            (PacketInjectionState::InjectedBySelf.value(), 0xc0de)
        );
        assert_eq!(
            state(driver, other, mark),
            (PacketInjectionState::InjectedByOther.value(), 0)
        );
        // INJ-05
        let mark = Some(reinject(driver, other, mark).mark);
        let previously = (
            PacketInjectionState::PreviouslyInjectedBySelf.value(),
            0xc0de,
        );
        assert_eq!(state(driver, mine, mark), previously);
        assert_eq!(
            state(driver, other, mark),
            (PacketInjectionState::InjectedBySelf.value(), 0xc0de)
        );
        // INJ-03
        assert!(
            heard(|heard| heard.completed.is_empty()),
            "not before the classify has returned"
        );
        assert_eq!(FwpsInjectionHandleDestroy0(mine), OK);
        assert!(heard(|heard| heard.completed.contains(&(0xf00d, 0))));
        assert_eq!(FwpsInjectionHandleDestroy0(other), OK);
        assert_eq!(
            heard(|heard| heard.completed.clone()),
            [(0xf00d, 0), (0xf00d, 0)]
        );
    });
}

#[test]
fn a_transport_packet_gets_the_ip_header_of_what_it_was_cloned_from() {
    run_clean(Config::default(), |driver| {
        let at = v4(LayerKind::OutboundTransport);
        driver.filtered(at, Action::CalloutUnknown);
        let handle = handle(InjectionType::TRANSPORT);
        behave(move |classify| {
            let mut clone = Out::null();
            let original = classify.layer_data::<NetBufferList>();
            assert_eq!(
                FwpsAllocateCloneNetBufferList0(original, 0, 0, 0, into(&mut clone)),
                OK
            );
            let sent = FwpsInjectTransportSendAsync0(
                handle,
                0,
                1,
                0,
                In::null(),
                AF_INET,
                0,
                clone,
                COMPLETE,
                0,
            );
            assert_eq!(sent, OK);
            absorb(classify);
        });
        let packet = udp_packet();
        driver.classify(at, &[], Shown::packet(&packet, 20));
        let requests: Vec<_> = driver.cpu.machine().take_stack_requests().into();
        let [StackRequest::Inject(injected)] = requests.as_slice() else {
            panic!("{requests:?}")
        };
        assert_eq!(injected.point, InjectionPoint::TransportSend);
        assert_eq!(injected.bytes[..10], packet[..10]);
        assert_eq!(injected.bytes[12..], packet[12..]);
        let sum: u32 = injected.bytes[..20]
            .chunks(2)
            .map(|p| u32::from(p[0]) << 8 | u32::from(p[1]))
            .sum();
        assert_eq!(
            (sum & 0xffff) + (sum >> 16),
            0xffff,
            "the header's checksum"
        );
        assert_eq!(FwpsInjectionHandleDestroy0(handle), OK);
    });
}

#[test]
fn what_is_refused_is_not_completed() {
    let report = run(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::OutboundIpPacket), Action::CalloutUnknown);
        let transport = handle(InjectionType::TRANSPORT);
        let network = handle(InjectionType::NETWORK);
        behave(move |classify| {
            let mut clone = Out::null();
            let original = classify.layer_data::<NetBufferList>();
            assert_eq!(
                FwpsAllocateCloneNetBufferList0(original, 0, 0, 0, into(&mut clone)),
                OK
            );
            let send = |handle, flags, list, completion| {
                status(FwpsInjectNetworkSendAsync0(
                    handle, 0, flags, 0, list, completion, 0,
                ))
            };
            // INJ-01
            assert_eq!(
                send(transport, 0, clone, COMPLETE),
                NtStatus::FWP_INJECT_HANDLE_STALE
            );
            assert_eq!(
                send(network, 0, Out::null(), COMPLETE),
                NtStatus::FWP_NULL_POINTER
            );
            assert_eq!(send(network, 0, clone, None), NtStatus::FWP_NULL_POINTER);
            assert_eq!(
                send(network, 1, clone, COMPLETE),
                NtStatus::FWP_INVALID_PARAMETER
            );
            assert_eq!(send(0x1234, 0, clone, COMPLETE), NtStatus::INVALID_HANDLE);
            FwpsFreeCloneNetBufferList0(clone, 0);
            block(classify);
        });
        driver.classify(
            v4(LayerKind::OutboundIpPacket),
            &[],
            Shown::packet(&udp_packet(), 0),
        );
        assert!(driver.cpu.machine().take_stack_requests().is_empty());
        for handle in [transport, network] {
            assert_eq!(FwpsInjectionHandleDestroy0(handle), OK);
        }
        assert!(heard(|heard| heard.completed.is_empty()));
    });
    let rules: Vec<_> = report.violations.iter().map(|found| found.rule).collect();
    assert_eq!(rules, [INJECTION_HANDLE.name, OBJECT_STALE.name]);
    assert!(report.leaks.is_empty(), "{:?}", report.leaks);
}

#[test]
fn a_network_handle_is_for_one_family() {
    run_clean(Config::default(), |_| {
        let mut handle = 0;
        let network = InjectionType::NETWORK.bits();
        assert_eq!(
            status(FwpsInjectionHandleCreate0(0, network, into(&mut handle))),
            NtStatus::INVALID_PARAMETER
        );
        assert_eq!(
            status(FwpsInjectionHandleCreate0(7, 0, into(&mut handle))),
            NtStatus::INVALID_PARAMETER
        );
        assert_eq!(
            status(FwpsInjectionHandleCreate0(0, 0, Out::null())),
            NtStatus::FWP_NULL_POINTER
        );
        assert_eq!(FwpsInjectionHandleCreate0(0, 0, into(&mut handle)), OK);
        assert_eq!(FwpsInjectionHandleDestroy0(handle), OK);
    });
}

#[test]
fn a_handed_over_list_is_not_touched() {
    let report = run(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::OutboundIpPacket), Action::CalloutUnknown);
        let handle = handle(InjectionType::NETWORK);
        behave(move |classify| {
            let mut clone = Out::<NetBufferList>::null();
            let original = classify.layer_data::<NetBufferList>();
            assert_eq!(
                FwpsAllocateCloneNetBufferList0(original, 0, 0, 0, into(&mut clone)),
                OK
            );
            assert_eq!(
                FwpsInjectNetworkSendAsync0(handle, 0, 0, 0, clone, COMPLETE, 0),
                OK
            );
            let buffer = clone.get().expect("a clone").first;
            crate::ndis::position::NdisAdvanceNetBufferDataStart(buffer, 4, 0, None);
            absorb(classify);
        });
        driver.classify(
            v4(LayerKind::OutboundIpPacket),
            &[],
            Shown::packet(&udp_packet(), 0),
        );
        assert_eq!(FwpsInjectionHandleDestroy0(handle), OK);
    });
    assert_eq!(report.violations.len(), 1, "{report:#?}");
    assert_eq!(report.violations[0].rule, NBL_STATE.name);
}

#[test]
fn a_receive_injection_has_one_net_buffer() {
    use crate::ndis::layout::{NetBufferListPoolParameters, ObjectHeader};
    use crate::ndis::pool::{NdisAllocateNetBufferAndNetBufferList, NdisAllocateNetBufferListPool};

    let kernel = Kernel::new(&crate::Config::default()).expect("a kernel");
    let crashed = kernel.on(0, |_| {
        let parameters = NetBufferListPoolParameters {
            header: ObjectHeader {
                kind: 0x80,
                revision: 1,
                size: 16,
            },
            protocol: 0,
            allocate_net_buffer: 1,
            context_size: 0,
            tag: u32::from_le_bytes(*b"Test"),
            data_size: 0,
        };
        let pool = NdisAllocateNetBufferListPool(0, super::support::at(&parameters));
        let [first, second] =
            [(); 2].map(|()| NdisAllocateNetBufferAndNetBufferList(pool, 0, 0, Out::null(), 0, 0));
        let mut buffer = first
            .get()
            .and_then(|list| list.first.get())
            .expect("a buffer");
        buffer.data.next = second.get().expect("a list").first;
        first.get().expect("a list").first.set(buffer);
        let handle = handle(InjectionType::NETWORK);
        // INJ-09
        FwpsInjectNetworkReceiveAsync0(handle, 0, 0, 0, 1, 0, first, COMPLETE, 0);
    });
    assert_eq!(crashed.expect_err("a bug check").code, 0x1d3);
}

extern "win64" fn complete_anywhere(context: usize, list: Out<NetBufferList>, dispatch: u8) {
    let irql = crate::Cpu::current().expect("a processor").irql();
    assert_eq!(dispatch, u8::from(irql == DISPATCH));
    heard(|heard| heard.completed.push((context, u32::from(irql))));
    FwpsFreeCloneNetBufferList0(list, 0);
}

#[test]
fn an_injection_is_completed_when_and_where_the_options_say() {
    for (when, inline, irql) in [
        (InjectionCompletion::Deferred, false, DISPATCH),
        (InjectionCompletion::DeferredPassive, false, PASSIVE),
        (InjectionCompletion::Inline, true, DISPATCH),
    ] {
        let config = Config {
            options: Options {
                injection_completion: when,
                ..Options::default()
            },
            ..Config::default()
        };
        run_clean(config, move |driver| {
            let at = v4(LayerKind::OutboundIpPacket);
            driver.filtered(at, Action::CalloutUnknown);
            let handle = handle(InjectionType::NETWORK);
            behave(move |classify| {
                let mut clone = Out::null();
                let original = classify.layer_data::<NetBufferList>();
                let cloned = FwpsAllocateCloneNetBufferList0(original, 0, 0, 0, into(&mut clone));
                assert_eq!(cloned, OK);
                let done = Some(complete_anywhere as InjectComplete);
                assert_eq!(
                    FwpsInjectNetworkSendAsync0(handle, 0, 0, 0, clone, done, 7),
                    OK
                );
                let completed = heard(|heard| heard.completed.len());
                assert_eq!(completed, usize::from(inline), "{when:?}");
                absorb(classify);
            });
            driver.classify(at, &[], Shown::injected(&udp_packet(), 0, None));
            assert_eq!(driver.cpu.machine().take_stack_requests().len(), 1);
            assert_eq!(FwpsInjectionHandleDestroy0(handle), OK);
            let completed = heard(|heard| std::mem::take(&mut heard.completed));
            assert_eq!(completed, [(7, u32::from(irql))], "{when:?}");
        });
    }
}
