//! Keys of the built-in providers.

use crate::Guid;

/// `FWPM_PROVIDER_IKEEXT`.
pub const IKEEXT: Guid = Guid::from_u128(0x10ad9216_ccde_456c_8b16_e9f04e60a90b);
/// `FWPM_PROVIDER_IPSEC_DOSP_CONFIG`.
pub const IPSEC_DOSP_CONFIG: Guid = Guid::from_u128(0x3c6c05a9_c05c_4bb9_8338_2327814ce8bf);
/// `FWPM_PROVIDER_MPSSVC_APP_ISOLATION`.
pub const MPSSVC_APP_ISOLATION: Guid = Guid::from_u128(0x3cc2631f_2d5d_43a0_b174_614837d863a1);
/// `FWPM_PROVIDER_MPSSVC_EDP`.
pub const MPSSVC_EDP: Guid = Guid::from_u128(0xa90296f7_46b8_4457_8f84_b05e05d3c622);
/// `FWPM_PROVIDER_MPSSVC_TENANT_RESTRICTIONS`.
pub const MPSSVC_TENANT_RESTRICTIONS: Guid =
    Guid::from_u128(0xd0718ff9_44da_4f50_9dc2_c963a4247613);
/// `FWPM_PROVIDER_MPSSVC_WF`.
pub const MPSSVC_WF: Guid = Guid::from_u128(0xdecc16ca_3f33_4346_be1e_8fb4ae0f3d62);
/// `FWPM_PROVIDER_MPSSVC_WSH`.
pub const MPSSVC_WSH: Guid = Guid::from_u128(0x4b153735_1049_4480_aab4_d1b9bdc03710);
/// `FWPM_PROVIDER_TCP_CHIMNEY_OFFLOAD`.
pub const TCP_CHIMNEY_OFFLOAD: Guid = Guid::from_u128(0x896aa19e_9a34_4bcb_ae79_beb9127c84b9);
/// `FWPM_PROVIDER_TCP_TEMPLATES`.
pub const TCP_TEMPLATES: Guid = Guid::from_u128(0x76cfcd30_3394_432d_bed3_441ae50e63c3);

/// Every built-in object of the kind, with its name.
pub const ALL: &[(&str, Guid)] = &[
    ("IKEEXT", IKEEXT),
    ("IPSEC_DOSP_CONFIG", IPSEC_DOSP_CONFIG),
    ("MPSSVC_APP_ISOLATION", MPSSVC_APP_ISOLATION),
    ("MPSSVC_EDP", MPSSVC_EDP),
    ("MPSSVC_TENANT_RESTRICTIONS", MPSSVC_TENANT_RESTRICTIONS),
    ("MPSSVC_WF", MPSSVC_WF),
    ("MPSSVC_WSH", MPSSVC_WSH),
    ("TCP_CHIMNEY_OFFLOAD", TCP_CHIMNEY_OFFLOAD),
    ("TCP_TEMPLATES", TCP_TEMPLATES),
];
