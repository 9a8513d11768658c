//! Security descriptors of objects.

use wfp_engine::{ADMINISTRATORS, EVERYONE};
use wfp_schema::{Guid, NtStatus};

use super::support::{OK, at, into, raw_sublayer, run_clean, status};
use crate::access::{In, Out};
use crate::fwp::Config;
use crate::fwp::objects::query::FwpmFreeMemory0;
use crate::fwp::objects::security::{
    FwpmEngineGetSecurityInfo0, FwpmSubLayerGetSecurityInfoByKey0,
    FwpmSubLayerSetSecurityInfoByKey0,
};
use crate::fwp::objects::sublayer::FwpmSubLayerAdd0;

const OWNER: u32 = 1;
const DACL: u32 = 4;

/// An access control list that grants these rights to `sid`.
fn list(rights: u32, sid: &[u8]) -> Vec<u8> {
    let entry = u16::try_from(8 + sid.len()).expect("small");
    let mut bytes = vec![2, 0];
    bytes.extend((8 + entry).to_le_bytes());
    bytes.extend([1, 0, 0, 0, 0, 0]);
    bytes.extend(entry.to_le_bytes());
    bytes.extend(rights.to_le_bytes());
    bytes.extend_from_slice(sid);
    bytes
}

/// What a sublayer's descriptor has as owner and list, of which `length` bytes are looked at.
fn read(engine: usize, key: &Guid, length: usize) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let none = Out::null();
    let (mut owner, mut dacl, mut descriptor) = (none, none, none);
    let (group, system) = (Out::null(), Out::null());
    let got = FwpmSubLayerGetSecurityInfoByKey0(
        engine,
        at(key),
        OWNER | DACL,
        into(&mut owner),
        group,
        into(&mut dacl),
        system,
        into(&mut descriptor),
    );
    assert_eq!(got, OK);
    let bytes = |part: Out<u8>, length: usize| {
        (!part.is_null()).then(|| {
            let mut bytes = vec![0; length];
            part.as_in().copy_to(&mut bytes);
            bytes
        })
    };
    let found = (bytes(owner, ADMINISTRATORS.len()), bytes(dacl, length));
    FwpmFreeMemory0(into(&mut descriptor));
    found
}

#[test]
fn a_descriptor_that_was_given_or_set_is_found_again() {
    run_clean(Config::default(), |driver| {
        let engine = driver.engine;
        let mut sublayer = raw_sublayer(Guid::from_u128(0x5ec));
        // A self-relative descriptor with an owner and a list.
        let entries = list(0x10, EVERYONE);
        let mut given = vec![1, 0, 0x04, 0x80];
        given.extend(20_u32.to_le_bytes());
        given.extend([0; 8]);
        let at_list = u32::try_from(20 + ADMINISTRATORS.len()).expect("small");
        given.extend(at_list.to_le_bytes());
        given.extend_from_slice(ADMINISTRATORS);
        given.extend_from_slice(&entries);
        assert_eq!(FwpmSubLayerAdd0(engine, at(&sublayer), at(&given[0])), OK);
        let found = read(engine, &sublayer.key, entries.len());
        assert_eq!(found, (Some(ADMINISTRATORS.to_vec()), Some(entries)));

        let changed = list(0x20, ADMINISTRATORS);
        let null = In::null();
        let key = at(&sublayer.key);
        let set =
            FwpmSubLayerSetSecurityInfoByKey0(engine, key, DACL, null, null, at(&changed[0]), null);
        assert_eq!(set, OK);
        let found = read(engine, &sublayer.key, changed.len());
        assert_eq!(
            found,
            (Some(ADMINISTRATORS.to_vec()), Some(changed)),
            "the owner stays"
        );

        sublayer.key = Guid::from_u128(0x5ed);
        let malformed = [7_u8; 20];
        let refused = FwpmSubLayerAdd0(engine, at(&sublayer), at(&malformed[0]));
        assert_eq!(status(refused), NtStatus::INVALID_SECURITY_DESCR);
    });
}

#[test]
fn the_engine_has_a_descriptor_and_what_does_not_exist_has_none() {
    run_clean(Config::default(), |driver| {
        let (mut dacl, mut descriptor) = (Out::null(), Out::null());
        let none = Out::null;
        let got = FwpmEngineGetSecurityInfo0(
            driver.engine,
            DACL,
            none(),
            none(),
            into(&mut dacl),
            none(),
            into(&mut descriptor),
        );
        assert_eq!(got, OK);
        assert!(!dacl.is_null());
        FwpmFreeMemory0(into(&mut descriptor));
        let missing = FwpmSubLayerGetSecurityInfoByKey0(
            driver.engine,
            at(&Guid::from_u128(9)),
            DACL,
            none(),
            none(),
            none(),
            none(),
            into(&mut descriptor),
        );
        assert_eq!(status(missing), NtStatus::FWP_SUBLAYER_NOT_FOUND);
    });
}
