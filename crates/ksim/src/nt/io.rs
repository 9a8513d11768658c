//! The I/O manager: device names, file objects, and requests from user mode.
//!
//! [`Kernel::open`](crate::Kernel::open) opens a device as a program would; what comes back is a
//! [`FileHandle`](super::io_user::FileHandle).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use wfp_schema::NtStatus;

use super::io_irp::{Irp, Major, Method, Parameters};
use super::io_memory::Guarded;
use super::io_security::{Caller, FILE_READ_DATA, FILE_WRITE_DATA, SecurityDescriptor};
use super::wdm;
use crate::cpu::Cpu;

/// `FILE_DEVICE_SECURE_OPEN`: the device's security also applies to names below the device.
pub const FILE_DEVICE_SECURE_OPEN: u32 = 0x100;
/// `DO_BUFFERED_IO`.
pub(crate) const DO_BUFFERED_IO: u32 = 0x4;
/// `DO_EXCLUSIVE`.
pub(crate) const DO_EXCLUSIVE: u32 = 0x8;
/// `DO_DIRECT_IO`.
pub(crate) const DO_DIRECT_IO: u32 = 0x10;
/// `DO_DEVICE_INITIALIZING`.
pub(crate) const DO_DEVICE_INITIALIZING: u32 = 0x80;

/// What a driver (or the framework for it) does with requests to one of its devices.
pub(crate) trait Dispatch: Send + Sync + fmt::Debug {
    /// The driver's dispatch routine. Completes the packet, now or later.
    fn dispatch(&self, cpu: &Cpu, irp: &Arc<Irp>);
    /// Somebody cancels `irp`, whose flag is set already.
    fn cancel(&self, cpu: &Cpu, irp: &Arc<Irp>);
    /// Whether a framework stands between the driver and its requests, and tells itself of those that are left.
    fn by_framework(&self) -> bool {
        true
    }
}

/// What a device object is made from.
#[derive(Debug)]
pub(crate) struct DeviceDescription {
    /// Its name in the object manager's namespace, if it has one.
    pub(crate) name: Option<String>,
    /// Who may open it.
    pub(crate) security: SecurityDescriptor,
    /// `FILE_DEVICE_*` type.
    pub(crate) device_type: u32,
    /// `FILE_*` characteristics.
    pub(crate) characteristics: u32,
    /// `DO_*` flags besides `DO_DEVICE_INITIALIZING`.
    pub(crate) flags: u32,
    /// The `DRIVER_OBJECT` it belongs to.
    pub(crate) driver: usize,
    /// Bytes of its extension.
    pub(crate) extension: usize,
}

/// A device object.
#[derive(Debug)]
pub(crate) struct Device {
    memory: Guarded,
    name: Option<String>,
    security: SecurityDescriptor,
    characteristics: u32,
    driver: usize,
    handles: AtomicU32,
    dispatch: Arc<dyn Dispatch>,
}

/// `sizeof(DEVICE_OBJECT)`; its extension follows.
const DEVICE_OBJECT_SIZE: usize = 336;
/// Offsets in a `DEVICE_OBJECT`.
mod device_object {
    pub(super) const SIZE: usize = 2;
    pub(super) const DRIVER: usize = 8;
    pub(super) const NEXT: usize = 16;
    pub(super) const FLAGS: usize = 48;
    pub(super) const CHARACTERISTICS: usize = 52;
    pub(super) const EXTENSION: usize = 64;
    pub(super) const DEVICE_TYPE: usize = 72;
    pub(super) const STACK_SIZE: usize = 76;
}

