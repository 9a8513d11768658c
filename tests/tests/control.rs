//! Control requests: what is asked for comes back, and what is malformed changes nothing.

use ksim::nt::io_security::{GENERIC_READ, GENERIC_WRITE};
use ksim::{Caller, OpenError};
use portcullis_core::PolicyView;
use portcullis_proto::ask::AnswerRequest;
use portcullis_proto::capture::{CaptureReply, StartCaptureRequest};
use portcullis_proto::counter::StatisticsReply;
use portcullis_proto::device::ControlCode;
use portcullis_proto::event::EventsReply;
use portcullis_proto::filter::{DescribeFilterRequest, FilterReply};
use portcullis_proto::message::{
    PROTOCOL_MAJOR, ReadRequest, SetPolicyRequest, VersionReply, read_padded,
};
use portcullis_proto::policy::{CRC_FROM, FORMAT_VERSION, MAX_SIZE, PolicyHeader, crc32};
use portcullis_proto::redirect::RegisterProxyRequest;
use portcullis_proto::status::StatusReply;
use portcullis_proto::{Action, CALLOUTS, CalloutKind, Counter, Family};
use portcullis_tests::control::{compile, plain_request, set_policy_request};
use portcullis_tests::random::Random;
use portcullis_tests::{Device, World};
use wfp_schema::NtStatus;
use zerocopy::IntoBytes as _;

const POLICY: &str = r"
    default = 'permit'
    [[rule]]
    action = 'block'
    direction = 'outbound'
    protocol = ['tcp', 'udp']
    remote_address = ['198.51.100.0/24', '2001:db8:1::/48']
    remote_port = [23, '137-139']
    application = 'C:\Program Files\*\mail.exe'
    user = 'S-1-5-21-1-2-3-1001'
    [[rule]]
    action = 'block'
    host = ['ads.example.net', '*.tracker.example.org']
    log = true
    [[rule]]
    action = 'permit'
    local_address = '192.0.2.10'
    local_port = '8000-8100'
";

/// The one request of each code that is well-formed, with room for its reply.
fn valid(world: &World, code: ControlCode) -> (Vec<u8>, usize) {
    match code {
        ControlCode::GetVersion => (Vec::new(), size_of::<VersionReply>()),
        ControlCode::GetStatus => (plain_request(), StatusReply::size_with(CALLOUTS.len())),
        ControlCode::GetStatistics => (plain_request(), StatisticsReply::SIZE),
        ControlCode::ReadEvents | ControlCode::ReadQuestions => (
            ReadRequest::new(ReadRequest::NO_WAIT).as_bytes().to_vec(),
            EventsReply::size_with(4),
        ),
        ControlCode::SetPolicy => (set_policy_request(&compile(POLICY)), 0),
        ControlCode::RegisterProxy => {
            let listens = "127.0.0.1:8080".parse().expect("an address with a port");
            (RegisterProxyRequest::new(listens, 0).as_bytes().to_vec(), 0)
        }
        ControlCode::Answer => (AnswerRequest::new(1, Action::Permit).as_bytes().to_vec(), 0),
        ControlCode::StartCapture => (StartCaptureRequest::new(64, 1 << 16).as_bytes().to_vec(), 0),
        ControlCode::ReadCapture => (
            ReadRequest::new(ReadRequest::NO_WAIT).as_bytes().to_vec(),
            CaptureReply::size_for(64),
        ),
        ControlCode::StopCapture => (plain_request(), 0),
        ControlCode::DescribeFilter => {
            let filter = world
                .callout(CalloutKind::Connect, Family::V4)
                .filter_id
                .get();
            (
                DescribeFilterRequest::new(filter).as_bytes().to_vec(),
                size_of::<FilterReply>(),
            )
        }
    }
}

/// What a well-formed request is answered by. There is no question to answer.
const fn accepted(code: ControlCode) -> NtStatus {
    match code {
        ControlCode::Answer => NtStatus::NOT_FOUND,
        _ => NtStatus::SUCCESS,
    }
}

