//! Fields of the layers of the data link and of the virtual switch.

fields! {
    /// Fields of `INBOUND_MAC_FRAME_ETHERNET`.
    pub mod inbound_mac_frame_ethernet;
    0 INTERFACE_MAC_ADDRESS: ByteArray6,
    1 MAC_LOCAL_ADDRESS: ByteArray6,
    2 MAC_REMOTE_ADDRESS: ByteArray6,
    3 MAC_LOCAL_ADDRESS_TYPE: Uint8,
    4 MAC_REMOTE_ADDRESS_TYPE: Uint8,
    5 ETHER_TYPE: Uint16,
    6 VLAN_ID: Uint16,
    7 INTERFACE: Uint64,
    8 INTERFACE_INDEX: Uint32,
    9 NDIS_PORT: Uint32,
    10 L2_FLAGS: Uint32,
    11 COMPARTMENT_ID: Uint32,
}

fields! {
    /// Fields of `OUTBOUND_MAC_FRAME_ETHERNET`.
    pub mod outbound_mac_frame_ethernet;
    0 INTERFACE_MAC_ADDRESS: ByteArray6,
    1 MAC_LOCAL_ADDRESS: ByteArray6,
    2 MAC_REMOTE_ADDRESS: ByteArray6,
    3 MAC_LOCAL_ADDRESS_TYPE: Uint8,
    4 MAC_REMOTE_ADDRESS_TYPE: Uint8,
    5 ETHER_TYPE: Uint16,
    6 VLAN_ID: Uint16,
    7 INTERFACE: Uint64,
    8 INTERFACE_INDEX: Uint32,
    9 NDIS_PORT: Uint32,
    10 L2_FLAGS: Uint32,
    11 COMPARTMENT_ID: Uint32,
}

fields! {
    /// Fields of `INBOUND_MAC_FRAME_NATIVE`.
    pub mod inbound_mac_frame_native;
    0 NDIS_MEDIA_TYPE: Uint32,
    1 NDIS_PHYSICAL_MEDIA_TYPE: Uint32,
    2 INTERFACE: Uint64,
    3 INTERFACE_TYPE: Uint32,
    4 INTERFACE_INDEX: Uint32,
    5 NDIS_PORT: Uint32,
    6 L2_FLAGS: Uint32,
    7 COMPARTMENT_ID: Uint32,
}

fields! {
    /// Fields of `OUTBOUND_MAC_FRAME_NATIVE`.
    pub mod outbound_mac_frame_native;
    0 NDIS_MEDIA_TYPE: Uint32,
    1 NDIS_PHYSICAL_MEDIA_TYPE: Uint32,
    2 INTERFACE: Uint64,
    3 INTERFACE_TYPE: Uint32,
    4 INTERFACE_INDEX: Uint32,
    5 NDIS_PORT: Uint32,
    6 L2_FLAGS: Uint32,
    7 COMPARTMENT_ID: Uint32,
}

fields! {
    /// Fields of `INGRESS_VSWITCH_ETHERNET`.
    pub mod ingress_vswitch_ethernet;
    0 MAC_SOURCE_ADDRESS: ByteArray6,
    1 MAC_SOURCE_ADDRESS_TYPE: Uint8,
    2 MAC_DESTINATION_ADDRESS: ByteArray6,
    3 MAC_DESTINATION_ADDRESS_TYPE: Uint8,
    4 ETHER_TYPE: Uint16,
    5 VLAN_ID: Uint16,
    6 VSWITCH_TENANT_NETWORK_ID: Uint16,
    7 VSWITCH_ID: ByteBlob,
    8 VSWITCH_NETWORK_TYPE: Uint8,
    9 VSWITCH_SOURCE_INTERFACE_ID: ByteBlob,
    10 VSWITCH_SOURCE_INTERFACE_TYPE: Uint8,
    11 VSWITCH_SOURCE_VM_ID: ByteBlob,
    12 L2_FLAGS: Uint32,
    13 COMPARTMENT_ID: Uint32,
}

fields! {
    /// Fields of `EGRESS_VSWITCH_ETHERNET`.
    pub mod egress_vswitch_ethernet;
    0 MAC_SOURCE_ADDRESS: ByteArray6,
    1 MAC_SOURCE_ADDRESS_TYPE: Uint8,
    2 MAC_DESTINATION_ADDRESS: ByteArray6,
    3 MAC_DESTINATION_ADDRESS_TYPE: Uint8,
    4 ETHER_TYPE: Uint16,
    5 VLAN_ID: Uint16,
    6 VSWITCH_TENANT_NETWORK_ID: Uint16,
    7 VSWITCH_ID: ByteBlob,
    8 VSWITCH_NETWORK_TYPE: Uint8,
    9 VSWITCH_SOURCE_INTERFACE_ID: ByteBlob,
    10 VSWITCH_SOURCE_INTERFACE_TYPE: Uint8,
    11 VSWITCH_SOURCE_VM_ID: ByteBlob,
    12 VSWITCH_DESTINATION_INTERFACE_ID: ByteBlob,
    13 VSWITCH_DESTINATION_INTERFACE_TYPE: Uint8,
    14 VSWITCH_DESTINATION_VM_ID: ByteBlob,
    15 L2_FLAGS: Uint32,
    16 COMPARTMENT_ID: Uint32,
}

fields! {
    /// Fields of `INGRESS_VSWITCH_TRANSPORT`.
    pub mod ingress_vswitch_transport;
    0 IP_SOURCE_ADDRESS: Address,
    1 IP_DESTINATION_ADDRESS: Address,
    2 IP_PROTOCOL: Uint8,
    3 IP_SOURCE_PORT: Uint16,
    4 IP_DESTINATION_PORT: Uint16,
    5 VLAN_ID: Uint16,
    6 VSWITCH_TENANT_NETWORK_ID: Uint16,
    7 VSWITCH_ID: ByteBlob,
    8 VSWITCH_NETWORK_TYPE: Uint8,
    9 VSWITCH_SOURCE_INTERFACE_ID: ByteBlob,
    10 VSWITCH_SOURCE_INTERFACE_TYPE: Uint8,
    11 VSWITCH_SOURCE_VM_ID: ByteBlob,
    12 L2_FLAGS: Uint32,
    13 COMPARTMENT_ID: Uint32,
}

fields! {
    /// Fields of `EGRESS_VSWITCH_TRANSPORT`.
    pub mod egress_vswitch_transport;
    0 IP_SOURCE_ADDRESS: Address,
    1 IP_DESTINATION_ADDRESS: Address,
    2 IP_PROTOCOL: Uint8,
    3 IP_SOURCE_PORT: Uint16,
    4 IP_DESTINATION_PORT: Uint16,
    5 VLAN_ID: Uint16,
    6 VSWITCH_TENANT_NETWORK_ID: Uint16,
    7 VSWITCH_ID: ByteBlob,
    8 VSWITCH_NETWORK_TYPE: Uint8,
    9 VSWITCH_SOURCE_INTERFACE_ID: ByteBlob,
    10 VSWITCH_SOURCE_INTERFACE_TYPE: Uint8,
    11 VSWITCH_SOURCE_VM_ID: ByteBlob,
    12 VSWITCH_DESTINATION_INTERFACE_ID: ByteBlob,
    13 VSWITCH_DESTINATION_INTERFACE_TYPE: Uint8,
    14 VSWITCH_DESTINATION_VM_ID: ByteBlob,
    15 L2_FLAGS: Uint32,
    16 COMPARTMENT_ID: Uint32,
}
