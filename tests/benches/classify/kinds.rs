//! What each kind of rule costs: the same traffic through two machines side by side, one of whose policies has the rule.
//!
//! Here the whole of what a kind does is in the time, not one classify: layers, clones, injections, what is seen again,
//! work items. Packets of both machines alternate, so that what else runs here is in both.

use std::time::Duration;

use ksim::{Caller, Config, PoolMode};
use portcullis_proto::capture::{CaptureReply, StartCaptureRequest};
use portcullis_proto::device::ControlCode;
use portcullis_proto::message::ReadRequest;
use portcullis_proto::{Action, Counter};
use portcullis_tests::control::{Device, compile_with};
use portcullis_tests::messages::{client_hello, http_request};
use portcullis_tests::{Tcp, World, proxy, udp};
use serde::Serialize;
use wfp_schema::NtStatus;
use zerocopy::IntoBytes as _;

use crate::timing::{Nanoseconds, timed};

/// IP protocol number of ICMP.
const ICMP: u8 = 1;
/// So many units a round.
const UNITS: u16 = 64;
/// The first port of a round's connections.
const PORTS: u16 = 20_000;

/// What a kind costs.
#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    pub(crate) name: &'static str,
    /// What is counted: packets, segments, connections.
    pub(crate) unit: &'static str,
    /// Nanoseconds a unit with the rule.
    pub(crate) with: Nanoseconds,
    /// And without it.
    pub(crate) without: Nanoseconds,
}

/// A kind of rule.
struct Kind {
    name: &'static str,
    unit: &'static str,
    /// What is added to a policy that permits everything.
    rules: &'static str,
    /// And what else is added, of both machines.
    both: &'static str,
    /// This counter shows that the rules had their effect.
    shows: Counter,
    prepare: fn(&mut World) -> Option<Device>,
    /// What is done after each round, and not measured.
    after: fn(&Device),
    traffic: fn() -> Traffic,
}

/// What a round sends: first what is not measured, then so many units.
struct Traffic {
    before: Vec<Vec<u8>>,
    measured: Vec<Vec<u8>>,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "host by TLS",
        unit: "connection",
        rules: "[[rule]]\naction = 'block'\nhost = 'elsewhere.example'",
        both: "",
        shows: Counter::HostTls,
        prepare: nothing,
        after: |_| (),
        traffic: greetings,
    },
    Kind {
        name: "ask, answered before",
        unit: "connection",
        rules: "[[rule]]\naction = 'ask'\nremote_port = 443",
        both: "",
        shows: Counter::Answered,
        prepare: answer,
        after: |_| (),
        traffic: handshakes,
    },
    Kind {
        name: "redirect",
        unit: "connection",
        rules: "[[rule]]\naction = 'permit'\ndirection = 'outbound'\napplication = 'C:\\browser.exe'\nremote_port = 443\nredirect = '127.0.0.1:8080'",
        both: "",
        shows: Counter::Redirected,
        prepare: listen,
        after: |_| (),
        traffic: datagram_each,
    },
    Kind {
        name: "content, inline",
        unit: "segment",
        rules: "[[rule]]\naction = 'block'\ncontent = 'Project Falcon'",
        both: "",
        shows: Counter::FlowsCreated,
        prepare: nothing,
        after: |_| (),
        traffic: segments,
    },
    Kind {
        name: "content, out of band",
        unit: "segment",
        rules: "[[rule]]\naction = 'block'\ncontent = 'Project Falcon'\ninspect = 'out of band'",
        both: "",
        shows: Counter::StreamsInjected,
        prepare: nothing,
        after: |_| (),
        traffic: segments,
    },
    Kind {
        name: "replace, once in each",
        unit: "segment",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\nreplace = [{ find = 'Project Falcon', with = 'the project', direction = 'sent' }]",
        both: "",
        shows: Counter::StreamsRewritten,
        prepare: nothing,
        after: |_| (),
        traffic: words,
    },
    Kind {
        name: "http_header",
        unit: "connection",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\nhttp_header = { User-Agent = 'none' }",
        both: "",
        shows: Counter::StreamsRewritten,
        prepare: nothing,
        after: |_| (),
        traffic: requests,
    },
    Kind {
        name: "dscp",
        unit: "packet",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\ndscp = 46",
        both: "",
        shows: Counter::PacketsChanged,
        prepare: nothing,
        after: |_| (),
        traffic: datagrams,
    },
    Kind {
        name: "translate",
        unit: "packet",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\ntranslate = '198.51.100.2:8443'",
        both: "",
        shows: Counter::PacketsChanged,
        prepare: nothing,
        after: |_| (),
        traffic: datagrams,
    },
    Kind {
        name: "rate, never reached",
        unit: "packet",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\nrate = '100 Gbit/s'\nburst = '1 MB'",
        both: "",
        shows: Counter::FlowsCreated,
        prepare: nothing,
        after: |_| (),
        traffic: datagrams,
    },
    Kind {
        name: "rate, a packet that waits",
        unit: "packet",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\nrate = '400 kB/s'\nburst = '1 kB'\nqueue = '1 MB'",
        both: "",
        shows: Counter::PacketsDelayed,
        prepare: nothing,
        after: |_| (),
        traffic: datagrams,
    },
    Kind {
        name: "delay, a packet that waits",
        unit: "packet",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\ndelay = '3 ms'",
        both: "",
        shows: Counter::PacketsDelayed,
        prepare: nothing,
        after: |_| (),
        traffic: datagrams,
    },
    Kind {
        name: "bind",
        unit: "socket",
        rules: "[[rule]]\naction = 'permit'\nbind = '192.0.2.11'",
        both: "",
        shows: Counter::Bound,
        prepare: nothing,
        after: |_| (),
        traffic: datagram_each,
    },
    Kind {
        name: "discards, observed",
        unit: "packet",
        rules: "observe = true",
        both: "[[rule]]\naction = 'block'\nremote_port = 443",
        shows: Counter::Discards,
        prepare: nothing,
        after: |_| (),
        traffic: datagram_each,
    },
    Kind {
        name: "closed, with statistics",
        unit: "connection",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\nlog = true",
        both: "",
        shows: Counter::EventsWritten,
        prepare: nothing,
        after: |_| (),
        traffic: closings,
    },
    Kind {
        name: "mirror, whole packets",
        unit: "packet",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\nmirror = true",
        both: "",
        shows: Counter::FlowsCreated,
        prepare: mirror,
        after: take_captured,
        traffic: datagrams,
    },
    Kind {
        name: "capture, whole packets",
        unit: "packet",
        rules: "",
        both: "",
        shows: Counter::FlowsCreated,
        prepare: capture,
        after: take_captured,
        traffic: datagrams,
    },
];

