//! The driver's control device, typed.

use std::net::SocketAddr;

use portcullis_proto::Action;
use portcullis_proto::ask::AnswerRequest;
use portcullis_proto::capture::{CaptureReply, StartCaptureRequest};
use portcullis_proto::counter::{Counter, StatisticsReply};
use portcullis_proto::device::ControlCode;
use portcullis_proto::event::{EventRecord, EventsReply};
use portcullis_proto::filter::{DescribeFilterRequest, FilterReply};
use portcullis_proto::message::{
    ReadRequest, Request, SetPolicyRequest, VersionReply, read_padded,
};
use portcullis_proto::redirect::RegisterProxyRequest;
use portcullis_proto::status::{CalloutStatus, StatusReply};
use wfp_schema::NtStatus;

use crate::live::FilterName;
use zerocopy::IntoBytes as _;

/// Why the driver could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The driver refused.
    #[error("the driver refused to {operation}: {status}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// Its answer.
        status: NtStatus,
    },
    /// The device cannot be opened.
    #[error("{}", cannot_open(.0))]
    Open(std::io::Error),
    /// The reply is not one of this protocol version.
    #[error("the driver's reply to \"{0}\" is not one of this program's protocol version")]
    Reply(&'static str),
    /// The machine stopped.
    #[error("the machine stopped: {0}")]
    Stopped(String),
}

fn cannot_open(error: &std::io::Error) -> String {
    use std::io::ErrorKind;

    let why = match error.kind() {
        ErrorKind::NotFound => "the driver does not run on this machine (sc start portcullis)",
        ErrorKind::PermissionDenied => "this program needs to run as administrator",
        _ => "the driver's control device",
    };
    format!("{why}: {error}")
}

/// Something that `DeviceIoControl` can be called on.
pub trait Device {
    /// Calls it; the output is as long as the driver made it, `output_size` at most.
    ///
    /// # Errors
    /// The driver's status, or that there is no driver any more.
    fn control(
        &self,
        code: ControlCode,
        input: &[u8],
        output_size: usize,
    ) -> Result<Vec<u8>, ControlError>;
}

/// Events asked for with one read: a record is more than a kilobyte, and reads mostly find a few.
const EVENTS_A_READ: usize = 32;
/// More callouts than any version of the driver has.
const MOST_CALLOUTS: usize = 256;

/// Asks for the driver's version.
///
/// # Errors
/// [`ControlError`]
pub fn version(device: &impl Device) -> Result<VersionReply, ControlError> {
    let reply = device.control(ControlCode::GetVersion, &[], size_of::<VersionReply>())?;
    read_padded::<VersionReply>(&reply)
        .map(|(version, _)| version)
        .filter(VersionReply::is_compatible)
        .ok_or(ControlError::Reply("get version"))
}

/// Asks for the driver's status and that of each of its callouts.
///
/// # Errors
/// [`ControlError`]
pub fn status(device: &impl Device) -> Result<(StatusReply, Vec<CalloutStatus>), ControlError> {
    let size = StatusReply::size_with(MOST_CALLOUTS);
    let reply = device.control(
        ControlCode::GetStatus,
        Request::of::<Request>().as_bytes(),
        size,
    )?;
    let (status, callouts) = StatusReply::read(&reply).ok_or(ControlError::Reply("get status"))?;
    Ok((status, callouts.collect()))
}

/// Asks for every counter.
///
/// # Errors
/// [`ControlError`]
pub fn statistics(device: &impl Device) -> Result<Vec<(Counter, u64)>, ControlError> {
    let request = Request::of::<Request>();
    let reply = device.control(
        ControlCode::GetStatistics,
        request.as_bytes(),
        StatisticsReply::SIZE,
    )?;
    Ok(StatisticsReply::read(&reply)
        .ok_or(ControlError::Reply("get statistics"))?
        .collect())
}

/// Puts a compiled policy into force; an empty one withdraws the policy.
///
/// # Errors
/// [`ControlError`]
pub fn set_policy(device: &impl Device, policy: &[u8]) -> Result<(), ControlError> {
    let size = u32::try_from(policy.len()).unwrap_or(u32::MAX);
    let mut input = SetPolicyRequest::new(size).as_bytes().to_vec();
    input.extend_from_slice(policy);
    device.control(ControlCode::SetPolicy, &input, 0).map(drop)
}

/// Says that the program that has opened the device listens there for redirected connections of this protocol (TCP 6,
/// UDP 17, 0 for both), as long as the device is open.
///
/// # Errors
/// [`ControlError`]; another proxy listens there, or there are too many.
pub fn register_proxy(
    device: &impl Device,
    listens: SocketAddr,
    protocol: u8,
) -> Result<(), ControlError> {
    let request = RegisterProxyRequest::new(listens, protocol);
    device
        .control(ControlCode::RegisterProxy, request.as_bytes(), 0)
        .map(drop)
}

