//! What a rule does besides deciding.

use super::decide::RuleIndex;
use super::validate::{Check, Reason, ensure};
use super::view::{PolicyView, run, text};
use crate::connection::Endpoint;
use crate::flow::Transfer;
use core::net::{IpAddr, Ipv6Addr};
use portcullis_proto::effect::{
    EffectKind, EffectRecord, MAX_ASK, MAX_DELAY, MAX_EFFECT_TEXT, MAX_LIMITS, MAX_QUEUE, MAX_RATE,
    MILLION,
};
use portcullis_proto::policy::Action;

/// Which ways of a flow an effect is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfers(u8);

impl Transfers {
    /// Whether it is for this way.
    #[must_use]
    pub const fn contain(self, transfer: Transfer) -> bool {
        let flag = match transfer {
            Transfer::Sent => EffectRecord::SENT,
            Transfer::Received => EffectRecord::RECEIVED,
        };
        self.0 & flag != 0
    }
}

/// An effect of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect<'p> {
    /// Hold the connection until somebody answers.
    Ask {
        /// For how long, in milliseconds.
        milliseconds: u32,
        /// What happens if nobody answers: permit or block.
        otherwise: Action,
    },
    /// Send the connection to a proxy of this machine.
    Redirect {
        /// Where the proxy listens.
        to: Endpoint,
        /// What happens while there is no proxy: permit, and it goes straight, or block.
        otherwise: Action,
    },
    /// Give sockets this local address.
    Bind {
        /// The address.
        address: IpAddr,
    },
    /// Replace bytes of a stream.
    Replace {
        /// Which way.
        transfers: Transfers,
        /// What is looked for; not empty.
        find: &'p [u8],
        /// What comes in its place.
        with: &'p [u8],
    },
    /// Replace or add a header of HTTP/1 requests.
    Header {
        /// Its name.
        name: &'p [u8],
        /// Its value; `None`: take it out.
        value: Option<&'p [u8]>,
    },
    /// Mark what is sent.
    Dscp(u8),
    /// Set the time to live, or hop limit, of what is sent.
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
        /// The number of the limit that all flows of the rule share, below [`MAX_LIMITS`]; `None`: each has its own.
        shared: Option<u16>,
    },
    /// Delay what passes.
    Delay {
        /// By how many microseconds.
        microseconds: u32,
        /// By up to how many more, at random.
        jitter: u32,
    },
    /// Lose packets.
    Loss {
        /// How many in a [`MILLION`].
        per_million: u32,
    },
    /// Copy each packet to who captures.
    Mirror,
    /// Look for contents out of band.
    OutOfBand,
}

impl<'p> PolicyView<'p> {
    /// The effects of a rule, in the order in which they are written.
    pub fn effects(&self, rule: Option<RuleIndex>) -> impl Iterator<Item = Effect<'p>> + use<'p> {
        self.effects_of(rule).each()
    }

    /// The effects of a rule, to be gone through more than once.
    pub(crate) fn effects_of(&self, rule: Option<RuleIndex>) -> Effects<'p> {
        Effects {
            records: rule
                .and_then(|rule| self.rules.get(rule.0 as usize))
                .map(|rule| run(self.effects, rule.effects))
                .unwrap_or_default(),
            text: self.text,
        }
    }

    /// Where a rule sends connections of the IP version of `like`, and what happens to them while there is no proxy. An
    /// IPv4-mapped address is an IPv4 one.
    #[must_use]
    pub fn redirect(&self, rule: Option<RuleIndex>, like: IpAddr) -> Option<(Endpoint, Action)> {
        let is_v4 = like.is_ipv4();
        self.effects(rule).find_map(|effect| match effect {
            Effect::Redirect { to, otherwise } if to.address.is_ipv4() == is_v4 => {
                Some((to, otherwise))
            }
            _ => None,
        })
    }

    /// What a record says; it says what is wrong with one that is not valid.
    pub(super) fn effect(&self, record: &EffectRecord) -> Result<Effect<'p>, Reason> {
        Effects {
            records: &[],
            text: self.text,
        }
        .read(record)
    }
}

/// The effects of a rule. It is much smaller than the policy, for those who keep it on a classify's stack.
#[derive(Clone, Copy)]
pub(crate) struct Effects<'p> {
    records: &'p [EffectRecord],
    text: &'p [u8],
}

impl<'p> Effects<'p> {
    /// None.
    pub(crate) const NONE: Self = Self {
        records: &[],
        text: &[],
    };

    /// Each effect, in the order in which they are written.
    pub(crate) fn each(self) -> impl Iterator<Item = Effect<'p>> + use<'p> {
        self.records
            .iter()
            .filter_map(move |record| self.read(record).ok())
    }

    /// The two parts of a record's text.
    fn text(&self, record: &EffectRecord) -> Result<(&'p [u8], &'p [u8]), Reason> {
        let length = usize::from(record.length.get());
        let both = length + usize::from(record.other_length.get());
        let text = text(self.text, record.text, both);
        text.split_at_checked(length).ok_or(Reason::Text)
    }

