//! A real `redis-server` that a test may kill, freeze and start again, with the append-only file an operator should use.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::ports::free_port;
use crate::process::{Process, Signal};
use crate::wait::PAUSE;

/// Redis is up in tens of milliseconds; loading a large append-only file on a busy machine takes longer.
const START_WITHIN: Duration = Duration::from_secs(20);

/// For one command of a test. `DEBUG SLEEP` and frozen servers are waited for by whoever causes them.
const COMMAND_WITHIN: Duration = Duration::from_secs(10);

/// Another process may take a port between the look and the bind.
const START_TRIES: usize = 4;

/// One server on a port and in a directory of its own. Killed when dropped.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    extra: Vec<String>,
    env: Vec<(String, String)>,
    directory: TempDir,
}

impl Redis {
    /// Starts a server: `appendonly yes`, `appendfsync everysec`, no snapshots.
    ///
    /// # Errors
    /// `redis-server` is not installed, or it does not answer PING.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with more arguments, which win over the usual ones: `["--maxmemory", "3mb"]`.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub fn start_with(extra: &[&str]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("switchboard-redis-").tempdir()?;
        let extra: Vec<String> = extra.iter().map(|&argument| argument.to_owned()).collect();
        let mut last = anyhow!("never tried");
        for _ in 0..START_TRIES {
            let port = free_port()?;
            let process = spawn(port, directory.path(), &extra, &[])?;
            match answers(&process, port) {
                Ok(()) => return Ok(Self { process, port, extra, env: Vec::new(), directory }),
                Err(error) if process.log().contains("Address already in use") => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// What `--redis` takes.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// The process: its log, its id, its memory.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where its files are; the append-only file may be cut there while it is dead.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// SIGKILL. What the operating system has of the append-only file stays.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Starts it again on the same port and with the same files; kills it first if it still runs.
    ///
    /// # Errors
    /// It does not answer PING.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = spawn(self.port, self.directory.path(), &self.extra, &self.env)?;
        answers(&self.process, self.port)
    }

    /// As [`Redis::restart`], with this environment beside the test's own, also at later restarts: another clock, by a
    /// library that is loaded first.
    ///
    /// # Errors
    /// As [`Redis::restart`].
    pub fn restart_with_env(&mut self, env: &[(&str, &str)]) -> Result<()> {
        self.env = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        self.restart()
    }

    /// SIGSTOP: it answers nothing, and nobody is told.
    ///
    /// # Errors
    /// It is not running.
    pub fn stop(&self) -> Result<()> {
        self.process.signal(Signal::Stop)
    }

    /// SIGCONT: it goes on, with whatever lay in its sockets meanwhile.
    ///
    /// # Errors
    /// It is not running.
    pub fn cont(&self) -> Result<()> {
        self.process.signal(Signal::Continue)
    }

    /// Runs one command on a connection of its own and gives its answer as text: nil is empty, the items of an array
    /// are one a line.
    ///
    /// # Errors
    /// No answer, or an error of the server; its text is in the error.
    pub fn try_cli(&self, command: &[&str]) -> Result<String> {
        ask(self.port, command, COMMAND_WITHIN).with_context(|| format!("redis: {}", command.join(" ")))
    }

    /// As [`Redis::try_cli`], for values that are no text: each item of the answer by itself, nil as an empty one.
    ///
    /// # Errors
    /// As [`Redis::try_cli`].
    pub fn try_bytes(&self, command: &[&str]) -> Result<Vec<Vec<u8>>> {
        let mut items = Vec::new();
        let mut stream = asked(self.port, command, COMMAND_WITHIN)?;
        reply(&mut stream, &mut items).with_context(|| format!("redis: {}", command.join(" ")))?;
        Ok(items)
    }

    /// As [`Redis::try_cli`], for a command that cannot fail in a test that works.
    ///
    /// # Panics
    /// On every error, with its text.
    pub fn cli(&self, command: &[&str]) -> String {
        match self.try_cli(command) {
            Ok(answer) => answer,
            Err(error) => panic!("{error:#}"),
        }
    }
}

fn spawn(port: u16, directory: &std::path::Path, extra: &[String], env: &[(String, String)]) -> Result<Process> {
    let mut command = Command::new("redis-server");
    command
        .envs(env.iter().map(|(name, value)| (name, value)))
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"])
        .args(["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""])
        .arg("--dir")
        .arg(directory)
        .args(extra);
    Process::spawn(&format!("redis-{port}"), &mut command).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            anyhow!(
                "redis-server is not installed, and these tests need a real one (version 7 or later): \
                 `apt-get install redis-server`, `dnf install redis` or `brew install redis`, then run them again"
            )
        } else {
            anyhow::Error::new(error).context("starting redis-server")
        }
    })
}

