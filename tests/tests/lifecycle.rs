//! The driver starts, registers what its table says, and leaves nothing when it goes.

use std::collections::BTreeMap;

use ksim::net::PacketReport;
use ksim::{Account, Caller, Config, OpenError};
use portcullis_proto::device::WIN32_PATH;
use portcullis_proto::event::EventKind;
use portcullis_proto::status::CalloutStatus;
use portcullis_proto::{CALLOUTS, CalloutKind, Counter, DriverState, Family};
use portcullis_tests::control::alive;
use portcullis_tests::world::{
    assert_clean, callout_key, filter_key, is_always_filtered, load, provider_key, sublayer_key,
};
use portcullis_tests::{Device, Product, Tcp, World, image, udp};
use wfp_engine::Lifetime;
use wfp_schema::{Action, FilterFlags, Guid, Layer, LayerId, NtStatus};

const NO_TELNET: &str = "
    default = 'permit'
    [[rule]]
    action = 'block'
    protocol = 'tcp'
    remote_port = 23
";

fn telnet_from(port: u16) -> Tcp {
    Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:23")
}

const fn is_refused(report: PacketReport) -> bool {
    !report.passed
}

#[test]
fn each_callout_is_registered_by_its_own_id_and_adding_it_gave_the_same() {
    let world = World::new();
    let (_, callouts) = world.device().status();
    let registered: BTreeMap<u32, Guid> = world
        .engine()
        .registered_callouts()
        .into_iter()
        .map(|(id, key)| (id.get(), key))
        .collect();
    let objects = world.engine().committed();
    assert_eq!(callouts.len(), CALLOUTS.len());
    assert_eq!(registered.len(), CALLOUTS.len(), "one identifier each");
    for (place, (callout, info)) in callouts.iter().zip(CALLOUTS).enumerate() {
        let id = callout.callout_id.get();
        let key = Guid::from_bytes(callout.key);
        assert_eq!(key, callout_key(place), "{}", info.name);
        assert_eq!(
            registered.get(&id),
            Some(&key),
            "{} is registered by the id it reports",
            info.name
        );
        let object = objects.callout(key).expect("FwpmCalloutAdd0 has added it");
        assert_eq!(
            object.id().get(),
            id,
            "FwpmCalloutAdd0 gave {} the same id",
            info.name
        );
        assert!(object.is_registered());
        assert_eq!(object.layer.name(), Some(info.layer));
        assert_eq!(object.layer.get(), callout.layer.get());
        assert_eq!(
            (callout.kind, callout.family),
            (info.kind.raw(), info.family.raw())
        );
        let mut flags = CalloutStatus::REGISTERED | CalloutStatus::ADDED;
        if is_always_filtered(callout) {
            flags |= CalloutStatus::FILTERED;
        }
        assert_eq!(callout.flags.get(), flags);
    }
    world.end();
}

#[test]
fn the_engine_holds_one_provider_one_sublayer_and_a_catch_all_filter_for_each_callout() {
    let world = World::new();
    let objects = world.engine().committed();
    let provider = objects.provider(provider_key()).expect("our provider");
    assert_eq!(provider.provider.name.as_deref(), Some("Portcullis"));
    assert_eq!(provider.provider.service.as_deref(), Some("Portcullis"));
    assert!(
        matches!(provider.lifetime, Lifetime::Dynamic(_)),
        "it goes with the session"
    );
    let sublayer = objects.sublayer(sublayer_key()).expect("our sublayer");
    assert_eq!(sublayer.sublayer.provider, Some(provider_key()));

    let (_, callouts) = world.device().status();
    for (place, (callout, info)) in callouts.iter().zip(CALLOUTS).enumerate() {
        let layer = Layer::all()
            .iter()
            .find(|layer| layer.name() == info.layer)
            .expect("a layer");
        let object = objects.callout(callout_key(place)).expect("the callout");
        assert_eq!(object.callout.provider, Some(provider_key()));
        assert_eq!(
            object.callout.name.as_deref(),
            Some(format!("Portcullis {}", info.name).as_str())
        );
        if !is_always_filtered(callout) {
            let filter = objects.filter_by_key(filter_key(place));
            assert!(filter.is_none(), "{}: nothing calls for it", info.name);
            continue;
        }
        let entry = objects
            .filter_by_key(filter_key(place))
            .expect("its filter");
        let filter = entry.record().filter();
        assert_eq!(
            entry.id().get(),
            callout.filter_id.get(),
            "{}: the status tells the filter's id",
            info.name
        );
        assert_eq!(filter.provider, Some(provider_key()));
        assert_eq!(filter.sublayer, sublayer_key());
        assert_eq!(filter.layer, layer.key());
        assert_eq!(filter.callout, callout_key(place));
        assert!(
            filter.conditions.is_empty(),
            "{}: it catches everything",
            info.name
        );
        let inspects = matches!(
            info.kind,
            CalloutKind::FlowEstablished | CalloutKind::EndpointClosure
        );
        let (action, flags) = if inspects {
            (Action::CalloutInspection, FilterFlags::NONE)
        } else {
            (
                Action::CalloutUnknown,
                FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED,
            )
        };
        assert_eq!(
            (filter.action, filter.flags),
            (action, flags),
            "{}",
            info.name
        );
    }
    let filters = objects
        .filters()
        .filter(|entry| entry.record().filter().provider == Some(provider_key()));
    let always = callouts
        .iter()
        .filter(|callout| is_always_filtered(callout));
    assert_eq!(filters.count(), always.count(), "and no others");
    let added = objects
        .callouts()
        .filter(|object| object.callout.provider == Some(provider_key()));
    assert_eq!(added.count(), CALLOUTS.len());
    world.end();
}

