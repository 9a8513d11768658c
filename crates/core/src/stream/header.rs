//! Replacing, adding and taking out headers of HTTP/1 requests (RFC 9112).
//!
//! Only heads of requests are changed. Bodies are passed over by their length or chunk by chunk, so that what looks like
//! a head in a body is none; requests may follow each other without waiting. From the first thing on that is not HTTP/1
//! (another protocol, a tunnel, a body whose length is not clear) everything stays as it is. The headers by which a
//! body's length is known are never changed.

use super::window::{Insert, Step, Window};
use crate::policy::{Effect, Effects, PolicyView, RuleIndex};

/// Longest method.
const MAX_METHOD: u8 = 32;
/// Longest name of a header that is looked at, with its colon.
const MAX_NAME: usize = portcullis_proto::effect::MAX_EFFECT_TEXT + 1;
/// What a request line's version begins with.
const VERSION: &[u8] = b"HTTP/1.";
const CONTENT_LENGTH: &[u8] = b"content-length";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";
const CHUNKED: &[u8] = b"chunked";

/// The headers that a rule changes.
#[derive(Clone, Copy)]
pub(super) struct Headers<'p> {
    effects: Effects<'p>,
    by: Rule,
}

/// A rule of the policy of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    epoch: u64,
    rule: RuleIndex,
}

impl<'p> Headers<'p> {
    pub(super) fn new(policy: &PolicyView<'p>, rule: RuleIndex) -> Self {
        Self {
            effects: policy.effects_of(Some(rule)),
            by: Rule { epoch: 0, rule },
        }
    }

    /// No header: what ends what another rule has begun.
    pub(super) const fn none() -> Self {
        Self {
            effects: Effects::NONE,
            by: Rule {
                epoch: 0,
                rule: RuleIndex(u32::MAX),
            },
        }
    }

    pub(super) const fn set_epoch(&mut self, epoch: u64) {
        self.by.epoch = epoch;
    }

    /// Name, value (`None`: taken out) and a bit of its own for each.
    fn each(&self) -> impl Iterator<Item = (&'p [u8], Option<&'p [u8]>, u64)> + use<'p> {
        self.effects
            .each()
            .filter_map(|effect| match effect {
                Effect::Header { name, value } if !is_framing(name) => Some((name, value)),
                _ => None,
            })
            .zip(0..u64::BITS)
            .map(|((name, value), bit)| (name, value, 1 << bit))
    }
}

/// A bit for a header's name, in any case: two names may have the same.
fn name_bit(name: impl Iterator<Item = u8>) -> u64 {
    // FNV-1a.
    let hash = name.fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
    });
    1 << (hash >> 26)
}

const fn is_framing(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(CONTENT_LENGTH) || name.eq_ignore_ascii_case(TRANSFER_ENCODING)
}

/// A header whose value is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Other,
    Length {
        value: u64,
        state: Digits,
    },
    /// How much of `chunked` the last coding is.
    Encoding {
        matched: u8,
        state: Token,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digits {
    Before,
    Within,
    After,
    Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Before,
    Within,
    After,
    Other,
}

impl Field {
    fn of(name: &Window<'_>, length: usize) -> Self {
        let is = |wanted: &[u8]| {
            length == wanted.len()
                && wanted.iter().enumerate().all(|(at, byte)| {
                    name.at(at)
                        .is_some_and(|there| there.eq_ignore_ascii_case(byte))
                })
        };
        if is(CONTENT_LENGTH) {
            Self::Length {
                value: 0,
                state: Digits::Before,
            }
        } else if is(TRANSFER_ENCODING) {
            Self::Encoding {
                matched: 0,
                state: Token::Before,
            }
        } else {
            Self::Other
        }
    }

    fn push(&mut self, byte: u8) {
        let is_space = matches!(byte, b' ' | b'\t' | b'\r');
        match self {
            Self::Other => {}
            Self::Length { value, state } => {
                *state = match (*state, byte) {
                    (Digits::Before, _) if is_space => Digits::Before,
                    (Digits::Within | Digits::After, _) if is_space => Digits::After,
                    (Digits::Before | Digits::Within, b'0'..=b'9') => {
                        let digit = u64::from(byte - b'0');
                        let next = value.checked_mul(10).and_then(|ten| ten.checked_add(digit));
                        *value = next.unwrap_or(0);
                        next.map_or(Digits::Wrong, |_| Digits::Within)
                    }
                    _ => Digits::Wrong,
                };
            }
            Self::Encoding { matched, state } => {
                let wanted = CHUNKED.get(usize::from(*matched)).copied();
                let fits = wanted.is_some_and(|wanted| byte.eq_ignore_ascii_case(&wanted));
                *state = match (*state, byte) {
                    (_, b',') => {
                        *matched = 0;
                        Token::Before
                    }
                    (Token::Before, _) if is_space => Token::Before,
                    (Token::Within | Token::After, _) if is_space => Token::After,
                    (Token::Before | Token::Within, _) if fits => {
                        *matched += 1;
                        Token::Within
                    }
                    _ => Token::Other,
                };
            }
        }
    }
}

/// How the body's length is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    /// It is not.
    is_unclear: bool,
}

