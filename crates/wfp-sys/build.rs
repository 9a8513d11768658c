//! Generates the bindings from the WDK's headers.
//!
//! What is bound is named here item by item, and everything that those items refer to follows.
//! Whole headers are not bound: that way the bindings are the same from every WDK, and none of the
//! thousands of declarations around them can stop the build.

use std::{env, error::Error, path::PathBuf};

use bindgen::{
    Builder,
    callbacks::{DeriveTrait, ImplementsTrait, ParseCallbacks},
};
use wdk_build::{BuilderExt, Config};

/// NDIS 6.50, of Windows 10 1507, is the oldest whose net buffers have the layout asserted here.
const HEADERS: &str = "
#define NDIS650 1
#include <ntifs.h>
#include <fwpsk.h>
#include <fwpmk.h>
";

/// What `wdk-sys` binds: taken from there, so that a `GUID` or an `MDL` is one type everywhere.
const WDK_SYS_HEADERS: &str =
    r"(?i).*[/\\](basetsd|corecrt|crtdefs|dpfilter|guiddef|ntddk|ntdef|ntifs|vcruntime|wdm\w*)\.h";

/// `fwpsk.h`: the data path.
const DATA_PATH: &[&str] = &[
    // Callouts and flows.
    "FwpsCalloutRegister[0-3]",
    "FwpsCalloutUnregisterBy(Id|Key)0",
    "FwpsFlow(AssociateContext|RemoveContext|Abort)0",
    // Operations decided later, and changed layer data.
    "Fwps(Pend|Complete)(Operation|Classify)0",
    "Fwps(Acquire|Release)ClassifyHandle0",
    "FwpsAcquireWritableLayerDataPointer0",
    "FwpsApplyModifiedLayerData0",
    "FwpsClassifyOptionSet0",
    // Redirection.
    "FwpsRedirectHandle(Create|Destroy)0",
    "FwpsQueryConnectionRedirectState0",
    "FwpsQueryConnectionSioFormatRedirectRecords0",
    // Packets and their injection.
    "FwpsInjectionHandle(Create|Destroy)0",
    "FwpsAllocateNetBufferAndNetBufferList0",
    "FwpsAllocateCloneNetBufferList0",
    "FwpsFree(Clone)?NetBufferList0",
    "FwpsReassembleForwardFragmentGroup0",
    "FwpsConstructIpHeaderForTransportPacket0",
    "FwpsInject(Network|Mac)(Send|Receive)Async0",
    "FwpsInjectForwardAsync0",
    "FwpsInjectTransport(SendAsync[01]|ReceiveAsync0)",
    "Fwps(Reference|Dereference)NetBufferList0",
    "FwpsQueryPacketInjectionState0",
    "FwpsGetPacketListSecurityInformation0",
    "FwpsNetBufferList(GetTagForContext0|AssociateContext[01]|RetrieveContext0|RemoveContext0)",
    // Streams.
    "FwpsStream(InjectAsync|Continue)0",
    "FwpsCopyStreamDataToBuffer0",
    "Fwps(Clone|DiscardCloned)StreamData0",
    // Who is behind an endpoint.
    "FwpsOpenToken0",
    "FwpsAleEndpoint(GetById|CreateEnumHandle|Enum|DestroyEnumHandle)0",
];

/// `fwpmk.h`: management.
const MANAGEMENT: &[&str] = &[
    "FwpmBfeState(Get|SubscribeChanges|UnsubscribeChanges)0",
    "FwpmEngine(Open|Close|GetOption|SetOption)0",
    "FwpmTransaction(Begin|Commit|Abort)0",
    "FwpmFreeMemory0",
    "Fwpm(Provider|SubLayer|Callout|Filter)(Add|DeleteByKey|GetByKey)0",
    "Fwpm(Provider|SubLayer|Callout|Filter)(CreateEnumHandle|Enum|DestroyEnumHandle)0",
    "Fwpm(Callout|Filter)(DeleteById|GetById)0",
    "FwpmLayerGetBy(Id|Key)0",
];

