//! Requests that a driver sends to another driver's device, on the processor on which it runs.
//!
//! They are made as the system's own. The other driver sees them as it sees a program's.

use std::sync::Arc;

use wfp_schema::NtStatus;

use super::io::FileObject;
use super::io_irp::{Completion, Irp, Major, Parameters};
use super::io_security::Caller;
use crate::cpu::Cpu;
use crate::sched::Wait;
use crate::time::Ticks;

/// Opens the device at `path`.
///
/// # Errors
/// That there is no such device, or what its driver answered.
pub(crate) fn open(cpu: &Cpu, path: &str) -> Result<Arc<FileObject>, NtStatus> {
    let io = cpu.machine().io();
    let file = io.prepare_open(path, Caller::system())?;
    let opened = send(cpu, &file, Parameters::plain(Major::Create), None);
    let status = opened.map_or_else(|status| status, |completion| completion.status);
    if status.is_success() {
        file.set_opened();
        Ok(file)
    } else {
        file.dereference(cpu);
        Err(status)
    }
}

/// Sends a request and waits until it is completed. After `timeout` it is cancelled.
///
/// # Errors
/// `STATUS_IO_TIMEOUT` when it was cancelled for that.
pub(crate) fn send(
    cpu: &Cpu,
    file: &Arc<FileObject>,
    parameters: Parameters,
    timeout: Option<Ticks>,
) -> Result<Completion, NtStatus> {
    let machine = cpu.machine();
    let irp = machine.io().allocate_irp(file, parameters);
    irp.set_thread(cpu.thread());
    file.device().dispatch(cpu, &irp);
    let deadline = timeout.map(|timeout| machine.time().now().saturating_add(timeout));
    let complete = |irp: &Irp| irp.completion().is_some();
    let wait = |deadline| {
        machine.wait(cpu, "a request to another driver", deadline, || {
            complete(&irp)
        })
    };
    let in_time = complete(&irp) || wait(deadline) == Wait::Satisfied;
    if !in_time {
        irp.set_cancelled();
        file.device().cancel(cpu, &irp);
        if !complete(&irp) {
            wait(None);
        }
    }
    match irp.completion() {
        Some(completion) if in_time || completion.status.is_success() => Ok(completion),
        _ => Err(NtStatus::IO_TIMEOUT),
    }
}

/// Closes what [`open`] opened.
pub(crate) fn close(cpu: &Cpu, file: &Arc<FileObject>) {
    // Cleanup has no result that anybody could use.
    send(cpu, file, Parameters::plain(Major::Cleanup), None).ok();
    file.dereference(cpu);
}
