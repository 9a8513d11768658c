//! What is kept of an operation that is held, and how it goes on.

use core::{net::IpAddr, sync::atomic::Ordering};

use portcullis_core::ask::{Release, Released};
use portcullis_proto::{Action, Counter, EventKind, event::Operation};
use wfp::{
    NtStatus, Result,
    callout::Classify,
    inject::{Arrival, CONTROL, Destination},
    irql::Passive,
    layer::{AleAuthConnect, AleAuthRecvAccept},
    list::CloneList,
    nbl::Packet,
    pend::PendedOperation,
    schema::IpVersion,
    time,
};

use super::{Holding, RESUMING};
use crate::state::Core;

/// An operation that is held.
pub(crate) struct HeldOperation {
    pub(super) operation: PendedOperation,
    pub(super) packet: Kept,
    pub(super) version: IpVersion,
}

/// What is kept of an operation's packet.
#[allow(
    clippy::large_enum_variant,
    reason = "it lies in a slot that was made at start; nothing is allocated for it"
)]
pub(crate) enum Kept {
    /// It has none.
    Nothing,
    /// All of it.
    Packet(HeldPacket),
    /// Nothing, because it is several datagrams in one: such a packet that was received may not be cloned and injected
    /// (`FWP_CALLOUT_FLAG_ALLOW_URO`), and of a clone of one that is sent nothing says that it would be split. Who sent them
    /// sends what is missing again, or not.
    Datagrams,
}

/// A clone of its packet, with what it takes to send or receive that.
pub(crate) struct HeldPacket {
    clone: CloneList,
    way: Way,
}

/// Which way a packet goes on.
#[allow(
    clippy::large_enum_variant,
    reason = "it lies in a slot that was made at start; nothing is allocated for it"
)]
enum Way {
    /// It is received.
    In(Arrival),
    /// It is sent.
    Out(Departure),
}

/// Where a packet is sent.
struct Departure {
    endpoint: u64,
    remote: IpAddr,
    scope: u32,
    compartment: u32,
    /// Socket control data, which live no longer than the classify.
    control: [u8; CONTROL],
    control_length: usize,
}

impl HeldPacket {
    /// The packet of an accept, with its headers: a SYN, or a first datagram.
    ///
    /// # Errors
    /// `STATUS_UNSUCCESSFUL` without what it takes to receive it again; NDIS's and WFP's.
    pub(crate) fn of_accept(
        call: &Classify<'_, AleAuthRecvAccept>,
        packet: Packet<'_>,
    ) -> Result<Self> {
        let metadata = &call.metadata;
        let headers = metadata
            .ip_header_size()
            .zip(metadata.transport_header_size());
        let (ip, transport) = headers.ok_or(NtStatus::UNSUCCESSFUL)?;
        let bytes = ip.checked_add(transport).ok_or(NtStatus::UNSUCCESSFUL)?;
        let clone = packet.with_retreated(bytes, CloneList::of)??;
        Ok(Self {
            clone,
            way: Way::In(Arrival {
                compartment: metadata.compartment().unwrap_or(0),
                interface: call.fields.interface().unwrap_or(0),
                sub_interface: call.fields.sub_interface().unwrap_or(0),
            }),
        })
    }

    /// The packet of a connect that is not TCP's: its first datagram, from the transport header on.
    ///
    /// # Errors
    /// `STATUS_UNSUCCESSFUL` without what it takes to send it again,
    /// `STATUS_INVALID_BUFFER_SIZE` if its socket has more control data than is kept; WFP's.
    pub(crate) fn of_connect(
        call: &Classify<'_, AleAuthConnect>,
        packet: Packet<'_>,
    ) -> Result<Self> {
        let metadata = &call.metadata;
        let given = metadata.control_data().unwrap_or_default();
        let mut control = [0; CONTROL];
        control
            .get_mut(..given.len())
            .ok_or(NtStatus::INVALID_BUFFER_SIZE)?
            .copy_from_slice(given);
        Ok(Self {
            clone: CloneList::of(packet)?,
            way: Way::Out(Departure {
                endpoint: metadata.endpoint().ok_or(NtStatus::UNSUCCESSFUL)?,
                // Where it goes, which is a proxy if it was redirected.
                remote: call
                    .fields
                    .remote_address()
                    .ok_or(NtStatus::UNSUCCESSFUL)?
                    .to_canonical(),
                scope: metadata.remote_scope().unwrap_or(0),
                compartment: metadata.compartment().unwrap_or(0),
                control,
                control_length: given.len(),
            }),
        })
    }
}

impl Holding {
    /// Tells of an operation's release, and lets it go on.
    pub(super) fn go_on(&self, core: &Core, released: Released<HeldOperation>, passive: Passive) {
        let Released {
            held,
            action,
            release,
            question,
            is_reported,
        } = released;
        core.statistics().count(match release {
            Release::Answered => Counter::Answered,
            Release::TimedOut => Counter::AskTimedOut,
            Release::Abandoned => Counter::AskAbandoned,
        });
        if is_reported {
            let mut event = question;
            let (kind, why) = match release {
                Release::Answered => (EventKind::Answered, 0),
                Release::TimedOut => (EventKind::Unanswered, 0),
                Release::Abandoned => (EventKind::Unanswered, 1),
            };
            event.kind = kind.raw();
            event.verdict = action.raw();
            event.time = time::system_time().into();
            event.value[1] = why.into();
            core.report(&event);
        }
        let HeldOperation {
            operation,
            packet,
            version,
        } = held;
        if question.operation == Operation::Connect.raw() {
            RESUMING.fetch_add(1, Ordering::SeqCst);
        }
        // A connect is authorized again now, and finds the answer. An accept is received again.
        let is_lost = match packet {
            Kept::Packet(packet) if action == Action::Permit => {
                self.send_on(version, operation, packet, passive).is_err()
            }
            kept => {
                operation.complete();
                matches!(kept, Kept::Datagrams) && action == Action::Permit
            }
        };
        if is_lost {
            core.statistics().count(Counter::HeldPacketLost);
        }
    }

    fn send_on(
        &self,
        version: IpVersion,
        operation: PendedOperation,
        packet: HeldPacket,
        passive: Passive,
    ) -> Result {
        let HeldPacket { clone, way } = packet;
        let handle = self.handle(version).ok_or(NtStatus::DEVICE_NOT_READY)?;
        let injected = match way {
            Way::In(arrival) => {
                operation.complete_with(&clone);
                handle.receive(&self.parcels, clone, (), arrival, passive.into())
            }
            Way::Out(to) => {
                operation.complete();
                let destination = Destination {
                    endpoint: to.endpoint,
                    remote: to.remote,
                    scope: to.scope,
                    control: to.control.get(..to.control_length).unwrap_or_default(),
                    compartment: to.compartment,
                };
                handle.send(&self.parcels, clone, (), &destination, passive.into())
            }
        };
        injected.map_err(|refused| refused.status)
    }
}
