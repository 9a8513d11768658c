//! Whatever policy is meant, its compiled form is valid and decides like the rules read one by one.

use portcullis_core::{
    Action, Ancestry, Application, Binding, Connection, Direction, EffectSet, Endpoint, Host,
    PolicyView,
};
use portcullis_policy::{ApplicationPattern, Effect, HostPattern, Policy, Ranges, Rule, Sid};
use portcullis_proto::event::Operation;
use portcullis_proto::policy::interfaces_of_type;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::net::IpAddr;

/// What a connection can be made of: few values, so that rules meet.
const ADDRESSES: [&str; 8] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.1.1",
    "192.168.0.1",
    "255.255.255.255",
    "::1",
    "2001:db8::1",
    "2001:db8::ffff",
];
const PORTS: [u16; 8] = [0, 1, 53, 80, 443, 8080, 65534, 65535];
const PROTOCOLS: [u8; 5] = [0, 1, 6, 17, 255];
const PATHS: [&str; 7] = [
    r"\device\harddiskvolume1\windows\explorer.exe",
    r"\device\harddiskvolume27\windows\explorer.exe",
    r"\device\harddiskvolume1\windows\notepad.exe",
    r"\device\mup\server\share\tool.exe",
    r"\Device\HarddiskVolume3\Windows\EXPLORER.exe",
    "System",
    "",
];
const PATTERNS: [(&str, bool); 9] = [
    (r"\Windows\explorer.exe", true),
    (r"\windows\*.exe", true),
    (r"\windows\???????.exe", true),
    (r"\device\harddiskvolume1\windows\explorer.exe", false),
    (r"\device\mup\server\share\tool.exe", false),
    (r"*\explorer.exe", false),
    (r"*win*ex*e", false),
    ("system", false),
    ("*", false),
];
const HOSTS: [&str; 6] = [
    "example.com",
    "www.example.com",
    "a.b.example.com",
    "example.org",
    "com",
    "notexample.com",
];
const HOST_PATTERNS: [(&str, bool); 6] = [
    ("example.com", false),
    ("example.com", true),
    ("b.example.com", true),
    ("www.example.com", false),
    ("com", true),
    ("example.org", false),
];

const CONTENTS: [&str; 4] = ["secret", "secretly", "ret", "other"];

fn number(address: &str) -> u128 {
    Endpoint::new(address.parse().unwrap(), 0).number()
}

fn sid(rid: u32) -> Sid {
    Sid::new(5, &[21, 7, rid]).unwrap()
}

fn ranges(numbers: Vec<u128>) -> impl Strategy<Value = Ranges> {
    let range = (select(numbers.clone()), select(numbers)).prop_map(|(a, b)| (a.min(b), a.max(b)));
    prop_oneof![2 => Just(Ranges::default()), 3 => prop::collection::vec(range, 1..4).prop_map(Ranges::new)]
}

fn list<T: Clone + std::fmt::Debug>(
    elements: impl Strategy<Value = T>,
) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(elements, 1..4)]
}

fn action() -> impl Strategy<Value = Action> {
    select(vec![Action::Permit, Action::Block])
}

fn direction() -> impl Strategy<Value = Direction> {
    select(vec![Direction::Outbound, Direction::Inbound])
}

fn addresses() -> impl Strategy<Value = Ranges> {
    ranges(ADDRESSES.map(number).to_vec())
}

fn ports() -> impl Strategy<Value = Ranges> {
    ranges(PORTS.map(u128::from).to_vec())
}

/// LUIDs, the unknown one among them; the ranges are of some, and of types.
const INTERFACES: [u64; 6] = [
    0,
    6 << 48 | 1,
    6 << 48 | 2,
    71 << 48,
    131 << 48 | 7,
    u64::MAX,
];

fn interfaces() -> impl Strategy<Value = Ranges> {
    let one = select(INTERFACES[1..].to_vec()).prop_map(|luid| (luid.into(), luid.into()));
    let of_type = select(vec![6_u16, 71, 72, u16::MAX]).prop_map(|kind| {
        let (first, last) = interfaces_of_type(kind);
        (first.into(), last.into())
    });
    let range = prop_oneof![one, of_type];
    prop_oneof![2 => Just(Ranges::default()), 1 => prop::collection::vec(range, 1..4).prop_map(Ranges::new)]
}

