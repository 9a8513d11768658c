//! What is kept of an operation that is held, and how it goes on.

use core::sync::atomic::Ordering;

use portcullis_core::ask::{Release, Released};
use portcullis_proto::{Action, Counter, EventKind, event::Operation};
use wfp::{
    NtStatus, Result,
    callout::Classify,
    inject::{Arrival, Destination, KeptDestination},
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
    Out(KeptDestination),
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
            way: Way::In(Arrival::of(call)),
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
        // Where it goes is a proxy if it was redirected.
        let destination = Destination::of(call)
            .ok_or(NtStatus::UNSUCCESSFUL)?
            .keep()?;
        Ok(Self {
            clone: CloneList::of(packet)?,
            way: Way::Out(destination),
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
                handle.send(&self.parcels, clone, (), &to.get(), passive.into())
            }
        };
        injected.map_err(|refused| refused.status)
    }
}
