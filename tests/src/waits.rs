//! A host of which something of every kind waits.
//!
//! Operations wait for an answer, packets for their time, streams for what follows. Whatever happens, each packet goes on
//! once or not at all, and each stream is whole or over.

use std::collections::BTreeMap;

use ksim::net::{FlowIndex, Opened, Output, PacketId, Reason, Socket};
use portcullis_core::PacketSummary;
use portcullis_core::connection::UDP;
use wfp_schema::IpVersion;

use crate::packets::{SYN, end};
use crate::streams::{Arrived, replaced};
use crate::{HOST_V4, HOST_V6, Net, Tcp, udp};

/// What a rule says of each of the ports that this uses.
pub const POLICY: &str = "
    default = 'permit'
    [[rule]]
    action = 'ask'
    direction = 'inbound'
    local_port = '40000-49999'
    ask_seconds = 600
    [[rule]]
    action = 'ask'
    remote_port = 4433
    ask_default = 'permit'
    ask_seconds = 600
    [[rule]]
    action = 'ask'
    remote_port = 4434
    ask_default = 'block'
    ask_seconds = 600
    [[rule]]
    action = 'permit'
    remote_port = 9998
    rate = '8 kbit/s'
    burst = '64 B'
    queue = '64 kB'
    [[rule]]
    action = 'permit'
    remote_port = 9999
    delay = '50 ms'
    [[rule]]
    action = 'permit'
    remote_port = 81
    replace = [{ find = 'secret', with = '******' }]
    [[rule]]
    action = 'block'
    remote_port = 82
    content = 'forbidden words'
    inspect = 'out of band'
";

/// What each side of a conversation says, in two parts between which other things happen.
const SAYS: [[&str; 2]; 2] = [
    [
        "a secret, forbidden wor",
        "th a secret: no secre, sec, secret",
    ],
    ["the secre", "t, forbidden wo"],
];

/// Units of 100 nanoseconds.
const MILLISECOND: u64 = 10_000;
/// After so many nothing waits any more.
const SECONDS: usize = 4;

/// What waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A connect, an accept or a first datagram, for an answer.
    Asked,
    /// A packet, for its time.
    Shaped,
}

/// A packet.
#[derive(Clone, Copy, Debug)]
struct Sent {
    kind: Kind,
    /// What it is known by: a datagram has it as its data, a SYN is from this port.
    number: u16,
    /// Whether it was seen where it was to go; not known of a SYN that came in.
    is_seen: bool,
    /// Whether it passed, once that is decided.
    passed: Option<bool>,
    /// Whether that was to be decided later.
    waited: bool,
}

/// A connection in which something may wait for what follows.
#[derive(Debug)]
struct Talk {
    tcp: Tcp,
    flow: FlowIndex,
}

/// What has become of everything on some hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Operations that were held.
    pub asked: u64,
    /// Packets that waited for their time: those that went on, and those that did not.
    pub shaped: [u64; 2],
    /// Conversations that did not arrive as they were said, to both ends.
    pub cut: u64,
}

/// The host.
#[derive(Debug)]
pub struct Waits {
    net: Net,
    port: u16,
    sent: BTreeMap<PacketId, Sent>,
    /// Listens that were held.
    listens: Vec<Socket>,
    talks: Vec<Talk>,
    /// What has left the stack of each flow's stream, and how often a packet of each number
    /// has.
    arrived: BTreeMap<u64, Arrived>,
    left: BTreeMap<u16, usize>,
}

/// What a datagram says.
fn number(data: &[u8]) -> u16 {
    let text = std::str::from_utf8(data).expect("a number");
    text.parse().expect("a number")
}

/// The host's address and a peer's.
const fn ends(version: IpVersion) -> [&'static str; 2] {
    match version {
        IpVersion::V4 => [HOST_V4, "198.51.100.1"],
        IpVersion::V6 => [HOST_V6, "2001:db8::80"],
    }
}

