//! Tables over the whole model: objects as YAML in, what a node sees out.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use mesh_proto::crd;

use super::*;

/// Reads objects of the kinds that the tests use. The real reader is a source's; this one takes valid objects only.
pub fn objects(yaml: &str) -> Vec<Change> {
    fn spec<T: serde::de::DeserializeOwned>(value: &serde_json::Value) -> T {
        serde_json::from_value(value["spec"].clone()).unwrap()
    }
    fn whole<T: serde::de::DeserializeOwned>(value: &serde_json::Value) -> T {
        serde_json::from_value(value.clone()).unwrap()
    }
    let documents = yaml.split("\n---").filter(|text| !text.trim().is_empty());
    let read = documents.map(|text| {
        let value: serde_json::Value = yaml_serde::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let (kind, spec) = match value["kind"].as_str().unwrap() {
            "VirtualService" => (Kind::VirtualService, Spec::VirtualService(spec(&value))),
            "DestinationRule" => (Kind::DestinationRule, Spec::DestinationRule(spec(&value))),
            "Gateway" => (Kind::Gateway, Spec::Gateway(spec(&value))),
            "ServiceEntry" => (Kind::ServiceEntry, Spec::ServiceEntry(spec(&value))),
            "WorkloadEntry" => (Kind::WorkloadEntry, Spec::WorkloadEntry(spec(&value))),
            "Sidecar" => (Kind::Sidecar, Spec::Sidecar(spec(&value))),
            "PeerAuthentication" => (Kind::PeerAuthentication, Spec::PeerAuthentication(spec(&value))),
            "AuthorizationPolicy" => (Kind::AuthorizationPolicy, Spec::AuthorizationPolicy(spec(&value))),
            "Telemetry" => (Kind::Telemetry, Spec::Telemetry(spec(&value))),
            "Service" => (Kind::Service, Spec::Service(whole(&value))),
            "EndpointSlice" => (Kind::EndpointSlice, Spec::EndpointSlice(whole(&value))),
            "Pod" => (Kind::Pod, Spec::Pod(whole(&value))),
            "Node" => (Kind::Node, Spec::Node(whole(&value))),
            "Secret" => (Kind::Secret, Spec::Secret(whole(&value))),
            other => panic!("{other}"),
        };
        let text = |key: &str| value["metadata"][key].as_str().unwrap_or_default();
        let map = |key: &str| serde_json::from_value(value["metadata"][key].clone()).unwrap_or_default();
        let created = value["metadata"]["created"].as_i64().unwrap_or(0);
        let meta = Meta { labels: map("labels"), annotations: map("annotations"), created, generation: 0 };
        let key = Key { kind, namespace: text("namespace").into(), name: text("name").into() };
        Change::Set(Arc::new(Object { key, meta, origin: Origin::default(), spec, recorded: Vec::new() }))
    });
    read.collect()
}

/// A sidecar of `namespace` with labels `app=APP`.
pub fn node(namespace: &str, app: &str, address: &str) -> Node {
    Node {
        id: format!("sidecar~{address}~{app}-1.{namespace}~{namespace}.svc.cluster.local").into(),
        kind: NodeKind::Sidecar,
        name: format!("{app}-1").into(),
        namespace: namespace.into(),
        service_account: app.into(),
        workload_name: app.into(),
        addresses: vec![address.parse().unwrap()],
        labels: [("app".to_owned(), app.to_owned())].into(),
        annotations: Default::default(),
        cluster: "Kubernetes".into(),
        network: "".into(),
        dns_domain: format!("{namespace}.svc.cluster.local").into(),
        interception: Interception::Redirect,
        locality: "".into(),
        ferromesh: true,
        proxy_config: serde_json::Value::Null,
        dns_capture: false,
        vhds: false,
        grpc: false,
    }
}

fn context(yaml: &str) -> Arc<PushContext> {
    let mut model = Model::default();
    model.apply(objects(yaml));
    model.context()
}

