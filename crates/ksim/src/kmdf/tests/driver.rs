//! A driver for tests: one control device with a default queue and a manual queue.
//!
//! Its state is in thread-local variables of the processor, so tests with it have one processor per kernel.

use wfp_schema::NtStatus;

use crate::access::{In, Out};
use crate::cpu::Cpu;
use crate::kernel::{Bugcheck, Config, Kernel};
use crate::kmdf::abi::{
    BindInfo, ContextType, DriverConfig, FileObjectConfig, ObjectAttributes, ObjectCallback,
    QueueConfig, UnicodeString,
};
use crate::kmdf::buffers::{WdfRequestRetrieveInputBuffer, WdfRequestRetrieveOutputBuffer};
use crate::kmdf::client::{WdfVersionBind, WdfVersionUnbind};
use crate::kmdf::device::{
    WdfControlFinishInitializing, WdfDeviceCreate, WdfDeviceCreateSymbolicLink,
};
use crate::kmdf::device_init::{
    WdfControlDeviceInitAllocate, WdfDeviceInitAssignName, WdfDeviceInitSetFileObjectConfig,
    WdfDeviceInitSetIoType,
};
use crate::kmdf::driver::WdfDriverCreate;
use crate::kmdf::preprocess::WdfDeviceInitAssignWdmIrpPreprocessCallback;
use crate::kmdf::queue_api::WdfIoQueueCreate;
use crate::kmdf::request_api::{
    WdfRequestComplete, WdfRequestCompleteWithInformation, WdfRequestForwardToIoQueue,
    WdfRequestMarkCancelableEx,
};
use crate::verifier::Report;

/// The code of an I/O control of this driver.
pub(super) const fn code(function: u32, method: u32, access: u32) -> u32 {
    0x22 << 16 | access << 14 | function << 2 | method
}

/// Answers with its input reversed.
pub(super) const ECHO: u32 = code(0x800, 0, 0);
/// Keeps the request.
pub(super) const HOLD: u32 = code(0x801, 0, 0);
/// Keeps the request and makes it cancelable.
pub(super) const HOLD_CANCELABLE: u32 = code(0x802, 0, 0);
/// Forwards the request to the manual queue.
pub(super) const FORWARD: u32 = code(0x803, 0, 0);
/// Completes the request twice.
pub(super) const TWICE: u32 = code(0x804, 0, 0);
/// Says that it wrote more than there is room for.
pub(super) const TOO_LONG: u32 = code(0x805, 0, 0);
/// As [`ECHO`], but needs write access.
pub(super) const WRITE_ACCESS: u32 = code(0x806, 0, 2);

/// What the driver remembers.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) globals: usize,
    pub(super) driver: usize,
    pub(super) device: usize,
    pub(super) queue: usize,
    pub(super) manual: usize,
    /// Requests that it keeps, in the order in which they came.
    pub(super) held: Vec<usize>,
    /// What happened, in order.
    pub(super) log: Vec<String>,
    /// What `EvtDeviceFileCreate` answers.
    pub(super) create_status: NtStatusOrSuccess,
}

/// A status whose default is success.
#[derive(Debug, Clone, Copy)]
pub(super) struct NtStatusOrSuccess(pub(super) NtStatus);

impl Default for NtStatusOrSuccess {
    fn default() -> Self {
        Self(NtStatus::SUCCESS)
    }
}

/// Uses the state of the driver on this processor; must not call the framework.
pub(super) fn with<T>(use_state: impl FnOnce(&mut State) -> T) -> T {
    Cpu::current()
        .expect("a processor")
        .locals()
        .with(use_state)
}

pub(super) fn globals() -> usize {
    with(|state| state.globals)
}

pub(super) fn log(line: impl Into<String>) {
    with(|state| state.log.push(line.into()));
}

