//! Reads `ClassBench`'s rule sets and traces.

use flate2::read::GzDecoder;
use portcullis_core::{Action, Application, Connection, Direction, Endpoint};
use portcullis_policy::{Policy, Ranges, Rule};
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// A rule set and packets for it.
pub struct Set {
    pub policy: Policy,
    pub trace: Vec<Connection<'static>>,
}

/// Loads a set; `None`, and a word on standard error, where the sets are not at hand.
pub fn load(name: &str) -> Option<Set> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/classbench");
    let read = |kind: &str| {
        let mut text = String::new();
        let file = File::open(folder.join(format!("{name}.{kind}.gz"))).ok()?;
        GzDecoder::new(file)
            .read_to_string(&mut text)
            .expect("gzip");
        Some(text)
    };
    let (Some(rules), Some(trace)) = (read("rules"), read("rules_trace")) else {
        eprintln!("SKIPPED: the ClassBench set {name} is not at hand");
        return None;
    };
    let mut policy = Policy::new(Action::Block);
    policy.rules = rules.lines().map(rule).collect();
    Some(Set {
        policy,
        trace: trace.lines().map(packet).collect(),
    })
}

/// `@SRC/LEN  DST/LEN  SPORT : SPORT  DPORT : DPORT  PROTO/MASK  FLAGS/MASK`
fn rule(line: &str) -> Rule {
    let mut words = line
        .trim_start_matches('@')
        .split_whitespace()
        .filter(|word| *word != ":");
    let mut word = || words.next().expect("a field");
    let mut rule = Rule::new("", Action::Permit);
    rule.local_addresses = network(word());
    rule.remote_addresses = network(word());
    let mut ports = || {
        let number = |word: &str| word.parse::<u128>().expect("a port");
        match (number(word()), number(word())) {
            (0, 65535) => Ranges::default(),
            range => Ranges::new([range]),
        }
    };
    rule.local_ports = ports();
    rule.remote_ports = ports();
    if let Some(protocol) = word().strip_suffix("/0xFF") {
        let number =
            u128::from_str_radix(protocol.trim_start_matches("0x"), 16).expect("a protocol");
        rule.protocols = Ranges::new([(number, number)]);
    }
    rule
}

fn network(text: &str) -> Ranges {
    let (address, length) = text.split_once('/').expect("a prefix length");
    let address: Ipv4Addr = address.parse().expect("an address");
    let length: u32 = length.parse().expect("a number");
    if length == 0 {
        return Ranges::default();
    }
    let host = u32::MAX.checked_shr(length).unwrap_or(0);
    let number = |bits: u32| Endpoint::new(Ipv4Addr::from_bits(bits).into(), 0).number();
    Ranges::new([(
        number(address.to_bits() & !host),
        number(address.to_bits() | host),
    )])
}

fn packet(line: &str) -> Connection<'static> {
    let fields: Vec<u32> = line
        .split_whitespace()
        .take(5)
        .map(|field| field.parse().expect("a number"))
        .collect();
    let [source, destination, source_port, destination_port, protocol] = fields[..] else {
        panic!("five fields")
    };
    let endpoint = |address: u32, port: u32| {
        Endpoint::new(
            IpAddr::from(Ipv4Addr::from_bits(address)),
            u16::try_from(port).expect("a port"),
        )
    };
    Connection {
        direction: Direction::Outbound,
        protocol: u8::try_from(protocol).expect("a protocol"),
        local: endpoint(source, source_port),
        remote: endpoint(destination, destination_port),
        application: Application::UNKNOWN,
        user: &[],
        process_id: 0,
        flow: 0,
        interface: 0,
    }
}
