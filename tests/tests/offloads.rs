//! What the driver's callouts leave of the network card's offloads: all of them, at every layer, whatever the policy.
//! `docs/offloads.md` is made from it.

use std::fmt::Write as _;
use std::path::Path;

use portcullis_proto::CALLOUTS;
use portcullis_tests::World;
use portcullis_tests::world::callout_key;
use wfp_engine::{CalloutId, Offload};
use wfp_schema::{CalloutFlags, Layer};

/// How the callouts can do with what the card does.
const TOLERANCE: &str = "
## Why none is off

| Offload | What a callout sees | What it does |
| --- | --- | --- |
| checksum | checksums that are not there yet, or were found right | none is needed; where a packet is changed all are made whole |
| large send, RSC | TCP data in large segments | a stream is the same however it was cut; a large send that is changed is split, a merged segment stays one |
| USO | one UDP packet that the card will split: `NDIS_UDP_SEGMENTATION_OFFLOAD_NET_BUFFER_LIST_INFO.MSS` bytes of data to a datagram | see below |
| URO | one UDP packet of datagrams that the card has merged: `SegCount` of them, with `SegSize` bytes of data each, in `NDIS_UDP_RSC_OFFLOAD_NET_BUFFER_LIST_INFO` | see below |

How datagrams that are one packet (`core::Cut`) are treated:

- `datagram` looks at each as at one of its own: DNS questions, QUIC's first packets, contents; each counts as one. WFP can
  block the packet only as a whole, so one datagram that is blocked takes the others along; who sent those sends them again.
  Behind the last that has to be looked at the rest is only counted, without a walk. At most 1,024 are looked at; a packet
  with more, of less than 64 bytes each, is blocked (`too many datagrams in one`).
- `inbound-packet` and `outbound-packet` take packets only of connections whose rule changes or shapes them, and split those into the
  datagrams of the wire, in memory of their own, each with its own headers, checksums and treatment. Nothing is cloned:
  [FWP_CALLOUT_FLAG_ALLOW_URO](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/ns-fwpsk-fwps_callout3)
  forbids to clone and inject merged datagrams, and what is injected here is not merged. More than 1,024 are dropped.
- `connect` and `accept` hold a connection that a rule asks about. Its first packet is cloned only if it is one datagram:
  merged ones may not be, and no page says that a clone of one that is to be split still says so. Several are let go, and
  counted (`held packet lost`) if the answer is a permit; UDP may lose them, and the answer waits for those that come again.
- Captures have the packet as it is. All other callouts look at headers and metadata only.

What a list says is believed only where it fits the data: a size that is not 0 and smaller than the data; for URO as many
datagrams as that size makes of it. Else the data is one datagram.

Microsoft's pages:
[USO](https://learn.microsoft.com/windows-hardware/drivers/network/udp-segmentation-offload-uso-),
[URO](https://learn.microsoft.com/windows-hardware/drivers/network/udp-rsc-offload), the slots in
[NDIS_NET_BUFFER_LIST_INFO](https://learn.microsoft.com/windows-hardware/drivers/ddi/nblinfo/ne-nblinfo-ndis_net_buffer_list_info).
They do not say from which layer on a list that is sent has its `MSS`, \"before offloading\" is all. Here it has it at
`DATAGRAM_DATA`. Were it not there, data to be split would count and be looked at as one datagram: of DNS the first question.

`tests/tests/datagrams.rs` shows all of this, on four processors `tests/tests/four_processors/datagrams.rs`, `crates/core/tests/cut.rs` the
cut, and the verifier's rule `injection-merged` that nothing merged is cloned and injected.
";

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

fn page(world: &World) -> String {
    let mut text = String::from(
        "# Offloads

Made by `cargo xtask docs` from the running driver; `tests/tests/offloads.rs` says when it is stale.

A callout that does not tolerate what the network card does by itself switches it off for all traffic that its filters
match ([FWPS_CALLOUT2](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/ns-fwpsk-fwps_callout2_)). A filter
of Portcullis matches everything at its layer, so each callout tolerates all of it. *Checksum* is everything that
`FWP_CALLOUT_FLAG_ALLOW_OFFLOAD` stands for. A callout *on demand* has a filter only while a rule of the policy in force needs it.

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
    text.push_str(TOLERANCE);
    text
}

#[test]
fn every_callout_tolerates_every_offload() {
    let world = World::new();
    for (flags, info) in registered(&world).iter().zip(CALLOUTS) {
        for offload in Offload::ALL {
            assert!(
                flags.contains(offload.flag()),
                "{} switches {} off: let it tolerate that, and set the flag in src/callouts.rs",
                info.name,
                offload.name()
            );
        }
    }
    world.end();
}

#[test]
fn no_policy_costs_any_offload() {
    let policies = [
        "default = 'permit'",
        "default = 'permit'\n[[rule]]\naction = 'block'\nhost = 'ads.example.net'\n[[rule]]\naction = 'block'\ncontent = 'secret'",
        "default = 'permit'\n[[rule]]\naction = 'ask'\nremote_port = 4433",
        "default = 'permit'\nobserve = true\n[[rule]]\naction = 'permit'\nremote_port = 9\nttl = 9\ndscp = 3\ndelay = '1 ms'\nloss = '1 %'\nrate = '1 Mbit/s'\nmirror = true",
        "default = 'permit'\n[[rule]]\naction = 'permit'\nremote_address = '198.51.100.1'\ntranslate = '198.51.100.7'",
        "default = 'permit'\n[boot]\ndefault = 'block'",
    ];
    let world = World::new();
    for policy in policies.into_iter().chain(["default = 'permit'"]) {
        world.set_policy(policy);
        for layer in Layer::all() {
            for offload in Offload::ALL {
                assert!(
                    world.engine().keeps_offload(layer.id(), offload),
                    "{} and {} under {policy}",
                    layer.name(),
                    offload.name()
                );
            }
        }
    }
    world.end();
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
