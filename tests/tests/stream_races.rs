//! Streams that are edited or out of band, when calls fail, on several processors, and beside what ends them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, Ordering};

use ksim::net::Setup;
use ksim::sched::Program;
use ksim::{Config, PoolMode, Schedule};
use portcullis_proto::{Counter, DriverState};
use portcullis_tests::control::alive;
use portcullis_tests::races::try_many;
use portcullis_tests::random::Random;
use portcullis_tests::streams::{Arrived, Conversation, converse, replaced};
use portcullis_tests::sweep::sweep;
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Net, Tcp, World};
use wfp_engine::FlowId;
use wfp_schema::BfeState;

/// Rules by the server's port: replacements, a header, both, and contents out of band.
const TREAT: &str = "
    default = 'permit'
    [[rule]]
    action = 'block'
    remote_port = 82
    content = 'forbidden words'
    inspect = 'out of band'
    [[rule]]
    action = 'permit'
    remote_port = [80, 81]
    replace = [{ find = 'secret', with = '******' }, { find = 'remove me', with = '' }, { find = 'short', with = 'a good deal longer' }]
    [[rule]]
    action = 'permit'
    remote_port = 83
    http_header = { Agent = 'nobody', Cookie = false }
    replace = [{ find = 'secret', with = '******' }]
";

const REPLACEMENTS: [(&str, &str); 3] = [
    ("secret", "******"),
    ("remove me", ""),
    ("short", "a good deal longer"),
];

/// The servers' ports that the rules are for, and one that no rule is for.
const PORTS: [u16; 4] = [80, 82, 83, 84];

/// A message with what rules look for, and with what only begins like it.
fn prose(random: &mut Random) -> Vec<u8> {
    const WORDS: [&str; 9] = [
        "secret",
        "secre",
        "remove me",
        "remove",
        "short",
        "sho",
        "forbidden word",
        " ",
        "******",
    ];
    let words = 5 + random.below(10);
    let mut message = Vec::new();
    for _ in 0..words {
        message.extend_from_slice(WORDS[random.below(WORDS.len())].as_bytes());
        message.extend(std::iter::repeat_n(b'.', 1 + random.below(30)));
    }
    message
}

/// Requests, and what they are after the rule for port 83.
fn requests(random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let (mut said, mut expected) = (String::new(), String::new());
    for _ in 0..=random.below(3) {
        let body = String::from_utf8(prose(random)).expect("text");
        said += "POST /secret HTTP/1.1\r\n";
        expected += "POST /****** HTTP/1.1\r\n";
        let has_agent = random.below(2) == 0;
        if has_agent {
            said += "aGent:  a secret agent\r\n";
            expected += "Agent: nobody\r\n";
        }
        if random.below(2) == 0 {
            said += "Cookie: c\r\n";
        }
        let length = format!("Content-Length: {}\r\n", body.len());
        said += &length;
        expected += &length;
        if !has_agent {
            expected += "Agent: nobody\r\n";
        }
        said += "\r\n";
        said += &body;
        expected += "\r\n";
        expected += &body.replace("secret", "******");
    }
    (said.into_bytes(), expected.into_bytes())
}

/// What both ends say of a connection to a port, and what is to arrive.
fn messages(random: &mut Random, port: u16) -> [[Vec<u8>; 2]; 2] {
    let server = prose(random);
    match port {
        80 => {
            let client = prose(random);
            let edited = [&client, &server].map(|said| replaced(said, &REPLACEMENTS));
            [[client, server], edited]
        }
        83 => {
            let (said, edited) = requests(random);
            let answer = replaced(&server, &REPLACEMENTS[..1]);
            [[said, server], [edited, answer]]
        }
        _ => {
            let said = [prose(random), server];
            [said.clone(), said]
        }
    }
}

fn ends(port: u16, server: u16) -> (String, String) {
    if port.is_multiple_of(2) {
        (
            format!("192.0.2.10:{port}"),
            format!("198.51.100.1:{server}"),
        )
    } else {
        (
            format!("[2001:db8::10]:{port}"),
            format!("[2001:db8::80]:{server}"),
        )
    }
}

