//! What Driver Verifier and the DDI ask of a driver, checked while it runs.
//!
//! A [`Rule`] is data; a [`Violation`] names the rule, the call, the driver's place, the processor and the IRQL.
//! What a driver must give back is counted in [`Objects`]; what is left at unload are [`Leak`]s.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::cpu::Cpu;
use crate::export::Call;
use crate::symbols::Symbols;

/// One thing that is checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// A short stable name, `area-subject`.
    pub name: &'static str,
    /// What must hold.
    pub text: &'static str,
    /// Where that is written: a DDI page or a bug check.
    pub source: &'static str,
}

macro_rules! rules {
    ($($(#[$meta:meta])* $id:ident = $name:literal, $text:literal, $source:literal;)*) => {
        $($(#[$meta])* pub const $id: Rule = Rule { name: $name, text: $text, source: $source };)*
        /// Every rule, in the order of their areas.
        pub const RULES: &[&Rule] = &[$(&$id),*];
    };
}

rules! {
    /// A function was called at an IRQL that its page excludes.
    IRQL_RANGE = "irql-range", "a function is called only at the IRQLs its page allows", "DDI pages, req.irql";
    /// A callback came back at another IRQL.
    IRQL_RESTORED = "irql-restored", "a callback returns at the IRQL at which it was called", "Driver Verifier: Force IRQL Checking";
    /// A block was freed that is not allocated.
    POOL_DOUBLE_FREE = "pool-double-free", "pool is freed once, by the address that was allocated", "bug check 0xC2 BAD_POOL_CALLER";
    /// A block was freed with another tag.
    POOL_TAG = "pool-tag", "pool is freed with the tag it was allocated with", "ExFreePoolWithTag";
    /// Bytes outside an allocated block changed.
    POOL_OVERRUN = "pool-overrun", "a driver writes only within its allocations", "Driver Verifier: Special Pool";
    /// Bytes of a freed block changed.
    POOL_USE_AFTER_FREE = "pool-use-after-free", "a driver does not touch pool that it has freed", "Driver Verifier: Special Pool";
    /// Pool that a driver may execute.
    POOL_EXECUTABLE = "pool-executable", "pool is allocated non-executable", "bug check 0xC4 subcode 0x2000";
    /// Something of the driver's is left after it was unloaded.
    UNLOAD_LEFT = "unload-left", "a driver gives everything back before its unload routine returns", "bug check 0xC4 subcode 0x62; DRIVER_UNLOAD";
    /// A handle or object was used that does not exist (any more).
    OBJECT_STALE = "object-stale", "a handle is used only between its creation and its deletion", "Driver Verifier: Miscellaneous Checks";
    /// A request was completed twice, or never.
    REQUEST_COMPLETION = "request-completion", "a request is completed exactly once", "WdfRequestComplete";
    /// A lock was taken twice, released by a stranger, or held on return.
    LOCK_PROTOCOL = "lock-protocol", "a lock is released once by its holder, and not held when a callback returns", "Driver Verifier: Deadlock Detection";
    /// A classify wrote what it had no right to write.
    CLASSIFY_RIGHTS = "classify-rights", "without FWPS_RIGHT_ACTION_WRITE a callout only vetoes a permit", "FWPS_CALLOUT_CLASSIFY_FN2";
    /// A classify returned an action that its layer or filter does not have.
    CLASSIFY_ACTION = "classify-action", "a callout returns an action that its filter's type and its layer allow", "FWPS_ACTION0; FWPS_CALLOUT_CLASSIFY_FN2";
    /// A block without the WRITE right cleared, or unknown flags.
    CLASSIFY_BLOCK_RIGHT = "classify-block-right", "a callout that blocks clears FWPS_RIGHT_ACTION_WRITE", "FWPS_CALLOUT_CLASSIFY_FN2";
    /// Flags of classifyOut that do not fit.
    CLASSIFY_FLAGS = "classify-flags", "ABSORB goes with BLOCK, and only at layers that have it", "FWPS_CLASSIFY_OUT0";
    /// An argument that the function's page excludes.
    ARGUMENT = "argument", "arguments are as the function's page asks", "DDI pages, Parameters";
    /// A net buffer that was changed and not put back, or touched after it was handed over.
    NBL_STATE = "nbl-state", "a net buffer list is given back as it was received, and not touched after it was handed over", "NdisRetreatNetBufferDataStart; FwpsInjectNetworkSendAsync0";
}

/// A breach of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule's name.
    pub rule: &'static str,
    /// What happened.
    pub message: String,
    /// The function that the driver called, where there is one.
    pub call: Option<&'static str>,
    /// Where in the driver: `module+offset`.
    pub site: Option<String>,
    /// The processor.
    pub processor: u32,
    /// Its IRQL.
    pub irql: u8,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.message)?;
        if let Some(call) = self.call {
            write!(f, ", in {call}")?;
        }
        if let Some(site) = &self.site {
            write!(f, ", called from {site}")?;
        }
        write!(f, " (processor {}, IRQL {})", self.processor, self.irql)
    }
}

/// What was not given back, summed over one kind, tag and call site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leak {
    /// What kind of thing: `pool`, `callout`, `injection handle`, …
    pub kind: &'static str,
    /// Its pool tag or name, where it has one.
    pub name: String,
    /// Where in the driver it was made.
    pub site: String,
    /// How many.
    pub count: usize,
    /// How many bytes, for memory.
    pub bytes: usize,
}

