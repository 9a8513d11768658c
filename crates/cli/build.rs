//! Finds the driver image that goes into the program.
//!
//! `cargo xtask build` names it in `PORTCULLIS_SYS`. Without one the program is built all the same; it then needs
//! `--driver` to replay.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-env-changed=PORTCULLIS_SYS");
    let image = if let Some(image) = std::env::var_os("PORTCULLIS_SYS") {
        PathBuf::from(image)
    } else {
        let none = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("no-driver");
        std::fs::write(&none, [])?;
        none
    };
    println!("cargo::rerun-if-changed={}", image.display());
    println!(
        "cargo::rustc-env=PORTCULLIS_SYS_EMBEDDED={}",
        image.display()
    );
    Ok(())
}
