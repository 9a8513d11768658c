//! What the verifier finds in injections, classifies and flow contexts.

use wfp_schema::flags::InjectionType;
use wfp_schema::{Action, IpVersion, LayerKind, NtStatus, StreamFlags};

use super::packets::udp_packet;
use super::support::{
    Classify, Driver, OK, Shown, absorb, at, behave, into, layer, run, run_clean, status,
    unversioned, v4,
};
use crate::access::Out;
use crate::fwp::check::thread_time;
use crate::fwp::flow::{FwpsFlowAssociateContext0, FwpsFlowRemoveContext0};
use crate::fwp::inject::handle::{FwpsInjectionHandleCreate0, FwpsInjectionHandleDestroy0};
use crate::fwp::inject::{
    FwpsInjectForwardAsync0, FwpsInjectMacSendAsync0, FwpsInjectNetworkReceiveAsync0,
    FwpsInjectNetworkSendAsync0, FwpsInjectTransportReceiveAsync0, FwpsStreamInjectAsync0,
};
use crate::fwp::layout::value::RawValue;
use crate::fwp::nbl::{FwpsAllocateCloneNetBufferList0, FwpsFreeCloneNetBufferList0};
use crate::fwp::objects::query::FwpmFreeMemory0;
use crate::fwp::options::{FwpmEngineGetOption0, FwpmEngineSetOption0, FwpsClassifyOptionSet0};
use crate::fwp::stack::StackRequest;
use crate::fwp::{Config, check_filters_left};
use crate::ndis::layout::NetBufferList;
use crate::net::{ClassifyOptions, Filtering, InjectionMark, InjectionPoint, Outcome};
use crate::nt::pool_api::{ExAllocatePool2, ExFreePoolWithTag};
use crate::nt::spin::{KeAcquireSpinLockRaiseToDpc, KeReleaseSpinLock};
use crate::nt::wait::KeDelayExecutionThread;
use crate::verifier::{
    ARGUMENT, CLASSIFY_ALLOCATIONS, CLASSIFY_BLOCKING, CLASSIFY_TIME, FLOW_LAYER,
    FLOW_REMOVED_TWICE, INJECTION_HANDLE, INJECTION_INLINE, INJECTION_LOCK, INJECTION_LOOP,
    INJECTION_MERGED, INJECTION_OFFSET, PEND_REAUTHORIZATION, Report, UNLOAD_FILTER,
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 23;

extern "win64" fn complete(_context: usize, list: Out<NetBufferList>, _dispatch: u8) {
    FwpsFreeCloneNetBufferList0(list, 0);
}

fn handle(family: u16, types: InjectionType) -> usize {
    let mut handle = 0;
    assert_eq!(
        FwpsInjectionHandleCreate0(family, types.bits(), into(&mut handle)),
        OK
    );
    handle
}

fn clone(classify: &Classify<'_>) -> Out<NetBufferList> {
    let mut clone = Out::null();
    let original = classify.layer_data::<NetBufferList>();
    assert_eq!(
        FwpsAllocateCloneNetBufferList0(original, 0, 0, 0, into(&mut clone)),
        OK
    );
    clone
}

fn send(handle: usize, list: Out<NetBufferList>) -> i32 {
    FwpsInjectNetworkSendAsync0(handle, 0, 0, 0, list, Some(complete), 0)
}

fn rules(report: &Report) -> Vec<&'static str> {
    report.violations.iter().map(|found| found.rule).collect()
}

/// Classifies an outbound packet whose data begins at `offset`.
fn classify(driver: &mut Driver<'_>, offset: usize, mark: Option<InjectionMark>) -> Outcome {
    let packet = udp_packet();
    let shown = Shown::injected(&packet, offset, mark);
    driver.classify(v4(LayerKind::OutboundIpPacket), &[], shown)
}

