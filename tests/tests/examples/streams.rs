//! What is about streams: editing, screening.

use ksim::net::Output;
use portcullis_tests::Net;
use wfp_schema::StreamFlags;

use super::{clients, talk, with_output};

/// What both directions of the only connection are when they have left the stack, of what the host sends and receives; and
/// how many of them ended.
fn streams(net: &mut Net) -> ([String; 2], usize) {
    let mut data = [Vec::new(), Vec::new()];
    let mut ends = 0;
    for output in net.output() {
        if let Output::Stream { flags, bytes, .. } = output {
            data[usize::from(flags.contains(StreamFlags::RECEIVE))].extend(bytes);
            let end = StreamFlags::SEND_DISCONNECT | StreamFlags::RECEIVE_DISCONNECT;
            ends += usize::from(flags.intersects(end));
        }
    }
    (
        data.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        ends,
    )
}

pub(super) fn editing(net: &mut Net, port: u16) {
    for (client, server) in clients(port)
        .iter()
        .zip(["198.51.100.1:2525", "[2001:db8::80]:2525"])
    {
        talk(
            net,
            client,
            server,
            &["two falcons, and a fal", "con, and half a fal"],
        );
    }
}

#[test]
fn editing_replaces_its_word_however_it_is_split_between_segments() {
    let said = "fafalcon, falconfalcons, fal con, and half a falco";
    let edited = "fakestrel, kestrelkestrels, fal con, and half a falco";
    for (port, expected) in [(2525, edited), (80, said)] {
        let (machine, mut net) = with_output("editing");
        for (size, first) in (1..said.len()).zip(50_000..) {
            let parts: Vec<&str> = said
                .as_bytes()
                .chunks(size)
                .map(|part| std::str::from_utf8(part).expect("ASCII"))
                .collect();
            for (client, server) in clients(first)
                .iter()
                .zip(["198.51.100.1", "[2001:db8::80]"])
            {
                talk(&mut net, client, &format!("{server}:{port}"), &parts);
                let ([sent, received], ends) = streams(&mut net);
                assert_eq!(sent, expected, "{server}, in parts of {size}");
                assert_eq!(received, "a falcon is heard", "{server}");
                assert_eq!(ends, 2, "{server}, in parts of {size}");
            }
        }
        drop(net);
        machine.end();
    }
}

pub(super) fn screening(net: &mut Net, port: u16) {
    for (client, server) in clients(port)
        .iter()
        .zip(["198.51.100.1:8000", "[2001:db8::80]:8000"])
    {
        talk(net, client, server, &["one", "two"]);
    }
    talk(
        net,
        &format!("192.0.2.10:{}", port + 1),
        "198.51.100.1:8000",
        &["what is forbidden", "more"],
    );
}

#[test]
fn screening_lets_streams_go_on_in_order_and_ends_those_with_its_word() {
    for (client, server) in clients(50_000)
        .iter()
        .zip(["198.51.100.1:8000", "[2001:db8::80]:8000"])
    {
        let (machine, mut net) = with_output("screening");
        talk(&mut net, client, server, &["one ", "two ", "three"]);
        let all = ["one two three".to_owned(), "a falcon is heard".to_owned()];
        assert_eq!(streams(&mut net), (all, 2), "{server}");
        let client = client.replace("50000", "50001");
        talk(&mut net, &client, server, &["one ", "forbidden ", "three"]);
        let ([sent, received], _) = streams(&mut net);
        assert_eq!((&*sent, &*received), ("one ", ""), "{server}");
        drop(net);
        machine.end();
    }
}
