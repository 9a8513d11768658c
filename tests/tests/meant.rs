//! Whatever a policy says, the driver does with traffic what its rules, read one by one, say.

#[path = "../../crates/policy/tests/oracle/reading.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with the policy compiler's tests"
)]
mod reading;

mod policies;

use std::net::{IpAddr, SocketAddr};

use ksim::net::{Identity, Link, Opened, Processes, Setup, Socket};
use policies::{one, text};
use portcullis_core::Endpoint;
use portcullis_policy::{Effect, Options, Policy, Rule, Sid, compile, render};
use portcullis_proto::event::{EventKind, EventRecord, Operation};
use portcullis_proto::policy::{Action, Direction};
use portcullis_tests::interfaces::{BOTH, INTERFACES, all, interface};
use portcullis_tests::messages::{client_hello, dns_query, http_request};
use portcullis_tests::packets::{end, unreachable};
use portcullis_tests::random::Random;
use portcullis_tests::{Net, Tcp, World, icmp_echo, icmp_echo_v6, udp};
use reading::{
    Family, Subject, action_of, decider, listen_action, matches, matches_as, socket_decider,
};
use wfp_schema::IpVersion;

/// Who owns the ports from one on: the program, and the last numbers of the user's SID.
const OWNERS: [(u16, &str, &[u32]); 2] = [
    (
        50_000,
        r"C:\Program Files\Fire\browser.exe",
        &[21, 1, 2, 3, 1001],
    ),
    (
        60_000,
        r"C:\Program Files\Mail\mail.exe",
        &[21, 1, 2, 3, 1002],
    ),
];
/// The first of the ports that nobody else owns.
const SYSTEMS: u16 = 40_000;
/// How many ports each has.
const PORTS: u16 = 200;

const OTHERS: [&str; 4] = [
    "198.51.100.1",
    "203.0.113.7",
    "2001:db8::80",
    "2001:db8:1::7",
];
const REMOTE_PORTS: [u16; 4] = [53, 80, 443, 8080];
const HOSTS: [&str; 3] = ["example.net", "www.example.net", "ads.example.org"];

/// What is begun at this host's end, of a port that nothing else has.
struct Begun {
    subject: Subject,
    link: Link,
    here: &'static str,
    there: &'static str,
}

impl Begun {
    /// This host's and the other's end.
    fn ends(&self) -> [String; 2] {
        [
            end(self.here, self.subject.local.port),
            end(self.there, self.subject.remote.port),
        ]
    }

    /// The ends, whoever began first.
    fn ends_from_initiator(&self) -> [String; 2] {
        let [here, there] = self.ends();
        match self.subject.direction {
            Direction::Outbound => [here, there],
            Direction::Inbound => [there, here],
        }
    }
}

