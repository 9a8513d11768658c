//! IRQ rows: the level at which calls are made.

use conformance_messages::{
    Bfe, DISPATCH, FlowContext, HandleCreate, Inject, MakePacket, Register, bfe, flow, handle,
    operation, point,
};
use wfp_schema::{Action, LayerKind};
use zerocopy::FromZeros as _;

use crate::answers::{Doing as _, absorb, with_slot};
use crate::traffic::{HOST, PEER};
use crate::world::{OK, World, asking, connect, filter, v4};

/// The rules that the verifier found broken.
fn broken(w: World) -> Vec<String> {
    let report = w.unload();
    report.violations.iter().map(ToString::to_string).collect()
}

#[test]
fn irq_01_management_and_registration_are_for_passive_level() {
    let w = World::new();
    let s = w.session();
    let _ = s.try_add(filter(connect(), Action::Permit).at_dispatch());
    let broken_by_filter = broken(w);
    assert!(
        broken_by_filter
            .iter()
            .any(|violation| violation.contains("FwpmFilterAdd0")),
        "{broken_by_filter:?}"
    );

    let w = World::new();
    let key = w.key().to_bytes();
    w.agent.call(&Register {
        callout: 0,
        flags: 0,
        options: 0,
        irql: DISPATCH,
        key,
    });
    let broken_by_callout = broken(w);
    assert!(
        broken_by_callout
            .iter()
            .any(|violation| violation.contains("FwpsCalloutRegister2")),
        "{broken_by_callout:?}"
    );

    let w = World::new();
    w.agent.call(&HandleCreate {
        kind: handle::INJECTION,
        slot: 0,
        family: 2,
        flags: 4,
        irql: DISPATCH,
        reserved: 0,
        provider: [0; 16],
    });
    let broken_by_handle = broken(w);
    assert!(
        broken_by_handle
            .iter()
            .any(|violation| violation.contains("FwpsInjectionHandleCreate0")),
        "{broken_by_handle:?}"
    );
}

#[test]
fn irq_02_the_data_path_is_for_dispatch_level_too() {
    let w = World::new();
    let s = w.session();
    let stream = s.flow_callout(v4(LayerKind::Stream));
    let established = s.callout(v4(LayerKind::AleFlowEstablished));
    s.add(asking(&established, Action::CalloutInspection));
    w.connection();
    let flow_handle = w.classifies(&established)[0].flow;
    for what in [flow::ASSOCIATE, flow::REMOVE] {
        let message = FlowContext {
            what,
            layer: stream.layer.id().get().into(),
            callout: stream.id,
            irql: DISPATCH,
            flow: flow_handle,
            context: 7,
        };
        assert_eq!(w.agent.status(&message), OK);
    }
    w.bfe(bfe::SUBSCRIBE);
    w.agent.call(&Bfe {
        what: bfe::STATE,
        irql: DISPATCH,
    });

    w.injection_handle(0, 2, INJECTION_TYPE_NETWORK);
    let packet = portcullis_tests::udp(&format!("{HOST}:9"), &format!("{PEER}:9"), b"injected");
    let mut made = MakePacket::new_zeroed();
    made.length = u32::try_from(packet.len()).expect("short");
    made.bytes[..packet.len()].copy_from_slice(&packet);
    assert_eq!(w.agent.status(&made), OK);
    let mut inject = Inject::new_zeroed();
    inject.point = point::NETWORK_SEND;
    inject.packet = 1;
    inject.irql = DISPATCH;
    assert_eq!(w.agent.status(&inject), OK);
    w.net().settle();

    let authorizes = s.callout(connect());
    let pends = absorb().doing(with_slot(operation::PEND_OPERATION, 0));
    w.script(&authorizes, &[pends]);
    s.add(asking(&authorizes, Action::CalloutTerminating));
    w.connects();
    let pended = w.classifies(&authorizes);
    assert_eq!(pended[0].operations[0], OK.code());
    w.end();
}

/// `FWPS_INJECTION_TYPE_NETWORK`.
const INJECTION_TYPE_NETWORK: u32 = 4;
