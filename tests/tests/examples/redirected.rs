//! What redirects: redirecting, deferring, binding.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ksim::net::{Output, PacketReport, Reason, Setup};
use ksim::{Caller, Config, FileHandle, Kernel, Schedule};
use portcullis_core::packet::Headers;
use portcullis_tests::control::alive;
use portcullis_tests::examples::built;
use portcullis_tests::foreign::Machine;
use portcullis_tests::net::sent;
use portcullis_tests::packets::{ACK, SYN};
use portcullis_tests::proxy::PROXY;
use portcullis_tests::races::{Scenario, try_all, try_interrupted};
use portcullis_tests::world::{assert_clean, load};
use portcullis_tests::{Net, Tcp, World, udp};
use wfp_engine::TieOrder;
use wfp_schema::NtStatus;

use super::{clients, code, machine, with_output, with_processors};

pub(super) fn proxy(kernel: &Kernel) -> Option<FileHandle> {
    let caller = Caller {
        process: PROXY,
        ..Caller::administrator()
    };
    let device = kernel.open(r"\\.\Redirecting", caller).ok()?;
    drop(alive(device.ioctl(code(2), &[], 0)));
    Some(device)
}

pub(super) fn redirecting(net: &mut Net, port: u16) {
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

/// Where servers were, and where deferring finds them.
const SERVERS: [([&str; 2], [Option<&str>; 2]); 3] = [
    (
        ["198.51.100.1", "2001:db8::80"],
        [Some("203.0.113.7"), Some("2001:db8::8007")],
    ),
    (["198.51.100.2", "2001:db8::82"], [None, None]),
    (
        ["198.51.100.3", "2001:db8::83"],
        [Some("198.51.100.3"), Some("2001:db8::83")],
    ),
];

/// An address and a port.
fn at(address: &str, port: u16) -> String {
    std::net::SocketAddr::new(address.parse().expect("an address"), port).to_string()
}

pub(super) fn deferring(net: &mut Net, port: u16) {
    for (servers, _) in SERVERS {
        for (client, server) in clients(port).iter().zip(servers) {
            let mut tcp = Tcp::new(client, &at(server, 7000));
            net.packet(&tcp.segment(true, SYN, &[]));
            net.settle();
            net.fates(&tcp.close());
        }
    }
}

/// Where packets come from, and go to, that have left this machine.
fn ends(net: &mut Net) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let ends = |packet: &Vec<u8>| {
        let headers = Headers::walk(packet).expect("a packet");
        (headers.source, headers.destination)
    };
    sent(net.output()).iter().map(ends).unzip()
}

/// Where packets go that have left this machine.
fn destinations(net: &mut Net) -> Vec<IpAddr> {
    ends(net).1
}

#[test]
fn deferring_lets_connections_wait_and_go_where_their_server_is_found() {
    let (machine, mut net) = with_output("deferring");
    for (servers, found) in SERVERS {
        for ((client, server), found) in clients(50_000).iter().zip(servers).zip(found) {
            let mut tcp = Tcp::new(client, &at(server, 7000));
            let first = net.packet(&tcp.segment(true, SYN, &[]));
            assert!(first.reason.is_some_and(Reason::is_pending), "{first:?}");
            assert_eq!(net.settle(), [(first.id, found.is_some())], "{server}");
            let found: Vec<IpAddr> = found
                .iter()
                .map(|found| found.parse().expect("an address"))
                .collect();
            assert_eq!(destinations(&mut net), found, "{server}");
            // Where it goes is decided once: what follows does not wait.
            let follows = tcp.segment(true, ACK, &[]);
            assert_eq!(net.passes(&follows), !found.is_empty(), "{server}");
            assert_eq!(destinations(&mut net), found, "{server}");
        }
    }
    let mut other = Tcp::new("192.0.2.10:50001", "198.51.100.1:80");
    assert!(net.all_pass(&other.handshake()), "nobody waits");
    drop(net);
    machine.end();
}

/// Connections that wait when a driver unregisters a callout.
fn still_waiting(kernel: &Kernel) -> Arc<AtomicUsize> {
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    kernel
        .witnesses()
        .at("FwpsCalloutUnregisterById0", move |cpu| {
            let kept = cpu.machine().verifier().leaks();
            let pended = kept.iter().filter(|kept| kept.kind == "pended classify");
            seen.fetch_max(pended.map(|kept| kept.count).sum(), Ordering::SeqCst);
        });
    most
}

