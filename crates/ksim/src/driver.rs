//! A driver's life: loaded, started, unloaded.

use std::sync::Arc;

use wfp_schema::NtStatus;

use crate::cpu::{Callback, Cpu, PASSIVE};
use crate::kernel::{Bugcheck, Kernel};
use crate::loader::{LoadError, LoadOptions, Mapped};
use crate::nt::io_memory::Guarded;
use crate::nt::wdm;
use crate::sched::Thread;
use crate::symbols::Symbols;
use crate::verifier::{Image, REQUEST_COMPLETION, Report, UNLOAD_LEFT};

/// `DRIVER_OBJECT` of x64 Windows.
mod object {
    pub(super) const SIZE: usize = 0x150;
    pub(super) const TYPE: u16 = 4;
    pub(super) const DRIVER_START: usize = 0x18;
    pub(super) const DRIVER_SIZE: usize = 0x20;
    pub(super) const DRIVER_SECTION: usize = 0x28;
    pub(super) const DRIVER_EXTENSION: usize = 0x30;
    pub(super) const DRIVER_NAME: usize = 0x38;
    pub(super) const HARDWARE_DATABASE: usize = 0x48;
    pub(super) const DRIVER_INIT: usize = 0x58;
    pub(super) const DRIVER_UNLOAD: usize = 0x68;
}

/// `DRIVER_EXTENSION`: the driver object, then after two members the service's name.
const EXTENSION_SIZE: usize = 0x50;
const EXTENSION_SERVICE_NAME: usize = 0x18;

/// `KLDR_DATA_TABLE_ENTRY`, the loader's record of an image.
mod section {
    pub(super) const SIZE: usize = 0xa0;
    pub(super) const DLL_BASE: usize = 0x30;
    pub(super) const ENTRY_POINT: usize = 0x38;
    pub(super) const SIZE_OF_IMAGE: usize = 0x40;
    pub(super) const FULL_NAME: usize = 0x48;
    pub(super) const BASE_NAME: usize = 0x58;
}

/// `DriverEntry`: driver object and registry path.
type Entry = extern "win64" fn(usize, usize) -> u32;
/// `DriverUnload`.
type Unload = extern "win64" fn(usize);

/// A driver that is loaded in a kernel.
#[derive(Debug)]
pub struct Driver {
    kernel: Kernel,
    image: Arc<Mapped>,
    name: String,
    service: String,
    object: Guarded,
    /// What the driver object points at.
    _strings: Vec<Guarded>,
    started: std::sync::atomic::AtomicBool,
}

impl Kernel {
    /// Puts the driver in `image` into memory and makes its driver object. Nothing of it runs yet.
    ///
    /// # Errors
    /// [`LoadError`]: it is no x64 driver image, it needs what is not simulated, or there is no memory.
    pub fn load(&self, image: &[u8], options: &LoadOptions) -> Result<Driver, LoadError> {
        let mapped = Arc::new(Mapped::new(self, image, options)?);
        let symbols = options
            .pdb
            .as_deref()
            .map(|pdb| Symbols::parse(pdb, mapped.facts().debug.pdb.as_ref()))
            .transpose()
            .map_err(LoadError::Symbols)?
            .map(Arc::new);
        self.verifier().image_loaded(Image {
            name: options.name.clone(),
            range: mapped.range(),
            code: mapped.code(),
            mapped: Arc::clone(&mapped),
            symbols,
            unloaded: false,
        });
        Ok(Driver::new(self, mapped, options))
    }
}

/// A `UNICODE_STRING` at `offset` of `block` with `text`; its characters are in the block that is returned.
pub(crate) fn put_string(block: &Guarded, offset: usize, text: &str) -> Guarded {
    let units: Vec<u8> = text
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect();
    let buffer = Guarded::holding(&units);
    let size = u16::try_from(units.len()).unwrap_or(u16::MAX);
    block.put(offset, (size - 2).to_le_bytes());
    block.put(offset + 2, size.to_le_bytes());
    block.put(offset + 8, buffer.address().to_le_bytes());
    buffer
}

