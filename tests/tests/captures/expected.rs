//! The flows that nDPI finds in its captures.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// One end of a flow: its address and port.
///
/// The address is text, in its usual form where it is an address: nDPI writes some that are none.
pub(crate) type End = (String, u16);

/// An end from an address.
pub(crate) fn end(address: IpAddr, port: u16) -> End {
    (address.to_string(), port)
}

/// A flow as nDPI reports it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Expected {
    #[serde(rename = "proto")]
    protocol: String,
    /// The sender of its first packet, most often.
    pub(crate) client: End,
    /// The other end.
    pub(crate) server: End,
    /// Packets from the client, and to it.
    pub(crate) packets: [u64; 2],
    /// What nDPI takes it for, such as `TLS.Amazon`.
    #[serde(default)]
    app: Option<String>,
    /// The name that nDPI found in it, in lower case.
    #[serde(default)]
    pub(crate) host: Option<String>,
}

impl Expected {
    /// Its IP protocol number.
    pub(crate) fn protocol(&self) -> u8 {
        match self.protocol.as_str() {
            "ICMP" => 1,
            "IGMP" => 2,
            "TCP" => 6,
            "UDP" => 17,
            "ICMPV6" => 58,
            other => panic!("an unknown protocol in the expected flows: {other}"),
        }
    }

    /// What nDPI takes it for; empty if it doesn't know.
    pub(crate) fn app(&self) -> &str {
        self.app.as_deref().unwrap_or("")
    }

    /// The protocol part of [`app`](Self::app), such as `TLS`.
    pub(crate) fn app_protocol(&self) -> &str {
        self.app().split('.').next().unwrap_or("")
    }
}

/// The file with the expected flows of a capture.
pub(crate) fn file_of(capture: &Path) -> PathBuf {
    capture.with_added_extension("flows.json")
}

/// Reads the expected flows of a capture.
pub(crate) fn read(capture: &Path) -> Vec<Expected> {
    let text =
        std::fs::read_to_string(file_of(capture)).expect("each capture has its expected flows");
    let mut flows: Vec<Expected> =
        serde_json::from_str(&text).expect("the expected flows are JSON");
    for flow in &mut flows {
        for end in [&mut flow.client, &mut flow.server] {
            if let Ok(address) = end.0.parse::<IpAddr>() {
                end.0 = address.to_string();
            }
        }
        flow.host = flow.host.take().map(|host| host.to_lowercase());
    }
    flows
}
