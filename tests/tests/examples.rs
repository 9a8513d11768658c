//! The drivers of `examples/`: what each says that it does, and that each keeps the rules in every situation.

use ksim::net::{Output, Setup};
use ksim::{Caller, Config, FileHandle, Kernel, Schedule};
use portcullis_tests::control::alive;
use portcullis_tests::examples::built;
use portcullis_tests::foreign::{Machine, sweep};
use portcullis_tests::packets::SYN;
use portcullis_tests::proxy::{PROXY, owners};
use portcullis_tests::{Net, Product, Tcp, udp};
use wfp_schema::{Action, FilterFlags, LayerId, NtStatus, StreamFlags};

/// An example, and what makes it do all that it does.
struct Example {
    name: &'static str,
    /// A program of its own, as long as it runs.
    program: Option<fn(&Kernel) -> Option<FileHandle>>,
    /// Traffic on a host, from ports of its own beginning with this one.
    exchange: fn(&mut Net, u16),
}

impl Example {
    const fn new(name: &'static str, exchange: fn(&mut Net, u16)) -> Self {
        Self {
            name,
            program: None,
            exchange,
        }
    }

    fn program(&self, kernel: &Kernel) -> Option<FileHandle> {
        self.program.and_then(|program| program(kernel))
    }
}

/// All of them.
const EXAMPLES: &[Example] = &[
    Example::new("accounting", accounting),
    Example::new("editing", editing),
    Example::new("guarding", guarding),
    Example::new("holding", holding),
    Example::new("marking", marking),
    Example::new("pacing", pacing),
    Example {
        program: Some(proxy),
        ..Example::new("redirecting", redirecting)
    },
    Example::new("screening", screening),
    Example::new("watching", watching),
];

fn with_processors(processors: u32) -> Config {
    Config {
        processors,
        ..Config::default()
    }
}

fn machine(name: &str) -> Machine {
    Machine::with_built(&Config::default(), &built(name))
}

/// The example, and a host whose output is kept.
fn with_output(name: &str) -> (Machine, Net) {
    let machine = machine(name);
    let setup = Setup {
        output: true,
        processes: owners(),
        ..Setup::default()
    };
    let net = Net::with_setup(&machine.kernel, 0, setup);
    (machine, net)
}

/// `CTL_CODE(FILE_DEVICE_NETWORK, 0x800, METHOD_BUFFERED, access)`.
const fn code(access: u32) -> u32 {
    0x12 << 16 | access << 14 | 0x800 << 2
}

/// The numbers that an example has counted.
fn numbers(machine: &Machine, path: &str, count: usize) -> Vec<u64> {
    let device = machine.open(path);
    let result = alive(device.ioctl(code(1), &[], count * 8));
    assert_eq!(result.status, NtStatus::SUCCESS);
    alive(device.close());
    let (numbers, _) = result.output.as_chunks();
    numbers
        .iter()
        .map(|bytes| u64::from_le_bytes(*bytes))
        .collect()
}

/// The connections' clients, one of each IP version.
fn clients(port: u16) -> [String; 2] {
    [
        format!("192.0.2.10:{port}"),
        format!("[2001:db8::10]:{port}"),
    ]
}

#[test]
fn each_example_breaks_no_rule_under_traffic_on_four_processors() {
    for example in EXAMPLES {
        let machine = Machine::with_built(&with_processors(4), &built(example.name));
        let program = example.program(&machine.kernel);
        std::thread::scope(|scope| {
            for processor in 0..4_u16 {
                let kernel = &machine.kernel;
                scope.spawn(move || {
                    let mut net = Net::new(kernel, u32::from(processor));
                    for round in 0..20 {
                        (example.exchange)(&mut net, 20_000 + processor * 1_000 + round * 8);
                    }
                });
            }
        });
        println!("{}", example.name);
        drop(program);
        machine.end();
    }
}

