//! Tokens by which workloads without a certificate say who they are: JWTs (RFC 7519) that the control plane itself issued, signed
//! with ES256. The only algorithm is the key's own, whatever a token's header says.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_proto::names::TOKEN_AUDIENCE;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::{CLOCK_SKEW, CaError, load};

/// The longest token that is read, bytes.
pub(super) const MAX_TOKEN: usize = 8192;
/// `iss` of our tokens.
const ISSUER: &str = "ferromesh";
/// Name of the key's file.
const FILE: &str = "token-key.pem";

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a JWT of ours.
    #[error("the token is no JWT: {0}")]
    Malformed(&'static str),
    /// Signed by another key, or changed.
    #[error("the token is not signed by this control plane's token key")]
    Signature,
    /// Too late.
    #[error("the token has expired")]
    Expired,
    /// Too early.
    #[error("the token does not hold yet")]
    NotYet,
    /// Made for somebody else.
    #[error("the token's audience is not `istio-ca`")]
    Audience,
    /// Not a workload's.
    #[error("the token's subject is not system:serviceaccount:NAMESPACE:SERVICE_ACCOUNT")]
    Subject,
}

/// Who a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
}

impl Subject {
    /// Reads Kubernetes' name for a service account.
    pub(super) fn parse(name: &str) -> Result<Self, TokenError> {
        let subject = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        match subject {
            Some((namespace, account)) if !namespace.is_empty() && !account.is_empty() && !account.contains(':') => {
                Ok(Self { namespace: namespace.to_owned(), service_account: account.to_owned() })
            }
            _ => Err(TokenError::Subject),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
    // A header that must be understood and is not makes the token void (RFC 7515, 4.1.11).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    /// True if the token is meant for this one.
    pub(super) fn is_for(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Many(all) => all.iter().any(|one| one == name),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: u64,
    #[serde(default)]
    iat: u64,
    #[serde(default)]
    nbf: u64,
}

/// The key that signs tokens.
#[derive(Clone)]
pub struct TokenKey(Arc<EcdsaKeyPair>);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

impl TokenKey {
    /// A key that lives as long as the process.
    pub fn generate() -> Result<Self, CaError> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| CaError::Crypto("no token key could be made".to_owned()))?;
        Ok(Self(Arc::new(key)))
    }

    /// The key of a directory (`token-key.pem`, PKCS#8, readable by the owner alone); made if there is none.
    pub fn kept(directory: &Path) -> Result<Self, CaError> {
        let path = directory.join(FILE);
        if !path.exists() {
            let key = Self::generate()?;
            load::write_private(&path, &key.pem()?)?;
            return Ok(key);
        }
        Self::read(&path)
    }

    /// The key of a directory if there is one, else one that lives as long as the process: a directory of secrets may not be writable.
    pub fn found(directory: &Path) -> Result<Self, CaError> {
        let path = directory.join(FILE);
        if path.exists() { Self::read(&path) } else { Self::generate() }
    }

    fn read(path: &Path) -> Result<Self, CaError> {
        let failed = |reason: String| CaError::File { path: path.to_owned(), reason };
        let der = PrivatePkcs8KeyDer::from_pem_file(path).map_err(|error| failed(error.to_string()))?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der())
            .map_err(|error| failed(format!("holds no PKCS#8 key of ECDSA P-256: {error}")))?;
        Ok(Self(Arc::new(key)))
    }

