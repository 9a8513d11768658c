//! Who may open a device: accounts, security descriptors (SDDL) and the access check.

use std::fmt;

/// `FILE_READ_DATA`.
pub const FILE_READ_DATA: u32 = 0x1;
/// `FILE_WRITE_DATA`.
pub const FILE_WRITE_DATA: u32 = 0x2;
/// `GENERIC_READ`.
pub const GENERIC_READ: u32 = 0x8000_0000;
/// `GENERIC_WRITE`.
pub const GENERIC_WRITE: u32 = 0x4000_0000;
/// `GENERIC_EXECUTE`.
pub const GENERIC_EXECUTE: u32 = 0x2000_0000;
/// `GENERIC_ALL`.
pub const GENERIC_ALL: u32 = 0x1000_0000;
/// `FILE_ALL_ACCESS`.
pub const FILE_ALL_ACCESS: u32 = 0x001f_01ff;
const FILE_GENERIC_READ: u32 = 0x0012_0089;
const FILE_GENERIC_WRITE: u32 = 0x0012_0116;
const FILE_GENERIC_EXECUTE: u32 = 0x0012_00a0;
const MAXIMUM_ALLOWED: u32 = 0x0200_0000;

/// An account, as far as access checks go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// Local System.
    System,
    /// An elevated member of Administrators.
    Administrator,
    /// An interactive user without privileges.
    User,
}

impl Account {
    /// The security identifiers in its token.
    const fn sids(self) -> &'static [&'static str] {
        match self {
            Self::System => &["S-1-5-18", "S-1-5-32-544", "S-1-1-0", "S-1-5-11"],
            Self::Administrator => &[
                "S-1-5-21-1-2-3-1000",
                "S-1-5-32-544",
                "S-1-5-32-545",
                "S-1-1-0",
                "S-1-5-11",
                "S-1-5-4",
            ],
            Self::User => &[
                "S-1-5-21-1-2-3-1001",
                "S-1-5-32-545",
                "S-1-1-0",
                "S-1-5-11",
                "S-1-5-4",
            ],
        }
    }
}

/// Who calls from user mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Its account.
    pub account: Account,
    /// The access it asks for when it opens a device: generic or file rights.
    pub access: u32,
    /// Its process id.
    pub process: u32,
}

impl Caller {
    /// Local System, asking for read and write.
    #[must_use]
    pub const fn system() -> Self {
        Self::new(Account::System)
    }

    /// An elevated administrator, asking for read and write.
    #[must_use]
    pub const fn administrator() -> Self {
        Self::new(Account::Administrator)
    }

    /// A user without privileges, asking for read and write.
    #[must_use]
    pub const fn user() -> Self {
        Self::new(Account::User)
    }

    const fn new(account: Account) -> Self {
        Self {
            account,
            access: GENERIC_READ | GENERIC_WRITE,
            process: 1000,
        }
    }

    /// The same caller asking for `access`.
    #[must_use]
    pub const fn with_access(mut self, access: u32) -> Self {
        self.access = access;
        self
    }

    /// The same caller in another process.
    #[must_use]
    pub const fn with_process(mut self, process: u32) -> Self {
        self.process = process;
        self
    }
}

/// Why a string is not a security descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSddl(String);

impl fmt::Display for InvalidSddl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a security descriptor string: {}", self.0)
    }
}

impl std::error::Error for InvalidSddl {}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    allow: bool,
    rights: u32,
    sid: String,
}

/// The part of a security descriptor that decides about opening a device: its DACL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecurityDescriptor {
    /// `None`: no DACL, everybody may do everything.
    entries: Option<Vec<Entry>>,
}

