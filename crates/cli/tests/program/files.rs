//! Capture files as the tests read and make them.

use std::ops::ControlFlow;
use std::path::Path;

use portcullis_cli::capture::{self, Frame, LinkType};

/// A frame with its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// What its first byte is.
    pub(crate) link: LinkType,
    /// Nanoseconds since 1970-01-01 UTC.
    pub(crate) time: u64,
    /// Its length on the wire.
    pub(crate) original_length: u32,
    /// Its bytes.
    pub(crate) data: Vec<u8>,
}

/// The frames of a capture.
pub(crate) fn frames(file: &str) -> Vec<Kept> {
    let mut frames = Vec::new();
    capture::read(Path::new(file), |frame| {
        let Frame {
            link,
            time,
            original_length,
            data,
        } = frame;
        frames.push(Kept {
            link,
            time,
            original_length,
            data: data.to_vec(),
        });
        ControlFlow::Continue(())
    })
    .expect("the capture is sound");
    frames
}

/// A pcap file: its header says microseconds and this link type.
pub(crate) fn pcap(link: u16, frames: &[Kept]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [
        0xa1b2_c3d4_u32,
        0x0004_0002,
        0,
        0,
        0x4_0000,
        u32::from(link),
    ] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        let added = u32::try_from(frame.data.len()).expect("a short frame");
        let fields = [
            u32::try_from(frame.time / 1_000_000_000).expect("before 2106"),
            u32::try_from(frame.time / 1_000 % 1_000_000).expect("below a million"),
            added,
            added.max(frame.original_length),
        ];
        file.extend(fields.into_iter().flat_map(u32::to_le_bytes));
        file.extend(&frame.data);
    }
    file
}

/// `frames` of an Ethernet capture with another link header: `header` is given the type of the packet.
pub(crate) fn with_header(frames: &[Kept], header: impl Fn([u8; 2]) -> Vec<u8>) -> Vec<Kept> {
    let with = |frame: &Kept| Kept {
        data: [
            header([frame.data[12], frame.data[13]]),
            frame.data[14..].to_vec(),
        ]
        .concat(),
        original_length: 0,
        ..frame.clone()
    };
    frames.iter().map(with).collect()
}
