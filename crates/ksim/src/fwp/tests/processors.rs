//! Flow contexts on several processors at once: a context is deleted exactly once, whoever gets there first.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use wfp_schema::{Action, LayerKind, NtStatus};

use super::support::{
    Driver, OK, at, behave, heard, into, open, raw_callout, registration, status, v4,
};
use crate::access::In;
use crate::fwp::callout::{FwpsCalloutRegister2, FwpsCalloutUnregisterById0};
use crate::fwp::flow::{FwpsFlowAssociateContext0, FwpsFlowRemoveContext0};
use crate::fwp::layout::management::RawAction;
use crate::fwp::objects::callout::FwpmCalloutAdd0;
use crate::fwp::objects::filter::FwpmFilterAdd0;
use crate::fwp::objects::sublayer::FwpmSubLayerAdd0;
use crate::fwp::session::FwpmEngineClose0;
use crate::fwp::stack::StackRequest;
use crate::kernel::Kernel;
use crate::net::{End, Filtering, FlowInfo, Host, Indication, Metadata, Setup, StageId};

const PROCESSORS: u32 = 4;
const ROUNDS: u64 = 150;

/// A machine with a callout of a conditional stream filter; the callout's identifier and the engine handle.
fn machine() -> (Kernel, u32, usize) {
    let kernel = Kernel::new(&crate::Config {
        processors: PROCESSORS,
        ..crate::Config::default()
    })
    .expect("a kernel");
    let layer = v4(LayerKind::AleFlowEstablished);
    let (id, engine) = kernel
        .on(0, |_| {
            let key = wfp_schema::Guid::from_u128(0xca11);
            let (mut id, mut engine) = (0, 0);
            let registration = registration(key, wfp_schema::CalloutFlags::NONE);
            assert_eq!(
                FwpsCalloutRegister2(1, at(&registration), into(&mut id)),
                OK
            );
            assert_eq!(open(&mut engine), OK);
            let sublayer = super::support::raw_sublayer(wfp_schema::Guid::from_u128(5));
            assert_eq!(FwpmSubLayerAdd0(engine, at(&sublayer), In::null()), OK);
            let callout = raw_callout(key, layer.layer().expect("known").key());
            let none = crate::access::Out::null();
            assert_eq!(FwpmCalloutAdd0(engine, at(&callout), In::null(), none), OK);
            let mut filter = Driver::filter_of(sublayer.key, layer);
            filter.action = RawAction {
                kind: Action::CalloutInspection.value(),
                key,
            };
            let none = crate::access::Out::null();
            assert_eq!(FwpmFilterAdd0(engine, at(&filter), In::null(), none), OK);
            (id, engine)
        })
        .expect("no bug check");
    (kernel, id, engine)
}

/// Runs `work` on each processor at the same time.
fn on_all(kernel: &Kernel, work: impl Fn(u32, &crate::Cpu) + Sync) {
    let barrier = Barrier::new(PROCESSORS as usize);
    std::thread::scope(|scope| {
        for processor in 0..PROCESSORS {
            let (kernel, work, barrier) = (kernel.clone(), &work, &barrier);
            scope.spawn(move || {
                barrier.wait();
                kernel
                    .on(processor, |cpu| work(processor, cpu))
                    .expect("no bug check");
            });
        }
    });
}

/// How many contexts were deleted, on all processors.
fn deleted(kernel: &Kernel) -> Vec<u64> {
    let mut contexts: Vec<u64> = (0..PROCESSORS)
        .flat_map(|processor| {
            let here = kernel.on(processor, |_| heard(|heard| heard.deleted.clone()));
            here.expect("no bug check")
        })
        .map(|(_, _, context)| context)
        .collect();
    contexts.sort_unstable();
    contexts
}

