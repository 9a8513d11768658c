//! Indications of the network stack to callouts.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use wfp_engine::{ClassifyCall, ClassifyOut, Engine, Flow, FlowId, Options, Request};
use wfp_schema::{ConditionFlags, LayerId, LayerKind, MetadataFields};

use super::check::{self, Returned};
use super::host::{ClassifyFn, KernelHost};
use super::identity::Identities;
use super::layout::kernel::RawClassifyOut;
use super::scratch::Scratch;
use super::stream::StreamFlow;
use crate::access::Out;
use crate::cpu::{Cpu, DISPATCH, PASSIVE};
use crate::kernel::Machine;
use crate::ndis::MdlLayout;
use crate::ndis::packet::{Contents, Packet};
use crate::net::{
    Filtering, FlowInfo, Indication, Outcome, PacketData, StageId, StreamOutcome, StreamSegment,
    Value,
};
use crate::verifier::NBL_STATE;

/// The way from a network stack to the callouts, for one processor.
///
/// It keeps that processor's structures, so that a classify allocates nothing. Use it on the processor only.
///
/// `classifyFn` runs at `DISPATCH_LEVEL`, as it usually does on Windows, but for what a thread of the application
/// asks for there: bind, listen, connect, the redirect layers, and an endpoint's end, which run at `PASSIVE_LEVEL`.
#[derive(Debug)]
pub struct KernelFiltering {
    processor: u32,
    layout: MdlLayout,
    pub(super) packet: Option<Arc<Packet>>,
    pub(super) scratch: Scratch,
    pub(super) identities: Identities,
    pub(super) flows: FxHashMap<u64, StreamFlow>,
    /// How often each classify function is called.
    pub(super) calls: u32,
}

/// The stage of a callout in a stream's waterfall: its first filter.
pub(super) fn stage_of(callout: u32) -> StageId {
    StageId(u64::from(callout) << 32)
}

impl KernelFiltering {
    pub(super) fn new(machine: &Machine, processor: u32) -> Self {
        Self {
            processor,
            layout: machine.fwp.mdl_layout.for_processor(processor),
            packet: None,
            scratch: Scratch::new(),
            identities: Identities::default(),
            flows: FxHashMap::default(),
            calls: 1,
        }
    }

    /// From now on calls each classify function `calls` times in a row, at least once, with the same arguments; the
    /// last answer counts. For measuring callouts apart from the platform: all but the calls happens once.
    pub fn repeat(&mut self, calls: u32) {
        self.calls = calls.max(1);
    }

    /// The processor, on which the calling thread must be.
    pub(super) fn cpu(&self) -> &'static Cpu {
        Cpu::current()
            .filter(|cpu| cpu.index() == self.processor)
            .expect("a processor's filtering is used on that processor")
    }

    /// Memory for the packet of an indication, which no driver holds.
    pub(super) fn packet(&mut self, machine: &Machine) -> Option<Arc<Packet>> {
        let packets = &machine.ndis.packets;
        if let Some(kept) = self.packet.take_if(|packet| packet.is_referenced()) {
            packets.retire(&kept);
        }
        if self.packet.is_none() {
            // Without memory the callout sees an indication without its packet, which every layer allows.
            self.packet = packets.allocate(self.layout).ok();
        }
        self.packet.clone()
    }
}

/// A stack that goes away takes its flows with it.
impl Drop for KernelFiltering {
    fn drop(&mut self) {
        let Some(cpu) = Cpu::current() else {
            return;
        };
        for (_, flow) in self.flows.drain() {
            cpu.machine().fwp.engine.end_flow(flow.flow());
        }
        if let Some(packet) = self.packet.take() {
            cpu.machine().ndis.packets.retire(&packet);
        }
    }
}

/// The level at which a layer's callouts run.
fn level(layer: LayerId, reauthorizing: bool) -> u8 {
    let from_a_thread = layer.layer().is_some_and(|layer| {
        matches!(
            layer.kind(),
            LayerKind::AleResourceAssignment
                | LayerKind::AleAuthListen
                | LayerKind::AleAuthConnect
                | LayerKind::AleConnectRedirect
                | LayerKind::AleBindRedirect
                | LayerKind::AleResourceRelease
                | LayerKind::AleEndpointClosure
        )
    });
    if from_a_thread && !reauthorizing {
        PASSIVE
    } else {
        DISPATCH
    }
}

/// Whether the layer's FLAGS field says that the traffic was authorized before.
fn is_reauthorizing(indication: &Indication<'_>) -> bool {
    let Some(layer) = indication.layer.layer() else {
        return false;
    };
    if !matches!(
        layer.kind(),
        LayerKind::AleAuthConnect | LayerKind::AleAuthRecvAccept
    ) {
        return false;
    }
    let flags = match layer.kind() {
        LayerKind::AleAuthConnect => wfp_schema::field::ale_auth_connect::FLAGS,
        _ => wfp_schema::field::ale_auth_recv_accept::FLAGS,
    };
    matches!(
        indication.values.get(flags.get()),
        Some(Value::Uint32(bits)) if ConditionFlags::from_bits(*bits).contains(ConditionFlags::IS_REAUTHORIZE)
    )
}

/// What a callout is shown of a packet: an outbound one has no IP header yet, where the metadata tells none.
fn contents<'a>(packet: &PacketData<'a>, present: MetadataFields, layer: LayerId) -> Contents<'a> {
    let network = layer.layer().is_some_and(|layer| {
        matches!(
            layer.kind(),
            LayerKind::InboundIpPacket | LayerKind::OutboundIpPacket
        )
    });
    Contents {
        bytes: packet.bytes,
        start: packet.offset.min(packet.bytes.len()),
        hide_before: !network && !present.contains(MetadataFields::IP_HEADER_SIZE),
        lists: false,
    }
}