fn rule() -> impl Strategy<Value = Rule> {
    let owner = (
        list(select(PATTERNS.to_vec()).prop_map(|(text, any)| ApplicationPattern::new(text, any))),
        list((0..4_u32).prop_map(sid)),
        list(
            select(HOST_PATTERNS.to_vec()).prop_map(|(name, below)| HostPattern {
                name: name.to_owned(),
                below,
            }),
        ),
        any::<bool>(),
    );
    let sides = (addresses(), addresses(), ports(), ports(), interfaces());
    let protocols = ranges(PROTOCOLS.map(u128::from).to_vec());
    (
        action(),
        prop::option::of(direction()),
        protocols,
        sides,
        owner,
        any::<bool>(),
    )
        .prop_map(|(action, direction, protocols, sides, owner, log)| Rule {
            direction,
            protocols,
            local_addresses: sides.0,
            remote_addresses: sides.1,
            local_ports: sides.2,
            remote_ports: sides.3,
            interfaces: sides.4,
            children: owner.3 && !owner.0.is_empty(),
            applications: owner.0,
            users: owner.1,
            hosts: owner.2,
            log,
            ..Rule::new("a rule", action)
        })
        .prop_flat_map(|rule| (Just(rule), list(select(CONTENTS.to_vec()))))
        .prop_map(|(rule, contents)| {
            if contents.is_empty() || !rule.hosts.is_empty() {
                return rule;
            }
            let contents = contents.iter().map(|content| content.as_bytes().to_vec());
            Rule {
                action: Action::Block,
                contents: contents.collect(),
                ..rule
            }
        })
        .prop_flat_map(|rule| {
            (
                Just(rule),
                prop::collection::vec(effect(), 0..4),
                any::<bool>(),
            )
        })
        .prop_map(|(mut rule, effects, asks)| {
            if rule.action == Action::Permit {
                rule.effects = effects;
                if asks && rule.hosts.is_empty() && rule.interfaces.is_any() {
                    rule.action = Action::Ask;
                    rule.effects.push(Effect::Ask {
                        milliseconds: 1,
                        otherwise: Action::Block,
                    });
                }
            }
            rule
        })
}

/// A rule that says what it is about: it has no effects where that is no connection.
fn rule_about() -> impl Strategy<Value = Rule> {
    let connections = [Operation::Connect, Operation::Accept, Operation::Listen];
    (
        rule(),
        list(select(connections.to_vec())),
        list(select(Operation::ALL.to_vec())),
    )
        .prop_map(|(rule, connections, others)| {
            let is_plain = rule.hosts.is_empty() && rule.contents.is_empty();
            if others.is_empty() || !is_plain || rule.action == Action::Ask {
                let operations = connections;
                return Rule { operations, ..rule };
            }
            Rule {
                operations: others,
                effects: Vec::new(),
                ..rule
            }
        })
}

fn effect() -> impl Strategy<Value = Effect> {
    let address: IpAddr = "2001:db8::1".parse().unwrap();
    select(vec![
        Effect::Redirect {
            address,
            port: 1,
            otherwise: Action::Permit,
        },
        Effect::Bind(address),
        Effect::Replace {
            sent: true,
            received: false,
            find: b"this".to_vec(),
            with: b"that one".to_vec(),
        },
        Effect::Replace {
            sent: true,
            received: true,
            find: vec![0; 255],
            with: Vec::new(),
        },
        Effect::Header {
            name: "Accept".to_owned(),
            value: None,
        },
        Effect::Header {
            name: "Accept".to_owned(),
            value: Some("*/*".to_owned()),
        },
        Effect::Dscp(46),
        Effect::HopLimit(1),
        Effect::Translate {
            address: Some(address),
            port: None,
        },
        Effect::Translate {
            address: None,
            port: Some(u16::MAX),
        },
        Effect::Rate {
            bytes_per_second: 1,
            burst: 1 << 40,
            queue: 0,
            shared: true,
        },
        Effect::Rate {
            bytes_per_second: 1 << 40,
            burst: 1,
            queue: 1,
            shared: false,
        },
        Effect::Delay {
            microseconds: 0,
            jitter: 1,
        },
        Effect::Loss(1_000_000),
        Effect::Mirror,
    ])
}

