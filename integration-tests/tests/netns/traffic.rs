//! Unmodified programs in pods with sidecars: calls by name, over mutual TLS, by rules of the mesh; and what is left alone.

use std::process::Stdio;

use integration_tests::until;

use crate::mesh::{Member, Mesh, OUTSIDE, OUTSIDE_NAME, OUTSIDE_TOO};
use crate::namespace::{APP, Kind, PROXY};

/// Nothing that the mesh does not know can be reached by way of a sidecar, so that what is reached went past it or is known.
const SETTINGS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: 'outboundTrafficPolicy: {mode: REGISTRY_ONLY}'}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: default}
spec: {mtls: {mode: STRICT}}
";

const REVIEWS: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, 'fd96::10'], selector: {app: reviews}, ports: [{name: http, port: 80, targetPort: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
";

/// A VirtualService that sends all to one version, but for those who ask for the other.
fn to(version: u8, other: u8) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews, namespace: default}}\n\
         spec: {{hosts: [reviews], http: [{{match: [{{headers: {{x-version: {{exact: '{other}'}}}}}}], route: [{{destination: {{host: reviews, subset: v{other}}}}}]}}, \
         {{route: [{{destination: {{host: reviews, subset: v{version}}}}}]}}]}}\n"
    )
}

fn sidecar(name: &'static str, flags: &[&'static str]) -> Member {
    Member { name, redirect: Some(flags.to_vec()) }
}

/// AG3, AG4: the kubelet has no certificate; what it asks of the agent's port reaches the application past the proxy, by either IP version.
#[tokio::test]
async fn probes_of_a_strict_pod_are_answered() {
    for backend in ["nft", "iptables"] {
        let mesh = Mesh::start(&[sidecar("reviews-v1", &["--backend", backend])], &format!("{SETTINGS}{REVIEWS}"));
        let pod = mesh.pod("reviews-v1");
        for host in [pod.v4.clone(), format!("[{}]", pod.v6)] {
            let ask = |port: u16, path: &str| mesh.outside.curl((APP, APP), &format!("http://{host}:{port}{path}"));
            let down = ask(15020, "/app-health/app/readyz");
            assert!(down.contains("cannot connect"), "{backend}: {host}: {down}");
        }
        pod.serve(9080, "v1");
        for host in [pod.v4.clone(), format!("[{}]", pod.v6)] {
            let ask = |arguments: &str| mesh.outside.curl((APP, APP), &arguments.replace("POD", &host));
            let up = ask("http://POD:15020/app-health/app/readyz");
            assert!(up.starts_with("v1") && !up.contains("spiffe"), "{backend}: {host}: {up}");
            assert!(!ask("http://POD:9080/ready").starts_with("v1"), "{backend}: {host} takes plaintext");
            let refused = ask("-X POST http://POD:15020/quitquitquit");
            assert!(refused.contains("is for callers in the pod"), "{backend}: {host}: {refused}");
        }
    }
}

/// AG1, AG2: by both tools and both IP versions, a call by name is captured twice, is mutual TLS between, and follows the rules.
#[tokio::test]
async fn pods_call_services_by_name_over_mutual_tls() {
    for backend in ["nft", "iptables"] {
        let members = [
            sidecar("client", &["--backend", backend]),
            sidecar("reviews-v1", &["--backend", backend]),
            sidecar("reviews-v2", &["--backend", backend]),
            Member { name: "bare", redirect: None },
        ];
        let mesh = Mesh::start(&members, &format!("{SETTINGS}{REVIEWS}"));
        mesh.pod("reviews-v1").serve(9080, "v1");
        mesh.pod("reviews-v2").serve(9080, "v2");
        mesh.apply(&to(1, 2));
        let client = mesh.pod("client");
        until("the rule holds", async || (0..8).all(|_| client.curl("http://reviews/").starts_with("v1"))).await;
        for (arguments, version) in [
            ("http://reviews/", "v1"),
            ("-4 http://reviews/", "v1"),
            ("-6 http://reviews/", "v1"),
            ("http://reviews.default.svc.cluster.local/", "v1"),
            ("http://10.96.0.10/", "v1"),
            ("http://[fd96::10]/", "v1"),
            ("-H x-version:2 http://reviews.default/", "v2"),
            ("-6 -H x-version:2 http://reviews.default/", "v2"),
        ] {
            let got = client.curl(arguments);
            assert!(got.starts_with(version), "{backend}: {arguments}: {got}");
            assert!(got.contains("URI=spiffe://cluster.local/ns/default/sa/client"), "{backend}: {arguments}: {got}");
            assert!(got.contains("By=spiffe://cluster.local/ns/default/sa/reviews"), "{backend}: {got}");
        }
        // Without a sidecar there is no name, and no plaintext gets in, by either version.
        let (bare, reviews) = (mesh.pod("bare"), mesh.pod("reviews-v1"));
        assert!(bare.curl("http://reviews/").contains("Could not resolve host"), "{backend}");
        for address in [reviews.v4.clone(), format!("[{}]", reviews.v6)] {
            let got = bare.curl(&format!("http://{address}:9080/"));
            assert!(got.starts_with("curl: ("), "{backend}: {got}");
        }
        // A workload that calls its own service comes to itself, or to the other, as everybody does.
        let own = reviews.curl("http://reviews/");
        assert!(own.starts_with("v1") && own.contains("sa/reviews"), "{backend}: {own}");
        mesh.apply(&to(2, 1));
        until("the next rule holds", async || (0..8).all(|_| client.curl("http://reviews/").starts_with("v2"))).await;
    }
}

