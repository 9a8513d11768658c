//! What events tell, and applications with long paths.

use portcullis_core::{Action, Application, Connection, StreamVerdict};
use portcullis_proto::event::MAX_PATH_UNITS;
use portcullis_proto::{Counter, EventRecord};

use crate::shared::driver::{core, count, events, outgoing, send, set_policy};
use crate::{TCP, connect};

#[test]
fn an_event_tells_who_and_what() {
    let path: Vec<u8> = "\\device\\harddiskvolume3\\app.exe\0"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let user = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
    let core = core(
        1,
        "default = \"permit\"\n[[rule]]\nname = \"app\"\naction = \"block\"\napplication = 'C:\\App.exe'\nuser = \"SYSTEM\"\nlog = true",
    );
    let connection = Connection {
        application: Application::new(&path),
        user: &user,
        ..outgoing(TCP, 443)
    };
    assert_eq!(connect(&core, &connection), Action::Block);
    let event = &events(&core)[0];
    assert_eq!(event.rule(), Some(0));
    assert_eq!(
        String::from_utf16_lossy(&event.application().collect::<Vec<_>>()),
        r"\device\harddiskvolume3\app.exe"
    );
    assert_eq!(event.user(), user);
    assert_eq!(
        (event.process_id.get(), event.protocol, event.family),
        (1234, TCP, 4)
    );
    assert_eq!(
        (&event.remote_address[..4], event.remote_port.get()),
        (&[192, 0, 2, 1][..], 443)
    );
    assert_eq!(event.flags.get(), EventRecord::LOGGED);
    assert_eq!((event.epoch.get(), event.sequence.get()), (1, 1));
}

#[test]
fn a_path_too_long_to_keep_is_never_permitted_by_its_name_and_always_blocked() {
    let long = format!(
        r"\device\harddiskvolume1\{}\app.exe",
        "x".repeat(MAX_PATH_UNITS)
    );
    let path: Vec<u8> = long.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let connection = Connection {
        application: Application::new(&path),
        ..outgoing(TCP, 443)
    };
    let core = core(
        2,
        "default = \"block\"\n[[rule]]\naction = \"permit\"\napplication = '*\\app.exe'",
    );
    assert_eq!(
        connect(&core, &connection),
        Action::Permit,
        "the whole path is at hand"
    );
    let handle = core
        .flow_established(&Connection {
            flow: 1,
            ..connection
        })
        .expect("room");
    assert_eq!(
        send(&core, handle, b"x"),
        StreamVerdict::DropConnection,
        "it is not any more"
    );
    assert_eq!(count(&core, Counter::PathTruncated), 1);
    set_policy(
        &core,
        "default = \"permit\"\n[[rule]]\naction = \"block\"\napplication = '*\\other.exe'",
    );
    let handle = core
        .flow_established(&Connection {
            flow: 1,
            ..connection
        })
        .expect("room");
    set_policy(
        &core,
        "default = \"permit\"\n[[rule]]\naction = \"block\"\napplication = 'C:\\other.exe'",
    );
    assert_eq!(send(&core, handle, b"x"), StreamVerdict::DropConnection);
}
