//! Who calls: by a mesh certificate, a token of ours or one of Kubernetes', and whether the node may be the caller's. The contract is docs/xds.md, "Ports".

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use mesh_proto::spiffe::Identity;
use tonic::{Request, Status};

use super::transport::Peer;
use crate::ca::TokenKey;
use crate::ca::review::{ReviewError, Reviewer};
use crate::ca::token::TokenError;
use crate::model::Node;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The workload.
    pub identity: Identity,
    /// The pod that the token is bound to, if it is Kubernetes' and of a pod.
    pub pod: Option<String>,
}

/// What a caller shows of itself.
#[derive(Debug, Clone)]
pub struct Shown {
    peer: Peer,
    token: Option<String>,
}

impl Shown {
    /// What came with a request.
    pub fn by<T>(request: &Request<T>) -> Result<Self, Status> {
        let peer: Option<&Peer> = request.extensions().get();
        let peer = peer.ok_or_else(|| Status::internal("the connection is not known"))?.clone();
        Ok(Self { peer, token: bearer(request)?.map(str::to_owned) })
    }

    /// Where the caller is.
    pub fn remote(&self) -> SocketAddr {
        self.peer.remote
    }

    fn is_local(&self) -> bool {
        self.peer.remote.ip().to_canonical().is_loopback()
    }
}

/// What callers are judged by.
#[derive(Debug, Clone)]
pub struct Authenticator {
    tokens: TokenKey,
    /// Judges tokens that are not ours.
    reviewer: Option<Reviewer>,
    /// The mesh's trust domain, then its aliases.
    trust_domains: Arc<ArcSwap<Vec<String>>>,
}

impl Authenticator {
    /// Callers of this mesh; without a reviewer only tokens of ours are taken.
    pub fn new(tokens: TokenKey, reviewer: Option<Reviewer>, trust_domain: &str) -> Self {
        Self { tokens, reviewer, trust_domains: Arc::new(ArcSwap::from_pointee(vec![trust_domain.to_owned()])) }
    }

    /// Another trust domain, with aliases that are taken as this one.
    pub fn set_trust_domains(&self, trust_domain: &str, aliases: &[String]) {
        let all: Vec<String> = std::iter::once(trust_domain.to_owned()).chain(aliases.iter().cloned()).collect();
        if **self.trust_domains.load() != all {
            self.trust_domains.store(Arc::new(all));
        }
    }

    /// The identity of a caller who wants configuration: required over TLS; over plaintext only a local token makes one.
    pub async fn for_discovery(&self, shown: &Shown, now: SystemTime) -> Result<Option<Caller>, Status> {
        if shown.peer.tls.is_some() {
            return self.required(shown, now).await.map(Some);
        }
        match &shown.token {
            Some(token) if shown.is_local() => self.by_token(token, now).await.map(Some),
            _ => Ok(None),
        }
    }

    /// The identity of a caller who wants a certificate: over TLS, or a token that never left the machine.
    pub async fn for_certificate(&self, shown: &Shown, now: SystemTime) -> Result<Identity, Status> {
        if shown.peer.tls.is_none() && !shown.is_local() {
            return Err(Status::permission_denied(format!(
                "certificates are signed over TLS only; {} is not this machine",
                shown.peer.remote.ip()
            )));
        }
        self.required(shown, now).await.map(|caller| caller.identity)
    }

    /// True if a token holds and is of this namespace.
    pub async fn is_of(&self, token: &str, namespace: &str, now: SystemTime) -> bool {
        self.by_token(token, now).await.is_ok_and(|caller| caller.identity.namespace == namespace)
    }

    async fn required(&self, shown: &Shown, now: SystemTime) -> Result<Caller, Status> {
        if let Some(id) = shown.peer.tls.as_ref().and_then(|tls| tls.id.as_ref()) {
            return self.by_certificate(id).map(|identity| Caller { identity, pod: None });
        }
        match &shown.token {
            Some(token) => self.by_token(token, now).await,
            None => Err(Status::unauthenticated(
                "no credentials: show a certificate of the mesh or `authorization: Bearer TOKEN`",
            )),
        }
    }

    fn by_certificate(&self, id: &Result<String, &'static str>) -> Result<Identity, Status> {
        let id = id.as_ref().map_err(|reason| Status::unauthenticated(format!("the client certificate {reason}")))?;
        let identity: Identity = id.parse().map_err(|error: mesh_proto::spiffe::ParseError| {
            Status::unauthenticated(format!("the client certificate: {error}"))
        })?;
        let domains = self.trust_domains.load();
        if !domains.contains(&identity.trust_domain) {
            return Err(Status::unauthenticated(format!(
                "the client certificate is of trust domain `{}`, the mesh's is `{}`",
                identity.trust_domain,
                domains.join("` or `")
            )));
        }
        Ok(identity)
    }

    async fn by_token(&self, token: &str, now: SystemTime) -> Result<Caller, Status> {
        let refused = |error: &dyn std::fmt::Display| Status::unauthenticated(error.to_string());
        let (subject, pod) = match (self.tokens.verify(token, now), &self.reviewer) {
            (Ok(subject), _) => (subject, None),
            // Not of our key, so it may be of Kubernetes'.
            (Err(TokenError::Malformed(_) | TokenError::Signature), Some(reviewer)) => {
                let reviewed = reviewer.review(token, now).await.map_err(|error| match error {
                    ReviewError::Unavailable(_) => Status::unavailable(error.to_string()),
                    ReviewError::Refused(_) | ReviewError::Token(_) => refused(&error),
                })?;
                (reviewed.subject, reviewed.pod)
            }
            (Err(error), _) => return Err(refused(&error)),
        };
        let domains = self.trust_domains.load();
        let domain = domains.first().map(String::as_str).unwrap_or_default();
        let identity = Identity::new(domain, &subject.namespace, &subject.service_account);
        identity.map(|identity| Caller { identity, pod }).map_err(|error| refused(&error))
    }
}

/// Lets a node through only if it claims the namespace and service account of its caller, and the pod that the caller's token is bound to.
/// A node that names no account has its caller's.
pub fn check_node(node: &mut Node, caller: Option<&Caller>) -> Result<(), Status> {
    let Some(Caller { identity, pod }) = caller else { return Ok(()) };
    if node.service_account.is_empty() {
        node.service_account = identity.service_account.as_str().into();
    }
    if *node.namespace != *identity.namespace || *node.service_account != *identity.service_account {
        return Err(Status::permission_denied(format!(
            "the node claims namespace `{}` and service account `{}`, but the caller is `{}` of namespace `{}`",
            node.namespace, node.service_account, identity.service_account, identity.namespace
        )));
    }
    match pod {
        Some(pod) if **pod != *node.name => Err(Status::permission_denied(format!(
            "the node claims to be pod `{}`, but the caller's token is bound to pod `{pod}`",
            node.name
        ))),
        _ => Ok(()),
    }
}

fn bearer<T>(request: &Request<T>) -> Result<Option<&str>, Status> {
    let Some(value) = request.metadata().get("authorization") else { return Ok(None) };
    let text = value.to_str().map_err(|_| Status::unauthenticated("`authorization` is no text"))?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(Status::unauthenticated("`authorization` is not `Bearer TOKEN`")),
    }
}
