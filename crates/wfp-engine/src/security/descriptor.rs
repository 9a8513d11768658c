//! Self-relative security descriptors, and the access check behind conditions
//! that hold one.
//!
//! A descriptor in a condition matches a token if its discretionary list grants
//! `FWP_ACTRL_MATCH_FILTER`; [`grants_match`] reads it where it lies, as it runs
//! in a classify. [`SecurityDescriptor`] is the parsed form that objects have.

use crate::value::Token;
use wfp_schema::{AccessRights, NtStatus};

/// Who owns an object and who may do what with it. System lists are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SecurityDescriptor {
    /// The owner's SID: may always read the descriptor and change the list.
    pub owner: Option<Box<[u8]>>,
    /// The primary group's SID.
    pub group: Option<Box<[u8]>>,
    /// The discretionary access control list.
    pub list: AccessList,
    /// `SE_DACL_PROTECTED`: nothing is inherited.
    pub protected: bool,
}

/// A discretionary access control list.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum AccessList {
    /// None of its own: only what is inherited.
    #[default]
    Inherited,
    /// A NULL list: everything is granted to everyone.
    Everyone,
    /// Its own entries, then what is inherited.
    Entries(Vec<AccessEntry>),
}

/// An access control entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessEntry {
    /// Whether it grants rather than denies.
    pub grants: bool,
    /// Whether objects in the container inherit it.
    pub inheritable: bool,
    /// Whether it counts for the container itself, not only for what inherits it.
    pub applies: bool,
    /// The rights.
    pub rights: AccessRights,
    /// Whose they are.
    pub sid: Box<[u8]>,
}

impl AccessEntry {
    /// Grants rights, to those who inherit it too.
    #[must_use]
    pub fn grant(rights: AccessRights, sid: &[u8]) -> Self {
        Self {
            grants: true,
            inheritable: true,
            applies: true,
            rights,
            sid: sid.into(),
        }
    }

    /// Denies rights, to those who inherit it too.
    #[must_use]
    pub fn deny(rights: AccessRights, sid: &[u8]) -> Self {
        Self {
            grants: false,
            ..Self::grant(rights, sid)
        }
    }
}

impl SecurityDescriptor {
    /// Reads a self-relative descriptor.
    ///
    /// # Errors
    /// `INVALID_SECURITY_DESCR` if it is absolute or malformed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NtStatus> {
        const INVALID: NtStatus = NtStatus::INVALID_SECURITY_DESCR;
        let control = u16_at(bytes, 2).ok_or(INVALID)?;
        let list = match entries(bytes).ok_or(INVALID)? {
            Dacl::Everyone if control & SE_DACL_PRESENT == 0 => AccessList::Inherited,
            Dacl::Everyone => AccessList::Everyone,
            Dacl::Entries(entries) => {
                let entries: Option<Vec<_>> = entries.collect();
                let known = entries.ok_or(INVALID)?.into_iter();
                AccessList::Entries(known.filter_map(Entry::parsed).collect())
            }
        };
        Ok(Self {
            owner: sid_at(bytes, OWNER_OFFSET)?,
            group: sid_at(bytes, GROUP_OFFSET)?,
            list,
            protected: control & SE_DACL_PROTECTED != 0,
        })
    }
}

/// The SID to which an offset in the header points; `None` without one.
///
/// # Errors
/// `INVALID_SECURITY_DESCR` if it does not lie within the descriptor.
fn sid_at(bytes: &[u8], offset_at: usize) -> Result<Option<Box<[u8]>>, NtStatus> {
    let found = u32_at(bytes, offset_at)
        .and_then(|offset| usize::try_from(offset).ok())
        .ok_or(NtStatus::INVALID_SECURITY_DESCR)?;
    if found == 0 {
        return Ok(None);
    }
    let sid = bytes.get(found..).and_then(|sid| {
        let size = SID_HEADER + 4 * usize::from(*sid.get(1)?);
        sid.get(..size)
    });
    sid.map(|sid| Some(sid.into()))
        .ok_or(NtStatus::INVALID_SECURITY_DESCR)
}

