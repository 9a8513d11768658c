//! Real input to begin with.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pe_image::build::Builder;
use portcullis_cli::capture::{ip_packet, read};
use portcullis_core::packet::Layout;
use portcullis_policy::{Interfaces, Options, compile};
use portcullis_proto::ask::AnswerRequest;
use portcullis_proto::capture::{CaptureCounts, CaptureKind, CaptureRecord, CaptureReply};
use portcullis_proto::capture::{CaptureStart, StartCaptureRequest};
use portcullis_proto::event::{EventKind, EventRecord, EventsReply};
use portcullis_proto::filter::DescribeFilterRequest;
use portcullis_proto::message::{ReadRequest, Request, SetPolicyRequest};
use portcullis_proto::policy::Action;
use portcullis_proto::redirect::RegisterProxyRequest;
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::{U32, U64};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files of a folder of the repository, in order.
fn files(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let folder = root().join(folder);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("a file").path())
        .filter(|file| {
            let extension = file.extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| extensions.contains(&extension))
        })
        .collect();
    files.sort();
    files
}

fn contents(file: &Path) -> Vec<u8> {
    std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The captures, whole.
#[must_use]
pub fn captures() -> Vec<Vec<u8>> {
    let files = files("tests/captures", &["pcap", "pcapng"]);
    // The first packets are enough, and quicker to change.
    let mut captures: Vec<_> = files.iter().map(|file| contents(file)).collect();
    for capture in &mut captures {
        capture.truncate(8 << 10);
    }
    captures
}

/// IP packets of the captures: the first of each size.
#[must_use]
pub fn packets() -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    for file in files("tests/captures", &["pcap", "pcapng", "gz"]) {
        read(&file, |frame| {
            if let Ok(packet) = ip_packet(&frame)
                && packets.iter().all(|known| known.len() != packet.len())
            {
                packets.push(packet.to_vec());
            }
            ControlFlow::Continue(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }
    packets
}

/// What TCP and UDP carry in the captures, with the port in front: TLS, HTTP and DNS.
#[must_use]
pub fn payloads(protocol: u8) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    for packet in packets() {
        let Ok(layout) = Layout::new_checked(&packet) else {
            continue;
        };
        if layout.protocol != protocol {
            continue;
        }
        let offset = match protocol {
            6 => usize::from(packet[layout.header + 12] >> 4) * 4,
            _ => 8,
        };
        let payload = packet.get(layout.header + offset..layout.total);
        if let Some(payload) = payload.filter(|payload| !payload.is_empty()) {
            let port = layout.destination.port.to_be_bytes();
            payloads.push([&port, payload].concat());
        }
    }
    payloads
}

/// Policies: the examples, and one with everything.
#[must_use]
pub fn policies() -> Vec<Vec<u8>> {
    let files = files("examples", &["toml"]);
    let mut policies: Vec<_> = files
        .iter()
        .filter(|file| file.file_name().is_some_and(|name| name != "Cargo.toml"))
        .map(|file| contents(file))
        .collect();
    policies.push(
        "default = 'block'\n[[rule]]\nname = 'all'\naction = 'permit'\nprotocol = 'tcp'\ndirection = 'outbound'\n\
         remote_address = ['10.0.0.0/8', '2001:db8::/32']\nremote_port = [80, '8000-8100']\n\
         application = 'C:\\Program Files\\*\\a.exe'\nuser = 'S-1-5-18'\ninterface = ['Tunnel', '0x6000002000000']\ninterface_type = ['virtual', 6]\nhost = ['example.net', '*.example.net']\n\
         [[rule]]\naction = 'block'\ncontent = ['secret']\ncontent_hex = 'de ad'\nprotocol = 'tcp'\n"
            .into(),
    );
    policies
}

/// How policies are compiled for a machine whose tunnel they may name.
#[must_use]
pub fn with_interfaces() -> Options {
    Options {
        interfaces: Interfaces::Named(vec![("Tunnel".to_owned(), 0x35_0000_0400_0000)]),
        ..Options::default()
    }
}

/// Compiled policies.
#[must_use]
pub fn blobs() -> Vec<Vec<u8>> {
    let texts = policies().into_iter();
    let blobs = texts.filter_map(|text| {
        let text = String::from_utf8(text).ok()?;
        Some(compile(&text, &with_interfaces()).ok()?.blob)
    });
    blobs.collect()
}

/// Requests to the driver, each behind the byte that chooses which it is; see
/// [`requests`](crate::targets::control::requests).
#[must_use]
pub fn requests() -> Vec<Vec<u8>> {
    let proxy = "127.0.0.1:8080".parse().expect("an address");
    let mut start = StartCaptureRequest::new(65_535, 1 << 20);
    start.address_count = 2;
    start.addresses[0].length = 96;
    start.port_count = 1;
    start.ports[0].last = 443.into();
    start.protocol_count = 1;
    start.protocols[0] = 6;
    let blob = blobs().swap_remove(0);
    let size = u32::try_from(blob.len()).expect("small");
    [
        Request::of::<Request>().as_bytes().to_vec(),
        ReadRequest::new(ReadRequest::NO_WAIT).as_bytes().to_vec(),
        [SetPolicyRequest::new(size).as_bytes(), &blob].concat(),
        RegisterProxyRequest::new(proxy, 6).as_bytes().to_vec(),
        AnswerRequest::new(3, Action::Permit).as_bytes().to_vec(),
        start.as_bytes().to_vec(),
        DescribeFilterRequest::new(70_000).as_bytes().to_vec(),
    ]
    .into_iter()
    .zip(0_u8..)
    .map(|(request, kind)| [&[kind][..], &request].concat())
    .collect()
}

/// Replies of the driver with records in them: a capture, and events.
#[must_use]
pub fn replies() -> Vec<Vec<u8>> {
    let packets = packets();
    let mut records = Vec::new();
    let mut count = 0;
    let mut add = |mut record: CaptureRecord, data: &[u8]| {
        count += 1;
        let captured = u32::try_from(data.len()).expect("short");
        let size = CaptureRecord::size_with(data.len());
        record.size = U32::new(u32::try_from(size).expect("short"));
        record.sequence = U64::new(u64::from(count));
        record.time = U64::new(133_000_000_000_000_000 + u64::from(count));
        record.captured = U32::new(captured);
        record.original = U32::new(captured);
        records.extend_from_slice(record.as_bytes());
        records.extend_from_slice(data);
        records.resize(records.len().next_multiple_of(8), 0);
        count
    };
    let event = EventRecord {
        kind: EventKind::Authorize.raw(),
        family: 4,
        protocol: 6,
        verdict: Action::Block.raw(),
        flow: U64::new(77),
        ..EventRecord::default()
    };
    let mut number = 0;
    for packet in packets.iter().take(6) {
        let record = CaptureRecord {
            start: CaptureStart::IpHeader.raw(),
            family: packet[0] >> 4,
            direction: 1,
            ..CaptureRecord::zeroed(CaptureKind::Packet)
        };
        add(record, packet);
        add(CaptureRecord::zeroed(CaptureKind::Event), event.as_bytes());
        let record = CaptureRecord {
            start: CaptureStart::TransportHeader.raw(),
            family: packet[0] >> 4,
            direction: 1,
            protocol: 6,
            filter: U64::new(70_000),
            ..CaptureRecord::zeroed(CaptureKind::Discard)
        };
        number = add(record, packet.get(20..).unwrap_or_default());
    }
    let bytes = u32::try_from(records.len()).expect("short");
    let fixed = CaptureReply::new(number, bytes, CaptureReply::MORE, CaptureCounts::default());
    let capture = [fixed.as_bytes(), &records].concat();
    let most = |kind: &EventKind| {
        let mut record = event;
        record.kind = kind.raw();
        for number in [
            &mut record.time,
            &mut record.packets_sent,
            &mut record.packets_received,
            &mut record.bytes_sent,
            &mut record.bytes_received,
        ]
        .into_iter()
        .chain(&mut record.value)
        {
            *number = U64::MAX_VALUE;
        }
        record
    };
    let events: Vec<_> = EventKind::ALL.iter().map(most).collect();
    let header = EventsReply::new(u32::try_from(events.len()).expect("few"), 5);
    let events = [header.as_bytes(), events.as_bytes()].concat();
    vec![capture, events]
}

/// Driver images.
#[must_use]
pub fn images() -> Vec<Vec<u8>> {
    let mut builder = Builder::x64();
    let slot = builder.import("ntoskrnl.exe", "KeBugCheckEx");
    builder.import("fwpkclnt.sys", "FwpsCalloutRegister1");
    builder.entry_here();
    let begin = builder.here();
    builder.call_through(slot);
    let code = builder.code(&[0x48, 0x83, 0xC4, 0x28, 0xC3]);
    builder.pointer(code);
    builder.function(begin, &[1, 4, 1, 0, 4, 0x42, 0, 0]);
    builder.data(b"data of the driver");
    let mut images = vec![builder.build()];
    // The driver itself, where this was told of it.
    let named = std::env::var_os("PORTCULLIS_SYS");
    images.extend(named.and_then(|file| std::fs::read(file).ok()));
    images
}
