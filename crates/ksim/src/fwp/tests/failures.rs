//! A call that is made to fail has its arguments checked first.

use wfp_schema::flags::InjectionType;
use wfp_schema::{Action, LayerId, LayerKind, NtStatus};

use super::packets::udp_packet;
use super::support::{
    Driver, OK, Shown, behave, into, open, raw_sublayer, registration, run, run_clean, status, v4,
};
use crate::access::{In, Out};
use crate::fwp::callout::FwpsCalloutRegister1;
use crate::fwp::defer::FwpsAcquireClassifyHandle0;
use crate::fwp::flow::{FwpsFlowAssociateContext0, FwpsPendOperation0};
use crate::fwp::inject::handle::{FwpsInjectionHandleCreate0, FwpsInjectionHandleDestroy0};
use crate::fwp::inject::{FwpsInjectNetworkSendAsync0, FwpsInjectTransportReceiveAsync0};
use crate::fwp::layout::kernel::InjectComplete;
use crate::fwp::nbl::{FwpsAllocateCloneNetBufferList0, FwpsFreeCloneNetBufferList0};
use crate::fwp::objects::sublayer::FwpmSubLayerAdd0;
use crate::fwp::redirect::FwpsRedirectHandleCreate0;
use crate::fwp::session::{FwpmEngineClose0, FwpmEngineOpen0, FwpmTransactionBegin0};
use crate::ndis::layout::NetBufferList;
use crate::ndis::pool::{NdisAllocateNetBuffer, NdisAllocateNetBufferPool};
use crate::ndis::position::NdisGetDataBuffer;
use crate::verifier::{ARGUMENT, FLOW_LAYER, INJECTION_HANDLE, OBJECT_STALE, Rule};
use wfp_schema::{CalloutFlags, Guid};

const AF_INET: u16 = 2;

extern "win64" fn complete(_: usize, list: Out<NetBufferList>, _: u8) {
    FwpsFreeCloneNetBufferList0(list, 0);
}

const COMPLETE: Option<InjectComplete> = Some(complete);

