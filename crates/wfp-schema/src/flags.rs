//! Every set of flags as a type of its own; each constant is named after the
//! header's name without the common prefix.

flag_set! {
    /// `FWPM_FILTER0.flags`: what is asked of a filter when it is added.
    pub struct FilterFlags(u32);
    /// `FWPM_FILTER_FLAG_PERSISTENT`. Comes back when the base filtering engine starts. Excludes `BOOTTIME`.
    PERSISTENT = 0x1;
    /// `FWPM_FILTER_FLAG_BOOTTIME`. In force until the base filtering engine has started.
    BOOTTIME = 0x2;
    /// `FWPM_FILTER_FLAG_HAS_PROVIDER_CONTEXT`. The context is a provider context.
    HAS_PROVIDER_CONTEXT = 0x4;
    /// `FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT`. Lighter sublayers may not override the filter's action.
    CLEAR_ACTION_RIGHT = 0x8;
    /// `FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED`. Permits while the callout is not registered; terminating and unknown callout actions only.
    PERMIT_IF_CALLOUT_UNREGISTERED = 0x10;
    /// `FWPM_FILTER_FLAG_DISABLED`. Output only.
    DISABLED = 0x20;
    /// `FWPM_FILTER_FLAG_INDEXED`. Asks for an index over the filters of the layer.
    INDEXED = 0x40;
    /// `FWPM_FILTER_FLAG_HAS_SECURITY_REALM_PROVIDER_CONTEXT`.
    HAS_SECURITY_REALM_PROVIDER_CONTEXT = 0x80;
    /// `FWPM_FILTER_FLAG_SYSTEMOS_ONLY`.
    SYSTEMOS_ONLY = 0x100;
    /// `FWPM_FILTER_FLAG_GAMEOS_ONLY`.
    GAMEOS_ONLY = 0x200;
    /// `FWPM_FILTER_FLAG_SILENT_MODE`.
    SILENT_MODE = 0x400;
    /// `FWPM_FILTER_FLAG_IPSEC_NO_ACQUIRE_INITIATE`.
    IPSEC_NO_ACQUIRE_INITIATE = 0x800;
    /// `FWPM_FILTER_FLAG_RESERVED0`.
    RESERVED0 = 0x1000;
    /// `FWPM_FILTER_FLAG_RESERVED1`.
    RESERVED1 = 0x2000;
}

flag_set! {
    /// `FWPS_FILTER0.flags`: what a callout sees of a filter.
    pub struct RuntimeFilterFlags(u16);
    /// `FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT`. A callout that permits has to clear the action right.
    CLEAR_ACTION_RIGHT = 0x1;
    /// `FWPS_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED`.
    PERMIT_IF_CALLOUT_UNREGISTERED = 0x2;
    /// `FWPS_FILTER_FLAG_OR_CONDITIONS`. Two conditions of one field are alternatives.
    OR_CONDITIONS = 0x4;
    /// `FWPS_FILTER_FLAG_HAS_SECURITY_REALM_PROVIDER_CONTEXT`.
    HAS_SECURITY_REALM_PROVIDER_CONTEXT = 0x8;
    /// `FWPS_FILTER_FLAG_SILENT_MODE`.
    SILENT_MODE = 0x10;
    /// `FWPS_FILTER_FLAG_IPSEC_NO_ACQUIRE_INITIATE`.
    IPSEC_NO_ACQUIRE_INITIATE = 0x20;
    /// `FWPS_FILTER_FLAG_RESERVED0`.
    RESERVED0 = 0x40;
    /// `FWPS_FILTER_FLAG_RESERVED1`.
    RESERVED1 = 0x80;
    /// `FWPS_FILTER_FLAG_RESERVED2`.
    RESERVED2 = 0x100;
}

