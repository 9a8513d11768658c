//! The checksum in the optional header, which the kernel verifies before it loads a driver.

/// The checksum of `file`, whose checksum field is the four bytes at `field`, as `CheckSumMappedFile` computes it.
///
/// <https://learn.microsoft.com/windows/win32/api/imagehlp/nf-imagehlp-checksummappedfile>
pub(crate) fn compute(file: &[u8], field: usize) -> u32 {
    let mut sum = 0u32;
    for (index, pair) in file.chunks(2).enumerate() {
        let offset = index * 2;
        if (field..field + 4).contains(&offset) {
            continue;
        }
        let low = pair.first().copied().unwrap_or(0);
        let high = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_le_bytes([low, high]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum.wrapping_add(u32::try_from(file.len()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::compute;

    #[test]
    fn the_sum_skips_its_own_field_and_adds_the_length() {
        let mut file = [1, 0, 2, 0, 0xff, 0xff, 0xff, 0xff, 3];
        assert_eq!(compute(&file, 4), 1 + 2 + 3 + 9);
        file[4] = 0;
        assert_eq!(compute(&file, 4), 1 + 2 + 3 + 9);
    }

    #[test]
    fn carries_come_around() {
        assert_eq!(compute(&[0xff, 0xff, 2, 0], 8), 2 + 4);
    }
}
