//! Protection at boot: what holds from the start of the network stack until the driver has a policy, and after it.

use std::collections::BTreeSet;

use ksim::net::{Identity, Processes};
use ksim::{Config, PoolMode};
use portcullis_proto::event::EventKind;
use portcullis_proto::{CALLOUTS, DriverState, LifecycleStep};
use portcullis_tests::control::compile;
use portcullis_tests::random::Random;
use portcullis_tests::sweep::Sample;
use portcullis_tests::world::{assert_clean, sublayer_key};
use portcullis_tests::{Tcp, World, icmp_echo, icmp_v6, udp};
use wfp_schema::{FilterFlags, Guid, NtStatus};

/// The web is permitted by the driver alone, the resolver at boot too, and nothing else at boot.
const POLICY: &str = r#"
    default = "permit"

    [boot]
    default = "block"

    [[rule]]
    name = "resolver"
    action = "permit"
    direction = "outbound"
    protocol = "udp"
    remote_address = "198.51.100.53"
    remote_port = 53
    boot = true

    [[rule]]
    name = "no telnet"
    action = "block"
    protocol = "tcp"
    remote_port = 23
"#;

const WITHOUT: &str = "default = 'permit'";

const fn key(number: u128) -> Guid {
    Guid::from_u128(0xF995_210D_E7AE_41BC_B37D_5960_E38A_0000 | number)
}

const BOOT_PROVIDER: Guid = key(3);
const BOOT_SUBLAYER: Guid = key(4);

/// What these tests send. Each call uses ports of its own, so that nothing is decided before.
struct Probe(u16);

impl Probe {
    const fn new() -> Self {
        Self(40_000)
    }

    const fn port(&mut self) -> u16 {
        self.0 += 1;
        self.0
    }

    fn tcp(&mut self, world: &mut World, server: &str) -> bool {
        let client = format!("192.0.2.10:{}", self.port());
        world.net.all_pass(&Tcp::new(&client, server).handshake())
    }

    fn web(&mut self, world: &mut World) -> bool {
        self.tcp(world, "198.51.100.1:80")
    }

    fn telnet(&mut self, world: &mut World) -> bool {
        self.tcp(world, "198.51.100.1:23")
    }

    fn web_v6(&mut self, world: &mut World) -> bool {
        let client = format!("[2001:db8::10]:{}", self.port());
        let mut tcp = Tcp::new(&client, "[2001:db8::80]:80");
        world.net.all_pass(&tcp.handshake())
    }

    fn resolver(&mut self, world: &mut World) -> bool {
        let local = format!("192.0.2.10:{}", self.port());
        world.net.passes(udp(&local, "198.51.100.53:53", b"query"))
    }

    fn inbound(&mut self, world: &mut World) -> bool {
        let remote = format!("198.51.100.9:{}", self.port());
        let local = format!("192.0.2.10:{}", self.port());
        world.net.passes(udp(&remote, &local, b"unasked"))
    }
}

/// The driver does not decide, and the protection does.
fn is_protected(world: &mut World, probe: &mut Probe) -> bool {
    let open = [
        probe.web(world),
        probe.telnet(world),
        probe.inbound(world),
        probe.web_v6(world),
    ];
    assert!(
        open.iter().all(|&it| it == open[0]),
        "all or none: {open:?}"
    );
    assert!(probe.resolver(world), "permitted in any case");
    !open[0]
}

/// The driver decides.
fn driver_decides(world: &mut World, probe: &mut Probe) -> bool {
    probe.web(world) && !probe.telnet(world) && probe.resolver(world) && probe.inbound(world)
}

/// How many of our filters of each kind the engine has stored: persistent, boot-time.
fn stored(world: &World) -> (usize, usize) {
    let store = world.engine().boot_store();
    let of = |flag| {
        let ours = store
            .filters
            .iter()
            .filter(|filter| filter.provider == Some(BOOT_PROVIDER));
        ours.filter(|filter| filter.flags.contains(flag)).count()
    };
    let keys: BTreeSet<_> = store.filters.iter().map(|filter| filter.key).collect();
    assert_eq!(keys.len(), store.filters.len(), "each has a key of its own");
    (of(FilterFlags::PERSISTENT), of(FilterFlags::BOOTTIME))
}

