//! Who may speak to whom: identities, PeerAuthentication and AuthorizationPolicy, seen from both ends.

use integration_tests::certs::Authority;
use integration_tests::client::Connection;
use integration_tests::mesh::service_on;
use integration_tests::peer::serve_once;
use integration_tests::{App, Client, Mesh, Peer, Shared};
use tokio::net::TcpListener;

use super::object;

static MESH: Shared = Shared::new(|| {
    let guarded = ["http", "who", "order", "tcp", "paths", "all"];
    let mesh = Mesh::builder()
        .client("alice")
        .client("bob")
        .client("own-tls")
        .client_in("elsewhere", "carol")
        .service("turning", 1)
        .service_in("peers", "levels", 1)
        .service_in("spaces", "one", 1)
        .service_in("spaces", "two", 1)
        .mesh_config("trustDomainAliases: [old.example]\npathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}");
    guarded.into_iter().fold(mesh, |mesh, name| mesh.service(name, 1))
});

const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";

/// An object of Istio's security API; its spec in flow style.
fn security(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    object(kind, namespace, name, spec).replace("networking.istio.io", "security.istio.io")
}

fn peers(namespace: &str, name: &str, spec: &str) -> String {
    security("PeerAuthentication", namespace, name, spec)
}

/// An AuthorizationPolicy of namespace `default` for an application of the same name.
fn policy(app: &str, name: &str, spec: &str) -> String {
    let spec =
        format!("{{selector: {{matchLabels: {{app: {app}}}}}{}{spec}}}", if spec.is_empty() { "" } else { ", " });
    security("AuthorizationPolicy", "default", name, &spec)
}

/// What a plaintext client of the sidecar's own port gets: a status, or 0.
async fn plaintext(mesh: &Mesh, workload: &str, index: usize) -> u16 {
    let ask = Client::new(mesh.inbound(workload, index)).get("http://any.test/");
    if index != 1 {
        return ask.status().await;
    }
    // Errors of proxies have status 200 too, but no trailers.
    let answer = ask.grpc().send().await;
    answer.ok().filter(|answer| answer.trailers.contains_key("grpc-status")).map_or(0, |answer| answer.status)
}

/// What a peer with a good certificate gets.
async fn mutual(mesh: &Mesh, workload: &str) -> u16 {
    let peer = Peer::with(mesh.credentials(ALICE).unwrap());
    peer.get(mesh.inbound(workload, 0), "any.test", "/").await.map_or(0, |exchange| exchange.status())
}

/// ID1, PA6: certificates name the workload's SPIFFE id, and applications are told of their peer's by XFCC.
#[test]
fn applications_are_told_who_asks() {
    MESH.run(async |mesh| {
        for (client, id) in [("alice", ALICE), ("carol", "spiffe://cluster.local/ns/elsewhere/sa/carol")] {
            let answer = mesh
                .client(client)
                .get("http://all.default/")
                .header("x-forwarded-client-cert", "URI=spiffe://made/up")
                .send()
                .await?;
            assert_eq!(answer.peer(), id);
            assert_eq!(mesh.identity(client), id);
            let header = answer.saw("x-forwarded-client-cert");
            assert!(header.starts_with("By=spiffe://cluster.local/ns/default/sa/all;Hash="), "{header}");
            assert!(!header.contains("made/up"), "what a client claims is dropped: {header}");
        }
        Ok(())
    });
}

/// ID1: a peer needs a certificate of the mesh's authority, of the mesh's trust domain or an alias of it, that still holds.
#[test]
fn only_certificates_of_the_mesh_are_accepted() {
    MESH.run(async |mesh| {
        let port = mesh.inbound("all-v1", 0);
        let good = |id: &str| mesh.credentials(id);
        for (what, credentials, accepted) in [
            ("of the mesh", good(ALICE)?, true),
            ("of an alias", good("spiffe://old.example/ns/default/sa/alice")?, true),
            ("of another trust domain", good("spiffe://other.example/ns/default/sa/alice")?, false),
            ("of a trust domain that begins alike", good("spiffe://cluster.localhost/ns/default/sa/alice")?, false),
            ("expired", mesh.expired_credentials(ALICE)?, false),
            ("by a stranger", mesh.strange_credentials(ALICE)?, false),
        ] {
            let outcome = Peer::with(credentials).get(port, "all", "/").await;
            assert_eq!(
                outcome.as_ref().is_ok_and(|exchange| exchange.status() == 200),
                accepted,
                "{what}: {outcome:?}"
            );
        }
        let anonymous = Peer::anonymous().get(port, "all", "/").await;
        assert!(anonymous.is_err(), "without a certificate: {anonymous:?}");
        Ok(())
    });
}

