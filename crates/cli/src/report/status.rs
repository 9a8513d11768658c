//! What the driver is doing: text for people, an object for programs.

use std::fmt::{self, Display, Formatter};

use portcullis_proto::counter::Counter;
use portcullis_proto::status::{CalloutStatus, DriverState, LifecycleStep, StatusReply};
use serde::{Serialize, Serializer};
use wfp_schema::NtStatus;

use super::json::{CalloutEntry, Counters};

/// What the driver is doing: displayed as text, serialized as an object.
#[derive(Debug, Serialize)]
pub struct Status<'a> {
    state: &'static str,
    /// `None` while everything is permitted.
    policy: Option<Policy>,
    flows: u32,
    flow_capacity: u32,
    events: u32,
    event_capacity: u32,
    errors: Errors,
    callouts: Vec<CalloutEntry>,
    counters: Counters<'a>,
}

/// The policy in force.
#[derive(Debug, Serialize)]
struct Policy {
    hash: String,
    rules: u32,
    /// How often one was set.
    epoch: u64,
}

/// The steps of starting and stopping that failed, each with its last status.
#[derive(Debug)]
struct Errors(Vec<(LifecycleStep, NtStatus)>);

impl<'a> Status<'a> {
    /// What a driver is doing that has answered with this.
    #[must_use]
    pub fn new(
        status: &StatusReply,
        callouts: &[CalloutStatus],
        counters: &'a [(Counter, u64)],
    ) -> Self {
        let steps = LifecycleStep::ALL.iter();
        let errors = steps
            .map(|&step| (step, NtStatus::from_i32(status.error(step))))
            .filter(|(_, error)| *error != NtStatus::SUCCESS);
        Self {
            state: DriverState::from_raw(status.state.get()).map_or("?", DriverState::name),
            policy: (status.policy_hash.get() != 0).then(|| Policy {
                hash: format!("{:016x}", status.policy_hash.get()),
                rules: status.policy_rules.get(),
                epoch: status.policy_epoch.get(),
            }),
            flows: status.flows.get(),
            flow_capacity: status.flow_capacity.get(),
            events: status.events.get(),
            event_capacity: status.event_capacity.get(),
            errors: Errors(errors.collect()),
            callouts: callouts.iter().map(CalloutEntry::from).collect(),
            counters: Counters(counters),
        }
    }
}

impl Serialize for Errors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let errors = self.0.iter();
        serializer.collect_map(errors.map(|(step, error)| (step.name(), error.to_string())))
    }
}

impl Display for Status<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}; ", self.state)?;
        match &self.policy {
            None => f.write_str("no policy")?,
            Some(Policy { hash, rules, epoch }) => {
                write!(f, "policy {hash} with {rules} rules, number {epoch}")?;
            }
        }
        write!(
            f,
            "; {} of {} flows, {} of {} events",
            self.flows, self.flow_capacity, self.events, self.event_capacity
        )?;
        for (step, error) in &self.errors.0 {
            write!(f, "\n  failed: {step}: {error}")?;
        }
        for callout in &self.callouts {
            write!(f, "\n  {callout}")?;
        }
        for (counter, count) in self.counters.0.iter().filter(|(_, count)| *count > 0) {
            write!(f, "\n  {count} {counter}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use portcullis_proto::callout::CALLOUTS;
    use serde_json::json;
    use zerocopy::FromZeros as _;
    use zerocopy::little_endian::{I32, U32, U64};

    use super::*;

    #[test]
    fn a_status_is_told_to_programs_as_to_people() {
        let mut reply = StatusReply::new_zeroed();
        reply.state = U32::new(DriverState::Degraded.raw());
        reply.flow_capacity = U32::new(65_536);
        let failed = usize::from(LifecycleStep::AddFilters.raw());
        reply.errors[failed] = I32::new(NtStatus::INSUFFICIENT_RESOURCES.to_i32());
        let callout = CalloutStatus {
            kind: CALLOUTS[0].kind.raw(),
            family: CALLOUTS[0].family.raw(),
            classify: U64::new(7),
            ..CalloutStatus::zeroed()
        };
        let counters = [(Counter::Permitted, 5), (Counter::Blocked, 0)];
        let status = Status::new(&reply, &[callout], &counters);
        assert_eq!(
            serde_json::to_value(&status).expect("an object"),
            json!({
                "state": "degraded", "policy": null, "flows": 0, "flow_capacity": 65_536,
                "events": 0, "event_capacity": 0,
                "errors": {"add filters": "STATUS_INSUFFICIENT_RESOURCES"},
                "callouts": [{
                    "name": CALLOUTS[0].name, "layer": CALLOUTS[0].layer, "id": 0, "filtered": false,
                    "classify": 7, "permit": 0, "block": 0,
                }],
                "counters": {"permitted": 5, "blocked": 0},
            })
        );
        let text = status.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "degraded; no policy; 0 of 65536 flows, 0 of 0 events"
        );
        assert_eq!(
            lines[1],
            "  failed: add filters: STATUS_INSUFFICIENT_RESOURCES"
        );
        assert!(lines[2].ends_with(" without a filter, 7 classifies, 0 permitted, 0 blocked"));
        assert_eq!(lines[3..], ["  5 permitted"]);

        reply.policy_hash = U64::new(0xab);
        reply.policy_rules = U32::new(3);
        reply.policy_epoch = U64::new(1);
        let status = Status::new(&reply, &[], &[]);
        assert!(
            status
                .to_string()
                .contains("; policy 00000000000000ab with 3 rules, number 1; ")
        );
        let policy = serde_json::to_value(&status).expect("an object")["policy"].take();
        assert_eq!(
            policy,
            json!({"hash": "00000000000000ab", "rules": 3, "epoch": 1})
        );
    }
}
