//! The driver's image.

use std::sync::OnceLock;

use portcullis_cli::simulation::driver_image;

/// portcullis.sys: the file that `PORTCULLIS_SYS` names now, or else the one that this program was built with.
pub fn portcullis() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let named = std::env::var_os("PORTCULLIS_SYS").map(std::path::PathBuf::from);
        driver_image(named.as_deref()).unwrap_or_else(|error| {
            panic!("there is no portcullis.sys to test ({error}): run the tests with `cargo xtask test`, which builds it")
        })
    })
}

/// The same driver under another device name, as if somebody had renamed it and forgotten the keys of its callouts.
#[must_use]
pub fn with_another_device_name() -> Vec<u8> {
    let mut image = portcullis().to_vec();
    for prefix in [r"\Device\", r"\DosDevices\"] {
        let old = wide(&format!("{prefix}Portcullis"));
        let new = wide(&format!("{prefix}Portcullit"));
        let places: Vec<usize> = (0..image.len() - old.len())
            .filter(|&at| image[at..].starts_with(&old))
            .collect();
        assert!(!places.is_empty(), "the image names {prefix}Portcullis");
        for at in places {
            image[at..at + new.len()].copy_from_slice(&new);
        }
    }
    image
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
