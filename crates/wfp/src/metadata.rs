//! The metadata that comes with a classify.

use core::{ffi::c_void, fmt, net::SocketAddr, num::NonZeroU64, ptr::NonNull};

use wfp_schema::{Direction, MetadataFields};
use wfp_sys::FWPS_INCOMING_METADATA_VALUES0;

use crate::{flow::FlowId, redirect::RedirectRecords, sockaddr, values};

/// `FWPS_DISCARD_METADATA0`: who discarded something, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discard {
    /// `FWPS_DISCARD_MODULE0`: 0 the IP layer, 1 the transport, 2 WFP.
    pub module: u32,
    /// The module's reason.
    pub reason: u32,
    /// The run-time identifier of the filter that blocked; 0 if none did.
    pub filter: u64,
}

/// The metadata of one classify. A member exists only if its presence bit is set.
#[derive(Clone, Copy)]
pub struct Metadata<'a> {
    raw: &'a FWPS_INCOMING_METADATA_VALUES0,
}

impl<'a> Metadata<'a> {
    /// # Safety
    /// `raw` is what WFP passes to a classify function, whose call `'a` does not outlive.
    pub(crate) const unsafe fn new(raw: &'a FWPS_INCOMING_METADATA_VALUES0) -> Self {
        Self { raw }
    }

    fn present<T>(self, field: MetadataFields, value: T) -> Option<T> {
        MetadataFields::from_bits(self.raw.currentMetadataValues)
            .contains(field)
            .then_some(value)
    }

    /// Which members are present.
    #[must_use]
    pub const fn fields(&self) -> MetadataFields {
        MetadataFields::from_bits(self.raw.currentMetadataValues)
    }

    /// `FLOW_HANDLE`.
    #[must_use]
    pub fn flow(&self) -> Option<FlowId> {
        let handle = self.present(MetadataFields::FLOW_HANDLE, self.raw.flowHandle)?;
        NonZeroU64::new(handle).map(FlowId::new)
    }

    /// `PROCESS_ID` of the endpoint's owner.
    #[must_use]
    pub fn process_id(&self) -> Option<u64> {
        self.present(MetadataFields::PROCESS_ID, self.raw.processId)
    }

