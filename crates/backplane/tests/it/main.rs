//! One suite for both backplanes, and what only a real Redis can show.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cluster;
mod conformance;
mod doctor;
mod fixtures;
mod mutants;
mod redis;
mod sentinel;