flag_set! {
    /// `FWPS_CALLOUT0.flags`: what a registered callout tolerates and wants.
    pub struct CalloutFlags(u32);
    /// `FWP_CALLOUT_FLAG_CONDITIONAL_ON_FLOW`. Called only on flows that carry a context of the callout.
    CONDITIONAL_ON_FLOW = 0x1;
    /// `FWP_CALLOUT_FLAG_ALLOW_OFFLOAD`. Offload stays enabled for its traffic.
    ALLOW_OFFLOAD = 0x2;
    /// `FWP_CALLOUT_FLAG_ENABLE_COMMIT_ADD_NOTIFY`. Notified again after the transaction that added a filter.
    ENABLE_COMMIT_ADD_NOTIFY = 0x4;
    /// `FWP_CALLOUT_FLAG_ALLOW_MID_STREAM_INSPECTION`. May begin to inspect streams that exist already.
    ALLOW_MID_STREAM_INSPECTION = 0x8;
    /// `FWP_CALLOUT_FLAG_ALLOW_RECLASSIFY`. Called when a bind or listen is classified again.
    ALLOW_RECLASSIFY = 0x10;
    /// `FWP_CALLOUT_FLAG_RESERVED1`.
    RESERVED1 = 0x20;
    /// `FWP_CALLOUT_FLAG_ALLOW_RSC`. Accepts coalesced TCP segments.
    ALLOW_RSC = 0x40;
    /// `FWP_CALLOUT_FLAG_ALLOW_L2_BATCH_CLASSIFY`. Accepts chains of buffer lists at layer 2.
    ALLOW_L2_BATCH_CLASSIFY = 0x80;
    /// `FWP_CALLOUT_FLAG_ALLOW_USO`. UDP segmentation offload stays enabled for its traffic.
    ALLOW_USO = 0x100;
    /// `FWP_CALLOUT_FLAG_ALLOW_URO`. UDP receive offload stays enabled for its traffic.
    ALLOW_URO = 0x200;
    /// `FWP_CALLOUT_FLAG_RESERVED2`.
    RESERVED2 = 0x400;
}

flag_set! {
    /// `FWPM_CALLOUT0.flags`.
    pub struct ManagementCalloutFlags(u32);
    /// `FWPM_CALLOUT_FLAG_PERSISTENT`.
    PERSISTENT = 0x0001_0000;
    /// `FWPM_CALLOUT_FLAG_USES_PROVIDER_CONTEXT`. Filters of the callout carry their provider context.
    USES_PROVIDER_CONTEXT = 0x0002_0000;
    /// `FWPM_CALLOUT_FLAG_REGISTERED`. Output only: registered in the kernel.
    REGISTERED = 0x0004_0000;
}

flag_set! {
    /// `FWPM_SESSION0.flags`.
    pub struct SessionFlags(u32);
    /// `FWPM_SESSION_FLAG_DYNAMIC`. Objects added in the session go when it ends.
    DYNAMIC = 0x1;
    /// `FWPM_SESSION_FLAG_RESERVED`.
    RESERVED = 0x1000_0000;
}

flag_set! {
    /// `FWPS_CLASSIFY_OUT0.flags`.
    pub struct ClassifyOutFlags(u32);
    /// `FWPS_CLASSIFY_OUT_FLAG_ABSORB`. With a block: drop silently.
    ABSORB = 0x1;
    /// `FWPS_CLASSIFY_OUT_FLAG_BUFFER_LIMIT_REACHED`. The stream callout has to decide about everything indicated.
    BUFFER_LIMIT_REACHED = 0x2;
    /// `FWPS_CLASSIFY_OUT_FLAG_NO_MORE_DATA`. The stream has ended; asking for more data is forbidden.
    NO_MORE_DATA = 0x4;
    /// `FWPS_CLASSIFY_OUT_FLAG_ALE_FAST_CACHE_CHECK`.
    ALE_FAST_CACHE_CHECK = 0x8;
    /// `FWPS_CLASSIFY_OUT_FLAG_ALE_FAST_CACHE_POSSIBLE`.
    ALE_FAST_CACHE_POSSIBLE = 0x10;
}

