//! Writing pcapng.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use pcap_parser::{
    EnhancedPacketBlock, InterfaceDescriptionBlock, Linktype, OptionCode, PcapNGOption,
    SectionHeaderBlock, ToVec as _,
};

use super::{Frame, LinkType};

/// A pcapng file under construction, with nanosecond time stamps and an interface for each link type.
#[derive(Debug)]
pub struct Writer {
    output: BufWriter<File>,
    interfaces: HashMap<LinkType, u32>,
}

/// `if_tsresol`: 10^-9 s.
const NANOSECONDS: u8 = 9;

fn encoded(result: Result<Vec<u8>, impl std::fmt::Debug>) -> io::Result<Vec<u8>> {
    result.map_err(|error| io::Error::other(format!("{error:?}")))
}

impl Writer {
    /// Creates `file`, replacing what was there.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(file: &Path) -> io::Result<Self> {
        let mut output = BufWriter::new(File::create(file)?);
        let application = concat!("portcullis ", env!("CARGO_PKG_VERSION"));
        let mut header = SectionHeaderBlock {
            block_type: 0,
            block_len1: 0,
            bom: 0x1a2b_3c4d,
            major_version: 1,
            minor_version: 0,
            section_len: -1,
            options: vec![option(OptionCode(4), application.as_bytes())],
            block_len2: 0,
        };
        output.write_all(&encoded(header.to_vec())?)?;
        Ok(Self {
            output,
            interfaces: HashMap::new(),
        })
    }

    /// Appends `frame`, with a comment unless that is empty.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&mut self, frame: &Frame<'_>, comment: &str) -> io::Result<()> {
        let comment =
            (!comment.is_empty()).then(|| option(OptionCode::Comment, comment.as_bytes()));
        let interface = match self.interfaces.get(&frame.link) {
            Some(interface) => *interface,
            None => self.add_interface(frame.link)?,
        };
        let mut packet = EnhancedPacketBlock {
            block_type: 0,
            block_len1: 0,
            if_id: interface,
            ts_high: (frame.time >> 32) as u32,
            ts_low: (frame.time & 0xffff_ffff) as u32,
            caplen: u32::try_from(frame.data.len()).unwrap_or(u32::MAX),
            origlen: frame.original_length,
            data: frame.data,
            options: comment.into_iter().collect(),
            block_len2: 0,
        };
        self.output.write_all(&encoded(packet.to_vec())?)
    }

    /// Writes out what is buffered. To be called at the end: errors would be lost otherwise.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(mut self) -> io::Result<()> {
        self.output.flush()
    }

    fn add_interface(&mut self, link: LinkType) -> io::Result<u32> {
        let mut block = InterfaceDescriptionBlock {
            block_type: 0,
            block_len1: 0,
            linktype: Linktype(i32::from(link.0)),
            reserved: 0,
            snaplen: 0,
            options: vec![option(OptionCode::IfTsresol, &[NANOSECONDS])],
            block_len2: 0,
            if_tsresol: NANOSECONDS,
            if_tsoffset: 0,
        };
        self.output.write_all(&encoded(block.to_vec())?)?;
        let index = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.interfaces.insert(link, index);
        Ok(index)
    }
}

fn option(code: OptionCode, value: &[u8]) -> PcapNGOption<'static> {
    PcapNGOption {
        code,
        len: u16::try_from(value.len()).unwrap_or(u16::MAX),
        value: Cow::Owned(value.to_vec()),
    }
}
