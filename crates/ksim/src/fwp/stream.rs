//! Streams: the waterfall of callouts, one filter a stage.
//!
//! A stage stands for a filter that matches the flow. Its number holds the callout (0 for a filter without one) in
//! the upper half and its ordinal among the filters of the same callout in the lower one.

use std::net::IpAddr;
use std::sync::Arc;

use wfp_engine::{Answer, Decision, Flow, Plan, Request, Stage};
use wfp_schema::codes::AddressType;
use wfp_schema::field::stream as field;
use wfp_schema::{ConditionFlags, LayerId, StreamAction};

use super::check::{self, Pended, Returned};
use super::classify::{KernelFiltering, Suspects, invoke};
use super::current::Begun;
use super::host::KernelHost;
use super::layout::kernel::{RawStreamData, RawStreamDataOffset, RawStreamPacket};
use crate::access::Out;
use crate::cpu::DISPATCH;
use crate::ndis::chain;
use crate::ndis::spread::Contents;
use crate::net::{FlowInfo, Indication, StageId, StreamOutcome, StreamSegment, Value, Verdict};
use crate::verifier::NBL_STATE;

/// A flow, and the filters that its stream passes.
#[derive(Debug)]
pub(super) struct StreamFlow {
    flow: Arc<Flow<KernelHost>>,
    info: FlowInfo,
    plan: Plan<KernelHost>,
    stages: Vec<StageId>,
    /// The layer's generation when the plan was made.
    generation: Option<u64>,
    /// The stage that decided about the piece in progress, and the first one behind its sublayer.
    decided: Option<(usize, usize)>,
}

impl StreamFlow {
    pub(super) fn new(flow: Arc<Flow<KernelHost>>, info: FlowInfo) -> Self {
        Self {
            flow,
            info,
            plan: Plan::default(),
            stages: Vec::new(),
            generation: None,
            decided: None,
        }
    }

    pub(super) const fn flow(&self) -> &Arc<Flow<KernelHost>> {
        &self.flow
    }

    /// Makes the plan of the flow's stream if the filters have changed since.
    fn plan(&mut self, engine: &wfp_engine::Engine<KernelHost>, layer: LayerId) {
        let generation = engine.generation(layer);
        if self.generation == Some(generation) {
            return;
        }
        self.generation = Some(generation);
        self.decided = None;
        let octets = [self.info.local, self.info.remote].map(|end| match end.address {
            IpAddr::V4(_) => [0; 16],
            IpAddr::V6(address) => address.octets(),
        });
        let values = stream_values(&self.info, &octets);
        engine.plan(&Request::new(layer, &values), &mut self.plan);
        self.stages.clear();
        for stage in 0..self.plan.len() {
            let callout = self
                .plan
                .callout(stage)
                .map_or(0, wfp_engine::CalloutId::get);
            let before = self
                .stages
                .iter()
                .filter(|other| other.0 >> 32 == u64::from(callout))
                .count();
            self.stages
                .push(StageId(u64::from(callout) << 32 | before as u64));
        }
    }
}

/// The values of a flow's fields at the stream layer: they are the same for every piece of the stream.
fn stream_values<'a>(
    info: &FlowInfo,
    octets: &'a [[u8; 16]; 2],
) -> [Value<'a>; field::FIELDS.len()] {
    let [local, remote] = octets;
    let address = |address: IpAddr, octets: &'a [u8; 16]| match address {
        IpAddr::V4(address) => Value::Uint32(address.to_bits()),
        IpAddr::V6(_) => Value::ByteArray16(octets),
    };
    let loopback = info.remote.address.is_loopback() || info.remote.address == info.local.address;
    let flags = if loopback {
        ConditionFlags::IS_LOOPBACK
    } else {
        ConditionFlags::NONE
    };
    let mut values = [Value::Empty; field::FIELDS.len()];
    values[field::IP_LOCAL_ADDRESS.get()] = address(info.local.address, local);
    values[field::IP_LOCAL_ADDRESS_TYPE.get()] =
        Value::Uint8(u8::try_from(AddressType::Unicast.value()).unwrap_or(0));
    values[field::IP_REMOTE_ADDRESS.get()] = address(info.remote.address, remote);
    values[field::IP_LOCAL_PORT.get()] = Value::Uint16(info.local.port);
    values[field::IP_REMOTE_PORT.get()] = Value::Uint16(info.remote.port);
    values[field::DIRECTION.get()] = Value::Uint32(info.direction.value());
    values[field::FLAGS.get()] = Value::Uint32(flags.bits());
    values[field::COMPARTMENT_ID.get()] = Value::Uint32(DEFAULT_COMPARTMENT);
    values
}

/// The routing compartment of a system that has one.
const DEFAULT_COMPARTMENT: u32 = 1;

/// What a stage wants if it has nothing to say.
const PASS: StreamOutcome = StreamOutcome::PERMIT;

/// What a packet says before its callout has written to it.
const NOTHING_WANTED: RawStreamPacket = RawStreamPacket {
    data: Out::null(),
    missed_bytes: 0,
    bytes_required: 0,
    bytes_enforced: 0,
    action: StreamAction::None.value(),
};

impl KernelFiltering {
    /// Names the stages of a flow's stream.
    pub(super) fn plan_stream(
        &mut self,
        layer: LayerId,
        flow_handle: u64,
        stages: &mut Vec<StageId>,
    ) {
        let engine = &self.cpu().machine().fwp.engine;
        if let Some(flow) = self.flows.get_mut(&flow_handle) {
            flow.plan(engine, layer);
            stages.extend_from_slice(&flow.stages);
        }
    }

