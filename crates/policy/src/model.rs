//! A policy as it is meant: normalized rules, without text or places.

use crate::effect::Effect;
use crate::encode::{self, EncodeError};
use crate::ranges::Ranges;
use portcullis_proto::event::Operation;
use portcullis_proto::policy::{
    APPLICATION_ANY_VOLUME, APPLICATION_WILDCARD, Action, Direction, application_key, fold_unit,
    operation_flag, rule_operations, without_volume,
};

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What happens where no rule matches.
    pub default: Action,
    /// The rules in order.
    pub rules: Vec<Rule>,
    /// Every decision and every flow makes events.
    pub events_all: bool,
    /// So do binds and their release, ICMP errors, and what anybody discards.
    pub observe: bool,
    /// What holds while the driver does not decide, if anything is to.
    pub boot: Option<Boot>,
}

/// What holds while the driver does not decide: the rules for that, and this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// What happens where none of these rules matches.
    pub default: Action,
    /// Loopback, DHCP and neighbour discovery are permitted before any rule.
    pub essential: bool,
}

impl Policy {
    /// A policy without rules.
    #[must_use]
    pub const fn new(default: Action) -> Self {
        Self {
            default,
            rules: Vec::new(),
            events_all: false,
            observe: false,
            boot: None,
        }
    }

    /// The compiled policy.
    ///
    /// # Errors
    /// Something is larger than the format allows.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        encode::encode(self)
    }
}

/// A rule. Conditions that are empty match everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name in reports.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// What it is about; none is connections, accepts and listens.
    pub operations: Vec<Operation>,
    /// Who began the connection.
    pub direction: Option<Direction>,
    /// IP protocol numbers.
    pub protocols: Ranges,
    /// Local addresses as numbers; IPv4 as IPv4-mapped IPv6.
    pub local_addresses: Ranges,
    /// Remote addresses, likewise.
    pub remote_addresses: Ranges,
    /// Local ports.
    pub local_ports: Ranges,
    /// Remote ports.
    pub remote_ports: Ranges,
    /// LUIDs of network interfaces.
    pub interfaces: Ranges,
    /// Applications.
    pub applications: Vec<ApplicationPattern>,
    /// The applications stand for what they have started, directly or not, too.
    pub children: bool,
    /// Users.
    pub users: Vec<Sid>,
    /// Hosts.
    pub hosts: Vec<HostPattern>,
    /// Literals, one of which has to be in the flow's data; none is empty.
    pub contents: Vec<Vec<u8>>,
    /// What it does besides deciding, in the order written.
    pub effects: Vec<Effect>,
    /// Matches make events.
    pub log: bool,
    /// It also holds while the driver does not decide.
    pub boot: bool,
}

impl Rule {
    /// A rule that matches everything.
    #[must_use]
    pub fn new(name: impl Into<String>, action: Action) -> Self {
        Self {
            name: name.into(),
            action,
            operations: Vec::new(),
            direction: None,
            protocols: Ranges::default(),
            local_addresses: Ranges::default(),
            remote_addresses: Ranges::default(),
            local_ports: Ranges::default(),
            remote_ports: Ranges::default(),
            interfaces: Ranges::default(),
            applications: Vec::new(),
            children: false,
            users: Vec::new(),
            hosts: Vec::new(),
            contents: Vec::new(),
            effects: Vec::new(),
            log: false,
            boot: false,
        }
    }

    /// Whether it has a condition on nothing that a bind does not tell.
    pub(crate) fn knows_a_bind(&self) -> bool {
        self.direction != Some(Direction::Inbound)
            && self.remote_addresses.is_any()
            && self.remote_ports.is_any()
            && self.interfaces.is_any()
            && self.hosts.is_empty()
            && self.contents.is_empty()
    }

    /// What it is about, as flags of its record.
    pub(crate) fn operation_flags(&self) -> u16 {
        self.operations
            .iter()
            .fold(0, |flags, &operation| flags | operation_flag(operation))
    }

    /// Whether this rule matches whatever `other` matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let direction = self.direction.is_none() || self.direction == other.direction;
        let operations = |rule: &Self| rule_operations(rule.operation_flags());
        operations(other) & !operations(self) == 0
            && direction
            && self.protocols.covers(&other.protocols)
            && self.local_addresses.covers(&other.local_addresses)
            && self.remote_addresses.covers(&other.remote_addresses)
            && self.local_ports.covers(&other.local_ports)
            && self.remote_ports.covers(&other.remote_ports)
            && self.interfaces.covers(&other.interfaces)
            && all_covered(&self.users, &other.users, PartialEq::eq)
            && (self.children || !other.children || self.applications.is_empty())
            && all_covered(
                &self.applications,
                &other.applications,
                ApplicationPattern::covers,
            )
            && all_covered(&self.hosts, &other.hosts, HostPattern::covers)
            && all_covered(&self.contents, &other.contents, |this, other| {
                other.windows(this.len()).any(|part| part == this)
            })
    }
}

/// Whether each of `others` is covered by one of these; none at all is everything.
fn all_covered<T>(these: &[T], others: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    these.is_empty()
        || (!others.is_empty()
            && others
                .iter()
                .all(|other| these.iter().any(|this| covers(this, other))))
}