fn with_output(world: &World, processor: u32) -> Net {
    let setup = Setup {
        output: true,
        ..Setup::default()
    };
    Net::with_setup(&world.kernel, processor, setup)
}

/// What arrived is all of it, or its beginning and the connection is over.
#[track_caller]
fn assert_whole_or_ended(arrived: &Arrived, expected: &[Vec<u8>; 2], is_over: bool, why: &str) {
    for (data, expected) in arrived.data.iter().zip(expected) {
        let data = String::from_utf8_lossy(data);
        let expected = String::from_utf8_lossy(expected);
        assert!(
            expected.starts_with(&*data),
            "after {why}: {data:?}, not the beginning of {expected:?}"
        );
    }
    let is_whole = arrived.data == *expected && arrived.ends == 2;
    assert!(
        is_whole || is_over,
        "after {why}: cut off, and the connection goes on: {arrived:?}"
    );
}

#[test]
fn every_call_fails_in_turn_and_a_stream_is_whole_or_over() {
    let mut world = World::boot(&Config {
        pool: PoolMode::Fast,
        ..Config::default()
    });
    assert!(world.start().is_success());
    world.set_policy(TREAT);
    world = world.with_output();
    let mut port = 50_000;
    for server in [80, 82, 83] {
        sweep(&format!("a stream to port {server}"), |nth| {
            let mut random = Random::new(0x5eed + u64::from(server));
            let [said, expected] = messages(&mut random, server);
            let said = [said[0].as_slice(), said[1].as_slice()];
            port += 1;
            let (client, remote) = ends(port, server);
            let mut arrived = Arrived::of(&client);
            world.kernel.faults().fail_nth(nth);
            let mut conversation = Conversation::begin(&mut world.net, (&client, &remote), said);
            while let Some(packet) = conversation.segment(&mut random) {
                arrived.add(world.net.at_once(&[packet]));
            }
            let call = world.kernel.faults().failed_call();
            world.kernel.faults().fail_nth(0);
            world.net.settle();
            arrived.add(world.net.output());
            let is_over = !world.net.passes(conversation.tcp.client_says(b""));
            for packet in conversation.tcp.close() {
                arrived.add(world.net.at_once(&[packet]));
            }
            world.net.settle();
            arrived.add(world.net.output());
            assert_whole_or_ended(&arrived, &expected, is_over, &format!("{call:?}"));
            assert!(call.is_some() || arrived.data == expected, "nothing failed");
            drop(world.events());
            call
        });
    }
    world.end();
}

/// Units of 100 nanoseconds.
const SECOND: u64 = 10_000_000;

/// Schedules of each scenario.
const SEEDS: u64 = 12;

/// Four processors with a host each.
fn four(schedule: &Schedule) -> (World, Vec<Net>) {
    let world = World::with_config(&Config {
        processors: 4,
        pool: PoolMode::Fast,
        schedule: schedule.clone(),
        ..Config::default()
    });
    world.set_policy(TREAT);
    drop(world.events());
    let nets = (0..4).map(|processor| with_output(&world, processor));
    let nets = nets.collect();
    (world, nets)
}

/// What a processor's connection is to say, and what is to arrive.
fn task(seed: u64, processor: usize) -> (u16, Random, [[Vec<u8>; 2]; 2]) {
    let mut random = Random::new(seed << 8 | (processor as u64 + 1));
    let server = PORTS[random.below(PORTS.len())];
    let messages = messages(&mut random, server);
    (server, random, messages)
}

