//! WDFMEMORY, WDFSTRING and WDFCOLLECTION.

use wfp_schema::NtStatus;

use super::abi::{MemoryOffset, ObjectAttributes, UnicodeString, text};
use super::attributes::{Attributes, Constraints, Parent};
use super::life;
use super::object::{Body, Id, Kind, State, client, not_null, resolve, resolve_any};
use crate::access::{In, Out};
use crate::cpu::{DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::nt::io_memory::Guarded;
use crate::verifier::ARGUMENT;

/// What a WDFMEMORY holds.
#[derive(Debug)]
pub(crate) struct Memory {
    address: usize,
    length: usize,
    read_only: bool,
    /// The memory itself, where it is the framework's.
    _owned: Option<Guarded>,
    /// Whether the driver may give it another buffer.
    assignable: bool,
}

impl Memory {
    /// A buffer of a request.
    pub(crate) const fn of_request(address: usize, length: usize, read_only: bool) -> Self {
        Self {
            address,
            length,
            read_only,
            _owned: None,
            assignable: false,
        }
    }

    pub(super) fn allocated(length: usize) -> Self {
        Self::owning(Guarded::new(length))
    }

    /// A memory object of the framework's with these bytes.
    pub(super) fn holding(bytes: &[u8]) -> Self {
        Self::owning(Guarded::holding(bytes))
    }

    fn owning(owned: Guarded) -> Self {
        Self {
            address: owned.address(),
            length: owned.len(),
            read_only: false,
            _owned: Some(owned),
            assignable: false,
        }
    }

    const fn preallocated(address: usize, length: usize) -> Self {
        Self {
            address,
            length,
            read_only: false,
            _owned: None,
            assignable: true,
        }
    }
}

/// What a WDFSTRING holds.
#[derive(Debug)]
pub(crate) struct Text {
    units: Guarded,
}

impl Text {
    pub(super) fn new(text: &str) -> Self {
        let units: Vec<u8> = text
            .encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect();
        Self {
            units: Guarded::holding(&units),
        }
    }
}

/// What a WDFCOLLECTION holds.
#[derive(Debug, Default)]
pub(crate) struct Collection {
    items: Vec<Id>,
}

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfmemory/nf-wdfmemory-wdfmemorycreate>
    fn WdfMemoryCreate(call, globals: usize, attributes: In<ObjectAttributes>, pool_type: u32, tag: u32, size: usize, memory: Out<usize>, buffer: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        not_null(&call, memory.address(), "Memory");
        if size == 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        let body = Memory::allocated(size);
        let address = body.address;
        let status = create(&call, globals, attributes, memory, Body::Memory(Box::new(body)));
        if status.is_success() {
            buffer.set(address);
        }
        status
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfmemory/nf-wdfmemory-wdfmemorycreatepreallocated>
    fn WdfMemoryCreatePreallocated(call, globals: usize, attributes: In<ObjectAttributes>, buffer: usize, size: usize, memory: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        not_null(&call, memory.address(), "Memory");
        not_null(&call, buffer, "Buffer");
        if size == 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        create(&call, globals, attributes, memory, Body::Memory(Box::new(Memory::preallocated(buffer, size))))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfmemory/nf-wdfmemory-wdfmemoryassignbuffer>
    fn WdfMemoryAssignBuffer(call, globals: usize, memory: usize, buffer: usize, size: usize) -> NtStatus,
    irql PASSIVE..=HIGH;
    {
        let id = resolve(&call, memory, Kind::Memory);
        not_null(&call, buffer, "Buffer");
        let mut state = call.machine().kmdf().lock();
        match state.memory(id).filter(|memory| memory.assignable && size > 0) {
            Some(memory) => {
                (memory.address, memory.length) = (buffer, size);
                NtStatus::SUCCESS
            }
            None => NtStatus::INVALID_PARAMETER,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfmemory/nf-wdfmemory-wdfmemorygetbuffer>
    fn WdfMemoryGetBuffer(call, globals: usize, memory: usize, size: Out<usize>) -> usize,
    irql PASSIVE..=HIGH;
    {
        let id = resolve(&call, memory, Kind::Memory);
        let (address, length) = span(&call, id);
        size.set(length);
        address
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfmemory/nf-wdfmemory-wdfmemorycopytobuffer>
    fn WdfMemoryCopyToBuffer(call, globals: usize, memory: usize, offset: usize, buffer: Out<u8>, bytes: usize) -> NtStatus,
    irql PASSIVE..=HIGH;
    {
        let id = resolve(&call, memory, Kind::Memory);
        not_null(&call, buffer.address(), "Buffer");
        copy(&call, id, MemoryOffset { offset, length: bytes }, |memory, bytes| {
            let mut copied = vec![0; bytes];
            memory.as_in().copy_to(&mut copied);
            buffer.copy_from(&copied);
        })
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfmemory/nf-wdfmemory-wdfmemorycopyfrombuffer>
    fn WdfMemoryCopyFromBuffer(call, globals: usize, memory: usize, offset: usize, buffer: In<u8>, bytes: usize) -> NtStatus,
    irql PASSIVE..=HIGH;
    {
        let id = resolve(&call, memory, Kind::Memory);
        not_null(&call, buffer.address(), "Buffer");
        let read_only = call.machine().kmdf().lock().memory(id).is_some_and(|memory| memory.read_only);
        if read_only {
            return NtStatus::ACCESS_DENIED;
        }
        copy(&call, id, MemoryOffset { offset, length: bytes }, |memory, bytes| {
            let mut copied = vec![0; bytes];
            buffer.copy_to(&mut copied);
            memory.copy_from(&copied);
        })
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfstring/nf-wdfstring-wdfstringcreate>
    fn WdfStringCreate(call, globals: usize, string: In<UnicodeString>, attributes: In<ObjectAttributes>, out: Out<usize>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        not_null(&call, out.address(), "String");
        let text = text(string).unwrap_or_default();
        create(&call, globals, attributes, out, Body::Text(Box::new(Text::new(&text))))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfstring/nf-wdfstring-wdfstringgetunicodestring>
    fn WdfStringGetUnicodeString(call, globals: usize, string: usize, out: Out<UnicodeString>),
    irql PASSIVE..=PASSIVE;
    {
        let id = resolve(&call, string, Kind::Text);
        not_null(&call, out.address(), "UnicodeString");
        let found = call.machine().kmdf().lock().text(id).map(|text| (text.units.address(), text.units.len()));
        let (address, length) = found.unwrap_or_default();
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        out.offset::<u16>(0).set(length.saturating_sub(2));
        out.offset::<u16>(2).set(length);
        out.offset::<usize>(8).set(address);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfcollection/nf-wdfcollection-wdfcollectioncreate>
    fn WdfCollectionCreate(call, globals: usize, attributes: In<ObjectAttributes>, out: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        not_null(&call, out.address(), "Collection");
        create(&call, globals, attributes, out, Body::Collection(Box::default()))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfcollection/nf-wdfcollection-wdfcollectiongetcount>
    fn WdfCollectionGetCount(call, globals: usize, collection: usize) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, collection, Kind::Collection);
        let count = call.machine().kmdf().lock().collection(id).map_or(0, |collection| collection.items.len());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfcollection/nf-wdfcollection-wdfcollectionadd>
    fn WdfCollectionAdd(call, globals: usize, collection: usize, object: usize) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let id = resolve(&call, collection, Kind::Collection);
        let item = resolve_any(&call, object);
        add_item(&mut call.machine().kmdf().lock(), id, item);
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfcollection/nf-wdfcollection-wdfcollectionremove>
    fn WdfCollectionRemove(call, globals: usize, collection: usize, object: usize),
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, collection, Kind::Collection);
        let item = resolve_any(&call, object);
        remove(&call, id, |items| items.iter().position(|known| *known == item));
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfcollection/nf-wdfcollection-wdfcollectionremoveitem>
    fn WdfCollectionRemoveItem(call, globals: usize, collection: usize, index: u32),
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, collection, Kind::Collection);
        remove(&call, id, |items| Some(index as usize).filter(|index| *index < items.len()));
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfcollection/nf-wdfcollection-wdfcollectiongetitem>
    fn WdfCollectionGetItem(call, globals: usize, collection: usize, index: u32) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        item(&call, collection, |items| items.get(index as usize).copied())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfcollection/nf-wdfcollection-wdfcollectiongetfirstitem>
    fn WdfCollectionGetFirstItem(call, globals: usize, collection: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        item(&call, collection, |items| items.first().copied())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfcollection/nf-wdfcollection-wdfcollectiongetlastitem>
    fn WdfCollectionGetLastItem(call, globals: usize, collection: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        item(&call, collection, |items| items.last().copied())
    }
}

/// Makes an object whose parent is the driver unless the attributes name one.
pub(crate) fn create(
    call: &Call<'_>,
    globals: usize,
    attributes: In<ObjectAttributes>,
    out: Out<usize>,
    body: Body,
) -> NtStatus {
    let globals = client(call, globals);
    let attributes = match Attributes::read(call, attributes, Parent::Allowed, Constraints::None) {
        Ok(attributes) => attributes,
        Err(status) => return status,
    };
    let created = {
        let mut state = call.machine().kmdf().lock();
        let attributes = attributes.or_below_driver(&state, globals);
        state.create(globals, &attributes, body)
    };
    match created {
        Ok(id) => {
            out.set(id.handle());
            NtStatus::SUCCESS
        }
        Err(status) => status,
    }
}

fn span(call: &Call<'_>, id: Id) -> (usize, usize) {
    call.machine()
        .kmdf()
        .lock()
        .memory(id)
        .map_or((0, 0), |memory| (memory.address, memory.length))
}

/// Calls `copy` with the part of a memory object, if it has that part.
fn copy(
    call: &Call<'_>,
    id: Id,
    part: MemoryOffset,
    copy: impl FnOnce(Out<u8>, usize),
) -> NtStatus {
    let (address, length) = span(call, id);
    if part.length == 0 {
        return NtStatus::INVALID_PARAMETER;
    }
    if part.offset > length || part.length > length - part.offset {
        return NtStatus::BUFFER_TOO_SMALL;
    }
    // SAFETY: the memory object's buffer is the framework's, a request's, or one that the driver vouched for.
    let memory = unsafe { Out::<u8>::new((address + part.offset) as *mut u8) };
    copy(memory, part.length);
    NtStatus::SUCCESS
}

/// Puts text into a WDFSTRING.
pub(crate) fn set_text(call: &Call<'_>, id: Id, text: &str) {
    if let Some(string) = call.machine().kmdf().lock().text(id) {
        *string = Text::new(text);
    }
}

/// The text of a WDFSTRING; `None` for an object that is none.
pub(super) fn text_of(state: &mut State, id: Id) -> Option<String> {
    let units = &state.text(id)?.units;
    let units: Vec<u16> = units
        .read(0, units.len())
        .chunks_exact(2)
        .filter_map(|pair| pair.first_chunk().copied().map(u16::from_le_bytes))
        .take_while(|unit| *unit != 0)
        .collect();
    Some(String::from_utf16_lossy(&units))
}

/// The bytes of a memory object, or of a part of it.
pub(super) fn read(
    call: &Call<'_>,
    id: Id,
    part: Option<MemoryOffset>,
) -> Result<Vec<u8>, NtStatus> {
    let (_, length) = span(call, id);
    let part = part.unwrap_or(MemoryOffset { offset: 0, length });
    let mut bytes = Vec::new();
    let status = copy(call, id, part, |memory, length| {
        bytes = vec![0; length];
        memory.as_in().copy_to(&mut bytes);
    });
    if status.is_success() {
        Ok(bytes)
    } else {
        Err(status)
    }
}

/// Puts bytes into a memory object, or into a part of it.
pub(super) fn write(
    call: &Call<'_>,
    id: Id,
    part: Option<MemoryOffset>,
    bytes: &[u8],
) -> Result<(), NtStatus> {
    let offset = part.map_or(0, |part| part.offset);
    let part = MemoryOffset {
        offset,
        length: bytes.len(),
    };
    let status = copy(call, id, part, |memory, _| memory.copy_from(bytes));
    if status.is_success() {
        Ok(())
    } else {
        Err(status)
    }
}

/// Puts bytes into a memory object, or into a part of it, as far as they fit; nothing if it was deleted.
pub(super) fn fill(state: &mut State, id: Id, part: Option<MemoryOffset>, bytes: &[u8]) {
    let Some((address, length)) = state
        .memory(id)
        .map(|memory| (memory.address, memory.length))
    else {
        return;
    };
    let offset = part.map_or(0, |part| part.offset).min(length);
    let room = part.map_or(length, |part| part.length).min(length - offset);
    // SAFETY: the memory object's buffer, as above.
    let memory = unsafe { Out::<u8>::new((address + offset) as *mut u8) };
    memory.copy_from(&bytes[..bytes.len().min(room)]);
}

/// The objects in a collection.
pub(super) fn items(state: &mut State, id: Id) -> Vec<Id> {
    state
        .collection(id)
        .map_or_else(Vec::new, |collection| collection.items.clone())
}

/// Puts an object into a collection, which refers to it.
pub(super) fn add_item(state: &mut State, id: Id, item: Id) {
    if let Some(item) = state.get_mut(item) {
        item.references += 1;
    }
    if let Some(collection) = state.collection(id) {
        collection.items.push(item);
    }
}

fn remove(call: &Call<'_>, id: Id, choose: impl FnOnce(&[Id]) -> Option<usize>) {
    let removed = {
        let mut state = call.machine().kmdf().lock();
        state.collection(id).and_then(|collection| {
            let index = choose(&collection.items)?;
            Some(collection.items.remove(index))
        })
    };
    match removed {
        Some(item) => {
            life::release(call.cpu(), item);
        }
        None => call.violation(&ARGUMENT, "removes what is not in the collection"),
    }
}

fn item(call: &Call<'_>, collection: usize, choose: impl FnOnce(&[Id]) -> Option<Id>) -> usize {
    let id = resolve(call, collection, Kind::Collection);
    let mut state = call.machine().kmdf().lock();
    state
        .collection(id)
        .and_then(|collection| choose(&collection.items))
        .map_or(0, Id::handle)
}

/// The objects that a collection refers to, which it lets go of when it is deleted.
pub(crate) fn take_items(state: &mut State, id: Id) -> Vec<Id> {
    state
        .collection(id)
        .map(|collection| std::mem::take(&mut collection.items))
        .unwrap_or_default()
}
