//! The name in the first question of a DNS query (RFC 1035, section 4.1).

use super::{HostName, Outcome};
use portcullis_proto::event::HostSource;

/// Bytes of the header.
const HEADER: u8 = 12;
/// QR and opcode, which are zero in a standard query.
const RESPONSE_OR_OPCODE: u8 = 0xF8;
/// Longest label.
const MAX_LABEL: u8 = 63;

#[derive(Clone, Copy, Debug)]
pub(super) struct DnsParser {
    field: Field,
    /// Bytes read of a header, or left of a label.
    count: u8,
    /// The upper byte of the number of questions.
    questions: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// The length before each message on TCP.
    Length,
    Header,
    LabelLength,
    Label,
    /// Type and class.
    Question,
}

impl DnsParser {
    /// A parser for a stream, where each message has its length in front.
    pub(super) const fn stream() -> Self {
        Self {
            field: Field::Length,
            count: 0,
            questions: 0,
        }
    }

    const fn datagram() -> Self {
        Self {
            field: Field::Header,
            count: 0,
            questions: 0,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8], name: &mut HostName) -> Outcome {
        for &byte in bytes {
            if let Err(outcome) = self.byte(byte, name) {
                return outcome;
            }
        }
        Outcome::NeedMore
    }

    fn byte(&mut self, byte: u8, name: &mut HostName) -> Result<(), Outcome> {
        match self.field {
            Field::Length => {
                self.count += 1;
                if self.count == 2 {
                    self.enter(Field::Header);
                }
            }
            Field::Header => {
                match self.count {
                    2 if byte & RESPONSE_OR_OPCODE != 0 => {
                        return Err(Outcome::None(HostSource::NotRecognized));
                    }
                    4 => self.questions = byte,
                    5 if (self.questions, byte) == (0, 0) => {
                        return Err(Outcome::None(HostSource::Absent));
                    }
                    _ => {}
                }
                self.count += 1;
                if self.count == HEADER {
                    self.enter(Field::LabelLength);
                    name.clear();
                }
            }
            Field::LabelLength if byte == 0 => self.enter(Field::Question),
            // A pointer can't stand in the first name of a message: there is nothing before it to point to.
            Field::LabelLength if byte > MAX_LABEL => return Err(MALFORMED),
            Field::LabelLength => {
                if !name.is_empty() && !name.push(b'.') {
                    return Err(MALFORMED);
                }
                self.field = Field::Label;
                self.count = byte;
            }
            Field::Label => {
                // A byte that no host name has, a dot within a label included, is shown as `?`, which no pattern
                // matches.
                let shown = if byte.is_ascii_graphic() && byte != b'.' {
                    byte
                } else {
                    b'?'
                };
                if !name.push(shown) {
                    return Err(MALFORMED);
                }
                self.count -= 1;
                if self.count == 0 {
                    self.field = Field::LabelLength;
                }
            }
            Field::Question => {
                self.count += 1;
                if self.count == 4 {
                    return Err(finish(name));
                }
            }
        }
        Ok(())
    }

    const fn enter(&mut self, field: Field) {
        self.field = field;
        self.count = 0;
    }
}

const MALFORMED: Outcome = Outcome::None(HostSource::Malformed);

fn finish(name: &mut HostName) -> Outcome {
    if name.is_empty() {
        // A question about the root.
        Outcome::None(HostSource::Absent)
    } else if name.finish() {
        Outcome::Host(HostSource::Dns)
    } else {
        MALFORMED
    }
}

/// The first question of a query in a datagram, given in pieces. Its name goes to `name`.
///
/// The outcome is never [`Outcome::NeedMore`]: a datagram that ends early is malformed.
pub fn question<'d>(datagram: impl IntoIterator<Item = &'d [u8]>, name: &mut HostName) -> Outcome {
    let mut parser = DnsParser::datagram();
    for piece in datagram {
        match parser.push(piece, name) {
            Outcome::NeedMore => {}
            known => return known,
        }
    }
    MALFORMED
}
