//! Injections: handles, completions, and whose a list is meanwhile.

use proptest::prelude::*;
use wfp_engine::{
    Begun, Holder, InjectionCall, InjectionHandle, InjectionHandles, InjectionPoint,
    InjectionTarget, ListShape, Refusal, Returned, clone_of_indicated,
};
use wfp_schema::flags::InjectionType;
use wfp_schema::{CalloutFlags, IpVersion, NtStatus, StreamFlags};

const HANDLE: u64 = 7;
const ONE: ListShape = ListShape { buffers: 1 };
const SEND: InjectionTarget = InjectionTarget::Packet(InjectionPoint::NetworkSend);

fn handles(types: InjectionType, family: Option<IpVersion>) -> InjectionHandles {
    let handles = InjectionHandles::default();
    handles.insert(HANDLE, InjectionHandle::new(types, family).unwrap());
    handles
}

fn network() -> InjectionHandles {
    handles(InjectionType::NETWORK, Some(IpVersion::V4))
}

const fn call(target: InjectionTarget, lists: &[ListShape]) -> InjectionCall<'_> {
    InjectionCall {
        handle: HANDLE,
        target,
        flags: 0,
        has_completion: true,
        lists,
    }
}

const fn stream(flags: StreamFlags, lists: &[ListShape]) -> InjectionCall<'_> {
    call(InjectionTarget::Stream(flags), lists)
}

const fn refused(status: NtStatus) -> Result<Begun, Refusal> {
    Err(Refusal::Status(status))
}

#[test]
fn str_11_the_end_of_a_direction_needs_the_direction() {
    let handles = handles(InjectionType::STREAM, None);
    let begin = |flags| stream(flags, &[ONE]).begin(&handles);
    let invalid = refused(NtStatus::FWP_INVALID_PARAMETER);
    assert_eq!(begin(StreamFlags::SEND_DISCONNECT), invalid);
    assert_eq!(begin(StreamFlags::RECEIVE_DISCONNECT), invalid);
    let other = StreamFlags::RECEIVE | StreamFlags::SEND_DISCONNECT;
    assert_eq!(begin(other), invalid);
    assert_eq!(begin(StreamFlags::NONE), invalid);
    assert!(handles.is_idle(HANDLE), "nothing has begun");
    assert!(begin(StreamFlags::SEND | StreamFlags::SEND_DISCONNECT).is_ok());
}

#[test]
fn str_11_an_end_without_data_is_not_completed() {
    let handles = handles(InjectionType::STREAM, None);
    let end = InjectionCall {
        has_completion: false,
        ..stream(StreamFlags::SEND | StreamFlags::SEND_DISCONNECT, &[])
    };
    assert_eq!(end.begin(&handles).unwrap().completions, 0);
    assert!(handles.is_idle(HANDLE));
    let data = stream(StreamFlags::SEND, &[]).begin(&handles);
    assert_eq!(data, refused(NtStatus::FWP_NULL_POINTER));
}

#[test]
fn str_12_an_injection_has_a_completion() {
    let handles = handles(InjectionType::STREAM, None);
    let flags = StreamFlags::SEND | StreamFlags::SEND_DISCONNECT;
    for lists in [&[ONE][..], &[ONE, ONE]] {
        let without = InjectionCall {
            has_completion: false,
            ..stream(flags, lists)
        };
        assert_eq!(without.begin(&handles), refused(NtStatus::FWP_NULL_POINTER));
    }
    assert!(handles.is_idle(HANDLE));
}

#[test]
fn str_13_each_list_of_a_chain_is_completed() {
    let handles = handles(InjectionType::STREAM, None);
    let begun = stream(StreamFlags::RECEIVE, &[ONE, ONE, ONE])
        .begin(&handles)
        .unwrap();
    assert_eq!(begun.completions, 3);
    for left in (0..3).rev() {
        assert!(!handles.is_idle(HANDLE), "{} are pending", left + 1);
        handles.complete(HANDLE);
    }
    assert!(handles.is_idle(HANDLE));
}

#[test]
fn inj_01_a_handle_injects_what_it_was_made_for() {
    let transport = handles(InjectionType::TRANSPORT, Some(IpVersion::V4));
    assert_eq!(
        call(SEND, &[ONE]).begin(&transport),
        refused(NtStatus::FWP_INJECT_HANDLE_STALE)
    );
    // No type is transport, stream and forward.
    let default = handles(InjectionType::NONE, None);
    let packet = |point| call(InjectionTarget::Packet(point), &[ONE]).begin(&default);
    assert!(packet(InjectionPoint::TransportSend).is_ok());
    assert!(packet(InjectionPoint::TransportReceive).is_ok());
    assert!(packet(InjectionPoint::Forward).is_ok());
    assert!(stream(StreamFlags::SEND, &[ONE]).begin(&default).is_ok());
    let stale = refused(NtStatus::FWP_INJECT_HANDLE_STALE);
    for point in [
        InjectionPoint::NetworkSend,
        InjectionPoint::NetworkReceive,
        InjectionPoint::MacSend,
        InjectionPoint::MacReceive,
        InjectionPoint::VSwitchIngress,
    ] {
        assert_eq!(packet(point), stale, "{point:?}");
    }
}

