//! One call of an injection function: checked, copied, handed over, asked of the stack, and completed.

use std::sync::Arc;

use wfp_engine::{
    Begun, InjectionCall, InjectionCompletion, InjectionTarget, ListShape, Refusal, Returned,
};
use wfp_schema::{IpVersion, LayerKind, NtStatus, StreamFlags};

use super::header::with_ip_header;
use super::mark::Mark;
use crate::access::Out;
use crate::cpu::{Callback, Cpu, DISPATCH, PASSIVE};
use crate::export::Call;
use crate::fwp::classify::stage_of;
use crate::fwp::layout::kernel::InjectComplete;
use crate::fwp::stack::{InjectedPacket, InjectedStreamData, StackRequest};
use crate::kernel::Bugcheck;
use crate::ndis::chain;
use crate::ndis::layout::{INFO_CHECKSUM, INFO_UDP_COALESCED, NetBufferList};
use crate::ndis::list::Snapshot;
use crate::ndis::packet::Packet;
use crate::net::{
    InjectionMark, InjectionPoint, PacketId, Sender, StreamInjection, finish, shard_of,
};
use crate::verifier::{
    INJECTION_HANDLE, INJECTION_INLINE, INJECTION_LOCK, INJECTION_LOOP, INJECTION_MERGED,
    INJECTION_OFFSET, NBL_STATE, OBJECT_STALE,
};

/// A packet that was injected, cloned and injected again so often goes round for ever.
const LOOP: usize = 16;

/// IP protocol number of TCP.
const TCP: u8 = 6;

/// With what and by whom a packet is injected.
#[derive(Clone, Copy)]
pub(super) struct By {
    pub(super) handle: usize,
    /// `injectionContext`.
    pub(super) context: usize,
    /// Reserved.
    pub(super) flags: u32,
}

/// What is injected, and who is told when it is done.
#[derive(Clone, Copy)]
pub(super) struct What {
    pub(super) list: Out<NetBufferList>,
    pub(super) completion: Option<InjectComplete>,
    /// `completionContext`.
    pub(super) context: usize,
}

/// Where what is injected goes.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Packet(InjectionPoint),
    /// A packet that begins with its transport header, unless it is a raw socket's.
    Transport(Option<Sender>),
    Stream {
        flow: u64,
        callout: u32,
        flags: StreamFlags,
    },
}

impl Target {
    /// As the engine judges it.
    const fn of_engine(self) -> InjectionTarget {
        match self {
            Self::Packet(point) => InjectionTarget::Packet(point),
            Self::Transport(_) => InjectionTarget::Packet(InjectionPoint::TransportSend),
            Self::Stream { flags, .. } => InjectionTarget::Stream(flags),
        }
    }

    /// Whether a packet goes to the network card as it is.
    const fn is_network_send(self) -> bool {
        matches!(self, Self::Packet(InjectionPoint::NetworkSend))
    }

    /// Whether the data begins with an IP header.
    const fn begins_with_ip(self) -> bool {
        matches!(self, Self::Packet(point) if point.begins_with_ip())
    }

    /// Whether TCP packets may not be injected here in the classify.
    const fn is_transport(self) -> bool {
        matches!(self, Self::Transport(_))
            || matches!(self, Self::Packet(point) if point.is_transport())
    }
}

/// The packet of the stack that a list is, or was cloned from.
struct Source {
    id: PacketId,
    processor: u32,
    mark: Option<InjectionMark>,
    ip_header: Vec<u8>,
}

fn source_of(call: &Call<'_>, list: Out<NetBufferList>) -> Option<Source> {
    let packet = packet_of(call, list)?;
    Some(Source {
        id: PacketId(packet.number()),
        processor: packet.processor(),
        mark: packet.injection().map(InjectionMark),
        ip_header: packet.hidden_header(),
    })
}

/// The packet of the stack that `list` is, or was cloned from.
pub(in crate::fwp) fn packet_of(call: &Call<'_>, list: Out<NetBufferList>) -> Option<Arc<Packet>> {
    let ndis = &call.machine().ndis;
    let mut at = list;
    loop {
        if let Some(packet) = ndis.packets.find(at.address()) {
            return Some(packet);
        }
        at = ndis.lists.parent(at)?;
    }
}

/// What injections of one list have in common.
struct Journey {
    mark: InjectionMark,
    source: Option<Source>,
    hops: u32,
    processor: u32,
}

impl Journey {
    fn packet(
        &self,
        point: InjectionPoint,
        bytes: Vec<u8>,
        sender: Option<Sender>,
    ) -> StackRequest {
        let shard = sender.map(|sender| shard_of(sender.endpoint));
        StackRequest::Inject(InjectedPacket {
            point,
            bytes,
            sender,
            mark: self.mark,
            origin: self.source.as_ref().map(|source| source.id),
            hops: self.hops,
            processor: shard.unwrap_or(self.processor),
        })
    }