#[test]
fn a_context_is_deleted_once_whether_its_flow_ends_or_it_is_removed_or_both() {
    let (kernel, callout, engine) = machine();
    let layer = v4(LayerKind::AleFlowEstablished);
    // The flow that each processor shows to its neighbour, to remove the context of.
    let shown: Vec<AtomicU64> = (0..PROCESSORS).map(|_| AtomicU64::new(0)).collect();
    on_all(&kernel, |processor, cpu| {
        let mut filtering = cpu.machine().filtering(processor);
        let identity = super::support::identity();
        behave(|_| ());
        let neighbour = &shown[(processor as usize + 1) % shown.len()];
        for round in 0..ROUNDS {
            let flow = filtering.flow_created(&super::support::flow_info());
            let context = u64::from(processor) * ROUNDS + round + 1;
            let associated = FwpsFlowAssociateContext0(flow, layer.get(), callout, context);
            assert_eq!(associated, OK);
            shown[processor as usize].store(flow, Ordering::SeqCst);
            let metadata = Metadata {
                present: wfp_schema::MetadataFields::FLOW_HANDLE,
                flow_handle: flow,
                ..Metadata::nothing(&identity)
            };
            filtering.classify(&Indication::new(layer, &[], &metadata));
            let theirs = neighbour.swap(0, Ordering::SeqCst);
            if theirs != 0 {
                FwpsFlowRemoveContext0(theirs, layer.get(), callout);
            }
            filtering.flow_ended(flow);
        }
    });
    let expected: Vec<u64> = (1..=u64::from(PROCESSORS) * ROUNDS).collect();
    assert_eq!(deleted(&kernel), expected, "each once");
    kernel
        .on(0, |_| {
            assert_eq!(FwpmEngineClose0(engine), OK);
            assert_eq!(FwpsCalloutUnregisterById0(callout), OK);
        })
        .expect("no bug check");
    let report = kernel.verifier().report();
    assert!(report.is_clean(), "{report:#?}");
}

#[test]
fn unregistering_succeeds_once_the_last_context_is_gone_and_nothing_is_called_afterwards() {
    let (kernel, callout, engine) = machine();
    let layer = v4(LayerKind::AleFlowEstablished);
    let gone = AtomicBool::new(false);
    let running = AtomicU64::new(u64::from(PROCESSORS) - 1);
    on_all(&kernel, |processor, cpu| {
        if processor == 0 {
            // As a driver does while it unloads: again and again.
            loop {
                let result = status(FwpsCalloutUnregisterById0(callout));
                match result {
                    NtStatus::SUCCESS => break,
                    NtStatus::DEVICE_BUSY | NtStatus::FWP_IN_USE => {}
                    other => panic!("{other}"),
                }
                std::thread::yield_now();
            }
            gone.store(true, Ordering::SeqCst);
            return;
        }
        let mut filtering = cpu.machine().filtering(processor);
        let identity = super::support::identity();
        behave(|_| ());
        for round in 0..ROUNDS {
            let flow = filtering.flow_created(&super::support::flow_info());
            let context = u64::from(processor) * ROUNDS + round + 1;
            let was_gone = gone.load(Ordering::SeqCst);
            let associated = FwpsFlowAssociateContext0(flow, layer.get(), callout, context);
            assert!(!was_gone || associated != OK, "the callout is unregistered");
            let metadata = Metadata {
                present: wfp_schema::MetadataFields::FLOW_HANDLE,
                flow_handle: flow,
                ..Metadata::nothing(&identity)
            };
            filtering.classify(&Indication::new(layer, &[], &metadata));
            filtering.flow_ended(flow);
        }
        running.fetch_sub(1, Ordering::SeqCst);
    });
    assert!(gone.load(Ordering::SeqCst));
    assert_eq!(running.load(Ordering::SeqCst), 0);
    let contexts = deleted(&kernel);
    let mut once = contexts.clone();
    once.dedup();
    assert_eq!(contexts, once, "none twice");
    kernel
        .on(0, |_| assert_eq!(FwpmEngineClose0(engine), OK))
        .expect("no bug check");
    let report = kernel.verifier().report();
    assert!(report.is_clean(), "{report:#?}");
}

#[test]
fn what_is_asked_of_another_processors_stack_stays_in_order() {
    let kernel = Kernel::new(&crate::Config {
        processors: 2,
        ..crate::Config::default()
    })
    .expect("a kernel");
    let end = |address: [u8; 4]| End {
        address: address.into(),
        port: 443,
    };
    let flow = FlowInfo {
        version: wfp_schema::IpVersion::V4,
        protocol: 6,
        direction: wfp_schema::Direction::Outbound,
        local: end([192, 0, 2, 1]),
        remote: end([192, 0, 2, 2]),
    };
    let mut other = kernel.filtering(1);
    let theirs = kernel
        .on(1, |_| other.flow_created(&flow))
        .expect("no bug check");
    // An operation and a stream of the other processor's stack.
    let asked = [
        StackRequest::Complete {
            completion_handle: 7,
        },
        StackRequest::ContinueStream {
            flow_handle: theirs,
            stage: StageId(0),
        },
    ];
    let left = kernel
        .on(0, |cpu| {
            let machine = cpu.machine();
            for request in &asked {
                machine.fwp.ask(request.clone());
            }
            let mut host = Host::new(machine.filtering(0), Setup::default());
            assert!(!machine.serve_stack(cpu, &mut host));
            Vec::from(machine.take_stack_requests())
        })
        .expect("no bug check");
    assert_eq!(left, asked);
    kernel
        .on(1, |_| other.flow_ended(theirs))
        .expect("no bug check");
}
