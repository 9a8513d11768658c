//! QUIC's Initial packets as a client makes them (RFC 9000 and 9001), written apart from what reads them.

use aes_gcm::aead::AeadInPlace;
use aes_gcm::aes::Aes128;
use aes_gcm::aes::cipher::{BlockEncrypt, KeyInit};
use aes_gcm::{Aes128Gcm, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;

/// A version as a client speaks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

impl Version {
    const fn number(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 0x6B33_43CF,
        }
    }

    const fn salt(self) -> u128 {
        match self {
            Self::One => 0x3876_2cf7_f559_34b3_4d17_9ae6_a4c8_0cad,
            Self::Two => 0x0ded_e3de_f700_a6db_8193_81be_6e26_9dcb,
        }
    }

    const fn salt_end(self) -> u32 {
        match self {
            Self::One => 0xccbb_7f0a,
            Self::Two => 0xf9bd_2ed9,
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::One => "quic",
            Self::Two => "quicv2",
        }
    }

    /// The first byte of a packet of the type that version 1 numbers so.
    const fn first_byte(self, kind: u8) -> u8 {
        let kind = match self {
            Self::One => kind,
            Self::Two => (kind + 1) & 3,
        };
        0xC0 | (kind << 4)
    }
}

/// A client's connection.
#[derive(Clone, Debug)]
pub struct Client {
    pub version: Version,
    /// The connection id from which the keys follow.
    pub first_id: Vec<u8>,
    /// The connection id that packets go to now.
    pub id: Vec<u8>,
    pub token: Vec<u8>,
}

impl Client {
    pub fn new(version: Version, id: &[u8]) -> Self {
        Self {
            version,
            first_id: id.to_vec(),
            id: id.to_vec(),
            token: Vec::new(),
        }
    }

    fn expand(secret: &[u8], label: &str, length: usize) -> Vec<u8> {
        let label = format!("tls13 {label}");
        let mut info = vec![0, u8::try_from(length).expect("short")];
        info.push(u8::try_from(label.len()).expect("short"));
        info.extend(label.as_bytes());
        info.push(0);
        let mut output = vec![0; length];
        let secret = Hkdf::<Sha256>::from_prk(secret).expect("32 bytes");
        secret.expand(&info, &mut output).expect("short");
        output
    }

    /// An Initial packet with these frames.
    pub fn initial(&self, number: u8, frames: &[u8]) -> Vec<u8> {
        let salt = [
            &self.version.salt().to_be_bytes()[..],
            &self.version.salt_end().to_be_bytes(),
        ]
        .concat();
        let (secret, _) = Hkdf::<Sha256>::extract(Some(&salt), &self.first_id);
        let secret = Self::expand(&secret, "client in", 32);
        let part = |name: &str, length| {
            Self::expand(
                &secret,
                &format!("{} {name}", self.version.prefix()),
                length,
            )
        };
        let (key, iv, header_key) = (part("key", 16), part("iv", 12), part("hp", 16));

        let mut payload = frames.to_vec();
        payload.resize(payload.len().max(32), 0);
        let mut packet = self.header(0);
        packet.extend(varint(self.token.len()));
        packet.extend(&self.token);
        packet.extend(varint(1 + payload.len() + 16));
        let number_at = packet.len();
        packet.push(number);
        let mut nonce = iv;
        nonce[11] ^= number;
        let tag = Aes128Gcm::new(key.as_slice().into())
            .encrypt_in_place_detached(Nonce::from_slice(&nonce), &packet, &mut payload)
            .expect("short");
        packet.extend(&payload);
        packet.extend(tag);
        let mut mask = *aes_gcm::aes::Block::from_slice(&packet[number_at + 4..number_at + 20]);
        Aes128::new(header_key.as_slice().into()).encrypt_block(&mut mask);
        packet[0] ^= mask[0] & 0x0F;
        packet[number_at] ^= mask[1];
        packet
    }

    /// A packet of another type, which nobody here can read.
    pub fn other(&self, kind: u8, payload: usize) -> Vec<u8> {
        let mut packet = self.header(kind);
        packet.extend(varint(payload));
        packet.resize(packet.len() + payload, 0xAA);
        packet
    }

    fn header(&self, kind: u8) -> Vec<u8> {
        let mut packet = vec![self.version.first_byte(kind)];
        packet.extend(self.version.number().to_be_bytes());
        packet.push(u8::try_from(self.id.len()).expect("at most 20"));
        packet.extend(&self.id);
        packet.extend([3, 7, 7, 7]);
        packet
    }
}

/// A CRYPTO frame.
pub fn crypto(offset: usize, data: &[u8]) -> Vec<u8> {
    [&[6][..], &varint(offset), &varint(data.len()), data].concat()
}

/// A number of variable length.
pub fn varint(number: usize) -> Vec<u8> {
    match number {
        0..=0x3F => vec![u8::try_from(number).expect("small")],
        0x40..=0x3FFF => (u16::try_from(number).expect("small") | 0x4000)
            .to_be_bytes()
            .to_vec(),
        _ => (u32::try_from(number).expect("small") | 0x8000_0000)
            .to_be_bytes()
            .to_vec(),
    }
}
