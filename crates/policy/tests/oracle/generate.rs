//! What policies and connections are made of: few values, so that rules meet.

use crate::reading::{Family, Subject};
use portcullis_core::{Action, Direction, Endpoint};
use portcullis_policy::{ApplicationPattern, Effect, HostPattern, Policy, Ranges, Rule, Sid};
use portcullis_proto::event::Operation;
use portcullis_proto::policy::interfaces_of_type;
use proptest::prelude::*;
use proptest::sample::select;
use std::net::IpAddr;

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
pub(super) const HOSTS: [&str; 6] = [
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

pub(super) fn rule() -> impl Strategy<Value = Rule> {
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
pub(super) fn rule_about() -> impl Strategy<Value = Rule> {
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

pub(super) fn policy() -> impl Strategy<Value = Policy> {
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

pub(super) fn subject() -> impl Strategy<Value = Subject> {
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
    let is_truncated = prop::bool::weighted(0.1);
    (
        direction(),
        select(PROTOCOLS.to_vec()),
        endpoint(),
        endpoint(),
        (path(), is_truncated),
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
                path: path.0,
                is_truncated: path.1,
                user,
                family: Family(family),
                interface,
            },
        )
}