fn nothing_is_stored(world: &World) -> bool {
    let store = world.engine().boot_store();
    store.filters.is_empty() && store.sublayers.is_empty() && store.providers.is_empty()
}

/// Loopback 4; DHCP 2 and 2, neighbour discovery 2; the rule 1; the default 4.
const FILTERS: usize = 4 + 2 + 2 + 2 + 1 + 4;

#[test]
fn from_the_stacks_start_until_the_driver_has_a_policy_the_protection_holds() {
    let mut first = World::with_policy(POLICY);
    let mut probe = Probe::new();
    assert!(
        driver_decides(&mut first, &mut probe),
        "it does not get in the way"
    );
    assert_eq!(stored(&first), (FILTERS, FILTERS));
    assert_eq!(first.status().boot_filters.get() as usize, 2 * FILTERS);
    assert_clean(&first.unload());

    let mut world = first.rebooted(&Config::default());
    assert!(is_protected(&mut world, &mut probe), "boot-time filters");
    world.start_bfe();
    assert!(is_protected(&mut world, &mut probe), "persistent filters");
    assert_eq!(world.start(), NtStatus::SUCCESS);
    assert_eq!(world.state(), DriverState::Active);
    assert!(
        is_protected(&mut world, &mut probe),
        "the driver without a policy"
    );
    world.set_policy(POLICY);
    assert!(driver_decides(&mut world, &mut probe), "the driver");
    assert_clean(&world.unload());
    assert!(is_protected(&mut world, &mut probe), "after the driver");
}

#[test]
fn the_driver_may_start_before_the_engine() {
    let first = World::with_policy(POLICY);
    let mut world = first.rebooted(&Config::default());
    let mut probe = Probe::new();
    assert_eq!(world.start(), NtStatus::SUCCESS);
    assert_eq!(world.state(), DriverState::WaitingForBfe);
    assert!(is_protected(&mut world, &mut probe));
    world.start_bfe();
    assert_eq!(world.state(), DriverState::Active);
    assert!(is_protected(&mut world, &mut probe));
    world.set_policy(WITHOUT);
    assert!(probe.web(&mut world) && probe.telnet(&mut world));
    assert!(nothing_is_stored(&world));
    world.end();
}

#[test]
fn a_machine_that_loses_its_driver_without_an_unload_is_protected() {
    let mut first = World::with_policy(POLICY);
    let mut probe = Probe::new();
    assert!(driver_decides(&mut first, &mut probe));
    // The power goes: nobody unloads, closes or deletes anything.
    let mut world = first.rebooted(&Config::default());
    assert!(is_protected(&mut world, &mut probe));
    world.start_bfe();
    assert!(is_protected(&mut world, &mut probe));
    // Nor does the driver come back: its entry fails.
    world.kernel.faults().fail_call("FwpsCalloutRegister2", 3);
    assert!(!world.start().is_success());
    assert!(is_protected(&mut world, &mut probe));
    assert_clean(&world.unload());
    assert!(is_protected(&mut world, &mut probe));
    // When it does, and is given a policy without protection, all is as if there had never been any.
    assert_eq!(world.start(), NtStatus::SUCCESS);
    world.set_policy(WITHOUT);
    assert!(nothing_is_stored(&world));
    world.end();
}