impl Framing {
    fn take(&mut self, field: Field) {
        match field {
            Field::Other => {}
            Field::Length { value, state } => {
                let is_wrong = matches!(state, Digits::Before | Digits::Wrong);
                self.is_unclear |= is_wrong || self.length.is_some_and(|length| length != value);
                self.length = Some(value);
            }
            Field::Encoding { matched, state } => {
                let is_whole = usize::from(matched) == CHUNKED.len();
                self.chunked = is_whole && matches!(state, Token::Within | Token::After);
                self.is_unclear |= !self.chunked;
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before a request; line ends may come first.
    Start,
    /// In its method, of so many bytes.
    Method(u8),
    Target {
        is_empty: bool,
    },
    /// In its version, behind so many bytes.
    Version(u8),
    /// Where a header's line begins, or one that continues the line before.
    Line {
        before: Field,
        is_removed: bool,
    },
    /// In a header's value.
    Value {
        field: Field,
        is_removed: bool,
    },
    Body(u64),
    ChunkSize {
        size: u64,
        digits: u8,
    },
    ChunkExtension(u64),
    Chunk(u64),
    ChunkEnd,
    /// In a line of the trailer, of so many bytes but its end, up to 1.
    Trailer(u8),
    /// What follows is no request.
    Foreign,
}

/// What reads and changes the requests of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeaderEditor {
    at: At,
    /// By which rule it was changed last.
    by: Option<Rule>,
    /// The headers that this rule has put into this head, by their bits.
    done: u64,
    /// The rule came into force within this head.
    is_late: bool,
    /// The headers of this head, by the bits of [`name_bit`].
    seen: u64,
    /// Some were put before the end of the head.
    has_added: bool,
    framing: Framing,
    /// The method is `CONNECT`, as far as it has been seen.
    is_connect: bool,
}

impl HeaderEditor {
    pub(super) const fn new() -> Self {
        Self {
            at: At::Start,
            by: None,
            done: 0,
            is_late: false,
            seen: 0,
            has_added: false,
            framing: Framing {
                length: None,
                chunked: false,
                is_unclear: false,
            },
            is_connect: false,
        }
    }

    /// Where it is not known what follows.
    pub(super) const fn over() -> Self {
        Self {
            at: At::Foreign,
            ..Self::new()
        }
    }

    /// What becomes of the bytes of `window`; `last`: nothing comes after them.
    pub(super) fn step<'p>(
        &mut self,
        headers: &Headers<'p>,
        window: &Window<'_>,
        last: bool,
    ) -> Step<'p> {
        if self.by != Some(headers.by) {
            self.is_late |= self.by.is_some() && self.is_in_head();
            (self.by, self.done) = (Some(headers.by), 0);
        }
        let mut at = 0;
        while at < window.len() {
            let rest = window.from(at);
            let step = match self.at {
                At::Line { before, is_removed } => {
                    let mut next = *self;
                    let step = next.line(headers, &rest, last, (before, is_removed));
                    if at == 0 || matches!(step, Step::Keep(_)) {
                        *self = next;
                    }
                    step
                }
                At::Value {
                    field,
                    is_removed: true,
                } if at == 0 => Step::Replace(self.value(&rest, field, true), Insert::NONE),
                At::Value {
                    is_removed: true, ..
                } => return Step::Keep(at),
                At::Value { field, .. } => Step::Keep(self.value(&rest, field, false)),
                At::Body(left) => Step::Keep(self.skip(&rest, left, At::Start, At::Body)),
                At::Chunk(left) => Step::Keep(self.skip(&rest, left, At::ChunkEnd, At::Chunk)),
                At::Foreign => Step::Keep(rest.len()),
                _ => {
                    self.byte(rest.at(0).unwrap_or(0));
                    Step::Keep(1)
                }
            };
            match step {
                Step::Keep(count) => at += count.max(1),
                Step::More if at == 0 && last => {
                    // The stream ends in a name.
                    self.at = At::Foreign;
                    return Step::Keep(window.len());
                }
                step if at == 0 => return step,
                _ => return Step::Keep(at),
            }
        }
        match at {
            0 => Step::More,
            all => Step::Keep(all.min(window.len())),
        }
    }

