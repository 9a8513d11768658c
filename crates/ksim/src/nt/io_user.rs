//! User mode's side of a device: open, control, read, write, cancel, close.
//!
//! Everything here may be called from any host thread, and from a closure that runs on one of the machine's
//! processors; then it happens in place.

use std::sync::Arc;

use wfp_schema::NtStatus;

use super::io::FileObject;
use super::io_irp::{Irp, Major, Method, Parameters};
use super::io_memory::Guarded;
use super::io_security::{Caller, FILE_READ_DATA, FILE_WRITE_DATA};
use crate::cpu::{self, Cpu};
use crate::kernel::{Bugcheck, Kernel};
use crate::sched::Wait;
use crate::time::Ticks;

/// Why a device was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The system or the driver refused.
    #[error("not opened: {0}")]
    Status(NtStatus),
    /// The machine stopped.
    #[error(transparent)]
    Bugcheck(#[from] Bugcheck),
}

/// The result of an operation.
#[derive(Debug)]
pub struct IoResult {
    /// The final status; `STATUS_PENDING` while the driver keeps the request.
    pub status: NtStatus,
    /// Bytes transferred, mostly: `IoStatus.Information`.
    pub information: usize,
    /// The output buffer as far as the driver filled it.
    pub output: Vec<u8>,
    /// The whole output buffer as the program finds it. By direct I/O a driver writes into it whatever length it says.
    pub buffer: Vec<u8>,
    /// The operation itself while it is pending.
    pub pending: Option<PendingIo>,
}

/// An open device. Dropping it is what the end of its process does: its operations are cancelled, and the handle
/// is closed.
#[derive(Debug)]
pub struct FileHandle {
    kernel: Kernel,
    file: Arc<FileObject>,
    open: bool,
}

/// An operation under way.
#[derive(Debug)]
pub struct PendingIo {
    kernel: Kernel,
    irp: Arc<Irp>,
}

/// Memory of a user-mode program, for requests that carry addresses. It ends at a guard page.
#[derive(Debug)]
pub struct UserMemory {
    kernel: Kernel,
    block: Guarded,
}

impl Kernel {
    /// Opens the device at `path` (`\\.\Name`, `\Device\Name`) as `caller`.
    ///
    /// # Errors
    /// - `STATUS_OBJECT_NAME_NOT_FOUND`: there is no such name.
    /// - `STATUS_NO_SUCH_DEVICE`: the driver has not finished initializing the device.
    /// - `STATUS_ACCESS_DENIED`: the device's security descriptor, or an exclusive device that is open.
    /// - What the driver's create routine answered.
    /// - [`Bugcheck`] when the machine stopped.
    pub fn open(&self, path: &str, caller: Caller) -> Result<FileHandle, OpenError> {
        let opened = self.here(|cpu| {
            let file = self.io().prepare_open(path, caller)?;
            let irp = self
                .io()
                .allocate_irp(&file, Parameters::plain(Major::Create));
            self.send(cpu, &irp);
            // An open is synchronous: the program waits for it.
            if irp.completion().is_none() {
                self.wait(cpu, "opening a device", None, || irp.completion().is_some());
            }
            let status = irp
                .completion()
                .map_or(NtStatus::PENDING, |completion| completion.status);
            if !status.is_success() {
                file.dereference(cpu);
                self.run_pending(cpu);
                return Err(status);
            }
            file.set_opened();
            Ok(file)
        })?;
        let file = opened.map_err(OpenError::Status)?;
        Ok(FileHandle {
            kernel: self.clone(),
            file,
            open: true,
        })
    }

    /// Allocates `len` zeroed bytes of a user-mode program.
    #[must_use]
    pub fn user_memory(&self, len: usize) -> UserMemory {
        let block = Guarded::new(len);
        self.io().add_user_memory(block.address(), len, true);
        UserMemory {
            kernel: self.clone(),
            block,
        }
    }

    /// Runs `work` on the processor that the calling thread is, or on the first one.
    pub(crate) fn here<T: Send>(&self, work: impl FnOnce(&Cpu) -> T + Send) -> Result<T, Bugcheck> {
        let index = Cpu::current()
            .filter(|cpu| std::ptr::eq(cpu.machine(), &raw const **self))
            .map_or(0, Cpu::index);
        self.on(index, work)
    }

