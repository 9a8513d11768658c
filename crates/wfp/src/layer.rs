//! Layers as types: which fields a classify there has, what data comes with it, and which
//! verdicts are legal.
//!
//! IPv4 and IPv6 are one type. A field is found in the schema's table when the driver is
//! compiled: a callout that asks for one that its layer lacks (such as the remote port of a
//! socket that listens) does not compile, nor does one that answers with a block where it is too
//! late for that.

use core::{
    ffi::c_void,
    marker::PhantomData,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use wfp_schema::{
    ConditionFlags, Direction, FieldIndex, IpVersion, Layer, LayerId, LayerKind, field::FieldType,
    flags::ReauthorizeReason,
};

use crate::{
    nbl::Packet,
    redirect::{BindRequest, ConnectRequest},
    stream::Indication,
    token,
    values::{Value, Values},
    verdict::{Authorization, Seen, StreamOut, StreamVerdict, Verdict},
};

mod sealed {
    pub trait Sealed {}
}

/// A layer with both IP versions.
pub trait LayerType: sealed::Sealed + 'static {
    /// Its place in the schema.
    const KIND: LayerKind;
    /// What a callout may answer.
    type Verdict: Verdict;
    /// What comes with a classify besides fields and metadata.
    type Data<'a>;
    /// Whether it shows what was discarded at the layer of its kind.
    const IS_DISCARD: bool = false;

    /// # Safety
    /// `raw` is the `layerData` of a classify at this layer, whose call `'a` does not outlive.
    #[doc(hidden)]
    unsafe fn data<'a>(raw: *mut c_void) -> Self::Data<'a>;

    /// Writes the part of a verdict that the layer data carries.
    ///
    /// # Safety
    /// `raw` is the `layerData` of a classify at this layer that is still running, and nothing
    /// made of it by `data` is used any more.
    #[doc(hidden)]
    unsafe fn answer(_raw: *mut c_void, _answer: StreamOut) {}
}

macro_rules! layers {
    ($($(#[$meta:meta])* $layer:ident => $verdict:ty, $data:ident;)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        pub enum $layer {}

        impl sealed::Sealed for $layer {}

        impl LayerType for $layer {
            const KIND: LayerKind = LayerKind::$layer;
            type Verdict = $verdict;
            layers!(@data $data);
        }
    )*};
    (@data nothing) => {
        type Data<'a> = ();

        unsafe fn data<'a>(_raw: *mut c_void) -> Self::Data<'a> {}
    };
    (@data packet) => {
        type Data<'a> = Option<Packet<'a>>;

        unsafe fn data<'a>(raw: *mut c_void) -> Option<Packet<'a>> {
            // SAFETY: the schema says that this layer's data is a NET_BUFFER_LIST or NULL.
            unsafe { Packet::new(raw.cast()) }
        }
    };
    (@data connect) => {
        type Data<'a> = Option<ConnectRequest<'a>>;

        unsafe fn data<'a>(raw: *mut c_void) -> Option<ConnectRequest<'a>> {
            // SAFETY: the schema says that this layer's data is a connect request or NULL.
            unsafe { ConnectRequest::new(raw.cast_const().cast()) }
        }
    };
    (@data bind) => {
        type Data<'a> = Option<BindRequest<'a>>;

        unsafe fn data<'a>(raw: *mut c_void) -> Option<BindRequest<'a>> {
            // SAFETY: the schema says that this layer's data is a bind request or NULL.
            unsafe { BindRequest::new(raw.cast_const().cast()) }
        }
    };
    (@data stream) => {
        type Data<'a> = Option<Indication<'a>>;

        unsafe fn data<'a>(raw: *mut c_void) -> Option<Indication<'a>> {
            // SAFETY: the schema says that this layer's data is a stream packet or NULL.
            unsafe { Indication::new(raw.cast()) }
        }

        unsafe fn answer(raw: *mut c_void, answer: StreamOut) {
            // SAFETY: as in `data`; the caller vouches that no view of it is left.
            unsafe { crate::stream::answer(raw.cast(), answer) }
        }
    };
}

layers! {
    /// Authorization of outgoing connections. TCP has no packet here, others have their first.
    AleAuthConnect => Authorization, packet;
    /// Authorization of incoming connections, with the SYN or the first datagram.
    AleAuthRecvAccept => Authorization, packet;
    /// Authorization of TCP `listen`.
    AleAuthListen => Authorization, nothing;
    /// A flow begins: the place to associate contexts. It is too late to block.
    AleFlowEstablished => Seen, packet;
    /// Payload of TCP connections, both ways.
    Stream => StreamVerdict, stream;
    /// Datagrams of everything that is not TCP, both ways.
    DatagramData => Authorization, packet;
    /// Packets that have arrived, behind their IP header: each fragment, and what they were put
    /// together to.
    InboundIpPacket => Authorization, packet;
    /// Packets on their way out, at their IP header, before they are fragmented.
    OutboundIpPacket => Authorization, packet;
    /// Packets on their way to another host, at their IP header.
    IpForward => Authorization, packet;
    /// Packets that have arrived, behind their transport header. ICMP's count as data.
    InboundTransport => Authorization, packet;
    /// Packets on their way out, at their transport header: there is no IP header yet.
    OutboundTransport => Authorization, packet;
    /// An endpoint closes.
    AleEndpointClosure => Seen, nothing;
    /// Authorization of binds, of raw sockets, and of sockets that are to see all packets.
    AleResourceAssignment => Authorization, nothing;
    /// What a bind had assigned is released.
    AleResourceRelease => Seen, nothing;
    /// ICMP errors that come in, at the IP header of the packet that they complain about.
    InboundIcmpError => Authorization, packet;
    /// ICMP errors that go out, at their ICMP header.
    OutboundIcmpError => Authorization, packet;
    /// Where a connection goes, before it is authorized.
    AleConnectRedirect => Authorization, connect;
    /// Where a socket is bound, before that is authorized.
    AleBindRedirect => Authorization, bind;
}

/// The discard layer of another: what was discarded there, by a filter or by the stack itself. A
/// callout can only watch: a block would keep the stack from answering with a reset or an error.
#[derive(Clone, Copy, Debug)]
pub struct Discarded<L>(PhantomData<L>);

impl<L: LayerType> sealed::Sealed for Discarded<L> {}

impl<L: LayerType> LayerType for Discarded<L> {
    const KIND: LayerKind = L::KIND;
    type Verdict = Seen;
    type Data<'a> = L::Data<'a>;
    const IS_DISCARD: bool = true;

    unsafe fn data<'a>(raw: *mut c_void) -> Self::Data<'a> {
        // SAFETY: a discard layer shows what its twin does.
        unsafe { L::data(raw) }
    }
}

/// The layer's row of the schema for one IP version, found at compile time.
#[must_use]
pub const fn row<L: LayerType>(version: IpVersion) -> &'static Layer {
    match version {
        IpVersion::V4 => const { find(L::KIND, IpVersion::V4, L::IS_DISCARD) },
        IpVersion::V6 => const { find(L::KIND, IpVersion::V6, L::IS_DISCARD) },
    }
}