/// PA5: TLS 1.2 is accepted, and 1.3 is what is agreed upon.
#[test]
fn tls_is_1_3_and_at_least_1_2() {
    MESH.run(async |mesh| {
        let port = mesh.inbound("all-v1", 0);
        let newest = Peer::with(mesh.credentials(ALICE)?).get(port, "all", "/").await?;
        assert_eq!((newest.status(), newest.version.as_str()), (200, "TLSv1_3"));
        let oldest = Peer::with(mesh.credentials(ALICE)?).tls12().get(port, "all", "/").await?;
        assert_eq!((oldest.status(), oldest.version.as_str()), (200, "TLSv1_2"));
        Ok(())
    });
}

/// BX16: our proxies agree on X25519MLKEM768 with each other, as servers and as clients, and speak with those who know it not.
#[test]
fn key_exchange_is_post_quantum_and_classic_peers_are_served() {
    MESH.run(async |mesh| {
        let port = mesh.inbound("all-v1", 0);
        let hybrid = Peer::with(mesh.credentials(ALICE)?).get(port, "all", "/").await?;
        assert_eq!((hybrid.status(), hybrid.group.as_str()), (200, "X25519MLKEM768"), "the server's side");
        let classic = Peer::with(mesh.credentials(ALICE)?).classic().get(port, "all", "/").await?;
        assert_eq!((classic.status(), classic.group.as_str()), (200, "X25519"), "the server's side, classic");

        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let number = listener.local_addr()?.port();
        let yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: quantum, namespace: default}}\nspec: {{selector: {{app: quantum}}, ports: [{{name: http, port: 80, targetPort: http}}]}}\n---\n\
             apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: quantum, namespace: default, labels: {{app: quantum, security.istio.io/tlsMode: istio}}}}\n\
             spec: {{address: 127.0.0.1, ports: {{http: {number}}}, labels: {{app: quantum, security.istio.io/tlsMode: istio}}, serviceAccount: quantum}}\n\
             {}", super::virtual_service("quantum", "{hosts: [quantum], http: [{route: [{destination: {host: quantum}}], retries: {attempts: 0}}]}")
        );
        mesh.apply_as("quantum", &yaml).await?;
        let own = mesh.credentials("spiffe://cluster.local/ns/default/sa/quantum")?;
        for (classic, group) in [(false, "X25519MLKEM768"), (true, "X25519")] {
            let (served, status) = tokio::join!(serve_once(&listener, &own, classic), mesh.client("alice").get("http://quantum/").status());
            assert_eq!((served?.as_str(), status), (group, 200), "the client's side");
        }
        // A server that is not the service's account is nobody for clients.
        let other = mesh.credentials("spiffe://cluster.local/ns/default/sa/mallory")?;
        let (served, status) = tokio::join!(serve_once(&listener, &other, false), mesh.client("alice").get("http://quantum/").status());
        assert!(served.is_err(), "{served:?}");
        assert_eq!(status, 503);
        Ok(())
    });
}

