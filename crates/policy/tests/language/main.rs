//! The policy language: what is understood, and what is said about what isn't.

mod conditions;
mod diagnostics;
mod interfaces;
mod mistakes;
mod operations;
mod warnings;

use portcullis_core::{Action, Application, Connection, Direction, Endpoint, Host, PolicyView};
use portcullis_policy::{Compiled, Diagnostic, Options, Severity, compile, render};
use std::net::IpAddr;

fn options() -> Options {
    Options {
        file_name: "policy.toml".to_owned(),
        events_all: false,
        ..Options::default()
    }
}

/// A policy that blocks by default, with these lines in a rule that permits.
fn with_rule(lines: &str) -> String {
    format!("default = \"block\"\n[[rule]]\naction = \"permit\"\n{lines}\n")
}

fn compiled(text: &str) -> Compiled {
    compile(text, &options()).unwrap_or_else(|found| panic!("{}", render(&found, text, false)))
}

fn found(text: &str) -> Vec<Diagnostic> {
    compile(text, &options()).expect_err("is refused")
}

/// The only thing that is wrong with the rule's fourth line, and the hint.
fn complaint(line: &str) -> (String, String) {
    let found = found(&with_rule(line));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].severity, found[0].line), (Severity::Error, 4));
    (
        found[0].message.clone(),
        found[0].hint.clone().unwrap_or_default(),
    )
}

/// What is suspicious about the rule.
fn warnings(lines: &str) -> Vec<String> {
    compiled(&with_rule(lines))
        .warnings
        .into_iter()
        .map(|warning| warning.message)
        .collect()
}

fn connection() -> Connection<'static> {
    Connection {
        direction: Direction::Outbound,
        protocol: 6,
        local: Endpoint::new(IpAddr::from([10, 0, 0, 1]), 50000),
        remote: Endpoint::new(IpAddr::from([192, 0, 2, 1]), 443),
        application: Application::UNKNOWN,
        user: &[],
        process_id: 0,
        flow: 0,
        interface: 0,
    }
}

fn decides(text: &str, connection: &Connection<'_>) -> Action {
    let blob = compiled(text).blob;
    PolicyView::validate(&blob)
        .expect("valid")
        .decide(connection, Host::Never)
        .action
}

/// Whether a rule with these lines matches.
fn matches(lines: &str, connection: &Connection<'_>) -> bool {
    decides(&with_rule(lines), connection) == Action::Permit
}

fn to(address: &str) -> Connection<'static> {
    let address: IpAddr = address.parse().expect("an address");
    Connection {
        remote: Endpoint::new(address, 443),
        ..connection()
    }
}

fn over(protocol: u8, port: u16) -> Connection<'static> {
    Connection {
        protocol,
        remote: Endpoint::new(IpAddr::from([192, 0, 2, 1]), port),
        ..connection()
    }
}
