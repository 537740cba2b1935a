//! The proxy's own identity: a key that is made here, and a certificate that the mesh's authority signs for it (ID1, CA1, CA7).
//!
//! `request` makes keys and judges answers, `authority` asks, `schedule` decides when, `settings` is what is configured, and
//! `files` serves secrets that lie in files. All of them write to [`SecretStore`], from which [`crate::tls`] takes what it
//! needs for each handshake; so a rotation touches no connection. A private key never leaves the process, nor is it written.

mod authority;
pub mod files;
mod request;
mod schedule;
mod settings;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_proto::names::{SECRET_DEFAULT, SECRET_ROOT};
use mesh_proto::spiffe::Identity;
use metrics::Label;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::tls::{Certificate, SecretStore};
use authority::{Authority, Credential};
pub use settings::{KeyType, Root, Settings, Token};

/// How often files and gauges are looked at, and the clock is compared with the plan: a suspended machine's timers stand still.
const TICK: Duration = Duration::from_secs(1);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The settings can never work.
    #[error("identity settings: {0}")]
    Settings(String),
    /// A file cannot be read.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: String,
        /// Why.
        error: String,
    },
    /// The key or the request could not be made.
    #[error("cannot make a key and a signing request: {0}")]
    Key(String),
    /// The authority cannot be reached.
    #[error("cannot connect to the certificate authority {address}: {error}")]
    Connect {
        /// Its address.
        address: String,
        /// Why.
        error: String,
    },
    /// The authority does not sign.
    #[error("the certificate authority refuses with {code:?}: {message}")]
    Refused {
        /// gRPC status.
        code: tonic::Code,
        /// Its words.
        message: String,
    },
    /// No answer in time.
    #[error("the certificate authority {0} did not answer within {seconds} s", seconds = authority::DEADLINE.as_secs())]
    Timeout(String),
    /// There is nothing to show to the authority.
    #[error("there is neither a token nor a valid certificate to show to the certificate authority")]
    NoCredential,
    /// What came is not what was asked for.
    #[error("the certificate authority's answer is refused: {0}")]
    Answer(String),
}

/// Gets a certificate, keeps it fresh and its trust bundle current until `stop`. Ends early only when the settings can never work.
pub async fn run(settings: Settings, secrets: Arc<SecretStore>, stop: CancellationToken) -> Result<(), IdentityError> {
    let identity = settings.identity()?;
    let authority = Authority::new(&settings)?;
    let keeper =
        Keeper { settings, identity, authority, secrets, returned_roots: Vec::new(), certificate_failed: false };
    tokio::select! {
        () = stop.cancelled() => {}
        () = keeper.keep() => {}
    }
    Ok(())
}

/// What is to happen next.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// Rotation, by the wall clock as certificates are.
    Rotate(SystemTime),
    /// Another attempt, by a clock that nobody sets.
    Retry(Instant),
}

impl Next {
    fn remaining(self) -> Duration {
        match self {
            Self::Rotate(at) => at.duration_since(SystemTime::now()).unwrap_or_default(),
            Self::Retry(at) => at.saturating_duration_since(Instant::now()),
        }
    }
}

struct Keeper {
    settings: Settings,
    identity: Identity,
    authority: Authority,
    secrets: Arc<SecretStore>,
    /// The roots that came with the last certificate, in PEM.
    returned_roots: Vec<String>,
    /// The last attempt showed our certificate and failed, so the token gets a chance.
    certificate_failed: bool,
}

impl Keeper {
    async fn keep(mut self) {
        let mut next = Next::Retry(Instant::now());
        let mut attempt = 0;
        let mut root = files::Fingerprint::of(self.settings.ca_root.path());
        loop {
            tokio::time::sleep(next.remaining().min(TICK)).await;
            let now = files::Fingerprint::of(self.settings.ca_root.path());
            if now != root {
                root = now;
                self.root_changed();
            }
            self.measure();
            if !next.remaining().is_zero() {
                continue;
            }
            next = match self.renew().await {
                Ok(at) => {
                    attempt = 0;
                    Next::Rotate(at)
                }
                Err(error) => {
                    let wait = schedule::back_off(attempt, fastrand::f64());
                    attempt = attempt.saturating_add(1);
                    self.report(&error, attempt, wait);
                    Next::Retry(Instant::now() + wait)
                }
            };
            self.measure();
        }
    }

