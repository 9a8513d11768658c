//! What leaves the stack, for whoever wants to see it.

use wfp_schema::StreamFlags;

use super::host::Host;
use super::indicate::Filtering;
use super::indicator::Indicator;

/// Something that left the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A packet by an interface, from its IP header: one that was sent, forwarded or made up by the stack.
    Sent(Vec<u8>),
    /// A datagram's data, for the socket.
    Datagram {
        /// Its flow.
        flow_handle: u64,
        /// The data.
        bytes: Vec<u8>,
    },
    /// A piece of a stream that all stages let go: data for the socket, or for the peer.
    Stream {
        /// Its flow.
        flow_handle: u64,
        /// Direction, and whether the stream ends behind the data.
        flags: StreamFlags,
        /// The data.
        bytes: Vec<u8>,
    },
}

impl<F: Filtering> Host<F> {
    /// Takes what has left the stack since the last call, if [`Setup::output`](super::Setup::output) asks for it.
    pub fn output(&mut self) -> Vec<Output> {
        self.indicator
            .output
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    pub(super) fn sent(&mut self, bytes: &[u8]) {
        if let Some(output) = &mut self.indicator.output {
            output.push(Output::Sent(bytes.to_vec()));
        }
    }

    pub(super) fn received(&mut self, flow: usize, bytes: &[u8]) {
        if let Some(output) = &mut self.indicator.output {
            output.push(Output::Datagram {
                flow_handle: self.flows.all[flow].handle,
                bytes: bytes.to_vec(),
            });
        }
    }
}

impl<F: Filtering> Indicator<F> {
    /// A piece of a stream, or its end, has passed all stages.
    pub(super) fn release(&mut self, flow_handle: u64, flags: StreamFlags, bytes: &[u8]) {
        self.released(flow_handle, flags, bytes);
        if let Some(output) = &mut self.output {
            output.push(Output::Stream {
                flow_handle,
                flags,
                bytes: bytes.to_vec(),
            });
        }
    }
}
