//! What Driver Verifier and the DDI ask of a driver, checked while it runs.
//!
//! A [`Rule`] is data ([`rules`]); a [`Violation`] names the rule, the call with its arguments, the driver with its
//! stack, the processor and the IRQL. What a driver must give back is tracked; what is left at unload are [`Leak`]s.

mod report;
pub mod rules;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::cpu::{Callback, Cpu};
use crate::export::Call;
use crate::kernel::Bugcheck;
use crate::loader::Mapped;
use crate::sched::Thread;
use crate::symbols::Symbols;
use crate::trap;

pub use report::{Leak, Report, Violation};
pub use rules::*;

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
    /// The image itself.
    pub(crate) mapped: Arc<Mapped>,
    /// Names of its functions, if a program database was given.
    pub(crate) symbols: Option<Arc<Symbols>>,
    /// Whether it was unloaded; its addresses are not used again.
    pub(crate) unloaded: bool,
}

impl Image {
    /// Names the place at `address`. `returned` says that it is a return address: the call before it is meant.
    pub(crate) fn place(&self, address: usize, returned: bool) -> String {
        let offset = address.wrapping_sub(self.range.start);
        let symbol = self
            .symbols
            .as_ref()
            .and_then(|symbols| symbols.describe(offset.wrapping_sub(usize::from(returned))));
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
        if !self.keeps_another() {
            return;
        }
        self.violations.lock().push(Violation {
            rule: rule.name,
            severity: rule.severity,
            message: message.into(),
            call: Some(call.name()),
            callback: None,
            last_call: None,
            arguments: call.arguments(),
            driver: self.image_at(call.site()).map(|image| image.name),
            site: Some(self.site(call.site())),
            stack: trap::driver_stack(call.machine(), call.registers()),
            processor: call.cpu().index(),
            irql: call.cpu().irql(),
        });
    }

    /// Records a breach of `rule` that no call is to blame for alone, such as what a callback returned.
    pub fn violation_at(&self, cpu: &Cpu, rule: &Rule, message: impl Into<String>) {
        if !self.keeps_another() {
            return;
        }
        self.violations.lock().push(Violation {
            rule: rule.name,
            severity: rule.severity,
            message: message.into(),
            call: None,
            callback: None,
            last_call: None,
            arguments: Vec::new(),
            driver: None,
            site: None,
            stack: Vec::new(),
            processor: cpu.index(),
            irql: cpu.irql(),
        });
    }

    /// Records a breach of `rule` by the driver that has its code at `function`, such as a callback of it.
    pub fn violation_of(
        &self,
        cpu: &Cpu,
        rule: &Rule,
        function: usize,
        message: impl Into<String>,
    ) {
        if !self.keeps_another() {
            return;
        }
        self.violations.lock().push(Violation {
            rule: rule.name,
            severity: rule.severity,
            message: message.into(),
            call: None,
            callback: None,
            last_call: None,
            arguments: Vec::new(),
            driver: self.image_at(function).map(|image| image.name),
            site: Some(self.place(function)),
            stack: Vec::new(),
            processor: cpu.index(),
            irql: cpu.irql(),
        });
    }

    /// Records a breach of `rule` by what `callback`, which has just returned on `cpu`, did or returned: with where it
    /// begins, and what it called last.
    pub(crate) fn violation_by(
        &self,
        cpu: &Cpu,
        callback: Callback,
        rule: &Rule,
        message: impl Into<String>,
    ) {
        if !self.keeps_another() {
            return;
        }
        let image = self.image_at(callback.function);
        let left = cpu.left();
        // A call that was the callback's last instruction has no place in it to come back to.
        let site = left.map(|(_, site)| site).filter(|site| {
            let range = image.as_ref().map(|image| &image.range);
            range.is_some_and(|range| range.contains(site))
        });
        let entry = self.place(callback.function);
        let frames = site.map(|site| self.site(site)).into_iter();
        let stack = frames.chain(image.as_ref().map(|_| entry.clone()));
        self.violations.lock().push(Violation {
            rule: rule.name,
            severity: rule.severity,
            message: message.into(),
            call: None,
            callback: Some(callback.name),
            last_call: left.map(|(export, _)| export.name),
            arguments: Vec::new(),
            stack: stack.collect(),
            driver: image.map(|image| image.name),
            site: Some(entry),
            processor: cpu.index(),
            irql: cpu.irql(),
        });
    }

