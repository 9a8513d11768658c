//! Processes and threads, as far as drivers ask whose request they are looking at.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use wfp_schema::NtStatus;

use super::io_memory::Guarded;
use crate::access::Out;
use crate::cpu::{APC, DISPATCH, HIGH, PASSIVE};
use crate::export::exports;
use crate::sched::Thread;

/// The system process's id.
pub const SYSTEM_PROCESS: u32 = 4;
/// Bytes of an `EPROCESS`; drivers must not look into it, and find zeroes if they do.
const OBJECT_SIZE: usize = 0xb80;

/// The processes of one machine: an object for each id that was ever asked about.
#[derive(Debug)]
pub struct Processes {
    system: usize,
    objects: Mutex<BTreeMap<u32, Guarded>>,
}

impl Processes {
    pub(crate) fn new() -> Self {
        let system = Guarded::new(OBJECT_SIZE);
        Self {
            system: system.address(),
            objects: Mutex::new(BTreeMap::from([(SYSTEM_PROCESS, system)])),
        }
    }

    /// The object of the system process.
    #[must_use]
    pub const fn system(&self) -> usize {
        self.system
    }

    /// The object of the process with this id, made if there is none. An object lives as long as the machine.
    pub fn object(&self, id: u32) -> usize {
        self.objects
            .lock()
            .entry(id)
            .or_insert_with(|| Guarded::new(OBJECT_SIZE))
            .address()
    }

    /// The id of the process whose object is at `address`.
    #[must_use]
    pub fn id(&self, address: usize) -> Option<u32> {
        self.objects
            .lock()
            .iter()
            .find_map(|(id, object)| (object.address() == address).then_some(*id))
    }

    /// The object of a process that exists.
    fn existing(&self, id: u32) -> Option<usize> {
        self.objects.lock().get(&id).map(Guarded::address)
    }
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-iogetcurrentprocess>
    fn IoGetCurrentProcess(call) -> usize,
    irql PASSIVE..=DISPATCH;
    { call.cpu().process() }

    /// <https://learn.microsoft.com/windows-hardware/drivers/kernel/mm-bad-pointer>
    fn PsGetCurrentProcess(call) -> usize,
    irql PASSIVE..=DISPATCH;
    { call.cpu().process() }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-psgetcurrentprocessid>
    fn PsGetCurrentProcessId(call) -> usize,
    irql PASSIVE..=HIGH;
    { call.machine().nt().processes().id(call.cpu().process()).unwrap_or(SYSTEM_PROCESS) as usize }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-psgetprocessid>
    fn PsGetProcessId(call, process: usize) -> usize,
    irql PASSIVE..=HIGH;
    {
        let id = call.machine().nt().processes().id(process);
        id.unwrap_or_else(|| {
            call.violation(&crate::verifier::OBJECT_STALE, format!("{process:#x} is no process"));
            0
        }) as usize
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-psgetcurrentthreadid>
    fn PsGetCurrentThreadId(call) -> usize,
    irql PASSIVE..=HIGH;
    { Thread::current().map_or(0, |thread| (thread.id() + 1) * 4) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kegetcurrentthread>
    fn KeGetCurrentThread(call) -> usize,
    irql PASSIVE..=HIGH;
    { call.cpu().thread() }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-psgetcurrentthread>
    fn PsGetCurrentThread(call) -> usize,
    irql PASSIVE..=HIGH;
    { call.cpu().thread() }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-pslookupprocessbyprocessid>
    fn PsLookupProcessByProcessId(call, id: usize, process: Out<usize>) -> u32,
    irql PASSIVE..=APC, fails NtStatus::INVALID_PARAMETER.code();
    {
        let known = u32::try_from(id).ok().and_then(|id| call.machine().nt().processes().existing(id));
        let Some(object) = known else { return NtStatus::INVALID_PARAMETER.code() };
        call.machine().nt().objects().reference(&call, object);
        process.set(object);
        NtStatus::SUCCESS.code()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-iogetrequestorprocess>
    fn IoGetRequestorProcess(call, irp: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let processes = call.machine().nt().processes();
        call.machine().io().requestor_process(irp).map_or_else(|| processes.system(), |id| processes.object(id))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-iogetrequestorprocessid>
    fn IoGetRequestorProcessId(call, irp: usize) -> u32,
    irql PASSIVE..=DISPATCH;
    { call.machine().io().requestor_process(irp).unwrap_or(SYSTEM_PROCESS) }
}
