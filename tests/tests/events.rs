//! Events: read when they happen, many at once, and counted when they are dropped.

use ksim::Caller;
use portcullis_proto::device::ControlCode;
use portcullis_proto::event::{EventKind, EventsReply};
use portcullis_proto::message::ReadRequest;
use portcullis_proto::{Action, Counter};
use portcullis_tests::control::{compile_with, events_of};
use portcullis_tests::world::assert_unloaded_while_open;
use portcullis_tests::{Tcp, World, udp};
use wfp_schema::NtStatus;
use zerocopy::IntoBytes as _;

/// A machine whose driver has nothing to tell at the moment.
fn quiet(policy: &str) -> World {
    let world = World::with_policy(policy);
    drop(world.events());
    world
}

fn query(port: u16) -> Vec<u8> {
    udp(
        &format!("192.0.2.10:{port}"),
        "198.51.100.1:9999",
        b"datagram",
    )
}

#[test]
fn a_read_waits_until_something_happens_on_the_network() {
    let mut world = quiet("default = 'block'");
    let read = world.device().read_events(16);
    assert!(read.poll().is_none(), "nothing has happened");
    world.net.packet(&query(50_000));
    let (events, remaining) = events_of(&read.poll().expect("the read is complete"));
    assert_eq!(events.len(), 1);
    assert_eq!(
        (events[0].kind, events[0].verdict),
        (EventKind::Authorize.raw(), Action::Block.raw())
    );
    assert_eq!(remaining, 0);
    world.end();
}

#[test]
fn a_read_waits_until_the_policy_changes() {
    let world = quiet("default = 'permit'");
    let read = world.device().read_events(1);
    world.set_policy("default = 'block'");
    let (events, _) = events_of(&read.poll().expect("the read is complete"));
    assert_eq!(events[0].kind, EventKind::PolicyChanged.raw());
    assert_eq!(events[0].value[0].get(), world.status().policy_hash.get());
    world.end();
}

#[test]
fn one_read_returns_many_events_oldest_first_and_says_how_many_still_wait() {
    let mut world = quiet("default = 'block'");
    for port in 50_000..50_100 {
        world.net.packet(&query(port));
    }
    assert_eq!(world.status().events.get(), 100);
    let (first, remaining) = events_of(
        &world
            .device()
            .read_events(30)
            .poll()
            .expect("there is something to read"),
    );
    assert_eq!((first.len(), remaining), (30, 70));
    let (rest, remaining) = events_of(
        &world
            .device()
            .read_events(200)
            .poll()
            .expect("there is something to read"),
    );
    assert_eq!((rest.len(), remaining), (70, 0));
    let all: Vec<_> = first.iter().chain(&rest).collect();
    for (pair, port) in all.windows(2).zip(50_000..) {
        assert_eq!(pair[1].sequence.get(), pair[0].sequence.get() + 1);
        assert!(pair[1].time.get() >= pair[0].time.get());
        assert_eq!(pair[0].local_port.get(), port);
    }
    world.end();
}

#[test]
fn a_read_that_does_not_want_to_wait_returns_at_once_with_nothing() {
    let world = quiet("default = 'permit'");
    let request = ReadRequest::new(ReadRequest::NO_WAIT);
    let room = EventsReply::size_with(4);
    let result = world
        .device()
        .ioctl(ControlCode::ReadEvents.raw(), request.as_bytes(), room);
    assert_eq!(events_of(&result), (Vec::new(), 0));
    assert_eq!(result.information, EventsReply::size_with(0));
    world.end();
}

#[test]
fn a_read_that_is_cancelled_is_over_and_takes_no_event_along() {
    let mut world = quiet("default = 'block'");
    let read = world.device().read_events(16);
    read.cancel().expect("the machine runs");
    assert_eq!(read.poll().expect("over").status, NtStatus::CANCELLED);
    world.net.packet(&query(50_000));
    assert_eq!(world.events().len(), 1, "the event is still there");
    world.end();
}

#[test]
fn one_of_several_reads_can_be_cancelled() {
    let mut world = quiet("default = 'block'");
    let reads: Vec<_> = (0..3).map(|_| world.device().read_events(1)).collect();
    reads[1].cancel().expect("the machine runs");
    assert_eq!(reads[1].poll().expect("over").status, NtStatus::CANCELLED);
    world.net.packet(&query(50_000));
    assert!(reads[0].poll().is_some() && reads[2].poll().is_none());
    world.net.packet(&query(50_001));
    assert!(reads[2].poll().is_some());
    world.end();
}

