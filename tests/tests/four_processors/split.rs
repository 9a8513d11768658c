//! Split tunnels: processes that begin and end, and their sockets, while policies change, calls fail and the driver goes.

use ksim::{Config, Kernel, NewProcess, PoolMode, Schedule};
use portcullis_core::PacketSummary;
use portcullis_proto::Counter;
use portcullis_tests::control::{alive, compile};
use portcullis_tests::net::sent;
use portcullis_tests::races::{PROCESSORS, four, on_each_beside, try_many, unload_beside_each};
use portcullis_tests::sweep::sweep;
use portcullis_tests::tunnel::{
    GAME, HELPER, LAUNCHER, POLICY, Sockets, TUNNEL_V4, TUNNEL_V6, exit, first_packets, start,
};
use portcullis_tests::{HOST_V4, HOST_V6, Net, World};
use wfp_schema::NtStatus;

const EXPLORER: &str = r"C:\Windows\explorer.exe";
const SEEDS: u64 = 25;
const SYSTEM: u32 = 4;

const TUNNEL: [bool; 4] = [true; 4];
const STRAIGHT: [bool; 4] = [false; 4];

/// A process opens its sockets, and uses them: which of them were bound to the tunnel, because their packets come from there.
fn bound(kernel: &Kernel, processor: u32, sockets: &mut Sockets, owner: (&str, u32)) -> [bool; 4] {
    let port = sockets.owned_by(owner.0, owner.1);
    let mut net = sockets.net(kernel, processor);
    assert!(net.all_pass(&first_packets(port)));
    let mut sources = sent(net.output()).into_iter().map(|packet| {
        let summary = PacketSummary::parse(&packet).expect("a packet");
        summary.source.address.to_string()
    });
    let bound = [HOST_V4, HOST_V6, HOST_V4, HOST_V6].map(|straight| {
        let source = sources.next().expect("each is sent");
        let is_bound = [TUNNEL_V4, TUNNEL_V6].contains(&source.as_str());
        assert!(is_bound || source == straight, "{source}");
        is_bound
    });
    assert_eq!(sources.next(), None, "once");
    net.finish();
    bound
}

/// A process with this identifier, which another one may have had.
fn start_as(kernel: &Kernel, id: u32, parent: u32, image: &str) -> u32 {
    let new = NewProcess {
        id: Some(id),
        ..NewProcess::new(parent, image)
    };
    alive(kernel.create_process(&new)).expect("it may begin")
}

/// Families of processes begin and end on a processor, and each member's sockets are bound. An identifier is that of one of
/// the tunnel's, and then another's.
fn families(kernel: &Kernel, processor: u32) {
    let mut sockets = Sockets::from(20_000 + 1_000 * u16::try_from(processor).expect("few"));
    let own = 10_000 * (processor + 1);
    let mut bound = |image, process| bound(kernel, processor, &mut sockets, (image, process));
    let explorer = start_as(kernel, own, SYSTEM, EXPLORER);
    let launcher = start_as(kernel, own + 4, explorer, LAUNCHER);
    let helper = start_as(kernel, own + 8, launcher, HELPER);
    exit(kernel, launcher);
    let game = start_as(kernel, own + 12, helper, GAME);
    exit(kernel, helper);
    assert_eq!(bound(GAME, game), TUNNEL);
    let other = start_as(kernel, launcher, explorer, GAME);
    assert_eq!(bound(GAME, other), STRAIGHT);
    exit(kernel, game);
    let next = start_as(kernel, game, explorer, EXPLORER);
    assert_eq!(bound(EXPLORER, next), STRAIGHT);
    let again = start_as(kernel, helper, next, LAUNCHER);
    let child = start(kernel, again, GAME);
    exit(kernel, again);
    assert_eq!(bound(GAME, child), TUNNEL);
    for process in [explorer, other, next, child] {
        exit(kernel, process);
    }
}

