//! Every match type on every data type, against the table of `FWP_MATCH_TYPE`
//! and against a plain model of what matches.

use crate::properties::config;
use proptest::prelude::*;
use wfp_engine::{ConditionValue as V, Options, RuntimeCondition, Value};
use wfp_schema::{DataType, FieldIndex, MatchType, NtStatus};

const MATCH_TYPES: [MatchType; 13] = [
    MatchType::Equal,
    MatchType::Greater,
    MatchType::Less,
    MatchType::GreaterOrEqual,
    MatchType::LessOrEqual,
    MatchType::Range,
    MatchType::FlagsAllSet,
    MatchType::FlagsAnySet,
    MatchType::FlagsNoneSet,
    MatchType::EqualCaseInsensitive,
    MatchType::NotEqual,
    MatchType::Prefix,
    MatchType::NotPrefix,
];

/// The types that a field can have.
const FIELD_TYPES: [DataType; 17] = [
    DataType::Uint8,
    DataType::Uint16,
    DataType::Uint32,
    DataType::Uint64,
    DataType::Int8,
    DataType::Int16,
    DataType::Int32,
    DataType::Int64,
    DataType::Float,
    DataType::Double,
    DataType::ByteArray16,
    DataType::ByteArray6,
    DataType::ByteBlob,
    DataType::Sid,
    DataType::TokenInformation,
    DataType::TokenAccessInformation,
    DataType::UnicodeString,
];

/// A self-relative descriptor without a discretionary list.
fn descriptor() -> V {
    let mut bytes = [0; 20];
    bytes[0] = 1;
    bytes[3] = 0x80;
    V::SecurityDescriptor(bytes.into())
}

/// One value of each type that a condition can have, ranges apart.
fn condition_values() -> Vec<V> {
    vec![
        V::Uint8(6),
        V::Uint16(443),
        V::Uint32(0x0A00_0001),
        V::Uint64(1 << 40),
        V::Int8(-6),
        V::Int16(-443),
        V::Int32(-1),
        V::Int64(i64::MIN),
        V::Float(1.5),
        V::Double(2.5),
        V::ByteArray16([7; 16]),
        V::ByteArray6([6; 6]),
        V::ByteBlob(Box::from(*b"b\0.\0")),
        V::Sid(Box::from([1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0])),
        V::UnicodeString(Box::from([0x62, 0x2E])),
    ]
}

fn new(field_type: DataType, match_type: MatchType, value: &V) -> Result<(), NtStatus> {
    let field = FieldIndex::new(0);
    RuntimeCondition::new(
        field,
        field_type,
        match_type,
        value.clone(),
        &Options::default(),
    )
    .map(|_| ())
}

/// The page's words on which types a match type works on.
fn page_allows(match_type: MatchType, data_type: DataType) -> bool {
    let integer = |signed: bool| {
        use DataType::{Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64};
        matches!(data_type, Uint8 | Uint16 | Uint32 | Uint64)
            || signed && matches!(data_type, Int8 | Int16 | Int32 | Int64)
    };
    let string = data_type == DataType::UnicodeString;
    let blob = data_type == DataType::ByteBlob;
    let sortable = integer(true) || data_type == DataType::ByteArray16 || blob || string;
    match match_type {
        MatchType::Equal => true,
        MatchType::FlagsAllSet | MatchType::FlagsAnySet | MatchType::FlagsNoneSet => integer(false),
        MatchType::EqualCaseInsensitive => string,
        MatchType::Prefix | MatchType::NotPrefix => string || blob,
        // A range needs a value of a type of its own.
        MatchType::Range => false,
        _ => sortable,
    }
}

#[test]
fn cnd_01_a_condition_has_the_type_of_its_field_or_one_of_the_pages_exceptions() {
    for field_type in FIELD_TYPES {
        for match_type in MATCH_TYPES {
            for value in condition_values() {
                let expected = if value.data_type() != field_type {
                    Err(NtStatus::FWP_TYPE_MISMATCH)
                } else if page_allows(match_type, field_type) {
                    Ok(())
                } else {
                    Err(NtStatus::FWP_MATCH_TYPE_MISMATCH)
                };
                let found = new(field_type, match_type, &value);
                assert_eq!(found, expected, "{field_type:?} {match_type:?} {value:?}");
            }
        }
    }
}

