//! The values of what a rule does besides deciding.

use super::{Issue, nearest, value};
use portcullis_proto::effect::{MAX_ASK, MAX_DELAY, MAX_EFFECT_TEXT, MAX_QUEUE, MAX_RATE, MILLION};
use portcullis_proto::policy::Action;
use std::net::{IpAddr, SocketAddr};

/// Units with what one of them is worth.
type Units = [(&'static str, u64)];

/// Sizes, in bytes. A k is 1,000; Ki is 1,024.
const SIZES: &Units = &[
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
];

/// Rates, in bits a second.
const RATES: &Units = &[
    ("bit/s", 1),
    ("kbit/s", 1_000),
    ("mbit/s", 1_000_000),
    ("gbit/s", 1_000_000_000),
    ("b/s", 8),
    ("kb/s", 8_000),
    ("mb/s", 8_000_000),
    ("gb/s", 8_000_000_000),
    ("kib/s", 8 << 10),
    ("mib/s", 8 << 20),
    ("gib/s", 8 << 30),
];

/// Times, in microseconds.
const TIMES: &Units = &[("us", 1), ("µs", 1), ("ms", 1_000), ("s", 1_000_000)];

/// A number with a unit: in thousandths of what the units count.
fn quantity(text: &str, units: &Units, example: &str) -> Result<u128, Issue> {
    let wrong = || Issue::new(format!("\"{text}\" is no quantity with a unit"));
    let split = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .ok_or_else(|| wrong().hint(format!("write a unit: \"{example}\"")))?;
    let (digits, unit) = text.split_at(split);
    let unit = unit.trim().to_lowercase();
    let worth = units
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, worth)| u128::from(*worth))
        .ok_or_else(|| {
            let issue = Issue::new(format!("there is no unit \"{unit}\" here"));
            let bits = unit
                .strip_suffix("bps")
                .map(|prefix| format!("{prefix}bit/s"));
            let named = units.iter().map(|(name, _)| *name);
            let bits = bits.filter(|bits| named.clone().any(|name| name == bits));
            match bits.as_deref().or_else(|| nearest(&unit, named)) {
                Some(name) => issue.hint(format!("did you mean \"{name}\"?")),
                None => issue.hint(format!("write for example \"{example}\"")),
            }
        })?;
    thousandths(digits)
        .map(|number| number * worth)
        .ok_or_else(|| wrong().hint(format!("write for example \"{example}\"")))
}

/// A decimal number of up to nine digits before the point and three behind it, times 1,000.
fn thousandths(digits: &str) -> Option<u128> {
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |digits: &str, most| {
        (1..=most).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
    };
    if !is_number(whole, 9) || !is_number(part, 3) {
        return None;
    }
    let part: u128 = format!("{part:0<3}").parse().ok()?;
    Some(whole.parse::<u128>().ok()? * 1_000 + part)
}

/// What is between these bounds.
fn within(number: u128, least: u64, most: u64, text: &str, bounds: &str) -> Result<u64, Issue> {
    u64::try_from(number)
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| Issue::new(format!("\"{text}\" is out of bounds")).hint(bounds.to_owned()))
}

/// Seconds to wait for an answer, in milliseconds.
pub(super) fn ask_seconds(seconds: u64) -> Result<u64, Issue> {
    let milliseconds = u128::from(seconds) * 1_000;
    let bounds = format!("from 1 to {} seconds", MAX_ASK / 1_000);
    within(milliseconds, 1, MAX_ASK, &seconds.to_string(), &bounds)
}

/// What happens if nobody answers.
pub(super) fn ask_default(text: &str) -> Result<Action, Issue> {
    match value::action(text)? {
        Action::Ask => {
            Err(Issue::new("nobody is there to be asked again")
                .hint("it is \"permit\" or \"block\""))
        }
        action => Ok(action),
    }
}

