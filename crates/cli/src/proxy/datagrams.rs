//! A small UDP proxy: it learns where each datagram was to go, sends it on from a socket of that exchange, and answers back.
//!
//! An exchange is what one application's socket sends to one destination. It ends when nothing has gone either way for a
//! while.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portcullis_proto::redirect::RedirectContext;

use super::Served;

/// Exchanges at a time. Datagrams of more are lost, as datagrams may be.
pub const MOST: usize = 256;
/// For how long an exchange lasts without a datagram: as long as an ALE flow does.
pub const IDLE: Duration = Duration::from_mins(1);
/// How long a wait for a datagram lasts, after which it is looked whether all is over.
pub const TICK: Duration = Duration::from_millis(100);
/// More than a datagram has.
const ROOM: usize = 1 << 16;

/// A datagram that has come to the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// Its bytes in the buffer.
    pub length: usize,
    /// Whose it is.
    pub from: SocketAddr,
    /// What the driver told of it. `None`: nothing came with this one.
    pub context: Option<RedirectContext>,
    /// Who redirected it, in a form that only the system reads.
    pub records: Vec<u8>,
}

/// How a proxy learns of datagrams, and sends them on.
pub trait Way: Sync {
    /// Waits for a datagram, for [`TICK`] at most. `None`: none has come.
    ///
    /// # Errors
    /// Nothing will come any more.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Arrived>>;

    /// Sends a datagram on by a socket of its exchange, on behalf of one with these records.
    ///
    /// # Errors
    /// What the system answers.
    fn send_on(
        &self,
        by: &UdpSocket,
        data: &[u8],
        to: SocketAddr,
        records: &[u8],
    ) -> io::Result<()>;

    /// Whose answers are those of `to`.
    fn partner(&self, to: SocketAddr) -> SocketAddr {
        to
    }

    /// Answers the application.
    ///
    /// # Errors
    /// What the system answers.
    fn answer(&self, data: &[u8], to: SocketAddr) -> io::Result<()>;
}

/// One application's socket and where it sends to.
type Ends = (SocketAddr, SocketAddr);

struct Exchange {
    onward: UdpSocket,
    context: RedirectContext,
    from: SocketAddr,
    to: SocketAddr,
    records: Vec<u8>,
    sent: AtomicU64,
    received: AtomicU64,
    is_over: AtomicBool,
}