#[test]
fn networks_and_descriptors_are_compared_for_equality_with_their_fields_only() {
    let v4 = V::V4AddrMask {
        address: 0x0A00_0000,
        mask: 0xFF00_0000,
    };
    let v6 = V::V6AddrMask {
        address: [0; 16],
        prefix: 64,
    };
    for (value, fields) in [
        (v4, &[DataType::Uint32][..]),
        (v6, &[DataType::ByteArray16]),
        (
            descriptor(),
            &[DataType::TokenInformation, DataType::TokenAccessInformation],
        ),
    ] {
        for field_type in FIELD_TYPES {
            for match_type in MATCH_TYPES {
                let expected = if !fields.contains(&field_type) {
                    Err(NtStatus::FWP_TYPE_MISMATCH)
                } else if match_type == MatchType::Equal {
                    Ok(())
                } else {
                    Err(NtStatus::FWP_MATCH_TYPE_MISMATCH)
                };
                let found = new(field_type, match_type, &value);
                assert_eq!(found, expected, "{field_type:?} {match_type:?} {value:?}");
            }
        }
    }
}

#[test]
fn any_field_may_be_compared_with_empty() {
    for field_type in FIELD_TYPES {
        for match_type in MATCH_TYPES {
            let expected = match_type == MatchType::Equal;
            assert_eq!(new(field_type, match_type, &V::Empty).is_ok(), expected);
        }
    }
}

#[test]
fn a_range_is_of_the_fields_type_if_that_is_sortable() {
    for value in condition_values() {
        let range = V::range(value.clone(), value.clone());
        for field_type in FIELD_TYPES {
            for match_type in MATCH_TYPES {
                let found = new(field_type, match_type, &range);
                let expected = if value.data_type() != field_type {
                    Err(NtStatus::FWP_TYPE_MISMATCH)
                } else if match_type == MatchType::Range
                    && page_allows(MatchType::Greater, field_type)
                {
                    Ok(())
                } else {
                    Err(NtStatus::FWP_MATCH_TYPE_MISMATCH)
                };
                assert_eq!(found, expected, "{field_type:?} {match_type:?} {range:?}");
            }
        }
    }
}

/// A value without its type: numbers by size, everything else as a list.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum Plain {
    Number(i128),
    List(Vec<u16>),
}

/// A value of a field, which the model and the engine see each in its own way.
#[derive(Clone, Debug)]
struct Sample {
    value: V,
    plain: Plain,
}

fn listed(bytes: &[u8]) -> Plain {
    Plain::List(bytes.iter().map(|byte| u16::from(*byte)).collect())
}

/// Numbers that meet often, at the edges and anywhere.
fn number() -> impl Strategy<Value = i128> {
    prop_oneof![
        4 => 0..6_i128,
        2 => Just(i128::from(u64::MAX)),
        1 => any::<i64>().prop_map(i128::from),
        1 => any::<u64>().prop_map(i128::from),
    ]
}

fn sample(data_type: DataType) -> BoxedStrategy<Sample> {
    macro_rules! integer {
        ($kind:ident, $type:ty) => {
            number()
                .prop_map(|number| {
                    // Cut to the width of the type, as a value of it.
                    let value = <$type>::try_from(number & i128::from(u64::MAX) & 0x7F)
                        .unwrap_or(<$type>::MAX);
                    let value = if number % 3 == 0 {
                        value
                    } else {
                        <$type>::MAX - value
                    };
                    Sample {
                        value: V::$kind(value),
                        plain: Plain::Number(i128::from(value)),
                    }
                })
                .boxed()
        };
    }
    let units =
        || prop::collection::vec(prop::sample::select(vec![0x61_u16, 0x41, 0xC4, 0xE4]), 0..4);
    match data_type {
        DataType::Uint8 => integer!(Uint8, u8),
        DataType::Uint16 => integer!(Uint16, u16),
        DataType::Uint32 => integer!(Uint32, u32),
        DataType::Uint64 => integer!(Uint64, u64),
        DataType::Int8 => integer!(Int8, i8),
        DataType::Int16 => integer!(Int16, i16),
        DataType::Int32 => integer!(Int32, i32),
        DataType::Int64 => integer!(Int64, i64),
        DataType::ByteArray16 => prop::array::uniform16(0..2_u8)
            .prop_map(|bytes| Sample {
                plain: listed(&bytes),
                value: V::ByteArray16(bytes),
            })
            .boxed(),
        DataType::ByteArray6 => prop::array::uniform6(0..2_u8)
            .prop_map(|bytes| Sample {
                plain: listed(&bytes),
                value: V::ByteArray6(bytes),
            })
            .boxed(),
        DataType::ByteBlob => units()
            .prop_map(|units| {
                let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
                Sample {
                    plain: listed(&bytes),
                    value: V::ByteBlob(bytes.into()),
                }
            })
            .boxed(),
        DataType::Sid => prop::collection::vec(0..2_u8, 1..4)
            .prop_map(|bytes| Sample {
                plain: listed(&bytes),
                value: V::Sid(bytes.into()),
            })
            .boxed(),
        _ => units()
            .prop_map(|units| Sample {
                plain: Plain::List(units.clone()),
                value: V::UnicodeString(units.into()),
            })
            .boxed(),
    }
}

