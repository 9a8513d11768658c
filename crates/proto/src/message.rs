//! Requests and replies, and how versions are checked.
//!
//! Every message begins with a [`Header`]: its own size and the protocol version of its writer. The rules:
//!
//! - The major version changes when something old is no longer understood; the driver refuses a request of another
//!   major version ([`RequestError::Version`]). The minor version changes when fields are added, always at the end.
//! - A reader takes as many bytes of a message as both sides know: [`read_padded`] fills the rest with zero, so zero
//!   must mean "absent" for any field added later.
//! - Arrays in replies carry the size of one element, so that elements can grow too.
//! - `GetVersion` takes no input and its reply never changes its first fields: ask it first.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The protocol's major version.
pub const PROTOCOL_MAJOR: u16 = 1;
/// The protocol's minor version.
pub const PROTOCOL_MINOR: u16 = 0;

/// The first bytes of each message.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Size in bytes of the message's fixed part, this header included.
    pub size: U32,
    /// Major protocol version of the writer.
    pub major: U16,
    /// Minor protocol version of the writer.
    pub minor: U16,
}

impl Header {
    /// The header of a message whose fixed part is a `T`.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "messages are far smaller than 4 GiB"
    )]
    pub const fn of<T>() -> Self {
        Self {
            size: U32::new(size_of::<T>() as u32),
            major: U16::new(PROTOCOL_MAJOR),
            minor: U16::new(PROTOCOL_MINOR),
        }
    }
}

/// A request without parameters.
pub type Request = Header;

/// Reply to [`GetVersion`](crate::device::ControlCode::GetVersion).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct VersionReply {
    /// Size and protocol version of the driver.
    pub header: Header,
    /// The driver's own version: major, minor, patch, build.
    pub driver: [U16; 4],
    /// The version of the compiled policy's format that the driver reads ([`crate::policy::FORMAT_VERSION`]).
    pub policy_format: U16,
    /// Zero.
    pub reserved: [u8; 6],
}

impl VersionReply {
    /// The reply of a driver of this version.
    #[must_use]
    pub const fn new(driver: [u16; 4]) -> Self {
        let [major, minor, patch, build] = driver;
        Self {
            header: Header::of::<Self>(),
            driver: [
                U16::new(major),
                U16::new(minor),
                U16::new(patch),
                U16::new(build),
            ],
            policy_format: U16::new(crate::policy::FORMAT_VERSION),
            reserved: [0; 6],
        }
    }

    /// Whether this build of the protocol can talk to the driver that sent the reply.
    #[must_use]
    pub const fn is_compatible(&self) -> bool {
        self.header.major.get() == PROTOCOL_MAJOR
    }
}

/// Request [`SetPolicy`](crate::device::ControlCode::SetPolicy); the compiled policy follows at `header.size`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct SetPolicyRequest {
    /// Size and version.
    pub header: Header,
    /// Size in bytes of the policy that follows: exactly the rest of the input. Zero withdraws the policy; without
    /// one the driver has no opinion, and what an earlier one asked to hold at boot does not hold any more.
    pub policy_size: U32,
    /// Zero.
    pub reserved: U32,
}

impl SetPolicyRequest {
    /// The request for a policy of `policy_size` bytes.
    #[must_use]
    pub const fn new(policy_size: u32) -> Self {
        Self {
            header: Header::of::<Self>(),
            policy_size: U32::new(policy_size),
            reserved: U32::ZERO,
        }
    }

