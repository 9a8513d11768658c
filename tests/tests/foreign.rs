//! Drivers in C, in the style of Microsoft's, run in the same kernel as ours.

mod editor;
mod gate;
mod two;
mod usher;
mod warden;
