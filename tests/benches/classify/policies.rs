//! Policies of any size, the same for the same seed.

use std::fmt::Write as _;
use std::net::IpAddr;

use ksim::net::End;
use portcullis_policy::{Options, compile};

/// splitmix64: numbers that look random and are the same every time.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What every policy is made from.
pub(crate) const SEED: u64 = 0x706f_7274;

/// What the rules ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Addresses and ports.
    Endpoints,
    /// Applications besides: one in four by a pattern.
    Applications,
    /// Every rule blocks two literals, wherever they are.
    Contents,
    /// One rule in four blocks a host wherever it is; the others ask for addresses and ports.
    Hosts,
}

/// Which decisions make events.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Events {
    None,
    /// Those of the last rule.
    Last,
    /// All, as in a replay.
    All,
}

/// A policy of `rules` rules whose last one, and no other, matches connections to `remote`; compiled. The other rules
/// are near it: prefixes that hold its address, with other ports, and addresses of the same network.
pub(crate) fn policy(kind: Kind, rules: usize, remote: End, events: Events) -> Vec<u8> {
    let mut random = Random::new(SEED);
    let mut text = "default = \"permit\"\n".to_owned();
    for number in 1..rules {
        text.push_str("[[rule]]\n");
        if kind == Kind::Hosts && number % 4 == 0 {
            let name = format!("host{number}.elsewhere.example");
            writeln!(
                text,
                "action = \"block\"\nhost = [\"{name}\", \"*.{name}\"]"
            )
            .expect("a string");
            continue;
        }
        if kind == Kind::Contents {
            let (first, second) = (random.below(u64::MAX), random.below(u64::MAX));
            writeln!(
                text,
                "action = \"block\"\ncontent_hex = [\"{first:016x}\", \"{second:016x}{first:016x}\"]"
            )
            .expect("a string");
            continue;
        }
        let action = if random.below(2) == 0 {
            "permit"
        } else {
            "block"
        };
        let protocol = if random.below(4) == 0 { "udp" } else { "tcp" };
        writeln!(
            text,
            "action = \"{action}\"\ndirection = \"outbound\"\nprotocol = \"{protocol}\""
        )
        .expect("a string");
        writeln!(
            text,
            "remote_address = \"{}\"",
            near(remote.address, &mut random)
        )
        .expect("a string");
        writeln!(
            text,
            "remote_port = {}",
            other_port(remote.port, &mut random)
        )
        .expect("a string");
        match (kind, random.below(4)) {
            (Kind::Endpoints | Kind::Hosts | Kind::Contents, _) => {}
            (Kind::Applications, 0) => {
                writeln!(
                    text,
                    "application = 'C:\\Program Files\\*\\tool{number}.exe'"
                )
                .expect("a string");
            }
            (Kind::Applications, _) => {
                writeln!(
                    text,
                    "application = 'C:\\Program Files\\Vendor\\program{number}.exe'"
                )
                .expect("a string");
            }
        }
    }
    writeln!(
        text,
        "[[rule]]\naction = \"permit\"\ndirection = \"outbound\""
    )
    .expect("a string");
    writeln!(
        text,
        "remote_address = \"{}\"\nremote_port = {}",
        remote.address, remote.port
    )
    .expect("a string");
    writeln!(text, "log = {}", events == Events::Last).expect("a string");
    compile(
        &text,
        &Options {
            file_name: "benchmark".to_owned(),
            events_all: events == Events::All,
            ..Options::default()
        },
    )
    .unwrap_or_else(|wrong| panic!("the generated policy is not valid: {wrong:?}"))
    .blob
}

/// An address or prefix near `address`.
fn near(address: IpAddr, random: &mut Random) -> String {
    match address {
        IpAddr::V4(address) => {
            let length = 8 + random.below(25);
            let other = address.to_bits() ^ u32::try_from(random.below(1 << 16)).expect("16 bits");
            let masked = u64::from(other) >> (32 - length) << (32 - length);
            format!(
                "{}/{length}",
                std::net::Ipv4Addr::from_bits(u32::try_from(masked).expect("32 bits"))
            )
        }
        IpAddr::V6(address) => {
            let length = 32 + random.below(97);
            let other = address.to_bits() ^ u128::from(random.below(1 << 32)) << 32;
            let masked = other >> (128 - length) << (128 - length);
            format!("{}/{length}", std::net::Ipv6Addr::from_bits(masked))
        }
    }
}

/// Ports, all other than `port`: one, some, or a range.
fn other_port(port: u16, random: &mut Random) -> String {
    let mut one = || {
        let other = u16::try_from(1 + random.below(65_000)).expect("a port");
        if other == port { other + 1 } else { other }
    };
    let (first, second) = (one(), one());
    match random.below(3) {
        0 => first.to_string(),
        1 => format!("[{first}, {second}]"),
        _ if first > port => format!("\"{first}-{}\"", first.saturating_add(500)),
        _ => format!("\"{}-{first}\"", first.saturating_sub(500).max(1)),
    }
}