/// A host, with no sockets yet, for each processor that makes some.
fn idle(world: &World, first: u32) -> Vec<Net> {
    (first..PROCESSORS)
        .map(|processor| Net::new(&world.kernel, processor))
        .collect()
}

fn four_processors(schedule: &Schedule) {
    let world = four(schedule, POLICY);
    let kernel = &world.kernel;
    let more = format!("{POLICY}\n[[rule]]\naction = 'block'\nremote_port = 1\n");
    let policies = [&more, POLICY, &more].map(compile);
    on_each_beside(
        kernel,
        &mut idle(&world, 1),
        |number, _| families(kernel, u32::from(number) + 1),
        || {
            families(kernel, 0);
            for policy in &policies {
                assert_eq!(world.device().try_set_policy(policy), NtStatus::SUCCESS);
            }
        },
    );
    assert_eq!(world.counter(Counter::Bound), 4 * 2 * 4);
    assert_eq!(world.counter(Counter::BindFailed), 0);
    assert_eq!(world.counter(Counter::ProcessNameless), 0);
    world.end();
}

#[test]
fn on_four_processors_each_family_is_bound_as_its_own_while_policies_change() {
    try_many(SEEDS, four_processors);
}

fn unload_in_mid_bind(schedule: &Schedule) {
    let world = four(schedule, POLICY);
    let kernel = world.kernel.clone();
    let mut nets = idle(&world, 1);
    unload_beside_each(world, &mut nets, |number, _| {
        let processor = u32::from(number) + 1;
        let mut sockets = Sockets::from(20_000 + 1_000 * number);
        let launcher = start(&kernel, SYSTEM, LAUNCHER);
        let game = start(&kernel, launcher, GAME);
        let mut bounds = Vec::new();
        for owner in [(LAUNCHER, launcher), (GAME, game), (LAUNCHER, launcher)] {
            bounds.extend(bound(&kernel, processor, &mut sockets, owner));
        }
        exit(&kernel, launcher);
        exit(&kernel, game);
        // A process that began when the driver was about to go may have no family.
        let launchers: Vec<_> = bounds[..4].iter().chain(&bounds[8..]).collect();
        assert!(
            launchers.is_sorted_by(|one, next| one >= next),
            "until the driver goes: {bounds:?}"
        );
    });
}

#[test]
fn unloading_while_processes_begin_and_bind_their_sockets() {
    try_many(SEEDS, unload_in_mid_bind);
}

#[test]
fn every_call_of_a_process_that_begins_and_binds_fails_in_turn_and_what_went_straight_is_counted() {
    sweep("a bind", |nth| {
        let world = World::with_config(&Config {
            pool: PoolMode::Fast,
            ..Config::default()
        });
        world.set_policy(POLICY);
        let kernel = &world.kernel;
        let mut sockets = Sockets::from(50_000);
        let mut game = |nth| {
            kernel.faults().fail_nth(nth);
            let launcher = start(kernel, SYSTEM, LAUNCHER);
            let game = start(kernel, launcher, GAME);
            let port = sockets.owned_by(GAME, game);
            let mut net = sockets.net(kernel, 0);
            net.fates(&first_packets(port));
            let call = kernel.faults().failed_call();
            kernel.faults().fail_nth(0);
            net.finish();
            exit(kernel, launcher);
            exit(kernel, game);
            call
        };
        let call = game(nth);
        let counted = [
            Counter::BindFailed,
            Counter::ProcessNameless,
            Counter::ProcessNoRoom,
            Counter::OutOfMemory,
        ];
        let straight: u64 = counted.map(|counter| world.counter(counter)).iter().sum();
        let before = world.counter(Counter::Bound);
        assert!(before == 4 || straight > 0, "{before} bound, and {call:?}");
        assert!(call.is_some() || before == 4);
        assert_eq!(game(0), None);
        assert_eq!(world.counter(Counter::Bound), before + 4, "after {call:?}");
        world.end();
        call
    });
}