fn four_processors(schedule: &Schedule) {
    // Each schedule has its own messages.
    let mut hasher = DefaultHasher::new();
    format!("{schedule:?}").hash(&mut hasher);
    let seed = hasher.finish();
    let (world, mut nets) = four(schedule);
    let kernel = world.kernel.clone();
    let programs: Vec<Program<'_, ()>> = nets
        .iter_mut()
        .enumerate()
        .map(|(processor, net)| -> Program<'_, ()> {
            Box::new(move || {
                let (server, mut random, [said, expected]) = task(seed, processor);
                let port = 50_000 + u16::try_from(processor).expect("few");
                let (client, remote) = ends(port, server);
                let said = [said[0].as_slice(), said[1].as_slice()];
                let mut arrived = converse(net, &mut random, (&client, &remote), said);
                arrived.settle(net);
                assert_eq!(
                    arrived
                        .data
                        .map(|data| String::from_utf8_lossy(&data).into_owned()),
                    expected.map(|data| String::from_utf8_lossy(&data).into_owned()),
                    "seed {seed}, processor {processor}, port {server}"
                );
                assert_eq!(arrived.ends, 2, "seed {seed}, processor {processor}");
            })
        })
        .collect();
    kernel.together(programs);
    assert_eq!(world.counter(Counter::StreamNotInjected), 0);
    assert_eq!(world.counter(Counter::StreamsDropped), 0);
    drop(nets);
    world.end();
}

#[test]
fn streams_on_four_processors_arrive_as_their_rules_say_under_many_seeds() {
    try_many(20, four_processors);
}

/// The data of one connection while another processor unloads, and perhaps a third ends the flow.
fn unload_against_a_stream(schedule: &Schedule, server: u16, ends_flow: bool) {
    let mut world = World::with_config(&Config {
        processors: 3,
        pool: PoolMode::Fast,
        schedule: schedule.clone(),
        ..Config::default()
    });
    world.set_policy(TREAT);
    drop(world.events());
    let mut net = with_output(&world, 1);
    let (first, second): (&[u8], &[u8]) = (b"a secret, forbidden wor", b"d, sec");
    let (client, remote) = ends(50_000, server);
    let mut arrived = Arrived::of(&client);
    let mut tcp = Tcp::new(&client, &remote);
    for packet in tcp.handshake() {
        net.at_once(&[packet]);
    }
    // Something waits when it begins.
    let question: &[u8] = if server == 81 { b"sec" } else { b"forb" };
    arrived.add(net.at_once(&[tcp.client_says(question)]));
    arrived.add(net.at_once(&[tcp.server_says(first)]));
    let flow = (1..100)
        .find_map(|id| world.engine().flow(FlowId::new(id)))
        .expect("the connection's flow");
    let kernel = world.kernel.clone();
    let mut report = None;
    let mut programs: Vec<Program<'_, ()>> = vec![
        Box::new(|| report = Some(world.unload())),
        Box::new(|| {
            arrived.add(net.at_once(&[tcp.server_says(second)]));
            for packet in tcp.close() {
                arrived.add(net.at_once(&[packet]));
            }
        }),
    ];
    let other = kernel.clone();
    if ends_flow {
        programs.push(Box::new(move || {
            let ended = other.on(2, |_| other.filter_engine().end_flow(&flow));
            ended.expect("no bug check");
        }));
    }
    kernel.together(programs);
    assert_clean(&report.expect("it was unloaded"));
    world.assert_nothing_of_ours();
    net.settle();
    arrived.add(net.output());
    // After its flow nothing comes in a connection but here.
    if ends_flow {
        return;
    }
    let answer = [first, second].concat();
    for (data, said) in arrived.data.iter().zip([question, &answer]) {
        // What was still edited, and what was not any more.
        let plain = replaced(data, &[("******", "secret")]);
        assert_eq!(
            String::from_utf8_lossy(&plain),
            String::from_utf8_lossy(said)
        );
    }
    assert_eq!(arrived.ends, 2);
}

#[test]
fn unloading_against_a_stream_that_is_edited_loses_nothing() {
    try_many(SEEDS, |schedule| {
        unload_against_a_stream(schedule, 81, false);
    });
}

#[test]
fn unloading_against_a_stream_out_of_band_loses_nothing() {
    try_many(SEEDS, |schedule| {
        unload_against_a_stream(schedule, 82, false);
    });
}

#[test]
fn unloading_and_the_flows_end_against_a_stream() {
    try_many(SEEDS, |schedule| {
        unload_against_a_stream(schedule, 81, true);
    });
    try_many(SEEDS, |schedule| {
        unload_against_a_stream(schedule, 82, true);
    });
}

