//! The program that reads questions and answers.

use ksim::Caller;
use portcullis_proto::Action as Verdict;
use portcullis_tests::control::{Device, events_of};
use portcullis_tests::{Tcp, World};
use wfp_schema::NtStatus;

use super::{ASK, asked, question, settled, waits};

#[test]
fn one_program_is_asked_at_a_time() {
    let mut world = asked(ASK);
    let other = world.open(Caller::administrator());
    let refused = other.read_questions(1).poll().expect("at once");
    assert_eq!(refused.status, NtStatus::DEVICE_BUSY);
    let syn = Tcp::new("192.0.2.10:50000", "198.51.100.1:4433")
        .handshake()
        .remove(0);
    assert!(waits(&world.net.packet(&syn)));
    let asked = question(&world);
    let request = portcullis_proto::ask::AnswerRequest::new(asked.question(), Verdict::Permit);
    let code = portcullis_proto::device::ControlCode::Answer;
    let status = other.answer(code, zerocopy::IntoBytes::as_bytes(&request), 0);
    assert_eq!(status, NtStatus::INVALID_DEVICE_STATE);
    assert!(world.device().reply(&asked, Verdict::Permit));
    other.close();
    world.end();
}

#[test]
fn a_read_waits_for_a_question_and_gets_it() {
    let mut world = asked(ASK);
    let reads = [
        world.device().read_questions(4),
        world.device().read_questions(4),
    ];
    assert!(reads.iter().all(|read| read.poll().is_none()));
    let syn = |port: u16| {
        Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:4433")
            .handshake()
            .remove(0)
    };
    assert!(waits(&world.net.packet(&syn(50_000))));
    let first = reads[0].poll().expect("a question");
    assert_eq!(events_of(&first).0.len(), 1);
    assert!(reads[1].poll().is_none());
    reads[1].cancel().expect("no bug check");
    assert_eq!(reads[1].poll().expect("over").status, NtStatus::CANCELLED);
    assert!(waits(&world.net.packet(&syn(50_001))));
    assert_eq!(
        world.device().questions().len(),
        1,
        "not lost with the read"
    );
    world.end();
}

#[test]
fn hostile_answers_and_reads_are_refused_and_change_nothing() {
    use portcullis_proto::ask::AnswerRequest;
    use portcullis_proto::device::ControlCode::{Answer, ReadQuestions};
    use portcullis_proto::event::EventsReply;
    use portcullis_proto::message::ReadRequest;
    use zerocopy::IntoBytes as _;

    let mut world = World::with_policy(ASK);
    let device: &Device = world.device();
    let valid = AnswerRequest::new(1, Verdict::Permit);
    assert_eq!(
        device.answer(Answer, valid.as_bytes(), 0),
        NtStatus::INVALID_DEVICE_STATE,
        "it has read none"
    );
    assert!(device.questions().is_empty());
    let syn = Tcp::new("192.0.2.10:50000", "198.51.100.1:4433")
        .handshake()
        .remove(0);
    assert!(waits(&world.net.packet(&syn)));
    let asked = question(&world);
    let device = world.device();
    let valid = AnswerRequest::new(asked.question(), Verdict::Permit);
    for length in 0..size_of::<AnswerRequest>() {
        let status = device.answer(Answer, &valid.as_bytes()[..length], 0);
        assert_eq!(status, NtStatus::BUFFER_TOO_SMALL, "{length} bytes");
    }
    for verdict in (0..=255).filter(|verdict| ![1, 2].contains(verdict)) {
        let request = AnswerRequest { verdict, ..valid };
        assert_eq!(
            device.answer(Answer, request.as_bytes(), 0),
            NtStatus::INVALID_PARAMETER
        );
    }
    let reserved = AnswerRequest {
        reserved: [1, 0, 0, 0, 0, 0, 0],
        ..valid
    };
    assert_eq!(
        device.answer(Answer, reserved.as_bytes(), 0),
        NtStatus::INVALID_PARAMETER
    );
    for forged in [
        0,
        1 << 32,
        u64::MAX,
        asked.question() ^ (1 << 32),
        asked.question() + 1,
    ] {
        let request = AnswerRequest::new(forged, Verdict::Permit);
        assert_eq!(
            device.answer(Answer, request.as_bytes(), 0),
            NtStatus::NOT_FOUND,
            "{forged:#x}"
        );
    }
    let read = ReadRequest::new(0);
    assert_eq!(
        device.answer(
            ReadQuestions,
            read.as_bytes(),
            EventsReply::size_with(1) - 1
        ),
        NtStatus::BUFFER_TOO_SMALL
    );
    let flags = ReadRequest::new(2);
    assert_eq!(
        device.answer(ReadQuestions, flags.as_bytes(), 4096),
        NtStatus::INVALID_PARAMETER
    );
    assert_eq!(world.status().held.get(), 1, "it still waits");
    let device = world.device();
    assert_eq!(
        device.answer(Answer, valid.as_bytes(), 0),
        NtStatus::SUCCESS
    );
    assert_eq!(settled(&mut world), [true]);
    world.end();
}
