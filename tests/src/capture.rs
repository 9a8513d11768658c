//! What the driver captures: a capture of the driver's, and its file read back.

use std::path::{Path, PathBuf};

use ksim::Caller;
use pcap_parser::{
    Block, OptionCode, PcapBlockOwned, PcapNGReader, traits::PcapReaderIterator as _,
};
use portcullis_cli::live::{CaptureOptions, Captured, Session};
use portcullis_proto::capture::StartCaptureRequest;

use crate::World;
use crate::control::Device;

/// A packet of a capture file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// 0 what was on the network, 1 what was put together.
    pub interface: u32,
    /// Its bytes.
    pub data: Vec<u8>,
    /// Its length on the wire.
    pub original_length: u32,
    /// Its comment.
    pub comment: String,
}

/// A capture file.
#[derive(Debug, Default)]
pub struct Contents {
    /// Its packets.
    pub packets: Vec<Written>,
    /// The names of its interfaces.
    pub interfaces: Vec<String>,
    /// `isb_ifrecv`, `isb_ifdrop`, `isb_filteraccept` and `isb_usrdeliv` of its statistics.
    pub statistics: Option<[u64; 4]>,
}

impl Contents {
    /// The comments of the packets that hold these bytes.
    #[must_use]
    pub fn comments(&self, bytes: &[u8]) -> Vec<&str> {
        let holds = |data: &[u8]| data.windows(bytes.len()).any(|part| part == bytes);
        let packets = self.packets.iter().filter(|packet| holds(&packet.data));
        packets.map(|packet| packet.comment.as_str()).collect()
    }
}

/// Reads a pcapng file, which is sound to its end.
#[must_use]
pub fn contents(file: &Path) -> Contents {
    let input =
        std::fs::File::open(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut reader = PcapNGReader::new(1 << 18, input).expect("pcapng");
    let mut contents = Contents::default();
    loop {
        match reader.next() {
            Ok((size, block)) => {
                if let PcapBlockOwned::NG(block) = block {
                    add(&mut contents, &block);
                }
                reader.consume(size);
            }
            Err(pcap_parser::PcapError::Eof) => return contents,
            Err(pcap_parser::PcapError::Incomplete(_)) => reader.refill().expect("more"),
            Err(error) => panic!("{}: {error:?}", file.display()),
        }
    }
}

fn add(contents: &mut Contents, block: &Block<'_>) {
    match block {
        Block::EnhancedPacket(packet) => {
            let comment = packet
                .options
                .iter()
                .find(|option| option.code == OptionCode::Comment);
            let comment = comment
                .and_then(|option| option.as_str().ok())
                .unwrap_or_default();
            contents.packets.push(Written {
                interface: packet.if_id,
                data: packet.data[..packet.caplen as usize].to_vec(),
                original_length: packet.origlen,
                comment: comment.to_owned(),
            });
        }
        Block::InterfaceDescription(interface) => {
            let name = interface
                .options
                .iter()
                .find(|option| option.code == OptionCode(2));
            let name = name.and_then(|option| option.as_str().ok());
            contents
                .interfaces
                .push(name.unwrap_or_default().to_owned());
        }
        Block::InterfaceStatistics(statistics) => {
            let number = |code: u16| {
                let option = statistics
                    .options
                    .iter()
                    .find(|option| option.code == OptionCode(code));
                option
                    .and_then(|option| option.as_bytes().ok()?.try_into().ok())
                    .map_or(0, u64::from_le_bytes)
            };
            contents.statistics = Some([number(4), number(5), number(6), number(8)]);
        }
        _ => {}
    }
}

/// A capture of the driver's that goes on.
#[derive(Debug)]
pub struct Running {
    device: Device,
    session: Session,
    file: PathBuf,
}

/// A request for everything.
#[must_use]
pub fn everything() -> StartCaptureRequest {
    StartCaptureRequest::new(65_535, 1 << 20)
}

/// Where a capture of this name goes.
#[must_use]
pub fn file_named(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("portcullis-capture-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder.join(format!("{name}.pcapng"))
}

/// A program starts a capture whose file has a name of its own; `rules` are the names of the policy's rules.
#[must_use]
pub fn start(world: &World, request: StartCaptureRequest, rules: &[&str], name: &str) -> Running {
    let device = world.open(Caller::administrator());
    let file = file_named(name);
    let options = CaptureOptions {
        file: file.clone(),
        request,
        count: None,
        seconds: None,
    };
    let rules = rules.iter().map(|&rule| rule.to_owned()).collect();
    let session = Session::start(&device, options, rules).unwrap_or_else(|error| panic!("{error}"));
    Running {
        device,
        session,
        file,
    }
}

impl Running {
    /// Takes what the driver has captured by now.
    pub fn take(&mut self) {
        self.session
            .take(&self.device, false)
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Ends the capture and reads its file, which is gone then.
    #[must_use]
    pub fn finish(self) -> (Captured, Contents) {
        let captured = self.session.finish(&self.device);
        let captured = captured.unwrap_or_else(|error| panic!("{error}"));
        self.device.close();
        let contents = contents(&self.file);
        std::fs::remove_file(&self.file).expect("the file is there");
        (captured, contents)
    }
}
