//! Indications of the network stack to callouts.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use wfp_engine::{ClassifyCall, ClassifyOut, Engine, Flow, FlowId, Options, Request};
use wfp_schema::{CalloutFlags, ConditionFlags, LayerId, LayerKind, MetadataFields};

use super::check::{self, Cost, Pended, Returned};
use super::current::Begun;
use super::host::{ClassifyFn, KernelHost};
use super::identity::Identities;
use super::layout::kernel::RawClassifyOut;
use super::nbl_context;
use super::operation::Operation;
use super::scratch::Scratch;
use super::stream::StreamFlow;
use crate::access::Out;
use crate::cpu::{Callback, Cpu, DISPATCH, PASSIVE};
use crate::kernel::Machine;
use crate::ndis::layout::NetBufferList;
use crate::ndis::packet::Packet;
use crate::ndis::spread::Contents;
use crate::ndis::{MdlLayout, chain};
use crate::net::{
    ClassifyOptions, Filtering, FlowInfo, Indication, Outcome, PacketData, Redirection, StageId,
    StreamInjection, StreamOutcome, StreamSegment, Value,
};
use crate::verifier::{LAYER_DATA, NBL_STATE, Rule};

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
    /// Memory for the packets that are chained behind it.
    chain: Vec<Arc<Packet>>,
    /// By which drivers know the redirect records of the indication in progress.
    records: usize,
    /// The packet that was indicated last.
    last_packet: u64,
    /// The filter that decided the last block.
    blocked_by: u64,
    pub(super) scratch: Scratch,
    pub(super) identities: Identities,
    pub(super) flows: FxHashMap<u64, StreamFlow>,
    /// How often each classify function is called.
    pub(super) calls: u32,
    options: Options,
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
            chain: Vec::new(),
            records: machine.ndis.new_handle(),
            last_packet: u64::MAX,
            blocked_by: 0,
            scratch: Scratch::new(),
            identities: Identities::default(),
            flows: FxHashMap::default(),
            calls: 1,
            options: machine.fwp.engine.options().clone(),
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
            self.packet = packets.allocate(self.layout, self.processor).ok();
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
        nbl_context::exit(cpu, self.last_packet);
        for packet in self.packet.take().into_iter().chain(self.chain.drain(..)) {
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
    // Elsewhere what lies before the data is there: a frame's header, or nothing.
    let from_transport = layer.layer().is_some_and(|layer| {
        matches!(
            layer.kind(),
            LayerKind::OutboundTransport
                | LayerKind::DatagramData
                | LayerKind::StreamPacket
                | LayerKind::OutboundIcmpError
                | LayerKind::AleResourceAssignment
                | LayerKind::AleAuthConnect
                | LayerKind::AleAuthRecvAccept
                | LayerKind::AleFlowEstablished
        )
    });
    Contents {
        hide_before: from_transport && !present.contains(MetadataFields::IP_HEADER_SIZE),
        offload: packet.offload,
        more: packet.more,
        ..Contents::of(packet.bytes, packet.offset)
    }
}

/// The packet of an indication in memory.
struct ShownPacket<'a> {
    list: Out<NetBufferList>,
    /// Where, and what it shows.
    memory: Option<(Arc<Packet>, Contents<'a>)>,
}

/// The callouts that may have left something changed that is only looked at when all have been asked.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Suspects {
    first: Option<usize>,
    others: bool,
}

impl Suspects {
    /// The callout with this classify function was asked.
    pub(super) fn add(&mut self, function: usize) {
        let first = *self.first.get_or_insert(function);
        self.others |= first != function;
    }

    /// Reports what one of them did; by name, if there was only one.
    pub(super) fn report(self, cpu: &Cpu, rule: &Rule, message: String) {
        let verifier = cpu.machine().verifier();
        match self.first {
            Some(function) if !self.others => {
                let callback = Callback::new("classifyFn", function);
                verifier.violation_by(cpu, callback, rule, message);
            }
            _ => verifier.violation_at(cpu, rule, message),
        }
    }
}

/// What the chained packets of an indication show.
fn chained<'a>(indication: &Indication<'a>) -> impl Iterator<Item = Contents<'a>> {
    let start = indication.packet.map_or(0, |packet| packet.offset);
    let chain = indication.chain.iter();
    chain.map(move |bytes| Contents::of(bytes, start))
}

