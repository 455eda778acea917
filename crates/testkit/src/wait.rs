//! Waiting for a condition instead of for a time.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Between two questions. Short against what is waited for, long enough to leave the processor to the others.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// Asks until there is an answer, and gives it back.
///
/// # Errors
/// After `within`: an error that says `what` was hoped for.
///
/// # Cancellation
/// Dropping the future ends the asking.
pub async fn eventually<T, F>(what: &str, within: Duration, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Option<T>>,
{
    let end = Instant::now() + within;
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        if Instant::now() >= end {
            bail!("not within {within:?}: {what}");
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn it_asks_until_there_is_an_answer_and_says_what_was_hoped_for_when_there_is_none() {
        let asked = Cell::new(0);
        let third = eventually("a third time", Duration::from_secs(5), || {
            asked.set(asked.get() + 1);
            let n = asked.get();
            async move { (n == 3).then_some(n) }
        });
        assert_eq!(third.await.unwrap(), 3);
        let never = eventually("pigs fly", Duration::from_millis(20), || async { None::<()> }).await;
        assert!(never.unwrap_err().to_string().contains("pigs fly"));
    }
}
