//! ICMP errors that quote translated packets.

use ksim::net::Setup;
use ksim::{Config, PoolMode, Schedule};
use portcullis_core::PacketSummary;
use portcullis_proto::Counter;
use portcullis_tests::capture::{Written, everything, start};
use portcullis_tests::control::compile;
use portcullis_tests::net::sent;
use portcullis_tests::packets::{unreachable, whole};
use portcullis_tests::quoted::{PATHS, address, beginning};
use portcullis_tests::races::{four, hosts, on_each_beside, try_many, unload_beside_each};
use portcullis_tests::sweep::sweep;
use portcullis_tests::{Net, World, udp};
use wfp_schema::NtStatus;

const SEEDS: u64 = 25;

/// Translates the paths of both IP versions.
const POLICY: &str = "
    default = 'permit'
    observe = true
    [[rule]]
    action = 'permit'
    remote_port = 9999
    remote_address = '198.51.100.1'
    translate = '198.51.100.7:53'
    [[rule]]
    action = 'permit'
    remote_port = 9999
    translate = '[2001:db8::7]:53'
";

fn with_output() -> Setup {
    Setup {
        output: true,
        ..Setup::default()
    }
}

/// A path with a client's port of its own, and what is said on it.
struct Path {
    local: String,
    remote: &'static str,
    wire: &'static str,
    router: &'static str,
    question: Vec<u8>,
}

impl Path {
    /// Those of a processor, of both IP versions.
    fn of(processor: u16) -> [Self; 2] {
        PATHS.map(|[local, remote, wire, router]| {
            let local = local.replace("50000", &(50_000 + processor).to_string());
            let question = whole(udp(&local, remote, b"is anybody there"));
            Self {
                local,
                remote,
                wire,
                router,
                question,
            }
        })
    }

    /// The question as it is on the wire.
    fn on_wire(&self) -> Vec<u8> {
        whole(udp(&self.local, self.wire, b"is anybody there"))
    }

    /// A router's error about a packet.
    fn error(&self, about: &[u8]) -> Vec<u8> {
        let from = self.router.parse().expect("an address");
        unreachable(from, address(&self.local), beginning(about, 8))
    }

    /// The error that the host sends about an answer that comes from `remote`, by that name.
    fn sends(&self, remote: &str) -> Vec<u8> {
        let answer = whole(udp(remote, &self.local, b"answer"));
        unreachable(address(&self.local), address(remote), beginning(&answer, 8))
    }
}

/// Questions, an error about each, and one that is sent.
fn questions(processor: u16, net: &mut Net) {
    for path in Path::of(processor) {
        let out = sent(net.at_once(std::slice::from_ref(&path.question)));
        assert_eq!(out, [path.on_wire()]);
        net.at_once(&[path.error(&out[0])]);
        let out = sent(net.at_once(&[path.sends(path.remote)]));
        assert_eq!(out, [path.sends(path.wire)]);
    }
}

/// The routers' errors, as a capture has them: where it looks they have been translated.
fn received(packets: Vec<Written>) -> Vec<Vec<u8>> {
    let routers = PATHS.map(|[.., router]| router.parse().expect("an address"));
    let mut received: Vec<_> = packets.into_iter().map(|packet| packet.data).collect();
    received.retain(|packet| {
        let summary = PacketSummary::parse(packet).expect("a packet");
        routers.contains(&summary.source.address)
    });
    received.sort();
    received
}

fn four_processors(schedule: &Schedule) {
    let world = four(schedule, POLICY);
    let mut nets = hosts(&world, 0, &with_output());
    let more = format!("{POLICY}\n[[rule]]\naction = 'block'\nremote_port = 1\n");
    let policies = [&more, POLICY, &more].map(compile);
    let running = start(&world, everything(), &["one", "other"], "quoted-on-four");
    on_each_beside(&world.kernel, &mut nets, questions, || {
        for policy in &policies {
            assert_eq!(world.device().try_set_policy(policy), NtStatus::SUCCESS);
        }
    });
    let (_, contents) = running.finish();
    let paths = (0..4).flat_map(Path::of);
    let mut wanted: Vec<_> = paths.map(|path| path.error(&path.question)).collect();
    wanted.sort();
    assert_eq!(received(contents.packets), wanted);
    assert_eq!(world.counter(Counter::IcmpErrorsTranslated), 4 * 2 * 2);
    drop(nets);
    world.end();
}

