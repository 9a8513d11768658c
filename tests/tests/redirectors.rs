//! Two drivers that redirect, in one machine: whichever is there first or asked first, a connection goes to one proxy.

use std::net::{IpAddr, SocketAddr};

use ksim::net::{Identity, Processes, Sid};
use ksim::sched::Program;
use ksim::{Caller, Config, Driver, FileHandle, Report, Schedule};
use portcullis_proto::event::{EventKind, EventRecord, Operation};
use portcullis_proto::policy::Action as Verdict;
use portcullis_proto::redirect::RedirectContext;
use portcullis_proto::{Counter, Family};
use portcullis_tests::control::alive;
use portcullis_tests::packets::SYN;
use portcullis_tests::proxy::TCP;
use portcullis_tests::races::try_many;
use portcullis_tests::world::{assert_clean, load};
use portcullis_tests::{Device, Net, Tcp, World, examples, foreign};
use wfp_engine::TieOrder;
use wfp_schema::NtStatus;

/// The processes of the driver's own proxy, and of the other driver's.
const PROXY: u32 = 700;
const OTHER_PROXY: u32 = 800;

/// The browser's connections go to the driver's proxy. The other driver sends what goes to port 80 to its own.
const POLICY: &str = r#"
    default = "block"
    [[rule]]
    name = "through the proxy"
    action = "permit"
    direction = "outbound"
    application = 'C:\browser.exe'
    redirect = ["127.0.0.1:8081", "[::1]:8081"]
    [[rule]]
    name = "the proxies themselves"
    action = "permit"
    application = ['C:\proxy.exe', 'C:\other.exe']
"#;

/// The same for everybody's connections.
fn for_everybody() -> String {
    POLICY.replace(r"application = 'C:\browser.exe'", "")
}

/// An application's connection of one IP version, and where the proxies are.
#[derive(Debug, Clone, Copy)]
struct Case {
    client: &'static str,
    server: &'static str,
    ours: &'static str,
    others: &'static str,
    /// From where the proxies go on.
    onward: [&'static str; 2],
}

const CASES: [Case; 2] = [
    Case {
        client: "192.0.2.10:50000",
        server: "198.51.100.1:80",
        ours: "127.0.0.1:8081",
        others: "127.0.0.1:8080",
        onward: ["192.0.2.10:60000", "192.0.2.10:61000"],
    },
    Case {
        client: "[2001:db8::10]:50000",
        server: "[2001:db8:1::1]:80",
        ours: "[::1]:8081",
        others: "[::1]:8080",
        onward: ["[2001:db8::10]:60000", "[2001:db8::10]:61000"],
    },
];

impl Case {
    fn proxy(self, whose: Whose) -> SocketAddr {
        socket(match whose {
            Whose::Ours => self.ours,
            Whose::Others => self.others,
        })
    }

    const fn onward(self, whose: Whose) -> &'static str {
        self.onward[whose as usize]
    }

    /// The first segment of a connection from the client's port and so many after it.
    fn first(self, later: u16) -> Vec<u8> {
        let mut client = socket(self.client);
        client.set_port(client.port() + later);
        syn(&client.to_string(), self.server)
    }
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Ours,
    Others,
}

/// Which driver was loaded first, and whose callout is asked first: their sublayers are equally heavy, and documentation
/// leaves open which of such is first.
#[derive(Debug, Clone, Copy)]
struct Order {
    loaded: Whose,
    asked: Whose,
}

const ORDERS: [Order; 4] = [
    order(Whose::Ours, Whose::Ours),
    order(Whose::Ours, Whose::Others),
    order(Whose::Others, Whose::Ours),
    order(Whose::Others, Whose::Others),
];

const fn order(loaded: Whose, asked: Whose) -> Order {
    Order { loaded, asked }
}

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address with a port")
}

fn syn(client: &str, server: &str) -> Vec<u8> {
    Tcp::new(client, server).segment(true, SYN, &[])
}