const ACTRL_MATCH_FILTER: u32 = 0x1;
const GENERIC_ALL: u32 = 0x1000_0000;
const SE_DACL_PRESENT: u16 = 0x0004;
const SE_SELF_RELATIVE: u16 = 0x8000;
const ACCESS_ALLOWED_ACE: u8 = 0;
const ACCESS_DENIED_ACE: u8 = 1;
const SE_DACL_PROTECTED: u16 = 0x1000;
const INHERITANCE: u8 = 0x01 | 0x02;
const INHERIT_ONLY: u8 = 0x08;
const HEADER: usize = 20;
const OWNER_OFFSET: usize = 4;
const GROUP_OFFSET: usize = 8;
const SID_HEADER: usize = 8;
const DACL_OFFSET: usize = 16;
const ACL_HEADER: usize = 8;
const ACE_HEADER: usize = 8;

/// Whether the descriptor is self-relative and its ACL lies within it.
pub(crate) fn is_valid(descriptor: &[u8]) -> bool {
    entries(descriptor).is_some_and(|dacl| match dacl {
        Dacl::Everyone => true,
        Dacl::Entries(mut entries) => entries.all(|entry| entry.is_some()),
    })
}

/// Whether the token may match: entries in order, the first that names one of
/// its SIDs and the right decides.
pub(crate) fn grants_match(descriptor: &[u8], token: &Token<'_>) -> bool {
    let Some(dacl) = entries(descriptor) else {
        return false;
    };
    let entries = match dacl {
        Dacl::Everyone => return true,
        Dacl::Entries(entries) => entries,
    };
    for entry in entries {
        let Some(entry) = entry else { return false };
        let concerns = entry.flags & INHERIT_ONLY == 0
            && entry.mask & (ACTRL_MATCH_FILTER | GENERIC_ALL) != 0
            && token.sids().any(|sid| sid == entry.sid);
        if concerns {
            match entry.kind {
                ACCESS_ALLOWED_ACE => return true,
                ACCESS_DENIED_ACE => return false,
                _ => {}
            }
        }
    }
    false
}

/// One access control entry.
struct Entry<'a> {
    kind: u8,
    flags: u8,
    mask: u32,
    sid: &'a [u8],
}

impl Entry<'_> {
    /// The parsed form; `None` for an entry of another kind than grant or deny.
    fn parsed(self) -> Option<AccessEntry> {
        let grants = match self.kind {
            ACCESS_ALLOWED_ACE => true,
            ACCESS_DENIED_ACE => false,
            _ => return None,
        };
        Some(AccessEntry {
            grants,
            inheritable: self.flags & INHERITANCE != 0,
            applies: self.flags & INHERIT_ONLY == 0,
            rights: AccessRights::from_bits(self.mask),
            sid: self.sid.into(),
        })
    }
}

enum Dacl<'a> {
    /// No list: everything is granted to everyone.
    Everyone,
    Entries(Entries<'a>),
}

/// The entries of a list; `None` for one that overruns it, after which there is no other.
struct Entries<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Option<Entry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let entry = self.parse();
        if entry.is_none() {
            self.left = 0;
        }
        Some(entry)
    }
}

impl<'a> Entries<'a> {
    fn parse(&mut self) -> Option<Entry<'a>> {
        let size = usize::from(u16_at(self.rest, 2)?);
        let (entry, rest) = self.rest.split_at_checked(size)?;
        self.rest = rest;
        let body = entry.get(ACE_HEADER..)?;
        // A SID is 8 bytes and 4 for each sub-authority; an entry may be padded behind it.
        let sid_size = SID_HEADER + 4 * usize::from(*body.get(1)?);
        Some(Entry {
            kind: *entry.first()?,
            flags: *entry.get(1)?,
            mask: u32_at(entry, 4)?,
            sid: body.get(..sid_size)?,
        })
    }
}

/// The discretionary ACL of a self-relative descriptor, `None` if it is malformed.
fn entries(descriptor: &[u8]) -> Option<Dacl<'_>> {
    let control = u16_at(descriptor, 2)?;
    if descriptor.len() < HEADER || control & SE_SELF_RELATIVE == 0 {
        return None;
    }
    let offset = usize::try_from(u32_at(descriptor, DACL_OFFSET)?).ok()?;
    if control & SE_DACL_PRESENT == 0 || offset == 0 {
        return Some(Dacl::Everyone);
    }
    let acl = descriptor.get(offset..)?;
    let size = usize::from(u16_at(acl, 2)?);
    Some(Dacl::Entries(Entries {
        rest: acl.get(ACL_HEADER..size)?,
        left: u16_at(acl, 4)?,
    }))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|chunk| u16::from_le_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|chunk| u32::from_le_bytes(*chunk))
}
