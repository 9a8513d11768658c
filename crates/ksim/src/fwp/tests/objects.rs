//! Management objects through the ABI.

use wfp_schema::{Action, Guid, LayerKind, NtStatus};

use super::support::{
    OK, at, behave, into, open, raw_callout, raw_provider, raw_sublayer, run, run_clean, status, v4,
};
use crate::access::{In, Out};
use crate::fwp::Config;
use crate::fwp::layout::management::{RawCallout, RawFilter, RawProvider, RawSubLayer};
use crate::fwp::layout::value::RawValue;
use crate::fwp::objects::callout::{
    FwpmCalloutAdd0, FwpmCalloutDeleteByKey0, FwpmCalloutGetByKey0,
};
use crate::fwp::objects::filter::{
    FwpmFilterAdd0, FwpmFilterCreateEnumHandle0, FwpmFilterDeleteByKey0,
    FwpmFilterDestroyEnumHandle0, FwpmFilterEnum0, FwpmFilterGetById0,
};
use crate::fwp::objects::provider::{
    FwpmProviderAdd0, FwpmProviderDeleteByKey0, FwpmProviderGetByKey0,
};
use crate::fwp::objects::query::FwpmFreeMemory0;
use crate::fwp::objects::sublayer::{
    FwpmSubLayerAdd0, FwpmSubLayerDeleteByKey0, FwpmSubLayerGetByKey0,
};
use crate::fwp::session::{
    FwpmEngineClose0, FwpmEngineOpen0, FwpmTransactionAbort0, FwpmTransactionBegin0,
    FwpmTransactionCommit0,
};
use crate::net::{Filtering, Outcome};
use crate::verifier::{ARGUMENT, OBJECT_STALE};

fn free<T>(at: &mut Out<T>) {
    FwpmFreeMemory0(into(at).offset(0));
    assert!(at.is_null());
}

#[test]
fn what_was_added_is_found_again() {
    run_clean(Config::default(), |driver| {
        let engine = driver.engine;
        let provider = raw_provider(Guid::from_u128(1));
        assert_eq!(FwpmProviderAdd0(engine, at(&provider), In::null()), OK);
        let mut sublayer = raw_sublayer(Guid::from_u128(2));
        sublayer.weight = 0x1234;
        sublayer.provider = at(&provider.key);
        assert_eq!(FwpmSubLayerAdd0(engine, at(&sublayer), In::null()), OK);

        let mut found = Out::<RawProvider>::null();
        assert_eq!(
            FwpmProviderGetByKey0(engine, at(&provider.key), into(&mut found)),
            OK
        );
        assert_eq!(
            found.get().expect("found").display.name.string().as_deref(),
            Some("test")
        );
        free(&mut found);
        let mut found = Out::<RawSubLayer>::null();
        assert_eq!(
            FwpmSubLayerGetByKey0(engine, at(&sublayer.key), into(&mut found)),
            OK
        );
        let raw = found.get().expect("found");
        assert_eq!(
            (raw.weight, raw.provider.get()),
            (0x1234, Some(provider.key))
        );
        free(&mut found);
        // OBJ-07's kind of rule: the provider is in use.
        assert_eq!(
            status(FwpmProviderDeleteByKey0(engine, at(&provider.key))),
            NtStatus::FWP_IN_USE
        );
        assert_eq!(FwpmSubLayerDeleteByKey0(engine, at(&sublayer.key)), OK);
        assert_eq!(FwpmProviderDeleteByKey0(engine, at(&provider.key)), OK);
        let mut found = Out::<RawProvider>::null();
        let gone = FwpmProviderGetByKey0(engine, at(&provider.key), into(&mut found));
        assert_eq!(status(gone), NtStatus::FWP_PROVIDER_NOT_FOUND);
    });
}