/// A pattern for an application's path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApplicationPattern {
    /// In lower case, UTF-16.
    units: Vec<u16>,
    any_volume: bool,
}

impl ApplicationPattern {
    /// The pattern of this text; upper and lower case are the same. With `any_volume` it is for what follows the
    /// volume's name, and begins with a backslash.
    ///
    /// Lower case is that of Unicode where it is a single character. WFP's paths are in the lower case of Windows,
    /// which agrees but for a few letters.
    #[must_use]
    pub fn new(text: &str, any_volume: bool) -> Self {
        let lower = |letter: char| {
            let mut all = letter.to_lowercase();
            all.next()
                .filter(|_| all.next().is_none())
                .unwrap_or(letter)
        };
        let mut units = Vec::with_capacity(text.len());
        for letter in text.chars().map(lower) {
            units.extend_from_slice(letter.encode_utf16(&mut [0; 2]));
        }
        Self { units, any_volume }
    }

    /// The pattern's code units.
    #[must_use]
    pub fn units(&self) -> &[u16] {
        &self.units
    }

    /// Whether it is for what follows the volume's name.
    #[must_use]
    pub const fn any_volume(&self) -> bool {
        self.any_volume
    }

    /// Whether it has a `*` or `?`.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.units
            .iter()
            .any(|&unit| unit == u16::from(b'*') || unit == u16::from(b'?'))
    }

    /// The flags of its record.
    pub(crate) fn flags(&self) -> u16 {
        let wildcard = if self.is_wildcard() {
            APPLICATION_WILDCARD
        } else {
            0
        };
        wildcard
            | if self.any_volume {
                APPLICATION_ANY_VOLUME
            } else {
                0
            }
    }

    /// Its key in the index; `None` if it matches more than one path.
    pub(crate) fn key(&self) -> Option<u64> {
        let volume = without_volume(self.units.iter().copied());
        (!self.is_wildcard()).then(|| application_key(self.units.iter().copied().skip(volume)))
    }

    /// Whether it matches a path.
    #[must_use]
    pub fn matches(&self, path: &[u16]) -> bool {
        let volume = without_volume(path.iter().copied());
        if self.any_volume && volume == 0 {
            return false;
        }
        let path: Vec<u16> = path
            .iter()
            .copied()
            .map(fold_unit)
            .skip(if self.any_volume { volume } else { 0 })
            .collect();
        glob(&self.units, &path)
    }

    /// Whether it matches every path that `other` matches, as far as can be told easily.
    fn covers(&self, other: &Self) -> bool {
        self == other
            || (self.any_volume == other.any_volume
                && !other.is_wildcard()
                && glob(&self.units, &other.units))
    }
}

/// Whether a pattern matches a text: one row of the table "these units of the pattern match those of the text" for
/// each unit of the pattern.
fn glob(pattern: &[u16], text: &[u16]) -> bool {
    let mut row: Vec<bool> = std::iter::once(true)
        .chain(text.iter().map(|_| false))
        .collect();
    for &unit in pattern {
        let mut next = vec![false; row.len()];
        let mut before = false;
        for (place, matched) in row.iter().enumerate() {
            next[place] = if unit == u16::from(b'*') {
                before || *matched
            } else {
                place.checked_sub(1).is_some_and(|last| {
                    row[last] && (unit == u16::from(b'?') || unit == text[last])
                })
            };
            before = next[place];
        }
        row = next;
    }
    row.last().is_some_and(|&matched| matched)
}

/// A user's security identifier.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sid(Vec<u8>);

impl Sid {
    /// The SID as Windows lays it out.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The SID of an authority and its sub-authorities; `None` if there are more than 15 of these, or the authority is
    /// above 2⁴⁸ − 1.
    #[must_use]
    pub fn new(authority: u64, sub_authorities: &[u32]) -> Option<Self> {
        let count = u8::try_from(sub_authorities.len())
            .ok()
            .filter(|&count| count <= 15)?;
        let [0, 0, authority @ ..] = authority.to_be_bytes() else {
            return None;
        };
        let mut bytes = vec![1, count];
        bytes.extend(authority);
        bytes.extend(sub_authorities.iter().flat_map(|sub| sub.to_le_bytes()));
        Some(Self(bytes))
    }
}

impl std::str::FromStr for Sid {
    type Err = ();

    /// The SID written as `S-1-…`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let prefix = (parts.next(), parts.next());
        if !matches!(prefix, (Some("S" | "s"), Some("1"))) {
            return Err(());
        }
        let authority = parts.next().ok_or(())?;
        let authority = authority.strip_prefix("0x").map_or_else(
            || authority.parse(),
            |digits| u64::from_str_radix(digits, 16),
        );
        let subs: Vec<u32> = parts
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| ())?;
        Self::new(authority.map_err(|_| ())?, &subs).ok_or(())
    }
}

/// A host name, or the names below one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPattern {
    /// In lower case, without a trailing dot.
    pub name: String,
    /// The names below it, not itself.
    pub below: bool,
}

impl HostPattern {
    /// Whether it matches a name in lower case.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        if self.below {
            host.strip_suffix(&self.name)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        } else {
            host == self.name
        }
    }

    fn covers(&self, other: &Self) -> bool {
        self == other || (self.below && self.matches(&other.name))
    }
}
