//! The genuine WinDivert64.sys, to compare with. It is fetched, never kept in the repository.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use ksim::{Caller, Cpu, Driver, FileHandle, Kernel, LoadOptions, OpenError};
use sha2::{Digest as _, Sha256};
use wfp_schema::NtStatus;

use crate::machine;

/// The SHA-256 of the driver in the wheel.
const HASH: &str = "8da085332782708d8767bcace5327a6ec7283c17cfb85e40b03cd2323a90ddc2";
const WHEEL: &str = "mitmproxy_windows==0.11.5";

/// The driver's image: the one that `directory` holds, or else from `PyPI`.
///
/// # Errors
/// Why there is none.
pub(crate) fn image(directory: &Path) -> Result<Vec<u8>, String> {
    let kept = directory.join("WinDivert64.sys");
    if let Ok(image) = std::fs::read(&kept)
        && is_genuine(&image)
    {
        return Ok(image);
    }
    let fetched = fetch(directory)?;
    let image =
        std::fs::read(&fetched).map_err(|error| format!("{}: {error}", fetched.display()))?;
    if !is_genuine(&image) {
        return Err("the package holds another driver than it did".to_owned());
    }
    std::fs::rename(&fetched, &kept).map_err(|error| format!("{}: {error}", kept.display()))?;
    Ok(image)
}

fn is_genuine(image: &[u8]) -> bool {
    let digits = HASH.as_bytes().chunks_exact(2);
    let hash = digits.map(|pair| u8::from_str_radix(&String::from_utf8_lossy(pair), 16));
    hash.eq(Sha256::digest(image).iter().map(|byte| Ok(*byte)))
}

/// Downloads the package and unpacks it in `directory`; where the driver is.
fn fetch(directory: &Path) -> Result<PathBuf, String> {
    let folder = directory.join("windivert");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let python = |arguments: &[&str]| match Command::new("python3")
        .args(arguments)
        .current_dir(&folder)
        .output()
    {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(String::from_utf8_lossy(&done.stderr)
            .lines()
            .last()
            .unwrap_or("python3 failed")
            .to_owned()),
        Err(error) => Err(format!("python3: {error}")),
    };
    let pip = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "1",
        "--timeout",
        "20",
    ];
    python(&[&pip[..], &["--no-deps", "--only-binary=:all:", WHEEL]].concat())?;
    python(&[
        "-m",
        "zipfile",
        "-e",
        "mitmproxy_windows-0.11.5-py3-none-any.whl",
        ".",
    ])?;
    Ok(folder.join("mitmproxy_windows/WinDivert64.sys"))
}

/// Device control codes of `WinDivert` 2.2 (`windivert_device.h`).
mod code {
    const fn control_code(function: u32, method: u32, access: u32) -> u32 {
        0x12 << 16 | access << 14 | function << 2 | method
    }
    pub(super) const INITIALIZE: u32 = control_code(0x921, 2, 3);
    pub(super) const STARTUP: u32 = control_code(0x922, 1, 3);
    pub(super) const RECEIVE: u32 = control_code(0x923, 2, 1);
}

/// Packets are looked at, and go on.
const SNIFF: u64 = 1;
const PRIORITY: u32 = 30_000;
/// Filter results.
const ACCEPT: u32 = 0x7ffe;
const REJECT: u32 = 0x7fff;
/// The filter may match outbound, inbound, IPv4.
const FILTER_FLAGS: u64 = 0x20 | 0x10 | 0x40;

/// `WinDivert` with one handle that sniffs.
pub(crate) struct WinDivert {
    pub(crate) kernel: Kernel,
    driver: Driver,
    handle: FileHandle,
}

impl WinDivert {
    /// Starts the driver and opens a handle whose filter accepts or rejects all packets.
    pub(crate) fn start(image: &[u8], accepts: bool) -> Self {
        let kernel = machine::boot();
        let driver = kernel
            .load(image, &LoadOptions::named("WinDivert64.sys"))
            .expect("the driver is loaded");
        let status = driver.start().expect("no bug check");
        assert!(
            status.is_success(),
            "WinDivert64.sys does not start: {status}"
        );
        let handle = kernel
            .open(r"\\.\WinDivert", Caller::administrator())
            .unwrap_or_else(|error: OpenError| panic!("WinDivert's device: {error}"));
        let this = Self {
            kernel,
            driver,
            handle,
        };
        let mut request = [0; 16];
        request[4..8].copy_from_slice(&PRIORITY.to_le_bytes());
        request[8..].copy_from_slice(&SNIFF.to_le_bytes());
        let mut version = [0; 64];
        version[..8].copy_from_slice(&0x4c4c_4476_6964_5724_u64.to_le_bytes());
        for (offset, value) in [(8, 2_u32), (12, 2), (16, 64)] {
            version[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        }
        this.ask("initialize", code::INITIALIZE, &request, &version);
        // One instruction: is ZERO equal to 0? What then, what else.
        let mut filter = [0; 24];
        filter[..4].copy_from_slice(&(if accepts { ACCEPT } else { REJECT } << 16).to_le_bytes());
        filter[4..8].copy_from_slice(&REJECT.to_le_bytes());
        let mut request = [0; 16];
        request[..8].copy_from_slice(&FILTER_FLAGS.to_le_bytes());
        this.ask("start up", code::STARTUP, &request, &filter);
        this
    }

    fn ask(&self, what: &str, code: u32, request: &[u8], data: &[u8]) {
        let result = self
            .handle
            .ioctl_with_data(code, request, data)
            .expect("no bug check");
        assert_eq!(result.status, NtStatus::SUCCESS, "WinDivert: {what}");
    }

    /// Where its code is.
    pub(crate) fn code(&self) -> Range<usize> {
        self.driver.base()..self.driver.base() + self.driver.size()
    }

    /// Lets the driver do what it put off, and takes the packets that wait.
    pub(crate) fn settle(&self, cpu: &Cpu) {
        cpu.machine().run_pending(cpu);
        loop {
            let received = self
                .handle
                .ioctl(code::RECEIVE, &[0; 16], 2_048)
                .expect("no bug check");
            if let Some(pending) = received.pending {
                pending.cancel().expect("no bug check");
                cpu.machine().run_pending(cpu);
                return;
            }
            assert_eq!(received.status, NtStatus::SUCCESS, "WinDivert: receive");
        }
    }

    /// Closes the handle and unloads the driver.
    pub(crate) fn stop(self) {
        self.handle.close().expect("no bug check");
        self.driver.unload().expect("no bug check");
    }
}