/// `ndis.h`: net buffers.
const NET_BUFFERS: &[&str] = &[
    "Ndis(Allocate|Free)NetBuffer(List)?Pool",
    "NdisAllocateNetBufferAndNetBufferList",
    "NdisFreeNetBufferList",
    "NdisGetDataBuffer",
    "Ndis(Retreat|Advance)NetBuffer(List)?DataStart",
];

/// Types that no bound function mentions: layer data, and the meaning of numbers.
const TYPES: &[&str] = &[
    "FWPS_BUILTIN_LAYERS_?",
    "FWPS_FIELDS_.*",
    "FWPS_STREAM_CALLOUT_IO_PACKET0_?",
    "_?FWPS_(CONNECT|BIND)_REQUEST0",
    "FWPS_GENERAL_DISCARD_REASON_?",
    "(INET|IP)_DISCARD_REASON",
    "FWP_IP_VERSION_?",
    "FWP_BYTE_ARRAY(6|16)_?",
    "FWP_V[46]_ADDR_AND_MASK_?",
    "NL_ADDRESS_TYPE",
    "IPPROTO",
];

/// Macros.
const CONSTANTS: &[&str] = &[
    "FWP_(ACTION|CALLOUT_FLAG|CONDITION|FILTER_ENUM_FLAG|OPTION_VALUE)_.*",
    "FWPS_(CLASSIFY|FILTER_FLAG|INCOMING_FLAG|INJECTION_TYPE|L2|METADATA_FIELD|RIGHT|STREAM_FLAG)_.*",
    "FWPM_(ACTRL|AUTO_WEIGHT|TXN|WEIGHT_RANGE)_.*",
    "FWPM_(CALLOUT|FILTER|LAYER|PROVIDER|SESSION|SUBLAYER)_FLAG_.*",
    "NDIS_NBL_FLAGS_.*",
    "NDIS_OBJECT_(TYPE_DEFAULT|REVISION_1)",
    "NET_BUFFER(_LIST)?_POOL_PARAMETERS_REVISION_1",
    "RPC_C_AUTHN_(WINNT|DEFAULT)",
    "AF_INET6?",
];

/// Types of which only the size is bound.
const OPAQUE: &[&str] = &[
    // Parts of net buffers under the names of older headers: unions without a member name of their
    // own, which bindgen can't express. The newer names lie over them.
    "_?NET_BUFFER(_LIST)?_HEADER",
    // All of IPsec's types hang on them.
    "FWPM_PROVIDER_CONTEXT[0-3]_?",
];

/// Tells bindgen about types that it doesn't see because `wdk-sys` binds them.
#[derive(Debug)]
struct WdkSysTypes;

impl ParseCallbacks for WdkSysTypes {
    /// All of them are plain data or pointers. Without this, whatever contains one could not be
    /// copied, and a union that contains one would not be a Rust union.
    fn blocklisted_type_implements_trait(
        &self,
        _name: &str,
        derive_trait: DeriveTrait,
    ) -> Option<ImplementsTrait> {
        (derive_trait == DeriveTrait::Copy).then_some(ImplementsTrait::Yes)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let config = Config::from_env_auto()?;
    config.configure_library_build()?;

    let mut builder = Builder::wdk_default(&config)?
        .header_contents("wfp-input.h", HEADERS)
        .blocklist_file(WDK_SYS_HEADERS)
        .raw_line("use wdk_sys::*;")
        .parse_callbacks(Box::new(WdkSysTypes))
        .merge_extern_blocks(true)
        .wrap_unsafe_ops(true);
    for functions in [DATA_PATH, MANAGEMENT, NET_BUFFERS] {
        builder = functions.iter().fold(builder, Builder::allowlist_function);
    }
    builder = TYPES.iter().fold(builder, Builder::allowlist_type);
    builder = CONSTANTS.iter().fold(builder, Builder::allowlist_var);
    builder = OPAQUE.iter().fold(builder, Builder::opaque_type);

    let output = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join("wfp.rs");
    builder.generate()?.write_to_file(output)?;

    // The search path comes from the driver's own build script.
    println!("cargo::rustc-link-lib=fwpkclnt");
    println!("cargo::rustc-link-lib=ndis");
    Ok(())
}
