//! A capture of the driver's, from its start to its end.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use portcullis_proto::capture::{CaptureCounts, CaptureReply, StartCaptureRequest};

use super::comment;
use super::file::CaptureFile;
use super::matching::{self, Fate, FilterName, Matched, Matcher};
use super::stop::Stop;
use crate::control::{self, ControlError, Device};
use crate::report::rule_name;

/// How long a packet waits for what may yet be known of it.
const PATIENCE: Duration = Duration::from_nanos(matching::TIME * 100);

/// What to capture, and where it goes.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// The pcapng file.
    pub file: PathBuf,
    /// Which packets, how much of each, and how large the ring is.
    pub request: StartCaptureRequest,
    /// At most so many packets.
    pub count: Option<u64>,
    /// At most so long after the first packet, in seconds.
    pub seconds: Option<u64>,
}

/// Why a capture did not take place, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The driver's control device.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The file.
    #[error("{}: {source}", file.display())]
    Write {
        /// Which.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What a capture has captured.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    /// Packets in the file, those that were put together included.
    pub packets: u64,
    /// Of these, those that were discarded, or whose connection was dropped.
    pub blocked: u64,
    /// Of these, those that were put together from what is known.
    pub rebuilt: u64,
    /// How many each rule's name, or other reason, was behind of what was blocked.
    pub blocked_by: BTreeMap<String, u64>,
    /// What the driver counted.
    pub counts: CaptureCounts,
    /// Records that were lost because nobody read them in time.
    pub lost: u64,
}

/// A capture that goes on.
#[derive(Debug)]
pub struct Session {
    options: CaptureOptions,
    rules: Vec<String>,
    matcher: Matcher,
    file: CaptureFile,
    filters: HashMap<u64, Option<FilterName>>,
    captured: Captured,
    first: Option<u64>,
    is_full: bool,
    is_ended: bool,
}

impl Session {
    /// Starts the capture on a driver whose policy's rules have these names.
    ///
    /// # Errors
    /// [`CaptureError`]; there is no file then.
    pub fn start(
        device: &impl Device,
        options: CaptureOptions,
        rules: Vec<String>,
    ) -> Result<Self, CaptureError> {
        let snap_length = options.request.snap_length.get();
        let file = CaptureFile::create(&options.file, snap_length).map_err(|source| {
            CaptureError::Write {
                file: options.file.clone(),
                source,
            }
        })?;
        control::start_capture(device, &options.request)?;
        Ok(Self {
            options,
            rules,
            matcher: Matcher::default(),
            file,
            filters: HashMap::new(),
            captured: Captured::default(),
            first: None,
            is_full: false,
            is_ended: false,
        })
    }

