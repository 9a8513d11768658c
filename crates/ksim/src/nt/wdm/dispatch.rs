//! A driver's dispatch table, what a dispatch routine must have done when it returns, and `IoCompleteRequest`.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use wfp_schema::NtStatus;

use super::cancel;
use super::driver_object;
use crate::access::Out;
use crate::cpu::{Callback, Cpu, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::{Bugcheck, Machine};
use crate::nt::io::Dispatch;
use crate::nt::io_irp::{Irp, Major};
use crate::nt::io_memory::Guarded;
use crate::verifier::{IRP_CANCEL, IRP_PENDING, IRP_STATUS, POOL_OVERRUN, REQUEST_COMPLETION};

/// `DRIVER_DISPATCH`: device object and IRP.
type Routine = extern "win64" fn(usize, usize) -> u32;

/// Requests go to the dispatch table of the driver object at this address.
#[derive(Debug)]
pub(super) struct DispatchTable {
    driver: usize,
}

impl DispatchTable {
    pub(super) const fn new(driver: usize) -> Self {
        Self { driver }
    }

    /// The address of the routine for `major`; `None` where the table holds what the system put there.
    fn routine(&self, machine: &Machine, major: Major) -> Option<usize> {
        // SAFETY: a driver object lives as long as devices of its driver do; the table lies in it.
        let object: Out<u8> = unsafe { Out::new(self.driver as *mut u8) };
        let slot = driver_object::MAJOR_FUNCTION + 8 * major as usize;
        let routine = object.offset::<usize>(slot).get().unwrap_or(0);
        (routine != 0 && routine != invalid_device_request(machine)).then_some(routine)
    }
}

impl Dispatch for DispatchTable {
    fn dispatch(&self, cpu: &Cpu, irp: &Arc<Irp>) {
        let Some(routine) = self.routine(cpu.machine(), irp.major) else {
            irp.complete(cpu, NtStatus::INVALID_DEVICE_REQUEST, 0);
            return;
        };
        // SAFETY: what the driver put into its dispatch table is a dispatch routine by the driver model.
        let routine: Routine = unsafe { std::mem::transmute::<usize, Routine>(routine) };
        let (device, address) = (irp.file.device().address(), irp.address());
        let callback = Callback::new(name(irp.major), routine as usize);
        let returned = cpu.enter_driver(callback, PASSIVE, || routine(device, address));
        check_returned(cpu, callback, irp, NtStatus::from_u32(returned));
    }

    fn cancel(&self, cpu: &Cpu, irp: &Arc<Irp>) {
        cancel::cancel(cpu, irp);
    }

    fn by_framework(&self) -> bool {
        false
    }
}

const fn name(major: Major) -> &'static str {
    match major {
        Major::Create => "the dispatch routine for IRP_MJ_CREATE",
        Major::Close => "the dispatch routine for IRP_MJ_CLOSE",
        Major::Read => "the dispatch routine for IRP_MJ_READ",
        Major::Write => "the dispatch routine for IRP_MJ_WRITE",
        Major::DeviceControl => "the dispatch routine for IRP_MJ_DEVICE_CONTROL",
        Major::Shutdown => "the dispatch routine for IRP_MJ_SHUTDOWN",
        Major::Cleanup => "the dispatch routine for IRP_MJ_CLEANUP",
    }
}

/// A dispatch routine has completed the IRP and says with which status, or it has marked it pending and says so.
pub(crate) fn check_returned(cpu: &Cpu, callback: Callback, irp: &Irp, returned: NtStatus) {
    let verifier = cpu.machine().verifier();
    let what = irp.describe();
    let (completion, marked) = irp.progress();
    match (returned == NtStatus::PENDING, marked) {
        (true, true) => return,
        (true, false) => {
            let message = format!(
                "STATUS_PENDING was returned for {what}, which was not marked pending (IoMarkIrpPending)"
            );
            verifier.violation_by(cpu, callback, &IRP_PENDING, message);
            return;
        }
        (false, true) => {
            let message = format!(
                "{what} was marked pending, and {returned} was returned instead of STATUS_PENDING"
            );
            verifier.violation_by(cpu, callback, &IRP_PENDING, message);
            return;
        }
        (false, false) => {}
    }
    match completion {
        None => {
            let message = format!(
                "{returned} was returned for {what}, which was neither completed nor marked pending"
            );
            verifier.violation_by(cpu, callback, &REQUEST_COMPLETION, message);
            // The program would wait for ever; the driver may still complete it, which is then found too.
        }
        Some(status) if status != returned => {
            let message =
                format!("{what} was completed with {status}, and {returned} was returned");
            verifier.violation_by(cpu, callback, &IRP_STATUS, message);
        }
        Some(_) => {}
    }
}

/// `MULTIPLE_IRP_COMPLETE_REQUESTS`.
const MULTIPLE_IRP_COMPLETE_REQUESTS: u32 = 0x44;

/// The IRPs that drivers completed last. Nobody gets their addresses meanwhile, and nobody can touch them.
#[derive(Debug, Default)]
pub(crate) struct Completed(Mutex<VecDeque<Ended>>);