    /// What the stack is asked for one net buffer.
    fn request(&self, target: Target, bytes: &[u8]) -> Result<StackRequest, NtStatus> {
        let source = self.source.as_ref();
        Ok(match target {
            Target::Packet(point) => self.packet(point, bytes.to_vec(), None),
            Target::Transport(sender) => {
                let point = InjectionPoint::TransportSend;
                let header = source.map(|source| &*source.ip_header);
                match (with_ip_header(bytes, header), sender) {
                    (Some(bytes), _) => self.packet(point, bytes, None),
                    (None, Some(sender)) => self.packet(point, bytes.to_vec(), Some(sender)),
                    (None, None) => return Err(NtStatus::FWP_INVALID_PARAMETER),
                }
            }
            Target::Stream {
                flow,
                callout,
                flags,
            } => StackRequest::InjectStream(InjectedStreamData {
                flow_handle: flow,
                injection: StreamInjection {
                    stage: stage_of(callout),
                    flags,
                    bytes: bytes.to_vec(),
                },
            }),
        })
    }
}

/// Marks what is injected, and reports a packet that goes round for ever.
fn depart(call: &Call<'_>, by: By, source: Option<Source>) -> Journey {
    let previous = source.as_ref().and_then(|source| source.mark);
    let mut marks = call.machine().fwp.injection.marks.lock();
    let sites: Vec<usize> = marks.history(previous).map(|mark| mark.site).collect();
    let mark = marks.add(Mark {
        handle: by.handle,
        context: by.context,
        site: call.site(),
        previous,
    });
    drop(marks);
    if sites.len() == LOOP {
        let verifier = call.machine().verifier();
        let mut places: Vec<String> = sites.iter().map(|site| verifier.place(*site)).collect();
        places.sort();
        places.dedup();
        call.violation(
            &INJECTION_LOOP,
            format!(
                "a packet is injected for the {}th time; before it was at {}",
                LOOP + 1,
                places.join(" and ")
            ),
        );
    }
    // A flow is known to the stack that it came by, wherever the driver lets its packets go on.
    let processor = source
        .as_ref()
        .map_or_else(|| call.cpu().index(), |source| source.processor);
    Journey {
        mark,
        source,
        hops: u32::try_from(sites.len()).unwrap_or(u32::MAX),
        processor,
    }
}

/// Reports data that cannot be injected so.
fn check_data(call: &Call<'_>, target: Target, family: Option<IpVersion>, data: &[u8]) {
    let version = match data.first().map(|first| first >> 4) {
        Some(4) => Some(IpVersion::V4),
        Some(6) => Some(IpVersion::V6),
        _ => None,
    };
    if target.begins_with_ip() {
        if version.is_none() {
            call.violation(
                &INJECTION_OFFSET,
                "the data does not begin with an IP header",
            );
        } else if family.is_some() && family != version {
            call.violation(
                &INJECTION_HANDLE,
                format!("a packet of {version:?} is injected with a handle for {family:?}"),
            );
        }
    }
    let current = call.machine().fwp.current(call.cpu());
    let at_transport = current.is_classifying()
        && current.layer().layer().is_some_and(|layer| {
            matches!(
                layer.kind(),
                LayerKind::InboundTransport | LayerKind::OutboundTransport
            )
        });
    let protocol = match version {
        Some(IpVersion::V4) => data.get(9),
        Some(IpVersion::V6) => data.get(6),
        None => None,
    };
    // A send begins behind the IP header, so that its protocol is not known here.
    let known = target.is_transport() && target.begins_with_ip();
    if known && at_transport && protocol == Some(&TCP) {
        call.violation(
            &INJECTION_INLINE,
            "a TCP packet is injected in the classify",
        );
    }
}

/// Begins an injection of `lists`, and reports a handle that is none for this.
fn begin(
    call: &Call<'_>,
    by: By,
    what: What,
    target: Target,
    lists: &[(Out<NetBufferList>, NetBufferList)],
) -> Result<Begun, NtStatus> {
    let shapes: Vec<_> = lists
        .iter()
        .map(|(_, list)| ListShape {
            buffers: chain::buffers(list).count(),
        })
        .collect();
    let asked = InjectionCall {
        handle: by.handle as u64,
        target: target.of_engine(),
        flags: by.flags,
        has_completion: what.completion.is_some(),
        lists: &shapes,
    };
    match asked.begin(&call.machine().fwp.injection.handles) {
        Ok(begun) => Ok(begun),
        Err(Refusal::Bugcheck {
            code,
            subtype,
            list,
        }) => call.machine().crash(Bugcheck::new(
            code,
            [subtype, 0, lists[list].0.address() as u64, 0],
            format!(
                "{}: a net buffer list with several net buffers is injected into the receive path",
                call.name()
            ),
        )),
        Err(Refusal::Status(status)) => {
            if status == NtStatus::FWP_INJECT_HANDLE_STALE {
                let words = format!(
                    "{} needs a handle of type {}",
                    call.name(),
                    target.of_engine().handle_types()
                );
                call.violation(&INJECTION_HANDLE, words);
            } else if status == NtStatus::INVALID_HANDLE {
                let words = format!("{:#x} is no injection handle", by.handle);
                call.violation(&OBJECT_STALE, words);
            }
            Err(status)
        }
    }
}