impl Device {
    fn new(description: &DeviceDescription, dispatch: Arc<dyn Dispatch>) -> Self {
        let size = DEVICE_OBJECT_SIZE + description.extension;
        let memory = Guarded::new(size);
        let flags = description.flags | DO_DEVICE_INITIALIZING;
        let size = u16::try_from(size).unwrap_or(u16::MAX);
        memory.put(0, 3u16.to_le_bytes());
        memory.put(device_object::SIZE, size.to_le_bytes());
        memory.put(device_object::DRIVER, description.driver.to_le_bytes());
        memory.put(device_object::FLAGS, flags.to_le_bytes());
        memory.put(
            device_object::CHARACTERISTICS,
            description.characteristics.to_le_bytes(),
        );
        if description.extension > 0 {
            let extension = memory.address() + DEVICE_OBJECT_SIZE;
            memory.put(device_object::EXTENSION, extension.to_le_bytes());
        }
        memory.put(
            device_object::DEVICE_TYPE,
            description.device_type.to_le_bytes(),
        );
        memory.put(device_object::STACK_SIZE, [1]);
        Self {
            memory,
            name: description.name.clone(),
            security: description.security.clone(),
            characteristics: description.characteristics,
            driver: description.driver,
            handles: AtomicU32::new(0),
            dispatch,
        }
    }

    /// The address of the `DEVICE_OBJECT`.
    pub(crate) fn address(&self) -> usize {
        self.memory.address()
    }

    /// Whether a framework stands between the driver and its requests.
    pub(crate) fn by_framework(&self) -> bool {
        self.dispatch.by_framework()
    }

    /// The address of the `DRIVER_OBJECT` it belongs to.
    pub(crate) const fn driver(&self) -> usize {
        self.driver
    }

    /// Sets the next one in its driver's list of devices.
    pub(crate) fn set_next(&self, device: usize) {
        self.memory.put(device_object::NEXT, device.to_le_bytes());
    }

    /// `DO_*` flags, which are its driver's to change.
    pub(crate) fn flags(&self) -> u32 {
        self.memory
            .atomic_u32(device_object::FLAGS)
            .load(Ordering::SeqCst)
    }

    /// Clears `DO_DEVICE_INITIALIZING`: from now on the device can be opened.
    pub(crate) fn finish_initializing(&self) {
        self.memory
            .atomic_u32(device_object::FLAGS)
            .fetch_and(!DO_DEVICE_INITIALIZING, Ordering::SeqCst);
    }

    /// File objects of the device that exist.
    pub(crate) fn handles(&self) -> u32 {
        self.handles.load(Ordering::SeqCst)
    }

    /// Calls the driver.
    pub(crate) fn dispatch(&self, cpu: &Cpu, irp: &Arc<Irp>) {
        self.dispatch.dispatch(cpu, irp);
    }

    /// Tells the driver's side that `irp` is cancelled.
    pub(crate) fn cancel(&self, cpu: &Cpu, irp: &Arc<Irp>) {
        self.dispatch.cancel(cpu, irp);
    }

    /// How reads and writes are passed.
    pub(crate) fn read_write_method(&self) -> Method {
        let flags = self.flags();
        if flags & DO_BUFFERED_IO != 0 {
            Method::Buffered
        } else if flags & DO_DIRECT_IO != 0 {
            Method::OutDirect
        } else {
            Method::Neither
        }
    }
}

/// A file object: what a handle refers to.
#[derive(Debug)]
pub(crate) struct FileObject {
    memory: Guarded,
    /// Keeps the text that `FileName` points at.
    _name: Option<Guarded>,
    device: Arc<Device>,
    caller: Caller,
    granted: u32,
    /// The handle, and each operation that is not complete.
    references: AtomicU32,
    opened: AtomicBool,
}

/// `sizeof(FILE_OBJECT)`.
const FILE_OBJECT_SIZE: usize = 216;

