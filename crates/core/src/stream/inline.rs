//! Editing in the classify.

use super::editor::{Editor, Edits};
use super::window::{Insert, Step, WINDOW, Window};

/// What is to be done with data in a classify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inline<'p> {
    /// Permit all of it.
    Permit,
    /// Permit this many of its first bytes, not 0; the others are indicated again.
    PermitFirst(u64),
    /// Inject this, then block this many of its first bytes, not 0; the others are indicated again.
    Replace(u64, Insert<'p>),
    /// Inject this, then ask again about the same data.
    Insert(Insert<'p>),
    /// Nothing can be said before more is seen: it has to go out of band.
    Wait,
}

/// Says what is to be done with the data in `pieces`, all of which has to be edited from the beginning.
///
/// `editor` is moved on by what the answer lets through or replaces. `last`: nothing comes after the data.
pub fn inline<'p, 'b>(
    editor: &mut Editor,
    edits: &Edits<'p>,
    pieces: impl IntoIterator<Item = &'b [u8]>,
    last: bool,
) -> Inline<'p> {
    if edits.is_none() && !editor.is_removing() {
        // It passes unseen.
        editor.lose_track();
        return Inline::Permit;
    }
    if edits.are_two() {
        return Inline::Wait;
    }
    let mut kept = 0_u64;
    let mut rest = [0; WINDOW];
    let mut waiting = 0;
    for piece in pieces {
        let before = rest;
        let mut window = Window::new(before.get(..waiting).unwrap_or_default(), piece);
        match run(editor, edits, &mut window, false, &mut kept) {
            Step::More => {}
            step => return answer(step, kept),
        }
        waiting = 0;
        for piece in window.pieces() {
            if let Some(to) = rest.get_mut(waiting..waiting + piece.len()) {
                to.copy_from_slice(piece);
                waiting += piece.len();
            }
        }
    }
    if waiting == 0 {
        return Inline::Permit;
    }
    if !last {
        return answer(Step::More, kept);
    }
    let mut window = Window::new(rest.get(..waiting).unwrap_or_default(), &[]);
    match run(editor, edits, &mut window, true, &mut kept) {
        Step::More => Inline::Permit,
        step => answer(step, kept),
    }
}

/// Keeps bytes of `window` up to the first that do not stay as they are; what is to become of those. An editor that
/// changes them at once is moved on by the change only if nothing comes before.
fn run<'p>(
    editor: &mut Editor,
    edits: &Edits<'p>,
    window: &mut Window<'_>,
    last: bool,
    kept: &mut u64,
) -> Step<'p> {
    while window.len() > 0 {
        match editor.look(edits, window, last) {
            (Step::Keep(count), next) => {
                editor.go_on(next);
                *kept += count as u64;
                *window = window.from(count);
            }
            (step, next) => {
                if *kept == 0 && step != Step::More {
                    editor.go_on(next);
                }
                return step;
            }
        }
    }
    Step::More
}

const fn answer(step: Step<'_>, kept: u64) -> Inline<'_> {
    match (kept, step) {
        (0, Step::Replace(count, insert)) => Inline::Replace(count as u64, insert),
        (0, Step::Insert(insert)) => Inline::Insert(insert),
        (0, _) => Inline::Wait,
        (kept, _) => Inline::PermitFirst(kept),
    }
}