const fn find(kind: LayerKind, version: IpVersion, is_discard: bool) -> &'static Layer {
    let layers = Layer::all();
    let mut at = 0;
    while at < layers.len() {
        let layer = &layers[at];
        if layer.kind() as u32 == kind as u32
            && layer.is_discard() == is_discard
            && let Some(its) = layer.version()
            && its as u32 == version as u32
        {
            return layer;
        }
        at += 1;
    }
    panic!("the layer has no such version")
}

/// The index of the field with this name, checked for its type.
const fn field<L: LayerType>(name: &str, expected: FieldType) -> FieldIndex {
    match maybe_field::<L>(name, expected) {
        Some(field) => field,
        None => panic!("the layer has no such field"),
    }
}

/// The index of the field with this name, checked for its type, if the layer has it.
const fn maybe_field<L: LayerType>(name: &str, expected: FieldType) -> Option<FieldIndex> {
    let fields = L::KIND.fields();
    let mut at = 0;
    while at < fields.len() {
        if same(fields[at].name(), name) {
            assert!(
                fields[at].field_type() as u32 == expected as u32,
                "the field has another type"
            );
            return Some(fields[at].index());
        }
        at += 1;
    }
    None
}

const fn same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut at = 0;
    while at < left.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// What a layer's fields say of a packet or a connection, whichever of them it has.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// `IP_PROTOCOL`, or `EMBEDDED_PROTOCOL`.
    pub protocol: Option<u8>,
    /// `IP_LOCAL_ADDRESS`, or `IP_SOURCE_ADDRESS`.
    pub local_address: Option<IpAddr>,
    /// `IP_REMOTE_ADDRESS`, or `IP_DESTINATION_ADDRESS`.
    pub remote_address: Option<IpAddr>,
    /// `IP_LOCAL_PORT`, or `ICMP_TYPE`.
    pub local_port: Option<u16>,
    /// `IP_REMOTE_PORT`, or `ICMP_CODE`.
    pub remote_port: Option<u16>,
    /// `ALE_APP_ID`, as [`Fields::application`] gives it.
    pub application: Option<&'a [u8]>,
    /// `ALE_USER_ID`, as [`Fields::user`] gives it.
    pub user: Option<&'a [u8]>,
    /// `INTERFACE_INDEX`, or `SOURCE_INTERFACE_INDEX`.
    pub interface: Option<u32>,
    /// `IP_LOCAL_INTERFACE`: the LUID of the interface that has the local address.
    pub local_luid: Option<u64>,
    /// `DIRECTION`.
    pub direction: Option<Direction>,
    /// `FLAGS`; none where unknown.
    pub flags: ConditionFlags,
}

