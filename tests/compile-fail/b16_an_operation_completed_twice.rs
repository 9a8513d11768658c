//! B16: an operation that was pended is completed once.
// error[E0382]
#![no_std]
use wfp::pend::PendedOperation;

pub fn twice(operation: PendedOperation) {
    operation.complete();
    operation.complete();
}