#[test]
fn after_the_unload_nothing_is_left_and_traffic_flows() {
    let mut world = World::with_policy("default = 'block'");
    assert!(is_refused(
        world.net.packet(&telnet_from(50_000).handshake()[0])
    ));
    assert_clean(&world.unload());
    world.assert_nothing_of_ours();
    assert!(world.net.all_pass(&telnet_from(50_001).handshake()));
    let gone = world.kernel.open(WIN32_PATH, Caller::administrator());
    assert_eq!(
        gone.map(drop),
        Err(OpenError::Status(NtStatus::OBJECT_NAME_NOT_FOUND))
    );
}

#[test]
fn a_driver_that_was_unloaded_starts_again_and_remembers_no_policy() {
    let mut world = World::with_policy("default = 'block'");
    for round in 0..3_u16 {
        assert_clean(&world.unload());
        assert_eq!(world.start(), NtStatus::SUCCESS);
        assert_eq!(world.status().policy_epoch.get(), 0);
        assert!(
            world.net.all_pass(&telnet_from(50_000 + round).handshake()),
            "without a policy all is permitted"
        );
        world.set_policy(NO_TELNET);
        assert!(
            world
                .net
                .none_passes(&telnet_from(51_000 + round).handshake())
        );
    }
    world.end();
}

#[test]
fn the_state_after_the_start_is_active_and_the_first_events_tell_how_it_came_to_be() {
    let world = World::new();
    assert_eq!(world.state(), DriverState::Active);
    let changes: Vec<(u64, u64)> = world
        .events()
        .iter()
        .filter(|event| event.kind == EventKind::StateChanged.raw())
        .map(|event| (event.value[0].get(), event.value[1].get()))
        .collect();
    let state = |state: DriverState| u64::from(state.raw());
    assert_eq!(
        changes,
        [
            (state(DriverState::Stopped), state(DriverState::Starting)),
            (state(DriverState::Starting), state(DriverState::Active)),
        ]
    );
    assert_eq!(world.status().started.get(), world.kernel.boot_time());
    world.end();
}

#[test]
fn a_second_copy_of_the_driver_finds_the_device_name_taken_and_leaves_the_first_alone() {
    let mut world = World::with_policy(NO_TELNET);
    let before = world.device().status().1;
    let second = load(&world.kernel, "portcullis2.sys", image::portcullis());
    assert_eq!(alive(second.start()), NtStatus::OBJECT_NAME_COLLISION);
    assert_clean(&alive(second.unload()));
    let ids = |callouts: &[CalloutStatus]| {
        callouts
            .iter()
            .map(|callout| callout.callout_id.get())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&world.device().status().1), ids(&before));
    assert!(world.net.none_passes(&telnet_from(50_000).handshake()));
    world.end();
}

