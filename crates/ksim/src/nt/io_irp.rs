//! I/O request packets: one per operation, with the `IRP` and stack location that a driver may look at.
//!
//! Offsets are those of x64 Windows.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use wfp_schema::NtStatus;

use super::io::{FileObject, IoManager};
use super::io_memory::Guarded;
use crate::cpu::Cpu;

/// `IRP_MJ_*`: what an I/O request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Major {
    /// A handle is opened.
    Create = 0x00,
    /// The last reference to a file object is gone.
    Close = 0x02,
    /// `ReadFile`.
    Read = 0x03,
    /// `WriteFile`.
    Write = 0x04,
    /// `DeviceIoControl`.
    DeviceControl = 0x0e,
    /// The system is being shut down.
    Shutdown = 0x10,
    /// The last handle of a file object was closed.
    Cleanup = 0x12,
}

/// How the I/O manager hands a request's data to a driver; the low two bits of an IOCTL code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// Through a system buffer.
    Buffered,
    /// Input through a system buffer, the output buffer locked for reading.
    InDirect,
    /// Input through a system buffer, the output buffer locked for writing.
    OutDirect,
    /// The caller's addresses.
    Neither,
}

impl Method {
    /// The method of an I/O control code.
    pub(crate) const fn of_code(code: u32) -> Self {
        match code & 3 {
            0 => Self::Buffered,
            1 => Self::InDirect,
            2 => Self::OutDirect,
            _ => Self::Neither,
        }
    }
}

/// What user mode passed, and how.
#[derive(Debug)]
pub(crate) struct Parameters {
    /// The operation.
    pub(crate) major: Major,
    /// The I/O control code, 0 for other operations.
    pub(crate) code: u32,
    /// How buffers are passed.
    pub(crate) method: Method,
    /// The caller's input; for a write its data.
    pub(crate) input: Vec<u8>,
    /// The caller's output buffer before the call; for direct I/O the driver sees these bytes.
    pub(crate) output: Vec<u8>,
}

/// What a sender does when its packet is complete.
type Then = Box<dyn FnOnce(&Cpu, &Completion) + Send>;

impl Parameters {
    /// An operation without data.
    pub(crate) const fn plain(major: Major) -> Self {
        Self {
            major,
            code: 0,
            method: Method::Neither,
            input: Vec::new(),
            output: Vec::new(),
        }
    }
}

/// The result of an operation, as user mode sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Completion {
    /// The final status.
    pub(crate) status: NtStatus,
    /// `IoStatus.Information`.
    pub(crate) information: usize,
    /// The caller's output buffer as far as it was filled.
    pub(crate) output: Vec<u8>,
    /// The whole of it.
    pub(crate) buffer: Vec<u8>,
}

/// Where members of an `IRP` lie that are looked up by name here and elsewhere.
pub(crate) mod offset {
    pub(crate) const STATUS: usize = 48;
    pub(crate) const INFORMATION: usize = 56;
    /// `CurrentLocation`.
    pub(crate) const CURRENT_LOCATION: usize = 67;
    pub(crate) const CANCEL: usize = 68;
    pub(crate) const CANCEL_IRQL: usize = 69;
    pub(crate) const CANCEL_ROUTINE: usize = 104;
    /// `Tail.Overlay.DriverContext`.
    pub(crate) const DRIVER_CONTEXT: usize = 120;
    /// `Tail.Overlay.Thread`.
    pub(crate) const THREAD: usize = 152;
    /// `Tail.Overlay.CurrentStackLocation`.
    pub(crate) const CURRENT_STACK_LOCATION: usize = 184;
    /// `Control` of the stack location, which follows the `IRP`.
    pub(crate) const CONTROL: usize = super::IRP_SIZE + 3;
}

/// `SL_PENDING_RETURNED` in `IO_STACK_LOCATION.Control`.
const SL_PENDING_RETURNED: u8 = 1;

/// `sizeof(IRP)`.
const IRP_SIZE: usize = 208;
/// `sizeof(IO_STACK_LOCATION)`.
const STACK_SIZE: usize = 72;
/// `sizeof(MDL)` with room for page numbers, which nobody reads.
const MDL_SIZE: usize = 48 + 8;

/// `MDL_PAGES_LOCKED`.
const MDL_PAGES_LOCKED: u16 = 0x2;
/// `MDL_SOURCE_IS_NONPAGED_POOL`.
const MDL_SOURCE_IS_NONPAGED_POOL: u16 = 0x4;