fn policy() -> impl Strategy<Value = Policy> {
    (
        action(),
        prop::collection::vec(rule_about(), 0..60),
        any::<bool>(),
    )
        .prop_map(|(default, rules, events_all)| Policy {
            default,
            rules,
            events_all,
            observe: false,
            boot: None,
        })
}

/// A connection, owning what it refers to.
#[derive(Clone, Debug)]
struct Subject {
    direction: Direction,
    protocol: u8,
    local: Endpoint,
    remote: Endpoint,
    path: Vec<u8>,
    user: Option<Sid>,
    family: Family,
    interface: u64,
}

/// The paths of a process's ancestors.
#[derive(Clone, Debug)]
struct Family(Vec<Vec<u8>>);

impl Ancestry for Family {
    fn any_ancestor(
        &self,
        process_id: u64,
        _application: Application<'_>,
        matches: &mut dyn FnMut(Application<'_>) -> bool,
    ) -> bool {
        assert_eq!(process_id, 4);
        self.0.iter().any(|path| matches(Application::new(path)))
    }
}

impl Subject {
    fn connection(&self) -> Connection<'_> {
        Connection {
            direction: self.direction,
            protocol: self.protocol,
            local: self.local,
            remote: self.remote,
            application: Application::new(&self.path),
            user: self.user.as_ref().map_or(&[], Sid::as_bytes),
            process_id: 4,
            flow: 0,
            interface: self.interface,
        }
    }

    fn binding(&self) -> Binding<'_> {
        let connection = self.connection();
        Binding {
            protocol: self.protocol,
            local: self.local,
            application: connection.application,
            user: connection.user,
            process_id: 4,
        }
    }

    /// What it is, as a connection.
    const fn operation(&self) -> Operation {
        match self.direction {
            Direction::Outbound => Operation::Connect,
            Direction::Inbound => Operation::Accept,
        }
    }

    /// Whether a rule's application condition matches, as it reads.
    fn is_of(&self, rule: &Rule) -> bool {
        let units = |path: &[u8]| Application::new(path).units().collect::<Vec<_>>();
        let any = |path: &[u8]| {
            let units = units(path);
            let mut patterns = rule.applications.iter();
            patterns.any(|pattern| pattern.matches(&units))
        };
        rule.applications.is_empty()
            || any(&self.path)
            || (rule.children && self.family.0.iter().any(|path| any(path)))
    }
}

fn subject() -> impl Strategy<Value = Subject> {
    let endpoint = || {
        let address =
            select(ADDRESSES.to_vec()).prop_map(|address| address.parse::<IpAddr>().unwrap());
        (address, select(PORTS.to_vec())).prop_map(|(address, port)| Endpoint::new(address, port))
    };
    let path = || {
        select(PATHS.to_vec())
            .prop_map(|path| path.encode_utf16().flat_map(u16::to_le_bytes).collect())
    };
    let user = prop::option::of((0..5_u32).prop_map(sid));
    (
        direction(),
        select(PROTOCOLS.to_vec()),
        endpoint(),
        endpoint(),
        path(),
        user,
        prop::collection::vec(path(), 0..3),
        select(INTERFACES.to_vec()),
    )
        .prop_map(
            |(direction, protocol, local, remote, path, user, family, interface)| Subject {
                direction,
                protocol,
                local,
                remote,
                path,
                user,
                family: Family(family),
                interface,
            },
        )
}

/// Whether everything about the rule but its host matches the connection, as it reads.
fn matches(rule: &Rule, subject: &Subject) -> bool {
    matches_as(rule, subject.operation(), subject)
}

/// The same of this operation with the connection's ends and owner.
fn matches_as(rule: &Rule, operation: Operation, subject: &Subject) -> bool {
    let of_connections = matches!(
        operation,
        Operation::Connect | Operation::Accept | Operation::Listen
    );
    (rule.operations.contains(&operation) || (rule.operations.is_empty() && of_connections))
        && rule
            .direction
            .is_none_or(|direction| direction == subject.direction)
        && rule.protocols.contains(subject.protocol.into())
        && rule.local_addresses.contains(subject.local.number())
        && rule.remote_addresses.contains(subject.remote.number())
        && rule.local_ports.contains(subject.local.port.into())
        && rule.remote_ports.contains(subject.remote.port.into())
        && (rule.interfaces.is_any()
            || match subject.interface {
                0 => rule.action == Action::Block,
                luid => rule.interfaces.contains(luid.into()),
            })
        && subject.is_of(rule)
        && (rule.users.is_empty()
            || subject
                .user
                .as_ref()
                .is_some_and(|user| rule.users.contains(user)))
}