/// A connection of which something waits out of band.
fn waiting(world: &mut World, server: u16, said: &[u8]) -> (Arrived, Tcp) {
    let (client, remote) = ends(50_000, server);
    let mut arrived = Arrived::of(&client);
    let mut tcp = Tcp::new(&client, &remote);
    for packet in tcp.handshake() {
        world.net.at_once(&[packet]);
    }
    arrived.add(world.net.at_once(&[tcp.client_says(said)]));
    assert!(arrived.data[0].len() < said.len(), "nothing waits");
    (arrived, tcp)
}

/// What is said before and after `between`, while data waits, arrives like this; in part only if the connection is over.
#[track_caller]
fn assert_arrives(server: u16, between: impl Fn(&mut World), expected: &str, is_over: bool) {
    let mut world = World::with_policy(TREAT).with_output();
    let (first, second) = if server == 82 {
        ("a secret, forbidden wor", "et, and more: secret")
    } else {
        ("a secr", "et, and more: secret")
    };
    let (mut arrived, mut tcp) = waiting(&mut world, server, first.as_bytes());
    between(&mut world);
    world.net.settle();
    arrived.add(world.net.output());
    arrived.add(world.net.at_once(&[tcp.client_says(second.as_bytes())]));
    assert_eq!(!world.net.passes(tcp.client_says(b"")), is_over);
    for packet in tcp.close() {
        arrived.add(world.net.at_once(&[packet]));
    }
    arrived.settle(&mut world.net);
    assert_eq!(String::from_utf8_lossy(&arrived.data[0]), expected);
    assert!(is_over || arrived.ends == 2);
    world.end();
}

const OTHER: &str = "
    default = 'permit'
    [[rule]]
    action = 'permit'
    replace = [{ find = 'secret', with = '------' }]
";

#[test]
fn another_policy_while_data_waits_edits_what_it_sees_and_loses_nothing() {
    let permit = |world: &mut World| world.set_policy("default = 'permit'");
    let other = |world: &mut World| world.set_policy(OTHER);
    assert_arrives(81, permit, "a secret, and more: secret", false);
    assert_arrives(81, other, "a ------, and more: ------", false);
    assert_arrives(
        82,
        permit,
        "a secret, forbidden woret, and more: secret",
        false,
    );
    assert_arrives(
        82,
        other,
        "a ------, forbidden woret, and more: ------",
        false,
    );
}

/// What passes while there are no filters has not been seen, so that nothing can be put back behind it.
#[test]
fn the_engines_stop_while_data_waits_ends_the_connection() {
    let stop = |world: &mut World| world.stop_bfe();
    let bounce = |world: &mut World| {
        world.stop_bfe();
        world.start_bfe();
    };
    assert_arrives(81, stop, "a ", true);
    assert_arrives(82, stop, "", true);
    assert_arrives(81, bounce, "a ", true);
    assert_arrives(82, bounce, "", true);
}

#[test]
fn what_waits_is_not_put_back_behind_what_has_passed_unseen() {
    for (server, first, second) in [
        (81, "a secr", "et: secret"),
        (82, "a forbidden wor", "d, no"),
    ] {
        // Filters that outlive the engine show what passes.
        let world = World::answering(|options| options.filters_outlive_bfe = false);
        world.set_policy(TREAT);
        let mut world = world.with_output();
        let (mut arrived, mut tcp) = waiting(&mut world, server, first.as_bytes());
        // The engine stops, and for so long no thread is free for the driver to see to it.
        let time = world.kernel.time();
        time.set_lateness("WDFWORKITEM", 2 * SECOND);
        alive(world.kernel.on(0, |_| world.kernel.bfe().stop()));
        time.set_lateness("WDFWORKITEM", 0);
        arrived.add(world.net.at_once(&[tcp.client_says(second.as_bytes())]));
        // By now what waited would have gone on.
        let passing = world.net.pass(SECOND).into_iter();
        arrived.add(passing.map(|(_, output)| output));
        let data = String::from_utf8_lossy(&arrived.data[0]).into_owned();
        assert!(data.ends_with(second), "{data:?}");
        assert!(!world.net.passes(tcp.client_says(b"")), "it is aborted");
        world.net.pass(2 * SECOND);
        assert_eq!(world.state(), DriverState::WaitingForBfe);
        assert_eq!(world.counter(Counter::StreamsInterrupted), 1);
        assert_eq!(world.counter(Counter::StreamsDropped), 0);
        world.end();
    }
}

