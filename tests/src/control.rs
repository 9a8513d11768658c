//! The driver's device.

use std::sync::atomic::{AtomicBool, Ordering};

use ksim::{Bugcheck, Caller, FileHandle, IoResult, Kernel, OpenError, PendingIo};
use portcullis_cli::control::{self, ControlError, Wait};
use portcullis_policy::Options;
use portcullis_proto::device::{ControlCode, WIN32_PATH};
use portcullis_proto::event::{EventRecord, EventsReply};
use portcullis_proto::message::{ReadRequest, Request, SetPolicyRequest};
use portcullis_proto::redirect::RegisterProxyRequest;
use portcullis_proto::status::{CalloutStatus, StatusReply};
use portcullis_proto::{Action, Counter};
use wfp_schema::NtStatus;
use zerocopy::IntoBytes as _;

/// The driver's control device, opened.
#[derive(Debug)]
pub struct Device(FileHandle);

impl control::Device for Device {
    fn control(
        &self,
        code: ControlCode,
        input: &[u8],
        output_size: usize,
    ) -> Result<Vec<u8>, ControlError> {
        told(code, self.ioctl(code.raw(), input, output_size))
    }
}

fn told(code: ControlCode, result: IoResult) -> Result<Vec<u8>, ControlError> {
    if result.status == NtStatus::SUCCESS {
        Ok(result.output)
    } else {
        Err(ControlError::Refused {
            operation: code.name(),
            status: result.status,
        })
    }
}

/// The device as a program has it whose threads wait until the driver has completed their requests, as they do on
/// Windows. Its threads are the host's; what completes the requests happens on another.
#[derive(Debug)]
pub struct Program {
    device: Device,
    is_over: AtomicBool,
}

impl control::Device for Program {
    fn control(
        &self,
        code: ControlCode,
        input: &[u8],
        output_size: usize,
    ) -> Result<Vec<u8>, ControlError> {
        let pending = alive(self.device.0.ioctl_async(code.raw(), input, output_size));
        loop {
            if let Some(result) = pending.poll() {
                return told(code, result);
            }
            if self.is_over.load(Ordering::SeqCst) {
                alive(pending.cancel());
            }
            std::thread::yield_now();
        }
    }
}

impl Program {
    /// A program that has opened the device.
    #[must_use]
    pub const fn new(device: Device) -> Self {
        Self {
            device,
            is_over: AtomicBool::new(false),
        }
    }

    /// Returns when one of its threads waits for the driver.
    pub fn await_waiting(&self) {
        while self.device.0.outstanding() == 0 {
            std::thread::yield_now();
        }
    }

    /// Cancels what its threads wait for from now on.
    pub fn cancel(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// It closes the device.
    pub fn close(self) {
        self.device.close();
    }
}

impl Device {
    /// Opens it.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open(kernel: &Kernel, caller: Caller) -> Result<Self, OpenError> {
        kernel.open(WIN32_PATH, caller).map(Self)
    }

    /// `DeviceIoControl`, which may be pending when it returns.
    #[must_use]
    pub fn ioctl(&self, code: u32, input: &[u8], output_size: usize) -> IoResult {
        alive(self.0.ioctl(code, input, output_size))
    }

    /// The status that `DeviceIoControl` ends with.
    #[must_use]
    pub fn answer(&self, code: ControlCode, input: &[u8], output_size: usize) -> NtStatus {
        self.ioctl(code.raw(), input, output_size).status
    }

    /// Compiles a policy and puts it into force. Every decision makes events.
    pub fn set_policy(&self, toml: &str) {
        let status = self.try_set_policy(&compile(toml));
        assert_eq!(status, NtStatus::SUCCESS, "setting the policy");
    }

    /// Hands a compiled policy over; an empty one withdraws what is in force.
    #[must_use]
    pub fn try_set_policy(&self, policy: &[u8]) -> NtStatus {
        self.answer(ControlCode::SetPolicy, &set_policy_request(policy), 0)
    }

