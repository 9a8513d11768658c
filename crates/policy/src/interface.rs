//! Network interfaces by their names.

use portcullis_proto::policy::interfaces_of_type;

/// Where the names of network interfaces, which a policy is written in, come from. The kernel knows their LUIDs.
#[derive(Clone, Debug)]
pub enum Interfaces {
    /// These, each with its LUID. Upper and lower case are the same.
    Named(Vec<(String, u64)>),
    /// Those that this machine has; the function gives a name's LUID.
    OfSystem(fn(&str) -> Option<u64>),
    /// Whatever is written is taken for a name: to check a policy of another machine. What is compiled so is for no
    /// driver, because a name stands for every interface.
    Unchecked,
}

impl Default for Interfaces {
    fn default() -> Self {
        Self::Named(Vec::new())
    }
}

impl Interfaces {
    /// The first and the last LUID that a name stands for.
    pub(crate) fn find(&self, name: &str) -> Option<(u64, u64)> {
        let luid = match self {
            Self::Named(known) => {
                let name = name.to_lowercase();
                let mut known = known.iter();
                known.find(|(known, _)| known.to_lowercase() == name)?.1
            }
            Self::OfSystem(find) => find(name)?,
            Self::Unchecked => {
                return Some((interfaces_of_type(1).0, interfaces_of_type(u16::MAX).1));
            }
        };
        Some((luid, luid))
    }

    /// The names that are known without asking the system.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let named = match self {
            Self::Named(known) => known.as_slice(),
            Self::OfSystem(_) | Self::Unchecked => &[],
        };
        named.iter().map(|(name, _)| name.as_str())
    }
}

/// Types of interfaces (IANA's `ifType`, with the names that they have in a policy).
pub const INTERFACE_TYPES: [(&str, u16); 8] = [
    ("ethernet", 6),
    ("ppp", 23),
    ("loopback", 24),
    // IF_TYPE_PROP_VIRTUAL
    ("virtual", 53),
    // IF_TYPE_IEEE80211
    ("wifi", 71),
    ("tunnel", 131),
    // IF_TYPE_WWANPP and IF_TYPE_WWANPP2
    ("mobile", 243),
    ("mobile", 244),
];
