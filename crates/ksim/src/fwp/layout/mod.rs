//! WFP's structures as drivers see them on x64.
//!
//! `value` holds those of `fwptypes.h`, `management` and `template` those of `fwpmtypes.h`, `kernel` and `request` those
//! of `fwpsk.h`.

pub(crate) mod kernel;
pub(crate) mod management;
pub(crate) mod request;
pub(crate) mod template;
pub(crate) mod value;
