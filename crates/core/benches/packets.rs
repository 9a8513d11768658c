//! What a changed or shaped packet costs in the core, without its copy and its injection.

use std::iter::repeat_with;
use std::net::Ipv4Addr;

use divan::Bencher;
use parking_lot::RawMutex;
use portcullis_core::connection::UDP;
use portcullis_core::packet::{Checksums, Edit, Layout, PathBucket, Paths, complete};
use portcullis_core::policy::PolicyView;
use portcullis_core::shape::{LimitSlot, Schedule, Waiting};
use portcullis_core::{Application, Connection, Direction, Endpoint, Host, Transfer};
use portcullis_policy::{Options, compile};

fn main() {
    divan::main();
}

const POLICY: &str = "default = 'permit'
[[rule]]
action = 'permit'
remote_port = 53
translate = '203.0.113.9'
ttl = 9
rate = '1 GB/s'";

fn end(last: u8, port: u16) -> Endpoint {
    Endpoint::new(Ipv4Addr::new(203, 0, 113, last).into(), port)
}

/// A datagram of so many bytes in all, from port 5000 to a port.
fn datagram(length: u16, port: u16) -> Vec<u8> {
    let mut packet = vec![0; usize::from(length)];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[8..10].copy_from_slice(&[64, UDP]);
    packet[12..20].copy_from_slice(&[203, 0, 113, 1, 203, 0, 113, 8]);
    packet[20..22].copy_from_slice(&5_000_u16.to_be_bytes());
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet[24..26].copy_from_slice(&(length - 20).to_be_bytes());
    let layout = Layout::new_checked(&packet).expect("a packet");
    let missing = Checksums {
        ip_missing: true,
        transport_missing: true,
    };
    complete(&mut packet, &layout, missing);
    packet
}

const EDIT: Edit = Edit {
    dscp: Some(46),
    hop_limit: Some(9),
    source: None,
    destination: None,
};

#[divan::bench]
fn headers_are_read(bencher: Bencher<'_, '_>) {
    let packet = datagram(1_480, 53);
    bencher.bench(|| Layout::new_checked(divan::black_box(&packet)));
}

#[divan::bench]
fn marks_are_set_with_a_right_checksum(bencher: Bencher<'_, '_>) {
    let mut packet = datagram(1_480, 53);
    let layout = Layout::new_checked(&packet).expect("a packet");
    bencher
        .bench_local(|| EDIT.apply(divan::black_box(&mut packet), &layout, Checksums::default()));
}

#[divan::bench]
fn a_destination_is_exchanged_with_a_right_checksum(bencher: Bencher<'_, '_>) {
    let mut packet = datagram(1_480, 53);
    let layout = Layout::new_checked(&packet).expect("a packet");
    let edit = Edit {
        destination: Some(end(9, 53)),
        ..Edit::default()
    };
    bencher
        .bench_local(|| edit.apply(divan::black_box(&mut packet), &layout, Checksums::default()));
}

#[divan::bench]
fn a_checksum_of_1480_bytes_is_completed(bencher: Bencher<'_, '_>) {
    let mut packet = datagram(1_480, 53);
    let layout = Layout::new_checked(&packet).expect("a packet");
    let missing = Checksums {
        ip_missing: true,
        transport_missing: true,
    };
    bencher.bench_local(|| complete(divan::black_box(&mut packet), &layout, missing));
}

#[divan::bench(args = [53, 54])]
fn a_path_is_looked_up_for_a_port(bencher: Bencher<'_, '_>, port: u16) {
    let compiled = compile(POLICY, &Options::default()).expect("a policy");
    let policy = PolicyView::validate(&compiled.blob).expect("valid");
    let buckets: Vec<PathBucket<RawMutex>> = repeat_with(PathBucket::new).take(2_048).collect();
    let limits: Vec<LimitSlot<RawMutex>> = vec![LimitSlot::new()];
    let paths = Paths::new(buckets, limits, 1);
    for local in 4_000..6_000 {
        let connection = Connection {
            direction: Direction::Outbound,
            protocol: UDP,
            local: end(1, local),
            remote: end(8, 53),
            application: Application::UNKNOWN,
            user: &[],
            process_id: 0,
            flow: 0,
            interface: 0,
        };
        let decision = policy.decide(&connection, Host::of(&connection));
        paths
            .decided((&policy, 1), &connection, decision, 1)
            .expect("room");
    }
    let packet = datagram(1_480, port);
    let layout = Layout::new_checked(&packet).expect("a packet");
    let mut now = 1_u64 << 57;
    bencher.bench_local(|| {
        now += 100_000;
        paths.packet(
            Transfer::Sent,
            &packet,
            divan::black_box(&layout),
            1_480,
            now,
        )
    });
}

#[divan::bench(args = [1, 1_000])]
fn a_packet_is_put_among_those_that_wait_and_taken_out(bencher: Bencher<'_, '_>, waiting: u64) {
    let places: Vec<Waiting<[u64; 12]>> = repeat_with(Waiting::new).take(1_040).collect();
    let mut schedule = Schedule::new(places);
    for due in 0..waiting {
        schedule.push(due, [0; 12]).expect("room");
    }
    let mut now = waiting;
    bencher.bench_local(|| {
        now += 1;
        let _ = schedule.push(now, [now; 12]);
        schedule.pop_due::<[u64; 12]>(now)
    });
}
