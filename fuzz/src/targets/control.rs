//! What crosses the driver's boundary: requests as the driver reads them, replies as the program reads them.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use portcullis_cli::live::{Matcher, comment};
use portcullis_cli::report::events;
use portcullis_core::{CaptureFilter, Endpoint, Ends};
use portcullis_proto::Action;
use portcullis_proto::ask::AnswerRequest;
use portcullis_proto::capture::{
    CaptureRecord, CaptureReply, MAX_CAPTURE_LIST, MAX_SNAP_LENGTH, RING_SIZES, StartCaptureRequest,
};
use portcullis_proto::counter::StatisticsReply;
use portcullis_proto::event::EventsReply;
use portcullis_proto::filter::{DescribeFilterRequest, FilterReply};
use portcullis_proto::message::{
    ReadRequest, Request, RequestError, SetPolicyRequest, VersionReply, read_padded, read_request,
};
use portcullis_proto::redirect::{RedirectContext, RegisterProxyRequest};
use portcullis_proto::status::StatusReply;

/// Reads a request to start a capture.
pub type ReadStart = dyn Fn(&[u8]) -> Result<StartCaptureRequest, RequestError>;

/// A request to the driver; the first byte says which.
///
/// # Panics
/// When one is taken that breaks the rules of its kind.
pub fn requests(bytes: &[u8]) {
    requests_by(bytes, &StartCaptureRequest::parse);
}

/// As [`requests`], with this reader of requests to start a capture.
///
/// # Panics
/// When one is taken that breaks the rules of its kind.
pub fn requests_by(bytes: &[u8], start: &ReadStart) {
    let Some((&kind, request)) = bytes.split_first() else {
        return;
    };
    match kind % 7 {
        0 => {
            black_box(read_request::<Request>(request)).ok();
        }
        1 => {
            if let Ok(read) = ReadRequest::parse(request) {
                assert_eq!(read.flags.get() & !ReadRequest::NO_WAIT, 0);
            }
        }
        2 => {
            if let Ok(policy) = SetPolicyRequest::policy(request) {
                assert!(policy.len() <= request.len());
                super::policies::compiled(policy);
            }
        }
        3 => {
            if let Ok((listens, _)) = RegisterProxyRequest::parse(request) {
                assert!(listens.port() != 0 && !listens.ip().is_unspecified());
            }
        }
        4 => {
            if let Ok((_, verdict)) = AnswerRequest::parse(request) {
                assert!(matches!(verdict, Action::Permit | Action::Block));
            }
        }
        5 => {
            if let Ok(request) = start(request) {
                started(request);
            }
        }
        _ => {
            black_box(DescribeFilterRequest::parse(request)).ok();
        }
    }
}

fn started(request: StartCaptureRequest) {
    assert!((1..=MAX_SNAP_LENGTH).contains(&request.snap_length.get()));
    assert!(RING_SIZES.contains(&request.ring_size.get()));
    for count in [
        request.address_count,
        request.port_count,
        request.protocol_count,
    ] {
        assert!(usize::from(count) <= MAX_CAPTURE_LIST);
    }
    let prefixes = &request.addresses[..usize::from(request.address_count)];
    assert!(prefixes.iter().all(|prefix| prefix.length <= 128));
    let end = |port| Endpoint::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let ends = Ends {
        protocol: 6,
        local: end(50_000),
        remote: end(443),
    };
    black_box(CaptureFilter::new(request).takes(&ends));
}

/// Reads the records of a reply about a capture.
pub type ReadRecords = dyn for<'r> Fn(&'r [u8]) -> Option<Vec<(CaptureRecord, &'r [u8])>>;

/// A reply of the driver, of every kind: it is read as far as it makes sense, and packets are told as often as they came.
///
/// # Panics
/// When they are told more often.
pub fn replies(bytes: &[u8]) {
    replies_by(bytes, &|reply| {
        CaptureReply::read(reply).map(|(_, records)| records.collect())
    });
}

/// As [`replies`], with this reader of a capture's records.
///
/// # Panics
/// When packets are told more often than they came.
pub fn replies_by(bytes: &[u8], read: &ReadRecords) {
    let rules = ["one rule".to_owned()];
    black_box(read_padded::<VersionReply>(bytes));
    black_box(RedirectContext::read(bytes));
    black_box(FilterReply::read(bytes).map(|reply| reply.name.units().count()));
    black_box(StatusReply::read(bytes).map(|(_, callouts)| callouts.count()));
    black_box(StatisticsReply::read(bytes).map(Iterator::count));
    if let Some((_, records)) = EventsReply::read(bytes) {
        for event in records {
            assert!(!events::line(&event, &rules).is_empty());
        }
    }
    let Some(records) = read(bytes) else {
        return;
    };
    let mut matcher = Matcher::default();
    let mut told = Vec::new();
    for (record, data) in &records {
        assert!(data.len() <= bytes.len());
        matcher.add(record, data, &mut |_| None, &mut |matched| {
            told.push(matched);
        });
    }
    matcher.finish(&mut |matched| told.push(matched));
    // A dropped connection is told with its event.
    assert!(told.len() <= records.len(), "{} told", told.len());
    for matched in &told {
        assert!(!comment(matched, &rules).is_empty());
    }
}
