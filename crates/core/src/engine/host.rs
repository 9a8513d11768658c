//! Finding out which host a flow is meant for, and deciding by it.

use super::again::decision;
use super::{Indication, News, Parts, Portcullis};
use crate::flow::Flow;
use crate::inspect::{HostName, HostSniffer, NoRoom, Outcome, Quic, question};
use crate::policy::{Host, PolicyView};
use portcullis_proto::Counter;
use portcullis_proto::event::{EventKind, HostSource};

impl<P: Parts> Portcullis<P> {
    /// Shows a stream's data to the flow's sniffer. Whether the host is now known, or known to be none.
    pub(super) fn sniff<'d>(
        &self,
        flow: &mut Flow,
        indication: Indication,
        data: impl IntoIterator<Item = &'d [u8]>,
    ) -> bool {
        let mut outcome = if indication.transfer.is_initiators(flow.direction) {
            self.push(&mut flow.sniffer, indication.bytes, data)
        } else {
            flow.sniffer.respond(indication.bytes)
        };
        if indication.is_end && outcome == Outcome::NeedMore {
            outcome = flow.sniffer.end();
        }
        flow.host_source = self.source(outcome);
        flow.has_encrypted_hello = flow.sniffer.has_encrypted_hello();
        self.note_encrypted(flow);
        flow.host_source.is_some()
    }

    fn note_encrypted(&self, flow: &Flow) {
        if flow.has_encrypted_hello && flow.host_source.is_some() {
            self.statistics.count(Counter::HostEncrypted);
        }
    }

    /// Looks for the server name in a datagram. Whether the host is now known, or known to be none.
    pub(super) fn sniff_datagram<'d>(
        &self,
        flow: &mut Flow,
        is_initiators: bool,
        bytes: u64,
        data: impl IntoIterator<Item = &'d [u8]>,
    ) -> Result<bool, NoRoom> {
        let outcome = match (is_initiators, flow.quic) {
            (true, _) => {
                let (name, has_encrypted) = (&mut flow.question, &mut flow.has_encrypted_hello);
                self.assemblies
                    .push(&mut flow.quic, bytes, data, name, has_encrypted)?
            }
            (false, Quic::Unseen) => Outcome::None(HostSource::NeverSent),
            (false, Quic::Seeking(_)) => Outcome::NeedMore,
        };
        flow.host_source = self.source(outcome);
        self.note_encrypted(flow);
        Ok(flow.host_source.is_some())
    }

    fn push<'d>(
        &self,
        sniffer: &mut HostSniffer,
        bytes: u64,
        data: impl IntoIterator<Item = &'d [u8]>,
    ) -> Outcome {
        let mut given = 0_u64;
        for piece in data {
            given = given.saturating_add(piece.len() as u64);
            match sniffer.push(piece) {
                Outcome::NeedMore => {}
                known => return known,
            }
        }
        if given < bytes {
            // What comes after a gap can't be understood.
            self.statistics.count(Counter::DataUnavailable);
            return sniffer.end();
        }
        Outcome::NeedMore
    }

    /// Counts an outcome and says where the host came from, or why there is none.
    fn source(&self, outcome: Outcome) -> Option<HostSource> {
        let (Outcome::Host(source) | Outcome::None(source)) = outcome else {
            return None;
        };
        self.statistics.count(match source {
            HostSource::Tls => Counter::HostTls,
            HostSource::Http => Counter::HostHttp,
            HostSource::Dns => Counter::HostDns,
            HostSource::Quic => Counter::HostQuic,
            HostSource::NotRecognized => Counter::HostNotRecognized,
            HostSource::Absent => Counter::HostAbsent,
            HostSource::Malformed => Counter::HostMalformed,
            HostSource::TooLong => Counter::HostTooLong,
            HostSource::NeverSent => Counter::HostNeverSent,
        });
        Some(source)
    }

    /// Looks for the host that a DNS query asks about, which becomes the flow's. Whether it names one.
    pub(super) fn sniff_query<'d>(
        &self,
        flow: &mut Flow,
        data: impl IntoIterator<Item = &'d [u8]>,
    ) -> bool {
        let mut name = HostName::EMPTY;
        let outcome = question(data, &mut name);
        let source = self.source(outcome);
        let names_one = matches!(outcome, Outcome::Host(_));
        if names_one {
            flow.question = name;
            flow.host_source = source;
        }
        names_one
    }

    /// Decides a DNS query by its own question, if it names a host, and the flow with it until the next. `news` is the event
    /// that tells of it.
    pub(super) fn decide_query(
        &self,
        (policy, epoch): (Option<&PolicyView<'_>>, u64),
        flow: &mut Flow,
        names_one: bool,
        news: &mut News,
    ) {
        let host = if names_one {
            Host::Known(flow.host_name().as_bytes())
        } else {
            Host::Never
        };
        let decision = decision(policy, flow, host);
        let is_reported = self.is_reported(policy, decision);
        flow.decision = decision;
        flow.epoch = epoch;
        flow.reported |= is_reported;
        if is_reported && names_one {
            self.note(news, EventKind::HostName, decision, epoch);
        }
    }
}