/// Waits until it answers PING; it also answers while it loads its files, but not with PONG.
fn answers(process: &Process, port: u16) -> Result<()> {
    let end = Instant::now() + START_WITHIN;
    loop {
        if let Some(status) = process.exit_status() {
            // Its last words are still on their way through the pipe.
            std::thread::sleep(PAUSE * 5);
            bail!("redis-server ended at its start: {status}\n{}", process.story());
        }
        if ask(port, &["PING"], Duration::from_secs(1)).is_ok_and(|answer| answer == "PONG") {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("redis-server does not answer after {START_WITHIN:?}\n{}", process.story());
        }
        std::thread::sleep(PAUSE);
    }
}

pub(crate) fn ask(port: u16, command: &[&str], within: Duration) -> Result<String> {
    let mut items = Vec::new();
    reply(&mut asked(port, command, within)?, &mut items)?;
    let texts: Vec<_> = items.iter().map(|item| String::from_utf8_lossy(item)).collect();
    Ok(texts.join("\n"))
}

/// A connection on which the command is written, and nothing read yet.
fn asked(port: u16, command: &[&str], within: Duration) -> Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), within)?;
    stream.set_read_timeout(Some(within))?;
    let mut request = format!("*{}\r\n", command.len()).into_bytes();
    for word in command {
        request.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    stream.write_all(&request)?;
    Ok(BufReader::new(stream))
}

/// Reads one RESP2 reply; arrays within arrays are laid flat.
fn reply(from: &mut impl BufRead, items: &mut Vec<Vec<u8>>) -> Result<()> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    let line = line.strip_suffix(b"\r\n").context("the server closed the connection")?;
    let (kind, rest) = line.split_first().context("an empty reply")?;
    let text = String::from_utf8_lossy(rest);
    match kind {
        b'+' | b':' => items.push(rest.to_vec()),
        b'-' => bail!("{text}"),
        b'$' => {
            let Ok(bytes) = usize::try_from(text.parse::<i64>()?) else {
                items.push(Vec::new());
                return Ok(());
            };
            let mut value = vec![0; bytes + 2];
            from.read_exact(&mut value)?;
            value.truncate(bytes);
            items.push(value);
        }
        b'*' => {
            for _ in 0..text.parse::<i64>()? {
                reply(from, items)?;
            }
        }
        other => bail!("no RESP2 reply: {:?}", char::from(*other)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_there_after_a_kill_and_a_restart() {
        let mut redis = Redis::start().unwrap();
        assert_eq!(redis.cli(&["SET", "k", "two words"]), "OK");
        assert_eq!(redis.cli(&["RPUSH", "l", "a", "b"]), "2");
        let url = redis.url();
        redis.kill();
        assert!(redis.try_cli(&["PING"]).is_err());
        redis.restart().unwrap();
        assert_eq!(redis.url(), url);
        assert_eq!(redis.cli(&["GET", "k"]), "two words");
        assert_eq!(redis.cli(&["LRANGE", "l", "0", "-1"]), "a\nb");
        assert_eq!(redis.cli(&["GET", "nothing"]), "");
        assert_eq!(redis.cli(&["CONFIG", "GET", "appendfsync"]), "appendfsync\neverysec");
        assert_eq!(redis.cli(&["CONFIG", "GET", "save"]), "save\n");
    }

    #[test]
    fn a_stopped_server_answers_nothing_until_it_goes_on() {
        let redis = Redis::start().unwrap();
        redis.stop().unwrap();
        assert!(ask(redis.port(), &["PING"], Duration::from_millis(200)).is_err());
        redis.cont().unwrap();
        assert_eq!(redis.cli(&["PING"]), "PONG");
    }

    #[test]
    fn an_error_of_the_server_is_an_error_with_its_text() {
        let redis = Redis::start_with(&["--maxmemory", "3mb"]).unwrap();
        assert_eq!(redis.cli(&["CONFIG", "GET", "maxmemory"]), "maxmemory\n3145728");
        let error = redis.try_cli(&["NONSENSE"]).unwrap_err();
        assert!(format!("{error:#}").contains("unknown command"), "{error:#}");
    }

    #[test]
    fn a_server_that_refuses_its_configuration_says_so_at_once() {
        let error = Redis::start_with(&["--maxmemory-policy", "whatever"]).unwrap_err();
        assert!(error.to_string().contains("maxmemory-policy"), "{error}");
    }

    #[test]
    fn a_dropped_server_leaves_neither_process_nor_files() {
        let redis = Redis::start().unwrap();
        let (port, files) = (redis.port(), redis.directory().to_owned());
        drop(redis);
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
        assert!(!files.exists());
    }
}
