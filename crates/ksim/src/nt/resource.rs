//! Executive resources (`ERESOURCE`): held exclusively by one thread, or shared by several.
//!
//! The structure is opaque to drivers; its state is kept here under its address.

use std::collections::HashMap;

use parking_lot::Mutex;
use wfp_schema::NtStatus;

use super::held;
use super::mutex::{change_depth, in_critical_region};
use super::wait::{Timeout, until};
use crate::cpu::{APC, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::Bugcheck;
use crate::trap::code;
use crate::verifier::{LOCK_OWNER, LOCK_PROTOCOL, LOCK_RECURSION, OBJECT_STALE};

/// How the verifier calls a resource.
const KIND: &str = "executive resource";

/// The resources of one machine.
pub(crate) type Resources = Mutex<HashMap<usize, Resource>>;

/// Who holds a resource and waits for it.
#[derive(Debug, Default)]
pub(crate) struct Resource {
    /// Threads, and how often each has acquired it.
    owners: Vec<(usize, u32)>,
    is_exclusive: bool,
    exclusive_waiters: u32,
    shared_waiters: u32,
}

/// Whether a thread that shares gives way to those that wait for exclusive access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Unless it shares already.
    GivesWay,
    Never,
    Always,
}

impl Resource {
    fn depth(&self, thread: usize) -> u32 {
        let own = self.owners.iter().find(|(owner, _)| *owner == thread);
        own.map_or(0, |(_, depth)| *depth)
    }

    fn add(&mut self, thread: usize) {
        match self.owners.iter_mut().find(|(owner, _)| *owner == thread) {
            Some((_, depth)) => *depth += 1,
            None => self.owners.push((thread, 1)),
        }
    }

    fn try_exclusive(&mut self, thread: usize) -> bool {
        let can = self.owners.is_empty() || self.is_exclusive && self.depth(thread) > 0;
        if can {
            self.is_exclusive = true;
            self.add(thread);
        }
        can
    }

    fn try_shared(&mut self, thread: usize, sharing: Sharing) -> bool {
        let has = self.depth(thread) > 0;
        let gives_way = self.exclusive_waiters > 0
            && match sharing {
                Sharing::GivesWay => !has,
                Sharing::Never => false,
                Sharing::Always => !(has && self.is_exclusive),
            };
        let can = !gives_way && (has || !self.is_exclusive || self.owners.is_empty());
        if can {
            self.is_exclusive &= has;
            self.add(thread);
        }
        can
    }
}

/// Does something with the resource at `address`, which must be one.
fn with<T>(call: &Call<'_>, address: usize, act: impl FnOnce(&mut Resource) -> T) -> Option<T> {
    let done = call
        .machine()
        .nt()
        .resources()
        .lock()
        .get_mut(&address)
        .map(act);
    if done.is_none() {
        let message = format!("{address:#x} is no resource that ExInitializeResourceLite made");
        call.violation(&OBJECT_STALE, message);
    }
    done
}

fn check_apcs_disabled(call: &Call<'_>) {
    if call.cpu().irql() < APC && !in_critical_region(call.cpu()) {
        call.violation(
            &LOCK_PROTOCOL,
            "a resource is used outside a critical region",
        );
    }
}

/// Acquires a resource; `sharing` is `None` for exclusive access.
fn acquire(call: &Call<'_>, address: usize, wait: u8, sharing: Option<Sharing>) -> bool {
    check_apcs_disabled(call);
    let (machine, thread) = (call.machine(), call.cpu().thread());
    let attempt = |resource: &mut Resource| match sharing {
        None => resource.try_exclusive(thread),
        Some(sharing) => resource.try_shared(thread, sharing),
    };
    let Some((before, taken)) = with(call, address, |resource| {
        (resource.depth(thread), attempt(resource))
    }) else {
        return false;
    };
    if !taken && wait == 0 {
        return false;
    }
    if !taken && before > 0 && sharing.is_none() {
        call.violation(
            &LOCK_RECURSION,
            "exclusive access is waited for by a thread that shares the resource: this deadlocks",
        );
        machine.crash(Bugcheck::new(
            code::DRIVER_VERIFIER_DETECTED_VIOLATION,
            [0x1000, address as u64, 0, 0],
            format!("{} of a resource that this thread shares", call.name()),
        ));
    }
    if !taken {
        let waiters = |change: i32| {
            let mut resources = machine.nt().resources().lock();
            if let Some(resource) = resources.get_mut(&address) {
                let count = match sharing {
                    None => &mut resource.exclusive_waiters,
                    Some(_) => &mut resource.shared_waiters,
                };
                *count = count.saturating_add_signed(change);
            }
        };
        waiters(1);
        until(call, call.name(), Timeout::Never, || {
            let mut resources = machine.nt().resources().lock();
            resources.get_mut(&address).is_none_or(attempt)
        });
        waiters(-1);
        machine.wake();
    }
    if before == 0 && wait != 0 {
        held::mutex_taken(call, address);
    } else if before == 0 {
        held::mutex_tried(call, address);
    }
    true
}

fn release(call: &Call<'_>, address: usize) {
    check_apcs_disabled(call);
    let thread = call.cpu().thread();
    let left = with(call, address, |resource| {
        let at = resource
            .owners
            .iter()
            .position(|(owner, _)| *owner == thread)?;
        resource.owners[at].1 -= 1;
        let left = resource.owners[at].1;
        if left == 0 {
            resource.owners.remove(at);
            resource.is_exclusive &= !resource.owners.is_empty();
        }
        Some(left)
    });
    match left {
        Some(None) => {
            // RESOURCE_NOT_OWNED.
            call.violation(
                &LOCK_OWNER,
                "a resource is released by a thread that does not hold it",
            );
        }
        Some(Some(0)) => {
            held::mutex_released(call, address);
            call.machine().wake();
        }
        Some(Some(_)) | None => {}
    }
}