/// An address that the framework may read.
pub(super) fn at<T>(value: &T) -> In<T> {
    // SAFETY: the framework uses the address during the call only, while the borrow lives.
    unsafe { In::new(value) }
}

/// An address that the framework may write.
pub(super) fn out<T>(value: &mut T) -> Out<T> {
    // SAFETY: as above.
    unsafe { Out::new(value) }
}

/// A string in the driver's memory.
pub(super) struct Text(Vec<u16>);

impl Text {
    pub(super) fn new(text: &str) -> Self {
        Self(text.encode_utf16().collect())
    }

    pub(super) fn unicode(&self) -> UnicodeString {
        let length = u16::try_from(self.0.len() * 2).unwrap();
        // SAFETY: the strings of a test outlive the calls that read them.
        let buffer = unsafe { In::new(self.0.as_ptr()) };
        UnicodeString {
            length,
            maximum_length: length,
            buffer,
        }
    }
}

/// `WDF_OBJECT_ATTRIBUTES_INIT`.
pub(super) const fn attributes() -> ObjectAttributes {
    ObjectAttributes {
        size: 56,
        cleanup: None,
        destroy: None,
        execution_level: 1,
        synchronization_scope: 1,
        parent: 0,
        context_size_override: 0,
        context_type: In::null(),
    }
}

/// A context type named by a number.
pub(super) fn context_type(unique_type: usize, context_size: usize) -> ContextType {
    ContextType {
        size: 40,
        name: at(&b'C'),
        context_size,
        unique_type,
        get_unique_type: None,
    }
}

/// `WDF_IO_QUEUE_CONFIG_INIT` with the driver's dispatch routine, in the form of 1.7.
pub(super) const fn queue_config(dispatch_type: u32) -> QueueConfig {
    QueueConfig {
        size: 80,
        dispatch_type,
        power_managed: 2,
        allow_zero_length: 0,
        default_queue: 0,
        io_default: None,
        io_read: None,
        io_write: None,
        io_device_control: None,
        io_internal_device_control: None,
        io_stop: 0,
        io_resume: 0,
        io_canceled_on_queue: None,
    }
}

pub(super) const SEQUENTIAL: u32 = 1;
pub(super) const PARALLEL: u32 = 2;
pub(super) const MANUAL: u32 = 3;

extern "win64" fn evt_unload(_driver: usize) {
    log("unload");
}

pub(super) extern "win64" fn evt_create(_device: usize, request: usize, _file: usize) {
    log("create");
    let status = with(|state| state.create_status.0);
    WdfRequestComplete(globals(), request, status);
}

pub(super) extern "win64" fn evt_cleanup(_file: usize) {
    log("cleanup");
}

pub(super) extern "win64" fn evt_close(_file: usize) {
    log("close");
}

pub(super) extern "win64" fn evt_cancel(request: usize) {
    log("cancel");
    with(|state| state.held.retain(|held| *held != request));
    WdfRequestComplete(globals(), request, NtStatus::CANCELLED);
}

pub(super) extern "win64" fn evt_control(
    _queue: usize,
    request: usize,
    output: usize,
    _input: usize,
    code: u32,
) {
    let globals = globals();
    match code {
        ECHO | WRITE_ACCESS => echo(request),
        HOLD => with(|state| state.held.push(request)),
        HOLD_CANCELABLE => {
            let status = WdfRequestMarkCancelableEx(globals, request, Some(evt_cancel));
            if status.is_success() {
                with(|state| state.held.push(request));
            } else {
                WdfRequestComplete(globals, request, status);
            }
        }
        FORWARD => {
            let status = WdfRequestForwardToIoQueue(globals, request, with(|state| state.manual));
            if !status.is_success() {
                WdfRequestComplete(globals, request, status);
            }
        }
        TWICE => {
            WdfRequestComplete(globals, request, NtStatus::SUCCESS);
            WdfRequestComplete(globals, request, NtStatus::SUCCESS);
        }
        TOO_LONG => {
            WdfRequestCompleteWithInformation(globals, request, NtStatus::SUCCESS, output + 1);
        }
        _ => WdfRequestComplete(globals, request, NtStatus::INVALID_DEVICE_REQUEST),
    }
}

