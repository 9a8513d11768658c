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

/// The processes of one machine: those that were started, and an object for each id that was ever asked about.
#[derive(Debug)]
pub struct Processes {
    system: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: BTreeMap<u32, Process>,
    /// Objects whose ids were used again; drivers may hold references to them.
    former: Vec<(u32, Guarded)>,
}

#[derive(Debug)]
struct Process {
    object: Guarded,
    /// The file that it was started from, as an NT path; `None` when it was never started, only asked about.
    image: Option<String>,
    exited: bool,
}

impl Process {
    fn new(image: Option<String>) -> Self {
        Self {
            object: Guarded::new(OBJECT_SIZE),
            image,
            exited: false,
        }
    }
}

impl Processes {
    pub(crate) fn new() -> Self {
        let system = Process::new(Some("System".to_owned()));
        Self {
            system: system.object.address(),
            table: Mutex::new(Table {
                by_id: BTreeMap::from([(SYSTEM_PROCESS, system)]),
                former: Vec::new(),
            }),
        }
    }

    /// The object of the system process.
    #[must_use]
    pub const fn system(&self) -> usize {
        self.system
    }

    /// The object of the process with this id, made if there is none. An object lives as long as the machine.
    pub fn object(&self, id: u32) -> usize {
        self.table
            .lock()
            .by_id
            .entry(id)
            .or_insert_with(|| Process::new(None))
            .object
            .address()
    }

    /// The id of the process whose object is at `address`.
    #[must_use]
    pub fn id(&self, address: usize) -> Option<u32> {
        let is = |object: &Guarded| object.address() == address;
        let table = self.table.lock();
        let mut present = table.by_id.iter();
        let present = present.find_map(|(id, process)| is(&process.object).then_some(*id));
        let mut former = table.former.iter();
        let found = present.or_else(|| former.find_map(|(id, object)| is(object).then_some(*id)));
        drop(table);
        found
    }

    /// The object of a process that exists and has not exited.
    pub(super) fn existing(&self, id: u32) -> Option<usize> {
        self.table
            .lock()
            .by_id
            .get(&id)
            .filter(|process| !process.exited)
            .map(|process| process.object.address())
    }

    /// A process begins; its id and its object. `None` when a process with that id is running that was started.
    pub(super) fn begin(&self, id: Option<u32>, image: String) -> Option<(u32, usize)> {
        let mut table = self.table.lock();
        let id = id.unwrap_or_else(|| {
            let last = table.by_id.keys().next_back().copied();
            last.unwrap_or(SYSTEM_PROCESS) / 4 * 4 + 4
        });
        let known = table.by_id.get_mut(&id);
        if let Some(process) = known {
            if process.image.is_some() && !process.exited {
                return None;
            }
            if !process.exited {
                // Somebody asked about it before it was started.
                process.image = Some(image);
                return Some((id, process.object.address()));
            }
        }
        let process = Process::new(Some(image));
        let object = process.object.address();
        if let Some(before) = table.by_id.insert(id, process) {
            table.former.push((id, before.object));
        }
        drop(table);
        Some((id, object))
    }

    /// A process that was started and runs: its object.
    pub(super) fn running(&self, id: u32) -> Option<usize> {
        self.table
            .lock()
            .by_id
            .get(&id)
            .filter(|process| process.image.is_some() && !process.exited)
            .map(|process| process.object.address())
    }

    /// The process is gone: nobody finds it by its id any more.
    pub(super) fn end(&self, id: u32) {
        if let Some(process) = self.table.lock().by_id.get_mut(&id) {
            process.exited = true;
        }
    }

    /// The file that the process with this object was started from.
    pub(super) fn image(&self, object: usize) -> Option<String> {
        self.table
            .lock()
            .by_id
            .values()
            .find(|process| process.object.address() == object)
            .and_then(|process| process.image.clone())
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