#[test]
fn a_second_driver_with_the_same_callout_keys_gets_already_exists_and_leaves_nothing() {
    let mut world = World::with_policy(NO_TELNET);
    let registered = world.engine().registered_callouts();
    let second = load(
        &world.kernel,
        "portcullit.sys",
        &image::with_another_device_name(),
    );
    assert_eq!(
        alive(second.start()),
        NtStatus::FWP_ALREADY_EXISTS,
        "FwpsCalloutRegister2's answer"
    );
    assert_clean(&alive(second.unload()));
    assert!(
        world
            .kernel
            .io()
            .names()
            .iter()
            .all(|name| !name.contains("portcullit")),
        "its device is gone"
    );
    assert_eq!(
        world.engine().registered_callouts(),
        registered,
        "the first driver's callouts are still registered"
    );
    assert_eq!(world.state(), DriverState::Active);
    assert!(
        world.net.none_passes(&telnet_from(50_000).handshake()),
        "and still enforce its policy"
    );
    world.end();
}

#[test]
fn when_the_last_callout_cannot_be_registered_the_others_are_unregistered_again() {
    for nth in [1, 7, CALLOUTS.len() as u64] {
        let mut world = World::boot(&Config::default());
        world.kernel.faults().fail_call("FwpsCalloutRegister2", nth);
        assert!(!world.start().is_success());
        assert!(world.engine().registered_callouts().is_empty());
        assert_clean(&world.unload());
        world.assert_nothing_of_ours();
    }
}

#[test]
fn when_another_product_has_taken_a_callout_key_in_the_engine_the_start_fails_and_leaves_nothing() {
    let mut world = World::boot(&Config::default());
    let other = Product::new(&world.kernel, 0x2000);
    other
        .add_callout(callout_key(13), LayerId::ALE_ENDPOINT_CLOSURE_V6)
        .expect("nobody has the key yet");
    assert_eq!(
        world.start(),
        NtStatus::FWP_ALREADY_EXISTS,
        "FwpmCalloutAdd0's answer"
    );
    assert!(world.engine().registered_callouts().is_empty());
    assert_clean(&world.unload());
    other.close();
    world.assert_nothing_of_ours();
}

#[test]
fn only_system_and_administrators_open_the_device() {
    let world = World::new();
    for (caller, opens) in [
        (Caller::system(), true),
        (Caller::administrator(), true),
        (Caller::user(), false),
    ] {
        let opened = Device::open(&world.kernel, caller);
        assert_eq!(opened.is_ok(), opens, "{:?}", caller.account);
        if caller.account == Account::User {
            assert_eq!(
                opened.map(drop),
                Err(OpenError::Status(NtStatus::ACCESS_DENIED))
            );
        }
    }
    world.end();
}

#[test]
fn a_machine_without_traffic_is_left_as_it_was_found() {
    let world = World::new();
    for kind in [
        CalloutKind::Connect,
        CalloutKind::Stream,
        CalloutKind::Datagram,
    ] {
        for family in [Family::V4, Family::V6] {
            let callout = world.callout(kind, family);
            assert_eq!((callout.classify.get(), callout.flow_delete.get()), (0, 0));
        }
    }
    assert_eq!(world.counter(Counter::FlowsCreated), 0);
    world.end();
}

#[test]
fn each_classify_is_counted_by_its_callout_and_by_what_came_of_it() {
    let mut world = World::with_policy(NO_TELNET);
    world.net.fates(&telnet_from(50_000).handshake());
    let mut web = Tcp::new("192.0.2.10:50001", "198.51.100.1:80");
    world.net.fates(&web.handshake());
    world
        .net
        .passes(udp("[2001:db8::10]:50002", "[2001:db8::80]:9999", b"hello"));
    let connect = world.callout(CalloutKind::Connect, Family::V4);
    assert_eq!(
        (
            connect.classify.get(),
            connect.permit.get(),
            connect.block.get()
        ),
        (2, 1, 1)
    );
    let connect = world.callout(CalloutKind::Connect, Family::V6);
    assert_eq!(
        (
            connect.classify.get(),
            connect.permit.get(),
            connect.block.get()
        ),
        (1, 1, 0)
    );
    assert_eq!(
        world
            .callout(CalloutKind::Datagram, Family::V6)
            .permit
            .get(),
        1
    );
    assert_eq!(
        world
            .callout(CalloutKind::FlowEstablished, Family::V4)
            .classify
            .get(),
        1
    );
    world.end();
}
