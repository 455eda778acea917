//! JSON Web Tokens signed with a shared secret (HS256).
//!
//! The library checks form, algorithm and signature. Times, issuer and audience are compared here, because the library
//! would ask the system's clock, and time is an argument in this code.

use std::fmt;
use std::sync::Once;

use connection::{Identity, Refused, Rights};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use protocol::UnixMillis;
use serde_json::{Map, Value};

use super::claims::Claims;
use super::unauthorized;
use crate::config::Jwt;

/// Bytes of a token. No issuer makes larger ones that still fit a proxy's header limit; what is larger is not even
/// decoded.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// How far the clock of whoever signs may run ahead of ours: a token may be used this much before its `nbf`. The end
/// has no such allowance: whoever comes after `exp` is not let in.
const EARLY_MS: u64 = 30_000;

pub(super) struct Verifier {
    key: DecodingKey,
    validation: Validation,
    issuer: Option<String>,
    audience: Option<String>,
    /// Of users whose tokens say nothing of their own.
    rights: Rights,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    pub(super) fn new(jwt: &Jwt, rights: Rights) -> Self {
        install_provider();
        // The algorithm is ours to say, never the token's.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Self {
            key: DecodingKey::from_secret(jwt.secret.reveal().as_bytes()),
            validation,
            issuer: jwt.issuer.clone(),
            audience: jwt.audience.clone(),
            rights,
        }
    }

    pub(super) fn verify(&self, token: &str, now: UnixMillis) -> Result<Identity, Refused> {
        if token.is_empty() {
            return Err(unauthorized("the token is empty"));
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(unauthorized(format!("the token is larger than {TOKEN_BYTES_MAX} bytes")));
        }
        let decoded = jsonwebtoken::decode::<Map<String, Value>>(token, &self.key, &self.validation)
            .map_err(|e| unauthorized(reason(e.kind())))?;
        if decoded.header.crit.is_some() {
            return Err(unauthorized("the token's header has `crit`: nothing of that kind is understood here"));
        }
        let claims = Claims::read(&decoded.claims).map_err(|e| unauthorized(format!("the token's {e}")))?;
        self.check(&claims, now)?;
        Ok(Identity {
            user: claims.user,
            device: claims.device,
            expires: Some(UnixMillis(claims.expires_ms)),
            groups: claims.groups,
            rights: claims.rights.unwrap_or_else(|| self.rights.clone()),
            profile: claims.profile,
        })
    }

    /// The end comes last: a token that is wrong in itself would not be better if it were new.
    fn check(&self, claims: &Claims, now: UnixMillis) -> Result<(), Refused> {
        if self.issuer.is_some() && claims.issuer != self.issuer {
            return Err(unauthorized("the token's `iss` is missing or another one than this node's `jwt-issuer`"));
        }
        match &self.audience {
            Some(audience) if !claims.audience.contains(audience) => {
                return Err(unauthorized("the token's `aud` is missing or without this node's `jwt-audience`"));
            }
            // RFC 7519, 4.1.3: who does not find himself in `aud` must refuse.
            None if !claims.audience.is_empty() => {
                return Err(unauthorized(
                    "the token has an `aud`, and this node has no `jwt-audience` to compare it with",
                ));
            }
            _ => {}
        }
        if claims.not_before_ms.is_some_and(|from| from > now.0.saturating_add(EARLY_MS)) {
            return Err(unauthorized("the token is not valid yet: its `nbf` lies ahead"));
        }
        if claims.expires_ms <= now.0 { Err(Refused::Expired) } else { Ok(()) }
    }
}

/// Chooses the cryptography before the first use: the library panics if nobody did, or if two are compiled in.
fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error says that somebody else in this process chose before, which is as good.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    });
}

/// What is wrong with a token, for its holder. The library's own texts may quote the token.
fn reason(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidSignature => {
            "the token's signature does not fit: it was changed, or signed with another secret"
        }
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::MissingAlgorithm => {
            "the token's `alg` is not HS256"
        }
        ErrorKind::Json(_) => "the token's header or claims are not the JSON of an HS256 token",
        _ => "the token is no JWT: expected three parts of base64url with dots between",
    }
}
