//! Structures for a driver, with everything that they point at.

use wfp_engine::ConditionValue;
use wfp_schema::DataType;

use super::layout::value::{RawBlob, RawRange, RawV4AddrMask, RawV6AddrMask, RawValue};
use crate::access::{Out, Plain};

/// Memory for structures that point at each other. It stays where it is until the arena goes.
#[derive(Debug, Default)]
pub(super) struct Arena(Vec<Box<[u128]>>);

impl Arena {
    /// Room for `bytes` bytes, zeroed.
    pub(super) fn room(&mut self, bytes: usize) -> Out<u8> {
        let mut block = vec![0_u128; bytes.div_ceil(size_of::<u128>()).max(1)].into_boxed_slice();
        // SAFETY: heap memory that stays until the arena goes, and that is never borrowed again.
        let at = unsafe { Out::new(block.as_mut_ptr().cast()) };
        self.0.push(block);
        at
    }

    /// Puts a value; where it lies.
    pub(super) fn put<T: Plain>(&mut self, value: T) -> Out<T> {
        let at = self.room(size_of::<T>()).offset(0);
        at.set(value);
        at
    }

    /// Puts an array; where it begins.
    pub(super) fn put_all<T: Plain>(&mut self, values: &[T]) -> Out<T> {
        let first = self.room(size_of_val(values));
        for (index, value) in values.iter().enumerate() {
            first.offset::<T>(index * size_of::<T>()).set(*value);
        }
        first.offset(0)
    }

    /// Puts a string with its terminating NUL; where it begins.
    pub(super) fn put_string(&mut self, text: &str) -> Out<u16> {
        let units: Vec<u16> = text.encode_utf16().chain([0]).collect();
        self.put_all(&units)
    }

    /// Puts bytes; where they begin.
    pub(super) fn put_bytes(&mut self, bytes: &[u8]) -> Out<u8> {
        let at = self.room(bytes.len());
        at.copy_from(bytes);
        at
    }

    /// Puts bytes behind a blob; where the blob lies.
    pub(super) fn put_blob(&mut self, bytes: &[u8]) -> Out<RawBlob> {
        let data = self.put_bytes(bytes);
        self.put(RawBlob {
            size: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            data,
        })
    }

    /// A value whose member is the address of `value`.
    fn pointer<T: Plain>(&mut self, kind: DataType, value: T) -> RawValue {
        let at = self.put(value);
        RawValue::at(kind, at)
    }

    /// `FWP_UINT64`.
    pub(super) fn uint64(&mut self, value: u64) -> RawValue {
        self.pointer(DataType::Uint64, value)
    }

    /// `FWP_CONDITION_VALUE0`.
    pub(super) fn condition_value(&mut self, value: &ConditionValue) -> RawValue {
        let kind = value.data_type();
        match value {
            ConditionValue::Empty => RawValue::number(kind, 0),
            ConditionValue::Uint8(v) => RawValue::number(kind, (*v).into()),
            ConditionValue::Uint16(v) => RawValue::number(kind, (*v).into()),
            ConditionValue::Uint32(v) => RawValue::number(kind, *v),
            ConditionValue::Int8(v) => RawValue::number(kind, v.cast_unsigned().into()),
            ConditionValue::Int16(v) => RawValue::number(kind, v.cast_unsigned().into()),
            ConditionValue::Int32(v) => RawValue::number(kind, v.cast_unsigned()),
            ConditionValue::Float(v) => RawValue::number(kind, v.to_bits()),
            ConditionValue::Uint64(v) => self.pointer(kind, *v),
            ConditionValue::Int64(v) => self.pointer(kind, v.cast_unsigned()),
            ConditionValue::Double(v) => self.pointer(kind, v.to_bits()),
            ConditionValue::ByteArray16(v) => self.pointer(kind, *v),
            ConditionValue::ByteArray6(v) => self.pointer(kind, *v),
            ConditionValue::ByteBlob(v) | ConditionValue::SecurityDescriptor(v) => {
                let blob = self.put_blob(v);
                RawValue::at(kind, blob)
            }
            ConditionValue::Sid(v) => {
                let sid = self.put_bytes(v);
                RawValue::at(kind, sid)
            }
            ConditionValue::UnicodeString(v) => {
                let units: Vec<u16> = v.iter().copied().chain([0]).collect();
                let text = self.put_all(&units);
                RawValue::at(kind, text)
            }
            ConditionValue::V4AddrMask { address, mask } => self.pointer(
                kind,
                RawV4AddrMask {
                    address: *address,
                    mask: *mask,
                },
            ),
            ConditionValue::V6AddrMask { address, prefix } => self.pointer(
                kind,
                RawV6AddrMask {
                    address: *address,
                    prefix: *prefix,
                },
            ),
            ConditionValue::Range(ends) => {
                let low = self.condition_value(&ends.0);
                let high = self.condition_value(&ends.1);
                self.pointer(kind, RawRange { low, high })
            }
        }
    }
}