struct Machine {
    world: World,
    processes: Processes,
    policy: Policy,
    random: Random,
    begun: u16,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let mut processes = Processes::default();
        for (first, path, user) in OWNERS {
            let user = ksim::net::Sid::new(5, user);
            for (port, any) in (first..first + PORTS).flat_map(|p| [(p, "0.0.0.0"), (p, "[::]")]) {
                let end: SocketAddr = format!("{any}:{port}").parse().expect("an end");
                processes.assign(end, Identity::new(path, first.into(), user.clone()));
            }
        }
        Self {
            world: World::new(),
            processes,
            policy: Policy::new(Action::Permit),
            random: Random::new(seed),
            begun: 0,
        }
    }

    /// Another policy is in force.
    fn say_meanwhile(&mut self) -> String {
        let text = text(&mut self.random);
        let compiled = compile(&text, &Options::default())
            .unwrap_or_else(|found| panic!("{}", render(&found, &text, false)));
        self.world.set_policy(&text);
        self.policy = compiled.policy;
        text
    }

    /// Another policy is in force, on a host that begins anew: a socket that was refused stays refused.
    fn say(&mut self) -> String {
        let text = self.say_meanwhile();
        let setup = Setup {
            processes: self.processes.clone(),
            interfaces: all(),
            forwarding: true,
            ..Setup::default()
        };
        self.world.net.finish();
        self.world.net = Net::with_setup(&self.world.kernel, 0, setup);
        text
    }

    /// A port of this host's, its owner's path and user.
    fn port(&mut self) -> (u16, String, Sid) {
        self.begun += 1;
        let path = |identity: Identity| identity.application().to_owned();
        let sid = |parts: &[u32]| Sid::new(5, parts).expect("a SID");
        match self.random.below(3) {
            2 => (SYSTEMS + self.begun, path(Identity::system()), sid(&[18])),
            owner => {
                let (first, program, user) = OWNERS[owner];
                let identity = Identity::new(program, 1, ksim::net::Sid::new(5, user));
                (first + self.begun, path(identity), sid(user))
            }
        }
    }

    fn begin(&mut self, direction: Direction, protocol: u8) -> Begun {
        let (port, path, user) = self.port();
        let there = one(&mut self.random, &OTHERS);
        let here = BOTH[usize::from(there.contains(':'))].0;
        let remote_port = REMOTE_PORTS[self.random.below(REMOTE_PORTS.len())];
        let link = INTERFACES[self.random.below(INTERFACES.len())].0;
        let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let subject = Subject {
            direction,
            protocol,
            local: Endpoint::new(address(here), port),
            remote: Endpoint::new(address(there), remote_port),
            path: path.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            is_truncated: false,
            user: Some(user),
            family: Family(Vec::new()),
            interface: interface(link).luid(),
        };
        Begun {
            subject,
            link,
            here,
            there,
        }
    }

    fn direction(&mut self) -> Direction {
        if self.random.below(2) == 0 {
            Direction::Outbound
        } else {
            Direction::Inbound
        }
    }

    /// Whether there is the socket that this begins with: it is bound first, and listens if somebody is to connect to it. Else
    /// the rule that refuses it.
    fn opens(&self, begun: &Begun) -> Result<(), Option<usize>> {
        let mut socket = begun.subject.clone();
        socket.direction = Direction::Inbound;
        let bind = socket_decider(&self.policy, Operation::Bind, &socket);
        if bind.is_some() && !self.permits(bind) {
            return Err(bind);
        }
        let listens = (begun.subject.direction, begun.subject.protocol) == (Direction::Inbound, 6);
        let listen = socket_decider(&self.policy, Operation::Listen, &socket);
        let action = listen_action(&self.policy, listen, &socket);
        if listens && !self.is_permit(action, listen) {
            return Err(listen);
        }
        Ok(())
    }

    /// What decides if no host becomes known, and whether something may begin until then: also what a host may yet permit.
    fn before_its_host(&self, subject: &Subject) -> (Option<usize>, bool) {
        let definite = decider(&self.policy, subject, None);
        let before = &self.policy.rules[..definite.unwrap_or(self.policy.rules.len())];
        let may_permit = before.iter().any(|rule| {
            let names_hosts = !rule.hosts.is_empty();
            names_hosts && rule.action == Action::Permit && matches(rule, subject)
        });
        // Whoever is asked is asked before a host can be known.
        let asks = action_of(&self.policy, definite) == Action::Ask;
        (definite, self.permits(definite) || (may_permit && !asks))
    }

    /// What the rule that asks does, since nobody answers.
    fn answer(&self, rule: Option<usize>) -> Action {
        let effects = rule.map_or(&[][..], |rule| &self.policy.rules[rule].effects);
        let mut answers = effects.iter().filter_map(|effect| match effect {
            Effect::Ask { otherwise, .. } => Some(*otherwise),
            _ => None,
        });
        answers.next().expect("a rule that asks")
    }

    /// Whether this action of the rule permits, since nobody answers who is asked.
    fn is_permit(&self, action: Action, rule: Option<usize>) -> bool {
        match action {
            Action::Ask => self.answer(rule) == Action::Permit,
            action => action == Action::Permit,
        }
    }

    fn permits(&self, rule: Option<usize>) -> bool {
        self.is_permit(action_of(&self.policy, rule), rule)
    }

    /// The last event of a decision about this port of this host's names the rule, or none.
    fn assert_told(&self, begun: &Begun, rule: Option<usize>, what: &str) {
        let kinds = [
            EventKind::Authorize,
            EventKind::HostName,
            EventKind::Reauthorize,
            EventKind::IcmpError,
            EventKind::Content,
        ];
        let port = begun.subject.local.port;
        let is_decision = |event: &&EventRecord| {
            event.local_port.get() == port && kinds.iter().any(|kind| event.kind == kind.raw())
        };
        let events = self.world.events();
        let last = events.iter().rfind(is_decision);
        let last = last.unwrap_or_else(|| panic!("{what}: no event"));
        assert_eq!(last.rule().map(|rule| rule as usize), rule, "{what}");
    }

    /// A datagram, or a query: whether it passes, and whether it is to.
    fn datagram(&mut self) {
        let direction = self.direction();
        let begun = self.begin(direction, 17);
        let asks = direction == Direction::Outbound && begun.subject.remote.port == 53;
        let host = asks.then(|| one(&mut self.random, &HOSTS));
        let data = host.map_or_else(|| b"a datagram".to_vec(), dns_query);
        let [from, to] = begun.ends_from_initiator();
        let passed = self
            .world
            .net
            .passes_on(begun.link, &udp(&from, &to, &data));
        let decides = |()| match self.before_its_host(&begun.subject) {
            (definite, false) => definite,
            (_, true) => decider(&self.policy, &begun.subject, host),
        };
        let rule = self.opens(&begun).map_or_else(|refusal| refusal, decides);
        let what = format!("datagram {from} to {to} on {}, {host:?}", begun.link);
        self.expect(&begun, passed, rule, &what);
    }

    fn ping(&mut self) {
        let direction = self.direction();
        let mut begun = self.begin(direction, 1);
        let (from, to) = match direction {
            Direction::Outbound => (begun.here, begun.there),
            Direction::Inbound => (begun.there, begun.here),
        };
        // The ports are the type and the code; nobody but the system sends such.
        let (kind, protocol) = if from.contains(':') {
            (128, 58)
        } else {
            (8, 1)
        };
        let subject = &mut begun.subject;
        subject.protocol = protocol;
        (subject.local.port, subject.remote.port) = (kind, 0);
        subject.path = "System".encode_utf16().flat_map(u16::to_le_bytes).collect();
        subject.user = Sid::new(5, &[18]);
        let (mut echo, header) = match protocol {
            58 => (icmp_echo_v6(from, to, 128), 40),
            _ => (icmp_echo(from, to, 8), 20),
        };
        // What has the same identifier is the same flow, whoever asks.
        echo[header + 4..header + 6].copy_from_slice(&self.begun.to_be_bytes());
        let passed = self.world.net.passes_on(begun.link, &echo);
        let decides = |()| decider(&self.policy, &begun.subject, None);
        let rule = self.opens(&begun).map_or_else(|refusal| refusal, decides);
        let what = format!("ping {from} to {to} on {}", begun.link);
        assert_eq!(passed, self.permits(rule), "{what}: {rule:?}");
    }

    /// A connection whose initiator says who it wants, or something else.
    fn connection(&mut self) {
        let direction = self.direction();
        let begun = self.begin(direction, 6);
        let [client, server] = begun.ends_from_initiator();
        let host = (self.random.below(3) > 0).then(|| one(&mut self.random, &HOSTS));
        let mut data = match host {
            Some(host) if self.random.below(2) == 0 => client_hello(Some(host)),
            Some(host) => http_request(host),
            None => b"\0nothing known".to_vec(),
        };
        let contents = one(&mut self.random, &["", "a secret", "forbidden secret"]);
        data.extend(contents.as_bytes());
        let what = format!(
            "connection {client} to {server} on {}, {host:?}, {contents}",
            begun.link
        );
        let mut tcp = Tcp::new(&client, &server);
        let opening = tcp.handshake();
        let begins = self.world.net.passes_on(begun.link, &opening[0]);
        if let Err(rule) = self.opens(&begun) {
            return self.expect(&begun, begins, rule, &what);
        }
        let (definite, may_begin) = self.before_its_host(&begun.subject);
        assert_eq!(begins, may_begin, "{what}");
        if !begins {
            return self.expect(&begun, false, definite, &what);
        }
        for packet in &opening[1..] {
            assert!(self.world.net.passes_on(begun.link, packet), "{what}");
        }
        let passed = self
            .world
            .net
            .passes_on(begun.link, &tcp.client_says(&data));
        let rule = decider(&self.policy, &begun.subject, host);
        let finds = |rule: &Rule| {
            let mut literals = rule
                .contents
                .iter()
                .map(|text| String::from_utf8_lossy(text));
            literals.any(|text| contents.contains(&*text)) && matches(rule, &begun.subject)
        };
        let found = self.policy.rules.iter().position(finds);
        let blocked = found.filter(|found| rule.is_none_or(|rule| *found < rule));
        let rule = blocked.filter(|_| self.permits(rule)).or(rule);
        self.expect(&begun, passed, rule, &what);
    }

    /// A packet between others.
    fn transit(&mut self) {
        let mut begun = self.begin(Direction::Outbound, 17);
        let from = if begun.there.contains(':') {
            "2001:db8:9::9"
        } else {
            "10.9.9.9"
        };
        begun.here = from;
        begun.subject.local.address = from.parse().expect("an address");
        let [from, to] = begun.ends();
        let passed = self
            .world
            .net
            .passes_on(begun.link, &udp(&from, &to, b"on its way"));
        let what = format!("transit {from} to {to} on {}", begun.link);
        self.expect_packet(Operation::Forward, &begun, passed, &what);
    }

    /// An ICMP error about a datagram that has passed.
    fn complaint(&mut self) {
        let mut begun = self.begin(Direction::Outbound, 17);
        let [from, to] = begun.ends();
        let question = udp(&from, &to, b"is anybody there");
        if !self.world.net.passes_on(begun.link, &question) {
            return;
        }
        drop(self.world.events());
        let is_v6 = begun.here.contains(':');
        let [there, here] = [begun.there, begun.here].map(|text| text.parse().expect("an address"));
        let passed = self
            .world
            .net
            .passes_on(begun.link, &unreachable(there, here, &question));
        let subject = &mut begun.subject;
        subject.direction = Direction::Inbound;
        subject.protocol = if is_v6 { 58 } else { 1 };
        let what = format!("complaint from {there} to {here} on {}", begun.link);
        self.expect_packet(Operation::IcmpError, &begun, passed, &what);
    }

    /// A socket that is bound, and may listen.
    fn socket(&mut self) {
        let protocol = if self.random.below(2) == 0 { 6 } else { 17 };
        let mut begun = self.begin(Direction::Inbound, protocol);
        let address = begun.subject.local.address;
        let anywhere = self.random.below(2) == 0;
        if anywhere {
            begun.subject.local.address = match address {
                IpAddr::V4(_) => "0.0.0.0".parse().expect("an address"),
                IpAddr::V6(_) => "::".parse().expect("an address"),
            };
            begun.subject.interface = 0;
        }
        let socket = Socket {
            version: if address.is_ipv4() {
                IpVersion::V4
            } else {
                IpVersion::V6
            },
            protocol,
            address: (!anywhere).then_some(address),
            port: begun.subject.local.port,
            any_port: false,
            raw: false,
            promiscuous: false,
            listens: protocol == 6,
            link: begun.link,
        };
        let opened = matches!(self.world.net.open(&socket), Opened::Bound(_));
        let expected = self.opens(&begun);
        assert_eq!(opened, expected.is_ok(), "{socket:?}: {expected:?}");
        if let Err(rule) = expected {
            self.assert_told(&begun, rule, &format!("{socket:?}"));
        }
    }

    /// The same of a packet that belongs to no connection: only rules about its operation decide, and only a block must be told.
    fn expect_packet(&self, operation: Operation, begun: &Begun, passed: bool, what: &str) {
        let mut rules = self.policy.rules.iter();
        let rule = rules.position(|rule| matches_as(rule, operation, &begun.subject));
        let permits = rule.is_none_or(|rule| self.permits(Some(rule)));
        assert_eq!(passed, permits, "{what}");
        if !permits {
            self.assert_told(begun, rule, what);
        }
    }

    /// What passed was to, and the last event names the rule that decided.
    fn expect(&self, begun: &Begun, passed: bool, rule: Option<usize>, what: &str) {
        assert_eq!(passed, self.permits(rule), "{what}: {rule:?}");
        self.assert_told(begun, rule, what);
    }
}

