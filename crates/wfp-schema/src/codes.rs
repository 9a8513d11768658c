//! Enumerations of WFP's kernel interface.

code! {
    /// `FWP_IP_VERSION`: the two members that layers have.
    pub enum IpVersion;
    /// IPv4.
    V4 = 0, "V4";
    /// IPv6.
    V6 = 1, "V6";
}

code! {
    /// `FWP_DIRECTION`.
    pub enum Direction;
    /// From this host.
    Outbound = 0, "OUTBOUND";
    /// To this host.
    Inbound = 1, "INBOUND";
}

code! {
    /// `FWPM_SERVICE_STATE`: the state of the base filtering engine.
    pub enum BfeState;
    /// Not running.
    Stopped = 0, "STOPPED";
    /// On its way to running.
    StartPending = 1, "START_PENDING";
    /// On its way to a stop: close sessions now.
    StopPending = 2, "STOP_PENDING";
    /// Sessions can be opened.
    Running = 3, "RUNNING";
}

code! {
    /// `FWPS_CALLOUT_NOTIFY_TYPE`.
    pub enum NotifyType;
    /// A filter that names the callout is being added; an error refuses it.
    AddFilter = 0, "ADD_FILTER";
    /// Such a filter is being deleted; the answer is ignored.
    DeleteFilter = 1, "DELETE_FILTER";
    /// The transaction that added such a filter has been committed.
    AddFilterPostCommit = 2, "ADD_FILTER_POST_COMMIT";
}

code! {
    /// `FWPS_STREAM_ACTION_TYPE`: what a stream callout wants besides a verdict.
    pub enum StreamAction;
    /// The verdict applies.
    None = 0, "NONE";
    /// Collect more bytes and call again.
    NeedMoreData = 1, "NEED_MORE_DATA";
    /// Reset the connection.
    DropConnection = 2, "DROP_CONNECTION";
    /// Stop indicating until told to continue; inbound only.
    Defer = 3, "DEFER";
    /// Never classify this flow to this callout again.
    AllowConnection = 4, "ALLOW_CONNECTION";
}

code! {
    /// `NL_ADDRESS_TYPE`, the value of the `*_ADDRESS_TYPE` fields of IP layers.
    pub enum AddressType;
    /// Not known.
    Unspecified = 0, "UNSPECIFIED";
    /// One host.
    Unicast = 1, "UNICAST";
    /// Any one of several hosts.
    Anycast = 2, "ANYCAST";
    /// A group of hosts.
    Multicast = 3, "MULTICAST";
    /// Every host of a link.
    Broadcast = 4, "BROADCAST";
}

code! {
    /// `FWPS_PACKET_INJECTION_STATE`.
    pub enum PacketInjectionState;
    /// Came from the stack or the wire.
    NotInjected = 0, "NOT_INJECTED";
    /// Injected with the handle that was asked about.
    InjectedBySelf = 1, "INJECTED_BY_SELF";
    /// Injected with another handle.
    InjectedByOther = 2, "INJECTED_BY_OTHER";
    /// Injected with the handle, then by another.
    PreviouslyInjectedBySelf = 3, "PREVIOUSLY_INJECTED_BY_SELF";
}

code! {
    /// `FWPS_CONNECTION_REDIRECT_STATE`.
    pub enum ConnectionRedirectState;
    /// May be redirected.
    NotRedirected = 0, "NOT_REDIRECTED";
    /// Redirected with the handle that was asked about.
    RedirectedBySelf = 1, "REDIRECTED_BY_SELF";
    /// Redirected with another handle.
    RedirectedByOther = 2, "REDIRECTED_BY_OTHER";
    /// Redirected with the handle, then by another: must not be redirected again.
    PreviouslyRedirectedBySelf = 3, "PREVIOUSLY_REDIRECTED_BY_SELF";
}

code! {
    /// `FWPS_DISCARD_MODULE0`: who discarded a packet shown at a discard layer.
    pub enum DiscardModule;
    /// The IP layer; the reason is an `IP_DISCARD_REASON`.
    Network = 0, "NETWORK";
    /// The transport layer; the reason is an `INET_DISCARD_REASON`.
    Transport = 1, "TRANSPORT";
    /// A filter; the reason is firewall policy (0) or `IPsec` (1).
    General = 2, "GENERAL";
}

code! {
    /// `FWPM_PROVIDER_CONTEXT_TYPE`: what a provider context holds.
    pub enum ProviderContextType;
    /// `FWPM_IPSEC_KEYING_CONTEXT`.
    IpsecKeying = 0, "IPSEC_KEYING";
    /// `FWPM_IPSEC_IKE_QM_TRANSPORT_CONTEXT`.
    IpsecIkeQmTransport = 1, "IPSEC_IKE_QM_TRANSPORT";
    /// `FWPM_IPSEC_IKE_QM_TUNNEL_CONTEXT`.
    IpsecIkeQmTunnel = 2, "IPSEC_IKE_QM_TUNNEL";
    /// `FWPM_IPSEC_AUTHIP_QM_TRANSPORT_CONTEXT`.
    IpsecAuthipQmTransport = 3, "IPSEC_AUTHIP_QM_TRANSPORT";
    /// `FWPM_IPSEC_AUTHIP_QM_TUNNEL_CONTEXT`.
    IpsecAuthipQmTunnel = 4, "IPSEC_AUTHIP_QM_TUNNEL";
    /// `FWPM_IPSEC_IKE_MM_CONTEXT`.
    IpsecIkeMm = 5, "IPSEC_IKE_MM";
    /// `FWPM_IPSEC_AUTHIP_MM_CONTEXT`.
    IpsecAuthipMm = 6, "IPSEC_AUTHIP_MM";
    /// `FWPM_CLASSIFY_OPTIONS_CONTEXT`.
    ClassifyOptions = 7, "CLASSIFY_OPTIONS";
    /// `FWPM_GENERAL_CONTEXT`: bytes that mean something to the provider's callouts.
    General = 8, "GENERAL";
    /// `FWPM_IPSEC_IKEV2_QM_TUNNEL_CONTEXT`.
    IpsecIkev2QmTunnel = 9, "IPSEC_IKEV2_QM_TUNNEL";
    /// `FWPM_IPSEC_IKEV2_MM_CONTEXT`.
    IpsecIkev2Mm = 10, "IPSEC_IKEV2_MM";
    /// `FWPM_IPSEC_DOSP_CONTEXT`.
    IpsecDosp = 11, "IPSEC_DOSP";
    /// `FWPM_IPSEC_IKEV2_QM_TRANSPORT_CONTEXT`.
    IpsecIkev2QmTransport = 12, "IPSEC_IKEV2_QM_TRANSPORT";
    /// `FWPM_NETWORK_CONNECTION_POLICY_CONTEXT`.
    NetworkConnectionPolicy = 13, "NETWORK_CONNECTION_POLICY";
}
