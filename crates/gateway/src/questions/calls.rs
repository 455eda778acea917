//! One call to whoever has a record now.

use backplane::{BackplaneError, Commands};
use connection::SendFault;

use super::unavailable;
use crate::current::Current;

/// Asks the master of a record; where it has the record no longer, the next one, once. What is asked may be asked twice.
///
/// # Errors
/// `unavailable`.
pub(crate) async fn asked<T, F>(current: &Current, record: &str, call: impl Fn(Commands) -> F) -> Result<T, SendFault>
where
    F: Future<Output = Result<T, BackplaneError>>,
{
    let group = current.group(record);
    let commands = current.soon(group).await.ok_or_else(unavailable)?;
    let answer = match call(commands.clone()).await {
        Err(BackplaneError::Elsewhere(_)) => {
            let next = current.next_after(group, &commands).await.ok_or_else(unavailable)?;
            call(next).await
        }
        answer => answer,
    };
    answer.map_err(|error| {
        tracing::debug!(%error, "a question has no answer");
        unavailable()
    })
}
