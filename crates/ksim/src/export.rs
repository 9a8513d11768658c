//! The functions a driver can import: how each is declared, checked on entry and made to fail on demand.
//!
//! An export is written once, with its IRQL rule and what it returns when it is made to fail:
//!
//! ```ignore
//! exports! {
//!     module "ntoskrnl.exe";
//!
//!     /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exallocatepool2>
//!     fn ExAllocatePool2(call, flags: u64, bytes: usize, tag: u32) -> *mut c_void,
//!     irql PASSIVE..=DISPATCH, fails ptr::null_mut();
//!     {
//!         call.machine()…
//!     }
//! }
//! ```
//!
//! A function that does not fail with some arguments says when it can: `fails VALUE, if remove == 0`.
//!
//! The macro makes the `extern "win64"` function that a driver calls, and the module's `EXPORTS` table.
//!
//! A call that is made to fail has its arguments checked first, so that the failure hides no bad argument: what
//! checks them is a block of its own, `{ checks } then { body }`, whose bindings the body sees. Where a helper both
//! checks and acts it asks [`Call::must_fail`] in between, or [`Call::fails_later`] if some of its functions can't
//! fail; the function is then declared with `fails VALUE => later`.

use std::collections::HashMap;
use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use pe_image::unwind::Registers;

use crate::cpu::{self, Cpu};
use crate::kernel::Machine;
use crate::verifier::{IRQL_RANGE, Rule};
use crate::{fwp, kmdf, ndis, nt};

/// A simulated function, as data.
#[derive(Debug)]
pub struct Export {
    /// The image that exports it, lower case with extension: `ntoskrnl.exe`. KMDF's table is `kmdf`.
    pub module: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its documentation: the DDI page.
    pub doc: &'static str,
    /// At which IRQLs it may be called.
    pub irql: RangeInclusive<u8>,
    /// Whether it can be made to fail.
    pub fallible: bool,
    /// Whether it asks itself if it is to fail, behind its checks.
    pub fails_later: bool,
    /// Its parameters, in order. A variadic function has one, the list of its arguments.
    pub parameters: &'static [Parameter],
    /// Bytes of what it returns: 0 for nothing.
    pub returns: usize,
    /// Its address, for an import table: the `extern "win64"` function.
    pub address: fn() -> usize,
}

/// A parameter of a simulated function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Its name here.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: usize,
}

impl Export {
    /// Whether a driver passes a variable number of arguments.
    #[must_use]
    pub fn is_variadic(&self) -> bool {
        nt::variadic(self.name)
    }

    /// The address of its documentation; `None` for what is documented nowhere on the web.
    #[must_use]
    pub fn page(&self) -> Option<&'static str> {
        let start = self.doc.find("https://")?;
        let page = &self.doc[start..];
        let end = page.find(['>', ')', ' ']).unwrap_or(page.len());
        Some(&page[..end])
    }
}

/// What every part of the kernel gives to drivers.
static TABLES: &[&[&[Export]]] = &[nt::EXPORTS, ndis::EXPORTS, fwp::EXPORTS, kmdf::EXPORTS];

/// Modules whose functions this kernel keeps elsewhere: since Windows 10 2004 the HAL is a part of ntoskrnl.
const ALIASES: &[(&str, &str)] = &[
    ("hal.dll", "ntoskrnl.exe"),
    ("ntkrnlmp.exe", "ntoskrnl.exe"),
];

/// Every simulated function.
pub fn all() -> impl Iterator<Item = &'static Export> {
    TABLES.iter().copied().flatten().copied().flatten()
}

/// The function `name` of the image `module`, whose name may have any case.
#[must_use]
pub fn resolve(module: &str, name: &str) -> Option<&'static Export> {
    static BY_NAME: OnceLock<HashMap<(&'static str, &'static str), &'static Export>> =
        OnceLock::new();
    let module = module.to_ascii_lowercase();
    let module = ALIASES
        .iter()
        .find(|(alias, _)| *alias == module)
        .map_or(&*module, |(_, module)| module);
    let by_name = BY_NAME.get_or_init(|| {
        all()
            .map(|export| ((canonical(export.module), export.name), export))
            .collect()
    });
    by_name.get(&(module, name)).copied()
}

/// The module under which `module`'s functions are found.
fn canonical(module: &'static str) -> &'static str {
    ALIASES
        .iter()
        .find(|(alias, _)| *alias == module)
        .map_or(module, |(_, module)| module)
}

/// Names and values of a call's arguments, for reports.
pub type Arguments<'a> = &'a [(&'static str, &'a dyn Debug)];

/// A call from the driver into the kernel that is in progress.
#[derive(Debug)]
pub struct Call<'a> {
    cpu: &'a Cpu,
    export: &'static Export,
    arguments: Arguments<'a>,
    site: usize,
    registers: Registers,
}