/// PA1, PA2, PA4: the workload's mode is before the namespace's, and that before the mesh's; a port's before all; clients follow.
#[test]
fn peer_authentication_is_by_mesh_namespace_workload_and_port_and_clients_follow() {
    MESH.run(async |mesh| {
        let grpc = mesh.inbound("levels-v1", 1).port();
        let select = "selector: {matchLabels: {app: levels}}";
        let root = peers("istio-system", "default", "{mtls: {mode: STRICT}}");
        // Other tests speak plaintext to their own applications.
        let apart = peers("default", "apart", "{mtls: {mode: PERMISSIVE}}")
            + &service_on("peers", "levels-grpc", "levels", &[(80, "grpc", "grpc")]);
        let steps: [(&str, String, [bool; 3]); 8] = [
            ("nothing says anything", String::new(), [true, true, true]),
            ("the mesh is strict", root.clone(), [false, false, true]),
            (
                "a namespace turns it off",
                root.clone() + &peers("peers", "default", "{mtls: {mode: DISABLE}}"),
                [true, true, false],
            ),
            (
                "a namespace says nothing of its own",
                root.clone() + &peers("peers", "default", "{mtls: {mode: UNSET}}"),
                [false, false, true],
            ),
            (
                "a workload is strict where its namespace is permissive",
                peers("peers", "default", "{mtls: {mode: PERMISSIVE}}")
                    + &peers("peers", "levels", &format!("{{{select}, mtls: {{mode: STRICT}}}}")),
                [false, false, true],
            ),
            (
                "a workload is permissive in a strict mesh",
                root.clone() + &peers("peers", "levels", &format!("{{{select}, mtls: {{mode: PERMISSIVE}}}}")),
                [true, true, true],
            ),
            (
                "a port is open in a strict workload",
                peers(
                    "peers",
                    "levels",
                    &format!("{{{select}, mtls: {{mode: STRICT}}, portLevelMtls: {{{grpc}: {{mode: DISABLE}}}}}}"),
                ),
                [false, true, true],
            ),
            (
                "a port is strict in a permissive workload",
                peers("peers", "levels", &format!("{{{select}, portLevelMtls: {{{grpc}: {{mode: STRICT}}}}}}")),
                [true, false, true],
            ),
        ];
        let client = mesh.client("alice");
        for (what, yaml, [http, of_grpc, tls]) in steps {
            mesh.apply_as("levels", &(apart.clone() + &yaml)).await?;
            assert_eq!(plaintext(mesh, "levels-v1", 0).await == 200, http, "{what}: plaintext HTTP");
            assert_eq!(plaintext(mesh, "levels-v1", 1).await == 200, of_grpc, "{what}: plaintext gRPC");
            assert_eq!(mutual(mesh, "levels-v1").await == 200, tls, "{what}: mTLS");
            let answer = client.get("http://levels.peers/").send().await?;
            assert_eq!(answer.status, 200, "{what}: a client in the mesh follows: {}", answer.text());
            assert_eq!(answer.peer().is_empty(), !tls, "{what}: a client in the mesh uses mTLS where it may");
            let answer = client.get("http://levels-grpc.peers/").grpc().send().await?;
            assert!(answer.trailers.contains_key("grpc-status"), "{what}: the port too: {answer:?}");
        }
        mesh.apply_as("levels", &apart).await
    });
}

/// PA1: a port that turns strict lets go of the plaintext connections that it has: each is told with its next answer.
#[test]
fn a_port_that_turns_strict_ends_its_plaintext_connections() {
    MESH.run(async |mesh| {
        let mode = |mode: &str| {
            peers(
                "default",
                "turning",
                &format!("{{selector: {{matchLabels: {{app: turning}}}}, mtls: {{mode: {mode}}}}}"),
            )
        };
        mesh.apply_as("turning", &mode("PERMISSIVE")).await?;
        let ask = Client::new(mesh.inbound("turning-v1", 0)).get("http://any.test/");
        let mut kept = Connection::open(&ask).await?;
        assert_eq!(kept.send(&ask).await?.header("connection"), "");
        mesh.apply_as("turning", &mode("STRICT")).await?;
        let last = kept.send(&ask).await?;
        assert_eq!((last.status, last.header("connection")), (200, "close"), "what is under way is not cut");
        assert!(kept.send(&ask).await.is_err());
        assert_eq!(plaintext(mesh, "turning-v1", 0).await, 0);
        mesh.delete("turning").await
    });
}

/// PA3: a permissive TCP port takes mTLS, plaintext, and TLS of the application's own, which it passes through untouched.
#[test]
fn a_permissive_port_passes_the_applications_own_tls() {
    MESH.run(async |mesh| {
        let authority = Authority::new("web")?;
        let mut app = App::start("own-tls", "v1").await?;
        let secure = app.serve_tls(&authority.issue(&["site.test"])?, None).await?;
        let port = meshctl::local::ports::Port::reserve_at("127.0.0.1".parse()?)?;
        let number = port.number();
        mesh.set_sidecar("own-tls", &format!("{{ingress: [{{port: {{number: {number}, protocol: TCP, name: tcp}}, bind: 127.0.0.1, captureMode: NONE, defaultEndpoint: '{secure}'}}]}}")).await?;
        let port = std::net::SocketAddr::from(([127, 0, 0, 1], number));
        let answer = Client::new(port).over_tls(authority.pem(), None).get("https://site.test/").send().await?;
        assert_eq!((answer.status, answer.field("server_name").as_str()), (200, "site.test"));
        mesh.set_sidecar("own-tls", &format!("{{ingress: [{{port: {{number: {number}, protocol: TCP, name: tcp}}, bind: 127.0.0.1, captureMode: NONE, defaultEndpoint: '{}'}}]}}", app.tcp)).await?;
        assert_eq!(Client::new(port).exchange(b"plain").await?, "own-tls v1: plain");
        let peer = Peer::with(mesh.credentials(ALICE)?).alpn(&["istio"]);
        assert_eq!(peer.exchange(port, b"mesh").await?.answer, "own-tls v1: mesh");
        Ok(())
    });
}

