//! Another wall clock for one process: a small library that is loaded before all others and adds a number of seconds. The
//! monotonic clock stays right, as on a machine whose time is set.
//!
//! The usual library for this, libfaketime, cannot be loaded into a server that allocates with jemalloc.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// Asks the kernel itself, and a file for the seconds, once a second. Allocates nothing: it is called before `main`.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset(long now) {
    static volatile long asked = -1, seconds = 0;
    if (asked != now) {
        char text[32] = {0};
        const char *path = getenv("CLOCK_OFFSET_FILE");
        int file = path ? open(path, O_RDONLY) : -1;
        asked = now;
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0) seconds = atol(text);
            close(file);
        }
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int result = syscall(SYS_clock_gettime, clock, at);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += offset(at->tv_sec);
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    int result = syscall(SYS_gettimeofday, at, zone);
    if (result == 0 && at) at->tv_sec += offset(at->tv_sec);
    return result;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"#;

/// The library, and the file that says how far off the clock is.
#[derive(Debug)]
pub(super) struct WrongClock {
    directory: TempDir,
}

impl WrongClock {
    /// Compiles the library. A clock that has it runs right until it is told otherwise.
    ///
    /// # Errors
    /// There is no C compiler.
    pub(super) fn build() -> Result<Self> {
        let this = Self { directory: tempfile::Builder::new().prefix("switchboard-clock-").tempdir()? };
        let source = this.directory.path().join("clock.c");
        std::fs::write(&source, SOURCE)?;
        let mut command = Command::new("cc");
        command.args(["-O1", "-shared", "-fPIC", "-o"]).arg(this.path("clock.so")?).arg(&source);
        let output = command.output().context("cc, which Rust needs too")?;
        ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
        this.set(0)?;
        Ok(this)
    }

    /// How far ahead the clock is from the next second on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn set(&self, seconds: i64) -> Result<()> {
        // Renamed, so that nobody reads half of a number.
        let next = self.path("next")?;
        std::fs::write(&next, seconds.to_string())?;
        Ok(std::fs::rename(next, self.path("offset")?)?)
    }

    /// What a process is started with to have this clock.
    ///
    /// # Errors
    /// The temporary directory has no name.
    pub(super) fn env(&self) -> Result<Vec<(&'static str, String)>> {
        Ok(vec![("LD_PRELOAD", self.path("clock.so")?), ("CLOCK_OFFSET_FILE", self.path("offset")?)])
    }

    fn path(&self, name: &str) -> Result<String> {
        let path = self.directory.path().join(name);
        path.to_str().map(str::to_owned).context("a temporary directory whose name is no text")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_wrong_clock_is_off_by_what_it_was_told() {
        let clock = WrongClock::build().unwrap();
        clock.set(-86_400).unwrap();
        let says = |is_wrong: bool| -> i64 {
            let mut command = Command::new("date");
            if is_wrong {
                command.envs(clock.env().unwrap());
            }
            String::from_utf8(command.arg("+%s").output().unwrap().stdout).unwrap().trim().parse().unwrap()
        };
        let behind = says(false) - says(true);
        assert!((86_398..=86_402).contains(&behind), "{behind}");
    }
}
