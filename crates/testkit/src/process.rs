//! A child process of a test: its log, its signals, and its certain end.
//!
//! A process is killed by its own id when its [`Process`] is dropped. Statics are never dropped, and a test binary can
//! be killed: for these a watchdog waits at the end of a pipe that closes with this process, whatever ended it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

use crate::wait::PAUSE;

/// Lines that a log keeps. Enough for every test of this project at level `debug`, and a bound for the one that loops.
const LOG_LINES_MAX: usize = 100_000;

/// Lines of a log that are printed when a test fails: what happened last, still readable.
const LOG_LINES_SHOWN: usize = 120;

/// How long the last lines of a process that ended may take to come through the pipe.
const LOG_SETTLES_WITHIN: Duration = Duration::from_secs(1);

/// What can be sent to a process. `Stop` freezes it as a paused machine would, `Continue` thaws it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Terminate,
    Interrupt,
    Stop,
    Continue,
}

impl Signal {
    const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "TERM",
            Self::Interrupt => "INT",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

/// One child. All methods take `&self`, so that many tests can share one.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    log: Log,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    child: Child,
    exit: Option<ExitStatus>,
    readers: Vec<JoinHandle<()>>,
    /// Gone as soon as the child is known to have ended: its id may belong to somebody else then.
    watchdog: Option<Watchdog>,
}

impl Process {
    /// Starts `command` with an empty standard input; what it writes goes to its [`Log`]. `name` is what a failed test
    /// prints above that log.
    ///
    /// # Errors
    /// As [`Command::spawn`]; the caller says what a missing program means.
    pub fn spawn(name: &str, command: &mut Command) -> std::io::Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let pid = child.id();
        let watchdog = match Watchdog::over(pid) {
            Ok(watchdog) => watchdog,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let log = Log::default();
        let mut readers = Vec::with_capacity(2);
        if let Some(stdout) = child.stdout.take() {
            readers.push(log.follow(stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(log.follow(stderr));
        }
        let state = State { child, exit: None, readers, watchdog: Some(watchdog) };
        Ok(Self { name: name.to_owned(), pid, log, state: Mutex::new(state) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The exit status, once it has ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        let mut state = lock(&self.state);
        if state.exit.is_none()
            && let Ok(Some(status)) = state.child.try_wait()
        {
            state.ended(status);
        }
        state.exit
    }

    pub fn is_running(&self) -> bool {
        self.exit_status().is_none()
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// Still running after `within`.
    pub async fn wait(&self, within: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.exit_status() {
                self.settle().await;
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!("{} (process {}) is still running after {within:?}", self.name, self.pid);
            }
            sleep(PAUSE).await;
        }
    }

    /// Sends a signal by the process id.
    ///
    /// # Errors
    /// It has ended already, or the signal cannot be sent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // The lock is held until the signal is sent, so that nobody reaps the child and frees its id meanwhile.
        let mut state = lock(&self.state);
        if let Some(status) = state.child.try_wait().context("asking for the exit status")? {
            state.ended(status);
        }
        if let Some(status) = state.exit {
            bail!("{} (process {}) has already ended: {status}", self.name, self.pid);
        }
        let pid = self.pid.to_string();
        let sent = Command::new("sh")
            .args(["-c", "kill -s \"$1\" \"$2\"", "sh", signal.name(), &pid])
            .stdin(Stdio::null())
            .status()
            .context("running sh to send a signal")?;
        if !sent.success() {
            bail!("SIG{} could not be sent to {} (process {pid})", signal.name(), self.name);
        }
        Ok(())
    }

    /// SIGKILL: no goodbye and no clean-up, as in a crash. It is gone when this returns.
    pub fn kill(&self) {
        let mut state = lock(&self.state);
        if state.exit.is_some() {
            return;
        }
        let _ = state.child.kill();
        if let Ok(status) = state.child.wait() {
            state.ended(status);
        }
    }

    /// Resident memory.
    ///
    /// # Errors
    /// It has ended, or this system has no `/proc`.
    pub fn rss_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        let kib: u64 = kib.with_context(|| format!("no VmRSS in {path}: has {} ended?", self.name))?;
        Ok(kib * 1024)
    }

    /// The last lines of its log under its name, for the text of an error.
    pub fn story(&self) -> String {
        format!("--- log of {} (process {}) ---\n{}", self.name, self.pid, self.log.tail(LOG_LINES_SHOWN))
    }

    /// Waits until what an ended process wrote is in the log.
    pub(crate) async fn settle(&self) {
        let end = Instant::now() + LOG_SETTLES_WITHIN;
        while Instant::now() < end && !lock(&self.state).readers.iter().all(JoinHandle::is_finished) {
            sleep(PAUSE).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.story());
        }
    }
}

impl State {
    fn ended(&mut self, status: ExitStatus) {
        self.exit = Some(status);
        self.watchdog = None;
    }
}

/// A shell that kills one process when this one is gone.
#[derive(Debug)]
struct Watchdog(Child);

impl Watchdog {
    fn over(pid: u32) -> std::io::Result<Self> {
        // Its standard input is a pipe whose other end nobody but this process has; it is never written to. A group of
        // its own, so that an interrupt from the terminal does not end it before it has done its work.
        Command::new("sh")
            .args(["-c", "read -r _; kill -9 \"$1\"", "sh", &pid.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map(Self)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process wrote to its standard output and error, line by line. Clones share the lines.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    dropped: usize,
    panics: Vec<String>,
}

impl Log {
    /// A place in the log, for [`Log::since`].
    pub fn mark(&self) -> usize {
        let lines = lock(&self.0);
        lines.dropped + lines.kept.len()
    }

    /// What was written after the mark.
    pub fn since(&self, mark: usize) -> String {
        let lines = lock(&self.0);
        let skip = mark.saturating_sub(lines.dropped);
        lines.kept.iter().skip(skip).map(|line| format!("{line}\n")).collect()
    }

    /// The last lines.
    pub fn tail(&self, count: usize) -> String {
        self.since(self.mark().saturating_sub(count))
    }

    pub fn contains(&self, text: &str) -> bool {
        lock(&self.0).kept.iter().any(|line| line.contains(text))
    }

    /// Every line that tells of a panic, from the start on; these are never dropped.
    pub fn panics(&self) -> Vec<String> {
        lock(&self.0).panics.clone()
    }

    fn follow(&self, pipe: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n') {
                let Ok(line) = line else { return };
                log.push(String::from_utf8_lossy(&line).into_owned());
            }
        })
    }