/// A request as `alice`, `bob` or `carol`: method and path.
async fn ask(mesh: &Mesh, client: &str, host: &str, method: &str, path: &str) -> u16 {
    let method = method.parse().unwrap();
    mesh.client(client).ask(method, &format!("http://{host}{path}")).status().await
}

/// AP1, AP4, AP7: methods, paths, hosts and ports in every form, their negations, fields joined by AND, values and rules by OR.
#[test]
fn requests_are_judged_by_operation() {
    MESH.run(async |mesh| {
        let port = mesh.inbound("http-v1", 0).port();
        let to = |operation: &str| format!("rules: [{{to: [{{operation: {{{operation}}}}}]}}]");
        for (spec, asked) in [
            (to("methods: [GET, HEAD]"), &[("GET", "/", true), ("POST", "/", false)][..]),
            (to("notMethods: [POST]"), &[("GET", "/", true), ("POST", "/", false)]),
            (to("paths: [/exact]"), &[("GET", "/exact", true), ("GET", "/exact?q=1", true), ("GET", "/exact/", false), ("GET", "/Exact", false)]),
            (to("paths: ['/pre*']"), &[("GET", "/prefix/x", true), ("GET", "/pre", true), ("GET", "/other", false)]),
            (to("paths: ['*/suffix']"), &[("GET", "/a/suffix", true), ("GET", "/suffix/a", false)]),
            (to("paths: ['*']"), &[("GET", "/anything", true)]),
            (to("paths: ['/a*'], notPaths: [/ab]"), &[("GET", "/a", true), ("GET", "/ab", false), ("GET", "/b", false)]),
            (to("hosts: ['HTTP.default']"), &[("GET", "/", true)]),
            (to("hosts: ['other.*']"), &[("GET", "/", false)]),
            (to("notHosts: ['http*']"), &[("GET", "/", false)]),
            (to(&format!("ports: ['{port}']")), &[("GET", "/", true)]),
            (to("ports: ['1']"), &[("GET", "/", false)]),
            (to(&format!("notPorts: ['{port}']")), &[("GET", "/", false)]),
            (to("methods: [GET], paths: [/a]"), &[("GET", "/a", true), ("GET", "/b", false), ("POST", "/a", false)]),
            ("rules: [{to: [{operation: {paths: [/a]}}, {operation: {methods: [POST]}}]}, {to: [{operation: {paths: [/c]}}]}]".to_owned(),
                &[("GET", "/a", true), ("POST", "/b", true), ("GET", "/c", true), ("GET", "/d", false)]),
        ] {
            mesh.apply_as("ap-http", &policy("http", "operations", &spec)).await?;
            for (method, path, allowed) in asked {
                let expected = if *allowed { 200 } else { 403 };
                assert_eq!(ask(mesh, "alice", "http.default", method, path).await, expected, "{spec}: {method} {path}");
            }
        }
        mesh.delete("ap-http").await
    });
}

