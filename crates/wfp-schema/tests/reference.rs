//! The tables against the facts gathered from headers and documentation, where
//! that reference is at hand.

use serde_json::Value;
use std::path::Path;
use wfp_schema::flags::{
    FilterEnumFlags, IncomingFlags, InjectionType, L2Flags, L2MetadataFields,
    ManagementCalloutFlags, ReauthorizeReason, RuntimeFilterFlags, SessionFlags, SocketProperties,
};
use wfp_schema::{
    AccessRights, Action, BfeState, CalloutFlags, ClassifyOutFlags, ConditionFlags, DataType,
    Direction, FilterFlags, Guid, IpVersion, Layer, LayerId, MatchType, MetadataFields, NotifyType,
    NtStatus, Rights, StreamAction, StreamFlags, codes, condition, provider, sublayer,
};

/// A file of the reference; `None`, said aloud, without it.
fn reference(file: &str) -> Option<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/reference")
        .join(file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("SKIPPED: {} is not here", path.display());
        return None;
    };
    Some(serde_json::from_str(&text).unwrap())
}

fn entries<'a>(file: &'a Value, section: &str, prefix: &str) -> Vec<(&'a str, &'a Value)> {
    let section = if section.is_empty() {
        file
    } else {
        &file[section]
    };
    section
        .as_object()
        .unwrap()
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)))
        .collect()
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn guid(value: &Value) -> Guid {
    let digits = value["guid"].as_str().unwrap().replace('-', "");
    Guid::from_u128(u128::from_str_radix(&digits, 16).unwrap())
}

#[test]
fn layers_have_the_reference_ids_and_keys() {
    let Some(file) = reference("wfp-constants.json") else {
        return;
    };
    let layers = entries(&file, "layers", "FWPS_LAYER_");
    assert_eq!(layers.len(), LayerId::COUNT);
    for (name, entry) in layers {
        let id = LayerId::new(u16::try_from(number(&entry["id"])).unwrap());
        let layer = id.layer().unwrap();
        assert_eq!((layer.name(), layer.key()), (name, guid(entry)));
    }
}

#[test]
fn layers_have_the_reference_metadata_and_abilities() {
    let Some(file) = reference("wfp-constants.json") else {
        return;
    };
    for (name, entry) in entries(&file, "layers", "FWPS_LAYER_") {
        let layer = Layer::all().iter().find(|l| l.name() == name).unwrap();
        let (mut fields, mut l2_fields) = (MetadataFields::NONE, L2MetadataFields::NONE);
        for listed in entry["metadata"].as_array().into_iter().flatten() {
            let listed = listed.as_str().unwrap();
            let constant = |name: String| number(&file["constants"][name]["value"]);
            if let Some(l2) = listed.strip_prefix("L2:") {
                let bit = constant(format!("FWPS_L2_METADATA_FIELD_{l2}"));
                l2_fields |= L2MetadataFields::from_bits(bit);
            } else {
                let bit = constant(format!("FWPS_METADATA_FIELD_{listed}"));
                fields |= MetadataFields::from_bits(bit);
            }
        }
        if name.starts_with("ALE_AUTH_CONNECT_V") {
            // Of a redirected connection, see the page on bind and connect redirection.
            fields |= MetadataFields::LOCAL_REDIRECT_TARGET_PID;
            fields |= MetadataFields::ORIGINAL_DESTINATION;
        }
        assert_eq!(layer.metadata(), fields, "{name}");
        assert_eq!(layer.kind().l2_metadata(), l2_fields, "{name}");

        let operations = entry["operations"].as_str().unwrap_or_default();
        let says = |word: &str| operations.contains(word) && !layer.is_discard();
        assert_eq!(
            layer.may_pend_operation(),
            says("PendOperation yes"),
            "{name}"
        );
        assert_eq!(
            layer.may_pend_classify(),
            says("PendClassify yes"),
            "{name}"
        );
        let absorbs = says("ABSORB ok") || says("ABSORB legal");
        assert_eq!(layer.may_absorb(), absorbs, "{name}");
        assert_eq!(layer.may_redirect(), says("redirect yes"), "{name}");
    }
}

#[test]
fn fields_have_the_reference_indexes_and_types() {
    let Some(file) = reference("wfp-constants.json") else {
        return;
    };
    let mut found = 0;
    for layer in Layer::all().iter().filter(|layer| !layer.is_discard()) {
        for field in layer.fields() {
            let name = match (layer.name(), field.name()) {
                ("OUTBOUND_ICMP_ERROR_V6", "ICMP_TYPE") => "IP_LOCAL_PORT",
                ("OUTBOUND_ICMP_ERROR_V6", "ICMP_CODE") => "IP_REMOTE_PORT",
                (_, name) => name,
            };
            let name = format!("FWPS_FIELD_{}_{name}", layer.name());
            let index = number(&file["fields"][&name]["index"]);
            assert_eq!(field.index().get(), index as usize, "{name}");
            let expected = match file["field_data_types"][&name].as_str().unwrap() {
                "u8" => DataType::Uint8,
                "u16" | "u16?" => DataType::Uint16,
                "u32" => DataType::Uint32,
                "u64" => DataType::Uint64,
                "addr" => match layer.version() {
                    Some(IpVersion::V6) => DataType::ByteArray16,
                    _ => DataType::Uint32,
                },
                "blob" => DataType::ByteBlob,
                "sid" => DataType::Sid,
                "tok" => DataType::TokenAccessInformation,
                "mac6" => DataType::ByteArray6,
                other => panic!("{name}: {other}"),
            };
            assert_eq!(field.data_type(layer.version()), expected, "{name}");
            found += 1;
        }
    }
    assert_eq!(found, file["fields"].as_object().unwrap().len());
}