    /// Whether bytes that begin with this one are in the value of a header that was taken out.
    pub(super) const fn is_removing(&self, first: u8) -> bool {
        match self.at {
            At::Value { is_removed, .. } => is_removed,
            At::Line { is_removed, .. } => is_removed && matches!(first, b' ' | b'\t'),
            _ => false,
        }
    }

    const fn is_in_head(&self) -> bool {
        matches!(
            self.at,
            At::Method(_) | At::Target { .. } | At::Version(_) | At::Line { .. } | At::Value { .. }
        )
    }

    /// Passes over what is left of a body or chunk.
    fn skip(&mut self, rest: &Window<'_>, left: u64, then: At, still: fn(u64) -> At) -> usize {
        let here = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        self.at = match left - here as u64 {
            0 => then,
            left => still(left),
        };
        here
    }

    /// Reads a header's value up to the end of its line; how many bytes that is.
    fn value(&mut self, rest: &Window<'_>, mut field: Field, is_removed: bool) -> usize {
        let end = rest.find(b'\n');
        let length = end.map_or(rest.len(), |end| end + 1);
        if field != Field::Other {
            for at in 0..end.unwrap_or(length) {
                field.push(rest.at(at).unwrap_or(0));
            }
        }
        self.at = if end.is_some() {
            At::Line {
                before: field,
                is_removed,
            }
        } else {
            At::Value { field, is_removed }
        };
        length
    }