/// The first of these fields that the layer has.
const fn either<L: LayerType>(one: &str, other: &str, expected: FieldType) -> Option<FieldIndex> {
    match maybe_field::<L>(one, expected) {
        Some(field) => Some(field),
        None => maybe_field::<L>(other, expected),
    }
}

/// The fields of one classify at layer `L`.
///
/// Each accessor gives `None` where WFP does not know the value (`FWP_EMPTY`), where the running
/// system lacks the field, and where the value is not of the documented type.
#[derive(Debug)]
pub struct Fields<'a, L> {
    values: Values<'a>,
    version: IpVersion,
    _layer: PhantomData<L>,
}

impl<'a, L: LayerType> Fields<'a, L> {
    /// The fields, if the values are those of this layer.
    pub(crate) const fn new(values: Values<'a>) -> Option<Self> {
        let version = match values.layer() {
            id if id == row::<L>(IpVersion::V4).id().get() => IpVersion::V4,
            id if id == row::<L>(IpVersion::V6).id().get() => IpVersion::V6,
            _ => return None,
        };
        Some(Self {
            values,
            version,
            _layer: PhantomData,
        })
    }

    /// The IP version of the layer.
    #[must_use]
    pub const fn version(&self) -> IpVersion {
        self.version
    }

    /// The run-time identifier of the layer.
    #[must_use]
    pub const fn layer(&self) -> LayerId {
        row::<L>(self.version).id()
    }

    /// `IP_LOCAL_ADDRESS`; `None` is also the wildcard address of a bind.
    #[must_use]
    pub fn local_address(&self) -> Option<IpAddr> {
        self.address(const { field::<L>("IP_LOCAL_ADDRESS", FieldType::Address) })
    }

    /// `IP_REMOTE_ADDRESS`.
    #[must_use]
    pub fn remote_address(&self) -> Option<IpAddr> {
        self.address(const { field::<L>("IP_REMOTE_ADDRESS", FieldType::Address) })
    }

    /// `IP_LOCAL_PORT`; for ICMP the message's type.
    #[must_use]
    pub fn local_port(&self) -> Option<u16> {
        self.uint16(const { field::<L>("IP_LOCAL_PORT", FieldType::Uint16) })
    }

    /// `IP_REMOTE_PORT`; for ICMP the message's code.
    #[must_use]
    pub fn remote_port(&self) -> Option<u16> {
        self.uint16(const { field::<L>("IP_REMOTE_PORT", FieldType::Uint16) })
    }

    /// `IP_PROTOCOL`.
    #[must_use]
    pub fn protocol(&self) -> Option<u8> {
        self.uint8(const { field::<L>("IP_PROTOCOL", FieldType::Uint8) })
    }

