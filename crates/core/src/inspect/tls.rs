//! The server name of a TLS `ClientHello`.
//!
//! RFC 8446, sections 4.1.2 and 5.1; RFC 6066, section 3. The handshake message may be spread over any number of
//! records, and records of other types between them are passed over. The message is read on behind the name, because
//! another extension may say that there is an encrypted `ClientHello` too (RFC 9849), with a name of its own.

use super::{HostName, MAX_STREAM, Outcome};
use portcullis_proto::event::HostSource;

/// The record type that begins a TLS connection.
pub(super) const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u32 = 1;
const SERVER_NAME: u32 = 0;
const ENCRYPTED_CLIENT_HELLO: u32 = 0xfe0d;
const HOST_NAME: u32 = 0;
/// Content types in use: `change_cipher_spec` to `heartbeat`.
const CONTENT_TYPES: core::ops::RangeInclusive<u8> = 20..=24;
/// A record's payload: 2^14 bytes and what TLS 1.2 lets compression and encryption add.
const MAX_RECORD: u16 = (1 << 14) + 2048;
/// `legacy_version` and `random`.
const FIXED: u32 = 2 + 32;

/// Takes records apart and hands the handshake's bytes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct TlsParser {
    header: [u8; 5],
    header_filled: u8,
    record_left: u16,
    hello: ClientHello,
}

impl TlsParser {
    pub(super) const fn new() -> Self {
        Self {
            header: [0; 5],
            header_filled: 0,
            record_left: 0,
            hello: ClientHello::new(),
        }
    }

    /// What has been read of the message.
    pub(super) const fn hello(&self) -> &ClientHello {
        &self.hello
    }

    pub(super) fn push(&mut self, mut bytes: &[u8], name: &mut HostName) -> Outcome {
        while !bytes.is_empty() {
            if self.record_left == 0 {
                let Some((&byte, rest)) = bytes.split_first() else {
                    break;
                };
                bytes = rest;
                if let Err(reason) = self.header_byte(byte) {
                    return self.hello.without_more(reason);
                }
                continue;
            }
            let take = bytes.len().min(usize::from(self.record_left));
            let (payload, rest) = bytes.split_at(take);
            bytes = rest;
            self.record_left = self
                .record_left
                .saturating_sub(u16::try_from(take).unwrap_or(u16::MAX));
            if self.header[0] == HANDSHAKE {
                match self.hello.push(payload, name) {
                    Outcome::NeedMore => {}
                    known => return known,
                }
            }
        }
        Outcome::NeedMore
    }

    /// Checks each byte as it comes, so that what isn't TLS is known at once.
    fn header_byte(&mut self, byte: u8) -> Result<(), HostSource> {
        // Until the first record is complete this may still be another protocol.
        let unlike = if self.hello.begun {
            HostSource::Malformed
        } else {
            HostSource::NotRecognized
        };
        let valid = match self.header_filled {
            0 => CONTENT_TYPES.contains(&byte),
            1 => byte == 3,
            _ => true,
        };
        if !valid {
            return Err(unlike);
        }
        if let Some(place) = self.header.get_mut(usize::from(self.header_filled)) {
            *place = byte;
        }
        self.header_filled += 1;
        if self.header_filled == 5 {
            self.header_filled = 0;
            let [content, _, _, high, low] = self.header;
            let length = u16::from_be_bytes([high, low]);
            // Only application data may be empty.
            if length > MAX_RECORD || (length == 0 && content == HANDSHAKE) {
                return Err(unlike);
            }
            self.record_left = length;
        }
        Ok(())
    }
}

/// What the next bytes of the message are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Type,
    Length,
    SessionIdLength,
    CipherSuitesLength,
    CompressionLength,
    ExtensionsLength,
    ExtensionType,
    ExtensionLength,
    NameListLength,
    NameType,
    NameLength,
    Name,
}

