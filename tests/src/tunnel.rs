//! A split tunnel: processes, their sockets, and where these are bound.

use std::net::{IpAddr, SocketAddr};

use ksim::net::{Identity, Processes, Setup, Sid};
use ksim::{Kernel, NewProcess};
use portcullis_proto::Family;
use portcullis_proto::event::{EventKind, EventRecord};

use crate::control::alive;
use crate::packets::SYN;
use crate::{HOST_V4, HOST_V6, Net, Tcp, udp};

/// An application of the tunnel's.
pub const LAUNCHER: &str = r"C:\Games\launcher.exe";
/// Another one.
pub const HELPER: &str = r"C:\Games\helper.exe";
/// One that is of the tunnel only if one of those has started it.
pub const GAME: &str = r"D:\Steam\game.exe";

/// The tunnel's IPv4 address, which is this host's too.
pub const TUNNEL_V4: &str = "10.8.0.2";
/// Its IPv6 address.
pub const TUNNEL_V6: &str = "fd00:8::2";

/// Games and what they start are bound to the tunnel.
pub const POLICY: &str = r#"
    default = "permit"
    [[rule]]
    name = "not the store"
    action = "permit"
    application = 'C:\Games\store.exe'
    [[rule]]
    name = "games"
    action = "permit"
    application = 'C:\Games\*.exe'
    children = true
    bind = ["10.8.0.2", "fd00:8::2"]
"#;

/// Who owns which sockets.
#[derive(Debug)]
pub struct Sockets {
    owners: Processes,
    port: u16,
}

impl Sockets {
    /// Sockets with ports behind this one.
    #[must_use]
    pub fn from(port: u16) -> Self {
        Self {
            owners: Processes::default(),
            port,
        }
    }

    /// A process's sockets: the port that they have on either address.
    pub fn owned_by(&mut self, image: &str, process: u32) -> u16 {
        self.port += 1;
        let user = Sid::new(5, &[21, 1, 2, 3, 1001]);
        let identity = Identity::new(image, process.into(), user);
        for address in [HOST_V4, HOST_V6, TUNNEL_V4, TUNNEL_V6] {
            let address: IpAddr = address.parse().expect("an address");
            self.owners
                .assign(SocketAddr::new(address, self.port), identity.clone());
        }
        self.port
    }

    /// A host with these sockets, whose output is seen.
    #[must_use]
    pub fn net(&self, kernel: &Kernel, processor: u32) -> Net {
        let mut setup = Setup {
            processes: self.owners.clone(),
            output: true,
            ..Setup::default()
        };
        for address in [TUNNEL_V4, TUNNEL_V6] {
            setup.local.insert(address.parse().expect("an address"));
        }
        Net::with_setup(kernel, processor, setup)
    }
}

/// A process begins.
#[allow(clippy::must_use_candidate, reason = "some are only there to be many")]
pub fn start(kernel: &Kernel, parent: u32, image: &str) -> u32 {
    alive(kernel.create_process(&NewProcess::new(parent, image))).expect("it may begin")
}

/// A process ends.
pub fn exit(kernel: &Kernel, process: u32) {
    assert!(alive(kernel.exit_process(process)));
}

/// The first packets of a connection and of an exchange of datagrams, of each IP version.
#[must_use]
pub fn first_packets(port: u16) -> [Vec<u8>; 4] {
    let v4 = format!("{HOST_V4}:{port}");
    let v6 = format!("[{HOST_V6}]:{port}");
    [
        Tcp::new(&v4, "198.51.100.1:443").segment(true, SYN, &[]),
        Tcp::new(&v6, "[2001:db8:1::1]:443").segment(true, SYN, &[]),
        udp(&v4, "198.51.100.1:53", b"question"),
        udp(&v6, "[2001:db8:1::1]:53", b"question"),
    ]
}

/// Where the sockets of connections that were authorized are bound.
#[must_use]
pub fn locals(events: &[EventRecord]) -> Vec<String> {
    let authorized = events
        .iter()
        .filter(|event| event.kind == EventKind::Authorize.raw());
    let local = |event: &EventRecord| {
        if event.family == Family::V4.raw() {
            let octets = *event.local_address.first_chunk::<4>().expect("long enough");
            IpAddr::from(octets).to_string()
        } else {
            IpAddr::from(event.local_address).to_string()
        }
    };
    authorized.map(local).collect()
}