    /// `PROCESS_PATH` in NT form, UTF-16 bytes, usually ending with a NUL.
    #[must_use]
    pub fn process_path(&self) -> Option<&'a [u8]> {
        let path = self.present(MetadataFields::PROCESS_PATH, self.raw.processPath)?;
        // SAFETY: the bit says that the member is valid; it is NULL or a blob of this classify.
        unsafe { values::blob(path) }
    }

    /// `IP_HEADER_SIZE` in bytes.
    #[must_use]
    pub fn ip_header_size(&self) -> Option<u32> {
        self.present(MetadataFields::IP_HEADER_SIZE, self.raw.ipHeaderSize)
    }

    /// `TRANSPORT_HEADER_SIZE` in bytes: inbound how far the header is behind the data, outbound
    /// how long the header at the packet's offset is.
    #[must_use]
    pub fn transport_header_size(&self) -> Option<u32> {
        self.present(
            MetadataFields::TRANSPORT_HEADER_SIZE,
            self.raw.transportHeaderSize,
        )
    }

    /// `COMPARTMENT_ID`: the routing compartment.
    #[must_use]
    pub fn compartment(&self) -> Option<u32> {
        self.present(MetadataFields::COMPARTMENT_ID, self.raw.compartmentId)
    }

    /// `REMOTE_SCOPE_ID` of the remote address.
    #[must_use]
    pub fn remote_scope(&self) -> Option<u32> {
        // SAFETY: the union's other member is the same number in parts.
        let scope = unsafe { self.raw.remoteScopeId.__bindgen_anon_1.Value };
        self.present(MetadataFields::REMOTE_SCOPE_ID, scope)
    }

    /// `TRANSPORT_CONTROL_DATA`: what the socket sends along, as `WSACMSGHDR` structures. They
    /// are the socket's: copy what is needed after the classify.
    #[must_use]
    pub fn control_data(&self) -> Option<&'a [u8]> {
        let start = self.present(MetadataFields::TRANSPORT_CONTROL_DATA, self.raw.controlData)?;
        let length = self.raw.controlDataLength as usize;
        if start.is_null() || length == 0 {
            return None;
        }
        // SAFETY: the bit says that both members are valid; the data live as long as the classify.
        Some(unsafe { core::slice::from_raw_parts(start.cast(), length) })
    }

    /// `TRANSPORT_HEADER_INCLUDE_HEADER`: the IP header that a raw socket wrote itself.
    #[must_use]
    pub fn included_header(&self) -> Option<&'a [u8]> {
        let start = self.present(
            MetadataFields::TRANSPORT_HEADER_INCLUDE_HEADER,
            self.raw.headerIncludeHeader,
        )?;
        let length = self.raw.headerIncludeHeaderLength as usize;
        if start.is_null() || length == 0 {
            return None;
        }
        // SAFETY: as for the control data.
        Some(unsafe { core::slice::from_raw_parts(start.cast(), length) })
    }

    /// `PATH_MTU`: the largest IP packet that the path takes, in bytes.
    #[must_use]
    pub fn path_mtu(&self) -> Option<u32> {
        self.present(MetadataFields::PATH_MTU, self.raw.pathMtu)
    }

    /// `ALE_CLASSIFY_REQUIRED`: the packet will be authorized; at a transport layer it may not be
    /// taken then.
    #[must_use]
    pub const fn is_ale_required(&self) -> bool {
        self.fields()
            .contains(MetadataFields::ALE_CLASSIFY_REQUIRED)
    }

    /// `DISCARD_REASON`, at discard layers.
    #[must_use]
    #[allow(
        clippy::cast_sign_loss,
        reason = "the members of FWPS_DISCARD_MODULE0 are not negative; C makes enumerations signed"
    )]
    pub fn discard(&self) -> Option<Discard> {
        let raw = self.present(MetadataFields::DISCARD_REASON, self.raw.discardMetadata)?;
        Some(Discard {
            module: raw.discardModule as u32,
            reason: raw.discardReason,
            filter: raw.filterId,
        })
    }

    /// `TRANSPORT_ENDPOINT_HANDLE`.
    #[must_use]
    pub fn endpoint(&self) -> Option<u64> {
        self.present(
            MetadataFields::TRANSPORT_ENDPOINT_HANDLE,
            self.raw.transportEndpointHandle,
        )
    }

    /// `ORIGINAL_DESTINATION` of a redirected connection: where it was to go before anybody redirected it.
    #[must_use]
    pub fn original_destination(&self) -> Option<SocketAddr> {
        let address = self.present(
            MetadataFields::ORIGINAL_DESTINATION,
            self.raw.originalDestination,
        )?;
        // SAFETY: the bit says that the member is valid; it is NULL or a SOCKADDR of this classify.
        sockaddr::read_short(unsafe { sockaddr::at(address.cast()) }?)
    }

    /// `LOCAL_REDIRECT_TARGET_PID` of a redirected connection: the local process that it was sent to.
    #[must_use]
    pub fn redirect_target(&self) -> Option<u32> {
        self.present(
            MetadataFields::LOCAL_REDIRECT_TARGET_PID,
            self.raw.localRedirectTargetPID,
        )
    }

    /// `REDIRECT_RECORD_HANDLE`: who has redirected the connection.
    #[must_use]
    pub fn redirect_records(&self) -> Option<RedirectRecords<'a>> {
        let records = self.present(
            MetadataFields::REDIRECT_RECORD_HANDLE,
            self.raw.redirectRecords,
        )?;
        // SAFETY: the bit says that the member is valid, during this classify.
        unsafe { RedirectRecords::new(records) }
    }

    /// `COMPLETION_HANDLE`, present where an operation may be pended.
    #[must_use]
    pub(crate) fn completion_handle(&self) -> Option<NonNull<c_void>> {
        let handle = self.present(MetadataFields::COMPLETION_HANDLE, self.raw.completionHandle)?;
        NonNull::new(handle)
    }

    /// `PACKET_DIRECTION`, present when a connection is authorized again.
    #[must_use]
    #[allow(
        clippy::cast_sign_loss,
        reason = "the members of FWP_DIRECTION are not negative; C makes enumerations signed"
    )]
    pub fn packet_direction(&self) -> Option<Direction> {
        let direction = self.present(MetadataFields::PACKET_DIRECTION, self.raw.packetDirection)?;
        Direction::from_u32(direction as u32)
    }
}

impl fmt::Debug for Metadata<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata")
            .field("fields", &self.fields())
            .finish_non_exhaustive()
    }
}
