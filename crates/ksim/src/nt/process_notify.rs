//! Processes that begin and end, and the drivers that are told.

use wfp_schema::NtStatus;

use super::io_memory::Guarded;
use super::mutex::change_depth;
use super::notify::Registered;
use super::pool::{ALIGNMENT, Request};
use super::pool_api::allocate;
use super::process::SYSTEM_PROCESS;
use super::rtl_string::UnicodeString;
use crate::access::{Out, plain};
use crate::cpu::{Callback, Cpu, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::{Bugcheck, Kernel};
use crate::ndis::layout::layout;
use crate::sched::Thread;
use crate::verifier::ARGUMENT;

/// `PS_CREATE_NOTIFY_INFO`: what an extended routine is told of a process that begins.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct CreateNotifyInfo {
    pub(crate) size: usize,
    pub(crate) flags: u32,
    pub(crate) parent_process_id: usize,
    pub(crate) creating_thread_id: [usize; 2],
    pub(crate) file_object: usize,
    pub(crate) image_file_name: usize,
    pub(crate) command_line: usize,
    pub(crate) creation_status: NtStatus,
}

plain!(CreateNotifyInfo);

layout! {
    CreateNotifyInfo 72 {
        size @ 0, flags @ 8, parent_process_id @ 16, creating_thread_id @ 24, file_object @ 40, image_file_name @ 48,
        command_line @ 56, creation_status @ 64,
    }
}

/// `FileOpenNameAvailable`.
const FILE_OPEN_NAME: u32 = 1;
/// So many routines can be registered on x64 Windows 10; the pages speak of a limit without a number.
const MOST_ROUTINES: usize = 64;
/// `PsCreateProcessNotifySubsystems`.
const NOTIFY_SUBSYSTEMS: i32 = 0;
/// How the verifier calls a registration.
const REGISTRATION: &str = "process notify routine";
const TAG: u32 = u32::from_le_bytes(*b"SeIm");

/// `PCREATE_PROCESS_NOTIFY_ROUTINE`: parent's id, id, whether it begins.
type Plain = extern "win64" fn(usize, usize, u8);
/// `PCREATE_PROCESS_NOTIFY_ROUTINE_EX`: process object, id, what is known of a process that begins.
type Extended = extern "win64" fn(usize, usize, Out<CreateNotifyInfo>);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Routine {
    Plain(Plain),
    Extended(Extended),
}

impl Routine {
    fn address(self) -> usize {
        match self {
            Self::Plain(routine) => routine as usize,
            Self::Extended(routine) => routine as usize,
        }
    }

    const fn is_extended(self) -> bool {
        matches!(self, Self::Extended(_))
    }
}

/// The drivers that are told of processes.
pub(crate) type Watchers = Registered<Routine>;

/// A process to start.
#[derive(Debug, Clone, Copy)]
pub struct NewProcess<'a> {
    /// Its id; `None` takes the next one. Windows's are multiples of 4.
    pub id: Option<u32>,
    /// The process that creates it, and whose thread the drivers are told on. [`SYSTEM_PROCESS`] is always there.
    pub creator: u32,
    /// The process that it inherits from: the creator, but for those that are started on behalf of another.
    pub parent: u32,
    /// The file, with a drive letter (`C:\Windows\…`) or as an NT path (`\Device\…`).
    pub image: &'a str,
    /// The command line, where it is known.
    pub command_line: Option<&'a str>,
}

impl<'a> NewProcess<'a> {
    /// A process that `parent` starts from the file `image`, without a known command line.
    #[must_use]
    pub const fn new(parent: u32, image: &'a str) -> Self {
        Self {
            id: None,
            creator: parent,
            parent,
            image,
            command_line: None,
        }
    }
}

