//! Tests of the network stack, with packets that are built here.

mod ale;
mod batch;
mod build;
mod change;
mod conformance;
mod conserved;
mod engine;
mod fragments;
mod inject;
mod journal;
mod layers;
mod local;
mod loopback;
mod order;
mod packet;
mod reassembly;
mod recorder;
mod redirect;
mod robustness;
mod switch;
mod tcp;
mod waterfall;
