//! The values of a rule's conditions.

use super::{Issue, direction as direction_named, nearest};
use crate::model::{HostPattern, Sid};
use crate::ranges::Ranges;
use portcullis_proto::event::{MAX_HOST, Operation};
use portcullis_proto::policy::{Action, Direction, MAX_CONTENT, map_v4};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Everything but IPv4, as numbers: what is below and above `::ffff:0:0/96`.
const MAPPED: (u128, u128) = (0xFFFF_0000_0000, 0xFFFF_FFFF_FFFF);

pub(super) fn action(text: &str) -> Result<Action, Issue> {
    let instead = match text {
        "permit" => return Ok(Action::Permit),
        "block" => return Ok(Action::Block),
        "ask" => return Ok(Action::Ask),
        _ => match text.to_lowercase().as_str() {
            "allow" | "accept" | "pass" | "bypass" | "yes" => Some("permit"),
            "deny" | "drop" | "reject" | "discard" | "no" => Some("block"),
            "prompt" | "query" | "hold" => Some("ask"),
            other => nearest(other, ["permit", "block", "ask"]),
        },
    };
    let issue = Issue::new(format!("there is no action \"{text}\""));
    Err(issue.hint(instead.map_or_else(
        || "it is \"permit\", \"block\" or \"ask\"".to_owned(),
        |name| format!("write \"{name}\""),
    )))
}

/// What happens where no rule matches.
pub(super) fn default(text: &str) -> Result<Action, Issue> {
    match action(text)? {
        Action::Ask => Err(Issue::new("the default does not ask")
            .hint("end with a rule without conditions: `action = \"ask\"`")),
        action => Ok(action),
    }
}

pub(super) fn direction(text: &str) -> Result<Direction, Issue> {
    if let Some(direction) = direction_named(text) {
        return Ok(direction);
    }
    let lower = text.to_lowercase();
    let instead = match lower.as_str() {
        "out" | "outgoing" | "egress" | "output" => Some("outbound"),
        "in" | "incoming" | "ingress" | "input" => Some("inbound"),
        other => nearest(other, ["outbound", "inbound"]),
    };
    let issue = Issue::new(format!("there is no direction \"{text}\""));
    Err(match (instead, lower.as_str()) {
        (_, "any" | "both") => issue.hint("leave it out to match both"),
        (Some(name), _) => issue.hint(format!("write \"{name}\"")),
        (None, _) => issue.hint("it is \"outbound\" or \"inbound\""),
    })
}

pub(super) fn operation(text: &str) -> Result<Operation, Issue> {
    let mut all = Operation::ALL.iter().copied();
    if let Some(operation) = all.find(|operation| operation.name() == text) {
        return Ok(operation);
    }
    let names = Operation::ALL.iter().map(|operation| operation.name());
    let lower = text.to_lowercase();
    let instead = match lower.as_str() {
        "icmp" | "icmp_error" | "icmperror" | "unreachable" => Some("icmp-error"),
        "route" | "routed" | "forwarded" | "ipforward" => Some("forward"),
        "resource-assignment" | "assign" | "socket" => Some("bind"),
        "recv-accept" | "receive" => Some("accept"),
        other => nearest(other, names.clone()),
    };
    let issue = Issue::new(format!("there is no operation \"{text}\""));
    Err(issue.hint(instead.map_or_else(
        || {
            let names: Vec<String> = names.map(|name| format!("\"{name}\"")).collect();
            format!("the operations are {}", names.join(", "))
        },
        |name| format!("write \"{name}\""),
    )))
}

/// Protocols by the names that `New-NetFirewallRule` and IANA give them.
const PROTOCOLS: [(&str, u8); 9] = [
    ("tcp", 6),
    ("udp", 17),
    ("icmp", 1),
    ("icmpv4", 1),
    ("icmpv6", 58),
    ("igmp", 2),
    ("gre", 47),
    ("esp", 50),
    ("sctp", 132),
];

