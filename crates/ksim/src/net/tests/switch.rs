//! The layers of a virtual switch, and the fast layers.

use wfp_engine::{FastLayers, Options, SwitchOrder};
use wfp_schema::LayerKind;
use wfp_schema::flags::{L2Flags, L2MetadataFields};

use super::build::{ACK, Dialogue, SYN, socket, udp};
use super::recorder::{Recorder, setup};
use crate::net::{
    Host, Injection, InjectionMark, InjectionPoint, Outcome, Output, PacketReport, PortKind,
    Reason, Setup, Switch, SwitchNetwork, SwitchPort,
};

const HOST: [u8; 6] = [0x02, 0, 0, 0, 0, 0];
const ROUTER: [u8; 6] = [0x02, 0xaa, 0, 0, 0, 1];
const RED: [u8; 6] = [0x00, 0x15, 0x5d, 0, 0, 1];
const BLUE: [u8; 6] = [0x00, 0x15, 0x5d, 0, 0, 2];
const EVERYBODY: [u8; 6] = [0xff; 6];

fn port(id: u32, kind: PortKind, name: &str, address: Option<[u8; 6]>) -> SwitchPort {
    let machine = (kind == PortKind::Synthetic).then(|| format!("machine {name}"));
    SwitchPort {
        id,
        nic: 1,
        kind,
        interface: format!("adapter {name}"),
        machine,
        addresses: address.into_iter().collect(),
    }
}

/// A host whose adapter is a port of a switch, beside two virtual machines and the physical network.
fn switched(options: Options) -> Host<Recorder> {
    let recorder = Recorder {
        wanted: Some(vec![
            LayerKind::InboundMacFrameNative,
            LayerKind::OutboundMacFrameNative,
            LayerKind::IngressVSwitchEthernet,
            LayerKind::IngressVSwitchTransport,
            LayerKind::EgressVSwitchEthernet,
            LayerKind::EgressVSwitchTransport,
        ]),
        options,
        ..Recorder::default()
    };
    let switch = Switch {
        id: "the switch".into(),
        network: SwitchNetwork::External,
        ports: vec![
            port(1, PortKind::External, "wire", None),
            port(2, PortKind::Internal, "host", Some(HOST)),
            port(3, PortKind::Synthetic, "red", Some(RED)),
            port(4, PortKind::Synthetic, "blue", Some(BLUE)),
        ],
    };
    Host::new(
        recorder,
        Setup {
            switch: Some(switch),
            output: true,
            ..setup()
        },
    )
}

fn frame(source: [u8; 6], destination: [u8; 6], payload: &[u8]) -> Vec<u8> {
    let ether_type: u16 = match payload[0] >> 4 {
        4 => 0x0800,
        6 => 0x86dd,
        _ => 0x0806,
    };
    let header = [destination, source].concat();
    [&*header, &ether_type.to_be_bytes(), payload].concat()
}

/// The layers that were shown, in order.
fn layers(host: &mut Host<Recorder>) -> Vec<String> {
    let shown = host.filtering().take();
    let is_layer = |what: &String| !what.starts_with("FLOW");
    shown.into_iter().filter(is_layer).collect()
}

const ENDS: [[&str; 2]; 2] = [
    ["10.0.0.1:5000", "192.0.2.1:53"],
    ["[fd00::1]:5000", "[2001:db8::1]:53"],
];

fn datagram(from: &str, to: &str) -> Vec<u8> {
    udp(socket(from), socket(to), b"?")
}

