//! Portcullis's policy language: TOML in, the driver's compiled policy out.
//!
//! ```toml
//! default = "block"                      # what happens where no rule matches: "permit" or "block"
//! observe = true                         # events of binds, ICMP errors, and of what anybody discards; false unless written
//!
//! [[rule]]                               # rules are tried in order, the first match decides
//! name = "browser"
//! action = "permit"                      # "permit", "block" or "ask"
//! direction = "outbound"                 # "outbound" or "inbound"
//! protocol = "tcp"                       # tcp, udp, icmp, icmpv6, a number, or a list of these
//! remote_address = ["2000::/3", "1.0.0.0-223.255.255.255"]
//! remote_port = [80, 443, "8000-8100"]
//! application = 'C:\Program Files\*\browser.exe'
//! user = "S-1-5-21-1004336348-1177238915-682003330-1001"
//! host = ["example.com", "*.example.com"]
//! log = true                             # matches make events
//! ```
//!
//! # Conditions
//! A condition that is left out matches everything; a list matches when one of its elements does.
//!
//! | key | in PowerShell, in netsh | value |
//! |---|---|---|
//! | `operation` | | `"connect"`, `"accept"`, `"listen"` (these three unless written), `"bind"`, `"forward"`, `"icmp-error"` |
//! | `direction` | `-Direction`, `dir` | `"outbound"`: this machine began it; `"inbound"`: the other side did |
//! | `protocol` | `-Protocol`, `protocol` | a name or a number |
//! | `local_address`, `remote_address` | `-LocalAddress`, `localip` … | `a`, `a/prefix`, `a/mask` (IPv4), `a-b` |
//! | `local_port`, `remote_port` | `-LocalPort`, `localport` … | a number or `"a-b"`; means TCP and UDP unless `protocol` says which |
//! | `interface` | `-InterfaceAlias`, `interface` | a network interface's name, or its LUID as a number |
//! | `interface_type` | `-InterfaceType`, `interfacetype` | `"ethernet"`, `"wifi"`, `"mobile"`, `"ppp"`, `"tunnel"`, `"virtual"`, `"loopback"`, or a number of IANA's `ifType` |
//! | `application` | `-Program`, `program` | a path; `*` stands for any characters, `?` for one, upper and lower case are the same |
//! | `children` | | `true`: `application` also stands for what such an application has started, directly or not |
//! | `user` | `-LocalUser` | a SID, or SYSTEM, LOCAL SERVICE, NETWORK SERVICE |
//! | `host` | | `"name"`, or `"*.name"` for all names below it, without itself |
//! | `content`, `content_hex` | | bytes that are looked for in the data, both ways; as text, or as hexadecimal digits |
//!
//! A condition on the interface is about the one that the packets take: where they leave, or where they arrived. The name
//! is looked up when the policy is compiled, and stands for that interface's LUID, which it keeps over restarts. Where Windows
//! does not tell the interface, a rule that blocks matches and one that permits does not. A rule that asks, redirects or
//! binds has no such condition, and none stands before a rule that redirects the same connections: the interface is not
//! known there. docs/interfaces.md says more.
//!
//! An application's path with a drive letter (`C:\…`) stands for that path on any local volume, because the kernel
//! knows volumes by number and not by letter; `\device\harddiskvolume3\…` names one. `\\server\share\…` is a path on
//! the network, and `System` the kernel itself.
//!
//! A rule with `content` or `content_hex` blocks: it decides about a connection once one of its literals, of 1 to 255
//! bytes, has been found in what one side sent, also across segments, unless a rule before it permits. What was sent
//! before has passed; the segment, or datagram, in which the literal ends does not. Encrypted or compressed data is
//! looked at as it is.
//!
//! # Operations
//! A rule is about connections and listeners unless `operation` says otherwise. `"bind"` is a socket that is bound, and a
//! raw one; it has a local side, an interface unless it is bound to every address, a protocol, an application and a user. `"forward"` is a packet of other machines: local is
//! where it comes from, remote where it goes, the interface that by which it leaves. `"icmp-error"` is an ICMP error, known by its ends, its direction and its
//! protocol. What no rule about these operations matches is let through: the default is about connections.
//!
//! # Asking
//! A rule with `action = "ask"` holds the connection while a program of the user's is asked. `ask_seconds` (30 unless
//! written, up to 600) says for how long, `ask_default` (`"block"` unless written) what happens if nobody answers.
//!
//! # Effects
//! A rule that permits, or asks, may also change what it lets through.
//!
//! | key | value | what it does |
//! |---|---|---|
//! | `redirect` | `"127.0.0.1:8080"`, or a list of one for each IP version | sends outgoing TCP and UDP connections to a proxy of this machine |
//! | `redirect_default` | `"block"` unless written, or `"permit"` | what happens to them while no proxy is registered there: `"permit"` lets them go straight |
//! | `bind` | an address, or a list of one for each IP version | the local address of sockets that are bound; in rules without a condition on the remote side |
//! | `replace` | `[{ find = "…", with = "…", direction = "sent" }]`; also `find_hex`, `with_hex`; `"received"`, or both ways | replaces bytes in TCP streams |
//! | `http_header` | `{ User-Agent = "…" }`; `false` takes it out | replaces or adds headers of HTTP/1 requests |
//! | `dscp` | 0 to 63 | marks the packets that are sent |
//! | `ttl` | 1 to 255 | their time to live, or hop limit |
//! | `translate` | `"198.51.100.7:53"`, an address, or `":53"` | the remote side of packets, which the application does not see |
//! | `rate`, `burst`, `queue` | `"1 MB/s"`, `"64 kB"`, `"256 kB"`; bits as `"8 Mbit/s"` | limits what all connections of the rule send, and what they receive |
//! | `rate_per` | `"rule"` unless written, or `"flow"` | whether they share the limit, or each has its own |
//! | `delay`, `jitter` | `"50 ms"`, `"1 s"`, `"200 us"` | makes packets late |
//! | `loss` | `"0.5 %"` | loses packets at random |
//! | `mirror` | `true` | copies packets to who captures |
//! | `inspect` | `"inline"`, or `"out of band"`, in a rule with contents | how its contents are looked for |
//!
//! How host names decide, and what happens until they are known, is described with the core's policy module.
//!
//! # Protection at boot
//! ```toml
//! default = "permit"
//!
//! [boot]                                 # what holds while the driver does not decide
//! default = "block"                      # where no rule with `boot = true` matches: "block" or "permit"
//! essential = true                       # loopback, DHCP and neighbour discovery are permitted first; true if left out
//!
//! [[rule]]
//! action = "permit"
//! direction = "outbound"
//! protocol = "udp"
//! remote_port = 53
//! boot = true                            # this rule holds then too
//! ```
//!
//! With a table `boot` the system itself keeps the rules that say `boot = true`, as filters: from the start of the
//! network stack on, until the driver has a policy, and again when it stops or crashes. So such a rule has conditions on
//! addresses, ports, protocol, direction, interfaces and exact applications only (`\device\harddiskvolume3\…`, or `System`). A rule
//! with an application holds from the start of the base filtering engine on, not before.
//!
//! # Diagnostics
//! All errors are reported at once, each with its place and, where there is one, a hint. Warnings tell of rules that
//! can never decide anything.
#![forbid(unsafe_code)]

