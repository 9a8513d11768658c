//! Base relocations, and the image as it lies at another address.

use object::pe::{IMAGE_REL_BASED_ABSOLUTE, IMAGE_REL_BASED_DIR64};
use object::read::pe::RelocationBlockIterator;

use crate::view::{View, malformed};
use crate::{Image, ImageError};

const TABLE: &str = "relocation table";

/// The places that hold an absolute 64-bit address, by the table of `size` bytes at `rva`.
pub(crate) fn read(view: &View, rva: u32, size: u32) -> Result<Vec<u32>, ImageError> {
    let data = usize::try_from(size)
        .ok()
        .and_then(|size| view.get(rva, size))
        .ok_or_else(|| malformed(TABLE, rva, "outside the image"))?;
    let mut places = Vec::new();
    for block in RelocationBlockIterator::new(data) {
        let block = block.map_err(|_| malformed(TABLE, rva, "a block has an impossible size"))?;
        for relocation in block {
            let place = relocation.virtual_address;
            if relocation.typ == IMAGE_REL_BASED_ABSOLUTE {
                continue;
            }
            if relocation.typ != IMAGE_REL_BASED_DIR64 {
                return Err(malformed(
                    TABLE,
                    place,
                    "of a type that 64-bit images don't have",
                ));
            }
            if view.u64(place).is_none() {
                return Err(malformed(TABLE, place, "the place is outside the image"));
            }
            places.push(place);
        }
    }
    Ok(places)
}

/// See [`Image::relocated`].
pub(crate) fn relocated(image: &Image, base: u64) -> Result<Vec<u8>, ImageError> {
    let mut bytes = image.view.bytes().to_vec();
    let delta = base.wrapping_sub(image.preferred_base);
    if delta == 0 {
        return Ok(bytes);
    }
    if image.relocations.is_none() {
        return Err(malformed(
            TABLE,
            0,
            "stripped: the image cannot be moved from its preferred base",
        ));
    }
    for &place in &image.relocation_places {
        let slot = usize::try_from(place)
            .ok()
            .and_then(|place| bytes.get_mut(place..))
            .and_then(<[u8]>::first_chunk_mut);
        if let Some(slot) = slot {
            *slot = u64::from_le_bytes(*slot).wrapping_add(delta).to_le_bytes();
        }
    }
    Ok(bytes)
}
