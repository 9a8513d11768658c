//! How our callouts share the filter engine with others' filters.

use ksim::Config;
use portcullis_proto::{CalloutKind, Counter, DriverState, Family, LifecycleStep};
use portcullis_tests::world::{assert_clean, callout_key};
use portcullis_tests::{Product, Tcp, World, udp};
use wfp_engine::{Condition, ConditionValue};
use wfp_schema::condition::IP_REMOTE_PORT;
use wfp_schema::{Action, FilterFlags, Guid, LayerId, NtStatus};

const CONNECT_V4: LayerId = LayerId::ALE_AUTH_CONNECT_V4;
/// A callout that nobody ever registers.
const STRANGER: Guid = Guid::from_u128(0xdead_0000_0000_0000_0000_0000_0000_0001);
/// A sublayer before ours, and one behind it.
const HEAVIER: u16 = 0x2000;
const LIGHTER: u16 = 0x0100;

fn connection(port: u16) -> Vec<Vec<u8>> {
    Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:80").handshake()
}

#[test]
fn a_filter_whose_callout_is_not_registered_blocks_or_is_passed_over_by_its_type() {
    let cases = [
        (Action::CalloutTerminating, FilterFlags::NONE, false),
        (Action::CalloutUnknown, FilterFlags::NONE, false),
        (Action::CalloutInspection, FilterFlags::NONE, true),
        (
            Action::CalloutTerminating,
            FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED,
            true,
        ),
        (
            Action::CalloutUnknown,
            FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED,
            true,
        ),
    ];
    for weight in [HEAVIER, LIGHTER] {
        let mut world = World::with_policy("default = 'permit'");
        for (port, (action, flags, passes)) in (50_000..).zip(cases) {
            let other = Product::new(&world.kernel, weight);
            other.add_callout(STRANGER, CONNECT_V4).expect("added");
            other.add_callout_filter(CONNECT_V4, action, STRANGER, flags);
            // Where the block for an absent callout is soft, our permit in a lighter sublayer overrides it.
            let is_hard = world.engine().options().unregistered_block_is_hard;
            let overridden = !is_hard && weight == HEAVIER;
            assert_eq!(
                world.net.all_pass(&connection(port)),
                passes || overridden,
                "{action:?} {flags:?} at weight {weight:#x}"
            );
            other.close();
            assert!(
                world.net.all_pass(&connection(port + 100)),
                "and nothing is blocked when the filter is gone"
            );
        }
        world.end();
    }
}

#[test]
fn a_filter_added_before_our_callout_is_registered_blocks_until_it_is_and_asks_it_from_then_on() {
    for action in [Action::CalloutTerminating, Action::CalloutUnknown] {
        let mut world = World::boot(&Config::default());
        let other = Product::persistent(&world.kernel, HEAVIER);
        other
            .add_callout(callout_key(0), CONNECT_V4)
            .expect("nobody has the key yet");
        other.add_callout_filter(CONNECT_V4, action, callout_key(0), FilterFlags::NONE);
        assert!(
            world.net.none_passes(&connection(50_000)),
            "{action:?}, not registered"
        );

        // While the engine is down the driver registers its callouts and adds nothing; then the other product's
        // objects are back before ours.
        world.stop_bfe();
        assert_eq!(world.start(), NtStatus::SUCCESS);
        world.set_policy("default = 'permit'\n[[rule]]\naction = 'block'\nremote_port = 23");
        world.start_bfe();
        let registered = world
            .callout(CalloutKind::Connect, Family::V4)
            .callout_id
            .get();
        let added = world
            .engine()
            .committed()
            .callout(callout_key(0))
            .expect("it is back")
            .id();
        assert_eq!(
            registered,
            added.get(),
            "one key is one callout, whoever names it first"
        );
        assert_eq!(
            world.state(),
            DriverState::Degraded,
            "our own objects could not be added"
        );
        let error = world.status().error(LifecycleStep::AddCallouts);
        assert_eq!(
            NtStatus::from_i32(error),
            NtStatus::FWP_ALREADY_EXISTS,
            "and the status says why"
        );

        assert!(
            world.net.all_pass(&connection(50_001)),
            "{action:?}, registered"
        );
        assert_eq!(
            world
                .callout(CalloutKind::Connect, Family::V4)
                .classify
                .get(),
            1,
            "the callout was asked"
        );
        let report = world.unload();
        assert_clean(&report);
        assert!(
            world.net.none_passes(&connection(50_002)),
            "{action:?}, not registered any more"
        );
    }
}