/// What must not change: all of the status but for what the reading of it moves.
fn fixed(world: &World) -> StatusReply {
    world.status()
}

#[test]
fn the_version_tells_what_the_driver_speaks() {
    let world = World::new();
    let result = world.device().ioctl(ControlCode::GetVersion.raw(), &[], 64);
    assert_eq!(result.status, NtStatus::SUCCESS);
    assert_eq!(result.information, size_of::<VersionReply>());
    let (version, _) = read_padded::<VersionReply>(&result.output).expect("a reply");
    assert_eq!(version.header.major.get(), PROTOCOL_MAJOR);
    assert_eq!(version.policy_format.get(), FORMAT_VERSION);
    world.end();
}

#[test]
fn a_well_formed_request_of_each_code_succeeds() {
    let world = World::new();
    for &code in ControlCode::ALL {
        let (input, room) = valid(&world, code);
        let result = world.device().ioctl(code.raw(), &input, room);
        assert_eq!(result.status, accepted(code), "{}", code.name());
        assert!(result.information <= room);
    }
    world.end();
}

#[test]
fn unknown_codes_are_refused() {
    let world = World::new();
    let before = fixed(&world);
    let mut refused = 0;
    let codes = (0x800..0x840_u32).chain([0, 1, 0x7ff, 0xfff]);
    for function in codes {
        for method in 0..4 {
            for access in 0..4 {
                for device in [0x12, 0x22] {
                    let code = (device << 16) | (access << 14) | (function << 2) | method;
                    if ControlCode::from_raw(code).is_some() {
                        continue;
                    }
                    let result = world.device().ioctl(code, &plain_request(), 256);
                    assert_eq!(result.status, NtStatus::INVALID_DEVICE_REQUEST, "{code:#x}");
                    refused += 1;
                }
            }
        }
    }
    assert_eq!(world.counter(Counter::RequestUnknown), refused);
    assert_eq!(fixed(&world), before);
    world.end();
}

#[test]
fn an_input_that_is_cut_short_is_refused_at_each_length() {
    let world = World::new();
    world.set_policy(POLICY);
    let before = fixed(&world);
    for code in [
        ControlCode::GetStatus,
        ControlCode::GetStatistics,
        ControlCode::ReadEvents,
        ControlCode::ReadQuestions,
        ControlCode::Answer,
        ControlCode::StartCapture,
        ControlCode::ReadCapture,
        ControlCode::StopCapture,
        ControlCode::DescribeFilter,
    ] {
        let (input, room) = valid(&world, code);
        for length in 0..input.len() {
            let answer = world.device().answer(code, &input[..length], room);
            assert_eq!(
                answer,
                NtStatus::BUFFER_TOO_SMALL,
                "{} with {length} bytes",
                code.name()
            );
        }
    }
    let (input, _) = valid(&world, ControlCode::SetPolicy);
    for length in 0..input.len() {
        let answer = world
            .device()
            .answer(ControlCode::SetPolicy, &input[..length], 0);
        let expected = if length < size_of::<SetPolicyRequest>() {
            NtStatus::BUFFER_TOO_SMALL
        } else {
            NtStatus::INVALID_BUFFER_SIZE
        };
        assert_eq!(answer, expected, "with {length} bytes");
    }
    assert_eq!(fixed(&world).policy_epoch, before.policy_epoch);
    assert_eq!(fixed(&world).policy_hash, before.policy_hash);
    world.end();
}

#[test]
fn an_output_that_is_too_small_is_refused_at_each_length() {
    let world = World::new();
    world.set_policy(POLICY);
    for code in [
        ControlCode::GetVersion,
        ControlCode::GetStatus,
        ControlCode::GetStatistics,
        ControlCode::DescribeFilter,
    ] {
        let (input, room) = valid(&world, code);
        for room in 0..room {
            let result = world.device().ioctl(code.raw(), &input, room);
            assert_eq!(
                result.status,
                NtStatus::BUFFER_TOO_SMALL,
                "{} with room for {room}",
                code.name()
            );
            assert_eq!(result.information, 0);
        }
        assert_eq!(world.device().answer(code, &input, room), NtStatus::SUCCESS);
    }
    let (input, _) = valid(&world, ControlCode::ReadEvents);
    let waiting = world.status().events;
    for room in 0..EventsReply::size_with(1) {
        assert_eq!(
            world.device().answer(ControlCode::ReadEvents, &input, room),
            NtStatus::BUFFER_TOO_SMALL
        );
    }
    assert_eq!(world.status().events, waiting, "and no event is lost by it");
    world.end();
}

