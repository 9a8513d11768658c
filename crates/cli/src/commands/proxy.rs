//! `portcullis proxy`.

use super::{BadInput, Ending};
use crate::arguments::Proxy;

/// Runs the command.
///
/// # Errors
/// What kept it from starting.
pub fn run(arguments: &Proxy) -> Result<Ending, BadInput> {
    if arguments.demo {
        return demo(arguments);
    }
    listen(arguments)
}

#[cfg(target_os = "linux")]
fn demo(arguments: &Proxy) -> Result<Ending, BadInput> {
    super::proxy_demo::run(arguments)
}

#[cfg(not(target_os = "linux"))]
fn demo(_arguments: &Proxy) -> Result<Ending, BadInput> {
    Err(BadInput::new("the simulated kernel runs on Linux only"))
}

#[cfg(not(windows))]
fn listen(_arguments: &Proxy) -> Result<Ending, BadInput> {
    Err(BadInput::new(
        "connections are redirected by a driver, on Windows; --demo shows it in the simulated kernel",
    ))
}

#[cfg(windows)]
fn listen(arguments: &Proxy) -> Result<Ending, BadInput> {
    use std::net::TcpListener;
    use std::sync::atomic::AtomicBool;

    use crate::control;
    use crate::device::{Datagrams, Sockets, WindowsDevice};
    use crate::proxy::datagrams;

    if arguments.listen.is_empty() {
        return Err(BadInput::new(
            "say where to listen, as the policy's `redirect` does: --listen 127.0.0.1:8080",
        ));
    }
    // The proxy is registered as long as this is open.
    let device = WindowsDevice::open().map_err(BadInput::new)?;
    std::thread::scope(|scope| {
        for &address in &arguments.listen {
            let listener = TcpListener::bind(address)
                .map_err(|error| BadInput::new(format!("{address}: {error}")))?;
            let datagrams = Datagrams::bind(address)
                .map_err(|error| BadInput::new(format!("{address}, UDP: {error}")))?;
            control::register_proxy(&device, address, BOTH).map_err(BadInput::new)?;
            say!("listening at {address}");
            scope.spawn(move || {
                let never = AtomicBool::new(false);
                if let Err(error) = datagrams::serve(&datagrams, datagrams::IDLE, &never, ended) {
                    eprintln!("error: {address}, UDP: {error}");
                }
            });
            scope.spawn(move || {
                for accepted in listener.incoming().flatten() {
                    std::thread::spawn(move || report(&accepted, &Sockets));
                }
            });
        }
        Ok(Ending::Clean)
    })
}

/// What a proxy registers that serves TCP and UDP.
#[cfg(any(windows, target_os = "linux"))]
pub(super) const BOTH: u8 = 0;

/// Serves a connection and says what became of it.
#[cfg(any(windows, target_os = "linux"))]
pub(super) fn report(accepted: &std::net::TcpStream, way: &impl crate::proxy::Way) {
    let served = crate::proxy::serve(accepted, way);
    ended(served.map_err(|error| {
        let from = accepted
            .peer_addr()
            .map_or_else(|_| "?".to_owned(), |peer| peer.to_string());
        std::io::Error::other(format!("{from}: {error}"))
    }));
}

/// Says what became of a connection, or of an exchange of datagrams.
#[cfg(any(windows, target_os = "linux"))]
pub(super) fn ended(served: std::io::Result<crate::proxy::Served>) {
    match served {
        Ok(served) => say!(
            "{} → {}: {} bytes there, {} back, process {}",
            served.context.local(),
            served.context.remote(),
            served.sent,
            served.received,
            served.context.process_id
        ),
        Err(error) => eprintln!("error: {error}"),
    }
}
