//! The host of the first HTTP/1 request.
//!
//! RFC 9112: the request line (section 3), the forms of its target (3.2), header fields and their folding (5). A host
//! in the target (`http://host/…`, or the `host:port` of CONNECT) goes before the Host field, as section 3.2.2 has it.
//! The first Host field counts.

use super::{HostName, Outcome};
use portcullis_proto::event::HostSource;

const VERSION: &[u8] = b"HTTP/1.";
const SCHEME: &[u8] = b"://";
const HOST: &[u8] = b"host";
const CONNECT: &[u8] = b"CONNECT";
/// Longest method looked at; the longest registered one has 17 letters.
const MAX_METHOD: u8 = 24;
/// Longest scheme before `://`.
const MAX_SCHEME: u8 = 16;

#[derive(Clone, Copy, Debug)]
pub(super) struct HttpParser {
    state: State,
    /// Place within what the state spells.
    at: u8,
    /// Whether the method can still be CONNECT.
    connect: bool,
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Empty lines before the request.
    Before,
    Method,
    BeforeTarget,
    /// The target's first bytes: a scheme, or a path.
    Scheme,
    /// `://`.
    SchemeEnd,
    /// The target's host.
    Authority,
    /// What is left of the target.
    Target,
    Version,
    /// What is left of the request line.
    RequestEnd,
    LineStart,
    FieldName,
    /// What is left of a field's line that isn't Host.
    FieldSkip,
    /// The Host field's value.
    HostValue,
    /// After the end of the Host field's line: a fold continues it.
    HostLineEnd,
}

/// Where in `host:port` a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Empty,
    Name,
    /// An IPv6 address in brackets.
    Literal,
    /// After the name: the port, or white space.
    Rest,
}

type Step = Result<(), Outcome>;

const NOT_HTTP: Outcome = Outcome::None(HostSource::NotRecognized);
const MALFORMED: Outcome = Outcome::None(HostSource::Malformed);

impl HttpParser {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Before,
            at: 0,
            connect: true,
            value: Value::Empty,
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

    fn byte(&mut self, byte: u8, name: &mut HostName) -> Step {
        match self.state {
            State::Before if matches!(byte, b'\r' | b'\n') => Ok(()),
            State::Before => {
                self.state = State::Method;
                self.method(byte)
            }
            State::Method => self.method(byte),
            State::BeforeTarget if byte == b' ' => Ok(()),
            State::BeforeTarget => {
                self.enter(if self.connect {
                    State::Authority
                } else {
                    State::Scheme
                });
                if self.connect {
                    self.authority(byte, name)
                } else {
                    self.scheme(byte)
                }
            }
            State::Scheme => self.scheme(byte),
            State::SchemeEnd => self.scheme_end(byte),
            State::Authority => self.authority(byte, name),
            State::Target => self.target(byte),
            State::Version => self.version(byte),
            State::RequestEnd => {
                if byte == b'\n' {
                    // CONNECT's target, or an absolute one, has named the host.
                    if !name.is_empty() {
                        return Err(finish(name));
                    }
                    self.enter(State::LineStart);
                }
                Ok(())
            }
            State::LineStart => self.line_start(byte),
            State::FieldName => {
                self.field_name(byte, name);
                Ok(())
            }
            State::FieldSkip => {
                if byte == b'\n' {
                    self.enter(State::LineStart);
                }
                Ok(())
            }
            State::HostValue if byte == b'\n' => {
                self.enter(State::HostLineEnd);
                Ok(())
            }
            State::HostValue => self.value(byte, name),
            State::HostLineEnd if matches!(byte, b' ' | b'\t') => {
                self.enter(State::HostValue);
                self.value(byte, name)
            }
            State::HostLineEnd => Err(finish(name)),
        }
    }

    const fn enter(&mut self, state: State) {
        self.state = state;
        self.at = 0;
    }

    fn method(&mut self, byte: u8) -> Step {
        match byte {
            b'A'..=b'Z' | b'-' | b'_' if self.at < MAX_METHOD => {
                self.connect &= CONNECT.get(usize::from(self.at)) == Some(&byte);
                self.at += 1;
                Ok(())
            }
            b' ' if self.at > 0 => {
                self.connect &= usize::from(self.at) == CONNECT.len();
                self.enter(State::BeforeTarget);
                Ok(())
            }
            _ => Err(NOT_HTTP),
        }
    }