/// AP3, AP7, AP10: who asks: principals in every form, namespaces, addresses; names under an alias of the trust domain count too.
#[test]
fn requests_are_judged_by_their_source() {
    MESH.run(async |mesh| {
        let from = |source: &str| format!("rules: [{{from: [{{source: {{{source}}}}}]}}]");
        for (spec, [alice, bob, carol]) in [
            (from("principals: [cluster.local/ns/default/sa/alice]"), [true, false, false]),
            (from("principals: ['cluster.local/ns/default/*']"), [true, true, false]),
            (from("principals: ['*/sa/carol']"), [false, false, true]),
            (from("principals: ['*']"), [true, true, true]),
            (from("notPrincipals: [cluster.local/ns/default/sa/alice]"), [false, true, true]),
            (from("principals: [old.example/ns/default/sa/bob]"), [false, true, false]),
            (from("namespaces: [elsewhere]"), [false, false, true]),
            (from("namespaces: ['else*']"), [false, false, true]),
            (from("notNamespaces: [default]"), [false, false, true]),
            (from("namespaces: [default], notPrincipals: ['*/bob']"), [true, false, false]),
            (from("ipBlocks: [127.0.0.0/8]"), [true, true, true]),
            (from("ipBlocks: [10.0.0.0/8]"), [false, false, false]),
            (from("notIpBlocks: [127.0.0.1]"), [false, false, false]),
            ("rules: [{from: [{source: {namespaces: [elsewhere]}}, {source: {principals: ['*/alice']}}], to: [{operation: {methods: [GET]}}]}]".to_owned(), [true, false, true]),
        ] {
            mesh.apply_as("ap-who", &policy("who", "sources", &spec)).await?;
            for (client, allowed) in [("alice", alice), ("bob", bob), ("carol", carol)] {
                let expected = if allowed { 200 } else { 403 };
                assert_eq!(ask(mesh, client, "who.default", "GET", "/").await, expected, "{spec}: {client}");
            }
        }
        // Without mTLS there is no principal, so none is allowed.
        mesh.apply_as("ap-who", &policy("who", "sources", &from("principals: ['*']"))).await?;
        assert_eq!(plaintext(mesh, "who-v1", 0).await, 403);
        mesh.delete("ap-who").await
    });
}

/// AP2, AP14: DENY before ALLOW, nothing without rules, everything with an empty rule; and what decided is in the access log.
#[test]
fn denials_come_first_and_say_what_decided() {
    MESH.run(async |mesh| {
        let allow = policy("order", "allow", "action: ALLOW, rules: [{}]");
        let deny = policy(
            "order",
            "deny",
            "action: DENY, rules: [{to: [{operation: {paths: [/none]}}]}, {to: [{operation: {paths: [/secret]}}]}]",
        );
        for (what, yaml, open, secret) in [
            ("nothing", String::new(), 200, 200),
            ("ALLOW without rules", policy("order", "allow", ""), 403, 403),
            ("ALLOW of everything", allow.clone(), 200, 200),
            ("DENY of a path", deny.clone(), 200, 403),
            ("DENY of a path, ALLOW of everything", allow.clone() + &deny, 200, 403),
            (
                "DENY of everything, ALLOW of everything",
                allow + &policy("order", "deny", "action: DENY, rules: [{}]"),
                403,
                403,
            ),
            (
                "ALLOW of another path",
                policy("order", "allow", "rules: [{to: [{operation: {paths: [/only]}}]}]"),
                403,
                403,
            ),
            (
                "two ALLOWs",
                policy("order", "allow", "rules: [{to: [{operation: {paths: [/]}}]}]")
                    + &policy("order", "more", "rules: [{to: [{operation: {paths: [/secret]}}]}]"),
                200,
                200,
            ),
        ] {
            // An empty file has no marker of its own.
            mesh.apply_as("ap-order", &yaml).await?;
            assert_eq!(ask(mesh, "alice", "order", "GET", "/").await, open, "{what}: /");
            assert_eq!(ask(mesh, "alice", "order", "GET", "/secret").await, secret, "{what}: /secret");
        }
        mesh.apply_as("ap-order", &deny).await?;
        let answer = mesh.client("alice").get("http://order/secret?denied").send().await?;
        assert_eq!((answer.status, answer.text().as_str()), (403, "RBAC: access denied"));
        mesh.apply_as("ap-order", &policy("order", "allow", "")).await?;
        assert_eq!(mesh.client("alice").get("http://order/?unmatched").status().await, 403);
        for (path, detail) in [
            ("/secret?denied", "rbac_access_denied_matched_policy[ns[default]-policy[deny]-rule[1]]"),
            ("/?unmatched", "rbac_access_denied_matched_policy[none]"),
        ] {
            let inbound =
                |line: &serde_json::Value| line["path"] == path && line["response_code_details"] != "via_upstream";
            let lines = mesh.log(inbound).await?;
            assert_eq!(lines[0]["response_code_details"], detail, "{lines:?}");
            assert_eq!(lines[0]["response_flags"], "-");
        }
        mesh.delete("ap-order").await
    });
}

