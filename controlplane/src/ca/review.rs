//! Tokens of Kubernetes service accounts, which the API server alone can judge: it is asked by a TokenReview (CA1).
//!
//! What cannot hold, whoever signed it, is refused without asking, and what was found holds for a short while, so that a workload which
//! connects for its certificate and its configuration is one question. Called by [`crate::xds::auth`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::kube::api::PostParams;
use ::kube::{Api, Client, Error};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use mesh_proto::names::TOKEN_AUDIENCE;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::token::{Audience, MAX_TOKEN, Subject, TokenError};

/// How long an answer holds. A pod's token ends with the pod; for this long it may still be taken.
const REMEMBER: Duration = Duration::from_secs(10);
/// Answers that are remembered.
const MOST: usize = 4096;
/// Questions at a time.
const QUESTIONS: usize = 16;
/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where the API server says which pod a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// Whom a token speaks for, as the API server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reviewed {
    /// Namespace and service account.
    pub subject: Subject,
    /// The pod that the token is bound to, if it is to one.
    pub pod: Option<String>,
}

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// It cannot hold, whoever signed it.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The API server does not take it.
    #[error("the API server does not take the token: {0}")]
    Refused(String),
    /// It is not known whether it holds; asking again may help.
    #[error("the token cannot be reviewed: {0}")]
    Unavailable(String),
}

type Answer = Result<Reviewed, ReviewError>;

/// Asks the API server.
#[derive(Clone)]
pub struct Reviewer(Arc<Inner>);

struct Inner {
    client: Client,
    questions: Semaphore,
    /// By the token's hash, so that no token stays in memory.
    known: Mutex<HashMap<Vec<u8>, (Instant, Answer)>>,
}

impl std::fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reviewer")
    }
}

impl Reviewer {
    /// Asks the API server that a client reaches.
    pub fn new(client: Client) -> Self {
        Self(Arc::new(Inner { client, questions: Semaphore::new(QUESTIONS), known: Mutex::default() }))
    }

    /// Whom a token speaks for.
    ///
    /// # Errors
    /// The token does not hold, or the API server cannot tell now.
    pub async fn review(&self, token: &str, now: SystemTime) -> Result<Reviewed, ReviewError> {
        may_hold(token, now)?;
        let hash = digest(&SHA256, token.as_bytes()).as_ref().to_vec();
        if let Some(answer) = self.remembered(&hash) {
            return answer;
        }
        let unavailable = |reason: &str| ReviewError::Unavailable(reason.to_owned());
        let answer = async {
            let _turn = self.0.questions.acquire().await.map_err(|_| unavailable("the control plane stops"))?;
            self.ask(token).await
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let answer = answer.unwrap_or_else(|_| Err(unavailable("the API server does not answer within 10 s")));
        if !matches!(answer, Err(ReviewError::Unavailable(_))) {
            self.remember(hash, answer.clone());
        }
        answer
    }

    async fn ask(&self, token: &str) -> Result<Reviewed, ReviewError> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]) };
        let question = TokenReview { spec, ..TokenReview::default() };
        let api = Api::<TokenReview>::all(self.0.client.clone());
        match api.create(&PostParams::default(), &question).await {
            Ok(answer) => judge(answer.status.unwrap_or_default()),
            Err(Error::Api(status)) if status.is_forbidden() => Err(ReviewError::Unavailable(format!(
                "{}; give the control plane's user the verb create on tokenreviews.authentication.k8s.io",
                status.message
            ))),
            Err(error) => Err(ReviewError::Unavailable(error.to_string())),
        }
    }

    fn remembered(&self, hash: &[u8]) -> Option<Answer> {
        let known = self.0.known.lock();
        known.get(hash).filter(|(since, _)| since.elapsed() < REMEMBER).map(|(_, answer)| answer.clone())
    }

    fn remember(&self, hash: Vec<u8>, answer: Answer) {
        let mut known = self.0.known.lock();
        if known.len() >= MOST {
            known.retain(|_, (since, _)| since.elapsed() < REMEMBER);
        }
        if known.len() < MOST {
            known.insert(hash, (Instant::now(), answer));
        }
    }
}

