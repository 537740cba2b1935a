//! Names inside a pod: which the sidecar answers, which it asks of others, and that its own questions are left alone.

use crate::mesh::{Member, Mesh, OUTSIDE, OUTSIDE_NAME};
use crate::namespace::{APP, PROXY};

const NAMES: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, 'fd96::10'], selector: {app: reviews}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: default}
spec: {hosts: [db.example], ports: [{number: 5432, name: tcp, protocol: TCP}], resolution: STATIC, endpoints: [{address: 10.77.0.1}]}
";

/// AG9, DN1: `getent` and `dig` get names that no DNS server knows; other names come from the system's resolver, by way of the sidecar.
#[test]
fn names_that_no_server_knows_are_answered_and_others_forwarded() {
    for backend in ["nft", "iptables"] {
        let mesh = Mesh::start(&[Member { name: "client", redirect: Some(vec!["--backend", backend]) }], NAMES);
        let client = &mesh.pod("client").namespace;
        let app = |line: &str| client.output((APP, APP), line).trim().to_owned();
        // The sidecar has asked for nothing: it dials addresses.
        assert_eq!(mesh.asked(), Vec::<String>::new());
        for (line, expected) in [
            ("getent ahostsv4 reviews", "10.96.0.10"),
            ("getent ahostsv4 reviews.default.svc", "10.96.0.10"),
            ("getent ahostsv6 reviews", "fd96::10"),
            ("dig +short reviews.default.svc.cluster.local", "10.96.0.10"),
            ("dig +short +tcp reviews.default.svc.cluster.local", "10.96.0.10"),
            ("dig +short +tcp reviews.default AAAA", "fd96::10"),
            ("dig +short db.example AAAA", "2001:2::f0f0:"),
            ("getent ahostsv4 db.example", "240.240."),
        ] {
            let got = app(line);
            assert!(got.starts_with(expected), "{backend}: {line}: {got}");
        }
        // Search domains cost no questions outside: the alias ends the search.
        assert_eq!(mesh.asked(), Vec::<String>::new(), "{backend}: names of the mesh stay inside");
        assert_eq!(app(&format!("dig +short {OUTSIDE_NAME}")), OUTSIDE, "{backend}");
        assert_eq!(mesh.asked(), [format!("{OUTSIDE_NAME}. A")], "{backend}");
        assert!(app("dig nothing.example").contains("status: NXDOMAIN"), "{backend}");
        assert!(app(&format!("getent ahostsv4 {OUTSIDE_NAME}")).starts_with(OUTSIDE), "{backend}");
        mesh.asked();
        // The proxy's own questions go where they are sent.
        let own = client.output((PROXY, PROXY), "dig +short reviews.default.svc.cluster.local");
        assert_eq!(own, "", "{backend}");
        assert_eq!(mesh.asked(), ["reviews.default.svc.cluster.local. A"], "{backend}");
    }
}