impl Waits {
    /// With ports and numbers of its own behind this one, up to a thousand.
    #[must_use]
    pub const fn new(net: Net, port: u16) -> Self {
        Self {
            net,
            port,
            sent: BTreeMap::new(),
            listens: Vec::new(),
            talks: Vec::new(),
            arrived: BTreeMap::new(),
            left: BTreeMap::new(),
        }
    }

    const fn port(&mut self) -> u16 {
        self.port += 1;
        self.port
    }

    /// Something of every kind begins to wait, of both IP versions, and goes on waiting or not.
    pub fn all(&mut self) {
        for version in [IpVersion::V4, IpVersion::V6] {
            let streams = [81, 82].map(|server| self.begin(version, server));
            self.asks(version);
            self.shaped(version);
            for stream in streams {
                self.ends(stream);
            }
        }
    }

    /// Connects, accepts, first datagrams and a listen.
    pub fn asks(&mut self, version: IpVersion) {
        let [host, peer] = ends(version).map(|address| move |port| end(address, port));
        for remote in [4433, 4434] {
            let port = self.port();
            let syn = Tcp::new(&host(port), &peer(remote)).segment(true, SYN, &[]);
            self.send(Kind::Asked, port, true, &syn);
            let port = self.port();
            let syn = Tcp::new(&peer(remote), &host(port)).segment(true, SYN, &[]);
            self.send(Kind::Asked, port, false, &syn);
            for is_sent in [true, false] {
                let port = self.port();
                self.datagram(Kind::Asked, version, [port, remote], is_sent);
            }
        }
        let listens = Socket {
            version,
            protocol: 6,
            address: None,
            port: self.port() + 20_000,
            any_port: false,
            raw: false,
            promiscuous: false,
            listens: true,
            link: 0,
        };
        if matches!(self.net.open(&listens), Opened::Pended(_)) {
            self.listens.push(listens);
        }
        self.look();
    }

    /// Packets that wait for their time, both ways.
    pub fn shaped(&mut self, version: IpVersion) {
        for remote in [9998, 9999] {
            let port = self.port();
            for is_sent in [true, false, true, false] {
                self.datagram(Kind::Shaped, version, [port, remote], is_sent);
            }
        }
    }

    /// One from a port to a remote one, or the other way.
    fn datagram(&mut self, kind: Kind, version: IpVersion, ports: [u16; 2], is_sent: bool) {
        let [local, remote] = ends(version);
        let mut ends = [end(local, ports[0]), end(remote, ports[1])];
        if !is_sent {
            ends.reverse();
        }
        let number = self.port();
        let packet = udp(&ends[0], &ends[1], number.to_string().as_bytes());
        self.send(kind, number, true, &packet);
    }

    /// A connection of which something waits.
    fn begin(&mut self, version: IpVersion, server: u16) -> usize {
        let [host, peer] = ends(version);
        let client = end(host, self.port());
        let mut tcp = Tcp::new(&client, &end(peer, server));
        let mut reports = tcp
            .handshake()
            .into_iter()
            .map(|packet| self.net.packet(&packet))
            .collect::<Vec<_>>();
        let flow = reports.remove(0).flow.expect("it has one");
        self.talks.push(Talk { tcp, flow });
        let index = self.talks.len() - 1;
        self.says(index, 0);
        index
    }

    fn says(&mut self, index: usize, part: usize) {
        let tcp = &mut self.talks[index].tcp;
        let [client, server] = SAYS.map(|says| says[part].as_bytes());
        for packet in [tcp.client_says(client), tcp.server_says(server)] {
            self.net.packet(&packet);
        }
        self.look();
    }

    /// The rest is said, and the connection closed.
    fn ends(&mut self, index: usize) {
        self.says(index, 1);
        for packet in self.talks[index].tcp.close() {
            self.net.packet(&packet);
        }
        self.look();
    }

