//! Control requests: what user mode may ask of the driver.
//!
//! Whatever is wrong with a request has a status of its own, and changes nothing.

use kmdf::{Driver, Request};
use portcullis_core::Endpoint;
use portcullis_proto::{
    Counter,
    ask::AnswerRequest,
    capture::StartCaptureRequest,
    counter::StatisticsReply,
    device::ControlCode,
    filter::{DescribeFilterRequest, FilterReply},
    message::{
        ReadRequest, Request as Parameterless, RequestError, SetPolicyRequest, VersionReply,
        read_request,
    },
    redirect::RegisterProxyRequest,
    status::StatusReply,
};
use wdk_sys::{ULONG, WDFQUEUE, WDFREQUEST};
use wfp::{NtStatus, Result, irql::Passive};
use zerocopy::IntoBytes;

use crate::{
    ask, callouts, capture, device, events, flows, management, policy, redirect,
    state::{self, Core},
};

/// The driver's version: major, minor, patch, build.
const VERSION: [u16; 4] = [
    number(env!("CARGO_PKG_VERSION_MAJOR")),
    number(env!("CARGO_PKG_VERSION_MINOR")),
    number(env!("CARGO_PKG_VERSION_PATCH")),
    0,
];

const fn number(digits: &str) -> u16 {
    match u16::from_str_radix(digits, 10) {
        Ok(number) => number,
        Err(_) => panic!("cargo's version numbers are numbers"),
    }
}

/// Lets requests arrive.
pub(crate) fn open(_driver: Driver, _passive: Passive) -> Result {
    device::open()
}

/// Refuses new requests, completes those that wait, lets go what is held, and waits until it has been decided.
pub(crate) fn close(passive: Passive) {
    state::begin_stopping();
    device::purge_queues();
    device::stop_ask_timer(passive);
    ask::abandon(passive);
    ask::settle(passive);
}

/// `EvtIoDeviceControl`.
///
/// # Safety
/// Called by the framework, with a request that is the driver's from now on.
pub(crate) unsafe extern "C" fn control(
    _queue: WDFQUEUE,
    request: WDFREQUEST,
    _output_length: usize,
    _input_length: usize,
    control_code: ULONG,
) {
    // SAFETY: the framework has just handed the request over.
    let request = unsafe { Request::new(request) };
    // SAFETY: the queue's execution level is passive.
    let passive = unsafe { Passive::assume() };
    let Some(core) = state::core() else {
        return request.complete(Err(NtStatus::DEVICE_NOT_READY));
    };
    if state::is_stopping() {
        core.statistics().count(Counter::RequestRefused);
        return request.complete(Err(NtStatus::DELETE_PENDING));
    }
    dispatch(core, request, control_code, passive);
}

fn dispatch(core: &Core, mut request: Request, control_code: u32, passive: Passive) {
    let result = match ControlCode::from_raw(control_code) {
        Some(ControlCode::GetVersion) => get_version(&mut request),
        Some(ControlCode::GetStatus) => {
            parameterless(&request).and_then(|()| get_status(core, &mut request))
        }
        Some(ControlCode::GetStatistics) => {
            parameterless(&request).and_then(|()| get_statistics(core, &mut request))
        }
        Some(
            what
            @ (ControlCode::ReadEvents | ControlCode::ReadQuestions | ControlCode::ReadCapture),
        ) => match ReadRequest::parse(request.input()) {
            Ok(parameters) => {
                let no_wait = parameters.flags.get() & ReadRequest::NO_WAIT != 0;
                return match what {
                    ControlCode::ReadQuestions => ask::read(core, request, no_wait),
                    ControlCode::ReadCapture => capture::read(request, no_wait, passive),
                    _ => events::read(core, request, no_wait),
                };
            }
            Err(error) => Err(Refusal::Request(error)),
        },
        Some(ControlCode::SetPolicy) => set_policy(core, &request, passive),
        Some(ControlCode::RegisterProxy) => register_proxy(&request),
        Some(ControlCode::Answer) => answer(core, &request, passive),
        Some(ControlCode::StartCapture) => start_capture(&request, passive),
        Some(ControlCode::StopCapture) => parameterless(&request).and_then(|()| {
            capture::stop(request.file(), passive)
                .map(|()| 0)
                .map_err(Refusal::Failed)
        }),
        Some(ControlCode::DescribeFilter) => describe_filter(&mut request, passive),
        None => Err(Refusal::Unknown),
    };
    request.complete(result.map_err(|refusal| refusal.count(core)));
}

/// Why a request fails.
enum Refusal {
    /// Its input is wrong.
    Request(RequestError),
    /// Its output does not fit.
    OutputTooSmall,
    /// Its code is unknown.
    Unknown,
    /// What it asks for failed.
    Failed(NtStatus),
}

