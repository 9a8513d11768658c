//! Hands the driver binary's link settings over from wdk-build.

#[cfg(feature = "image")]
fn main() -> Result<(), wdk_build::ConfigError> {
    wdk_build::configure_wdk_binary_build()
}

#[cfg(not(feature = "image"))]
const fn main() {}
