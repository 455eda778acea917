//! One suite for both backplanes, and what only a real Redis can show.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cluster;
mod conformance;
mod conformance_groups;
mod doctor;
mod fixtures;
mod groups;
mod marks;
mod mutants;
mod mutants_groups;
mod presence;
mod redis;
mod sentinel;
