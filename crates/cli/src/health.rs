//! `switchboard health`: whether a node is ready, as an exit status. The health check of the container image.

use anyhow::{Context, bail};
use clap::Args;
use hyper::Method;

use crate::send::Call;

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// The node's listener for clients
    #[arg(long, env = "SWITCHBOARD_URL", default_value = "ws://127.0.0.1:8080")]
    url: String,
}

pub(crate) async fn run(args: HealthArgs) -> anyhow::Result<()> {
    let base = http_base(&args.url)?;
    let call = Call { method: Method::GET, path: "/readyz", key: None, body: None };
    let answer = call.to(&base).await?;
    if answer.status != 200 {
        bail!("{base} is not ready: expected HTTP status 200 from /readyz, got {}", answer.status);
    }
    Ok(())
}

/// The listener for clients speaks HTTP as well.
fn http_base(url: &str) -> anyhow::Result<String> {
    let rest = url.strip_prefix("ws://").or_else(|| url.strip_prefix("http://"));
    let rest = rest.with_context(|| format!("--url {url:?}: expected ws://HOST:PORT"))?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    Ok(format!("http://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_url_leads_to_the_probe() {
        for url in ["ws://127.0.0.1:8080", "http://127.0.0.1:8080/", "ws://127.0.0.1:8080/v1/connect?x=1"] {
            assert_eq!(http_base(url).unwrap(), "http://127.0.0.1:8080");
        }
        assert!(http_base("wss://node").unwrap_err().to_string().contains("expected ws://HOST:PORT"));
    }

    #[tokio::test]
    async fn nobody_is_not_healthy() {
        let error = run(HealthArgs { url: "ws://127.0.0.1:1".into() }).await.unwrap_err();
        assert!(format!("{error:#}").contains("expected a node there"), "{error:#}");
    }
}
