//! Security descriptors in a driver's structures.
//!
//! A driver gives one as a self-relative or absolute `SECURITY_DESCRIPTOR`, or in parts; it is given one as a
//! self-relative descriptor with the addresses of its parts.

use wfp_engine::{AccessEntry, AccessList, SecurityDescriptor, SecurityParts};
use wfp_schema::NtStatus;

use super::give::Arena;
use super::marshal::sid;
use crate::access::{In, Out};

/// `OWNER_SECURITY_INFORMATION`, `GROUP_…`, `DACL_…`.
const OWNER: u32 = 0x1;
const GROUP: u32 = 0x2;
const DACL: u32 = 0x4;

const REVISION: u8 = 1;
const ACL_REVISION: u8 = 2;
const HEADER: usize = 20;
const ACL_HEADER: usize = 8;
const ACE_HEADER: usize = 8;

/// `SE_SELF_RELATIVE`, `SE_DACL_PRESENT`, `SE_DACL_PROTECTED`.
const SELF_RELATIVE: u16 = 0x8000;
const DACL_PRESENT: u16 = 0x4;
const DACL_PROTECTED: u16 = 0x1000;

/// `ACCESS_DENIED_ACE_TYPE`; granting is type 0.
const DENIED: u8 = 1;
/// `OBJECT_INHERIT_ACE | CONTAINER_INHERIT_ACE`, and `INHERIT_ONLY_ACE`.
const INHERITED: u8 = 0x3;
const INHERIT_ONLY: u8 = 0x8;

/// Which parts a `SECURITY_INFORMATION` names.
pub(super) const fn parts(information: u32) -> SecurityParts {
    SecurityParts {
        owner: information & OWNER != 0,
        group: information & GROUP != 0,
        list: information & DACL != 0,
    }
}

/// The bytes of an access control list, of which the size is in its header.
fn list_bytes(at: In<u8>) -> Vec<u8> {
    let mut header = [0; ACL_HEADER];
    at.copy_to(&mut header);
    let size = usize::from(u16::from_le_bytes([header[2], header[3]]));
    let mut bytes = vec![0; size.max(ACL_HEADER)];
    at.copy_to(&mut bytes);
    bytes
}

/// A self-relative descriptor of these parts.
fn assemble(
    control: u16,
    owner: Option<&[u8]>,
    group: Option<&[u8]>,
    list: Option<&[u8]>,
) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[0] = REVISION;
    bytes[2..4].copy_from_slice(&(control | SELF_RELATIVE).to_le_bytes());
    for (offset, part) in [(4, owner), (8, group), (16, list)] {
        if let Some(part) = part {
            let at = u32::try_from(bytes.len()).unwrap_or(0);
            bytes[offset..offset + 4].copy_from_slice(&at.to_le_bytes());
            bytes.extend_from_slice(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    bytes
}

/// The parts that a driver gives to a `Fwpm…SetSecurityInfo` function.
pub(super) fn from_parts(
    owner: In<u8>,
    group: In<u8>,
    list: In<u8>,
) -> Result<SecurityDescriptor, NtStatus> {
    let sid_of = |at: In<u8>| (!at.is_null()).then(|| sid(at)).transpose();
    let (owner, group) = (sid_of(owner)?, sid_of(group)?);
    let list = (!list.is_null()).then(|| list_bytes(list));
    let bytes = assemble(
        DACL_PRESENT,
        owner.as_deref(),
        group.as_deref(),
        list.as_deref(),
    );
    SecurityDescriptor::from_bytes(&bytes)
}

/// The descriptor that a driver gives to an object that it adds; `None` for NULL.
pub(super) fn given(at: In<u8>) -> Result<Option<SecurityDescriptor>, NtStatus> {
    if at.is_null() {
        return Ok(None);
    }
    let mut header = [0; 4];
    at.copy_to(&mut header);
    if header[0] != REVISION {
        return Err(NtStatus::INVALID_SECURITY_DESCR);
    }
    let control = u16::from_le_bytes([header[2], header[3]]);
    let part = |index: usize| -> In<u8> {
        if control & SELF_RELATIVE == 0 {
            // Absolute: pointers behind the header's first eight bytes.
            let mut address = [0; 8];
            at.skip(8 + 8 * index).copy_to(&mut address);
            return In::member(u64::from_le_bytes(address));
        }
        let mut offset = [0; 4];
        at.skip(4 + 4 * index).copy_to(&mut offset);
        match u32::from_le_bytes(offset) {
            0 => In::null(),
            offset => at.skip(offset as usize),
        }
    };
    let sid_of = |at: In<u8>| (!at.is_null()).then(|| sid(at)).transpose();
    let (owner, group) = (sid_of(part(0))?, sid_of(part(1))?);
    let list = (control & DACL_PRESENT != 0 && !part(3).is_null()).then(|| list_bytes(part(3)));
    let bytes = assemble(
        control & (DACL_PRESENT | DACL_PROTECTED),
        owner.as_deref(),
        group.as_deref(),
        list.as_deref(),
    );
    SecurityDescriptor::from_bytes(&bytes).map(Some)
}

fn entry_bytes(entry: &AccessEntry) -> Vec<u8> {
    let size = u16::try_from(ACE_HEADER + entry.sid.len()).unwrap_or(u16::MAX);
    let kind = if entry.grants { 0 } else { DENIED };
    let mut flags = if entry.inheritable { INHERITED } else { 0 };
    if !entry.applies {
        flags |= INHERIT_ONLY;
    }
    let mut bytes = vec![kind, flags];
    bytes.extend(size.to_le_bytes());
    bytes.extend(entry.rights.bits().to_le_bytes());
    bytes.extend_from_slice(&entry.sid);
    bytes
}

/// A descriptor for a driver: where it is, then its owner, its group and its list, NULL where it has none.
pub(super) fn show(
    memory: &mut Arena,
    descriptor: &SecurityDescriptor,
    parts: SecurityParts,
) -> [Out<u8>; 4] {
    let owner = descriptor.owner.as_deref().filter(|_| parts.owner);
    let group = descriptor.group.as_deref().filter(|_| parts.group);
    let list = match &descriptor.list {
        AccessList::Entries(entries) if parts.list => {
            let body: Vec<u8> = entries.iter().flat_map(entry_bytes).collect();
            let size = u16::try_from(ACL_HEADER + body.len()).unwrap_or(u16::MAX);
            let count = u16::try_from(entries.len()).unwrap_or(u16::MAX);
            let mut bytes = vec![ACL_REVISION, 0];
            bytes.extend(size.to_le_bytes());
            bytes.extend(count.to_le_bytes());
            bytes.extend([0; 2]);
            bytes.extend(body);
            Some(bytes)
        }
        _ => None,
    };
    let present = parts.list && descriptor.list != AccessList::Inherited;
    let mut control = if present { DACL_PRESENT } else { 0 };
    if descriptor.protected {
        control |= DACL_PROTECTED;
    }
    let bytes = assemble(control, owner, group, list.as_deref());
    let at = memory.put_bytes(&bytes);
    let part = |offset: usize| {
        let bytes = bytes[offset..].first_chunk().copied().unwrap_or_default();
        match u32::from_le_bytes(bytes) {
            0 => Out::null(),
            offset => at.offset(offset as usize),
        }
    };
    [at, part(4), part(8), part(16)]
}
