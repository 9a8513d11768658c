//! What an answer means later.

use portcullis_proto::{Action as Verdict, CalloutKind, Counter, Family};
use portcullis_tests::control::compile;
use portcullis_tests::product::Product;
use portcullis_tests::{Tcp, udp};
use wfp_schema::{Action, FilterFlags, NtStatus};

use super::{ASK, CONNECT_V4, answer, asked, settled, waits};

#[test]
fn a_connection_that_is_authorized_again_keeps_its_answer() {
    let mut world = asked(ASK);
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:4433");
    let handshake = tcp.handshake();
    assert!(waits(&world.net.packet(&handshake[0])));
    assert_eq!(answer(&mut world, Verdict::Permit), [true]);
    assert!(world.net.all_pass(&handshake[1..]));
    // Longer than an answer is remembered without a flow.
    world.net.wait(600);
    let product = Product::new(&world.kernel, 0x2000);
    product.add_filter(CONNECT_V4, Action::Permit, FilterFlags::NONE, Vec::new());
    let before = world
        .callout(CalloutKind::Connect, Family::V4)
        .classify
        .get();
    assert!(world.net.passes(tcp.client_says(b"hello")));
    assert!(
        world
            .callout(CalloutKind::Connect, Family::V4)
            .classify
            .get()
            > before,
        "asked again"
    );
    assert!(
        world.device().questions().is_empty(),
        "a reauthorization is not pended"
    );
    assert_eq!(world.counter(Counter::AskCannotHold), 0);
    assert!(world.net.all_pass(&tcp.close()));
    world.net.finish();
    // The next connection between the same ends is another one.
    assert!(waits(&world.net.packet(&handshake[0])));
    product.close();
    world.end();
}

#[test]
fn a_new_policy_ends_what_it_does_not_allow_and_leaves_the_rest() {
    let mut world = asked(ASK);
    let mut answered = Tcp::new("192.0.2.10:50000", "198.51.100.1:4433");
    let handshake = answered.handshake();
    assert!(waits(&world.net.packet(&handshake[0])));
    assert_eq!(answer(&mut world, Verdict::Permit), [true]);
    assert!(world.net.all_pass(&handshake[1..]));
    let mut permitted = Tcp::new("192.0.2.10:50001", "198.51.100.1:80");
    assert!(world.net.all_pass(&permitted.handshake()));
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:50002", "198.51.100.1:9999", b"datagram"))
    );
    // Now everything is asked about: what was answered goes on, what was never asked about does not.
    world.set_policy(
        "default = 'permit'\n[[rule]]\naction = 'ask'\nremote_address = '198.51.100.0/24'",
    );
    assert_eq!(world.counter(Counter::FlowsEnded), 2);
    drop(settled(&mut world));
    assert!(world.net.passes(answered.client_says(b"hello")));
    assert!(!world.net.passes(permitted.client_says(b"hello")));
    world.set_policy("default = 'block'");
    assert_eq!(world.counter(Counter::FlowsEnded), 3);
    drop(settled(&mut world));
    assert!(!world.net.passes(answered.client_says(b"hello")));
    world.end();
}

#[test]
fn a_policy_that_asks_no_more_leaves_what_is_held_to_its_answer() {
    let mut world = asked(ASK);
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:4433");
    let handshake = tcp.handshake();
    assert!(waits(&world.net.packet(&handshake[0])));
    assert_eq!(
        world.device().try_set_policy(&compile("default = 'block'")),
        NtStatus::SUCCESS
    );
    // The answer lets the connect go on, and the policy in force decides it.
    assert_eq!(answer(&mut world, Verdict::Permit), [false]);
    assert!(world.net.none_passes(&handshake[1..]));
    world.end();
}
