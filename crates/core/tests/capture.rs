//! Captures: the ring of records, the filter, and what is read of a packet.

use parking_lot::RawMutex;
use portcullis_core::{
    CaptureFilter, CaptureRing, Endpoint, Ends, MirrorBucket, MirrorTable, PacketSummary,
};
use portcullis_proto::capture::{
    CaptureCounts, CaptureKind, CapturePrefix, CaptureRecord, CaptureReply, StartCaptureRequest,
};
use portcullis_proto::message::RequestError;
use portcullis_proto::policy::{Range16, map_v4};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use zerocopy::IntoBytes;

type Ring = CaptureRing<RawMutex, Vec<u8>>;

fn ring(size: usize) -> Ring {
    CaptureRing::new(vec![0xaa; size])
}

fn record(original: usize) -> CaptureRecord {
    CaptureRecord {
        original: u32::try_from(original).expect("small").into(),
        ..CaptureRecord::zeroed(CaptureKind::Packet)
    }
}

/// What a read with so much room returns, as its reader sees it.
fn read(ring: &Ring, room: usize) -> Vec<(CaptureRecord, Vec<u8>)> {
    let fixed = size_of::<CaptureReply>();
    let mut output = vec![0; fixed + room];
    let (count, bytes) = ring.read_into(&mut output[fixed..]);
    let small = |number: usize| u32::try_from(number).expect("small");
    let (count, bytes) = (small(count), small(bytes));
    let reply = CaptureReply::new(count, bytes, 0, ring.counts());
    output[..fixed].copy_from_slice(reply.as_bytes());
    let (_, records) = CaptureReply::read(&output).expect("a reply");
    let records: Vec<_> = records
        .map(|(record, data)| (record, data.to_vec()))
        .collect();
    assert_eq!(records.len(), count as usize);
    records
}

fn ends(protocol: u8, local: &str, remote: &str) -> Ends {
    let end = |text: &str| {
        let socket: SocketAddr = text.parse().expect("a socket");
        Endpoint::new(socket.ip(), socket.port())
    };
    Ends {
        protocol,
        local: end(local),
        remote: end(remote),
    }
}