flag_set! {
    /// The value of the `FLAGS` field of IP and ALE layers.
    pub struct ConditionFlags(u32);
    /// `FWP_CONDITION_FLAG_IS_LOOPBACK`.
    IS_LOOPBACK = 0x1;
    /// `FWP_CONDITION_FLAG_IS_IPSEC_SECURED`.
    IS_IPSEC_SECURED = 0x2;
    /// `FWP_CONDITION_FLAG_IS_REAUTHORIZE`.
    IS_REAUTHORIZE = 0x4;
    /// `FWP_CONDITION_FLAG_IS_WILDCARD_BIND`.
    IS_WILDCARD_BIND = 0x8;
    /// `FWP_CONDITION_FLAG_IS_RAW_ENDPOINT`.
    IS_RAW_ENDPOINT = 0x10;
    /// `FWP_CONDITION_FLAG_IS_FRAGMENT`.
    IS_FRAGMENT = 0x20;
    /// `FWP_CONDITION_FLAG_IS_FRAGMENT_GROUP`.
    IS_FRAGMENT_GROUP = 0x40;
    /// `FWP_CONDITION_FLAG_IS_IPSEC_NATT_RECLASSIFY`.
    IS_IPSEC_NATT_RECLASSIFY = 0x80;
    /// `FWP_CONDITION_FLAG_REQUIRES_ALE_CLASSIFY`.
    REQUIRES_ALE_CLASSIFY = 0x100;
    /// `FWP_CONDITION_FLAG_IS_IMPLICIT_BIND`.
    IS_IMPLICIT_BIND = 0x200;
    /// `FWP_CONDITION_FLAG_IS_REASSEMBLED`.
    IS_REASSEMBLED = 0x400;
    /// `FWP_CONDITION_FLAG_IS_NAME_APP_SPECIFIED`.
    IS_NAME_APP_SPECIFIED = 0x4000;
    /// `FWP_CONDITION_FLAG_IS_PROMISCUOUS`.
    IS_PROMISCUOUS = 0x8000;
    /// `FWP_CONDITION_FLAG_IS_AUTH_FW`.
    IS_AUTH_FW = 0x0001_0000;
    /// `FWP_CONDITION_FLAG_IS_RECLASSIFY`.
    IS_RECLASSIFY = 0x0002_0000;
    /// `FWP_CONDITION_FLAG_IS_OUTBOUND_PASS_THRU`.
    IS_OUTBOUND_PASS_THRU = 0x0004_0000;
    /// `FWP_CONDITION_FLAG_IS_INBOUND_PASS_THRU`.
    IS_INBOUND_PASS_THRU = 0x0008_0000;
    /// `FWP_CONDITION_FLAG_IS_CONNECTION_REDIRECTED`.
    IS_CONNECTION_REDIRECTED = 0x0010_0000;
    /// `FWP_CONDITION_FLAG_IS_PROXY_CONNECTION`.
    IS_PROXY_CONNECTION = 0x0020_0000;
    /// `FWP_CONDITION_FLAG_IS_APPCONTAINER_LOOPBACK`.
    IS_APPCONTAINER_LOOPBACK = 0x0040_0000;
    /// `FWP_CONDITION_FLAG_IS_NON_APPCONTAINER_LOOPBACK`.
    IS_NON_APPCONTAINER_LOOPBACK = 0x0080_0000;
    /// `FWP_CONDITION_FLAG_IS_RESERVED`.
    IS_RESERVED = 0x0100_0000;
    /// `FWP_CONDITION_FLAG_IS_HONORING_POLICY_AUTHORIZE`.
    IS_HONORING_POLICY_AUTHORIZE = 0x0200_0000;
}

flag_set! {
    /// The value of the `REAUTHORIZE_REASON` field.
    pub struct ReauthorizeReason(u32);
    /// `FWP_CONDITION_REAUTHORIZE_REASON_POLICY_CHANGE`.
    POLICY_CHANGE = 0x1;
    /// `FWP_CONDITION_REAUTHORIZE_REASON_NEW_ARRIVAL_INTERFACE`.
    NEW_ARRIVAL_INTERFACE = 0x2;
    /// `FWP_CONDITION_REAUTHORIZE_REASON_NEW_NEXTHOP_INTERFACE`.
    NEW_NEXTHOP_INTERFACE = 0x4;
    /// `FWP_CONDITION_REAUTHORIZE_REASON_PROFILE_CROSSING`.
    PROFILE_CROSSING = 0x8;
    /// `FWP_CONDITION_REAUTHORIZE_REASON_CLASSIFY_COMPLETION`.
    CLASSIFY_COMPLETION = 0x10;
    /// `FWP_CONDITION_REAUTHORIZE_REASON_IPSEC_PROPERTIES_CHANGED`.
    IPSEC_PROPERTIES_CHANGED = 0x20;
    /// `FWP_CONDITION_REAUTHORIZE_REASON_MID_STREAM_INSPECTION`.
    MID_STREAM_INSPECTION = 0x40;
    /// `FWP_CONDITION_REAUTHORIZE_REASON_SOCKET_PROPERTY_CHANGED`.
    SOCKET_PROPERTY_CHANGED = 0x80;
    /// `FWP_CONDITION_REAUTHORIZE_REASON_NEW_INBOUND_MCAST_BCAST_PACKET`.
    NEW_INBOUND_MCAST_BCAST_PACKET = 0x100;
    /// `FWP_CONDITION_REAUTHORIZE_REASON_EDP_POLICY_CHANGED`.
    EDP_POLICY_CHANGED = 0x200;
    /// `FWP_CONDITION_REAUTHORIZE_REASON_PROXY_HANDLE_CHANGED`.
    PROXY_HANDLE_CHANGED = 0x4000;
    /// `FWP_CONDITION_REAUTHORIZE_REASON_CHECK_OFFLOAD`.
    CHECK_OFFLOAD = 0x0001_0000;
}