    /// Whether it has as many packets, or has gone on as long, as it is to.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.is_full
    }

    /// Takes what the driver has captured by now; with `wait` at least one record.
    ///
    /// # Errors
    /// [`CaptureError`]
    pub fn take(&mut self, device: &impl Device, wait: bool) -> Result<(), CaptureError> {
        let mut wait = wait;
        while !self.is_ended {
            let snap_length = self.options.request.snap_length.get();
            let reply = control::read_capture(device, snap_length, wait)?;
            wait = false;
            let (fixed, records) =
                CaptureReply::read(&reply).ok_or(ControlError::Reply("read the capture"))?;
            self.captured.counts = fixed.counts;
            self.is_ended = fixed.flags.get() & CaptureReply::ENDED != 0;
            let mut told = Vec::new();
            for (record, data) in records {
                let filters = &mut self.filters;
                let mut name = |id: u64| {
                    let known = filters.entry(id);
                    known
                        .or_insert_with(|| control::describe_filter(device, id).ok())
                        .clone()
                };
                self.matcher
                    .add(&record, data, &mut name, &mut |matched| told.push(matched));
            }
            self.write(told)?;
            if fixed.flags.get() & CaptureReply::MORE == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Goes on until it is full, `stop` ends it, or the driver does, and ends the capture. Waits for the driver's
    /// records in this thread, and for the end in another, so the device must take requests of both.
    ///
    /// # Errors
    /// [`CaptureError`]; there is no file then.
    pub fn run(
        mut self,
        device: &(impl Device + Sync),
        stop: &Stop,
    ) -> Result<Captured, CaptureError> {
        thread::scope(|scope| {
            scope.spawn(|| {
                if stop.wait() {
                    // Who waits for records is told that there are no more. A capture that is over needs no end.
                    drop(control::stop_capture(device));
                }
            });
            let followed = self.follow(device, stop);
            stop.over();
            followed
        })?;
        self.finish(device)
    }

    fn follow(&mut self, device: &impl Device, stop: &Stop) -> Result<(), CaptureError> {
        while !self.is_full && !self.is_ended {
            self.take(device, true)?;
            let waiting = self.matcher.waiting();
            let has_begun = self.first.is_some() || waiting > 0;
            if let Some(seconds) = self.options.seconds.filter(|_| has_begun) {
                stop.request_after(Duration::from_secs(seconds));
            }
            let all = self.captured.packets.saturating_add(waiting);
            if self.options.count.is_some_and(|count| all >= count) {
                // Nobody may send any more: what may yet be known of the last ones is known by then.
                stop.request_after(PATIENCE);
            }
        }
        Ok(())
    }

    /// Ends the capture: what the driver still has goes into the file, and the file gets its name.
    ///
    /// # Errors
    /// [`CaptureError`]; there is no file then.
    pub fn finish(mut self, device: &impl Device) -> Result<Captured, CaptureError> {
        if !self.is_ended {
            control::stop_capture(device)?;
        }
        self.take(device, false)?;
        let mut told = Vec::new();
        self.matcher.finish(&mut |matched| told.push(matched));
        self.write(told)?;
        self.captured.lost = self.matcher.total_lost();
        let file = self.options.file;
        self.file
            .finish(&self.captured.counts)
            .map_err(|source| CaptureError::Write { file, source })?;
        Ok(self.captured)
    }

    fn write(&mut self, told: Vec<Matched>) -> Result<(), CaptureError> {
        const TICKS: u64 = 10_000_000;

        for matched in told {
            let time = matched.record.time.get();
            let first = *self.first.get_or_insert(time);
            let is_late = |seconds: u64| time.saturating_sub(first) > seconds.saturating_mul(TICKS);
            let is_enough = |count: u64| self.captured.packets >= count;
            self.is_full |= self.options.seconds.is_some_and(is_late)
                || self.options.count.is_some_and(is_enough);
            if self.is_full {
                return Ok(());
            }
            self.count(&matched);
            let comment = comment::of(&matched, &self.rules);
            self.file
                .write(&matched, &comment)
                .map_err(|source| CaptureError::Write {
                    file: self.options.file.clone(),
                    source,
                })?;
        }
        Ok(())
    }

    fn count(&mut self, matched: &Matched) {
        self.captured.packets += 1;
        self.captured.rebuilt += u64::from(matched.is_rebuilt);
        let by = match &matched.fate {
            Fate::Passed => return,
            Fate::Discarded(discard, filter) => {
                let filter = filter.clone().unwrap_or_default();
                if filter.is_ours {
                    self.rule(matched)
                } else if filter.name.is_empty() {
                    comment::reason(discard)
                } else {
                    filter.name
                }
            }
            Fate::Dropped => self.rule(matched),
        };
        self.captured.blocked += 1;
        *self.captured.blocked_by.entry(by).or_default() += 1;
    }

    /// The name of the rule that decided about a packet.
    fn rule(&self, matched: &Matched) -> String {
        let rule = matched.decided.as_ref().and_then(|decided| decided.rule);
        rule.map_or_else(
            || "the default".to_owned(),
            |rule| rule_name(&self.rules, rule).into_owned(),
        )
    }
}
