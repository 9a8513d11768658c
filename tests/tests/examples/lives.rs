//! What follows lives of sockets and flows: accounting.

use portcullis_tests::foreign::Machine;
use portcullis_tests::{Net, Tcp, udp};

use super::{clients, machine, numbers, talk};

pub(super) fn accounting(net: &mut Net, port: u16) {
    for (client, server) in clients(port)
        .iter()
        .zip(["198.51.100.1:80", "[2001:db8::80]:80"])
    {
        talk(net, client, server, &["question"]);
        net.packet(&udp(client, server, b"datagram"));
        net.packet(&udp(server, client, b"and one back"));
    }
}

#[test]
fn accounting_counts_sockets_flows_and_the_bytes_of_flows_that_have_ended() {
    let mut machine = machine("accounting");
    accounting(&mut machine.net, 50_000);
    machine.net.finish();
    let numbers = numbers(&machine, r"\\.\Accounting", 7);
    let [assigned, released, closed, begun, ended, sent, received] = numbers[..] else {
        panic!("{numbers:?}");
    };
    assert_eq!((begun, ended), (4, 4), "{numbers:?}");
    assert_eq!(
        (sent, received),
        (2 * (8 + 8), 2 * (17 + 12)),
        "{numbers:?}"
    );
    assert_eq!((assigned, released), (4, 4), "{numbers:?}");
    assert!(closed >= 4, "{numbers:?}");
    machine.end();
}

#[test]
fn accounting_takes_its_contexts_off_flows_that_live_when_it_stops() {
    let mut machine = machine("accounting");
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    assert!(machine.net.all_pass(&tcp.handshake()));
    assert!(
        machine
            .net
            .passes(udp("[2001:db8::10]:50000", "[2001:db8::80]:53", b"query"))
    );
    let contexts = |machine: &Machine| -> usize {
        let engine = machine.kernel.filter_engine();
        let registered = engine.registered_callouts();
        registered
            .iter()
            .map(|(id, _)| engine.context_count(*id))
            .sum()
    };
    assert_eq!(contexts(&machine), 2);
    assert!(machine.unload().is_clean());
    assert!(machine.net.passes(tcp.client_says(b"the flow lives on")));
}