    /// Checks an input buffer and returns the compiled policy within it, not yet validated.
    ///
    /// # Errors
    /// What is wrong with the request; see [`RequestError`] for the status of each.
    pub fn policy(input: &[u8]) -> Result<&[u8], RequestError> {
        let (request, fixed) = read_request::<Self>(input)?;
        if request.reserved.get() != 0 {
            return Err(RequestError::Reserved);
        }
        let policy = input.get(fixed..).ok_or(RequestError::Size)?;
        if u32::try_from(policy.len()) != Ok(request.policy_size.get()) {
            return Err(RequestError::Size);
        }
        Ok(policy)
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestError {
    /// The input is shorter than the request's fixed part. Answer: `STATUS_BUFFER_TOO_SMALL`.
    TooShort,
    /// Another major version. Answer: `STATUS_REVISION_MISMATCH`.
    Version,
    /// A size within the request contradicts the input's length. Answer: `STATUS_INVALID_BUFFER_SIZE`.
    Size,
    /// A reserved field is not zero, or an unknown flag is set. Answer: `STATUS_INVALID_PARAMETER`.
    Reserved,
}

/// Reads a request's fixed part and returns it with its size in the input, where any payload begins.
///
/// `T` begins with a [`Header`]. A longer fixed part of a later minor version is accepted if what this version does
/// not know is zero.
///
/// # Errors
/// [`RequestError::TooShort`], [`RequestError::Version`], [`RequestError::Size`], [`RequestError::Reserved`].
pub fn read_request<T: FromBytes>(input: &[u8]) -> Result<(T, usize), RequestError> {
    let (header, _) = Header::read_from_prefix(input).map_err(|_| RequestError::TooShort)?;
    if header.major.get() != PROTOCOL_MAJOR {
        return Err(RequestError::Version);
    }
    let fixed = usize::try_from(header.size.get()).map_err(|_| RequestError::Size)?;
    let known = size_of::<T>();
    if input.len() < known {
        return Err(RequestError::TooShort);
    }
    if fixed < known || fixed > input.len() {
        return Err(RequestError::Size);
    }
    if input
        .get(known..fixed)
        .is_none_or(|unknown| unknown.iter().any(|&byte| byte != 0))
    {
        return Err(RequestError::Reserved);
    }
    let (request, _) = T::read_from_prefix(input).map_err(|_| RequestError::TooShort)?;
    Ok((request, fixed))
}

/// Reads a reply's fixed part as far as its writer filled it; the rest of `T` is zero.
///
/// Returns the message and the size of the writer's fixed part. `None`: shorter than a header, a size beyond the
/// buffer, or another major version.
#[must_use]
pub fn read_padded<T: FromZeros + FromBytes + IntoBytes>(reply: &[u8]) -> Option<(T, usize)> {
    let (header, _) = Header::read_from_prefix(reply).ok()?;
    if header.major.get() != PROTOCOL_MAJOR {
        return None;
    }
    let fixed = usize::try_from(header.size.get()).ok()?;
    let written = reply
        .get(..fixed)
        .filter(|fixed| fixed.len() >= size_of::<Header>())?;
    Some((element(written), fixed))
}

/// The elements of an array of `count` elements of `stride` bytes, each read as far as both sides know it.
pub fn read_array<T: FromZeros + FromBytes + IntoBytes>(
    bytes: &[u8],
    stride: usize,
    count: usize,
) -> impl Iterator<Item = T> {
    bytes
        .chunks_exact(stride.max(1))
        .take(if stride == 0 { 0 } else { count })
        .map(element)
}

fn element<T: FromZeros + FromBytes + IntoBytes>(written: &[u8]) -> T {
    let mut value = T::new_zeroed();
    for (to, from) in value.as_mut_bytes().iter_mut().zip(written) {
        *to = *from;
    }
    value
}

/// Request to read what comes: events, questions or what was captured.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ReadRequest {
    /// Size and version.
    pub header: Header,
    /// [`NO_WAIT`](Self::NO_WAIT) or zero.
    pub flags: U32,
    /// Zero.
    pub reserved: U32,
}

impl ReadRequest {
    /// Complete at once, also with nothing to read. Otherwise the request waits (pended, cancellable) for the first.
    pub const NO_WAIT: u32 = 1;

    /// The request with these flags.
    #[must_use]
    pub const fn new(flags: u32) -> Self {
        Self {
            header: Header::of::<Self>(),
            flags: U32::new(flags),
            reserved: U32::ZERO,
        }
    }

    /// Checks an input buffer.
    ///
    /// # Errors
    /// What is wrong with the request; see [`RequestError`] for the status of each.
    pub fn parse(input: &[u8]) -> Result<Self, RequestError> {
        let (request, _) = read_request::<Self>(input)?;
        if request.flags.get() & !Self::NO_WAIT != 0 || request.reserved.get() != 0 {
            return Err(RequestError::Reserved);
        }
        Ok(request)
    }
}