/// Makes a bad call while the next call is to fail: the verifier hears of the argument by `rule`, and the failure
/// is left for a good call.
fn bad(rule: &Rule, call: impl FnOnce(&mut Driver<'_>) + Send) {
    let report = run(crate::fwp::Config::default(), |driver| {
        driver.cpu.machine().faults().fail_nth(1);
        call(driver);
        driver.cpu.machine().faults().fail_nth(0);
    });
    let heard: Vec<_> = report.violations.iter().map(|one| one.rule).collect();
    assert_eq!(heard, [rule.name], "{report:?}");
}

#[test]
fn a_failure_hides_no_bad_argument() {
    bad(&OBJECT_STALE, |_| {
        FwpmTransactionBegin0(0xbad, 0);
    });
    bad(&OBJECT_STALE, |_| {
        FwpmSubLayerAdd0(0xbad, In::null(), In::null());
    });
    bad(&OBJECT_STALE, |_| {
        FwpsInjectNetworkSendAsync0(0xbad, 0, 0, 0, Out::null(), COMPLETE, 0);
        let mut list = NetBufferList::of(Out::null(), 0);
        FwpsInjectNetworkSendAsync0(0xbad, 0, 0, 0, into(&mut list), COMPLETE, 0);
    });
    bad(&ARGUMENT, |_| {
        let mut engine = 0;
        FwpmEngineOpen0(In::null(), 3, 0, In::null(), into(&mut engine));
    });
    bad(&FLOW_LAYER, |_| {
        FwpsFlowAssociateContext0(1, v4(LayerKind::AleAuthListen).get(), 1, 1);
    });
    bad(&ARGUMENT, |_| {
        let mut context = 0;
        FwpsPendOperation0(77, into(&mut context));
    });
    bad(&ARGUMENT, |_| {
        let mut handle = 0;
        FwpsAcquireClassifyHandle0(77, 0, into(&mut handle));
    });
    bad(&ARGUMENT, |_| {
        let provider = Guid::from_u128(1);
        let mut handle = 0;
        FwpsRedirectHandleCreate0(super::support::at(&provider), 1, into(&mut handle));
    });
    bad(&ARGUMENT, |driver| {
        let callout = registration(Guid::from_u128(3), CalloutFlags::from_bits(0x8000_0000));
        let (mut id, device) = (0, 1);
        let registered = FwpsCalloutRegister1(device, super::support::at(&callout), into(&mut id));
        // This one is only complained about, and then fails.
        assert_eq!(status(registered), NtStatus::INSUFFICIENT_RESOURCES);
        assert!(driver.cpu.machine().faults().failed_call().is_some());
    });
    bad(&ARGUMENT, |_| {
        NdisAllocateNetBufferPool(0, In::null());
    });
    bad(&OBJECT_STALE, |_| {
        NdisAllocateNetBuffer(0xbad, Out::null(), 0, 0);
    });
    bad(&ARGUMENT, |_| {
        NdisGetDataBuffer(Out::null(), 1, Out::null(), 1, 0);
    });
}

#[test]
fn an_injection_that_is_made_to_fail_has_its_handle_checked_and_is_not_waited_for() {
    let report = run(crate::fwp::Config::default(), |driver| {
        let at: LayerId = v4(LayerKind::OutboundIpPacket);
        driver.filtered(at, Action::CalloutUnknown);
        let mut handle = 0;
        let types = InjectionType::NETWORK.bits();
        assert_eq!(
            FwpsInjectionHandleCreate0(AF_INET, types, into(&mut handle)),
            OK
        );
        behave(move |classify| {
            let mut clone = Out::null();
            let original = classify.layer_data::<NetBufferList>();
            let cloned = FwpsAllocateCloneNetBufferList0(original, 0, 0, 0, into(&mut clone));
            assert_eq!(cloned, OK);
            let faults = crate::Cpu::current()
                .expect("a processor")
                .machine()
                .faults();
            faults.fail_nth(1);
            let stale = FwpsInjectTransportReceiveAsync0(
                handle, 0, 0, 0, AF_INET, 0, 1, 0, clone, COMPLETE, 0,
            );
            assert_eq!(status(stale), NtStatus::FWP_INJECT_HANDLE_STALE);
            assert!(
                faults.failed_call().is_none(),
                "the failure is still to come"
            );
            let failed = FwpsInjectNetworkSendAsync0(handle, 0, 0, 0, clone, COMPLETE, 0);
            assert_eq!(status(failed), NtStatus::FWP_TCPIP_NOT_READY);
            assert!(faults.failed_call().is_some());
            FwpsFreeCloneNetBufferList0(clone, 0);
            classify.out.action = Action::Permit.value();
        });
        driver.classify(at, &[], Shown::injected(&udp_packet(), 0, None));
        assert!(driver.cpu.machine().take_stack_requests().is_empty());
        assert_eq!(FwpsInjectionHandleDestroy0(handle), OK);
    });
    let heard: Vec<_> = report.violations.iter().map(|one| one.rule).collect();
    assert_eq!(heard, [INJECTION_HANDLE.name]);
}

#[test]
fn a_good_call_fails_when_it_is_told_to() {
    run_clean(crate::fwp::Config::default(), |driver| {
        let faults = driver.cpu.machine().faults();
        let mut engine = 0;
        faults.fail_nth(1);
        assert_eq!(status(open(&mut engine)), NtStatus::INSUFFICIENT_RESOURCES);
        assert_eq!(open(&mut engine), OK);
        let no_resources = |result: i32| {
            assert_eq!(status(result), NtStatus::INSUFFICIENT_RESOURCES);
            assert!(faults.failed_call().is_some());
        };
        faults.fail_nth(1);
        no_resources(FwpmTransactionBegin0(engine, 0));
        faults.fail_nth(1);
        let sublayer = raw_sublayer(Guid::from_u128(5));
        no_resources(FwpmSubLayerAdd0(
            engine,
            super::support::at(&sublayer),
            In::null(),
        ));
        faults.fail_nth(0);
        assert_eq!(FwpmEngineClose0(engine), OK);
    });
}
