//! Messages between versions, and messages that are wrong.

use portcullis_proto::counter::StatisticsReply;
use portcullis_proto::device::ControlCode;
use portcullis_proto::event::{EventRecord, EventsReply};
use portcullis_proto::message::{
    Header, PROTOCOL_MAJOR, PROTOCOL_MINOR, ReadRequest, Request, RequestError, SetPolicyRequest,
    VersionReply, read_padded, read_request,
};
use portcullis_proto::policy::{Action, crc32, map_v4, without_volume};
use portcullis_proto::status::{CalloutStatus, StatusReply};
use portcullis_proto::{CALLOUTS, Counter, DriverState, EventKind, LifecycleStep};
use zerocopy::{FromZeros, IntoBytes};

fn set_policy(policy: &[u8]) -> Vec<u8> {
    let size = u32::try_from(policy.len()).expect("small");
    [SetPolicyRequest::new(size).as_bytes(), policy].concat()
}

#[test]
fn a_request_carries_its_policy() {
    assert_eq!(
        SetPolicyRequest::policy(&set_policy(b"policy")),
        Ok(&b"policy"[..])
    );
    assert_eq!(SetPolicyRequest::policy(&set_policy(b"")), Ok(&b""[..]));
}

#[test]
fn every_cut_of_a_request_is_refused() {
    let whole = set_policy(b"policy");
    for length in 0..whole.len() {
        let expected = if length < size_of::<SetPolicyRequest>() {
            RequestError::TooShort
        } else {
            RequestError::Size
        };
        assert_eq!(
            SetPolicyRequest::policy(&whole[..length]),
            Err(expected),
            "{length} bytes"
        );
    }
    let longer = [&whole[..], b"x"].concat();
    assert_eq!(SetPolicyRequest::policy(&longer), Err(RequestError::Size));
}

#[test]
fn a_request_of_another_major_version_is_refused() {
    let mut request = ReadRequest::new(0);
    request.header.major = (PROTOCOL_MAJOR + 1).into();
    assert_eq!(
        ReadRequest::parse(request.as_bytes()),
        Err(RequestError::Version)
    );
}

#[test]
fn unknown_flags_and_reserved_fields_are_refused() {
    assert_eq!(
        ReadRequest::parse(ReadRequest::new(2).as_bytes()),
        Err(RequestError::Reserved)
    );
    let mut request = ReadRequest::new(0);
    request.reserved = 1.into();
    assert_eq!(
        ReadRequest::parse(request.as_bytes()),
        Err(RequestError::Reserved)
    );
    assert!(ReadRequest::parse(ReadRequest::new(ReadRequest::NO_WAIT).as_bytes()).is_ok());
}

#[test]
fn a_request_of_a_later_minor_version_is_taken_if_it_asks_nothing_new() {
    let mut header = Header::of::<Request>();
    header.size = 12.into();
    header.minor = (PROTOCOL_MINOR + 1).into();
    let same = [header.as_bytes(), &[0; 4]].concat();
    assert_eq!(
        read_request::<Request>(&same).map(|(_, fixed)| fixed),
        Ok(12)
    );
    let new = [header.as_bytes(), &[0, 0, 0, 1]].concat();
    assert_eq!(read_request::<Request>(&new), Err(RequestError::Reserved));
}

#[test]
fn a_reply_of_an_earlier_or_later_version_is_read_as_far_as_both_know_it() {
    let mut reply = VersionReply::new([1, 2, 3, 4]);
    reply.header.size = 12.into();
    let (short, fixed) = read_padded::<VersionReply>(&reply.as_bytes()[..12]).expect("a reply");
    assert_eq!(
        (
            fixed,
            short.driver[0].get(),
            short.driver[3].get(),
            short.policy_format.get()
        ),
        (12, 1, 0, 0)
    );
    let long = [VersionReply::new([1, 2, 3, 4]).as_bytes(), &[9; 8]].concat();
    let (same, _) = read_padded::<VersionReply>(&long).expect("a reply");
    assert!(same.is_compatible());
    assert!(read_padded::<VersionReply>(&[]).is_none());
    assert!(
        read_padded::<VersionReply>(&[200, 0, 0, 0, 1, 0, 0, 0]).is_none(),
        "a size beyond the buffer"
    );
}