#[test]
fn another_major_version_is_refused_and_a_later_minor_one_is_not() {
    let world = World::new();
    for &code in ControlCode::ALL
        .iter()
        .filter(|code| **code != ControlCode::GetVersion)
    {
        let (input, room) = valid(&world, code);
        for major in [0, PROTOCOL_MAJOR + 1, 0x7fff, 0xffff] {
            let mut input = input.clone();
            input[4..6].copy_from_slice(&major.to_le_bytes());
            let answer = world.device().answer(code, &input, room);
            assert_eq!(
                answer,
                NtStatus::REVISION_MISMATCH,
                "{} of version {major}",
                code.name()
            );
        }
        let mut later = input.clone();
        later[6..8].copy_from_slice(&9_u16.to_le_bytes());
        assert_eq!(
            world.device().answer(code, &later, room),
            accepted(code),
            "{}",
            code.name()
        );
    }
    let codes = u64::try_from(ControlCode::ALL.len() - 1).expect("few");
    assert_eq!(world.counter(Counter::RequestVersion), codes * 4);
    world.end();
}

#[test]
fn a_longer_fixed_part_is_taken_if_what_is_not_known_is_zero() {
    let world = World::new();
    for &code in ControlCode::ALL
        .iter()
        .filter(|code| **code != ControlCode::GetVersion)
    {
        let (input, room) = valid(&world, code);
        let fixed = u32::from_le_bytes(input[..4].try_into().expect("four bytes")) as usize;
        for (unknown, expected) in [(0, accepted(code)), (1, NtStatus::INVALID_PARAMETER)] {
            let mut longer = input[..fixed].to_vec();
            longer.extend([0, 0, 0, unknown]);
            longer.extend(&input[fixed..]);
            longer[..4].copy_from_slice(&u32::try_from(fixed + 4).expect("small").to_le_bytes());
            assert_eq!(
                world.device().answer(code, &longer, room),
                expected,
                "{} with {unknown}",
                code.name()
            );
        }
        for size in [
            0,
            1,
            u32::try_from(fixed - 1).expect("small"),
            0x7fff_ffff,
            0xffff_ffff,
        ] {
            let mut wrong = input.clone();
            wrong[..4].copy_from_slice(&size.to_le_bytes());
            let answer = world.device().answer(code, &wrong, room);
            assert_eq!(
                answer,
                NtStatus::INVALID_BUFFER_SIZE,
                "{} of size {size:#x}",
                code.name()
            );
        }
    }
    world.end();
}

#[test]
fn reserved_bits_are_refused() {
    let world = World::new();
    let before = fixed(&world);
    let (input, room) = valid(&world, ControlCode::ReadEvents);
    for bit in 1..64 {
        let mut input = input.clone();
        input[8 + bit / 8] |= 1 << (bit % 8);
        let answer = world.device().answer(ControlCode::ReadEvents, &input, room);
        assert_eq!(
            answer,
            NtStatus::INVALID_PARAMETER,
            "bit {bit} of flags and reserved"
        );
    }
    let (input, _) = valid(&world, ControlCode::SetPolicy);
    for bit in 0..32 {
        let mut input = input.clone();
        input[12 + bit / 8] |= 1 << (bit % 8);
        let answer = world.device().answer(ControlCode::SetPolicy, &input, 0);
        assert_eq!(answer, NtStatus::INVALID_PARAMETER, "bit {bit} of reserved");
    }
    assert_eq!(fixed(&world), before);
    world.end();
}