impl FileObject {
    fn new(device: Arc<Device>, path: &str, caller: Caller, granted: u32) -> Self {
        let memory = Guarded::new(FILE_OBJECT_SIZE);
        memory.put(0, 5u16.to_le_bytes());
        memory.put(2, 216u16.to_le_bytes());
        memory.put(8, device.address().to_le_bytes());
        memory.put(74, [u8::from(granted & FILE_READ_DATA != 0)]);
        memory.put(75, [u8::from(granted & FILE_WRITE_DATA != 0)]);
        let name = (!path.is_empty()).then(|| {
            let text: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let len = u16::try_from(text.len()).unwrap_or(0xfffe).to_le_bytes();
            let name = Guarded::holding(&text);
            memory.put(88, len);
            memory.put(90, len);
            memory.put(96, name.address().to_le_bytes());
            name
        });
        device.handles.fetch_add(1, Ordering::SeqCst);
        Self {
            memory,
            _name: name,
            device,
            caller,
            granted,
            references: AtomicU32::new(1),
            opened: AtomicBool::new(false),
        }
    }

    /// The address of the `FILE_OBJECT`.
    pub(crate) fn address(&self) -> usize {
        self.memory.address()
    }

    /// The device it is open on.
    pub(crate) const fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The address of its `FileName`.
    pub(crate) fn file_name(&self) -> usize {
        self.address() + 88
    }

    /// Who opened it.
    pub(crate) const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// File access rights of the handle.
    pub(crate) const fn granted(&self) -> u32 {
        self.granted
    }

    /// One more operation is under way.
    pub(crate) fn reference(&self) {
        self.references.fetch_add(1, Ordering::SeqCst);
    }

    /// The driver accepted the open: cleanup and close will follow.
    pub(crate) fn set_opened(&self) {
        self.opened.store(true, Ordering::SeqCst);
    }

    /// Lets go of it; the last one sends the close request, which the driver gets at `PASSIVE_LEVEL`.
    pub(crate) fn dereference(self: &Arc<Self>, cpu: &Cpu) {
        if self.references.fetch_sub(1, Ordering::SeqCst) != 1 {
            return;
        }
        self.device.handles.fetch_sub(1, Ordering::SeqCst);
        if self.opened.load(Ordering::SeqCst) {
            let file = Arc::clone(self);
            cpu.machine().time().defer("IRP_MJ_CLOSE", move |cpu| {
                let irp = Arc::new(Irp::new(&file, Parameters::plain(Major::Close)));
                irp.set_thread(cpu.thread());
                cpu.machine().io().keep_irp(&irp);
                file.device.dispatch(cpu, &irp);
            });
        }
    }
}

#[derive(Debug, Clone)]
enum Name {
    Device(Arc<Device>),
    Link(String),
}

/// Device names and live requests of one machine.
#[derive(Debug, Default)]
pub struct IoManager {
    names: Mutex<BTreeMap<String, Name>>,
    /// Every device object, named or not.
    devices: Mutex<Vec<Weak<Device>>>,
    /// Those that are not complete.
    irps: Mutex<HashMap<usize, Arc<Irp>>>,
    user_memory: Mutex<BTreeMap<usize, (usize, bool)>>,
    /// Devices of drivers without a framework, which refer to them by address.
    kept: Mutex<HashMap<usize, Arc<Device>>>,
    completed: wdm::Completed,
    cancel_lock: wdm::CancelLock,
    work_items: wdm::WorkItems,
}

/// The one spelling of a name under which it is kept: lower case, DOS devices under `\??\`.
pub(crate) fn canonical(path: &str) -> String {
    let lower = path.to_lowercase();
    for prefix in [
        "\\\\.\\",
        "\\\\?\\",
        "\\dosdevices\\global\\",
        "\\dosdevices\\",
        "\\global??\\",
        "\\??\\global\\",
    ] {
        if let Some(rest) = lower.strip_prefix(prefix) {
            return format!("\\??\\{rest}");
        }
    }
    lower
}

impl IoManager {
    /// `IoCreateDeviceSecure`.
    ///
    /// # Errors
    /// `STATUS_OBJECT_NAME_COLLISION` when the name is taken, `STATUS_OBJECT_NAME_INVALID` when it is none.
    pub(crate) fn create_device(
        &self,
        description: &DeviceDescription,
        dispatch: Arc<dyn Dispatch>,
    ) -> Result<Arc<Device>, NtStatus> {
        let device = Arc::new(Device::new(description, dispatch));
        self.devices.lock().push(Arc::downgrade(&device));
        if let Some(name) = &description.name {
            self.insert(name, Name::Device(Arc::clone(&device)))?;
        }
        Ok(device)
    }

