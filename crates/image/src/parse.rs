//! From a file's bytes to an [`Image`].

use object::LittleEndian as LE;
use object::pe::{
    IMAGE_DIRECTORY_ENTRY_BASERELOC, IMAGE_DIRECTORY_ENTRY_DEBUG, IMAGE_DIRECTORY_ENTRY_EXCEPTION,
    IMAGE_DIRECTORY_ENTRY_EXPORT, IMAGE_DIRECTORY_ENTRY_IMPORT, IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG,
    IMAGE_FILE_MACHINE_AMD64, IMAGE_FILE_MACHINE_ARM64, IMAGE_FILE_RELOCS_STRIPPED,
    ImageNtHeaders64, ImageSectionHeader,
};
use object::read::pe::PeFile64;

use crate::view::View;
use crate::{
    Characteristics, Debug, Image, ImageError, MAX_IMAGE_SIZE, Machine, Section, checksum, debug,
    entry, exports, imports, kmdf, load_config, relocations,
};

const PAGE: u32 = 0x1000;

pub(crate) fn parse(file: &[u8]) -> Result<Image, ImageError> {
    // `object` only names the first thing that it misses, which is what we say too.
    let pe = PeFile64::parse(file)
        .map_err(|_| ImageError::Headers("the DOS, PE or section headers are malformed"))?;
    let headers = pe.nt_headers();
    let optional = &headers.optional_header;
    let machine = match headers.file_header.machine.get(LE) {
        IMAGE_FILE_MACHINE_AMD64 => Machine::X64,
        IMAGE_FILE_MACHINE_ARM64 => Machine::Arm64,
        other => return Err(ImageError::Machine(other.0)),
    };
    let alignment = optional.section_alignment.get(LE);
    if !alignment.is_power_of_two() || alignment < PAGE {
        return Err(ImageError::Alignment(alignment));
    }
    let claimed = optional.size_of_image.get(LE);
    let headers_size = optional.size_of_headers.get(LE);
    if claimed > MAX_IMAGE_SIZE || headers_size > claimed {
        return Err(ImageError::Size(claimed));
    }
    let image_size = claimed.next_multiple_of(PAGE);
    let mut bytes = vec![0; image_size as usize];
    copy(file, 0, &mut bytes, 0, headers_size)
        .ok_or(ImageError::Headers("the headers are longer than the file"))?;
    let mut sections: Vec<Section> = Vec::new();
    for header in pe.section_table().iter() {
        let end = sections
            .last()
            .map_or(headers_size, |last| last.rva + last.size);
        sections.push(place_section(file, header, end, &mut bytes)?);
    }
    let view = View::new(bytes);

    let base = optional.image_base.get(LE);
    let directory = |index: usize| {
        pe.data_directory(index)
            .map(object::pe::ImageDataDirectory::address_range)
            .filter(|(rva, size)| *rva != 0 && *size != 0)
    };
    let relocation_places = match directory(IMAGE_DIRECTORY_ENTRY_BASERELOC) {
        Some((rva, size)) => relocations::read(&view, rva, size)?,
        None => Vec::new(),
    };
    let stripped =
        headers.file_header.characteristics.get(LE).0 & IMAGE_FILE_RELOCS_STRIPPED.0 != 0;
    let flags = optional.dll_characteristics.get(LE).0;
    // The field's place in the file: the headers lie unchanged at its start.
    let checksum_field = pe.dos_header().nt_headers_offset() as usize
        + std::mem::offset_of!(ImageNtHeaders64, optional_header)
        + 64;
    let mut image = Image {
        machine,
        file_size: file.len(),
        image_size,
        headers_size,
        preferred_base: base,
        entry: optional.address_of_entry_point.get(LE),
        subsystem: optional.subsystem.get(LE).0,
        timestamp: headers.file_header.time_date_stamp.get(LE),
        linker: (optional.major_linker_version, optional.minor_linker_version),
        characteristics: characteristics(flags),
        checksum: optional.check_sum.get(LE),
        computed_checksum: checksum::compute(file, checksum_field),
        imports: directory(IMAGE_DIRECTORY_ENTRY_IMPORT)
            .map_or_else(|| Ok(Vec::new()), |(rva, _)| imports::read(&view, rva))?,
        exports: directory(IMAGE_DIRECTORY_ENTRY_EXPORT).map_or_else(
            || Ok(Vec::new()),
            |(rva, size)| exports::read(&view, rva, size),
        )?,
        relocations: (!stripped).then_some(relocation_places.len()),
        load_config: directory(IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG)
            .map(|(rva, _)| load_config::read(&view, rva, base))
            .transpose()?,
        debug: directory(IMAGE_DIRECTORY_ENTRY_DEBUG).map_or_else(
            || Ok(Debug::default()),
            |(rva, size)| debug::read(&view, rva, size),
        )?,
        kmdf: kmdf::find(&view, &sections, base),
        sections,
        largest_frame: None,
        entry_reaches: Vec::new(),
        // Other machines have other tables there.
        function_table: directory(IMAGE_DIRECTORY_ENTRY_EXCEPTION)
            .filter(|_| machine == Machine::X64),
        relocation_places,
        view,
    };
    if !image
        .section_at(image.entry)
        .is_some_and(|section| section.execute)
    {
        return Err(ImageError::Entry(image.entry));
    }
    image.entry_reaches = entry::reached_imports(&image);
    image.largest_frame = image.frames().max_by_key(|frame| frame.bytes);
    Ok(image)
}

