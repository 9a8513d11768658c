//! What is discarded, and by whom, is in a capture.

use ksim::Config;
use ksim::ndis::MdlLayout;
use ksim::net::Setup;
use portcullis_proto::Counter;
use portcullis_proto::policy::Range16;
use portcullis_tests::capture::{everything, start};
use portcullis_tests::{Product, Tcp, World, udp};
use wfp_engine::DiscardPosition;
use wfp_schema::{Action, FilterFlags, LayerId, NtStatus};

#[test]
fn what_another_product_blocks_is_in_the_file_with_its_filter() {
    let mut world = World::with_policy("default = 'permit'");
    let product = Product::new(&world.kernel, 0xffff);
    for layer in [LayerId::ALE_AUTH_CONNECT_V4, LayerId::INBOUND_TRANSPORT_V6] {
        product.add_filter(layer, Action::Block, FilterFlags::NONE, Vec::new());
    }
    let running = start(&world, everything(), &[], "another");
    let mut web = Tcp::new("192.0.2.10:50000", "198.51.100.1:443");
    assert!(world.net.none_passes(&web.handshake()));
    assert!(
        !world
            .net
            .passes(udp("[2001:db8::80]:1", "[2001:db8::10]:2", b"nobody's"))
    );
    let (captured, contents) = running.finish();
    let named: Vec<_> = contents
        .packets
        .iter()
        .filter(|packet| packet.comment.contains("\"another product's filter\""))
        .collect();
    assert_eq!(named.len(), 2, "{contents:#?}");
    assert!(
        named[0]
            .comment
            .starts_with("discarded at ALE_AUTH_CONNECT_V4 by filter ")
    );
    assert!(
        named[1]
            .comment
            .starts_with("discarded at INBOUND_TRANSPORT_V6 by filter ")
    );
    assert_eq!(captured.blocked_by["another product's filter"], 2);
    product.close();
    world.end();
}

/// A host on which no port has a socket that nobody has opened from here.
fn closed() -> Setup {
    Setup {
        sockets: Some(std::iter::empty().collect()),
        ..Setup::default()
    }
}

#[test]
fn what_the_network_layers_discard_is_in_the_file_once_wherever_its_data_begins() {
    let positions = [
        DiscardPosition::Layer,
        DiscardPosition::TransportHeader,
        DiscardPosition::IpHeader,
    ];
    // Datagrams whose ports look as an IP header of their version begins.
    let ends = [
        ("192.0.2.10", "198.51.100.1:17664"),
        ("[2001:db8::10]", "[2001:db8::80]:24576"),
    ];
    for (position, seed) in positions
        .into_iter()
        .flat_map(|at| (0..4).map(move |s| (at, s)))
    {
        let mut config = Config::default();
        config.fwp.mdl_layout = MdlLayout::Seeded(seed);
        let mut world =
            World::boot_answering(&config, |options| options.discard_position = position);
        assert_eq!(world.start(), NtStatus::SUCCESS);
        world.set_policy("default = 'permit'");
        world.net.restart(closed());
        let mut request = everything();
        // The layers have no fields for ports: they are in the packets.
        request.ports[0] = Range16 {
            first: 7.into(),
            last: 9.into(),
        };
        request.port_count = 1;
        let running = start(
            &world,
            request,
            &[],
            &format!("discard-{position:?}-{seed}"),
        );
        // Another product blocks what comes and what goes, after ours was asked.
        let product = Product::new(&world.kernel, 0);
        for layer in [
            LayerId::INBOUND_IPPACKET_V4,
            LayerId::INBOUND_IPPACKET_V6,
            LayerId::OUTBOUND_IPPACKET_V4,
            LayerId::OUTBOUND_IPPACKET_V6,
        ] {
            product.add_filter(layer, Action::Block, FilterFlags::NONE, Vec::new());
        }
        let mut sent = Vec::new();
        for (host, server) in ends {
            for length in [0, 1, 700] {
                sent.push(udp(server, &format!("{host}:8"), &vec![0x45; length]));
                sent.push(udp(&format!("{host}:9"), server, &vec![0x60; length]));
            }
        }
        assert!(world.net.none_passes(&sent));
        product.close();
        // Nobody has a socket for these.
        for (host, server) in ends {
            sent.push(udp(server, &format!("{host}:7"), b"nobody's"));
            assert!(!world.net.passes(sent.last().expect("it was sent")));
        }
        let (_, contents) = running.finish();
        let case = format!("{position:?} {seed}: {contents:#?}");
        let written: Vec<_> = contents.packets.iter().map(|packet| &packet.data).collect();
        assert_eq!(written, sent.iter().collect::<Vec<_>>(), "{case}");
        for packet in &contents.packets {
            assert_eq!(packet.interface, 0, "{case}");
            assert!(packet.comment.starts_with("discarded at "), "{case}");
        }
        for comment in contents.comments(b"nobody's") {
            assert!(comment.contains("INBOUND_IPPACKET_V"), "{case}");
        }
        assert_eq!(world.counter(Counter::DataUnavailable), 0, "{case}");
        world.end();
    }
}
