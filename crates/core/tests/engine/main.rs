//! Connections from their authorization to their end.

#[path = "../shared/mod.rs"]
mod shared;

mod datagrams;
mod flows;
mod hosts;
mod interfaces;
mod listeners;
mod told;

use portcullis_core::{Action, Connection, FlowHandle};
use portcullis_proto::event::Operation;

use crate::shared::driver::Core;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

const BLOCK_EVIL: &str = r#"
    default = "permit"
    [[rule]]
    name = "evil"
    action = "block"
    host = ["evil.example", "*.evil.example"]
"#;

const ONLY_GOOD: &str = r#"
    default = "block"
    [[rule]]
    name = "good"
    action = "permit"
    host = "*.good.example"
    remote_port = [53, 80, 443]
"#;

fn connect(core: &Core, connection: &Connection<'_>) -> Action {
    core.authorize(Operation::Connect, connection, false).action
}

/// Authorizes and establishes a connection.
fn establish(core: &Core, connection: &Connection<'_>) -> FlowHandle {
    assert_eq!(connect(core, connection), Action::Permit);
    core.flow_established(&Connection {
        flow: 77,
        ..*connection
    })
    .expect("there is room")
}