/// Makes the `MDL` that describes `len` bytes at `address`.
///
/// A mapped one says that it describes nonpaged pool, so that its system address is at once known; another has
/// locked pages only, and a driver maps it.
pub(crate) fn make_mdl(address: usize, len: usize, mapped: bool) -> Guarded {
    let mdl = Guarded::new(MDL_SIZE);
    let flags = if mapped {
        MDL_SOURCE_IS_NONPAGED_POOL
    } else {
        MDL_PAGES_LOCKED
    };
    mdl.put(8, u16::try_from(MDL_SIZE).unwrap_or(u16::MAX).to_le_bytes());
    mdl.put(10, flags.to_le_bytes());
    mdl.put(24, address.to_le_bytes());
    mdl.put(32, (address & !0xfff).to_le_bytes());
    mdl.put(40, u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    mdl.put(
        44,
        u32::try_from(address & 0xfff).unwrap_or(0).to_le_bytes(),
    );
    mdl
}

/// An I/O request packet.
pub(crate) struct Irp {
    memory: Arc<Guarded>,
    /// The operation.
    pub(crate) major: Major,
    /// The I/O control code.
    pub(crate) code: u32,
    /// How buffers are passed.
    pub(crate) method: Method,
    /// Bytes of input; for a write its length.
    pub(crate) input_len: usize,
    /// Bytes of output; for a read its length.
    pub(crate) output_len: usize,
    /// The file object it is for.
    pub(crate) file: Arc<FileObject>,
    /// The system buffer, where the method has one and there is data.
    pub(crate) system: Option<Guarded>,
    /// The caller's input buffer, where the driver is given its address.
    pub(crate) user_input: Option<Guarded>,
    /// The caller's output buffer.
    pub(crate) user_output: Option<Guarded>,
    /// Describes the caller's buffer for direct I/O.
    pub(crate) mdl: Option<Guarded>,
    cancelled: AtomicBool,
    /// Somebody has begun to complete it.
    claimed: AtomicBool,
    /// Whether it was marked pending, once it is complete.
    marked_pending: AtomicBool,
    /// How it ended. While it is held and empty, the memory may be touched.
    completion: Mutex<Option<Completion>>,
    /// What its sender does when it is complete.
    when_complete: Mutex<Option<Then>>,
}

impl fmt::Debug for Irp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Irp")
            .field("major", &self.major)
            .field("code", &format_args!("{:#x}", self.code))
            .field("completion", &*self.completion.lock())
            .finish_non_exhaustive()
    }
}

impl Irp {
    /// Builds the packet for an operation on `file`, as the I/O manager does before it calls the driver.
    pub(crate) fn new(file: &Arc<FileObject>, parameters: Parameters) -> Self {
        let Parameters {
            major,
            code,
            method,
            input,
            output,
        } = parameters;
        let (input_len, output_len) = (input.len(), output.len());
        let data = match major {
            Major::Write => input_len,
            Major::Read => output_len,
            _ => input_len.max(output_len),
        };
        let block = |bytes: &[u8]| (!bytes.is_empty()).then(|| Guarded::holding(bytes));
        let direct = if major == Major::Write {
            &input
        } else {
            &output
        };
        let (mut system, mut user_input, mut user_output, mut mdl) = (None, None, None, None);
        match method {
            Method::Buffered if data > 0 => {
                let buffer = Guarded::new(data);
                buffer.write(0, &input);
                system = Some(buffer);
            }
            Method::Buffered => {}
            Method::InDirect | Method::OutDirect => {
                if major == Major::DeviceControl {
                    system = block(&input);
                }
                user_output = block(direct);
                mdl = user_output
                    .as_ref()
                    .map(|buffer| make_mdl(buffer.address(), buffer.len(), false));
            }
            Method::Neither => {
                user_input = block(&input);
                user_output = block(&output);
            }
        }
        let irp = Self {
            memory: Arc::new(Guarded::new(IRP_SIZE + STACK_SIZE)),
            major,
            code,
            method,
            input_len,
            output_len,
            file: Arc::clone(file),
            system,
            user_input,
            user_output,
            mdl,
            cancelled: AtomicBool::new(false),
            claimed: AtomicBool::new(false),
            marked_pending: AtomicBool::new(false),
            completion: Mutex::new(None),
            when_complete: Mutex::new(None),
        };
        irp.fill();
        irp
    }