/// The driver stops while a connection of each IP version is about to wait, or waits, or goes on. Its work item begins so much
/// later than it could.
fn unload_against_connections(schedule: &Schedule, late: u64) {
    let config = Config {
        schedule: schedule.clone(),
        ..with_processors(2)
    };
    let mut machine = Machine::with_built(&config, &built("deferring"));
    let kernel = machine.kernel.clone();
    let waiting = still_waiting(&kernel);
    kernel.time().set_lateness("WDFWORKITEM", late);
    let mut net = Net::new(&kernel, 1);
    let (mut fates, mut report) = (Vec::new(), None);
    let (servers, _) = SERVERS[0];
    kernel.together::<()>(vec![
        Box::new(|| report = Some(machine.unload())),
        Box::new(|| {
            for (client, server) in clients(50_000).iter().zip(servers) {
                let syn = Tcp::new(client, &at(server, 7000)).segment(true, SYN, &[]);
                fates.push(net.packet(&syn));
            }
        }),
    ]);
    assert_clean(&report.expect("it was unloaded"));
    assert_eq!(waiting.load(Ordering::SeqCst), 0, "when it unregisters");
    let pending = |report: &&PacketReport| report.reason.is_some_and(Reason::is_pending);
    let pending: Vec<_> = fates
        .iter()
        .filter(pending)
        .map(|report| report.id)
        .collect();
    let mut settled: Vec<_> = net.settle().into_iter().map(|(id, _)| id).collect();
    settled.sort_unstable();
    assert_eq!(settled, pending, "each goes on once");
}

#[test]
fn deferring_stops_when_no_connection_waits_any_more() {
    for scenario in [
        (|schedule| unload_against_connections(schedule, 0)) as Scenario,
        |schedule| unload_against_connections(schedule, 10_000),
    ] {
        try_all(20, scenario);
        try_interrupted(scenario);
    }
}

/// The addresses of this machine that sockets may be bound to: its own, binding's tunnel's, and another's.
const LOCALS: [[&str; 2]; 3] = [
    ["192.0.2.10", "2001:db8::10"],
    ["10.8.0.2", "fd00:8::2"],
    ["10.9.0.2", "fd00:9::2"],
];

const OUTSIDE: [&str; 2] = ["198.51.100.1", "2001:db8::80"];

pub(super) fn binding(net: &mut Net, port: u16) {
    for (local, server) in LOCALS[0].iter().zip(OUTSIDE) {
        net.packet(&udp(&at(local, 6881), &at(server, port), b"datagram"));
        let mut tcp = Tcp::new(&at(local, 6881), &at(server, port));
        net.fates(&tcp.handshake());
        net.fates(&tcp.close());
    }
}

/// A host that has all of these addresses, whose output is kept.
fn tunneled(kernel: &Kernel) -> Net {
    let mut setup = Setup {
        output: true,
        ..Setup::default()
    };
    for address in LOCALS.as_flattened() {
        setup.local.insert(address.parse().expect("an address"));
    }
    Net::with_setup(kernel, 0, setup)
}

/// Asserts that what sockets at a port of each protocol and IP version send comes from these addresses.
fn assert_bound(net: &mut Net, (port, remote): (u16, u16), expected: [&str; 2]) {
    for ((local, server), expected) in LOCALS[0].iter().zip(OUTSIDE).zip(expected) {
        let (local, server) = (at(local, port), at(server, remote));
        for packet in [
            udp(&local, &server, b"datagram"),
            Tcp::new(&local, &server).segment(true, SYN, &[]),
        ] {
            assert!(net.passes(&packet), "{local} to {server}");
            let (sources, _) = ends(net);
            let expected: IpAddr = expected.parse().expect("an address");
            assert_eq!(sources, [expected], "{local} to {server}");
        }
        let answer = udp(&server, &at(expected, port), b"answer");
        assert!(net.passes(answer), "what comes back to {expected}");
        net.output();
    }
}

#[test]
fn binding_gives_sockets_at_its_port_the_tunnels_address_and_no_others() {
    let machine = machine("binding");
    let mut net = tunneled(&machine.kernel);
    assert_bound(&mut net, (6881, 443), LOCALS[1]);
    assert_bound(&mut net, (6882, 443), LOCALS[0]);
    for local in ["127.0.0.1", "::1"] {
        assert!(net.passes(udp(&at(local, 6881), &at(local, 9), b"within this machine")));
        let flow = net.flows().last().expect("a flow").handles[0];
        assert_eq!(net.redirection(flow), None, "{local}");
    }
    drop(net);
    machine.end();
}

#[test]
fn binding_leaves_a_socket_alone_that_another_product_has_moved() {
    const POLICY: &str = r#"
        default = "permit"
        [[rule]]
        action = "permit"
        local_port = 6881
        bind = ["10.9.0.2", "fd00:9::2"]
    "#;
    for (ties, expected) in [
        (TieOrder::OldestFirst, LOCALS[2]),
        (TieOrder::NewestFirst, LOCALS[1]),
    ] {
        let mut world =
            World::boot_answering(&Config::default(), |options| options.sublayer_ties = ties);
        assert_eq!(world.start(), NtStatus::SUCCESS, "DriverEntry");
        let driver = load(&world.kernel, "binding.sys", &built("binding").image);
        assert_eq!(alive(driver.start()), NtStatus::SUCCESS, "DriverEntry");
        world.set_policy(POLICY);
        let mut net = tunneled(&world.kernel);
        assert_bound(&mut net, (6881, 443), expected);
        drop(net);
        assert_clean(&alive(driver.unload()));
        world.end();
    }
}