fn echo(request: usize) {
    let globals = globals();
    let (mut input, mut input_len, mut output, mut output_len) = (0, 0, 0, 0);
    let mut status =
        WdfRequestRetrieveInputBuffer(globals, request, 1, out(&mut input), out(&mut input_len));
    if status.is_success() {
        status = WdfRequestRetrieveOutputBuffer(
            globals,
            request,
            input_len,
            out(&mut output),
            out(&mut output_len),
        );
    }
    let bytes = if status.is_success() { input_len } else { 0 };
    let mut data = read(input, bytes);
    data.reverse();
    write(output, &data);
    WdfRequestCompleteWithInformation(globals, request, status, bytes);
}

/// Reads memory that the framework gave the driver.
pub(super) fn read(address: usize, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    // SAFETY: the framework gave the driver this many bytes there.
    let memory = unsafe { In::<u8>::new(address as *const u8) };
    memory.copy_to(&mut data);
    data
}

/// Writes memory that the framework gave the driver.
pub(super) fn write(address: usize, data: &[u8]) {
    // SAFETY: the framework gave the driver this many bytes there.
    let memory = unsafe { Out::<u8>::new(address as *mut u8) };
    memory.copy_from(data);
}

/// A machine with the driver on it.
pub(super) struct Machine {
    pub(super) kernel: Kernel,
}

/// `DRIVER_OBJECT`, as far as the framework touches it.
#[repr(C, align(16))]
struct DriverObject([usize; 42]);

/// What the device of a test is like.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) sddl: &'static str,
    pub(super) dispatch_type: u32,
    pub(super) io_type: u32,
    pub(super) canceled_on_queue: Option<extern "win64" fn(usize, usize)>,
    pub(super) finish: bool,
    pub(super) preprocess: Option<crate::kmdf::preprocess::Preprocess>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            sddl: "D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GR;;;WD)",
            dispatch_type: PARALLEL,
            io_type: 2,
            canceled_on_queue: None,
            finish: true,
            preprocess: None,
        }
    }
}

pub(super) const DEVICE: &str = "\\\\.\\Test";

/// Binds to version 1.`minor` and gives what the loader answered and the globals.
pub(super) fn bind(minor: u32, functions: u32, table: &mut Vec<usize>) -> (NtStatus, usize) {
    let name: Vec<u16> = "KmdfLibrary\0".encode_utf16().collect();
    let path = Text::new("\\Registry\\Machine\\System\\CurrentControlSet\\Services\\Test");
    table.resize(functions as usize, 0);
    let mut info = BindInfo {
        size: 0x30,
        // SAFETY: the name lives until the end of this function, after the call.
        component: unsafe { In::new(name.as_ptr()) },
        major: 1,
        minor,
        build: 0,
        function_count: functions,
        // SAFETY: the table has as many slots as it says.
        function_table: unsafe { Out::new(table.as_mut_ptr()) },
        module: 0,
    };
    let mut globals = 0;
    let status = WdfVersionBind(
        0x1000,
        at(&path.unicode()),
        out(&mut info),
        out(&mut globals),
    );
    (status, globals)
}

