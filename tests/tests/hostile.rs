//! Requests made from well-formed ones, changed at random: the driver neither stops the machine, nor writes more than there is
//! room for, nor keeps anything, whatever a program of an administrator's says.

use ksim::Caller;
use portcullis_fuzz::targets::policies::repaired;
use portcullis_fuzz::{Mutator, Random};
use portcullis_proto::Action;
use portcullis_proto::ask::AnswerRequest;
use portcullis_proto::capture::{CaptureReply, StartCaptureRequest};
use portcullis_proto::device::ControlCode;
use portcullis_proto::event::EventsReply;
use portcullis_proto::filter::DescribeFilterRequest;
use portcullis_proto::message::{ReadRequest, SetPolicyRequest};
use portcullis_proto::redirect::RegisterProxyRequest;
use portcullis_tests::control::{compile, plain_request, set_policy_request};
use portcullis_tests::{Device, Tcp, World, udp};
use wfp_schema::NtStatus;
use zerocopy::IntoBytes as _;

const SEED: u64 = 0x5eed_0007;
const ROUNDS: u32 = 4000;

/// Policies that have a bit of everything.
const POLICIES: [&str; 3] = [
    "default = 'permit'\n[[rule]]\naction = 'ask'\nremote_port = 4433\n[[rule]]\naction = 'block'\n\
     host = ['ads.example.net', '*.tracker.example.org']\nlog = true\n[[rule]]\naction = 'block'\n\
     content = ['top secret']\nprotocol = 'tcp'\n",
    "default = 'permit'\n[[rule]]\naction = 'permit'\nprotocol = 'udp'\nrate = '1 MB/s'\nmirror = true\n\
     [[rule]]\naction = 'permit'\nremote_port = 80\nreplace = [{ find = 'secret', with = '******' }]\n",
    "default = 'permit'\n[[rule]]\naction = 'block'\noperation = 'bind'\nlocal_port = 80\n\
     [[rule]]\naction = 'permit'\nremote_port = 443\nredirect = '127.0.0.1:8080'\n",
];

/// What a program has learnt from the driver.
struct Facts {
    filter: u64,
    questions: Vec<u64>,
}

/// Well-formed requests of one code.
fn well_formed(code: ControlCode, facts: &Facts) -> Vec<Vec<u8>> {
    match code {
        ControlCode::GetVersion => vec![Vec::new(), plain_request()],
        ControlCode::GetStatus | ControlCode::GetStatistics | ControlCode::StopCapture => {
            vec![plain_request()]
        }
        ControlCode::ReadEvents | ControlCode::ReadQuestions | ControlCode::ReadCapture => {
            [0, ReadRequest::NO_WAIT]
                .map(|flags| ReadRequest::new(flags).as_bytes().to_vec())
                .to_vec()
        }
        ControlCode::SetPolicy => POLICIES
            .map(|policy| set_policy_request(&compile(policy)))
            .to_vec(),
        ControlCode::RegisterProxy => ["127.0.0.1:8080", "[::1]:8080"]
            .map(|listens| {
                let listens = listens.parse().expect("an address with a port");
                RegisterProxyRequest::new(listens, 6).as_bytes().to_vec()
            })
            .to_vec(),
        ControlCode::Answer => [0, 1]
            .iter()
            .chain(&facts.questions)
            .map(|&question| {
                AnswerRequest::new(question, Action::Permit)
                    .as_bytes()
                    .to_vec()
            })
            .collect(),
        ControlCode::StartCapture => vec![
            StartCaptureRequest::new(65_535, 1 << 16)
                .as_bytes()
                .to_vec(),
            StartCaptureRequest::new(64, 1 << 17).as_bytes().to_vec(),
        ],
        ControlCode::DescribeFilter => {
            vec![DescribeFilterRequest::new(facts.filter).as_bytes().to_vec()]
        }
    }
}

/// A request made from a well-formed one. Half of the policies have a right checksum.
fn hostile(
    code: ControlCode,
    facts: &Facts,
    mutator: &mut Mutator,
    random: &mut Random,
) -> Vec<u8> {
    let requests = well_formed(code, facts);
    // Those that are well-formed get the driver into states in which others are worth asking.
    if random.below(3) == 0 {
        return random.one(&requests).clone();
    }
    let input = mutator.mutated(&requests);
    let fixed = size_of::<SetPolicyRequest>();
    if code != ControlCode::SetPolicy || input.len() < fixed || random.below(2) == 0 {
        return input;
    }
    set_policy_request(&repaired(&input[fixed..]))
}

/// Room for the output: as much as its code needs, about as much, or any.
fn room(code: ControlCode, random: &mut Random) -> usize {
    let usual = match code {
        ControlCode::ReadCapture => CaptureReply::size_for(65_535),
        _ => EventsReply::size_with(8),
    };
    match random.below(6) {
        0 => 0,
        1 => 8,
        2 => usual - 1,
        3 => random.below(1 << 12),
        _ => usual,
    }
}

