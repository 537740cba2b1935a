//! The authority of a mesh on Kubernetes, kept in a secret, so that all replicas sign by the same and a restart changes nothing.
//!
//! Secret `cacerts` is an authority of somebody else's, plugged in (CA5); without it `istio-ca-secret` keeps a self-signed root (CA4), which
//! the first replica makes. Names and entries are Istio's, so that a mesh of Istio's and its successor trust each other.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use ::kube::api::PostParams;
use ::kube::{Api, Client, Error};
use k8s_openapi::ByteString;
use mesh_proto::kube::{ObjectMeta, Secret};

use super::authority::root;
use super::load::{self, Place};
use super::{Authority, AuthorityHandle, CaError};

/// An authority of somebody else's.
const PLUGGED_IN: &str = "cacerts";
/// The root that the control plane made itself.
const SELF_SIGNED: &str = "istio-ca-secret";
/// Type of the latter, Istio's.
const SELF_SIGNED_TYPE: &str = "istio.io/ca-root";
/// Between two looks at the secret.
const PERIOD: Duration = Duration::from_secs(10);

/// Where an authority is kept.
#[derive(Clone)]
pub struct Keeper {
    secrets: Api<Secret>,
    namespace: String,
    name: &'static str,
    data: BTreeMap<String, ByteString>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keeper({}/{})", self.namespace, self.name)
    }
}

/// The authority of the secrets of a namespace; a root of `lifetime` is made if there is none.
///
/// # Errors
/// The API server does not let the control plane read or make the secret, or it holds no good authority.
pub async fn load(
    client: Client,
    namespace: &str,
    organization: &str,
    lifetime: Duration,
    now: SystemTime,
) -> Result<(Authority, Keeper), CaError> {
    let mut keeper = Keeper {
        secrets: Api::namespaced(client, namespace),
        namespace: namespace.to_owned(),
        name: PLUGGED_IN,
        data: BTreeMap::new(),
    };
    if let Some(data) = keeper.read().await? {
        keeper.data = data;
        return Ok((keeper.authority()?, keeper));
    }
    keeper.name = SELF_SIGNED;
    keeper.data = match keeper.read().await? {
        Some(data) => data,
        None => keeper.make(organization, lifetime, now).await?,
    };
    Ok((keeper.authority()?, keeper))
}

impl Keeper {
    /// Follows the secret: whoever rotates it writes it, and nothing is restarted. Never returns.
    pub async fn follow(mut self, authority: AuthorityHandle) {
        loop {
            tokio::time::sleep(PERIOD).await;
            let data = match self.read().await {
                Ok(Some(data)) => data,
                // Without it the authority of before stays: a new one would cut every workload off.
                Ok(None) => continue,
                Err(error) => {
                    tracing::debug!(%error, "the authority's secret cannot be read; the authority of before stays");
                    continue;
                }
            };
            if data == self.data {
                continue;
            }
            self.data = data;
            match self.authority() {
                Ok(new) => {
                    tracing::info!(keeper = ?self, "the authority's secret changed; it signs by the new one");
                    authority.set_authority(new);
                }
                Err(error) => tracing::error!(%error, "the authority's secret changed and is not usable"),
            }
        }
    }

    fn secret(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn authority(&self) -> Result<Authority, CaError> {
        let name = self.secret();
        let place = Place::Secret { name: &name, data: &self.data };
        if self.name == PLUGGED_IN { load::plugged_in(place) } else { load::self_signed(place) }
    }

    async fn read(&self) -> Result<Option<BTreeMap<String, ByteString>>, CaError> {
        let found = self.secrets.get_opt(self.name).await.map_err(|error| self.failed("get", &error))?;
        Ok(found.map(|secret| secret.data.unwrap_or_default()))
    }

    /// Makes a root, unless another replica was faster.
    async fn make(
        &self,
        organization: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<BTreeMap<String, ByteString>, CaError> {
        let (certificate, key) = root(organization, now, lifetime)?;
        let data = load::written(&certificate, &key);
        let secret = Secret {
            metadata: ObjectMeta { name: Some(self.name.to_owned()), ..ObjectMeta::default() },
            type_: Some(SELF_SIGNED_TYPE.to_owned()),
            data: Some(data.clone()),
            ..Secret::default()
        };
        match self.secrets.create(&PostParams::default(), &secret).await {
            Ok(_) => {
                tracing::info!(secret = self.secret(), "made the mesh's root");
                Ok(data)
            }
            Err(Error::Api(status)) if status.is_already_exists() => {
                let other = self.read().await?;
                other.ok_or_else(|| self.wrong("was made and removed at the same time; start again".to_owned()))
            }
            Err(error) => Err(self.failed("create", &error)),
        }
    }

    fn failed(&self, verb: &str, error: &Error) -> CaError {
        self.wrong(match error {
            Error::Api(status) if status.is_forbidden() => format!(
                "the API server does not let the control plane {verb} it: {}; give its user the verbs get and create on secrets in this namespace",
                status.message
            ),
            Error::Api(status) if status.code == 404 => {
                format!("cannot be made: {}; create the namespace first", status.message)
            }
            other => format!("{verb}: {other}"),
        })
    }

    fn wrong(&self, reason: String) -> CaError {
        CaError::Secret { secret: self.secret(), reason }
    }
}