#[test]
fn what_a_host_needs_to_have_a_network_is_not_cut_off_unless_the_policy_says_so() {
    let essential = |world: &mut World| {
        [
            world
                .net
                .all_pass(&Tcp::new("127.0.0.1:45000", "127.0.0.1:80").handshake()),
            world
                .net
                .all_pass(&Tcp::new("[::1]:45000", "[::1]:80").handshake()),
            world
                .net
                .passes(udp("192.0.2.10:68", "255.255.255.255:67", b"discover")),
            world
                .net
                .passes(udp("192.0.2.1:67", "192.0.2.10:68", b"offer")),
            world
                .net
                .passes(udp("[2001:db8::10]:546", "[ff02::1:2]:547", b"solicit")),
            world.net.passes(icmp_v6("2001:db8::10", "ff02::2", 133)),
            world.net.passes(icmp_v6("fe80::1", "2001:db8::10", 134)),
            world
                .net
                .passes(icmp_v6("2001:db8::10", "ff02::1:ff00:1", 135)),
            world
                .net
                .passes(icmp_v6("2001:db8::7", "2001:db8::10", 135)),
            world
                .net
                .passes(icmp_v6("2001:db8::7", "2001:db8::10", 136)),
        ]
    };
    for asked in [true, false] {
        let policy = format!("default = 'permit'\n[boot]\ndefault = 'block'\nessential = {asked}");
        let first = World::with_policy(&policy);
        let mut world = first.rebooted(&Config::default());
        for _phase in ["boot-time", "persistent"] {
            // Before anything is sent to a group, which anybody may answer.
            assert!(
                !world
                    .net
                    .passes(icmp_v6("2001:db8::9", "2001:db8::10", 128)),
                "an echo"
            );
            let fates = essential(&mut world);
            assert!(
                fates.iter().all(|&passed| passed == asked),
                "{asked}: {fates:?}"
            );
            assert!(!world.net.passes(icmp_echo("192.0.2.1", "192.0.2.10", 8)));
            let reboot = world.rebooted(&Config::default());
            world = reboot;
            world.start_bfe();
        }
    }
}

#[test]
fn a_default_that_permits_holds_the_rules_that_block() {
    let policy = "
        default = 'permit'
        [boot]
        default = 'permit'
        [[rule]]
        action = 'permit'
        protocol = 'tcp'
        remote_address = '198.51.100.1'
        remote_port = 23
        boot = true
        [[rule]]
        action = 'block'
        remote_port = ['20-25', 135, 445]
        boot = true
        [[rule]]
        action = 'block'
        remote_address = ['203.0.113.0/24', '2001:db8:bad::/48']
        boot = true
    ";
    let first = World::with_policy(policy);
    let mut world = first.rebooted(&Config::default());
    let mut probe = Probe::new();
    for phase in ["boot-time", "persistent"] {
        assert!(
            probe.telnet(&mut world),
            "{phase}: the first rule that matches decides"
        );
        assert!(!probe.tcp(&mut world, "198.51.100.2:23"), "{phase}");
        assert!(!probe.tcp(&mut world, "198.51.100.2:445"), "{phase}");
        assert!(probe.tcp(&mut world, "198.51.100.2:26"), "{phase}");
        assert!(!probe.tcp(&mut world, "203.0.113.255:80"), "{phase}");
        assert!(probe.tcp(&mut world, "203.0.114.0:80"), "{phase}");
        let mut v6 = |server: &str| {
            let client = format!("[2001:db8::10]:{}", probe.port());
            world.net.all_pass(&Tcp::new(&client, server).handshake())
        };
        assert!(!v6("[2001:db8:bad::1]:80"), "{phase}");
        assert!(v6("[2001:db8:bae::1]:80"), "{phase}");
        world.start_bfe();
    }
}

