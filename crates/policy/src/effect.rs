//! What rules do besides deciding.

use portcullis_proto::effect::{EffectKind, EffectRecord};
use portcullis_proto::policy::{Action, map_v4};
use std::net::IpAddr;
use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U64};

/// An effect; [`EffectKind`] says what each does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Hold the connection until somebody answers.
    Ask {
        /// For how long, in milliseconds.
        milliseconds: u64,
        /// What happens if nobody answers: permit or block.
        otherwise: Action,
    },
    /// Send the connection to a proxy of this machine.
    Redirect {
        /// Its address.
        address: IpAddr,
        /// Its port.
        port: u16,
        /// What happens while there is no proxy: permit, and it goes straight, or block.
        otherwise: Action,
    },
    /// Give sockets this local address.
    Bind(IpAddr),
    /// Replace bytes of a stream.
    Replace {
        /// In what this machine sends.
        sent: bool,
        /// In what it receives.
        received: bool,
        /// What is looked for.
        find: Vec<u8>,
        /// What comes in its place.
        with: Vec<u8>,
    },
    /// Replace or add a header of HTTP/1 requests.
    Header {
        /// Its name.
        name: String,
        /// Its value; `None`: take it out.
        value: Option<String>,
    },
    /// The differentiated services code point.
    Dscp(u8),
    /// The time to live, or hop limit.
    HopLimit(u8),
    /// Exchange the remote side in packets.
    Translate {
        /// The other address; `None`: the same.
        address: Option<IpAddr>,
        /// The other port; `None`: the same.
        port: Option<u16>,
    },
    /// Limit how much passes.
    Rate {
        /// Bytes a second.
        bytes_per_second: u64,
        /// Bytes that may pass at once.
        burst: u64,
        /// Bytes that may wait.
        queue: u64,
        /// Whether all flows of the rule share the limit; else each has its own.
        shared: bool,
    },
    /// Delay packets.
    Delay {
        /// By how many microseconds.
        microseconds: u64,
        /// By up to how many more, at random.
        jitter: u64,
    },
    /// Lose packets: how many in a million.
    Loss(u64),
    /// Copy packets to who captures.
    Mirror,
    /// Look for contents out of band.
    OutOfBand,
}

impl Effect {
    /// What kind it is.
    #[must_use]
    pub const fn kind(&self) -> EffectKind {
        match self {
            Self::Ask { .. } => EffectKind::Ask,
            Self::Redirect { .. } => EffectKind::Redirect,
            Self::Bind(_) => EffectKind::Bind,
            Self::Replace { .. } => EffectKind::Replace,
            Self::Header { .. } => EffectKind::Header,
            Self::Dscp(_) => EffectKind::Dscp,
            Self::HopLimit(_) => EffectKind::HopLimit,
            Self::Translate { .. } => EffectKind::Translate,
            Self::Rate { .. } => EffectKind::Rate,
            Self::Delay { .. } => EffectKind::Delay,
            Self::Loss(_) => EffectKind::Loss,
            Self::Mirror => EffectKind::Mirror,
            Self::OutOfBand => EffectKind::OutOfBand,
        }
    }

    /// Its record, and the two parts of its text.
    pub(crate) fn record(&self) -> (EffectRecord, [&[u8]; 2]) {
        let mut record = EffectRecord::new_zeroed();
        record.kind = self.kind().raw();
        let mut text: [&[u8]; 2] = [&[], &[]];
        let mut values = [0; 3];
        let mut flags = 0;
        let mut flag = |is_set: bool, flag: u8| flags |= if is_set { flag } else { 0 };
        match self {
            Self::Ask {
                milliseconds,
                otherwise,
            } => {
                values[0] = *milliseconds;
                flag(*otherwise == Action::Permit, EffectRecord::PERMIT);
            }
            Self::Redirect {
                address,
                port,
                otherwise,
            } => {
                flag(*otherwise == Action::Permit, EffectRecord::PERMIT);
                record.address = number(*address);
                record.port = U16::new(*port);
            }
            Self::Bind(address) => record.address = number(*address),
            Self::Replace {
                sent,
                received,
                find,
                with,
            } => {
                flag(*sent, EffectRecord::SENT);
                flag(*received, EffectRecord::RECEIVED);
                text = [find, with];
            }
            Self::Header { name, value } => {
                flag(value.is_none(), EffectRecord::REMOVE);
                text = [
                    name.as_bytes(),
                    value.as_deref().unwrap_or_default().as_bytes(),
                ];
            }
            Self::Dscp(value) | Self::HopLimit(value) => values[0] = (*value).into(),
            Self::Translate { address, port } => {
                record.address = address.map_or([0; 16], number);
                record.port = U16::new(port.unwrap_or(0));
            }
            Self::Rate {
                bytes_per_second,
                burst,
                queue,
                shared,
            } => {
                flag(*shared, EffectRecord::SHARED);
                values = [*bytes_per_second, *burst, *queue];
            }
            Self::Delay {
                microseconds,
                jitter,
            } => values = [*microseconds, *jitter, 0],
            Self::Loss(per_million) => values[0] = *per_million,
            Self::Mirror | Self::OutOfBand => {}
        }
        record.flags = flags;
        record.values = values.map(U64::new);
        (record, text)
    }
}

/// An address as its record has it.
const fn number(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => map_v4(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}
