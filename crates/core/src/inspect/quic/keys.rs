//! The keys of a client's Initial packets (RFC 9001, section 5).

use super::packet::Version;
use aes_gcm::aead::AeadInPlace;
use aes_gcm::aes::Aes128;
use aes_gcm::aes::cipher::{BlockEncrypt, KeyInit};
use aes_gcm::{Aes128Gcm, Key, Nonce, Tag};
use core::ops::Range;
use hkdf::Hkdf;
use sha2::Sha256;

/// Bytes of an authentication tag.
const TAG: usize = 16;
/// The sample by which a header is protected is taken so many bytes after the packet number's start.
const SAMPLE_AT: usize = 4;
/// Bytes of the sample.
const SAMPLE: usize = 16;

/// What a client's Initial packets are protected with: anyone can know it who has seen the first.
#[derive(Debug)]
pub(super) struct Keys {
    key: [u8; 16],
    iv: [u8; 12],
    header: [u8; 16],
}

impl Keys {
    /// The keys of a connection whose client chose this destination connection id.
    pub(super) fn derive(version: &Version, destination: &[u8]) -> Self {
        let (_, initial) = Hkdf::<Sha256>::extract(Some(&version.salt), destination);
        let mut secret = [0; 32];
        expand(&initial, b"client in", &mut secret);
        let mut keys = Self {
            key: [0; 16],
            iv: [0; 12],
            header: [0; 16],
        };
        if let Ok(client) = Hkdf::from_prk(&secret) {
            let [key, iv, header] = version.labels;
            expand(&client, key, &mut keys.key);
            expand(&client, iv, &mut keys.iv);
            expand(&client, header, &mut keys.header);
        }
        keys
    }

    /// Takes the protection off, in place; returns where the payload is. `None`, and nothing has changed: the packet is
    /// not protected with these keys.
    pub(super) fn open(&self, packet: &mut [u8], number_at: usize) -> Option<Range<usize>> {
        let sample_at = number_at.checked_add(SAMPLE_AT)?;
        let mut mask = aes_gcm::aes::Block::clone_from_slice(
            packet.get(sample_at..sample_at.checked_add(SAMPLE)?)?,
        );
        Aes128::new(&self.header.into()).encrypt_block(&mut mask);
        let [first_mask, number_mask @ ..] = <[u8; SAMPLE]>::from(mask);
        let first = packet.first()? ^ (first_mask & 0x0F);
        let number_length = usize::from(first & 3) + 1;
        let payload_at = number_at + number_length;
        let tag_at = packet.len().checked_sub(TAG)?;
        if tag_at < payload_at {
            return None;
        }
        let mask = [&[first_mask & 0x0F], &number_mask[..]];
        toggle(packet, number_at..payload_at, mask);
        if self
            .decrypt(packet, number_at, payload_at, tag_at)
            .is_none()
        {
            toggle(packet, number_at..payload_at, mask);
            return None;
        }
        Some(payload_at..tag_at)
    }

    /// Decrypts the payload of a packet whose header is bare.
    fn decrypt(
        &self,
        packet: &mut [u8],
        number_at: usize,
        payload_at: usize,
        tag_at: usize,
    ) -> Option<()> {
        let (header, rest) = packet.split_at_mut_checked(payload_at)?;
        let (payload, tag) = rest.split_at_mut_checked(tag_at.checked_sub(payload_at)?)?;
        // Before anything is acknowledged a packet number is sent with all its digits.
        let number = header.get(number_at..)?;
        let mut nonce = self.iv;
        for (byte, digit) in nonce.iter_mut().rev().zip(number.iter().rev()) {
            *byte ^= digit;
        }
        Aes128Gcm::new(Key::<Aes128Gcm>::from_slice(&self.key))
            .decrypt_in_place_detached(
                Nonce::from_slice(&nonce),
                header,
                payload,
                Tag::from_slice(tag),
            )
            .ok()
    }
}

/// Takes the mask off the first byte and the packet number, or puts it back on.
fn toggle(packet: &mut [u8], number: Range<usize>, [first_mask, number_mask]: [&[u8]; 2]) {
    for (range, mask) in [(0..1, first_mask), (number, number_mask)] {
        let bytes = packet.get_mut(range).unwrap_or_default();
        for (byte, mask) in bytes.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
}

/// `HKDF-Expand-Label` without a context (RFC 8446, section 7.1).
fn expand(secret: &Hkdf<Sha256>, label: &[u8], output: &mut [u8]) {
    const PREFIX: &[u8] = b"tls13 ";
    // The lengths are those of the callers' arrays and literals, all below 256.
    let length = [0, u8::try_from(output.len()).unwrap_or(u8::MAX)];
    let label_length = [u8::try_from(PREFIX.len() + label.len()).unwrap_or(u8::MAX)];
    let info: [&[u8]; 5] = [&length, &label_length, PREFIX, label, &[0]];
    // It fails only for more than 255 blocks of output.
    let expanded = secret.expand_multi_info(&info, output);
    debug_assert!(expanded.is_ok(), "at most 32 bytes");
}

#[cfg(test)]
mod tests {
    use super::super::packet::VERSIONS;
    use super::Keys;

    /// The connection id of the examples in RFC 9001, appendix A, and RFC 9369, appendix A.
    const ID: [u8; 8] = 0x8394_C8F0_3E51_5708_u64.to_be_bytes();

    fn keys_of(version: u32) -> Keys {
        let version = VERSIONS.iter().find(|known| known.number == version);
        Keys::derive(version.expect("known"), &ID)
    }

    #[test]
    fn version_1_has_the_keys_of_rfc_9001_appendix_a() {
        let keys = keys_of(1);
        assert_eq!(
            keys.key,
            0x1f36_9613_dd76_d546_7730_efcb_e3b1_a22d_u128.to_be_bytes()
        );
        assert_eq!(
            keys.iv,
            0xfa04_4b2f_42a3_fd3b_46fb_255c_u128.to_be_bytes()[4..]
        );
        assert_eq!(
            keys.header,
            0x9f50_449e_04a0_e810_283a_1e99_33ad_edd2_u128.to_be_bytes()
        );
    }

    #[test]
    fn version_2_has_the_keys_of_rfc_9369_appendix_a() {
        let keys = keys_of(0x6B33_43CF);
        assert_eq!(
            keys.key,
            0x8b1a_0bc1_2128_4290_a29e_0971_b5cd_045d_u128.to_be_bytes()
        );
        assert_eq!(
            keys.iv,
            0x91f7_3e23_51d8_fa91_660e_909f_u128.to_be_bytes()[4..]
        );
        assert_eq!(
            keys.header,
            0x45b9_5e15_235d_6f45_a6b1_9cbc_b029_4ba9_u128.to_be_bytes()
        );
    }
}
