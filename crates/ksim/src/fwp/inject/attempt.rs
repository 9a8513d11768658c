//! One call of an injection function: checked, copied, handed over, asked of the stack, and completed.

use std::sync::Arc;

use wfp_schema::flags::InjectionType;
use wfp_schema::{IpVersion, LayerKind, NtStatus, StreamFlags};

use super::header::with_ip_header;
use super::mark::Mark;
use crate::access::Out;
use crate::cpu::{Cpu, DISPATCH};
use crate::export::Call;
use crate::fwp::classify::stage_of;
use crate::fwp::layout::kernel::InjectComplete;
use crate::fwp::stack::{InjectedPacket, InjectedStreamData, StackRequest};
use crate::kernel::Bugcheck;
use crate::ndis::chain;
use crate::ndis::layout::NetBufferList;
use crate::ndis::list::Snapshot;
use crate::ndis::packet::Packet;
use crate::net::{InjectionMark, InjectionPoint, PacketId};
use crate::verifier::{
    INJECTION_HANDLE, INJECTION_INLINE, INJECTION_LOCK, INJECTION_LOOP, INJECTION_OFFSET,
    NBL_STATE, OBJECT_STALE,
};

/// `WFP_INVALID_OPERATION`, and its subtype for a receive injection of several net buffers.
const BUGCHECK_INVALID_OPERATION: u32 = 0x1d3;
const SEVERAL_NET_BUFFERS: u64 = 1;

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
    Stream {
        flow: u64,
        callout: u32,
        flags: StreamFlags,
    },
}

impl Target {
    /// The types of handles with which this can be injected.
    const fn types(self) -> InjectionType {
        match self {
            Self::Packet(InjectionPoint::NetworkSend | InjectionPoint::NetworkReceive) => {
                InjectionType::NETWORK
            }
            Self::Packet(InjectionPoint::TransportSend | InjectionPoint::TransportReceive) => {
                InjectionType::TRANSPORT
            }
            Self::Packet(InjectionPoint::Forward) => InjectionType::FORWARD,
            Self::Packet(InjectionPoint::MacSend | InjectionPoint::MacReceive) => InjectionType::L2,
            Self::Stream { .. } => InjectionType::STREAM,
        }
    }

    /// Whether a list may hold one net buffer only.
    const fn is_receive(self) -> bool {
        matches!(
            self,
            Self::Packet(InjectionPoint::NetworkReceive | InjectionPoint::TransportReceive)
        )
    }

    /// Whether the data begins with an IP header.
    const fn begins_with_ip(self) -> bool {
        matches!(
            self,
            Self::Packet(
                InjectionPoint::NetworkSend
                    | InjectionPoint::NetworkReceive
                    | InjectionPoint::TransportReceive
                    | InjectionPoint::Forward
            )
        )
    }

    /// Whether TCP packets may not be injected here in the classify.
    const fn is_transport(self) -> bool {
        matches!(
            self,
            Self::Packet(InjectionPoint::TransportSend | InjectionPoint::TransportReceive)
        )
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
    /// What the stack is asked for one net buffer.
    fn request(&self, target: Target, bytes: &[u8]) -> Result<StackRequest, NtStatus> {
        let source = self.source.as_ref();
        Ok(match target {
            Target::Packet(point) => {
                let bytes = match point {
                    // The data begins at the transport header; the IP header is the stack's to add.
                    InjectionPoint::TransportSend => {
                        with_ip_header(bytes, source.map(|source| &*source.ip_header))?
                    }
                    _ => bytes.to_vec(),
                };
                StackRequest::Inject(InjectedPacket {
                    point,
                    bytes,
                    mark: self.mark,
                    origin: source.map(|source| source.id),
                    hops: self.hops,
                    processor: self.processor,
                })
            }
            Target::Stream {
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
    Journey {
        mark,
        source,
        hops: u32::try_from(sites.len()).unwrap_or(u32::MAX),
        processor: call.cpu().index(),
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

/// Begins an injection of `lists` lists, and reports a handle that is none for this.
fn begin(
    call: &Call<'_>,
    by: By,
    target: Target,
    lists: usize,
) -> Result<Option<IpVersion>, NtStatus> {
    let state = &call.machine().fwp.injection;
    let begun = state.begin(by.handle, target.types(), lists);
    match begun {
        Err(NtStatus::FWP_INJECT_HANDLE_STALE) => {
            let words = format!("{} needs a handle of type {}", call.name(), target.types());
            call.violation(&INJECTION_HANDLE, words);
        }
        Err(NtStatus::INVALID_HANDLE) => {
            let words = format!("{:#x} is no injection handle", by.handle);
            call.violation(&OBJECT_STALE, words);
        }
        _ => {}
    }
    begun
}

/// Makes the injection: checks, copies, hands over, and asks the stack.
pub(super) fn inject(call: &Call<'_>, by: By, what: What, target: Target) -> Result<(), NtStatus> {
    let Some(completion) = what.completion else {
        return Err(NtStatus::FWP_NULL_POINTER);
    };
    if what.list.is_null() {
        return Err(NtStatus::FWP_NULL_POINTER);
    }
    if by.flags != 0 {
        return Err(NtStatus::FWP_INVALID_PARAMETER);
    }
    let machine = call.machine();
    if call.cpu().locks().count() > 0 {
        call.violation(&INJECTION_LOCK, "a spin lock is held");
    }
    let lists: Vec<_> = chain::lists(what.list).collect();
    for (at, list) in &lists {
        if target.is_receive() && chain::buffers(list).nth(1).is_some() {
            machine.crash(Bugcheck::new(
                BUGCHECK_INVALID_OPERATION,
                [SEVERAL_NET_BUFFERS, 0, at.address() as u64, 0],
                format!("{}: a net buffer list with several net buffers is injected into the receive path", call.name()),
            ));
        }
    }
    let state = &machine.fwp.injection;
    let family = begin(call, by, target, lists.len())?;
    let mut accepted = Vec::with_capacity(lists.len());
    for (at, _) in &lists {
        let snapshot = Snapshot::of(*at);
        let journey = depart(call, by, source_of(call, *at));
        let requests: Result<Vec<_>, _> = snapshot
            .packets()
            .map(|bytes| {
                check_data(call, target, family, bytes);
                journey.request(target, bytes)
            })
            .collect();
        match requests {
            Ok(requests) => accepted.push((*at, snapshot, requests)),
            Err(status) => {
                state.end(by.handle, lists.len());
                return Err(status);
            }
        }
    }
    for (at, snapshot, requests) in accepted {
        for request in requests {
            machine.fwp.ask(request);
        }
        hand_over(call, at, snapshot, completion, (by.handle, what.context));
    }
    Ok(())
}

/// Only the end of a direction of a stream: there is no list, and nothing to complete.
pub(super) fn inject_end(call: &Call<'_>, by: By, target: Target) -> Result<(), NtStatus> {
    let state = &call.machine().fwp.injection;
    begin(call, by, target, 1)?;
    state.end(by.handle, 1);
    let request = depart(call, by, None).request(target, &[])?;
    call.machine().fwp.ask(request);
    Ok(())
}

/// Gives `list` to the stack until its completion, which is deferred.
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
    cpu.enter_driver("FWPS_INJECT_COMPLETE0", DISPATCH, || {
        completion(context, list, 1);
    });
}
