//! What each kind of rule costs: the same traffic through two machines side by side, one of whose policies has the rule.
//!
//! Here the whole of what a kind does is in the time, not one classify: layers, clones, injections, what is seen again,
//! work items. Packets of both machines alternate, so that what else runs here is in both.

use std::time::Duration;

use ksim::net::Setup;
use ksim::{Caller, Config, PoolMode};
use portcullis_proto::capture::{CaptureReply, StartCaptureRequest};
use portcullis_proto::device::ControlCode;
use portcullis_proto::message::ReadRequest;
use portcullis_proto::{Action, Counter};
use portcullis_tests::control::{Device, compile_with};
use portcullis_tests::{Net, World, proxy};
use serde::Serialize;
use wfp_schema::NtStatus;
use zerocopy::IntoBytes as _;

use crate::rounds::{self, PORTS, Traffic, UNITS};
use crate::timing::{Nanoseconds, timed};

/// IP protocol number of ICMP.
const ICMP: u8 = 1;

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
    /// What ends a round, on both machines, and is measured.
    complete: fn(&mut World),
    /// What is done after each round, and not measured.
    after: fn(&Device),
    traffic: fn() -> Traffic,
}

/// A kind whose rules say everything, without traffic.
const PLAIN: Kind = Kind {
    name: "",
    unit: "packet",
    rules: "",
    both: "",
    shows: Counter::FlowsCreated,
    prepare: nothing,
    complete: |_| (),
    after: |_| (),
    traffic: rounds::datagrams,
};

const KINDS: &[Kind] = &[
    Kind {
        name: "host by TLS",
        unit: "connection",
        rules: "[[rule]]\naction = 'block'\nhost = 'elsewhere.example'",
        shows: Counter::HostTls,
        traffic: rounds::greetings,
        ..PLAIN
    },
    Kind {
        name: "ask, answered before",
        unit: "connection",
        rules: "[[rule]]\naction = 'ask'\nremote_port = 443",
        shows: Counter::Answered,
        prepare: answer,
        traffic: rounds::handshakes,
        ..PLAIN
    },
    Kind {
        name: "ask, accept held",
        unit: "connection",
        rules: "[[rule]]\naction = 'ask'\ndirection = 'inbound'",
        shows: Counter::Answered,
        complete: answer_all,
        traffic: rounds::visits,
        ..PLAIN
    },
    Kind {
        name: "redirect",
        unit: "connection",
        rules: "[[rule]]\naction = 'permit'\ndirection = 'outbound'\napplication = 'C:\\browser.exe'\nremote_port = 443\nredirect = '127.0.0.1:8080'",
        shows: Counter::Redirected,
        prepare: listen,
        traffic: rounds::datagram_each,
        ..PLAIN
    },
    Kind {
        name: "content, inline",
        unit: "segment",
        rules: "[[rule]]\naction = 'block'\ncontent = 'Project Falcon'",
        traffic: rounds::segments,
        ..PLAIN
    },
    Kind {
        name: "content, out of band",
        unit: "segment",
        rules: "[[rule]]\naction = 'block'\ncontent = 'Project Falcon'\ninspect = 'out of band'",
        shows: Counter::StreamsInjected,
        traffic: rounds::segments,
        ..PLAIN
    },
    Kind {
        name: "replace, once in each",
        unit: "segment",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\nreplace = [{ find = 'Project Falcon', with = 'the project', direction = 'sent' }]",
        shows: Counter::StreamsRewritten,
        traffic: rounds::words,
        ..PLAIN
    },
    Kind {
        name: "http_header",
        unit: "connection",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\nhttp_header = { User-Agent = 'none' }",
        shows: Counter::StreamsRewritten,
        traffic: rounds::requests,
        ..PLAIN
    },
    Kind {
        name: "dscp",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\ndscp = 46",
        shows: Counter::PacketsChanged,
        ..PLAIN
    },
    Kind {
        name: "translate",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\ntranslate = '198.51.100.2:8443'",
        shows: Counter::PacketsChanged,
        ..PLAIN
    },
    Kind {
        name: "rate, never reached",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\nrate = '100 Gbit/s'\nburst = '1 MB'",
        ..PLAIN
    },
    Kind {
        name: "rate, a packet that waits",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\nrate = '400 kB/s'\nburst = '1 kB'\nqueue = '1 MB'",
        shows: Counter::PacketsDelayed,
        ..PLAIN
    },
    Kind {
        name: "delay, a packet that waits",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\ndelay = '3 ms'",
        shows: Counter::PacketsDelayed,
        ..PLAIN
    },
    Kind {
        name: "loss, of half",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\nloss = '50 %'",
        shows: Counter::PacketsLost,
        ..PLAIN
    },
    Kind {
        name: "bind",
        unit: "socket",
        rules: "[[rule]]\naction = 'permit'\nbind = '192.0.2.11'",
        shows: Counter::Bound,
        traffic: rounds::datagram_each,
        ..PLAIN
    },
    Kind {
        name: "bind, decided",
        unit: "socket",
        rules: "[[rule]]\naction = 'permit'\noperation = 'bind'\nlog = true",
        shows: Counter::EventsWritten,
        traffic: rounds::datagram_each,
        ..PLAIN
    },
    Kind {
        name: "forward, blocked",
        rules: "[[rule]]\naction = 'block'\noperation = 'forward'",
        shows: Counter::ForwardBlocked,
        traffic: rounds::transits,
        ..PLAIN
    },
    Kind {
        name: "ICMP error, blocked",
        rules: "[[rule]]\naction = 'block'\noperation = 'icmp-error'",
        shows: Counter::IcmpErrorsBlocked,
        traffic: rounds::errors,
        ..PLAIN
    },
    Kind {
        name: "discards, observed",
        rules: "observe = true",
        both: "[[rule]]\naction = 'block'\nremote_port = 443",
        shows: Counter::Discards,
        traffic: rounds::datagram_each,
        ..PLAIN
    },
    Kind {
        name: "closed, with statistics",
        unit: "connection",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\nlog = true",
        shows: Counter::EventsWritten,
        traffic: rounds::closings,
        ..PLAIN
    },
    Kind {
        name: "mirror, whole packets",
        rules: "[[rule]]\naction = 'permit'\nremote_port = 443\nmirror = true",
        prepare: mirror,
        after: take_captured,
        ..PLAIN
    },
    Kind {
        name: "capture, whole packets",
        prepare: capture,
        after: take_captured,
        ..PLAIN
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
                let time = run(world, &(self.traffic)(), self.complete);
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
    let setup = Setup {
        processes: proxy::owners(),
        forwarding: true,
        ..Setup::default()
    };
    world.net = Net::with_setup(&world.kernel, 0, setup);
    world
}

/// Sends a round's packets; how long those took that are measured.
fn run(world: &mut World, traffic: &Traffic, complete: fn(&mut World)) -> Duration {
    drop(world.net.fates(&traffic.before));
    let mut fates = Vec::new();
    let time = timed(|| {
        fates = world.net.fates(&traffic.measured);
        complete(world);
    });
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
            .fates(&[rounds::connection(PORTS - 1).handshake().remove(0)]),
    );
    answer_all(world);
    None
}

/// Answers what is asked.
fn answer_all(world: &mut World) {
    for question in world.device().questions() {
        assert!(world.device().reply(&question, Action::Permit));
    }
    drop(world.net.settle());
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