#[test]
fn a_filters_weight_conditions_and_action_survive_the_round_trip() {
    use crate::fwp::layout::management::RawCondition;
    use crate::fwp::layout::value::{RawBlob, RawV4AddrMask, RawV6AddrMask};
    use wfp_schema::{DataType, IpVersion, MatchType, condition};

    run_clean(Config::default(), |driver| {
        let text: Vec<u8> = "app.exe\0"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        // SAFETY: read during the calls only.
        let data = unsafe { Out::new(text.as_ptr().cast_mut()) };
        let mut blob = RawBlob {
            size: u32::try_from(text.len()).expect("short"),
            data,
        };
        let mut v4_mask = RawV4AddrMask {
            address: 0x0a00_0000,
            mask: 0xff00_0000,
        };
        let mut v6_mask = RawV6AddrMask {
            address: [0xfd; 16],
            prefix: 8,
        };
        let mut weight = 77_u64;
        for (version, kind, mask) in [
            (
                IpVersion::V4,
                DataType::V4AddrMask,
                into(&mut v4_mask).offset::<u8>(0),
            ),
            (
                IpVersion::V6,
                DataType::V6AddrMask,
                into(&mut v6_mask).offset::<u8>(0),
            ),
        ] {
            let connect = super::support::layer(LayerKind::AleAuthConnect, version);
            let condition = |field, match_type: MatchType, value| RawCondition {
                field,
                match_type: match_type.value(),
                value,
            };
            let conditions = [
                condition(
                    condition::IP_REMOTE_ADDRESS,
                    MatchType::Equal,
                    RawValue::at(kind, mask),
                ),
                condition(
                    condition::ALE_APP_ID,
                    MatchType::Prefix,
                    RawValue::at(DataType::ByteBlob, into(&mut blob)),
                ),
            ];
            let mut filter = driver.raw_filter(connect);
            filter.weight = RawValue::at(DataType::Uint64, into(&mut weight));
            filter.condition_count = 2;
            // SAFETY: read during the call only.
            filter.conditions = unsafe { In::new(conditions.as_ptr()) };
            let mut id = 0;
            assert_eq!(
                FwpmFilterAdd0(driver.engine, at(&filter), In::null(), into(&mut id)),
                OK
            );
            let mut found = Out::<RawFilter>::null();
            assert_eq!(FwpmFilterGetById0(driver.engine, id, into(&mut found)), OK);
            let raw = found.get().expect("found");
            assert_eq!(raw.id, id);
            assert_eq!(
                raw.effective_weight.pointer::<u64>().get(),
                Some(77),
                "WGT-01"
            );
            assert_eq!(raw.condition_count, 2);
            let first = raw.conditions.at(0).expect("a condition");
            assert_eq!(first.value.kind, kind.value());
            let second = raw.conditions.at(1).expect("a condition");
            let blob = second.value.pointer::<RawBlob>().get().expect("a blob");
            let mut bytes = vec![0; blob.size as usize];
            blob.data.as_in().copy_to(&mut bytes);
            assert_eq!(bytes, text);
            free(&mut found);
        }
    });
}

#[test]
fn missing_pointers_and_names_have_their_statuses() {
    run_clean(Config::default(), |driver| {
        let engine = driver.engine;
        assert_eq!(
            status(FwpmSubLayerAdd0(engine, In::null(), In::null())),
            NtStatus::FWP_NULL_POINTER
        );
        assert_eq!(
            status(FwpmFilterAdd0(engine, In::null(), In::null(), Out::null())),
            NtStatus::FWP_NULL_POINTER
        );
        assert_eq!(
            status(FwpmSubLayerDeleteByKey0(engine, In::null())),
            NtStatus::FWP_NULL_POINTER
        );
        assert_eq!(
            status(FwpmEngineOpen0(In::null(), 10, 0, In::null(), Out::null())),
            NtStatus::FWP_NULL_POINTER
        );
        // OBJ-08
        let mut nameless = raw_sublayer(Guid::from_u128(9));
        nameless.display.name = In::null();
        assert_eq!(
            status(FwpmSubLayerAdd0(engine, at(&nameless), In::null())),
            NtStatus::FWP_NULL_DISPLAY_NAME
        );
        let connect = v4(LayerKind::AleAuthConnect);
        let mut filter = driver.raw_filter(connect);
        filter.condition_count = 1;
        assert_eq!(
            status(FwpmFilterAdd0(engine, at(&filter), In::null(), Out::null())),
            NtStatus::FWP_NULL_POINTER
        );
        let mut filter = driver.raw_filter(connect);
        filter.action.kind = 0x7;
        assert_eq!(
            status(FwpmFilterAdd0(engine, at(&filter), In::null(), Out::null())),
            NtStatus::FWP_INVALID_ACTION_TYPE
        );
        // WGT-04
        let mut filter = driver.raw_filter(connect);
        filter.weight = RawValue::number(wfp_schema::DataType::Uint32, 1);
        assert_eq!(
            status(FwpmFilterAdd0(engine, at(&filter), In::null(), Out::null())),
            NtStatus::FWP_INVALID_WEIGHT
        );
    });
}

