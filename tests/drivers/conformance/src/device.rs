//! The control device: a request is a message, a reply is what the call returned.

use conformance_messages::{
    AddCallout, AddFilter, AddProvider, AddSubLayer, Begin, Bfe, Close, Complete, DEVICE_NAME,
    DEVICE_TYPE, Delete, End, FlowContext, HandleCreate, HandleDestroy, Inject, MakePacket,
    Message, Notify, Open, Query, Register, Reply, SYMBOLIC_LINK_NAME, Script, Signal, TakeRecords,
    Unregister,
};
use kmdf::{ControlDevice, Driver, Queue, Request};
use wdk_sys::{ULONG, WDFQUEUE, WDFREQUEST};
use wfp::{NtStatus, Result, cell::KernelCell, device::Device, irql::Passive, pool::Tag, wide};
use zerocopy::IntoBytes as _;

use crate::{callouts, objects, packets, records, traffic};

/// The pool tag of everything here.
pub(crate) const TAG: Tag = Tag::new(*b"WfCo");

/// Everybody may open the device: tests act as users of all kinds.
const SECURITY_DESCRIPTOR: &str = "D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;WD)";

/// `DISPATCH_LEVEL`.
const DISPATCH_LEVEL: u8 = 2;

static DEVICE: KernelCell<ControlDevice> = KernelCell::new(TAG);

/// Creates the device, which takes requests from now on.
pub(crate) fn create(driver: Driver, passive: Passive) -> Result {
    let device = ControlDevice::create(
        driver,
        wide!(DEVICE_NAME),
        wide!(SECURITY_DESCRIPTOR),
        DEVICE_TYPE,
        None,
    )?;
    let finished = device
        .create_symbolic_link(wide!(SYMBOLIC_LINK_NAME))
        .and_then(|()| Queue::create_default(device, Some(control)))
        .and_then(|_| DEVICE.try_set(device, passive).map(drop));
    if let Err(status) = finished {
        // SAFETY: nobody knows of the device yet.
        unsafe { device.delete() };
        return Err(status);
    }
    device.finish_initializing();
    Ok(())
}

/// Deletes the device.
pub(crate) fn delete(passive: Passive) {
    // SAFETY: the driver is being unloaded: no request is worked on.
    if let Some(device) = unsafe { DEVICE.take(passive) } {
        // SAFETY: callouts and subscriptions went before.
        unsafe { device.delete() };
    }
}

/// The device object for WFP.
pub(crate) fn wdm() -> Option<Device> {
    DEVICE.get().and_then(|device| device.wdm().ok())
}

/// `EvtIoDeviceControl`.
///
/// # Safety
/// Called by the framework, with a request that is the driver's from now on.
unsafe extern "C" fn control(
    _queue: WDFQUEUE,
    request: WDFREQUEST,
    _output_length: usize,
    _input_length: usize,
    code: ULONG,
) {
    // SAFETY: the framework has just handed the request over.
    let mut request = unsafe { Request::new(request) };
    let result = dispatch(&mut request, code);
    request.complete(result);
}

fn dispatch(request: &mut Request, code: u32) -> Result<usize> {
    if code == TakeRecords::CODE {
        return records::take(request.output());
    }
    let input = request.input();
    let reply = match code {
        Open::CODE => objects::open(read(input)?),
        Close::CODE => objects::close(read(input)?),
        Begin::CODE => objects::begin(read(input)?),
        End::CODE => objects::end(read(input)?),
        AddProvider::CODE => objects::add_provider(read(input)?),
        AddSubLayer::CODE => objects::add_sublayer(read(input)?),
        AddCallout::CODE => objects::add_callout(read(input)?),
        AddFilter::CODE => objects::add_filter(read(input)?),
        Delete::CODE => objects::delete(read(input)?),
        Query::CODE => objects::query(read(input)?),
        Register::CODE => callouts::register(read(input)?),
        Unregister::CODE => callouts::unregister(read(input)?),
        Script::CODE => callouts::play(read(input)?),
        Notify::CODE => callouts::answer_notify(read(input)?),
        FlowContext::CODE => traffic::flow(read(input)?),
        HandleCreate::CODE => traffic::create_handle(read(input)?),
        HandleDestroy::CODE => traffic::destroy_handle(read(input)?),
        Complete::CODE => traffic::complete(read(input)?),
        MakePacket::CODE => packets::make(read(input)?),
        Inject::CODE => packets::inject(read(input)?),
        Bfe::CODE => traffic::bfe(*read(input)?),
        Signal::CODE => traffic::signal(*read(input)?),
        _ => return Err(NtStatus::INVALID_DEVICE_REQUEST),
    };
    reply
        .write_to_prefix(request.output())
        .map(|()| size_of::<Reply>())
        .map_err(|_| NtStatus::BUFFER_TOO_SMALL)
}

fn read<M: Message>(input: &[u8]) -> Result<&M> {
    M::ref_from_bytes(input).map_err(|_| NtStatus::INVALID_BUFFER_SIZE)
}

/// Makes a call at this level, which the test has chosen.
pub(crate) fn at_level<T>(irql: u32, call: impl FnOnce() -> T) -> T {
    if irql == 0 {
        return call();
    }
    // SAFETY: requests come at PASSIVE_LEVEL, so this raises.
    let before = unsafe { wdk_sys::ntddk::KfRaiseIrql(DISPATCH_LEVEL) };
    let result = call();
    // SAFETY: the level from before.
    unsafe { wdk_sys::ntddk::KeLowerIrql(before) };
    result
}
