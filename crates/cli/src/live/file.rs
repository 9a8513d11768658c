//! The pcapng file: its interfaces, its packets with their comments, and what was counted.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use pcap_parser::{
    EnhancedPacketBlock, InterfaceDescriptionBlock, Linktype, OptionCode, PcapNGOption,
    SectionHeaderBlock, ToVec as _,
};
use portcullis_proto::capture::CaptureCounts;
use portcullis_proto::policy::Direction;

use super::matching::Matched;

/// `LINKTYPE_RAW`: an IP packet.
const RAW: i32 = 101;
/// `if_tsresol`: 10^-7 s, the unit of Windows system time.
const TICKS: u8 = 7;
/// 1970-01-01 UTC in Windows system time.
const UNIX_EPOCH: u64 = 116_444_736_000_000_000;

const HARDWARE: OptionCode = OptionCode(2);
const APPLICATION: OptionCode = OptionCode(4);
const IF_NAME: OptionCode = OptionCode(2);
const IF_DESCRIPTION: OptionCode = OptionCode(3);
const EPB_FLAGS: OptionCode = OptionCode(2);

/// The interfaces: what was on the network, and what was not.
const NETWORK: u32 = 0;
const REBUILT: u32 = 1;

/// A file that takes its name when it is whole. Until then it is beside it, under another.
#[derive(Debug)]
pub(super) struct CaptureFile {
    output: BufWriter<File>,
    file: PathBuf,
    partial: PathBuf,
    is_finished: bool,
    /// Times of the first and the last packet, in Windows system time.
    times: Option<(u64, u64)>,
    written: u64,
}

fn encoded(result: Result<Vec<u8>, impl std::fmt::Debug>) -> io::Result<Vec<u8>> {
    result.map_err(|error| io::Error::other(format!("{error:?}")))
}

fn option(code: OptionCode, value: &[u8]) -> PcapNGOption<'static> {
    // A comment longer than an option takes is cut off between two letters.
    let mut value = value;
    if value.len() > usize::from(u16::MAX) {
        let mut end = usize::from(u16::MAX);
        while value[end] & 0xc0 == 0x80 {
            end -= 1;
        }
        value = &value[..end];
    }
    PcapNGOption {
        code,
        len: u16::try_from(value.len()).unwrap_or(u16::MAX),
        value: Cow::Owned(value.to_vec()),
    }
}

impl CaptureFile {
    /// Begins a file whose packets have at most `snap_length` bytes.
    pub(super) fn create(file: &Path, snap_length: u32) -> io::Result<Self> {
        let mut name = file.as_os_str().to_owned();
        name.push(".partial");
        let partial = PathBuf::from(name);
        let output = BufWriter::new(File::create(&partial)?);
        let mut this = Self {
            output,
            file: file.to_owned(),
            partial,
            is_finished: false,
            times: None,
            written: 0,
        };
        let application = concat!("portcullis ", env!("CARGO_PKG_VERSION"));
        let mut header = SectionHeaderBlock {
            block_type: 0,
            block_len1: 0,
            bom: 0x1a2b_3c4d,
            major_version: 1,
            minor_version: 0,
            section_len: -1,
            options: vec![
                option(HARDWARE, b"Windows Filtering Platform, network layers"),
                option(APPLICATION, application.as_bytes()),
            ],
            block_len2: 0,
        };
        this.output.write_all(&encoded(header.to_vec())?)?;
        this.interface(
            "portcullis",
            "packets as the network layers showed them",
            snap_length,
        )?;
        this.interface(
            "portcullis-blocked",
            "what was blocked before it was a packet: headers put together from what is known",
            snap_length,
        )?;
        Ok(this)
    }