pub(super) fn protocol(text: &str) -> Result<(u128, u128), Issue> {
    let lower = text.to_lowercase();
    let named = PROTOCOLS
        .iter()
        .find(|(name, _)| *name == lower)
        .map(|(_, number)| *number);
    if let Some(number) = named.or_else(|| lower.parse().ok()) {
        return Ok((number.into(), number.into()));
    }
    let issue = Issue::new(format!("there is no protocol \"{text}\""));
    Err(match lower.as_str() {
        "any" | "all" => issue.hint("leave it out to match all"),
        "http" | "https" | "tls" | "ssh" => {
            issue.hint("write \"tcp\", and the port as `remote_port`")
        }
        "dns" | "quic" => issue.hint("write \"udp\", and the port as `remote_port`"),
        _ if lower.bytes().all(|byte| byte.is_ascii_digit()) => {
            issue.hint("protocols have numbers from 0 to 255")
        }
        _ => match nearest(&lower, PROTOCOLS.map(|(name, _)| name)) {
            Some(name) => issue.hint(format!("did you mean \"{name}\"?")),
            None => issue.hint("it is tcp, udp, icmp, icmpv6, igmp, gre, esp, sctp or a number"),
        },
    })
}

/// The protocols that have ports.
pub(super) fn with_ports() -> Ranges {
    Ranges::new([(6, 6), (17, 17)])
}

pub(super) fn port(text: &str) -> Result<(u128, u128), Issue> {
    let number = |part: &str| part.trim().parse::<u16>().map(u128::from).ok();
    let range = match text.split_once('-') {
        None => number(text).map(|port| (port, port)),
        Some((first, last)) => number(first).zip(number(last)),
    };
    let issue = Issue::new(format!("\"{text}\" is no port"));
    match range {
        Some((first, last)) if first <= last => Ok((first, last)),
        Some((first, last)) => Err(issue.hint(format!("write \"{last}-{first}\""))),
        None => Err(match text.to_lowercase().as_str() {
            "any" | "*" => issue.hint("leave it out to match all"),
            "http" => issue.hint("write 80"),
            "https" => issue.hint("write 443"),
            "dns" => issue.hint("write 53"),
            "ssh" => issue.hint("write 22"),
            "rdp" => issue.hint("write 3389"),
            "smb" => issue.hint("write 445"),
            _ if text.contains(',') => issue.hint("write a list: [80, 443]"),
            _ if text.contains(':') => issue.hint("write a range as \"8000-8100\""),
            _ => issue.hint("ports are numbers from 0 to 65535, or ranges like \"8000-8100\""),
        }),
    }
}

const fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from_be_bytes(map_v4(v4.octets())),
        IpAddr::V6(v6) => u128::from_be_bytes(v6.octets()),
    }
}

/// Whether some IPv4 address is among them.
pub(super) fn covers_v4(ranges: &Ranges) -> bool {
    ranges.meets(MAPPED)
}

/// Whether some IPv6 address is among them.
pub(super) fn covers_v6(ranges: &Ranges) -> bool {
    ranges.meets((0, MAPPED.0 - 1)) || ranges.meets((MAPPED.1 + 1, u128::MAX))
}

/// One or two ranges: an IPv6 range leaves the numbers of IPv4 out.
type Addresses = Vec<(u128, u128)>;

pub(super) fn address(text: &str) -> Result<(Addresses, Option<Issue>), Issue> {
    let parse = |part: &str| {
        let part = part.trim();
        part.parse::<IpAddr>().map_err(|_| no_address(text, part))
    };
    if let Some((address, prefix)) = text.split_once('/') {
        return network(text, parse(address)?, prefix.trim());
    }
    let Some((first, last)) = text.split_once('-') else {
        let address = number(parse(text)?);
        return Ok((vec![(address, address)], None));
    };
    let (first, last) = (parse(first)?, parse(last)?);
    if first.is_ipv4() != last.is_ipv4() {
        return Err(Issue::new(
            "the range begins in one version of IP and ends in the other",
        ));
    }
    if first > last {
        return Err(Issue::new(format!("the range \"{text}\" is empty"))
            .hint(format!("write \"{last}-{first}\"")));
    }
    Ok((
        without_v4(number(first), number(last), first.is_ipv4()),
        None,
    ))
}

