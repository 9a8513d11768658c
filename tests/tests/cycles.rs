//! The driver is loaded, started and unloaded again and again under traffic; nothing adds up.
//!
//! `PORTCULLIS_CYCLES=10000 cargo test -p portcullis-tests --test cycles -- --nocapture` does it ten thousand times.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Instant;

use ksim::{Config, Kernel};
use portcullis_tests::messages::client_hello;
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Net, Tcp, World, udp};
use wfp_schema::NtStatus;

const PROCESSORS: u32 = 4;
/// So many, unless `PORTCULLIS_CYCLES` says otherwise.
const CYCLES: usize = 1_000;
/// So many connections and datagrams begin on each processor with each cycle.
const EXCHANGES: usize = 8;
/// How much more memory the process may have at the end than after half of the cycles, in KiB: some pages of its heap.
const GROWTH: u64 = 4 << 10;

fn cycles() -> usize {
    let named = std::env::var("PORTCULLIS_CYCLES").ok();
    named.map_or(CYCLES, |text| {
        text.parse().expect("PORTCULLIS_CYCLES is a number")
    })
}

/// A number of `/proc/self/status`, in KiB.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.expect("the line").parse().expect("a number")
}

fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    maps.lines().count()
}

/// A connection with a name in it, and a datagram.
fn exchange(net: &mut Net, port: u16) {
    let mut tcp = Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:443");
    let mut packets = tcp.handshake();
    packets.push(tcp.client_says(&client_hello(Some("www.example.net"))));
    packets.push(tcp.server_says(b"answer"));
    packets.extend(tcp.close());
    packets.push(udp(
        &format!("[2001:db8::10]:{port}"),
        "[2001:db8::80]:9999",
        b"datagram",
    ));
    assert!(net.all_pass(&packets), "permitted, or nobody's");
}

/// Traffic on a processor: so many exchanges whenever a cycle begins, until there are no more cycles.
fn traffic(kernel: &Kernel, processor: u32, cycles: &Receiver<()>, exchanges: &AtomicU64) {
    let mut ports = (20_000..60_000).cycle();
    loop {
        // A host's own memory grows with its flows, so it starts anew now and then.
        let mut net = Net::new(kernel, processor);
        for () in cycles.iter().take(20) {
            for port in ports.by_ref().take(EXCHANGES) {
                exchange(&mut net, port);
                exchanges.fetch_add(1, Ordering::Relaxed);
            }
        }
        net.finish();
        if cycles.recv().is_err() {
            return;
        }
    }
}

#[test]
fn the_driver_comes_and_goes_under_traffic_on_four_processors_and_memory_stays_flat() {
    let cycles = cycles();
    let mut world = World::boot(&Config {
        processors: PROCESSORS,
        ..Config::default()
    });
    let kernel = world.kernel.clone();
    let exchanges = AtomicU64::new(0);
    let mut half_way = 0;
    let begun = Instant::now();
    thread::scope(|scope| {
        let begins: Vec<_> = (1..PROCESSORS)
            .map(|processor| {
                let (kernel, exchanges) = (&kernel, &exchanges);
                let (begins, begun) = sync_channel(1);
                scope.spawn(move || traffic(kernel, processor, &begun, exchanges));
                begins
            })
            .collect();
        for cycle in 0..cycles {
            for begins in &begins {
                // Whoever is not done with the traffic of the last cycle is at it still.
                begins.try_send(()).ok();
            }
            assert_eq!(world.start(), NtStatus::SUCCESS, "cycle {cycle}");
            world.set_policy("default = 'permit'");
            assert_clean(&world.unload());
            if cycle == cycles / 2 {
                half_way = memory("VmRSS");
            }
            if cycle % 250 == 0 {
                println!(
                    "cycle {cycle}: {} KiB resident, {} mappings, {:?}",
                    memory("VmRSS"),
                    mappings(),
                    begun.elapsed()
                );
            }
        }
    });
    let (resident, mapped) = (memory("VmRSS"), mappings());
    println!(
        "{cycles} cycles and {} exchanges in {:?}; {half_way} KiB resident half way, {resident} KiB \
         at the end, {mapped} mappings",
        exchanges.load(Ordering::Relaxed),
        begun.elapsed()
    );
    world.assert_nothing_of_ours();
    assert!(
        exchanges.load(Ordering::Relaxed) > cycles as u64,
        "there was traffic"
    );
    // The breakpoints by which coverage is measured are kept for each load.
    if std::env::var_os(ksim::coverage::VARIABLE).is_some() {
        return;
    }
    assert!(
        resident < half_way + GROWTH,
        "{half_way} KiB became {resident} KiB"
    );
    assert!(mapped < 5_000, "{mapped} mappings");
}