/// Binds and creates the driver object. Both are in the processor's [`State`].
pub(super) fn create_driver() {
    let mut table = Vec::new();
    let (status, globals) = bind(33, 458, &mut table);
    assert_eq!(status, NtStatus::SUCCESS);
    let mut object = DriverObject([0; 42]);
    let path = Text::new("\\Registry\\Machine\\System\\CurrentControlSet\\Services\\Test");
    let config = DriverConfig {
        size: 32,
        device_add: 0,
        unload: Some(evt_unload),
        init_flags: 1,
        pool_tag: 0,
    };
    let mut driver = 0;
    let status = WdfDriverCreate(
        globals,
        // SAFETY: the driver object is not moved during the call.
        unsafe { Out::new((&raw mut object).cast::<u8>()) },
        at(&path.unicode()),
        In::null(),
        at(&config),
        out(&mut driver),
    );
    assert_eq!(status, NtStatus::SUCCESS);
    assert_ne!(object.0[0x68 / 8], 0, "DriverUnload is set");
    with(|state| {
        *state = State {
            globals,
            driver,
            ..State::default()
        }
    });
}

/// Creates a device named `name` with a link of the same name.
pub(super) fn create_device(name: &str, setup: &Setup) -> NtStatus {
    let (globals, driver) = with(|state| (state.globals, state.driver));
    let sddl = Text::new(setup.sddl);
    let mut init = WdfControlDeviceInitAllocate(globals, driver, at(&sddl.unicode()));
    let device_name = Text::new(&format!("\\Device\\{name}"));
    assert_eq!(
        WdfDeviceInitAssignName(globals, init, at(&device_name.unicode())),
        NtStatus::SUCCESS
    );
    WdfDeviceInitSetIoType(globals, init, setup.io_type);
    if setup.preprocess.is_some() {
        let status = WdfDeviceInitAssignWdmIrpPreprocessCallback(
            globals,
            init,
            setup.preprocess,
            0xe,
            In::null(),
            0,
        );
        assert_eq!(status, NtStatus::SUCCESS);
    }
    let files = FileObjectConfig {
        size: 40,
        create: Some(evt_create),
        close: Some(evt_close),
        cleanup: Some(evt_cleanup),
        auto_forward: 2,
        class: 4,
    };
    WdfDeviceInitSetFileObjectConfig(globals, init, at(&files), In::null());
    let mut device = 0;
    let status = WdfDeviceCreate(globals, out(&mut init), In::null(), out(&mut device));
    if !status.is_success() {
        return status;
    }
    assert_eq!(init, 0, "the framework took the WDFDEVICE_INIT");
    with(|state| state.device = device);
    let link = Text::new(&format!("\\DosDevices\\{name}"));
    WdfDeviceCreateSymbolicLink(globals, device, at(&link.unicode()))
}

/// Creates a queue on the device.
pub(super) fn create_queue(
    mut config: QueueConfig,
    attributes: &ObjectAttributes,
) -> Result<usize, NtStatus> {
    let (globals, device) = with(|state| (state.globals, state.device));
    let mut queue = 0;
    let status = WdfIoQueueCreate(
        globals,
        device,
        out(&mut config),
        at(attributes),
        out(&mut queue),
    );
    if status.is_success() {
        Ok(queue)
    } else {
        Err(status)
    }
}

impl Machine {
    /// A machine with nothing but the driver object.
    pub(super) fn bare() -> Self {
        let machine = Self {
            kernel: Kernel::new(&Config::default()).unwrap(),
        };
        machine.run(create_driver);
        machine
    }

    pub(super) fn new(setup: &Setup) -> Self {
        Self::with_kernel(Kernel::new(&Config::default()).unwrap(), setup)
    }

    /// The driver on the first processor of `kernel`.
    pub(super) fn with_kernel(kernel: Kernel, setup: &Setup) -> Self {
        let machine = Self { kernel };
        machine.run(create_driver);
        machine.run(|| {
            assert_eq!(create_device("Test", setup), NtStatus::SUCCESS);
            let mut config = queue_config(setup.dispatch_type);
            config.default_queue = 1;
            if setup.dispatch_type != MANUAL {
                config.io_device_control = Some(evt_control);
            }
            config.io_canceled_on_queue = setup.canceled_on_queue;
            let queue = create_queue(config, &attributes()).unwrap();
            let mut config = queue_config(MANUAL);
            config.io_canceled_on_queue = setup.canceled_on_queue;
            let manual = create_queue(config, &attributes()).unwrap();
            with(|state| (state.queue, state.manual) = (queue, manual));
            if setup.finish {
                let (globals, device) = with(|state| (state.globals, state.device));
                WdfControlFinishInitializing(globals, device);
            }
        });
        machine
    }

