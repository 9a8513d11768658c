//! The compiled policy as the driver reads it: validated once, then decided upon in place.
//!
//! # How a connection is decided
//!
//! Rules are tried in order; the first that matches decides, and where none does, the default. That is all while no
//! rule asks for a host. When one does:
//!
//! - A host name is known only after the initiator's first bytes, or never. While it is not known
//!   ([`Host::Pending`]), rules with a host condition cannot match. The first *other* rule that matches, or the
//!   default, is the *definite* answer.
//! - If a rule with a host condition stands before the definite answer and everything else about it matches, it may
//!   still overrule that answer. The connection is then admitted provisionally: the decision is a permit that is
//!   [`host_dependent`](Decision::host_dependent). Only if the definite answer is block and each such rule blocks too is
//!   it blocked at once: no name could save it.
//! - When the name becomes known ([`Host::Known`]), or it is known that there will be none ([`Host::Never`]: another
//!   protocol, no name in the message, the parser's bound), the decision is taken again. With a name, the first rule
//!   decides whose conditions all match. Without one, rules with a host condition do not match, and the definite
//!   answer stands. A block then drops the stream, or discards the datagram.
//! - So no connection passes more than its first message without its final decision, and rules for hosts never weaken
//!   a block for what names no host.
//!
//! Only TCP and UDP can have a host ([`Host::of`]): UDP if it is QUIC, or DNS. Each DNS query's first question is the
//! host of that datagram; what the responder answers is treated as the last query was.
//!
//! # Contents
//!
//! A rule that looks for literals in a flow's data matches once one was found in what one side sent
//! ([`PolicyView::find_content`]). Until then it is passed over: a connection is admitted by the rule after it, or the
//! default, and the decision is [`content_dependent`](Decision::content_dependent). Such rules only block.
//!
//! # Effects
//!
//! A rule that lets something through may also change it: hold it, redirect it, rewrite it, shape it
//! ([`PolicyView::effects`]). A decision says which [kinds](Decision::effects) of effects its rule has. A rule whose
//! action is [`Ask`](Action::Ask) decides nothing itself: somebody is asked.
//!
//! # Listening
//!
//! A listener has no remote side. It may listen if some connection could be accepted there: rules are tried in order,
//! a rule without conditions on the remote side or the host decides; one with such conditions permits if it permits or
//! asks (somebody is asked then when such a connection comes), and is passed over if it blocks.
//!
//! One that listens on every interface is treated likewise: a rule for some interfaces permits if it permits.
//!
//! # Interfaces
//!
//! A condition on the network interface is about the interface that the packets take: where they leave, or where they
//! arrived. When that changes, the system authorizes the connection again, and it is decided by the new one; what a flow
//! remembers of its interface changes with it ([`Portcullis::authorize`](crate::Portcullis::authorize)). Of an interface
//! that the system does not tell, the rules that block are right, and those that permit are not: what is to go through a
//! tunnel alone goes nowhere else.
//!
//! # Binding
//!
//! When a socket is bound nothing is known of the other side, nor of the interface, nor what the socket is for. Only rules without a condition
//! on these take part ([`PolicyView::decide_bind`]): the first of them that matches decides whether, and by which
//! effect, the socket gets another local address.
//!
//! # Children
//!
//! An application condition with `children` also matches what such an application has started, directly or not, as far
//! as an [`Ancestry`](crate::process::Ancestry) knows.
//!
//! # Cost
//!
//! A decision walks at most [`MAX_DEPTH`](format::MAX_DEPTH) nodes and tries the rules of one leaf, in the worst case
//! (rules that no dimension of the index tells apart) all rules. A known host name adds one binary search for each of
//! its labels, at most 127. Looking for contents costs a few steps a byte, however many they are. Within a rule, addresses and ports are found by binary search; each application pattern
//! costs at most the product of its length and the path's. Listening tries all rules in turn.

pub mod boot;
mod content;
mod decide;
mod effect;
mod matching;
mod validate;
mod view;

pub use content::{ContentMatch, ContentState};
pub use decide::{Decision, Host, RuleIndex};
pub(crate) use effect::Effects;
pub use effect::{Effect, Transfers};
pub use validate::{PolicyError, Reason};
pub use view::{Policy, PolicyView};

pub use portcullis_proto::policy as format;