/// What goes on meanwhile: connections that are asked about, and whose data is looked at and captured.
fn traffic(world: &mut World, port: u16) {
    for (client, server) in [
        ("192.0.2.10", "198.51.100.1"),
        ("[2001:db8::10]", "[2001:db8::80]"),
    ] {
        let mut tcp = Tcp::new(&format!("{client}:{port}"), &format!("{server}:80"));
        for packet in tcp.handshake() {
            world.net.packet(&packet);
        }
        world.net.packet(&tcp.client_says(b"a top secret"));
        let asked = Tcp::new(&format!("{client}:{port}"), &format!("{server}:4433")).handshake();
        world.net.packet(&asked[0]);
        world.net.packet(&udp(
            &format!("{client}:{port}"),
            &format!("{server}:53"),
            b"x",
        ));
    }
    world.net.settle();
}

#[test]
fn whatever_is_asked_of_the_driver_it_goes_on_and_leaves_nothing_behind() {
    println!("seed {SEED:#x}");
    let mut random = Random::new(SEED);
    let mut mutator = Mutator::new(SEED, &[]);
    let mut world = World::with_policy(POLICIES[0]);
    let devices: Vec<Device> = (0..3)
        .map(|process| {
            let administrator = Caller::administrator();
            world.open(Caller {
                process: administrator.process + process,
                ..administrator
            })
        })
        .collect();
    let mut facts = Facts {
        filter: world.device().status().1[0].filter_id.get(),
        questions: Vec::new(),
    };
    let mut pending = Vec::new();
    let mut succeeded = vec![0_u32; ControlCode::ALL.len()];
    for round in 0..ROUNDS {
        if round % 64 == 0 {
            let port = 50_000 + u16::try_from(round / 64).expect("few rounds");
            traffic(&mut world, port);
        }
        let place = random.below(ControlCode::ALL.len());
        let code = ControlCode::ALL[place];
        let input = hostile(code, &facts, &mut mutator, &mut random);
        let room = room(code, &mut random);
        // Sometimes a code that is no code, or has another way to hand buffers over.
        let raw = match random.below(16) {
            0 => code.raw() ^ (1 << random.below(32)),
            _ => code.raw(),
        };
        let device = random.one(&devices);
        let result = device.ioctl(raw, &input, room);
        assert!(
            result.output.len() <= room,
            "round {round}: {}",
            code.name()
        );
        assert!(
            result.status == NtStatus::SUCCESS
                || result.status == NtStatus::PENDING
                || !result.status.is_success(),
            "round {round}: {} gave {}",
            code.name(),
            result.status
        );
        if result.status == NtStatus::SUCCESS && raw == code.raw() {
            succeeded[place] += 1;
            if code == ControlCode::ReadQuestions
                && let Some((_, records)) = EventsReply::read(&result.output)
            {
                facts.questions = records.map(|record| record.question()).collect();
            }
        }
        pending.extend(result.pending);
        if pending.len() > 40 {
            // Some programs give up, some wait on.
            for waiting in pending.drain(..20) {
                waiting.cancel().expect("the machine runs");
            }
        }
    }
    for (code, count) in ControlCode::ALL.iter().zip(&succeeded) {
        println!("{}: {count} succeeded", code.name());
        assert!(*count > 0, "every code is reached: {}", code.name());
    }
    for waiting in pending {
        waiting.cancel().expect("the machine runs");
    }
    for device in devices {
        device.close();
    }
    // It is as good as new.
    world.set_policy("default = 'block'");
    world.net.settle();
    let mut tcp = Tcp::new("192.0.2.10:60000", "198.51.100.1:80");
    assert!(world.net.none_passes(&tcp.handshake()));
    world.set_policy("default = 'permit'");
    let mut tcp = Tcp::new("192.0.2.10:60001", "198.51.100.1:80");
    assert!(world.net.all_pass(&tcp.handshake()));
    assert_eq!(world.status().held.get(), 0);
    world.end();
}

/// By `METHOD_BUFFERED` input and output are one buffer: what the output overwrites has been read before.
#[test]
fn a_reply_does_not_depend_on_what_is_behind_the_request_in_its_buffer() {
    let world = World::with_policy(POLICIES[0]);
    let filters = world.device().status().1;
    let filter = filters[0].filter_id.get();
    let requests = [
        (ControlCode::GetVersion, Vec::new()),
        (ControlCode::GetStatus, plain_request()),
        (
            ControlCode::DescribeFilter,
            DescribeFilterRequest::new(filter).as_bytes().to_vec(),
        ),
    ];
    for (code, request) in requests {
        let alone = world.device().ioctl(code.raw(), &request, 1 << 14);
        assert_eq!(alone.status, NtStatus::SUCCESS, "{}", code.name());
        for fill in [0, 0xff] {
            for size in [request.len(), 64, alone.output.len(), 1 << 14] {
                let mut input = request.clone();
                input.resize(size.max(request.len()), fill);
                let result = world.device().ioctl(code.raw(), &input, alone.output.len());
                assert_eq!(result.status, NtStatus::SUCCESS, "{}", code.name());
                assert_eq!(result.output, alone.output, "{} with {size}", code.name());
            }
        }
    }
    world.end();
}