/// Calls a callout's classify function `calls` times; what it left.
pub(super) fn invoke(
    cpu: &Cpu,
    scratch: &Scratch,
    calls: u32,
    level: u8,
    call: &ClassifyCall<'_, KernelHost>,
    layer_data: Out<u8>,
    entry: &ClassifyOut,
) -> (RawClassifyOut, RawClassifyOut) {
    let found = RawClassifyOut {
        action: entry.action,
        out_context: entry.out_context,
        filter_id: entry.filter_id.get(),
        rights: entry.rights.bits(),
        flags: entry.flags.bits(),
        reserved: 0,
    };
    let out = scratch.out();
    let (values, metadata) = (scratch.incoming(), scratch.metadata());
    let (context, filter) = (scratch.context(), call.filter.host().as_in());
    let flow_context = call.flow_context;
    for _ in 0..calls {
        out.set(found);
        cpu.enter_driver("classifyFn", level, || match call.callout.host().classify {
            ClassifyFn::Fn0(classify) => {
                classify(values, metadata, layer_data, filter, flow_context, out);
            }
            ClassifyFn::Fn1(classify) => {
                classify(
                    values,
                    metadata,
                    layer_data,
                    context,
                    filter,
                    flow_context,
                    out,
                );
            }
        });
    }
    (found, out.get().unwrap_or(found))
}

impl Filtering for KernelFiltering {
    fn wants(&self, layer: LayerId) -> bool {
        self.cpu().machine().fwp.engine.has_filters(layer)
    }

    fn classify(&mut self, indication: &Indication<'_>) -> Outcome {
        let cpu = self.cpu();
        let machine = cpu.machine();
        let packet = indication.packet.map(|data| {
            let contents = contents(&data, indication.metadata.present, indication.layer);
            (data, contents)
        });
        let memory = packet.and_then(|_| self.packet(machine));
        let layer_data = match (&memory, packet) {
            (Some(memory), Some((data, contents))) => memory
                .indicate(contents, data.id.0, data.injection.map(|mark| mark.0))
                .offset(0),
            _ => Out::null(),
        };
        let flow = self.flow(&machine.fwp.engine, indication);
        let identity = self.identities.show(indication.metadata.process);
        self.scratch.indicate(indication, identity);
        let reauthorizing = is_reauthorizing(indication);
        let current = machine.fwp.current(cpu);
        let pendable = indication
            .metadata
            .present
            .contains(MetadataFields::COMPLETION_HANDLE);
        current.begin(
            if pendable {
                indication.metadata.completion_handle
            } else {
                0
            },
            reauthorizing,
        );

        let mut request = Request::new(indication.layer, indication.values);
        request.flow = flow.as_deref();
        let level = level(indication.layer, reauthorizing);
        let (scratch, calls) = (&self.scratch, self.calls);
        let verdict = machine.fwp.engine.classify(&request, |call, out| {
            let pended_before = current.is_pended();
            let (entry, exit) = invoke(cpu, scratch, calls, level, call, layer_data, out);
            let pended = current.is_pended() && !pended_before;
            Returned {
                cpu,
                call,
                entry,
                exit,
                pended,
                modify: current.take_modify(),
            }
            .check();
            check::answer(&exit, out);
        });
        let pended = current.is_pended();
        current.end();
        if let (Some(memory), Some((_, contents))) = (memory, packet)
            && let Some(changed) = memory.finish(contents)
        {
            let layer = indication.layer;
            let message = format!("after the classify at {layer} of a packet {changed}");
            machine.verifier().violation_at(cpu, &NBL_STATE, message);
        }
        if verdict.is_permit() {
            Outcome::Permit
        } else if pended && verdict.absorb {
            Outcome::Pend
        } else if verdict.absorb {
            Outcome::Absorb
        } else {
            Outcome::Block
        }
    }

    fn stream_stages(&mut self, layer: LayerId, flow_handle: u64, stages: &mut Vec<StageId>) {
        self.plan_stream(layer, flow_handle, stages);
    }

    fn classify_stream(
        &mut self,
        indication: &Indication<'_>,
        segment: &StreamSegment<'_>,
    ) -> StreamOutcome {
        self.ask_stream(indication, segment)
    }

    fn flow_created(&mut self, flow: &FlowInfo) -> u64 {
        let created = self.cpu().machine().fwp.engine.create_flow();
        let handle = created.id().get();
        self.flows.insert(handle, StreamFlow::new(created, *flow));
        handle
    }

    fn flow_ended(&mut self, flow_handle: u64) {
        let engine = &self.cpu().machine().fwp.engine;
        if let Some(flow) = self.flows.remove(&flow_handle) {
            engine.end_flow(flow.flow());
        } else if let Some(flow) = engine.flow(FlowId::new(flow_handle)) {
            engine.end_flow(&flow);
        }
    }

    fn options(&self) -> Options {
        self.cpu().machine().fwp.engine.options().clone()
    }

    fn epoch(&self, layer: LayerId) -> u64 {
        self.cpu().machine().fwp.engine.generation(layer)
    }
}

impl KernelFiltering {
    /// The flow of an indication.
    fn flow(
        &self,
        engine: &Engine<KernelHost>,
        indication: &Indication<'_>,
    ) -> Option<Arc<Flow<KernelHost>>> {
        if !indication
            .metadata
            .present
            .contains(MetadataFields::FLOW_HANDLE)
        {
            return None;
        }
        let handle = indication.metadata.flow_handle;
        let known = self.flows.get(&handle).map(|flow| Arc::clone(flow.flow()));
        known.or_else(|| engine.flow(FlowId::new(handle)))
    }
}