    fn interface(&mut self, name: &str, description: &str, snap_length: u32) -> io::Result<()> {
        let mut block = InterfaceDescriptionBlock {
            block_type: 0,
            block_len1: 0,
            linktype: Linktype(RAW),
            reserved: 0,
            snaplen: snap_length,
            options: vec![
                option(IF_NAME, name.as_bytes()),
                option(IF_DESCRIPTION, description.as_bytes()),
                option(OptionCode::IfTsresol, &[TICKS]),
            ],
            block_len2: 0,
            if_tsresol: TICKS,
            if_tsoffset: 0,
        };
        self.output.write_all(&encoded(block.to_vec())?)
    }

    /// Appends a packet with its comment.
    pub(super) fn write(&mut self, matched: &Matched, comment: &str) -> io::Result<()> {
        let ticks = matched.record.time.get();
        let (first, _) = *self.times.get_or_insert((ticks, ticks));
        self.times = Some((first, ticks));
        self.written += 1;
        let time = ticks.saturating_sub(UNIX_EPOCH);
        let direction: u32 = match Direction::from_raw(matched.record.direction) {
            Some(Direction::Inbound) => 1,
            Some(Direction::Outbound) => 2,
            None => 0,
        };
        let mut packet = EnhancedPacketBlock {
            block_type: 0,
            block_len1: 0,
            if_id: if matched.is_rebuilt { REBUILT } else { NETWORK },
            ts_high: (time >> 32) as u32,
            ts_low: (time & 0xffff_ffff) as u32,
            caplen: u32::try_from(matched.packet.len()).unwrap_or(u32::MAX),
            origlen: matched.original_length,
            data: &matched.packet,
            options: vec![
                option(OptionCode::Comment, comment.as_bytes()),
                option(EPB_FLAGS, &direction.to_le_bytes()),
            ],
            block_len2: 0,
        };
        self.output.write_all(&encoded(packet.to_vec())?)
    }

    /// Appends what was counted, and gives the file its name.
    pub(super) fn finish(mut self, counts: &CaptureCounts) -> io::Result<u64> {
        let statistics = statistics(self.times, counts, self.written);
        self.output.write_all(&statistics)?;
        self.output.flush()?;
        self.output.get_ref().sync_all()?;
        std::fs::rename(&self.partial, &self.file)?;
        self.is_finished = true;
        Ok(self.written)
    }
}

impl Drop for CaptureFile {
    fn drop(&mut self) {
        if !self.is_finished {
            // What could not be written to its end is no capture.
            drop(std::fs::remove_file(&self.partial));
        }
    }
}

/// An Interface Statistics Block (draft-ietf-opsawg-pcapng, section 4.6) of the network's interface.
fn statistics(times: Option<(u64, u64)>, counts: &CaptureCounts, delivered: u64) -> Vec<u8> {
    const BLOCK_TYPE: u32 = 5;

    let mut body = NETWORK.to_le_bytes().to_vec();
    let (first, last) = times.unwrap_or((UNIX_EPOCH, UNIX_EPOCH));
    let stamp = |ticks: u64| {
        let time = ticks.saturating_sub(UNIX_EPOCH);
        // Upper half first, whatever the byte order.
        [
            ((time >> 32) as u32).to_le_bytes(),
            ((time & 0xffff_ffff) as u32).to_le_bytes(),
        ]
        .concat()
    };
    body.extend(stamp(last));
    let mut number = |code: u16, value: Vec<u8>| {
        body.extend(code.to_le_bytes());
        body.extend(8_u16.to_le_bytes());
        body.extend(value);
    };
    let count = |value: u64| value.to_le_bytes().to_vec();
    // isb_starttime, isb_endtime, isb_ifrecv, isb_ifdrop, isb_filteraccept, isb_usrdeliv.
    number(2, stamp(first));
    number(3, stamp(last));
    number(4, count(counts.seen.get()));
    number(5, count(counts.dropped.get()));
    number(6, count(counts.taken.get()));
    number(8, count(delivered));
    body.extend([0; 4]);
    let length = u32::try_from(body.len() + 12).unwrap_or(u32::MAX);
    let length = length.to_le_bytes();
    [&BLOCK_TYPE.to_le_bytes()[..], &length, &body, &length].concat()
}