fn owners() -> Processes {
    let mut processes = Processes::default();
    let mut own = |image: &str, process: u32, sockets: &[&str]| {
        let user = Sid::new(5, &[21, 1, 2, 3, 1001]);
        let identity = Identity::new(image, process.into(), user);
        for at in sockets {
            processes.assign(socket(at), identity.clone());
        }
    };
    own(
        r"C:\browser.exe",
        600,
        &["192.0.2.10:0", "[2001:db8::10]:0"],
    );
    let [v4, v6] = CASES;
    own(
        r"C:\proxy.exe",
        PROXY,
        &[v4.ours, v6.ours, v4.onward[0], v6.onward[0]],
    );
    own(
        r"C:\other.exe",
        OTHER_PROXY,
        &[v4.others, v6.others, v4.onward[1], v6.onward[1]],
    );
    processes
}

/// A machine with both drivers and their proxies.
struct Two {
    world: World,
    other: Option<Driver>,
    proxy: Option<Device>,
    other_proxy: Option<FileHandle>,
}

fn load_other(world: &World) -> Driver {
    let driver = load(
        &world.kernel,
        "redirecting.sys",
        &examples::built("redirecting").image,
    );
    assert_eq!(alive(driver.start()), NtStatus::SUCCESS, "DriverEntry");
    driver
}

impl Two {
    fn begin(order: Order, policy: &str, config: &Config) -> Self {
        let ties = if order.loaded == order.asked {
            TieOrder::OldestFirst
        } else {
            TieOrder::NewestFirst
        };
        let mut world = World::boot_answering(config, |options| options.sublayer_ties = ties);
        let before = (order.loaded == Whose::Others).then(|| load_other(&world));
        assert_eq!(world.start(), NtStatus::SUCCESS, "DriverEntry");
        let other = before.unwrap_or_else(|| load_other(&world));
        world.set_policy(policy);
        world.owned_by(owners());
        let caller = |process| Caller {
            process,
            ..Caller::administrator()
        };
        let proxy = world.open(caller(PROXY));
        for listens in CASES.map(|case| case.ours) {
            assert_eq!(proxy.register_proxy(listens, 0), NtStatus::SUCCESS);
        }
        let other_proxy = world
            .kernel
            .open(r"\\.\Redirecting", caller(OTHER_PROXY))
            .expect("the device");
        let register = 0x12 << 16 | 2 << 14 | 0x800 << 2;
        let registered = alive(other_proxy.ioctl(register, &[], 0));
        assert_eq!(registered.status, NtStatus::SUCCESS);
        drop(world.events());
        Self {
            world,
            other: Some(other),
            proxy: Some(proxy),
            other_proxy: Some(other_proxy),
        }
    }

    /// The proxy that has accepted the last connection from the client's end, and its flow there.
    fn accepted(events: &[EventRecord], client: SocketAddr) -> (SocketAddr, u64) {
        let accept = events
            .iter()
            .rfind(|event| {
                event.operation == Operation::Accept.raw()
                    && event.kind == EventKind::Authorize.raw()
                    && remote(event) == client
            })
            .unwrap_or_else(|| panic!("nobody accepts: {events:?}"));
        let local = SocketAddr::new(
            address(accept, accept.local_address),
            accept.local_port.get(),
        );
        (local, accept.flow.get())
    }

    /// The proxy goes on, with the records of the flow that it has accepted if it heeds them.
    fn goes_on(&mut self, case: Case, whose: Whose, accepted: Option<u64>) -> bool {
        let own = case.onward(whose);
        if let Some(flow) = accepted {
            let records = self.world.net.redirection(flow).expect("records");
            self.world.net.serve(TCP, socket(own), records);
        }
        self.world.net.passes(syn(own, case.server))
    }