/// What is found when an outbound packet is shown to this behaviour; it gets an injection handle.
fn found(
    (family, types): (u16, InjectionType),
    offset: usize,
    mut behaviour: impl FnMut(usize, &mut Classify<'_>) + Send + 'static,
) -> Vec<&'static str> {
    let report = run(Config::default(), move |driver| {
        driver.filtered(v4(LayerKind::OutboundIpPacket), Action::CalloutUnknown);
        let handle = handle(family, types);
        behave(move |classify| behaviour(handle, classify));
        classify(driver, offset, None);
        assert_eq!(FwpsInjectionHandleDestroy0(handle), OK);
    });
    assert!(report.leaks.is_empty(), "{:?}", report.leaks);
    rules(&report)
}

#[test]
fn a_handle_of_another_type_or_family_is_found() {
    let of_type = found(
        (AF_INET, InjectionType::TRANSPORT),
        0,
        |handle, classify| {
            let list = clone(classify);
            assert_eq!(
                status(send(handle, list)),
                NtStatus::FWP_INJECT_HANDLE_STALE
            );
            FwpsFreeCloneNetBufferList0(list, 0);
            classify.out.action = Action::Permit.value();
        },
    );
    assert_eq!(of_type, [INJECTION_HANDLE.name]);
    let of_family = found((AF_INET6, InjectionType::NETWORK), 0, |handle, classify| {
        assert_eq!(send(handle, clone(classify)), OK);
        absorb(classify);
    });
    assert_eq!(of_family, [INJECTION_HANDLE.name]);
}

#[test]
fn data_that_does_not_begin_with_the_ip_header_is_found() {
    // The ports of the datagram come first.
    let found = found((AF_INET, InjectionType::NETWORK), 20, |handle, classify| {
        assert_eq!(send(handle, clone(classify)), OK);
        absorb(classify);
    });
    assert_eq!(found, [INJECTION_OFFSET.name]);
}

#[test]
fn an_injection_under_a_spin_lock_is_found() {
    static LOCK: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let found = found((AF_INET, InjectionType::NETWORK), 0, |handle, classify| {
        let lock = LOCK.as_ptr() as usize;
        let irql = KeAcquireSpinLockRaiseToDpc(lock);
        assert_eq!(send(handle, clone(classify)), OK);
        KeReleaseSpinLock(lock, irql);
        absorb(classify);
    });
    assert_eq!(found, [INJECTION_LOCK.name]);
}

#[test]
fn a_clone_of_merged_datagrams_that_is_injected_is_found() {
    let found = |coalesced: u32| {
        let report = run(Config::default(), move |driver| {
            let layer = v4(LayerKind::InboundIpPacket);
            driver.filtered(layer, Action::CalloutUnknown);
            let handle = handle(AF_INET, InjectionType::NETWORK);
            behave(move |classify| {
                let list = clone(classify);
                let injected =
                    FwpsInjectNetworkReceiveAsync0(handle, 0, 0, 0, 0, 0, list, Some(complete), 0);
                assert_eq!(injected, OK);
                absorb(classify);
            });
            let packet = udp_packet();
            let mut shown = Shown::packet(&packet, 0);
            if let Some(data) = &mut shown.packet {
                data.offload.coalesced = coalesced;
            }
            driver.classify(layer, &[], shown);
            assert_eq!(FwpsInjectionHandleDestroy0(handle), OK);
        });
        rules(&report)
    };
    assert_eq!(found(2 | 4 << 16), [INJECTION_MERGED.name]);
    assert!(found(0).is_empty());
}

#[test]
fn a_packet_that_goes_round_between_two_injectors_is_found_with_both_places() {
    let report = run(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::OutboundIpPacket), Action::CalloutUnknown);
        let handles = [(); 2].map(|()| handle(AF_INET, InjectionType::NETWORK));
        let mut mark = None;
        for turn in 0..40_u32 {
            let handle = handles[turn as usize % 2];
            behave(move |classify| {
                assert_eq!(send(handle, clone(classify)), OK);
                absorb(classify);
            });
            classify(driver, 0, mark);
            let asked = driver.cpu.machine().take_stack_requests();
            let Some(StackRequest::Inject(packet)) = asked.front() else {
                panic!("{asked:?}");
            };
            assert_eq!(packet.hops, turn);
            mark = Some(packet.mark);
        }
        for handle in handles {
            assert_eq!(FwpsInjectionHandleDestroy0(handle), OK);
        }
    });
    assert_eq!(rules(&report), [INJECTION_LOOP.name], "reported once");
}

