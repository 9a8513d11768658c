//! What a classify function is given.

use wfp_schema::field::{ale_auth_connect as connect, ale_auth_listen as listen};
use wfp_schema::{Action, DataType, IpVersion, LayerKind, MetadataFields};

use super::support::{Shown, behave, block, layer, run_clean, v4};
use crate::access::In;
use crate::cpu::{DISPATCH, PASSIVE};
use crate::fwp::Config;
use crate::fwp::layout::value::{RawBlob, RawValue, SidAndAttributes, TokenAccessInformation};
use crate::net::{Outcome, Value};

fn blob(value: RawValue) -> Vec<u8> {
    let blob: RawBlob = value.pointer::<RawBlob>().get().expect("a blob");
    let mut bytes = vec![0; blob.size as usize];
    blob.data.as_in().copy_to(&mut bytes);
    bytes
}

#[test]
fn a_connect_shows_addresses_and_ports_in_host_order_and_the_application() {
    run_clean(Config::default(), |driver| {
        let at = v4(LayerKind::AleAuthConnect);
        driver.filtered(at, Action::CalloutUnknown);
        behave(|classify| {
            assert_eq!(classify.layer, 48);
            assert_eq!(classify.irql, PASSIVE, "an application's thread connects");
            assert_eq!(classify.values.len(), connect::FIELDS.len());
            let address = classify.values[connect::IP_REMOTE_ADDRESS.get()];
            assert_eq!(
                (address.kind, address.uint32()),
                (DataType::Uint32.value(), 0x0a01_0203)
            );
            let port = classify.values[connect::IP_REMOTE_PORT.get()];
            assert_eq!((port.kind, port.uint16()), (DataType::Uint16.value(), 443));
            let interface = classify.values[connect::IP_LOCAL_INTERFACE.get()];
            assert_eq!(interface.kind, DataType::Uint64.value());
            assert_eq!(
                interface.pointer::<u64>().get(),
                Some(0x0600_0002_0000_0000),
                "wider values are pointers"
            );
            assert_eq!(
                classify.values[connect::PEER_NAME.get()].kind,
                DataType::Empty.value()
            );
            let text: Vec<u16> = blob(classify.values[connect::ALE_APP_ID.get()])
                .chunks(2)
                .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
                .collect();
            assert_eq!(text.last(), Some(&0), "the blob ends with a NUL");
            let text = String::from_utf16_lossy(&text[..text.len() - 1]);
            assert_eq!(text, r"\device\harddiskvolume3\program files\app\app.exe");
            assert_eq!(classify.filter.context, 0xc0de);
            assert_eq!(classify.filter.action.kind, Action::CalloutUnknown.value());
            classify.out.action = Action::Permit.value();
        });
        let identity = driver.identity();
        let mut values = vec![Value::Empty; connect::FIELDS.len()];
        values[connect::IP_REMOTE_ADDRESS.get()] = Value::Uint32(0x0a01_0203);
        values[connect::IP_REMOTE_PORT.get()] = Value::Uint16(443);
        values[connect::IP_LOCAL_INTERFACE.get()] = Value::Uint64(0x0600_0002_0000_0000);
        values[connect::ALE_APP_ID.get()] = Value::ByteBlob(identity.application_id());
        assert_eq!(
            driver.classify(
                at,
                &values,
                Shown {
                    process: true,
                    ..Shown::default()
                }
            ),
            Outcome::Permit
        );
    });
}

#[test]
fn the_users_token_begins_with_the_users_sid() {
    run_clean(Config::default(), |driver| {
        let at = v4(LayerKind::AleAuthListen);
        driver.filtered(at, Action::CalloutUnknown);
        behave(|classify| {
            let value = classify.values[listen::ALE_USER_ID.get()];
            assert_eq!(value.kind, DataType::TokenAccessInformation.value());
            let blob = value.pointer::<RawBlob>().get().expect("a blob");
            assert!(blob.size as usize >= size_of::<TokenAccessInformation>());
            let token = blob
                .data
                .offset::<TokenAccessInformation>(0)
                .get()
                .expect("a token");
            let hash = token.sid_hash.get().expect("SidHash");
            assert!(hash.count >= 1);
            let first: SidAndAttributes = hash.sids.get().expect("SIDs");
            let mut sid = [0; 28];
            first.sid.as_in().copy_to(&mut sid);
            assert_eq!(sid[..8], [1, 5, 0, 0, 0, 0, 0, 5]);
            assert_eq!(sid[24..], 1001_u32.to_le_bytes());
            classify.out.action = Action::Permit.value();
        });
        let identity = driver.identity();
        let mut values = vec![Value::Empty; listen::FIELDS.len()];
        let token = identity.token();
        values[listen::ALE_USER_ID.get()] = Value::TokenAccessInformation(&token);
        driver.classify(
            at,
            &values,
            Shown {
                process: true,
                ..Shown::default()
            },
        );
    });
}

