//! WDFKEY, and the registry of a simulated machine.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use wfp_schema::NtStatus;

use super::abi::{ObjectAttributes, UnicodeString, status, text};
use super::attributes::{Attributes, Constraints, Parent};
use super::life;
use super::memory::set_text;
use super::object::{Body, Id, Kind, client, not_null, resolve};
use crate::access::{In, Out};
use crate::cpu::PASSIVE;
use crate::export::{Call, exports};

/// A registry value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `REG_DWORD`.
    Dword(u32),
    /// `REG_QWORD`.
    Qword(u64),
    /// `REG_SZ`.
    Text(String),
    /// `REG_MULTI_SZ`.
    Texts(Vec<String>),
    /// `REG_BINARY`.
    Binary(Vec<u8>),
}

impl Value {
    /// `REG_*`.
    pub(super) const fn kind(&self) -> u32 {
        match self {
            Self::Text(_) => 1,
            Self::Texts(_) => 7,
            Self::Binary(_) => 3,
            Self::Dword(_) => 4,
            Self::Qword(_) => 11,
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Texts(texts) => texts
                .iter()
                .flat_map(|text| text.encode_utf16().chain([0]))
                .chain([0])
                .flat_map(u16::to_le_bytes)
                .collect(),
            Self::Dword(value) => value.to_le_bytes().to_vec(),
            Self::Qword(value) => value.to_le_bytes().to_vec(),
            Self::Text(text) => text
                .encode_utf16()
                .chain([0])
                .flat_map(u16::to_le_bytes)
                .collect(),
            Self::Binary(bytes) => bytes.clone(),
        }
    }
}

/// The values of a key, by name.
type Values = BTreeMap<String, Value>;

/// A machine's registry: keys and values, their names without regard to case.
#[derive(Debug, Default)]
pub struct Registry(Mutex<BTreeMap<String, Values>>);

impl Registry {
    /// Sets a value, and makes its key if there is none.
    pub fn set(&self, key: &str, name: &str, value: Value) {
        self.0
            .lock()
            .entry(fold(key))
            .or_default()
            .insert(name.to_lowercase(), value);
    }

    /// Makes a key without values if there is none.
    pub fn create_key(&self, key: &str) {
        self.0.lock().entry(fold(key)).or_default();
    }

    /// A value, if it exists.
    #[must_use]
    pub fn get(&self, key: &str, name: &str) -> Option<Value> {
        self.0
            .lock()
            .get(&fold(key))?
            .get(&name.to_lowercase())
            .cloned()
    }

    /// Whether a key exists.
    #[must_use]
    pub fn has_key(&self, key: &str) -> bool {
        self.0.lock().contains_key(&fold(key))
    }

    /// Removes a key with its values.
    pub(super) fn remove_key(&self, key: &str) {
        self.0.lock().remove(&fold(key));
    }

    fn remove(&self, key: &str, name: &str) -> bool {
        self.0
            .lock()
            .get_mut(&fold(key))
            .is_some_and(|values| values.remove(&name.to_lowercase()).is_some())
    }
}

fn fold(key: &str) -> String {
    key.trim_end_matches('\\').to_lowercase()
}