    /// Calls the driver with `irp`, then does what it left pending.
    fn send(&self, cpu: &Cpu, irp: &Arc<Irp>) {
        irp.set_thread(cpu.thread());
        self.in_process_of(cpu, irp, || irp.file.device().dispatch(cpu, irp));
    }

    /// Calls the driver as the thread of the process that made `irp` does, at `PASSIVE_LEVEL`; then does what it
    /// left pending, which belongs to no process.
    fn in_process_of(&self, cpu: &Cpu, irp: &Irp, call: impl FnOnce()) {
        let irql = cpu.set_irql(cpu::PASSIVE);
        let process = cpu.set_process(self.nt().processes().object(irp.file.caller().process));
        call();
        cpu.set_process(process);
        self.run_pending(cpu);
        cpu.set_irql(irql);
    }
}

impl FileHandle {
    /// `DeviceIoControl` with an output buffer of `output_len` bytes; returns when the driver has completed the
    /// request, or with `STATUS_PENDING` when it keeps it and nothing is left to run.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn ioctl(&self, code: u32, input: &[u8], output_len: usize) -> Result<IoResult, Bugcheck> {
        self.ioctl_async(code, input, output_len)
            .map(PendingIo::into_result)
    }

    /// As [`ioctl`](Self::ioctl), with an output buffer that holds `data`: what a `METHOD_IN_DIRECT` driver reads.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn ioctl_with_data(
        &self,
        code: u32,
        input: &[u8],
        data: &[u8],
    ) -> Result<IoResult, Bugcheck> {
        self.control(code, input, data.to_vec())
            .map(PendingIo::into_result)
    }

    /// Begins a `DeviceIoControl`.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn ioctl_async(
        &self,
        code: u32,
        input: &[u8],
        output_len: usize,
    ) -> Result<PendingIo, Bugcheck> {
        self.control(code, input, vec![0; output_len])
    }

    /// `ReadFile` of `len` bytes.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn read(&self, len: usize) -> Result<IoResult, Bugcheck> {
        let method = self.file.device().read_write_method();
        let parameters = Parameters {
            major: Major::Read,
            code: 0,
            method,
            input: Vec::new(),
            output: vec![0; len],
        };
        self.begin(parameters, FILE_READ_DATA)
            .map(PendingIo::into_result)
    }

    /// `WriteFile` of `data`.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn write(&self, data: &[u8]) -> Result<IoResult, Bugcheck> {
        let method = self.file.device().read_write_method();
        let parameters = Parameters {
            major: Major::Write,
            code: 0,
            method,
            input: data.to_vec(),
            output: Vec::new(),
        };
        self.begin(parameters, FILE_WRITE_DATA)
            .map(PendingIo::into_result)
    }

    /// `CloseHandle`: the driver's cleanup, then, once no operation is pending any more, its close. Operations
    /// that the driver holds are its own to end.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn close(mut self) -> Result<(), Bugcheck> {
        self.close_handle()
    }

    /// The operations of this handle that are not complete.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.kernel.io().outstanding(&self.file).len()
    }

    /// The access that the handle has.
    #[must_use]
    pub fn granted_access(&self) -> u32 {
        self.file.granted()
    }

    fn control(&self, code: u32, input: &[u8], output: Vec<u8>) -> Result<PendingIo, Bugcheck> {
        let required = (code >> 14) & 3;
        let parameters = Parameters {
            major: Major::DeviceControl,
            code,
            method: Method::of_code(code),
            input: input.to_vec(),
            output,
        };
        // FILE_READ_ACCESS and FILE_WRITE_ACCESS of a control code are FILE_READ_DATA and FILE_WRITE_DATA.
        self.begin(parameters, required)
    }

    /// Builds the packet, checks the handle's access, and calls the driver.
    fn begin(&self, parameters: Parameters, required: u32) -> Result<PendingIo, Bugcheck> {
        let irp = self.kernel.here(|cpu| {
            let irp = self.kernel.io().allocate_irp(&self.file, parameters);
            if self.file.granted() & required == required {
                self.kernel.add_irp_memory(&irp);
                self.kernel.send(cpu, &irp);
            } else {
                irp.complete(cpu, NtStatus::ACCESS_DENIED, 0);
            }
            irp
        })?;
        Ok(PendingIo {
            kernel: self.kernel.clone(),
            irp,
        })
    }

    fn close_handle(&mut self) -> Result<(), Bugcheck> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        self.kernel.here(|cpu| {
            let irp = self
                .kernel
                .io()
                .allocate_irp(&self.file, Parameters::plain(Major::Cleanup));
            self.kernel.send(cpu, &irp);
            self.file.dereference(cpu);
            self.kernel.run_pending(cpu);
        })
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        if !self.open || self.kernel.crashed() {
            return;
        }
        let kernel = self.kernel.clone();
        for irp in kernel.io().outstanding(&self.file) {
            // A machine that stops meanwhile has told whoever runs it.
            drop(
                PendingIo {
                    kernel: kernel.clone(),
                    irp,
                }
                .cancel(),
            );
        }
        drop(self.close_handle());
    }
}

