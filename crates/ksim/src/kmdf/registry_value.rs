//! The functions of WDFKEY that hand memory objects, strings and collections in and out.

use wfp_schema::NtStatus;

use super::abi::{MemoryOffset, ObjectAttributes, UnicodeString, text};
use super::life;
use super::memory::{self, Memory, Text};
use super::object::{Body, Kind, not_null, resolve};
use super::registry::{Value, path_of, query};
use crate::access::{In, Out};
use crate::cpu::PASSIVE;
use crate::export::{Call, exports};

/// `REG_SZ`, `REG_BINARY`, `REG_DWORD`, `REG_MULTI_SZ`, `REG_QWORD`.
mod kind {
    pub(super) const TEXT: u32 = 1;
    pub(super) const DWORD: u32 = 4;
    pub(super) const TEXTS: u32 = 7;
    pub(super) const QWORD: u32 = 11;
}

exports! {
    module "kmdf";

    /// The key is deleted with its handle.
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryremovekey>
    fn WdfRegistryRemoveKey(call, globals: usize, key: usize) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::ACCESS_DENIED;
    {
        let path = path_of(&call, key);
        call.machine().kmdf().registry().remove_key(&path);
        let id = resolve(&call, key, Kind::Key);
        life::delete(call.cpu(), id);
        NtStatus::SUCCESS
    }

    /// The handle is a number that only tells keys apart.
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistrywdmgethandle>
    fn WdfRegistryWdmGetHandle(call, globals: usize, key: usize) -> usize,
    irql PASSIVE..=PASSIVE;
    {
        resolve(&call, key, Kind::Key).handle()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryquerymemory>
    fn WdfRegistryQueryMemory(
        call, globals: usize, key: usize, name: In<UnicodeString>, pool_type: u32, attributes: In<ObjectAttributes>,
        memory: Out<usize>, kind: Out<u32>,
    ) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        not_null(&call, memory.address(), "Memory");
        match query(&call, key, name) {
            Ok(value) => {
                kind.set(value.kind());
                let body = Memory::holding(&value.bytes());
                memory::create(&call, globals, attributes, memory, Body::Memory(Box::new(body)))
            }
            Err(status) => status,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryquerymultistring>
    fn WdfRegistryQueryMultiString(
        call, globals: usize, key: usize, name: In<UnicodeString>, attributes: In<ObjectAttributes>, collection: usize,
    ) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let collection = resolve(&call, collection, Kind::Collection);
        let texts = match query(&call, key, name) {
            Ok(Value::Texts(texts)) => texts,
            Ok(_) => return NtStatus::OBJECT_TYPE_MISMATCH,
            Err(status) => return status,
        };
        for text in texts {
            let mut string = 0;
            // SAFETY: a place of this frame.
            let out = unsafe { Out::new(&raw mut string) };
            let status = memory::create(&call, globals, attributes, out, Body::Text(Box::new(Text::new(&text))));
            if !status.is_success() {
                return status;
            }
            let string = resolve(&call, string, Kind::Text);
            memory::add_item(&mut call.machine().kmdf().lock(), collection, string);
        }
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryassignvalue>
    fn WdfRegistryAssignValue(
        call, globals: usize, key: usize, name: In<UnicodeString>, kind: u32, length: u32, value: In<u8>,
    ) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        not_null(&call, value.address(), "Value");
        let mut bytes = vec![0; length as usize];
        value.copy_to(&mut bytes);
        assign(&call, key, name, value_of(kind, bytes))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryassignmemory>
    fn WdfRegistryAssignMemory(
        call, globals: usize, key: usize, name: In<UnicodeString>, kind: u32, memory: usize, part: In<MemoryOffset>,
    ) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let memory = resolve(&call, memory, Kind::Memory);
        match memory::read(&call, memory, part.get()) {
            Ok(bytes) => assign(&call, key, name, value_of(kind, bytes)),
            Err(status) => status,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryassignmultistring>
    fn WdfRegistryAssignMultiString(
        call, globals: usize, key: usize, name: In<UnicodeString>, collection: usize,
    ) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let collection = resolve(&call, collection, Kind::Collection);
        let texts = {
            let mut state = call.machine().kmdf().lock();
            let items = memory::items(&mut state, collection);
            let texts: Option<Vec<String>> = items.into_iter().map(|item| memory::text_of(&mut state, item)).collect();
            texts
        };
        // Every item has to be a string.
        texts.map_or(NtStatus::INVALID_PARAMETER, |texts| assign(&call, key, name, Value::Texts(texts)))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryassignstring>
    fn WdfRegistryAssignString(call, globals: usize, key: usize, name: In<UnicodeString>, string: usize) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let string = resolve(&call, string, Kind::Text);
        let text = memory::text_of(&mut call.machine().kmdf().lock(), string).unwrap_or_default();
        assign(&call, key, name, Value::Text(text))
    }
}

fn assign(call: &Call<'_>, key: usize, name: In<UnicodeString>, value: Value) -> NtStatus {
    let path = path_of(call, key);
    not_null(call, name.address(), "ValueName");
    let name = text(name).unwrap_or_default();
    call.machine().kmdf().registry().set(&path, &name, value);
    NtStatus::SUCCESS
}

/// A value from its type and bytes; what does not fit its type is kept as bytes.
fn value_of(kind: u32, bytes: Vec<u8>) -> Value {
    let units = || -> Vec<u16> {
        bytes
            .chunks_exact(2)
            .filter_map(|pair| pair.first_chunk().copied().map(u16::from_le_bytes))
            .collect()
    };
    let string = |units: &[u16]| String::from_utf16_lossy(units);
    match (kind, bytes.len()) {
        (kind::DWORD, 4) => bytes
            .first_chunk()
            .copied()
            .map_or(Value::Dword(0), |bytes| {
                Value::Dword(u32::from_le_bytes(bytes))
            }),
        (kind::QWORD, 8) => bytes
            .first_chunk()
            .copied()
            .map_or(Value::Qword(0), |bytes| {
                Value::Qword(u64::from_le_bytes(bytes))
            }),
        (kind::TEXT, _) => {
            let units = units();
            let end = units
                .iter()
                .position(|unit| *unit == 0)
                .unwrap_or(units.len());
            Value::Text(string(&units[..end]))
        }
        (kind::TEXTS, _) => Value::Texts(
            units()
                .split(|unit| *unit == 0)
                .filter(|text| !text.is_empty())
                .map(string)
                .collect(),
        ),
        _ => Value::Binary(bytes),
    }
}