mod automaton;
mod diagnostic;
mod effect;
mod encode;
mod index;
mod interface;
mod model;
mod parse;
mod ranges;
mod reach;

pub use diagnostic::{Diagnostic, Severity, render};
pub use effect::Effect;
pub use encode::EncodeError;
pub use interface::{INTERFACE_TYPES, Interfaces};
pub use model::{ApplicationPattern, Boot, HostPattern, Policy, Rule, Sid};
pub use ranges::Ranges;

/// How to compile.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The file's name, for diagnostics.
    pub file_name: String,
    /// Every decision and every flow makes events, not only those of rules with `log`.
    pub events_all: bool,
    /// The interfaces that rules may name.
    pub interfaces: Interfaces,
}

/// A compiled policy.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// What the driver takes.
    pub blob: Vec<u8>,
    /// The rules' names by their index; a rule without one is called by its number.
    pub rule_names: Vec<String>,
    /// What is suspicious.
    pub warnings: Vec<Diagnostic>,
    /// The policy that the text means.
    pub policy: Policy,
}

/// Compiles a policy.
///
/// # Errors
/// Everything that is wrong with the text, in its order; warnings are among it.
pub fn compile(text: &str, options: &Options) -> Result<Compiled, Vec<Diagnostic>> {
    let (mut policy, places, mut diagnostics) =
        parse::parse(text, &options.file_name, &options.interfaces);
    policy.events_all = options.events_all;
    let failed = |diagnostics: &[Diagnostic]| {
        diagnostics
            .iter()
            .any(|found| found.severity == Severity::Error)
    };
    if !failed(&diagnostics) {
        match encode::encode(&policy) {
            Ok(blob) => {
                diagnostics.extend(reach::unreachable(&policy, &places));
                diagnostics.sort_by_key(|found| found.start);
                let rule_names = policy.rules.iter().map(|rule| rule.name.clone()).collect();
                return Ok(Compiled {
                    blob,
                    rule_names,
                    warnings: diagnostics,
                    policy,
                });
            }
            Err(error) => diagnostics.push(places.encode_error(&error)),
        }
    }
    diagnostics.sort_by_key(|found| found.start);
    Err(diagnostics)
}