impl Driver {
    fn new(kernel: &Kernel, image: Arc<Mapped>, options: &LoadOptions) -> Self {
        let service = options.service_name().to_owned();
        let object = Guarded::new(object::SIZE);
        let extension = Guarded::new(EXTENSION_SIZE);
        let section = Guarded::new(section::SIZE);
        let hardware = Guarded::new(16);
        let size = u32::try_from(image.size()).unwrap_or(u32::MAX);
        object.put(0, object::TYPE.to_le_bytes());
        object.put(2, u16::try_from(object::SIZE).unwrap_or(0).to_le_bytes());
        object.put(object::DRIVER_START, image.base().to_le_bytes());
        object.put(object::DRIVER_SIZE, size.to_le_bytes());
        object.put(object::DRIVER_SECTION, section.address().to_le_bytes());
        object.put(object::DRIVER_EXTENSION, extension.address().to_le_bytes());
        object.put(object::HARDWARE_DATABASE, hardware.address().to_le_bytes());
        object.put(object::DRIVER_INIT, image.entry().to_le_bytes());
        wdm::fill_dispatch_table(kernel, &object);
        extension.put(0, object.address().to_le_bytes());
        section.put(section::DLL_BASE, image.base().to_le_bytes());
        section.put(section::ENTRY_POINT, image.entry().to_le_bytes());
        section.put(section::SIZE_OF_IMAGE, size.to_le_bytes());
        let strings = vec![
            put_string(
                &object,
                object::DRIVER_NAME,
                &format!("\\Driver\\{service}"),
            ),
            put_string(&extension, EXTENSION_SERVICE_NAME, &service),
            put_string(
                &section,
                section::FULL_NAME,
                &format!("\\SystemRoot\\System32\\drivers\\{}", options.name),
            ),
            put_string(&section, section::BASE_NAME, &options.name),
            put_string(
                &hardware,
                0,
                "\\REGISTRY\\MACHINE\\HARDWARE\\DESCRIPTION\\SYSTEM",
            ),
            extension,
            section,
            hardware,
        ];
        Self {
            kernel: kernel.clone(),
            image,
            name: options.name.clone(),
            service,
            object,
            _strings: strings,
            started: false.into(),
        }
    }

    /// The image's file name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The service's name.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The kernel that it is loaded in.
    #[must_use]
    pub const fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Where the image begins.
    #[must_use]
    pub fn base(&self) -> usize {
        self.image.base()
    }

    /// Bytes of the image in memory.
    #[must_use]
    pub fn size(&self) -> usize {
        self.image.size()
    }

    /// What the image is.
    #[must_use]
    pub fn image(&self) -> &pe_image::Image {
        self.image.facts()
    }

    /// The address of the driver object.
    #[must_use]
    pub fn object(&self) -> usize {
        self.object.address()
    }