#[test]
fn each_example_is_unloaded_in_the_midst_of_its_traffic() {
    for example in EXAMPLES {
        let mut machine = Machine::with_built(&with_processors(4), &built(example.name));
        let program = example.program(&machine.kernel);
        (example.exchange)(&mut machine.net, 50_000);
        drop(program);
        let report = machine.unload_under_traffic(example.exchange);
        assert!(report.is_clean(), "{}: {report:#?}", example.name);
    }
}

#[test]
fn each_example_is_unloaded_at_any_moment_of_an_exchange() {
    for example in EXAMPLES {
        let driver = built(example.name);
        for seed in 0..24 {
            let config = Config {
                schedule: Schedule::seeded(seed),
                ..with_processors(2)
            };
            let mut machine = Machine::with_built(&config, &driver);
            let mut net = Net::new(&machine.kernel, 1);
            let kernel = machine.kernel.clone();
            let program = example.program(&kernel);
            let mut report = None;
            kernel.together::<()>(vec![
                Box::new(|| {
                    drop(program);
                    report = Some(machine.unload());
                }),
                Box::new(|| (example.exchange)(&mut net, 50_000)),
            ]);
            let report = report.expect("it was unloaded");
            assert!(
                report.is_clean(),
                "{}, seed {seed}: {report:#?}",
                example.name
            );
        }
    }
}

#[test]
fn each_call_of_each_example_fails_in_turn_and_nothing_is_left() {
    for example in EXAMPLES {
        let calls = sweep(&built(example.name), |machine| {
            let program = example.program(&machine.kernel);
            (example.exchange)(&mut machine.net, 50_000);
            drop(program);
        });
        assert!(calls > 15, "{}: {calls}", example.name);
    }
}

// holding

const OWN: [&str; 2] = ["10.0.0.1:4444", "[fd00::1]:4444"];
const FOREIGN: [&str; 2] = ["198.51.100.1:4444", "[2001:db8::80]:4444"];

fn holding(net: &mut Net, port: u16) {
    for servers in [OWN, FOREIGN, ["198.51.100.1:80", "[2001:db8::80]:80"]] {
        for (client, server) in clients(port).iter().zip(servers) {
            let mut tcp = Tcp::new(client, server);
            net.fates(&tcp.handshake());
            net.settle();
            net.fates(&[tcp.client_says(b"hello")]);
            net.fates(&tcp.close());
        }
    }
}

#[test]
fn holding_lets_connections_wait_until_it_is_decided_about_them() {
    let mut machine = machine("holding");
    for (servers, permitted) in [(OWN, true), (FOREIGN, false)] {
        for (client, server) in clients(50_000).iter().zip(servers) {
            let mut tcp = Tcp::new(client, server);
            let handshake = tcp.handshake();
            let first = machine.net.packet(&handshake[0]);
            assert!(
                first.reason.is_some_and(ksim::net::Reason::is_pending),
                "{server}: {first:?}"
            );
            assert_eq!(
                machine.net.settle(),
                [(first.id, permitted)],
                "decided about {server}"
            );
            assert_eq!(machine.net.all_pass(&handshake[1..]), permitted, "{server}");
            machine.net.fates(&tcp.close());
        }
    }
    let mut other = Tcp::new("192.0.2.10:50001", "198.51.100.1:80");
    assert!(machine.net.all_pass(&other.handshake()), "nobody waits");
    machine.end();
}

#[test]
fn holding_remembers_what_it_decided_until_the_endpoint_closes() {
    let mut machine = machine("holding");
    let mut tcp = Tcp::new("192.0.2.10:50000", OWN[0]);
    machine.net.fates(&tcp.handshake());
    machine.net.settle();
    // A change of the policy has connections authorized again.
    let other = Product::new(&machine.kernel, 0x100);
    other.add_filter(
        LayerId::ALE_AUTH_CONNECT_V4,
        Action::Permit,
        FilterFlags::NONE,
        Vec::new(),
    );
    assert!(machine.net.passes(tcp.client_says(b"still permitted")));
    other.close();
    assert!(machine.net.all_pass(&tcp.close()));
    // More connections than it has places, one after the other.
    for port in 50_001..50_201 {
        let mut tcp = Tcp::new(&format!("192.0.2.10:{port}"), OWN[0]);
        let handshake = tcp.handshake();
        machine.net.packet(&handshake[0]);
        assert!(machine.net.settle()[0].1, "the connection from {port}");
        machine.net.fates(&handshake[1..]);
        assert!(machine.net.all_pass(&tcp.close()));
    }
    machine.end();
}

