//! System threads, and what drivers ask about threads.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use wfp_schema::NtStatus;

use super::event::{Dispatcher, kind, size};
use super::process::SYSTEM_PROCESS;
use super::system::HANDLE;
use crate::access::Out;
use crate::cpu::{APC, Callback, Cpu, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::{Bugcheck, Machine};
use crate::sched::Thread;
use crate::verifier::ARGUMENT;

/// How the verifier calls a thread that has not ended.
const THREAD: &str = "system thread";
/// The priority that system threads begin with.
const PRIORITY: i32 = 8;
/// `KPRIORITY` goes from 1 to this for drivers.
const HIGHEST_PRIORITY: i32 = 31;

/// A thread's start routine.
type Start = extern "win64" fn(usize);

std::arch::global_asm!(
    // ksim_run_thread(start, context, place): calls `start(context)` as x64 Windows does, and notes at `place` the
    // stack pointer with which ksim_leave_thread comes back from it.
    ".global ksim_run_thread",
    "ksim_run_thread:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 40",
    "mov [rdx], rsp",
    "mov rcx, rsi",
    "call rdi",
    "2:",
    "add rsp, 40",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    ".global ksim_leave_thread",
    "ksim_leave_thread:",
    "mov rsp, rdi",
    "jmp 2b",
);

unsafe extern "sysv64" {
    fn ksim_run_thread(start: Start, context: usize, place: *mut usize);
    fn ksim_leave_thread(stack: usize) -> !;
}

/// A system thread as drivers know it.
#[derive(Debug)]
struct Entry {
    /// Keeps the object's memory.
    thread: Arc<Thread>,
    handles: u32,
    ended: bool,
    priority: i32,
    /// Where it comes back to when it terminates itself.
    place: Arc<AtomicUsize>,
}

/// The system threads of one machine that run or that somebody can still name.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    by_object: Mutex<HashMap<usize, Entry>>,
    /// The thread's object behind each handle.
    handles: Mutex<HashMap<usize, usize>>,
    next_handle: AtomicUsize,
}

impl Threads {
    /// The object behind a handle.
    pub(super) fn object(&self, handle: usize) -> Option<usize> {
        self.handles.lock().get(&handle).copied()
    }

    /// A handle is closed, if it is a thread's.
    pub(super) fn close(&self, handle: usize) {
        let object = self.handles.lock().remove(&handle);
        if let Some(object) = object
            && let Some(entry) = self.by_object.lock().get_mut(&object)
        {
            entry.handles -= 1;
        }
    }

    /// Forgets the threads that have ended and that nobody can name.
    fn sweep(&self, machine: &Machine) {
        let objects = machine.nt().objects();
        self.by_object.lock().retain(|object, entry| {
            !entry.ended || entry.handles > 0 || objects.is_referenced(*object)
        });
    }
}

/// Starts a thread at `start`, and gives the driver a handle to it.
fn create(
    call: &Call<'_>,
    handle: Out<usize>,
    client: Out<[usize; 2]>,
    start: usize,
    context: usize,
) -> NtStatus {
    if handle.is_null() || start == 0 {
        call.violation(
            &ARGUMENT,
            "a thread without a start routine, or without a place for its handle",
        );
        return NtStatus::INVALID_PARAMETER;
    }
    // SAFETY: the driver's start routine, which has this signature by the function's page.
    let start: Start = unsafe { std::mem::transmute::<usize, Start>(start) };
    let machine = call.machine();
    let threads = machine.nt().threads();
    threads.sweep(machine);
    let place = Arc::new(AtomicUsize::new(0));
    let back = Arc::clone(&place);
    // Held until the thread is noted, so that it cannot end unnoticed.
    let mut by_object = threads.by_object.lock();
    let started = machine
        .scheduler()
        .start_system_thread(call.cpu(), move |cpu| run(cpu, start, context, &back));
    let Ok(thread) = started else {
        return NtStatus::INSUFFICIENT_RESOURCES;
    };
    let object = thread.object();
    // SAFETY: the object belongs to the thread, which the entry keeps.
    let header = unsafe { Out::new(object as *mut u8) };
    Dispatcher::new(call, header).initialize(kind::THREAD, size::THREAD, 0);
    let number = threads.next_handle.fetch_add(4, Ordering::Relaxed);
    // Kernel handles of x64 Windows have their upper half set.
    let value = 0xffff_ffff_8000_1000 + number;
    let id = (thread.id() + 1) * 4;
    by_object.insert(
        object,
        Entry {
            thread,
            handles: 1,
            ended: false,
            priority: PRIORITY,
            place,
        },
    );
    drop(by_object);
    threads.handles.lock().insert(value, object);
    machine.verifier().track(call, THREAD, object, "", 0);
    machine.verifier().track(call, HANDLE, value, "", 0);
    handle.set(value);
    if !client.is_null() {
        client.set([SYSTEM_PROCESS as usize, id]);
    }
    NtStatus::SUCCESS
}