    /// One of the drivers goes, with its proxy and its filters.
    fn unload(&mut self, whose: Whose) {
        let report = match whose {
            Whose::Ours => {
                if let Some(proxy) = self.proxy.take() {
                    proxy.close();
                }
                self.world.unload()
            }
            Whose::Others => {
                if let Some(proxy) = self.other_proxy.take() {
                    alive(proxy.close());
                }
                alive(self.other.take().expect("it is loaded").unload())
            }
        };
        assert_clean(&report);
        if self.other.is_none() && self.proxy.is_none() {
            self.world.assert_nothing_of_ours();
        }
    }

    fn end(mut self, first: Whose) {
        self.world.net.finish();
        self.unload(first);
        self.unload(match first {
            Whose::Ours => Whose::Others,
            Whose::Others => Whose::Ours,
        });
    }
}

fn address(event: &EventRecord, octets: [u8; 16]) -> IpAddr {
    if event.family == Family::V4.raw() {
        IpAddr::from(*octets.first_chunk::<4>().expect("long enough"))
    } else {
        octets.into()
    }
}

fn remote(event: &EventRecord) -> SocketAddr {
    SocketAddr::new(
        address(event, event.remote_address),
        event.remote_port.get(),
    )
}

fn target(event: &EventRecord) -> Option<SocketAddr> {
    let port = event.target_port.get();
    (port != 0).then(|| SocketAddr::new(address(event, event.target_address), port))
}

fn count(events: &[EventRecord], kind: EventKind) -> usize {
    events
        .iter()
        .filter(|event| event.kind == kind.raw())
        .count()
}

/// Authorized outgoing connections: where they were to go, and where they go.
fn connects(events: &[EventRecord]) -> Vec<(SocketAddr, Option<SocketAddr>)> {
    events
        .iter()
        .filter(|event| event.operation == Operation::Connect.raw())
        .map(|event| {
            assert_eq!(event.verdict, Verdict::Permit.raw(), "{event:?}");
            (remote(event), target(event))
        })
        .collect()
}

#[test]
fn who_is_asked_first_redirects_and_the_other_leaves_it_alone() {
    for order in ORDERS {
        for case in CASES {
            for policy in [POLICY.to_owned(), for_everybody()] {
                let mut two = Two::begin(order, &policy, &Config::default());
                let is_ours = order.asked == Whose::Ours;
                assert!(two.world.net.passes(case.first(0)), "{order:?} {case:?}");
                let events = two.world.events();
                assert_eq!(
                    count(&events, EventKind::Redirected),
                    usize::from(is_ours),
                    "{order:?} {case:?}"
                );
                let (server, proxy) = (socket(case.server), case.proxy(order.asked));
                assert_eq!(
                    connects(&events),
                    [(server, None), (server, Some(proxy))],
                    "for where it was to go, then for the way there: {order:?}"
                );
                let (accepted, flow) = Two::accepted(&events, socket(case.client));
                assert_eq!(accepted, proxy, "{order:?}");
                // One redirection, of which its proxy is told.
                let records = two.world.net.redirection(flow).expect("records");
                assert_eq!(records.records().count(), 1, "{order:?}");
                let told = two.world.kernel.redirect_context(&records);
                let told = told.expect("a context");
                let ours = RedirectContext::read(&told).map(|told| told.remote());
                assert_eq!(ours, is_ours.then_some(server), "{order:?}");
                // It goes on, and neither sends that back: to one it is its own, to the other somebody's.
                assert!(two.goes_on(case, order.asked, Some(flow)), "{order:?}");
                let events = two.world.events();
                assert_eq!(connects(&events), [(server, None)], "{order:?}");
                assert_eq!(count(&events, EventKind::Redirected), 0);
                let redirected = two.world.counter(Counter::Redirected);
                assert_eq!(redirected, u64::from(is_ours), "{order:?}");
                assert_eq!(two.world.counter(Counter::ProxyMissing), 0);
                two.end(order.loaded);
            }
        }
    }
}