fn hosts(services: &[Arc<Service>]) -> Vec<String> {
    services.iter().map(|service| format!("{}/{}", service.namespace, service.host)).collect()
}

fn service(namespace: &str, name: &str, more: &str) -> String {
    format!(
        "\n---\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}{more}}}\nspec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}"
    )
}

fn pod(namespace: &str, app: &str, name: &str, address: &str, more: &str) -> String {
    format!(
        "\n---\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {app}}}}}\nspec: {{serviceAccountName: {app}, containers: [{{name: c, ports: [{{name: web, containerPort: 8080}}]}}]}}\nstatus: {{podIP: {address}{more}}}"
    )
}

#[test]
fn services_are_seen_by_export_and_sidecar() {
    let entry = |namespace: &str, name: &str, host: &str, more: &str| {
        format!(
            "\n---\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{hosts: [{host}], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: DNS{more}}}"
        )
    };
    let base = service("shop", "cart", "")
        + &service("shop", "hidden", ", annotations: {networking.istio.io/exportTo: .}")
        + &service("bank", "ledger", "")
        + &entry("bank", "own", "api.example.com", "")
        + &entry("shop", "mine", "api.example.com", "")
        + &entry("bank", "cart", "cart.shop.svc.cluster.local", "");
    let sidecar = |spec: &str| format!("\n---\nkind: Sidecar\nmetadata: {{name: s, namespace: shop}}\nspec: {spec}");
    let cart = "shop/cart.shop.svc.cluster.local";
    let hidden = "shop/hidden.shop.svc.cluster.local";
    let ledger = "bank/ledger.bank.svc.cluster.local";
    for (more, namespace, expected) in [
        (String::new(), "shop", vec!["shop/api.example.com", cart, hidden, ledger]),
        // Its own namespace first, then Kubernetes.
        (String::new(), "bank", vec!["bank/api.example.com", "bank/cart.shop.svc.cluster.local", ledger]),
        (String::new(), "other", vec!["shop/api.example.com", cart, ledger]),
        (sidecar("{egress: [{hosts: ['./*']}]}"), "shop", vec!["shop/api.example.com", cart, hidden]),
        (
            sidecar("{egress: [{hosts: ['bank/*']}]}"),
            "shop",
            vec!["bank/api.example.com", "bank/cart.shop.svc.cluster.local", ledger],
        ),
        (sidecar("{egress: [{hosts: ['*/*.svc.cluster.local', '~bank/*']}]}"), "shop", vec![cart, hidden]),
        (sidecar("{egress: [{hosts: ['~/*']}]}"), "shop", vec![]),
        (sidecar("{egress: [{port: {number: 81, protocol: HTTP}, hosts: ['*/*']}]}"), "shop", vec![]),
        (
            sidecar("{workloadSelector: {labels: {app: else}}, egress: [{hosts: ['~/*']}]}"),
            "bank",
            vec!["bank/api.example.com", "bank/cart.shop.svc.cluster.local", ledger],
        ),
    ] {
        let context = context(&(base.clone() + &more));
        assert_eq!(hosts(&context.services(&node(namespace, "a", "10.0.0.9"))), expected, "{namespace} {more}");
    }
}

#[test]
fn the_sidecar_is_the_workloads_then_the_namespaces_then_the_roots() {
    let sidecar = |namespace: &str, name: &str, spec: &str| {
        format!("\n---\nkind: Sidecar\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}")
    };
    let all = sidecar("istio-system", "root", "{}")
        + &sidecar("istio-system", "selecting", "{workloadSelector: {labels: {app: cart}}}")
        + &sidecar("shop", "wide", "{}")
        + &sidecar("shop", "cart", "{workloadSelector: {labels: {app: cart}}}");
    let context = context(&all);
    for (namespace, app, expected) in [("shop", "cart", "cart"), ("shop", "pay", "wide"), ("bank", "cart", "root")] {
        let found = context.sidecar(&node(namespace, app, "10.0.0.9")).unwrap();
        assert_eq!(&*found.key.name, expected, "{namespace} {app}");
    }
}