impl SecurityDescriptor {
    /// Parses the security descriptor definition language as far as drivers may use it.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/kernel/sddl-for-device-objects>
    ///
    /// # Errors
    /// When the string is malformed or has no DACL.
    pub fn parse(sddl: &str) -> Result<Self, InvalidSddl> {
        let at = sddl
            .find("D:")
            .ok_or_else(|| InvalidSddl(format!("no DACL in {sddl:?}")))?;
        let text = &sddl[at + 2..];
        // A SACL may follow; it audits and does not decide.
        let text = text.split_once("S:").map_or(text, |(dacl, _)| dacl);
        if text.starts_with("NO_ACCESS_CONTROL") {
            return Ok(Self { entries: None });
        }
        let (flags, mut rest) = text.split_at(text.find('(').unwrap_or(text.len()));
        if !matches!(flags.trim(), "" | "P" | "AI" | "PAI" | "AR") {
            return Err(InvalidSddl(format!("unknown flags {flags:?}")));
        }
        let mut entries = Vec::new();
        while let Some(body) = rest.trim_start().strip_prefix('(') {
            let (entry, after) = body
                .split_once(')')
                .ok_or_else(|| InvalidSddl("an entry is not closed".into()))?;
            entries.push(Self::entry(entry)?);
            rest = after;
        }
        if !rest.trim().is_empty() {
            return Err(InvalidSddl(format!("{rest:?} follows the entries")));
        }
        Ok(Self {
            entries: Some(entries),
        })
    }

    fn entry(text: &str) -> Result<Entry, InvalidSddl> {
        let fields: Vec<&str> = text.split(';').map(str::trim).collect();
        let [kind, _flags, rights, "", "", sid] = fields[..] else {
            return Err(InvalidSddl(format!(
                "entry {text:?} does not have six fields"
            )));
        };
        let allow = match kind {
            "A" => true,
            "D" => false,
            _ => return Err(InvalidSddl(format!("unknown entry type {kind:?}"))),
        };
        Ok(Entry {
            allow,
            rights: parse_rights(rights)?,
            sid: parse_sid(sid)?,
        })
    }

    /// The access check: what `account` is granted when it asks for `desired`; `None` when it is denied.
    #[must_use]
    pub fn grant(&self, account: Account, desired: u32) -> Option<u32> {
        let wanted = map_generic(desired) & !MAXIMUM_ALLOWED;
        let Some(entries) = &self.entries else {
            return Some(if desired & MAXIMUM_ALLOWED == 0 {
                wanted
            } else {
                FILE_ALL_ACCESS
            });
        };
        let (mut allowed, mut denied) = (0, 0);
        for entry in entries
            .iter()
            .filter(|entry| account.sids().contains(&entry.sid.as_str()))
        {
            let rights = map_generic(entry.rights);
            if entry.allow {
                allowed |= rights & !denied;
            } else {
                denied |= rights & !allowed;
            }
        }
        if wanted & !allowed != 0 {
            return None;
        }
        if desired & MAXIMUM_ALLOWED != 0 {
            return (allowed != 0).then_some(allowed);
        }
        Some(wanted)
    }
}

/// Replaces generic rights by the file rights that they stand for.
fn map_generic(access: u32) -> u32 {
    let mapping = [
        (GENERIC_READ, FILE_GENERIC_READ),
        (GENERIC_WRITE, FILE_GENERIC_WRITE),
        (GENERIC_EXECUTE, FILE_GENERIC_EXECUTE),
        (GENERIC_ALL, FILE_ALL_ACCESS),
    ];
    mapping.iter().fold(access, |access, (generic, file)| {
        if access & generic == 0 {
            access
        } else {
            access & !generic | file
        }
    })
}

fn parse_rights(text: &str) -> Result<u32, InvalidSddl> {
    if let Some(hex) = text.strip_prefix("0x") {
        return u32::from_str_radix(hex, 16).map_err(|_| InvalidSddl(format!("rights {text:?}")));
    }
    let mut rights = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let pair = rest
            .get(..2)
            .ok_or_else(|| InvalidSddl(format!("rights {text:?}")))?;
        rights |= match pair {
            "GA" => GENERIC_ALL,
            "GR" => GENERIC_READ,
            "GW" => GENERIC_WRITE,
            "GX" => GENERIC_EXECUTE,
            "RC" => 0x0002_0000,
            "SD" => 0x0001_0000,
            "WD" => 0x0004_0000,
            "WO" => 0x0008_0000,
            "FA" => FILE_ALL_ACCESS,
            "FR" => FILE_GENERIC_READ,
            "FW" => FILE_GENERIC_WRITE,
            "FX" => FILE_GENERIC_EXECUTE,
            _ => return Err(InvalidSddl(format!("unknown right {pair:?}"))),
        };
        rest = &rest[2..];
    }
    Ok(rights)
}