#[test]
fn an_application_is_told_apart_once_the_engine_runs() {
    let policy = r"
        default = 'permit'
        [boot]
        default = 'block'
        [[rule]]
        action = 'permit'
        application = '\device\harddiskvolume3\program files\agent.exe'
        boot = true
    ";
    let first = World::with_policy(policy);
    let (persistent, boot_time) = stored(&first);
    assert_eq!(persistent, boot_time + 4, "the rule's are persistent only");
    let mut world = first.rebooted(&Config::default());
    let mut processes = Processes::default();
    for (port, path) in [
        (47_000, r"\device\harddiskvolume3\program files\agent.exe"),
        (47_001, r"\device\harddiskvolume3\program files\other.exe"),
        (47_002, r"\device\harddiskvolume3\program files\agent.exe"),
    ] {
        let owner = Identity::new(path, 4711, ksim::net::Sid::new(5, &[18]));
        processes.assign(
            format!("192.0.2.10:{port}").parse().expect("an address"),
            owner,
        );
    }
    world.owned_by(processes);
    let goes = |world: &mut World, port: u16| {
        let mut tcp = Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:80");
        world.net.all_pass(&tcp.handshake())
    };
    assert!(
        !goes(&mut world, 47_000),
        "whose traffic it is does not matter yet"
    );
    world.start_bfe();
    assert!(!goes(&mut world, 47_001));
    assert!(goes(&mut world, 47_002));
}

#[test]
fn a_policy_without_protection_removes_it_and_so_does_removing_the_policy() {
    for remove in [true, false] {
        let mut world = World::with_policy(POLICY);
        let mut probe = Probe::new();
        assert_eq!(stored(&world), (FILTERS, FILTERS));
        drop(world.events());
        if remove {
            assert_eq!(world.device().try_set_policy(&[]), NtStatus::SUCCESS);
        } else {
            world.set_policy(WITHOUT);
        }
        assert!(nothing_is_stored(&world));
        assert_eq!(world.status().boot_filters.get(), 0);
        let told: Vec<_> = world
            .events()
            .into_iter()
            .filter(|event| event.kind == EventKind::ProtectionChanged.raw())
            .map(|event| (event.value[0].get(), event.value[1].get()))
            .collect();
        assert_eq!(told, [(0, 0)]);
        assert!(probe.web(&mut world) && probe.telnet(&mut world));
        let mut next = world.rebooted(&Config::default());
        assert!(probe.web(&mut next) && probe.inbound(&mut next));
        world.end();
    }
}

#[test]
fn restarts_and_new_policies_do_not_add_up() {
    let mut world = World::with_policy(POLICY);
    for _ in 0..4 {
        world.set_policy(POLICY);
        assert_eq!(stored(&world), (FILTERS, FILTERS));
        world = world.rebooted(&Config::default());
        world.start_bfe();
        assert_eq!(world.start(), NtStatus::SUCCESS);
        assert_eq!(stored(&world), (FILTERS, FILTERS));
        world.set_policy(POLICY);
        assert_eq!(stored(&world), (FILTERS, FILTERS));
    }
    world.set_policy("default = 'permit'\n[boot]\ndefault = 'permit'\nessential = false");
    assert_eq!(stored(&world), (4, 4), "the earlier ones are gone");
    world.set_policy(WITHOUT);
    world.end();
}

#[test]
fn the_engines_stop_takes_protection_along_and_its_start_brings_it_back_before_the_driver() {
    let mut world = World::with_policy(POLICY);
    let mut probe = Probe::new();
    for _ in 0..3 {
        world.stop_bfe();
        assert_eq!(world.state(), DriverState::WaitingForBfe);
        world.start_bfe();
        assert_eq!(world.state(), DriverState::Active);
        assert!(driver_decides(&mut world, &mut probe));
        assert_eq!(stored(&world), (FILTERS, FILTERS));
    }
    world.stop_bfe();
    assert_clean(&world.unload());
    world.start_bfe();
    assert!(is_protected(&mut world, &mut probe));
}

#[test]
fn a_policy_set_while_the_engine_is_down_changes_the_protection_when_it_returns() {
    let mut world = World::with_policy(WITHOUT);
    let mut probe = Probe::new();
    world.stop_bfe();
    world.set_policy(POLICY);
    assert!(nothing_is_stored(&world));
    world.start_bfe();
    assert_eq!(stored(&world), (FILTERS, FILTERS));
    assert!(driver_decides(&mut world, &mut probe));
    world.stop_bfe();
    world.set_policy(WITHOUT);
    assert_eq!(stored(&world), (FILTERS, FILTERS));
    world.start_bfe();
    assert!(nothing_is_stored(&world));
    assert!(probe.telnet(&mut world));
    world.end();
}