    fn read(&self, record: &EffectRecord) -> Result<Effect<'p>, Reason> {
        let kind = EffectKind::from_raw(record.kind).ok_or(Reason::Value)?;
        let [first, second, third] = record.values.map(zerocopy::little_endian::U64::get);
        let (text, other) = self.text(record)?;
        let within = |number: u64, least: u64, most: u64| {
            u32::try_from(number)
                .ok()
                .filter(|_| (least..=most).contains(&number))
                .ok_or(Reason::Range)
        };
        let byte = |least: u8, most: u8| {
            u8::try_from(first)
                .ok()
                .filter(|number| (least..=most).contains(number))
                .ok_or(Reason::Range)
        };
        let address = Ipv6Addr::from_octets(record.address);
        let port = record.port.get();
        let otherwise = if record.flags & EffectRecord::PERMIT == 0 {
            Action::Block
        } else {
            Action::Permit
        };
        Ok(match kind {
            EffectKind::Ask => Effect::Ask {
                milliseconds: within(first, 1, MAX_ASK)?,
                otherwise,
            },
            EffectKind::Redirect => {
                ensure(!address.is_unspecified() && port != 0, Reason::Range)?;
                Effect::Redirect {
                    to: Endpoint::new(address.to_canonical(), port),
                    otherwise,
                }
            }
            EffectKind::Bind => {
                ensure(!address.is_unspecified(), Reason::Range)?;
                Effect::Bind {
                    address: address.to_canonical(),
                }
            }
            EffectKind::Replace => {
                ensure(!text.is_empty(), Reason::Text)?;
                ensure(record.flags != 0, Reason::Flags)?;
                Effect::Replace {
                    transfers: Transfers(record.flags),
                    find: text,
                    with: other,
                }
            }
            EffectKind::Header => {
                let is_taken_out = record.flags & EffectRecord::REMOVE != 0;
                let is_token = |byte: &u8| byte.is_ascii_graphic() && *byte != b':';
                let is_value = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
                ensure(!text.is_empty() && text.iter().all(is_token), Reason::Text)?;
                ensure(other.iter().all(is_value), Reason::Text)?;
                ensure(!is_taken_out || other.is_empty(), Reason::Text)?;
                Effect::Header {
                    name: text,
                    value: (!is_taken_out).then_some(other),
                }
            }
            EffectKind::Dscp => Effect::Dscp(byte(0, 63)?),
            EffectKind::HopLimit => Effect::HopLimit(byte(1, u8::MAX)?),
            EffectKind::Translate => {
                ensure(!address.is_unspecified() || port != 0, Reason::Range)?;
                Effect::Translate {
                    address: (!address.is_unspecified()).then(|| address.to_canonical()),
                    port: (port != 0).then_some(port),
                }
            }
            EffectKind::Rate => {
                ensure((1..=MAX_RATE).contains(&first), Reason::Range)?;
                ensure((1..=MAX_RATE).contains(&second), Reason::Range)?;
                ensure(third <= MAX_QUEUE, Reason::Range)?;
                let is_shared = record.flags & EffectRecord::SHARED != 0;
                ensure(is_shared || port == 0, Reason::Reserved)?;
                ensure(usize::from(port) < MAX_LIMITS, Reason::Range)?;
                Effect::Rate {
                    bytes_per_second: first,
                    burst: second,
                    queue: third,
                    shared: is_shared.then_some(port),
                }
            }
            EffectKind::Delay => {
                let microseconds = within(first, 0, MAX_DELAY)?;
                let jitter = within(second, 0, MAX_DELAY)?;
                within(first + second, 1, MAX_DELAY)?;
                Effect::Delay {
                    microseconds,
                    jitter,
                }
            }
            EffectKind::Loss => Effect::Loss {
                per_million: within(first, 1, MILLION)?,
            },
            EffectKind::Mirror => Effect::Mirror,
            EffectKind::OutOfBand => Effect::OutOfBand,
        })
    }
}

/// Checks that a record uses no more than its kind's fields.
pub(super) fn check_unused(kind: EffectKind, record: &EffectRecord) -> Check {
    let (flags, values) = match kind {
        EffectKind::Ask => (EffectRecord::PERMIT, 1),
        EffectKind::Replace => (EffectRecord::SENT | EffectRecord::RECEIVED, 0),
        EffectKind::Header => (EffectRecord::REMOVE, 0),
        EffectKind::Dscp | EffectKind::HopLimit | EffectKind::Loss => (0, 1),
        EffectKind::Rate => (EffectRecord::SHARED, 3),
        EffectKind::Delay => (0, 2),
        EffectKind::Redirect => (EffectRecord::PERMIT, 0),
        EffectKind::Bind | EffectKind::Translate | EffectKind::Mirror | EffectKind::OutOfBand => {
            (0, 0)
        }
    };
    let has_text = matches!(kind, EffectKind::Replace | EffectKind::Header);
    let has_address = matches!(
        kind,
        EffectKind::Redirect | EffectKind::Bind | EffectKind::Translate
    );
    let has_port = matches!(
        kind,
        EffectKind::Redirect | EffectKind::Translate | EffectKind::Rate
    );
    let lengths = [record.length.get(), record.other_length.get()];
    ensure(record.flags & !flags == 0, Reason::Flags)?;
    let unused = record.values.get(values..).unwrap_or_default();
    ensure(
        unused.iter().all(|value| value.get() == 0),
        Reason::Reserved,
    )?;
    ensure(has_address || record.address == [0; 16], Reason::Reserved)?;
    ensure(has_port || record.port.get() == 0, Reason::Reserved)?;
    ensure(
        has_text || (lengths == [0, 0] && record.text.get() == 0),
        Reason::Reserved,
    )?;
    let fits = |length: u16| usize::from(length) <= MAX_EFFECT_TEXT;
    ensure(lengths.into_iter().all(fits), Reason::Count)
}