#[test]
fn what_the_host_sends_enters_the_switch_below_its_adapter_and_leaves_by_the_wire() {
    for [here, there] in ENDS {
        let mut host = switched(Options::default());
        let sent = frame(HOST, ROUTER, &datagram(here, there));
        assert!(host.frame(0, &sent).passed);
        let egress = host.filtering().last("EGRESS_VSWITCH_TRANSPORT").clone();
        assert_eq!(egress.fields["IP_SOURCE_PORT"], 5000);
        assert_eq!(egress.fields["IP_DESTINATION_PORT"], 53);
        assert_eq!(egress.fields["IP_PROTOCOL"], 17);
        assert_eq!(egress.fields["VSWITCH_NETWORK_TYPE"], 3);
        assert_eq!(egress.fields["VSWITCH_SOURCE_INTERFACE_TYPE"], 3);
        assert_eq!(egress.fields["VSWITCH_DESTINATION_INTERFACE_TYPE"], 0);
        assert_eq!(egress.names["VSWITCH_ID"], "the switch");
        assert_eq!(egress.names["VSWITCH_SOURCE_INTERFACE_ID"], "adapter host");
        let wire = &egress.names["VSWITCH_DESTINATION_INTERFACE_ID"];
        assert_eq!(wire, "adapter wire");
        assert!(!egress.names.contains_key("VSWITCH_SOURCE_VM_ID"));
        assert_eq!(
            egress.data.as_deref(),
            Some(&sent[14..]),
            "at the IP header"
        );
        let ports = (
            egress.link.switch_source_port,
            egress.link.switch_destination_port,
        );
        assert_eq!(ports, (2, 1));
        let ingress = host.filtering().last("INGRESS_VSWITCH_ETHERNET").clone();
        assert_eq!(ingress.data.as_deref(), Some(&*sent), "at the MAC header");
        assert_eq!(ingress.link.mac_header_size, 14);
        let to = L2MetadataFields::VSWITCH_DESTINATION_PORT_ID;
        assert!(!ingress.link.present.contains(to), "not known yet");
        assert_eq!(
            layers(&mut host),
            [
                "OUTBOUND_MAC_FRAME_NATIVE",
                "INGRESS_VSWITCH_ETHERNET",
                "INGRESS_VSWITCH_TRANSPORT",
                "EGRESS_VSWITCH_ETHERNET",
                "EGRESS_VSWITCH_TRANSPORT",
            ]
        );
    }
}

#[test]
fn what_the_host_receives_passes_the_switch_before_its_adapter() {
    for [here, there] in ENDS {
        let mut host = switched(Options::default());
        let came = frame(ROUTER, HOST, &datagram(there, here));
        assert!(host.frame(0, &came).passed);
        assert_eq!(
            layers(&mut host),
            [
                "INGRESS_VSWITCH_ETHERNET",
                "INGRESS_VSWITCH_TRANSPORT",
                "EGRESS_VSWITCH_ETHERNET",
                "EGRESS_VSWITCH_TRANSPORT",
                "INBOUND_MAC_FRAME_NATIVE",
            ]
        );
        assert_eq!(host.flows().len(), 1);
    }
}

#[test]
fn what_machines_say_to_each_other_does_not_come_to_the_host() {
    let mut host = switched(Options::default());
    let said = frame(RED, BLUE, &datagram("172.16.0.1:1", "172.16.0.2:2"));
    let report = host.frame(0, &said);
    assert_eq!(
        (report.passed, report.reason),
        (true, Some(Reason::Foreign))
    );
    let egress = host.filtering().last("EGRESS_VSWITCH_ETHERNET").clone();
    assert_eq!(egress.names["VSWITCH_SOURCE_VM_ID"], "machine red");
    assert_eq!(egress.names["VSWITCH_DESTINATION_VM_ID"], "machine blue");
    assert!(egress.link.flags.contains(L2Flags::IS_VM2VM));
    assert_eq!(host.filtering().count("INBOUND_MAC_FRAME_NATIVE"), 0);
    assert!(host.flows().is_empty());
}

#[test]
fn a_frame_for_everybody_leaves_by_every_other_port() {
    let mut host = switched(Options::default());
    let asked = frame(RED, EVERYBODY, &[0; 28]);
    assert!(host.frame(0, &asked).passed);
    let shown = host.filtering().take();
    assert_eq!(
        shown,
        [
            "INGRESS_VSWITCH_ETHERNET",
            "EGRESS_VSWITCH_ETHERNET",
            "EGRESS_VSWITCH_ETHERNET",
            "EGRESS_VSWITCH_ETHERNET",
            "INBOUND_MAC_FRAME_NATIVE",
        ],
        "no IP, no layer of packets"
    );
}