/// `IMAGE_DLLCHARACTERISTICS_*`.
const fn characteristics(flags: u16) -> Characteristics {
    Characteristics {
        high_entropy: flags & 0x20 != 0,
        aslr: flags & 0x40 != 0,
        force_integrity: flags & 0x80 != 0,
        nx: flags & 0x100 != 0,
        wdm: flags & 0x2000 != 0,
        guard_cf: flags & 0x4000 != 0,
    }
}

/// Copies a section into the image; everything up to `end` is taken.
fn place_section(
    file: &[u8],
    header: &ImageSectionHeader,
    end: u32,
    image: &mut [u8],
) -> Result<Section, ImageError> {
    let name = String::from_utf8_lossy(header.raw_name()).into_owned();
    let bad = |problem| ImageError::Section {
        name: name.clone(),
        problem,
    };
    let rva = header.virtual_address.get(LE);
    let file_size = header.size_of_raw_data.get(LE);
    let virtual_size = match header.virtual_size.get(LE) {
        0 => file_size,
        size => size,
    };
    if !rva.is_multiple_of(PAGE) || rva < end {
        return Err(bad(
            "it does not begin on a page of its own behind the section before",
        ));
    }
    let size = virtual_size
        .checked_next_multiple_of(PAGE)
        .ok_or_else(|| bad("its size is impossible"))?;
    if rva
        .checked_add(size)
        .is_none_or(|end| end as usize > image.len())
    {
        return Err(bad("it reaches beyond the image"));
    }
    copy(
        file,
        header.pointer_to_raw_data.get(LE),
        image,
        rva,
        file_size.min(size),
    )
    .ok_or_else(|| bad("its data reaches beyond the file"))?;
    let flags = header.characteristics.get(LE).0;
    Ok(Section {
        pageable: name.starts_with("PAGE") && flags & 0x0800_0000 == 0,
        name,
        rva,
        size,
        file_size,
        read: flags & 0x4000_0000 != 0,
        write: flags & 0x8000_0000 != 0,
        execute: flags & 0x2000_0000 != 0,
        discardable: flags & 0x0200_0000 != 0,
    })
}

fn copy(from: &[u8], offset: u32, to: &mut [u8], at: u32, length: u32) -> Option<()> {
    let source = from.get(offset as usize..)?.get(..length as usize)?;
    to.get_mut(at as usize..)?
        .get_mut(..length as usize)?
        .copy_from_slice(source);
    Some(())
}