#[derive(Debug)]
struct Ended {
    memory: Arc<Guarded>,
    what: String,
    /// Where in the driver it was completed.
    site: usize,
}

/// How many completed IRPs are remembered.
const REMEMBERED: usize = 256;

impl Completed {
    fn remember(&self, ended: Ended) {
        let mut list = self.0.lock();
        list.push_back(ended);
        let oldest = (list.len() > REMEMBERED).then(|| list.pop_front());
        drop(list);
        drop(oldest);
    }

    /// What the IRP at `address` was, and where it was completed.
    fn find(&self, address: usize) -> Option<(String, usize)> {
        let ended = |ended: &&Ended| ended.memory.address() == address;
        self.0
            .lock()
            .iter()
            .rev()
            .find(ended)
            .map(|ended| (ended.what.clone(), ended.site))
    }

    /// In words, the completed IRP that `address` lies in.
    pub(crate) fn place(&self, machine: &Machine, address: usize) -> Option<String> {
        let list = self.0.try_lock()?;
        let ended = list.iter().find(|ended| {
            let start = ended.memory.address();
            (start..start + ended.memory.len()).contains(&address)
        })?;
        let (offset, what) = (address - ended.memory.address(), ended.what.clone());
        let site = ended.site;
        drop(list);
        let site = machine.verifier().place(site);
        Some(format!(
            "in the IRP of {what} at offset {offset:#x}, which was completed at {site}"
        ))
    }
}

/// Stops the machine: the driver completes an IRP that it does not have.
fn completed_again(call: &Call<'_>, address: usize) -> ! {
    let machine = call.machine();
    let message = machine.io().completed().find(address).map_or_else(
        || format!("{address:#x} is completed, which is no IRP that a driver has"),
        |(what, site)| {
            let site = machine.verifier().place(site);
            format!("the IRP of {what} is completed again; it was completed at {site}")
        },
    );
    call.violation(&REQUEST_COMPLETION, message.clone());
    machine.crash(Bugcheck::new(
        MULTIPLE_IRP_COMPLETE_REQUESTS,
        [address as u64, 0, 0, 0],
        format!(
            "{message}, called from {}",
            machine.verifier().place(call.site())
        ),
    ))
}

fn complete(call: &Call<'_>, address: usize) {
    let machine = call.machine();
    let Some(irp) = machine.io().irp(address).filter(|irp| irp.claim()) else {
        completed_again(call, address);
    };
    let (status, information) = irp.io_status();
    let what = irp.describe();
    if status == NtStatus::PENDING {
        call.violation(
            &IRP_STATUS,
            format!("{what} is completed with STATUS_PENDING"),
        );
    }
    if irp.cancel_routine() != 0 {
        let message = format!(
            "{what} is completed while a cancel routine is set: IoSetCancelRoutine(Irp, NULL) comes first"
        );
        call.violation(&IRP_CANCEL, message);
    }
    if let Some(room) = irp
        .room()
        .filter(|room| !status.is_error() && information > *room)
    {
        let message = format!(
            "{what} is completed with Information {information}, and the caller's buffer has {room} bytes"
        );
        call.violation(&IRP_STATUS, message);
    }
    if let Some(buffer) = irp.overrun() {
        call.violation(
            &POOL_OVERRUN,
            format!("bytes behind {buffer} of {what} changed"),
        );
    }
    irp.note_pending();
    machine.io().completed().remember(Ended {
        memory: irp.memory(),
        what,
        site: call.site(),
    });
    irp.complete(call.cpu(), status, information);
    irp.memory().revoke();
}

/// What the system puts into a dispatch table: fails the request.
extern "win64" fn refuse(_device: usize, irp: usize) -> u32 {
    let status = NtStatus::INVALID_DEVICE_REQUEST;
    let cpu = Cpu::current();
    if let Some((cpu, irp)) = cpu.and_then(|cpu| cpu.machine().io().irp(irp).map(|irp| (cpu, irp)))
    {
        irp.complete(cpu, status, 0);
    }
    status.code()
}

/// The address that a driver finds in its dispatch table where it has put nothing.
fn invalid_device_request(machine: &Machine) -> usize {
    machine.thunks().make(refuse as *const () as usize)
}

/// Fills the dispatch table of a new driver object, as the I/O manager does before it calls the driver's entry.
pub(crate) fn fill_dispatch_table(machine: &Machine, object: &Guarded) {
    let refuse = invalid_device_request(machine).to_le_bytes();
    for index in 0..driver_object::MAJOR_FUNCTIONS {
        object.put(driver_object::MAJOR_FUNCTION + 8 * index, refuse);
    }
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iocompleterequest>
    fn IofCompleteRequest(call, irp: usize, boost: i8),
    irql PASSIVE..=DISPATCH;
    { complete(&call, irp); }

    /// The function form of the macro; exported for drivers that were built without it.
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iocompleterequest>
    fn IoCompleteRequest(call, irp: usize, boost: i8),
    irql PASSIVE..=DISPATCH;
    { complete(&call, irp); }
}