impl Kernel {
    /// A process begins: drivers that registered for it are told in the creating process, at `PASSIVE_LEVEL` in a
    /// critical region. Its id, or the status with which one of them refused it; such a process ends at once.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    ///
    /// # Panics
    /// When a process with that id is running.
    pub fn create_process(&self, new: &NewProcess<'_>) -> Result<Result<u32, NtStatus>, Bugcheck> {
        self.here(|cpu| {
            let processes = cpu.machine().nt().processes();
            let begun = processes.begin(new.id, device_path(new.image));
            let (id, object) = begun
                .unwrap_or_else(|| panic!("process {} is running", new.id.unwrap_or_default()));
            let status = tell_of_beginning(cpu, new, id, object);
            if status.is_success() {
                Ok(id)
            } else {
                tell_of_end(cpu, id, object);
                Err(status)
            }
        })
    }

    /// A process ends: drivers are told in its own context, on its last thread. `false` when no process that was
    /// started has this id.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn exit_process(&self, id: u32) -> Result<bool, Bugcheck> {
        self.here(|cpu| {
            let running = cpu.machine().nt().processes().running(id);
            let running = running.filter(|_| id != SYSTEM_PROCESS);
            if let Some(object) = running {
                tell_of_end(cpu, id, object);
            }
            running.is_some()
        })
    }
}

/// Runs `tell` as a thread of the process at `process` in a critical region, then what is left pending.
fn told_in(cpu: &Cpu, process: usize, tell: impl FnOnce()) {
    let (irql, before) = (cpu.set_irql(PASSIVE), cpu.set_process(process));
    change_depth(cpu, -1);
    tell();
    change_depth(cpu, 1);
    cpu.set_process(before);
    cpu.machine().run_pending(cpu);
    cpu.set_irql(irql);
}

/// Tells of a process that begins; the status that its creation gets.
fn tell_of_beginning(cpu: &Cpu, new: &NewProcess<'_>, id: u32, object: usize) -> NtStatus {
    let image = Text::new(&open_path(new.image));
    let command_line = new.command_line.map(Text::new);
    let file = Guarded::new(16);
    let thread = Thread::current().map_or(0, |thread| (thread.id() + 1) * 4);
    let info = Guarded::new(size_of::<CreateNotifyInfo>());
    // SAFETY: a block of that size which outlives the calls below.
    let place: Out<CreateNotifyInfo> = unsafe { Out::new(info.address() as *mut _) };
    place.set(CreateNotifyInfo {
        size: size_of::<CreateNotifyInfo>(),
        flags: FILE_OPEN_NAME,
        parent_process_id: new.parent as usize,
        creating_thread_id: [new.creator as usize, thread],
        file_object: file.address(),
        image_file_name: image.address(),
        command_line: command_line.as_ref().map_or(0, Text::address),
        creation_status: NtStatus::SUCCESS,
    });
    let creator = cpu.machine().nt().processes().object(new.creator);
    told_in(cpu, creator, || {
        tell(cpu, |routine| match routine {
            Routine::Plain(routine) => routine(new.parent as usize, id as usize, 1),
            Routine::Extended(routine) => routine(object, id as usize, place),
        });
    });
    place
        .get()
        .map_or(NtStatus::SUCCESS, |info| info.creation_status)
}

fn tell_of_end(cpu: &Cpu, id: u32, object: usize) {
    told_in(cpu, object, || {
        tell(cpu, |routine| match routine {
            Routine::Plain(routine) => routine(0, id as usize, 0),
            Routine::Extended(routine) => routine(object, id as usize, Out::null()),
        });
    });
    cpu.machine().nt().processes().end(id);
}

fn tell(cpu: &Cpu, run: impl Fn(Routine)) {
    let watchers = cpu.machine().nt().process_watchers();
    watchers.each(
        cpu,
        |_| true,
        |routine| {
            let name = if routine.is_extended() {
                "PCREATE_PROCESS_NOTIFY_ROUTINE_EX"
            } else {
                "PCREATE_PROCESS_NOTIFY_ROUTINE"
            };
            cpu.enter_driver(Callback::new(name, routine.address()), PASSIVE, || {
                run(routine);
            });
        },
    );
}

/// A counted string in memory of its own.
struct Text {
    string: Guarded,
    _units: Guarded,
}

impl Text {
    fn new(text: &str) -> Self {
        let string = Guarded::new(size_of::<UnicodeString>());
        let units = crate::driver::put_string(&string, 0, text);
        Self {
            string,
            _units: units,
        }
    }