#[test]
fn keys_are_the_references() {
    let Some(file) = reference("wfp-constants.json") else {
        return;
    };
    let tables = [
        ("FWPM_CONDITION_", condition::ALL),
        ("FWPM_SUBLAYER_", sublayer::ALL),
        ("FWPM_PROVIDER_", provider::ALL),
    ];
    for (prefix, table) in tables {
        for (name, key) in table {
            let entry = &file["guids"][format!("{prefix}{name}")];
            assert_eq!(*key, guid(entry), "{prefix}{name}");
        }
    }
    let mut sublayers: Vec<_> = entries(&file, "guids", "FWPM_SUBLAYER_")
        .iter()
        .map(|(_, entry)| guid(entry))
        .collect();
    sublayers.sort_unstable();
    sublayers.dedup();
    assert_eq!(sublayers.len(), sublayer::ALL.len());
}

/// Every constant of a prefix, and no other, by name and value.
macro_rules! check_flags {
    ($file:expr, $($type:ident $prefix:literal)*) => {$(
        let mut all = $type::NONE;
        for (name, entry) in entries($file, "constants", $prefix) {
            let bits = number(&entry["value"]);
            let flag = $type::from_bits(bits.try_into().unwrap());
            if bits != 0 {
                assert_eq!(flag.to_string(), name, $prefix);
            }
            all |= flag;
        }
        assert!(!all.is_empty(), $prefix);
        assert_eq!($type::from_bits(!0).without(all), $type::from_bits(!0).unknown(), $prefix);
    )*};
}

#[test]
fn flags_are_the_references() {
    let Some(file) = reference("wfp-constants.json") else {
        return;
    };
    check_flags!(
        &file,
        FilterFlags "FWPM_FILTER_FLAG_"
        RuntimeFilterFlags "FWPS_FILTER_FLAG_"
        CalloutFlags "FWP_CALLOUT_FLAG_"
        ManagementCalloutFlags "FWPM_CALLOUT_FLAG_"
        SessionFlags "FWPM_SESSION_FLAG_"
        ClassifyOutFlags "FWPS_CLASSIFY_OUT_FLAG_"
        ConditionFlags "FWP_CONDITION_FLAG_"
        ReauthorizeReason "FWP_CONDITION_REAUTHORIZE_REASON_"
        L2Flags "FWP_CONDITION_L2_"
        SocketProperties "FWP_CONDITION_SOCKET_PROPERTY_FLAG_"
        MetadataFields "FWPS_METADATA_FIELD_"
        L2MetadataFields "FWPS_L2_METADATA_FIELD_"
        IncomingFlags "FWPS_INCOMING_FLAG_"
        StreamFlags "FWPS_STREAM_FLAG_"
        InjectionType "FWPS_INJECTION_TYPE_"
        FilterEnumFlags "FWP_FILTER_ENUM_FLAG_"
        Rights "FWPS_RIGHT_"
    );
}

#[test]
fn access_rights_are_the_references() {
    let Some(file) = reference("wfp-constants.json") else {
        return;
    };
    let rights = entries(&file, "constants", "FWPM_ACTRL_");
    assert_eq!(rights.len(), 11);
    for (name, entry) in rights {
        let right = AccessRights::from_bits(number(&entry["value"]));
        assert_eq!(right.to_string(), name);
    }
}

/// Every member of an enumeration has the value of the constant of its name.
macro_rules! check_codes {
    ($file:expr, $($type:path, $prefix:literal;)*) => {$(
        for code in <$type>::ALL {
            let name = format!("{}{}", $prefix, code.name());
            let value = number(&$file["constants"][&name]["value"]);
            assert_eq!(code.value(), value, "{name}");
            assert_eq!(<$type>::from_u32(value), Some(*code), "{name}");
        }
        assert_eq!(<$type>::from_u32(u32::MAX), None, $prefix);
    )*};
}

#[test]
fn enumerations_are_the_references() {
    let Some(file) = reference("wfp-constants.json") else {
        return;
    };
    check_codes!(
        file,
        Action, "FWP_ACTION_";
        MatchType, "FWP_MATCH_";
        IpVersion, "FWP_IP_VERSION_";
        Direction, "FWP_DIRECTION_";
        BfeState, "FWPM_SERVICE_";
        NotifyType, "FWPS_CALLOUT_NOTIFY_";
        StreamAction, "FWPS_STREAM_ACTION_";
        codes::PacketInjectionState, "FWPS_PACKET_";
        codes::ConnectionRedirectState, "FWPS_CONNECTION_";
        codes::DiscardModule, "FWPS_DISCARD_MODULE_";
    );
    // Their constants are spelled NlatUnicast and so on.
    for code in codes::AddressType::ALL {
        let name = format!("Nlat{code:?}");
        let value = number(&file["constants"][&name]["value"]);
        assert_eq!(code.value(), value, "{name}");
    }
    // FWP_DATA_TYPE's members have no prefix of their own.
    for data_type in DataType::ALL {
        let name = format!("FWP_{}", data_type.name());
        let value = number(&file["constants"][&name]["value"]);
        assert_eq!(data_type.value(), value, "{name}");
    }
}

#[test]
fn statuses_have_the_reference_numbers() {
    let Some(file) = reference("ntstatus.json") else {
        return;
    };
    for (name, entry) in entries(&file, "", "") {
        let status = NtStatus::from_u32(number(&entry["value"]));
        assert_eq!(status.name(), Some(name));
    }
}