    /// One round: key, request, answer, store. Returns when to rotate.
    async fn renew(&mut self) -> Result<SystemTime, IdentityError> {
        self.count("istio_agent_num_outgoing_requests");
        let credential = self.credential()?;
        let shows_certificate = matches!(credential, Credential::Certificate);
        let outcome = self.ask(credential).await;
        self.certificate_failed = shows_certificate && outcome.is_err();
        let issued = outcome?;
        let trust = self.settings.ca_root.with(&issued.roots)?;
        let expires = UNIX_EPOCH + Duration::from_secs(issued.certificate.not_after.max(0).unsigned_abs());
        let now = SystemTime::now();
        let lifetime = expires.duration_since(now).unwrap_or_default();
        let wait = schedule::rotate_after(
            lifetime,
            self.settings.grace_ratio,
            self.settings.grace_jitter,
            fastrand::f64() * 2.0 - 1.0,
        );
        // Trust first: a peer whose certificate the new root signed may call before ours is there.
        self.secrets.set_trust(SECRET_ROOT, trust);
        self.secrets.set_certificate(SECRET_DEFAULT, issued.certificate);
        self.returned_roots = issued.roots;
        tracing::info!(
            identity = %self.identity,
            lifetime_seconds = lifetime.as_secs(),
            rotates_in_seconds = wait.as_secs(),
            "the certificate authority signed a new certificate"
        );
        Ok(now + wait)
    }

    async fn ask(&self, credential: Credential) -> Result<request::Issued, IdentityError> {
        let (kind, identity) = (self.settings.key, self.identity.clone());
        // An RSA key takes a tenth of a second and more, in which this thread also answers xDS.
        let made = tokio::task::spawn_blocking(move || request::Request::new(kind, &identity)).await;
        let request = made.map_err(|error| IdentityError::Key(error.to_string()))??;
        let chain = self.authority.sign(&self.settings, &self.secrets, &request.csr, credential).await?;
        request.judge(&chain, &self.identity)
    }

    fn credential(&self) -> Result<Credential, IdentityError> {
        let valid = self.certificate().is_some_and(|certificate| certificate.not_after > unix_now());
        let prefer_certificate = self.authority.is_tls() && valid;
        let token = if prefer_certificate && !self.certificate_failed { None } else { self.settings.token.read()? };
        match token {
            Some(token) => Ok(Credential::Token(token)),
            None if prefer_certificate => Ok(Credential::Certificate),
            None if !self.authority.is_tls() => Ok(Credential::None),
            None => Err(IdentityError::NoCredential),
        }
    }

    fn certificate(&self) -> Option<Arc<Certificate>> {
        self.secrets.certificate(SECRET_DEFAULT).load()
    }

    fn root_changed(&self) {
        if self.returned_roots.is_empty() {
            return;
        }
        match self.settings.ca_root.with(&self.returned_roots) {
            Ok(trust) => {
                self.secrets.set_trust(SECRET_ROOT, trust);
                tracing::info!("the configured roots changed");
            }
            Err(error) => {
                tracing::error!(%error, "the configured roots changed to something unusable; the last ones stay")
            }
        }
    }

    fn report(&self, error: &IdentityError, attempt: u32, wait: Duration) {
        self.count("istio_agent_num_failed_outgoing_requests");
        let retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        match self.certificate().map(|certificate| certificate.not_after - unix_now()) {
            Some(left) if left > 0 => {
                tracing::warn!(%error, attempt, retry_in_ms, seconds_left = left, "the certificate could not be renewed; the old one is still valid");
            }
            Some(left) => {
                tracing::error!(%error, attempt, retry_in_ms, expired_seconds_ago = -left, "the certificate could not be renewed and has EXPIRED: peers refuse it");
            }
            None => tracing::warn!(%error, attempt, retry_in_ms, "no certificate yet"),
        }
    }

    fn count(&self, name: &'static str) {
        if let Some(metrics) = &self.settings.metrics {
            metrics.counter(name, vec![Label::from_static_parts("request_type", "csr")]).increment(1);
        }
    }

    /// Istio's gauge of the agent: seconds left, negative once expired.
    fn measure(&self) {
        if let (Some(metrics), Some(certificate)) = (&self.settings.metrics, self.certificate()) {
            let labels = vec![Label::from_static_parts("resource_name", SECRET_DEFAULT)];
            let left = certificate.not_after - unix_now();
            metrics.gauge("istio_agent_cert_expiry_seconds", labels).set(left as f64);
        }
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