/// Takes back what [`begin`] began, for an injection that fails.
fn give_up(call: &Call<'_>, by: By, begun: Begun, status: NtStatus) -> NtStatus {
    for _ in 0..begun.completions {
        let handles = &call.machine().fwp.injection.handles;
        handles.complete(by.handle as u64);
    }
    status
}

/// Makes the injection: checks, copies, hands over, and asks the stack.
pub(super) fn inject(call: &Call<'_>, by: By, what: What, target: Target) -> Result<(), NtStatus> {
    let machine = call.machine();
    if call.cpu().locks().count() > 0 {
        call.violation(&INJECTION_LOCK, "a spin lock is held");
    }
    let lists: Vec<_> = chain::lists(what.list).collect();
    let begun = begin(call, by, what, target, &lists)?;
    // Of what is sent the slot says something else.
    let is_received = matches!(target, Target::Packet(point) if !point.is_outbound());
    if is_received
        && lists
            .iter()
            .any(|(_, list)| list.info[INFO_UDP_COALESCED] != 0)
    {
        call.violation(
            &INJECTION_MERGED,
            "a clone of datagrams that the network card has merged is injected",
        );
    }
    let (Some(completion), false) = (what.completion, lists.is_empty()) else {
        if call.must_fail() {
            return Err(NtStatus::FWP_TCPIP_NOT_READY);
        }
        // Only the end of a direction of a stream: there is no list, and nothing to complete.
        let request = depart(call, by, None).request(target, &[])?;
        machine.fwp.ask(request);
        return Ok(());
    };
    let lists: Vec<_> = lists
        .into_iter()
        .map(|(at, header)| (at, Snapshot::of(at), header.info[INFO_CHECKSUM]))
        .collect();
    for bytes in lists.iter().flat_map(|(_, snapshot, _)| snapshot.packets()) {
        check_data(call, target, begun.family, bytes);
    }
    if call.must_fail() {
        return Err(give_up(call, by, begun, NtStatus::FWP_TCPIP_NOT_READY));
    }
    let mut accepted = Vec::with_capacity(lists.len());
    for (at, snapshot, left) in lists {
        let journey = depart(call, by, source_of(call, at));
        let requests: Result<Vec<_>, _> = snapshot
            .packets()
            .map(|bytes| {
                // A clone of what was left to the card is left to it too.
                let finished = (left != 0 && target.is_network_send())
                    .then(|| finish(bytes, u32::try_from(left).unwrap_or(0)));
                journey.request(target, finished.as_deref().unwrap_or(bytes))
            })
            .collect();
        match requests {
            Ok(requests) => accepted.push((at, snapshot, requests)),
            Err(status) => return Err(give_up(call, by, begun, status)),
        }
    }
    if let Target::Stream { flow, flags, .. } = target {
        machine.fwp.current(call.cpu()).note_kept(flow, flags);
    }
    for (at, snapshot, requests) in accepted {
        for request in requests {
            machine.fwp.ask(request);
        }
        hand_over(call, at, snapshot, completion, (by.handle, what.context));
    }
    Ok(())
}

/// Gives `list` to the stack until its completion, which comes when the engine's options say so.
fn hand_over(
    call: &Call<'_>,
    list: Out<NetBufferList>,
    snapshot: Snapshot,
    completion: InjectComplete,
    (handle, context): (usize, usize),
) {
    if !call.machine().ndis.lists.hand_over(list, snapshot) {
        call.violation(
            &NBL_STATE,
            format!("net buffer list {list:?} is injected while an injection of it is pending"),
        );
    }
    let finish = move |cpu: &Cpu, irql| {
        complete(cpu, irql, list, completion, context);
        cpu.machine().fwp.injection.handles.complete(handle as u64);
    };
    let irql = match call.machine().fwp.engine.options().injection_completion {
        InjectionCompletion::Inline => return finish(call.cpu(), call.cpu().irql()),
        InjectionCompletion::Deferred => DISPATCH,
        InjectionCompletion::DeferredPassive => PASSIVE,
    };
    call.machine()
        .time()
        .defer("completion of an injection", move |cpu| {
            finish(cpu, irql);
        });
}

/// Gives `list` back to the driver, in success.
fn complete(
    cpu: &Cpu,
    irql: u8,
    list: Out<NetBufferList>,
    completion: InjectComplete,
    context: usize,
) {
    let machine = cpu.machine();
    let returned = machine.ndis.lists.take_back(list);
    if let Some(mut header) = list.get() {
        if returned == Returned::Changed {
            machine.verifier().violation_of(
                cpu,
                &NBL_STATE,
                completion as usize,
                format!(
                    "net buffer list {list:?} was changed between its injection and its completion"
                ),
            );
        }
        header.next = Out::null();
        header.status = NtStatus::SUCCESS.code();
        list.set(header);
    }
    let callback = Callback::new("FWPS_INJECT_COMPLETE0", completion as usize);
    cpu.enter_driver(callback, irql, || {
        completion(context, list, u8::from(irql == DISPATCH));
    });
}
