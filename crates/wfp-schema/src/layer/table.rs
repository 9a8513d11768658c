//! The kernel layers 0 to 81.

use super::{Layer, LayerId, LayerKind, Role};
use crate::{Guid, IpVersion};

macro_rules! layers {
    ($($id:literal $name:ident $kind:ident $version:tt $role:tt $key:literal)*) => {
        /// Ordered by identifier.
        pub(super) static LAYERS: [Layer; 0 $(+ layers!(@one $id))*] = [$(
            Layer {
                id: LayerId($id),
                kind: LayerKind::$kind,
                version: layers!(@version $version),
                role: layers!(@role $role),
                name: stringify!($name),
                key: Guid::from_u128($key),
            },
        )*];

        /// The identifiers by the header's names without prefix.
        impl LayerId {
            $(
                #[doc = concat!("`FWPS_LAYER_", stringify!($name), "`, ", stringify!($id), ".")]
                pub const $name: Self = Self($id);
            )*
        }
    };
    (@one $id:literal) => { 1 };
    (@version V4) => { Some(IpVersion::V4) };
    (@version V6) => { Some(IpVersion::V6) };
    (@version -) => { None };
    (@role regular) => { Role::Regular };
    (@role discard) => { Role::Discard };
}

layers! {
    0 INBOUND_IPPACKET_V4 InboundIpPacket V4 regular 0xc86fd1bf_21cd_497e_a0bb_17425c885c58
    1 INBOUND_IPPACKET_V4_DISCARD InboundIpPacket V4 discard 0xb5a230d0_a8c0_44f2_916e_991b53ded1f7
    2 INBOUND_IPPACKET_V6 InboundIpPacket V6 regular 0xf52032cb_991c_46e7_971d_2601459a91ca
    3 INBOUND_IPPACKET_V6_DISCARD InboundIpPacket V6 discard 0xbb24c279_93b4_47a2_83ad_ae1698b50885
    4 OUTBOUND_IPPACKET_V4 OutboundIpPacket V4 regular 0x1e5c9fae_8a84_4135_a331_950b54229ecd
    5 OUTBOUND_IPPACKET_V4_DISCARD OutboundIpPacket V4 discard 0x08e4bcb5_b647_48f3_953c_e5ddbd03937e
    6 OUTBOUND_IPPACKET_V6 OutboundIpPacket V6 regular 0xa3b3ab6b_3564_488c_9117_f34e82142763
    7 OUTBOUND_IPPACKET_V6_DISCARD OutboundIpPacket V6 discard 0x9513d7c4_a934_49dc_91a7_6ccb80cc02e3
    8 IPFORWARD_V4 IpForward V4 regular 0xa82acc24_4ee1_4ee1_b465_fd1d25cb10a4
    9 IPFORWARD_V4_DISCARD IpForward V4 discard 0x9e9ea773_2fae_4210_8f17_34129ef369eb
    10 IPFORWARD_V6 IpForward V6 regular 0x7b964818_19c7_493a_b71f_832c3684d28c
    11 IPFORWARD_V6_DISCARD IpForward V6 discard 0x31524a5d_1dfe_472f_bb93_518ee945d8a2
    12 INBOUND_TRANSPORT_V4 InboundTransport V4 regular 0x5926dfc8_e3cf_4426_a283_dc393f5d0f9d
    13 INBOUND_TRANSPORT_V4_DISCARD InboundTransport V4 discard 0xac4a9833_f69d_4648_b261_6dc84835ef39
    14 INBOUND_TRANSPORT_V6 InboundTransport V6 regular 0x634a869f_fc23_4b90_b0c1_bf620a36ae6f
    15 INBOUND_TRANSPORT_V6_DISCARD InboundTransport V6 discard 0x2a6ff955_3b2b_49d2_9848_ad9d72dcaab7
    16 OUTBOUND_TRANSPORT_V4 OutboundTransport V4 regular 0x09e61aea_d214_46e2_9b21_b26b0b2f28c8
    17 OUTBOUND_TRANSPORT_V4_DISCARD OutboundTransport V4 discard 0xc5f10551_bdb0_43d7_a313_50e211f4d68a
    18 OUTBOUND_TRANSPORT_V6 OutboundTransport V6 regular 0xe1735bde_013f_4655_b351_a49e15762df0
    19 OUTBOUND_TRANSPORT_V6_DISCARD OutboundTransport V6 discard 0xf433df69_ccbd_482e_b9b2_57165658c3b3
    20 STREAM_V4 Stream V4 regular 0x3b89653c_c170_49e4_b1cd_e0eeeee19a3e
    21 STREAM_V4_DISCARD Stream V4 discard 0x25c4c2c2_25ff_4352_82f9_c54a4a4726dc
    22 STREAM_V6 Stream V6 regular 0x47c9137a_7ec4_46b3_b6e4_48e926b1eda4
    23 STREAM_V6_DISCARD Stream V6 discard 0x10a59fc7_b628_4c41_9eb8_cf37d55103cf
    24 DATAGRAM_DATA_V4 DatagramData V4 regular 0x3d08bf4e_45f6_4930_a922_417098e20027
    25 DATAGRAM_DATA_V4_DISCARD DatagramData V4 discard 0x18e330c6_7248_4e52_aaab_472ed67704fd
    26 DATAGRAM_DATA_V6 DatagramData V6 regular 0xfa45fe2f_3cba_4427_87fc_57b9a4b10d00
    27 DATAGRAM_DATA_V6_DISCARD DatagramData V6 discard 0x09d1dfe1_9b86_4a42_be9d_8c315b92a5d0
    28 INBOUND_ICMP_ERROR_V4 InboundIcmpError V4 regular 0x61499990_3cb6_4e84_b950_53b94b6964f3
    29 INBOUND_ICMP_ERROR_V4_DISCARD InboundIcmpError V4 discard 0xa6b17075_ebaf_4053_a4e7_213c8121ede5
    30 INBOUND_ICMP_ERROR_V6 InboundIcmpError V6 regular 0x65f9bdff_3b2d_4e5d_b8c6_c720651fe898
    31 INBOUND_ICMP_ERROR_V6_DISCARD InboundIcmpError V6 discard 0xa6e7ccc0_08fb_468d_a472_9771d5595e09
    32 OUTBOUND_ICMP_ERROR_V4 OutboundIcmpError V4 regular 0x41390100_564c_4b32_bc1d_718048354d7c
    33 OUTBOUND_ICMP_ERROR_V4_DISCARD OutboundIcmpError V4 discard 0xb3598d36_0561_4588_a6bf_e955e3f6264b
    34 OUTBOUND_ICMP_ERROR_V6 OutboundIcmpError V6 regular 0x7fb03b60_7b8d_4dfa_badd_980176fc4e12
    35 OUTBOUND_ICMP_ERROR_V6_DISCARD OutboundIcmpError V6 discard 0x65f2e647_8d0c_4f47_b19b_33a4d3f1357c
    36 ALE_RESOURCE_ASSIGNMENT_V4 AleResourceAssignment V4 regular 0x1247d66d_0b60_4a15_8d44_7155d0f53a0c
    37 ALE_RESOURCE_ASSIGNMENT_V4_DISCARD AleResourceAssignment V4 discard 0x0b5812a2_c3ff_4eca_b88d_c79e20ac6322
    38 ALE_RESOURCE_ASSIGNMENT_V6 AleResourceAssignment V6 regular 0x55a650e1_5f0a_4eca_a653_88f53b26aa8c
    39 ALE_RESOURCE_ASSIGNMENT_V6_DISCARD AleResourceAssignment V6 discard 0xcbc998bb_c51f_4c1a_bb4f_9775fcacab2f
    40 ALE_AUTH_LISTEN_V4 AleAuthListen V4 regular 0x88bb5dad_76d7_4227_9c71_df0a3ed7be7e
    41 ALE_AUTH_LISTEN_V4_DISCARD AleAuthListen V4 discard 0x371dfada_9f26_45fd_b4eb_c29eb212893f
    42 ALE_AUTH_LISTEN_V6 AleAuthListen V6 regular 0x7ac9de24_17dd_4814_b4bd_a9fbc95a321b
    43 ALE_AUTH_LISTEN_V6_DISCARD AleAuthListen V6 discard 0x60703b07_63c8_48e9_ada3_12b1af40a617
    44 ALE_AUTH_RECV_ACCEPT_V4 AleAuthRecvAccept V4 regular 0xe1cd9fe7_f4b5_4273_96c0_592e487b8650
    45 ALE_AUTH_RECV_ACCEPT_V4_DISCARD AleAuthRecvAccept V4 discard 0x9eeaa99b_bd22_4227_919f_0073c63357b1
    46 ALE_AUTH_RECV_ACCEPT_V6 AleAuthRecvAccept V6 regular 0xa3b42c97_9f04_4672_b87e_cee9c483257f
    47 ALE_AUTH_RECV_ACCEPT_V6_DISCARD AleAuthRecvAccept V6 discard 0x89455b97_dbe1_453f_a224_13da895af396
    48 ALE_AUTH_CONNECT_V4 AleAuthConnect V4 regular 0xc38d57d1_05a7_4c33_904f_7fbceee60e82
    49 ALE_AUTH_CONNECT_V4_DISCARD AleAuthConnect V4 discard 0xd632a801_f5ba_4ad6_96e3_607017d9836a
    50 ALE_AUTH_CONNECT_V6 AleAuthConnect V6 regular 0x4a72393b_319f_44bc_84c3_ba54dcb3b6b4
    51 ALE_AUTH_CONNECT_V6_DISCARD AleAuthConnect V6 discard 0xc97bc3b8_c9a3_4e33_8695_8e17aad4de09
    52 ALE_FLOW_ESTABLISHED_V4 AleFlowEstablished V4 regular 0xaf80470a_5596_4c13_9992_539e6fe57967
    53 ALE_FLOW_ESTABLISHED_V4_DISCARD AleFlowEstablished V4 discard 0x146ae4a9_a1d2_4d43_a31a_4c42682b8e4f
    54 ALE_FLOW_ESTABLISHED_V6 AleFlowEstablished V6 regular 0x7021d2b3_dfa4_406e_afeb_6afaf7e70efd
    55 ALE_FLOW_ESTABLISHED_V6_DISCARD AleFlowEstablished V6 discard 0x46928636_bbca_4b76_941d_0fa7f5d7d372
    56 INBOUND_MAC_FRAME_ETHERNET InboundMacFrameEthernet - regular 0xeffb7edb_0055_4f9a_a231_4ff8131ad191
    57 OUTBOUND_MAC_FRAME_ETHERNET OutboundMacFrameEthernet - regular 0x694673bc_d6db_4870_adee_0acdbdb7f4b2
    58 INBOUND_MAC_FRAME_NATIVE InboundMacFrameNative - regular 0xd4220bd3_62ce_4f08_ae88_b56e8526df50
    59 OUTBOUND_MAC_FRAME_NATIVE OutboundMacFrameNative - regular 0x94c44912_9d6f_4ebf_b995_05ab8a088d1b
    60 NAME_RESOLUTION_CACHE_V4 NameResolutionCache V4 regular 0x0c2aa681_905b_4ccd_a467_4dd811d07b7b
    61 NAME_RESOLUTION_CACHE_V6 NameResolutionCache V6 regular 0x92d592fa_6b01_434a_9dea_d1e96ea97da9
    62 ALE_RESOURCE_RELEASE_V4 AleResourceRelease V4 regular 0x74365cce_ccb0_401a_bfc1_b89934ad7e15
    63 ALE_RESOURCE_RELEASE_V6 AleResourceRelease V6 regular 0xf4e5ce80_edcc_4e13_8a2f_b91454bb057b
    64 ALE_ENDPOINT_CLOSURE_V4 AleEndpointClosure V4 regular 0xb4766427_e2a2_467a_bd7e_dbcd1bd85a09
    65 ALE_ENDPOINT_CLOSURE_V6 AleEndpointClosure V6 regular 0xbb536ccd_4755_4ba9_9ff7_f9edf8699c7b
    66 ALE_CONNECT_REDIRECT_V4 AleConnectRedirect V4 regular 0xc6e63c8c_b784_4562_aa7d_0a67cfcaf9a3
    67 ALE_CONNECT_REDIRECT_V6 AleConnectRedirect V6 regular 0x587e54a7_8046_42ba_a0aa_b716250fc7fd
    68 ALE_BIND_REDIRECT_V4 AleBindRedirect V4 regular 0x66978cad_c704_42ac_86ac_7c1a231bd253
    69 ALE_BIND_REDIRECT_V6 AleBindRedirect V6 regular 0xbef02c9c_606b_4536_8c26_1c2fc7b631d4
    70 STREAM_PACKET_V4 StreamPacket V4 regular 0xaf52d8ec_cb2d_44e5_ad92_f8dc38d2eb29
    71 STREAM_PACKET_V6 StreamPacket V6 regular 0x779a8ca3_f099_468f_b5d4_83535c461c02
    72 INGRESS_VSWITCH_ETHERNET IngressVSwitchEthernet - regular 0x7d98577a_9a87_41ec_9718_7cf589c9f32d
    73 EGRESS_VSWITCH_ETHERNET EgressVSwitchEthernet - regular 0x86c872b0_76fa_4b79_93a4_0750530ae292
    74 INGRESS_VSWITCH_TRANSPORT_V4 IngressVSwitchTransport V4 regular 0xb2696ff6_774f_4554_9f7d_3da3945f8e85
    75 INGRESS_VSWITCH_TRANSPORT_V6 IngressVSwitchTransport V6 regular 0x5ee314fc_7d8a_47f4_b7e3_291a36da4e12
    76 EGRESS_VSWITCH_TRANSPORT_V4 EgressVSwitchTransport V4 regular 0xb92350b6_91f0_46b6_bdc4_871dfd4a7c98
    77 EGRESS_VSWITCH_TRANSPORT_V6 EgressVSwitchTransport V6 regular 0x1b2def23_1881_40bd_82f4_4254e63141cb
    78 INBOUND_TRANSPORT_FAST InboundTransportFast - regular 0xe41d2719_05c7_40f0_8983_ea8d17bbc2f6
    79 OUTBOUND_TRANSPORT_FAST OutboundTransportFast - regular 0x13ed4388_a070_4815_9935_7a9be6408b78
    80 INBOUND_MAC_FRAME_NATIVE_FAST InboundMacFrameNativeFast - regular 0x853aaa8e_2b78_4d24_a804_36db08b29711
    81 OUTBOUND_MAC_FRAME_NATIVE_FAST OutboundMacFrameNativeFast - regular 0x470df946_c962_486f_9446_8293cbc75eb8
}