#[test]
fn a_forwarded_packet_and_a_frame_reach_the_stack() {
    run_clean(Config::default(), |driver| {
        let mac = unversioned(LayerKind::OutboundMacFrameEthernet);
        driver.filtered(v4(LayerKind::OutboundIpPacket), Action::CalloutUnknown);
        driver.filtered(mac, Action::CalloutUnknown);
        let forward = handle(0, InjectionType::FORWARD);
        let l2 = handle(0, InjectionType::L2);
        behave(move |classify| {
            let list = clone(classify);
            let sent =
                FwpsInjectForwardAsync0(forward, 0, 0, AF_INET, 0, 2, list, Some(complete), 0);
            assert_eq!(sent, OK);
            let list = clone(classify);
            let sent = FwpsInjectMacSendAsync0(l2, 0, 0, mac.get(), 2, 0, list, Some(complete), 0);
            assert_eq!(sent, OK);
            absorb(classify);
        });
        classify(driver, 0, None);
        let asked = driver.cpu.machine().take_stack_requests();
        let points: Vec<_> = asked
            .iter()
            .map(|request| match request {
                StackRequest::Inject(packet) => packet.point,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(points, [InjectionPoint::Forward, InjectionPoint::MacSend]);
        for handle in [forward, l2] {
            assert_eq!(FwpsInjectionHandleDestroy0(handle), OK);
        }
    });
}

#[test]
fn a_frame_for_a_layer_without_a_filter_is_found() {
    let found = found((0, InjectionType::L2), 0, |handle, classify| {
        let list = clone(classify);
        let mac = unversioned(LayerKind::InboundMacFrameNative).get();
        let sent = FwpsInjectMacSendAsync0(handle, 0, 0, mac, 2, 0, list, Some(complete), 0);
        assert_eq!(sent, OK);
        absorb(classify);
    });
    assert_eq!(found, [ARGUMENT.name]);
}

#[test]
fn a_classify_that_allocates_often_is_found() {
    let report = run(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::OutboundIpPacket), Action::CalloutUnknown);
        behave(|classify| {
            const NON_PAGED: u64 = 0x40;
            const TAG: u32 = u32::from_le_bytes(*b"test");
            for _ in 0..9 {
                let block = ExAllocatePool2(NON_PAGED, 16, TAG);
                ExFreePoolWithTag(block as usize, TAG);
            }
            classify.out.action = Action::Permit.value();
        });
        classify(driver, 0, None);
    });
    assert_eq!(rules(&report), [CLASSIFY_ALLOCATIONS.name]);
    assert!(report.violations[0].site.is_some(), "whose classify it was");
}

#[test]
fn a_classify_that_waits_is_found() {
    let report = run(Config::default(), |driver| {
        let connect = v4(LayerKind::AleAuthConnect);
        driver.filtered(connect, Action::CalloutUnknown);
        behave(|classify| {
            KeDelayExecutionThread(0, 0, at(&-10_000_i64));
            classify.out.action = Action::Permit.value();
        });
        driver.classify(connect, &[], Shown::default());
    });
    assert_eq!(rules(&report), [CLASSIFY_BLOCKING.name]);
}

#[test]
fn a_classify_that_takes_long_is_found() {
    let report = run(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::OutboundIpPacket), Action::CalloutUnknown);
        behave(|classify| {
            const LONG: u64 = 110_000_000;
            let begun = thread_time();
            while thread_time() < begun + LONG {}
            classify.out.action = Action::Permit.value();
        });
        classify(driver, 0, None);
        let verifier = crate::Cpu::current()
            .expect("a processor")
            .machine()
            .verifier();
        assert_eq!(
            verifier.report().violations,
            [],
            "once may be the host's doing"
        );
        classify(driver, 0, None);
    });
    assert_eq!(rules(&report), [CLASSIFY_TIME.name]);
}

