//! Packet injection: what drivers send back into the stack.
//!
//! An accepted packet is copied and asked of the stack as a [`StackRequest`](super::StackRequest); its completion
//! runs later, as deferred work. When the stack indicates the packet it shows its [`InjectionMark`], by which
//! `FwpsQueryPacketInjectionState0` answers.

mod attempt;
pub(super) mod handle;
pub(super) mod header;
mod mark;

use std::net::IpAddr;

use wfp_schema::codes::PacketInjectionState;
use wfp_schema::{LayerId, NtStatus, StreamFlags};

pub(super) use self::attempt::packet_of;
use self::attempt::{By, Target, What, inject};
use super::layout::kernel::InjectComplete;
use super::layout::request::AF_INET;
use super::layout::value::RawBlob;
use crate::access::{In, Out};
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::ndis::layout::NetBufferList;
use crate::net::{InjectionMark, InjectionPoint, Sender};
use crate::verifier::ARGUMENT;

pub(super) use handle::State;

const NOT_READY: i32 = NtStatus::FWP_TCPIP_NOT_READY.to_i32();

fn status(result: Result<(), NtStatus>) -> i32 {
    result.err().unwrap_or(NtStatus::SUCCESS).to_i32()
}

/// Who sends a packet to the address that its parameters begin with, if there are any.
fn sender(endpoint: u64, parameters: In<In<u8>>, family: u16) -> Option<Sender> {
    let remote = parameters.get().filter(|remote| !remote.is_null())?;
    let remote: IpAddr = if family == AF_INET {
        let mut octets = [0; 4];
        remote.copy_to(&mut octets);
        octets.into()
    } else {
        let mut octets = [0; 16];
        remote.copy_to(&mut octets);
        octets.into()
    };
    Some(Sender { endpoint, remote })
}