#[test]
fn a_block_in_the_switch_stops_the_frame() {
    for kind in [
        LayerKind::IngressVSwitchEthernet,
        LayerKind::IngressVSwitchTransport,
        LayerKind::EgressVSwitchEthernet,
        LayerKind::EgressVSwitchTransport,
    ] {
        let mut host = switched(Options::default());
        host.filtering().answers.insert(kind, Outcome::Block);
        let came = frame(ROUTER, HOST, &datagram("192.0.2.1:53", "10.0.0.1:5000"));
        let report = host.frame(0, &came);
        assert!(
            matches!(report.reason, Some(Reason::Blocked(_))),
            "{kind:?}"
        );
        assert_eq!(host.filtering().count("INBOUND_MAC_FRAME_NATIVE"), 0);
        let sent = frame(HOST, ROUTER, &datagram("10.0.0.1:5000", "192.0.2.1:53"));
        assert!(!host.frame(0, &sent).passed);
        assert!(host.output().is_empty(), "nothing was sent");
    }
}

#[test]
fn the_order_of_the_layers_is_an_option() {
    let mut host = switched(Options {
        switch_order: SwitchOrder::TransportFirst,
        ..Options::default()
    });
    let said = frame(RED, BLUE, &datagram("172.16.0.1:1", "172.16.0.2:2"));
    host.frame(0, &said);
    assert_eq!(
        host.filtering().take(),
        [
            "INGRESS_VSWITCH_TRANSPORT",
            "INGRESS_VSWITCH_ETHERNET",
            "EGRESS_VSWITCH_TRANSPORT",
            "EGRESS_VSWITCH_ETHERNET",
        ]
    );
}

#[test]
fn a_tenant_has_as_many_bits_as_the_option_says() {
    for wide in [false, true] {
        let mut host = switched(Options {
            wide_tenant_network_id: wide,
            ..Options::default()
        });
        host.frame(0, &frame(RED, BLUE, &[0; 28]));
        let shown = host.filtering().last("INGRESS_VSWITCH_ETHERNET").clone();
        assert_eq!(shown.fields["VSWITCH_TENANT_NETWORK_ID"], 0);
    }
}

fn inject(host: &mut Host<Recorder>, bytes: &[u8]) -> PacketReport {
    host.inject(&Injection {
        point: InjectionPoint::VSwitchIngress,
        bytes,
        mark: InjectionMark(7),
        origin: None,
        link: 0,
        hops: 0,
    })
}

#[test]
fn an_absorbed_frame_is_injected_into_the_switch_again() {
    let packet = datagram("10.0.0.1:5000", "192.0.2.1:53");
    let answer = datagram("192.0.2.1:53", "10.0.0.1:5000");
    for (bytes, sent) in [
        (
            frame(HOST, ROUTER, &packet),
            vec![Output::Sent(packet.clone())],
        ),
        (frame(ROUTER, HOST, &answer), vec![]),
    ] {
        let mut host = switched(Options::default());
        let kind = LayerKind::IngressVSwitchEthernet;
        host.filtering().answers.insert(kind, Outcome::Absorb);
        let report = host.frame(0, &bytes);
        assert!(matches!(report.reason, Some(Reason::Absorbed(_))));
        host.output();
        host.filtering().answers.clear();
        host.filtering().take();
        assert!(inject(&mut host, &bytes).passed);
        assert_eq!(host.settled(), [(report.id, true)]);
        let shown = host.filtering().last("INGRESS_VSWITCH_ETHERNET").clone();
        assert_eq!(shown.mark, Some(InjectionMark(7)));
        assert_eq!(host.filtering().count("OUTBOUND_MAC_FRAME_NATIVE"), 0);
        let output = host.output();
        let on_the_wire: Vec<_> = output
            .into_iter()
            .filter(|output| matches!(output, Output::Sent(_)))
            .collect();
        assert_eq!(on_the_wire, sent);
    }
}