#[test]
fn another_products_block_holds_whatever_our_policy_permits() {
    for weight in [HEAVIER, LIGHTER] {
        let mut world = World::with_policy("default = 'permit'");
        let other = Product::new(&world.kernel, weight);
        let condition = Condition::equal(IP_REMOTE_PORT, ConditionValue::Uint16(80));
        other.add_filter(
            CONNECT_V4,
            Action::Block,
            FilterFlags::NONE,
            vec![condition],
        );
        assert!(world.net.none_passes(&connection(50_000)));
        assert!(
            world
                .net
                .all_pass(&Tcp::new("192.0.2.10:50001", "198.51.100.1:443").handshake())
        );
        other.close();
        assert!(world.net.all_pass(&connection(50_002)));
        world.end();
    }
}

#[test]
fn our_block_holds_whatever_another_product_permits() {
    for weight in [HEAVIER, LIGHTER] {
        let mut world = World::with_policy("default = 'block'");
        let other = Product::new(&world.kernel, weight);
        other.add_filter(CONNECT_V4, Action::Permit, FilterFlags::NONE, Vec::new());
        assert!(
            world.net.none_passes(&connection(50_000)),
            "at weight {weight:#x}"
        );
        other.close();
        world.end();
    }
}

#[test]
fn a_hard_permit_before_ours_takes_the_right_to_permit_and_leaves_us_the_veto() {
    let mut world =
        World::with_policy("default = 'permit'\n[[rule]]\naction = 'block'\nremote_port = 23");
    let other = Product::new(&world.kernel, HEAVIER);
    other.add_filter(
        CONNECT_V4,
        Action::Permit,
        FilterFlags::CLEAR_ACTION_RIGHT,
        Vec::new(),
    );
    assert!(
        world.net.all_pass(&connection(50_000)),
        "we permit it too, and must not write that"
    );
    let veto = Tcp::new("192.0.2.10:50001", "198.51.100.1:23").handshake();
    assert!(
        world.net.none_passes(&veto),
        "a callout may veto a hard permit"
    );
    other.close();
    world.end();
}

#[test]
fn a_hard_block_before_ours_is_not_touched() {
    let mut world = World::with_policy("default = 'permit'");
    let other = Product::new(&world.kernel, HEAVIER);
    other.add_filter(
        CONNECT_V4,
        Action::Block,
        FilterFlags::CLEAR_ACTION_RIGHT,
        Vec::new(),
    );
    assert!(world.net.none_passes(&connection(50_000)));
    let connect = world.callout(CalloutKind::Connect, Family::V4);
    assert_eq!(
        connect.no_right.get(),
        connect.classify.get(),
        "where we were asked, we had no right to decide"
    );
    assert_eq!(world.counter(Counter::FlowsCreated), 0);
    other.close();
    world.end();
}

#[test]
fn filters_of_others_that_come_and_go_during_traffic_change_nothing_about_ours() {
    let mut world =
        World::with_policy("default = 'permit'\n[[rule]]\naction = 'block'\nremote_port = 23");
    let other = Product::new(&world.kernel, HEAVIER);
    let mut web = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    assert!(world.net.all_pass(&web.handshake()));
    for port in 50_001..50_033 {
        let layers = [CONNECT_V4, LayerId::STREAM_V4, LayerId::DATAGRAM_DATA_V4];
        for layer in layers {
            other.add_filter(layer, Action::Permit, FilterFlags::NONE, Vec::new());
        }
        assert!(
            world.net.passes(web.client_says(b"more")),
            "a live connection goes on"
        );
        assert!(world.net.passes(udp(
            &format!("192.0.2.10:{port}"),
            "198.51.100.1:9999",
            b"datagram"
        )));
        let refused = Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:23").handshake();
        assert!(world.net.none_passes(&refused));
    }
    other.close();
    assert!(world.net.all_pass(&web.close()));
    world.end();
}