    fn address(&self) -> usize {
        self.string.address()
    }
}

/// The name with which Windows opens the file.
fn open_path(path: &str) -> String {
    if path.as_bytes().get(1) == Some(&b':') {
        format!("\\??\\{path}")
    } else {
        path.to_owned()
    }
}

/// The path on its device, as [`Identity`](crate::net::Identity) numbers the volumes, with its case kept.
fn device_path(path: &str) -> String {
    match path.as_bytes() {
        [drive, b':', ..] if drive.is_ascii_alphabetic() => {
            let volume = u32::from(drive.to_ascii_uppercase() - b'A') + 1;
            format!("\\Device\\HarddiskVolume{volume}{}", &path[2..])
        }
        _ => path.to_owned(),
    }
}

/// Registers a routine, or removes it once no call of it is under way.
fn change(call: &Call<'_>, routine: Option<Routine>, remove: u8) -> NtStatus {
    let Some(routine) = routine else {
        call.violation(&ARGUMENT, "NotifyRoutine is NULL");
        return NtStatus::INVALID_PARAMETER;
    };
    let (machine, address) = (call.machine(), routine.address());
    let watchers = machine.nt().process_watchers();
    let same = |other: &Routine| {
        other.address() == address && other.is_extended() == routine.is_extended()
    };
    if remove != 0 {
        if watchers.count(same) == 0 {
            machine.verifier().untrack(call, REGISTRATION, address);
            return NtStatus::PROCEDURE_NOT_FOUND;
        }
        machine.verifier().forget(REGISTRATION, address);
        watchers.remove(call, address);
        return NtStatus::SUCCESS;
    }
    // A function outside of every image is a test's.
    let image = machine.verifier().image_at(address);
    let lacks_integrity =
        image.is_some_and(|image| !image.mapped.facts().characteristics.force_integrity);
    if routine.is_extended() && lacks_integrity {
        return NtStatus::ACCESS_DENIED;
    }
    let taken = watchers.count(|other| other.address() == address) > 0;
    if taken || watchers.count(|_| true) >= MOST_ROUTINES {
        return NtStatus::INVALID_PARAMETER;
    }
    watchers.add(address, routine);
    machine.verifier().track(call, REGISTRATION, address, "", 0);
    NtStatus::SUCCESS
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-pssetcreateprocessnotifyroutine>
    fn PsSetCreateProcessNotifyRoutine(call, routine: Option<Plain>, remove: u8) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INVALID_PARAMETER, if remove == 0;
    { change(&call, routine.map(Routine::Plain), remove) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-pssetcreateprocessnotifyroutineex>
    fn PsSetCreateProcessNotifyRoutineEx(call, routine: Option<Extended>, remove: u8) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INVALID_PARAMETER, if remove == 0;
    { change(&call, routine.map(Routine::Extended), remove) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-pssetcreateprocessnotifyroutineex2>
    fn PsSetCreateProcessNotifyRoutineEx2(call, kind: i32, routine: Option<Extended>, remove: u8) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INVALID_PARAMETER, if remove == 0;
    {
        if kind != NOTIFY_SUBSYSTEMS {
            return NtStatus::INVALID_PARAMETER;
        }
        change(&call, routine.map(Routine::Extended), remove)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-selocateprocessimagename>
    fn SeLocateProcessImageName(call, process: usize, name: Out<usize>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let Some(image) = call.machine().nt().processes().image(process) else { return NtStatus::NOT_FOUND };
        let units: Vec<u8> = image.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let header = size_of::<UnicodeString>();
        let block = allocate(&call, Request {
            size: header + units.len(), tag: TAG, site: call.site(), zeroed: true, paged: true, alignment: ALIGNMENT,
        });
        if block.is_null() {
            return NtStatus::INSUFFICIENT_RESOURCES;
        }
        // SAFETY: a block of that size, just allocated.
        let place: Out<UnicodeString> = unsafe { Out::new(block.cast()) };
        place.set(UnicodeString::at(place.offset(header), units.len() - 2, units.len()));
        place.offset::<u8>(header).copy_from(&units);
        name.set(place.address());
        NtStatus::SUCCESS
    }
}