    /// `ALE_APP_ID`: the application's path in NT form, UTF-16 bytes, usually ending with a NUL.
    #[must_use]
    pub fn application(&self) -> Option<&'a [u8]> {
        self.blob(const { field::<L>("ALE_APP_ID", FieldType::ByteBlob) })
    }

    /// The bytes of the SID of `ALE_USER_ID`.
    #[must_use]
    pub fn user(&self) -> Option<&'a [u8]> {
        self.sid(const { field::<L>("ALE_USER_ID", FieldType::Token) })
    }

    /// `FLAGS`; none where unknown.
    #[must_use]
    pub fn flags(&self) -> ConditionFlags {
        self.uint32(const { field::<L>("FLAGS", FieldType::Uint32) })
            .map_or(ConditionFlags::NONE, ConditionFlags::from_bits)
    }

    /// `REAUTHORIZE_REASON`; none where unknown.
    #[must_use]
    pub fn reauthorize_reason(&self) -> ReauthorizeReason {
        self.uint32(const { field::<L>("REAUTHORIZE_REASON", FieldType::Uint32) })
            .map_or(ReauthorizeReason::NONE, ReauthorizeReason::from_bits)
    }

    /// `DIRECTION`: at `DATAGRAM_DATA` this packet's, at `STREAM` and `ALE_FLOW_ESTABLISHED` the
    /// connection's, whichever way this data goes.
    #[must_use]
    pub fn direction(&self) -> Option<Direction> {
        Direction::from_u32(self.uint32(const { field::<L>("DIRECTION", FieldType::Uint32) })?)
    }

    /// `INTERFACE_INDEX`: the interface that the packet arrived on or leaves by.
    #[must_use]
    pub fn interface(&self) -> Option<u32> {
        self.uint32(const { field::<L>("INTERFACE_INDEX", FieldType::Uint32) })
    }

    /// The LUID of the interface that packets of this direction take: `IP_NEXTHOP_INTERFACE` of those that are sent,
    /// `IP_ARRIVAL_INTERFACE` of those that are received. Where the layer lacks it, or WFP does not know it,
    /// `IP_LOCAL_INTERFACE`: the interface that has the local address.
    #[must_use]
    pub fn luid(&self, direction: Direction) -> Option<u64> {
        use FieldType::Uint64;

        let taken = match direction {
            Direction::Outbound => const { maybe_field::<L>("IP_NEXTHOP_INTERFACE", Uint64) },
            Direction::Inbound => const { maybe_field::<L>("IP_ARRIVAL_INTERFACE", Uint64) },
        };
        taken
            .and_then(|field| self.uint64(field))
            .or_else(|| self.local_luid())
    }

    /// `IP_LOCAL_INTERFACE`: the LUID of the interface that has the local address; `None` also where a socket is bound to
    /// every address, and where the layer lacks it.
    #[must_use]
    pub fn local_luid(&self) -> Option<u64> {
        const { maybe_field::<L>("IP_LOCAL_INTERFACE", FieldType::Uint64) }
            .and_then(|field| self.uint64(field))
    }

    /// `IP_FORWARD_INTERFACE`: the LUID of the interface that a packet that is forwarded leaves by.
    #[must_use]
    pub fn forward_luid(&self) -> Option<u64> {
        self.uint64(const { field::<L>("IP_FORWARD_INTERFACE", FieldType::Uint64) })
    }

    /// `SUB_INTERFACE_INDEX`.
    #[must_use]
    pub fn sub_interface(&self) -> Option<u32> {
        self.uint32(const { field::<L>("SUB_INTERFACE_INDEX", FieldType::Uint32) })
    }

    /// `COMPARTMENT_ID`: the routing compartment.
    #[must_use]
    pub fn compartment(&self) -> Option<u32> {
        self.uint32(const { field::<L>("COMPARTMENT_ID", FieldType::Uint32) })
    }

    /// `IP_SOURCE_ADDRESS` of a packet that is forwarded.
    #[must_use]
    pub fn source_address(&self) -> Option<IpAddr> {
        self.address(const { field::<L>("IP_SOURCE_ADDRESS", FieldType::Address) })
    }

    /// `IP_DESTINATION_ADDRESS` of a packet that is forwarded.
    #[must_use]
    pub fn destination_address(&self) -> Option<IpAddr> {
        self.address(const { field::<L>("IP_DESTINATION_ADDRESS", FieldType::Address) })
    }

    /// `SOURCE_INTERFACE_INDEX`: the interface that a packet that is forwarded arrived on.
    #[must_use]
    pub fn source_interface(&self) -> Option<u32> {
        self.uint32(const { field::<L>("SOURCE_INTERFACE_INDEX", FieldType::Uint32) })
    }

    /// `DESTINATION_INTERFACE_INDEX`: the interface that a packet that is forwarded leaves by.
    #[must_use]
    pub fn destination_interface(&self) -> Option<u32> {
        self.uint32(const { field::<L>("DESTINATION_INTERFACE_INDEX", FieldType::Uint32) })
    }

    /// `ALE_PROMISCUOUS_MODE`: what a socket asks to see of an interface's packets (`SIO_RCVALL`).
    #[must_use]
    pub fn promiscuous_mode(&self) -> Option<u32> {
        self.uint32(const { field::<L>("ALE_PROMISCUOUS_MODE", FieldType::Uint32) })
    }

    /// `ICMP_TYPE`.
    #[must_use]
    pub fn icmp_type(&self) -> Option<u16> {
        self.uint16(const { field::<L>("ICMP_TYPE", FieldType::Uint16) })
    }

    /// `ICMP_CODE`.
    #[must_use]
    pub fn icmp_code(&self) -> Option<u16> {
        self.uint16(const { field::<L>("ICMP_CODE", FieldType::Uint16) })
    }

    /// `EMBEDDED_PROTOCOL`: that of the packet which an ICMP error complains about.
    #[must_use]
    pub fn embedded_protocol(&self) -> Option<u8> {
        self.uint8(const { field::<L>("EMBEDDED_PROTOCOL", FieldType::Uint8) })
    }

    /// `EMBEDDED_REMOTE_ADDRESS`: where that packet was to go.
    #[must_use]
    pub fn embedded_remote_address(&self) -> Option<IpAddr> {
        self.address(const { field::<L>("EMBEDDED_REMOTE_ADDRESS", FieldType::Address) })
    }

    /// `EMBEDDED_LOCAL_PORT`.
    #[must_use]
    pub fn embedded_local_port(&self) -> Option<u16> {
        self.uint16(const { field::<L>("EMBEDDED_LOCAL_PORT", FieldType::Uint16) })
    }

    /// `EMBEDDED_REMOTE_PORT`.
    #[must_use]
    pub fn embedded_remote_port(&self) -> Option<u16> {
        self.uint16(const { field::<L>("EMBEDDED_REMOTE_PORT", FieldType::Uint16) })
    }

    /// What the fields say, at any layer: for callouts that do the same at many.
    #[must_use]
    pub fn known(&self) -> Known<'a> {
        use FieldType::{Address, ByteBlob, Token, Uint8, Uint16, Uint32};

        Known {
            protocol: const { either::<L>("IP_PROTOCOL", "EMBEDDED_PROTOCOL", Uint8) }
                .and_then(|field| self.uint8(field)),
            local_address: const { either::<L>("IP_LOCAL_ADDRESS", "IP_SOURCE_ADDRESS", Address) }
                .and_then(|field| self.address(field)),
            remote_address:
                const { either::<L>("IP_REMOTE_ADDRESS", "IP_DESTINATION_ADDRESS", Address) }
                    .and_then(|field| self.address(field)),
            local_port: const { either::<L>("IP_LOCAL_PORT", "ICMP_TYPE", Uint16) }
                .and_then(|field| self.uint16(field)),
            remote_port: const { either::<L>("IP_REMOTE_PORT", "ICMP_CODE", Uint16) }
                .and_then(|field| self.uint16(field)),
            application: const { maybe_field::<L>("ALE_APP_ID", ByteBlob) }
                .and_then(|field| self.blob(field)),
            user: const { maybe_field::<L>("ALE_USER_ID", Token) }
                .and_then(|field| self.sid(field)),
            interface: const { either::<L>("INTERFACE_INDEX", "SOURCE_INTERFACE_INDEX", Uint32) }
                .and_then(|field| self.uint32(field)),
            local_luid: self.local_luid(),
            direction: const { maybe_field::<L>("DIRECTION", Uint32) }
                .and_then(|field| Direction::from_u32(self.uint32(field)?)),
            flags: const { maybe_field::<L>("FLAGS", Uint32) }
                .and_then(|field| self.uint32(field))
                .map_or(ConditionFlags::NONE, ConditionFlags::from_bits),
        }
    }

    fn blob(&self, field: FieldIndex) -> Option<&'a [u8]> {
        match self.values.get(field) {
            Value::Blob(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn sid(&self, field: FieldIndex) -> Option<&'a [u8]> {
        match self.values.get(field) {
            Value::Token(information) => token::user(information),
            Value::Sid(sid) => Some(sid),
            _ => None,
        }
    }

    fn uint8(&self, field: FieldIndex) -> Option<u8> {
        match self.values.get(field) {
            Value::Uint8(number) => Some(number),
            _ => None,
        }
    }

    fn address(&self, field: FieldIndex) -> Option<IpAddr> {
        match self.values.get(field) {
            Value::Uint32(address) => Some(IpAddr::V4(Ipv4Addr::from_bits(address))),
            Value::Bytes16(address) => Some(IpAddr::V6(Ipv6Addr::from_octets(*address))),
            _ => None,
        }
    }

    fn uint16(&self, field: FieldIndex) -> Option<u16> {
        match self.values.get(field) {
            Value::Uint16(number) => Some(number),
            _ => None,
        }
    }

    fn uint64(&self, field: FieldIndex) -> Option<u64> {
        match self.values.get(field) {
            Value::Uint64(number) => Some(number),
            _ => None,
        }
    }

    fn uint32(&self, field: FieldIndex) -> Option<u32> {
        match self.values.get(field) {
            Value::Uint32(number) => Some(number),
            _ => None,
        }
    }
}