/// Puts `next` behind `list`.
const fn link(list: Out<NetBufferList>, next: Out<NetBufferList>) {
    if let Some(mut header) = list.get() {
        header.next = next;
        list.set(header);
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
    let current = cpu.machine().fwp.current(cpu);
    current.set_callout(call.callout.flags());
    let classify = call.callout.host().classify;
    let callback = Callback::new("classifyFn", classify.address());
    let cost = Cost::begin(cpu);
    for _ in 0..calls {
        out.set(found);
        cpu.enter_driver(callback, level, || match classify {
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
    cost.check(cpu, calls, call);
    current.set_callout(CalloutFlags::NONE);
    (found, out.get().unwrap_or(found))
}

impl Filtering for KernelFiltering {
    fn wants(&self, layer: LayerId) -> bool {
        self.cpu().machine().fwp.engine.has_filters(layer)
    }

    fn keeps_offload(&self, layer: LayerId, offload: wfp_engine::Offload) -> bool {
        let fwp = &self.cpu().machine().fwp;
        fwp.engine.keeps_offload(layer, offload)
    }

    fn classify(&mut self, indication: &Indication<'_>) -> Outcome {
        self.ask(indication, None)
    }

    fn redirect(&mut self, indication: &Indication<'_>, redirection: &mut Redirection) -> Outcome {
        let operation = Operation::new(indication.layer, indication.pend_handle, Some(redirection));
        let outcome = self.ask(indication, Some(&operation));
        for version in operation.take_changes() {
            redirection.apply(version);
        }
        outcome
    }

    fn blocking_filter(&self) -> u64 {
        self.blocked_by
    }

    fn classify_options(&mut self) -> ClassifyOptions {
        let cpu = self.cpu();
        cpu.machine().fwp.current(cpu).take_options()
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

    fn stream_injected(
        &mut self,
        flow_handle: u64,
        outbound: bool,
        stage: Option<StageId>,
    ) -> Vec<StreamInjection> {
        let fwp = &self.cpu().machine().fwp;
        fwp.take_injected(flow_handle, outbound, stage)
    }

    fn flow_created(&mut self, flow: &FlowInfo) -> u64 {
        let created = self.cpu().machine().fwp.engine.create_flow();
        let handle = created.id().get();
        self.flows.insert(handle, StreamFlow::new(created, *flow));
        handle
    }

    fn flow_ended(&mut self, flow_handle: u64) {
        let fwp = &self.cpu().machine().fwp;
        fwp.removals.end(flow_handle);
        let engine = &fwp.engine;
        if let Some(flow) = self.flows.remove(&flow_handle) {
            engine.end_flow(flow.flow());
        } else if let Some(flow) = engine.flow(FlowId::new(flow_handle)) {
            engine.end_flow(&flow);
        }
    }

    fn redirection_ended(&mut self, redirection: &Redirection) {
        super::redirect::ended(self.cpu().machine(), redirection);
    }

    fn options(&self) -> Options {
        self.options.clone()
    }

    fn epoch(&self, layer: LayerId) -> u64 {
        self.cpu().machine().fwp.engine.generation(layer)
    }
}

impl KernelFiltering {
    /// Asks the callouts of a layer other than STREAM; `operation` holds the layer data that they may change.
    fn ask(&mut self, indication: &Indication<'_>, operation: Option<&Arc<Operation>>) -> Outcome {
        let cpu = self.cpu();
        let machine = cpu.machine();
        let shown = self.show_packet(cpu, indication);
        let flow = self.flow(&machine.fwp.engine, indication);
        let has_records = self.show_records(machine, indication, operation);
        let identity = self.identities.show(indication.metadata.process);
        self.scratch.indicate(indication, identity);
        if has_records {
            self.scratch.show_records(self.records);
        }
        let reauthorizing = is_reauthorizing(indication);
        let current = machine.fwp.current(cpu);
        current.begin(Begun {
            context: self.scratch.context(),
            layer: indication.layer,
            pend_handle: indication.pend_handle,
            reauthorizing,
            operation: operation.map(Arc::clone),
        });

        let mut request = Request::new(indication.layer, indication.values);
        request.flow = flow.as_deref();
        let level = level(indication.layer, reauthorizing);
        let (scratch, calls) = (&self.scratch, self.calls);
        let mut suspects = Suspects::default();
        let verdict = machine.fwp.engine.classify(&request, |call, out| {
            suspects.add(call.callout.host().classify.address());
            let before = current.pends();
            let layer_data =
                operation.map_or_else(|| shown.list.offset(0), |operation| operation.layer_data());
            let (entry, exit) = invoke(cpu, scratch, calls, level, call, layer_data, out);
            Returned {
                cpu,
                call,
                entry,
                exit,
                pended: Pended::since(before, current.pends()),
                modify: current.take_modify(),
            }
            .check();
            if let Some(operation) = operation
                && has_records
            {
                self.records_of(machine, operation);
            }
            check::answer(&exit, out);
        });
        let mut pended = current.is_pended() && verdict.absorb;
        if let Some(asked) = current.end() {
            let (pended_classify, left_open) = asked.end();
            pended |= pended_classify;
            if left_open {
                let message = format!(
                    "the classify at {} ended before FwpsApplyModifiedLayerData0",
                    indication.layer
                );
                suspects.report(cpu, &LAYER_DATA, message);
            }
        }
        if has_records {
            machine.fwp.records.lock().remove(&self.records);
        }
        self.finish_packet(cpu, &shown, indication, suspects);
        if verdict.is_permit() {
            return Outcome::Permit;
        }
        self.blocked_by = verdict.by.map_or(0, |by| by.filter.get());
        if pended {
            Outcome::Pend
        } else if verdict.absorb {
            Outcome::Absorb
        } else {
            Outcome::Block
        }
    }

    /// Puts the packets of an indication into memory for callouts.
    fn show_packet<'a>(&mut self, cpu: &Cpu, indication: &Indication<'a>) -> ShownPacket<'a> {
        let machine = cpu.machine();
        let mut shown = ShownPacket {
            list: Out::null(),
            memory: None,
        };
        let Some(data) = indication.packet else {
            return shown;
        };
        let last = std::mem::replace(&mut self.last_packet, data.id.0);
        if last != data.id.0 && !machine.fwp.nbl_contexts.is_empty() {
            nbl_context::exit(cpu, last);
        }
        let contents = contents(&data, indication.metadata.present, indication.layer);
        if let Some(memory) = self.packet(machine) {
            let mark = data.injection.map(|mark| mark.0);
            shown.list = memory.indicate(contents, data.id.0, mark);
            shown.memory = Some((memory, contents));
        }
        if !indication.chain.is_empty() {
            self.indicate_chain(machine, shown.list, indication);
        }
        shown
    }

    /// Looks at what callouts left of the packets.
    fn finish_packet(
        &self,
        cpu: &Cpu,
        shown: &ShownPacket<'_>,
        indication: &Indication<'_>,
        suspects: Suspects,
    ) {
        if !indication.chain.is_empty() {
            self.finish_chain(cpu, shown.list, indication, suspects);
        }
        if let Some((memory, contents)) = &shown.memory
            && let Some(changed) = memory.finish(*contents)
        {
            let layer = indication.layer;
            let message = format!("after the classify at {layer} of a packet {changed}");
            suspects.report(cpu, &NBL_STATE, message);
        }
    }

    /// Makes the redirect records known that the callouts of this indication may ask about, if there are any.
    fn show_records(
        &self,
        machine: &Machine,
        indication: &Indication<'_>,
        operation: Option<&Arc<Operation>>,
    ) -> bool {
        let redirection = indication.metadata.redirection.cloned();
        let known = redirection.or_else(|| operation?.versions());
        known.is_some_and(|known| {
            machine.fwp.records.lock().insert(self.records, known);
            true
        })
    }

    /// The records after a callout's change of them.
    fn records_of(&self, machine: &Machine, operation: &Operation) {
        if let Some(versions) = operation.versions() {
            machine.fwp.records.lock().insert(self.records, versions);
        }
    }

    /// Chains the other packets of an indication behind `first`.
    fn indicate_chain(
        &mut self,
        machine: &Machine,
        first: Out<NetBufferList>,
        indication: &Indication<'_>,
    ) {
        let packets = &machine.ndis.packets;
        self.chain.retain(|packet| {
            let kept = packet.is_referenced();
            if kept {
                packets.retire(packet);
            }
            !kept
        });
        while self.chain.len() < indication.chain.len() {
            let Ok(packet) = packets.allocate(self.layout, self.processor) else {
                return;
            };
            self.chain.push(packet);
        }
        let mut end = first;
        for (packet, contents) in self.chain.iter().zip(chained(indication)) {
            let list = packet.indicate(contents, crate::net::PacketId::NONE.0, None);
            link(end, list);
            end = list;
        }
    }

    /// Takes the chain apart again, and checks what callouts left.
    fn finish_chain(
        &self,
        cpu: &Cpu,
        first: Out<NetBufferList>,
        indication: &Indication<'_>,
        suspects: Suspects,
    ) {
        let lists: Vec<_> = chain::lists(first).map(|(at, _)| at).collect();
        for list in lists {
            link(list, Out::null());
        }
        for (packet, contents) in self.chain.iter().zip(chained(indication)) {
            if let Some(changed) = packet.finish(contents) {
                let message = format!(
                    "after the classify at {} of a chained packet {changed}",
                    indication.layer
                );
                suspects.report(cpu, &NBL_STATE, message);
            }
        }
    }

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
