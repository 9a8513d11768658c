//! Protection at boot: what the language refuses, and that the filters say what the rules say.

use std::net::IpAddr;

use portcullis_core::boot::{BootCondition, BootFilter, Point};
use portcullis_core::{Action, Direction, PolicyView};
use portcullis_policy::{Boot, Options, Policy, Ranges, Rule, Severity, compile};
use portcullis_proto::Family;
use portcullis_proto::policy::{interface_type, interfaces_of_type};
use proptest::prelude::*;
use proptest::sample::select;

/// The errors and warnings of a policy with `[boot]` and a rule with these lines, each with its line.
fn said(lines: &str) -> Vec<(Severity, usize, String)> {
    let text = format!(
        "default = 'permit'\n[boot]\ndefault = 'permit'\n[[rule]]\naction = 'block'\nboot = true\n{lines}\n"
    );
    let found = match compile(&text, &Options::default()) {
        Ok(compiled) => compiled.warnings,
        Err(found) => found,
    };
    found
        .into_iter()
        .map(|found| (found.severity, found.line, found.message))
        .collect()
}

#[test]
fn what_only_the_driver_can_compare_is_refused_with_its_place() {
    for (lines, message) in [
        ("user = 'SYSTEM'", "a rule that holds at boot has no `user`"),
        (
            "host = 'example.com'",
            "a rule that holds at boot has no `host`",
        ),
        (
            "content = 'secret'",
            "a rule that holds at boot has no `content`",
        ),
        (
            r"application = 'C:\agent.exe'",
            "a rule that holds at boot names applications exactly",
        ),
        (
            r"application = '\device\harddiskvolume1\*.exe'",
            "a rule that holds at boot names applications exactly",
        ),
    ] {
        assert_eq!(
            said(lines),
            [(Severity::Error, 7, message.to_owned())],
            "{lines}"
        );
    }
}

#[test]
fn interfaces_and_types_hold_at_boot_but_no_mixture() {
    assert_eq!(
        said("interface = ['0x6000002000000', '0x35000004000000']"),
        []
    );
    assert_eq!(said("interface_type = ['mobile', 'wifi']"), []);
    let mut policy = Policy::new(Action::Permit);
    let (first, last) = interfaces_of_type(71);
    let mut rule = Rule::new("both", Action::Block);
    rule.boot = true;
    rule.interfaces = Ranges::new([(6 << 48, 6 << 48), (first.into(), last.into())]);
    policy.rules = vec![rule];
    policy.boot = Some(Boot {
        default: Action::Permit,
        essential: true,
    });
    let blob = policy.encode().expect("it is small");
    assert!(
        PolicyView::validate(&blob).is_err(),
        "a filter would ask for both"
    );
}

#[test]
fn a_block_of_an_application_is_warned_of_because_it_comes_late() {
    let said = said(r"application = '\device\harddiskvolume1\agent.exe'");
    assert_eq!((said[0].0, said[0].1), (Severity::Warning, 7));
}

#[test]
fn without_a_table_no_rule_holds_at_boot_and_the_table_needs_a_default() {
    let errors = |text: &str| {
        let found = compile(text, &Options::default()).expect_err("is refused");
        found
            .into_iter()
            .map(|found| found.message)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        errors("default = 'permit'\n[[rule]]\naction = 'block'\nboot = true"),
        ["a rule is to hold at boot, and there is no table `boot`"]
    );
    assert_eq!(
        errors("default = 'permit'\n[boot]\nessential = false"),
        ["`boot` has no `default`"]
    );
    assert_eq!(
        errors("default = 'permit'\n[boot]\ndefault = 'block'\nesential = true"),
        ["`boot` has no `esential`"]
    );
    assert_eq!(
        errors("default = 'permit'\nboot = 'block'"),
        ["`boot` is not a table"]
    );
}

#[test]
fn a_rule_with_too_many_ranges_and_too_many_rules_are_refused() {
    let ports: Vec<String> = (0..1030).map(|port| (2 * port).to_string()).collect();
    let said = said(&format!("remote_port = [{}]", ports.join(", ")));
    assert_eq!((said[0].0, said[0].1), (Severity::Error, 6));
    let rules = "[[rule]]\naction = 'block'\nremote_port = 1\nboot = true\n".repeat(257);
    let text = format!("default = 'permit'\n[boot]\ndefault = 'permit'\n{rules}");
    let found = compile(&text, &Options::default()).expect_err("is refused");
    let errors: Vec<_> = found
        .iter()
        .filter(|found| found.severity == Severity::Error)
        .collect();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].line, 3 + 257 * 4);
}