/// The body of a system thread.
fn run(cpu: &Cpu, start: Start, context: usize, place: &AtomicUsize) {
    let object = cpu.thread();
    // The creator notes the thread before it goes on.
    drop(cpu.machine().nt().threads().by_object.lock());
    cpu.enter_driver(
        Callback::new("a system thread", start as usize),
        PASSIVE,
        || {
            // SAFETY: the routine is the driver's, with the signature that it was created with; what it leaves behind on
            // the stack, when it terminates itself, are the driver's own frames.
            unsafe { ksim_run_thread(start, context, place.as_ptr()) };
        },
    );
    let machine = cpu.machine();
    let kept = {
        let mut threads = machine.nt().threads().by_object.lock();
        threads.get_mut(&object).map(|entry| {
            entry.ended = true;
            Arc::clone(&entry.thread)
        })
    };
    machine.verifier().forget(THREAD, object);
    if let Some(thread) = kept {
        // SAFETY: the object belongs to the thread, which is kept here.
        let header = unsafe { Out::new(thread.object() as *mut u8) };
        Dispatcher::existing(header).signal(cpu);
    }
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-pscreatesystemthread>
    fn PsCreateSystemThread(
        call, handle: Out<usize>, access: u32, attributes: usize, process: usize, client: Out<[usize; 2]>, start: usize,
        context: usize,
    ) -> u32,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES.code();
    { create(&call, handle, client, start, context).code() }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iocreatesystemthread>
    fn IoCreateSystemThread(
        call, owner: usize, handle: Out<usize>, access: u32, attributes: usize, process: usize, client: Out<[usize; 2]>,
        start: usize, context: usize,
    ) -> u32,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES.code();
    { create(&call, handle, client, start, context).code() }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-psterminatesystemthread>
    fn PsTerminateSystemThread(call, status: u32) -> u32,
    irql PASSIVE..=PASSIVE;
    {
        let object = call.cpu().thread();
        let place = call.machine().nt().threads().by_object.lock().get(&object).map(|entry| Arc::as_ptr(&entry.place));
        let Some(place) = place else {
            call.violation(&ARGUMENT, "a thread that the driver did not create is terminated");
            return NtStatus::INVALID_PARAMETER.code();
        };
        // SAFETY: the entry keeps the place until the thread has ended, and this is the thread.
        let stack = unsafe { &*place }.load(Ordering::Relaxed);
        if stack == 0 {
            call.machine().crash(Bugcheck::new(0, [0; 4], "a thread is terminated that has not begun"));
        }
        // SAFETY: `ksim_run_thread` is still on this thread's stack at `stack`; between it and here are frames of the
        // driver, and this one, which owns nothing that has to be dropped.
        unsafe { ksim_leave_thread(stack) }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-obreferenceobjectbyhandle>
    fn ObReferenceObjectByHandle(
        call, handle: usize, access: u32, kind: usize, mode: u8, object: Out<usize>, information: Out<[u32; 2]>,
    ) -> u32,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES.code();
    {
        let Some(found) = call.machine().nt().threads().object(handle) else {
            return NtStatus::INVALID_HANDLE.code();
        };
        call.machine().nt().objects().reference(&call, found);
        object.set(found);
        NtStatus::SUCCESS.code()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-psissystemthread>
    fn PsIsSystemThread(call, thread: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    { u8::from(call.machine().nt().threads().by_object.lock().contains_key(&thread)) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kesetprioritythread>
    fn KeSetPriorityThread(call, thread: usize, priority: i32) -> i32,
    irql PASSIVE..=DISPATCH;
    {
        if !(1..=HIGHEST_PRIORITY).contains(&priority) {
            call.violation(&ARGUMENT, format!("a thread's priority is {priority}"));
        }
        let mut threads = call.machine().nt().threads().by_object.lock();
        // Other threads keep theirs: nobody is scheduled by it.
        threads.get_mut(&thread).map_or(PRIORITY, |entry| std::mem::replace(&mut entry.priority, priority))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequeryprioritythread>
    fn KeQueryPriorityThread(call, thread: usize) -> i32,
    irql PASSIVE..=APC;
    { call.machine().nt().threads().by_object.lock().get(&thread).map_or(PRIORITY, |entry| entry.priority) }
}
