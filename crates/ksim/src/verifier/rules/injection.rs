//! Net buffer lists and their injection.

use super::{Area, rules};

rules! {
    Area::Injection;

    /// A net buffer that was changed and not put back, or touched after it was handed over.
    NBL_STATE = Error, "nbl-state", "a net buffer list is given back as it was received, and not touched after it was handed over", "NdisRetreatNetBufferDataStart; FwpsInjectNetworkSendAsync0";
    /// An injection handle of another type or address family.
    INJECTION_HANDLE = Error, "injection-handle", "a packet is injected with a handle of the function's type and the packet's address family", "FwpsInjectionHandleCreate0";
    /// An injection while a spin lock is held.
    INJECTION_LOCK = Error, "injection-lock", "no spin lock is held over an injection, whose completion function may run at once", "FWPS_INJECT_COMPLETE0";
    /// TCP data injected at a transport layer in the classify itself.
    INJECTION_INLINE = Error, "injection-inline", "TCP packets of transport layers are injected from a DPC, not in the classify", "Callout Driver Programming Considerations";
    /// The data of a list does not begin where the function needs it.
    INJECTION_OFFSET = Error, "injection-offset", "an injected list begins with the header that the injection function's page names", "FwpsInjectNetworkSendAsync0; FwpsInjectTransportReceiveAsync0";
    /// A clone of received datagrams that the network card has merged is injected.
    INJECTION_MERGED = Error, "injection-merged", "inbound packets that the network card has merged (URO) are not cloned and injected", "FWPS_CALLOUT3, FWP_CALLOUT_FLAG_ALLOW_URO";
    /// A packet went round and round.
    INJECTION_LOOP = Error, "injection-loop", "a callout lets packets pass that were injected before", "FwpsQueryPacketInjectionState0";
}