impl Field {
    /// Bytes of the number that the field is.
    const fn width(self) -> u8 {
        match self {
            Self::Type | Self::SessionIdLength | Self::CompressionLength | Self::NameType => 1,
            Self::Length => 3,
            Self::CipherSuitesLength
            | Self::ExtensionsLength
            | Self::ExtensionType
            | Self::ExtensionLength
            | Self::NameListLength
            | Self::NameLength => 2,
            Self::Name => 0,
        }
    }
}

/// Reads the handshake message, whatever carries it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientHello {
    begun: bool,
    field: Field,
    /// The number read so far, and how many of its bytes.
    number: u32,
    filled: u8,
    /// Bytes to pass over before the field.
    skip: u32,
    /// Bytes left of the message, of its extensions, of the extension, and of the name list or name. Each lies within
    /// the one before.
    message: u32,
    extensions: u32,
    extension: u32,
    names: u32,
    name: u32,
    extension_type: u32,
    name_type: u32,
    /// The name is complete.
    is_named: bool,
    has_encrypted: bool,
}

impl ClientHello {
    pub(super) const fn new() -> Self {
        Self {
            begun: false,
            field: Field::Type,
            number: 0,
            filled: 0,
            skip: 0,
            message: 0,
            extensions: 0,
            extension: 0,
            names: 0,
            name: 0,
            extension_type: 0,
            name_type: 0,
            is_named: false,
            has_encrypted: false,
        }
    }

    /// Whether the name is complete; the rest of the message may not be.
    pub(super) const fn is_named(&self) -> bool {
        self.is_named
    }

    /// Whether an encrypted `ClientHello`, or what looks like one, has been seen in it.
    pub(super) const fn has_encrypted(&self) -> bool {
        self.has_encrypted
    }

    /// What is known if nothing more can be read, and why.
    pub(super) const fn without_more(&self, reason: HostSource) -> Outcome {
        if self.is_named {
            Outcome::Host(HostSource::Tls)
        } else {
            Outcome::None(reason)
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8], name: &mut HostName) -> Outcome {
        match self.read_on(bytes, name) {
            // With a name it does not matter what is wrong behind it.
            Outcome::None(reason) => self.without_more(reason),
            outcome => outcome,
        }
    }

    fn read_on(&mut self, mut bytes: &[u8], name: &mut HostName) -> Outcome {
        self.begun = true;
        loop {
            if self.skip > 0 {
                let take = bytes.len().min(self.skip as usize);
                bytes = bytes.get(take..).unwrap_or_default();
                self.skip = self
                    .skip
                    .saturating_sub(u32::try_from(take).unwrap_or(u32::MAX));
                if self.skip > 0 {
                    return Outcome::NeedMore;
                }
                if let Err(outcome) = self.settle() {
                    return outcome;
                }
                continue;
            }
            let Some((&byte, rest)) = bytes.split_first() else {
                return Outcome::NeedMore;
            };
            bytes = rest;
            let step = if self.field == Field::Name {
                self.name_byte(byte, name)
            } else {
                self.number_byte(byte, name)
            };
            if let Err(outcome) = step {
                return outcome;
            }
        }
    }

    fn name_byte(&mut self, byte: u8, name: &mut HostName) -> Result<(), Outcome> {
        if !name.push(byte) {
            return Err(MALFORMED);
        }
        self.name -= 1;
        if self.name > 0 {
            return Ok(());
        }
        if !name.finish() {
            return Err(MALFORMED);
        }
        self.is_named = true;
        if self.has_encrypted {
            return Err(Outcome::Host(HostSource::Tls));
        }
        self.skip = self.names;
        self.field = Field::ExtensionType;
        self.settle()
    }

    fn number_byte(&mut self, byte: u8, name: &mut HostName) -> Result<(), Outcome> {
        self.number = (self.number << 8) | u32::from(byte);
        self.filled += 1;
        if self.filled < self.field.width() {
            return Ok(());
        }
        let number = self.number;
        self.number = 0;
        self.filled = 0;
        self.read(number, name)
    }

