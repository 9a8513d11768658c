//! What comes through the stack, packet for packet, for whoever writes down what the receiving ends got.

use wfp_schema::StreamFlags;

use super::host::{Host, Transit};
use super::indicate::{Filtering, PacketId};
use super::indicator::Indicator;
use super::report::Reason;

/// A step of what came through the stack, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Data of a connection, in order, before any callout has seen it. What it does not follow on is missing.
    Arrived {
        /// Its flow.
        flow_handle: u64,
        /// Whether this host sent it.
        outbound: bool,
        /// The sequence number of its first byte.
        sequence: u32,
        /// The data.
        bytes: Vec<u8>,
    },
    /// The end of a direction, behind all of its data.
    EndArrived {
        /// Its flow.
        flow_handle: u64,
        /// Whether this host sent it.
        outbound: bool,
        /// Its sequence number.
        sequence: u32,
    },
    /// Data of a connection that all callouts let go, or one injected.
    Released {
        /// Its flow.
        flow_handle: u64,
        /// Whether this host sends it.
        outbound: bool,
        /// The data.
        bytes: Vec<u8>,
        /// Whether the direction ends behind it.
        end: bool,
    },
    /// A callout has ended a connection: the other end gets a reset.
    Aborted {
        /// Its flow.
        flow_handle: u64,
    },
    /// A packet has come to the end of its way, or to where it is blocked or kept. What its segment made of a stream comes
    /// before it.
    Packet {
        /// Which packet; an injected one has the id of what it stands for.
        id: PacketId,
        /// Its data flow, the latest of its ends; 0 if there has been none.
        flow_handle: u64,
        /// Whether this host sends it.
        outbound: bool,
        /// The packet from its IP header, where that is not what came in.
        bytes: Option<Vec<u8>>,
        /// What became of it; a pending one comes again.
        result: Result<(), Reason>,
    },
    /// These packets are pieces of the datagram that was injected last: they come to nobody themselves.
    Pieces(Vec<PacketId>),
}

impl<F: Filtering> Host<F> {
    /// Takes what has come through the stack since the last call, if [`Setup::journal`](super::Setup::journal) asks for it.
    pub fn journal(&mut self) -> Vec<Passage> {
        self.indicator
            .journal
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    pub(super) fn passage(
        &mut self,
        flow: Option<usize>,
        transit: &Transit<'_>,
        is_rewritten: bool,
        result: Result<(), Reason>,
    ) {
        let Some(journal) = &mut self.indicator.journal else {
            return;
        };
        let flow_handle = flow.map_or(0, |flow| {
            let report = &self.reports[self.flows.all[flow].report.0];
            report.handles.last().copied().unwrap_or(0)
        });
        let is_new = is_rewritten || transit.mark.is_some();
        journal.push(Passage::Packet {
            id: transit.id,
            flow_handle,
            outbound: transit.outbound,
            bytes: is_new.then(|| transit.packet.bytes.to_vec()),
            result,
        });
    }
}

impl<F> Indicator<F> {
    fn note(&mut self, passage: impl FnOnce() -> Passage) {
        if let Some(journal) = &mut self.journal {
            journal.push(passage());
        }
    }

    pub(super) fn arrived(
        &mut self,
        flow_handle: u64,
        outbound: bool,
        sequence: u32,
        bytes: &[u8],
    ) {
        self.note(|| Passage::Arrived {
            flow_handle,
            outbound,
            sequence,
            bytes: bytes.to_vec(),
        });
    }

    pub(super) fn end_arrived(&mut self, flow_handle: u64, outbound: bool, sequence: u32) {
        self.note(|| Passage::EndArrived {
            flow_handle,
            outbound,
            sequence,
        });
    }

    /// A reset is a packet of its own.
    pub(super) fn released(&mut self, flow_handle: u64, flags: StreamFlags, bytes: &[u8]) {
        let end = flags.contains(StreamFlags::SEND_DISCONNECT)
            || flags.contains(StreamFlags::RECEIVE_DISCONNECT);
        if end || !bytes.is_empty() {
            self.note(|| Passage::Released {
                flow_handle,
                outbound: flags.contains(StreamFlags::SEND),
                bytes: bytes.to_vec(),
                end,
            });
        }
    }

    pub(super) fn pieces(&mut self, ids: &[PacketId]) {
        if !ids.is_empty() {
            self.note(|| Passage::Pieces(ids.to_vec()));
        }
    }

    pub(super) fn aborted(&mut self, flow_handle: u64) {
        self.note(|| Passage::Aborted { flow_handle });
    }
}