#[test]
fn the_records_count_whichever_process_carries_them() {
    for order in ORDERS {
        for case in CASES {
            let mut two = Two::begin(order, &for_everybody(), &Config::default());
            assert!(two.world.net.passes(case.first(0)));
            let events = two.world.events();
            let (_, flow) = Two::accepted(&events, socket(case.client));
            // Another process of the proxy's product connects for it: no driver knows that one.
            let records = two.world.net.redirection(flow).expect("records");
            let mut helper = socket(case.client);
            helper.set_port(50_500);
            two.world.net.serve(TCP, helper, records);
            let by = |two: &Two| {
                [Counter::RedirectedBefore, Counter::RedirectedByOthers]
                    .map(|counter| two.world.counter(counter))
            };
            let before = by(&two);
            assert!(two.world.net.passes(syn(&helper.to_string(), case.server)));
            let events = two.world.events();
            assert_eq!(
                connects(&events),
                [(socket(case.server), None)],
                "{order:?} {case:?}"
            );
            let after = by(&two);
            let known = [after[0] - before[0], after[1] - before[1]];
            let expected = match order.asked {
                Whose::Ours => [1, 0],
                Whose::Others => [0, 1],
            };
            assert_eq!(known, expected, "{order:?} {case:?}");
            two.end(order.asked);
        }
    }
}

#[test]
fn a_proxy_that_forgets_the_records_is_redirected_by_the_other_once_and_there_it_ends() {
    for order in ORDERS {
        for case in CASES {
            let mut two = Two::begin(order, POLICY, &Config::default());
            assert!(two.world.net.passes(case.first(0)));
            drop(two.world.events());
            // Our policy has nothing for the other's proxy; the other driver redirects whatever goes to its port.
            assert!(two.goes_on(case, order.asked, None));
            let events = two.world.events();
            let server = socket(case.server);
            if order.asked == Whose::Others {
                assert_eq!(connects(&events), [(server, None)], "{order:?}");
                two.end(order.loaded);
                continue;
            }
            let there = case.proxy(Whose::Others);
            assert_eq!(
                connects(&events),
                [(server, None), (server, Some(there))],
                "{order:?}"
            );
            let (_, flow) = Two::accepted(&events, socket(case.onward(Whose::Ours)));
            assert!(two.goes_on(case, Whose::Others, Some(flow)));
            assert_eq!(connects(&two.world.events()), [(server, None)], "{order:?}");
            assert_eq!(two.world.counter(Counter::Redirected), 1);
            two.end(order.loaded);
        }
    }
}

#[test]
fn what_redirects_without_asking_is_told_of_in_events() {
    // The driver `usher` sends IPv4 connections to port 7000 elsewhere, without a handle.
    let mut world = World::with_policy(&POLICY.replace("8081", "8080"));
    world.owned_by(portcullis_tests::proxy::owners());
    let usher = load(
        &world.kernel,
        "usher.sys",
        &foreign::test_drivers::built("usher", None).image,
    );
    assert_eq!(alive(usher.start()), NtStatus::SUCCESS);
    let proxy = portcullis_tests::proxy::with_proxy(&world);
    let server = "198.51.100.1:7000";
    drop(world.events());
    assert!(world.net.passes(syn("192.0.2.10:50000", server)));
    let events = world.events();
    let first = connects(&events);
    assert!(
        first.iter().all(|(to, _)| *to == socket(server)),
        "{first:?}"
    );
    let by_usher = socket("203.0.113.5:8080");
    // Its sublayer is heavier than ours, and its permit final: ours is not asked any more.
    assert_eq!(first, [(socket(server), Some(by_usher))]);
    assert_eq!(world.counter(Counter::Redirected), 0);
    // Nor is it for what the proxy sends there, whose records of ours the other one does not heed.
    let own = "192.0.2.10:60000";
    assert!(world.net.passes(syn("192.0.2.10:50001", "198.51.100.1:80")));
    let events = world.events();
    let accept = events
        .iter()
        .find(|event| event.operation == Operation::Accept.raw())
        .expect("the proxy accepts");
    let records = world.net.redirection(accept.flow.get()).expect("records");
    world.net.serve(TCP, socket(own), records);
    assert!(world.net.passes(syn(own, server)));
    assert_eq!(
        connects(&world.events()),
        [(socket(server), Some(by_usher))]
    );
    assert_eq!(world.counter(Counter::Redirected), 1);
    proxy.close();
    world.net.finish();
    assert_clean(&alive(usher.unload()));
    world.end();
}

