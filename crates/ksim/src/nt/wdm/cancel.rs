//! The cancel spin lock, and cancel routines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::access::Out;
use crate::cpu::{self, Callback, Cpu, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::Bugcheck;
use crate::nt::io_irp::Irp;
use crate::trap::code;
use crate::verifier::{ARGUMENT, IRP_CANCEL, IRQL_RESTORED, LOCK_PROTOCOL};

/// `DRIVER_CANCEL`: device object and IRP.
type Routine = extern "win64" fn(usize, usize);

/// The one spin lock that is held while a cancel routine begins; 0, or the number of its holder plus one.
#[derive(Debug, Default)]
pub(crate) struct CancelLock(AtomicU32);

impl CancelLock {
    fn is_held_by(&self, cpu: &Cpu) -> bool {
        self.0.load(Ordering::SeqCst) == cpu.index() + 1
    }

    /// Takes it at `DISPATCH_LEVEL`; the IRQL before.
    fn acquire(&self, cpu: &Cpu) -> u8 {
        let before = cpu.set_irql(cpu.irql().max(DISPATCH));
        if self.is_held_by(cpu) {
            cpu.machine().crash(Bugcheck::new(
                code::SPIN_LOCK_ALREADY_OWNED,
                [0; 4],
                "the cancel spin lock is acquired by the processor that holds it",
            ));
        }
        while self
            .0
            .compare_exchange_weak(0, cpu.index() + 1, Ordering::SeqCst, Ordering::Relaxed)
            .is_err()
        {
            if cpu.machine().crashed() {
                cpu::park_for_ever();
            }
            cpu.machine().scheduler().spin(cpu);
        }
        before
    }

    /// Lets go of it and goes to `irql`. `false` when somebody else holds it, or nobody.
    fn release(&self, cpu: &Cpu, irql: u8) -> bool {
        let released = self
            .0
            .compare_exchange(cpu.index() + 1, 0, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok();
        cpu.set_irql(irql);
        released
    }
}

/// Cancels `irp`, whose `Cancel` is set: calls its cancel routine, if it has one. Whether it had.
pub(super) fn cancel(cpu: &Cpu, irp: &Arc<Irp>) -> bool {
    let lock = cpu.machine().io().cancel_lock();
    let before = lock.acquire(cpu);
    let routine = irp.begin_cancel(before);
    if routine == 0 {
        lock.release(cpu, before);
        return false;
    }
    // SAFETY: what the driver set as the cancel routine is one by the driver model.
    let routine: Routine = unsafe { std::mem::transmute::<usize, Routine>(routine) };
    let (device, address) = (irp.file.device().address(), irp.address());
    // It is called with the lock held and comes back without, so it lowers the IRQL to where it was.
    let callback = Callback::new("a cancel routine", routine as usize);
    cpu.inside(callback, || routine(device, address));
    if cpu.machine().crashed() {
        cpu::park_for_ever();
    }
    let verifier = cpu.machine().verifier();
    if lock.is_held_by(cpu) {
        lock.release(cpu, before);
        verifier.violation_by(
            cpu,
            callback,
            &IRP_CANCEL,
            "a cancel routine returned without releasing the cancel spin lock (IoReleaseCancelSpinLock)",
        );
    }
    let after = cpu.set_irql(before);
    if after != before {
        let message = format!(
            "a cancel routine was called for a request cancelled at IRQL {before} and returned at {after}"
        );
        verifier.violation_by(cpu, callback, &IRQL_RESTORED, message);
    }
    true
}

/// A cancel routine of the system's own lets go of the lock.
pub(super) fn release_for_system(cpu: &Cpu, irql: u8) {
    cpu.machine().io().cancel_lock().release(cpu, irql);
}

fn release(call: &Call<'_>, irql: u8) {
    if irql > DISPATCH {
        call.violation(
            &ARGUMENT,
            format!("the cancel spin lock is released to IRQL {irql}"),
        );
    }
    if !call.machine().io().cancel_lock().release(call.cpu(), irql) {
        call.violation(
            &LOCK_PROTOCOL,
            "the cancel spin lock is released by a processor that does not hold it",
        );
    }
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioacquirecancelspinlock>
    fn IoAcquireCancelSpinLock(call, irql: Out<u8>),
    irql PASSIVE..=DISPATCH;
    {
        let before = call.machine().io().cancel_lock().acquire(call.cpu());
        irql.set(before);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioreleasecancelspinlock>
    fn IoReleaseCancelSpinLock(call, irql: u8),
    irql DISPATCH..=DISPATCH;
    { release(&call, irql); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iocancelirp>
    fn IoCancelIrp(call, irp: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    {
        let Some(irp) = call.machine().io().irp(irp).filter(|irp| irp.completion().is_none()) else {
            call.violation(&ARGUMENT, format!("{irp:#x}, which is no IRP that a driver has, is cancelled"));
            return 0;
        };
        irp.set_cancelled();
        u8::from(cancel(call.cpu(), &irp))
    }
}