/// What the fast layers and those that they are named after show of a connection's first segment, both ways.
fn fast(when: FastLayers) -> Vec<String> {
    let mut shown = Vec::new();
    for (client, server) in [
        ("10.0.0.1:50000", "192.0.2.1:443"),
        ("[fd00::1]:50000", "[2001:db8::1]:443"),
    ] {
        let recorder = Recorder {
            wanted: Some(vec![
                LayerKind::InboundTransport,
                LayerKind::OutboundTransport,
                LayerKind::InboundTransportFast,
                LayerKind::OutboundTransportFast,
                LayerKind::InboundMacFrameNative,
                LayerKind::OutboundMacFrameNative,
                LayerKind::InboundMacFrameNativeFast,
                LayerKind::OutboundMacFrameNativeFast,
            ]),
            options: Options {
                fast_layers: when,
                ..Options::default()
            },
            ..Recorder::default()
        };
        let mut host = Host::new(recorder, setup());
        let mut talk = Dialogue::new(client, server);
        host.frame(0, &frame(HOST, ROUTER, &talk.segment(true, SYN, &[])));
        host.frame(
            0,
            &frame(ROUTER, HOST, &talk.segment(false, SYN | ACK, &[])),
        );
        for shown in &host.filtering().shown {
            if shown.layer.is_some() {
                let is_fast = shown.what.ends_with("FAST");
                assert_eq!(shown.data.is_none(), is_fast, "{}", shown.what);
            }
        }
        let names = layers(&mut host);
        assert!(shown.is_empty() || shown == names, "both families alike");
        shown = names;
    }
    shown
}

#[test]
fn fast_layers_are_indicated_where_the_option_says() {
    assert_eq!(
        fast(FastLayers::Before),
        [
            "OUTBOUND_TRANSPORT_FAST",
            "OUTBOUND_TRANSPORT",
            "OUTBOUND_MAC_FRAME_NATIVE_FAST",
            "OUTBOUND_MAC_FRAME_NATIVE",
            "INBOUND_MAC_FRAME_NATIVE_FAST",
            "INBOUND_MAC_FRAME_NATIVE",
            "INBOUND_TRANSPORT_FAST",
            "INBOUND_TRANSPORT",
        ]
    );
    assert_eq!(
        fast(FastLayers::Behind),
        [
            "OUTBOUND_TRANSPORT",
            "OUTBOUND_TRANSPORT_FAST",
            "OUTBOUND_MAC_FRAME_NATIVE",
            "OUTBOUND_MAC_FRAME_NATIVE_FAST",
            "INBOUND_MAC_FRAME_NATIVE",
            "INBOUND_MAC_FRAME_NATIVE_FAST",
            "INBOUND_TRANSPORT",
            "INBOUND_TRANSPORT_FAST",
        ]
    );
    assert!(
        fast(FastLayers::Never)
            .iter()
            .all(|what| !what.ends_with("FAST"))
    );
}

#[test]
fn an_interface_has_the_address_from_which_the_host_sends() {
    let recorder = Recorder {
        wanted: Some(vec![
            LayerKind::InboundMacFrameEthernet,
            LayerKind::OutboundMacFrameEthernet,
        ]),
        ..Recorder::default()
    };
    let mut host = Host::new(recorder, setup());
    let packet = datagram("10.0.0.1:5000", "192.0.2.1:53");
    let mine = [0xa8, 0x5e, 0x45, 1, 2, 3];
    host.frame(0, &frame(mine, ROUTER, &packet));
    host.filtering().take();
    // What the host asks of everybody is known by its address.
    host.frame(0, &frame(mine, EVERYBODY, &[0; 28]));
    assert_eq!(host.filtering().take(), ["OUTBOUND_MAC_FRAME_ETHERNET"]);
    host.frame(0, &frame(ROUTER, mine, &[0; 28]));
    let shown = host.filtering().last("INBOUND_MAC_FRAME_ETHERNET").clone();
    assert_eq!(shown.fields["INTERFACE_MAC_ADDRESS"], 0xa85e_4501_0203);
    // Behind labels that this stack does not know the caller has found the packet.
    let labelled = [&frame(mine, ROUTER, &[0; 4])[..], &packet].concat();
    let report = host.frame_on(0, 9, &labelled, Some(18));
    assert_eq!(report.flow.map(|flow| flow.0), Some(1), "a flow of link 9");
}