#[test]
fn flows_that_the_policy_permits_live_through_every_change_of_the_protection() {
    let mut world = World::with_policy(WITHOUT);
    let mut tcp = Tcp::new("192.0.2.10:49000", "198.51.100.1:80");
    assert!(world.net.all_pass(&tcp.handshake()));
    for policy in [POLICY, POLICY, WITHOUT, POLICY] {
        world.set_policy(policy);
        assert!(world.net.passes(tcp.client_says(b"still here")));
        assert!(world.net.passes(tcp.server_says(b"so am I")));
    }
    assert!(world.net.all_pass(&tcp.close()));
    world.set_policy(WITHOUT);
    world.end();
}

#[test]
fn without_its_service_the_engine_does_not_load_what_the_driver_left() {
    let first = World::with_policy(POLICY);
    let mut config = Config::default();
    // The driver was removed, and its protection was not.
    config.fwp.services_off = vec!["portcullis".to_owned()];
    let mut world = first.rebooted(&config);
    let mut probe = Probe::new();
    assert!(
        is_protected(&mut world, &mut probe),
        "nobody knows of services yet"
    );
    world.start_bfe();
    assert!(!is_protected(&mut world, &mut probe));
    let objects = world.engine().committed();
    let provider = objects.provider(BOOT_PROVIDER).expect("it is stored");
    assert!(provider.disabled);
    // Installed again, and told that nothing is to hold, the driver takes away also what is disabled.
    assert_eq!(world.start(), NtStatus::SUCCESS);
    world.set_policy(WITHOUT);
    assert!(nothing_is_stored(&world));
    world.end();
}

