//! Cancel-safe IRP queues.
//!
//! The queue and its lock are the driver's, behind routines that it gives; the races with cancellation are ours.

use wfp_schema::NtStatus;

use crate::access::Out;
use crate::cpu::{self, Cpu, DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::nt::io_irp::offset as irp_offset;
use crate::verifier::ARGUMENT;

/// `IO_CSQ` of x64 Windows.
mod layout {
    pub(super) const INSERT: usize = 8;
    pub(super) const REMOVE: usize = 16;
    pub(super) const PEEK_NEXT: usize = 24;
    pub(super) const ACQUIRE: usize = 32;
    pub(super) const RELEASE: usize = 40;
    pub(super) const COMPLETE_CANCELED: usize = 48;
    pub(super) const RESERVED: usize = 56;
}

/// `IO_CSQ_IRP_CONTEXT` of x64 Windows.
mod context {
    pub(super) const IRP: usize = 8;
    pub(super) const CSQ: usize = 16;
}

/// What the first member of an `IO_CSQ` or an `IO_CSQ_IRP_CONTEXT` says that it is.
mod kind {
    pub(super) const CONTEXT: u32 = 1;
    pub(super) const CSQ: u32 = 2;
    pub(super) const CSQ_EX: u32 = 3;
}

type InsertRoutine = extern "win64" fn(usize, usize);
type InsertRoutineEx = extern "win64" fn(usize, usize, usize) -> u32;
type PeekRoutine = extern "win64" fn(usize, usize, usize) -> usize;

/// A driver's queue.
#[derive(Clone, Copy)]
struct Csq(Out<u8>);

impl Csq {
    fn kind(self) -> u32 {
        self.0.offset::<u32>(0).get().unwrap_or(0)
    }

    fn routine(self, offset: usize) -> usize {
        self.0.offset::<usize>(offset).get().unwrap_or(0)
    }

    /// Calls the routine of two addresses at `offset`.
    fn call(self, cpu: &Cpu, offset: usize, argument: usize) {
        // SAFETY: the driver gave a routine of this shape for that place.
        let routine: InsertRoutine =
            unsafe { std::mem::transmute::<usize, InsertRoutine>(self.routine(offset)) };
        routine(self.0.address(), argument);
        stop_if_crashed(cpu);
    }

    /// Takes the driver's lock; the IRQL before, as its routine told it.
    fn lock(self, cpu: &Cpu) -> u8 {
        let mut irql = 0_u8;
        self.call(cpu, layout::ACQUIRE, (&raw mut irql) as usize);
        irql
    }

    fn unlock(self, cpu: &Cpu, irql: u8) {
        self.call(cpu, layout::RELEASE, usize::from(irql));
    }

    /// The next IRP behind `irp` (0 for the first) that fits `peek_context`; 0 for none.
    fn peek(self, cpu: &Cpu, irp: usize, peek_context: usize) -> usize {
        let routine = self.routine(layout::PEEK_NEXT);
        // SAFETY: the driver gave a routine of this shape for that place.
        let routine: PeekRoutine = unsafe { std::mem::transmute::<usize, PeekRoutine>(routine) };
        let next = routine(self.0.address(), irp, peek_context);
        stop_if_crashed(cpu);
        next
    }

    /// Inserts; an error when the driver's extended routine refuses.
    fn insert(self, cpu: &Cpu, irp: usize, insert_context: usize) -> NtStatus {
        if self.kind() != kind::CSQ_EX {
            self.call(cpu, layout::INSERT, irp);
            return NtStatus::SUCCESS;
        }
        let routine = self.routine(layout::INSERT);
        // SAFETY: the driver gave a routine of this shape for that place (IoCsqInitializeEx).
        let routine: InsertRoutineEx =
            unsafe { std::mem::transmute::<usize, InsertRoutineEx>(routine) };
        let status = routine(self.0.address(), irp, insert_context);
        stop_if_crashed(cpu);
        NtStatus::from_u32(status)
    }

    /// Takes `irp` out of the driver's queue.
    fn remove(self, cpu: &Cpu, irp: usize) {
        self.call(cpu, layout::REMOVE, irp);
        let back = back_reference(irp);
        let place = back.get().unwrap_or(0);
        if place != self.0.address() && place != 0 {
            // SAFETY: a context that the driver gave for this IRP, which lives until the IRP is taken out.
            let context: Out<u8> = unsafe { Out::new(place as *mut u8) };
            context.offset::<usize>(context::IRP).set(0);
        }
        back.set(0);
    }
}

fn stop_if_crashed(cpu: &Cpu) {
    if cpu.machine().crashed() {
        cpu::park_for_ever();
    }
}

/// `Irp->Tail.Overlay.DriverContext[3]`: the queue that the IRP is in, or its context.
const fn back_reference(irp: usize) -> Out<usize> {
    // SAFETY: an IRP of the driver's (a trap otherwise).
    let irp: Out<u8> = unsafe { Out::new(irp as *mut u8) };
    irp.offset(irp_offset::DRIVER_CONTEXT + 3 * 8)
}

/// `IoSetCancelRoutine`: the routine before.
fn set_cancel_routine(cpu: &Cpu, irp: usize, routine: usize) -> usize {
    let irp = cpu.machine().io().irp(irp);
    irp.map_or(0, |irp| irp.exchange_cancel_routine(routine))
}

/// The cancel routine of every IRP in a cancel-safe queue.
extern "win64" fn cancel_routine(_device: usize, irp: usize) {
    let Some(cpu) = Cpu::current() else { return };
    // SAFETY: the IRP that is being cancelled.
    let memory: Out<u8> = unsafe { Out::new(irp as *mut u8) };
    let irql = memory
        .offset::<u8>(irp_offset::CANCEL_IRQL)
        .get()
        .unwrap_or(0);
    super::cancel::release_for_system(cpu, irql);
    let place = back_reference(irp).get().unwrap_or(0);
    // SAFETY: the queue or the context that `insert` stored, whose first member tells them apart.
    let place: Out<u8> = unsafe { Out::new(place as *mut u8) };
    let csq = if place.offset::<u32>(0).get() == Some(kind::CONTEXT) {
        let csq = place.offset::<usize>(context::CSQ).get().unwrap_or(0);
        // SAFETY: the context's queue.
        Csq(unsafe { Out::new(csq as *mut u8) })
    } else {
        Csq(place)
    };
    let irql = csq.lock(cpu);
    csq.remove(cpu, irp);
    csq.unlock(cpu, irql);
    csq.call(cpu, layout::COMPLETE_CANCELED, irp);
}

fn insert(
    call: &Call<'_>,
    csq: Csq,
    irp: usize,
    irp_context: Out<u8>,
    insert_context: usize,
) -> NtStatus {
    let cpu = call.cpu();
    let Some(packet) = call.machine().io().irp(irp) else {
        call.violation(
            &ARGUMENT,
            format!("{irp:#x}, which is no IRP that a driver has, is queued"),
        );
        return NtStatus::INVALID_PARAMETER;
    };
    if irp_context.is_null() {
        back_reference(irp).set(csq.0.address());
    } else {
        irp_context.offset::<u32>(0).set(kind::CONTEXT);
        irp_context.offset::<usize>(context::IRP).set(irp);
        irp_context
            .offset::<usize>(context::CSQ)
            .set(csq.0.address());
        back_reference(irp).set(irp_context.address());
    }
    let irql = csq.lock(cpu);
    let status = csq.insert(cpu, irp, insert_context);
    if !status.is_success() {
        csq.unlock(cpu, irql);
        return status;
    }
    packet.mark_pending();
    packet.exchange_cancel_routine(cancel_routine as *const () as usize);
    // Cancelled before: whoever takes the routine back completes it.
    if packet.is_cancelled() && packet.exchange_cancel_routine(0) != 0 {
        csq.remove(cpu, irp);
        csq.unlock(cpu, irql);
        csq.call(cpu, layout::COMPLETE_CANCELED, irp);
    } else {
        csq.unlock(cpu, irql);
    }
    status
}

/// The first IRP that fits and is not being cancelled, out of the queue.
fn remove_next(cpu: &Cpu, csq: Csq, peek_context: usize) -> usize {
    let irql = csq.lock(cpu);
    let mut irp = csq.peek(cpu, 0, peek_context);
    while irp != 0 && set_cancel_routine(cpu, irp, 0) == 0 {
        irp = csq.peek(cpu, irp, peek_context);
    }
    if irp != 0 {
        csq.remove(cpu, irp);
    }
    csq.unlock(cpu, irql);
    irp
}

fn remove(cpu: &Cpu, csq: Csq, irp_context: Out<u8>) -> usize {
    let irql = csq.lock(cpu);
    let irp = irp_context.offset::<usize>(context::IRP).get().unwrap_or(0);
    let taken = irp != 0 && set_cancel_routine(cpu, irp, 0) != 0;
    if taken {
        csq.remove(cpu, irp);
    }
    csq.unlock(cpu, irql);
    if taken { irp } else { 0 }
}

/// The routines of a queue, in the order of the parameters.
fn initialize(call: &Call<'_>, csq: Out<u8>, kind: u32, routines: [usize; 6]) -> NtStatus {
    if csq.is_null() || routines.contains(&0) {
        call.violation(&ARGUMENT, "a cancel-safe queue without one of its routines");
        return NtStatus::INVALID_PARAMETER;
    }
    csq.offset::<u32>(0).set(kind);
    let offsets = [
        layout::INSERT,
        layout::REMOVE,
        layout::PEEK_NEXT,
        layout::ACQUIRE,
        layout::RELEASE,
        layout::COMPLETE_CANCELED,
    ];
    for (offset, routine) in offsets.into_iter().zip(routines) {
        csq.offset::<usize>(offset).set(routine);
    }
    csq.offset::<usize>(layout::RESERVED).set(0);
    NtStatus::SUCCESS
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iocsqinitialize>
    fn IoCsqInitialize(
        call, csq: Out<u8>, insert: usize, remove: usize, peek: usize, acquire: usize, release: usize,
        complete: usize,
    ) -> NtStatus,
    irql PASSIVE..=HIGH;
    { initialize(&call, csq, kind::CSQ, [insert, remove, peek, acquire, release, complete]) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iocsqinitializeex>
    fn IoCsqInitializeEx(
        call, csq: Out<u8>, insert: usize, remove: usize, peek: usize, acquire: usize, release: usize,
        complete: usize,
    ) -> NtStatus,
    irql PASSIVE..=HIGH;
    { initialize(&call, csq, kind::CSQ_EX, [insert, remove, peek, acquire, release, complete]) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iocsqinsertirp>
    fn IoCsqInsertIrp(call, csq: Out<u8>, irp: usize, context: Out<u8>),
    irql PASSIVE..=DISPATCH;
    { insert(&call, Csq(csq), irp, context, 0); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iocsqinsertirpex>
    fn IoCsqInsertIrpEx(call, csq: Out<u8>, irp: usize, context: Out<u8>, insert_context: usize) -> NtStatus,
    irql PASSIVE..=DISPATCH;
    { insert(&call, Csq(csq), irp, context, insert_context) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iocsqremovenextirp>
    fn IoCsqRemoveNextIrp(call, csq: Out<u8>, peek_context: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    { remove_next(call.cpu(), Csq(csq), peek_context) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iocsqremoveirp>
    fn IoCsqRemoveIrp(call, csq: Out<u8>, context: Out<u8>) -> usize,
    irql PASSIVE..=DISPATCH;
    { remove(call.cpu(), Csq(csq), context) }
}