/// Nobody may hold a resource that goes away or begins anew.
fn check_free(call: &Call<'_>, address: usize) {
    let owners = with(call, address, |resource| resource.owners.len()).unwrap_or(0);
    if owners > 0 {
        let message = format!("{} of a resource that {owners} threads hold", call.name());
        call.violation(&LOCK_PROTOCOL, message);
    }
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exinitializeresourcelite>
    fn ExInitializeResourceLite(call, resource: usize) -> NtStatus,
    irql PASSIVE..=DISPATCH;
    {
        let machine = call.machine();
        let known = machine.nt().resources().lock().insert(resource, Resource::default());
        if known.is_some() {
            call.violation(&LOCK_PROTOCOL, "a resource is initialized again before it was deleted");
        } else {
            machine.verifier().track(&call, KIND, resource, "", 0);
        }
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exreinitializeresourcelite>
    fn ExReinitializeResourceLite(call, resource: usize) -> NtStatus,
    irql PASSIVE..=DISPATCH;
    {
        check_free(&call, resource);
        with(&call, resource, |state| *state = Resource::default());
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exdeleteresourcelite>
    fn ExDeleteResourceLite(call, resource: usize) -> NtStatus,
    irql PASSIVE..=DISPATCH;
    {
        check_free(&call, resource);
        let machine = call.machine();
        if machine.nt().resources().lock().remove(&resource).is_some() {
            machine.verifier().forget(KIND, resource);
            machine.nt().lock_order().forget(resource..resource + 1);
        }
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exacquireresourceexclusivelite>
    fn ExAcquireResourceExclusiveLite(call, resource: usize, wait: u8) -> u8,
    irql PASSIVE..=APC;
    { u8::from(acquire(&call, resource, wait, None)) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exacquireresourcesharedlite>
    fn ExAcquireResourceSharedLite(call, resource: usize, wait: u8) -> u8,
    irql PASSIVE..=APC;
    { u8::from(acquire(&call, resource, wait, Some(Sharing::GivesWay))) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exacquiresharedstarveexclusive>
    fn ExAcquireSharedStarveExclusive(call, resource: usize, wait: u8) -> u8,
    irql PASSIVE..=APC;
    { u8::from(acquire(&call, resource, wait, Some(Sharing::Never))) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exacquiresharedwaitforexclusive>
    fn ExAcquireSharedWaitForExclusive(call, resource: usize, wait: u8) -> u8,
    irql PASSIVE..=APC;
    { u8::from(acquire(&call, resource, wait, Some(Sharing::Always))) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exreleaseresourcelite>
    fn ExReleaseResourceLite(call, resource: usize),
    irql PASSIVE..=DISPATCH;
    { release(&call, resource); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exconvertexclusivetosharedlite>
    fn ExConvertExclusiveToSharedLite(call, resource: usize),
    irql PASSIVE..=DISPATCH;
    {
        let thread = call.cpu().thread();
        let own = with(&call, resource, |resource| {
            let own = resource.is_exclusive && resource.depth(thread) > 0;
            resource.is_exclusive &= !own;
            own
        });
        if own == Some(false) {
            call.violation(&LOCK_OWNER, "a resource is shared by a thread that does not hold it exclusively");
        }
        call.machine().wake();
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exisresourceacquiredexclusivelite>
    fn ExIsResourceAcquiredExclusiveLite(call, resource: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    {
        let thread = call.cpu().thread();
        let is = with(&call, resource, |resource| resource.is_exclusive && resource.depth(thread) > 0);
        u8::from(is == Some(true))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exisresourceacquiredsharedlite>
    fn ExIsResourceAcquiredSharedLite(call, resource: usize) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        let thread = call.cpu().thread();
        with(&call, resource, |resource| resource.depth(thread)).unwrap_or(0)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exgetexclusivewaitercount>
    fn ExGetExclusiveWaiterCount(call, resource: usize) -> u32,
    irql PASSIVE..=DISPATCH;
    { with(&call, resource, |resource| resource.exclusive_waiters).unwrap_or(0) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exgetsharedwaitercount>
    fn ExGetSharedWaiterCount(call, resource: usize) -> u32,
    irql PASSIVE..=DISPATCH;
    { with(&call, resource, |resource| resource.shared_waiters).unwrap_or(0) }

    /// What it returns means nothing to drivers.
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exentercriticalregionandacquireresourceexclusive>
    fn ExEnterCriticalRegionAndAcquireResourceExclusive(call, resource: usize) -> usize,
    irql PASSIVE..=APC;
    {
        change_depth(call.cpu(), -1);
        acquire(&call, resource, 1, None);
        0
    }

    /// What it returns means nothing to drivers.
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exentercriticalregionandacquireresourceshared>
    fn ExEnterCriticalRegionAndAcquireResourceShared(call, resource: usize) -> usize,
    irql PASSIVE..=APC;
    {
        change_depth(call.cpu(), -1);
        acquire(&call, resource, 1, Some(Sharing::GivesWay));
        0
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exreleaseresourceandleavecriticalregion>
    fn ExReleaseResourceAndLeaveCriticalRegion(call, resource: usize),
    irql PASSIVE..=APC;
    {
        release(&call, resource);
        change_depth(call.cpu(), 1);
    }
}