    fn fill(&self) {
        let address = |block: &Option<Guarded>| block.as_ref().map_or(0, Guarded::address);
        let stack = self.address() + IRP_SIZE;
        let memory = &self.memory;
        memory.put(0, 6u16.to_le_bytes());
        memory.put(
            2,
            u16::try_from(IRP_SIZE + STACK_SIZE)
                .unwrap_or(0)
                .to_le_bytes(),
        );
        memory.put(8, address(&self.mdl).to_le_bytes());
        memory.put(24, address(&self.system).to_le_bytes());
        memory.put(64, [1]); // RequestorMode: UserMode
        memory.put(66, [1]); // StackCount
        memory.put(offset::CURRENT_LOCATION, [1]);
        memory.put(112, address(&self.user_output).to_le_bytes());
        memory.put(offset::CURRENT_STACK_LOCATION, stack.to_le_bytes());
        memory.put(192, self.file.address().to_le_bytes());
        let at = IRP_SIZE;
        memory.put(at, [self.major as u8]);
        if self.major == Major::DeviceControl {
            memory.put(
                at + 8,
                u32::try_from(self.output_len)
                    .unwrap_or(u32::MAX)
                    .to_le_bytes(),
            );
            memory.put(
                at + 16,
                u32::try_from(self.input_len)
                    .unwrap_or(u32::MAX)
                    .to_le_bytes(),
            );
            memory.put(at + 24, self.code.to_le_bytes());
            memory.put(at + 32, address(&self.user_input).to_le_bytes());
        } else {
            let len = if self.major == Major::Write {
                self.input_len
            } else {
                self.output_len
            };
            memory.put(at + 8, u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        }
        memory.put(at + 40, self.file.device().address().to_le_bytes());
        memory.put(at + 48, self.file.address().to_le_bytes());
    }

    /// The address of the `IRP`.
    pub(crate) fn address(&self) -> usize {
        self.memory.address()
    }

    /// Sets the thread that made the request (`Tail.Overlay.Thread`).
    pub(crate) fn set_thread(&self, thread: usize) {
        self.memory.put(offset::THREAD, thread.to_le_bytes());
    }

    /// `IoStatus.Information` as it stands.
    pub(crate) fn information(&self) -> usize {
        let bytes = self.memory.read(offset::INFORMATION, 8);
        bytes.try_into().map_or(0, usize::from_le_bytes)
    }

    /// Sets `IoStatus.Information`.
    pub(crate) fn set_information(&self, information: usize) {
        self.memory
            .put(offset::INFORMATION, information.to_le_bytes());
    }

    /// Whether somebody asked for its cancellation.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Asks for its cancellation. The driver's side is told by the caller.
    pub(crate) fn set_cancelled(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        if self.completion.lock().is_none() {
            self.memory.put(offset::CANCEL, [1]);
        }
    }

    /// What it asks for, in words.
    pub(crate) fn describe(&self) -> String {
        match self.major {
            Major::DeviceControl => format!("I/O control {:#x}", self.code),
            other => format!("{other:?}"),
        }
    }

    /// The memory that the driver sees.
    pub(crate) fn memory(&self) -> Arc<Guarded> {
        Arc::clone(&self.memory)
    }

    /// `IoStatus` as the driver has set it.
    pub(crate) fn io_status(&self) -> (NtStatus, usize) {
        let status = self.memory.read(offset::STATUS, 4);
        let status = status.try_into().map_or(0, u32::from_le_bytes);
        (NtStatus::from_u32(status), self.information())
    }

    /// The first to ask completes it.
    pub(crate) fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::SeqCst)
    }

    /// The final status if it is complete, and whether it was marked pending.
    pub(crate) fn progress(&self) -> (Option<NtStatus>, bool) {
        let completion = self.completion.lock();
        let status = completion.as_ref().map(|completion| completion.status);
        let marked = if status.is_some() {
            self.marked_pending.load(Ordering::SeqCst)
        } else {
            self.control() & SL_PENDING_RETURNED != 0
        };
        drop(completion);
        (status, marked)
    }

    fn control(&self) -> u8 {
        self.memory
            .read(offset::CONTROL, 1)
            .first()
            .copied()
            .unwrap_or(0)
    }

    /// `IoMarkIrpPending`.
    pub(crate) fn mark_pending(&self) {
        let completion = self.completion.lock();
        if completion.is_none() {
            self.memory
                .put(offset::CONTROL, [self.control() | SL_PENDING_RETURNED]);
        }
        drop(completion);
    }

    /// Remembers whether it was marked pending, before it is completed.
    pub(crate) fn note_pending(&self) {
        let marked = self.control() & SL_PENDING_RETURNED != 0;
        self.marked_pending.store(marked, Ordering::SeqCst);
    }

    /// The address of its cancel routine; 0 for none.
    pub(crate) fn cancel_routine(&self) -> usize {
        self.memory
            .atomic_usize(offset::CANCEL_ROUTINE)
            .load(Ordering::SeqCst)
    }

    /// `IoSetCancelRoutine`: the routine before. A complete packet has none.
    pub(crate) fn exchange_cancel_routine(&self, routine: usize) -> usize {
        let completion = self.completion.lock();
        let before = if completion.is_none() {
            let slot = self.memory.atomic_usize(offset::CANCEL_ROUTINE);
            slot.swap(routine, Ordering::SeqCst)
        } else {
            0
        };
        drop(completion);
        before
    }

    /// Takes the cancel routine in order to call it, with the IRQL at which the cancel spin lock was taken.
    pub(crate) fn begin_cancel(&self, irql: u8) -> usize {
        let completion = self.completion.lock();
        let routine = if completion.is_none() {
            self.memory.put(offset::CANCEL_IRQL, [irql]);
            let slot = self.memory.atomic_usize(offset::CANCEL_ROUTINE);
            slot.swap(0, Ordering::SeqCst)
        } else {
            0
        };
        drop(completion);
        routine
    }

    /// The bytes that a successful transfer can have, where that is known.
    pub(crate) fn room(&self) -> Option<usize> {
        match (self.major, self.method) {
            (Major::Read, _) => Some(self.output_len),
            (Major::Write, _) => Some(self.input_len),
            (Major::DeviceControl, Method::Buffered | Method::OutDirect) => {
                (self.output_len > 0).then_some(self.output_len)
            }
            _ => None,
        }
    }

    /// The driver has skipped its stack location, which is the current one again.
    pub(crate) fn restore_location(&self) {
        let stack = self.address() + IRP_SIZE;
        self.memory.put(offset::CURRENT_LOCATION, [1]);
        self.memory
            .put(offset::CURRENT_STACK_LOCATION, stack.to_le_bytes());
    }

    /// What is done where it is completed, once it is. Said before it is sent.
    pub(crate) fn when_complete(&self, then: impl FnOnce(&Cpu, &Completion) + Send + 'static) {
        *self.when_complete.lock() = Some(Box::new(then));
    }

    /// How it ended, if it has.
    pub(crate) fn completion(&self) -> Option<Completion> {
        self.completion.lock().clone()
    }

    /// `IoCompleteRequest`: copies a buffered result out and lets go of the file object. `false` when it was
    /// complete already.
    pub(crate) fn complete(&self, cpu: &Cpu, status: NtStatus, information: usize) -> bool {
        {
            let mut completion = self.completion.lock();
            if completion.is_some() {
                return false;
            }
            self.memory.put(offset::STATUS, status.code().to_le_bytes());
            self.set_information(information);
            *completion = Some(Completion {
                status,
                information,
                output: self.output(status, information),
                buffer: self.buffer(status, information),
            });
        }
        let machine = cpu.machine();
        machine.io().irp_completed(cpu, self);
        let then = self.when_complete.lock().take();
        if let (Some(then), Some(completion)) = (then, self.completion()) {
            then(cpu, &completion);
        }
        machine.wake();
        true
    }

    /// What the caller finds in its output buffer.
    fn output(&self, status: NtStatus, information: usize) -> Vec<u8> {
        let filled = information.min(self.output_len);
        match self.method {
            // An error copies nothing; a warning such as STATUS_BUFFER_OVERFLOW does.
            Method::Buffered if status.is_error() => Vec::new(),
            Method::Buffered => self
                .system
                .as_ref()
                .map_or_else(Vec::new, |buffer| buffer.read(0, filled)),
            _ if self.major == Major::Write => Vec::new(),
            _ => self
                .user_output
                .as_ref()
                .map_or_else(Vec::new, |buffer| buffer.read(0, filled)),
        }
    }

    /// The caller's whole output buffer: by direct I/O the driver writes into it whatever length it says.
    fn buffer(&self, status: NtStatus, information: usize) -> Vec<u8> {
        match (&self.user_output, self.method) {
            (Some(buffer), _) => buffer.read(0, buffer.len()),
            (None, Method::Buffered) => {
                let mut bytes = self.output(status, information);
                bytes.resize(self.output_len, 0);
                bytes
            }
            (None, _) => Vec::new(),
        }
    }

    /// Buffers behind whose end the driver wrote, by name.
    pub(crate) fn overrun(&self) -> Option<&'static str> {
        let blocks = [
            ("the IRP", Some(&*self.memory)),
            ("the system buffer", self.system.as_ref()),
            ("the caller's input buffer", self.user_input.as_ref()),
            ("the caller's output buffer", self.user_output.as_ref()),
        ];
        blocks
            .into_iter()
            .find_map(|(name, block)| block.filter(|block| !block.intact()).map(|_| name))
    }
}

impl IoManager {
    /// The process that asked for the operation whose `IRP` is at `address`.
    #[must_use]
    pub fn requestor_process(&self, address: usize) -> Option<u32> {
        self.irp(address).map(|irp| irp.file.caller().process)
    }
}
