//! The service that workloads call for certificates: `istio.v1.auth.IstioCertificateService` (CA1, CA3).

use std::time::SystemTime;

use mesh_proto::istio::auth::istio_certificate_service_server::IstioCertificateService;
use mesh_proto::istio::auth::{IstioCertificateRequest, IstioCertificateResponse};
use tonic::{Request, Response, Status};

use super::{AuthorityHandle, CaError};
use crate::metrics::Metrics;
use crate::xds::auth::{Authenticator, Shown};

/// The service.
#[derive(Debug, Clone)]
pub struct CertificateService {
    /// Who signs.
    pub authority: AuthorityHandle,
    /// Who asks.
    pub authenticator: Authenticator,
    /// What is counted.
    pub metrics: Metrics,
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.metrics.csr_received.increment(1);
        let now = SystemTime::now();
        let identity = match Shown::by(&request) {
            Ok(shown) => self.authenticator.for_certificate(&shown, now).await,
            Err(status) => Err(status),
        };
        let identity = identity.inspect_err(|status| {
            self.metrics.csr_unauthenticated.increment(1);
            tracing::info!(reason = status.message(), "a certificate request is refused");
        })?;
        let request = request.into_inner();
        for field in request.metadata.iter().flat_map(|fields| &fields.fields) {
            refuse_wishes(field.0, field.1)?;
        }
        let authority = self.authority.load();
        let signed = authority.sign_workload(&request.csr, &identity, request.validity_duration, now);
        match signed {
            Ok(signed) => {
                self.metrics.csr_signed.increment(1);
                tracing::info!(%identity, until = %jiff::Timestamp::try_from(signed.not_after).unwrap_or_default(), "signed a certificate");
                Ok(Response::new(IstioCertificateResponse { cert_chain: authority.response(&signed) }))
            }
            Err(error) => {
                self.metrics.csr_failed.increment(1);
                tracing::warn!(%identity, %error, "a certificate request is refused");
                Err(status(&error))
            }
        }
    }
}

/// Wishes that would change whose name is signed or who signs are refused rather than ignored.
fn refuse_wishes(field: &str, value: &mesh_proto::xds::wkt::Value) -> Result<(), Status> {
    use mesh_proto::xds::wkt::value::Kind;
    let empty = match &value.kind {
        None | Some(Kind::NullValue(_)) => true,
        Some(Kind::StringValue(text)) => text.is_empty(),
        _ => false,
    };
    match field {
        _ if empty => Ok(()),
        "ImpersonatedIdentity" => {
            Err(Status::permission_denied("metadata.ImpersonatedIdentity: no caller may ask for another's certificate"))
        }
        "CertSigner" => Err(Status::invalid_argument("metadata.CertSigner: there is one signer and it has no name")),
        _ => Ok(()),
    }
}

fn status(error: &CaError) -> Status {
    match error {
        CaError::Csr(_) | CaError::Validity(_) => Status::invalid_argument(error.to_string()),
        CaError::Expired { .. } => Status::failed_precondition(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}
