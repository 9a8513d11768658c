//! Streams: conversations in segments of any length, and what their receivers get.

use ksim::net::Output;
use wfp_schema::StreamFlags;

use crate::random::Random;
use crate::{HOST_V4, HOST_V6, Net, Tcp};

/// What has left the stack of one connection's data.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// What the client said, and what the server said.
    pub data: [Vec<u8>; 2],
    /// How many directions have ended.
    pub ends: usize,
    /// A direction was reset.
    pub is_reset: bool,
    is_inbound: bool,
}

impl Arrived {
    /// Nothing yet, of a connection that this client begins.
    #[must_use]
    pub fn of(client: &str) -> Self {
        let is_local = [HOST_V4, HOST_V6]
            .iter()
            .any(|host| client.trim_start_matches('[').starts_with(host));
        Self {
            is_inbound: !is_local,
            ..Self::default()
        }
    }

    /// Adds what has left the stack since.
    pub fn add(&mut self, output: impl IntoIterator<Item = Output>) {
        for output in output {
            let Output::Stream { flags, bytes, .. } = output else {
                continue;
            };
            let abort = StreamFlags::SEND_ABORT | StreamFlags::RECEIVE_ABORT;
            let end = StreamFlags::SEND_DISCONNECT | StreamFlags::RECEIVE_DISCONNECT;
            let is_received = flags.contains(StreamFlags::RECEIVE);
            self.is_reset |= flags.intersects(abort);
            assert!(self.ends < 2 || bytes.is_empty(), "data behind both ends");
            self.data[usize::from(is_received != self.is_inbound)].extend(bytes);
            self.ends += usize::from(flags.intersects(end));
        }
    }

    /// Lets the stack do what was asked of it until both directions have ended, or nothing happens any more.
    pub fn settle(&mut self, net: &mut Net) {
        for _ in 0..100_000 {
            net.settle();
            self.add(net.output());
            if self.ends == 2 || self.is_reset {
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// A connection that says its messages in segments of random lengths.
#[derive(Debug)]
pub struct Conversation<'m> {
    /// The connection.
    pub tcp: Tcp,
    left: [&'m [u8]; 2],
}

impl<'m> Conversation<'m> {
    /// Begins one; the handshake's segments have been sent. No time passes.
    pub fn begin(net: &mut Net, (client, server): (&str, &str), messages: [&'m [u8]; 2]) -> Self {
        let mut tcp = Tcp::new(client, server);
        for packet in tcp.handshake() {
            net.at_once(&[packet]);
        }
        Self::of(tcp, messages)
    }

    /// One that has been established.
    #[must_use]
    pub const fn of(tcp: Tcp, messages: [&'m [u8]; 2]) -> Self {
        Self {
            tcp,
            left: messages,
        }
    }

    /// The next segment; `None`: everything is said.
    pub fn segment(&mut self, random: &mut Random) -> Option<Vec<u8>> {
        if self.left.iter().all(|message| message.is_empty()) {
            return None;
        }
        loop {
            let side = random.below(2);
            let most = 1 + random.below(40);
            let (now, then) = self.left[side].split_at(self.left[side].len().min(most));
            self.left[side] = then;
            if !now.is_empty() {
                return Some(if side == 0 {
                    self.tcp.client_says(now)
                } else {
                    self.tcp.server_says(now)
                });
            }
        }
    }
}

/// Says both messages in segments of random lengths, and closes the connection. No time passes. Returns what arrived.
pub fn converse(
    net: &mut Net,
    random: &mut Random,
    ends: (&str, &str),
    messages: [&[u8]; 2],
) -> Arrived {
    let mut arrived = Arrived::of(ends.0);
    let mut conversation = Conversation::begin(net, ends, messages);
    while let Some(packet) = conversation.segment(random) {
        arrived.add(net.at_once(&[packet]));
    }
    for packet in conversation.tcp.close() {
        arrived.add(net.at_once(&[packet]));
    }
    net.settle();
    arrived.add(net.output());
    arrived
}

/// `message` with each text replaced, as the rule says: at each place the first that is there.
#[must_use]
pub fn replaced(message: &[u8], replacements: &[(&str, &str)]) -> Vec<u8> {
    let mut edited = Vec::new();
    let mut rest = message;
    while let Some((&byte, behind)) = rest.split_first() {
        let found = replacements
            .iter()
            .find(|(find, _)| rest.starts_with(find.as_bytes()));
        if let Some((find, with)) = found {
            edited.extend_from_slice(with.as_bytes());
            rest = &rest[find.len()..];
        } else {
            edited.push(byte);
            rest = behind;
        }
    }
    edited
}