#[test]
fn a_policy_size_that_is_not_the_rest_of_the_input_is_refused() {
    let world = World::new();
    let before = fixed(&world);
    let (input, _) = valid(&world, ControlCode::SetPolicy);
    let actual = u32::try_from(input.len() - size_of::<SetPolicyRequest>()).expect("small");
    for size in [0, 1, actual - 1, actual + 1, 0x7fff_ffff, 0xffff_ffff] {
        let mut input = input.clone();
        input[8..12].copy_from_slice(&size.to_le_bytes());
        let answer = world.device().answer(ControlCode::SetPolicy, &input, 0);
        assert_eq!(answer, NtStatus::INVALID_BUFFER_SIZE, "size {size:#x}");
    }
    assert_eq!(fixed(&world), before);
    world.end();
}

/// Under a policy, hands these to the driver, which refuses them all and keeps what it has.
fn all_refused(policies: impl IntoIterator<Item = Vec<u8>>) {
    let world = World::new();
    world.set_policy("default = 'block'");
    let before = fixed(&world);
    let mut refused = 0;
    for policy in policies {
        assert_eq!(
            world.device().try_set_policy(&policy),
            NtStatus::DATA_NOT_ACCEPTED,
            "policy {refused}"
        );
        refused += 1;
    }
    assert_eq!(fixed(&world), before, "the policy in force stays");
    assert_eq!(world.counter(Counter::PolicyRejected), refused);
    assert_eq!(world.counter(Counter::PoliciesSet), 1);
    world.end();
}

#[test]
fn a_policy_cut_at_any_length_is_refused() {
    let policy = compile(POLICY);
    all_refused((1..policy.len()).map(|length| policy[..length].to_vec()));
}

#[test]
fn a_policy_with_anything_behind_it_is_refused() {
    let policy = compile(POLICY);
    all_refused([1, 2, 4, 8, 100].map(|more| [&policy[..], &vec![0; more]].concat()));
}

#[test]
fn a_policy_with_any_byte_corrupted_is_refused() {
    let policy = compile(POLICY);
    all_refused((0..policy.len()).flat_map(|at| {
        let policy = policy.clone();
        [0x01, 0x80, 0xff].map(move |flip| {
            let mut corrupted = policy.clone();
            corrupted[at] ^= flip;
            corrupted
        })
    }));
}

#[test]
fn a_policy_of_another_format_version_is_refused() {
    let policy = compile(POLICY);
    all_refused([0_u16, FORMAT_VERSION + 1, 0xffff].map(|version| {
        let mut other = policy.clone();
        other[4..6].copy_from_slice(&version.to_le_bytes());
        other
    }));
}

#[test]
fn zeros_ones_and_noise_are_no_policies() {
    let mut random = Random::new(0x5eed_0001);
    let header = size_of::<PolicyHeader>();
    let mut policies = vec![
        vec![0; header],
        vec![0xff; header],
        vec![0; 4096],
        vec![0xff; 4096],
        vec![b'P'],
    ];
    policies.extend((0..64).map(|_| (0..=random.below(2048)).map(|_| random.byte()).collect()));
    all_refused(policies);
}

#[test]
fn a_policy_beyond_the_largest_size_is_refused() {
    let mut policy = compile(POLICY);
    policy.resize(MAX_SIZE + 1, 0);
    all_refused([policy]);
}