#[test]
fn inj_01_a_handle_for_the_network_is_for_one_version_of_ip() {
    let new = InjectionHandle::new;
    let invalid = Err(NtStatus::INVALID_PARAMETER);
    assert_eq!(new(InjectionType::NETWORK, None), invalid);
    assert_eq!(new(InjectionType::from_bits(0x20), None), invalid);
    assert!(new(InjectionType::NETWORK, Some(IpVersion::V6)).is_ok());
    assert!(new(InjectionType::L2, None).is_ok());
    let begun = call(SEND, &[ONE]).begin(&network()).unwrap();
    assert_eq!(begun.family, Some(IpVersion::V4));
}

#[test]
fn inj_02_nothing_is_injected_with_a_handle_that_is_being_destroyed() {
    let handles = network();
    assert!(call(SEND, &[ONE]).begin(&handles).is_ok());
    handles.close(HANDLE).unwrap();
    assert_eq!(
        call(SEND, &[ONE]).begin(&handles),
        refused(NtStatus::FWP_INJECT_HANDLE_CLOSING)
    );
    handles.complete(HANDLE);
    assert!(handles.is_idle(HANDLE), "the refused one is not waited for");
    assert!(handles.remove(HANDLE));
    assert_eq!(
        call(SEND, &[ONE]).begin(&handles),
        refused(NtStatus::INVALID_HANDLE)
    );
}

#[test]
fn inj_03_a_handle_is_destroyed_when_its_injections_are_completed() {
    let handles = network();
    assert!(call(SEND, &[ONE, ONE]).begin(&handles).is_ok());
    assert!(!handles.remove(HANDLE), "it is not closed");
    handles.close(HANDLE).unwrap();
    assert!(!handles.remove(HANDLE), "two are pending");
    handles.complete(HANDLE);
    assert!(!handles.remove(HANDLE), "one is pending");
    handles.complete(HANDLE);
    assert!(handles.remove(HANDLE));
    assert!(!handles.remove(HANDLE));
    assert_eq!(handles.close(HANDLE), Err(NtStatus::INVALID_HANDLE));
}

#[test]
fn inj_08_a_callout_that_takes_batches_can_clone_nothing() {
    let batches = CalloutFlags::ALLOW_L2_BATCH_CLASSIFY;
    let invalid = Err(NtStatus::INVALID_PARAMETER);
    assert_eq!(clone_of_indicated(batches), invalid);
    assert_eq!(
        clone_of_indicated(batches | CalloutFlags::ALLOW_OFFLOAD),
        invalid
    );
    assert_eq!(clone_of_indicated(CalloutFlags::ALLOW_OFFLOAD), Ok(()));
}

#[test]
fn inj_09_a_list_of_several_packets_on_the_receive_path_stops_the_system() {
    let handles = handles(
        InjectionType::NETWORK | InjectionType::TRANSPORT,
        Some(IpVersion::V4),
    );
    let two = ListShape { buffers: 2 };
    let begin = |point| call(InjectionTarget::Packet(point), &[ONE, two]).begin(&handles);
    let stop = Err(Refusal::Bugcheck {
        code: 0x1d3,
        subtype: 1,
        list: 1,
    });
    assert_eq!(begin(InjectionPoint::NetworkReceive), stop);
    assert_eq!(begin(InjectionPoint::TransportReceive), stop);
    assert!(handles.is_idle(HANDLE));
    assert!(begin(InjectionPoint::NetworkSend).is_ok());
    assert!(begin(InjectionPoint::TransportSend).is_ok());
}

#[test]
fn reserved_flags_are_refused() {
    let flagged = InjectionCall {
        flags: 1,
        ..call(SEND, &[ONE])
    };
    assert_eq!(
        flagged.begin(&network()),
        refused(NtStatus::FWP_INVALID_PARAMETER)
    );
}

#[test]
fn a_list_is_the_stacks_until_its_completion() {
    let mut holder = Holder::default();
    assert!(holder.is_drivers());
    assert!(holder.hand_over("abc"));
    assert!(!holder.is_drivers());
    assert!(!holder.hand_over("abc"), "the stack has it");
    assert_eq!(holder.take_back(&"abc"), Returned::Untouched);
    assert!(holder.hand_over("abc"));
    assert_eq!(holder.take_back(&"abd"), Returned::Changed);
    assert_eq!(holder.take_back(&"abd"), Returned::NeverLent);
}

proptest! {
    /// Whatever is asked in whatever order, a handle goes exactly when it is closed and all that began is completed.
    #[test]
    fn a_handle_goes_when_it_is_closed_and_idle(
        steps in prop::collection::vec((0..4_u8, 1..4_usize), 0..40),
    ) {
        let handles = network();
        let (mut pending, mut closed, mut gone) = (0, false, false);
        for (step, lists) in steps {
            match step {
                0 => {
                    let begun = call(SEND, &vec![ONE; lists]).begin(&handles);
                    prop_assert_eq!(begun.is_ok(), !closed);
                    if begun.is_ok() {
                        pending += lists;
                    }
                }
                1 if pending > 0 => {
                    handles.complete(HANDLE);
                    pending -= 1;
                }
                2 => {
                    prop_assert_eq!(handles.close(HANDLE).is_ok(), !gone);
                    closed = true;
                }
                _ => {
                    let goes = closed && pending == 0 && !gone;
                    prop_assert_eq!(handles.remove(HANDLE), goes);
                    gone |= goes;
                }
            }
            prop_assert_eq!(handles.is_idle(HANDLE), pending == 0);
        }
    }
}