fn network(text: &str, address: IpAddr, prefix: &str) -> Result<(Addresses, Option<Issue>), Issue> {
    let bits: u32 = if address.is_ipv4() { 32 } else { 128 };
    let mask = prefix
        .parse::<Ipv4Addr>()
        .ok()
        .filter(|_| address.is_ipv4())
        .map(Ipv4Addr::to_bits);
    let length = match mask {
        Some(mask) if mask.leading_ones() + mask.trailing_zeros() >= 32 => {
            Some(mask.leading_ones())
        }
        Some(_) => return Err(Issue::new(format!("the mask of \"{text}\" has a gap"))),
        None => prefix.parse().ok().filter(|length| *length <= bits),
    };
    let Some(length) = length else {
        let issue = Issue::new(format!("\"{text}\" has no prefix length"));
        return Err(issue.hint(format!("after the / comes a number from 0 to {bits}")));
    };
    let host = u128::MAX.checked_shr(128 - (bits - length)).unwrap_or(0);
    let (first, last) = (number(address) & !host, number(address) | host);
    let warning = (first != number(address)).then(|| {
        let network = IpAddr::V6(Ipv6Addr::from_bits(first)).to_canonical();
        let issue = Issue::new(format!("\"{text}\" is an address within its network"));
        issue
            .hint(format!(
                "write \"{network}/{length}\" for the network, or leave the prefix out"
            ))
            .warning()
    });
    Ok((without_v4(first, last, address.is_ipv4()), warning))
}

/// A range without the numbers that are IPv4, unless it is of these alone.
fn without_v4(first: u128, last: u128, is_v4: bool) -> Addresses {
    if is_v4 || (first >= MAPPED.0 && last <= MAPPED.1) {
        return vec![(first, last)];
    }
    let below = (first, last.min(MAPPED.0 - 1));
    let above = (first.max(MAPPED.1 + 1), last);
    [below, above]
        .into_iter()
        .filter(|(first, last)| first <= last)
        .collect()
}

fn no_address(text: &str, part: &str) -> Issue {
    let issue = Issue::new(format!("\"{part}\" is no IP address"));
    match text.to_lowercase().as_str() {
        "any" | "*" | "all" => issue.hint("leave it out to match all"),
        "localhost" | "loopback" => issue.hint("write [\"127.0.0.0/8\", \"::1\"]"),
        "localsubnet" | "internet" | "intranet" | "dns" | "dhcp" | "wins" | "defaultgateway" => {
            issue.hint("write the addresses out; keywords are not known here")
        }
        _ if part.contains('*') => issue.hint("write a network as \"10.0.0.0/8\""),
        _ if part.starts_with('[') => issue.hint("leave the brackets out"),
        _ if part.contains(',') => issue.hint("write a list: [\"10.0.0.1\", \"10.0.0.2\"]"),
        _ if part.matches(':').count() == 1 => issue.hint("write the port as `remote_port` or `local_port`"),
        _ if part.contains('%') => issue.hint("leave the zone out"),
        _ if part.chars().any(char::is_alphabetic) && !part.contains(':') => issue.hint("a name goes to `host`"),
        _ => issue.hint("an address is like \"192.0.2.1\", \"192.0.2.0/24\", \"192.0.2.1-192.0.2.9\" or \"2001:db8::1\""),
    }
}