impl std::fmt::Display for Leak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} × {} {}", self.count, self.kind, self.name)?;
        if self.bytes > 0 {
            write!(f, " ({} bytes)", self.bytes)?;
        }
        write!(f, ", made at {}", self.site)
    }
}

/// The verifier's verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order in which they happened.
    pub violations: Vec<Violation>,
    /// What is left now.
    pub leaks: Vec<Leak>,
}

impl Report {
    /// Whether nothing was found.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.leaks.is_empty()
    }
}

/// Something the driver made and has to give back.
#[derive(Debug, Clone)]
struct Tracked {
    name: String,
    bytes: usize,
    site: usize,
}

/// The verifier of one machine.
#[derive(Debug, Default)]
pub struct Verifier {
    violations: Mutex<Vec<Violation>>,
    objects: Mutex<HashMap<(&'static str, usize), Tracked>>,
    images: Mutex<Vec<Image>>,
    dropped: AtomicUsize,
}

/// A loaded image, for naming places.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// Its file name.
    pub(crate) name: String,
    /// The addresses that it occupies.
    pub(crate) range: Range<usize>,
    /// Those of its sections that hold code.
    pub(crate) code: Vec<Range<usize>>,
    /// Names of its functions, if a program database was given.
    pub(crate) symbols: Option<Arc<Symbols>>,
    /// Whether it was unloaded; its addresses are not used again.
    pub(crate) unloaded: bool,
}

impl Image {
    fn place(&self, address: usize) -> String {
        let offset = address.wrapping_sub(self.range.start);
        let symbol = self
            .symbols
            .as_ref()
            .and_then(|symbols| symbols.describe(offset));
        symbol.map_or_else(
            || format!("{}+{offset:#x}", self.name),
            |symbol| format!("{}+{offset:#x} ({symbol})", self.name),
        )
    }

    fn has_code(&self, address: usize) -> bool {
        !self.unloaded && self.code.iter().any(|range| range.contains(&address))
    }
}

/// More violations than this are counted and not kept: the first ones matter.
const KEPT_VIOLATIONS: usize = 1_000;

impl Verifier {
    /// Records a breach of `rule` by the call in progress.
    pub fn violation(&self, call: &Call<'_>, rule: &Rule, message: impl Into<String>) {
        self.push(Violation {
            rule: rule.name,
            message: message.into(),
            call: Some(call.name()),
            site: Some(self.place(call.site())),
            processor: call.cpu().index(),
            irql: call.cpu().irql(),
        });
    }

    /// Records a breach of `rule` that no call is to blame for alone, such as what a callback returned.
    pub fn violation_at(&self, cpu: &Cpu, rule: &Rule, message: impl Into<String>) {
        self.push(Violation {
            rule: rule.name,
            message: message.into(),
            call: None,
            site: None,
            processor: cpu.index(),
            irql: cpu.irql(),
        });
    }

    pub(crate) fn irql_not_restored(&self, cpu: &Cpu, what: &str, before: u8, after: u8) {
        self.violation_at(
            cpu,
            &IRQL_RESTORED,
            format!("{what} was called at IRQL {before} and returned at {after}"),
        );
    }