    /// `IoDeleteDevice`.
    pub(crate) fn delete_device(&self, device: &Device) {
        if let Some(name) = &device.name {
            self.names.lock().remove(&canonical(name));
        }
    }

    /// Tells the driver of the device object at `address` that the system is being shut down, and waits for it.
    /// Nothing happens when there is no such device.
    pub(crate) fn send_shutdown(&self, cpu: &Cpu, address: usize) {
        let device = {
            let mut devices = self.devices.lock();
            devices.retain(|device| device.strong_count() > 0);
            devices
                .iter()
                .filter_map(Weak::upgrade)
                .find(|device| device.address() == address)
        };
        let Some(device) = device else {
            return;
        };
        let file = Arc::new(FileObject::new(device, "", Caller::system(), 0));
        let irp = self.allocate_irp(&file, Parameters::plain(Major::Shutdown));
        irp.set_thread(cpu.thread());
        file.device().dispatch(cpu, &irp);
        cpu.machine()
            .wait(cpu, "IRP_MJ_SHUTDOWN", None, || irp.completion().is_some());
        file.dereference(cpu);
    }

    /// `IoCreateSymbolicLink`: `link` leads to `target`.
    ///
    /// # Errors
    /// `STATUS_OBJECT_NAME_COLLISION` when the name is taken, `STATUS_OBJECT_NAME_INVALID` when it is none.
    pub fn create_symbolic_link(&self, link: &str, target: &str) -> Result<(), NtStatus> {
        self.insert(link, Name::Link(target.to_owned()))
    }

    /// `IoDeleteSymbolicLink`.
    pub fn delete_symbolic_link(&self, link: &str) {
        self.names.lock().remove(&canonical(link));
    }

    fn insert(&self, name: &str, entry: Name) -> Result<(), NtStatus> {
        let key = canonical(name);
        if !key.starts_with('\\') || key.len() < 2 || key.ends_with('\\') {
            return Err(NtStatus::OBJECT_NAME_INVALID);
        }
        match self.names.lock().entry(key) {
            Entry::Occupied(_) => Err(NtStatus::OBJECT_NAME_COLLISION),
            Entry::Vacant(slot) => {
                slot.insert(entry);
                Ok(())
            }
        }
    }

