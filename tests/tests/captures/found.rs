//! The flows that the driver and the stack find in a capture.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ksim::net::Packet;
use ksim::net::packet::{Transport, ip_addr};
use portcullis_cli::capture;
use portcullis_cli::replay::{Flow, Plan, run};
use portcullis_cli::simulation;
use portcullis_proto::event::EventKind;
use wfp_schema::Direction;

use super::expected::{End, end};

/// A flow as the replay reports it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Its IP protocol number.
    pub(crate) protocol: u8,
    /// Who began it.
    pub(crate) client: End,
    /// The other end.
    pub(crate) server: End,
    /// Packets from the client, and to it.
    pub(crate) packets: [u64; 2],
    /// Its host name as the report shows it, in lower case.
    pub(crate) host: Option<String>,
    /// Every name that the driver found in it, in lower case.
    pub(crate) names: BTreeSet<String>,
}

/// Replays `capture` through the driver in this program, under a policy that permits everything and reports every
/// flow. Nothing may be blocked, lost or violated on the way.
pub(crate) fn replay(capture: &Path, policy: &[u8]) -> Vec<Found> {
    let plan = Plan {
        captures: vec![PathBuf::from(capture)],
        policy: Some(policy.to_vec()),
        local: Vec::new(),
        processes: Vec::new(),
        interfaces: Vec::new(),
        driver: simulation::driver_image(None).expect("cargo xtask test builds the driver first"),
        pdb: None,
        cpus: 1,
        write: None,
        annotate: None,
        rules: Vec::new(),
        capture: None,
        answers: portcullis_cli::ask::Answers::default(),
    };
    let outcome =
        run(&plan, &|_, _| ()).unwrap_or_else(|error| panic!("{}: {error}", capture.display()));
    let verifier = &outcome.verifier;
    assert!(
        verifier.is_clean(),
        "{}: {:?} {:?}",
        capture.display(),
        verifier.violations,
        verifier.leaks
    );
    let lost = outcome
        .events
        .iter()
        .find(|event| event.kind == EventKind::Dropped.raw());
    assert!(
        lost.is_none(),
        "{}: the driver lost events",
        capture.display()
    );
    let blocked = outcome.flows.iter().find(|flow| flow.blocked());
    assert!(
        blocked.is_none(),
        "{}: blocked without a rule: {blocked:?}",
        capture.display()
    );
    let mut names: HashMap<u64, BTreeSet<String>> = HashMap::new();
    for event in &outcome.events {
        names
            .entry(event.flow.get())
            .or_default()
            .extend(event.host().map(str::to_lowercase));
    }
    outcome
        .flows
        .into_iter()
        .map(|flow| found(flow, &names))
        .collect()
}

fn found(flow: Flow, names: &HashMap<u64, BTreeSet<String>>) -> Found {
    let report = flow.report;
    let names = report
        .handles
        .iter()
        .filter_map(|handle| names.get(handle))
        .flatten()
        .cloned()
        .collect();
    let (mut client, mut server) = (
        end(report.local.address, report.local.port),
        end(report.remote.address, report.remote.port),
    );
    let mut packets = report.packets;
    if report.direction == Direction::Inbound {
        std::mem::swap(&mut client, &mut server);
        packets.reverse();
    }
    let host = flow.decided.host.map(|host| host.to_lowercase());
    Found {
        protocol: report.protocol,
        client,
        server,
        packets,
        host,
        names,
    }
}

/// The first packet of a TCP connection in a capture.
#[derive(Debug, Clone)]
pub(crate) struct First {
    /// Its sender.
    pub(crate) sender: End,
    /// Whether it asks for a connection: SYN without ACK.
    pub(crate) opens: bool,
}

/// The first packet of each TCP connection in `capture`, by its ends, the lower one first.
pub(crate) fn first_segments(capture: &Path) -> HashMap<[End; 2], First> {
    let mut first = HashMap::new();
    capture::read(capture, |frame| {
        if let Ok(bytes) = capture::ip_packet(&frame)
            && let Ok(packet) = Packet::parse(bytes)
            && let Transport::Tcp(tcp) = packet.transport
        {
            let sender = end(ip_addr(packet.version, packet.source), packet.source_port);
            let receiver = end(
                ip_addr(packet.version, packet.destination),
                packet.destination_port,
            );
            let ends = ordered(&sender, &receiver);
            first.entry(ends).or_insert_with(|| First {
                sender,
                opens: tcp.opens(),
            });
        }
        ControlFlow::Continue(())
    })
    .expect("the capture was replayed");
    first
}

/// Two ends, the lower one first.
pub(crate) fn ordered(one: &End, other: &End) -> [End; 2] {
    let mut ends = [one.clone(), other.clone()];
    ends.sort();
    ends
}