/// Serves until `is_over` or nothing comes any more. `told` hears of each exchange that has ended, and of each datagram that
/// could not be served.
///
/// # Errors
/// Those of [`Way::receive`].
pub fn serve(
    way: &impl Way,
    idle: Duration,
    is_over: &AtomicBool,
    told: impl Fn(io::Result<Served>) + Sync,
) -> io::Result<()> {
    let stop = AtomicBool::new(false);
    let is_over = || is_over.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed);
    thread::scope(|scope| {
        let mut exchanges: HashMap<Ends, Arc<Exchange>> = HashMap::new();
        let mut buffer = vec![0; ROOM];
        let outcome = loop {
            if is_over() {
                break Ok(());
            }
            let arrived = match way.receive(&mut buffer) {
                Ok(Some(arrived)) => arrived,
                Ok(None) => continue,
                Err(error) => break Err(error),
            };
            exchanges.retain(|_, exchange| !exchange.is_over.load(Ordering::Relaxed));
            let data = &buffer[..arrived.length.min(ROOM)];
            let exchange = match find_or_begin(&mut exchanges, arrived) {
                Ok((exchange, is_new)) => {
                    if is_new {
                        let (exchange, is_over, told) = (Arc::clone(&exchange), &is_over, &told);
                        scope.spawn(move || told(answers(way, &exchange, idle, is_over)));
                    }
                    exchange
                }
                Err(error) => {
                    told(Err(error));
                    continue;
                }
            };
            // Counted before: the answer may come, and all be over, before the call returns.
            let bytes = data.len() as u64;
            exchange.sent.fetch_add(bytes, Ordering::Relaxed);
            let sent = way.send_on(&exchange.onward, data, exchange.to, &exchange.records);
            if let Err(error) = sent {
                exchange.sent.fetch_sub(bytes, Ordering::Relaxed);
                told(Err(error));
            }
        };
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

/// The exchange that a datagram belongs to, and whether it begins with it.
fn find_or_begin(
    exchanges: &mut HashMap<Ends, Arc<Exchange>>,
    arrived: Arrived,
) -> io::Result<(Arc<Exchange>, bool)> {
    let Arrived {
        from,
        context,
        records,
        ..
    } = arrived;
    // Only the first datagram of a flow may have a context.
    let of =
        |ends: &&Ends| ends.0 == from && context.is_none_or(|context| ends.1 == context.remote());
    if let Some((_, known)) = exchanges.iter().find(|(ends, _)| of(ends)) {
        return Ok((Arc::clone(known), false));
    }
    let context = context.ok_or_else(|| {
        io::Error::other(format!(
            "a datagram of {from} was not redirected by the driver"
        ))
    })?;
    if exchanges.len() >= MOST {
        return Err(io::Error::other(format!(
            "a datagram of {from} is lost: there are {MOST} exchanges"
        )));
    }
    let to = context.remote();
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let onward = UdpSocket::bind((any, 0))?;
    onward.set_read_timeout(Some(TICK))?;
    let exchange = Arc::new(Exchange {
        onward,
        context,
        from,
        to,
        records,
        sent: AtomicU64::new(0),
        received: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    });
    exchanges.insert((from, to), Arc::clone(&exchange));
    Ok((exchange, true))
}

/// Hands the answers of an exchange back until it ends.
fn answers(
    way: &impl Way,
    exchange: &Exchange,
    idle: Duration,
    is_over: &impl Fn() -> bool,
) -> io::Result<Served> {
    let mut buffer = vec![0; ROOM];
    let mut sent = exchange.sent.load(Ordering::Relaxed);
    let mut last = Instant::now();
    while !is_over() && last.elapsed() < idle {
        match exchange.onward.recv_from(&mut buffer) {
            Ok((length, from)) => {
                last = Instant::now();
                // Whoever else sends to the port is nobody's partner.
                if from == way.partner(exchange.to)
                    && way.answer(&buffer[..length], exchange.from).is_ok()
                {
                    exchange
                        .received
                        .fetch_add(length as u64, Ordering::Relaxed);
                }
            }
            Err(error) if is_passing(&error) => {
                let now = exchange.sent.load(Ordering::Relaxed);
                if now != sent {
                    (sent, last) = (now, Instant::now());
                }
            }
            Err(error) => {
                exchange.is_over.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
    }
    exchange.is_over.store(true, Ordering::Relaxed);
    Ok(Served {
        context: exchange.context,
        sent: exchange.sent.load(Ordering::Relaxed),
        received: exchange.received.load(Ordering::Relaxed),
    })
}

/// Whether a socket may hear something after that: it waited, or Windows says that a datagram of it has found nobody.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock
            | ErrorKind::TimedOut
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{SocketAddr, UdpSocket};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use portcullis_proto::redirect::RedirectContext;

    use super::{Arrived, IDLE, Served, TICK, Way, is_passing, serve};

    const RECORDS: &[u8] = b"records";

    /// Datagrams were to go to port 53 or 54 of this address, as their first byte says; both are servers here. Only the first
    /// datagram of a flow says so, if any does.
    struct Known<'a> {
        socket: UdpSocket,
        servers: [SocketAddr; 2],
        told: AtomicU64,
        is_told: bool,
        /// Sending returns when the proxy has told of something.
        returns_after: Option<&'a Told>,
    }

    type Told = Mutex<Vec<io::Result<Served>>>;

    /// Waits until the proxy has told of something.
    fn await_told(told: &Told) {
        let begun = Instant::now();
        while told.lock().expect("no panic").is_empty() {
            assert!(
                begun.elapsed() < Duration::from_mins(1),
                "it tells of nothing"
            );
            thread::yield_now();
        }
    }

    fn nowhere(port: u16) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, 7], port))
    }

    impl Known<'_> {
        fn server(&self, to: SocketAddr) -> SocketAddr {
            self.servers[usize::from(to.port() - 53)]
        }
    }

    impl Way for Known<'_> {
        fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Arrived>> {
            let (length, from) = match self.socket.recv_from(buffer) {
                Ok(received) => received,
                Err(error) if is_passing(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            let port = 53 + u16::from(buffer[0]);
            let bit = 1 << (from.port() % 32 * 2 + u16::from(buffer[0]));
            let is_first = self.told.fetch_or(bit, Ordering::Relaxed) & bit == 0;
            Ok(Some(Arrived {
                length,
                from,
                context: (self.is_told && is_first)
                    .then(|| RedirectContext::new(17, from, nowhere(port))),
                records: RECORDS.to_vec(),
            }))
        }

        fn send_on(
            &self,
            by: &UdpSocket,
            data: &[u8],
            to: SocketAddr,
            records: &[u8],
        ) -> io::Result<()> {
            assert_eq!(records, RECORDS);
            let sent = by.send_to(data, self.server(to)).map(drop);
            if let Some(told) = self.returns_after {
                await_told(told);
            }
            sent
        }

        fn partner(&self, to: SocketAddr) -> SocketAddr {
            self.server(to)
        }

        fn answer(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
            self.socket.send_to(data, to).map(drop)
        }
    }

    fn here() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_read_timeout(Some(TICK)).expect("a time");
        socket
    }

    fn at(socket: &UdpSocket) -> SocketAddr {
        socket.local_addr().expect("an address")
    }

    /// What the socket hears next.
    fn heard(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2048];
        for _ in 0..100 {
            match socket.recv_from(&mut buffer) {
                Ok((length, from)) => return (buffer[..length].to_vec(), from),
                Err(error) => assert!(is_passing(&error), "{error}"),
            }
        }
        panic!("nothing has come");
    }

    /// Runs `clients` against a proxy with two servers, which answer with what they have read, reversed; what the proxy told.
    fn run(
        idle: Duration,
        is_told: bool,
        is_slow: bool,
        clients: impl FnOnce(SocketAddr, &Told),
    ) -> Vec<io::Result<Served>> {
        let servers = [here(), here()];
        let (is_over, told) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let way = Known {
            socket: here(),
            servers: [at(&servers[0]), at(&servers[1])],
            told: AtomicU64::new(0),
            is_told,
            returns_after: is_slow.then_some(&told),
        };
        let proxy = at(&way.socket);
        thread::scope(|scope| {
            for server in &servers {
                let is_over = &is_over;
                scope.spawn(move || {
                    let mut buffer = [0; 2048];
                    while !is_over.load(Ordering::Relaxed) {
                        if let Ok((length, from)) = server.recv_from(&mut buffer) {
                            buffer[..length].reverse();
                            server.send_to(&buffer[..length], from).expect("it is sent");
                        }
                    }
                });
            }
            scope.spawn(|| {
                serve(&way, idle, &is_over, |ended| {
                    told.lock().expect("no panic").push(ended);
                })
            });
            clients(proxy, &told);
            is_over.store(true, Ordering::Relaxed);
        });
        told.into_inner().expect("no panic")
    }

    #[test]
    fn each_exchange_goes_where_it_was_to_go_and_is_answered_from_the_proxy() {
        let ended = run(IDLE, true, false, |proxy, _| {
            let client = here();
            for (server, word) in [(0, b"abc"), (1, b"def"), (0, b"ghi")] {
                client
                    .send_to(&[&[server], &word[..]].concat(), proxy)
                    .expect("it is sent");
                let (answer, from) = heard(&client);
                assert_eq!((answer[3], from), (server, proxy));
                let reversed: Vec<u8> = answer[..3].iter().rev().copied().collect();
                // A datagram that says nothing of its flow is of one that is known.
                assert_eq!(reversed, word);
            }
        });
        let mut ended: Vec<_> = ended
            .into_iter()
            .map(|served| served.expect("it was served"))
            .map(|served| (served.context.remote(), served.sent, served.received))
            .collect();
        ended.sort_unstable();
        assert_eq!(ended.iter().map(|ended| ended.1).sum::<u64>(), 12);
        assert!(ended.iter().all(|ended| ended.1 == ended.2), "{ended:?}");
        assert_eq!(
            ended.iter().map(|ended| ended.0).collect::<Vec<_>>(),
            [nowhere(53), nowhere(54)]
        );
    }

    #[test]
    fn what_was_sent_is_counted_even_if_the_answer_is_faster_than_the_call() {
        let ended = run(IDLE, true, true, |proxy, _| {
            let client = here();
            client.send_to(&[0, 1], proxy).expect("it is sent");
            assert_eq!(heard(&client).0, [1, 0]);
        });
        let [Ok(served)] = &ended[..] else {
            panic!("{ended:?}");
        };
        assert_eq!((served.sent, served.received), (2, 2));
    }

    #[test]
    fn an_exchange_ends_when_nothing_has_come_for_a_while() {
        let ended = run(TICK, true, false, |proxy, told| {
            let client = here();
            client.send_to(&[0, 1], proxy).expect("it is sent");
            assert_eq!(heard(&client).0, [1, 0]);
            await_told(told);
        });
        assert_eq!(ended.len(), 1, "{ended:?}");
    }

    #[test]
    fn a_datagram_that_nobody_has_redirected_is_not_sent_on() {
        let ended = run(IDLE, false, false, |proxy, told| {
            let client = here();
            client.send_to(&[0, 1], proxy).expect("it is sent");
            await_told(told);
        });
        let [Err(error)] = &ended[..] else {
            panic!("{ended:?}");
        };
        assert!(error.to_string().contains("not redirected"), "{error}");
    }
}