/// What happens while there is no proxy.
pub(super) fn redirect_default(text: &str) -> Result<Action, Issue> {
    match value::action(text)? {
        Action::Ask => Err(
            Issue::new("nobody is asked about a proxy that is not there")
                .hint("it is \"permit\", and connections go straight, or \"block\""),
        ),
        action => Ok(action),
    }
}

/// Bytes a second.
pub(super) fn rate(text: &str) -> Result<u64, Issue> {
    let bits = quantity(text, RATES, "8 Mbit/s")?;
    within(bits / 8_000, 1, MAX_RATE, text, "from 1 B/s to 1 TB/s")
}

/// Bytes that may come at once.
pub(super) fn burst(text: &str) -> Result<u64, Issue> {
    let bytes = quantity(text, SIZES, "64 kB")?;
    within(bytes / 1_000, 1, MAX_RATE, text, "from 1 B to 1 TB")
}

/// Bytes that may wait.
pub(super) fn queue(text: &str) -> Result<u64, Issue> {
    let bytes = quantity(text, SIZES, "256 kB")?;
    within(bytes / 1_000, 0, MAX_QUEUE, text, "up to 16 MiB")
}

/// Microseconds.
pub(super) fn time(text: &str) -> Result<u64, Issue> {
    let microseconds = quantity(text, TIMES, "50 ms")?;
    within(microseconds / 1_000, 0, MAX_DELAY, text, "up to 10 s")
}

/// Whether a delay and its jitter, in microseconds, delay anything.
pub(super) fn delay(delay: u64, jitter: u64) -> Result<bool, Issue> {
    if delay + jitter > MAX_DELAY {
        return Err(Issue::new(
            "the delay and its jitter are more than 10 s together",
        ));
    }
    Ok(delay + jitter > 0)
}

/// A share of packets, in a million.
pub(super) fn loss(text: &str) -> Result<u64, Issue> {
    let percent = quantity(text, &[("%", 1)], "0.5 %")?;
    within(percent * 10, 1, MILLION, text, "from 0.001 % to 100 %")
}

/// Where a proxy listens.
pub(super) fn proxy(text: &str) -> Result<SocketAddr, Issue> {
    let issue = || Issue::new(format!("\"{text}\" is no proxy"));
    let example = "write an address with its port: \"127.0.0.1:8080\", \"[::1]:8080\"";
    let proxy: SocketAddr = text.parse().map_err(|_| issue().hint(example))?;
    if proxy.port() == 0 {
        return Err(issue().hint("a proxy has a port from 1 to 65535"));
    }
    if proxy.ip().to_canonical().is_ipv4() != proxy.is_ipv4() {
        return Err(issue().hint("write an IPv4 address as it is"));
    }
    if !proxy.ip().is_loopback() {
        return Err(
            Issue::new(format!("the proxy {text} is not on this machine")).hint(
                "connections are redirected to a program of this machine, at 127.0.0.1 or ::1",
            ),
        );
    }
    Ok(proxy)
}

/// The local address of sockets.
pub(super) fn bind(text: &str) -> Result<IpAddr, Issue> {
    let address: IpAddr = text.parse().map_err(|_| {
        Issue::new(format!("\"{text}\" is no IP address"))
            .hint("write the address of a network interface of this machine")
    })?;
    if address.is_unspecified() || address.is_multicast() {
        return Err(Issue::new(format!("no socket can have the address {text}")));
    }
    Ok(address.to_canonical())
}

