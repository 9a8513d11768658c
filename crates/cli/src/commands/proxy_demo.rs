//! `portcullis proxy --demo`: a connection and a datagram through the driver in the simulated kernel, to a proxy and servers
//! that are real.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ksim::fwp::KernelFiltering;
use ksim::net::{Host, Identity, LocalSide, Processes, Setup, Sid};
use ksim::{Config, Kernel};
use portcullis_proto::event::{EventKind, EventRecord, Operation};
use portcullis_proto::redirect::RedirectContext;

use super::proxy::{BOTH, ended, report};
use super::{BadInput, Ending};
use crate::arguments::Proxy;
use crate::control;
use crate::proxy::Way;
use crate::proxy::datagrams::{self, Arrived, IDLE, TICK, is_passing};
use crate::report::{events, table};
use crate::simulation::{self, Simulation};

/// The application's ends, and where it wants to connect to, and to ask.
const CLIENT: &str = "192.0.2.10:50000";
const SERVER: &str = "198.51.100.7:80";
const ASKING: &str = "192.0.2.10:50001";
const ASKED: &str = "198.51.100.7:53";
/// IP protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;
const BROWSER: &str = r"C:\browser.exe";
/// The processes of the application and of the proxy.
const BROWSER_PROCESS: u64 = 600;
const PROXY_PROCESS: u32 = 700;

/// Runs the demonstration.
///
/// # Errors
/// What kept it from running.
pub(super) fn run(arguments: &Proxy) -> Result<Ending, BadInput> {
    let server = TcpListener::bind("127.0.0.1:0").map_err(BadInput::new)?;
    let (proxy, datagrams) = sockets().map_err(BadInput::new)?;
    let listens = proxy.local_addr().map_err(BadInput::new)?;
    let policy = format!(
        "default = \"block\"\n\n[[rule]]\nname = \"through the proxy\"\naction = \"permit\"\n\
         application = '{BROWSER}'\nredirect = \"{listens}\"\n\n[[rule]]\nname = \"the proxy\"\n\
         action = \"permit\"\napplication = 'C:\\proxy.exe'\n"
    );
    say!("The policy:\n\n{policy}");
    let compiled = compile(&policy)?;
    let image = simulation::driver_image(arguments.driver.as_deref()).map_err(BadInput::new)?;
    let simulation = Simulation::start(&image, None, &Config::default()).map_err(BadInput::new)?;
    control::set_policy(simulation.device(), &compiled.blob).map_err(BadInput::new)?;
    let program = simulation.open_as(PROXY_PROCESS).map_err(BadInput::new)?;
    control::register_proxy(&program, listens, BOTH).map_err(BadInput::new)?;
    say!("A proxy, process {PROXY_PROCESS}, listens at {listens} and has registered itself.");

    let mut host = host(&simulation.kernel);
    say!("{BROWSER}, process {BROWSER_PROCESS}, connects from {CLIENT} to {SERVER}:\n");
    let segment = first_packet(TCP, CLIENT, SERVER)?;
    let (target, context) = redirected(&simulation, &mut host, &segment, &compiled.rule_names)?;
    say!("\nThe driver sends it to {target}. That is where the demonstration connects to, too:");
    let way = Simulated {
        context,
        server: server.local_addr().map_err(BadInput::new)?,
    };
    let answer = converse(&server, &proxy, target, &way).map_err(BadInput::new)?;
    say!("The application reads: {answer}");

    say!("\n{BROWSER} sends a datagram from {ASKING} to {ASKED}:\n");
    let datagram = first_packet(UDP, ASKING, ASKED)?;
    let (target, context) = redirected(&simulation, &mut host, &datagram, &compiled.rule_names)?;
    say!("\nThe driver sends it to {target}. That is where the demonstration sends one to, too:");
    let way = SimulatedDatagrams {
        socket: datagrams,
        context,
        server: socket_here().map_err(BadInput::new)?,
    };
    let answer = ask(target, &way).map_err(BadInput::new)?;
    say!("The application reads: {answer}");

    finish(&simulation.kernel, host)?;
    program.close().map_err(BadInput::new)?;
    let verifier = simulation.stop().map_err(BadInput::new)?;
    say!("{}", table::verifier(&verifier));
    Ok(if verifier.is_clean() {
        Ending::Clean
    } else {
        Ending::Violation
    })
}

