//! The differences from nDPI that are meant to be, and why.

use super::compare::{Difference, Kind};

/// Why some differences are meant to be.
pub(crate) struct Explanation {
    /// What `docs/captures.md` calls it.
    pub(crate) name: &'static str,
    /// The reason in a sentence.
    pub(crate) reason: &'static str,
    /// How many differences it explains.
    pub(crate) times: usize,
    explains: fn(&Difference) -> bool,
}

/// The explanation of `difference`, by its place in [`EXPLANATIONS`].
pub(crate) fn explanation(difference: &Difference) -> Option<usize> {
    EXPLANATIONS
        .iter()
        .position(|explanation| (explanation.explains)(difference))
}

/// All explanations.
pub(crate) const EXPLANATIONS: [Explanation; 13] = [
    Explanation {
        name: "another protocol's name",
        reason: "names are taken from TLS, HTTP/1, DNS and QUIC",
        times: 46,
        explains: |difference| other_protocol(difference, &OTHER_PROTOCOLS),
    },
    Explanation {
        name: "an older QUIC",
        reason: "names are taken from versions 1 and 2 and draft 29, not from Google's QUIC and older drafts",
        times: 11,
        explains: |difference| {
            OLDER_QUIC.contains(&difference.capture.as_str())
                && other_protocol(difference, &["QUIC"])
        },
    },
    Explanation {
        name: "the flow inside a tunnel",
        reason: "the host's stack sees the tunnel's packets, nDPI looks into them",
        times: 5,
        explains: in_tunnel,
    },
    Explanation {
        name: "the tunnel itself",
        reason: "the host's stack sees the tunnel's packets, nDPI looks into them",
        times: 5,
        explains: tunnel,
    },
    Explanation {
        name: "joined midway",
        reason: "without its SYN the end with the server's port is the server; nDPI takes the first sender for the client",
        times: 37,
        explains: joined_midway,
    },
    Explanation {
        name: "the server spoke first",
        reason: "the capture begins with a response; a server that speaks first ends the search for a name",
        times: 2,
        explains: server_spoke_first,
    },
    Explanation {
        name: "TLS begun later",
        reason: "POP3 turns to TLS after its STLS command; the driver looks for TLS at the beginning only",
        times: 1,
        explains: |difference| {
            difference.kind == Kind::Host
                && difference.capture == "pop3_stls.pcap"
                && difference
                    .expected
                    .as_ref()
                    .is_some_and(|flow| flow.app() == "POPS")
                && found_host(difference).is_none()
        },
    },
    Explanation {
        name: "several queries",
        reason: "one flow asks for several names; the report shows the last, nDPI that of the first reply with a record",
        times: 3,
        explains: several_queries,
    },
    Explanation {
        name: "a name cut short",
        reason: "nDPI keeps the last 79 bytes of a name",
        times: 1,
        explains: name_cut_short,
    },
    Explanation {
        name: "an inverse query",
        reason: "an inverse query (RFC 1035, obsolete) has no question; nDPI shows the name of its answer",
        times: 1,
        explains: |difference| {
            difference.kind == Kind::Host
                && difference.capture == "dns_invert_query.pcapng"
                && found_host(difference).is_none()
        },
    },
    Explanation {
        name: "a request out of order",
        reason: "the request comes after a later segment, by which nDPI has already taken the flow for SOAP",
        times: 1,
        explains: |difference| {
            difference.kind == Kind::Host
                && difference.capture == "soap.pcap"
                && expected_host(difference).is_none()
                && found_host(difference) == Some("go.microsoft.com")
        },
    },
    Explanation {
        name: "an incomplete datagram",
        reason: "its other fragments never come; no layer above IP sees it",
        times: 1,
        explains: |difference| {
            difference.kind == Kind::Missing && difference.capture == "quic-fuzz-overflow.pcapng"
        },
    },
    Explanation {
        name: "an address that is none",
        reason: "nDPI writes 2600:1900:4160:5999:0:19:: with two ellipses",
        times: 2,
        explains: |difference| {
            difference.capture == "stun.pcap"
                && match difference.kind {
                    Kind::Missing => expected_has(difference, "2600:1900:4160:5999::19::"),
                    Kind::Extra => found_has(difference, "2600:1900:4160:5999:0:19::"),
                    _ => false,
                }
        },
    },
];