/// Injects packets or frames.
fn packet(call: &Call<'_>, by: By, what: What, point: InjectionPoint) -> i32 {
    status(inject(call, by, what, Target::Packet(point)))
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsquerypacketinjectionstate0>
    fn FwpsQueryPacketInjectionState0(call, handle: usize, list: Out<NetBufferList>, context: Out<usize>) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        let mark = packet_of(&call, list).and_then(|packet| packet.injection()).map(InjectionMark);
        let (state, injection_context) = call.machine().fwp.injection.marks.lock().state(mark, handle);
        if matches!(state, PacketInjectionState::InjectedBySelf | PacketInjectionState::PreviouslyInjectedBySelf) {
            context.set(injection_context);
        }
        state.value()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjectnetworksendasync0>
    fn FwpsInjectNetworkSendAsync0(
        call, handle: usize, context: usize, flags: u32, compartment: u32, list: Out<NetBufferList>,
        completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY => later;
    {
        let what = What { list, completion, context: completion_context };
        packet(&call, By { handle, context, flags }, what, InjectionPoint::NetworkSend)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjectnetworkreceiveasync0>
    fn FwpsInjectNetworkReceiveAsync0(
        call, handle: usize, context: usize, flags: u32, compartment: u32, interface: u32, sub_interface: u32, list: Out<NetBufferList>,
        completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY => later;
    {
        let what = What { list, completion, context: completion_context };
        packet(&call, By { handle, context, flags }, what, InjectionPoint::NetworkReceive)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjectforwardasync0>
    fn FwpsInjectForwardAsync0(
        call, handle: usize, context: usize, flags: u32, family: u16, compartment: u32, interface: u32, list: Out<NetBufferList>,
        completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY => later;
    {
        let what = What { list, completion, context: completion_context };
        packet(&call, By { handle, context, flags }, what, InjectionPoint::Forward)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjecttransportsendasync0>
    fn FwpsInjectTransportSendAsync0(
        call, handle: usize, context: usize, endpoint: u64, flags: u32, parameters: In<In<u8>>, family: u16, compartment: u32, list: Out<NetBufferList>,
        completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY => later;
    {
        let what = What { list, completion, context: completion_context };
        let target = Target::Transport(sender(endpoint, parameters, family));
        status(inject(&call, By { handle, context, flags }, what, target))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjecttransportsendasync1>
    fn FwpsInjectTransportSendAsync1(
        call, handle: usize, context: usize, endpoint: u64, flags: u32, parameters: In<In<u8>>, family: u16, compartment: u32, list: Out<NetBufferList>,
        completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY => later;
    {
        let what = What { list, completion, context: completion_context };
        let target = Target::Transport(sender(endpoint, parameters, family));
        status(inject(&call, By { handle, context, flags }, what, target))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjecttransportreceiveasync0>
    fn FwpsInjectTransportReceiveAsync0(
        call, handle: usize, context: usize, reserved: usize, flags: u32, family: u16, compartment: u32, interface: u32, sub_interface: u32, list: Out<NetBufferList>,
        completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY => later;
    {
        if reserved != 0 {
            call.violation(&ARGUMENT, "reserved is not NULL");
        }
        let what = What { list, completion, context: completion_context };
        packet(&call, By { handle, context, flags }, what, InjectionPoint::TransportReceive)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjectmacreceiveasync0>
    fn FwpsInjectMacReceiveAsync0(
        call, handle: usize, context: usize, flags: u32, layer: u16, interface: u32, port: u32, list: Out<NetBufferList>,
        completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY => later;
    {
        if !call.machine().fwp.engine.has_filters(LayerId::new(layer)) {
            call.violation(&ARGUMENT, "no filter is at the layer for which a frame is injected");
        }
        let what = What { list, completion, context: completion_context };
        packet(&call, By { handle, context, flags }, what, InjectionPoint::MacReceive)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjectmacsendasync0>
    fn FwpsInjectMacSendAsync0(
        call, handle: usize, context: usize, flags: u32, layer: u16, interface: u32, port: u32, list: Out<NetBufferList>,
        completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY => later;
    {
        if !call.machine().fwp.engine.has_filters(LayerId::new(layer)) {
            call.violation(&ARGUMENT, "no filter is at the layer for which a frame is injected");
        }
        let what = What { list, completion, context: completion_context };
        packet(&call, By { handle, context, flags }, what, InjectionPoint::MacSend)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjectvswitchethernetingressasync0>
    ///
    /// A handle for the data link is taken: the value of `FWPS_INJECTION_TYPE_VSWITCH`, which the page asks for, is in
    /// no source that we have. The frame enters by the port of its source's address.
    fn FwpsInjectvSwitchEthernetIngressAsync0(
        call, handle: usize, context: usize, flags: u32, reserved: usize, switch: In<RawBlob>, port: u32, nic: u16,
        list: Out<NetBufferList>, completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY => later;
    {
        if reserved != 0 {
            call.violation(&ARGUMENT, "reserved is not NULL");
        }
        if switch.is_null() {
            return NtStatus::FWP_NULL_POINTER.to_i32();
        }
        let what = What { list, completion, context: completion_context };
        packet(&call, By { handle, context, flags }, what, InjectionPoint::VSwitchIngress)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsstreaminjectasync0>
    fn FwpsStreamInjectAsync0(
        call, handle: usize, context: usize, flags: u32, flow: u64, callout: u32, layer: u16, stream_flags: u32,
        list: Out<NetBufferList>, length: usize, completion: Option<InjectComplete>, completion_context: usize,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY => later;
    {
        let stream_flags = StreamFlags::from_bits(stream_flags);
        if stream_flags.contains(StreamFlags::SEND_ABORT) {
            call.violation(&ARGUMENT, "FWPS_STREAM_FLAG_SEND_ABORT is not for injections: FwpsFlowAbort0 ends a connection");
        }
        let what = What { list, completion, context: completion_context };
        let target = Target::Stream { flow, callout, flags: stream_flags };
        status(inject(&call, By { handle, context, flags }, what, target))
    }
}