    /// A packet of this number; `is_seen` when it has left the stack.
    fn send(&mut self, kind: Kind, number: u16, is_seen: bool, packet: &[u8]) {
        let report = self.net.packet(packet);
        let waited = report.reason.is_some_and(Reason::is_pending);
        let sent = Sent {
            kind,
            number,
            is_seen,
            passed: (!waited).then_some(report.passed),
            waited,
        };
        assert!(self.sent.insert(report.id, sent).is_none(), "{report:?}");
        self.look();
    }

    /// Lets the stack do what was asked of it, and notes what has become of what.
    pub fn look(&mut self) {
        for (id, passed) in self.net.settle() {
            // Those of conversations are not noted.
            if let Some(sent) = self.sent.get_mut(&id) {
                assert_eq!(sent.passed, None, "decided twice: {sent:?}");
                sent.passed = Some(passed);
            }
        }
        let output = self.net.output();
        self.note(output);
    }

    fn note(&mut self, output: Vec<Output>) {
        for output in output {
            match output {
                Output::Sent(packet) => {
                    let summary = PacketSummary::parse(&packet).expect("a packet");
                    let number = if summary.protocol == UDP {
                        number(&packet[summary.header_length + 8..])
                    } else {
                        summary.source.port
                    };
                    *self.left.entry(number).or_default() += 1;
                }
                Output::Datagram { bytes, .. } => {
                    *self.left.entry(number(&bytes)).or_default() += 1;
                }
                Output::Stream { flow_handle, .. } => {
                    let arrived = self.arrived.entry(flow_handle);
                    arrived
                        .or_insert_with(|| Arrived::of(HOST_V4))
                        .add([output]);
                }
            }
        }
    }

    /// So many milliseconds pass.
    fn pass(&mut self, milliseconds: u64) {
        let passing = self.net.pass(milliseconds * MILLISECOND).into_iter();
        let output = passing.map(|(_, output)| output).collect();
        self.note(output);
        self.look();
    }

    /// Ends what is left.
    fn close(&mut self) {
        // What is not completed by now never is, but for packets that were refused when their time was over.
        self.net.finish();
        self.look();
    }

    /// Whether all that was said in a conversation arrived, and both ends.
    fn is_whole(&self, talk: &Talk) -> bool {
        let handles = &self.net.flows()[talk.flow.0].handles;
        let arrived = handles.iter().find_map(|handle| self.arrived.get(handle));
        arrived.is_some_and(|arrived| {
            let said = SAYS.map(|says| says.concat());
            // What was still edited, and what was not any more.
            let plain = |data: &Vec<u8>| replaced(data, &[("******", "secret")]);
            let all = arrived.data.each_ref().map(plain) == said.map(String::into_bytes);
            all && arrived.ends == 2
        })
    }
}

/// Lets everything go on that can, ends what is left, and adds up what has become of it.
///
/// Of what was copied each processor's host may send some.
pub fn add_up(hosts: &mut [Waits]) -> Sum {
    for round in 0..4 * SECONDS {
        let number = round % hosts.len();
        hosts[number].pass(1_000 / 4);
    }
    for host in &mut *hosts {
        host.close();
    }
    let mut left: BTreeMap<u16, usize> = BTreeMap::new();
    for (number, times) in hosts.iter().flat_map(|host| &host.left) {
        *left.entry(*number).or_default() += times;
    }
    let mut sum = Sum::default();
    for host in hosts {
        sum.asked += host.listens.len() as u64;
        for sent in host.sent.values() {
            let times = left.get(&sent.number).copied().unwrap_or(0);
            assert!(times <= 1, "{times} times: {sent:?}");
            let went_on = times == 1;
            match sent.kind {
                Kind::Shaped => sum.shaped[usize::from(!went_on)] += u64::from(sent.waited),
                Kind::Asked => {
                    let passed = sent
                        .passed
                        .unwrap_or_else(|| panic!("held for ever: {sent:?}"));
                    assert!(!sent.is_seen || went_on == passed, "{sent:?}");
                    sum.asked += u64::from(sent.waited);
                }
            }
        }
        let cut = host.talks.iter().filter(|talk| !host.is_whole(talk));
        sum.cut += cut.count() as u64;
    }
    sum
}