// editing

/// What both directions of the only connection are when they have left the stack, of what the host sends and receives; and
/// how many of them ended.
fn streams(net: &mut Net) -> ([String; 2], usize) {
    let mut data = [Vec::new(), Vec::new()];
    let mut ends = 0;
    for output in net.output() {
        if let Output::Stream { flags, bytes, .. } = output {
            data[usize::from(flags.contains(StreamFlags::RECEIVE))].extend(bytes);
            let end = StreamFlags::SEND_DISCONNECT | StreamFlags::RECEIVE_DISCONNECT;
            ends += usize::from(flags.intersects(end));
        }
    }
    (
        data.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        ends,
    )
}

/// A connection in which the client says these, and the server says one thing.
fn talk(net: &mut Net, client: &str, server: &str, says: &[&str]) {
    let mut tcp = Tcp::new(client, server);
    net.fates(&tcp.handshake());
    for part in says {
        net.packet(&tcp.client_says(part.as_bytes()));
    }
    net.packet(&tcp.server_says(b"a falcon is heard"));
    net.fates(&tcp.close());
    net.settle();
}

fn editing(net: &mut Net, port: u16) {
    for (client, server) in clients(port)
        .iter()
        .zip(["198.51.100.1:2525", "[2001:db8::80]:2525"])
    {
        talk(
            net,
            client,
            server,
            &["two falcons, and a fal", "con, and half a fal"],
        );
    }
}

#[test]
fn editing_replaces_its_word_however_it_is_split_between_segments() {
    let said = "fafalcon, falconfalcons, fal con, and half a falco";
    let edited = "fakestrel, kestrelkestrels, fal con, and half a falco";
    for (port, expected) in [(2525, edited), (80, said)] {
        let (machine, mut net) = with_output("editing");
        for (size, first) in (1..said.len()).zip(50_000..) {
            let parts: Vec<&str> = said
                .as_bytes()
                .chunks(size)
                .map(|part| std::str::from_utf8(part).expect("ASCII"))
                .collect();
            for (client, server) in clients(first)
                .iter()
                .zip(["198.51.100.1", "[2001:db8::80]"])
            {
                talk(&mut net, client, &format!("{server}:{port}"), &parts);
                let ([sent, received], ends) = streams(&mut net);
                assert_eq!(sent, expected, "{server}, in parts of {size}");
                assert_eq!(received, "a falcon is heard", "{server}");
                assert_eq!(ends, 2, "{server}, in parts of {size}");
            }
        }
        drop(net);
        machine.end();
    }
}

// screening

fn screening(net: &mut Net, port: u16) {
    for (client, server) in clients(port)
        .iter()
        .zip(["198.51.100.1:8000", "[2001:db8::80]:8000"])
    {
        talk(net, client, server, &["one", "two"]);
    }
    talk(
        net,
        &format!("192.0.2.10:{}", port + 1),
        "198.51.100.1:8000",
        &["what is forbidden", "more"],
    );
}

#[test]
fn screening_lets_streams_go_on_in_order_and_ends_those_with_its_word() {
    for (client, server) in clients(50_000)
        .iter()
        .zip(["198.51.100.1:8000", "[2001:db8::80]:8000"])
    {
        let (machine, mut net) = with_output("screening");
        talk(&mut net, client, server, &["one ", "two ", "three"]);
        let all = ["one two three".to_owned(), "a falcon is heard".to_owned()];
        assert_eq!(streams(&mut net), (all, 2), "{server}");
        let client = client.replace("50000", "50001");
        talk(&mut net, &client, server, &["one ", "forbidden ", "three"]);
        let ([sent, received], _) = streams(&mut net);
        assert_eq!((&*sent, &*received), ("one ", ""), "{server}");
        drop(net);
        machine.end();
    }
}

