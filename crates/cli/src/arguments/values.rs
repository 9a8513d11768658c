//! The values of options.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use portcullis_policy::INTERFACE_TYPES;
use portcullis_proto::policy::interface_type;

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The first of them.
    pub address: IpAddr,
    /// The bits that they share.
    pub length: u8,
}

impl Prefix {
    /// Whether it is a single address.
    #[must_use]
    pub const fn is_one(&self) -> bool {
        self.length == if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// Whether the address begins like it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let rest = |bits: u32| bits.saturating_sub(self.length.into());
        match (self.address, address) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                let differ = one.to_bits() ^ other.to_bits();
                differ.checked_shr(rest(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => {
                let differ = one.to_bits() ^ other.to_bits();
                differ.checked_shr(rest(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl Display for Prefix {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = text
            .split_once('/')
            .map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("\"{address}\" is not an IP address"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(most), |length| {
            let length = length.parse().ok().filter(|&length| length <= most);
            length.ok_or_else(|| format!("a prefix of {address} has 0 to {most} bits"))
        })?;
        Ok(Self { address, length })
    }
}

/// Ports, one or more in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| {
            text.parse()
                .map_err(|_| format!("\"{text}\" is not a port: 0 to 65535"))
        };
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(format!("no port is from {first} to {last}"));
        }
        Ok(Self { first, last })
    }
}

/// An IP protocol by its name or number.
pub(super) fn protocol(text: &str) -> Result<u8, String> {
    match text {
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "icmp" => Ok(1),
        "icmpv6" => Ok(58),
        other => other
            .parse()
            .map_err(|_| "it is tcp, udp, icmp, icmpv6 or a number up to 255".to_owned()),
    }
}

/// The application behind a local endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The local endpoint.
    pub local: SocketAddr,
    /// Its path, as Windows shows it or as an NT device path.
    pub path: String,
    /// The user's SID in string form.
    pub user: Option<String>,
}

impl FromStr for Process {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (local, application) = text
            .split_once('=')
            .ok_or("expected ADDR:PORT=PATH[,SID], for example 10.0.0.5:49152=C:\\curl.exe")?;
        let local = local.parse().map_err(|_| {
            format!("\"{local}\" is not ADDR:PORT (an IPv6 address goes in brackets: [2001:db8::5]:49152)")
        })?;
        let (path, user) = match application.rsplit_once(',') {
            Some((path, user)) if user.starts_with("S-1-") => (path, Some(user.to_owned())),
            _ => (application, None),
        };
        if path.is_empty() {
            return Err("the path is empty".to_owned());
        }
        Ok(Self {
            local,
            path: path.to_owned(),
            user,
        })
    }
}

/// A network interface of the simulated host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedInterface {
    /// Its name.
    pub name: String,
    /// Its type: IANA's `ifType`.
    pub kind: u16,
    /// Its addresses.
    pub prefixes: Vec<Prefix>,
}

/// As it is written on the command line.
impl Display for SimulatedInterface {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            kind,
            prefixes,
        } = self;
        write!(f, "{name}={kind}")?;
        prefixes
            .iter()
            .try_for_each(|prefix| write!(f, ",{prefix}"))
    }
}

impl FromStr for SimulatedInterface {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or("expected NAME=TYPE[,ADDR[/LENGTH]]..., for example Tunnel=virtual,10.8.0.2")?;
        let mut parts = rest.split(',');
        let kind = parts.next().unwrap_or_default();
        let known = INTERFACE_TYPES.iter().find(|(name, _)| *name == kind);
        let kind = known
            .map(|(_, kind)| *kind)
            .or_else(|| kind.parse().ok().filter(|kind| *kind > 0))
            .ok_or_else(|| {
                let names = INTERFACE_TYPES.map(|(name, _)| name).join(", ");
                format!("\"{kind}\" is no type of interfaces: {names}, or a number of IANA's")
            })?;
        Ok(Self {
            name: name.to_owned(),
            kind,
            prefixes: parts.map(str::parse).collect::<Result<_, _>>()?,
        })
    }
}

/// A network interface by its LUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedInterface {
    /// Its name.
    pub name: String,
    /// Its LUID.
    pub luid: u64,
}

impl FromStr for NamedInterface {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, luid) = text
            .rsplit_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or("expected NAME=LUID, for example Tunnel=0x35000001000000")?;
        let number = luid.strip_prefix("0x").map_or_else(
            || luid.parse().ok(),
            |hex| u64::from_str_radix(hex, 16).ok(),
        );
        number
            .filter(|luid| interface_type(*luid) > 0)
            .map(|luid| Self {
                name: name.to_owned(),
                luid,
            })
            .ok_or_else(|| {
                format!("\"{luid}\" is no interface's LUID (Get-NetAdapter shows it as NetLuid)")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_has_a_name_a_type_and_addresses() {
        let interface: SimulatedInterface =
            "My VPN=virtual,10.8.0.0/24,2001:db8::2".parse().unwrap();
        assert_eq!((interface.name.as_str(), interface.kind), ("My VPN", 53));
        let [network, one] = interface.prefixes[..] else {
            panic!("{interface:?}");
        };
        assert!(!network.is_one() && one.is_one());
        for (address, is_in) in [
            ("10.8.0.255", true),
            ("10.8.1.0", false),
            ("2001:db8::2", false),
        ] {
            assert_eq!(
                network.contains(address.parse().unwrap()),
                is_in,
                "{address}"
            );
        }
        assert!(one.contains("2001:db8::2".parse().unwrap()));
        assert!(
            "0.0.0.0/0"
                .parse::<Prefix>()
                .unwrap()
                .contains([9; 4].into())
        );
        let written = interface.to_string();
        assert_eq!(written, "My VPN=53,10.8.0.0/24,2001:db8::2/128");
        assert_eq!(written.parse(), Ok(interface));
        let bare: SimulatedInterface = "x=71".parse().unwrap();
        assert_eq!((bare.kind, bare.prefixes.len()), (71, 0));
        for wrong in [
            "",
            "=wifi",
            "x",
            "x=",
            "x=vpn",
            "x=0",
            "x=65536",
            "x=wifi,",
            "x=wifi,10.0.0.1/33",
        ] {
            assert!(wrong.parse::<SimulatedInterface>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_interface_has_a_luid() {
        let luid = |text: &str| text.parse::<NamedInterface>().map(|named| named.luid);
        assert_eq!(luid("Tunnel=0x35000001000000"), Ok(0x35_0000_0100_0000));
        assert_eq!(luid("a=b=14918173765664768"), Ok(0x35_0000_0000_0000));
        for wrong in [
            "Tunnel",
            "=0x35000001000000",
            "Tunnel=7",
            "Tunnel=0x",
            "Tunnel=-1",
        ] {
            assert!(luid(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_process_is_an_endpoint_a_path_and_perhaps_a_user() {
        let process: Process = r"10.0.0.5:49152=C:\Program Files\a,b.exe,S-1-5-18"
            .parse()
            .unwrap();
        assert_eq!(process.local, "10.0.0.5:49152".parse().unwrap());
        assert_eq!(process.path, r"C:\Program Files\a,b.exe");
        assert_eq!(process.user.as_deref(), Some("S-1-5-18"));
        let process: Process = r"[2001:db8::5]:53=C:\dns.exe".parse().unwrap();
        assert_eq!(process.user, None);
        assert!(
            "10.0.0.5=x"
                .parse::<Process>()
                .unwrap_err()
                .contains("ADDR:PORT")
        );
    }
}