/// A connection that has begun, or a flow of datagrams.
struct Living {
    begun: Begun,
    /// `None`: datagrams.
    tcp: Option<Tcp>,
    host: Option<&'static str>,
    is_over: bool,
}

impl Living {
    /// What its initiator sends next.
    fn next(&mut self, data: &[u8]) -> Vec<u8> {
        let [from, to] = self.begun.ends_from_initiator();
        self.tcp
            .as_mut()
            .map_or_else(|| udp(&from, &to, data), |tcp| tcp.client_says(data))
    }
}

impl Machine {
    /// Begins something that says who it wants, if it is a connection. `None`: it is not let.
    fn live(&mut self) -> Option<Living> {
        let protocol = [6, 17][self.random.below(2)];
        let direction = self.direction();
        let mut begun = self.begin(direction, protocol);
        // Nothing that is decided by each of its questions.
        begun.subject.remote.port = REMOTE_PORTS[1 + self.random.below(REMOTE_PORTS.len() - 1)];
        let [from, to] = begun.ends_from_initiator();
        let mut tcp = (protocol == 6).then(|| Tcp::new(&from, &to));
        let opening = tcp.as_mut().map(Tcp::handshake).unwrap_or_default();
        let host = tcp.is_some().then(|| one(&mut self.random, &HOSTS));
        let data = host.map_or_else(|| b"a datagram".to_vec(), http_request);
        let mut living = Living {
            begun,
            tcp,
            host,
            is_over: false,
        };
        let mut packets = opening;
        packets.push(living.next(&data));
        let link = living.begun.link;
        let mut passes = packets
            .iter()
            .map(|packet| self.world.net.passes_on(link, packet));
        passes.all(|passed| passed).then_some(living)
    }
}

