//! Each request in each of its forms, the bad ones too.

use portcullis_tests::control::alive;
use portcullis_tests::foreign::windivert::{
    ADDRESS, DROP, FRAGMENTS, Layer, MAGIC_DRIVER, Program, RECV_ONLY, Received, SEND_ONLY, SNIFF,
    code, filter, initialization, version,
};
use portcullis_tests::udp;
use portcullis_tests::world::assert_clean;
use wfp_schema::NtStatus;

use super::machine;

const BAD_STATE: NtStatus = NtStatus::from_u32(0xC000_0184);
const ACCESS_VIOLATION: NtStatus = NtStatus::from_u32(0xC000_0005);

#[test]
fn a_handle_is_initialized_once_with_a_layer_a_priority_and_flags_that_exist() {
    let Some((world, driver)) = machine() else {
        return;
    };
    let program = Program::new(&world.kernel);
    for (layer, priority, flags, what) in [
        (5, 0, 0, "no such layer"),
        (u32::MAX, 0, 0, "no such layer"),
        (0, 30_001, 0, "too high a priority"),
        (0, 0, 0x40, "no such flag"),
        (0, 0, SNIFF | DROP, "flags that exclude each other"),
        (0, 0, RECV_ONLY | SEND_ONLY, "flags that exclude each other"),
        (
            Layer::Flow as u32,
            0,
            SNIFF,
            "flows are sniffed and received only",
        ),
        (
            Layer::Reflect as u32,
            0,
            RECV_ONLY,
            "handles are sniffed and received only",
        ),
        (Layer::Socket as u32, 0, SNIFF, "sockets are received only"),
    ] {
        assert_eq!(
            program.initialize(layer, priority, flags),
            NtStatus::INVALID_PARAMETER,
            "{what}"
        );
    }
    for (input, data) in [
        (vec![0; 15], version()),
        (initialization(0, 0, 0), version()[..63].to_vec()),
        (initialization(0, 0, 0), vec![0; 64]),
    ] {
        assert_eq!(
            program.ask(code::INITIALIZE, &input, &data),
            NtStatus::INVALID_PARAMETER
        );
    }
    let good = initialization(0, -30_000, FRAGMENTS);
    let result = alive(
        program
            .handle
            .ioctl_with_data(code::INITIALIZE, &good, &version()),
    );
    assert_eq!(result.status, NtStatus::SUCCESS);
    assert_eq!(
        result.buffer[..8],
        MAGIC_DRIVER.to_le_bytes(),
        "the driver says who it is"
    );
    assert_eq!(
        result.buffer[8..20],
        [2, 0, 0, 0, 2, 0, 0, 0, 64, 0, 0, 0],
        "version 2.2, 64 bits"
    );
    assert_eq!(program.initialize(0, 0, 0), BAD_STATE, "once is enough");
    program.close();
    assert_clean(&alive(driver.unload()));
}

#[test]
fn a_handle_begins_once_with_a_filter_that_is_one() {
    let Some((world, driver)) = machine() else {
        return;
    };
    let program = Program::new(&world.kernel);
    assert_eq!(
        program.startup(0xf0, &filter(true)),
        BAD_STATE,
        "not initialized"
    );
    assert_eq!(program.initialize(0, 0, 0), NtStatus::SUCCESS);
    assert_eq!(
        program.startup(0x8, &filter(true)),
        NtStatus::INVALID_PARAMETER,
        "no such filter flag"
    );
    assert_eq!(program.startup(0xf0, &filter(true)), NtStatus::SUCCESS);
    assert_eq!(
        program.startup(0xf0, &filter(true)),
        BAD_STATE,
        "once is enough"
    );
    program.close();

    let mut no_field = filter(true);
    no_field[0] = 0xff;
    let mut nowhere = filter(true);
    nowhere[2..4].copy_from_slice(&7_u16.to_le_bytes());
    for bad in [
        filter(true)[..23].to_vec(),
        no_field,
        nowhere,
        filter(true).repeat(257),
    ] {
        let program = Program::new(&world.kernel);
        assert_eq!(program.initialize(0, 0, 0), NtStatus::SUCCESS);
        assert_eq!(program.startup(0xf0, &bad), NtStatus::INVALID_PARAMETER);
        program.close();
    }
    assert_clean(&alive(driver.unload()));
}

