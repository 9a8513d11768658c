//! What a policy's rules say, read one by one.

use portcullis_core::{
    Action, Ancestry, Application, Binding, Connection, Direction, Endpoint, Listener,
};
use portcullis_policy::{Policy, Ranges, Rule, Sid};
use portcullis_proto::event::Operation;

/// A connection, owning what it refers to.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) direction: Direction,
    pub(crate) protocol: u8,
    pub(crate) local: Endpoint,
    pub(crate) remote: Endpoint,
    pub(crate) path: Vec<u8>,
    /// Only the beginning of the path is known.
    pub(crate) is_truncated: bool,
    pub(crate) user: Option<Sid>,
    pub(crate) family: Family,
    pub(crate) interface: u64,
}

/// The paths of a process's ancestors.
#[derive(Clone, Debug)]
pub(crate) struct Family(pub(crate) Vec<Vec<u8>>);

impl Ancestry for Family {
    fn any_ancestor(
        &self,
        process_id: u64,
        _application: Application<'_>,
        matches: &mut dyn FnMut(Application<'_>) -> bool,
    ) -> bool {
        assert_eq!(process_id, 4);
        self.0.iter().any(|path| matches(Application::new(path)))
    }
}

impl Subject {
    pub(crate) fn connection(&self) -> Connection<'_> {
        Connection {
            direction: self.direction,
            protocol: self.protocol,
            local: self.local,
            remote: self.remote,
            application: if self.is_truncated {
                Application::truncated(&self.path)
            } else {
                Application::new(&self.path)
            },
            user: self.user.as_ref().map_or(&[], Sid::as_bytes),
            process_id: 4,
            flow: 0,
            interface: self.interface,
        }
    }

    pub(crate) fn listener(&self) -> Listener<'_> {
        let connection = self.connection();
        Listener {
            local: self.local,
            application: connection.application,
            user: connection.user,
            process_id: 4,
            interface: self.interface,
        }
    }

    pub(crate) fn binding(&self) -> Binding<'_> {
        let connection = self.connection();
        Binding {
            protocol: self.protocol,
            local: self.local,
            application: connection.application,
            user: connection.user,
            process_id: 4,
        }
    }

    /// What it is, as a connection.
    pub(crate) const fn operation(&self) -> Operation {
        match self.direction {
            Direction::Outbound => Operation::Connect,
            Direction::Inbound => Operation::Accept,
        }
    }

    /// Whether a rule's application condition matches, as it reads.
    pub(crate) fn is_of(&self, rule: &Rule) -> bool {
        let units = |path: &[u8]| Application::new(path).units().collect::<Vec<_>>();
        let any = |path: &[u8]| {
            let units = units(path);
            let mut patterns = rule.applications.iter();
            patterns.any(|pattern| pattern.matches(&units))
        };
        let own = if self.is_truncated {
            rule.action == Action::Block
        } else {
            any(&self.path)
        };
        rule.applications.is_empty()
            || own
            || (rule.children && self.family.0.iter().any(|path| any(path)))
    }
}

/// Whether everything about the rule but its host matches the connection, as it reads.
pub(crate) fn matches(rule: &Rule, subject: &Subject) -> bool {
    matches_as(rule, subject.operation(), subject)
}

/// The same of this operation with the connection's ends and owner.
pub(crate) fn matches_as(rule: &Rule, operation: Operation, subject: &Subject) -> bool {
    let of_connections = matches!(
        operation,
        Operation::Connect | Operation::Accept | Operation::Listen
    );
    (rule.operations.contains(&operation) || (rule.operations.is_empty() && of_connections))
        && rule
            .direction
            .is_none_or(|direction| direction == subject.direction)
        && rule.protocols.contains(subject.protocol.into())
        && rule.local_addresses.contains(subject.local.number())
        && rule.remote_addresses.contains(subject.remote.number())
        && rule.local_ports.contains(subject.local.port.into())
        && rule.remote_ports.contains(subject.remote.port.into())
        && (rule.interfaces.is_any()
            || match subject.interface {
                0 => rule.action == Action::Block,
                luid => rule.interfaces.contains(luid.into()),
            })
        && subject.is_of(rule)
        && (rule.users.is_empty()
            || subject
                .user
                .as_ref()
                .is_some_and(|user| rule.users.contains(user)))
}

/// The rule that decides when the host is known, or known to be none.
pub(crate) fn decider(policy: &Policy, subject: &Subject, host: Option<&str>) -> Option<usize> {
    let host_matches = |rule: &Rule| {
        rule.hosts.is_empty()
            || host.is_some_and(|host| rule.hosts.iter().any(|pattern| pattern.matches(host)))
    };
    policy
        .rules
        .iter()
        .position(|rule| matches(rule, subject) && rule.contents.is_empty() && host_matches(rule))
}

pub(crate) fn action_of(policy: &Policy, rule: Option<usize>) -> Action {
    rule.map_or(policy.default, |rule| policy.rules[rule].action)
}

/// The rule that decides about a socket, which has no remote side yet: one that asks for it, or for what else is not known,
/// is right about some connections only, and counts unless it blocks.
pub(crate) fn socket_decider(
    policy: &Policy,
    operation: Operation,
    subject: &Subject,
) -> Option<usize> {
    policy.rules.iter().position(|rule| {
        let known = of_socket(rule, subject);
        (known == *rule || rule.action != Action::Block) && matches_as(&known, operation, subject)
    })
}

/// The rule without what is not known of a socket.
fn of_socket(rule: &Rule, subject: &Subject) -> Rule {
    let mut known = Rule {
        remote_addresses: Ranges::default(),
        remote_ports: Ranges::default(),
        hosts: Vec::new(),
        contents: Vec::new(),
        ..rule.clone()
    };
    if subject.local.address.is_unspecified() {
        known.local_addresses = Ranges::default();
    }
    if subject.interface == 0 {
        known.interfaces = Ranges::default();
    }
    known
}

/// What that rule does about a listener: where it is right about some connections only, somebody is asked when they come.
pub(crate) fn listen_action(policy: &Policy, rule: Option<usize>, subject: &Subject) -> Action {
    match rule.map(|rule| &policy.rules[rule]) {
        Some(rule) if of_socket(rule, subject) != *rule => Action::Permit,
        _ => action_of(policy, rule),
    }
}