fn compile(policy: &str) -> Result<portcullis_policy::Compiled, BadInput> {
    let options = portcullis_policy::Options {
        file_name: "(the demonstration's)".to_owned(),
        events_all: true,
        ..portcullis_policy::Options::default()
    };
    portcullis_policy::compile(policy, &options)
        .map_err(|found| BadInput::new(portcullis_policy::render(&found, policy, false)))
}

fn socket(text: &str) -> Result<SocketAddr, BadInput> {
    text.parse().map_err(BadInput::new)
}

/// The simulated host: its sockets are the application's, those on the loopback address the proxy's.
fn host(kernel: &Kernel) -> Host<KernelFiltering> {
    let mut processes = Processes::default();
    let mut local = LocalSide::default();
    for (address, path, process) in [
        ("192.0.2.10", BROWSER, BROWSER_PROCESS),
        ("127.0.0.1", r"C:\proxy.exe", PROXY_PROCESS.into()),
    ] {
        if let Ok(address) = address.parse() {
            let user = Sid::new(5, &[21, 1, 2, 3, 1001]);
            processes.assign(
                SocketAddr::new(address, 0),
                Identity::new(path, process, user),
            );
            local.insert(address);
        }
    }
    let setup = Setup {
        local,
        processes,
        ..Setup::default()
    };
    Host::new(kernel.filtering(0), setup)
}

/// The application sends the first packet of a connection or an exchange of datagrams: where the driver sends it, and what
/// the proxy is told.
fn redirected(
    simulation: &Simulation,
    host: &mut Host<KernelFiltering>,
    packet: &[u8],
    rule_names: &[String],
) -> Result<(SocketAddr, RedirectContext), BadInput> {
    let kernel = &simulation.kernel;
    let passed = kernel
        .on(0, |cpu| {
            let passed = host.packet(cpu.machine().time().now(), packet).passed;
            cpu.machine().run_pending(cpu);
            passed
        })
        .map_err(BadInput::new)?;
    let mut seen = Vec::new();
    control::take_events(simulation.device(), &mut seen).map_err(BadInput::new)?;
    for event in &seen {
        say!("{}", events::line(event, rule_names));
    }
    let context = context(kernel, host, &seen)?;
    target(&seen)
        .zip(context)
        .filter(|_| passed)
        .ok_or_else(|| BadInput::new("the driver did not redirect it"))
}

fn finish(kernel: &Kernel, mut host: Host<KernelFiltering>) -> Result<(), BadInput> {
    kernel
        .on(0, |cpu| {
            host.finish();
            cpu.machine().run_pending(cpu);
            drop(host);
        })
        .map_err(BadInput::new)
}

/// Where the driver has sent the connection.
fn target(seen: &[EventRecord]) -> Option<SocketAddr> {
    let event = seen
        .iter()
        .find(|event| event.kind == EventKind::Redirected.raw())?;
    let address = crate::replay::address(event, &event.target_address);
    Some(SocketAddr::new(address, event.target_port.get()))
}

/// What the socket that the proxy has accepted the connection by answers.
fn context(
    kernel: &Kernel,
    host: &Host<KernelFiltering>,
    seen: &[EventRecord],
) -> Result<Option<RedirectContext>, BadInput> {
    let accepted = seen
        .iter()
        .find(|event| event.operation == Operation::Accept.raw())
        .map_or(0, |event| event.flow.get());
    let records = kernel
        .on(0, |_| host.redirect_records(accepted).cloned())
        .map_err(BadInput::new)?;
    let context = records.and_then(|records| kernel.redirect_context(&records));
    Ok(context.and_then(|context| RedirectContext::read(&context)))
}

/// The proxy's way: the simulated socket's answer, and a server that stands for every other.
struct Simulated {
    context: RedirectContext,
    server: SocketAddr,
}

impl Way for Simulated {
    fn context(&self, _accepted: &TcpStream) -> io::Result<RedirectContext> {
        Ok(self.context)
    }

    fn connect(&self, _accepted: &TcpStream, to: SocketAddr) -> io::Result<TcpStream> {
        say!(
            "The proxy learns that it was to go to {to}, for which {} stands in.",
            self.server
        );
        TcpStream::connect(self.server)
    }
}

