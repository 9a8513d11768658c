//! A small proxy. For TCP it learns where a connection was to go, connects there, and copies both ways; for UDP see
//! [`datagrams`].
//!
//! How it learns is the caller's: on Windows the accepted socket is asked, in the simulated kernel the simulated one.

pub mod datagrams;

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use portcullis_proto::redirect::RedirectContext;

/// What became of a connection, or of an exchange of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// What the driver told of it.
    pub context: RedirectContext,
    /// Bytes that went on to where it was to go.
    pub sent: u64,
    /// Bytes that came back.
    pub received: u64,
}

/// How a proxy learns of a connection, and goes on.
pub trait Way: Sync {
    /// What the driver told of an accepted connection.
    ///
    /// # Errors
    /// Nothing: it was not redirected, or not by Portcullis.
    fn context(&self, accepted: &TcpStream) -> io::Result<RedirectContext>;

    /// Connects to where the connection was to go, on its behalf.
    ///
    /// # Errors
    /// What the system answers.
    fn connect(&self, accepted: &TcpStream, to: SocketAddr) -> io::Result<TcpStream>;
}

/// Serves one connection until both sides have said all.
///
/// # Errors
/// Where it was to go is not known, or cannot be reached, or the connection broke.
pub fn serve(accepted: &TcpStream, way: &impl Way) -> io::Result<Served> {
    let context = way.context(accepted)?;
    let onward = way.connect(accepted, context.remote())?;
    let (sent, received) = thread::scope(|scope| {
        let sending = scope.spawn(|| copy(accepted, &onward));
        let received = copy(&onward, accepted);
        let sent = sending
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that sends ended")));
        (sent, received)
    });
    Ok(Served {
        context,
        sent: sent?,
        received: received?,
    })
}

/// Copies until there is no more, and says so to the other side.
fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<u64> {
    let copied = io::copy(&mut from, &mut to);
    // The other side may have gone already.
    let _ = to.shutdown(Shutdown::Write);
    copied
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read as _, Write as _};
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
    use std::thread;

    use portcullis_proto::redirect::RedirectContext;

    use super::{Way, serve};

    const NOWHERE: &str = "198.51.100.7:80";

    /// Every connection was to go to [`NOWHERE`], which is here.
    struct Known(SocketAddr);

    impl Way for Known {
        fn context(&self, accepted: &TcpStream) -> io::Result<RedirectContext> {
            let remote = NOWHERE.parse().expect("an address");
            Ok(RedirectContext::new(6, accepted.peer_addr()?, remote))
        }

        fn connect(&self, _accepted: &TcpStream, to: SocketAddr) -> io::Result<TcpStream> {
            assert_eq!(to, NOWHERE.parse().expect("an address"));
            TcpStream::connect(self.0)
        }
    }

    #[test]
    fn every_byte_goes_both_ways_and_each_end_is_told_of_the_others() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let proxy = TcpListener::bind("127.0.0.1:0").expect("a port");
        let way = Known(server.local_addr().expect("an address"));
        let question: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = server.accept().expect("a connection");
                let mut read = Vec::new();
                stream.read_to_end(&mut read).expect("data");
                read.reverse();
                stream.write_all(&read).expect("an answer");
            });
            let serving = scope.spawn(|| {
                let (stream, _) = proxy.accept().expect("a connection");
                serve(&stream, &way).expect("it is served")
            });
            let mut client =
                TcpStream::connect(proxy.local_addr().expect("an address")).expect("the proxy");
            client.write_all(&question).expect("data");
            client.shutdown(Shutdown::Write).expect("an end");
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).expect("data");
            answer.reverse();
            assert!(answer == question);
            let outcome = serving.join().expect("no panic");
            assert_eq!((outcome.sent, outcome.received), (800_000, 800_000));
            assert_eq!(outcome.context.remote().to_string(), NOWHERE);
        });
    }
}