fn parse_sid(text: &str) -> Result<String, InvalidSddl> {
    let sid = match text {
        "SY" => "S-1-5-18",
        "BA" => "S-1-5-32-544",
        "BU" => "S-1-5-32-545",
        "BG" => "S-1-5-32-546",
        "WD" => "S-1-1-0",
        "AU" => "S-1-5-11",
        "AN" => "S-1-5-7",
        "IU" => "S-1-5-4",
        "NU" => "S-1-5-2",
        "SU" => "S-1-5-6",
        "LS" => "S-1-5-19",
        "NS" => "S-1-5-20",
        "RC" => "S-1-5-12",
        "WR" => "S-1-5-33",
        "UD" => "S-1-5-84-0-0-0-0-0",
        "AC" => "S-1-15-2-1",
        _ if text.strip_prefix("S-1-").is_some_and(|rest| {
            !rest.is_empty()
                && rest
                    .split('-')
                    .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
        }) =>
        {
            text
        }
        _ => return Err(InvalidSddl(format!("unknown account {text:?}"))),
    };
    Ok(sid.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{
        Account, FILE_READ_DATA, FILE_WRITE_DATA, GENERIC_ALL, GENERIC_READ, GENERIC_WRITE,
        SecurityDescriptor,
    };

    #[test]
    fn system_and_administrators_only() {
        let security = SecurityDescriptor::parse("D:P(A;;GA;;;SY)(A;;GA;;;BA)").unwrap();
        assert!(security.grant(Account::System, GENERIC_ALL).is_some());
        assert!(
            security
                .grant(Account::Administrator, GENERIC_READ | GENERIC_WRITE)
                .is_some()
        );
        assert_eq!(security.grant(Account::User, FILE_READ_DATA), None);
    }

    #[test]
    fn a_user_who_may_read_may_not_write() {
        let security = SecurityDescriptor::parse("D:P(A;;GA;;;SY)(A;;GRGX;;;WD)").unwrap();
        let granted = security.grant(Account::User, GENERIC_READ).unwrap();
        assert_eq!(granted & (FILE_READ_DATA | FILE_WRITE_DATA), FILE_READ_DATA);
        assert_eq!(security.grant(Account::User, GENERIC_WRITE), None);
    }

    #[test]
    fn what_is_denied_first_stays_denied() {
        let security = SecurityDescriptor::parse("D:(D;;GW;;;BU)(A;;GA;;;WD)").unwrap();
        assert_eq!(security.grant(Account::User, GENERIC_WRITE), None);
        assert!(security.grant(Account::System, GENERIC_WRITE).is_some());
    }

    #[test]
    fn an_empty_dacl_grants_nothing_and_none_grants_all() {
        assert_eq!(
            SecurityDescriptor::parse("D:P")
                .unwrap()
                .grant(Account::System, FILE_READ_DATA),
            None
        );
        assert!(
            SecurityDescriptor::default()
                .grant(Account::User, GENERIC_ALL)
                .is_some()
        );
    }

    #[test]
    fn malformed_strings_are_refused() {
        for text in [
            "",
            "P(A;;GA;;;SY)",
            "D:P(A;;GA;;;SY",
            "D:P(A;;GA;SY)",
            "D:P(A;;QQ;;;SY)",
            "D:P(A;;GA;;;XX)",
            "D:X(A;;GA;;;SY)",
        ] {
            assert!(SecurityDescriptor::parse(text).is_err(), "{text:?}");
        }
    }
}
