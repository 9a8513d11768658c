//! `portcullis image`.

use pe_image::{Expectations, ImportName};
use serde::Serialize;

use super::{BadInput, Ending};
use crate::arguments::Image;

/// What a driver image is, for programs.
#[derive(Debug, Serialize)]
struct ImageReport<'a> {
    #[serde(flatten)]
    image: &'a pe_image::Image,
    warnings: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// A file that cannot be read or is no image.
pub fn run(arguments: &Image) -> Result<Ending, BadInput> {
    let name = arguments.file.display();
    let file = std::fs::read(&arguments.file)
        .map_err(|error| BadInput::new(format!("{name}: {error}")))?;
    let image =
        pe_image::Image::parse(&file).map_err(|error| BadInput::new(format!("{name}: {error}")))?;
    let expected = Expectations {
        machine: None,
        exports: None,
        kmdf: image.kmdf.is_some(),
    };
    let warnings = pe_image::check(&image, &expected);
    if arguments.json {
        super::print_json(&ImageReport {
            image: &image,
            warnings: warnings.iter().map(ToString::to_string).collect(),
        })?;
        return Ok(Ending::Clean);
    }
    say!(
        "{name}: a driver image for {}, {} bytes in memory",
        image.machine,
        image.image_size
    );
    say!(
        "entry {:#x}, checksum {:#010x}, subsystem {}",
        image.entry,
        image.checksum,
        image.subsystem
    );
    if let Some(kmdf) = &image.kmdf {
        say!(
            "KMDF {}.{}, {} functions",
            kmdf.major,
            kmdf.minor,
            kmdf.functions
        );
    }
    let flags = image.characteristics;
    let set = [
        (flags.nx, "NX"),
        (flags.aslr, "ASLR"),
        (flags.high_entropy, "high-entropy ASLR"),
        (flags.force_integrity, "integrity check"),
        (flags.guard_cf, "control flow guard"),
        (flags.wdm, "WDM"),
    ];
    let set: Vec<&str> = set
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect();
    say!(
        "flags: {}",
        if set.is_empty() {
            "none".to_owned()
        } else {
            set.join(", ")
        }
    );
    if let Some(frame) = image.largest_frame {
        say!(
            "largest stack frame: {} bytes, at {:#x}",
            frame.bytes,
            frame.begin
        );
    }
    say!("sections:");
    for section in &image.sections {
        let protection: String = [
            (section.read, 'r'),
            (section.write, 'w'),
            (section.execute, 'x'),
        ]
        .into_iter()
        .map(|(set, letter)| if set { letter } else { '-' })
        .collect();
        say!(
            "  {:<8} {:#08x} {:>8} bytes {protection}",
            section.name,
            section.rva,
            section.size
        );
    }
    say!("imports:");
    for import in &image.imports {
        match &import.name {
            ImportName::Name(name) => say!("  {}!{name}", import.module),
            ImportName::Ordinal(ordinal) => say!("  {}!#{ordinal}", import.module),
        }
    }
    for warning in warnings {
        say!("warning: {warning}");
    }
    Ok(Ending::Clean)
}