    /// The driver's status and its callouts'.
    #[must_use]
    pub fn status(&self) -> (StatusReply, Vec<CalloutStatus>) {
        control::status(self).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A counter.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        let statistics = control::statistics(self).unwrap_or_else(|error| panic!("{error}"));
        let entry = statistics.into_iter().find(|(known, _)| *known == counter);
        entry
            .map(|(_, value)| value)
            .expect("the driver has the counter")
    }

    /// The program that has opened the device listens there for redirected connections.
    #[must_use]
    pub fn register_proxy(&self, listens: &str, protocol: u8) -> NtStatus {
        let listens = listens.parse().expect("an address with a port");
        let request = RegisterProxyRequest::new(listens, protocol);
        self.answer(ControlCode::RegisterProxy, request.as_bytes(), 0)
    }

    /// Takes all events that wait.
    #[must_use]
    pub fn events(&self) -> Vec<EventRecord> {
        let mut events = Vec::new();
        control::take_events(self, &mut events).unwrap_or_else(|error| panic!("{error}"));
        events
    }

    /// Takes all questions that wait. The program that has opened the device is asked from now on.
    #[must_use]
    pub fn questions(&self) -> Vec<EventRecord> {
        let mut questions = Vec::new();
        while control::take_questions(self, &mut questions, Wait::No)
            .unwrap_or_else(|error| panic!("{error}"))
        {}
        questions
    }

    /// Answers a question. `false`: nobody waits for the answer any more.
    #[must_use]
    pub fn reply(&self, question: &EventRecord, verdict: Action) -> bool {
        control::answer(self, question.question(), verdict)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Begins a read that waits for questions, with room for `count`.
    #[must_use]
    pub fn read_questions(&self, count: usize) -> PendingIo {
        let request = ReadRequest::new(0);
        let size = EventsReply::size_with(count);
        alive(
            self.0
                .ioctl_async(ControlCode::ReadQuestions.raw(), request.as_bytes(), size),
        )
    }

    /// Begins a read that waits for events, with room for `count`.
    #[must_use]
    pub fn read_events(&self, count: usize) -> PendingIo {
        let request = ReadRequest::new(0);
        let size = EventsReply::size_with(count);
        alive(
            self.0
                .ioctl_async(ControlCode::ReadEvents.raw(), request.as_bytes(), size),
        )
    }

    /// Begins a read that waits for a capture's records.
    #[must_use]
    pub fn read_capture(&self, size: usize) -> PendingIo {
        let request = ReadRequest::new(0);
        alive(
            self.0
                .ioctl_async(ControlCode::ReadCapture.raw(), request.as_bytes(), size),
        )
    }

    /// Closes it.
    pub fn close(self) {
        alive(self.0.close());
    }
}

/// The events that a read returned, and how many still waited.
#[must_use]
pub fn events_of(result: &IoResult) -> (Vec<EventRecord>, u32) {
    assert_eq!(result.status, NtStatus::SUCCESS, "reading events");
    let (header, events) = EventsReply::read(&result.output).expect("a reply of this version");
    (events.collect(), header.remaining.get())
}

/// The input that sets a compiled policy.
#[must_use]
pub fn set_policy_request(policy: &[u8]) -> Vec<u8> {
    let size = u32::try_from(policy.len()).expect("fits into a request");
    [SetPolicyRequest::new(size).as_bytes(), policy].concat()
}

/// The input of requests without parameters.
#[must_use]
pub fn plain_request() -> Vec<u8> {
    Request::of::<Request>().as_bytes().to_vec()
}

/// Compiles a policy whose every decision makes events.
#[must_use]
pub fn compile(toml: &str) -> Vec<u8> {
    compile_with(toml, true)
}

/// Compiles a policy; without `events_all` only rules with `log` make events.
#[must_use]
pub fn compile_with(toml: &str, events_all: bool) -> Vec<u8> {
    let options = Options {
        file_name: "policy.toml".to_owned(),
        events_all,
        ..Options::default()
    };
    portcullis_policy::compile(toml, &options)
        .unwrap_or_else(|errors| panic!("{}", portcullis_policy::render(&errors, toml, false)))
        .blob
}

/// What the machine did, which has not stopped.
pub fn alive<T>(result: Result<T, Bugcheck>) -> T {
    result.unwrap_or_else(|bugcheck| panic!("{bugcheck}"))
}
