//! Lists that are changed under a spin lock or without one.

use crate::access::Out;
use crate::cpu::{DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};

/// `LIST_ENTRY`: `Flink`, `Blink`.
const BLINK: usize = 8;

fn link(at: Out<usize>, offset: usize) -> usize {
    at.offset::<usize>(offset).get().unwrap_or(0)
}

/// The list head or entry whose address a link holds.
const fn entry(address: usize) -> Out<usize> {
    // SAFETY: an address out of the driver's list, which the driver vouches for (a trap otherwise).
    unsafe { Out::new(address as *mut usize) }
}

/// Puts `new` between two neighbours.
fn insert(before: Out<usize>, new: Out<usize>, after: Out<usize>) {
    new.set(after.address());
    new.offset::<usize>(BLINK).set(before.address());
    before.set(new.address());
    after.offset::<usize>(BLINK).set(new.address());
}

/// `SLIST_HEADER` of x64: `Depth` 16 bits and `Sequence` 48 bits, then 4 reserved bits and the first entry.
mod stack {
    pub(super) const NEXT: usize = 8;
    pub(super) const FLAGS: usize = 0xf;
}

/// Looks at what a link points at, so that a bad address traps here, where no lock is held.
fn touch_first(head: Out<usize>) {
    let first = head.get().unwrap_or(0) & !stack::FLAGS;
    if first != 0 {
        entry(first).get();
    }
}

fn depth(head: Out<usize>) -> u16 {
    head.offset::<u16>(0).get().unwrap_or(0)
}

fn push(call: &Call<'_>, head: Out<usize>, entry: Out<usize>) -> usize {
    // A first access without the lock: a bad address traps here, where nothing is held.
    entry.set(depth(head).into());
    let guard = call.machine().nt().lists().lock();
    let next = head.offset::<usize>(stack::NEXT);
    let first = next.get().unwrap_or(0) & !stack::FLAGS;
    entry.set(first);
    next.set(entry.address());
    head.offset::<u16>(0).set(depth(head).wrapping_add(1));
    drop(guard);
    first
}

fn pop(call: &Call<'_>, head: Out<usize>, all: bool) -> usize {
    touch_first(head.offset(stack::NEXT));
    let guard = call.machine().nt().lists().lock();
    let next = head.offset::<usize>(stack::NEXT);
    let first = next.get().unwrap_or(0) & !stack::FLAGS;
    if first != 0 {
        next.set(if all { 0 } else { link(entry(first), 0) });
        head.offset::<u16>(0)
            .set(if all { 0 } else { depth(head).wrapping_sub(1) });
    }
    drop(guard);
    first
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exinterlockedinserttaillist>
    fn ExInterlockedInsertTailList(call, head: Out<usize>, new: Out<usize>, lock: usize) -> usize,
    irql PASSIVE..=HIGH;
    {
        touch_first(head);
        let guard = call.machine().nt().lists().lock();
        let last = link(head, BLINK);
        insert(entry(last), new, head);
        drop(guard);
        if last == head.address() { 0 } else { last }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exinterlockedinsertheadlist>
    fn ExInterlockedInsertHeadList(call, head: Out<usize>, new: Out<usize>, lock: usize) -> usize,
    irql PASSIVE..=HIGH;
    {
        touch_first(head);
        let guard = call.machine().nt().lists().lock();
        let first = link(head, 0);
        insert(head, new, entry(first));
        drop(guard);
        if first == head.address() { 0 } else { first }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exinterlockedremoveheadlist>
    fn ExInterlockedRemoveHeadList(call, head: Out<usize>, lock: usize) -> usize,
    irql PASSIVE..=HIGH;
    {
        touch_first(head);
        let guard = call.machine().nt().lists().lock();
        let first = link(head, 0);
        if first == head.address() {
            return 0;
        }
        let next = link(entry(first), 0);
        head.set(next);
        entry(next).offset::<usize>(BLINK).set(head.address());
        drop(guard);
        first
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-initializeslisthead>
    fn InitializeSListHead(call, head: Out<usize>),
    irql PASSIVE..=HIGH;
    {
        head.set(0);
        head.offset::<usize>(stack::NEXT).set(0);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exinterlockedpushentryslist>
    fn ExpInterlockedPushEntrySList(call, head: Out<usize>, new: Out<usize>) -> usize,
    irql PASSIVE..=HIGH;
    { push(&call, head, new) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exinterlockedpopentryslist>
    fn ExpInterlockedPopEntrySList(call, head: Out<usize>) -> usize,
    irql PASSIVE..=HIGH;
    { pop(&call, head, false) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exinterlockedflushslist>
    fn ExpInterlockedFlushSList(call, head: Out<usize>) -> usize,
    irql PASSIVE..=HIGH;
    { pop(&call, head, true) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exquerydepthslist>
    fn ExQueryDepthSList(call, head: Out<usize>) -> u16,
    irql PASSIVE..=DISPATCH;
    { depth(head) }
}