impl PendingIo {
    /// The result, if there is one.
    #[must_use]
    pub fn poll(&self) -> Option<IoResult> {
        self.irp.completion().map(|completion| IoResult {
            status: completion.status,
            information: completion.information,
            output: completion.output,
            buffer: completion.buffer,
            pending: None,
        })
    }

    /// Waits in virtual time. What nothing can complete stops the machine, as the program would hang.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn wait(&self) -> Result<IoResult, Bugcheck> {
        self.wait_until(None)?;
        Ok(self.result())
    }

    /// Waits for at most `time` (100 ns) of virtual time; `None` when it is still pending.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn wait_for(&self, time: Ticks) -> Result<Option<IoResult>, Bugcheck> {
        let deadline = self.kernel.time().now().saturating_add(time);
        let outcome = self.wait_until(Some(deadline))?;
        Ok((outcome == Wait::Satisfied).then(|| self.result()))
    }

    /// `CancelIoEx`: asks the driver to end the operation. It is over once [`poll`](Self::poll) says so.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn cancel(&self) -> Result<(), Bugcheck> {
        self.kernel.here(|cpu| {
            if self.irp.completion().is_none() && !self.irp.is_cancelled() {
                self.irp.set_cancelled();
                self.kernel.in_process_of(cpu, &self.irp, || {
                    self.irp.file.device().cancel(cpu, &self.irp);
                });
            }
        })
    }

    fn wait_until(&self, deadline: Option<Ticks>) -> Result<Wait, Bugcheck> {
        self.kernel.here(|cpu| {
            self.kernel
                .wait(cpu, "waiting for an I/O operation", deadline, || {
                    self.irp.completion().is_some()
                })
        })
    }

    fn result(&self) -> IoResult {
        self.poll().unwrap_or_else(|| IoResult {
            status: NtStatus::PENDING,
            information: 0,
            output: Vec::new(),
            buffer: Vec::new(),
            pending: None,
        })
    }

    fn into_result(self) -> IoResult {
        let mut result = self.result();
        if result.status == NtStatus::PENDING {
            result.pending = Some(self);
        }
        result
    }
}

impl Kernel {
    /// The caller's buffers of `irp` are user memory while it lives.
    fn add_irp_memory(&self, irp: &Irp) {
        for block in [&irp.user_input, &irp.user_output].into_iter().flatten() {
            self.io()
                .add_user_memory(block.address(), block.len(), true);
        }
    }
}

impl UserMemory {
    /// Its address, to put into a request.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.block.address() as u64
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.block.len()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.block.len() == 0
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Panics
    /// When they don't fit.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.block.write(offset, bytes);
    }

    /// Its bytes now.
    #[must_use]
    pub fn read(&self) -> Vec<u8> {
        self.block.read(0, self.block.len())
    }
}

impl Drop for UserMemory {
    fn drop(&mut self) {
        self.kernel.io().remove_user_memory(self.block.address());
    }
}