impl Refusal {
    /// Counts the refusal and gives its status.
    fn count(self, core: &Core) -> NtStatus {
        let (counter, status) = match self {
            Self::Request(RequestError::TooShort) => {
                (Counter::RequestTooShort, NtStatus::BUFFER_TOO_SMALL)
            }
            Self::Request(RequestError::Version) => {
                (Counter::RequestVersion, NtStatus::REVISION_MISMATCH)
            }
            Self::Request(RequestError::Size) => {
                (Counter::RequestInvalid, NtStatus::INVALID_BUFFER_SIZE)
            }
            Self::Request(RequestError::Reserved) => {
                (Counter::RequestInvalid, NtStatus::INVALID_PARAMETER)
            }
            Self::OutputTooSmall => (Counter::OutputTooSmall, NtStatus::BUFFER_TOO_SMALL),
            Self::Unknown => (Counter::RequestUnknown, NtStatus::INVALID_DEVICE_REQUEST),
            // Counted where it failed.
            Self::Failed(status) => return status,
        };
        core.statistics().count(counter);
        status
    }
}

// What answers a request stays a function of its own: only one of them is needed at a time, and a kernel's stack is small.

type Answer = core::result::Result<usize, Refusal>;

fn parameterless(request: &Request) -> core::result::Result<(), Refusal> {
    read_request::<Parameterless>(request.input())
        .map(|_| ())
        .map_err(Refusal::Request)
}

/// Takes no input, so that a program of any protocol version may ask.
fn get_version(request: &mut Request) -> Answer {
    VersionReply::new(VERSION)
        .write_to_prefix(request.output())
        .map(|()| size_of::<VersionReply>())
        .map_err(|_| Refusal::OutputTooSmall)
}

#[inline(never)]
fn get_statistics(core: &Core, request: &mut Request) -> Answer {
    StatisticsReply::write(&core.statistics().snapshot(), request.output())
        .ok_or(Refusal::OutputTooSmall)
}

#[inline(never)]
fn get_status(core: &Core, request: &mut Request) -> Answer {
    let policy = core.policy().summary();
    let flows = core.flows();
    let mut status = StatusReply {
        state: state::get().into(),
        policy_epoch: policy.epoch.into(),
        policy_hash: policy.hash.into(),
        policy_rules: bounded(policy.rules).into(),
        flows: flows.len().into(),
        flow_capacity: flows::MOST.into(),
        events: bounded(core.events().len()).into(),
        event_capacity: bounded(core.events().capacity()).into(),
        held: ask::held().into(),
        boot_filters: management::boot_filters().into(),
        started: state::started().into(),
        ..zerocopy::FromZeros::new_zeroed()
    };
    for (place, error) in status.errors.iter_mut().zip(state::errors()) {
        *place = error.into();
    }
    let callouts = callouts::entries().map(|entry| entry.status());
    status
        .write(callouts, request.output())
        .ok_or(Refusal::OutputTooSmall)
}

#[inline(never)]
fn set_policy(core: &Core, request: &Request, passive: Passive) -> Answer {
    let policy = SetPolicyRequest::policy(request.input()).map_err(Refusal::Request)?;
    policy::set(core, policy, passive)
        .map(|()| 0)
        .map_err(Refusal::Failed)
}

/// The process that asks listens there, as long as its handle is open.
#[inline(never)]
fn register_proxy(request: &Request) -> Answer {
    let (listens, protocol) =
        RegisterProxyRequest::parse(request.input()).map_err(Refusal::Request)?;
    let file = request
        .file()
        .ok_or(Refusal::Failed(NtStatus::INVALID_HANDLE))?;
    let endpoint = Endpoint::new(listens.ip(), listens.port());
    redirect::register(endpoint, protocol, request.process_id(), file)
        .map(|()| 0)
        .map_err(Refusal::Failed)
}

#[inline(never)]
fn answer(core: &Core, request: &Request, passive: Passive) -> Answer {
    let (question, action) = AnswerRequest::parse(request.input()).map_err(Refusal::Request)?;
    ask::answer(core, request, question, action, passive)
        .map(|()| 0)
        .map_err(Refusal::Failed)
}

#[inline(never)]
fn start_capture(request: &Request, passive: Passive) -> Answer {
    let parameters = StartCaptureRequest::parse(request.input()).map_err(Refusal::Request)?;
    capture::start(parameters, request.file(), passive)
        .map(|()| 0)
        .map_err(Refusal::Failed)
}

#[inline(never)]
fn describe_filter(request: &mut Request, passive: Passive) -> Answer {
    let parameters = DescribeFilterRequest::parse(request.input()).map_err(Refusal::Request)?;
    let reply =
        management::describe_filter(parameters.filter.get(), passive).map_err(Refusal::Failed)?;
    reply
        .write_to_prefix(request.output())
        .map(|()| size_of::<FilterReply>())
        .map_err(|_| Refusal::OutputTooSmall)
}

/// A count for a reply.
fn bounded(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
