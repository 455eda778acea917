//! One suite for both backplanes, and what only a real Redis can show.

mod conformance;
mod fixtures;
mod redis;