#[test]
fn nothing_is_received_or_sent_before_the_handle_begins() {
    let Some((world, driver)) = machine() else {
        return;
    };
    let program = Program::new(&world.kernel);
    let read = program.recv();
    assert_eq!(read.pending.poll().expect("refused").status, BAD_STATE);
    let packet = Received {
        packet: udp("192.0.2.10:50000", "198.51.100.1:9999", b"question"),
        address: vec![0; ADDRESS],
    };
    assert_eq!(program.send(&packet), BAD_STATE);
    assert_eq!(program.set_parameter(0, 64), BAD_STATE);
    assert_eq!(program.parameter(0), Err(BAD_STATE));
    assert_eq!(program.shut_down(1), BAD_STATE);
    program.close();
    assert_clean(&alive(driver.unload()));
}

#[test]
fn parameters_have_bounds_and_are_kept() {
    let Some((world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Network, 0);
    for (parameter, default, least, most) in [
        (0, 4_096, 32, 16_384),
        (1, 2_000, 100, 16_000),
        (2, 4_194_304, 65_535, 33_554_432),
    ] {
        assert_eq!(program.parameter(parameter), Ok(default));
        for value in [least, most] {
            assert_eq!(program.set_parameter(parameter, value), NtStatus::SUCCESS);
            assert_eq!(program.parameter(parameter), Ok(value));
        }
        for value in [least - 1, most + 1] {
            assert_eq!(
                program.set_parameter(parameter, value),
                NtStatus::INVALID_PARAMETER
            );
            assert_eq!(program.parameter(parameter), Ok(most));
        }
    }
    assert_eq!(
        (program.parameter(3), program.parameter(4)),
        (Ok(2), Ok(2)),
        "the driver's version"
    );
    assert_eq!(program.set_parameter(3, 1), NtStatus::INVALID_PARAMETER);
    assert_eq!(program.parameter(5), Err(NtStatus::INVALID_PARAMETER));
    let short = alive(program.handle.ioctl(code::GET_PARAM, &[0; 16], 7));
    assert_eq!(short.status, NtStatus::INVALID_PARAMETER);
    program.close();
    assert_clean(&alive(driver.unload()));
}

#[test]
fn a_queue_keeps_no_more_packets_than_it_may_and_none_for_longer() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Network, SNIFF);
    assert_eq!(program.set_parameter(0, 32), NtStatus::SUCCESS);
    for number in 0..40_u8 {
        world
            .net
            .packet(&udp("192.0.2.10:50000", "198.51.100.1:9999", &[number; 30]));
        world.net.settle();
    }
    let waiting = program.waiting();
    assert!(
        waiting.len() <= 32 && waiting.len() > 20,
        "{}",
        waiting.len()
    );
    world
        .net
        .packet(&udp("192.0.2.10:50000", "198.51.100.1:9999", b"late"));
    world.net.wait(20);
    assert_eq!(program.waiting(), [], "the queue's time is over");
    program.close();
    assert_clean(&alive(driver.unload()));
}

#[test]
fn a_packet_that_is_too_long_for_its_reader_is_cut() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Network, SNIFF);
    let packet = udp("192.0.2.10:50000", "198.51.100.1:9999", &[7; 100]);
    world.net.packet(&packet);
    world.net.settle();
    let read = program.recv_into(40);
    let result = read.pending.poll().expect("a packet waits");
    assert_eq!(result.output, packet[..40]);
    program.close();
    assert_clean(&alive(driver.unload()));
}