#[test]
fn a_corrupted_policy_with_a_right_checksum_is_accepted_only_if_it_is_a_policy() {
    let world = World::new();
    let policy = compile(POLICY);
    let (mut accepted, mut refused) = (0_u64, 0_u64);
    for at in CRC_FROM..policy.len() {
        for flip in [0x01, 0x02, 0x10, 0x80, 0xff] {
            let mut corrupted = policy.clone();
            corrupted[at] ^= flip;
            let crc = crc32(&corrupted[CRC_FROM..]);
            corrupted[12..16].copy_from_slice(&crc.to_le_bytes());
            let before = fixed(&world);
            let answer = world.device().try_set_policy(&corrupted);
            if PolicyView::validate(&corrupted).is_ok() {
                assert_eq!(answer, NtStatus::SUCCESS, "byte {at} ^ {flip:#x}");
                assert_eq!(
                    fixed(&world).policy_epoch.get(),
                    before.policy_epoch.get() + 1
                );
                accepted += 1;
            } else {
                assert_eq!(answer, NtStatus::DATA_NOT_ACCEPTED, "byte {at} ^ {flip:#x}");
                assert_eq!(fixed(&world), before);
                refused += 1;
            }
            if accepted % 1000 == 999 {
                drop(world.events());
            }
        }
    }
    println!("{accepted} other policies, {refused} refused");
    assert!(
        refused > accepted / 10 && accepted > 0,
        "the corruption reaches structure and text"
    );
    world.end();
}

#[test]
fn a_handle_without_the_right_to_write_cannot_set_a_policy() {
    let world = World::new();
    world.set_policy("default = 'block'");
    let before = fixed(&world);
    let reader = world.open(Caller::administrator().with_access(GENERIC_READ));
    assert_eq!(
        reader.try_set_policy(&compile("default = 'permit'")),
        NtStatus::ACCESS_DENIED
    );
    assert_eq!(reader.status().0.policy_hash, before.policy_hash);
    let writer = world.open(Caller::administrator().with_access(GENERIC_WRITE));
    for code in [
        ControlCode::GetVersion,
        ControlCode::GetStatus,
        ControlCode::GetStatistics,
        ControlCode::ReadEvents,
    ] {
        let (input, room) = valid(&world, code);
        assert_eq!(
            writer.answer(code, &input, room),
            NtStatus::ACCESS_DENIED,
            "{}",
            code.name()
        );
    }
    assert_eq!(fixed(&world), before);
    assert_eq!(
        writer.try_set_policy(&compile("default = 'permit'")),
        NtStatus::SUCCESS
    );
    reader.close();
    writer.close();
    world.end();
}

#[test]
fn a_user_without_privileges_cannot_even_open_the_device_to_read() {
    let world = World::new();
    for access in [
        GENERIC_READ,
        GENERIC_WRITE,
        GENERIC_READ | GENERIC_WRITE,
        0x0012_0089,
    ] {
        let opened = Device::open(&world.kernel, Caller::user().with_access(access));
        assert_eq!(
            opened.map(drop),
            Err(OpenError::Status(NtStatus::ACCESS_DENIED)),
            "{access:#x}"
        );
    }
    world.end();
}

#[test]
fn noise_for_requests_neither_stops_the_machine_nor_changes_anything() {
    let mut random = Random::new(0x5eed_0002);
    let world = World::new();
    world.set_policy("default = 'block'");
    drop(world.events());
    let before = fixed(&world);
    for round in 0..4000 {
        let code = match random.below(8) {
            known @ 0..5 => ControlCode::ALL[known].raw(),
            5 => ControlCode::SetPolicy.raw() ^ (1 << random.below(32)),
            _ => u32::from_le_bytes([random.byte(), random.byte(), random.byte(), random.byte()]),
        };
        let mut input: Vec<u8> = (0..random.below(64)).map(|_| random.byte()).collect();
        if random.below(2) == 0
            && let Some(header) = input.get_mut(..8)
        {
            // A good header, so that more than it is looked at; a read must not wait.
            header.copy_from_slice(&[
                u8::try_from(8 + random.below(12)).expect("small"),
                0,
                0,
                0,
                1,
                0,
                0,
                0,
            ]);
            if let Some(flags) = input.get_mut(8) {
                *flags |= 1;
            }
        }
        let result = world.device().ioctl(code, &input, random.below(8192));
        if let Some(pending) = result.pending {
            pending.cancel().expect("the machine runs");
        }
        assert!(
            result.status == NtStatus::SUCCESS
                || result.status == NtStatus::PENDING
                || result.status.is_error(),
            "round {round}: {code:#x} {input:02x?} gave {}",
            result.status
        );
    }
    assert_eq!(fixed(&world), before);
    world.end();
}
