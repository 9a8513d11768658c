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

    use crate::control;
    use crate::device::{Sockets, WindowsDevice};

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
            control::register_proxy(&device, address, TCP).map_err(BadInput::new)?;
            say!("listening at {address}");
            scope.spawn(move || {
                for accepted in listener.incoming().flatten() {
                    std::thread::spawn(move || report(&accepted, &Sockets));
                }
            });
        }
        Ok(Ending::Clean)
    })
}

/// IP protocol number of TCP.
#[cfg(any(windows, target_os = "linux"))]
pub(super) const TCP: u8 = 6;

/// Serves a connection and says what became of it.
#[cfg(any(windows, target_os = "linux"))]
pub(super) fn report(accepted: &std::net::TcpStream, way: &impl crate::proxy::Way) {
    match crate::proxy::serve(accepted, way) {
        Ok(served) => say!(
            "{} → {}: {} bytes there, {} back, process {}",
            served.context.local(),
            served.context.remote(),
            served.sent,
            served.received,
            served.context.process_id
        ),
        Err(error) => {
            let from = accepted
                .peer_addr()
                .map_or_else(|_| "?".to_owned(), |peer| peer.to_string());
            eprintln!("error: {from}: {error}");
        }
    }
}