pub(super) fn user(text: &str) -> Result<Sid, Issue> {
    let plain = text.to_uppercase();
    let plain = plain.strip_prefix("NT AUTHORITY\\").unwrap_or(&plain);
    let well_known = match plain {
        "SYSTEM" | "LOCAL SYSTEM" | "LOCALSYSTEM" => Some(18),
        "LOCAL SERVICE" | "LOCALSERVICE" => Some(19),
        "NETWORK SERVICE" | "NETWORKSERVICE" => Some(20),
        _ => None,
    };
    if let Some(sid) = well_known.and_then(|rid| Sid::new(5, &[rid])) {
        return Ok(sid);
    }
    text.parse().map_err(|()| {
        let issue = Issue::new(format!("\"{text}\" is no user"));
        if plain.starts_with("S-1-") {
            issue.hint("a SID is like S-1-5-21-1004336348-1177238915-682003330-1001")
        } else if let Some(name) = nearest(plain, ["system", "local service", "network service"]) {
            issue.hint(format!("did you mean \"{}\"?", name.to_uppercase()))
        } else {
            issue.hint("write the user's SID (`whoami /user` shows yours), or SYSTEM, LOCAL SERVICE, NETWORK SERVICE")
        }
    })
}

pub(super) fn host(text: &str) -> Result<HostPattern, Issue> {
    let issue = || Issue::new(format!("\"{text}\" is no host name"));
    let lower = text.to_lowercase();
    if let Some((_, rest)) = lower.split_once("://") {
        let name = rest.split(['/', ':', '?']).next().unwrap_or(rest);
        return Err(issue().hint(format!("write the name alone: \"{name}\"")));
    }
    if lower == "*" {
        return Err(issue().hint("leave `host` out to match all"));
    }
    if !lower.is_ascii() {
        return Err(issue().hint("write the name as it travels, in its xn-- form"));
    }
    let (name, below) = lower
        .strip_prefix("*.")
        .map_or((lower.as_str(), false), |name| (name, true));
    let name = name.strip_suffix('.').unwrap_or(name);
    if let Some(bare) = name.strip_prefix('*').or_else(|| name.strip_prefix('.')) {
        return Err(issue().hint(format!("write \"*.{bare}\" for the names below {bare}")));
    }
    if name.parse::<IpAddr>().is_ok()
        || name
            .split('/')
            .next()
            .is_some_and(|part| part.parse::<IpAddr>().is_ok())
    {
        return Err(
            Issue::new(format!("\"{text}\" is an address")).hint("write it as `remote_address`")
        );
    }
    if let Some((bare, port)) = name.rsplit_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Err(issue().hint(format!("write \"{bare}\", and the port as `remote_port`")));
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if name.contains('*') {
        return Err(issue().hint("a `*` stands only at the beginning, before a dot"));
    }
    if name.len() > MAX_HOST || !name.split('.').all(is_label) {
        return Err(issue()
            .hint("a name is letters, digits, - and _ in parts of up to 63, with dots between"));
    }
    Ok(HostPattern {
        name: name.to_owned(),
        below,
    })
}

pub(super) fn content(text: &str) -> Result<Vec<u8>, Issue> {
    literal(text.as_bytes().to_vec())
}

pub(super) fn content_hex(text: &str) -> Result<Vec<u8>, Issue> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !matches!(byte, b' ' | b':'))
        .collect();
    let pairs = digits.chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair)
            .ok()
            .filter(|pair| pair.len() == 2)?;
        let digits = pair.bytes().all(|digit| digit.is_ascii_hexdigit());
        digits.then(|| u8::from_str_radix(pair, 16).ok()).flatten()
    });
    let bytes = pairs.collect::<Option<_>>().ok_or_else(|| {
        Issue::new(format!("\"{text}\" is not hexadecimal"))
            .hint("write two digits for each byte, such as \"de ad be ef\"")
    });
    literal(bytes?)
}

/// A literal that can be looked for.
fn literal(bytes: Vec<u8>) -> Result<Vec<u8>, Issue> {
    match bytes.len() {
        0 => Err(Issue::new("nothing to look for").hint("leave it out to match everything")),
        1..=MAX_CONTENT => Ok(bytes),
        length => Err(Issue::new(format!(
            "{length} bytes to look for, and at most {MAX_CONTENT} are possible"
        ))
        .hint("its first bytes will do")),
    }
}
