//! What members cost: joins and leaves a second, memory of the node and of Redis.

use std::time::Duration;

use anyhow::ensure;
use load::{Act, Common, Crowd, CrowdOptions, JoinsOptions};

use crate::Cli;
use crate::fleet::Fleet;
use crate::page::{median, range};

/// Of the first part.
const CONNECTIONS: usize = 200;
const GROUPS: usize = 2_000;
const WINDOW: usize = 8;

/// Of the second part: as many connections as groups have members, and so many groups that what is measured is far above
/// what an allocator keeps for itself.
const CROWD: usize = 10_000;
const SHARED_GROUPS: usize = 5;

/// Until what the joins caused is over and memory stands still.
const SETTLE: Duration = Duration::from_secs(6);

pub(crate) async fn run(cli: &Cli) -> anyhow::Result<String> {
    let (mut changes, mut p99, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..cli.runs {
        let fleet = Fleet::product(&cli.binary, 1, &[]).await?;
        let options = JoinsOptions {
            url: fleet.urls[0].clone(),
            connections: CONNECTIONS,
            groups: GROUPS,
            window: WINDOW,
            warmup: Duration::from_secs(2),
            measure: Duration::from_secs(cli.seconds),
            common: Common { pids: fleet.pids.clone(), ..Common::default() },
        };
        let report = load::joins(options).await?;
        ensure!(report.disconnects.is_empty() && report.errors.is_empty(), "the run was not clean:\n{report}");
        eprintln!("{report}");
        changes.push(report.changes_per_s);
        p99.push(report.latency.p99_us as f64 / 1e3);
        cpu.extend(report.cpu_us_per_change);
    }
    let mut memory = Memory::default();
    for _ in 0..cli.runs {
        memory.measure(cli).await?;
    }
    Ok(format!(
        "One node. Changes: {CONNECTIONS} connections, each a user of its own that joins and leaves {WINDOW} of {GROUPS} groups \
         without pause, {} s a run, {} runs: median (least–most). Memory: {CROWD} connections, each a user of its own; all join and \
         leave one group until they disconnect, so that buffers have their size; then all join {SHARED_GROUPS} groups so, one after \
         the other. Resident memory of the node is (with - without the {SHARED_GROUPS} groups) / memberships, so connections are not \
         in it. Then all join a group for good and leave it, so that Redis\' tables have their size, and join two: Redis memory is `used_memory`, once for the first group, which brings each user \
         a set of his groups, and once for the other.\n\n| figure | value |\n|---|---|\n| joins and leaves a second | {} |\n| p99 of an answer, ms | {} |\n| node \
         CPU, us a change | {} |\n| node bytes a local member | {} |\n| Redis bytes a member, first group of its users | {} |\n| \
         Redis bytes a member, further groups | {} |\n\nThe goals: at least 5,000 joins and leaves a second (**{:.0}**), at most 200 \
         bytes of the node a local member (**{:.0}**), at most 250 bytes of Redis a member (**{:.0}** in the first group, **{:.0}** \
         in further ones).\n",
        cli.seconds,
        cli.runs,
        range(&changes),
        range(&p99),
        range(&cpu),
        range(&memory.node),
        range(&memory.redis_first),
        range(&memory.redis_further),
        median(&changes),
        median(&memory.node),
        median(&memory.redis_first),
        median(&memory.redis_further),
    ))
}

/// Bytes a membership, a value a run.
#[derive(Default)]
struct Memory {
    node: Vec<f64>,
    redis_first: Vec<f64>,
    redis_further: Vec<f64>,
}

impl Memory {
    async fn measure(&mut self, cli: &Cli) -> anyhow::Result<()> {
        let fleet = Fleet::product(&cli.binary, 1, &[]).await?;
        let options = CrowdOptions { url: fleet.urls[0].clone(), connections: CROWD, common: Common::default() };
        let mut crowd = Crowd::open(&options).await?;
        // Visits: their seats and streams are those of members for good, but no notices to all the others come and go beside
        // them, whose buffers an allocator keeps.
        for act in [Act::Visit, Act::Leave] {
            crowd.order(act, "warm-up").await?;
        }
        let (node, _) = settled(&fleet).await?;
        for group in 0..SHARED_GROUPS {
            crowd.order(Act::Visit, &format!("visited-{group}")).await?;
        }
        let (node_all, _) = settled(&fleet).await?;
        for act in [Act::Join, Act::Leave] {
            crowd.order(act, "warm-up").await?;
        }
        let (_, redis) = settled(&fleet).await?;
        crowd.order(Act::Join, "shared-0").await?;
        let (_, redis_one) = settled(&fleet).await?;
        crowd.order(Act::Join, "shared-1").await?;
        let (_, redis_two) = settled(&fleet).await?;
        let (members, groups) = (CROWD as f64, SHARED_GROUPS as f64);
        self.node.push((node_all - node) / (members * groups));
        self.redis_first.push((redis_one - redis) / members);
        self.redis_further.push((redis_two - redis_one) / members);
        eprintln!(
            "bytes a member: {:?} {:?} {:?}",
            self.node.last(),
            self.redis_first.last(),
            self.redis_further.last()
        );
        Ok(())
    }
}

/// Resident memory of the node, and memory in use of Redis, when nothing happens any more.
async fn settled(fleet: &Fleet) -> anyhow::Result<(f64, f64)> {
    tokio::time::sleep(SETTLE).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", fleet.pids[0]))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok((kib * 1_024.0, fleet.info("memory", "used_memory:")))
}