    /// Records that `callback` runs on `thread` while its driver goes away.
    pub(crate) fn running_at_unload(&self, thread: &Thread, callback: Callback, message: String) {
        if !self.keeps_another() {
            return;
        }
        let cpu = thread.cpu();
        let machine = cpu.machine();
        let last = thread.last_call();
        let mut stack = trap::driver_stack(machine, &last.registers());
        let entry = self.place(callback.function);
        if stack.is_empty() {
            stack.push(entry.clone());
        }
        self.violations.lock().push(Violation {
            rule: UNLOAD_RUNNING.name,
            severity: UNLOAD_RUNNING.severity,
            message,
            call: None,
            callback: Some(callback.name),
            last_call: last.export().map(|export| export.name),
            arguments: Vec::new(),
            driver: self.image_at(callback.function).map(|image| image.name),
            site: Some(entry),
            stack,
            processor: cpu.index(),
            irql: cpu.irql(),
        });
    }

    /// Records the breach of `rule` because of which `cpu` stops its machine.
    pub(crate) fn stopped_by(&self, cpu: &Cpu, rule: &Rule, bugcheck: &Bugcheck) {
        if !self.keeps_another() {
            return;
        }
        let site = bugcheck.stack.first().cloned();
        self.violations.lock().push(Violation {
            rule: rule.name,
            severity: rule.severity,
            message: bugcheck.message.clone(),
            call: None,
            callback: None,
            last_call: None,
            arguments: Vec::new(),
            driver: site
                .as_ref()
                .and_then(|site| site.split_once('+'))
                .map(|(driver, _)| driver.to_owned()),
            site,
            stack: bugcheck.stack.clone(),
            processor: cpu.index(),
            irql: cpu.irql(),
        });
    }

    /// Whether a violation is recorded or only counted.
    fn keeps_another(&self) -> bool {
        let keeps = self.violations.lock().len() < KEPT_VIOLATIONS;
        if !keeps {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        keeps
    }

    pub(crate) fn irql_not_restored(&self, cpu: &Cpu, callback: Callback, before: u8, after: u8) {
        let what = callback.name;
        self.violation_by(
            cpu,
            callback,
            &IRQL_RESTORED,
            format!("{what} was called at IRQL {before} and returned at {after}"),
        );
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
                site: self.site(site),
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
        let mut images = self.images.lock();
        for image in images.iter_mut().filter(|image| image.range.start == base) {
            image.unloaded = true;
        }
        // Those whose addresses may belong to something else by now.
        let unloaded = images.iter().filter(|image| image.unloaded).count();
        let mut oldest = unloaded.saturating_sub(crate::loader::REMEMBERED);
        images.retain(|image| {
            let gone = image.unloaded && oldest > 0;
            oldest -= usize::from(gone);
            !gone
        });
    }

    /// Names the call whose return address is `site`.
    #[must_use]
    pub fn site(&self, site: usize) -> String {
        self.image_at(site)
            .map_or_else(|| format!("{site:#x}"), |image| image.place(site, true))
    }

    /// Names an address: `module+offset` where a loaded image holds it, with the symbol where it is known.
    #[must_use]
    pub fn place(&self, address: usize) -> String {
        let images = self.images.lock();
        images
            .iter()
            .rev()
            .find(|image| image.range.contains(&address))
            .map_or_else(
                || format!("{address:#x}"),
                |image| image.place(address, false),
            )
    }

    /// The image that holds `address`, loaded or not.
    pub(crate) fn image_at(&self, address: usize) -> Option<Image> {
        let holds = |image: &&Image| image.range.contains(&address);
        self.images.lock().iter().rev().find(holds).cloned()
    }

    /// Names an address in an image that is loaded.
    pub(crate) fn driver_place(&self, address: usize) -> Option<String> {
        let here = |image: &&Image| !image.unloaded && image.range.contains(&address);
        self.images
            .lock()
            .iter()
            .find(here)
            .map(|image| image.place(address, false))
    }

    /// Names an address in an image that was unloaded.
    pub(crate) fn unloaded_place(&self, address: usize) -> Option<String> {
        let here = |image: &&Image| image.unloaded && image.range.contains(&address);
        self.images
            .lock()
            .iter()
            .find(here)
            .map(|image| image.place(address, false))
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
