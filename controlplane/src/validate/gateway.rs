//! Gateway (GW, GT).

use std::net::IpAddr;

use mesh_proto::crd::gateway::{Gateway, Server, ServerTlsMode, ServerTlsSettings, TlsProtocol};

use super::check::{At, Check, is_dns_label};

/// Cipher suites of TLS 1.2 that the proxy has; those of TLS 1.3 are always on.
const CIPHER_SUITES: &[&str] = &[
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// Checks a Gateway.
pub(super) fn check(check: &mut Check<'_>, spec: &Gateway) {
    check.labels(&At::top("selector"), &spec.selector);
    if spec.servers.is_empty() {
        check.error(&At::top("servers"), "is empty; a Gateway needs a server");
    }
    for (index, server) in spec.servers.iter().enumerate() {
        let at = At::top("servers").index(index);
        check_server(check, &at, server);
        for other in &spec.servers[..index] {
            if !server.name.is_empty() && other.name == server.name {
                check.error(
                    &at.field("name"),
                    format!("`{}` is given twice; servers have names of their own", server.name),
                );
            }
            if !server.port.name.is_empty() && other.port.name == server.port.name {
                let at = at.field("port").field("name");
                check.error(&at, format!("`{}` is given twice; ports have names of their own", server.port.name));
            }
        }
    }
}

fn check_server(check: &mut Check<'_>, at: &At, server: &Server) {
    let port = at.field("port");
    check.port(&port.field("number"), server.port.number);
    if server.port.name.is_empty() {
        check.error(&port.field("name"), "is missing; name the port");
    }
    if server.port.target_port.is_some() {
        check.error(&port.field("targetPort"), "is deprecated and has no effect in a Gateway; remove it");
    }
    if server.hosts.is_empty() {
        check.error(&at.field("hosts"), "is empty; name the hosts that are served, or `*`");
    }
    for (index, host) in server.hosts.iter().enumerate() {
        let at = at.field("hosts").index(index);
        let name = match host.split_once('/') {
            Some((namespace, name)) => {
                if !matches!(namespace, "*" | ".") && !is_dns_label(namespace) {
                    check.error(
                        &at,
                        format!("`{namespace}` is not a namespace; write `namespace/host`, `./host` or `*/host`"),
                    );
                }
                name
            }
            None => host,
        };
        check.host(&at, name, true);
    }
    if server.bind.starts_with("unix:") || server.bind.starts_with('@') {
        check.error(&at.field("bind"), "Unix sockets are not supported yet; give an IP address");
    } else if !server.bind.is_empty() && server.bind.parse::<IpAddr>().is_err() {
        check.error(&at.field("bind"), format!("`{}` is not an IP address", server.bind));
    }
    check.unsupported(!server.default_endpoint.is_empty(), &at.field("defaultEndpoint"), "");
    protocol(check, at, server);
}

/// Whether protocol and TLS fit.
fn protocol(check: &mut Check<'_>, at: &At, server: &Server) {
    let protocol = server.port.protocol.to_ascii_uppercase();
    let (known, secure, http) = match protocol.as_str() {
        "HTTP" | "HTTP2" | "GRPC" => (true, false, true),
        "HTTPS" => (true, true, false),
        "TLS" => (true, true, false),
        "TCP" => (true, false, false),
        _ => (false, false, false),
    };
    let field = at.field("port").field("protocol");
    match protocol.as_str() {
        "" => return check.error(&field, "is missing; give HTTP, HTTPS, GRPC, HTTP2, TCP or TLS"),
        "GRPC-WEB" | "MONGO" => {
            return check.error(&field, format!("{protocol} is not supported yet; use HTTP or TCP"));
        }
        _ if !known => {
            let message = format!(
                "`{}` is not a protocol of gateways; use HTTP, HTTPS, GRPC, HTTP2, TCP or TLS",
                server.port.protocol
            );
            return check.error(&field, message);
        }
        _ => {}
    }
    let at = at.field("tls");
    match &server.tls {
        None if secure => check.error(&at, format!("is missing; a server of {protocol} needs tls.mode")),
        None => {}
        Some(tls) if tls.https_redirect && !http => {
            check
                .error(&at.field("httpsRedirect"), "redirects plaintext HTTP; it belongs to a server of protocol HTTP");
        }
        // A server of TCP may end TLS in Istio, too.
        Some(tls) if secure || protocol == "TCP" => server_tls(check, &at, tls, &protocol),
        Some(tls) => {
            let only_redirect = ServerTlsSettings { https_redirect: true, ..ServerTlsSettings::default() };
            if tls != &only_redirect && tls != &ServerTlsSettings::default() {
                check.error(
                    &at,
                    format!(
                        "has no place in a server of {protocol}, which is plaintext, but for httpsRedirect; use HTTPS"
                    ),
                );
            }
        }
    }
}

fn server_tls(check: &mut Check<'_>, at: &At, tls: &ServerTlsSettings, protocol: &str) {
    check.unsupported(
        !tls.verify_certificate_spki.is_empty(),
        &at.field("verifyCertificateSpki"),
        " and use subjectAltNames",
    );
    check.unsupported(
        !tls.verify_certificate_hash.is_empty(),
        &at.field("verifyCertificateHash"),
        " and use subjectAltNames",
    );
    check.unsupported(!tls.ca_crl.is_empty(), &at.field("caCrl"), "");
    let names = " and use credentialNames";
    check.unsupported(!tls.tls_certificates.is_empty(), &at.field("tlsCertificates"), names);
    let secret = " and put `ca.crt` into the secret, or into a secret named with the ending `-cacert`";
    check.unsupported(!tls.ca_cert_credential_name.is_empty(), &at.field("caCertCredentialName"), secret);
    check.unsupported(tls.insecure_skip_verify == Some(true), &at.field("insecureSkipVerify"), "");
    let mode = at.field("mode");
    let named = usize::from(!tls.credential_name.is_empty()) + tls.credential_names.len();
    if !tls.credential_name.is_empty() && !tls.credential_names.is_empty() {
        check.error(&at.field("credentialNames"), "stands beside credentialName; give one of them");
    }
    let files = [
        ("serverCertificate", &tls.server_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
    ];
    match tls.mode {
        ServerTlsMode::AutoPassthrough => {
            check.error(
                &mode,
                "AUTO_PASSTHROUGH is not supported yet; use PASSTHROUGH with a VirtualService that has tls routes",
            );
        }
        ServerTlsMode::Passthrough | ServerTlsMode::IstioMutual => {
            if named > 0 {
                check.error(&at.field("credentialName"), "is not used in this mode; remove it, or use mode SIMPLE");
            }
            for (name, _) in files.iter().filter(|(_, file)| !file.is_empty()) {
                check.error(&at.field(name), "is not used in this mode; remove it, or use mode SIMPLE");
            }
            if tls.mode == ServerTlsMode::Passthrough && !matches!(protocol, "TLS" | "HTTPS") {
                check.error(
                    &mode,
                    format!("PASSTHROUGH in a server of {protocol} has no TLS to pass; use protocol TLS"),
                );
            }
        }
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual if named == 0 => {
            let mutual = tls.mode != ServerTlsMode::Simple;
            for (name, file) in files.iter().take(if mutual { 3 } else { 2 }) {
                if file.is_empty() {
                    check.error(
                        &at.field(name),
                        "is missing; give credentialName, or the path of a file in the gateway",
                    );
                }
            }
        }
        _ => {
            for (name, _) in files.iter().filter(|(_, file)| !file.is_empty()) {
                check.error(&at.field(name), "stands beside credentialName, which already brings it; give one of them");
            }
        }
    }
    versions(check, at, tls);
}

/// Versions and cipher suites. TLS below 1.2 is not in the proxy at all.
fn versions(check: &mut Check<'_>, at: &At, tls: &ServerTlsSettings) {
    let rank = |version| match version {
        TlsProtocol::Auto => 0,
        TlsProtocol::V1_0 => 10,
        TlsProtocol::V1_1 => 11,
        TlsProtocol::V1_2 => 12,
        TlsProtocol::V1_3 => 13,
    };
    let (least, most) = (rank(tls.min_protocol_version), rank(tls.max_protocol_version));
    for (name, version) in [("minProtocolVersion", least), ("maxProtocolVersion", most)] {
        if matches!(version, 10 | 11) {
            check
                .error(&at.field(name), "TLS below 1.2 is not supported, because it is broken; use TLSV1_2 or TLSV1_3");
        }
    }
    if least > 0 && most > 0 && least > most {
        check.error(&at.field("minProtocolVersion"), "is above maxProtocolVersion; lower it");
    }
    for (index, suite) in tls.cipher_suites.iter().enumerate() {
        if !CIPHER_SUITES.contains(&suite.as_str()) {
            let message = format!("`{suite}` is not a cipher suite of the proxy; use {}", CIPHER_SUITES.join(", "));
            check.error(&at.field("cipherSuites").index(index), message);
        }
    }
}
