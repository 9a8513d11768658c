//! Where a packet is injected: what a classify tells of it.

use core::net::IpAddr;

use wfp_schema::NtStatus;

use super::CONTROL;
use crate::{callout::Classify, layer::LayerType};

/// Where a packet is received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// `COMPARTMENT_ID`, 0 if not known.
    pub compartment: u32,
    /// `INTERFACE_INDEX`.
    pub interface: u32,
    /// `SUB_INTERFACE_INDEX`.
    pub sub_interface: u32,
}

impl Arrival {
    /// Where the packet of a classify is received. At a layer that does not tell this does not compile.
    #[must_use]
    pub fn of<L: LayerType>(call: &Classify<'_, L>) -> Self {
        Self {
            compartment: call.metadata.compartment().unwrap_or(0),
            interface: call.fields.interface().unwrap_or(0),
            sub_interface: call.fields.sub_interface().unwrap_or(0),
        }
    }
}

/// Where a packet without an IP header is sent.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// `TRANSPORT_ENDPOINT_HANDLE`.
    pub endpoint: u64,
    /// The remote address.
    pub remote: IpAddr,
    /// `REMOTE_SCOPE_ID`, 0 if not known.
    pub scope: u32,
    /// `TRANSPORT_CONTROL_DATA`, at most [`CONTROL`] bytes; copied.
    pub control: &'a [u8],
    /// `COMPARTMENT_ID`, 0 if not known.
    pub compartment: u32,
}

impl<'a> Destination<'a> {
    /// Where the packet of a classify is sent; `None` if that is not all known. At a layer that does not tell this does not
    /// compile.
    #[must_use]
    pub fn of<L: LayerType>(call: &Classify<'a, L>) -> Option<Self> {
        let metadata = &call.metadata;
        Some(Self {
            endpoint: metadata.endpoint()?,
            // A dual-mode socket may name an IPv4-mapped address.
            remote: call.fields.remote_address()?.to_canonical(),
            scope: metadata.remote_scope().unwrap_or(0),
            control: metadata.control_data().unwrap_or_default(),
            compartment: metadata.compartment().unwrap_or(0),
        })
    }

    /// A copy to be used after the classify, which the control data do not outlive.
    ///
    /// # Errors
    /// `STATUS_INVALID_BUFFER_SIZE` if there is more control data than [`CONTROL`] bytes.
    pub fn keep(&self) -> Result<KeptDestination, NtStatus> {
        let mut control = [0; CONTROL];
        control
            .get_mut(..self.control.len())
            .ok_or(NtStatus::INVALID_BUFFER_SIZE)?
            .copy_from_slice(self.control);
        Ok(KeptDestination {
            endpoint: self.endpoint,
            remote: self.remote,
            scope: self.scope,
            compartment: self.compartment,
            control,
            control_length: self.control.len(),
        })
    }
}

/// Where a packet is sent later.
#[derive(Debug)]
pub struct KeptDestination {
    endpoint: u64,
    remote: IpAddr,
    scope: u32,
    compartment: u32,
    control: [u8; CONTROL],
    control_length: usize,
}

impl KeptDestination {
    /// For the call that injects.
    #[must_use]
    pub fn get(&self) -> Destination<'_> {
        Destination {
            endpoint: self.endpoint,
            remote: self.remote,
            scope: self.scope,
            compartment: self.compartment,
            control: self.control.get(..self.control_length).unwrap_or_default(),
        }
    }
}