flag_set! {
    /// The value of the `L2_FLAGS` field.
    pub struct L2Flags(u32);
    /// `FWP_CONDITION_L2_IS_NATIVE_ETHERNET`.
    IS_NATIVE_ETHERNET = 0x1;
    /// `FWP_CONDITION_L2_IS_WIFI`.
    IS_WIFI = 0x2;
    /// `FWP_CONDITION_L2_IS_MOBILE_BROADBAND`.
    IS_MOBILE_BROADBAND = 0x4;
    /// `FWP_CONDITION_L2_IS_WIFI_DIRECT_DATA`.
    IS_WIFI_DIRECT_DATA = 0x8;
    /// `FWP_CONDITION_L2_IS_VM2VM`.
    IS_VM2VM = 0x10;
    /// `FWP_CONDITION_L2_IS_MALFORMED_PACKET`.
    IS_MALFORMED_PACKET = 0x20;
    /// `FWP_CONDITION_L2_IS_IP_FRAGMENT_GROUP`.
    IS_IP_FRAGMENT_GROUP = 0x40;
    /// `FWP_CONDITION_L2_IF_CONNECTOR_PRESENT`.
    IF_CONNECTOR_PRESENT = 0x80;
}

flag_set! {
    /// The value of the `SIO_FIREWALL_*` fields.
    pub struct SocketProperties(u32);
    /// `FWP_CONDITION_SOCKET_PROPERTY_FLAG_IS_SYSTEM_PORT_RPC`.
    IS_SYSTEM_PORT_RPC = 0x1;
    /// `FWP_CONDITION_SOCKET_PROPERTY_FLAG_ALLOW_EDGE_TRAFFIC`.
    ALLOW_EDGE_TRAFFIC = 0x2;
    /// `FWP_CONDITION_SOCKET_PROPERTY_FLAG_DENY_EDGE_TRAFFIC`.
    DENY_EDGE_TRAFFIC = 0x4;
}

