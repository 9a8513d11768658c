//! Tests of the network stack, with packets that are built here.

mod ale;
mod build;
mod fragments;
mod inject;
mod local;
mod order;
mod packet;
mod reassembly;
mod recorder;
mod robustness;
mod tcp;
mod waterfall;
