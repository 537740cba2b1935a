//! Who calls: a mesh certificate or a token of ours, and whether the node may be the caller's. The contract is docs/xds.md, "Ports".

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use mesh_proto::spiffe::Identity;
use tonic::{Request, Status};

use super::transport::Peer;
use crate::ca::TokenKey;
use crate::model::Node;

/// What callers are judged by.
#[derive(Debug, Clone)]
pub struct Authenticator {
    tokens: TokenKey,
    /// The mesh's trust domain, then its aliases.
    trust_domains: Arc<ArcSwap<Vec<String>>>,
}

impl Authenticator {
    /// Callers of this mesh.
    pub fn new(tokens: TokenKey, trust_domain: &str) -> Self {
        Self { tokens, trust_domains: Arc::new(ArcSwap::from_pointee(vec![trust_domain.to_owned()])) }
    }

    /// Another trust domain, with aliases that are taken as this one.
    pub fn set_trust_domains(&self, trust_domain: &str, aliases: &[String]) {
        let all: Vec<String> = std::iter::once(trust_domain.to_owned()).chain(aliases.iter().cloned()).collect();
        if **self.trust_domains.load() != all {
            self.trust_domains.store(Arc::new(all));
        }
    }

    /// The identity of a caller who wants configuration: required over TLS; over plaintext only a local token makes one.
    pub fn for_discovery<T>(&self, request: &Request<T>, now: SystemTime) -> Result<Option<Identity>, Status> {
        let peer = peer(request)?;
        if peer.tls.is_some() {
            return self.required(request, peer, now).map(Some);
        }
        match bearer(request)? {
            Some(token) if peer.remote.ip().to_canonical().is_loopback() => self.by_token(token, now).map(Some),
            _ => Ok(None),
        }
    }

    /// The identity of a caller who wants a certificate: over TLS, or a token that never left the machine.
    pub fn for_certificate<T>(&self, request: &Request<T>, now: SystemTime) -> Result<Identity, Status> {
        let peer = peer(request)?;
        if peer.tls.is_none() && !peer.remote.ip().to_canonical().is_loopback() {
            return Err(Status::permission_denied(format!(
                "certificates are signed over TLS only; {} is not this machine",
                peer.remote.ip()
            )));
        }
        self.required(request, peer, now)
    }

    /// True if a token is ours and of this namespace.
    pub fn is_of(&self, token: &str, namespace: &str, now: SystemTime) -> bool {
        self.tokens.verify(token, now).is_ok_and(|subject| subject.namespace == namespace)
    }

    fn required<T>(&self, request: &Request<T>, peer: &Peer, now: SystemTime) -> Result<Identity, Status> {
        if let Some(id) = peer.tls.as_ref().and_then(|tls| tls.id.as_ref()) {
            return self.by_certificate(id);
        }
        match bearer(request)? {
            Some(token) => self.by_token(token, now),
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

    fn by_token(&self, token: &str, now: SystemTime) -> Result<Identity, Status> {
        let refused = |error: &dyn std::fmt::Display| Status::unauthenticated(error.to_string());
        let subject = self.tokens.verify(token, now).map_err(|error| refused(&error))?;
        let domains = self.trust_domains.load();
        let domain = domains.first().map(String::as_str).unwrap_or_default();
        Identity::new(domain, &subject.namespace, &subject.service_account).map_err(|error| refused(&error))
    }
}

/// Lets a node through only if it claims the namespace and service account of its caller. A node that names no account has its caller's.
pub fn check_node(node: &mut Node, identity: Option<&Identity>) -> Result<(), Status> {
    let Some(identity) = identity else { return Ok(()) };
    if node.service_account.is_empty() {
        node.service_account = identity.service_account.as_str().into();
    }
    if *node.namespace != *identity.namespace || *node.service_account != *identity.service_account {
        return Err(Status::permission_denied(format!(
            "the node claims namespace `{}` and service account `{}`, but the caller is `{}` of namespace `{}`",
            node.namespace, node.service_account, identity.service_account, identity.namespace
        )));
    }
    Ok(())
}

fn peer<T>(request: &Request<T>) -> Result<&Peer, Status> {
    request.extensions().get().ok_or_else(|| Status::internal("the connection is not known"))
}

fn bearer<T>(request: &Request<T>) -> Result<Option<&str>, Status> {
    let Some(value) = request.metadata().get("authorization") else { return Ok(None) };
    let text = value.to_str().map_err(|_| Status::unauthenticated("`authorization` is no text"))?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(Status::unauthenticated("`authorization` is not `Bearer TOKEN`")),
    }
}
