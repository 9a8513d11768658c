//! The load configuration: what the loader does for the security cookie and control flow guard.

use serde::Serialize;

use crate::ImageError;
use crate::view::{View, malformed};

/// What of `IMAGE_LOAD_CONFIG_DIRECTORY64` matters for a driver.
///
/// <https://learn.microsoft.com/windows/win32/debug/pe-format#the-load-configuration-structure-image-only>
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LoadConfig {
    /// Its own size field.
    pub size: u32,
    /// Where the security cookie is.
    pub security_cookie: Option<u32>,
    /// `GuardFlags`.
    pub guard_flags: u32,
    /// Where the pointer to the control flow guard's check function is.
    pub guard_check: Option<u32>,
    /// Where the pointer to the control flow guard's dispatch function is.
    pub guard_dispatch: Option<u32>,
}

/// Reads the load configuration at `rva`; addresses in it are relative to `base`.
pub(crate) fn read(view: &View, rva: u32, base: u64) -> Result<LoadConfig, ImageError> {
    let table = "load configuration";
    let size = view
        .u32(rva)
        .ok_or_else(|| malformed(table, rva, "outside the image"))?;
    // Fields beyond the size that the image itself states don't exist in it.
    let field = |offset: u32, bytes: u32| {
        (offset + bytes <= size)
            .then(|| rva.checked_add(offset))
            .flatten()
    };
    let address = |offset: u32| -> Result<Option<u32>, ImageError> {
        let Some(value) = field(offset, 8)
            .and_then(|at| view.u64(at))
            .filter(|&value| value != 0)
        else {
            return Ok(None);
        };
        value
            .checked_sub(base)
            .and_then(|rva| u32::try_from(rva).ok())
            .filter(|&rva| view.u64(rva).is_some())
            .map(Some)
            .ok_or_else(|| {
                malformed(
                    table,
                    rva.wrapping_add(offset),
                    "an address is outside the image",
                )
            })
    };
    Ok(LoadConfig {
        size,
        security_cookie: address(0x58)?,
        guard_check: address(0x70)?,
        guard_dispatch: address(0x78)?,
        guard_flags: field(0x90, 4).and_then(|at| view.u32(at)).unwrap_or(0),
    })
}
