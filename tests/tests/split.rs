//! Split tunnels: the sockets of an application, and of what it starts, are bound to another address.

use std::net::{IpAddr, SocketAddr};

use ksim::NewProcess;
use ksim::net::{Identity, Processes, Setup, Sid};
use portcullis_proto::event::{EventKind, EventRecord};
use portcullis_proto::{Counter, Family};
use portcullis_tests::control::alive;
use portcullis_tests::packets::SYN;
use portcullis_tests::{Net, Tcp, World, udp};

const LAUNCHER: &str = r"C:\Games\launcher.exe";
const HELPER: &str = r"C:\Games\helper.exe";
const GAME: &str = r"D:\Steam\game.exe";
const EXPLORER: &str = r"C:\Windows\explorer.exe";

/// The tunnel's addresses, which are this host's too.
const TUNNEL_V4: &str = "10.8.0.2";
const TUNNEL_V6: &str = "fd00:8::2";

const POLICY: &str = r#"
    default = "permit"
    [[rule]]
    name = "not the store"
    action = "permit"
    application = 'C:\Games\store.exe'
    [[rule]]
    name = "games"
    action = "permit"
    application = 'C:\Games\*.exe'
    children = true
    bind = ["10.8.0.2", "fd00:8::2"]
"#;

/// Who owns which sockets.
struct Sockets {
    owners: Processes,
    port: u16,
}

impl Sockets {
    fn new() -> Self {
        Self {
            owners: Processes::default(),
            port: 50_000,
        }
    }

    /// A process's sockets: the port that they have on either address.
    fn owned_by(&mut self, image: &str, process: u32) -> u16 {
        self.port += 1;
        let user = Sid::new(5, &[21, 1, 2, 3, 1001]);
        let identity = Identity::new(image, process.into(), user);
        for address in ["192.0.2.10", "2001:db8::10", TUNNEL_V4, TUNNEL_V6] {
            let address: IpAddr = address.parse().expect("an address");
            self.owners
                .assign(SocketAddr::new(address, self.port), identity.clone());
        }
        self.port
    }

    fn net(&self, world: &World) -> Net {
        let mut setup = Setup {
            processes: self.owners.clone(),
            ..Setup::default()
        };
        for address in [TUNNEL_V4, TUNNEL_V6] {
            setup.local.insert(address.parse().expect("an address"));
        }
        Net::with_setup(&world.kernel, 0, setup)
    }
}

fn start(world: &World, parent: u32, image: &str) -> u32 {
    alive(world.kernel.create_process(&NewProcess::new(parent, image))).expect("it may begin")
}

fn exit(world: &World, process: u32) {
    assert!(alive(world.kernel.exit_process(process)));
}

/// The first packets of a connection and of an exchange of datagrams, of each IP version.
fn first_packets(port: u16) -> [Vec<u8>; 4] {
    let v4 = format!("192.0.2.10:{port}");
    let v6 = format!("[2001:db8::10]:{port}");
    [
        Tcp::new(&v4, "198.51.100.1:443").segment(true, SYN, &[]),
        Tcp::new(&v6, "[2001:db8:1::1]:443").segment(true, SYN, &[]),
        udp(&v4, "198.51.100.1:53", b"question"),
        udp(&v6, "[2001:db8:1::1]:53", b"question"),
    ]
}

/// Where the sockets of connections that were authorized are bound.
fn locals(events: &[EventRecord]) -> Vec<String> {
    let authorized = events
        .iter()
        .filter(|event| event.kind == EventKind::Authorize.raw());
    let local = |event: &EventRecord| {
        if event.family == Family::V4.raw() {
            let octets = *event.local_address.first_chunk::<4>().expect("long enough");
            IpAddr::from(octets).to_string()
        } else {
            IpAddr::from(event.local_address).to_string()
        }
    };
    authorized.map(local).collect()
}

const TUNNEL: [&str; 4] = [TUNNEL_V4, TUNNEL_V6, TUNNEL_V4, TUNNEL_V6];
const STRAIGHT: [&str; 4] = ["192.0.2.10", "2001:db8::10", "192.0.2.10", "2001:db8::10"];

