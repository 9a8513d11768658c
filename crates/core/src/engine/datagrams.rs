//! The datagrams of flows that are not TCP.

use super::{DatagramVerdict, Indication, News, Parts, PolicySource, Portcullis};
use crate::cut::{Cut, MAX_DATAGRAMS};
use crate::flow::{Flow, FlowHandle, Transfer};
use crate::policy::ContentState;
use portcullis_proto::Counter;

/// How a call went on with a flow's datagrams.
enum Step {
    /// One was looked at, and others are left.
    Next { is_blocked: bool },
    /// That was all.
    Done { is_blocked: bool },
}

impl<P: Parts> Portcullis<P> {
    /// A datagram of a flow that is not TCP, by itself: [`datagrams`](Self::datagrams) of one.
    pub fn datagram<'d>(
        &self,
        handle: Option<FlowHandle>,
        indication: Indication,
        data: impl IntoIterator<Item = &'d [u8]> + Clone,
    ) -> DatagramVerdict {
        let bytes = usize::try_from(indication.bytes).unwrap_or(usize::MAX);
        self.datagrams(handle, indication.transfer, Cut::one(bytes), move |_| {
            data.clone()
        })
    }

    /// The datagrams in a buffer of a flow that is not TCP, at `DATAGRAM_DATA`: one, or several that the network card is to
    /// split or has merged. Each counts, and is decided, as one of its own; if one is blocked, all are, because the buffer is
    /// all that can be.
    ///
    /// `data` gives the payload of the next datagram, of so many bytes. It is only asked for, and its bytes are, for DNS
    /// queries, while the flow's host name is sought, and where rules look for contents; from the datagram on behind which
    /// none of that is so, the rest is only counted. At most [`MAX_DATAGRAMS`] are looked at; a buffer of more is
    /// blocked as a whole where they would have to be.
    ///
    /// `handle` is the flow's context; without one, or with one that names no flow, they pass.
    pub fn datagrams<'d, D>(
        &self,
        handle: Option<FlowHandle>,
        transfer: Transfer,
        cut: Cut,
        mut data: impl FnMut(usize) -> D,
    ) -> DatagramVerdict
    where
        D: IntoIterator<Item = &'d [u8]> + Clone,
    {
        let mut left = cut;
        let mut any_blocked = false;
        let mut looked_at = 0;
        loop {
            let step = self.with_context(handle, |flow, news| {
                if !self.looks_into(flow) {
                    flow.count_datagrams(transfer, left);
                    return Step::Done {
                        is_blocked: flow.is_blocked(),
                    };
                }
                let within_bound = looked_at < MAX_DATAGRAMS;
                let Some(length) = within_bound.then(|| left.next()).flatten() else {
                    self.statistics.count(Counter::DatagramsTooMany);
                    flow.count_datagrams(transfer, left);
                    return Step::Done { is_blocked: true };
                };
                let is_blocked = self.look_at(flow, news, transfer, length, data(length));
                if left.datagrams() == 0 {
                    Step::Done { is_blocked }
                } else {
                    Step::Next { is_blocked }
                }
            });
            looked_at += 1;
            match step {
                Some(Step::Next { is_blocked }) => any_blocked |= is_blocked,
                Some(Step::Done { is_blocked }) => {
                    any_blocked |= is_blocked;
                    break;
                }
                None => break,
            }
        }
        if any_blocked {
            let count = cut.datagrams() as u64;
            self.statistics.add(Counter::DatagramsBlocked, count);
            DatagramVerdict::Block
        } else {
            DatagramVerdict::Permit
        }
    }

    /// Whether the flow's next datagram has to be looked at, or is followed by itself; else it only counts.
    fn looks_into(&self, flow: &Flow) -> bool {
        flow.host_source.is_none()
            || flow.decision.content_dependent
            || flow.epoch != self.policy.epoch()
            || flow.is_dns()
    }

    /// Decides a datagram. Whether it is blocked.
    fn look_at<'d>(
        &self,
        flow: &mut Flow,
        news: &mut News,
        transfer: Transfer,
        length: usize,
        data: impl IntoIterator<Item = &'d [u8]> + Clone,
    ) -> bool {
        flow.count_datagrams(transfer, Cut::one(length));
        let is_initiators = transfer.is_initiators(flow.direction);
        let is_query = flow.is_dns() && is_initiators;
        let mut found = false;
        if is_query {
            found = self.sniff_query(flow, data.clone());
        } else if flow.is_dns() {
            self.statistics.count(Counter::RepliesFollowed);
        } else if flow.host_source.is_none() {
            let bytes = length as u64;
            let Ok(known) = self.sniff_datagram(flow, is_initiators, bytes, data.clone()) else {
                // Whoever sent it sends it again. Were it to pass, a flood of others would hide its name.
                self.statistics.count(Counter::QuicNoRoom);
                return flow.decision.host_dependent;
            };
            found = known;
        }
        if is_query || self.is_undecided(flow, found) {
            // Decided and looked into by one policy: another that came in between would let it pass unseen.
            self.policy.with(|policy, epoch| {
                if is_query {
                    self.decide_query((policy.as_ref(), epoch), flow, found, news);
                } else if found || flow.epoch != epoch {
                    self.decide_by((policy.as_ref(), epoch), flow, found, news);
                }
                if let Some(policy) = policy.filter(|_| flow.decision.content_dependent) {
                    let state = &mut { ContentState::START };
                    self.find_content(&policy, flow, state, data, news);
                }
            });
        }
        flow.is_blocked()
    }
}