    fn push(&self, violation: Violation) {
        let mut violations = self.violations.lock();
        let kept = violations.len() < KEPT_VIOLATIONS;
        if kept {
            violations.push(violation);
        }
        drop(violations);
        if !kept {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// From now on `handle` of `kind` must be given back. `name` helps to recognise it; `bytes` for memory.
    pub fn track(
        &self,
        call: &Call<'_>,
        kind: &'static str,
        handle: usize,
        name: impl Into<String>,
        bytes: usize,
    ) {
        let tracked = Tracked {
            name: name.into(),
            bytes,
            site: call.site(),
        };
        self.objects.lock().insert((kind, handle), tracked);
    }

    /// `handle` is given back. `false`, and [`OBJECT_STALE`], when there is no such thing.
    pub fn untrack(&self, call: &Call<'_>, kind: &'static str, handle: usize) -> bool {
        let known = self.objects.lock().remove(&(kind, handle)).is_some();
        if !known {
            self.violation(
                call,
                &OBJECT_STALE,
                format!("{kind} {handle:#x} does not exist or was given back before"),
            );
        }
        known
    }

    /// `handle` went away without the driver's doing, such as an object whose parent was deleted.
    pub fn forget(&self, kind: &'static str, handle: usize) {
        self.objects.lock().remove(&(kind, handle));
    }

    /// Whether `handle` of `kind` exists.
    #[must_use]
    pub fn is_tracked(&self, kind: &'static str, handle: usize) -> bool {
        self.objects.lock().contains_key(&(kind, handle))
    }

    /// What has been made and not given back, by kind, name and call site.
    #[must_use]
    pub fn leaks(&self) -> Vec<Leak> {
        self.leaks_of(0..usize::MAX)
    }

    /// What code in `range` has made and not given back.
    pub(crate) fn leaks_of(&self, range: Range<usize>) -> Vec<Leak> {
        let mut sums: HashMap<(&'static str, String, usize), (usize, usize)> = HashMap::new();
        for ((kind, _), tracked) in self
            .objects
            .lock()
            .iter()
            .filter(|(_, tracked)| range.contains(&tracked.site))
        {
            let sum = sums
                .entry((kind, tracked.name.clone(), tracked.site))
                .or_default();
            sum.0 += 1;
            sum.1 += tracked.bytes;
        }
        let mut leaks: Vec<Leak> = sums
            .into_iter()
            .map(|((kind, name, site), (count, bytes))| Leak {
                kind,
                name,
                site: self.place(site),
                count,
                bytes,
            })
            .collect();
        leaks.sort();
        leaks
    }

    /// Everything found so far; leaks are what is outstanding now, so ask after the driver was unloaded.
    #[must_use]
    pub fn report(&self) -> Report {
        Report {
            violations: self.violations.lock().clone(),
            leaks: self.leaks(),
        }
    }

    /// Makes an image known, so that places in it are named by it.
    pub(crate) fn image_loaded(&self, image: Image) {
        self.images.lock().push(image);
    }

    /// The image at `base` was unloaded.
    pub(crate) fn image_unloaded(&self, base: usize) {
        for image in self
            .images
            .lock()
            .iter_mut()
            .filter(|image| image.range.start == base)
        {
            image.unloaded = true;
        }
    }

    /// Names an address: `module+offset` where a loaded image holds it, with the symbol where it is known.
    #[must_use]
    pub fn place(&self, address: usize) -> String {
        let images = self.images.lock();
        images
            .iter()
            .rev()
            .find(|image| image.range.contains(&address))
            .map_or_else(|| format!("{address:#x}"), |image| image.place(address))
    }

    /// Names an address in an image that is loaded.
    pub(crate) fn driver_place(&self, address: usize) -> Option<String> {
        let here = |image: &&Image| !image.unloaded && image.range.contains(&address);
        self.images
            .lock()
            .iter()
            .find(here)
            .map(|image| image.place(address))
    }

    /// Names an address in an image that was unloaded.
    pub(crate) fn unloaded_place(&self, address: usize) -> Option<String> {
        let here = |image: &&Image| image.unloaded && image.range.contains(&address);
        self.images
            .lock()
            .iter()
            .find(here)
            .map(|image| image.place(address))
    }

    /// Whether `address` is in the code of a loaded image.
    pub(crate) fn is_driver_code(&self, address: usize) -> bool {
        self.images
            .lock()
            .iter()
            .any(|image| image.has_code(address))
    }

    /// The same where waiting is not allowed: `false` also when it cannot be found out now.
    pub(crate) fn try_is_driver_code(&self, address: usize) -> bool {
        self.images
            .try_lock()
            .is_some_and(|images| images.iter().any(|image| image.has_code(address)))
    }
}