#[test]
fn version_6_addresses_are_sixteen_bytes_in_network_order() {
    run_clean(Config::default(), |driver| {
        let at = layer(LayerKind::AleAuthConnect, IpVersion::V6);
        driver.filtered(at, Action::CalloutUnknown);
        let address: [u8; 16] = std::array::from_fn(|byte| u8::try_from(byte).expect("16 bytes"));
        behave(move |classify| {
            let value = classify.values[connect::IP_REMOTE_ADDRESS.get()];
            assert_eq!(value.kind, DataType::ByteArray16.value());
            assert_eq!(value.pointer::<[u8; 16]>().get(), Some(address));
            classify.out.action = Action::Permit.value();
        });
        let mut values = vec![Value::Empty; connect::FIELDS.len()];
        values[connect::IP_REMOTE_ADDRESS.get()] = Value::ByteArray16(&address);
        driver.classify(at, &values, Shown::default());
    });
}

#[test]
fn metadata_holds_what_its_bits_say_and_nothing_else() {
    run_clean(Config::default(), |driver| {
        let at = v4(LayerKind::AleAuthConnect);
        driver.filtered(at, Action::CalloutUnknown);
        behave(|classify| {
            let has = |field| MetadataFields::from_bits(classify.metadata.present).contains(field);
            assert_eq!(
                has(MetadataFields::PROCESS_ID),
                classify.metadata.process_id == 77
            );
            assert_eq!(
                has(MetadataFields::PROCESS_PATH),
                !classify.metadata.process_path.is_null()
            );
            assert_eq!(
                has(MetadataFields::TRANSPORT_ENDPOINT_HANDLE),
                classify.metadata.endpoint_handle == 9
            );
            assert_eq!(
                classify.metadata.endpoint_handle == 9,
                classify.metadata.process_id == 0
            );
            assert_eq!(classify.metadata.compartment, 0);
            classify.out.action = Action::Permit.value();
        });
        driver.classify(
            at,
            &[],
            Shown {
                process: true,
                ..Shown::default()
            },
        );
        driver.classify(
            at,
            &[],
            Shown {
                endpoint: 9,
                ..Shown::default()
            },
        );
    });
}

#[test]
fn packets_are_classified_at_dispatch_level() {
    run_clean(Config::default(), |driver| {
        for kind in [
            LayerKind::InboundTransport,
            LayerKind::DatagramData,
            LayerKind::AleAuthRecvAccept,
        ] {
            driver.filtered(v4(kind), Action::CalloutInspection);
            behave(|classify| {
                assert_eq!(classify.irql, DISPATCH);
                assert!(classify.layer_data.is_null(), "no packet was there");
            });
            assert_eq!(
                driver.classify(v4(kind), &[], Shown::default()),
                Outcome::Permit
            );
        }
    });
}

#[test]
fn the_conditions_of_a_filter_reach_its_callout() {
    use super::support::{OK, at, into};
    use crate::fwp::layout::management::{RawAction, RawCondition};
    use crate::fwp::layout::value::RawRange;
    use crate::fwp::objects::filter::FwpmFilterAdd0;
    use wfp_schema::{MatchType, condition};

    run_clean(Config::default(), |driver| {
        let connect_v4 = v4(LayerKind::AleAuthConnect);
        let (_, key) = driver.callout(connect_v4);
        let port = |port| RawValue::number(DataType::Uint16, port);
        let mut range = RawRange {
            low: port(80),
            high: port(90),
        };
        let conditions = [
            RawCondition {
                field: condition::IP_REMOTE_PORT,
                match_type: MatchType::Range.value(),
                value: RawValue::at(DataType::Range, into(&mut range)),
            },
            RawCondition {
                field: condition::IP_PROTOCOL,
                match_type: MatchType::Equal.value(),
                value: RawValue::number(DataType::Uint8, 6),
            },
        ];
        let mut filter = driver.raw_filter(connect_v4);
        filter.action = RawAction {
            kind: Action::CalloutUnknown.value(),
            key,
        };
        filter.condition_count = 2;
        // SAFETY: read during the call only.
        filter.conditions = unsafe { In::new(conditions.as_ptr()) };
        let mut id = 0;
        assert_eq!(
            FwpmFilterAdd0(driver.engine, at(&filter), In::null(), into(&mut id)),
            OK
        );
        behave(move |classify| {
            assert_eq!(classify.filter.id, id);
            assert_eq!(classify.filter.condition_count, 2);
            let mut fields: Vec<_> = (0..2)
                .map(|index| {
                    classify
                        .filter
                        .conditions
                        .as_in()
                        .at(index)
                        .expect("a condition")
                        .field
                })
                .collect();
            // In which order they are is not documented.
            fields.sort_unstable();
            let wanted = [connect::IP_PROTOCOL.get(), connect::IP_REMOTE_PORT.get()];
            assert_eq!(
                fields,
                wanted.map(|field| u16::try_from(field).expect("an index"))
            );
            block(classify);
        });
        let mut values = vec![Value::Empty; connect::FIELDS.len()];
        values[connect::IP_PROTOCOL.get()] = Value::Uint8(6);
        for (port, outcome) in [
            (79, Outcome::Permit),
            (80, Outcome::Block),
            (90, Outcome::Block),
            (91, Outcome::Permit),
        ] {
            values[connect::IP_REMOTE_PORT.get()] = Value::Uint16(port);
            assert_eq!(
                driver.classify(connect_v4, &values, Shown::default()),
                outcome,
                "port {port}"
            );
        }
    });
}
