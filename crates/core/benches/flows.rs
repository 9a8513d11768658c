//! What the façade costs for each indication.

#[path = "../tests/shared/mod.rs"]
mod shared;

use divan::{Bencher, black_box};
use portcullis_core::{Connection, Transfer};
use portcullis_proto::event::Operation;
use shared::driver::{Core, core, events, indication, outgoing, send};
use shared::messages::{dns, tls};

fn main() {
    divan::main();
}

fn policy(rules: usize) -> String {
    let rule = |number| {
        format!(
            "[[rule]]\naction = \"block\"\nremote_address = \"10.{}.{}.0/24\"\nremote_port = 1\n",
            number / 250,
            number % 250
        )
    };
    let rules: String = (0..rules).map(rule).collect();
    format!("default = \"permit\"\n{rules}")
}

fn with_rules(rules: usize) -> Core {
    core(1024, &policy(rules))
}

#[divan::bench(args = [10, 1000])]
fn authorize(bencher: Bencher<'_, '_>, rules: usize) {
    let core = with_rules(rules);
    let connection = outgoing(6, 443);
    bencher.bench_local(|| core.authorize(Operation::Connect, black_box(&connection), false));
}

#[divan::bench]
fn stream_data_of_a_decided_flow(bencher: Bencher<'_, '_>) {
    let core = with_rules(1000);
    let handle = core
        .flow_established(&Connection {
            flow: 1,
            ..outgoing(6, 443)
        })
        .expect("room");
    send(&core, handle, &tls("example.com"));
    let data = [0; 1400];
    bencher.bench_local(|| {
        core.stream(
            Some(handle),
            indication(Transfer::Received, black_box(&data)),
            [&data[..]],
        )
    });
}

#[divan::bench]
fn datagram_of_a_flow(bencher: Bencher<'_, '_>) {
    let core = with_rules(1000);
    let handle = core
        .flow_established(&Connection {
            flow: 1,
            ..outgoing(17, 4000)
        })
        .expect("room");
    let data = [0; 1400];
    bencher.bench_local(|| {
        core.datagram(
            Some(handle),
            indication(Transfer::Sent, black_box(&data)),
            [&data[..]],
        )
    });
}

#[divan::bench]
fn dns_query(bencher: Bencher<'_, '_>) {
    let core = with_rules(1000);
    let handle = core
        .flow_established(&Connection {
            flow: 1,
            ..outgoing(17, 53)
        })
        .expect("room");
    let query = dns("www.example.com");
    bencher.bench_local(|| {
        core.datagram(
            Some(handle),
            indication(Transfer::Sent, black_box(&query)),
            [&query[..]],
        )
    });
}

#[divan::bench]
fn a_flow_with_its_host_from_beginning_to_end(bencher: Bencher<'_, '_>) {
    let core = with_rules(1000);
    let hello = tls("www.example.com");
    bencher.bench_local(|| {
        let handle = core
            .flow_established(&Connection {
                flow: 1,
                ..outgoing(6, 443)
            })
            .expect("room");
        send(&core, handle, black_box(&hello));
        core.flow_deleted(handle);
        events(&core).len()
    });
}
