//! Which addresses are the local host's.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;

use ksim::net::{Discovery, Ends, LocalSide};

use crate::capture::{self, CaptureError};

/// What the first pass over the captures tells.
#[derive(Debug)]
pub(super) struct Survey {
    /// Frames in all captures.
    pub(super) frames: u64,
    /// The local side as the traffic shows it.
    pub(super) discovery: Discovery,
}

/// Reads `captures` once: counts their frames and, if asked to, finds the local side.
///
/// # Errors
/// [`CaptureError`]
pub(super) fn survey(captures: &[PathBuf], discover: bool) -> Result<Survey, CaptureError> {
    let mut frames = 0;
    let mut ends = Vec::new();
    for file in captures {
        capture::read(file, |frame| {
            frames += 1;
            if !discover {
                return ControlFlow::Continue(());
            }
            ends.extend(capture::ip_packet(&frame).ok().and_then(Ends::of));
            // Traffic repeats itself: what many packets showed, more will not change.
            if ends.len() > 4_000_000 {
                ends.truncate(2_000_000);
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(Survey {
        frames,
        discovery: LocalSide::discover(ends.into_iter()),
    })
}

/// The local side that `--local` names.
///
/// # Errors
/// The text that is no address or prefix, and why.
pub(super) fn named(prefixes: &[String]) -> Result<LocalSide, String> {
    let mut local = LocalSide::default();
    for text in prefixes {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text.as_str(), None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("--local {text}: not an IP address"))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        match length.map(str::parse::<u8>) {
            None => local.insert(address),
            Some(Ok(length)) if length <= bits => local.insert_prefix(address, length),
            Some(_) => {
                return Err(format!(
                    "--local {text}: the prefix length is not 0 to {bits}"
                ));
            }
        }
    }
    Ok(local)
}
