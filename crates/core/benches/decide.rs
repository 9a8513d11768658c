//! What a decision costs.

#[path = "../tests/shared/mod.rs"]
mod shared;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use portcullis_core::{Action, Application, Connection, Direction, Endpoint, Host, PolicyView};
use portcullis_policy::{ApplicationPattern, HostPattern, Policy, Ranges, Rule};
use std::net::Ipv4Addr;

fn main() {
    divan::main();
}

/// All packets of a `ClassBench` trace.
#[divan::bench(args = ["acl1_1000", "fw1_1000", "ipc1_1000", "acl1_10000", "fw1_10000", "ipc1_10000"], sample_count = 20)]
fn classbench(bencher: Bencher<'_, '_>, name: &str) {
    let Some(set) = shared::classbench::load(name) else {
        return;
    };
    let blob = set.policy.encode().expect("within the format's bounds");
    let view = PolicyView::validate(&blob).expect("valid");
    println!(
        "{name}: {} rules, {} KiB",
        view.rule_count(),
        blob.len() >> 10
    );
    bencher
        .counter(ItemsCount::new(set.trace.len()))
        .bench_local(|| {
            for connection in &set.trace {
                black_box(view.decide(black_box(connection), Host::Never));
            }
        });
}

const PATH: &str = r"\device\harddiskvolume3\program files\vendor\product\application.exe";

fn path() -> Vec<u8> {
    PATH.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn connection(path: &[u8]) -> Connection<'_> {
    Connection {
        direction: Direction::Outbound,
        protocol: 6,
        local: Endpoint::new(Ipv4Addr::new(10, 0, 0, 1).into(), 50000),
        remote: Endpoint::new(Ipv4Addr::new(192, 0, 2, 1).into(), 443),
        application: Application::new(path),
        user: &[],
        process_id: 4,
        flow: 0,
        interface: 0,
    }
}

/// A policy of as many rules, each for one application or one host, none for the connection at hand.
fn strangers(count: usize, make: impl Fn(&mut Rule, usize)) -> Vec<u8> {
    let mut policy = Policy::new(Action::Permit);
    for number in 0..count {
        let mut rule = Rule::new("", Action::Block);
        rule.protocols = Ranges::new([(6, 6)]);
        make(&mut rule, number);
        policy.rules.push(rule);
    }
    policy.encode().expect("within the format's bounds")
}

#[divan::bench(args = [10, 1000, 10_000])]
fn rules_for_other_applications(bencher: Bencher<'_, '_>, count: usize) {
    let blob = strangers(count, |rule, number| {
        let pattern = ApplicationPattern::new(
            &format!(r"\program files\vendor\product\{number}.exe"),
            true,
        );
        rule.applications = vec![pattern];
    });
    decide(bencher, &blob, Host::Never);
}

#[divan::bench(args = [10, 1000])]
fn rules_for_applications_with_wildcards(bencher: Bencher<'_, '_>, count: usize) {
    let blob = strangers(count, |rule, number| {
        rule.applications = vec![ApplicationPattern::new(&format!(r"*\{number}.exe"), false)];
    });
    decide(bencher, &blob, Host::Never);
}

#[divan::bench(args = [10, 1000, 10_000])]
fn rules_for_hosts_before_the_host_is_known(bencher: Bencher<'_, '_>, count: usize) {
    decide(bencher, &hosts(count), Host::Pending);
}

#[divan::bench(args = [10, 1000, 10_000])]
fn rules_for_hosts_when_the_host_is_known(bencher: Bencher<'_, '_>, count: usize) {
    decide(
        bencher,
        &hosts(count),
        Host::Known(b"www.not-in-any-rule.example.com"),
    );
}

fn hosts(count: usize) -> Vec<u8> {
    strangers(count, |rule, number| {
        rule.hosts = vec![HostPattern {
            name: format!("host{number}.example.com"),
            below: number % 2 == 0,
        }];
    })
}

fn decide(bencher: Bencher<'_, '_>, blob: &[u8], host: Host<'_>) {
    let view = PolicyView::validate(blob).expect("valid");
    let path = path();
    let connection = connection(&path);
    bencher.bench_local(|| black_box(&view).decide(black_box(&connection), black_box(host)));
}
