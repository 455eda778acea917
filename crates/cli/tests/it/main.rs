//! Tests of the binary `switchboard` as a process: real sockets, real signals, nothing of its inside.

mod bad_input;
mod cluster;
mod docs;
mod doctor;
mod fleet;
mod gateway;
mod heal;