    /// Decides at the beginning of a line of the head.
    fn line<'p>(
        &mut self,
        headers: &Headers<'p>,
        rest: &Window<'_>,
        last: bool,
        (before, was_removed): (Field, bool),
    ) -> Step<'p> {
        let blank = match (rest.at(0), rest.at(1)) {
            (Some(b' ' | b'\t'), _) => {
                self.at = At::Value {
                    field: before,
                    is_removed: was_removed,
                };
                let length = self.value(rest, before, was_removed);
                return if was_removed {
                    Step::Replace(length, Insert::NONE)
                } else {
                    Step::Keep(length)
                };
            }
            (Some(b'\n'), _) => Some(1),
            (Some(b'\r'), Some(b'\n')) => Some(2),
            (Some(b'\r'), None) if !last => return Step::More,
            _ => None,
        };
        if let Some(blank) = blank {
            return self.end_of_head(headers, blank, before);
        }
        let colon = rest.find(b':').filter(|&colon| colon < MAX_NAME);
        let end = rest.find(b'\n').filter(|&end| end < MAX_NAME);
        let name = match (colon, end) {
            (Some(colon), end) if end.is_none_or(|end| colon < end) => Some(colon),
            (_, Some(_)) => None,
            _ if rest.len() < MAX_NAME && !last => return Step::More,
            _ => None,
        };
        self.framing.take(before);
        let Some(name) = name else {
            self.at = At::Value {
                field: Field::Other,
                is_removed: false,
            };
            // Its end, if it is there, is found as any value's.
            return Step::Keep(self.value(rest, Field::Other, false));
        };
        let is_named = |wanted: &[u8]| {
            wanted.len() == name
                && wanted.iter().enumerate().all(|(at, byte)| {
                    rest.at(at)
                        .is_some_and(|there| there.eq_ignore_ascii_case(byte))
                })
        };
        self.seen |= name_bit((0..name).filter_map(|at| rest.at(at)));
        let found = headers.each().find(|(wanted, ..)| is_named(wanted));
        self.at = At::Value {
            field: Field::of(rest, name),
            is_removed: found.is_some(),
        };
        match found {
            None => Step::Keep(name + 1),
            Some((wanted, Some(value), bit)) if self.done & bit == 0 => {
                self.done |= bit;
                Step::Replace(name + 1, Insert::line(wanted, value))
            }
            Some(_) => Step::Replace(name + 1, Insert::NONE),
        }
    }

    /// Puts in what is still missing, before the empty line that ends the head.
    fn end_of_head<'p>(&mut self, headers: &Headers<'p>, blank: usize, before: Field) -> Step<'p> {
        let is_missing = |name: &[u8], bit: u64| {
            // Another rule may have put it in, or let it pass.
            let may_be_there = self.is_late && self.seen & name_bit(name.iter().copied()) != 0;
            self.done & bit == 0 && !may_be_there
        };
        let missing = headers
            .each()
            .find_map(|(name, value, bit)| is_missing(name, bit).then_some((name, value?, bit)));
        if let Some((name, value, bit)) = missing {
            self.done |= bit;
            self.seen |= name_bit(name.iter().copied());
            self.has_added = true;
            return Step::Insert(Insert::line(name, value));
        }
        self.framing.take(before);
        let framing = self.framing;
        let at = if self.is_connect || framing.is_unclear {
            At::Foreign
        } else if framing.chunked {
            At::ChunkSize { size: 0, digits: 0 }
        } else {
            match framing.length {
                Some(length @ 1..) => At::Body(length),
                _ => At::Start,
            }
        };
        let has_added = self.has_added;
        *self = Self {
            at,
            by: self.by,
            ..Self::new()
        };
        if has_added {
            // An injection takes the place of bytes that are blocked.
            Step::Replace(blank, Insert::bytes(b"\r\n"))
        } else {
            Step::Keep(blank)
        }
    }

    /// Takes a byte where nothing can change.
    fn byte(&mut self, byte: u8) {
        self.at = match (self.at, byte) {
            (At::Start, b'\r' | b'\n') | (At::Trailer(0), b'\n') => At::Start,
            (At::Start, _) if is_token(byte) => {
                self.is_connect = byte == b'C';
                At::Method(1)
            }
            (At::Method(length), b' ') => {
                self.is_connect &= length == 7;
                At::Target { is_empty: true }
            }
            (At::Method(length), _) if is_token(byte) && length < MAX_METHOD => {
                let wanted = b"CONNECT".get(usize::from(length));
                self.is_connect &= wanted == Some(&byte);
                At::Method(length + 1)
            }
            (At::Target { is_empty: false }, b' ') => At::Version(0),
            (At::Target { .. }, 0x21..) => At::Target { is_empty: false },
            (At::Version(at), _) => Self::version(at, byte),
            (At::ChunkSize { size, digits }, _) => Self::chunk_size(size, digits, byte),
            (At::ChunkExtension(size), b'\n') => Self::chunk(size),
            (At::ChunkExtension(size), _) => At::ChunkExtension(size),
            (At::ChunkEnd, b'\r') => At::ChunkEnd,
            (At::ChunkEnd, b'\n') => At::ChunkSize { size: 0, digits: 0 },
            (At::Trailer(_), b'\n') => At::Trailer(0),
            (At::Trailer(length), b'\r') => At::Trailer(length),
            (At::Trailer(_), _) => At::Trailer(1),
            _ => At::Foreign,
        };
    }

    fn version(at: u8, byte: u8) -> At {
        let digit = VERSION.len();
        match usize::from(at) {
            at if at < digit => {
                if VERSION.get(at) == Some(&byte) {
                    #[expect(clippy::cast_possible_truncation, reason = "less than ten")]
                    return At::Version(at as u8 + 1);
                }
                At::Foreign
            }
            at if at == digit && byte.is_ascii_digit() => At::Version(8),
            8 if byte == b'\r' => At::Version(9),
            8 | 9 if byte == b'\n' => At::Line {
                before: Field::Other,
                is_removed: false,
            },
            _ => At::Foreign,
        }
    }

    const fn chunk_size(size: u64, digits: u8, byte: u8) -> At {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\n' if digits > 0 => return Self::chunk(size),
            b'\r' | b' ' | b'\t' | b';' if digits > 0 => return At::ChunkExtension(size),
            _ => return At::Foreign,
        };
        if digits == 15 {
            return At::Foreign;
        }
        At::ChunkSize {
            size: size << 4 | digit as u64,
            digits: digits + 1,
        }
    }

    const fn chunk(size: u64) -> At {
        match size {
            0 => At::Trailer(0),
            size => At::Chunk(size),
        }
    }
}

/// Whether a method may have the byte.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}
