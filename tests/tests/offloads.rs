//! What the driver's callouts leave of the network card's offloads: for each callout that there is, and for the traffic
//! at each layer. `docs/offloads.md` is made from it.

use std::fmt::Write as _;
use std::path::Path;

use portcullis_proto::{CALLOUTS, CalloutKind};
use portcullis_tests::World;
use portcullis_tests::world::callout_key;
use wfp_engine::{CalloutId, Offload};
use wfp_schema::{CalloutFlags, Layer};

/// Why a callout switches an offload off. One that does must be here, and one that is here must.
const REASONS: &[(CalloutKind, Offload, &str)] = &[
    (
        CalloutKind::RecvAccept,
        Offload::Uro,
        "the packet of a connection that is held is cloned and injected (FWP_CALLOUT_FLAG_ALLOW_URO)",
    ),
    (
        CalloutKind::Datagram,
        Offload::Uso,
        "each datagram is seen as one: it may be a DNS query of its own",
    ),
    (
        CalloutKind::Datagram,
        Offload::Uro,
        "each datagram is seen as one: a block discards it and no other",
    ),
    (
        CalloutKind::InboundPacket,
        Offload::Uso,
        "packets that the card would split could not be put back as they were",
    ),
    (
        CalloutKind::InboundPacket,
        Offload::Uro,
        "merged datagrams must not be cloned and injected (FWP_CALLOUT_FLAG_ALLOW_URO)",
    ),
    (
        CalloutKind::OutboundPacket,
        Offload::Uso,
        "packets that the card would split could not be put back as they were",
    ),
    (
        CalloutKind::OutboundPacket,
        Offload::Uro,
        "merged datagrams must not be cloned and injected (FWP_CALLOUT_FLAG_ALLOW_URO)",
    ),
];

/// `WRITE_DOCS`: set, the file is written.
const WRITE: &str = "PORTCULLIS_WRITE_DOCS";

/// The flags with which each callout of the table has registered, in the table's order.
fn registered(world: &World) -> Vec<CalloutFlags> {
    let callouts = world.device().status().1;
    let flags = callouts.iter().zip(CALLOUTS).map(|(status, info)| {
        world
            .engine()
            .callout_flags(CalloutId::new(status.callout_id.get()))
            .unwrap_or_else(|| panic!("{} is registered", info.name))
    });
    flags.collect()
}

fn reason(kind: CalloutKind, offload: Offload) -> Option<&'static str> {
    let mut found = REASONS
        .iter()
        .filter(|row| (row.0, row.1) == (kind, offload));
    found.next().map(|row| row.2)
}

fn page(world: &World) -> String {
    let mut text = String::from(
        "# Offloads

Made by `cargo xtask docs` from the running driver; `tests/tests/offloads.rs` says when it is stale.

A callout that does not tolerate what the network card does by itself switches it off for all traffic that its filters
match ([FWPS_CALLOUT2](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/ns-fwpsk-fwps_callout2_)). A filter
of Portcullis matches everything at its layer. *Checksum* is everything that `FWP_CALLOUT_FLAG_ALLOW_OFFLOAD` stands for.
A callout *on demand* has a filter only while a rule of the policy in force needs it.

| Layer | Callout | Filter | checksum | RSC | USO | URO |
| --- | --- | --- | --- | --- | --- | --- |
",
    );
    let always: Vec<_> = world
        .engine()
        .tolerances()
        .iter()
        .map(|one| one.callout)
        .collect();
    for (place, (flags, info)) in registered(world).iter().zip(CALLOUTS).enumerate() {
        let demand = if always.contains(&callout_key(place)) {
            "always"
        } else {
            "on demand"
        };
        write!(text, "| `{}` | {} | {demand} |", info.layer, info.name).expect("memory");
        for offload in Offload::ALL {
            let state = if flags.contains(offload.flag()) {
                "on"
            } else {
                "**off**"
            };
            write!(text, " {state} |").expect("memory");
        }
        text.push('\n');
    }
    text.push_str("\nWhy it is off:\n\n");
    for (kind, offload, why) in REASONS {
        writeln!(text, "- {kind}, {}: {why}.", offload.name()).expect("memory");
    }
    text
}

#[test]
fn each_offload_that_a_callout_switches_off_has_a_reason_and_no_other() {
    let world = World::new();
    for (flags, info) in registered(&world).iter().zip(CALLOUTS) {
        for offload in Offload::ALL {
            let is_off = !flags.contains(offload.flag());
            assert_eq!(
                is_off,
                reason(info.kind, offload).is_some(),
                "{} and {}: say why in REASONS of tests/tests/offloads.rs, or set the flag in src/callouts.rs",
                info.name,
                offload.name()
            );
        }
    }
    world.end();
}

#[test]
fn without_effects_only_udp_loses_any_offload() {
    let world = World::with_policy(
        "default = 'permit'\n[[rule]]\naction = 'block'\nhost = 'ads.example.net'",
    );
    for layer in Layer::all() {
        for offload in Offload::ALL {
            let is_lost = !layer.is_discard()
                && match offload {
                    Offload::Uso => layer.name().starts_with("DATAGRAM_DATA"),
                    Offload::Uro => {
                        layer.name().starts_with("DATAGRAM_DATA")
                            || layer.name().starts_with("ALE_AUTH_RECV_ACCEPT")
                    }
                    Offload::Checksum | Offload::Rsc => false,
                };
            assert_eq!(
                world.engine().keeps_offload(layer.id(), offload),
                !is_lost,
                "{} and {}",
                layer.name(),
                offload.name()
            );
        }
    }
    world.end();
}

#[test]
fn the_protection_at_boot_costs_no_offload() {
    let plain = World::with_policy("default = 'permit'");
    let kept = |world: &World| {
        let layers = Layer::all().iter().map(wfp_schema::Layer::id);
        layers
            .flat_map(|layer| {
                Offload::ALL.map(|offload| world.engine().keeps_offload(layer, offload))
            })
            .collect::<Vec<_>>()
    };
    let before = kept(&plain);
    plain.set_policy("default = 'permit'\n[boot]\ndefault = 'block'");
    assert_eq!(kept(&plain), before);
    plain.set_policy("default = 'permit'");
    plain.end();
}

#[test]
fn the_page_about_offloads_says_what_is_true() {
    let world = World::new();
    let expected = page(&world);
    println!("{expected}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/offloads.md");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&file, &expected).expect("docs/ is writable");
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "docs/offloads.md is stale: run `cargo xtask docs`"
    );
    world.end();
}
