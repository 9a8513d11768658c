//! Every target bears what is made from its seeds, and says so if it does not.

use pe_image::{Image, ImageError};
use portcullis_cli::capture::{Frame, LinkType};
use portcullis_core::PolicyView;
use portcullis_core::inspect::{HostName, HostSniffer, Outcome, question};
use portcullis_core::packet::{Checksums, Layout, Malformed, Segments};
use portcullis_core::stream::{Editor, Edits};
use portcullis_fuzz::targets::{control, files, names, packets, policies, streams};
use portcullis_fuzz::{TARGETS, Target};
use portcullis_policy::Options;
use portcullis_proto::capture::{CaptureRecord, StartCaptureRequest};
use portcullis_proto::event::HostSource;
use zerocopy::FromBytes as _;

/// From which the tests make their input.
const SEED: u64 = 0x5eed_2026;
/// Inputs for each target; the longest take a millisecond.
const INPUTS: u64 = 1500;
/// Inputs until the broken ones have to have failed.
const UNTIL_BROKEN: u64 = 20_000;

fn target(name: &str) -> &'static Target {
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("no target {name}"))
}

/// It bears the input.
fn bears(name: &str) {
    println!("{name}: seed {SEED:#x}");
    let target = target(name);
    let ran = target.fuzzer(SEED).run(INPUTS, target.run);
    if let Err(failure) = ran {
        panic!(
            "{name}: input {} of seed {SEED:#x}: {}\n{:02x?}",
            failure.after, failure.message, failure.input
        );
    }
}

/// The same input makes this fail, which has a fault: and not before the input is hostile, unless `at_once`.
fn fails(name: &str, run: impl Fn(&[u8])) {
    let failure = target(name)
        .fuzzer(SEED)
        .run(UNTIL_BROKEN, run)
        .expect_err("nothing has found the fault");
    println!(
        "{name}: found at input {}: {}",
        failure.after, failure.message
    );
}

#[test]
fn a_compiled_policy() {
    bears("policy");
    // Rules that are not looked at.
    fails("policy", |bytes| {
        policies::compiled_by(bytes, &|bytes| {
            PolicyView::trusted(bytes).map_or_else(|| PolicyView::validate(bytes), Ok)
        });
    });
}

#[test]
fn the_text_of_a_policy() {
    bears("policy-text");
    // A place that is behind the end of the text.
    fails("policy-text", |bytes| {
        policies::text_by(bytes, &|text| {
            let compiled = portcullis_policy::compile(text, &Options::default());
            compiled.map_err(|mut findings| {
                for found in &mut findings {
                    found.end += 1;
                }
                findings
            })
        });
    });
}

#[test]
fn the_first_bytes_of_a_stream() {
    bears("stream-host");
    // Each piece is read as if it were the first.
    fails("stream-host", |bytes| {
        names::stream_by(bytes, &|port, pieces| {
            let mut sniffer = HostSniffer::never();
            for piece in pieces {
                sniffer = HostSniffer::stream(port);
                sniffer.push(piece);
            }
            (sniffer.outcome(), *sniffer.name())
        });
    });
}

#[test]
fn a_dns_query() {
    bears("dns");
    // A length is believed.
    fails("dns", |bytes| {
        names::dns_by(bytes, &|pieces| {
            let datagram = pieces.concat();
            let mut at = 12;
            let mut name = Vec::new();
            while datagram[at] != 0 {
                let length = usize::from(datagram[at]);
                name.extend_from_slice(&datagram[at + 1..][..length]);
                name.push(b'.');
                at += 1 + length;
            }
            name.pop();
            HostName::parse(&name).map_or(
                (Outcome::None(HostSource::Absent), HostName::EMPTY),
                |name| (Outcome::Host(HostSource::Dns), name),
            )
        });
    });
}

#[test]
fn a_quic_clients_datagrams() {
    bears("quic");
    // A name that is made up.
    fails("quic", |bytes| {
        names::quic_by(bytes, &|datagrams| {
            let length = datagrams.iter().map(Vec::len).sum::<usize>();
            (length > 200).then(|| "~made~up~".to_owned())
        });
    });
}

#[test]
fn a_packet() {
    bears("packet");
    let checked = |edit: &portcullis_core::packet::Edit, packet: &mut [u8], layout: &Layout| {
        edit.apply(packet, layout, Checksums::default()).is_ok()
    };
    // Lengths are believed.
    fails("packet", |packet| {
        let naive = |packet: &[u8]| -> Result<Layout, Malformed> {
            let mut layout = Layout::new_checked(packet)?;
            layout.total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            Ok(layout)
        };
        packets::edit_by(packet, &naive, &checked);
    });
    // The checksum is forgotten.
    fails("packet", |packet| {
        packets::edit_by(packet, &Layout::new_checked, &|edit, packet, layout| {
            let at = layout.checksum_at();
            let before = at.and_then(|at| packet.get(at..at + 2).map(<[u8]>::to_vec));
            let is_done = checked(edit, packet, layout);
            if let (Some(at), Some(before)) = (at, before) {
                packet[at..at + 2].copy_from_slice(&before);
            }
            is_done
        });
    });
}

