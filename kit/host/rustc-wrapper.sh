#!/bin/sh
# Cargo's rustc wrapper for a host that is not Windows. It lets the unmodified wdk-build compile:
# that crate refuses to build unless target_os is "windows" and names std::os::windows. Every
# other crate is compiled as asked.
set -eu

case " $* " in
*' --crate-name wdk_build '*) ;;
*) exec "$@" ;;
esac

out=
previous=
for argument do
    if [ "$previous" = --out-dir ]; then out=$argument; fi
    previous=$argument
done

# The shim lies beside wdk-build's own library: there the crates that link wdk-build look for it.
# Compiled in a folder of its own and then moved, so that a concurrent compiler never sees half of it.
scratch=$(mktemp -d "$out/std_shim.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
"$1" --edition 2024 --crate-type rlib --crate-name std_shim -O --out-dir "$scratch" "${0%/*}/std_shim.rs"
mv "$scratch/libstd_shim.rlib" "$out/libstd_shim.rlib"
rm -rf "$scratch"
trap - EXIT

exec "$@" --cfg 'target_os="windows"' -A explicit_builtin_cfgs_in_flags --extern "std=$out/libstd_shim.rlib"