/// What traffic is made of: few values, so that rules meet.
const ADDRESSES: [&str; 6] = [
    "10.0.0.1",
    "10.0.0.2",
    "255.255.255.255",
    "::1",
    "2001:db8::1",
    "ff02::fb",
];

#[derive(Clone, Copy, Debug)]
struct Traffic {
    point: Point,
    protocol: u8,
    ports: [u16; 2],
    addresses: [u128; 2],
    is_loopback: bool,
    interface: u64,
}

fn number(address: &str) -> u128 {
    match address.parse().expect("an address") {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn addresses(family: Family) -> Vec<u128> {
    let is_v4 = family == Family::V4;
    ADDRESSES
        .iter()
        .filter(|address| address.contains('.') == is_v4)
        .map(|address| number(address))
        .collect()
}

fn traffic() -> impl Strategy<Value = Traffic> {
    select(Point::ALL.to_vec()).prop_flat_map(|point| {
        let address = || select(addresses(point.family));
        let port = || select(vec![0_u16, 53, 68, 133, 443, 65535]);
        (
            select(vec![1_u8, 6, 17, 58]),
            [port(), port()],
            [address(), address()],
            prop::bool::weighted(0.1),
            select(INTERFACES.to_vec()),
        )
            .prop_map(
                move |(protocol, ports, addresses, is_loopback, interface)| Traffic {
                    point,
                    protocol,
                    ports,
                    addresses,
                    is_loopback,
                    interface,
                },
            )
    })
}

fn ranges(values: Vec<u128>) -> impl Strategy<Value = Ranges> {
    prop::collection::vec((select(values.clone()), select(values)), 0..3).prop_map(|pairs| {
        Ranges::new(
            pairs
                .into_iter()
                .map(|(left, right)| (left.min(right), left.max(right))),
        )
    })
}

const INTERFACES: [u64; 4] = [6 << 48 | 1, 6 << 48 | 2, 71 << 48 | 3, 131 << 48 | 4];

/// Interfaces, or types of them.
fn interfaces() -> impl Strategy<Value = Ranges> {
    let one = select(INTERFACES.to_vec()).prop_map(|luid| (luid.into(), luid.into()));
    let of_type = select(vec![6_u16, 7, 71]).prop_map(|kind| {
        let (first, last) = interfaces_of_type(kind);
        (first.into(), last.into())
    });
    // Two LUIDs in a row would be one range: none of these are, but for the first two.
    let ones = prop::collection::vec(one, 0..2).prop_map(Ranges::new);
    prop_oneof![
        ones,
        prop::collection::vec(of_type, 0..3).prop_map(Ranges::new)
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let all: Vec<u128> = ADDRESSES.iter().map(|address| number(address)).collect();
    let ports = vec![0, 53, 68, 133, 443, 65535];
    (
        any::<[bool; 2]>(),
        prop::option::of(select(vec![Direction::Outbound, Direction::Inbound])),
        ranges(vec![1, 6, 17, 58]),
        [ranges(ports.clone()), ranges(ports)],
        [ranges(all.clone()), ranges(all)],
        interfaces(),
    )
        .prop_map(
            |([permits, boot], direction, protocols, ports, addresses, interfaces)| {
                let action = if permits {
                    Action::Permit
                } else {
                    Action::Block
                };
                let mut rule = Rule::new("a rule", action);
                (rule.boot, rule.direction, rule.protocols) = (boot, direction, protocols);
                [rule.local_ports, rule.remote_ports] = ports;
                rule.interfaces = interfaces;
                [rule.local_addresses, rule.remote_addresses] = addresses;
                rule
            },
        )
}

fn has(ranges: &Ranges, value: u128) -> bool {
    ranges.is_any() || ranges.meets((value, value))
}

/// The rules read one by one.
fn expected(policy: &Policy, boot: Boot, traffic: Traffic) -> Action {
    let [local_port, remote_port] = traffic.ports.map(u128::from);
    let [local, remote] = traffic.addresses;
    let outbound = traffic.point.direction == Direction::Outbound;
    let v6 = traffic.point.family == Family::V6;
    let [first, _] = traffic.ports;
    let needed = traffic.is_loopback
        || match (traffic.protocol, v6) {
            (17, false) => traffic.ports == [68, 67],
            (17, true) => traffic.ports == [546, 547],
            (58, true) if outbound => matches!(first, 131..=133 | 135 | 136 | 143),
            (58, true) => matches!(first, 130 | 134..=136),
            _ => false,
        };
    if boot.essential && needed {
        return Action::Permit;
    }
    let matches = |rule: &&Rule| {
        rule.boot
            && rule
                .direction
                .is_none_or(|direction| direction == traffic.point.direction)
            && has(&rule.protocols, traffic.protocol.into())
            && has(&rule.local_ports, local_port)
            && has(&rule.remote_ports, remote_port)
            && has(&rule.local_addresses, local)
            && has(&rule.remote_addresses, remote)
            && has(&rule.interfaces, traffic.interface.into())
    };
    policy
        .rules
        .iter()
        .find(matches)
        .map_or(boot.default, |rule| rule.action)
}

/// Whether a filter matches, by WFP's rule: conditions side by side on one field are alternatives, others all hold.
fn matches(filter: &BootFilter<'_>, traffic: Traffic) -> bool {
    let [local, remote] = traffic.addresses;
    let low = |address: u128| u32::try_from(address & 0xFFFF_FFFF).expect("32 bits");
    let within = |first: [u8; 16], last: [u8; 16], address: u128| {
        (u128::from_be_bytes(first)..=u128::from_be_bytes(last)).contains(&address)
    };
    let mut fields: Vec<(u8, bool)> = Vec::new();
    for condition in filter.conditions() {
        let (field, holds) = match condition {
            BootCondition::Loopback => (0, traffic.is_loopback),
            BootCondition::Protocol(first, last) => (1, (first..=last).contains(&traffic.protocol)),
            BootCondition::LocalPort(first, last) => {
                (2, (first..=last).contains(&traffic.ports[0]))
            }
            BootCondition::RemotePort(first, last) => {
                (3, (first..=last).contains(&traffic.ports[1]))
            }
            BootCondition::LocalV4(first, last) => (4, (first..=last).contains(&low(local))),
            BootCondition::RemoteV4(first, last) => (5, (first..=last).contains(&low(remote))),
            BootCondition::LocalV6(first, last) => (4, within(first, last, local)),
            BootCondition::RemoteV6(first, last) => (5, within(first, last, remote)),
            BootCondition::Interface(luid) => (7, luid == traffic.interface),
            BootCondition::InterfaceType(first, last) => (
                8,
                (first..=last).contains(&interface_type(traffic.interface)),
            ),
            BootCondition::Application(_) => (6, false),
        };
        match fields.last_mut() {
            Some((same, any)) if *same == field => *any |= holds,
            _ => {
                assert!(
                    fields.iter().all(|(other, _)| *other != field),
                    "side by side"
                );
                fields.push((field, holds));
            }
        }
    }
    fields.iter().all(|&(_, holds)| holds)
}

proptest! {
    #[test]
    fn the_heaviest_filter_that_matches_says_what_the_first_rule_says(
        rules in prop::collection::vec(rule(), 0..6),
        block in any::<bool>(),
        essential in any::<bool>(),
        traffic in prop::collection::vec(traffic(), 1..16),
    ) {
        let boot = Boot { default: if block { Action::Block } else { Action::Permit }, essential };
        let mut policy = Policy::new(Action::Permit);
        policy.rules = rules;
        policy.boot = Some(boot);
        let blob = policy.encode().expect("it is small");
        let view = PolicyView::validate(&blob).expect("what the compiler makes is valid");
        let filters: Vec<_> = view.boot().expect("there is protection").filters().collect();
        let mut numbers: Vec<_> = filters.iter().map(BootFilter::number).collect();
        numbers.dedup();
        prop_assert_eq!(numbers.len(), filters.len(), "each has a number of its own");
        for traffic in traffic {
            let decides = filters
                .iter()
                .filter(|filter| filter.point() == traffic.point && matches(filter, traffic))
                .min_by_key(|filter| filter.place())
                .expect("the default matches everything");
            prop_assert_eq!(decides.action(), expected(&policy, boot, traffic), "{:?}", traffic);
        }
    }
}