#[test]
fn a_large_send() {
    bears("segments");
    // One byte less in each.
    fails("segments", |packet| {
        packets::segments_by(packet, &|first, layout, size| {
            let mut short = *layout;
            short.total = short.total.saturating_sub(1);
            Segments::new(first, &short, size)
        });
    });
}

#[test]
fn a_stream_that_is_edited() {
    bears("stream-edit");
    // Nothing is remembered from one piece to the next.
    fails("stream-edit", |bytes| {
        streams::edit_by(bytes, &|edits: &Edits<'_>, pieces| {
            let mut out = Vec::new();
            for piece in pieces {
                Editor::new()
                    .push(edits, piece, true, &mut |bytes| {
                        out.extend_from_slice(bytes);
                        Ok(())
                    })
                    .expect("there is room");
            }
            out
        });
    });
}

#[test]
fn a_request_to_the_driver() {
    bears("request");
    // Counts are believed.
    fails("request", |bytes| {
        control::requests_by(bytes, &|request| {
            let read = StartCaptureRequest::read_from_prefix(request);
            read.map_or_else(
                |_| StartCaptureRequest::parse(request),
                |(read, _)| Ok(read),
            )
        });
    });
}

#[test]
fn a_reply_of_the_driver() {
    bears("reply");
    // Lengths are believed.
    fails("reply", |bytes| {
        control::replies_by(bytes, &|reply| {
            let mut rest = reply.get(64..)?;
            let mut records = Vec::new();
            while let Ok((record, behind)) = CaptureRecord::read_from_prefix(rest) {
                let captured = usize::try_from(record.captured.get()).ok()?;
                records.push((record, &behind[..captured]));
                rest = behind[captured..].get(captured % 8..)?;
            }
            Some(records)
        });
    });
}

#[test]
fn a_capture_file() {
    bears("capture-file");
    // Lengths are believed.
    fails("capture-file", |bytes| {
        files::capture_by(bytes, &|bytes, each| {
            let mut at = 24;
            while at < bytes.len() {
                let length = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().expect("four"));
                let data = &bytes[at + 16..][..length as usize];
                each(Frame {
                    link: LinkType::ETHERNET,
                    time: 0,
                    original_length: length,
                    data,
                });
                at += 16 + data.len();
            }
        });
    });
}

#[test]
fn a_driver_image() {
    bears("image");
    // The place of the header is believed.
    fails("image", |bytes| {
        files::image_by(bytes, &|file| -> Result<Image, ImageError> {
            let at = u32::from_le_bytes(file[0x3c..0x40].try_into().expect("four")) as usize;
            assert!(file[at..at + 4].len() == 4);
            Image::parse(file)
        });
    });
}

/// What is not hostile is not refused: the seeds are read to their end.
#[test]
fn real_input_is_read() {
    let blobs = portcullis_fuzz::seeds::blobs();
    assert!(blobs.len() >= 7, "{} policies", blobs.len());
    for blob in &blobs {
        assert!(PolicyView::validate(blob).is_ok());
    }
    let packets = portcullis_fuzz::seeds::packets();
    let read = packets
        .iter()
        .filter(|packet| Layout::new_checked(packet).is_ok());
    assert_eq!(read.count(), packets.len());
    for image in portcullis_fuzz::seeds::images() {
        assert!(Image::parse(&image).is_ok());
    }
    for reply in portcullis_fuzz::seeds::replies().iter().take(1) {
        let (fixed, records) = portcullis_proto::capture::CaptureReply::read(reply).expect("read");
        assert_eq!(records.count(), fixed.count.get() as usize);
    }
    let asked = portcullis_fuzz::seeds::payloads(17);
    let names = asked.iter().filter(|payload| {
        let mut name = HostName::EMPTY;
        matches!(question([&payload[2..]], &mut name), Outcome::Host(_))
    });
    assert!(names.count() > 0);
    let said = portcullis_fuzz::seeds::payloads(6);
    let sources: Vec<_> = said
        .iter()
        .map(|payload| HostSniffer::stream(443).push(&payload[2..]))
        .collect();
    for source in [HostSource::Tls, HostSource::Http] {
        assert!(sources.contains(&Outcome::Host(source)), "{source:?}");
    }
}
