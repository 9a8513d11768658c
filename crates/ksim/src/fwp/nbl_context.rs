//! Contexts that callouts attach to net buffer lists of the stack, to know them again at another layer.
//!
//! A context goes with the packet, whichever list shows it: it is removed by the callout, or when the packet leaves
//! the stack, which is when the next one comes.

use std::collections::HashMap;

use parking_lot::Mutex;
use wfp_schema::{Guid, NtStatus};

use super::function;
use super::inject::packet_of;
use crate::access::{In, Out};
use crate::cpu::{Callback, Cpu, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::ndis::layout::NetBufferList;
use crate::verifier::{ARGUMENT, OBJECT_STALE};

/// How the verifier calls such a context.
const CONTEXT: &str = "net buffer list context";

const SUCCESS: i32 = NtStatus::SUCCESS.to_i32();
const NOT_FOUND: i32 = NtStatus::NOT_FOUND.to_i32();
const NO_RESOURCES: i32 = NtStatus::INSUFFICIENT_RESOURCES.to_i32();

/// `FWPS_NET_BUFFER_LIST_CONTEXT_REMOVED` and `FWPS_NET_BUFFER_LIST_EXIT_NETIO`.
const CONTEXT_REMOVED: u32 = 5;
const EXIT_NETIO: u32 = 4;

/// `FWPS_NET_BUFFER_LIST_NOTIFY_FN0`; the later form returns a status that changes nothing here.
type Notify = extern "win64" fn(
    event: u32,
    list: Out<NetBufferList>,
    new_list: Out<NetBufferList>,
    layer: u16,
    context: u64,
    tag: u64,
);

/// What a callout attached.
#[derive(Debug, Clone, Copy)]
struct Attached {
    layer: u16,
    context: u64,
    notify: Notify,
}

/// The tags given so far, and the contexts by packet and tag.
#[derive(Debug, Default)]
pub(super) struct State {
    tags: Mutex<Vec<u64>>,
    attached: Mutex<HashMap<(u64, u64), Attached>>,
}

impl State {
    /// Whether any packet has a context.
    pub(super) fn is_empty(&self) -> bool {
        self.attached.lock().is_empty()
    }

    fn take(&self, packet: u64, tag: u64) -> Option<Attached> {
        self.attached.lock().remove(&(packet, tag))
    }
}

/// How the verifier numbers the context of a packet.
fn number(packet: u64, tag: u64) -> usize {
    usize::try_from(tag.wrapping_add(packet << 32)).unwrap_or(usize::MAX)
}

/// Tells of the end of a context.
fn notify(
    cpu: &Cpu,
    event: u32,
    list: Out<NetBufferList>,
    (packet, tag): (u64, u64),
    attached: Attached,
) {
    cpu.machine()
        .verifier()
        .forget(CONTEXT, number(packet, tag));
    let callback = Callback::new("FWPS_NET_BUFFER_LIST_NOTIFY_FN", attached.notify as usize);
    cpu.enter_driver(callback, cpu.irql(), || {
        (attached.notify)(
            event,
            list,
            Out::null(),
            attached.layer,
            attached.context,
            tag,
        );
    });
}

/// A packet leaves the stack.
pub(super) fn exit(cpu: &Cpu, packet: u64) {
    let state = &cpu.machine().fwp.nbl_contexts;
    let mut left: Vec<(u64, Attached)> = Vec::new();
    state.attached.lock().retain(|(at, tag), attached| {
        let leaves = *at == packet;
        if leaves {
            left.push((*tag, *attached));
        }
        !leaves
    });
    for (tag, attached) in left {
        notify(cpu, EXIT_NETIO, Out::null(), (packet, tag), attached);
    }
}

/// The number of the packet that `list` shows or was cloned from.
fn packet(call: &Call<'_>, list: Out<NetBufferList>) -> Option<u64> {
    packet_of(call, list).map(|packet| packet.number())
}

fn associate(
    call: &Call<'_>,
    list: Out<NetBufferList>,
    tag: u64,
    (layer, context): (u16, u64),
    notify: usize,
    flags: u32,
) -> Result<(), NtStatus> {
    if flags != 0 {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    // SAFETY: the notify functions of both versions take the same parameters.
    let notify = unsafe { function::<Notify>(notify) }.ok_or(NtStatus::FWP_NULL_POINTER)?;
    if list.is_null() {
        return Err(NtStatus::FWP_NULL_POINTER);
    }
    let state = &call.machine().fwp.nbl_contexts;
    if !state.tags.lock().contains(&tag) {
        call.violation(
            &ARGUMENT,
            "contextTag is none of FwpsNetBufferListGetTagForContext0",
        );
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let Some(packet) = packet(call, list) else {
        call.violation(
            &OBJECT_STALE,
            format!("net buffer list {list:?} is none of the stack's"),
        );
        return Err(NtStatus::INVALID_PARAMETER);
    };
    if call.must_fail() {
        return Err(NtStatus::INSUFFICIENT_RESOURCES);
    }
    let attached = Attached {
        layer,
        context,
        notify,
    };
    let mut known = state.attached.lock();
    if known.contains_key(&(packet, tag)) {
        return Err(NtStatus::OBJECT_NAME_EXISTS);
    }
    known.insert((packet, tag), attached);
    drop(known);
    let verifier = call.machine().verifier();
    verifier.track(call, CONTEXT, number(packet, tag), "", 0);
    Ok(())
}

fn status(result: Result<(), NtStatus>) -> i32 {
    result.err().unwrap_or(NtStatus::SUCCESS).to_i32()
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsnetbufferlistgettagforcontext0>
    fn FwpsNetBufferListGetTagForContext0(call) -> u64,
    irql PASSIVE..=DISPATCH;
    {
        let tag = call.machine().ndis.new_handle() as u64;
        call.machine().fwp.nbl_contexts.tags.lock().push(tag);
        tag
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsnetbufferlistassociatecontext0>
    fn FwpsNetBufferListAssociateContext0(
        call, list: Out<NetBufferList>, layer: u16, context: u64, tag: u64, provider: In<Guid>, device: usize,
        notify: usize, flags: u32,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NO_RESOURCES => later;
    {
        status(associate(&call, list, tag, (layer, context), notify, flags))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsnetbufferlistassociatecontext1>
    fn FwpsNetBufferListAssociateContext1(
        call, list: Out<NetBufferList>, layer: u16, context: u64, tag: u64, provider: In<Guid>, device: usize,
        notify: usize, flags: u32,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NO_RESOURCES => later;
    {
        status(associate(&call, list, tag, (layer, context), notify, flags))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsnetbufferlistretrievecontext0>
    fn FwpsNetBufferListRetrieveContext0(
        call, list: Out<NetBufferList>, tag: u64, remove: u8, flags: u32, context: Out<u64>,
    ) -> i32,
    irql PASSIVE..=DISPATCH;
    {
        let state = &call.machine().fwp.nbl_contexts;
        let Some(packet) = packet(&call, list) else {
            return NOT_FOUND;
        };
        let known = state.attached.lock().get(&(packet, tag)).copied();
        let Some(known) = known else {
            return NOT_FOUND;
        };
        context.set(known.context);
        if remove != 0
            && let Some(attached) = state.take(packet, tag)
        {
            notify(call.cpu(), CONTEXT_REMOVED, list, (packet, tag), attached);
        }
        SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsnetbufferlistremovecontext0>
    fn FwpsNetBufferListRemoveContext0(call, list: Out<NetBufferList>, tag: u64, flags: u32) -> i32,
    irql PASSIVE..=DISPATCH;
    {
        let state = &call.machine().fwp.nbl_contexts;
        // Without a list all of the tag's contexts are meant.
        let own = packet(&call, list);
        let of_tag = |known: &u64, at: &u64| *known == tag && (list.is_null() || own == Some(*at));
        let meant: Vec<u64> = state
            .attached
            .lock()
            .keys()
            .filter(|(at, known)| of_tag(known, at))
            .map(|(at, _)| *at)
            .collect();
        for packet in &meant {
            if let Some(attached) = state.take(*packet, tag) {
                notify(call.cpu(), CONTEXT_REMOVED, list, (*packet, tag), attached);
            }
        }
        if meant.is_empty() { NOT_FOUND } else { SUCCESS }
    }
}