#[test]
fn a_tcp_segment_that_is_injected_in_the_classify_at_a_transport_layer_is_found() {
    const TCP: u8 = 6;
    for (protocol, found) in [(TCP, &[INJECTION_INLINE.name][..]), (17, &[])] {
        let report = run(Config::default(), move |driver| {
            let transport = v4(LayerKind::InboundTransport);
            driver.filtered(transport, Action::CalloutUnknown);
            let handle = handle(AF_INET, InjectionType::TRANSPORT);
            behave(move |classify| {
                let list = clone(classify);
                let injected = FwpsInjectTransportReceiveAsync0(
                    handle,
                    0,
                    0,
                    0,
                    AF_INET,
                    1,
                    1,
                    0,
                    list,
                    Some(complete),
                    0,
                );
                assert_eq!(injected, OK);
                absorb(classify);
            });
            let mut packet = udp_packet();
            packet[9] = protocol;
            driver.classify(transport, &[], Shown::injected(&packet, 0, None));
            assert_eq!(FwpsInjectionHandleDestroy0(handle), OK);
        });
        assert_eq!(rules(&report), found, "protocol {protocol}");
    }
}

#[test]
fn an_injected_abort_is_found() {
    let report = run(Config::default(), |_| {
        let handle = handle(0, InjectionType::STREAM);
        let flags = StreamFlags::SEND | StreamFlags::SEND_DISCONNECT | StreamFlags::SEND_ABORT;
        // Whatever becomes of it.
        let _ = FwpsStreamInjectAsync0(
            handle,
            0,
            0,
            0x99,
            1,
            v4(LayerKind::Stream).get(),
            flags.bits(),
            Out::null(),
            0,
            None,
            0,
        );
        assert_eq!(FwpsInjectionHandleDestroy0(handle), OK);
    });
    assert_eq!(rules(&report), [ARGUMENT.name]);
}

#[test]
fn a_filter_that_asks_a_callout_after_its_driver_has_gone_is_found() {
    let report = run(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::OutboundIpPacket), Action::CalloutUnknown);
        let cpu = crate::Cpu::current().expect("a processor");
        // Whoever added it, its code is in this range.
        check_filters_left(cpu, &(0..usize::MAX));
    });
    assert_eq!(rules(&report), [UNLOAD_FILTER.name]);
}

#[test]
fn contexts_for_layers_without_flows_and_second_removals_are_found() {
    let report = run(Config::default(), |driver| {
        let stream = v4(LayerKind::Stream);
        let callout = driver.filtered(stream, Action::CalloutUnknown);
        let flow = driver.flow();
        let transport = layer(LayerKind::AleAuthListen, IpVersion::V4).get();
        let wrong = FwpsFlowAssociateContext0(flow, transport, callout, 1);
        assert_ne!(wrong, OK);
        assert_eq!(
            FwpsFlowAssociateContext0(flow, stream.get(), callout, 1),
            OK
        );
        assert_eq!(FwpsFlowRemoveContext0(flow, stream.get(), callout), OK);
        let again = FwpsFlowRemoveContext0(flow, stream.get(), callout);
        assert_eq!(status(again), NtStatus::UNSUCCESSFUL);
        driver.filtering.flow_ended(flow);
        // The flow has ended meanwhile: nobody could know.
        let late = FwpsFlowRemoveContext0(flow, stream.get(), callout);
        assert_ne!(late, OK);
    });
    assert_eq!(rules(&report), [FLOW_LAYER.name, FLOW_REMOVED_TWICE.name]);
}