/// AG2: ports, destinations, loopback and the proxy's own connections are left alone by what the program sets up.
#[tokio::test]
async fn what_is_excluded_and_the_proxys_own_is_left_alone() {
    for backend in ["nft", "iptables"] {
        let flags = ["--backend", backend, "-o", "9090", "-x", "10.77.0.2/32", "-d", "15090,15021,15020,7000"];
        let mesh = Mesh::start(&[sidecar("client", &flags), Member { name: "bare", redirect: None }], SETTINGS);
        mesh.outside.serve(&[
            ("0.0.0.0:8080", Kind::Named("outside")),
            ("0.0.0.0:9090", Kind::Named("outside")),
            ("[::]:8080", Kind::Named("outside")),
        ]);
        let (client, bare) = (mesh.pod("client"), mesh.pod("bare"));
        client.namespace.serve(&[("0.0.0.0:8000", Kind::Named("app")), ("0.0.0.0:7000", Kind::Named("app"))]);
        let as_proxy = |arguments: &str| client.namespace.curl((PROXY, PROXY), arguments);
        for (what, got, expected) in [
            ("a port", client.curl(&format!("http://{OUTSIDE}:9090/")), "outside"),
            ("a destination", client.curl(&format!("http://{OUTSIDE_TOO}:8080/")), "outside"),
            ("loopback", client.curl("http://127.0.0.1:8000/"), "app"),
            ("the proxy", as_proxy(&format!("http://{OUTSIDE}:8080/")), "outside"),
            ("the proxy by IPv6", as_proxy("http://[fd77::1]:8080/"), "outside"),
            ("an inbound port", bare.curl(&format!("http://{}:7000/", client.v4)), "app"),
        ] {
            assert_eq!(got, expected, "{backend}: {what}");
        }
        // The proxy's own ports are reached from everywhere without a sidecar, but its admin only from its pod.
        for (page, expected) in
            [("15021/healthz/ready", ""), ("15020/stats/prometheus", "# TYPE"), ("15090/stats/prometheus", "# TYPE")]
        {
            let got = bare.curl(&format!("--fail http://{}:{page}", client.v4));
            assert!(got.contains(expected) && !got.starts_with("curl: ("), "{backend}: {page}: {got}");
        }
        assert!(bare.curl(&format!("http://{}:15000/", client.v4)).starts_with("curl: ("), "{backend}");
        assert!(client.curl("--fail http://127.0.0.1:15000/server_info").contains("LIVE"), "{backend}");
        // All else comes to the proxy, which lets nothing out that is not known, and nothing in that is not mutual TLS.
        for (what, got) in [
            ("another port", client.curl(&format!("http://{OUTSIDE}:8080/"))),
            ("another port by IPv6", client.curl("http://[fd77::1]:8080/")),
            ("an inbound port", bare.curl(&format!("http://{}:8000/", client.v4))),
        ] {
            assert!(got.starts_with("curl: ("), "{backend}: {what}: {got}");
        }
    }
}

