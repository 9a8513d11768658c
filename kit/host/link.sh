#!/bin/sh
# The driver's linker: lld-link, called so that its output doesn't depend on where the checkout lies.
# lld-link records its command line, the paths of its inputs and the hashes of the sources in the
# program database, whose own hash is in the image.
set -eu

root=$(cd "${0%/*}/../.." && pwd)
cd "$root"

# wdk-sys writes the path of its output into a source file. normalize OBJECT SOURCE replaces that
# file's hash in an object by the hash that it has without the checkout's path.
normalize() {
    found=$(sha256sum <"$2" | cut -c 1-64)
    wanted=$(ROOT=$root perl -pe 's/\Q$ENV{ROOT}//g' "$2" | sha256sum | cut -c 1-64)
    FOUND=$found WANTED=$wanted perl -0777 -i -pe '
        BEGIN { ($found, $wanted) = map { pack "H*", $_ } @ENV{"FOUND", "WANTED"} }
        s/\Q$found/$wanted/g' "$1"
}

for argument do
    shift
    case $argument in
    *"$root/"*) argument=${argument%%"$root/"*}${argument#*"$root/"} ;;
    esac
    case $argument in
    *:target/*/rustc??????/* | target/*/rustc??????/*)
        # rustc's scratch folder has a random name.
        before=${argument%/rustc??????/*}
        after=${argument#"$before/"}
        ln -sfn "${after%%/*}" "${before#/*:}/rustc"
        argument=$before/rustc/${after#*/}
        ;;
    target/*.o)
        for source in "${argument%/deps/*}"/build/wdk-sys-*/out/call_unsafe_wdf_function_binding.rs; do
            if [ -f "$source" ]; then normalize "$argument" "$source"; fi
        done
        ;;
    esac
    set -- "$@" "$argument"
done

exec "${LLD_LINK:-lld-link}" "$@" /pdbsourcepath:/portcullis