// redirecting

fn proxy(kernel: &Kernel) -> Option<FileHandle> {
    let caller = Caller {
        process: PROXY,
        ..Caller::administrator()
    };
    let device = kernel.open(r"\\.\Redirecting", caller).ok()?;
    drop(alive(device.ioctl(code(2), &[], 0)));
    Some(device)
}

fn redirecting(net: &mut Net, port: u16) {
    for (client, server) in clients(port)
        .iter()
        .zip(["198.51.100.1:80", "[2001:db8::80]:80"])
    {
        let mut tcp = Tcp::new(client, server);
        net.packet(&tcp.segment(true, SYN, &[]));
        net.settle();
    }
}

/// Where the connections were to go that were redirected, as their proxy is told.
fn told(machine: &Machine, net: &mut Net) -> Vec<Vec<u8>> {
    let flows = net.flows();
    let handles: Vec<u64> = flows
        .iter()
        .flat_map(|flow| flow.handles.iter().copied())
        .collect();
    let mut told = Vec::new();
    for handle in handles {
        let records = net.redirection(handle);
        told.extend(records.and_then(|records| machine.kernel.redirect_context(&records)));
    }
    told.dedup();
    told
}

#[test]
fn redirecting_sends_connections_to_its_proxy_and_lets_the_proxys_own_go() {
    for (client, server, own, original) in [
        (
            "192.0.2.10:50000",
            "198.51.100.1:80",
            "192.0.2.10:60000",
            "::ffff:198.51.100.1",
        ),
        (
            "[2001:db8::10]:50000",
            "[2001:db8::80]:80",
            "[2001:db8::10]:60000",
            "2001:db8::80",
        ),
    ] {
        let (machine, mut net) = with_output("redirecting");
        let syn = |client: &str| Tcp::new(client, server).segment(true, SYN, &[]);
        assert!(net.passes(syn(&client.replace("50000", "50001"))));
        assert_eq!(
            told(&machine, &mut net),
            Vec::<Vec<u8>>::new(),
            "there is no proxy"
        );
        let program = proxy(&machine.kernel).expect("the device");
        assert!(net.passes(syn(own)));
        assert_eq!(
            told(&machine, &mut net),
            Vec::<Vec<u8>>::new(),
            "the proxy's own"
        );
        assert!(net.passes(syn(client)));
        let original: std::net::Ipv6Addr = original.parse().expect("an address");
        let expected = [&original.octets()[..], &[0, 80]].concat();
        assert_eq!(told(&machine, &mut net), [expected], "{client}");
        // When its handle is closed it is no proxy any more.
        alive(program.close());
        net.output();
        assert!(net.passes(syn(&client.replace("50000", "50002"))));
        assert!(
            net.output()
                .iter()
                .any(|output| matches!(output, Output::Sent(_))),
            "it has left this machine"
        );
        drop(net);
        machine.end();
    }
}

// accounting

fn accounting(net: &mut Net, port: u16) {
    for (client, server) in clients(port)
        .iter()
        .zip(["198.51.100.1:80", "[2001:db8::80]:80"])
    {
        talk(net, client, server, &["question"]);
        net.packet(&udp(client, server, b"datagram"));
        net.packet(&udp(server, client, b"and one back"));
    }
}

