//! What edits one direction of a stream.

use super::header::{HeaderEditor, Headers};
use super::replace::Replacements;
use super::window::{Insert, Step, WINDOW, Window};
use crate::flow::Transfer;
use crate::policy::{PolicyView, RuleIndex};
use portcullis_proto::effect::{EffectKind, EffectSet};

/// What a rule changes in one direction of a stream.
#[derive(Clone, Copy)]
pub struct Edits<'p> {
    headers: Option<Headers<'p>>,
    replacements: Option<Replacements<'p>>,
}

impl<'p> Edits<'p> {
    /// No change.
    pub const NONE: Self = Self {
        headers: None,
        replacements: None,
    };

    /// The kinds of effects that change streams.
    pub const KINDS: EffectSet = EffectSet::of(&[EffectKind::Replace, EffectKind::Header]);

    /// What `rule`, whose effects are of `kinds`, changes in the direction `transfer`.
    #[must_use]
    pub fn new(
        policy: PolicyView<'p>,
        rule: RuleIndex,
        kinds: EffectSet,
        transfer: Transfer,
        is_initiators: bool,
    ) -> Self {
        let headers = kinds.contains(EffectKind::Header) && is_initiators;
        let replacements = kinds
            .contains(EffectKind::Replace)
            .then(|| Replacements::new(&policy, rule, transfer))
            .filter(|replacements| !replacements.is_empty());
        Self {
            headers: headers.then(|| Headers::new(&policy, rule)),
            replacements,
        }
    }

    /// The same, of the policy of this epoch: so that a head is not begun by one rule and ended by another.
    #[must_use]
    pub const fn in_epoch(mut self, epoch: u64) -> Self {
        if let Some(headers) = &mut self.headers {
            headers.set_epoch(epoch);
        }
        self
    }

    /// Whether nothing is changed.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.headers.is_none() && self.replacements.is_none()
    }

    /// Whether headers are changed and literals are replaced: the one after the other, which needs memory between them.
    pub(super) const fn are_two(&self) -> bool {
        self.headers.is_some() && self.replacements.is_some()
    }
}

/// Bytes that wait until more is known.
#[derive(Clone, Copy, Debug)]
struct Rest {
    bytes: [u8; WINDOW],
    length: usize,
}

impl Rest {
    const fn new() -> Self {
        Self {
            bytes: [0; WINDOW],
            length: 0,
        }
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Keeps the bytes of `window`, of which there are at most [`WINDOW`].
    fn keep(window: &Window<'_>) -> Self {
        let mut kept = Self::new();
        for piece in window.pieces() {
            let end = kept.length + piece.len();
            if let Some(to) = kept.bytes.get_mut(kept.length..end) {
                to.copy_from_slice(piece);
                kept.length = end;
            }
        }
        kept
    }
}

/// Why bytes did not go on; they are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck;

/// The state of the edits of one direction of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Editor {
    header: HeaderEditor,
    /// Before the headers are changed, and before literals are replaced.
    rests: [Rest; 2],
}

impl Default for Editor {
    fn default() -> Self {
        Self::new()
    }
}

