//! What happens to the host besides packets: interfaces, network profiles, sleep. Flows are authorized again by
//! their next packet, with the reason.

use std::net::IpAddr;

use wfp_schema::flags::ReauthorizeReason;

use super::flow::State;
use super::host::{Host, Transit};
use super::indicate::{Filtering, Ticks};
use super::interface::Interface;
use super::key::Link;

impl<F: Filtering> Host<F> {
    /// The interface of a link changes: it comes up or goes down, or gets into another network profile. While it is
    /// down no packet passes. In another profile its flows are reauthorized (`PROFILE_CROSSING`).
    pub fn set_interface(&mut self, now: Ticks, link: Link, interface: Interface) {
        self.advance_to(now);
        let before = self.indicator.interfaces.of(link);
        self.indicator.interfaces.set(link, interface);
        if before.profile != interface.profile {
            self.reauthorize_where(ReauthorizeReason::PROFILE_CROSSING, |_, on| on == link);
        }
    }

    /// The host's network changes its profile, as when it joins a domain's network: `CURRENT_PROFILE_ID` and its like
    /// have this value from now on at every interface, and each flow that began in another is reauthorized by its
    /// next packet (`PROFILE_CROSSING`).
    ///
    /// What the numbers mean, Windows does not document; without a profile the fields are empty.
    pub fn set_profile(&mut self, profile: u32) {
        for entry in &mut self.flows.all {
            let before = self
                .indicator
                .interfaces
                .of(entry.conversation.link)
                .profile;
            if entry.state == State::Live && before != Some(profile) {
                entry.reauthorize |= ReauthorizeReason::PROFILE_CROSSING;
            }
        }
        self.indicator.interfaces.set_profile(profile);
    }

    /// Packets to an address take another interface from now on: its flows are reauthorized by their next outbound
    /// packet (`NEW_NEXTHOP_INTERFACE`).
    pub fn reroute(&mut self, now: Ticks, remote: IpAddr, link: Link) {
        self.advance_to(now);
        for entry in &mut self.flows.all {
            let was = entry.next_hop.unwrap_or(entry.conversation.link);
            if entry.conversation.remote_end().address == remote && was != link {
                entry.next_hop = Some(link);
                entry.reauthorize |= ReauthorizeReason::NEW_NEXTHOP_INTERFACE;
            }
        }
    }

    /// Every live flow is reauthorized by its next packet, for a reason that the stack can't find out by itself:
    /// socket properties, enterprise data policy, a proxy's handle, offload.
    pub fn reauthorize(&mut self, now: Ticks, reason: ReauthorizeReason) {
        self.advance_to(now);
        self.reauthorize_where(reason, |_, _| true);
    }

    /// As [`reauthorize`](Self::reauthorize), one flow; `false` if there is none with this handle.
    pub fn reauthorize_flow(&mut self, flow_handle: u64, reason: ReauthorizeReason) -> bool {
        let mut found = false;
        self.reauthorize_where(reason, |handle, _| {
            found |= handle == flow_handle;
            handle == flow_handle
        });
        found
    }

    fn reauthorize_where(
        &mut self,
        reason: ReauthorizeReason,
        mut which: impl FnMut(u64, Link) -> bool,
    ) {
        for entry in &mut self.flows.all {
            if entry.state == State::Live && which(entry.handle, entry.conversation.link) {
                entry.reauthorize |= reason;
            }
        }
    }

    /// The system goes to sleep: until it resumes no packet passes. Connections and their contexts stay.
    pub fn sleep(&mut self, now: Ticks) {
        self.advance_to(now);
        self.asleep = true;
    }

    /// The system is awake again. Time has passed: data flows may have fallen idle.
    pub fn resume(&mut self, now: Ticks) {
        self.asleep = false;
        self.advance_to(now);
    }

    /// Notices what a packet shows of changes: another arrival interface (weak host), another state of `IPsec`.
    pub(super) fn notice(&mut self, flow: usize, transit: &Transit<'_>) {
        let entry = &mut self.flows.all[flow];
        let arrival = transit.arrival;
        if arrival.interface == entry.arrival && arrival.ipsec == entry.conversation.ipsec {
            return;
        }
        if arrival.interface != entry.arrival {
            entry.arrival = arrival.interface;
            entry.reauthorize |= ReauthorizeReason::NEW_ARRIVAL_INTERFACE;
        }
        if arrival.ipsec != entry.conversation.ipsec {
            entry.conversation.ipsec = arrival.ipsec;
            entry.reauthorize |= ReauthorizeReason::IPSEC_PROPERTIES_CHANGED;
        }
    }
}
