//! Reading captures.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::read::MultiGzDecoder;
use pcap_parser::traits::PcapNGPacketBlock as _;
use pcap_parser::{Block, PcapBlockOwned, PcapError};

use super::{Frame, LinkType};

/// Why a capture cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened or read.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither pcap nor pcapng.
    #[error("{}: not a capture: pcap and pcapng are known, also compressed with gzip", .0.display())]
    NotACapture(PathBuf),
    /// The file is damaged.
    #[error("{}: damaged after {offset} bytes: {reason}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// How much of the uncompressed file was read.
        offset: usize,
        /// What is wrong.
        reason: String,
    },
}

/// One block may be this large: a jumbo frame with room to spare, and pcapng's long name tables.
const LARGEST_BLOCK: usize = 16 << 20;
const BUFFER: usize = 256 << 10;

/// Gives every frame of the capture `file` to `each`, in file order, until it breaks.
///
/// A file that ends in the middle of a frame, as one does whose writer was stopped, ends there.
///
/// # Errors
/// [`CaptureError`], after the frames before the fault were given out.
pub fn read(
    file: &Path,
    mut each: impl FnMut(Frame<'_>) -> ControlFlow<()>,
) -> Result<(), CaptureError> {
    let failed = |source| CaptureError::Io {
        file: file.to_owned(),
        source,
    };
    let mut input = File::open(file).map_err(failed)?;
    let mut magic = [0; 2];
    let compressed = input.read(&mut magic).map_err(failed)? == 2 && magic == [0x1f, 0x8b];
    input.rewind().map_err(failed)?;
    let input = BufReader::with_capacity(BUFFER, input);
    if compressed {
        read_from(file, MultiGzDecoder::new(input), &mut each)
    } else {
        read_from(file, input, &mut each)
    }
}

/// What is remembered of the file so far to make sense of its next block.
#[derive(Default)]
struct Context {
    /// pcap: its one link type and whether its fractions are nanoseconds.
    legacy: Option<(LinkType, bool)>,
    /// pcapng: the interfaces of the current section.
    interfaces: Vec<Interface>,
}

#[derive(Clone, Copy)]
struct Interface {
    link: LinkType,
    units_per_second: u64,
    offset_seconds: i64,
    snap_length: u32,
}

/// Why the input could not be read on.
type Fault = Arc<Mutex<Option<String>>>;

fn fault_of(fault: &Fault) -> Option<String> {
    fault.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Input that ends at a fault, so that the frames before it are given out. That compressed data stops early is no
/// fault: it is the same as a file that does.
struct Watched<R> {
    input: R,
    fault: Fault,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                *self.fault.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(error.to_string());
                Ok(0)
            }
            result => result,
        }
    }
}

/// As [`read`], from uncompressed `input`; `file` is its name in errors.
///
/// # Errors
/// [`CaptureError`], after the frames before the fault were given out.
pub fn read_from(
    file: &Path,
    input: impl Read + Send + 'static,
    mut each: impl FnMut(Frame<'_>) -> ControlFlow<()>,
) -> Result<(), CaptureError> {
    let not_a_capture = || CaptureError::NotACapture(file.to_owned());
    let damaged = |offset, reason: String| CaptureError::Damaged {
        file: file.to_owned(),
        offset,
        reason,
    };
    let too_large = |offset| damaged(offset, "a block is larger than any frame".to_owned());
    let fault = Fault::default();
    let input = Watched {
        input,
        fault: Arc::clone(&fault),
    };
    let end = |offset| fault_of(&fault).map_or(Ok(()), |reason| Err(damaged(offset, reason)));
    let Ok(mut reader) = pcap_parser::create_reader(BUFFER, input) else {
        return end(0).and_then(|()| Err(not_a_capture()));
    };
    let mut context = Context::default();
    let mut capacity = BUFFER;
    let mut refilled_at = usize::MAX;
    loop {
        let position = reader.consumed();
        match reader.next() {
            Ok((length, block)) => {
                let flow = frame_of(&block, &mut context).map(&mut each);
                reader.consume(length);
                if flow == Some(ControlFlow::Break(())) {
                    return Ok(());
                }
            }
            // At an unexpected end the last frame is cut off.
            Err(PcapError::Eof | PcapError::UnexpectedEof) => return end(position),
            Err(PcapError::Incomplete(_)) => {
                if refilled_at == position && reader.reader_exhausted() {
                    return end(position);
                }
                if refilled_at == position {
                    capacity *= 2;
                    if capacity > LARGEST_BLOCK || !reader.grow(capacity) {
                        return Err(too_large(position));
                    }
                }
                refilled_at = position;
                reader
                    .refill()
                    .map_err(|error| damaged(position, error.to_string()))?;
            }
            Err(PcapError::HeaderNotRecognized) => return Err(not_a_capture()),
            Err(PcapError::BufferTooSmall) => return Err(too_large(position)),
            Err(PcapError::NomError(_, kind) | PcapError::OwnedNomError(_, kind)) => {
                return Err(damaged(
                    position,
                    format!("a block that is not well-formed ({kind:?})"),
                ));
            }
            Err(error) => return Err(damaged(position, error.to_string())),
        }
    }
}

/// The frame in `block`, or what `block` says about later frames.
fn frame_of<'a>(block: &'a PcapBlockOwned<'a>, context: &mut Context) -> Option<Frame<'a>> {
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            let link = LinkType(u16::try_from(header.network.0 & 0xffff).unwrap_or(u16::MAX));
            context.legacy = Some((link, header.is_nanosecond_precision()));
            None
        }
        PcapBlockOwned::Legacy(block) => {
            let (link, nanoseconds) = context.legacy?;
            let fraction = u64::from(block.ts_usec) * if nanoseconds { 1 } else { 1_000 };
            let time = u64::from(block.ts_sec) * 1_000_000_000 + fraction;
            Some(Frame {
                link,
                time,
                original_length: block.origlen,
                data: block.data,
            })
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            context.interfaces.clear();
            None
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
            context.interfaces.push(Interface {
                link: LinkType(u16::try_from(interface.linktype.0).unwrap_or(u16::MAX)),
                units_per_second: interface.ts_resolution().unwrap_or(1_000_000).max(1),
                offset_seconds: interface.ts_offset(),
                snap_length: interface.snaplen,
            });
            None
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            let interface = context.interfaces.get(packet.if_id as usize)?;
            let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
            let nanoseconds =
                u128::from(units) * 1_000_000_000 / u128::from(interface.units_per_second);
            let time = i128::try_from(nanoseconds).ok()?
                + i128::from(interface.offset_seconds) * 1_000_000_000;
            Some(Frame {
                link: interface.link,
                time: u64::try_from(time).unwrap_or(0),
                original_length: packet.origlen,
                data: packet.packet_data(),
            })
        }
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            let interface = context.interfaces.first()?;
            let kept = match interface.snap_length {
                0 => packet.origlen,
                limit => packet.origlen.min(limit),
            };
            let data = packet.data.get(..kept as usize).unwrap_or(packet.data);
            Some(Frame {
                link: interface.link,
                time: 0,
                original_length: packet.origlen,
                data,
            })
        }
        PcapBlockOwned::NG(_) => None,
    }
}
