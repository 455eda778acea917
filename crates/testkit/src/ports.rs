//! Free ports of the loopback interface.
//!
//! They are taken from below the range that kernels give to outgoing connections, so that no client of our own can sit
//! on one by chance, and at random, so that two test binaries seldom meet. Whoever binds one may still be too late: the
//! callers try again.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

use anyhow::{Result, bail};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port that nobody listens on, and that this process has not handed out before.
pub fn free_port() -> Result<u16> {
    let mut guard = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let taken = guard.get_or_insert_with(HashSet::new);
    for _ in 0..1_000 {
        // Each `RandomState` has other keys: chance enough, without a dependency.
        let chance = RandomState::new().build_hasher().finish();
        let port = FIRST + (chance % u64::from(COUNT)) as u16;
        if !taken.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.insert(port);
            return Ok(port);
        }
    }
    bail!("no free port from {FIRST} to {}", FIRST + COUNT - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_and_handed_out_once() {
        let ports: HashSet<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 50);
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }
}
