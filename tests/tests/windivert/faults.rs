//! Each call of the driver that can fail fails in turn; what it then does wrong is in docs/foreign-drivers.md.

use std::collections::BTreeSet;

use ksim::{Kernel, Report};
use portcullis_tests::control::alive;
use portcullis_tests::foreign::machine::sweep_config;
use portcullis_tests::foreign::windivert::{
    self, Layer, Program, RECV_ONLY, SNIFF, filter, filter_flags, image,
};
use portcullis_tests::sweep::Sample;
use portcullis_tests::world::load;
use portcullis_tests::{Tcp, World, udp};

/// Opens a handle as far as it goes.
fn open(kernel: &Kernel, layer: Layer, flags: u64) -> Option<Program> {
    let program = Program::try_new(kernel).ok()?;
    let begun = program.initialize(layer as u32, 0, flags).is_success()
        && program
            .startup(filter_flags(layer), &filter(true))
            .is_success();
    begun.then_some(program)
}

/// What a program does at this layer while its `nth` fallible call fails: the call, and what the verifier found.
fn attempt(image: &[u8], layer: Layer, flags: u64, nth: u64) -> (Option<String>, Report) {
    let mut world = World::boot(&sweep_config());
    let driver = load(&world.kernel, windivert::NAME, image);
    world.kernel.faults().fail_nth(nth);
    if alive(driver.start()).is_success() {
        if let Some(program) = open(&world.kernel, layer, flags) {
            let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
            for packet in tcp.handshake() {
                world.net.packet(&packet);
            }
            world
                .net
                .packet(&udp("[2001:db8::10]:50000", "[2001:db8::80]:53", b"query"));
            let read = program.recv();
            if let Some(result) = read.pending.poll()
                && result.status.is_success()
                && let Some(received) = read.take()
                && !received.packet.is_empty()
                && layer == Layer::Network
            {
                // Whether it can be sent or not.
                let _ = program.send(&received);
            }
            world.net.settle();
            drop(program);
        }
        world.net.settle();
    }
    let failed = world.kernel.faults().failed_call();
    world.kernel.faults().fail_nth(0);
    (failed, alive(driver.unload()))
}

/// What the driver does wrong when this function fails it: the function, and the rule that is broken.
const OWN: &[(&str, &str)] = &[
    ("ExUuidCreate", "object-stale"),
    ("FwpmEngineOpen0", "object-stale"),
    ("FwpsCalloutUnregisterByKey0", "unload-left"),
    // It injects the packet that it could not read.
    ("NdisGetDataBuffer", "injection-offset"),
    ("NdisRetreatNetBufferDataStart", "nbl-state"),
    ("WdfIoQueueCreate", "object-stale"),
    ("WdfWorkItemCreate", "object-stale"),
];

/// Fails each call in turn; what is found is the driver's own and known.
fn sweep(layer: Layer, flags: u64) {
    const MANY: u64 = 1_000;
    let Some(image) = image(env!("CARGO_TARGET_TMPDIR")) else {
        return;
    };
    let mut unknown = Vec::new();
    let mut known = BTreeSet::new();
    let sample = Sample::named();
    for (swept, nth) in sample.calls(MANY).enumerate() {
        let (failed, report) = attempt(image, layer, flags, nth);
        let Some(failed) = failed else {
            println!(
                "{layer:?} with flags {flags:#x}: {swept} calls, {sample}, made to fail in turn; known: {known:?}"
            );
            break;
        };
        let function = failed.split(' ').next().unwrap_or_default();
        for violation in &report.violations {
            match OWN.iter().find(|own| **own == (function, violation.rule)) {
                Some(own) => drop(known.insert(own)),
                None => unknown.push(format!("call {nth}, {failed}: {violation}")),
            }
        }
        let leaks = report.leaks.iter().filter(|leak| leak.kind != "callout");
        unknown.extend(leaks.map(|leak| format!("call {nth}, {failed}: {leak}")));
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
    for function in ["ExUuidCreate", "FwpsCalloutUnregisterByKey0"] {
        assert!(
            !sample.is_all()
                || layer == Layer::Reflect
                || known.iter().any(|own| own.0 == function),
            "{function} is not a finding any more: docs/foreign-drivers.md says that it is"
        );
    }
}

#[test]
fn each_call_fails_in_turn_while_packets_are_diverted() {
    sweep(Layer::Network, 0);
}

#[test]
fn each_call_fails_in_turn_while_packets_are_sniffed() {
    sweep(Layer::Network, SNIFF);
}

#[test]
fn each_call_fails_in_turn_while_forwarded_packets_are_diverted() {
    sweep(Layer::Forward, 0);
}

#[test]
fn each_call_fails_in_turn_while_flows_are_told() {
    sweep(Layer::Flow, SNIFF | RECV_ONLY);
}

#[test]
fn each_call_fails_in_turn_while_sockets_are_told() {
    sweep(Layer::Socket, SNIFF | RECV_ONLY);
}

#[test]
fn each_call_fails_in_turn_while_handles_are_told() {
    sweep(Layer::Reflect, SNIFF | RECV_ONLY);
}