#[test]
fn what_lives_goes_on_only_as_each_new_policy_says() {
    let mut went_on = 0;
    let mut ended = 0;
    for seed in 1..=12 {
        let mut machine = Machine::new(seed);
        machine.say();
        let mut living: Vec<_> = (0..40).filter_map(|_| machine.live()).collect();
        for _ in 0..8 {
            let text = machine.say_meanwhile();
            for one in &mut living {
                let Begun { subject, link, .. } = &one.begun;
                let rule = decider(&machine.policy, subject, one.host);
                let goes_on = !one.is_over && machine.permits(rule);
                let link = *link;
                let packet = one.next(b"more");
                let passed = machine.world.net.passes_on(link, &packet);
                let ends = one.begun.ends();
                assert_eq!(
                    passed, goes_on,
                    "{ends:?}, {:?}: {rule:?}\n{text}",
                    one.host
                );
                one.is_over = !passed;
                went_on += usize::from(passed);
                ended += usize::from(!passed);
            }
            // A connection that a policy ends is over, whatever the next one says. A datagram begins anew with its socket.
            living.retain(|one| one.tcp.is_some() || !one.is_over);
        }
        machine.world.net.finish();
        machine.world.end();
    }
    assert!(went_on > 100 && ended > 100, "{went_on}, {ended}");
}

#[test]
fn what_rules_say_is_done_with_every_kind_of_traffic() {
    for seed in 1..=12 {
        let mut machine = Machine::new(seed);
        for _ in 0..8 {
            let text = machine.say();
            println!("{text}");
            for _ in 0..24 {
                drop(machine.world.events());
                match machine.random.below(6) {
                    0 => machine.datagram(),
                    1 => machine.ping(),
                    2 => machine.connection(),
                    3 => machine.transit(),
                    4 => machine.complaint(),
                    _ => machine.socket(),
                }
            }
        }
        machine.world.net.finish();
        machine.world.end();
    }
}