#[test]
fn an_application_its_children_and_theirs_are_bound_to_the_tunnel_and_others_not() {
    let mut world = World::with_policy(POLICY);
    let mut sockets = Sockets::new();
    // Whoever ran before the driver did is not known, nor that it was its parent.
    let explorer = start(&world, 4, EXPLORER);
    let launcher = start(&world, explorer, LAUNCHER);
    let helper = start(&world, launcher, HELPER);
    let game = start(&world, helper, GAME);
    let other = start(&world, explorer, GAME);
    let store = start(&world, launcher, r"C:\Games\store.exe");
    // The parents end first.
    exit(&world, launcher);
    exit(&world, helper);
    let late = start(&world, game, r"C:\Windows\crashpad.exe");
    for (image, process, expected) in [
        (LAUNCHER, launcher, TUNNEL),
        (HELPER, helper, TUNNEL),
        (GAME, game, TUNNEL),
        (r"C:\Windows\crashpad.exe", late, TUNNEL),
        (GAME, other, STRAIGHT),
        (EXPLORER, explorer, STRAIGHT),
        // An earlier rule is for it.
        (r"C:\Games\store.exe", store, STRAIGHT),
        // The identifier is another process's now.
        (EXPLORER, game, STRAIGHT),
    ] {
        let port = sockets.owned_by(image, process);
        world.net = sockets.net(&world);
        drop(world.events());
        assert!(world.net.all_pass(&first_packets(port)));
        let events = world.events();
        assert_eq!(locals(&events), expected, "{image} as {process}");
        let bound = events
            .iter()
            .filter(|event| event.kind == EventKind::Bound.raw());
        let expected_binds = if expected == TUNNEL { 4 } else { 0 };
        assert_eq!(bound.count(), expected_binds, "{image} as {process}");
    }
    assert_eq!(world.counter(Counter::Bound), 16);
    assert_eq!(world.counter(Counter::BindFailed), 0);
    world.end();
}

#[test]
fn what_an_ended_family_leaves_behind_is_nothing() {
    let world = World::with_policy(POLICY);
    // More processes than there is room for, one after the other, and many at a time.
    for _ in 0..3 {
        let mut running = Vec::new();
        for number in 0..2_000 {
            let parent = running.last().copied().unwrap_or(4);
            let image = format!(r"C:\Many\{}.exe", number % 500);
            running.push(start(&world, parent, &image));
        }
        for process in running {
            exit(&world, process);
        }
    }
    assert_eq!(world.counter(Counter::ProcessNoRoom), 0);
    world.end();
}

#[test]
fn when_there_is_no_room_for_processes_it_is_counted_and_nobody_is_taken_for_a_child() {
    let mut world = World::with_policy(POLICY);
    let launcher = start(&world, 4, LAUNCHER);
    for _ in 0..4_095 {
        start(&world, 4, EXPLORER);
    }
    assert_eq!(world.counter(Counter::ProcessNoRoom), 0);
    let game = start(&world, launcher, GAME);
    assert_eq!(world.counter(Counter::ProcessNoRoom), 1);
    let mut sockets = Sockets::new();
    for (image, process, expected) in [(LAUNCHER, launcher, TUNNEL), (GAME, game, STRAIGHT)] {
        let port = sockets.owned_by(image, process);
        world.net = sockets.net(&world);
        drop(world.events());
        assert!(world.net.all_pass(&first_packets(port)));
        assert_eq!(locals(&world.events()), expected);
    }
    world.end();
}

#[test]
fn children_count_wherever_a_rule_names_an_application() {
    let mut world = World::with_policy(
        "default = 'permit'\n[[rule]]\naction = 'block'\napplication = 'C:\\Games\\launcher.exe'\nchildren = true",
    );
    let launcher = start(&world, 4, LAUNCHER);
    let game = start(&world, launcher, GAME);
    let other = start(&world, 4, GAME);
    let mut sockets = Sockets::new();
    for (image, process, passes) in [
        (LAUNCHER, launcher, false),
        (GAME, game, false),
        (GAME, other, true),
    ] {
        let port = sockets.owned_by(image, process);
        world.net = sockets.net(&world);
        for packet in first_packets(port) {
            assert_eq!(world.net.passes(packet), passes, "{image} as {process}");
        }
    }
    world.end();
}
