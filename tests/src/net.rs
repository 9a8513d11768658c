//! A host's network stack on one processor.

use ksim::fwp::KernelFiltering;
use std::net::{IpAddr, SocketAddr};

use ksim::net::{
    Arrival, End, FlowReport, Host, Link, Offload, Opened, Output, PacketId, PacketReport,
    Processes, Redirection, Setup, Socket,
};
use ksim::{Cpu, Kernel};

use crate::messages::client_hello;
use crate::{HOST_V4, HOST_V6, Tcp, udp};

/// 100-nanosecond units of a millisecond, which passes with every packet.
const MILLISECOND: u64 = 10_000;

/// A host with its packets.
#[derive(Debug)]
pub struct Net {
    kernel: Kernel,
    processor: u32,
    host: Option<Host<KernelFiltering>>,
}

impl Net {
    /// The host, all of whose endpoints are the system's, on `processor`.
    #[must_use]
    pub fn new(kernel: &Kernel, processor: u32) -> Self {
        Self::owned(kernel, processor, Processes::default())
    }

    /// The host with these owners of endpoints.
    #[must_use]
    pub fn owned(kernel: &Kernel, processor: u32, processes: Processes) -> Self {
        let setup = Setup {
            processes,
            ..Setup::default()
        };
        Self::with_setup(kernel, processor, setup)
    }

    /// The host made from `setup`, with its own addresses besides.
    #[must_use]
    pub fn with_setup(kernel: &Kernel, processor: u32, mut setup: Setup) -> Self {
        let local = &mut setup.local;
        for address in [HOST_V4, HOST_V6] {
            local.insert(address.parse().expect("an address"));
        }
        setup.shard = u16::try_from(processor).expect("a processor's number");
        let host = Host::new(kernel.filtering(processor), setup);
        Self {
            kernel: kernel.clone(),
            processor,
            host: Some(host),
        }
    }

    /// The stack begins anew, made from `setup`.
    pub fn restart(&mut self, setup: Setup) {
        *self = Self::with_setup(&self.kernel, self.processor, setup);
    }

    /// Runs `work` on the host's processor.
    fn run<T: Send>(
        &mut self,
        work: impl FnOnce(&Cpu, &mut Host<KernelFiltering>) -> T + Send,
    ) -> T {
        let host = self.host.as_mut().expect("the host lives as long as this");
        self.kernel
            .on(self.processor, |cpu| work(cpu, host))
            .unwrap_or_else(|bugcheck| panic!("{bugcheck}"))
    }

    /// What becomes of a packet; what is put off by it has run.
    pub fn packet(&mut self, packet: &[u8]) -> PacketReport {
        self.run(|cpu, host| give(cpu, host, packet))
    }

    /// What becomes of what an application sends in one call, in datagrams of `size` bytes each; what is put off by it has run.
    pub fn send_segmented(&mut self, packet: &[u8], size: u32) -> Vec<PacketReport> {
        self.run(|cpu, host| {
            let reports = host.send_segmented(cpu.machine().time().now(), packet, size);
            settle(cpu, host);
            reports
        })
    }

    /// What becomes of datagrams that the network card receives one behind the other; what is put off by them has run.
    pub fn receive_burst(&mut self, datagrams: &[Vec<u8>]) -> Vec<PacketReport> {
        self.run(|cpu, host| {
            let reports = host.receive_burst(cpu.machine().time().now(), datagrams);
            settle(cpu, host);
            reports
        })
    }

    /// What becomes of a packet of whose list somebody says this.
    pub fn packet_with(&mut self, packet: &[u8], offload: Offload) -> PacketReport {
        self.run(|cpu, host| {
            let report = host.packet_with(cpu.machine().time().now(), packet, offload);
            settle(cpu, host);
            report
        })
    }

    /// What becomes of a packet that comes, or goes, so.
    pub fn packet_from(&mut self, arrival: Arrival, packet: &[u8]) -> PacketReport {
        self.run(|cpu, host| give_from(cpu, host, arrival, packet))
    }

    /// Whether a packet passes over the interface of a link.
    pub fn passes_on(&mut self, link: Link, packet: &[u8]) -> bool {
        self.packet_from(Arrival::on(link), packet).passed
    }

    /// Packets to an address take the interface of another link from now on.
    pub fn reroute(&mut self, remote: IpAddr, link: Link) {
        self.run(|cpu, host| host.reroute(cpu.machine().time().now(), remote, link));
    }

    /// What becomes of an Ethernet frame; what is put off by it has run.
    pub fn frame(&mut self, frame: &[u8]) -> PacketReport {
        self.run(|cpu, host| {
            let report = host.frame(cpu.machine().time().now(), frame);
            settle(cpu, host);
            report
        })
    }

    /// Binds a socket, as an application does.
    pub fn open(&mut self, socket: &Socket) -> Opened {
        self.run(|cpu, host| {
            let opened = host.open(cpu.machine().time().now(), socket);
            settle(cpu, host);
            opened
        })
    }

    /// The redirect records of a connection that was redirected, by the handle of either end's flow: what a proxy asks its
    /// socket for.
    #[must_use]
    pub fn redirection(&mut self, flow_handle: u64) -> Option<Redirection> {
        self.run(|_, host| host.redirect_records(flow_handle).cloned())
    }

    /// A proxy says that its next connection from `local` serves one with these records.
    pub fn serve(&mut self, protocol: u8, local: SocketAddr, records: Redirection) {
        let local = End {
            address: local.ip(),
            port: local.port(),
        };
        self.run(|_, host| host.set_redirect_records(protocol, local, records));
    }

