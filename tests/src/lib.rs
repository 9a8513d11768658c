//! What the end-to-end tests share: a simulated machine with the real portcullis.sys in it, and traffic.
//!
//! ```text
//! world    a machine, the driver, its device, and a host with packets
//! control  the driver's device
//! capture  what the driver captures
//! net      a host's network stack on one processor
//! packets  IP packets and TCP connections
//! messages what clients say first: TLS, HTTP, DNS
//! races    two things at once, under schedules that repeat
//! product  another product's objects in the filter engine
//! proxy    a browser whose connections go to a proxy of this machine
//! image    the driver's image, and one like it
//! random   numbers from a seed
//! streams  conversations in segments, and what arrives of them
//! bursts   datagrams that are one packet
//! interfaces a host with several network interfaces
//! protection traffic under a protection at boot
//! quoted   paths that are translated, and what ICMP errors quote of them
//! tunnel   processes, their sockets, and where these are bound
//! waits    a host of which something of every kind waits
//! sweep    which calls a sweep over failing calls takes
//! examples the drivers of examples/
//! foreign  drivers that are not ours: those in C of tests/drivers, and one that Microsoft's tools have built
//! ```
#![forbid(unsafe_code)]
#![allow(
    clippy::missing_panics_doc,
    reason = "a test's support panics where the test has failed"
)]

pub mod bursts;
pub mod capture;
pub mod control;
pub mod examples;
pub mod foreign;
pub mod image;
pub mod interfaces;
pub mod messages;
pub mod net;
pub mod packets;
pub mod product;
pub mod protection;
pub mod proxy;
pub mod quoted;
pub mod races;
pub mod random;
pub mod streams;
pub mod sweep;
pub mod tunnel;
pub mod waits;
pub mod world;

pub use control::Device;
pub use net::Net;
pub use packets::{Tcp, icmp_echo, icmp_echo_v6, icmp_v6, udp};
pub use product::Product;
pub use world::World;

/// The host's IPv4 address.
pub const HOST_V4: &str = "192.0.2.10";
/// The host's IPv6 address.
pub const HOST_V6: &str = "2001:db8::10";