/// What a WDFKEY holds.
#[derive(Debug)]
pub(crate) struct Key {
    path: String,
}

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdriver/nf-wdfdriver-wdfdriveropenparametersregistrykey>
    fn WdfDriverOpenParametersRegistryKey(call, globals: usize, driver: usize, access: u32, attributes: In<ObjectAttributes>, key: Out<usize>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::OBJECT_NAME_NOT_FOUND;
    {
        let driver = resolve(&call, driver, Kind::Driver);
        let globals = client(&call, globals);
        let path = {
            let state = call.machine().kmdf().lock();
            state.clients.get(&globals).map(|client| format!("{}\\Parameters", client.registry_path))
        };
        let path = path.unwrap_or_default();
        // The framework makes the key where there is none.
        call.machine().kmdf().registry().create_key(&path);
        open(&call, globals, path, Some(driver), attributes, key)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryopenkey>
    fn WdfRegistryOpenKey(call, globals: usize, parent: usize, name: In<UnicodeString>, access: u32, attributes: In<ObjectAttributes>, key: Out<usize>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::OBJECT_NAME_NOT_FOUND;
    {
        let globals = client(&call, globals);
        let path = path_below(&call, parent, name);
        if !call.machine().kmdf().registry().has_key(&path) {
            return NtStatus::OBJECT_NAME_NOT_FOUND;
        }
        open(&call, globals, path, None, attributes, key)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistrycreatekey>
    fn WdfRegistryCreateKey(call, globals: usize, parent: usize, name: In<UnicodeString>, access: u32, options: u32, disposition: Out<u32>, attributes: In<ObjectAttributes>, key: Out<usize>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let globals = client(&call, globals);
        let path = path_below(&call, parent, name);
        let registry = call.machine().kmdf().registry();
        // REG_CREATED_NEW_KEY, REG_OPENED_EXISTING_KEY.
        disposition.set(if registry.has_key(&path) { 2 } else { 1 });
        registry.create_key(&path);
        open(&call, globals, path, None, attributes, key)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryclose>
    fn WdfRegistryClose(call, globals: usize, key: usize),
    irql PASSIVE..=PASSIVE;
    {
        let id = resolve(&call, key, Kind::Key);
        life::delete(call.cpu(), id);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryqueryulong>
    fn WdfRegistryQueryULong(call, globals: usize, key: usize, name: In<UnicodeString>, value: Out<u32>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        not_null(&call, value.address(), "Value");
        match query(&call, key, name) {
            Ok(Value::Dword(number)) => {
                value.set(number);
                NtStatus::SUCCESS
            }
            Ok(_) => NtStatus::OBJECT_TYPE_MISMATCH,
            Err(status) => status,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryqueryunicodestring>
    fn WdfRegistryQueryUnicodeString(call, globals: usize, key: usize, name: In<UnicodeString>, length: Out<u16>, value: Out<UnicodeString>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        match query(&call, key, name) {
            Ok(Value::Text(text)) => give_text(&text, length, value),
            Ok(_) => NtStatus::OBJECT_TYPE_MISMATCH,
            Err(status) => status,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryquerystring>
    fn WdfRegistryQueryString(call, globals: usize, key: usize, name: In<UnicodeString>, string: usize) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let string = resolve(&call, string, Kind::Text);
        match query(&call, key, name) {
            Ok(Value::Text(text)) => {
                set_text(&call, string, &text);
                NtStatus::SUCCESS
            }
            Ok(_) => NtStatus::OBJECT_TYPE_MISMATCH,
            Err(status) => status,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryqueryvalue>
    fn WdfRegistryQueryValue(call, globals: usize, key: usize, name: In<UnicodeString>, length: u32, value: Out<u8>, queried: Out<u32>, kind: Out<u32>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let found = match query(&call, key, name) {
            Ok(found) => found,
            Err(status) => return status,
        };
        let bytes = found.bytes();
        queried.set(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        kind.set(found.kind());
        let fits = bytes.len() <= length as usize && !value.is_null();
        if fits {
            value.copy_from(&bytes);
            NtStatus::SUCCESS
        } else {
            NtStatus::BUFFER_OVERFLOW
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryassignulong>
    fn WdfRegistryAssignULong(call, globals: usize, key: usize, name: In<UnicodeString>, value: u32) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let path = path_of(&call, key);
        let name = text(name).unwrap_or_default();
        call.machine().kmdf().registry().set(&path, &name, Value::Dword(value));
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryassignunicodestring>
    fn WdfRegistryAssignUnicodeString(call, globals: usize, key: usize, name: In<UnicodeString>, value: In<UnicodeString>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let path = path_of(&call, key);
        let (name, value) = (text(name).unwrap_or_default(), text(value).unwrap_or_default());
        call.machine().kmdf().registry().set(&path, &name, Value::Text(value));
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryremovevalue>
    fn WdfRegistryRemoveValue(call, globals: usize, key: usize, name: In<UnicodeString>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let path = path_of(&call, key);
        let name = text(name).unwrap_or_default();
        if call.machine().kmdf().registry().remove(&path, &name) {
            NtStatus::SUCCESS
        } else {
            NtStatus::OBJECT_NAME_NOT_FOUND
        }
    }
}

fn open(
    call: &Call<'_>,
    globals: usize,
    path: String,
    parent: Option<Id>,
    attributes: In<ObjectAttributes>,
    out: Out<usize>,
) -> NtStatus {
    not_null(call, out.address(), "Key");
    let attributes = match Attributes::read(call, attributes, Parent::Allowed, Constraints::None) {
        Ok(attributes) => attributes,
        Err(status) => return status,
    };
    let created = {
        let mut state = call.machine().kmdf().lock();
        let attributes = attributes.or_below(parent).or_below_driver(&state, globals);
        state.create(globals, &attributes, Body::Key(Box::new(Key { path })))
    };
    match created {
        Ok(id) => {
            out.set(id.handle());
            NtStatus::SUCCESS
        }
        Err(status) => status,
    }
}

/// Where a key is.
pub(super) fn path_of(call: &Call<'_>, key: usize) -> String {
    let id = resolve(call, key, Kind::Key);
    call.machine()
        .kmdf()
        .lock()
        .key(id)
        .map(|key| key.path.clone())
        .unwrap_or_default()
}

fn path_below(call: &Call<'_>, parent: usize, name: In<UnicodeString>) -> String {
    not_null(call, name.address(), "KeyName");
    let name = text(name).unwrap_or_default();
    if parent == 0 {
        name
    } else {
        format!("{}\\{name}", path_of(call, parent))
    }
}

/// The value `name` of a key.
pub(super) fn query(
    call: &Call<'_>,
    key: usize,
    name: In<UnicodeString>,
) -> Result<Value, NtStatus> {
    let path = path_of(call, key);
    not_null(call, name.address(), "ValueName");
    let name = text(name).ok_or(NtStatus::INVALID_PARAMETER)?;
    call.machine()
        .kmdf()
        .registry()
        .get(&path, &name)
        .ok_or(NtStatus::OBJECT_NAME_NOT_FOUND)
}

/// Copies text into the driver's string, whose `MaximumLength` says how much it holds.
fn give_text(text: &str, length: Out<u16>, value: Out<UnicodeString>) -> NtStatus {
    let units: Vec<u16> = text.encode_utf16().collect();
    let Ok(bytes) = u16::try_from((units.len() + 1) * 2) else {
        return status::INTERNAL_ERROR;
    };
    length.set(bytes);
    let Some(target) = value.get() else {
        return NtStatus::SUCCESS;
    };
    if target.maximum_length < bytes - 2 {
        return NtStatus::BUFFER_OVERFLOW;
    }
    // SAFETY: the driver's own buffer, which it says has room for this.
    let buffer = unsafe { Out::<u8>::new(target.buffer.address() as *mut u8) };
    let text: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    buffer.copy_from(&text);
    value.offset::<u16>(0).set(bytes - 2);
    NtStatus::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::{Registry, Value};

    #[test]
    fn names_do_not_depend_on_case() {
        let registry = Registry::default();
        registry.set(
            "\\Registry\\Machine\\Services\\X\\Parameters",
            "LogLevel",
            Value::Dword(3),
        );
        let value = registry.get("\\REGISTRY\\machine\\services\\x\\parameters\\", "loglevel");
        assert_eq!(value, Some(Value::Dword(3)));
    }
}