/// Runs the kinds that `wants` names, so many rounds each.
pub(crate) fn measure(rounds: usize, wants: impl Fn(&str) -> bool) -> Vec<Cost> {
    let kinds = KINDS.iter().filter(|kind| wants(kind.name));
    kinds
        .map(|kind| {
            eprintln!("{} …", kind.name);
            kind.measure(rounds)
        })
        .collect()
}

impl Kind {
    fn measure(&self, rounds: usize) -> Cost {
        let mut machines = [true, false].map(|has_rules| {
            let rules = if has_rules { self.rules } else { "" };
            let both = self.both;
            let mut world = world(&format!("default = 'permit'\n{rules}\n{both}"));
            let device = if has_rules {
                (self.prepare)(&mut world)
            } else {
                None
            };
            (world, device, Vec::new())
        });
        for round in 0..rounds + WARM_UP {
            for (world, device, samples) in &mut machines {
                let time = run(world, &(self.traffic)());
                if round >= WARM_UP {
                    samples.push(time.as_secs_f64() * 1e9 / f64::from(UNITS));
                }
                world.net.finish();
                drop(world.events());
                if let Some(device) = device {
                    (self.after)(device);
                }
            }
        }
        let [with, without] = machines.map(|(world, device, samples)| {
            let shown = world.counter(self.shows);
            if let Some(device) = device {
                device.close();
            }
            world.end();
            (shown, Nanoseconds::of(samples))
        });
        assert!(with.0 > 0, "{}: the rule had no effect", self.name);
        Cost {
            name: self.name,
            unit: self.unit,
            with: with.1,
            without: without.1,
        }
    }
}

/// Rounds before those that count.
const WARM_UP: usize = 5;

/// A machine with a policy that makes no events, in whose pool no page guards another.
fn world(policy: &str) -> World {
    let mut world = World::with_config(&Config {
        pool: PoolMode::Fast,
        ..Config::default()
    });
    let status = world.device().try_set_policy(&compile_with(policy, false));
    assert_eq!(status, NtStatus::SUCCESS);
    world.owned_by(proxy::owners());
    world
}

/// Sends a round's packets; how long those took that are measured.
fn run(world: &mut World, traffic: &Traffic) -> Duration {
    drop(world.net.fates(&traffic.before));
    let mut fates = Vec::new();
    let time = timed(|| fates = world.net.fates(&traffic.measured));
    assert_eq!(fates.len(), traffic.measured.len());
    time
}