#[test]
fn accounting_counts_sockets_flows_and_the_bytes_of_flows_that_have_ended() {
    let mut machine = machine("accounting");
    accounting(&mut machine.net, 50_000);
    machine.net.finish();
    let numbers = numbers(&machine, r"\\.\Accounting", 7);
    let [assigned, released, closed, begun, ended, sent, received] = numbers[..] else {
        panic!("{numbers:?}");
    };
    assert_eq!((begun, ended), (4, 4), "{numbers:?}");
    assert_eq!(
        (sent, received),
        (2 * (8 + 8), 2 * (17 + 12)),
        "{numbers:?}"
    );
    assert_eq!((assigned, released), (4, 4), "{numbers:?}");
    assert!(closed >= 4, "{numbers:?}");
    machine.end();
}

#[test]
fn accounting_takes_its_contexts_off_flows_that_live_when_it_stops() {
    let mut machine = machine("accounting");
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    assert!(machine.net.all_pass(&tcp.handshake()));
    assert!(
        machine
            .net
            .passes(udp("[2001:db8::10]:50000", "[2001:db8::80]:53", b"query"))
    );
    let contexts = |machine: &Machine| -> usize {
        let engine = machine.kernel.filter_engine();
        let registered = engine.registered_callouts();
        registered
            .iter()
            .map(|(id, _)| engine.context_count(*id))
            .sum()
    };
    assert_eq!(contexts(&machine), 2);
    assert!(machine.unload().is_clean());
    assert!(machine.net.passes(tcp.client_says(b"the flow lives on")));
}

// pacing, marking, watching

fn pacing(net: &mut Net, port: u16) {
    for (client, server) in clients(port)
        .iter()
        .zip(["198.51.100.1:7777", "[2001:db8::80]:7777"])
    {
        for _ in 0..3 {
            net.packet(&udp(client, server, b"datagram"));
        }
    }
    net.pass(10 * MILLISECOND);
}

/// 100-nanosecond units.
const MILLISECOND: u64 = 10_000;

#[test]
fn pacing_lets_a_datagram_leave_every_ten_milliseconds_and_drops_what_finds_no_place() {
    for (client, server) in clients(50_000)
        .iter()
        .zip(["198.51.100.1:7777", "[2001:db8::80]:7777"])
    {
        let (machine, mut net) = with_output("pacing");
        let datagrams: Vec<_> = (0..40)
            .map(|number| udp(client, server, &[number]))
            .collect();
        let start = net.now();
        assert_eq!(net.at_once(&datagrams).len(), 0, "none leaves at once");
        let left: Vec<(u64, Option<u8>)> = net
            .pass(1_000 * MILLISECOND)
            .into_iter()
            .filter_map(|(time, output)| match output {
                Output::Sent(packet) => {
                    Some(((time - start) / MILLISECOND, packet.last().copied()))
                }
                _ => None,
            })
            .collect();
        let expected: Vec<_> = (0..32)
            .map(|number| (10 * u64::from(number) + 10, Some(number)))
            .collect();
        assert_eq!(left, expected, "{server}");
        let other = server.replace("7777", "53");
        assert_eq!(
            net.at_once(&[udp(client, &other, b"query")]).len(),
            1,
            "others do not wait"
        );
        drop(net);
        machine.end();
    }
}

fn marking(net: &mut Net, port: u16) {
    for (client, server) in clients(port)
        .iter()
        .zip(["198.51.100.1:5060", "[2001:db8::80]:5060"])
    {
        net.packet(&udp(client, server, b"call"));
    }
}

#[test]
fn marking_marks_datagrams_to_its_port_and_no_others() {
    let (machine, mut net) = with_output("marking");
    for (port, mark) in [(5060, 46), (53, 0)] {
        for (client, server) in clients(50_000)
            .iter()
            .zip(["198.51.100.1", "[2001:db8::80]"])
        {
            net.packet(&udp(client, &format!("{server}:{port}"), b"call"));
            let classes: Vec<u8> = net
                .output()
                .into_iter()
                .filter_map(|output| match output {
                    Output::Sent(packet) if packet[0] >> 4 == 4 => Some(packet[1] >> 2),
                    Output::Sent(packet) => Some((packet[0] << 4 | packet[1] >> 4) >> 2),
                    _ => None,
                })
                .collect();
            assert_eq!(classes, [mark], "{server}, port {port}");
        }
    }
    drop(net);
    machine.end();
}

