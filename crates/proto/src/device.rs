//! The control device: its names, who may open it, and its I/O control codes.

use crate::wire::wire_enum;

/// Name of the device object in the object manager's namespace.
pub const DEVICE_NAME: &str = r"\Device\Portcullis";

/// Name of the symbolic link that makes the device visible to Win32.
pub const SYMBOLIC_LINK_NAME: &str = r"\DosDevices\Portcullis";

/// What a Win32 program passes to `CreateFile`.
pub const WIN32_PATH: &str = r"\\.\Portcullis";

/// The device's security descriptor: full access for SYSTEM and Administrators, none for anyone else, no inheritance.
/// (SDDL of `IoCreateDeviceSecure` / `WdfControlDeviceInitAllocate`.)
pub const SECURITY_DESCRIPTOR: &str = "D:P(A;;GA;;;SY)(A;;GA;;;BA)";

/// The device type in every code: `FILE_DEVICE_NETWORK`.
pub const DEVICE_TYPE: u32 = 0x12;

const METHOD_BUFFERED: u32 = 0;
const FILE_READ_DATA: u32 = 1;
const FILE_WRITE_DATA: u32 = 2;

/// `CTL_CODE(DEVICE_TYPE, function, METHOD_BUFFERED, access)`; functions from 0x800 are the vendor's.
const fn control_code(function: u32, access: u32) -> u32 {
    (DEVICE_TYPE << 16) | (access << 14) | (function << 2) | METHOD_BUFFERED
}

wire_enum! {
    /// An I/O control code. All are `METHOD_BUFFERED`; those that only read need a handle opened for reading
    /// (`FILE_READ_DATA`), those that change something one opened for writing (`FILE_WRITE_DATA`).
    pub enum ControlCode: u32 {
        /// In: nothing. Out: [`VersionReply`](crate::message::VersionReply).
        GetVersion = 0x0012_6000, "get version";
        /// In: [`Request`](crate::message::Request). Out: [`StatusReply`](crate::status::StatusReply), then its callouts.
        GetStatus = 0x0012_6004, "get status";
        /// In: [`Request`](crate::message::Request). Out: [`StatisticsReply`](crate::counter::StatisticsReply).
        GetStatistics = 0x0012_6008, "get statistics";
        /// In: [`ReadRequest`](crate::message::ReadRequest).
        /// Out: [`EventsReply`](crate::event::EventsReply), then its events.
        ReadEvents = 0x0012_600c, "read events";
        /// In: [`SetPolicyRequest`](crate::message::SetPolicyRequest), then the compiled policy. Out: nothing.
        SetPolicy = 0x0012_a010, "set policy";
        /// In: [`RegisterProxyRequest`](crate::redirect::RegisterProxyRequest). Out: nothing.
        RegisterProxy = 0x0012_a080, "register a proxy";
        /// In: [`ReadRequest`](crate::message::ReadRequest).
        /// Out: [`EventsReply`](crate::event::EventsReply), then the questions; see [`ask`](crate::ask).
        ReadQuestions = 0x0012_e014, "read questions";
        /// In: [`AnswerRequest`](crate::ask::AnswerRequest). Out: nothing.
        Answer = 0x0012_a018, "answer";
        /// Begins the capture, which ends with the handle. In:
        /// [`StartCaptureRequest`](crate::capture::StartCaptureRequest). Out: nothing. `STATUS_DEVICE_BUSY` while there
        /// is another.
        StartCapture = 0x0012_a0c0, "start a capture";
        /// Of the handle that has begun the capture. In: [`ReadRequest`](crate::message::ReadRequest).
        /// Out: [`CaptureReply`](crate::capture::CaptureReply), then its records.
        ReadCapture = 0x0012_60c4, "read the capture";
        /// Of the handle that has begun the capture: it takes no more packets; what it has can still be read. In:
        /// [`Request`](crate::message::Request). Out: nothing.
        StopCapture = 0x0012_a0c8, "stop the capture";
        /// In: [`DescribeFilterRequest`](crate::filter::DescribeFilterRequest). Out:
        /// [`FilterReply`](crate::filter::FilterReply).
        DescribeFilter = 0x0012_60cc, "describe a filter";
    }
}

const _: () = {
    assert!(ControlCode::GetVersion.raw() == control_code(0x800, FILE_READ_DATA));
    assert!(ControlCode::GetStatus.raw() == control_code(0x801, FILE_READ_DATA));
    assert!(ControlCode::GetStatistics.raw() == control_code(0x802, FILE_READ_DATA));
    assert!(ControlCode::ReadEvents.raw() == control_code(0x803, FILE_READ_DATA));
    assert!(ControlCode::SetPolicy.raw() == control_code(0x804, FILE_WRITE_DATA));
    assert!(ControlCode::RegisterProxy.raw() == control_code(0x820, FILE_WRITE_DATA));
    assert!(
        ControlCode::ReadQuestions.raw() == control_code(0x805, FILE_READ_DATA | FILE_WRITE_DATA)
    );
    assert!(ControlCode::Answer.raw() == control_code(0x806, FILE_WRITE_DATA));
    assert!(ControlCode::StartCapture.raw() == control_code(0x830, FILE_WRITE_DATA));
    assert!(ControlCode::ReadCapture.raw() == control_code(0x831, FILE_READ_DATA));
    assert!(ControlCode::StopCapture.raw() == control_code(0x832, FILE_WRITE_DATA));
    assert!(ControlCode::DescribeFilter.raw() == control_code(0x833, FILE_READ_DATA));
};
