//! RequestAuthentication. Source: <https://istio.io/latest/docs/reference/config/security/request_authentication/>.

use super::{Duration, PolicyTargetReference, WorkloadSelector};

message! {
    /// Which tokens a workload accepts.
    pub struct RequestAuthentication {
        /// Workloads.
        pub selector: Option<WorkloadSelector>,
        /// Deprecated single target.
        pub target_ref: Option<PolicyTargetReference>,
        /// Targets instead of a selector.
        pub target_refs: Vec<PolicyTargetReference>,
        /// Issuers.
        pub jwt_rules: Vec<JwtRule>,
    }

    /// An issuer of tokens.
    pub struct JwtRule {
        /// `iss`.
        pub issuer: String,
        /// `aud`, any of these.
        pub audiences: Vec<String>,
        /// Where the keys are.
        pub jwks_uri: String,
        /// The keys.
        pub jwks: String,
        /// Headers with tokens.
        pub from_headers: Vec<JwtHeader>,
        /// Query parameters with tokens.
        pub from_params: Vec<String>,
        /// Cookies with tokens.
        pub from_cookies: Vec<String>,
        /// Header for the payload.
        pub output_payload_to_header: String,
        /// Keep the token.
        pub forward_original_token: bool,
        /// Headers for claims.
        pub output_claim_to_headers: Vec<ClaimToHeader>,
        /// For fetching keys; 5 s by default.
        pub timeout: Option<Duration>,
        /// Claims that are lists in a string.
        pub space_delimited_claims: Vec<String>,
    }

    /// A header with a token.
    pub struct JwtHeader {
        /// Name.
        pub name: String,
        /// Before the token.
        pub prefix: String,
    }

    /// A header for a claim.
    pub struct ClaimToHeader {
        /// Name.
        pub header: String,
        /// Claim.
        pub claim: String,
    }
}