/// Takes all events that wait, oldest first, into `events`.
///
/// # Errors
/// [`ControlError`]
pub fn take_events(
    device: &impl Device,
    events: &mut Vec<EventRecord>,
) -> Result<(), ControlError> {
    loop {
        let more = take(device, ControlCode::ReadEvents, events, Wait::No)?;
        if !more {
            return Ok(());
        }
    }
}

/// Takes questions, oldest first, into `questions`, as many as the driver hands out at once. Whoever does becomes the
/// program that is asked, until it closes the device. Returns whether there are more.
///
/// # Errors
/// [`ControlError`]; `STATUS_DEVICE_BUSY` if another program is asked.
pub fn take_questions(
    device: &impl Device,
    questions: &mut Vec<EventRecord>,
    wait: Wait,
) -> Result<bool, ControlError> {
    take(device, ControlCode::ReadQuestions, questions, wait)
}

/// Answers a question: permit or block. `false`: it was not waiting for an answer any more.
///
/// # Errors
/// [`ControlError`]
pub fn answer(device: &impl Device, question: u64, verdict: Action) -> Result<bool, ControlError> {
    let request = AnswerRequest::new(question, verdict);
    match device.control(ControlCode::Answer, request.as_bytes(), 0) {
        Ok(_) => Ok(true),
        Err(ControlError::Refused { status, .. }) if status == NtStatus::NOT_FOUND => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a read waits for the first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It returns at once, perhaps with none.
    No,
    /// It waits.
    ForOne,
}

/// Reads once. Returns whether there is more.
fn take(
    device: &impl Device,
    code: ControlCode,
    records: &mut Vec<EventRecord>,
    wait: Wait,
) -> Result<bool, ControlError> {
    let request = ReadRequest::new(match wait {
        Wait::No => ReadRequest::NO_WAIT,
        Wait::ForOne => 0,
    });
    let size = EventsReply::size_with(EVENTS_A_READ);
    let reply = device.control(code, request.as_bytes(), size)?;
    let (header, read) =
        EventsReply::read(&reply).ok_or_else(|| ControlError::Reply(code.name()))?;
    records.extend(read);
    Ok(header.count.get() != 0 && header.remaining.get() != 0)
}

/// Starts a capture, which ends with the device's handle.
///
/// # Errors
/// [`ControlError`]
pub fn start_capture(
    device: &impl Device,
    request: &StartCaptureRequest,
) -> Result<(), ControlError> {
    device
        .control(ControlCode::StartCapture, request.as_bytes(), 0)
        .map(drop)
}

/// Reads what was captured, as much as fits into a large reply; with `wait` at least one record.
///
/// # Errors
/// [`ControlError`]
pub fn read_capture(
    device: &impl Device,
    snap_length: u32,
    wait: bool,
) -> Result<Vec<u8>, ControlError> {
    /// Room for many packets of the usual size.
    const ROOM: usize = 256 << 10;

    let flags = if wait { 0 } else { ReadRequest::NO_WAIT };
    let request = ReadRequest::new(flags);
    let size = CaptureReply::size_for(snap_length).max(ROOM);
    device.control(ControlCode::ReadCapture, request.as_bytes(), size)
}

/// Stops the capture; what was captured can still be read.
///
/// # Errors
/// [`ControlError`]
pub fn stop_capture(device: &impl Device) -> Result<(), ControlError> {
    let request = Request::of::<Request>();
    device
        .control(ControlCode::StopCapture, request.as_bytes(), 0)
        .map(drop)
}

/// Asks whose a filter is.
///
/// # Errors
/// [`ControlError`]; the filter may be gone by now.
pub fn describe_filter(device: &impl Device, filter: u64) -> Result<FilterName, ControlError> {
    let request = DescribeFilterRequest::new(filter);
    let size = size_of::<FilterReply>();
    let reply = device.control(ControlCode::DescribeFilter, request.as_bytes(), size)?;
    let reply = FilterReply::read(&reply).ok_or(ControlError::Reply("describe a filter"))?;
    let text = |name: &portcullis_proto::filter::Name| {
        String::from_utf16_lossy(&name.units().collect::<Vec<_>>())
    };
    Ok(FilterName {
        is_ours: reply.flags.get() & FilterReply::OURS != 0,
        name: text(&reply.name),
        provider: text(&reply.provider),
    })
}

/// Waits until there are events and takes some, oldest first, into `events`. The device does nothing else meanwhile.
///
/// # Errors
/// [`ControlError`]
pub fn wait_for_events(
    device: &impl Device,
    events: &mut Vec<EventRecord>,
) -> Result<(), ControlError> {
    take(device, ControlCode::ReadEvents, events, Wait::ForOne).map(drop)
}