/// Another remote side: an address, a port, or both.
pub(super) fn translate(text: &str) -> Result<(Option<IpAddr>, Option<u16>), Issue> {
    let issue = || Issue::new(format!("\"{text}\" is no remote side"));
    let (address, port) =
        if let Some(port) = text.strip_prefix(':').filter(|rest| !rest.starts_with(':')) {
            (
                None,
                Some(
                    port.parse()
                        .map_err(|_| issue().hint("a port is a number from 1 to 65535"))?,
                ),
            )
        } else if let Ok(address) = text.parse::<IpAddr>() {
            (Some(address), None)
        } else {
            let both: SocketAddr = text.parse().map_err(|_| {
                issue().hint(
                    "write \"198.51.100.7\", \"198.51.100.7:53\", \"[2001:db8::7]:53\" or \":53\"",
                )
            })?;
            (Some(both.ip()), Some(both.port()))
        };
    if port == Some(0)
        || address.is_some_and(|address| address.is_unspecified() || address.is_multicast())
    {
        return Err(issue().hint("it is the address of one machine, and a port from 1 to 65535"));
    }
    Ok((address.map(|address| address.to_canonical()), port))
}

/// A number of the IP header.
pub(super) fn header_field(name: &str, number: u64, least: u8, most: u8) -> Result<u8, Issue> {
    u8::try_from(number)
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| {
            Issue::new(format!("`{name}` is {number}"))
                .hint(format!("it is a number from {least} to {most}"))
        })
}

/// The name of an HTTP header.
pub(super) fn header_name(text: &str) -> Result<String, Issue> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || !text.bytes().all(is_token) {
        return Err(Issue::new(format!("\"{text}\" is no header's name"))
            .hint("write it without the colon: `User-Agent`"));
    }
    let framing = ["content-length", "transfer-encoding", "connection", "host"];
    if framing.contains(&text.to_lowercase().as_str()) {
        return Err(Issue::new(format!("the header {text} can't be changed"))
            .hint("it says where a request ends, or to whom it goes"));
    }
    short(text.len())?;
    Ok(text.to_owned())
}

/// The value of an HTTP header.
pub(super) fn header_value(text: &str) -> Result<String, Issue> {
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ')
    {
        return Err(Issue::new("a header's value is one line of ASCII"));
    }
    short(text.len())?;
    Ok(text.to_owned())
}

/// Bytes that come in the place of others.
pub(super) fn replacement(bytes: Vec<u8>) -> Result<Vec<u8>, Issue> {
    short(bytes.len()).map(|()| bytes)
}

fn short(length: usize) -> Result<(), Issue> {
    if length <= MAX_EFFECT_TEXT {
        return Ok(());
    }
    Err(Issue::new(format!(
        "{length} bytes, and at most {MAX_EFFECT_TEXT} are possible"
    )))
}

#[cfg(test)]
mod tests {
    use super::{loss, rate, thousandths, time, translate};

    #[test]
    fn quantities_have_decimals_and_units() {
        assert_eq!(thousandths("1.5"), Some(1_500));
        assert_eq!(thousandths("0.025"), Some(25));
        for wrong in ["", ".", "1.", ".5", "1.2345", "1.2.3", "12345678901"] {
            assert_eq!(thousandths(wrong), None, "{wrong}");
        }
        assert_eq!(rate("8 Mbit/s").ok(), Some(1_000_000));
        assert_eq!(rate("1.5MB/s").ok(), Some(1_500_000));
        assert_eq!(rate("7 bit/s").ok(), None, "less than a byte a second");
        assert_eq!(time("1.5 ms").ok(), Some(1_500));
        assert_eq!(time("11 s").ok(), None);
        assert_eq!(loss("0.001 %").ok(), Some(10));
        assert_eq!(loss("101 %").ok(), None);
    }

    #[test]
    fn another_remote_side_is_an_address_a_port_or_both() {
        let address = |text: &str| text.parse().ok();
        assert_eq!(translate(":53").ok(), Some((None, Some(53))));
        assert_eq!(translate("::1").ok(), Some((address("::1"), None)));
        assert_eq!(
            translate("192.0.2.1:80").ok(),
            Some((address("192.0.2.1"), Some(80)))
        );
        for wrong in [":", ":0", "0.0.0.0", "224.0.0.1", "192.0.2.1:0", "host:80"] {
            assert!(translate(wrong).is_err(), "{wrong}");
        }
    }
}