/// AP5: on TCP, an ALLOW that needs HTTP never allows; a DENY loses what only HTTP can tell, and so denies more.
#[test]
fn connections_are_judged_without_what_only_http_tells() {
    MESH.run(async |mesh| {
        let port = mesh.inbound("tcp-v1", 2);
        let number = port.port();
        for (spec, alice, bob) in [
            ("rules: [{from: [{source: {principals: ['*/alice']}}]}]".to_owned(), true, false),
            ("rules: [{from: [{source: {principals: ['*/alice']}}], to: [{operation: {methods: [GET]}}]}]".to_owned(), false, false),
            (format!("rules: [{{to: [{{operation: {{ports: ['{number}']}}}}]}}]"), true, true),
            ("action: DENY, rules: [{from: [{source: {principals: ['*/alice']}}], to: [{operation: {methods: [DELETE]}}]}]".to_owned(), false, true),
            ("action: DENY, rules: [{from: [{source: {namespaces: [elsewhere]}}]}]".to_owned(), true, true),
        ] {
            mesh.apply_as("ap-tcp", &policy("tcp", "connections", &spec)).await?;
            for (name, allowed) in [("alice", alice), ("bob", bob)] {
                let own = mesh.credentials(&format!("spiffe://cluster.local/ns/default/sa/{name}"))?;
                let outcome = Peer::with(own).alpn(&["istio"]).exchange(port, b"hi").await;
                assert_eq!(outcome.as_ref().is_ok_and(|exchange| exchange.answer == "tcp v1: hi"), allowed, "{spec}: {name}: {outcome:?}");
            }
        }
        mesh.delete("ap-tcp").await
    });
}

/// AP8: a policy is for its selector's workloads, its namespace, or from the root namespace for the whole mesh.
#[test]
fn policies_hold_for_workloads_namespaces_and_the_mesh() {
    MESH.run(async |mesh| {
        let deny = |namespace: &str, more: &str, path: &str| {
            security(
                "AuthorizationPolicy",
                namespace,
                &format!("deny-{}", &path[1..]),
                &format!("{{action: DENY, rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]{more}}}"),
            )
        };
        let yaml = deny("spaces", ", selector: {matchLabels: {app: one}}", "/of-workload")
            + &deny("spaces", "", "/of-namespace")
            + &deny("istio-system", "", "/of-mesh")
            + &deny("istio-system", ", selector: {matchLabels: {app: two}}", "/of-mesh-selected");
        mesh.apply_as("ap-scopes", &yaml).await?;
        for (path, [one, two, other]) in [
            ("/of-workload", [403, 200, 200]),
            ("/of-namespace", [403, 403, 200]),
            ("/of-mesh", [403, 403, 403]),
            ("/of-mesh-selected", [200, 403, 200]),
        ] {
            for (host, expected) in [("one.spaces", one), ("two.spaces", two), ("all.default", other)] {
                assert_eq!(ask(mesh, "alice", host, "GET", path).await, expected, "{host}{path}");
            }
        }
        mesh.delete("ap-scopes").await
    });
}

/// AP11: what is judged is the canonical path, and that is what the application gets.
#[test]
fn paths_are_canonical_before_they_are_judged() {
    MESH.run(async |mesh| {
        mesh.apply_as(
            "ap-paths",
            &policy("paths", "admin", "action: DENY, rules: [{to: [{operation: {paths: [/admin, '/admin/*']}}]}]"),
        )
        .await?;
        let port = mesh.inbound("paths-v1", 0);
        let peer = Peer::with(mesh.credentials(ALICE)?);
        for path in [
            "/admin",
            "//admin",
            "/./admin",
            "/public/../admin",
            "/public/%2e%2e/admin",
            "/%61dmin",
            "/admin%2fkeys",
            "/admin%5ckeys",
            "/admin\\keys",
            "/admin/?q",
            "%2fadmin",
        ] {
            let status = peer.get(port, "paths", path).await.map_or(0, |exchange| exchange.status());
            assert!(status == 403 || (status == 400 && !path.starts_with('/')), "{path}: {status}");
        }
        for (path, seen) in [
            ("/public//x", "/public/x"),
            ("/a/../b", "/b"),
            ("/a%2Fb", "/a/b"),
            ("/%7euser", "/~user"),
            ("/administrator", "/administrator"),
        ] {
            let exchange = peer.get(port, "paths", path).await?;
            assert_eq!(exchange.json()["path"], seen, "{path}");
        }
        mesh.delete("ap-paths").await
    });
}