fn expected_host(difference: &Difference) -> Option<&str> {
    difference.expected.as_ref()?.host.as_deref()
}

fn found_host(difference: &Difference) -> Option<&str> {
    difference.found.as_ref()?.host.as_deref()
}

fn expected_has(difference: &Difference, address: &str) -> bool {
    difference
        .expected
        .as_ref()
        .is_some_and(|flow| flow.client.0 == address || flow.server.0 == address)
}

fn found_has(difference: &Difference, address: &str) -> bool {
    difference
        .found
        .as_ref()
        .is_some_and(|flow| flow.client.0 == address || flow.server.0 == address)
}

/// Protocols that name hosts and that the driver does not parse.
const OTHER_PROTOCOLS: [&str; 8] = [
    "DHCP", "MDNS", "MGCP", "NetBIOS", "SMTP", "SSDP", "SSH", "STUN",
];

/// Captures of Google's QUIC (versions Q024 to Q050) and of draft 23.
const OLDER_QUIC: [&str; 4] = ["quic-23.pcap", "quic.pcap", "quic046.pcap", "quic_q43.pcap"];

fn other_protocol(difference: &Difference, protocols: &[&str]) -> bool {
    let Some(expected) = &difference.expected else {
        return false;
    };
    difference.kind == Kind::Host
        && found_host(difference).is_none()
        && protocols.contains(&expected.app_protocol())
}

/// Captures with flows in tunnels: IPv4 in IPv6, and GTP.
const IPV4_IN_IPV6: &str = "4in6tunnel.pcap";
const GTP: [&str; 3] = [
    "http_origin_different_than_host.pcap",
    "rtmp.pcap",
    "zoom.pcap",
];
const GTP_PORT: u16 = 2152;

fn in_tunnel(difference: &Difference) -> bool {
    let Some(expected) = &difference.expected else {
        return false;
    };
    difference.kind == Kind::Missing
        && (difference.capture == IPV4_IN_IPV6
            || GTP.contains(&difference.capture.as_str()) && expected.app().starts_with("GTP:"))
}

fn tunnel(difference: &Difference) -> bool {
    let Some(found) = &difference.found else {
        return false;
    };
    difference.kind == Kind::Extra
        && match found.protocol {
            4 => difference.capture == IPV4_IN_IPV6,
            17 => {
                GTP.contains(&difference.capture.as_str())
                    && found.client.1 == GTP_PORT
                    && found.server.1 == GTP_PORT
            }
            _ => false,
        }
}

/// The first packet of the connection is not its SYN, and comes from the end that looks like the server: it accepts
/// with SYN and ACK, or it has the lower port.
fn joined_midway(difference: &Difference) -> bool {
    let (Some(expected), Some(first)) = (&difference.expected, &difference.first) else {
        return false;
    };
    difference.kind == Kind::Client
        && expected.protocol() == 6
        && !first.opens
        && first.sender == expected.client
        && expected.client.1 < expected.server.1
}

fn server_spoke_first(difference: &Difference) -> bool {
    let named = ["http_starting_with_reply.pcapng", "mpeg-dash.pcap"];
    let (Some(expected), Some(first)) = (&difference.expected, &difference.first) else {
        return false;
    };
    difference.kind == Kind::Host
        && named.contains(&difference.capture.as_str())
        && found_host(difference).is_none()
        && !first.opens
        && expected.client.1 == 80
        && first.sender == expected.client
}

/// The driver found the name that nDPI shows, and others.
fn several_queries(difference: &Difference) -> bool {
    let (Some(expected), Some(found)) = (&difference.expected, &difference.found) else {
        return false;
    };
    difference.kind == Kind::Host
        && expected.protocol() == 17
        && expected.server.1 == 53
        && found.names.len() > 1
        && expected_host(difference).is_some_and(|host| found.names.contains(host))
}

/// What nDPI keeps of a name.
const NAME_LENGTH: usize = 79;

fn name_cut_short(difference: &Difference) -> bool {
    let (Some(host), Some(found)) = (expected_host(difference), &difference.found) else {
        return false;
    };
    difference.kind == Kind::Host
        && host.len() == NAME_LENGTH
        && found
            .names
            .iter()
            .any(|name| name.len() > NAME_LENGTH && name.ends_with(host))
}
