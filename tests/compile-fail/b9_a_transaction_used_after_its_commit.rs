//! B9: a transaction is over with its commit.
// error[E0382]
#![no_std]
use wfp::engine::Transaction;
use wfp::schema::Guid;

pub fn late(transaction: Transaction<'_>, key: Guid) -> wfp::Result {
    transaction.commit()?;
    transaction.delete_sublayer(key)
}
