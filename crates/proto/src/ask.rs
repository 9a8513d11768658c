//! Questions that the driver asks, and the answers.
//!
//! A program that reads questions ([`ReadQuestions`](crate::device::ControlCode::ReadQuestions)) becomes the one that is
//! asked, until it closes the device; there is one at a time, and another is refused (`STATUS_DEVICE_BUSY`). A question
//! is an [`EventRecord`](crate::EventRecord) of the kind [`Asked`](crate::EventKind::Asked): what is asked about, by
//! which rule, and in `value` its number and until when it may be answered. It is handed out once.
//!
//! [`Answer`](crate::device::ControlCode::Answer) answers one. Without an answer in time, and for all of them when the
//! program closes the device, the rule's default decides, which is the record's `verdict`.

use crate::EventRecord;
use crate::message::{Header, RequestError, read_request};
use crate::policy::Action;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Request [`Answer`](crate::device::ControlCode::Answer).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct AnswerRequest {
    /// Size and version.
    pub header: Header,
    /// The question's number.
    pub question: U64,
    /// [`Action::Permit`] or [`Action::Block`].
    pub verdict: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

impl AnswerRequest {
    /// The answer to a question.
    #[must_use]
    pub const fn new(question: u64, verdict: Action) -> Self {
        Self {
            header: Header::of::<Self>(),
            question: U64::new(question),
            verdict: verdict.raw(),
            reserved: [0; 7],
        }
    }

    /// Checks an input buffer; the question's number and its answer.
    ///
    /// # Errors
    /// What is wrong with the request; see [`RequestError`] for the status of each.
    pub fn parse(input: &[u8]) -> Result<(u64, Action), RequestError> {
        let (request, _) = read_request::<Self>(input)?;
        let verdict = Action::from_raw(request.verdict)
            .filter(|verdict| matches!(verdict, Action::Permit | Action::Block))
            .ok_or(RequestError::Reserved)?;
        if request.reserved != [0; 7] {
            return Err(RequestError::Reserved);
        }
        Ok((request.question.get(), verdict))
    }
}

impl EventRecord {
    /// The number of the question that this is, or that it tells of.
    #[must_use]
    pub const fn question(&self) -> u64 {
        self.value[0].get()
    }

    /// Until when the question may be answered, in units of 100 ns since 1601-01-01 UTC (Windows system time).
    #[must_use]
    pub const fn deadline(&self) -> u64 {
        self.value[1].get()
    }
}