/// Server, proxy and application: what the application reads in the end.
fn converse(
    server: &TcpListener,
    proxy: &TcpListener,
    target: SocketAddr,
    way: &Simulated,
) -> io::Result<String> {
    thread::scope(|scope| {
        scope.spawn(|| -> io::Result<()> {
            let (mut stream, _) = server.accept()?;
            let mut question = String::new();
            stream.read_to_string(&mut question)?;
            write!(stream, "an answer to {question:?}")
        });
        scope.spawn(|| {
            if let Ok((accepted, _)) = proxy.accept() {
                report(&accepted, way);
            }
        });
        let mut application = TcpStream::connect(target)?;
        application.write_all(b"a question")?;
        application.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        application.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

/// TCP and UDP at one port of this machine.
fn sockets() -> io::Result<(TcpListener, UdpSocket)> {
    let mut attempts = 16;
    loop {
        let datagrams = socket_here()?;
        match TcpListener::bind(datagrams.local_addr()?) {
            Ok(listener) => return Ok((listener, datagrams)),
            Err(error) if attempts == 0 => return Err(error),
            // Somebody has TCP's port of that number.
            Err(_) => attempts -= 1,
        }
    }
}

/// A UDP socket of this machine that does not wait for long.
fn socket_here() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(TICK))?;
    Ok(socket)
}

/// The proxy's way for datagrams: what the simulated socket told of the one that came through the driver, and a server that
/// stands for every other.
struct SimulatedDatagrams {
    socket: UdpSocket,
    context: RedirectContext,
    server: UdpSocket,
}

impl datagrams::Way for SimulatedDatagrams {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Arrived>> {
        match self.socket.recv_from(buffer) {
            Ok((length, from)) => Ok(Some(Arrived {
                length,
                from,
                context: Some(self.context),
                records: Vec::new(),
            })),
            Err(error) if is_passing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn send_on(&self, by: &UdpSocket, data: &[u8], to: SocketAddr, _: &[u8]) -> io::Result<()> {
        let server = self.partner(to);
        say!("The proxy learns that it was to go to {to}, for which {server} stands in.");
        by.send_to(data, server).map(drop)
    }

    fn partner(&self, to: SocketAddr) -> SocketAddr {
        self.server.local_addr().unwrap_or(to)
    }

    fn answer(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.send_to(data, to).map(drop)
    }
}

/// Server, proxy and application: what the application reads in the end.
fn ask(target: SocketAddr, way: &SimulatedDatagrams) -> io::Result<String> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| datagrams::serve(way, IDLE, &is_over, ended));
        scope.spawn(|| -> io::Result<()> {
            let (question, from) = hear(&way.server)?;
            let answer = format!("an answer to {question:?}");
            way.server.send_to(answer.as_bytes(), from).map(drop)
        });
        let answer = socket_here().and_then(|application| {
            application.send_to(b"a question", target)?;
            hear(&application)
        });
        is_over.store(true, Ordering::Relaxed);
        Ok(answer?.0)
    })
}

/// The text of the next datagram, for which it waits some seconds, and whose it is.
fn hear(socket: &UdpSocket) -> io::Result<(String, SocketAddr)> {
    let mut buffer = [0; 2048];
    let mut attempts = 100;
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                return Ok((text, from));
            }
            Err(error) if is_passing(&error) && attempts > 0 => attempts -= 1,
            Err(error) => return Err(error),
        }
    }
}

/// The packet that a TCP connection, or an exchange of datagrams, over IPv4 begins with.
fn first_packet(protocol: u8, from: &str, to: &str) -> Result<Vec<u8>, BadInput> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (socket(from)?, socket(to)?) else {
        return Err(BadInput::new("the demonstration is of IPv4"));
    };
    let header: &[u8] = if protocol == TCP {
        // A SYN.
        &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]
    } else {
        // Ten bytes of data, and no checksum.
        b"\0\x12\0\0a question"
    };
    let length = u8::try_from(24 + header.len()).unwrap_or(0);
    let mut packet = vec![0x45, 0, 0, length, 0, 1, 0x40, 0, 64, protocol, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    let words = packet
        .chunks_exact(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap_or(0);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(header);
    Ok(packet)
}
