//! Datagrams that go through the stack as one packet.

use ksim::net::PacketReport;
use portcullis_core::packet::Layout;

use crate::packets::whole;
use crate::{Net, udp};

/// Data of datagrams, all of `size` bytes but the last, which has one less: each is of its own number.
#[must_use]
pub fn numbered(count: u8, size: usize) -> Vec<Vec<u8>> {
    let last = count - 1;
    (0..count)
        .map(|number| vec![number | 0x40; size - usize::from(number == last)])
        .collect()
}

/// One packet of all these data.
#[must_use]
pub fn together(source: &str, destination: &str, data: &[Vec<u8>]) -> Vec<u8> {
    whole(udp(source, destination, &data.concat()))
}

/// A packet for each.
fn apart(source: &str, destination: &str, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
    data.iter()
        .map(|data| whole(udp(source, destination, data)))
        .collect()
}

/// An application sends these in one call.
pub fn send(net: &mut Net, source: &str, destination: &str, data: &[Vec<u8>]) -> Vec<PacketReport> {
    let size = u32::try_from(data[0].len()).expect("short");
    net.send_segmented(&together(source, destination, data), size)
}

/// The network card receives these one behind the other.
pub fn receive(
    net: &mut Net,
    source: &str,
    destination: &str,
    data: &[Vec<u8>],
) -> Vec<PacketReport> {
    net.receive_burst(&apart(source, destination, data))
}

/// Whether what was sent or received went through the stack as one packet, and passed.
#[must_use]
pub fn passed(reports: &[PacketReport]) -> bool {
    let [report] = reports else {
        panic!("it is not one packet: {reports:?}");
    };
    report.passed
}

/// The data of UDP packets, each of which is whole and right.
#[must_use]
pub fn data_of(packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let data = packets.into_iter().map(|packet| {
        assert_eq!(packet, whole(packet.clone()), "its checksums are right");
        let layout = Layout::new_checked(&packet).expect("a packet");
        packet[layout.header + 8..].to_vec()
    });
    data.collect()
}