impl<'a> Call<'a> {
    /// Begins a call: parks the processor if the machine has crashed, and checks the IRQL.
    #[must_use]
    pub fn enter(export: &'static Export, arguments: Arguments<'a>) -> Self {
        let Some(cpu) = Cpu::current() else {
            // Only a driver calls these, and a driver runs on processors only.
            std::process::abort();
        };
        if cpu.machine().crashed() {
            cpu::park_for_ever();
        }
        cpu.set_export(export);
        cpu.locks().count_call();
        let call = Call {
            cpu,
            export,
            arguments,
            site: cpu.return_address(),
            registers: cpu.driver_registers(),
        };
        cpu.note_stack();
        cpu.machine().witnesses().look(&call);
        cpu.machine().scheduler().point(
            cpu,
            export.name,
            call.site ^ export.name.as_ptr() as usize,
        );
        if !export.irql.contains(&cpu.irql()) {
            call.violation(
                &IRQL_RANGE,
                format!(
                    "called at IRQL {}, allowed are {}..={}",
                    cpu.irql(),
                    export.irql.start(),
                    export.irql.end()
                ),
            );
        }
        call
    }

    /// The function's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.export.name
    }

    /// Names and values of its arguments, numbers in hexadecimal.
    #[must_use]
    pub fn arguments(&self) -> Vec<(&'static str, String)> {
        self.arguments
            .iter()
            .map(|(name, value)| (*name, format!("{value:#x?}")))
            .collect()
    }

    /// The processor.
    #[must_use]
    pub const fn cpu(&self) -> &'a Cpu {
        self.cpu
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &'a Machine {
        self.cpu.machine()
    }

    /// The driver's return address.
    #[must_use]
    pub const fn site(&self) -> usize {
        self.site
    }

    /// The driver's registers right after the call; the volatile ones are not known.
    #[must_use]
    pub const fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Records a breach of `rule` by this call.
    pub fn violation(&self, rule: &Rule, message: impl Into<String>) {
        self.machine().verifier().violation(self, rule, message);
    }

    /// Whether this call is to fail now. Asked once per call, behind the checks of its arguments.
    #[must_use]
    pub fn must_fail(&self) -> bool {
        self.machine().faults().hit(self)
    }

    /// Whether this call is to fail now, if its function is one that asks itself.
    #[must_use]
    pub fn fails_later(&self) -> bool {
        self.export.fails_later && self.must_fail()
    }
}

/// A call returns to the driver: what other threads do may come before what the driver does next with memory.
impl Drop for Call<'_> {
    fn drop(&mut self) {
        let site = !(self.site ^ self.export.name.as_ptr() as usize);
        let scheduler = self.machine().scheduler();
        scheduler.point(self.cpu, self.export.name, site);
    }
}

/// Who looks at the machine when a driver calls a function.
type Look = Arc<dyn Fn(&Cpu) + Send + Sync>;

/// What is looked at when drivers call certain functions.
#[derive(Default)]
pub struct Witnesses {
    by_name: Mutex<HashMap<&'static str, Look>>,
    any: AtomicBool,
}

impl std::fmt::Debug for Witnesses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Witnesses").finish_non_exhaustive()
    }
}

impl Witnesses {
    /// From now on calls `look` whenever a driver calls the function `name`, before that does anything. It may look, and have
    /// other processors do something, which then comes between two steps of the driver. What it keeps of the
    /// kernel keeps the kernel, until [`clear`](Self::clear).
    pub fn at(&self, name: &'static str, look: impl Fn(&Cpu) + Send + Sync + 'static) {
        self.by_name.lock().insert(name, Arc::new(look));
        self.any.store(true, Ordering::SeqCst);
    }

    /// Nobody looks any more.
    pub fn clear(&self) {
        self.any.store(false, Ordering::SeqCst);
        self.by_name.lock().clear();
    }

    fn look(&self, call: &Call<'_>) {
        if self.any.load(Ordering::Relaxed) {
            let look = self.by_name.lock().get(call.name()).cloned();
            if let Some(look) = look {
                look(call.cpu());
            }
        }
    }
}

/// Which fallible calls are made to fail.
///
/// Counting starts when a plan is set; calls are numbered from 1.
#[derive(Debug, Default)]
pub struct Faults {
    /// 0: count only; n: the n-th fallible call fails.
    target: AtomicU64,
    count: AtomicU64,
    /// One call in how many fails at random; 0: none.
    one_in: AtomicU32,
    /// What the draws are made from.
    random: AtomicU64,
    by_name: Mutex<HashMap<&'static str, Vec<u64>>>,
    any_by_name: AtomicU64,
    hit: Mutex<Option<String>>,
}

impl Faults {
    /// Makes the `n`-th fallible call from now fail (1 is the next one); 0 fails none.
    pub fn fail_nth(&self, n: u64) {
        self.count.store(0, Ordering::SeqCst);
        self.target.store(n, Ordering::SeqCst);
        self.one_in.store(0, Ordering::SeqCst);
        *self.hit.lock() = None;
    }

