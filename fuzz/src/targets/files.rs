//! Files: captures and driver images.

use std::hint::black_box;
use std::io::Cursor;
use std::ops::ControlFlow;
use std::path::Path;

use pe_image::unwind::Registers;
use pe_image::{Expectations, Image, ImageError, check};
use portcullis_cli::capture::{Frame, ip_packet, read_from, vlan};
use portcullis_core::packet::Layout;

/// Gives the frames of a capture to what is told.
pub type ReadFrames = dyn Fn(&[u8], &mut dyn FnMut(Frame<'_>));

/// A capture: all frames are within it, and so are their IP packets.
///
/// # Panics
/// When they are not.
pub fn capture(bytes: &[u8]) {
    capture_by(bytes, &|bytes, each| {
        let input = Cursor::new(bytes.to_vec());
        let read = read_from(Path::new("fuzzed"), input, |frame| {
            each(frame);
            ControlFlow::Continue(())
        });
        if let Err(error) = read {
            assert!(error.to_string().starts_with("fuzzed: "), "{error}");
        }
    });
}

/// As [`capture`], with this reader.
///
/// # Panics
/// When a frame, or an IP packet of it, is not within the capture.
pub fn capture_by(bytes: &[u8], read: &ReadFrames) {
    let mut all = 0;
    read(bytes, &mut |frame| {
        all += frame.data.len();
        assert!(all <= bytes.len(), "more than there is");
        black_box(vlan(&frame));
        if let Ok(packet) = ip_packet(&frame) {
            assert!(packet.len() <= frame.data.len());
            black_box(Layout::new_checked(packet)).ok();
        }
    });
}

/// A driver image: it is refused, or all that is said of it can be looked at.
///
/// # Panics
/// When it cannot.
pub fn image(bytes: &[u8]) {
    image_by(bytes, &Image::parse);
}

/// As [`image`], with this reader.
///
/// # Panics
/// When something that is said of the image cannot be looked at.
pub fn image_by(bytes: &[u8], parse: &dyn Fn(&[u8]) -> Result<Image, ImageError>) {
    const BASE: u64 = 0xFFFF_F800_0000_0000;

    let Ok(image) = parse(bytes) else {
        return;
    };
    assert_eq!(image.file_size, bytes.len());
    black_box(check(&image, &Expectations::default()));
    if let Ok(memory) = image.relocated(BASE) {
        assert_eq!(memory.len(), image.image_size as usize);
    }
    let ends = image
        .sections
        .iter()
        .flat_map(|section| [section.rva, section.rva.saturating_add(section.size / 2)]);
    for at in ends.chain([image.entry, image.image_size]).take(64) {
        let registers = Registers {
            rip: BASE + u64::from(at),
            ..Registers::default()
        };
        black_box(image.unwind(BASE, &registers, false, |at| Some(at ^ BASE)));
    }
}