/// The engine stops between two steps of the driver, before the first call of this function, and nobody waits for the end of a
/// classify with a filter that it takes along. With `is_late` no thread is free for the driver to see to it.
fn stop_at(function: &'static str, is_late: bool) {
    for (server, first, second) in [
        (81, "a secr", "et: secret"),
        (82, "a forbidden wor", "d, no"),
    ] {
        let mut config = Config {
            processors: 2,
            ..Config::default()
        };
        config.fwp.options.deletion_waits = false;
        let world = World::with_config(&config);
        world.set_policy(TREAT);
        let mut net = with_output(&world, 1);
        let (client, remote) = ends(50_000, server);
        let mut tcp = Tcp::new(&client, &remote);
        assert!(net.all_pass(&tcp.handshake()));
        let (kernel, stops) = (world.kernel.clone(), AtomicBool::new(true));
        world.kernel.witnesses().at(function, move |_| {
            if stops.swap(false, Ordering::SeqCst) {
                let late = if is_late { 2 * SECOND } else { 0 };
                kernel.time().set_lateness("WDFWORKITEM", late);
                alive(kernel.on(0, |_| kernel.bfe().stop()));
                kernel.time().set_lateness("WDFWORKITEM", 0);
            }
        });
        for says in [first, second] {
            net.at_once(&[tcp.client_says(says.as_bytes())]);
        }
        world.kernel.witnesses().clear();
        assert_eq!(world.kernel.bfe().state(), BfeState::Stopped);
        if is_late {
            net.pass(3 * SECOND);
        }
        assert_eq!(world.state(), DriverState::WaitingForBfe);
        world.start_bfe();
        // By now what waited would have gone on.
        net.pass(SECOND);
        assert!(!net.passes(tcp.client_says(b"")), "it is aborted");
        assert_eq!(world.counter(Counter::StreamsInterrupted), 1);
        drop(net);
        world.end();
    }
}

#[test]
fn what_is_taken_while_the_engine_stops_is_not_put_back_behind_what_has_passed_unseen() {
    stop_at("FwpsCloneStreamData0", false);
}

#[test]
fn what_is_put_back_while_the_engine_stops_may_be_behind_what_has_passed_unseen() {
    stop_at("FwpsStreamInjectAsync0", true);
}

#[test]
fn the_engines_stop_leaves_a_connection_alone_in_which_nothing_waits() {
    let mut world = World::with_policy(TREAT).with_output();
    let (client, remote) = ends(50_000, 83);
    let mut arrived = Arrived::of(&client);
    let mut tcp = Tcp::new(&client, &remote);
    assert!(world.net.all_pass(&tcp.handshake()));
    let request = b"GET / HTTP/1.1\r\n\r\n";
    arrived.add(world.net.at_once(&[tcp.client_says(request)]));
    world.stop_bfe();
    arrived.add(
        world
            .net
            .at_once(&[tcp.client_says(b"GET /secret HTTP/1.1\r\n")]),
    );
    world.start_bfe();
    // It is not known that this goes on with a head.
    arrived.add(
        world
            .net
            .at_once(&[tcp.client_says(b"Cookie: secret\r\n\r\n")]),
    );
    for packet in tcp.close() {
        arrived.add(world.net.at_once(&[packet]));
    }
    arrived.settle(&mut world.net);
    assert_eq!(
        String::from_utf8_lossy(&arrived.data[0]),
        "GET / HTTP/1.1\r\nAgent: nobody\r\n\r\nGET /secret HTTP/1.1\r\nCookie: ******\r\n\r\n"
    );
    assert_eq!(arrived.ends, 2);
    world.end();
}