#[test]
fn either_may_go_while_a_connection_is_at_its_proxy_and_the_other_takes_the_next_one() {
    for order in ORDERS {
        for case in CASES {
            for goes in [Whose::Ours, Whose::Others] {
                let mut two = Two::begin(order, POLICY, &Config::default());
                let mut talk = Tcp::new(case.client, case.server);
                assert!(two.world.net.passes(talk.segment(true, SYN, &[])));
                let mut there = talk.at(&case.proxy(order.asked).to_string());
                assert!(two.world.net.all_pass(&there.handshake_rest()));
                let known = two.world.net.flows().len();
                two.unload(goes);
                assert!(
                    two.world.net.passes(there.client_says(b"data")),
                    "{order:?} {case:?} {goes:?}"
                );
                // The next one goes to the proxy that is left.
                assert!(two.world.net.passes(case.first(1)));
                let handles: Vec<u64> = two.world.net.flows()[known..]
                    .iter()
                    .flat_map(|flow| flow.handles.iter().copied())
                    .collect();
                let stays = match goes {
                    Whose::Ours => Whose::Others,
                    Whose::Others => Whose::Ours,
                };
                let went = handles
                    .iter()
                    .find_map(|&flow| two.world.net.redirection(flow))
                    .map(|records| records.current().remote);
                let went = went.map(|end| SocketAddr::new(end.address, end.port));
                assert_eq!(went, Some(case.proxy(stays)), "{order:?} {goes:?}");
                assert!(two.world.net.all_pass(&there.close()));
                two.world.net.finish();
                two.unload(stays);
            }
        }
    }
}

/// One of them is unloaded while the browser connects, on two processors.
fn unload_against(schedule: &Schedule, order: Order, goes: Whose) {
    let config = Config {
        processors: 2,
        schedule: schedule.clone(),
        ..Config::default()
    };
    let mut two = Two::begin(order, POLICY, &config);
    let mut net = Net::owned(&two.world.kernel, 1, owners());
    // What the program of the one that goes has opened is closed before.
    match goes {
        Whose::Ours => two.proxy.take().expect("it is open").close(),
        Whose::Others => alive(two.other_proxy.take().expect("it is open").close()),
    }
    let kernel = two.world.kernel.clone();
    let mut report: Option<Report> = None;
    let unload = || {
        report = Some(match goes {
            Whose::Ours => two.world.unload(),
            Whose::Others => alive(two.other.take().expect("it is loaded").unload()),
        });
    };
    let connect = || {
        for later in 0..3 {
            for case in CASES {
                net.packet(&case.first(later));
            }
        }
        net.finish();
    };
    let programs: [Program<'_, ()>; 2] = [Box::new(unload), Box::new(connect)];
    kernel.together(programs.into());
    assert_clean(&report.expect("it was unloaded"));
    drop(net);
    let stays = match goes {
        Whose::Ours => Whose::Others,
        Whose::Others => Whose::Ours,
    };
    two.world.net.finish();
    two.unload(stays);
}

#[test]
fn unloading_ours_against_redirections_of_both() {
    try_many(10, |schedule| {
        unload_against(schedule, ORDERS[0], Whose::Ours);
    });
    try_many(5, |schedule| {
        unload_against(schedule, ORDERS[3], Whose::Ours);
    });
}

#[test]
fn unloading_the_other_against_redirections_of_both() {
    try_many(10, |schedule| {
        unload_against(schedule, ORDERS[0], Whose::Others);
    });
    try_many(5, |schedule| {
        unload_against(schedule, ORDERS[3], Whose::Others);
    });
}
