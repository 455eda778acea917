//! What the kernel says about processes: CPU time, resident memory, how many files may be open.

use std::fs;

use anyhow::{Context, bail};
use serde::Serialize;

/// The kernel counts CPU time for user space in hundredths of a second, whatever its own tick is (`USER_HZ`).
const TICK_US: u64 = 10_000;

/// One process that was watched: a server, or this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessReport {
    pub pid: u32,
    /// In user space and kernel, during the measured time only.
    pub cpu_us: u64,
    /// Before the first connection.
    pub resident_before_bytes: u64,
    /// At the end of the measured time, with all connections open.
    pub resident_after_bytes: u64,
}

/// Reads the same processes at the moments that matter.
#[derive(Debug)]
pub(crate) struct Watch {
    processes: Vec<Process>,
}

#[derive(Debug)]
struct Process {
    pid: u32,
    resident_before_bytes: u64,
    cpu_start_us: u64,
}

impl Watch {
    /// Before the first connection.
    pub(crate) fn start(pids: &[u32]) -> anyhow::Result<Self> {
        let process = |pid: &u32| {
            Ok(Process { pid: *pid, resident_before_bytes: resident_bytes(*pid)?, cpu_start_us: cpu_us(*pid)? })
        };
        Ok(Self { processes: pids.iter().map(process).collect::<anyhow::Result<_>>()? })
    }

    /// The measured time begins.
    pub(crate) fn begin(&mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            process.cpu_start_us = cpu_us(process.pid)?;
        }
        Ok(())
    }

    /// The measured time is over, and all connections are still open.
    pub(crate) fn end(&self) -> anyhow::Result<Vec<ProcessReport>> {
        let report = |process: &Process| {
            Ok(ProcessReport {
                pid: process.pid,
                cpu_us: cpu_us(process.pid)?.saturating_sub(process.cpu_start_us),
                resident_before_bytes: process.resident_before_bytes,
                resident_after_bytes: resident_bytes(process.pid)?,
            })
        };
        self.processes.iter().map(report).collect()
    }
}

fn cpu_us(pid: u32) -> anyhow::Result<u64> {
    let stat = read(pid, "stat")?;
    parse_cpu_ticks(&stat).map(|ticks| ticks * TICK_US).with_context(|| format!("/proc/{pid}/stat has another form"))
}

/// `utime` and `stime` are the 14th and 15th field; the second is a name in brackets that may hold anything.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = read(pid, "status")?;
    parse_resident_kib(&status).map(|kib| kib * 1024).with_context(|| format!("/proc/{pid}/status has no VmRSS"))
}

fn parse_resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn read(pid: u32, file: &str) -> anyhow::Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| {
        format!("--pid {pid}: its /proc/{pid}/{file} cannot be read; expected the id of a process that runs here")
    })
}

/// Files that this process needs besides its connections: the runtime, the terminal, the resolver.
const OTHER_FILES: usize = 64;

/// Whether so many sockets can be open. Better told before than as a thousand failed connections.
pub(crate) fn check_files(sockets: usize) -> anyhow::Result<()> {
    let Ok(limits) = fs::read_to_string("/proc/self/limits") else { return Ok(()) };
    let wanted = sockets + OTHER_FILES;
    match parse_open_files(&limits) {
        Some(allowed) if allowed < wanted => bail!(
            "{sockets} connections need {wanted} open files, and this process may have {allowed}: raise it with \
             `ulimit -n {wanted}`, or ask for fewer connections"
        ),
        _ => Ok(()),
    }
}

/// The soft limit; `None` also stands for "unlimited".
fn parse_open_files(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1 2";
        assert_eq!(parse_cpu_ticks(stat), Some(300));
        assert_eq!(parse_cpu_ticks("nonsense"), None);
    }

    #[test]
    fn memory_and_files_are_found() {
        assert_eq!(parse_resident_kib("VmPeak:\t 9 kB\nVmRSS:\t  2048 kB\n"), Some(2_048));
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024    4096    files\n";
        assert_eq!(parse_open_files(limits), Some(1_024));
        assert_eq!(parse_open_files("Max open files  unlimited unlimited files"), None);
    }

    #[test]
    fn this_process_can_be_watched_and_one_that_is_not_there_cannot() {
        let mut watch = Watch::start(&[std::process::id()]).unwrap();
        watch.begin().unwrap();
        let report = watch.end().unwrap();
        assert!(report[0].resident_after_bytes > 100_000);
        let error = Watch::start(&[u32::MAX]).unwrap_err().to_string();
        assert!(error.contains("--pid 4294967295"), "{error}");
        assert!(check_files(usize::MAX / 2).unwrap_err().to_string().contains("ulimit -n"));
    }
}
