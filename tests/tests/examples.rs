//! The drivers of `examples/`: what each says that it does, and that each keeps the rules in every situation.

mod authorized;
mod lives;
mod observed;
mod packets;
mod platform;
mod recorded;
mod redirected;
mod streams;

use ksim::net::Setup;
use ksim::{Config, FileHandle, Kernel, Schedule};
use portcullis_tests::control::alive;
use portcullis_tests::examples::built;
use portcullis_tests::foreign::{Machine, sweep};
use portcullis_tests::proxy::owners;
use portcullis_tests::{Net, Tcp};
use wfp_schema::NtStatus;

/// An example, and what makes it do all that it does.
struct Example {
    name: &'static str,
    /// A program of its own, as long as it runs.
    program: Option<fn(&Kernel) -> Option<FileHandle>>,
    /// Traffic on a host, from ports of its own beginning with this one.
    exchange: fn(&mut Net, u16),
}

impl Example {
    const fn new(name: &'static str, exchange: fn(&mut Net, u16)) -> Self {
        Self {
            name,
            program: None,
            exchange,
        }
    }

    fn program(&self, kernel: &Kernel) -> Option<FileHandle> {
        self.program.and_then(|program| program(kernel))
    }
}

/// All of them.
const EXAMPLES: &[Example] = &[
    Example::new("accounting", lives::accounting),
    Example::new("binding", redirected::binding),
    Example::new("deferring", redirected::deferring),
    Example::new("editing", streams::editing),
    Example::new("guarding", authorized::guarding),
    Example::new("holding", authorized::holding),
    Example::new("mapping", packets::mapping),
    Example::new("marking", packets::marking),
    Example::new("observing", observed::observing),
    Example::new("pacing", packets::pacing),
    Example::new("recording", recorded::recording),
    Example {
        program: Some(redirected::proxy),
        ..Example::new("redirecting", redirected::redirecting)
    },
    Example::new("resting", platform::resting),
    Example::new("screening", streams::screening),
    Example::new("watching", packets::watching),
];

fn with_processors(processors: u32) -> Config {
    Config {
        processors,
        ..Config::default()
    }
}

fn machine(name: &str) -> Machine {
    Machine::with_built(&Config::default(), &built(name))
}

/// The example, and a host whose output is kept.
fn with_output(name: &str) -> (Machine, Net) {
    let machine = machine(name);
    let setup = Setup {
        output: true,
        processes: owners(),
        ..Setup::default()
    };
    let net = Net::with_setup(&machine.kernel, 0, setup);
    (machine, net)
}

/// `CTL_CODE(FILE_DEVICE_NETWORK, 0x800, METHOD_BUFFERED, access)`.
const fn code(access: u32) -> u32 {
    0x12 << 16 | access << 14 | 0x800 << 2
}

/// The numbers that an example has counted.
fn numbers(machine: &Machine, path: &str, count: usize) -> Vec<u64> {
    let device = machine.open(path);
    let result = alive(device.ioctl(code(1), &[], count * 8));
    assert_eq!(result.status, NtStatus::SUCCESS);
    alive(device.close());
    let (numbers, _) = result.output.as_chunks();
    numbers
        .iter()
        .map(|bytes| u64::from_le_bytes(*bytes))
        .collect()
}

/// The connections' clients, one of each IP version.
fn clients(port: u16) -> [String; 2] {
    [
        format!("192.0.2.10:{port}"),
        format!("[2001:db8::10]:{port}"),
    ]
}

/// A connection in which the client says these, and the server says one thing.
fn talk(net: &mut Net, client: &str, server: &str, says: &[&str]) {
    let mut tcp = Tcp::new(client, server);
    net.fates(&tcp.handshake());
    for part in says {
        net.packet(&tcp.client_says(part.as_bytes()));
    }
    net.packet(&tcp.server_says(b"a falcon is heard"));
    net.fates(&tcp.close());
    net.settle();
}

#[test]
fn each_example_breaks_no_rule_under_traffic_on_four_processors() {
    for example in EXAMPLES {
        let machine = Machine::with_built(&with_processors(4), &built(example.name));
        let program = example.program(&machine.kernel);
        std::thread::scope(|scope| {
            for processor in 0..4_u16 {
                let kernel = &machine.kernel;
                scope.spawn(move || {
                    let mut net = Net::new(kernel, u32::from(processor));
                    for round in 0..20 {
                        (example.exchange)(&mut net, 20_000 + processor * 1_000 + round * 8);
                    }
                });
            }
        });
        println!("{}", example.name);
        drop(program);
        machine.end();
    }
}

#[test]
fn each_example_is_unloaded_in_the_midst_of_its_traffic() {
    for example in EXAMPLES {
        let mut machine = Machine::with_built(&with_processors(4), &built(example.name));
        let program = example.program(&machine.kernel);
        (example.exchange)(&mut machine.net, 50_000);
        drop(program);
        let report = machine.unload_under_traffic(example.exchange);
        assert!(report.is_clean(), "{}: {report:#?}", example.name);
    }
}

#[test]
fn each_example_is_unloaded_at_any_moment_of_an_exchange() {
    for example in EXAMPLES {
        let driver = built(example.name);
        for seed in 0..24 {
            let config = Config {
                schedule: Schedule::seeded(seed),
                ..with_processors(2)
            };
            let mut machine = Machine::with_built(&config, &driver);
            let mut net = Net::new(&machine.kernel, 1);
            let kernel = machine.kernel.clone();
            let program = example.program(&kernel);
            let mut report = None;
            kernel.together::<()>(vec![
                Box::new(|| {
                    drop(program);
                    report = Some(machine.unload());
                }),
                Box::new(|| (example.exchange)(&mut net, 50_000)),
            ]);
            let report = report.expect("it was unloaded");
            assert!(
                report.is_clean(),
                "{}, seed {seed}: {report:#?}",
                example.name
            );
        }
    }
}

#[test]
fn each_call_of_each_example_fails_in_turn_and_nothing_is_left() {
    for example in EXAMPLES {
        let calls = sweep(&built(example.name), |machine| {
            let program = example.program(&machine.kernel);
            (example.exchange)(&mut machine.net, 50_000);
            drop(program);
        });
        assert!(calls > 15, "{}: {calls}", example.name);
    }
}
