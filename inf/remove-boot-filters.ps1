# Removes what a Portcullis policy with a table [boot] has left in the filter engine, without the driver.
# Run it as administrator. It has not been run on Windows yet; docs/boot.md says when it is wanted.

$ErrorActionPreference = 'Stop'

Add-Type -TypeDefinition @'
using System;
using System.Runtime.InteropServices;

public static class Fwpm {
    [DllImport("fwpuclnt.dll")] public static extern uint FwpmEngineOpen0(
        IntPtr server, uint authentication, IntPtr identity, IntPtr session, out IntPtr engine);
    [DllImport("fwpuclnt.dll")] public static extern uint FwpmEngineClose0(IntPtr engine);
    [DllImport("fwpuclnt.dll")] public static extern uint FwpmTransactionBegin0(IntPtr engine, uint flags);
    [DllImport("fwpuclnt.dll")] public static extern uint FwpmTransactionCommit0(IntPtr engine);
    [DllImport("fwpuclnt.dll")] public static extern uint FwpmFilterDeleteByKey0(IntPtr engine, ref Guid key);
    [DllImport("fwpuclnt.dll")] public static extern uint FwpmSubLayerDeleteByKey0(IntPtr engine, ref Guid key);
    [DllImport("fwpuclnt.dll")] public static extern uint FwpmProviderDeleteByKey0(IntPtr engine, ref Guid key);
}
'@

# RPC_C_AUTHN_WINNT
$authentication = 10
# FWP_E_FILTER_NOT_FOUND, FWP_E_PROVIDER_NOT_FOUND, FWP_E_SUBLAYER_NOT_FOUND: 0x80320003, 5 and 7, which would be
# negative numbers in hexadecimal digits.
$notFound = [uint32[]] (2150760451, 2150760453, 2150760455)

function Assert-Done([uint32] $status, [string] $what) {
    if ($status -ne 0 -and $notFound -notcontains $status) {
        throw ('{0} failed: 0x{1:x8}' -f $what, $status)
    }
}

function Get-Key([int] $number) {
    [Guid] ('f995210d-e7ae-41bc-b37d-5960e38a{0:x4}' -f $number)
}

# The rules that may hold at boot, the permits that come before them and the default, at four layers.
$filters = 4 * (256 + 5 + 1)

$engine = [IntPtr]::Zero
Assert-Done ([Fwpm]::FwpmEngineOpen0([IntPtr]::Zero, $authentication, [IntPtr]::Zero, [IntPtr]::Zero, [ref] $engine)) 'FwpmEngineOpen0'
try {
    Assert-Done ([Fwpm]::FwpmTransactionBegin0($engine, 0)) 'FwpmTransactionBegin0'
    foreach ($first in 0x4000, 0x8000) {
        for ($number = $first; $number -lt $first + $filters; $number++) {
            $key = Get-Key $number
            Assert-Done ([Fwpm]::FwpmFilterDeleteByKey0($engine, [ref] $key)) "deleting filter $key"
        }
    }
    $key = Get-Key 0x0004
    Assert-Done ([Fwpm]::FwpmSubLayerDeleteByKey0($engine, [ref] $key)) 'FwpmSubLayerDeleteByKey0'
    $key = Get-Key 0x0003
    Assert-Done ([Fwpm]::FwpmProviderDeleteByKey0($engine, [ref] $key)) 'FwpmProviderDeleteByKey0'
    Assert-Done ([Fwpm]::FwpmTransactionCommit0($engine)) 'FwpmTransactionCommit0'
} finally {
    # An open transaction is aborted with the session.
    [void] [Fwpm]::FwpmEngineClose0($engine)
}
