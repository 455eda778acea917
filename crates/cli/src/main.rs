//! The `switchboard` command: one file a subcommand.
//!
//! Exit status: 0 when all went well, 1 when it did not, 2 for a bad command line.

mod bench;
mod doctor;
mod health;
mod listen;
mod send;
mod serve;
mod token;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use gateway::config::ConfigError;

/// A horizontally scalable WebSocket gateway fleet
#[derive(Debug, Parser)]
#[command(name = "switchboard", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node. Without `--redis`: the embedded backplane
    Serve(Box<serve::ServeArgs>),
    /// Print what arrives for a user, one line of JSON a message
    Listen(listen::ListenArgs),
    /// Send one message through the server API
    Send(send::SendArgs),
    /// Sign a development token
    Token(token::TokenArgs),
    /// Put load on a fleet and measure it
    Bench(bench::BenchArgs),
    /// Check the settings and the Redis they name: what loses messages, and what to change
    Doctor(Box<doctor::DoctorArgs>),
    /// Ask a node whether it is ready
    Health(health::HealthArgs),
}

fn main() -> ExitCode {
    // clap ends the process with status 2 if it does not understand.
    let matches = Cli::command().get_matches();
    let result = Cli::from_arg_matches(&matches).map_err(anyhow::Error::from).and_then(|cli| match cli.command {
        Command::Serve(args) => serve::run(*args, matches.subcommand_matches("serve")),
        Command::Listen(args) => block_on(listen::run(args)),
        Command::Send(args) => block_on(send::run(args)),
        Command::Token(args) => block_on(token::run(args)),
        Command::Bench(args) => block_on(bench::run(args)),
        Command::Doctor(args) => doctor::run(*args, matches.subcommand_matches("doctor")),
        Command::Health(args) => block_on(health::run(args)),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            let is_command_line = e.downcast_ref().is_some_and(ConfigError::is_command_line);
            ExitCode::from(if is_command_line { 2 } else { 1 })
        }
    }
}

/// Runs a command that talks to a node. One thread is enough; `serve` builds its own runtimes.
fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