    fn pem(&self) -> Result<String, CaError> {
        let failed = |_| CaError::Crypto("the token key cannot be written".to_owned());
        let der = self.0.to_pkcs8v1().map_err(failed)?;
        let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        Ok(format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"))
    }

    /// The public half as DER (SubjectPublicKeyInfo).
    pub fn public_der(&self) -> Vec<u8> {
        self.0.public_key().as_der().map(|der| der.as_ref().to_vec()).unwrap_or_default()
    }

    /// A token for a workload that holds for `ttl` from `now`.
    pub fn issue(
        &self,
        namespace: &str,
        service_account: &str,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<String, CaError> {
        let iat = seconds(now);
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{service_account}"),
            aud: Audience::Many(vec![TOKEN_AUDIENCE.to_owned()]),
            exp: iat.saturating_add(ttl.as_secs()),
            iat,
            nbf: iat,
        };
        let header = Header { alg: "ES256".to_owned(), typ: Some("JWT".to_owned()), crit: None };
        let written = |error: serde_json::Error| CaError::Crypto(error.to_string());
        let header = serde_json::to_vec(&header).map_err(written)?;
        let claims = serde_json::to_vec(&claims).map_err(written)?;
        let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self
            .0
            .sign(&SystemRandom::new(), token.as_bytes())
            .map_err(|_| CaError::Crypto("the token could not be signed".to_owned()))?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// Who a token speaks for, if it is ours and holds at `now`.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Subject, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed("longer than 8192 bytes"));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed("it has not three parts"));
        };
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed("it is no base64url"));
        let signature = decode(signature)?;
        let signed = &token.as_bytes()[..header.len() + 1 + claims.len()];
        let header: Header = serde_json::from_slice(&decode(header)?)
            .map_err(|_| TokenError::Malformed("its header is not JSON with `alg`"))?;
        if header.alg != "ES256" || header.crit.is_some() {
            return Err(TokenError::Malformed("its algorithm is not ES256, or its header is critical"));
        }
        // Nothing of the claims is looked at before the signature holds.
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.0.public_key().as_ref())
            .verify(signed, &signature)
            .map_err(|_| TokenError::Signature)?;
        let claims: Claims = serde_json::from_slice(&decode(claims)?)
            .map_err(|_| TokenError::Malformed("its claims are not JSON with iss, sub, aud, exp"))?;
        let now = seconds(now);
        if claims.exp <= now {
            return Err(TokenError::Expired);
        }
        if claims.nbf > now.saturating_add(CLOCK_SKEW.as_secs()) {
            return Err(TokenError::NotYet);
        }
        if !claims.aud.is_for(TOKEN_AUDIENCE) || claims.iss != ISSUER {
            return Err(TokenError::Audience);
        }
        Subject::parse(&claims.sub)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_token_says_who_its_bearer_is_until_it_expires() {
        let (key, now) = (TokenKey::generate().unwrap(), SystemTime::now());
        let token = key.issue("default", "reviews", HOUR, now).unwrap();
        let subject = Subject { namespace: "default".into(), service_account: "reviews".into() };
        assert_eq!(key.verify(&token, now), Ok(subject.clone()));
        assert_eq!(key.verify(&token, now + HOUR - Duration::from_secs(1)), Ok(subject));
        assert_eq!(key.verify(&token, now + HOUR), Err(TokenError::Expired));
        assert_eq!(key.verify(&token, now - HOUR), Err(TokenError::NotYet));
    }

    #[test]
    fn other_tokens_are_refused_with_their_reason() {
        let (key, now) = (TokenKey::generate().unwrap(), SystemTime::now());
        let sign = |header: &str, claims: &str| {
            let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
            let signature = key.0.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
            format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
        };
        let es256 = r#"{"alg":"ES256"}"#;
        let claims =
            |aud: &str, sub: &str| format!(r#"{{"iss":"ferromesh","aud":"{aud}","sub":"{sub}","exp":9999999999}}"#);
        let good = claims("istio-ca", "system:serviceaccount:a:b");
        assert!(key.verify(&sign(es256, &good), now).is_ok());
        let other = TokenKey::generate().unwrap().issue("a", "b", HOUR, now).unwrap();
        let token = key.issue("a", "b", HOUR, now).unwrap();
        let (head, _) = token.rsplit_once('.').unwrap();
        for (token, error) in [
            (String::new(), "three parts"),
            ("a.b".into(), "three parts"),
            ("a.b.c.d".into(), "three parts"),
            ("x".repeat(9000), "longer"),
            ("!.b.c".into(), "not JSON"),
            (format!("{head}."), "not signed by"),
            (other, "not signed by"),
            (sign(r#"{"alg":"none"}"#, &good), "not ES256"),
            (sign(r#"{"alg":"HS256"}"#, &good), "not ES256"),
            (sign(r#"{"alg":"ES256","crit":["b64"]}"#, &good), "critical"),
            (sign(es256, "{}"), "claims are not"),
            (sign(es256, &claims("other", "system:serviceaccount:a:b")), "audience"),
            (sign(es256, &claims("istio-ca", "system:serviceaccount:a")), "subject"),
            (sign(es256, &claims("istio-ca", "system:serviceaccount:a:b:c")), "subject"),
            (sign(es256, &claims("istio-ca", "admin")), "subject"),
        ] {
            let found = key.verify(&token, now).unwrap_err().to_string();
            assert!(found.contains(error) || found.contains("base64url"), "{token}: {found}");
        }
    }

    #[test]
    fn a_kept_key_is_private_and_found_again() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let first = TokenKey::kept(directory.path()).unwrap();
        let token = first.issue("a", "b", HOUR, SystemTime::now()).unwrap();
        let mode = std::fs::metadata(directory.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(TokenKey::kept(directory.path()).unwrap().verify(&token, SystemTime::now()).is_ok());
        std::fs::write(directory.path().join(FILE), "x").unwrap();
        assert!(TokenKey::kept(directory.path()).unwrap_err().to_string().contains(FILE));
    }
}