#[test]
fn the_callouts_of_another_product_are_told_apart_by_their_keys() {
    run_clean(Config::default(), |driver| {
        let connect = v4(LayerKind::AleAuthConnect);
        let (id, key) = driver.callout(connect);
        // OBJ-01
        let again = raw_callout(key, connect.layer().expect("known").key());
        assert_eq!(
            status(FwpmCalloutAdd0(
                driver.engine,
                at(&again),
                In::null(),
                Out::null()
            )),
            NtStatus::FWP_ALREADY_EXISTS
        );
        let mut found = Out::<RawCallout>::null();
        assert_eq!(
            FwpmCalloutGetByKey0(driver.engine, at(&key), into(&mut found)),
            OK
        );
        let raw = found.get().expect("found");
        assert_eq!(
            (raw.id, raw.flags),
            (id, 0x4_0000),
            "FWPM_CALLOUT_FLAG_REGISTERED"
        );
        free(&mut found);
        assert_eq!(FwpmCalloutDeleteByKey0(driver.engine, at(&key)), OK);
        let gone = FwpmCalloutDeleteByKey0(driver.engine, at(&key));
        assert_eq!(status(gone), NtStatus::FWP_CALLOUT_NOT_FOUND);
    });
}

#[test]
fn a_transaction_takes_effect_as_a_whole() {
    run_clean(Config::default(), |driver| {
        let connect = v4(LayerKind::AleAuthConnect);
        let mut block = driver.raw_filter(connect);
        block.key = Guid::from_u128(0xb10c);
        block.action.kind = Action::Block.value();
        let engine = driver.engine;
        // TXN-02
        assert_eq!(
            status(FwpmTransactionCommit0(engine)),
            NtStatus::FWP_NO_TXN_IN_PROGRESS
        );
        // TXN-05
        for (end, outcome) in [
            (
                FwpmTransactionAbort0 as extern "win64" fn(usize) -> i32,
                Outcome::Permit,
            ),
            (FwpmTransactionCommit0, Outcome::Block),
        ] {
            assert_eq!(FwpmTransactionBegin0(engine, 0), OK);
            // TXN-01
            assert_eq!(
                status(FwpmTransactionBegin0(engine, 0)),
                NtStatus::FWP_TXN_IN_PROGRESS
            );
            assert_eq!(
                FwpmFilterAdd0(engine, at(&block), In::null(), Out::null()),
                OK
            );
            assert_eq!(
                driver.classify(connect, &[], super::support::Shown::default()),
                Outcome::Permit
            );
            assert_eq!(end(engine), OK);
            assert_eq!(
                driver.classify(connect, &[], super::support::Shown::default()),
                outcome
            );
        }
        let epoch = driver.filtering.epoch(connect);
        assert!(driver.filtering.wants(connect));
        assert_eq!(FwpmFilterDeleteByKey0(engine, at(&block.key)), OK);
        assert!(!driver.filtering.wants(connect));
        assert_ne!(driver.filtering.epoch(connect), epoch);
    });
}