    /// Asks one stage about a piece of a stream.
    pub(super) fn ask_stream(
        &mut self,
        indication: &Indication<'_>,
        segment: &StreamSegment<'_>,
    ) -> StreamOutcome {
        let cpu = self.cpu();
        let machine = cpu.machine();
        let memory = self.packet(machine);
        let Some(flow) = self.flows.get_mut(&indication.metadata.flow_handle) else {
            return PASS;
        };
        let Some(stage) = flow.stages.iter().position(|stage| *stage == segment.stage) else {
            return PASS;
        };
        if let Some((by, until)) = flow.decided {
            if by < stage && stage < until {
                return PASS;
            }
            if stage <= by {
                flow.decided = None;
            }
        }
        let identity = self.identities.show(indication.metadata.process);
        let (scratch, calls) = (&self.scratch, self.calls);
        scratch.indicate(indication, identity);
        let contents = Contents {
            lists: true,
            ..Contents::of(segment.bytes, 0)
        };
        let lists = memory.as_ref().map_or(Out::null(), |memory| {
            memory.indicate(contents, u64::MAX, None)
        });
        scratch.stream_data().set(stream_data(lists, segment));
        let asked = RawStreamPacket {
            data: scratch.stream_data(),
            missed_bytes: usize::try_from(segment.missed_bytes).unwrap_or(usize::MAX),
            ..NOTHING_WANTED
        };
        scratch.stream_packet().set(asked);
        let current = machine.fwp.current(cpu);
        current.begin(Begun {
            context: scratch.context(),
            layer: indication.layer,
            pend_handle: 0,
            reauthorizing: false,
            operation: None,
        });
        current.begin_stream(indication.metadata.flow_handle, segment.flags);
        let mut suspects = Suspects::default();
        let mut left = (asked, Some(StreamAction::None));
        let layer_data = scratch.stream_packet().offset(0);
        let (outcome, _) = machine.fwp.engine.ask_stage(
            &flow.plan,
            stage,
            Some(&flow.flow),
            segment.out_flags,
            |call, out| {
                suspects.add(call.callout.host().classify.address());
                let (entry, exit) = invoke(cpu, scratch, calls, DISPATCH, call, layer_data, out);
                let packet = scratch.stream_packet().get().unwrap_or(asked);
                let returned = Returned {
                    cpu,
                    call,
                    entry,
                    exit,
                    pended: Pended::No,
                    modify: false,
                };
                let action = returned.check_stream(
                    &packet,
                    segment.flags,
                    segment.bytes.len(),
                    segment.out_flags,
                );
                left = (packet, action);
                check::answer(&exit, out);
            },
        );
        let is_kept = machine.fwp.current(cpu).end_stream();
        machine.fwp.current(cpu).end();
        if let Some(changed) = memory.and_then(|memory| memory.finish(contents)) {
            let layer = indication.layer;
            let message = format!("after the classify at {layer} of stream data {changed}");
            suspects.report(cpu, &NBL_STATE, message);
        }
        let may_drop = machine.fwp.engine.may_drop_connection(&flow.plan, stage);
        if matches!(
            outcome,
            Stage::Static(_) | Stage::Called(Answer::Decision(_))
        ) {
            flow.decided = Some((stage, flow.plan.next_sublayer(stage)));
        }
        let outcome = outcome_of(
            outcome,
            &left.0,
            left.1.unwrap_or(StreamAction::None),
            may_drop,
        );
        StreamOutcome {
            is_kept: is_kept && outcome.verdict == Verdict::Block,
            ..outcome
        }
    }
}

/// `FWPS_STREAM_DATA0` over what `lists` holds.
const fn stream_data(
    lists: Out<crate::ndis::layout::NetBufferList>,
    segment: &StreamSegment<'_>,
) -> RawStreamData {
    let mut data = RawStreamData {
        flags: segment.flags.bits(),
        length: segment.bytes.len(),
        lists,
        ..RawStreamData::EMPTY
    };
    if let Some(list) = lists.get()
        && let Some(buffer) = chain::data_of(list.first)
    {
        data.offset = RawStreamDataOffset {
            list: lists,
            buffer: list.first,
            mdl: buffer.current_mdl,
            mdl_offset: buffer.current_mdl_offset,
            buffer_offset: 0,
            stream_data_offset: 0,
        };
    }
    data
}

const fn outcome_of(
    stage: Stage,
    packet: &RawStreamPacket,
    action: StreamAction,
    may_drop: bool,
) -> StreamOutcome {
    let answer = match stage {
        Stage::Skipped => return PASS,
        Stage::Static(Decision::Permit) => return StreamOutcome::PERMIT,
        Stage::Static(Decision::Block) => return StreamOutcome::BLOCK,
        Stage::Called(answer) => answer,
    };
    match action {
        StreamAction::None => {
            let verdict = match answer {
                Answer::Decision(Decision::Block) => Verdict::Block,
                Answer::Decision(Decision::Permit) | Answer::Continue => Verdict::Permit,
            };
            StreamOutcome::first(verdict, packet.bytes_enforced)
        }
        StreamAction::DropConnection if !may_drop => PASS,
        StreamAction::NeedMoreData => StreamOutcome::need(packet.bytes_required as usize),
        StreamAction::DropConnection | StreamAction::Defer | StreamAction::AllowConnection => {
            StreamOutcome::action(action)
        }
    }
}