#[test]
fn records_come_out_in_order_with_their_data_cut_to_the_limit() {
    let ring = ring(1 << 16);
    assert!(ring.write(record(7), [&b"abc"[..], b"defg"], 5, true));
    assert!(ring.write(record(2), [&b"hi"[..]], 5, true));
    assert!(ring.write(record(0), [], 5, false));
    let records = read(&ring, 1 << 12);
    let seen: Vec<_> = records
        .iter()
        .map(|(record, data)| {
            (
                record.sequence.get(),
                record.original.get(),
                data.as_slice(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [(1, 7, &b"abcde"[..]), (2, 2, b"hi"), (3, 0, b"")],
        "five bytes of the first at most"
    );
    assert!(ring.is_empty());
    let counts = ring.counts();
    assert_eq!((counts.seen.get(), counts.taken.get()), (2, 3));
}

#[test]
fn data_that_ends_early_makes_a_shorter_record() {
    let ring = ring(1 << 16);
    assert!(ring.write(record(100), [&b"only this"[..]], 100, true));
    let records = read(&ring, 1 << 12);
    assert_eq!(records[0].1, b"only this");
    assert_eq!(records[0].0.original.get(), 100);
}

#[test]
fn a_full_ring_drops_the_newest_and_counts_it() {
    let size = CaptureRecord::size_with(8);
    let ring = ring(2 * size);
    let kept: Vec<_> = (0..4)
        .map(|_| ring.write(record(8), [&b"12345678"[..]], 8, true))
        .collect();
    assert_eq!(kept, [true, true, false, false]);
    assert_eq!(read(&ring, size).len(), 1, "one fits into the output");
    assert!(ring.write(record(8), [&b"again..."[..]], 8, true));
    let numbers: Vec<_> = read(&ring, 4 * size)
        .iter()
        .map(|(record, _)| record.sequence.get())
        .collect();
    assert_eq!(numbers, [2, 5]);
    let expected = CaptureCounts {
        seen: 5.into(),
        taken: 5.into(),
        dropped: 2.into(),
    };
    assert_eq!(ring.counts(), expected);
}

#[test]
fn a_filter_takes_what_has_an_element_of_each_list() {
    let mut request = StartCaptureRequest::new(64, 1 << 16);
    assert!(CaptureFilter::new(request).takes_all());
    let flow = ends(6, "192.0.2.1:50000", "198.51.100.7:443");
    request.protocols[0] = 17;
    request.protocol_count = 1;
    assert!(!CaptureFilter::new(request).takes(&flow));
    request.protocols[1] = 6;
    request.protocol_count = 2;
    assert!(CaptureFilter::new(request).takes(&flow));
    request.ports[0] = Range16 {
        first: 440.into(),
        last: 443.into(),
    };
    request.port_count = 1;
    assert!(CaptureFilter::new(request).takes(&flow));
    request.addresses[0] = CapturePrefix {
        address: map_v4([198, 51, 100, 0]),
        length: 96 + 24,
        reserved: [0; 3],
    };
    request.address_count = 1;
    let filter = CaptureFilter::new(request);
    assert!(!filter.takes_all());
    assert!(filter.takes(&flow));
    assert!(!filter.takes(&ends(6, "192.0.2.1:443", "198.51.99.7:50000")));
    assert!(!filter.takes(&ends(6, "192.0.2.1:50000", "198.51.100.7:444")));
    assert!(filter.takes(&ends(6, "198.51.100.1:1", "[2001:db8::1]:441")));
}

#[test]
fn a_request_out_of_bounds_is_refused() {
    let good = StartCaptureRequest::new(64, 1 << 16);
    assert_eq!(StartCaptureRequest::parse(good.as_bytes()), Ok(good));
    let refused = |change: &dyn Fn(&mut StartCaptureRequest)| {
        let mut request = good;
        change(&mut request);
        let result = StartCaptureRequest::parse(request.as_bytes());
        assert_eq!(result, Err(RequestError::Reserved));
    };
    refused(&|request| request.snap_length = 0.into());
    refused(&|request| request.snap_length = (1 << 16 | 1).into());
    refused(&|request| request.ring_size = ((1 << 16) - 1).into());
    refused(&|request| request.ring_size = u32::MAX.into());
    refused(&|request| request.reserved = 1);
    refused(&|request| request.port_count = 9);
    refused(&|request| request.protocols[0] = 6);
    refused(&|request| {
        request.address_count = 1;
        request.addresses[0].length = 129;
    });
    refused(&|request| {
        request.port_count = 1;
        request.ports[0].first = 2.into();
        request.ports[0].last = 1.into();
    });
    let short = StartCaptureRequest::parse(&good.as_bytes()[..20]);
    assert_eq!(short, Err(RequestError::TooShort));
}

#[test]
fn ports_are_found_behind_options_and_extension_headers() {
    let mut v4 = vec![
        0x46, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
    ];
    v4.extend([1, 1, 1, 1]);
    v4.extend([0x30, 0x39, 0, 53]);
    let summary = PacketSummary::parse(&v4).expect("a packet");
    assert_eq!(summary.header_length, 24);
    assert_eq!(
        summary.ends(true),
        ends(17, "192.0.2.1:12345", "192.0.2.2:53")
    );
    assert_eq!(
        summary.ends(false),
        ends(17, "192.0.2.2:53", "192.0.2.1:12345")
    );

    let address = |last: u8| {
        let mut octets = [0; 16];
        octets[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        octets[15] = last;
        octets
    };
    let mut v6 = vec![0x60, 0, 0, 0, 0, 0, 0, 64];
    v6.extend(address(1));
    v6.extend(address(2));
    // Hop-by-hop options, then the first fragment, then TCP.
    v6.extend([44, 0, 0, 0, 0, 0, 0, 0]);
    v6.extend([6, 0, 0, 1, 0, 0, 0, 9]);
    v6.extend([0, 80, 0xc0, 0]);
    let summary = PacketSummary::parse(&v6).expect("a packet");
    assert!(!summary.is_later_fragment);
    assert_eq!(
        summary.ends(true),
        ends(6, "[2001:db8::1]:80", "[2001:db8::2]:49152")
    );
    // The same as a later fragment has no ports.
    v6[40 + 8 + 2] = 1;
    let summary = PacketSummary::parse(&v6).expect("a packet");
    assert!(summary.is_later_fragment);
    assert_eq!(summary.source.port, 0);
}

#[test]
fn mirrored_flows_are_known_until_they_end() {
    let buckets: Vec<MirrorBucket<RawMutex>> = (0..4).map(|_| MirrorBucket::new()).collect();
    let table = MirrorTable::new(buckets);
    let flow = ends(6, "192.0.2.1:50000", "198.51.100.7:443");
    let other = ends(6, "192.0.2.1:50001", "198.51.100.7:443");
    assert!(!table.contains(&flow));
    table.insert(&flow);
    table.insert(&flow);
    assert!(table.contains(&flow) && !table.contains(&other));
    table.remove(&flow);
    assert!(!table.contains(&flow));
    // An echo's question and answer are one flow.
    let [question, answer] =
        [8, 0].map(|kind| ends(1, &format!("192.0.2.1:{kind}"), "192.0.2.2:0"));
    table.insert(&question);
    assert!(table.contains(&answer));
}

proptest! {
    /// Against a queue of vectors.
    #[test]
    fn whatever_is_written_and_read_the_ring_is_a_queue(
        capacity in 112_usize..2_000,
        steps in prop::collection::vec((any::<bool>(), 0_usize..400, 1_usize..300), 1..60),
    ) {
        let ring = ring(capacity);
        let mut model: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
        let mut used = 0;
        let mut last = 0;
        for (is_write, length, limit) in steps {
            if is_write {
                last += 1;
                let first = u64::to_le_bytes(last)[0];
                let data: Vec<u8> = (0..=u8::MAX).map(|at| at ^ first).cycle().take(length).collect();
                let parts: [&[u8]; 2] = data.split_at(length / 3).into();
                let kept = length.min(limit);
                let size = CaptureRecord::size_with(kept);
                let fits = used + size <= capacity;
                prop_assert_eq!(ring.write(record(length), parts, limit, true), fits);
                if fits {
                    used += size;
                    model.push_back((last, data[..kept].to_vec()));
                }
            } else {
                for (record, data) in read(&ring, length + 200) {
                    let (sequence, expected) = model.pop_front().expect("the model has as many");
                    used -= CaptureRecord::size_with(expected.len());
                    prop_assert_eq!(record.sequence.get(), sequence);
                    prop_assert_eq!(data, expected);
                }
            }
        }
        for (_, data) in read(&ring, 1 << 16) {
            prop_assert_eq!(data, model.pop_front().expect("the model has as many").1);
        }
        prop_assert!(model.is_empty());
    }

    #[test]
    fn no_packet_and_no_reply_panics(
        packet in prop::collection::vec(any::<u8>(), 0..200),
        version in prop::sample::select(vec![0x45_u8, 0x4f, 0x60]),
    ) {
        let mut packet = packet;
        if let Some(first) = packet.first_mut() {
            *first = version;
        }
        if let Some(summary) = PacketSummary::parse(&packet) {
            prop_assert!(matches!(summary.source.address, IpAddr::V4(_) | IpAddr::V6(_)));
        }
        if let Some((_, records)) = CaptureReply::read(&packet) {
            for (record, data) in records {
                prop_assert_eq!(record.captured.get() as usize, data.len());
            }
        }
        let mut reply = CaptureReply::new(1, u32::try_from(packet.len()).unwrap(), 0, CaptureCounts::default())
            .as_bytes()
            .to_vec();
        reply.extend(&packet);
        let (_, records) = CaptureReply::read(&reply).expect("a reply");
        drop(records.collect::<Vec<_>>());
    }
}
