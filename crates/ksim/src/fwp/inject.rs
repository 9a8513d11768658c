//! Packet injection: handles, the functions that inject, and what became of a packet.
//!
//! An accepted packet is copied and asked of the stack as a [`StackRequest`]; its completion
//! runs later, as deferred work. When the stack indicates the packet it shows its [`InjectionMark`], by which
//! `FwpsQueryPacketInjectionState0` answers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use wfp_schema::codes::PacketInjectionState;
use wfp_schema::flags::InjectionType;
use wfp_schema::{NtStatus, StreamFlags};

use super::classify::stage_of;
use super::layout::kernel::InjectComplete;
use super::stack::{InjectedPacket, InjectedStreamData, StackRequest};
use crate::access::Out;
use crate::cpu::{Cpu, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::Bugcheck;
use crate::ndis::chain;
use crate::ndis::layout::NetBufferList;
use crate::ndis::list::Snapshot;
use crate::ndis::packet::Packet;
use crate::net::{InjectionMark, InjectionPoint, PacketId};
use crate::verifier::{ARGUMENT, NBL_STATE};

const HANDLE: &str = "injection handle";

const SUCCESS: i32 = NtStatus::SUCCESS.to_i32();
const NULL_POINTER: NtStatus = NtStatus::FWP_NULL_POINTER;
const INVALID_PARAMETER: NtStatus = NtStatus::FWP_INVALID_PARAMETER;
const NOT_READY: i32 = NtStatus::FWP_TCPIP_NOT_READY.to_i32();

/// `AF_UNSPEC`, `AF_INET`, `AF_INET6` of Windows.
const AF_UNSPEC: u16 = 0;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 23;

/// `WFP_INVALID_OPERATION`, and its subtype for a receive injection of several net buffers.
const BUGCHECK_INVALID_OPERATION: u32 = 0x1d3;
const SEVERAL_NET_BUFFERS: u64 = 1;

/// What `FwpsInjectionHandleCreate0` made.
#[derive(Debug)]
struct Handle {
    types: InjectionType,
    closing: bool,
    pending: usize,
}

/// Where an injected packet came from.
#[derive(Debug, Clone, Copy)]
struct Mark {
    handle: usize,
    context: usize,
    previous: Option<InjectionMark>,
}

/// Marks that are remembered: older packets have long left the stack.
const KEPT_MARKS: usize = 0x1_0000;

/// The marks given so far; numbers begin at 1.
#[derive(Debug, Default)]
struct Marks {
    kept: VecDeque<Mark>,
    forgotten: u64,
}

impl Marks {
    fn add(&mut self, mark: Mark) -> InjectionMark {
        if self.kept.len() == KEPT_MARKS {
            self.kept.pop_front();
            self.forgotten += 1;
        }
        self.kept.push_back(mark);
        InjectionMark(self.forgotten + self.kept.len() as u64)
    }

    fn get(&self, mark: InjectionMark) -> Option<Mark> {
        let index = mark.0.checked_sub(self.forgotten + 1)?;
        self.kept.get(usize::try_from(index).ok()?).copied()
    }

    /// The state of a packet with this mark as `handle` sees it, and the injection context where it has one.
    fn state(&self, mark: Option<InjectionMark>, handle: usize) -> (PacketInjectionState, usize) {
        let Some(last) = mark.and_then(|mark| self.get(mark)) else {
            return (PacketInjectionState::NotInjected, 0);
        };
        if last.handle == handle {
            return (PacketInjectionState::InjectedBySelf, last.context);
        }
        let mut previous = last.previous;
        while let Some(mark) = previous.and_then(|mark| self.get(mark)) {
            if mark.handle == handle {
                return (PacketInjectionState::PreviouslyInjectedBySelf, mark.context);
            }
            previous = mark.previous;
        }
        (PacketInjectionState::InjectedByOther, 0)
    }
}

/// Injection in one machine.
#[derive(Debug, Default)]
pub(super) struct State {
    handles: Mutex<HashMap<usize, Handle>>,
    marks: Mutex<Marks>,
}

impl State {
    /// Begins an injection of `lists` lists with `handle`, which must be of one of `types`.
    fn begin(&self, handle: usize, types: InjectionType, lists: usize) -> Result<(), NtStatus> {
        let mut handles = self.handles.lock();
        let known = handles.get_mut(&handle).ok_or(NtStatus::INVALID_HANDLE)?;
        if known.closing {
            return Err(NtStatus::FWP_INJECT_HANDLE_CLOSING);
        }
        if !known.types.intersects(types) {
            return Err(NtStatus::FWP_INJECT_HANDLE_STALE);
        }
        known.pending += lists;
        drop(handles);
        Ok(())
    }

    fn end(&self, handle: usize, lists: usize) {
        if let Some(known) = self.handles.lock().get_mut(&handle) {
            known.pending -= lists;
        }
    }

    fn is_idle(&self, handle: usize) -> bool {
        self.handles
            .lock()
            .get(&handle)
            .is_none_or(|known| known.pending == 0)
    }
}

/// One call of an injection function.
struct Attempt {
    handle: usize,
    context: usize,
    flags: u32,
    types: InjectionType,
    list: Out<NetBufferList>,
    completion: Option<InjectComplete>,
    completion_context: usize,
}

/// Where what is injected goes.
#[derive(Clone, Copy)]
enum Target {
    Packet(InjectionPoint),
    Forward,
    Stream {
        flow: u64,
        callout: u32,
        flags: StreamFlags,
    },
}

impl Target {
    /// What the stack is asked for one net buffer; `source` is the packet that it was cloned from.
    fn request(
        self,
        bytes: &[u8],
        mark: InjectionMark,
        source: Option<&Source>,
        processor: u32,
    ) -> Result<StackRequest, NtStatus> {
        Ok(match self {
            Self::Packet(point) => {
                let bytes = match point {
                    // The data begins at the transport header; the IP header is the stack's to add.
                    InjectionPoint::TransportSend => with_ip_header(bytes, source)?,
                    _ => bytes.to_vec(),
                };
                let origin = source.map(|source| source.id);
                StackRequest::Inject(InjectedPacket {
                    point,
                    bytes,
                    mark,
                    origin,
                    processor,
                })
            }
            Self::Forward => StackRequest::Forward(bytes.to_vec()),
            Self::Stream {
                flow,
                callout,
                flags,
            } => StackRequest::InjectStream(InjectedStreamData {
                flow_handle: flow,
                stage: stage_of(callout),
                flags,
                bytes: bytes.to_vec(),
            }),
        })
    }
}

/// The packet of the stack that a list is, or was cloned from.
struct Source {
    id: PacketId,
    mark: Option<InjectionMark>,
    ip_header: Vec<u8>,
}

fn source_of(call: &Call<'_>, list: Out<NetBufferList>) -> Option<Source> {
    let packet = packet_of(call, list)?;
    Some(Source {
        id: PacketId(packet.number()),
        mark: packet.injection().map(InjectionMark),
        ip_header: packet.hidden_header(),
    })
}

fn packet_of(call: &Call<'_>, list: Out<NetBufferList>) -> Option<Arc<Packet>> {
    let ndis = &call.machine().ndis;
    let mut at = list;
    loop {
        if let Some(packet) = ndis.packets.find(at.address()) {
            return Some(packet);
        }
        at = ndis.lists.parent(at)?;
    }
}

/// Puts the IP header of the packet that it was cloned from before a transport segment.
fn with_ip_header(segment: &[u8], source: Option<&Source>) -> Result<Vec<u8>, NtStatus> {
    let header = source
        .map(|source| source.ip_header.as_slice())
        .filter(|header| header.len() >= 20);
    let Some(header) = header else {
        // A raw socket's packet begins with its IP header; anything else would need an endpoint that is not known.
        return match segment.first().map(|first| first >> 4) {
            Some(4 | 6) => Ok(segment.to_vec()),
            _ => Err(NtStatus::FWP_INVALID_PARAMETER),
        };
    };
    let mut packet = [header, segment].concat();
    if header[0] >> 4 == 4 {
        let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[10..12].fill(0);
        let checksum = ipv4_checksum(&packet[..header.len()]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else if header.len() >= IPV6_HEADER {
        let length = u16::try_from(packet.len() - IPV6_HEADER).unwrap_or(u16::MAX);
        packet[4..6].copy_from_slice(&length.to_be_bytes());
    }
    Ok(packet)
}

const IPV6_HEADER: usize = 40;

/// RFC 1071 over a header whose checksum field is zero.
fn ipv4_checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Makes the injection: checks, copies, hands over, and asks the stack.
fn inject(call: &Call<'_>, attempt: &Attempt, target: Target) -> Result<(), NtStatus> {
    let Some(completion) = attempt.completion else {
        return Err(NULL_POINTER);
    };
    if attempt.list.is_null() {
        return Err(NULL_POINTER);
    }
    if attempt.flags != 0 {
        return Err(INVALID_PARAMETER);
    }
    let machine = call.machine();
    let inbound = matches!(
        target,
        Target::Packet(InjectionPoint::NetworkReceive | InjectionPoint::TransportReceive)
    );
    let lists: Vec<_> = chain::lists(attempt.list).collect();
    for (at, list) in &lists {
        if inbound && chain::buffers(list).nth(1).is_some() {
            machine.crash(Bugcheck::new(
                BUGCHECK_INVALID_OPERATION,
                [SEVERAL_NET_BUFFERS, 0, at.address() as u64, 0],
                format!("{}: a net buffer list with several net buffers is injected into the receive path", call.name()),
            ));
        }
    }
    let state = &machine.fwp.injection;
    state.begin(attempt.handle, attempt.types, lists.len())?;
    let mut accepted = Vec::with_capacity(lists.len());
    for (at, _) in &lists {
        let source = source_of(call, *at);
        let snapshot = Snapshot::of(*at);
        let previous = source.as_ref().and_then(|source| source.mark);
        let mark = state.marks.lock().add(Mark {
            handle: attempt.handle,
            context: attempt.context,
            previous,
        });
        let requests: Result<Vec<_>, _> = snapshot
            .packets()
            .map(|bytes| target.request(bytes, mark, source.as_ref(), call.cpu().index()))
            .collect();
        match requests {
            Ok(requests) => accepted.push((*at, snapshot, requests)),
            Err(status) => {
                state.end(attempt.handle, lists.len());
                return Err(status);
            }
        }
    }
    for (at, snapshot, requests) in accepted {
        for request in requests {
            machine.fwp.ask(request);
        }
        hand_over(call, at, snapshot, completion, attempt);
    }
    Ok(())
}

/// Gives `list` to the stack until its completion, which is deferred.
fn hand_over(
    call: &Call<'_>,
    list: Out<NetBufferList>,
    snapshot: Snapshot,
    completion: InjectComplete,
    attempt: &Attempt,
) {
    let (handle, context) = (attempt.handle, attempt.completion_context);
    if !call.machine().ndis.lists.hand_over(list, snapshot) {
        call.violation(
            &NBL_STATE,
            format!("net buffer list {list:?} is injected while an injection of it is pending"),
        );
    }
    call.machine()
        .time()
        .defer("completion of an injection", move |cpu| {
            complete(cpu, list, completion, context);
            cpu.machine().fwp.injection.end(handle, 1);
        });
}

/// Gives `list` back to the driver, in success.
fn complete(cpu: &Cpu, list: Out<NetBufferList>, completion: InjectComplete, context: usize) {
    let machine = cpu.machine();
    let then = machine.ndis.lists.take_back(list);
    if let Some(mut header) = list.get() {
        if then.is_some_and(|then| then != Snapshot::of(list)) {
            machine.verifier().violation_at(
                cpu,
                &NBL_STATE,
                format!(
                    "net buffer list {list:?} was changed between its injection and its completion"
                ),
            );
        }
        header.next = Out::null();
        header.status = NtStatus::SUCCESS.code();
        list.set(header);
    }
    cpu.enter_driver("FWPS_INJECT_COMPLETE0", DISPATCH, || {
        completion(context, list, 1);
    });
}

fn status(result: Result<(), NtStatus>) -> i32 {
    result.err().unwrap_or(NtStatus::SUCCESS).to_i32()
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjectionhandlecreate0>
    fn FwpsInjectionHandleCreate0(call, family: u16, flags: u32, handle: Out<usize>) -> i32,
    irql PASSIVE..=PASSIVE, fails NOT_READY;
    {
        if handle.is_null() {
            return NULL_POINTER.to_i32();
        }
        let asked = InjectionType::from_bits(flags);
        if !asked.unknown().is_empty() || ![AF_UNSPEC, AF_INET, AF_INET6].contains(&family) {
            return NtStatus::INVALID_PARAMETER.to_i32();
        }
        if family == AF_UNSPEC && asked.intersects(InjectionType::NETWORK) {
            return NtStatus::INVALID_PARAMETER.to_i32();
        }
        let types = if asked.is_empty() {
            InjectionType::TRANSPORT | InjectionType::STREAM | InjectionType::FORWARD
        } else {
            asked
        };
        let number = call.machine().ndis.new_handle();
        call.machine().fwp.injection.handles.lock().insert(number, Handle { types, closing: false, pending: 0 });
        call.machine().verifier().track(&call, HANDLE, number, types.to_string(), 0);
        handle.set(number);
        SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjectionhandledestroy0>
    fn FwpsInjectionHandleDestroy0(call, handle: usize) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        if !call.machine().verifier().untrack(&call, HANDLE, handle) {
            return NtStatus::INVALID_HANDLE.to_i32();
        }
        let state = &call.machine().fwp.injection;
        if let Some(known) = state.handles.lock().get_mut(&handle) {
            known.closing = true;
        }
        call.machine().wait(call.cpu(), "FwpsInjectionHandleDestroy0", None, || state.is_idle(handle));
        state.handles.lock().remove(&handle);
        SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsquerypacketinjectionstate0>
    fn FwpsQueryPacketInjectionState0(call, handle: usize, list: Out<NetBufferList>, context: Out<usize>) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        let mark = packet_of(&call, list).and_then(|packet| packet.injection()).map(InjectionMark);
        let (state, injection_context) = call.machine().fwp.injection.marks.lock().state(mark, handle);
        if matches!(state, PacketInjectionState::InjectedBySelf | PacketInjectionState::PreviouslyInjectedBySelf) {
            context.set(injection_context);
        }
        state.value()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjectnetworksendasync0>
    fn FwpsInjectNetworkSendAsync0(
        call, handle: usize, context: usize, flags: u32, compartment: u32, list: Out<NetBufferList>,
        completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY;
    {
        let types = InjectionType::NETWORK;
        let attempt = Attempt { handle, context, flags, types, list, completion, completion_context };
        status(inject(&call, &attempt, Target::Packet(InjectionPoint::NetworkSend)))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjectnetworkreceiveasync0>
    fn FwpsInjectNetworkReceiveAsync0(
        call, handle: usize, context: usize, flags: u32, compartment: u32, interface: u32, sub_interface: u32,
        list: Out<NetBufferList>, completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY;
    {
        let types = InjectionType::NETWORK;
        let attempt = Attempt { handle, context, flags, types, list, completion, completion_context };
        status(inject(&call, &attempt, Target::Packet(InjectionPoint::NetworkReceive)))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjectforwardasync0>
    fn FwpsInjectForwardAsync0(
        call, handle: usize, context: usize, flags: u32, family: u16, compartment: u32, interface: u32,
        list: Out<NetBufferList>, completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY;
    {
        let types = InjectionType::FORWARD;
        let attempt = Attempt { handle, context, flags, types, list, completion, completion_context };
        status(inject(&call, &attempt, Target::Forward))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjecttransportsendasync0>
    fn FwpsInjectTransportSendAsync0(
        call, handle: usize, context: usize, endpoint: u64, flags: u32, parameters: usize, family: u16,
        compartment: u32, list: Out<NetBufferList>, completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY;
    {
        let types = InjectionType::TRANSPORT;
        let attempt = Attempt { handle, context, flags, types, list, completion, completion_context };
        status(inject(&call, &attempt, Target::Packet(InjectionPoint::TransportSend)))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjecttransportsendasync1>
    fn FwpsInjectTransportSendAsync1(
        call, handle: usize, context: usize, endpoint: u64, flags: u32, parameters: usize, family: u16,
        compartment: u32, list: Out<NetBufferList>, completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY;
    {
        let types = InjectionType::TRANSPORT;
        let attempt = Attempt { handle, context, flags, types, list, completion, completion_context };
        status(inject(&call, &attempt, Target::Packet(InjectionPoint::TransportSend)))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjecttransportreceiveasync0>
    fn FwpsInjectTransportReceiveAsync0(
        call, handle: usize, context: usize, reserved: usize, flags: u32, family: u16, compartment: u32,
        interface: u32, sub_interface: u32, list: Out<NetBufferList>, completion: Option<InjectComplete>,
        completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY;
    {
        if reserved != 0 {
            call.violation(&ARGUMENT, "reserved is not NULL");
        }
        let types = InjectionType::TRANSPORT;
        let attempt = Attempt { handle, context, flags, types, list, completion, completion_context };
        status(inject(&call, &attempt, Target::Packet(InjectionPoint::TransportReceive)))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsstreaminjectasync0>
    fn FwpsStreamInjectAsync0(
        call, handle: usize, context: usize, flags: u32, flow: u64, callout: u32, layer: u16, stream_flags: u32,
        list: Out<NetBufferList>, length: usize, completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY;
    {
        let stream_flags = StreamFlags::from_bits(stream_flags);
        if !stream_flags.intersects(StreamFlags::RECEIVE | StreamFlags::SEND) {
            return INVALID_PARAMETER.to_i32();
        }
        let closes = stream_flags.intersects(StreamFlags::RECEIVE_DISCONNECT | StreamFlags::SEND_DISCONNECT);
        let target = Target::Stream { flow, callout, flags: stream_flags };
        if list.is_null() && closes {
            // Only the end of a direction: there is nothing to complete.
            let state = &call.machine().fwp.injection;
            return status(state.begin(handle, InjectionType::STREAM, 1).and_then(|()| {
                state.end(handle, 1);
                let mark = state.marks.lock().add(Mark { handle, context, previous: None });
                target.request(&[], mark, None, call.cpu().index()).map(|request| call.machine().fwp.ask(request))
            }));
        }
        let types = InjectionType::STREAM;
        let attempt = Attempt { handle, context, flags, types, list, completion, completion_context };
        status(inject(&call, &attempt, target))
    }
}