/// SE8: TCP services of one port, told apart by nothing but the addresses that the mesh gave them.
#[tokio::test]
async fn tcp_services_of_one_port_are_told_apart_by_their_given_addresses() {
    let entry = |name: &str, rest: &str| {
        format!(
            "\n---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: default}}\nspec: {{hosts: [{rest}}}\n"
        )
    };
    let port = "ports: [{number: 5432, name: tcp, protocol: TCP}]";
    let yaml = format!("{SETTINGS}\n---\n")
        + &entry("one", &format!("one.db.example], {port}, resolution: STATIC, endpoints: [{{address: {OUTSIDE}, ports: {{tcp: 7001}}}}]"))
        + &entry("two", &format!("two.db.example], {port}, resolution: STATIC, endpoints: [{{address: {OUTSIDE}, ports: {{tcp: 7002}}}}]"))
        // A name that DNS knows: the workload gets the mesh's address, the proxy the real one.
        + &entry("real", &format!("{OUTSIDE_NAME}], ports: [{{number: 5432, name: tcp, protocol: TCP, targetPort: 7003}}], resolution: DNS"));
    let mesh = Mesh::start(&[sidecar("client", &["--backend", "nft"])], &yaml);
    mesh.outside.serve(&[
        ("0.0.0.0:7001", Kind::Named("one")),
        ("0.0.0.0:7002", Kind::Named("two")),
        ("0.0.0.0:7003", Kind::Named("real")),
    ]);
    let client = mesh.pod("client");
    for (host, expected) in [("one.db.example", "one"), ("two.db.example", "two"), (OUTSIDE_NAME, "real")] {
        for version in ["-4", "-6"] {
            let got = client.curl(&format!("{version} http://{host}:5432/"));
            assert_eq!(got, expected, "{version} {host}");
        }
    }
    let given = client.namespace.output((APP, APP), &format!("getent ahostsv4 {OUTSIDE_NAME}"));
    assert!(given.starts_with("240.240."), "{given}");
}

/// A protocol in which the server speaks first, with a mail server and a client that nobody here wrote, over mutual TLS.
#[tokio::test]
async fn a_mail_server_that_speaks_first_is_reached_through_the_mesh() {
    let mail = "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: mail, namespace: default}\n\
        spec: {clusterIP: 10.96.0.25, selector: {app: mail}, ports: [{name: smtp, port: 25, targetPort: 2525}]}\n";
    let members = [
        sidecar("client", &["--backend", "nft"]),
        sidecar("mail", &["--backend", "nft"]),
        Member { name: "bare", redirect: None },
    ];
    let mesh = Mesh::start(&members, &format!("{SETTINGS}{mail}"));
    let (client, server, bare) = (mesh.pod("client"), mesh.pod("mail"), mesh.pod("bare"));
    let folder = tempfile::tempdir().unwrap();
    let (received, letter) = (folder.path().join("received"), folder.path().join("letter"));
    std::fs::write(&letter, "Subject: greetings\r\n\r\nfrom afar\r\n").unwrap();
    std::os::unix::fs::chown(&letter, Some(APP), Some(APP)).unwrap();
    std::os::unix::fs::chown(folder.path(), Some(APP), Some(APP)).unwrap();
    let log = std::fs::File::create(&received).unwrap();
    let mut program = server.namespace.program((APP, APP), "aiosmtpd");
    program.args(["--nosetuid", "--listen", "0.0.0.0:2525", "--class", "aiosmtpd.handlers.Debugging", "stdout"]);
    let mut running = program.env("PYTHONUNBUFFERED", "1").stdout(log).stderr(Stdio::null()).spawn().unwrap();
    let letter = letter.display();
    let send =
        |to: &str| format!("--mail-from a@example.com --mail-rcpt b@example.com --upload-file {letter} smtp://{to}/");
    until("the server listens", async || server.curl("http://127.0.0.1:2525/").contains("HTTP/0.9")).await;
    let sent = client.curl(&send("mail:25"));
    let refused = bare.curl(&send(&format!("{}:2525", server.v4)));
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(sent, "");
    let received = std::fs::read_to_string(received).unwrap();
    assert!(received.contains("Subject: greetings") && received.contains("from afar"), "{received}");
    assert!(refused.starts_with("curl: ("), "without mutual TLS: {refused}");
}
