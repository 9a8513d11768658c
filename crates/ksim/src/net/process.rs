//! Who owns a local endpoint: the application, its process and its user, as ALE layers show them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use wfp_engine::Token;

/// The process identifier of the System process.
const SYSTEM_PROCESS: u64 = 4;

/// What every user belongs to: Everyone (S-1-1-0) and Authenticated Users (S-1-5-11).
const GROUPS: &[&[u8]] = &[
    &[1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
    &[1, 1, 0, 0, 0, 0, 0, 5, 11, 0, 0, 0],
];

/// An application running for a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    application: String,
    application_id: Vec<u8>,
    process_id: u64,
    user: Vec<u8>,
}

impl Identity {
    /// An application by its path: an NT device path (`\device\...`), a drive-letter path, or a plain name
    /// such as `System`. It is shown as Windows shows it, see [`nt_path`].
    #[must_use]
    pub fn new(path: &str, process_id: u64, user: Sid) -> Self {
        let application = nt_path(path);
        let application_id = application
            .encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect();
        Self {
            application,
            application_id,
            process_id,
            user: user.0,
        }
    }

    /// The System process as the local system user: the owner of every endpoint that nobody claims.
    #[must_use]
    pub fn system() -> Self {
        Self::new("System", SYSTEM_PROCESS, Sid::new(5, &[18]))
    }

    /// The path as `ALE_APP_ID` and `PROCESS_PATH` hold it, as text.
    #[must_use]
    pub fn application(&self) -> &str {
        &self.application
    }

    /// The blob in `ALE_APP_ID` and `PROCESS_PATH`: UTF-16 little endian with its terminating zero.
    #[must_use]
    pub fn application_id(&self) -> &[u8] {
        &self.application_id
    }

    /// The process identifier.
    #[must_use]
    pub const fn process_id(&self) -> u64 {
        self.process_id
    }

    /// The user's security identifier in binary form.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        &self.user
    }

    /// The user's token: besides the user the groups that everybody is in.
    #[must_use]
    pub fn token(&self) -> Token<'_> {
        Token {
            user: &self.user,
            groups: GROUPS,
        }
    }
}

/// A security identifier in binary form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sid(Vec<u8>);

/// Why text is not a security identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a security identifier such as S-1-5-18")]
pub struct BadSid(String);

impl Sid {
    /// A security identifier of revision 1. Sub-authorities beyond the 15 that fit are left out.
    #[must_use]
    pub fn new(authority: u64, sub_authorities: &[u32]) -> Self {
        let sub_authorities = &sub_authorities[..sub_authorities.len().min(15)];
        let mut bytes = vec![1, u8::try_from(sub_authorities.len()).unwrap_or(0)];
        bytes.extend(&authority.to_be_bytes()[2..]);
        bytes.extend(sub_authorities.iter().flat_map(|part| part.to_le_bytes()));
        Self(bytes)
    }

    /// The binary form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::str::FromStr for Sid {
    type Err = BadSid;

    fn from_str(text: &str) -> Result<Self, BadSid> {
        let bad = || BadSid(text.to_owned());
        let mut parts = text.split('-');
        let prefix = parts.next().ok_or_else(bad)?;
        if !prefix.eq_ignore_ascii_case("S") || parts.next() != Some("1") {
            return Err(bad());
        }
        let authority = parts.next().ok_or_else(bad)?;
        let authority = authority
            .strip_prefix("0x")
            .map_or_else(|| authority.parse(), |hex| u64::from_str_radix(hex, 16))
            .map_err(|_| bad())?;
        let sub_authorities: Vec<u32> = parts
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| bad())?;
        if authority >> 48 != 0 || sub_authorities.is_empty() || sub_authorities.len() > 15 {
            return Err(bad());
        }
        Ok(Self::new(authority, &sub_authorities))
    }
}

/// An application's path as WFP shows it.
///
/// A drive-letter path becomes a device path (drive C is `\device\harddiskvolume3`, D is 4, and so on), and
/// all is lower case. A name without a backslash (`System`) stays as it is.
#[must_use]
pub fn nt_path(path: &str) -> String {
    let mut chars = path.chars();
    if let (Some(drive), Some(':')) = (chars.next(), chars.next())
        && drive.is_ascii_alphabetic()
    {
        // C is volume 3 on an ordinary installation; A and B would be floppy disks.
        let volume = u32::from(drive.to_ascii_uppercase()).saturating_sub(u32::from(b'A')) + 1;
        let rest = chars.as_str().replace('/', "\\").to_lowercase();
        return format!("\\device\\harddiskvolume{volume}{rest}");
    }
    if path.contains('\\') {
        path.to_lowercase()
    } else {
        path.to_owned()
    }
}

/// The owners of local endpoints.
#[derive(Clone, Debug)]
pub struct Processes {
    identities: Vec<Identity>,
    owners: HashMap<(IpAddr, u16), IdentityId>,
}

/// Which identity of [`Processes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdentityId(usize);

impl IdentityId {
    /// The System process.
    pub const SYSTEM: Self = Self(0);
}

impl Default for Processes {
    /// Nobody claims any endpoint; all are the System process's.
    fn default() -> Self {
        Self {
            identities: vec![Identity::system()],
            owners: HashMap::new(),
        }
    }
}

impl Processes {
    /// Gives an endpoint an owner. Port 0 stands for every port of the address, and the unspecified
    /// address for every address of its family; an exact endpoint comes first.
    pub fn assign(&mut self, endpoint: SocketAddr, identity: Identity) {
        let id = self
            .identities
            .iter()
            .position(|known| *known == identity)
            .unwrap_or_else(|| {
                self.identities.push(identity);
                self.identities.len() - 1
            });
        self.owners
            .insert((endpoint.ip(), endpoint.port()), IdentityId(id));
    }

    /// The owner of an endpoint.
    #[must_use]
    pub fn owner(&self, address: IpAddr, port: u16) -> IdentityId {
        if self.owners.is_empty() {
            return IdentityId(0);
        }
        let any = match address {
            IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        [(address, port), (address, 0), (any, port), (any, 0)]
            .iter()
            .find_map(|key| self.owners.get(key).copied())
            .unwrap_or(IdentityId(0))
    }

    /// The identity with this id.
    #[must_use]
    pub fn identity(&self, id: IdentityId) -> &Identity {
        &self.identities[id.0]
    }
}
