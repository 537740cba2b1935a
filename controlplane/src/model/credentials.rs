//! Which secrets a Gateway or DestinationRule names (`credentialName`; GT4, GT5, TL3). Read by [`crate::translate`], and by the source
//! that fetches secrets only where something names them.

use mesh_proto::crd::destination_rule::TrafficPolicy;
use mesh_proto::crd::{DestinationRule, Gateway};

/// What names of secrets may begin with.
pub const SCHEME: &str = "kubernetes://";

/// The secret of this suffix holds the authorities of clients.
pub const CA_SUFFIX: &str = "-cacert";

/// The credentials of a Gateway, as they stand there.
pub fn of_gateway(gateway: &Gateway) -> impl Iterator<Item = &str> {
    let settings = gateway.servers.iter().filter_map(|server| server.tls.as_ref());
    settings.flat_map(|tls| {
        let single = [tls.credential_name.as_str(), tls.ca_cert_credential_name.as_str()];
        single.into_iter().chain(tls.credential_names.iter().map(String::as_str))
    })
}

/// The credentials of a DestinationRule, as they stand there.
pub fn of_rule(rule: &DestinationRule) -> impl Iterator<Item = &str> {
    let policies = rule.traffic_policy.iter();
    let policies = policies.chain(rule.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref()));
    policies.flat_map(of_policy)
}

fn of_policy(policy: &TrafficPolicy) -> impl Iterator<Item = &str> {
    let ports = policy.port_level_settings.iter().filter_map(|port| port.tls.as_ref());
    policy.tls.iter().chain(ports).map(|settings| settings.credential_name.as_str())
}

/// The names of the secrets that a credential means: its own, and that of the authorities beside it. Empty for what is no secret's name.
pub fn secrets(credential: &str) -> impl Iterator<Item = String> + use<> {
    let name = credential.strip_prefix(SCHEME).unwrap_or(credential);
    let name = Some(name).filter(|name| !name.is_empty() && !name.contains("://")).map(str::to_owned);
    let beside = name.as_ref().filter(|name| !name.ends_with(CA_SUFFIX)).map(|name| format!("{name}{CA_SUFFIX}"));
    name.into_iter().chain(beside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_a_secret_and_the_one_beside_it() {
        for (credential, expected) in [
            ("a", &["a", "a-cacert"][..]),
            ("kubernetes://a", &["a", "a-cacert"]),
            ("a-cacert", &["a-cacert"]),
            ("", &[]),
            ("file://a", &[]),
        ] {
            assert_eq!(secrets(credential).collect::<Vec<_>>(), expected, "{credential}");
        }
    }
}