#[test]
fn ale_03_a_reauthorization_that_is_pended_is_refused_and_found() {
    use wfp_schema::ConditionFlags;
    use wfp_schema::field::ale_auth_connect;

    let report = run(Config::default(), |driver| {
        let connect = v4(LayerKind::AleAuthConnect);
        driver.filtered(connect, Action::CalloutUnknown);
        behave(|classify| {
            let mut context = 0;
            let handle = classify.metadata.completion_handle;
            let pended = crate::fwp::flow::FwpsPendOperation0(handle, into(&mut context));
            assert_eq!(status(pended), NtStatus::FWP_CANNOT_PEND);
            classify.out.action = Action::Permit.value();
        });
        let mut values = [crate::net::Value::Empty; ale_auth_connect::FIELDS.len()];
        let reauthorize = ConditionFlags::IS_REAUTHORIZE.bits();
        values[ale_auth_connect::FLAGS.get()] = crate::net::Value::Uint32(reauthorize);
        let shown = Shown {
            completion: 0x77,
            ..Shown::default()
        };
        assert_eq!(driver.classify(connect, &values, shown), Outcome::Permit);
    });
    assert_eq!(rules(&report), [PEND_REAUTHORIZATION.name]);
}

#[test]
fn options_of_a_flow_reach_the_stack_and_wrong_ones_are_refused() {
    run_clean(Config::default(), |driver| {
        let connect = v4(LayerKind::AleAuthConnect);
        driver.filtered(connect, Action::CalloutUnknown);
        behave(|classify| {
            let metadata = classify.metadata;
            let metadata = super::support::at(&metadata);
            let set = |option, kind, number| {
                let value = RawValue::number(kind, number);
                FwpsClassifyOptionSet0(metadata, option, super::support::at(&value))
            };
            let number = wfp_schema::DataType::Uint32;
            assert_eq!(set(2, number, 300), OK);
            assert_eq!(set(1, number, 1), OK);
            assert_eq!(set(0, number, 1), OK);
            assert_eq!(status(set(8, number, 0)), NtStatus::FWP_INVALID_ENUMERATOR);
            assert_eq!(status(set(0, number, 3)), NtStatus::FWP_OUT_OF_BOUNDS);
            let other = wfp_schema::DataType::Uint8;
            assert_eq!(status(set(2, other, 3)), NtStatus::OBJECT_TYPE_MISMATCH);
            classify.out.action = Action::Permit.value();
        });
        driver.classify(connect, &[], Shown::default());
        let expected = ClassifyOptions {
            multicast_state: Some(false),
            loose_source_mapping: Some(true),
            unicast_lifetime: Some(300),
            group_lifetime: None,
        };
        assert_eq!(driver.filtering.classify_options(), expected);
        assert_eq!(
            driver.filtering.classify_options(),
            ClassifyOptions::default()
        );
    });
}

#[test]
fn the_engines_options_are_kept_and_checked() {
    run_clean(Config::default(), |driver| {
        let (on, much) = (
            RawValue::number(wfp_schema::DataType::Uint32, 1),
            RawValue::number(wfp_schema::DataType::Uint32, 2),
        );
        let set = |option, value: &RawValue| {
            FwpmEngineSetOption0(driver.engine, option, super::support::at(value))
        };
        assert_eq!(set(3, &on), OK);
        assert_eq!(status(set(3, &much)), NtStatus::FWP_OUT_OF_BOUNDS);
        assert_eq!(status(set(6, &on)), NtStatus::FWP_INVALID_ENUMERATOR);
        let mut value = Out::<RawValue>::null();
        assert_eq!(FwpmEngineGetOption0(driver.engine, 3, into(&mut value)), OK);
        assert_eq!(value.get().expect("a value").uint32(), 1);
        FwpmFreeMemory0(into(&mut value).offset(0));
    });
}

#[test]
fn a_network_injection_of_the_right_kind_is_clean() {
    run_clean(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::OutboundIpPacket), Action::CalloutUnknown);
        let handle = handle(AF_INET, InjectionType::NETWORK);
        behave(move |classify| {
            let list = clone(classify);
            let received =
                FwpsInjectNetworkReceiveAsync0(handle, 0, 0, 0, 2, 0, list, Some(complete), 0);
            assert_eq!(received, OK);
            absorb(classify);
        });
        assert_eq!(classify(driver, 0, None), Outcome::Absorb);
        assert_eq!(FwpsInjectionHandleDestroy0(handle), OK);
    });
}