flag_set! {
    /// `FWPS_INCOMING_METADATA_VALUES0.currentMetadataValues`: which members are valid.
    pub struct MetadataFields(u32);
    /// `FWPS_METADATA_FIELD_DISCARD_REASON`.
    DISCARD_REASON = 0x1;
    /// `FWPS_METADATA_FIELD_FLOW_HANDLE`.
    FLOW_HANDLE = 0x2;
    /// `FWPS_METADATA_FIELD_IP_HEADER_SIZE`.
    IP_HEADER_SIZE = 0x4;
    /// `FWPS_METADATA_FIELD_PROCESS_PATH`.
    PROCESS_PATH = 0x8;
    /// `FWPS_METADATA_FIELD_TOKEN`.
    TOKEN = 0x10;
    /// `FWPS_METADATA_FIELD_PROCESS_ID`.
    PROCESS_ID = 0x20;
    /// `FWPS_METADATA_FIELD_SYSTEM_FLAGS`.
    SYSTEM_FLAGS = 0x40;
    /// `FWPS_METADATA_FIELD_RESERVED`.
    RESERVED = 0x80;
    /// `FWPS_METADATA_FIELD_SOURCE_INTERFACE_INDEX`.
    SOURCE_INTERFACE_INDEX = 0x100;
    /// `FWPS_METADATA_FIELD_DESTINATION_INTERFACE_INDEX`.
    DESTINATION_INTERFACE_INDEX = 0x200;
    /// `FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE`.
    TRANSPORT_HEADER_SIZE = 0x400;
    /// `FWPS_METADATA_FIELD_COMPARTMENT_ID`.
    COMPARTMENT_ID = 0x800;
    /// `FWPS_METADATA_FIELD_FRAGMENT_DATA`.
    FRAGMENT_DATA = 0x1000;
    /// `FWPS_METADATA_FIELD_PATH_MTU`.
    PATH_MTU = 0x2000;
    /// `FWPS_METADATA_FIELD_COMPLETION_HANDLE`.
    COMPLETION_HANDLE = 0x4000;
    /// `FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE`.
    TRANSPORT_ENDPOINT_HANDLE = 0x8000;
    /// `FWPS_METADATA_FIELD_TRANSPORT_CONTROL_DATA`.
    TRANSPORT_CONTROL_DATA = 0x0001_0000;
    /// `FWPS_METADATA_FIELD_REMOTE_SCOPE_ID`.
    REMOTE_SCOPE_ID = 0x0002_0000;
    /// `FWPS_METADATA_FIELD_PACKET_DIRECTION`.
    PACKET_DIRECTION = 0x0004_0000;
    /// `FWPS_METADATA_FIELD_PACKET_SYSTEM_CRITICAL`.
    PACKET_SYSTEM_CRITICAL = 0x0008_0000;
    /// `FWPS_METADATA_FIELD_FORWARD_LAYER_OUTBOUND_PASS_THRU`.
    FORWARD_LAYER_OUTBOUND_PASS_THRU = 0x0010_0000;
    /// `FWPS_METADATA_FIELD_FORWARD_LAYER_INBOUND_PASS_THRU`.
    FORWARD_LAYER_INBOUND_PASS_THRU = 0x0020_0000;
    /// `FWPS_METADATA_FIELD_ALE_CLASSIFY_REQUIRED`.
    ALE_CLASSIFY_REQUIRED = 0x0040_0000;
    /// `FWPS_METADATA_FIELD_TRANSPORT_HEADER_INCLUDE_HEADER`.
    TRANSPORT_HEADER_INCLUDE_HEADER = 0x0080_0000;
    /// `FWPS_METADATA_FIELD_DESTINATION_PREFIX`.
    DESTINATION_PREFIX = 0x0100_0000;
    /// `FWPS_METADATA_FIELD_ETHER_FRAME_LENGTH`.
    ETHER_FRAME_LENGTH = 0x0200_0000;
    /// `FWPS_METADATA_FIELD_PARENT_ENDPOINT_HANDLE`.
    PARENT_ENDPOINT_HANDLE = 0x0400_0000;
    /// `FWPS_METADATA_FIELD_ICMP_ID_AND_SEQUENCE`.
    ICMP_ID_AND_SEQUENCE = 0x0800_0000;
    /// `FWPS_METADATA_FIELD_LOCAL_REDIRECT_TARGET_PID`.
    LOCAL_REDIRECT_TARGET_PID = 0x1000_0000;
    /// `FWPS_METADATA_FIELD_ORIGINAL_DESTINATION`.
    ORIGINAL_DESTINATION = 0x2000_0000;
    /// `FWPS_METADATA_FIELD_REDIRECT_RECORD_HANDLE`.
    REDIRECT_RECORD_HANDLE = 0x4000_0000;
    /// `FWPS_METADATA_FIELD_SUB_PROCESS_TAG`.
    SUB_PROCESS_TAG = 0x8000_0000;
}

flag_set! {
    /// `FWPS_INCOMING_METADATA_VALUES0.currentL2MetadataValues`.
    pub struct L2MetadataFields(u32);
    /// `FWPS_L2_METADATA_FIELD_ETHERNET_MAC_HEADER_SIZE`.
    ETHERNET_MAC_HEADER_SIZE = 0x1;
    /// `FWPS_L2_METADATA_FIELD_WIFI_OPERATION_MODE`.
    WIFI_OPERATION_MODE = 0x2;
    /// `FWPS_L2_METADATA_FIELD_VSWITCH_SOURCE_PORT_ID`.
    VSWITCH_SOURCE_PORT_ID = 0x4;
    /// `FWPS_L2_METADATA_FIELD_VSWITCH_SOURCE_NIC_INDEX`.
    VSWITCH_SOURCE_NIC_INDEX = 0x8;
    /// `FWPS_L2_METADATA_FIELD_VSWITCH_PACKET_CONTEXT`.
    VSWITCH_PACKET_CONTEXT = 0x10;
    /// `FWPS_L2_METADATA_FIELD_VSWITCH_DESTINATION_PORT_ID`.
    VSWITCH_DESTINATION_PORT_ID = 0x20;
    /// `FWPS_L2_METADATA_FIELD_RESERVED`.
    RESERVED = 0x8000_0000;
}