#[test]
fn readers_that_wait_are_served_in_turn() {
    let mut world = quiet("default = 'block'");
    let reads: Vec<_> = (0..8).map(|_| world.device().read_events(1)).collect();
    for port in 50_000..50_008 {
        world.net.packet(&query(port));
    }
    for (read, port) in reads.iter().zip(50_000..) {
        let (events, _) = events_of(&read.poll().expect("each has got one"));
        assert_eq!(events[0].local_port.get(), port);
    }
    world.end();
}

#[test]
fn closing_a_handle_ends_the_reads_that_wait_on_it_and_no_others() {
    let mut world = quiet("default = 'block'");
    let other = world.open(Caller::administrator());
    let abandoned: Vec<_> = (0..3).map(|_| other.read_events(4)).collect();
    let kept = world.device().read_events(4);
    other.close();
    for read in &abandoned {
        assert_eq!(read.poll().expect("over").status, NtStatus::CANCELLED);
    }
    assert!(kept.poll().is_none());
    world.net.packet(&query(50_000));
    assert!(kept.poll().is_some());
    world.end();
}

#[test]
fn a_process_that_dies_takes_its_reads_along() {
    let world = quiet("default = 'block'");
    let other = world.open(Caller::administrator().with_process(4242));
    let read = other.read_events(4);
    drop(other);
    assert_eq!(read.poll().expect("over").status, NtStatus::CANCELLED);
    world.end();
}

#[test]
fn unloading_by_force_ends_the_reads_that_wait() {
    let mut world = quiet("default = 'block'");
    let read = world.device().read_events(4);
    let report = world.unload_with_open_device();
    assert!(
        read.poll().is_some(),
        "nobody waits for a driver that is gone"
    );
    assert_unloaded_while_open(&report);
    world.assert_nothing_of_ours();
}

#[test]
fn what_does_not_fit_into_the_ring_is_counted_and_told_in_its_place() {
    let mut world = quiet("default = 'block'");
    let capacity = world.status().event_capacity.get();
    let sent = capacity + 1000;
    let datagrams: Vec<Vec<u8>> = (0..sent)
        .map(|number| query(u16::try_from(2_000 + number).expect("a port")))
        .collect();
    assert!(world.net.none_passes(&datagrams));
    assert_eq!(world.status().events.get(), capacity);
    assert_eq!(world.counter(Counter::EventsDropped), 1000);

    let events = world.events();
    assert_eq!(events.len(), capacity as usize + 1);
    let (dropped, kept) = events.split_last().expect("there are some");
    assert!(
        kept.iter()
            .all(|event| event.kind == EventKind::Authorize.raw())
    );
    assert_eq!(dropped.kind, EventKind::Dropped.raw());
    assert_eq!(dropped.value[0].get(), 1000);

    world.net.packet(&query(60_000));
    let after = world.events();
    assert_eq!(after.len(), 1);
    assert_eq!(
        after[0].sequence.get(),
        dropped.sequence.get() + 1,
        "the numbers go on behind the gap"
    );
    let read = world.counter(Counter::EventsRead);
    assert!(read >= u64::from(capacity));
    world.end();
}

#[test]
fn without_events_for_all_only_rules_that_log_make_some() {
    let mut world = quiet("default = 'permit'");
    let policy = "
        default = 'permit'
        [[rule]]
        action = 'block'
        remote_port = 23
        [[rule]]
        action = 'block'
        remote_port = 25
        log = true
    ";
    assert_eq!(
        world.device().try_set_policy(&compile_with(policy, false)),
        NtStatus::SUCCESS
    );
    drop(world.events());
    for (port, remote) in (50_000..).zip([23, 25, 80]) {
        let mut tcp = Tcp::new(
            &format!("192.0.2.10:{port}"),
            &format!("198.51.100.1:{remote}"),
        );
        world.net.fates(&tcp.handshake());
        world.net.fates(&tcp.close());
    }
    let events = world.events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0].remote_port.get(), 25);
    world.end();
}

#[test]
fn a_flows_events_carry_its_handle_from_its_beginning_to_its_end() {
    let mut world = quiet("default = 'permit'");
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    world.net.fates(&tcp.handshake());
    world
        .net
        .fates(&[tcp.client_says(&portcullis_tests::messages::http_request("www.example.net"))]);
    world.net.fates(&tcp.close());
    let handle = world.net.flows()[0].handles[0];
    let events = world.events();
    for kind in [
        EventKind::Authorize,
        EventKind::HostName,
        EventKind::FlowClosed,
    ] {
        let event = events.iter().find(|event| event.kind == kind.raw());
        let event = event.unwrap_or_else(|| panic!("{kind:?} among {events:?}"));
        assert_eq!(event.flow.get(), handle, "{kind:?}");
    }
    world.end();
}
