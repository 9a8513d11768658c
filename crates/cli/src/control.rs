//! The driver's control device, typed.

use portcullis_proto::counter::{Counter, StatisticsReply};
use portcullis_proto::device::ControlCode;
use portcullis_proto::event::{EventRecord, EventsReply, ReadEventsRequest};
use portcullis_proto::message::{Request, SetPolicyRequest, VersionReply, read_padded};
use portcullis_proto::status::{CalloutStatus, StatusReply};
use wfp_schema::NtStatus;
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
    /// The reply is not one of this protocol version.
    #[error("the driver's reply to \"{0}\" is not one of this program's protocol version")]
    Reply(&'static str),
    /// The machine stopped.
    #[error("the machine stopped: {0}")]
    Stopped(String),
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

/// Takes all events that wait, oldest first, into `events`.
///
/// # Errors
/// [`ControlError`]
pub fn take_events(
    device: &impl Device,
    events: &mut Vec<EventRecord>,
) -> Result<(), ControlError> {
    loop {
        let request = ReadEventsRequest::new(ReadEventsRequest::NO_WAIT);
        let size = EventsReply::size_with(EVENTS_A_READ);
        let reply = device.control(ControlCode::ReadEvents, request.as_bytes(), size)?;
        let (header, records) =
            EventsReply::read(&reply).ok_or(ControlError::Reply("read events"))?;
        events.extend(records);
        if header.count.get() == 0 || header.remaining.get() == 0 {
            return Ok(());
        }
    }
}
