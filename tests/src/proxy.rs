//! A browser whose connections go to a proxy of this machine.

use std::net::SocketAddr;

use ksim::net::{Identity, Processes, Setup, Sid};
use ksim::{Caller, Kernel};
use portcullis_proto::Family;
use wfp_engine::DualModeLayer;
use wfp_schema::NtStatus;

use crate::packets::SYN;
use crate::{Device, Net, Tcp, World, udp};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// The proxy's process.
pub const PROXY: u32 = 700;

/// The browser's traffic goes to a proxy.
pub const POLICY: &str = r#"
    default = "block"
    [[rule]]
    name = "through the proxy"
    action = "permit"
    direction = "outbound"
    application = 'C:\browser.exe'
    remote_address = ["198.51.100.0/24", "2001:db8:1::/48"]
    redirect = ["127.0.0.1:8080", "[::1]:8080"]
    [[rule]]
    name = "the proxy itself"
    action = "permit"
    application = 'C:\proxy.exe'
"#;

/// An application's connection: where from, where to, where the proxy is, and its protocol.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The application's end.
    pub client: &'static str,
    /// Where it wants to connect to.
    pub server: &'static str,
    /// Where the proxy listens.
    pub proxy: &'static str,
    /// IP protocol number.
    pub protocol: u8,
}

/// TCP and UDP over both IP versions.
pub const CASES: [Case; 4] = [
    Case {
        client: "192.0.2.10:50000",
        server: "198.51.100.1:443",
        proxy: "127.0.0.1:8080",
        protocol: TCP,
    },
    Case {
        client: "[2001:db8::10]:50000",
        server: "[2001:db8:1::1]:443",
        proxy: "[::1]:8080",
        protocol: TCP,
    },
    Case {
        client: "192.0.2.10:50001",
        server: "198.51.100.1:53",
        proxy: "127.0.0.1:8080",
        protocol: UDP,
    },
    Case {
        client: "[2001:db8::10]:50001",
        server: "[2001:db8:1::1]:53",
        proxy: "[::1]:8080",
        protocol: UDP,
    },
];

impl Case {
    /// Where it wants to connect to.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.server.parse().expect("an address with a port")
    }

    /// Its IP version.
    #[must_use]
    pub fn family(&self) -> Family {
        match self.server() {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::V6,
        }
    }

    /// What the application sends first, from its port and so many after it.
    #[must_use]
    pub fn first(&self, later: u16) -> Vec<u8> {
        let mut client: SocketAddr = self.client.parse().expect("an address with a port");
        client.set_port(client.port() + later);
        if self.protocol == TCP {
            Tcp::new(&client.to_string(), self.server).segment(true, SYN, &[])
        } else {
            udp(&client.to_string(), self.server, b"question")
        }
    }
}

/// Who owns the endpoints: the browser those from port 50000 on this host, the proxy those on the loopback addresses,
/// and its own.
#[must_use]
pub fn owners() -> Processes {
    let mut processes = Processes::default();
    let user = || Sid::new(5, &[21, 1, 2, 3, 1001]);
    let browser = Identity::new(r"C:\browser.exe", 600, user());
    let proxy = Identity::new(r"C:\proxy.exe", PROXY.into(), user());
    for address in ["192.0.2.10:0", "[2001:db8::10]:0"] {
        processes.assign(address.parse().expect("an address"), browser.clone());
    }
    for address in [
        "127.0.0.1:0",
        "[::1]:0",
        "192.0.2.10:60000",
        "[2001:db8::10]:60000",
    ] {
        processes.assign(address.parse().expect("an address"), proxy.clone());
    }
    processes
}

/// A world with this policy, whose endpoints have these owners.
#[must_use]
pub fn world(policy: &str) -> World {
    let mut world = World::with_policy(policy);
    world.owned_by(owners());
    drop(world.events());
    world
}

/// A world with this policy and these owners, whose IPv4 connections are those of IPv6 sockets without `IPV6_V6ONLY`, shown
/// at these layers.
#[must_use]
pub fn dual_mode_world(layers: DualModeLayer, policy: &str) -> World {
    let mut world = World::answering(|options| options.dual_mode_layer = layers);
    let setup = Setup {
        dual_mode: true,
        processes: owners(),
        ..Setup::default()
    };
    world.net = Net::with_setup(&world.kernel, 0, setup);
    world.set_policy(policy);
    drop(world.events());
    world
}

/// The proxy's program, with the device open.
#[must_use]
pub fn proxy_program(kernel: &Kernel) -> Device {
    let caller = Caller {
        process: PROXY,
        ..Caller::administrator()
    };
    Device::open(kernel, caller).unwrap_or_else(|error| panic!("{error}"))
}

/// A proxy that listens on both loopback addresses.
#[must_use]
pub fn with_proxy(world: &World) -> Device {
    let program = proxy_program(&world.kernel);
    for listens in ["127.0.0.1:8080", "[::1]:8080"] {
        assert_eq!(program.register_proxy(listens, 0), NtStatus::SUCCESS);
    }
    program
}
