//! What an idle connection costs a node in memory.

use std::time::Duration;

use anyhow::ensure;
use load::{Common, IdleOptions};

use crate::Cli;
use crate::fleet::Fleet;
use crate::page::range;

pub(crate) async fn run(cli: &Cli, connections: usize) -> anyhow::Result<String> {
    let (mut bytes, mut cpu, mut rate, mut redis) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..cli.runs {
        let fleet = Fleet::product(&cli.binary, 1, &[]).await?;
        let used = |fleet: &Fleet| fleet.info("memory", "used_memory:");
        let before = used(&fleet);
        let options = IdleOptions {
            urls: fleet.urls.clone(),
            connections,
            hold: Duration::from_secs(cli.seconds),
            common: Common { pids: fleet.pids.clone(), ..Common::default() },
        };
        let report = load::idle(options).await?;
        ensure!(report.opened == connections, "only {} of {connections} opened: {:?}", report.opened, report.failures);
        redis.push((used(&fleet) - before) / connections as f64);
        bytes.extend(report.resident_bytes_per_connection);
        cpu.extend(report.cpu_us_per_connection_s);
        rate.push(report.opened_per_s);
        eprintln!("{:.0} bytes a connection", bytes.last().copied().unwrap_or(f64::NAN));
    }
    Ok(format!(
        "One node on Redis, {connections} connections after `hello`, each a user of its own, held for {} s, {} runs: median \
         (least–most). Resident memory is (with all connections - with none) / connections, of the node alone; the kernel's \
         part of a socket is not in it.\n\n| figure | value |\n|---|---|\n| resident bytes a connection | {} |\n| Redis bytes a \
         connected user | {} |\n| CPU, us a connection a second | {} |\n| opened a second | {} |\n\nThe goal was at most 8,192 \
         bytes.\n",
        cli.seconds,
        cli.runs,
        range(&bytes),
        range(&redis),
        range(&cpu),
        range(&rate),
    ))
}