    /// From now on makes one call in `one_in` fail, drawn from `seed`.
    pub fn fail_random(&self, seed: u64, one_in: u32) {
        self.fail_nth(0);
        self.random.store(seed, Ordering::SeqCst);
        self.one_in.store(one_in, Ordering::SeqCst);
    }

    /// Whether the next draw says that a call fails. The numbers are those of `SplitMix64`.
    fn drawn(&self) -> bool {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let one_in = self.one_in.load(Ordering::Relaxed);
        if one_in == 0 {
            return false;
        }
        let state = self
            .random
            .fetch_add(STEP, Ordering::Relaxed)
            .wrapping_add(STEP);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31).is_multiple_of(u64::from(one_in))
    }

    /// Makes the `n`-th call of the function `name` from now fail.
    pub fn fail_call(&self, name: &'static str, n: u64) {
        self.by_name.lock().entry(name).or_default().push(n);
        self.any_by_name.fetch_add(1, Ordering::SeqCst);
    }

    /// How many fallible calls were made since the plan was set.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// The call that was made to fail: function and place.
    #[must_use]
    pub fn failed_call(&self) -> Option<String> {
        self.hit.lock().clone()
    }

    fn hit(&self, call: &Call<'_>) -> bool {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let mut fails = number == self.target.load(Ordering::Relaxed) || self.drawn();
        if self.any_by_name.load(Ordering::Relaxed) > 0
            && let Some(countdowns) = self.by_name.lock().get_mut(call.name())
        {
            for countdown in countdowns.iter_mut() {
                *countdown = countdown.saturating_sub(1);
                fails |= *countdown == 0;
            }
            countdowns.retain(|countdown| *countdown > 0);
        }
        if fails {
            let place = call.machine().verifier().site(call.site());
            *self.hit.lock() = Some(format!("{} called from {place}", call.name()));
        }
        fails
    }
}

/// Declares simulated functions; see the [module's documentation](self).
macro_rules! exports {
    (
        module $module:literal;
        $(
            $(#[doc = $doc:literal])+
            fn $name:ident($call:ident $(, $arg:ident: $ty:ty)* $(,)?) $(-> $ret:ty)?,
            irql $irql:expr $(, fails $failure:expr $(, if $when:expr)? $(=> $later:ident)?)?;
            { $($first:tt)* } $(then $body:block)?
        )*
    ) => {
        $(
            $(#[doc = $doc])+
            #[allow(non_snake_case, unused_variables, reason = "named as the kernel names it")]
            pub(crate) extern "win64" fn $name($($arg: $ty),*) $(-> $ret)? {
                static EXPORT: $crate::export::Export =
                    $crate::export::exports!(@export $module, $name($($arg: $ty),*) $(-> $ret)?, $irql, [$($failure $(=> $later)?)?], $($doc),+);
                let arguments: $crate::export::Arguments<'_> =
                    &[$((stringify!($arg), &$arg)),*];
                let $call = $crate::export::Call::enter(&EXPORT, arguments);
                $crate::export::exports!(@run $call, [$($failure $(, if $when)? $(=> $later)?)?], { $($first)* } $($body)?)
            }
        )*

        /// What this file gives to drivers.
        pub(crate) static EXPORTS: &[$crate::export::Export] = &[$(
            $crate::export::exports!(@export $module, $name($($arg: $ty),*) $(-> $ret)?, $irql, [$($failure $(=> $later)?)?], $($doc),+),
        )*];
    };
    (@run $call:ident, [], { $($body:tt)* }) => { { $($body)* } };
    (@run $call:ident, [$failure:expr => later], { $($body:tt)* }) => { {
        // Named here, returned by who asks.
        let _ = || $failure;
        $($body)*
    } };
    (@run $call:ident, [$failure:expr $(, if $when:expr)?], { $($body:tt)* }) => { {
        if true $(&& $when)? && $call.must_fail() {
            return $failure;
        }
        $($body)*
    } };
    (@run $call:ident, [$failure:expr $(, if $when:expr)?], { $($checks:tt)* } $body:block) => { {
        $($checks)*
        if true $(&& $when)? && $call.must_fail() {
            return $failure;
        }
        $body
    } };
    (@export $module:literal, $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?, $irql:expr, [$($failure:expr $(=> $later:ident)?)?], $($doc:literal),+) => {
        $crate::export::Export {
            module: $module,
            name: stringify!($name),
            doc: concat!($($doc),+),
            irql: $irql,
            fallible: $crate::export::exports!(@fallible $($failure)?),
            fails_later: $crate::export::exports!(@later $($($later)?)?),
            parameters: &[$(
                $crate::export::Parameter { name: stringify!($arg), size: size_of::<$ty>() },
            )*],
            returns: 0 $(+ size_of::<$ret>())?,
            address: || $name as *const () as usize,
        }
    };
    (@fallible) => { false };
    (@fallible $failure:expr) => { true };
    (@later) => { false };
    (@later later) => { true };
}
pub(crate) use exports;