#[test]
fn on_four_processors_each_error_names_the_side_that_who_gets_it_knows() {
    try_many(SEEDS, four_processors);
}

/// The errors come on another processor than the path's, which ends meanwhile.
fn errors_against_the_paths_end(schedule: &Schedule) {
    let world = four(schedule, POLICY);
    let mut nets = hosts(&world, 0, &with_output());
    for (processor, net) in (0..2).zip(&mut nets) {
        questions(processor, net);
    }
    let running = start(&world, everything(), &["one", "other"], "quoted-at-the-end");
    on_each_beside(
        &world.kernel,
        &mut nets,
        |processor, net| match processor {
            0 | 1 => net.finish(),
            _ => {
                for path in Path::of(processor - 2) {
                    net.at_once(&[path.error(&path.on_wire())]);
                }
            }
        },
        || (),
    );
    let (_, contents) = running.finish();
    let mut got = received(contents.packets);
    for path in (0..2).flat_map(Path::of) {
        let either = [path.error(&path.question), path.error(&path.on_wire())];
        let at = got.iter().position(|packet| either.contains(packet));
        got.remove(at.expect("translated, or about a path that is no more"));
    }
    assert!(got.is_empty(), "{got:?}");
    drop(nets);
    world.end();
}

#[test]
fn errors_about_paths_that_end_meanwhile_come_as_they_are_or_translated() {
    try_many(SEEDS, errors_against_the_paths_end);
}

fn unload_in_mid_error(schedule: &Schedule) {
    let world = four(schedule, POLICY);
    let mut nets = hosts(&world, 1, &with_output());
    unload_beside_each(world, &mut nets, |processor, net| {
        for path in Path::of(processor) {
            let out = sent(net.at_once(std::slice::from_ref(&path.question)));
            assert!(
                out == [path.on_wire()] || out == [path.question.clone()],
                "{out:?}"
            );
            net.at_once(&[path.error(&out[0])]);
            let out = sent(net.at_once(&[path.sends(path.remote)]));
            let either = [path.sends(path.wire), path.sends(path.remote)];
            assert!(out.len() == 1 && either.contains(&out[0]), "{out:?}");
        }
    });
}

#[test]
fn unloading_while_errors_quote_translated_packets() {
    try_many(SEEDS, unload_in_mid_error);
}

#[test]
fn whatever_fails_no_error_about_a_translated_packet_goes_on_as_it_is() {
    sweep("errors that quote", |nth| {
        let world = World::with_config(&Config {
            pool: PoolMode::Fast,
            ..Config::default()
        });
        world.set_policy(POLICY);
        let mut net = Net::with_setup(&world.kernel, 0, with_output());
        world.kernel.faults().fail_nth(nth);
        for path in Path::of(0) {
            let out = sent(net.at_once(std::slice::from_ref(&path.question)));
            if out != [path.on_wire()] {
                assert!(
                    out.is_empty(),
                    "sent where it was not to go after {:?}",
                    world.kernel.faults().failed_call()
                );
                continue;
            }
            net.at_once(&[path.error(&out[0])]);
            let out = sent(net.at_once(&[path.sends(path.remote)]));
            assert!(
                out.is_empty() || out == [path.sends(path.wire)],
                "after {:?}: {out:?}",
                world.kernel.faults().failed_call()
            );
        }
        let call = world.kernel.faults().failed_call();
        world.kernel.faults().fail_nth(0);
        assert!(call.is_some() || world.counter(Counter::IcmpErrorsTranslated) == 4);
        questions(1, &mut net);
        drop(net);
        world.end();
        call
    });
}
