//! Who may listen.

use portcullis_core::{Action, Application, Endpoint, Listener};
use portcullis_proto::EventKind;
use portcullis_proto::event::Operation;
use std::net::IpAddr;

use crate::shared::driver::{core, events_of};

const fn listener(address: IpAddr, port: u16) -> Listener<'static> {
    Listener {
        local: Endpoint::new(address, port),
        application: Application::UNKNOWN,
        user: &[],
        process_id: 5,
        interface: 0,
    }
}

#[test]
fn a_listener_is_blocked_only_where_nobody_could_connect() {
    let core = core(
        4,
        r#"
        default = "block"
        [[rule]]
        action = "block"
        remote_address = "10.0.0.0/8"
        local_port = 80
        [[rule]]
        action = "permit"
        direction = "inbound"
        remote_address = "192.168.0.0/16"
        local_port = [80, 81]
        [[rule]]
        action = "permit"
        direction = "outbound"
        "#,
    );
    let everywhere = IpAddr::from([0, 0, 0, 0]);
    assert_eq!(
        core.listen(&listener(everywhere, 80)).action,
        Action::Permit,
        "someone may connect"
    );
    assert_eq!(core.listen(&listener(everywhere, 82)).action, Action::Block);
    let asked = events_of(&core, EventKind::Authorize);
    assert_eq!(asked.len(), 2);
    assert!(
        asked
            .iter()
            .all(|event| event.operation == Operation::Listen.raw()
                && event.remote_address == [0; 16])
    );
}

#[test]
fn a_listener_everywhere_is_not_blocked_by_a_rule_for_one_local_address() {
    let core = core(
        1,
        "default = \"permit\"\n[[rule]]\naction = \"block\"\nlocal_address = \"127.0.0.1\"\nlocal_port = 80",
    );
    assert_eq!(
        core.listen(&listener(IpAddr::from([0, 0, 0, 0]), 80))
            .action,
        Action::Permit
    );
    assert_eq!(
        core.listen(&listener(IpAddr::from([127, 0, 0, 1]), 80))
            .action,
        Action::Block
    );
}