    /// Calls the driver's entry at `PASSIVE_LEVEL` on processor 0, then runs what it left pending.
    ///
    /// The registry path is gone when this returns, and so are discardable sections, as on Windows. A driver whose
    /// entry fails has to be [unloaded](Self::unload) too, which does not call it again.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn start(&self) -> Result<NtStatus, Bugcheck> {
        let status = self.kernel.on(0, |cpu| {
            let path = Guarded::new(16);
            let services = "\\REGISTRY\\MACHINE\\SYSTEM\\ControlSet001\\Services";
            let _text = put_string(&path, 0, &format!("{services}\\{}", self.service));
            // SAFETY: the image's entry point, which has this signature by the driver model.
            let entry: Entry = unsafe { std::mem::transmute::<usize, Entry>(self.image.entry()) };
            let (object, path) = (self.object.address(), path.address());
            let status = cpu.enter_driver(
                Callback::new("DriverEntry", self.image.entry()),
                PASSIVE,
                || entry(object, path),
            );
            let status = NtStatus::from_u32(status);
            if status.is_success() {
                wdm::finish_initializing(cpu.machine(), object);
            }
            status
        })?;
        if status.is_success() {
            self.started
                .store(true, std::sync::atomic::Ordering::SeqCst);
            if let Err(error) = self.image.discard_initialization() {
                eprintln!("ksim: {}: initialization code stays: {error}", self.name);
            }
        }
        Ok(status)
    }

    /// Calls the driver's unload routine, runs what is pending, and takes the image away: code of it that runs
    /// later faults. What the driver made and has not given back by then are the leaks in the report.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn unload(self) -> Result<Report, Bugcheck> {
        let started = self.started.load(std::sync::atomic::Ordering::SeqCst);
        self.kernel.on(0, |cpu| {
            if started {
                self.call_unload(cpu);
            }
            cpu.machine().run_pending(cpu);
            self.await_work_items(cpu);
            self.check_running(cpu);
            self.check_requests(cpu);
            cpu.machine().nt().pool().audit(cpu);
            crate::fwp::check_filters_left(cpu, &self.image.range());
            let leaks = cpu.machine().verifier().leaks_of(self.image.range());
            if !leaks.is_empty() {
                let things: usize = leaks.iter().map(|leak| leak.count).sum();
                let message = format!("{} was unloaded with {things} things left", self.name);
                let verifier = cpu.machine().verifier();
                verifier.violation_of(cpu, &UNLOAD_LEFT, self.image.entry(), message);
            }
        })?;
        let verifier = self.kernel.verifier();
        verifier.image_unloaded(self.image.base());
        self.kernel.images().keep(Arc::clone(&self.image));
        if let Err(error) = self.image.discard() {
            eprintln!("ksim: {}: the image stays in memory: {error}", self.name);
        }
        Ok(Report {
            leaks: verifier.leaks_of(self.image.range()),
            ..verifier.report()
        })
    }

    /// The threads that are in the driver's code, each with the callback that it was called into first.
    fn running(&self, cpu: &Cpu) -> Vec<(Arc<Thread>, Callback)> {
        let range = self.image.range();
        let first_of_ours = |thread: Arc<Thread>| {
            let inside = thread.inside();
            let mut ours = inside.into_iter();
            let first = ours.find(|callback| range.contains(&callback.function))?;
            Some((thread, first))
        };
        let threads = cpu.machine().scheduler().threads();
        threads.into_iter().filter_map(first_of_ours).collect()
    }

    /// The image stays until the routines of work items have returned: the I/O manager keeps the device object while they
    /// run, and that the driver.
    ///
    /// <https://learn.microsoft.com/windows-hardware/drivers/kernel/system-worker-threads>
    fn await_work_items(&self, cpu: &Cpu) {
        let have_returned = || {
            let running = self.running(cpu);
            running
                .iter()
                .all(|(_, first)| first.name != wdm::WORK_ITEM_ROUTINE)
        };
        if !have_returned() {
            let what = format!("the last routine of a work item of {}", self.name);
            cpu.machine().wait(cpu, &what, None, have_returned);
        }
    }

    /// What of the driver still runs comes back to where nothing is.
    fn check_running(&self, cpu: &Cpu) {
        for (thread, callback) in self.running(cpu) {
            let message = format!(
                "{} is unloaded while {} has not returned",
                self.name, callback.name
            );
            let verifier = cpu.machine().verifier();
            verifier.running_at_unload(&thread, callback, message);
        }
    }

    /// Requests that the driver keeps can never be completed any more.
    fn check_requests(&self, cpu: &Cpu) {
        let pending = wdm::pending_of(cpu.machine(), self.object.address());
        if !pending.is_empty() {
            let message = format!(
                "{} was unloaded with {} requests that it has not completed: {}",
                self.name,
                pending.len(),
                pending.join(", ")
            );
            let verifier = cpu.machine().verifier();
            verifier.violation_of(cpu, &REQUEST_COMPLETION, self.image.entry(), message);
        }
    }

    fn call_unload(&self, cpu: &Cpu) {
        let bytes = self.object.read(object::DRIVER_UNLOAD, 8);
        let unload = bytes
            .first_chunk()
            .map_or(0, |&bytes| usize::from_le_bytes(bytes));
        if unload == 0 {
            let message = format!("{} has no unload routine: it cannot be unloaded", self.name);
            let verifier = cpu.machine().verifier();
            verifier.violation_of(cpu, &UNLOAD_LEFT, self.image.entry(), message);
            return;
        }
        // SAFETY: the driver put its unload routine there, or the framework's stub did.
        let unload: Unload = unsafe { std::mem::transmute::<usize, Unload>(unload) };
        let object = self.object.address();
        cpu.enter_driver(
            Callback::new("DriverUnload", unload as usize),
            PASSIVE,
            || unload(object),
        );
    }
}