#[test]
fn the_drivers_filters_are_where_the_protection_is_and_heavier() {
    let world = World::with_policy(POLICY);
    let place = |world: &World| {
        let objects = world.engine().committed();
        let places: BTreeSet<_> = (0..CALLOUTS.len())
            .filter_map(|at| {
                objects
                    .filter_by_key(portcullis_tests::world::filter_key(at))
                    .cloned()
            })
            .map(|entry| entry.record().filter().sublayer)
            .collect();
        places.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(place(&world), [BOOT_SUBLAYER]);
    let objects = world.engine().committed();
    let weights = |ours: bool| {
        objects
            .filters()
            .map(|entry| entry.record().clone())
            .filter(move |record| {
                record.filter().sublayer == BOOT_SUBLAYER && record.callout().is_some() == ours
            })
            .map(|record| record.effective_weight())
            .collect::<Vec<_>>()
    };
    assert!(weights(true).iter().min() > weights(false).iter().max());
    world.set_policy(WITHOUT);
    assert_eq!(place(&world), [sublayer_key()]);
    world.end();
}

/// The pool of these machines has no guard pages: there are many machines.
fn fast() -> Config {
    Config {
        pool: PoolMode::Fast,
        ..Config::default()
    }
}

#[test]
fn every_step_of_a_change_fails_in_turn_and_leaves_the_old_policy_with_its_protection() {
    let (with, without) = (compile(POLICY), compile(WITHOUT));
    for (from, to) in [(&without, &with), (&with, &with), (&with, &without)] {
        for nth in Sample::named().calls(2_000) {
            let mut world = World::with_config(&fast());
            assert_eq!(world.device().try_set_policy(from), NtStatus::SUCCESS);
            let before = (stored(&world), world.status().policy_hash.get());
            world.kernel.faults().fail_nth(nth);
            let status = world.device().try_set_policy(to);
            let call = world.kernel.faults().failed_call();
            world.kernel.faults().fail_nth(0);
            let mut probe = Probe::new();
            if status.is_success() {
                let expected = if std::ptr::eq(to, &raw const with) {
                    FILTERS
                } else {
                    0
                };
                assert_eq!(stored(&world), (expected, expected), "{nth}: {call:?}");
            } else {
                let now = (stored(&world), world.status().policy_hash.get());
                assert_eq!(now, before, "{nth}: {status} after {call:?}");
            }
            assert!(
                probe.web(&mut world),
                "{nth}: the driver decides after {call:?}"
            );
            // Whatever was left half done is put right by the next policy.
            world.set_policy(WITHOUT);
            assert!(nothing_is_stored(&world), "{nth}: after {call:?}");
            world.end();
            if call.is_none() {
                println!("{} calls, each made to fail in turn", nth - 1);
                break;
            }
        }
    }
}

#[test]
fn what_fails_when_the_engine_returns_is_told_and_made_up_for_by_the_next_policy() {
    for nth in Sample::named().calls(2_000) {
        let world = World::with_config(&fast());
        world.stop_bfe();
        world.set_policy(POLICY);
        world.kernel.faults().fail_nth(nth);
        world.start_bfe();
        let call = world.kernel.faults().failed_call();
        world.kernel.faults().fail_nth(0);
        let (persistent, boot_time) = stored(&world);
        assert_eq!(persistent, boot_time, "all or nothing");
        if persistent == 0 {
            let error = |step| world.status().error(step) != 0;
            let told = LifecycleStep::ALL.iter().any(|&step| error(step));
            assert!(told, "{nth}: the status tells of {call:?}");
        }
        world.set_policy(POLICY);
        if world.state() == DriverState::Active {
            assert_eq!(stored(&world), (FILTERS, FILTERS), "{nth}: after {call:?}");
        }
        world.stop_bfe();
        world.start_bfe();
        assert_eq!(stored(&world), (FILTERS, FILTERS), "{nth}: after {call:?}");
        world.set_policy(WITHOUT);
        world.end();
        if call.is_none() {
            break;
        }
    }
}

#[test]
fn policies_with_and_without_protection_change_under_traffic_on_four_processors() {
    let config = Config {
        processors: 4,
        ..Config::default()
    };
    let mut random = Random::new(0xB007);
    let world = World::with_config(&config);
    let kernel = world.kernel.clone();
    std::thread::scope(|scope| {
        for processor in 1..4_u32 {
            let kernel = kernel.clone();
            scope.spawn(move || {
                let mut net = portcullis_tests::Net::new(&kernel, processor);
                for round in 0..200_u16 {
                    let port = 30_000 + round;
                    let client = format!("192.0.2.10:{port}");
                    let mut web = Tcp::new(&client, &format!("198.51.100.{processor}:80"));
                    assert!(
                        net.all_pass(&web.handshake()),
                        "each of the policies permits it, and at no time nobody does"
                    );
                    assert!(net.passes(web.client_says(b"hello")));
                    assert!(net.all_pass(&web.close()));
                }
                net.finish();
            });
        }
        for _ in 0..24 {
            world.set_policy(if random.below(2) == 0 {
                POLICY
            } else {
                WITHOUT
            });
        }
    });
    world.set_policy(WITHOUT);
    assert!(nothing_is_stored(&world));
    world.end();
}

#[test]
fn a_driver_without_a_policy_has_no_opinion_and_others_filters_decide() {
    let mut world = World::new();
    let mut probe = Probe::new();
    assert!(probe.telnet(&mut world), "there are no others");
    world.end();
}

#[test]
fn the_script_that_removes_everything_knows_the_keys() {
    let script = include_str!("../../inf/remove-boot-filters.ps1");
    let most = portcullis_core::boot::Boot::MAX_FILTERS;
    assert_eq!(most, 4 * (256 + 5 + 1));
    for part in [
        "f995210d-e7ae-41bc-b37d-5960e38a{0:x4}",
        "0x4000, 0x8000",
        "4 * (256 + 5 + 1)",
        "Get-Key 0x0004",
        "Get-Key 0x0003",
    ] {
        assert!(script.contains(part), "{part}");
    }
}