    /// What has left the stack since the last call, if the setup asks for it.
    pub fn output(&mut self) -> Vec<Output> {
        self.run(|_, host| host.output())
    }

    /// Whether a packet passes.
    pub fn passes(&mut self, packet: impl AsRef<[u8]>) -> bool {
        self.packet(packet.as_ref()).passed
    }

    /// Which of these packets pass.
    pub fn fates(&mut self, packets: &[Vec<u8>]) -> Vec<bool> {
        self.run(|cpu, host| {
            packets
                .iter()
                .map(|packet| give(cpu, host, packet).passed)
                .collect()
        })
    }

    /// Whether all of these packets pass. They are all sent in any case.
    pub fn all_pass(&mut self, packets: &[Vec<u8>]) -> bool {
        self.fates(packets).into_iter().all(|passed| passed)
    }

    /// Whether none of these packets passes. They are all sent in any case.
    pub fn none_passes(&mut self, packets: &[Vec<u8>]) -> bool {
        self.fates(packets).into_iter().all(|passed| !passed)
    }

    /// Does what drivers have asked of the stack meanwhile, and says which pending packets passed.
    pub fn settle(&mut self) -> Vec<(PacketId, bool)> {
        self.run(|cpu, host| {
            settle(cpu, host);
            host.settled()
        })
    }

    /// The host's network changes its profile.
    pub fn set_profile(&mut self, profile: u32) {
        self.run(|_, host| host.set_profile(profile));
    }

    /// Time passes without packets.
    pub fn wait(&mut self, seconds: u64) {
        self.run(|cpu, host| {
            cpu.machine().time().advance(seconds * 1_000 * MILLISECOND);
            host.advance_to(cpu.machine().time().now());
            settle(cpu, host);
        });
    }

    /// So many 100-nanosecond units pass without packets, from one timer to the next. What leaves the stack meanwhile, if the
    /// setup asks for it, each with the time when it does.
    pub fn pass(&mut self, ticks: u64) -> Vec<(u64, Output)> {
        self.run(|cpu, host| {
            let machine = cpu.machine();
            let end = machine.time().now() + ticks;
            let mut left = Vec::new();
            loop {
                settle(cpu, host);
                let now = machine.time().now();
                left.extend(host.output().into_iter().map(|output| (now, output)));
                if now >= end {
                    return left;
                }
                let next = machine.time().next_due().map_or(end, |due| due.min(end));
                machine.time().advance_to(next);
                host.advance_to(next);
            }
        })
    }

    /// Packets that all come at once. What leaves the stack, if the setup asks for it.
    pub fn at_once(&mut self, packets: &[Vec<u8>]) -> Vec<Output> {
        self.run(|cpu, host| {
            let now = cpu.machine().time().now();
            for packet in packets {
                host.packet(now, packet);
                settle(cpu, host);
            }
            host.output()
        })
    }

    /// The machine's time.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.kernel.time().now()
    }

    /// Ends every flow and endpoint, as a shutdown does.
    pub fn finish(&mut self) {
        self.run(|cpu, host| {
            host.finish();
            settle(cpu, host);
        });
    }

    /// The flows so far.
    #[must_use]
    pub fn flows(&self) -> &[FlowReport] {
        self.host.as_ref().map_or(&[], Host::flows)
    }
}

/// The packets that have left the machine.
#[must_use]
pub fn sent(output: Vec<Output>) -> Vec<Vec<u8>> {
    output
        .into_iter()
        .filter_map(|output| match output {
            Output::Sent(packet) => Some(packet),
            _ => None,
        })
        .collect()
}

/// The datagrams that sockets have got.
#[must_use]
pub fn received(output: Vec<Output>) -> Vec<Vec<u8>> {
    output
        .into_iter()
        .filter_map(|output| match output {
            Output::Datagram { bytes, .. } => Some(bytes),
            _ => None,
        })
        .collect()
}

/// A whole connection with a name in it, and a datagram, from this port. Whether all of it passes.
pub fn exchange(net: &mut Net, port: u16) -> bool {
    let mut tcp = Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:443");
    let mut packets = tcp.handshake();
    packets.push(tcp.client_says(&client_hello(Some("www.example.net"))));
    packets.push(tcp.server_says(b"answer"));
    packets.extend(tcp.close());
    packets.push(udp(
        &format!("[2001:db8::10]:{port}"),
        "[2001:db8::80]:9999",
        b"datagram",
    ));
    net.all_pass(&packets)
}

fn give(cpu: &Cpu, host: &mut Host<KernelFiltering>, packet: &[u8]) -> PacketReport {
    give_from(cpu, host, Arrival::default(), packet)
}

fn give_from(
    cpu: &Cpu,
    host: &mut Host<KernelFiltering>,
    arrival: Arrival,
    packet: &[u8],
) -> PacketReport {
    cpu.machine().time().advance(MILLISECOND);
    let report = host.packet_from(cpu.machine().time().now(), arrival, packet);
    settle(cpu, host);
    report
}

fn settle(cpu: &Cpu, host: &mut Host<KernelFiltering>) {
    cpu.machine().run_pending(cpu);
    while cpu.machine().serve_stack(cpu, host) {
        cpu.machine().run_pending(cpu);
    }
}

/// A stack goes away on its own processor.
impl Drop for Net {
    fn drop(&mut self) {
        let host = self.host.take();
        // A machine that has stopped keeps its flows.
        drop(self.kernel.on(self.processor, |_| drop(host)));
    }
}