/// Claims that say early that a token is of no use. Nothing is believed because of them.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Audience,
    #[serde(default)]
    exp: Option<u64>,
}

/// Refuses what no signature could save.
fn may_hold(token: &str, now: SystemTime) -> Result<(), TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Malformed("longer than 8192 bytes"));
    }
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(TokenError::Malformed("it has not three parts"));
    };
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| TokenError::Malformed("it is no base64url"))?;
    let claims: Claims = serde_json::from_slice(&claims)
        .map_err(|_| TokenError::Malformed("its claims are not JSON with sub and aud"))?;
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    if claims.exp.is_some_and(|expiry| expiry <= seconds) {
        return Err(TokenError::Expired);
    }
    if !claims.aud.is_for(TOKEN_AUDIENCE) {
        return Err(TokenError::Audience);
    }
    Subject::parse(&claims.sub).map(drop)
}

/// Reads the API server's answer.
fn judge(status: TokenReviewStatus) -> Result<Reviewed, ReviewError> {
    if status.authenticated != Some(true) {
        let reason = status.error.filter(|error| !error.is_empty());
        return Err(ReviewError::Refused(reason.unwrap_or_else(|| "it is not authenticated".to_owned())));
    }
    // A server that knows nothing of audiences answers without any, and would take a token made for anyone.
    if !status.audiences.iter().flatten().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(TokenError::Audience.into());
    }
    let user = status.user.unwrap_or_default();
    let subject = Subject::parse(user.username.as_deref().unwrap_or_default())?;
    let pod = user.extra.and_then(|extra| extra.get(POD_NAME)?.first().cloned());
    Ok(Reviewed { subject, pod })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn status(yaml: &str) -> TokenReviewStatus {
        yaml_serde::from_str(yaml).unwrap()
    }

    #[test]
    fn the_api_servers_answer_says_who_it_is() {
        let user = "user: {username: 'system:serviceaccount:shop:web', extra: {authentication.kubernetes.io/pod-name: [web-1]}}";
        let found = judge(status(&format!("authenticated: true\naudiences: [istio-ca]\n{user}\n"))).unwrap();
        assert_eq!((found.subject.namespace.as_str(), found.subject.service_account.as_str()), ("shop", "web"));
        assert_eq!(found.pod.as_deref(), Some("web-1"));
        for (answer, reason) in [
            ("authenticated: false\nerror: 'it was deleted'".to_owned(), "does not take the token: it was deleted"),
            ("{}".to_owned(), "it is not authenticated"),
            (format!("authenticated: true\naudiences: [api]\n{user}"), "audience is not `istio-ca`"),
            (format!("authenticated: true\n{user}"), "audience is not `istio-ca`"),
            ("authenticated: true\naudiences: [istio-ca]\nuser: {username: admin}".to_owned(), "subject is not"),
        ] {
            let error = judge(status(&answer)).unwrap_err().to_string();
            assert!(error.contains(reason), "{answer}: {error}");
        }
    }

    #[test]
    fn what_cannot_hold_is_refused_without_asking() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        let good = r#"{"sub":"system:serviceaccount:a:b","aud":["istio-ca"],"exp":1001}"#;
        assert_eq!(may_hold(&token(good), now), Ok(()));
        for (token, error) in [
            ("x".repeat(9000), "longer"),
            ("a.b".to_owned(), "three parts"),
            ("a.!.c".to_owned(), "base64url"),
            (token("{}"), "claims are not"),
            (token(&good.replace("1001", "1000")), "expired"),
            (token(&good.replace("istio-ca", "api")), "audience"),
            (token(&good.replace(":a:b", ":a")), "subject"),
        ] {
            let found = may_hold(&token, now).unwrap_err().to_string();
            assert!(found.contains(error), "{token}: {found}");
        }
    }
}