#[test]
fn addresses_of_a_program_are_checked() {
    let Some((world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Network, 0);
    let packet = udp("192.0.2.10:50000", "198.51.100.1:9999", b"question");
    let words = |first: u64, second: u64| [first.to_le_bytes(), second.to_le_bytes()].concat();
    let memory = world.kernel.user_memory(ADDRESS);
    for (address, length) in [
        (0, ADDRESS as u64),
        (memory.address(), ADDRESS as u64 - 1),
        (memory.address(), 256 * ADDRESS as u64),
    ] {
        let status = program.ask(code::SEND, &words(address, length), &packet);
        assert_eq!(
            status,
            NtStatus::INVALID_PARAMETER,
            "{address:#x}, {length}"
        );
    }
    let nowhere = program.ask(code::SEND, &words(0x1000, ADDRESS as u64), &packet);
    assert_eq!(nowhere, ACCESS_VIOLATION);
    let nowhere = alive(program.handle.ioctl(code::RECV, &words(0x1000, 0), 2048));
    assert_eq!(nowhere.status, ACCESS_VIOLATION);
    program.close();
    assert_clean(&alive(driver.unload()));
}

#[test]
fn packets_that_are_none_are_not_sent() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Network, 0);
    let address = vec![0; ADDRESS];
    for packet in [vec![0x45], vec![0; 20], vec![0x45; 19], vec![0xff; 60]] {
        let status = program.send(&Received {
            packet,
            address: address.clone(),
        });
        assert!(status.is_error(), "{status}");
    }
    assert_eq!(world.net.settle(), []);
    program.close();
    assert_clean(&alive(driver.unload()));
}

#[test]
fn a_handle_that_is_shut_down_drains_and_then_refuses() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Network, 0);
    assert_eq!(program.shut_down(0), NtStatus::INVALID_PARAMETER);
    assert_eq!(program.shut_down(4), NtStatus::INVALID_PARAMETER);
    let packet = udp("192.0.2.10:50000", "198.51.100.1:9999", b"before");
    assert!(!world.net.passes(&packet));
    assert_eq!(program.shut_down(1), NtStatus::SUCCESS);
    let received = program.recv().take().expect("what waited is received");
    assert_eq!(received.packet, packet);
    let over = program.recv().pending.poll().expect("and nothing more");
    assert!(over.status.is_error(), "{}", over.status);
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:50000", "198.51.100.1:9999", b"after"))
    );
    assert_eq!(
        program.send(&received),
        NtStatus::SUCCESS,
        "sending goes on"
    );
    assert_eq!(program.shut_down(2), NtStatus::SUCCESS);
    assert!(program.send(&received).is_error(), "now it does not");
    program.close();
    assert_clean(&alive(driver.unload()));
}

#[test]
fn a_pending_read_ends_when_receiving_is_shut_down() {
    let Some((world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Network, 0);
    let read = program.recv();
    assert!(read.pending.poll().is_none());
    assert_eq!(program.shut_down(3), NtStatus::SUCCESS);
    assert!(read.pending.poll().expect("it is over").status.is_error());
    program.close();
    assert_clean(&alive(driver.unload()));
}

#[test]
fn one_direction_only_is_one_direction_only() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let receiver = Program::open(&world.kernel, Layer::Network, SNIFF | RECV_ONLY);
    let sender = Program::new(&world.kernel);
    assert_eq!(
        sender.initialize(Layer::Network as u32, 0, SEND_ONLY),
        NtStatus::SUCCESS
    );
    assert_eq!(sender.startup(0xf0, &filter(false)), NtStatus::SUCCESS);
    let packet = udp("192.0.2.10:50000", "198.51.100.1:9999", b"question");
    world.net.packet(&packet);
    world.net.settle();
    let copy = receiver.recv().take().expect("a copy");
    assert!(receiver.send(&copy).is_error());
    assert!(
        sender
            .recv()
            .pending
            .poll()
            .expect("refused")
            .status
            .is_error()
    );
    assert_eq!(sender.send(&copy), NtStatus::SUCCESS);
    receiver.close();
    sender.close();
    assert_clean(&alive(driver.unload()));
}

#[test]
fn an_unknown_request_is_refused() {
    let Some((world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Network, 0);
    let unknown = code::SHUTDOWN + 4;
    assert_eq!(
        program.ask(unknown, &[0; 16], &[]),
        NtStatus::INVALID_DEVICE_REQUEST
    );
    let answer = alive(program.handle.read(16)).status;
    assert!(answer.is_error(), "{answer}");
    program.close();
    assert_clean(&alive(driver.unload()));
}