impl Editor {
    /// At the beginning of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            header: HeaderEditor::new(),
            rests: [Rest::new(); 2],
        }
    }

    /// Whether bytes wait for those that follow.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.rests.iter().any(|rest| rest.length > 0)
    }

    /// It is not known where in the stream's messages it is, or not any more: no header is edited from now on.
    pub(super) const fn lose_track(&mut self) {
        self.header = HeaderEditor::over();
    }

    /// The value of a header that was taken out goes to its end, whatever rule follows: what ends it, if it goes on with this byte.
    fn unfinished<'p>(&self, first: Option<u8>) -> Option<Headers<'p>> {
        let is_removing = first.is_some_and(|first| self.header.is_removing(first));
        is_removing.then(Headers::none)
    }

    /// Whether what comes next may be in the value of a header that was taken out.
    pub(super) const fn is_removing(&self) -> bool {
        self.header.is_removing(b' ')
    }

    /// What becomes of the bytes of `window`, with one kind of edits, and what the editor is then.
    pub(super) fn look<'p>(
        &self,
        edits: &Edits<'p>,
        window: &Window<'_>,
        last: bool,
    ) -> (Step<'p>, HeaderEditor) {
        let mut header = self.header;
        let headers = edits.headers.or_else(|| self.unfinished(window.at(0)));
        let step = match (&headers, &edits.replacements) {
            (Some(headers), _) => return (header.step(headers, window, last), header),
            (None, Some(replacements)) => replacements.step(window, last),
            (None, None) if window.len() == 0 => Step::More,
            (None, None) => Step::Keep(window.len()),
        };
        (step, HeaderEditor::over())
    }

    pub(super) const fn go_on(&mut self, header: HeaderEditor) {
        self.header = header;
    }

    /// Edits bytes that follow those before: `out` gets what is to come of them, in order. How many changes there were.
    /// With `last` nothing is waited for any more.
    ///
    /// # Errors
    /// [`Stuck`] from `out`.
    pub fn push(
        &mut self,
        edits: &Edits<'_>,
        bytes: &[u8],
        last: bool,
        out: &mut dyn FnMut(&[u8]) -> Result<(), Stuck>,
    ) -> Result<u64, Stuck> {
        let headers = edits
            .headers
            .or_else(|| self.unfinished(self.rests[0].get().iter().chain(bytes).next().copied()));
        let Self {
            header,
            rests: [first, second],
        } = self;
        let mut changes = 0;
        let mut replace = |bytes: &[u8], last: bool, changes: &mut u64| {
            if let Some(replacements) = &edits.replacements {
                return Self::run(
                    second,
                    bytes,
                    last,
                    changes,
                    &mut |window, last| replacements.step(window, last),
                    out,
                );
            }
            // What waited when the policy changed.
            let waited = core::mem::replace(second, Rest::new());
            pass(waited.get(), out)?;
            pass(bytes, out)
        };
        if let Some(headers) = &headers {
            let mut inner = 0;
            Self::run(
                first,
                bytes,
                last,
                &mut changes,
                &mut |window, last| header.step(headers, window, last),
                &mut |bytes| replace(bytes, false, &mut inner),
            )?;
            if last {
                replace(&[], true, &mut inner)?;
            }
            changes += inner;
        } else {
            let waited = core::mem::replace(first, Rest::new());
            if !bytes.is_empty() || !waited.get().is_empty() {
                // They pass unseen.
                *header = HeaderEditor::over();
            }
            if !waited.get().is_empty() {
                replace(waited.get(), false, &mut changes)?;
            }
            replace(bytes, last, &mut changes)?;
        }
        Ok(changes)
    }

    /// Whether [`push`](Self::push) would let these bytes through as they are, and wait for nothing.
    #[must_use]
    pub fn leaves<'b>(
        &self,
        edits: &Edits<'_>,
        pieces: impl IntoIterator<Item = &'b [u8]>,
    ) -> bool {
        let mut dry = *self;
        if dry.is_waiting() {
            return false;
        }
        for piece in pieces {
            if dry.push(edits, piece, false, &mut |_| Ok(())) != Ok(0) {
                return false;
            }
        }
        !dry.is_waiting()
    }

    fn run<'p>(
        rest: &mut Rest,
        bytes: &[u8],
        last: bool,
        changes: &mut u64,
        step: &mut dyn FnMut(&Window<'_>, bool) -> Step<'p>,
        out: &mut dyn FnMut(&[u8]) -> Result<(), Stuck>,
    ) -> Result<(), Stuck> {
        let before = *rest;
        let mut window = Window::new(before.get(), bytes);
        // Each step takes bytes, or puts one header in.
        while window.len() > 0 {
            match step(&window, last) {
                Step::Keep(count) => {
                    pass_first(&window, count, out)?;
                    window = window.from(count);
                }
                Step::Replace(count, insert) => {
                    put(insert, out)?;
                    *changes += 1;
                    window = window.from(count);
                }
                Step::Insert(insert) => {
                    put(insert, out)?;
                    *changes += 1;
                }
                Step::More => break,
            }
        }
        *rest = Rest::keep(&window);
        Ok(())
    }
}

fn pass(bytes: &[u8], out: &mut dyn FnMut(&[u8]) -> Result<(), Stuck>) -> Result<(), Stuck> {
    if bytes.is_empty() { Ok(()) } else { out(bytes) }
}

/// Lets the first `count` bytes of a window out.
fn pass_first(
    window: &Window<'_>,
    count: usize,
    out: &mut dyn FnMut(&[u8]) -> Result<(), Stuck>,
) -> Result<(), Stuck> {
    let mut left = count;
    for piece in window.pieces() {
        let here = piece.get(..left).unwrap_or(piece);
        left -= here.len();
        pass(here, out)?;
    }
    Ok(())
}

fn put(insert: Insert<'_>, out: &mut dyn FnMut(&[u8]) -> Result<(), Stuck>) -> Result<(), Stuck> {
    for piece in insert.pieces() {
        out(piece)?;
    }
    Ok(())
}
