//! The `portcullis` program, run as a user runs it, on the project's own captures and example policy.

mod annotate;
mod commands;
mod files;
mod input;
mod json;
mod live;
mod program;
mod replay;
mod report;
mod totals;
mod verify;
