//! Traffic under a protection at boot.

use crate::{Net, World, udp};

/// At boot nothing but names is permitted; the driver permits one port more.
pub const PROTECTING: &str = "
    default = 'block'
    [boot]
    default = 'block'
    [[rule]]
    name = 'names'
    action = 'permit'
    protocol = 'udp'
    remote_port = 53
    boot = true
    [[rule]]
    action = 'permit'
    protocol = 'udp'
    remote_port = 9999
";

/// What a host sends while something becomes of the driver: what the policy and its protection permit, what neither does,
/// and what the policy alone does. Each time from ports of its own.
#[derive(Debug)]
pub struct Protected {
    net: Net,
    port: u16,
    /// Whether what the policy alone permits has passed, each time.
    fates: Vec<bool>,
}

impl Protected {
    /// What the host sends, from ports behind this one.
    #[must_use]
    pub const fn new(net: Net, port: u16) -> Self {
        Self {
            net,
            port,
            fates: Vec::new(),
        }
    }

    /// Whether a datagram to this port passes.
    pub fn sends_to(&mut self, remote: u16) -> bool {
        self.port += 1;
        let (local, server) = if self.port.is_multiple_of(2) {
            (format!("192.0.2.10:{}", self.port), "198.51.100.1")
        } else {
            (format!("[2001:db8::10]:{}", self.port), "[2001:db8::80]")
        };
        self.net
            .passes(udp(&local, &format!("{server}:{remote}"), b"datagram"))
    }

    /// Sends so many times.
    pub fn sends(&mut self, times: usize) {
        for _ in 0..times {
            assert!(self.sends_to(53), "permitted by both");
            assert!(!self.sends_to(23), "permitted by neither");
            let fate = self.sends_to(9999);
            self.fates.push(fate);
        }
    }

    /// The protection holds, or nothing of it is left.
    pub fn end(mut self, world: &World, is_protected: bool) {
        let decided = self.fates.chunk_by(|one, next| one == next).count();
        assert!(decided < 3, "there and back: {:?}", self.fates);
        for _ in 0..2 {
            assert!(self.sends_to(53));
            assert_eq!(self.sends_to(23), !is_protected);
            assert_eq!(self.sends_to(9999), !is_protected);
        }
        let store = world.engine().boot_store();
        assert_eq!(store.filters.is_empty(), !is_protected, "{store:?}");
        assert_eq!(store.sublayers.is_empty(), !is_protected, "{store:?}");
        self.net.finish();
    }
}