/// The rule that decides when the host is known, or known to be none.
fn decider(policy: &Policy, subject: &Subject, host: Option<&str>) -> Option<usize> {
    let host_matches = |rule: &Rule| {
        rule.hosts.is_empty()
            || host.is_some_and(|host| rule.hosts.iter().any(|pattern| pattern.matches(host)))
    };
    policy
        .rules
        .iter()
        .position(|rule| matches(rule, subject) && rule.contents.is_empty() && host_matches(rule))
}

fn action_of(policy: &Policy, rule: Option<usize>) -> Action {
    rule.map_or(policy.default, |rule| policy.rules[rule].action)
}

fn check(policy: &Policy, view: &PolicyView<'_>, subject: &Subject, host: Option<&str>) {
    let view = &view.with_ancestry(&subject.family);
    let connection = subject.connection();
    let known = host.map_or(Host::Never, |host| Host::Known(host.as_bytes()));
    let decision = view.decide(&connection, known);
    let expected = decider(policy, subject, host);
    assert_eq!(decision.rule.map(|rule| rule.0 as usize), expected);
    assert_eq!(decision.action, action_of(policy, expected));
    assert_eq!(
        decision.log,
        expected.is_some_and(|rule| policy.rules[rule].log)
    );
    assert!(!decision.host_dependent);
    let effects = expected.map_or(&[][..], |rule| &policy.rules[rule].effects);
    let kinds = effects.iter().map(Effect::kind);
    assert_eq!(
        decision.effects,
        kinds.fold(EffectSet::NONE, EffectSet::with)
    );
    assert_eq!(view.effects(decision.rule).count(), effects.len());
    let before = &policy.rules[..expected.unwrap_or(policy.rules.len())];
    let looks = |rule: &Rule| !rule.contents.is_empty() && matches(rule, subject);
    assert_eq!(
        decision.content_dependent,
        decision.action != Action::Block && before.iter().any(looks)
    );
    assert_eq!(decision, view.decide_linear(&connection, known));

    // While the host is not known: what may still happen?
    let pending = view.decide(&connection, Host::Pending);
    assert_eq!(pending, view.decide_linear(&connection, Host::Pending));
    let definite = decider(policy, subject, None);
    let before = &policy.rules[..definite.unwrap_or(policy.rules.len())];
    let mut candidates = before
        .iter()
        .filter(|rule| !rule.hosts.is_empty() && matches(rule, subject));
    match action_of(policy, definite) {
        Action::Permit => {
            assert_eq!(
                (pending.action, pending.host_dependent),
                (Action::Permit, candidates.next().is_some())
            );
            assert_eq!(pending.rule.map(|rule| rule.0 as usize), definite);
        }
        // Who is asked is asked at once.
        Action::Ask => assert_eq!(pending, view.decide(&connection, Host::Never)),
        Action::Block => {
            let may_permit = candidates.any(|rule| rule.action == Action::Permit);
            assert_eq!(pending.is_permit(), may_permit);
            assert_eq!(pending.host_dependent, may_permit);
        }
    }
    // What is blocked before the host is known stays blocked whatever it turns out to be.
    if pending.action == Action::Block {
        assert_eq!(decision.action, Action::Block);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_compiled_policy_is_valid_and_decides_like_its_rules(
        policy in policy(),
        subjects in prop::collection::vec((subject(), prop::option::of(any::<Index>())), 20),
    ) {
        let blob = policy.encode().expect("small enough");
        let view = PolicyView::validate(&blob).expect("valid");
        prop_assert_eq!(view.rule_count(), policy.rules.len());
        prop_assert_eq!(view.events_all(), policy.events_all);
        for (subject, host) in subjects {
            check(&policy, &view, &subject, host.map(|index| HOSTS[index.index(HOSTS.len())]));
        }
    }

    #[test]
    fn a_packet_is_decided_by_the_rules_about_it(
        policy in policy(), subjects in prop::collection::vec(subject(), 20),
        operation in select(vec![Operation::Forward, Operation::IcmpError]),
    ) {
        let blob = policy.encode().expect("small enough");
        let view = PolicyView::validate(&blob).expect("valid");
        for subject in &subjects {
            let expected = policy.rules.iter().position(|rule| matches_as(rule, operation, subject));
            let view = view.with_ancestry(&subject.family);
            let decision = view.decide_packet(operation, &subject.connection());
            prop_assert_eq!(decision.rule.map(|rule| rule.0 as usize), expected);
            prop_assert_eq!(decision.is_permit(), expected.is_none_or(|rule| policy.rules[rule].action == Action::Permit));
        }
    }

    #[test]
    fn a_bind_is_decided_by_the_rules_that_ask_nothing_else(
        policy in policy(), mut subjects in prop::collection::vec(subject(), 20), anywhere in any::<bool>(),
    ) {
        let blob = policy.encode().expect("small enough");
        let view = PolicyView::validate(&blob).expect("valid");
        let has_bind = |rule: &Rule| rule.effects.iter().any(|effect| matches!(effect, Effect::Bind(_)));
        let takes_part = |rule: &Rule| {
            rule.direction != Some(Direction::Inbound) && rule.remote_addresses.is_any() && rule.remote_ports.is_any()
                && rule.interfaces.is_any() && rule.hosts.is_empty() && rule.contents.is_empty()
        };
        let last = policy.rules.iter().rposition(|rule| takes_part(rule) && has_bind(rule));
        let rules = &policy.rules[..last.map_or(0, |last| last + 1)];
        for subject in &mut subjects {
            subject.direction = Direction::Outbound;
            if anywhere {
                subject.local.address = "::".parse().unwrap();
            }
            let expected = rules.iter().position(|rule| {
                let known = if anywhere && rule.local_addresses.is_any() {
                    Rule { local_addresses: Ranges::default(), ..rule.clone() }
                } else {
                    rule.clone()
                };
                takes_part(rule) && matches(&known, subject) && (!anywhere || rule.local_addresses.is_any())
            });
            let decision = view.with_ancestry(&subject.family).decide_bind(&subject.binding());
            prop_assert_eq!(decision.rule.map(|rule| rule.0 as usize), expected);
            prop_assert_eq!(decision.is_permit(), expected.is_none_or(|rule| rules[rule].action == Action::Permit));
        }
    }

    #[test]
    fn a_rule_that_covers_another_matches_whatever_that_matches(
        other in rule_about(), narrow in rule_about(), other_for in 0..12_usize, any_for in any::<[bool; 12]>(),
        subjects in prop::collection::vec(subject(), 20), host in any::<Index>(),
    ) {
        // The first rule is the second with some conditions left out and one of another rule's, so it often covers it.
        let all = Rule::new("", Action::Permit);
        let from = |condition: usize| match condition {
            _ if condition == other_for => &other,
            _ if any_for[condition] => &all,
            _ => &narrow,
        };
        let wide = Rule {
            direction: from(0).direction,
            protocols: from(1).protocols.clone(),
            local_addresses: from(2).local_addresses.clone(),
            remote_addresses: from(3).remote_addresses.clone(),
            local_ports: from(4).local_ports.clone(),
            remote_ports: from(5).remote_ports.clone(),
            applications: from(6).applications.clone(),
            children: from(6).children,
            users: from(7).users.clone(),
            hosts: from(8).hosts.clone(),
            contents: from(9).contents.clone(),
            interfaces: from(10).interfaces.clone(),
            operations: from(11).operations.clone(),
            ..narrow.clone()
        };
        prop_assume!(wide.covers(&narrow));
        let policy = Policy { rules: vec![wide, narrow], ..Policy::new(Action::Block) };
        let host = HOSTS[host.index(HOSTS.len())];
        for subject in subjects {
            prop_assert_ne!(decider(&policy, &subject, Some(host)), Some(1));
            prop_assert_ne!(decider(&policy, &subject, None), Some(1));
        }
    }
}