#[test]
fn a_status_reply_holds_its_callouts() {
    let mut status = StatusReply::new_zeroed();
    status.state = DriverState::Active.raw().into();
    status.errors[usize::from(LifecycleStep::OpenSession.raw())] = (-1_071_513_592).into();
    let mut callouts = [CalloutStatus::zeroed(); CALLOUTS.len()];
    for (callout, info) in callouts.iter_mut().zip(CALLOUTS) {
        callout.kind = info.kind.raw();
        callout.classify = 7.into();
    }
    let mut output = vec![0xAA; StatusReply::size_with(CALLOUTS.len()) + 64];
    let size = status
        .write(callouts.into_iter(), &mut output)
        .expect("fits");
    assert_eq!(size, StatusReply::size_with(CALLOUTS.len()));
    let (read, entries) = StatusReply::read(&output[..size]).expect("a reply");
    assert_eq!(
        DriverState::from_raw(read.state.get()),
        Some(DriverState::Active)
    );
    assert_eq!(
        (
            read.error(LifecycleStep::OpenSession),
            read.error(LifecycleStep::AddFilters)
        ),
        (-1_071_513_592, 0)
    );
    assert_eq!(entries.collect::<Vec<_>>(), callouts);
    assert!(StatusReply::read(&output[..size - 1]).is_none());
    let mut small = vec![0; size - 1];
    assert!(status.write(callouts.into_iter(), &mut small).is_none());
    assert!(
        small.iter().all(|&byte| byte == 0),
        "nothing is written where not all fits"
    );
}

#[test]
fn statistics_hold_every_counter() {
    let mut counters = [0; Counter::COUNT];
    counters[Counter::EventsDropped.index()] = 5;
    let mut output = vec![0; StatisticsReply::SIZE];
    assert_eq!(
        StatisticsReply::write(&counters, &mut output),
        Some(StatisticsReply::SIZE)
    );
    let read: Vec<_> = StatisticsReply::read(&output).expect("a reply").collect();
    assert_eq!(read.len(), Counter::COUNT);
    assert!(read.iter().all(|&(counter, value)| value
        == if counter == Counter::EventsDropped {
            5
        } else {
            0
        }));
    assert!(StatisticsReply::write(&counters, &mut output[1..]).is_none());
}

#[test]
fn events_of_a_longer_record_are_read_as_far_as_known() {
    let mut record = EventRecord {
        kind: EventKind::FlowClosed.raw(),
        verdict: Action::Block.raw(),
        ..EventRecord::default()
    };
    record.host[..3].copy_from_slice(b"a.b");
    record.host_length = 3;
    let mut reply = EventsReply::new(2, 0);
    reply.record_size = u32::try_from(size_of::<EventRecord>() + 8)
        .expect("small")
        .into();
    let output = [
        reply.as_bytes(),
        record.as_bytes(),
        &[1; 8],
        record.as_bytes(),
        &[2; 8],
    ]
    .concat();
    let (_, events) = EventsReply::read(&output).expect("a reply");
    let events: Vec<_> = events.collect();
    assert_eq!(events, [record, record]);
    assert_eq!((events[0].host(), events[0].rule()), (Some("a.b"), None));
    assert!(EventsReply::read(&output[..output.len() - 1]).is_none());
    let endless = EventsReply {
        record_size: u32::MAX.into(),
        count: u32::MAX.into(),
        ..reply
    };
    assert!(EventsReply::read(endless.as_bytes()).is_none());
}

#[test]
fn lengths_in_a_hostile_record_are_bounded() {
    let record = EventRecord {
        host_length: 255,
        user_length: 255,
        application_length: 60000.into(),
        ..EventRecord::default()
    };
    assert_eq!(
        (record.host(), record.user(), record.application().count()),
        (None, &[][..], 320)
    );
}

#[test]
fn control_codes_ask_for_the_rights_they_need() {
    for code in ControlCode::ALL {
        let access = (code.raw() >> 14) & 3;
        let expected = match code {
            // Who reads questions is the one that is to answer them.
            ControlCode::ReadQuestions => 1 | 2,
            ControlCode::SetPolicy
            | ControlCode::RegisterProxy
            | ControlCode::Answer
            | ControlCode::StartCapture
            | ControlCode::StopCapture => 2,
            _ => 1,
        };
        assert_eq!(access, expected, "{code}");
        assert_eq!(code.raw() & 3, 0, "{code} is buffered");
        assert_eq!(ControlCode::from_raw(code.raw()), Some(*code));
    }
    assert_eq!(ControlCode::from_raw(0), None);
}

#[test]
fn the_checksum_is_that_of_zlib() {
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    assert_eq!(crc32(b""), 0);
}

#[test]
fn a_volume_is_recognized_by_its_whole_name() {
    let volume = |path: &str| without_volume(path.encode_utf16());
    assert_eq!(volume(r"\device\harddiskvolume3\windows"), 23);
    assert_eq!(volume(r"\Device\HarddiskVolume12\x"), 24);
    for path in [
        r"\device\harddiskvolume\x",
        r"\device\harddiskvolume3",
        r"\device\harddiskvolume3x\y",
        r"\device\mup\x",
        "",
    ] {
        assert_eq!(volume(path), 0, "{path}");
    }
}

#[test]
fn an_ipv4_address_is_mapped_into_ipv6() {
    let mapped = std::net::Ipv6Addr::from(map_v4([192, 0, 2, 1]));
    assert_eq!(mapped.to_ipv4_mapped(), Some([192, 0, 2, 1].into()));
}