/// What the table says about a value and a condition, or two for a range.
fn model(match_type: MatchType, value: &Plain, low: &Plain, high: &Plain) -> bool {
    let bits = |of: &Plain| match of {
        Plain::Number(number) => *number,
        Plain::List(_) => unreachable!("only numbers have flags"),
    };
    let ends_with = || match (value, low) {
        (Plain::List(value), Plain::List(end)) => {
            end.len() <= value.len() && value[value.len() - end.len()..] == end[..]
        }
        _ => unreachable!("only lists have an end"),
    };
    let folded = |of: &Plain| match of {
        Plain::List(units) => units
            .iter()
            .map(|unit| match unit {
                0x41 => 0x61,
                0xC4 => 0xE4,
                other => *other,
            })
            .collect::<Vec<u16>>(),
        Plain::Number(_) => unreachable!("only strings have case"),
    };
    match match_type {
        MatchType::Equal => value == low,
        MatchType::NotEqual => value != low,
        MatchType::Greater => value > low,
        MatchType::Less => value < low,
        MatchType::GreaterOrEqual => value >= low,
        MatchType::LessOrEqual => value <= low,
        MatchType::Range => low <= value && value <= high,
        MatchType::FlagsAllSet => bits(low) & !bits(value) == 0,
        MatchType::FlagsAnySet => bits(low) & bits(value) > 0,
        MatchType::FlagsNoneSet => bits(low) & bits(value) == 0,
        MatchType::EqualCaseInsensitive => folded(value) == folded(low),
        MatchType::Prefix => ends_with(),
        MatchType::NotPrefix => !ends_with(),
    }
}

/// A type with a model, a value of it and two for conditions.
fn case() -> impl Strategy<Value = (DataType, MatchType, Sample, Sample, Sample)> {
    let modelled: Vec<_> = FIELD_TYPES
        .into_iter()
        .filter(|data_type| {
            !matches!(
                data_type,
                DataType::Float
                    | DataType::Double
                    | DataType::TokenInformation
                    | DataType::TokenAccessInformation
            )
        })
        .collect();
    (
        prop::sample::select(modelled),
        prop::sample::select(MATCH_TYPES.to_vec()),
    )
        .prop_flat_map(|(data_type, match_type)| {
            let one = || sample(data_type);
            (Just(data_type), Just(match_type), one(), one(), one())
        })
}

/// The condition's value as a field's.
fn field_value(value: &V) -> Value<'_> {
    match value {
        V::Uint8(v) => Value::Uint8(*v),
        V::Uint16(v) => Value::Uint16(*v),
        V::Uint32(v) => Value::Uint32(*v),
        V::Uint64(v) => Value::Uint64(*v),
        V::Int8(v) => Value::Int8(*v),
        V::Int16(v) => Value::Int16(*v),
        V::Int32(v) => Value::Int32(*v),
        V::Int64(v) => Value::Int64(*v),
        V::ByteArray16(v) => Value::ByteArray16(v),
        V::ByteArray6(v) => Value::ByteArray6(v),
        V::ByteBlob(v) => Value::ByteBlob(v),
        V::Sid(v) => Value::Sid(v),
        V::UnicodeString(v) => Value::UnicodeString(v),
        other => unreachable!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(config(4096))]

    #[test]
    fn every_match_type_on_every_data_type_is_what_the_table_says(
        (data_type, match_type, value, one, other) in case()
    ) {
        let (low, high) = if one.plain <= other.plain { (one, other) } else { (other, one) };
        let condition_value = if match_type == MatchType::Range {
            V::range(low.value.clone(), high.value.clone())
        } else {
            low.value.clone()
        };
        let condition = RuntimeCondition::new(
            FieldIndex::new(0), data_type, match_type, condition_value, &Options::default(),
        );
        if let Ok(condition) = condition {
            let expected = model(match_type, &value.plain, &low.plain, &high.plain);
            let found = condition.is_met_by(&field_value(&value.value));
            prop_assert_eq!(found, expected);
            prop_assert!(!condition.is_met_by(&Value::Empty));
        }
    }
}