fn watching(net: &mut Net, port: u16) {
    for (client, server) in clients(port)
        .iter()
        .zip(["198.51.100.1:53", "[2001:db8::80]:53"])
    {
        net.packet(&udp(client, server, b"query"));
        net.packet(&udp(server, client, b"answer"));
    }
}

#[test]
fn watching_counts_what_comes_in_by_protocol() {
    let mut machine = machine("watching");
    watching(&mut machine.net, 50_000);
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    assert!(machine.net.all_pass(&tcp.handshake()));
    let numbers = numbers(&machine, r"\\.\Watching", 256);
    assert_eq!((numbers[17], numbers[6]), (2, 1));
    assert_eq!(numbers.iter().sum::<u64>(), 3);
    machine.end();
}

// guarding

/// Connections to the port of this machine, and to another.
fn guarding(net: &mut Net, port: u16) {
    for (client, address) in visitors(port).iter().zip(["192.0.2.10", "[2001:db8::10]"]) {
        for local in [3389, 22] {
            let mut tcp = Tcp::new(client, &format!("{address}:{local}"));
            net.fates(&tcp.handshake());
            net.fates(&tcp.close());
        }
    }
}

/// Who connects to this machine.
fn visitors(port: u16) -> [String; 2] {
    [
        format!("198.51.100.1:{port}"),
        format!("[2001:db8::80]:{port}"),
    ]
}

/// Whether a connection to the port gets in, over IPv4 and over IPv6.
fn gets_in(net: &mut Net, port: u16) -> [bool; 2] {
    let [v4, v6] = visitors(port);
    [(v4, "192.0.2.10:3389"), (v6, "[2001:db8::10]:3389")]
        .map(|(client, local)| net.all_pass(&Tcp::new(&client, local).handshake()))
}

#[test]
fn guarding_keeps_its_port_closed_from_the_stacks_start_unless_it_runs() {
    let mut machine = machine("guarding");
    assert_eq!(gets_in(&mut machine.net, 50_000), [true, true], "it runs");
    assert!(machine.unload().is_clean());
    assert_eq!(
        gets_in(&mut machine.net, 50_001),
        [false, false],
        "it has stopped"
    );
    // The machine starts again, without the base filtering engine at first.
    let mut config = Config::default();
    config.fwp.boot_store = machine.kernel.filter_engine().boot_store();
    config.fwp.bfe_running = false;
    let mut machine = Machine::loaded(&config, &built("guarding"));
    assert_eq!(gets_in(&mut machine.net, 50_000), [false, false], "at boot");
    assert!(
        machine
            .net
            .all_pass(&Tcp::new("198.51.100.1:50000", "192.0.2.10:22").handshake())
    );
    alive(machine.kernel.on(0, |_| machine.kernel.bfe().start()));
    alive(machine.kernel.on(0, |_| ()));
    assert_eq!(
        gets_in(&mut machine.net, 50_001),
        [false, false],
        "before it has started"
    );
    assert_eq!(machine.start(), NtStatus::SUCCESS);
    assert_eq!(
        gets_in(&mut machine.net, 50_002),
        [true, true],
        "it runs again"
    );
    machine.end();
}

#[test]
fn guarding_is_taken_away_by_a_request() {
    let mut machine = machine("guarding");
    for _ in 0..2 {
        let device = machine.open(r"\\.\Guarding");
        let result = alive(device.ioctl(code(2), &[], 0));
        assert_eq!(result.status, NtStatus::SUCCESS);
        alive(device.close());
    }
    let engine = machine.kernel.filter_engine();
    assert_eq!(engine.committed().filters().count(), 0);
    assert!(machine.unload().is_clean());
    assert_eq!(gets_in(&mut machine.net, 50_000), [true, true]);
}
