//! Credentials → [`Identity`]: who somebody is, or why he is not let in.
//!
//! No text that leaves here holds a credential: refusals go to clients and into logs.

mod claims;
mod jwt;

use connection::{Credential, Identity, Refused, Rights};
use protocol::{UnixMillis, UserId};

use crate::config::{Auth, Config};

/// Decides about credentials. Made once a node, asked by all connections; it neither waits nor remembers.
#[derive(Debug)]
pub struct Authenticator {
    how: How,
    /// What everybody may do who is who he says.
    all: Rights,
}

#[derive(Debug)]
enum How {
    /// Everybody is who he says.
    Trust,
    Jwt(Box<jwt::Verifier>),
}

impl Authenticator {
    pub fn new(config: &Config) -> Self {
        let how = match &config.auth {
            Auth::None => How::Trust,
            Auth::Jwt(jwt) => How::Jwt(Box::new(jwt::Verifier::new(jwt, config.rights.clone()))),
        };
        Self { how, all: Rights::all() }
    }

    /// Says who holds these credentials at `now`, the wall clock.
    ///
    /// # Errors
    /// [`Refused::Expired`] if they were good once: the client comes back with new ones. [`Refused::Unauthorized`] for
    /// everything else, with what was expected.
    pub fn verify(&self, credential: &Credential, now: UnixMillis) -> Result<Identity, Refused> {
        match (&self.how, credential) {
            (How::Trust, Credential::User(user)) => {
                let user = UserId::parse(user).map_err(|e| unauthorized(format!("`user`: {e}")))?;
                let (groups, rights) = (Vec::new(), self.all.clone());
                Ok(Identity { user, device: None, expires: None, groups, rights, profile: None })
            }
            (How::Trust, Credential::Token(_)) => Err(unauthorized(
                "this node runs with `--auth none` and checks no tokens: connect with `?user=USER`, or start it with \
                 `--auth jwt`",
            )),
            (How::Jwt(verifier), Credential::Token(token)) => verifier.verify(token, now),
            (How::Jwt(_), Credential::User(_)) => Err(unauthorized(
                "this node runs with `--auth jwt` and takes nobody's word: send a token as `Authorization: Bearer`, \
                 `?token=` or in `hello`",
            )),
        }
    }
}

fn unauthorized(text: impl Into<String>) -> Refused {
    Refused::Unauthorized(text.into())
}

#[cfg(test)]
mod tests;