    fn push(&self, line: String) {
        let mut lines = lock(&self.0);
        if line.contains("panicked at") {
            lines.panics.push(line.clone());
        }
        if lines.kept.len() == LOG_LINES_MAX {
            lines.kept.pop_front();
            lines.dropped += 1;
        }
        lines.kept.push_back(line);
    }
}

/// A test that panicked while it held a lock must not hide the log from the others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Process {
        Process::spawn("a shell", Command::new("sh").args(["-c", script])).unwrap()
    }

    /// True while the process id belongs to a process that is not just waiting to be reaped.
    fn lives(pid: u32) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !status.is_empty() && !status.contains(") Z ")
    }

    #[tokio::test]
    async fn a_process_that_ends_by_itself_leaves_its_status_and_both_its_outputs() {
        let process = shell("echo out; echo err >&2; echo 'thread main panicked at x'; exit 3");
        assert_eq!(process.wait(SOON).await.unwrap().code(), Some(3));
        let log = process.log();
        assert!(log.contains("out") && log.contains("err"), "{}", process.story());
        assert_eq!(log.panics().len(), 1);
        assert_eq!(log.mark(), 3);
        assert_eq!(log.since(3), "");
        assert!(!process.is_running());
        assert!(process.signal(Signal::Terminate).is_err(), "its id may be somebody else's by now");
    }

    #[tokio::test]
    async fn signals_reach_the_process_and_only_it() {
        let process = shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done");
        crate::eventually("the trap is set", SOON, || async { process.log().contains("ready").then_some(()) })
            .await
            .unwrap();
        process.signal(Signal::Stop).unwrap();
        process.signal(Signal::Terminate).unwrap();
        assert!(process.wait(Duration::from_millis(200)).await.is_err(), "a stopped process handles nothing");
        process.signal(Signal::Continue).unwrap();
        assert_eq!(process.wait(SOON).await.unwrap().code(), Some(7));
    }

    #[test]
    fn a_dropped_process_is_gone_even_when_it_was_stopped() {
        let process = shell("exec sleep 1000");
        let pid = process.pid();
        assert!(process.rss_bytes().unwrap() > 0);
        process.signal(Signal::Stop).unwrap();
        drop(process);
        assert!(!lives(pid));
    }

    /// The pipe of the watchdog is closed by hand, as the kernel does it for a test binary that is killed.
    #[tokio::test]
    async fn a_process_ends_with_the_process_that_started_it() {
        let process = shell("exec sleep 1000");
        lock(&process.state).watchdog.as_mut().unwrap().0.stdin.take();
        process.wait(SOON).await.unwrap();
    }

    #[test]
    fn a_log_keeps_the_newest_lines_and_every_panic() {
        let log = Log::default();
        log.push("thread 'main' panicked at src/main.rs".to_owned());
        for n in 0..LOG_LINES_MAX {
            log.push(n.to_string());
        }
        assert_eq!(log.mark(), LOG_LINES_MAX + 1);
        assert!(!log.contains("main.rs"));
        assert_eq!(log.panics().len(), 1);
        assert_eq!(log.tail(2), format!("{}\n{}\n", LOG_LINES_MAX - 2, LOG_LINES_MAX - 1));
    }
}
