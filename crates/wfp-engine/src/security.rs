//! The access check behind conditions that hold a security descriptor.
//!
//! A self-relative security descriptor matches a token if its discretionary
//! ACL grants `FWP_ACTRL_MATCH_FILTER`.

use crate::value::Token;

const ACTRL_MATCH_FILTER: u32 = 0x1;
const GENERIC_ALL: u32 = 0x1000_0000;
const SE_DACL_PRESENT: u16 = 0x0004;
const SE_SELF_RELATIVE: u16 = 0x8000;
const ACCESS_ALLOWED_ACE: u8 = 0;
const ACCESS_DENIED_ACE: u8 = 1;
const INHERIT_ONLY: u8 = 0x08;
const HEADER: usize = 20;
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
        let sid_size = 8 + 4 * usize::from(*body.get(1)?);
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
