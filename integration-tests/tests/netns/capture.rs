//! Capture as the kernel does it (AG2): a pod and an outside joined by a veth pair; rules applied in the pod by both tools; curl as the
//! workload's user, as the proxy's, and from outside; and listeners that ask where a connection wanted to go.

use clap::Parser;
use mesh_proxy::redirect::{Args, Backend, RedirectError, apply, cleanup};

use crate::namespace::{APP, Kind, Namespace, PROXY};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(flags: &[&str]) -> Args {
    Cli::try_parse_from(std::iter::once(&"redirect").chain(flags)).unwrap().args
}

struct Lab {
    pod: Namespace,
    outside: Namespace,
}

impl Lab {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "network namespaces need root");
        let (pod, outside) = (Namespace::new("pod"), Namespace::new("out"));
        pod.ip(&format!("link add eth0 type veth peer name eth0 netns {}", outside.0));
        for (namespace, addresses) in
            [(&pod, &["10.77.0.2/24", "fd77::2/64"][..]), (&outside, &["10.77.0.1/24", "10.77.0.9/24", "fd77::1/64"])]
        {
            for address in addresses {
                let nodad = if address.contains(':') { " nodad" } else { "" };
                namespace.ip(&format!("addr add {address} dev eth0{nodad}"));
            }
            namespace.ip("link set eth0 up");
        }
        let outside_app = Kind::Named("outside");
        outside.serve(&[("0.0.0.0:8080", outside_app), ("[::]:8080", outside_app), ("0.0.0.0:9090", outside_app)]);
        let (inbound, outbound, app) = (Kind::Proxy("inbound"), Kind::Proxy("outbound"), Kind::Named("app"));
        pod.serve(&[
            ("0.0.0.0:15001", outbound),
            ("[::]:15001", outbound),
            ("0.0.0.0:15006", inbound),
            ("[::]:15006", inbound),
            ("0.0.0.0:8000", app),
            ("[::]:8000", app),
            ("0.0.0.0:8001", app),
            ("0.0.0.0:15021", app),
        ]);
        Self { pod, outside }
    }

    fn apply(&self, backend: Backend, flags: &[&str]) {
        let settings = args(flags).settings().unwrap();
        self.pod.enter(move || apply(&settings, backend)).join().unwrap().unwrap();
    }

    fn cleanup(&self, backend: Backend) -> Result<(), RedirectError> {
        self.pod.enter(move || cleanup(backend)).join().unwrap()
    }

    /// All rules of both tools, without counters.
    fn dump(&self) -> String {
        let all = [
            self.pod.run("nft", &["list", "ruleset"]),
            self.pod.run("iptables-save", &[]),
            self.pod.run("ip6tables-save", &[]),
        ];
        let lines = all.iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split(" counter packets").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
    }

    fn check(&self, what: &str, cases: &[(Who, &str, &str)]) {
        for (who, arguments, expected) in cases {
            let got = match who {
                Who::App => self.pod.curl((APP, APP), arguments),
                Who::Proxy => self.pod.curl((PROXY, PROXY), arguments),
                Who::ProxyGroup => self.pod.curl((APP, PROXY), arguments),
                Who::Outside => self.outside.curl((APP, APP), arguments),
            };
            assert_eq!(got, *expected, "{what}: {who:?} {arguments}\n{}", self.dump());
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Who {
    App,
    Proxy,
    ProxyGroup,
    Outside,
}
use Who::{App, Outside, Proxy, ProxyGroup};

const UNTOUCHED: &[(Who, &str, &str)] = &[
    (App, "http://10.77.0.1:8080/", "outside"),
    (App, "http://[fd77::1]:8080/", "outside"),
    (Outside, "http://10.77.0.2:8000/", "app"),
    (Outside, "http://[fd77::2]:8000/", "app"),
];

const BOTH: [Backend; 2] = [Backend::Nft, Backend::Iptables];

#[test]
fn connections_are_captured_and_the_original_destination_is_known() {
    for backend in BOTH {
        let lab = Lab::new();
        let what = format!("{backend:?}");
        lab.check(&what, UNTOUCHED);
        let flags = ["--ipv6", "-o", "9090", "-x", "10.77.0.9/32", "--drop-invalid"];
        lab.apply(backend, &flags);
        let cases = [
            (App, "http://10.77.0.1:8080/", "outbound 10.77.0.1:8080"),
            (App, "http://[fd77::1]:8080/", "outbound [fd77::1]:8080"),
            // Nothing listens there: capture asks nobody.
            (App, "http://10.77.0.1:81/", "outbound 10.77.0.1:81"),
            (App, "http://10.77.0.1:9090/", "outside"),
            (App, "http://10.77.0.9:8080/", "outside"),
            (App, "http://127.0.0.1:8000/", "app"),
            (App, "http://[::1]:8000/", "app"),
            (App, "http://10.77.0.2:8000/", "app"),
            (App, "http://[fd77::2]:8000/", "app"),
            // The proxy's own connections: out, to its own pod by address (still inbound), to the application.
            (Proxy, "http://10.77.0.1:8080/", "outside"),
            (Proxy, "http://[fd77::1]:8080/", "outside"),
            (ProxyGroup, "http://10.77.0.1:8080/", "outside"),
            (Proxy, "http://10.77.0.2:8000/", "inbound 10.77.0.2:8000"),
            (Proxy, "http://[fd77::2]:8000/", "inbound [fd77::2]:8000"),
            (Proxy, "http://127.0.0.1:8000/", "app"),
            (Proxy, "http://[::1]:8000/", "app"),
            (Proxy, "--interface 127.0.0.6 http://10.77.0.2:8000/", "app"),
            (Outside, "http://10.77.0.2:8000/", "inbound 10.77.0.2:8000"),
            (Outside, "http://[fd77::2]:8000/", "inbound [fd77::2]:8000"),
            (Outside, "http://10.77.0.2:15021/", "app"),
            // A connection to the proxy's port by name is not a redirected one.
            (Outside, "http://10.77.0.2:15006/", "inbound not redirected"),
        ];
        lab.check(&what, &cases);

        let once = lab.dump();
        lab.apply(backend, &flags);
        assert_eq!(once, lab.dump(), "{what}: a second run changes nothing");
        lab.check(&what, &cases);
        lab.cleanup(backend).unwrap();
        lab.check(&what, UNTOUCHED);
        lab.cleanup(backend).unwrap();
        let left = lab.dump();
        assert!(!left.contains("ISTIO") && !left.contains("ferromesh"), "{what}: {left}");
    }
}

#[test]
fn only_what_is_listed_is_captured() {
    for backend in BOTH {
        let lab = Lab::new();
        let what = format!("{backend:?}");
        lab.apply(backend, &["-i", "10.77.0.9/32,127.0.0.0/8", "-q", "9090", "-b", "8001"]);
        lab.check(
            &what,
            &[
                (App, "http://10.77.0.1:8080/", "outside"),
                (App, "http://10.77.0.9:8080/", "outbound 10.77.0.9:8080"),
                (App, "http://10.77.0.1:9090/", "outbound 10.77.0.1:9090"),
                (App, "http://127.0.0.1:8000/", "app"),
                (App, "http://127.0.0.3:8000/", "outbound 127.0.0.3:8000"),
                (Outside, "http://10.77.0.2:8000/", "app"),
                (Outside, "http://10.77.0.2:8001/", "inbound 10.77.0.2:8001"),
                // Without --ipv6, IPv6 is left alone.
                (App, "http://[fd77::1]:8080/", "outside"),
                (Outside, "http://[fd77::2]:8000/", "app"),
            ],
        );
        // Other settings replace these.
        lab.apply(backend, &["-i", "", "-b", ""]);
        lab.check(&what, &[(App, "http://10.77.0.9:8080/", "outside"), (Outside, "http://10.77.0.2:8001/", "app")]);
        // Interfaces that are excluded are left alone.
        lab.apply(backend, &["-c", "eth0", "--ipv6"]);
        lab.check(&what, UNTOUCHED);
    }
}

#[test]
fn either_tool_replaces_what_the_other_did() {
    let lab = Lab::new();
    let own = ["-t", "nat", "-A", "OUTPUT", "-d", "10.77.0.200/32", "-p", "tcp", "-j", "RETURN"];
    lab.pod.run("iptables", &own);
    lab.apply(Backend::Iptables, &["--ipv6"]);
    assert!(lab.dump().contains("-A OUTPUT -p tcp -j ISTIO_OUTPUT"));
    lab.apply(Backend::Auto, &["--ipv6"]);
    let dump = lab.dump();
    assert!(dump.contains("table inet ferromesh") && !dump.contains("-j ISTIO_"), "{dump}");
    lab.check("nft after iptables", &[(App, "http://10.77.0.1:8080/", "outbound 10.77.0.1:8080")]);
    lab.apply(Backend::Iptables, &[]);
    let dump = lab.dump();
    assert!(!dump.contains("table inet ferromesh") && dump.contains("-A OUTPUT -p tcp -j ISTIO_OUTPUT"), "{dump}");
    lab.check("iptables after nft", &[(App, "http://10.77.0.1:8080/", "outbound 10.77.0.1:8080")]);
    lab.cleanup(Backend::Auto).unwrap();
    let left = lab.dump();
    assert!(!left.contains("ISTIO") && !left.contains("ferromesh"), "{left}");
    assert!(left.contains("-A OUTPUT -d 10.77.0.200/32 -p tcp -j RETURN"), "what is not ours stays: {left}");
}
