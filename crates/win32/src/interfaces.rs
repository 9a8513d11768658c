//! Network interfaces by their names.
//!
//! <https://learn.microsoft.com/windows/win32/api/netioapi/nf-netioapi-convertinterfacealiastoluid>

use windows_sys::Win32::Foundation::NO_ERROR;
use windows_sys::Win32::NetworkManagement::IpHelper::ConvertInterfaceAliasToLuid;
use windows_sys::Win32::NetworkManagement::Ndis::NET_LUID_LH;

/// The LUID of the interface with this name (alias), as `Get-NetAdapter` and `netsh interface` show it.
#[must_use]
pub fn interface_luid(name: &str) -> Option<u64> {
    // A name that holds a NUL would be cut there.
    if name.contains('\0') {
        return None;
    }
    let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
    let mut luid = NET_LUID_LH { Value: 0 };
    // SAFETY: the name ends with a NUL, and the LUID is written within the call.
    let status = unsafe { ConvertInterfaceAliasToLuid(name.as_ptr(), &raw mut luid) };
    // SAFETY: every member of the union is a view of the same 64 bits.
    let value = unsafe { luid.Value };
    (status == NO_ERROR).then_some(value)
}
