//! Packets that this host forwards.

use ksim::Report;
use ksim::net::{Output, Setup};
use portcullis_tests::control::alive;
use portcullis_tests::foreign::windivert::{DROP, Layer, Program, SNIFF};
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Net, World, udp};

use super::machine;
use super::network::goes_through;

/// Both ends are other hosts.
const ENDS: [(&str, &str); 2] = [
    ("203.0.113.5:50000", "198.51.100.1:9999"),
    ("[2001:db8:1::5]:50000", "[2001:db8::80]:9999"),
];

/// From now on the host forwards, and tells what it sends.
fn forwards(world: &mut World) {
    let setup = Setup {
        forwarding: true,
        output: true,
        ..Setup::default()
    };
    world.net = Net::with_setup(&world.kernel, 0, setup);
}

/// Nothing is wrong but what docs/foreign-drivers.md says: the driver absorbs at a layer that does not have it.
fn absorbed_only(report: &Report) {
    assert!(!report.violations.is_empty(), "it absorbs no more");
    for violation in &report.violations {
        assert_eq!(violation.rule, "classify-flags", "{violation}");
        assert!(
            violation.message.contains("layer IPFORWARD_V"),
            "{violation}"
        );
    }
    assert!(report.leaks.is_empty(), "{:?}", report.leaks);
}

/// What has left the host.
fn sent(world: &mut World) -> Vec<Vec<u8>> {
    let output = world.net.output().into_iter();
    let packets = output.filter_map(|output| match output {
        Output::Sent(packet) => Some(packet),
        _ => None,
    });
    packets.collect()
}

#[test]
fn forwarded_packets_are_captured_and_put_back() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    forwards(&mut world);
    let program = Program::open(&world.kernel, Layer::Forward, 0);
    for (from, to) in ENDS {
        for packet in [udp(from, to, b"question"), udp(to, from, b"answer")] {
            goes_through(&mut world, &program, &packet, true);
            assert_eq!(sent(&mut world), [packet]);
        }
    }
    program.close();
    let packet = udp(ENDS[0].0, ENDS[0].1, b"nobody holds this");
    assert!(world.net.passes(&packet));
    assert_eq!(sent(&mut world), [packet]);
    absorbed_only(&alive(driver.unload()));
}

#[test]
fn forwarded_packets_are_copied_or_dropped_and_the_hosts_own_are_not_its_business() {
    for (flags, passes, copies) in [(SNIFF, true, 1), (DROP, false, 0)] {
        let Some((mut world, driver)) = machine() else {
            return;
        };
        forwards(&mut world);
        let program = Program::open(&world.kernel, Layer::Forward, flags);
        for (from, to) in ENDS {
            let packet = udp(from, to, b"question");
            assert_eq!(world.net.passes(&packet), passes);
            assert_eq!(sent(&mut world).len(), usize::from(passes));
            let told = program.waiting();
            assert_eq!(told.len(), copies);
            assert!(told.iter().all(|told| told.packet == packet));
        }
        let own = udp("192.0.2.10:50000", "198.51.100.1:9999", b"its own");
        assert!(world.net.passes(own));
        assert!(program.waiting().is_empty());
        program.close();
        let report = alive(driver.unload());
        if passes {
            assert_clean(&report);
        } else {
            absorbed_only(&report);
        }
    }
}