    /// Runs `work` as the driver.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.try_run(work).unwrap()
    }

    /// Runs `work` as the driver, which may stop the machine.
    pub(super) fn try_run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Bugcheck> {
        self.kernel.on(0, |_: &Cpu| work())
    }

    /// What happened since this was asked last.
    pub(super) fn take_log(&self) -> Vec<String> {
        self.run(|| with(|state| std::mem::take(&mut state.log)))
    }

    /// The requests that the driver keeps.
    pub(super) fn held(&self) -> Vec<usize> {
        self.run(|| with(|state| state.held.clone()))
    }

    /// Completes the oldest request that the driver keeps.
    pub(super) fn complete_oldest(&self, status: NtStatus) {
        self.run(|| {
            let (globals, request) = with(|state| (state.globals, state.held.remove(0)));
            WdfRequestComplete(globals, request, status);
        });
    }

    /// Unbinds the driver, as its entry point's stub does at unload.
    pub(super) fn unbind(&self) {
        self.run(|| {
            let mut info = [0u8; 0x30];
            // SAFETY: unbinding does not look at the bind information.
            let info = unsafe { Out::new(info.as_mut_ptr().cast()) };
            WdfVersionUnbind(In::null(), info, globals());
        });
    }

    pub(super) fn report(&self) -> Report {
        self.kernel.verifier().report()
    }

    /// The rules that were broken.
    pub(super) fn broken_rules(&self) -> Vec<&'static str> {
        self.report()
            .violations
            .iter()
            .map(|violation| violation.rule)
            .collect()
    }

    /// Nothing was done wrong, and nothing is left when the driver goes.
    pub(super) fn end_clean(self) {
        self.unbind();
        assert_eq!(self.report().violations, []);
        assert_eq!(self.kernel.kmdf().bound_drivers(), 0);
        assert_eq!(self.kernel.io().names(), Vec::<String>::new());
    }
}

/// Two callbacks that note the object, to see in which order they run.
pub(super) const CLEANUP: ObjectCallback = note_cleanup;
pub(super) const DESTROY: ObjectCallback = note_destroy;

extern "win64" fn note_cleanup(object: usize) {
    log(format!("cleanup {}", name_of(object)));
}

extern "win64" fn note_destroy(object: usize) {
    log(format!("destroy {}", name_of(object)));
}

/// The name that the object has in its context of type 1.
fn name_of(object: usize) -> String {
    let info = context_type(1, 16);
    let context =
        crate::kmdf::object_api::WdfObjectGetTypedContextWorker(globals(), object, at(&info));
    assert_ne!(
        context, 0,
        "contexts are there until the last callback has run"
    );
    let bytes = read(context, 16);
    String::from_utf8_lossy(&bytes)
        .trim_end_matches('\0')
        .to_owned()
}

/// Makes a general object named `name` below `parent` (0: the driver) that notes its end.
pub(super) fn create_named(name: &str, parent: usize) -> usize {
    let info = context_type(1, 16);
    let attributes = ObjectAttributes {
        cleanup: Some(CLEANUP),
        destroy: Some(DESTROY),
        parent,
        context_type: at(&info),
        ..attributes()
    };
    let mut object = 0;
    let status =
        crate::kmdf::object_api::WdfObjectCreate(globals(), at(&attributes), out(&mut object));
    assert_eq!(status, NtStatus::SUCCESS);
    let context =
        crate::kmdf::object_api::WdfObjectGetTypedContextWorker(globals(), object, at(&info));
    write(context, name.as_bytes());
    object
}