flag_set! {
    /// `FWPS_INCOMING_METADATA_VALUES0.flags`.
    pub struct IncomingFlags(u32);
    /// `FWPS_INCOMING_FLAG_CACHE_SAFE`.
    CACHE_SAFE = 0x1;
    /// `FWPS_INCOMING_FLAG_ENFORCE_QUERY`.
    ENFORCE_QUERY = 0x2;
    /// `FWPS_INCOMING_FLAG_ABSORB`.
    ABSORB = 0x4;
    /// `FWPS_INCOMING_FLAG_CONNECTION_FAILING_INDICATION`.
    CONNECTION_FAILING_INDICATION = 0x8;
    /// `FWPS_INCOMING_FLAG_MID_STREAM_INSPECTION`.
    MID_STREAM_INSPECTION = 0x10;
    /// `FWPS_INCOMING_FLAG_RECLASSIFY`.
    RECLASSIFY = 0x20;
    /// `FWPS_INCOMING_FLAG_IS_LOOSE_SOURCE_FLOW`.
    IS_LOOSE_SOURCE_FLOW = 0x40;
    /// `FWPS_INCOMING_FLAG_IS_LOCAL_ONLY_FLOW`.
    IS_LOCAL_ONLY_FLOW = 0x80;
    /// `FWPS_INCOMING_FLAG_RESERVED0`.
    RESERVED0 = 0x100;
}

flag_set! {
    /// `FWPS_STREAM_DATA0.flags`: direction and kind of a piece of a stream.
    pub struct StreamFlags(u32);
    /// `FWPS_STREAM_FLAG_RECEIVE`. Inbound data.
    RECEIVE = 0x1;
    /// `FWPS_STREAM_FLAG_RECEIVE_EXPEDITED`.
    RECEIVE_EXPEDITED = 0x2;
    /// `FWPS_STREAM_FLAG_RECEIVE_DISCONNECT`. The peer has closed its direction.
    RECEIVE_DISCONNECT = 0x4;
    /// `FWPS_STREAM_FLAG_RECEIVE_ABORT`. The peer has reset the connection.
    RECEIVE_ABORT = 0x8;
    /// `FWPS_STREAM_FLAG_RECEIVE_PUSH`.
    RECEIVE_PUSH = 0x10;
    /// `FWPS_STREAM_FLAG_SEND`. Outbound data.
    SEND = 0x0001_0000;
    /// `FWPS_STREAM_FLAG_SEND_EXPEDITED`.
    SEND_EXPEDITED = 0x0002_0000;
    /// `FWPS_STREAM_FLAG_SEND_NODELAY`.
    SEND_NODELAY = 0x0004_0000;
    /// `FWPS_STREAM_FLAG_SEND_DISCONNECT`. The host has closed its direction.
    SEND_DISCONNECT = 0x0008_0000;
    /// `FWPS_STREAM_FLAG_SEND_ABORT`. The host has reset the connection.
    SEND_ABORT = 0x0010_0000;
}

flag_set! {
    /// What an injection handle is made for.
    pub struct InjectionType(u32);
    /// `FWPS_INJECTION_TYPE_STREAM`.
    STREAM = 0x1;
    /// `FWPS_INJECTION_TYPE_TRANSPORT`.
    TRANSPORT = 0x2;
    /// `FWPS_INJECTION_TYPE_NETWORK`.
    NETWORK = 0x4;
    /// `FWPS_INJECTION_TYPE_FORWARD`.
    FORWARD = 0x8;
    /// `FWPS_INJECTION_TYPE_L2`.
    L2 = 0x10;
}

flag_set! {
    /// `FWP_FILTER_ENUM_FLAG_*`: which filters an enumeration returns, and in which order.
    pub struct FilterEnumFlags(u32);
    /// `FWP_FILTER_ENUM_FLAG_BEST_TERMINATING_MATCH`. Only the heaviest terminating filter.
    BEST_TERMINATING_MATCH = 0x1;
    /// `FWP_FILTER_ENUM_FLAG_SORTED`. The heaviest first.
    SORTED = 0x2;
    /// `FWP_FILTER_ENUM_FLAG_BOOTTIME_ONLY`. Only boot-time filters.
    BOOTTIME_ONLY = 0x4;
    /// `FWP_FILTER_ENUM_FLAG_INCLUDE_BOOTTIME`. Boot-time filters too.
    INCLUDE_BOOTTIME = 0x8;
    /// `FWP_FILTER_ENUM_FLAG_INCLUDE_DISABLED`. Disabled filters too.
    INCLUDE_DISABLED = 0x10;
    /// `FWP_FILTER_ENUM_FLAG_RESERVED1`.
    RESERVED1 = 0x20;
}