const fn nothing(_world: &mut World) -> Option<Device> {
    None
}

/// Answers the question about the server, which is remembered.
#[allow(clippy::unnecessary_wraps, reason = "it is a preparation")]
fn answer(world: &mut World) -> Option<Device> {
    assert!(world.device().questions().is_empty());
    drop(
        world
            .net
            .fates(&[connection(PORTS - 1).handshake().remove(0)]),
    );
    for question in world.device().questions() {
        assert!(world.device().reply(&question, Action::Permit));
    }
    drop(world.net.settle());
    None
}

/// A proxy listens.
#[allow(clippy::unnecessary_wraps, reason = "it is a preparation")]
fn listen(world: &mut World) -> Option<Device> {
    Some(proxy::with_proxy(world))
}

/// Whole packets are captured, and read after each round.
fn capture(world: &mut World) -> Option<Device> {
    start_capture(world, StartCaptureRequest::new(1_500, 1 << 20))
}

/// Somebody captures what is not sent here, and so gets what rules mirror.
fn mirror(world: &mut World) -> Option<Device> {
    let mut request = StartCaptureRequest::new(1_500, 1 << 20);
    request.protocols[0] = ICMP;
    request.protocol_count = 1;
    start_capture(world, request)
}

#[allow(clippy::unnecessary_wraps, reason = "it is a preparation")]
fn start_capture(world: &World, start: StartCaptureRequest) -> Option<Device> {
    let device = world.open(Caller::administrator());
    let answer = device.answer(ControlCode::StartCapture, start.as_bytes(), 0);
    assert_eq!(answer, NtStatus::SUCCESS);
    Some(device)
}

/// Reads what was captured; all of it fits.
fn take_captured(device: &Device) {
    let read = ReadRequest::new(ReadRequest::NO_WAIT);
    let room = CaptureReply::size_for(1 << 20);
    let result = device.ioctl(ControlCode::ReadCapture.raw(), read.as_bytes(), room);
    assert_eq!(result.status, NtStatus::SUCCESS);
    assert!(
        result.output.len() > usize::from(UNITS) * 512,
        "every packet"
    );
}

fn connection(port: u16) -> Tcp {
    Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:443")
}

/// A connection begins in each unit.
fn handshakes() -> Traffic {
    let measured = (PORTS..PORTS + UNITS).flat_map(|port| connection(port).handshake());
    Traffic {
        before: Vec::new(),
        measured: measured.collect(),
    }
}

/// A connection ends in each unit.
fn closings() -> Traffic {
    let (mut before, mut measured) = (Vec::new(), Vec::new());
    for port in PORTS..PORTS + UNITS {
        let mut tcp = connection(port);
        before.extend(tcp.handshake());
        before.push(tcp.client_says(b"question"));
        before.push(tcp.server_says(b"answer"));
        measured.extend(tcp.close());
    }
    Traffic { before, measured }
}

/// The first datagram to the server in each unit.
fn datagram_each() -> Traffic {
    let measured = (0..UNITS).map(|unit| {
        let client = format!("192.0.2.10:{}", 50_000 + unit);
        udp(&client, "198.51.100.1:443", b"question")
    });
    Traffic {
        before: Vec::new(),
        measured: measured.collect(),
    }
}

/// What each connection says first.
fn firsts(message: &[u8]) -> Traffic {
    let (mut before, mut measured) = (Vec::new(), Vec::new());
    for port in PORTS..PORTS + UNITS {
        let mut tcp = connection(port);
        before.extend(tcp.handshake());
        measured.push(tcp.client_says(message));
    }
    Traffic { before, measured }
}

fn greetings() -> Traffic {
    firsts(&client_hello(Some("www.example.net")))
}

fn requests() -> Traffic {
    firsts(&http_request("www.example.net"))
}

/// Segments of one connection.
fn of_one(segment: &[u8]) -> Traffic {
    let mut tcp = connection(PORTS);
    let mut before = tcp.handshake();
    before.push(tcp.client_says(segment));
    Traffic {
        before,
        measured: (0..UNITS).map(|_| tcp.client_says(segment)).collect(),
    }
}

fn segments() -> Traffic {
    of_one(&[b'.'; 1_460])
}

fn words() -> Traffic {
    let mut segment = [b'.'; 1_460];
    segment[700..714].copy_from_slice(b"Project Falcon");
    of_one(&segment)
}

fn datagrams() -> Traffic {
    let datagram = || udp("192.0.2.10:20000", "198.51.100.1:443", &[0x40; 512]);
    Traffic {
        before: vec![datagram()],
        measured: (0..UNITS).map(|_| datagram()).collect(),
    }
}
