//! What is not the driver's to do, or takes minutes, and so runs once, under the default answers to WFP's open questions.

mod captures;
mod compile_fail;
mod examples;
mod foreign;
mod four_processors;
mod layer_races;
mod literals;
mod machines;
mod packet_races;
mod redirecting;
mod schedules;