#[test]
fn what_a_virtual_service_sends_to_is_reachable() {
    let all = service("shop", "cart", "")
        + &service("bank", "ledger", "")
        + "
---
kind: Sidecar
metadata: {name: s, namespace: shop}
spec: {egress: [{hosts: ['./*']}]}
---
kind: VirtualService
metadata: {name: v, namespace: shop}
spec: {hosts: [cart], http: [{route: [{destination: {host: ledger.bank.svc.cluster.local}}]}]}
---
kind: VirtualService
metadata: {name: w, namespace: bank}
spec: {hosts: [ledger], http: [{route: [{destination: {host: ledger}}]}]}";
    let context = context(&all);
    let node = node("shop", "a", "10.0.0.9");
    let found = hosts(&context.services(&node));
    assert_eq!(found, ["shop/cart.shop.svc.cluster.local", "bank/ledger.bank.svc.cluster.local"]);
    let names: Vec<_> = context.virtual_services(&node, "mesh").iter().map(|one| one.key.name.clone()).collect();
    assert_eq!(names, ["v".into()]);
}

#[test]
fn virtual_services_are_resolved_and_ordered() {
    let all = "
kind: VirtualService
metadata: {name: young, namespace: shop, created: 20}
spec: {hosts: [cart], gateways: [edge, mesh], http: [{match: [{gateways: [edge]}], delegate: {name: d, namespace: bank}}, {route: [{destination: {host: cart}}]}]}
---
kind: VirtualService
metadata: {name: old, namespace: shop, created: 10}
spec: {hosts: [cart.shop], exportTo: [.], http: [{route: [{destination: {host: x.y}}]}]}
---
kind: VirtualService
metadata: {name: d, namespace: bank}
spec: {http: [{name: r, route: [{destination: {host: ledger}}]}]}";
    let context = context(all);
    let names = |namespace: &str, gateway: &str| {
        let found = context.virtual_services(&node(namespace, "a", "10.0.0.9"), gateway);
        found.iter().map(|one| one.key.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names("shop", "mesh"), ["old", "young"]);
    assert_eq!(names("bank", "mesh"), ["young"]);
    assert_eq!(names("bank", "shop/edge"), ["young"]);
    assert_eq!(names("bank", "bank/edge"), Vec::<String>::new());
    let young = &context.virtual_services(&node("shop", "a", "10.0.0.9"), "mesh")[1].spec;
    assert_eq!(young.hosts, ["cart.shop.svc.cluster.local"]);
    assert_eq!(young.http[0].route[0].destination.host, "ledger.bank.svc.cluster.local");
    assert_eq!(young.http[0].matches[0].gateways, ["shop/edge"]);
    assert_eq!(young.http[1].route[0].destination.host, "cart.shop.svc.cluster.local");
}

#[test]
fn destination_rules_are_found_in_istio_order_and_merged() {
    let rule = |namespace: &str, name: &str, created: u32, spec: &str| {
        format!(
            "\n---\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: {namespace}, created: {created}}}\nspec: {spec}"
        )
    };
    let cart = "host: cart.shop.svc.cluster.local";
    let base = service("shop", "cart", "");
    let find = |rules: &[String], namespace: &str| {
        let context = context(&(base.clone() + &rules.concat()));
        let service = context.service("shop", "cart.shop.svc.cluster.local").unwrap().clone();
        context.destination_rule(&node(namespace, "a", "10.0.0.9"), &service)
    };
    let of_client = rule("web", "client", 1, &format!("{{{cart}}}"));
    let of_service = rule("shop", "service", 1, "{host: cart}");
    let private = rule("shop", "private", 1, "{host: cart, exportTo: [.]}");
    let of_root = rule("istio-system", "root", 1, "{host: '*'}");
    let wild = rule("web", "wild", 1, "{host: '*.svc.cluster.local'}");
    let selecting = rule("web", "selecting", 2, &format!("{{{cart}, workloadSelector: {{matchLabels: {{app: a}}}}}}"));
    for (rules, namespace, expected) in [
        (vec![&of_client, &of_service, &of_root], "web", Some("client")),
        (vec![&of_service, &of_root], "web", Some("service")),
        (vec![&of_client, &of_service, &of_root], "bank", Some("service")),
        (vec![&private, &of_root], "web", Some("root")),
        (vec![&private, &of_root], "shop", Some("private")),
        (vec![&of_root, &of_service], "istio-system", Some("service")),
        (vec![&wild, &of_service], "web", Some("wild")),
        (vec![&wild, &of_client], "web", Some("client")),
        (vec![&of_client, &selecting], "web", Some("selecting")),
        (vec![&selecting, &of_service], "bank", Some("service")),
        (vec![], "web", None),
    ] {
        let rules: Vec<String> = rules.into_iter().cloned().collect();
        let found = find(&rules, namespace).map(|rule| rule.key.name.to_string());
        assert_eq!(found.as_deref(), expected, "{namespace} {rules:?}");
    }
    let merged = find(
        &[
            rule(
                "shop",
                "b",
                2,
                "{host: cart, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {v: x}}, {name: v2}]}",
            ),
            rule("shop", "a", 1, "{host: cart, subsets: [{name: v1, labels: {v: y}}]}"),
        ],
        "web",
    );
    let merged = merged.unwrap();
    let names: Vec<_> = merged.spec.subsets.iter().map(|subset| subset.name.as_str()).collect();
    assert_eq!((names, merged.spec.subsets[0].labels["v"].as_str()), (vec!["v1", "v2"], "y"));
    assert!(merged.spec.traffic_policy.is_some());
}

#[test]
fn endpoints_come_from_slices_else_from_pods() {
    let pods = pod("shop", "cart", "cart-1", "10.0.0.1", "")
        + &pod("shop", "cart", "cart-2", "10.0.0.2", ", conditions: [{type: Ready, status: 'False'}]")
        + &pod("shop", "other", "other-1", "10.0.0.3", "")
        + &pod("bank", "cart", "cart-1", "10.0.0.4", "");
    let slice = "\n---\nkind: EndpointSlice\nmetadata: {name: cart-x, namespace: shop, labels: {kubernetes.io/service-name: cart}}\naddressType: IPv4\nports: [{name: http, port: 9090}]\nendpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.7]}, {addresses: [10.0.0.8], conditions: {ready: false}}]";
    let entry = "\n---\nkind: WorkloadEntry\nmetadata: {name: vm, namespace: shop}\nspec: {address: 10.1.0.1, labels: {app: cart}, ports: {http: 7000}, weight: 3, serviceAccount: vm}";
    let named = service("shop", "cart", "").replace("targetPort: 8080", "targetPort: web");
    for (objects, expected) in [
        (service("shop", "cart", "") + &pods, vec!["10.0.0.1:8080"]),
        (named + &pods, vec!["10.0.0.1:8080"]),
        (service("shop", "cart", "") + &pods + slice, vec!["10.0.0.1:9090", "10.0.0.7:9090"]),
        (service("shop", "cart", "") + &pods + entry, vec!["10.0.0.1:8080", "10.1.0.1:7000"]),
    ] {
        let context = context(&objects);
        let service = context.service("shop", "cart.shop.svc.cluster.local").unwrap();
        let endpoints = context.endpoints(service, &service.ports[0]);
        let found: Vec<_> = endpoints
            .iter()
            .map(|one| match &one.address {
                Address::Ip(address) => format!("{address}:{}", one.port),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(found, expected, "{objects}");
    }
}

#[test]
fn identities_are_those_of_endpoints_and_of_the_entry() {
    let all = service("shop", "cart", "")
        + &pod("shop", "cart", "cart-1", "10.0.0.1", "")
        + "\n---\nkind: ServiceEntry\nmetadata: {name: e, namespace: shop}\nspec: {hosts: [cart.shop.svc.cluster.local], subjectAltNames: ['spiffe://x/ns/a/sa/b']}";
    let mut model = Model::new(crd::MeshConfig { trust_domain_aliases: vec!["old".into()], ..Default::default() });
    model.apply(objects(&all));
    let context = model.context();
    let service = context.service("web", "cart.shop.svc.cluster.local").unwrap();
    assert_eq!(service.registry, Registry::Kubernetes);
    let expected = ["spiffe://cluster.local/ns/shop/sa/cart", "spiffe://old/ns/shop/sa/cart", "spiffe://x/ns/a/sa/b"];
    assert_eq!(context.identities(service), expected);
}

#[test]
fn targets_are_the_services_that_a_node_serves() {
    let entry = "\n---\nkind: ServiceEntry\nmetadata: {name: e, namespace: shop}\nspec: {hosts: [vm.example.com], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 7000}], endpoints: [{address: 10.0.0.1, labels: {app: cart}}, {address: 10.0.0.2}]}";
    let unready = pod("shop", "cart", "cart-1", "10.0.0.1", ", conditions: [{type: Ready, status: 'False'}]");
    let services = service("shop", "cart", "") + &service("shop", "pay", "") + &service("bank", "cart", "");
    let named = service("shop", "cart", "").replace("targetPort: 8080", "targetPort: web");
    for (objects, expected) in [
        (services.clone(), vec!["cart.shop.svc.cluster.local 8080"]),
        (services.clone() + &unready, vec!["cart.shop.svc.cluster.local 8080"]),
        (named + &unready, vec!["cart.shop.svc.cluster.local 8080"]),
        (services + entry, vec!["vm.example.com 7000", "cart.shop.svc.cluster.local 8080"]),
    ] {
        let targets = context(&objects).targets(&node("shop", "cart", "10.0.0.1"));
        let found: Vec<_> =
            targets.iter().map(|target| format!("{} {}", target.service.host, target.target_port)).collect();
        assert_eq!(found, expected, "{objects}");
    }
}

#[test]
fn peer_authentication_is_the_workloads_over_the_namespaces_over_the_meshs() {
    let policy = |namespace: &str, name: &str, spec: &str| {
        format!("\n---\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}")
    };
    let root = policy("istio-system", "root", "{mtls: {mode: STRICT}}");
    let wide = policy("shop", "wide", "{mtls: {mode: DISABLE}}");
    let unset = policy("shop", "wide", "{mtls: {mode: UNSET}}");
    let own = policy(
        "shop",
        "own",
        "{selector: {matchLabels: {app: cart}}, portLevelMtls: {80: {mode: PERMISSIVE}, 81: {}}}",
    );
    let older = policy("shop", "a-older", "{mtls: {mode: STRICT}}");
    for (objects, expected) in [
        (vec![], [Mode::Permissive; 2]),
        (vec![&root], [Mode::Strict; 2]),
        (vec![&root, &wide], [Mode::Disable; 2]),
        (vec![&root, &unset], [Mode::Strict; 2]),
        (vec![&root, &own], [Mode::Strict, Mode::Permissive]),
        (vec![&wide, &older], [Mode::Strict; 2]),
    ] {
        let objects: String = objects.into_iter().map(String::as_str).collect();
        let mtls = context(&objects).mtls("shop", &[("app".to_owned(), "cart".to_owned())].into());
        assert_eq!([mtls.port(81), mtls.port(80)], expected, "{objects}");
    }
}

#[test]
fn authorization_policies_hold_by_namespace_and_selector() {
    let policy = |namespace: &str, name: &str, more: &str| {
        format!(
            "\n---\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{more}}}"
        )
    };
    let all = policy("istio-system", "root", "")
        + &policy("istio-system", "root-cart", "action: DENY, selector: {matchLabels: {app: cart}}")
        + &policy("shop", "wide", "")
        + &policy("shop", "pay", "selector: {matchLabels: {app: pay}}")
        + &policy("shop", "target", "targetRefs: [{kind: Service, name: cart}]")
        + &policy("bank", "bank", "")
        + "\n---\nkind: AuthorizationPolicy\nmetadata: {name: dry, namespace: shop, annotations: {istio.io/dry-run: 'true'}}\nspec: {action: DENY}";
    let found = context(&all).authorization(&node("shop", "cart", "10.0.0.1"));
    let names = |list: &[Arc<Config<crd::AuthorizationPolicy>>]| {
        list.iter().map(|one| one.key.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        (names(&found.deny), names(&found.allow)),
        (vec!["root-cart".into()], vec!["root".into(), "wide".into()])
    );
}

#[test]
fn telemetry_decides_over_access_log_file() {
    let telemetry = |namespace: &str, name: &str, spec: &str| {
        format!(
            "\n---\nkind: Telemetry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{accessLogging: [{spec}]}}"
        )
    };
    let on = telemetry("istio-system", "root", "{providers: [{name: envoy}]}");
    let server = telemetry("istio-system", "root", "{providers: [{name: envoy}], match: {mode: SERVER}}");
    let off = telemetry("shop", "off", "{disabled: true}");
    let own = telemetry("shop", "own", "{providers: [{name: json}]}");
    for (file, objects, inbound, outbound) in [
        ("", "".to_owned(), vec![], vec![]),
        ("/dev/stdout", "".to_owned(), vec!["/dev/stdout"], vec!["/dev/stdout"]),
        ("", on.clone(), vec!["/dev/stdout"], vec!["/dev/stdout"]),
        ("", server, vec!["/dev/stdout"], vec![]),
        ("/dev/stdout", on.clone() + &off, vec![], vec![]),
        ("", on + &own, vec!["/log"], vec!["/log"]),
    ] {
        let provider = serde_json::json!({"name": "json", "envoyFileAccessLog": {"path": "/log", "logFormat": {"labels": {"a": "%PROTOCOL%"}}}});
        let mesh =
            crd::MeshConfig { access_log_file: file.into(), extension_providers: vec![provider], ..Default::default() };
        let mut model = Model::new(mesh);
        model.apply(super::tests::objects(&objects));
        let paths = |direction| {
            let logs = model.context().access_logging(&node("shop", "cart", "10.0.0.1"), direction);
            logs.iter().map(|log| log.path.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            (paths(Direction::Inbound), paths(Direction::Outbound)),
            (inbound.iter().map(|x| (*x).to_owned()).collect(), outbound.iter().map(|x| (*x).to_owned()).collect()),
            "{file} {objects}"
        );
    }
}

#[test]
fn changes_of_pods_are_changes_of_endpoints() {
    let mut model = Model::default();
    let first = model.apply(objects(&(service("shop", "cart", "") + &pod("shop", "cart", "cart-1", "10.0.0.1", ""))));
    assert!(!first.is_of_endpoints());
    let before = model.context();
    let same = model.apply(objects(&pod("shop", "cart", "cart-1", "10.0.0.1", "")));
    assert!(same.is_none() && Arc::ptr_eq(&before, &model.context()));
    let second = model.apply(objects(&pod("shop", "cart", "cart-2", "10.0.0.2", "")));
    assert_eq!((second.is_of_endpoints(), second.endpoints.len()), (true, 1));
    assert_eq!(model.context().version, before.version + 1);
    // A new service account is in clusters.
    let other =
        pod("shop", "cart", "cart-3", "10.0.0.3", "").replace("serviceAccountName: cart", "serviceAccountName: x");
    assert!(!model.apply(objects(&other)).is_of_endpoints());
    let gone = Key { kind: Kind::Pod, namespace: "shop".into(), name: "cart-2".into() };
    let third = model.apply(vec![Change::Remove(gone.clone()), Change::Remove(gone.clone())]);
    assert!(third.is_of_endpoints());
    assert_eq!(third.workloads, [(gone.namespace, gone.name)].into());
    assert!(
        model.apply(objects("kind: VirtualService\nmetadata: {name: v, namespace: shop}\nspec: {hosts: [cart]}")).rules
    );
}