    /// A number is complete: what it means.
    fn read(&mut self, number: u32, name: &mut HostName) -> Result<(), Outcome> {
        match self.field {
            Field::Type if number == CLIENT_HELLO => self.field = Field::Length,
            Field::Type => return Err(Outcome::None(HostSource::NotRecognized)),
            Field::Length if number > MAX_STREAM => return Err(Outcome::None(HostSource::TooLong)),
            Field::Length => {
                self.message = number;
                self.pass(FIXED, Field::SessionIdLength)?;
            }
            Field::SessionIdLength => self.vector(1, number, 0..=32, Field::CipherSuitesLength)?,
            Field::CipherSuitesLength => {
                self.vector(2, number, 2..=0xFFFE, Field::CompressionLength)?;
            }
            Field::CompressionLength => {
                self.vector(1, number, 1..=0xFF, Field::ExtensionsLength)?;
            }
            Field::ExtensionsLength => {
                take(&mut self.message, 2)?;
                self.extensions = number;
                if number > self.message {
                    return Err(MALFORMED);
                }
                self.field = Field::ExtensionType;
                self.settle()?;
            }
            Field::ExtensionType => {
                take(&mut self.extensions, 2)?;
                self.extension_type = number;
                self.field = Field::ExtensionLength;
            }
            Field::ExtensionLength => {
                take(&mut self.extensions, 2)?;
                take(&mut self.extensions, number)?;
                if self.extension_type == ENCRYPTED_CLIENT_HELLO {
                    self.has_encrypted = true;
                    if self.is_named {
                        return Err(Outcome::Host(HostSource::Tls));
                    }
                }
                if self.extension_type == SERVER_NAME && !self.is_named {
                    self.extension = number;
                    self.field = Field::NameListLength;
                } else {
                    self.skip = number;
                    self.field = Field::ExtensionType;
                }
                self.settle()?;
            }
            Field::NameListLength => {
                take(&mut self.extension, 2)?;
                if number != self.extension {
                    return Err(MALFORMED);
                }
                self.names = number;
                self.field = Field::NameType;
                self.settle()?;
            }
            Field::NameType => {
                take(&mut self.names, 1)?;
                self.name_type = number;
                self.field = Field::NameLength;
            }
            Field::NameLength => {
                take(&mut self.names, 2)?;
                take(&mut self.names, number)?;
                if self.name_type != HOST_NAME {
                    self.skip = number;
                    self.field = Field::NameType;
                    self.settle()?;
                } else if number == 0 {
                    return Err(MALFORMED);
                } else {
                    name.clear();
                    self.name = number;
                    self.field = Field::Name;
                }
            }
            Field::Name => {}
        }
        Ok(())
    }

    /// A vector of `length` bytes after its length of `width`: passes over it.
    fn vector(
        &mut self,
        width: u32,
        length: u32,
        allowed: core::ops::RangeInclusive<u32>,
        next: Field,
    ) -> Result<(), Outcome> {
        take(&mut self.message, width)?;
        if !allowed.contains(&length) {
            return Err(MALFORMED);
        }
        self.pass(length, next)
    }

    fn pass(&mut self, length: u32, next: Field) -> Result<(), Outcome> {
        take(&mut self.message, length)?;
        self.skip = length;
        self.field = next;
        self.settle()
    }

    /// Called where a field begins: tells whether it can be there at all.
    const fn settle(&self) -> Result<(), Outcome> {
        if self.skip > 0 {
            return Ok(());
        }
        let ended = match self.field {
            // Before TLS 1.3 the extensions may be left out altogether.
            Field::ExtensionsLength => self.message == 0,
            Field::ExtensionType => self.extensions == 0,
            Field::NameListLength => self.extension == 0,
            Field::NameType => self.names == 0,
            _ => false,
        };
        if ended {
            Err(Outcome::None(HostSource::Absent))
        } else {
            Ok(())
        }
    }
}

const MALFORMED: Outcome = Outcome::None(HostSource::Malformed);

/// Takes `count` from what is left; more than that is a length that lies.
const fn take(left: &mut u32, count: u32) -> Result<(), Outcome> {
    match left.checked_sub(count) {
        Some(rest) => {
            *left = rest;
            Ok(())
        }
        None => Err(MALFORMED),
    }
}