    const fn scheme(&mut self, byte: u8) -> Step {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'+' | b'-' | b'.'
                if self.at < MAX_SCHEME =>
            {
                self.at += 1;
                Ok(())
            }
            b':' if self.at > 0 => {
                self.enter(State::SchemeEnd);
                self.at = 1;
                Ok(())
            }
            _ => {
                self.enter(State::Target);
                self.target(byte)
            }
        }
    }

    fn scheme_end(&mut self, byte: u8) -> Step {
        if SCHEME.get(usize::from(self.at)) != Some(&byte) {
            self.enter(State::Target);
            return self.target(byte);
        }
        self.at += 1;
        if usize::from(self.at) == SCHEME.len() {
            self.enter(State::Authority);
            self.value = Value::Empty;
        }
        Ok(())
    }

    fn authority(&mut self, byte: u8, name: &mut HostName) -> Step {
        match byte {
            b'/' | b'?' | b'#' | b' ' | b'\t' | b'\r' | b'\n' => {
                self.enter(State::Target);
                self.target(byte)
            }
            // What came was a user, not the host.
            b'@' => {
                name.clear();
                self.value = Value::Empty;
                Ok(())
            }
            _ => self.value(byte, name),
        }
    }

    const fn target(&mut self, byte: u8) -> Step {
        match byte {
            b' ' | b'\t' => {
                self.enter(State::Version);
                Ok(())
            }
            // HTTP/0.9, or not HTTP.
            b'\r' | b'\n' => Err(NOT_HTTP),
            _ => Ok(()),
        }
    }

    fn version(&mut self, byte: u8) -> Step {
        if self.at == 0 && matches!(byte, b' ' | b'\t') {
            return Ok(());
        }
        if VERSION.get(usize::from(self.at)) != Some(&byte) {
            return Err(NOT_HTTP);
        }
        self.at += 1;
        if usize::from(self.at) == VERSION.len() {
            self.enter(State::RequestEnd);
        }
        Ok(())
    }

    fn line_start(&mut self, byte: u8) -> Step {
        match byte {
            b'\r' => Ok(()),
            b'\n' => Err(Outcome::None(HostSource::Absent)),
            // A fold of a field that isn't Host.
            b' ' | b'\t' => {
                self.enter(State::FieldSkip);
                Ok(())
            }
            _ => {
                self.enter(State::FieldName);
                self.spell_field(byte);
                Ok(())
            }
        }
    }

    fn field_name(&mut self, byte: u8, name: &mut HostName) {
        match byte {
            b':' if usize::from(self.at) == HOST.len() => {
                self.enter(State::HostValue);
                self.value = Value::Empty;
                name.clear();
            }
            // White space before the colon is forbidden, and some servers take it.
            b' ' | b'\t' if usize::from(self.at) == HOST.len() => {}
            b'\n' => self.enter(State::LineStart),
            _ => self.spell_field(byte),
        }
    }

    fn spell_field(&mut self, byte: u8) {
        if HOST.get(usize::from(self.at)) == Some(&byte.to_ascii_lowercase()) {
            self.at += 1;
        } else {
            self.enter(State::FieldSkip);
        }
    }

    /// A byte of `host:port`. An IPv6 address loses its brackets.
    fn value(&mut self, byte: u8, name: &mut HostName) -> Step {
        match (self.value, byte) {
            (Value::Empty, b' ' | b'\t' | b'\r') | (Value::Rest, _) => Ok(()),
            (Value::Empty, b'[') => {
                self.value = Value::Literal;
                Ok(())
            }
            (Value::Name, b' ' | b'\t' | b'\r' | b':') | (Value::Literal, b']') => {
                self.value = Value::Rest;
                Ok(())
            }
            (Value::Empty | Value::Name, _) => {
                self.value = Value::Name;
                if name.push(byte) {
                    Ok(())
                } else {
                    Err(MALFORMED)
                }
            }
            (Value::Literal, _) => {
                if name.push(byte) {
                    Ok(())
                } else {
                    Err(MALFORMED)
                }
            }
        }
    }
}

fn finish(name: &mut HostName) -> Outcome {
    if name.is_empty() {
        Outcome::None(HostSource::Absent)
    } else if name.finish() {
        Outcome::Host(HostSource::Http)
    } else {
        MALFORMED
    }
}