#[test]
fn a_dynamic_session_takes_its_objects_along() {
    run_clean(Config::default(), |driver| {
        let mut engine = 0;
        assert_eq!(open(&mut engine), OK);
        let sublayer = raw_sublayer(Guid::from_u128(0x5e55));
        assert_eq!(FwpmSubLayerAdd0(engine, at(&sublayer), In::null()), OK);
        // SES-02
        let foreign = FwpmSubLayerDeleteByKey0(driver.engine, at(&sublayer.key));
        assert_eq!(status(foreign), NtStatus::FWP_WRONG_SESSION);
        let present = |cpu: &crate::Cpu| {
            cpu.machine()
                .filter_engine()
                .committed()
                .sublayers()
                .any(|object| object.sublayer.key == sublayer.key)
        };
        assert!(present(driver.cpu));
        // SES-01
        assert_eq!(FwpmEngineClose0(engine), OK);
        assert!(!present(driver.cpu));
    });
}

#[test]
fn an_enumeration_returns_everything_once() {
    run_clean(Config::default(), |driver| {
        let connect = v4(LayerKind::AleAuthConnect);
        let wanted: Vec<u64> = (0..5)
            .map(|_| {
                let mut id = 0;
                assert_eq!(
                    FwpmFilterAdd0(
                        driver.engine,
                        at(&driver.raw_filter(connect)),
                        In::null(),
                        into(&mut id)
                    ),
                    OK
                );
                id
            })
            .collect();
        let mut handle = 0;
        assert_eq!(
            FwpmFilterCreateEnumHandle0(driver.engine, In::null(), into(&mut handle)),
            OK
        );
        let mut found = Vec::new();
        loop {
            let mut entries = Out::<Out<RawFilter>>::null();
            let mut count = 0;
            assert_eq!(
                FwpmFilterEnum0(
                    driver.engine,
                    handle,
                    2,
                    into(&mut entries),
                    into(&mut count)
                ),
                OK
            );
            for index in 0..count as usize {
                let entry = entries.as_in().at(index).expect("an entry");
                found.push(entry.get().expect("a filter").id);
            }
            free(&mut entries);
            if count == 0 {
                break;
            }
        }
        found.sort_unstable();
        assert_eq!(found, wanted);
        assert_eq!(FwpmFilterDestroyEnumHandle0(driver.engine, handle), OK);
    });
}

#[test]
fn memory_and_handles_that_are_not_given_back_are_leaks() {
    let report = run(Config::default(), |driver| {
        let mut found = Out::<RawSubLayer>::null();
        assert_eq!(
            FwpmSubLayerGetByKey0(driver.engine, at(&driver.sublayer), into(&mut found)),
            OK
        );
        let mut engine = 0;
        assert_eq!(open(&mut engine), OK);
    });
    let kinds: Vec<_> = report.leaks.iter().map(|leak| leak.kind).collect();
    assert_eq!(
        kinds,
        ["filter engine handle", "memory of a management query"],
        "{report:#?}"
    );
}

#[test]
fn stale_handles_and_levels_are_found() {
    let report = run(Config::default(), |driver| {
        assert_eq!(
            status(FwpmTransactionBegin0(0x99, 0)),
            NtStatus::INVALID_HANDLE
        );
        FwpmFreeMemory0(Out::null());
        // IRQ-01
        driver.cpu.set_irql(crate::cpu::DISPATCH);
        let filter = driver.raw_filter(v4(LayerKind::AleAuthConnect));
        FwpmFilterAdd0(driver.engine, at(&filter), In::null(), Out::null());
        driver.cpu.set_irql(crate::cpu::PASSIVE);
        behave(|_| ());
    });
    let rules: Vec<_> = report
        .violations
        .iter()
        .map(|violation| violation.rule)
        .collect();
    assert_eq!(
        rules,
        [
            OBJECT_STALE.name,
            ARGUMENT.name,
            crate::verifier::IRQL_RANGE.name
        ]
    );
}

#[test]
fn every_call_that_can_fail_does_so_on_demand() {
    run_clean(Config::default(), |driver| {
        let sublayer = raw_sublayer(Guid::from_u128(0xfa11));
        driver
            .cpu
            .machine()
            .faults()
            .fail_call("FwpmSubLayerAdd0", 1);
        let failed = FwpmSubLayerAdd0(driver.engine, at(&sublayer), In::null());
        assert_eq!(status(failed), NtStatus::INSUFFICIENT_RESOURCES);
        assert_eq!(
            FwpmSubLayerAdd0(driver.engine, at(&sublayer), In::null()),
            OK
        );
    });
}