flag_set! {
    /// `FWPM_ACTRL_*` and the standard and generic rights: what an access control
    /// entry grants to a user-mode caller. Kernel callers need none.
    pub struct AccessRights(u32);
    /// `FWPM_ACTRL_ADD`. To add an object to a container.
    ADD = 0x1;
    /// `FWPM_ACTRL_ADD_LINK`. To name the object in another.
    ADD_LINK = 0x2;
    /// `FWPM_ACTRL_BEGIN_READ_TXN`. To begin a transaction.
    BEGIN_READ_TXN = 0x4;
    /// `FWPM_ACTRL_BEGIN_WRITE_TXN`. To begin one that writes.
    BEGIN_WRITE_TXN = 0x8;
    /// `FWPM_ACTRL_CLASSIFY`. To classify at a user-mode layer.
    CLASSIFY = 0x10;
    /// `FWPM_ACTRL_ENUM`. To enumerate a container.
    ENUM = 0x20;
    /// `FWPM_ACTRL_OPEN`. To open a session.
    OPEN = 0x40;
    /// `FWPM_ACTRL_READ`. To read an object.
    READ = 0x80;
    /// `FWPM_ACTRL_READ_STATS`. To read statistics.
    READ_STATS = 0x100;
    /// `FWPM_ACTRL_SUBSCRIBE`. To be told of changes.
    SUBSCRIBE = 0x200;
    /// `FWPM_ACTRL_WRITE`. To set the engine's options.
    WRITE = 0x400;
    /// `DELETE`. To delete the object.
    DELETE = 0x0001_0000;
    /// `READ_CONTROL`. To read the security descriptor.
    READ_CONTROL = 0x0002_0000;
    /// `WRITE_DAC`. To change the discretionary access control list.
    WRITE_DAC = 0x0004_0000;
    /// `WRITE_OWNER`. To change the owner.
    WRITE_OWNER = 0x0008_0000;
    /// `GENERIC_ALL`.
    GENERIC_ALL = 0x1000_0000;
    /// `GENERIC_EXECUTE`.
    GENERIC_EXECUTE = 0x2000_0000;
    /// `GENERIC_WRITE`.
    GENERIC_WRITE = 0x4000_0000;
    /// `GENERIC_READ`.
    GENERIC_READ = 0x8000_0000;
}

impl AccessRights {
    /// The rights for which the generic ones stand (`FWPM_GENERIC_READ` and so on).
    #[must_use]
    pub const fn specific(self) -> Self {
        const READ: AccessRights = AccessRights::READ_CONTROL
            .union(AccessRights::BEGIN_READ_TXN)
            .union(AccessRights::CLASSIFY)
            .union(AccessRights::OPEN)
            .union(AccessRights::READ)
            .union(AccessRights::READ_STATS);
        const EXECUTE: AccessRights = AccessRights::READ_CONTROL
            .union(AccessRights::ENUM)
            .union(AccessRights::SUBSCRIBE);
        const WRITE: AccessRights = AccessRights::READ_CONTROL
            .union(AccessRights::DELETE)
            .union(AccessRights::ADD)
            .union(AccessRights::ADD_LINK)
            .union(AccessRights::BEGIN_WRITE_TXN)
            .union(AccessRights::WRITE);
        const ALL: AccessRights = READ
            .union(EXECUTE)
            .union(WRITE)
            .union(AccessRights::WRITE_DAC)
            .union(AccessRights::WRITE_OWNER);
        const GENERIC: AccessRights = AccessRights::GENERIC_READ
            .union(AccessRights::GENERIC_WRITE)
            .union(AccessRights::GENERIC_EXECUTE)
            .union(AccessRights::GENERIC_ALL);
        let mut rights = self.without(GENERIC);
        if self.contains(Self::GENERIC_READ) {
            rights = rights.union(READ);
        }
        if self.contains(Self::GENERIC_WRITE) {
            rights = rights.union(WRITE);
        }
        if self.contains(Self::GENERIC_EXECUTE) {
            rights = rights.union(EXECUTE);
        }
        if self.contains(Self::GENERIC_ALL) {
            rights = rights.union(ALL);
        }
        rights
    }
}