    /// Every device name and symbolic link that exists, in one spelling.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.names.lock().keys().cloned().collect()
    }

    /// The device that `path` leads to, and what follows its name.
    fn resolve(&self, path: &str) -> Option<(Arc<Device>, String)> {
        let names = self.names.lock();
        let mut path = canonical(path);
        // As many links in a row as the object manager follows.
        for _ in 0..32 {
            let mut end = path.len();
            loop {
                match names.get(&path[..end]) {
                    Some(Name::Device(device)) => {
                        return Some((Arc::clone(device), path[end..].to_owned()));
                    }
                    Some(Name::Link(target)) => {
                        path = canonical(&format!("{target}{}", &path[end..]));
                        break;
                    }
                    None => end = path[..end].rfind('\\').filter(|at| *at > 0)?,
                }
            }
        }
        None
    }

    /// What the object manager and the I/O manager do before a driver sees an open: finds the device, checks that
    /// it is ready, not exclusively open, and that the caller may.
    pub(crate) fn prepare_open(
        &self,
        path: &str,
        caller: Caller,
    ) -> Result<Arc<FileObject>, NtStatus> {
        let (device, rest) = self.resolve(path).ok_or(NtStatus::OBJECT_NAME_NOT_FOUND)?;
        if device.flags() & DO_DEVICE_INITIALIZING != 0 {
            return Err(NtStatus::NO_SUCH_DEVICE);
        }
        let checked = rest.is_empty() || device.characteristics & FILE_DEVICE_SECURE_OPEN != 0;
        let granted = if checked {
            device.security.grant(caller.account, caller.access)
        } else {
            SecurityDescriptor::default().grant(caller.account, caller.access)
        };
        let granted = granted.ok_or(NtStatus::ACCESS_DENIED)?;
        let file = FileObject::new(device, &rest, caller, granted);
        if file.device.flags() & DO_EXCLUSIVE != 0 && file.device.handles() > 1 {
            file.device.handles.fetch_sub(1, Ordering::SeqCst);
            return Err(NtStatus::ACCESS_DENIED);
        }
        Ok(Arc::new(file))
    }

    /// Makes a packet and remembers it while it lives.
    pub(crate) fn allocate_irp(&self, file: &Arc<FileObject>, parameters: Parameters) -> Arc<Irp> {
        let irp = Arc::new(Irp::new(file, parameters));
        file.reference();
        self.keep_irp(&irp);
        irp
    }

    /// A packet lives until it is completed.
    fn keep_irp(&self, irp: &Arc<Irp>) {
        self.irps.lock().insert(irp.address(), Arc::clone(irp));
    }

    /// The packet at `address`, if it is not complete.
    pub(crate) fn irp(&self, address: usize) -> Option<Arc<Irp>> {
        self.irps.lock().get(&address).cloned()
    }

    /// The packets that are not complete.
    pub(crate) fn live_irps(&self) -> Vec<Arc<Irp>> {
        let mut irps: Vec<_> = self.irps.lock().values().cloned().collect();
        irps.sort_by_key(|irp| irp.address());
        irps
    }

    /// The operations on `file` that are not complete.
    pub(crate) fn outstanding(&self, file: &Arc<FileObject>) -> Vec<Arc<Irp>> {
        let mut irps = self.live_irps();
        irps.retain(|irp| Arc::ptr_eq(&irp.file, file));
        irps
    }

    pub(crate) fn irp_completed(&self, cpu: &Cpu, irp: &Irp) {
        let known = self.irps.lock().remove(&irp.address()).is_some();
        for block in [&irp.user_input, &irp.user_output].into_iter().flatten() {
            self.remove_user_memory(block.address());
        }
        // The close comes when the last reference is gone.
        if known && irp.major != Major::Close {
            irp.file.dereference(cpu);
        }
    }

    /// A device that its driver refers to by address, until it deletes it.
    pub(crate) fn keep_device(&self, device: Arc<Device>) {
        self.kept.lock().insert(device.address(), device);
    }

    pub(crate) fn forget_device(&self, address: usize) -> Option<Arc<Device>> {
        self.kept.lock().remove(&address)
    }

    /// The devices of the driver without a framework whose object is at `driver`.
    pub(crate) fn devices_of(&self, driver: usize) -> Vec<Arc<Device>> {
        let devices = self.kept.lock();
        devices
            .values()
            .filter(|device| device.driver == driver)
            .cloned()
            .collect()
    }

    pub(crate) const fn completed(&self) -> &wdm::Completed {
        &self.completed
    }

    pub(crate) const fn cancel_lock(&self) -> &wdm::CancelLock {
        &self.cancel_lock
    }

    pub(crate) const fn work_items(&self) -> &wdm::WorkItems {
        &self.work_items
    }

    /// From now on `len` bytes at `address` are memory of a user-mode program.
    pub(crate) fn add_user_memory(&self, address: usize, len: usize, writable: bool) {
        self.user_memory.lock().insert(address, (len, writable));
    }

    pub(crate) fn remove_user_memory(&self, address: usize) {
        self.user_memory.lock().remove(&address);
    }

    /// Whether `len` bytes at `address` are memory of a user-mode program that can be locked for this access.
    pub(crate) fn probe(&self, address: usize, len: usize, write: bool) -> bool {
        let block = self
            .user_memory
            .lock()
            .range(..=address)
            .next_back()
            .map(|(start, block)| (*start, *block));
        block.is_some_and(|(start, (size, writable))| {
            let offset = address - start;
            offset <= size && len <= size - offset && (writable || !write)
        })
    }
}
