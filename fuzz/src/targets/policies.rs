//! Compiled policies, as the driver gets them, and policies as administrators write them.

use std::net::IpAddr;

use portcullis_core::policy::RuleIndex;
use portcullis_core::{
    Application, Connection, ContentState, Direction, Effect, EffectSet, Endpoint, Host,
    PolicyError, PolicyView, boot::Boot,
};
use portcullis_policy::{Compiled, Diagnostic, Severity};
use portcullis_proto::event::Operation;
use portcullis_proto::policy::{CRC_FROM, PolicyHeader, crc32};
use zerocopy::FromBytes as _;

/// Connections that rules are likely to speak of.
fn connections() -> impl Iterator<Item = Connection<'static>> {
    const SYSTEM: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];

    let ends = [
        ("192.0.2.10", "198.51.100.1"),
        ("10.0.0.1", "10.1.2.3"),
        ("2001:db8::10", "2001:db8::80"),
        ("127.0.0.1", "127.0.0.1"),
    ];
    ends.into_iter().flat_map(|(local, remote)| {
        let end = |address: &str, port| {
            let address: IpAddr = address.parse().expect("an address");
            Endpoint::new(address, port)
        };
        let (local, remote) = (local.to_owned(), remote.to_owned());
        [(6, 443), (6, 80), (17, 53), (1, 8)]
            .into_iter()
            .flat_map(move |(protocol, port)| {
                let connection = Connection {
                    direction: Direction::Outbound,
                    protocol,
                    local: end(&local, 50_000),
                    remote: end(&remote, port),
                    application: Application::new(b"C\0:\0\\\0a\0.\0e\0x\0e\0"),
                    user: SYSTEM,
                    process_id: 4,
                    flow: 0,
                    interface: 0x35_0000_0400_0000,
                };
                let inbound = Connection {
                    direction: Direction::Inbound,
                    application: Application::UNKNOWN,
                    user: &[],
                    interface: 0,
                    ..connection
                };
                [connection, inbound]
            })
    })
}

/// A compiled policy: it is refused, or it decides everything by the rules that it has. Also with its size and checksum put
/// right, behind which most of the looking begins.
///
/// # Panics
/// When it does not.
pub fn compiled(bytes: &[u8]) {
    compiled_by(bytes, &|bytes| PolicyView::validate(bytes));
    compiled_by(&repaired(bytes), &|bytes| PolicyView::validate(bytes));
}

/// A policy whose header has the right size and the right checksum.
#[must_use]
pub fn repaired(bytes: &[u8]) -> Vec<u8> {
    let mut policy = bytes.to_vec();
    let Ok((header, _)) = PolicyHeader::mut_from_prefix(&mut policy) else {
        return policy;
    };
    header.total_size = u32::try_from(bytes.len()).unwrap_or(u32::MAX).into();
    let crc = crc32(policy.get(CRC_FROM..).unwrap_or_default());
    if let Ok((header, _)) = PolicyHeader::mut_from_prefix(&mut policy) {
        header.crc = crc.into();
    }
    policy
}

/// As [`compiled`], with this validation.
///
/// # Panics
/// When the policy does not decide by the rules that it has.
pub fn compiled_by(
    bytes: &[u8],
    validate: &dyn for<'b> Fn(&'b [u8]) -> Result<PolicyView<'b>, PolicyError>,
) {
    let Ok(policy) = validate(bytes) else {
        return;
    };
    let rules = policy.rule_count();
    let exists = |rule: Option<RuleIndex>| {
        let is_there = rule.is_none_or(|rule| (rule.0 as usize) < rules);
        assert!(is_there, "rule {rule:?} of {rules}");
    };
    for rule in (0..rules).filter_map(|rule| u32::try_from(rule).ok()) {
        let rule = RuleIndex(rule);
        let kinds = policy.effect_set_of(rule);
        let effects = policy.effects(Some(rule));
        assert_eq!(effects.count() == 0, kinds == EffectSet::NONE, "{rule:?}");
        assert_eq!(policy.effect_set().union(kinds), policy.effect_set());
        for effect in policy.effects(Some(rule)) {
            if let Effect::Replace { find, .. } = effect {
                assert!(!find.is_empty(), "what is nowhere is replaced everywhere");
            }
        }
    }
    for connection in connections() {
        for host in [Host::Never, Host::Pending, Host::Known(b"www.example.net")] {
            let decision = policy.decide(&connection, host);
            exists(decision.rule);
            exists(policy.decide_linear(&connection, host).rule);
            assert!(policy.effects(decision.rule).count() <= bytes.len());
        }
        for operation in [Operation::Forward, Operation::IcmpError] {
            exists(policy.decide_packet(operation, &connection).rule);
        }
        let mut state = ContentState::START;
        let (found, _) =
            policy.find_content(&mut state, b"GET /secret HTTP/1.1", &connection, None);
        exists(found.map(|found| found.rule));
    }
    if let Some(boot) = policy.boot() {
        assert!(boot.filters().count() <= Boot::MAX_FILTERS);
        let conditions = boot.filters().map(|filter| filter.conditions().count());
        assert!(conditions.sum::<usize>() <= bytes.len());
    }
}

/// The text of a policy: it is compiled to what is valid, or every fault has its place in it.
///
/// # Panics
/// When it is neither.
pub fn text(bytes: &[u8]) {
    text_by(bytes, &|text| {
        portcullis_policy::compile(text, &crate::seeds::with_interfaces())
    });
}

/// As [`text`], with this compiler.
///
/// # Panics
/// When what it makes is not valid, or a fault has no place.
pub fn text_by(bytes: &[u8], compile: &dyn Fn(&str) -> Result<Compiled, Vec<Diagnostic>>) {
    let text = String::from_utf8_lossy(bytes);
    let findings = match compile(&text) {
        Ok(compiled) => {
            let policy = PolicyView::validate(&compiled.blob);
            let policy = policy.unwrap_or_else(|error| panic!("it is not valid: {error:?}"));
            assert_eq!(policy.rule_count(), compiled.rule_names.len());
            compiled.warnings
        }
        Err(findings) => {
            let mut errors = findings.iter();
            assert!(errors.any(|found| found.severity == Severity::Error));
            findings
        }
    };
    for found in &findings {
        let about = text.get(found.start..found.end);
        assert!(about.is_some(), "{found:?} is nowhere");
        assert!(found.line >= 1 && found.line <= text.matches('\n').count() + 1);
    }
    assert_eq!(
        portcullis_policy::render(&findings, &text, false).is_empty(),
        findings.is_empty()
    );
}
