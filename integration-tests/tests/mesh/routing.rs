//! `VirtualService`s: which requests they match and what they do with them.

use std::time::{Duration, Instant};

use http::Method;
use integration_tests::mesh::service;
use integration_tests::{Mesh, Shared};

use super::{object, rule, subsets, two_ports, virtual_service};

static MESH: Shared = Shared::new(|| {
    Mesh::builder().service("echo", 3).client("client").client_in("elsewhere", "stranger").gateway(&[80])
});

const GATEWAY: &str = "
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: NAME, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [HOST]}]
";

fn gateway(name: &str, host: &str) -> String {
    GATEWAY.replace("NAME", name).replace("HOST", host)
}

/// Sends a request and returns which version answered, else the status.
async fn version(ask: integration_tests::client::Ask) -> String {
    match ask.send().await {
        Ok(answer) => answer.version(),
        Err(error) => format!("{error:#}"),
    }
}

/// VS1: names of services, names that no service has, and wildcards.
#[test]
fn virtual_services_are_for_hosts_of_all_kinds() {
    MESH.run(async |mesh| {
        let yaml = subsets("vs1", "")
            + &virtual_service("vs1", "{hosts: [vs1], http: [{route: [{destination: {host: vs1, subset: v2}}]}]}")
            + &virtual_service(
                "vs1-made-up",
                "{hosts: [vs1.made-up.example], http: [{route: [{destination: {host: vs1, subset: v3}}]}]}",
            )
            + &virtual_service(
                "vs1-wild",
                "{hosts: ['*.vs1.example'], http: [{route: [{destination: {host: vs1, subset: v1}}]}]}",
            );
        mesh.case("vs1", "echo", &yaml).await?;
        let client = mesh.client("client");
        for (host, expected) in
            [("vs1", "v2"), ("vs1.made-up.example", "v3"), ("any.vs1.example", "v1"), ("a.b.vs1.example", "v1")]
        {
            assert_eq!(version(client.get(&format!("http://{host}/"))).await, expected, "{host}");
        }
        Ok(())
    });
}

/// VS2: `gateways` says to whom a rule applies: sidecars (`mesh`, the default), gateways, or both.
#[test]
fn a_rule_applies_to_the_gateways_it_names() {
    MESH.run(async |mesh| {
        let to = |version: &str| format!("[{{route: [{{destination: {{host: vs2, subset: {version}}}}}]}}]");
        let yaml = subsets("vs2", "")
            + &gateway("vs2", "'*.vs2.example'")
            + &virtual_service("vs2-mesh", &format!("{{hosts: [mesh.vs2.example], http: {}}}", to("v1")))
            + &virtual_service(
                "vs2-edge",
                &format!("{{hosts: [edge.vs2.example], gateways: [vs2], http: {}}}", to("v2")),
            )
            + &virtual_service(
                "vs2-both",
                &format!("{{hosts: [both.vs2.example], gateways: [default/vs2, mesh], http: {}}}", to("v3")),
            );
        mesh.case("vs2", "echo", &yaml).await?;
        let (inside, outside) = (mesh.client("client"), mesh.gateway(80));
        for (host, by_sidecar, by_gateway) in [("mesh", "v1", "404"), ("edge", "502", "v2"), ("both", "v3", "v3")] {
            let url = format!("http://{host}.vs2.example/");
            if by_sidecar != "502" {
                assert_eq!(version(inside.get(&url)).await, by_sidecar, "{host} by the sidecar");
            } else {
                assert!(!version(inside.get(&url)).await.starts_with('v'), "{host} by the sidecar");
            }
            assert_eq!(version(outside.get(&url)).await, by_gateway, "{host} by the gateway");
        }
        Ok(())
    });
}

/// VS3: `exportTo` hides a rule from other namespaces.
#[test]
fn a_rule_that_is_not_exported_is_its_namespaces_own() {
    MESH.run(async |mesh| {
        let to = "http: [{directResponse: {status: 418}}]";
        let yaml = virtual_service("vs3", &format!("{{hosts: [vs3], exportTo: ['.'], {to}}}"))
            + &service("default", "vs3-all", "echo")
            + &virtual_service("vs3-all", &format!("{{hosts: [vs3-all], exportTo: ['*'], {to}}}"))
            + &service("default", "vs3-named", "echo")
            + &virtual_service("vs3-named", &format!("{{hosts: [vs3-named], exportTo: [elsewhere], {to}}}"));
        mesh.case("vs3", "echo", &yaml).await?;
        for (host, at_home, elsewhere) in [("vs3", 418, 200), ("vs3-all", 418, 418), ("vs3-named", 200, 418)] {
            let url = format!("http://{host}.default.svc.cluster.local/");
            assert_eq!(mesh.client("client").get(&url).status().await, at_home, "{host} at home");
            assert_eq!(mesh.client("stranger").get(&url).status().await, elsewhere, "{host} elsewhere");
        }
        Ok(())
    });
}

fn dated(name: &str, second: u32, spec: &str) -> String {
    virtual_service(name, spec).replace(
        "namespace: default",
        &format!("namespace: default, creationTimestamp: '2026-01-01T00:00:{second:02}Z'"),
    )
}

/// VS4: of two rules for one host sidecars take the older; gateways join them, catch-all routes last.
#[test]
fn sidecars_take_the_oldest_rule_and_gateways_join_them() {
    MESH.run(async |mesh| {
        let gateways = "gateways: [mesh, vs4]";
        let yaml = gateway("vs4", "vs4.example")
            + &dated("vs4-younger", 20, &format!("{{hosts: [vs4.example], {gateways}, http: [{{match: [{{uri: {{prefix: /b}}}}], directResponse: {{status: 222}}}}]}}"))
            + &dated("vs4-z-older", 10, &format!("{{hosts: [vs4.example], {gateways}, http: [{{match: [{{uri: {{prefix: /a}}}}], directResponse: {{status: 221}}}}, {{directResponse: {{status: 223}}}}]}}"));
        mesh.case("vs4", "echo", &yaml).await?;
        for (path, by_sidecar, by_gateway) in [("/a", 221, 221), ("/b", 223, 222), ("/c", 223, 223)] {
            let url = format!("http://vs4.example{path}");
            assert_eq!(mesh.client("client").get(&url).status().await, by_sidecar, "{path} by the sidecar");
            assert_eq!(mesh.gateway(80).get(&url).status().await, by_gateway, "{path} by the gateway");
        }
        Ok(())
    });
}

/// VS5: a rule hands part of its paths to a delegate, whose matches must lie within, and whose weights count.
#[test]
fn a_delegate_rules_its_part_of_the_paths() {
    MESH.run(async |mesh| {
        let yaml = subsets("vs5", "")
            + &virtual_service("vs5", "{hosts: [vs5], http: [
                {match: [{uri: {prefix: /shop}}], delegate: {name: vs5-shop, namespace: default}},
                {route: [{destination: {host: vs5, subset: v3}}]}]}")
            + &virtual_service("vs5-shop", "{http: [
                {match: [{uri: {prefix: /shop/weighted}}], route: [{destination: {host: vs5, subset: v1}, weight: 75}, {destination: {host: vs5, subset: v2}, weight: 25}]},
                {match: [{uri: {prefix: /outside}}], directResponse: {status: 418}},
                {match: [{uri: {exact: /shop/gone}}], directResponse: {status: 410}}]}");
        mesh.case("vs5", "echo", &yaml).await?;
        let client = mesh.client("client");
        let counts = client.count("http://vs5/shop/weighted", 400).await?;
        let second = counts.get("v2").copied().unwrap_or(0);
        assert!((60..=140).contains(&second) && counts["v1"] + second == 400, "{counts:?}");
        assert_eq!(client.get("http://vs5/shop/gone").status().await, 410);
        assert_eq!(version(client.get("http://vs5/outside")).await, "v3", "a match outside its part is dropped");
        assert_eq!(version(client.get("http://vs5/")).await, "v3");
        Ok(())
    });
}

/// VS6: the first route that matches wins.
#[test]
fn the_first_route_that_matches_wins() {
    MESH.run(async |mesh| {
        let yaml = rule(
            "vs6",
            "{match: [{uri: {prefix: /a/b}}], route: [{destination: {host: vs6, subset: v1}}]},
            {match: [{uri: {prefix: /a}}], route: [{destination: {host: vs6, subset: v2}}]},
            {match: [{uri: {prefix: /a/b/c}}], directResponse: {status: 418}},
            {route: [{destination: {host: vs6, subset: v3}}]}",
        );
        mesh.case("vs6", "echo", &yaml).await?;
        for (path, expected) in [("/a/b", "v1"), ("/a/b/c", "v1"), ("/a/c", "v2"), ("/b", "v3")] {
            assert_eq!(version(mesh.client("client").get(&format!("http://vs6{path}"))).await, expected, "{path}");
        }
        Ok(())
    });
}

/// VS7, VM7: names of routes and matches are in the access log.
#[test]
fn names_of_routes_are_in_the_access_log() {
    MESH.run(async |mesh| {
        let yaml = rule(
            "vs7",
            "{name: plain, match: [{uri: {prefix: /plain}}], route: [{destination: {host: vs7}}]},
            {name: cold, match: [{name: tea, uri: {prefix: /tea}}], directResponse: {status: 418}}",
        );
        mesh.case("vs7", "echo", &yaml).await?;
        for (path, status, name) in [("/plain", 200, "plain"), ("/tea", 418, "cold.tea")] {
            assert_eq!(mesh.client("client").get(&format!("http://vs7{path}")).status().await, status);
            let lines = mesh
                .log(|line| line["authority"] == "vs7" && line["path"] == path && line["route_name"] != "default")
                .await?;
            assert_eq!(lines[0]["route_name"], name, "{lines:?}");
        }
        Ok(())
    });
}

/// VM1: URI, method and authority, exact, by prefix and by regular expression; case counts unless it is ignored.
#[test]
fn requests_match_by_uri_method_and_authority() {
    MESH.run(async |mesh| {
        let answer =
            |matches: &str, status: u16| format!("{{match: [{{{matches}}}], directResponse: {{status: {status}}}}}");
        let yaml = rule(
            "vm1",
            &[
                answer("uri: {exact: /exact}", 221),
                answer("uri: {prefix: /prefix}", 222),
                answer("uri: {regex: '/items/[0-9]+'}", 223),
                answer("uri: {exact: /Loud}, ignoreUriCase: true", 224),
                answer("uri: {prefix: /shout}, ignoreUriCase: true", 225),
                answer("uri: {prefix: /method}, method: {exact: POST}", 226),
                answer("uri: {prefix: /authority}, authority: {prefix: vm1.default}", 227),
                answer("uri: {prefix: /scheme}, scheme: {exact: http}", 228),
                "{directResponse: {status: 299}}".to_owned(),
            ]
            .join(", "),
        );
        mesh.case("vm1", "echo", &yaml).await?;
        let client = mesh.client("client");
        for (path, expected) in [
            ("/exact", 221),
            ("/exact?query=1", 221),
            ("/exact/", 299),
            ("/Exact", 299),
            ("/prefix", 222),
            ("/prefixed/more", 222),
            ("/Prefix", 299),
            ("/items/12", 223),
            ("/items/12/more", 299),
            ("/more/items/12", 299),
            ("/items/12?a=b", 223),
            ("/lOUD", 224),
            ("/SHOUT/x", 225),
            ("/method", 299),
            ("/authority", 299),
            ("/scheme", 228),
        ] {
            assert_eq!(client.get(&format!("http://vm1{path}")).status().await, expected, "{path}");
        }
        assert_eq!(client.post("http://vm1/method", "").status().await, 226);
        assert_eq!(client.get("http://vm1.default/authority").status().await, 227);
        Ok(())
    });
}

/// VM2: headers, exact, by prefix, by regular expression, present, and absent.
#[test]
fn requests_match_by_headers() {
    MESH.run(async |mesh| {
        let answer =
            |matches: &str, status: u16| format!("{{match: [{{{matches}}}], directResponse: {{status: {status}}}}}");
        let yaml = rule(
            "vm2",
            &[
                answer("headers: {x-exact: {exact: jason}}", 221),
                answer("headers: {x-prefix: {prefix: ja}}", 222),
                answer("headers: {x-regex: {regex: 'j.*n'}}", 223),
                answer("headers: {x-present: {}}", 224),
                answer("headers: {x-with: {exact: a}}, withoutHeaders: {x-not: {exact: b}}", 225),
                answer("headers: {x-two: {exact: a}, x-three: {exact: b}}", 226),
                answer("uri: {prefix: /absent}, withoutHeaders: {x-not: {}}", 227),
                "{directResponse: {status: 299}}".to_owned(),
            ]
            .join(", "),
        );
        mesh.case("vm2", "echo", &yaml).await?;
        for (headers, path, expected) in [
            (&[("x-exact", "jason")][..], "/", 221),
            (&[("x-exact", "jasons")], "/", 299),
            (&[("x-prefix", "jason")], "/", 222),
            (&[("x-prefix", "mason")], "/", 299),
            (&[("x-regex", "jason")], "/", 223),
            (&[("x-regex", "jasons")], "/", 299),
            (&[("X-Present", "")], "/", 224),
            (&[("x-with", "a")], "/", 225),
            (&[("x-with", "a"), ("x-not", "b")], "/", 299),
            (&[("x-with", "a"), ("x-not", "c")], "/", 225),
            (&[("x-two", "a")], "/", 299),
            (&[("x-two", "a"), ("x-three", "b")], "/", 226),
            (&[], "/absent", 227),
            (&[("x-not", "here")], "/absent", 299),
        ] {
            let mut ask = mesh.client("client").get(&format!("http://vm2{path}"));
            for (name, value) in headers {
                ask = ask.header(name, value);
            }
            assert_eq!(ask.status().await, expected, "{headers:?} {path}");
        }
        Ok(())
    });
}

/// VM3: parameters of the query.
#[test]
fn requests_match_by_query_parameters() {
    MESH.run(async |mesh| {
        let answer = |matches: &str, status: u16| {
            format!("{{match: [{{queryParams: {{{matches}}}}}], directResponse: {{status: {status}}}}}")
        };
        let yaml = rule(
            "vm3",
            &[
                answer("exact: {exact: 'yes'}", 221),
                answer("prefix: {prefix: ye}", 222),
                answer("regex: {regex: 'y.s'}", 223),
                answer("empty: {exact: ''}", 224),
                "{directResponse: {status: 299}}".to_owned(),
            ]
            .join(", "),
        );
        mesh.case("vm3", "echo", &yaml).await?;
        for (query, expected) in [
            ("exact=yes", 221),
            ("other=1&exact=yes", 221),
            ("exact=yesyes", 299),
            ("prefix=yesyes", 222),
            ("prefix=no", 299),
            ("regex=yxs", 223),
            ("regex=yxxs", 299),
            ("empty", 224),
            ("empty=", 224),
            ("empty=1", 299),
            ("none=yes", 299),
        ] {
            assert_eq!(mesh.client("client").get(&format!("http://vm3/?{query}")).status().await, expected, "{query}");
        }
        Ok(())
    });
}

/// VM4: the port asked for.
#[test]
fn requests_match_by_port() {
    MESH.run(async |mesh| {
        let yaml = two_ports("vm4")
            + &rule("vm4", "{match: [{port: 81}], directResponse: {status: 281}}, {match: [{port: 80}], directResponse: {status: 280}}");
        mesh.apply(&yaml).await?;
        for (url, expected) in [("http://vm4:80/", 280), ("http://vm4:81/", 281)] {
            assert_eq!(mesh.client("client").get(url).status().await, expected, "{url}");
        }
        Ok(())
    });
}

/// VM5, VM6: who asks: labels and namespace of the workload, and which gateway.
#[test]
fn requests_match_by_who_asks() {
    MESH.run(async |mesh| {
        let yaml = gateway("vm5", "vm5.default.svc.cluster.local")
            + &virtual_service(
                "vm5",
                "{hosts: [vm5.default.svc.cluster.local], gateways: [mesh, vm5], http: [
                {match: [{gateways: [vm5]}], directResponse: {status: 221}},
                {match: [{sourceLabels: {app: client}}], directResponse: {status: 222}},
                {match: [{sourceNamespace: elsewhere}], directResponse: {status: 223}},
                {directResponse: {status: 299}}]}",
            );
        mesh.case("vm5", "echo", &yaml).await?;
        let url = "http://vm5.default.svc.cluster.local/";
        assert_eq!(mesh.gateway(80).get(url).status().await, 221);
        assert_eq!(mesh.client("client").get(url).status().await, 222);
        assert_eq!(mesh.client("stranger").get(url).status().await, 223);
        assert_eq!(mesh.client("echo-v1").get(url).status().await, 299);
        Ok(())
    });
}

/// VA1: shares are weights over their sum; weight 0 gets nothing; a destination has a port of its own choice.
#[test]
fn weights_share_out_requests() {
    MESH.run(async |mesh| {
        let yaml = rule("va1", "{match: [{uri: {prefix: /quarter}}], route: [
                {destination: {host: va1, subset: v1}, weight: 75}, {destination: {host: va1, subset: v2}, weight: 25}]},
            {match: [{uri: {prefix: /third}}], route: [
                {destination: {host: va1, subset: v1}, weight: 2}, {destination: {host: va1, subset: v2}, weight: 1}, {destination: {host: va1, subset: v3}, weight: 0}]},
            {route: [{destination: {host: va1, subset: v3}}]}");
        mesh.case("va1", "echo", &yaml).await?;
        let client = mesh.client("client");
        for (path, expected) in [("/quarter", 0.25), ("/third", 1.0 / 3.0)] {
            let counts = client.count(&format!("http://va1{path}"), 600).await?;
            let share = counts.get("v2").copied().unwrap_or(0) as f64 / 600.0;
            // Five standard deviations of 600 draws.
            assert!((share - expected).abs() < 0.1, "{path}: {counts:?}");
            assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), ["v1", "v2"], "{path}");
        }
        assert_eq!(client.count("http://va1/single", 20).await?["v3"], 20);
        Ok(())
    });
}

/// VA1: a destination has a port of its own choice.
#[test]
fn a_destination_names_its_port() {
    MESH.run(async |mesh| {
        let yaml = service("default", "va1-front", "nobody")
            + &two_ports("va1-back")
            + &virtual_service(
                "va1-front",
                "{hosts: [va1-front], http: [{route: [{destination: {host: va1-back, port: {number: 81}}}]}]}",
            );
        mesh.apply(&yaml).await?;
        assert_eq!(mesh.client("client").get("http://va1-front/").status().await, 200);
        let lines = mesh.log_of("va1-front").await?;
        assert_eq!(lines[0]["upstream_cluster"], "outbound|81||va1-back.default.svc.cluster.local");
        Ok(())
    });
}

/// VA2: redirects replace what they name: `uri` the whole path, `prefixRewrite` what the match took.
#[test]
fn redirects_replace_what_they_name() {
    MESH.run(async |mesh| {
        let redirect =
            |path: &str, redirect: &str| format!("{{match: [{{uri: {{prefix: {path}}}}}], redirect: {{{redirect}}}}}");
        let yaml = rule(
            "va2",
            &[
                redirect("/uri", "uri: /new"),
                redirect("/authority", "authority: other.example"),
                redirect("/code", "uri: /new, redirectCode: 308"),
                redirect("/scheme", "scheme: https"),
                redirect("/port", "port: 8443"),
                redirect("/both", "scheme: https, authority: other.example, uri: /all, redirectCode: 302"),
                redirect("/prefix", "prefixRewrite: /new"),
                redirect("/asked", "authority: other.example, derivePort: FROM_REQUEST_PORT"),
                redirect("/default", "authority: other.example, derivePort: FROM_PROTOCOL_DEFAULT"),
                redirect("/secure", "scheme: https, derivePort: FROM_REQUEST_PORT"),
            ]
            .join(", "),
        );
        mesh.apply(&(two_ports("va2") + &yaml)).await?;
        for (path, status, location) in [
            ("/uri/x?q=1", 301, "http://va2/new?q=1"),
            ("/authority/x", 301, "http://other.example/authority/x"),
            ("/code", 308, "http://va2/new"),
            ("/scheme/x", 301, "https://va2/scheme/x"),
            ("/port", 301, "http://va2:8443/port"),
            ("/both/x", 302, "https://other.example/all"),
            ("/prefix/x?q=1", 301, "http://va2/new/x?q=1"),
            (":81/asked/x", 301, "http://other.example:81/asked/x"),
            ("/asked/x", 301, "http://other.example/asked/x"),
            (":81/default/x", 301, "http://other.example/default/x"),
            (":81/secure/x", 301, "https://va2:81/secure/x"),
        ] {
            let answer = mesh.client("client").get(&format!("http://va2{path}")).send().await?;
            assert_eq!((answer.status, answer.header("location")), (status, location), "{path}");
        }
        Ok(())
    });
}

/// VA3: answers that no application gives.
#[test]
fn direct_responses_have_status_body_and_headers() {
    MESH.run(async |mesh| {
        let yaml = rule("va3", "{match: [{uri: {prefix: /text}}], directResponse: {status: 503, body: {string: 'down for repairs'}}, headers: {response: {set: {x-why: repairs}}}},
            {match: [{uri: {prefix: /bytes}}], directResponse: {status: 200, body: {bytes: aGVsbG8=}}},
            {match: [{uri: {prefix: /none}}], directResponse: {status: 404}}");
        mesh.case("va3", "echo", &yaml).await?;
        let client = mesh.client("client");
        let answer = client.get("http://va3/text").send().await?;
        assert_eq!((answer.status, answer.text().as_str(), answer.header("x-why")), (503, "down for repairs", "repairs"));
        let answer = client.get("http://va3/bytes").send().await?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        let answer = client.get("http://va3/none").send().await?;
        assert_eq!((answer.status, answer.text().as_str()), (404, ""));
        Ok(())
    });
}

/// VA4: rewrites of path and authority.
#[test]
fn rewrites_change_path_and_authority() {
    MESH.run(async |mesh| {
        let rewrite = |path: &str, rewrite: &str| {
            format!("{{match: [{{uri: {path}}}], rewrite: {{{rewrite}}}, route: [{{destination: {{host: va4}}}}]}}")
        };
        let yaml = rule(
            "va4",
            &[
                rewrite("{prefix: /prefix/}", "uri: /"),
                rewrite("{exact: /exact}", "uri: /whole"),
                rewrite("{prefix: /authority}", "authority: other.example"),
                rewrite("{prefix: /regex}", "uriRegexRewrite: {match: '/regex/([^/]+)/(.*)', rewrite: '/\\2/of/\\1'}"),
                rewrite("{prefix: /both}", "uri: /new, authority: both.example"),
            ]
            .join(", "),
        );
        mesh.case("va4", "echo", &yaml).await?;
        for (path, saw, authority) in [
            ("/prefix/a/b?q=1", "/a/b?q=1", "va4"),
            ("/exact?q=1", "/whole?q=1", "va4"),
            ("/authority/x", "/authority/x", "other.example"),
            ("/regex/shop/item?q=1", "/item/of/shop?q=1", "va4"),
            ("/both/x", "/new/x", "both.example"),
        ] {
            let answer = mesh.client("client").get(&format!("http://va4{path}")).send().await?;
            assert_eq!((answer.field("path").as_str(), answer.field("authority").as_str()), (saw, authority), "{path}");
        }
        Ok(())
    });
}

/// VA5: a timeout of a route is 504 with flag UT; without one a slow application is waited for.
#[test]
fn a_route_gives_up_after_its_timeout() {
    MESH.run(async |mesh| {
        let yaml = rule("va5", "{match: [{uri: {prefix: /short}}], timeout: 0.2s, route: [{destination: {host: va5}}]}, {route: [{destination: {host: va5}}]}");
        mesh.case("va5", "echo", &yaml).await?;
        let slow = |path: &str| mesh.client("client").get(&format!("http://va5{path}")).header("x-test-delay", "1000");
        let started = Instant::now();
        let answer = slow("/short").send().await?;
        assert_eq!((answer.status, answer.text().as_str()), (504, "upstream request timeout"));
        assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
        let lines = mesh.log(|line| line["authority"] == "va5" && line["response_code"] == 504).await?;
        assert_eq!(lines[0]["response_flags"], "UT", "{lines:?}");
        assert_eq!(slow("/long").status().await, 200);
        Ok(())
    });
}

/// VA10: headers of requests and responses, of a route and of a destination.
#[test]
fn headers_are_set_added_and_removed() {
    MESH.run(async |mesh| {
        let yaml = rule("va10", "{match: [{uri: {prefix: /host}}], headers: {request: {set: {host: set.example}}}, route: [{destination: {host: va10}}]},
            {headers: {request: {set: {x-set: new}, add: {x-add: more}, remove: [x-remove]},
                       response: {set: {x-answer: set}, remove: [x-secret]}},
             route: [{destination: {host: va10, subset: v1}, headers: {request: {set: {x-destination: v1}}, response: {add: {x-from: v1}}}}]}");
        mesh.case("va10", "echo", &yaml).await?;
        let client = mesh.client("client");
        let answer = client.get("http://va10/").header("x-set", "old").header("x-add", "one").header("x-remove", "me")
            .header("x-test-header", "x-secret=1").header("x-test-header", "x-answer=app").header("x-test-header", "x-kept=1").send().await?;
        let saw: Vec<String> = ["x-set", "x-add", "x-remove", "x-destination"].map(|name| answer.saw(name)).into();
        assert_eq!(saw, ["new", "one,more", "", "v1"]);
        let got: Vec<&str> = ["x-answer", "x-secret", "x-kept", "x-from"].map(|name| answer.header(name)).into();
        assert_eq!(got, ["set", "", "1", "v1"]);
        assert_eq!(client.get("http://va10/host").send().await?.field("authority"), "set.example");
        Ok(())
    });
}

/// VR1, VR3: retries by what they name, as often as they say, and none for `attempts: 0`.
#[test]
fn retries_are_made_for_what_they_name() {
    MESH.run(async |mesh| {
        let retry = |path: &str, retries: &str| format!("{{match: [{{uri: {{prefix: {path}}}}}], retries: {{{retries}}}, route: [{{destination: {{host: vr1, subset: v1}}}}]}}");
        let yaml = rule("vr1", &[
            retry("/none", "attempts: 0"), retry("/three", "attempts: 3, retryOn: 5xx"), retry("/one", "attempts: 1, retryOn: 5xx"),
            retry("/code", "attempts: 2, retryOn: '418'"), retry("/reset", "attempts: 2, retryOn: reset"), retry("/connect", "attempts: 2, retryOn: connect-failure"),
            "{route: [{destination: {host: vr1, subset: v1}}]}".to_owned(),
        ].join(", "));
        mesh.case("vr1", "echo", &yaml).await?;
        for (path, fails, status, expected) in [
            ("/none", 1, 503, 503), ("/three", 3, 503, 200), ("/three", 4, 500, 500), ("/one", 1, 500, 200), ("/one", 2, 503, 503),
            ("/code", 2, 418, 200), ("/code", 1, 503, 503), ("/connect", 1, 503, 503), ("/default", 1, 503, 503),
        ] {
            let ask = mesh.client("client").get(&format!("http://vr1{path}")).header("x-test-status", &status.to_string());
            let ask = ask.header("x-test-fail-first", &fails.to_string()).header("x-test-id", &format!("vr1{path}{status}"));
            assert_eq!(ask.status().await, expected, "{path} {status}");
        }
        Ok(())
    });
}

/// VR2, VR6: a try has a timeout of its own, and the next comes after the back-off.
#[test]
fn a_try_has_a_timeout_of_its_own() {
    MESH.run(async |mesh| {
        let yaml = rule("vr2", "{match: [{uri: {prefix: /slow}}], retries: {attempts: 2, perTryTimeout: 0.15s, retryOn: 'gateway-error,reset'}, route: [{destination: {host: vr2, subset: v1}}]},
            {match: [{uri: {prefix: /backoff}}], retries: {attempts: 1, backoff: 0.4s, retryOn: 5xx}, route: [{destination: {host: vr2, subset: v1}}]}");
        mesh.case("vr2", "echo", &yaml).await?;
        let client = mesh.client("client");
        let before = mesh.app("echo-v1").requests();
        let started = Instant::now();
        let answer = client.get("http://vr2/slow").header("x-test-delay", "3000").send().await?;
        assert_eq!(answer.status, 504);
        assert!(started.elapsed() < Duration::from_millis(2500), "{:?}", started.elapsed());
        assert!(mesh.app("echo-v1").requests() >= before + 3, "a slow try is followed by the next");
        let lines = mesh.log(|line| line["authority"] == "vr2" && line["response_code"] == 504 ).await?;
        assert!(lines.iter().any(|line| line["response_flags"].as_str().is_some_and(|flags| flags.contains("UT"))), "{lines:?}");
        let answer = client.get("http://vr2/backoff").header("x-test-fail-first", "1").header("x-test-id", "backoff").send().await?;
        assert_eq!(answer.status, 200);
        Ok(())
    });
}

/// VR5: a retry goes to another host than the try that failed.
#[test]
fn a_retry_goes_to_another_host() {
    MESH.run(async |mesh| {
        let yaml = rule("vr5", "{retries: {attempts: 2, retryOn: 5xx}, route: [{destination: {host: vr5}}]}");
        mesh.case("vr5", "echo", &yaml).await?;
        for _ in 0..30 {
            let answer = mesh
                .client("client")
                .get("http://vr5/")
                .header("x-test-status", "503")
                .header("x-test-only", "v2")
                .send()
                .await?;
            assert_eq!(answer.status, 200);
            assert_ne!(answer.version(), "v2");
        }
        Ok(())
    });
}

/// G2: a short name is of the namespace of the rule, not of its user.
#[test]
fn short_names_are_of_the_rules_namespace() {
    MESH.run(async |mesh| {
        let yaml = service("default", "g2", "echo")
            + &object("VirtualService", "elsewhere", "g2", "{hosts: [g2], http: [{directResponse: {status: 418}}]}")
            + &service("elsewhere", "g2", "nobody");
        mesh.apply(&yaml).await?;
        assert_eq!(mesh.client("client").get("http://g2/").status().await, 200);
        assert_eq!(mesh.client("client").get("http://g2.default/").status().await, 200);
        assert_eq!(mesh.client("client").get("http://g2.elsewhere/").status().await, 418);
        assert_eq!(mesh.client("stranger").get("http://g2/").status().await, 418);
        Ok(())
    });
}

/// G3: the longest wildcard wins, and a name without one beats all.
#[test]
fn the_most_specific_host_wins() {
    MESH.run(async |mesh| {
        let answer = |name: &str, host: &str, status: u16| {
            virtual_service(name, &format!("{{hosts: ['{host}'], http: [{{directResponse: {{status: {status}}}}}]}}"))
        };
        let yaml = answer("g3-wide", "*.g3.example", 221)
            + &answer("g3-narrow", "*.b.g3.example", 222)
            + &answer("g3-exact", "a.b.g3.example", 223);
        mesh.apply(&yaml).await?;
        for (host, expected) in
            [("x.g3.example", 221), ("x.b.g3.example", 222), ("a.b.g3.example", 223), ("b.g3.example", 221)]
        {
            assert_eq!(mesh.client("client").get(&format!("http://{host}/")).status().await, expected, "{host}");
        }
        Ok(())
    });
}

/// G13: every name of a service leads to it, with and without its port.
#[test]
fn every_name_of_a_service_leads_to_it() {
    MESH.run(async |mesh| {
        let yaml = service("default", "g13", "echo").replace("spec:\n", "spec:\n  clusterIP: 10.13.13.13\n")
            + &virtual_service("g13", "{hosts: [g13], http: [{directResponse: {status: 213}}]}");
        mesh.apply(&yaml).await?;
        for name in ["g13", "g13.default", "g13.default.svc", "g13.default.svc.cluster.local", "10.13.13.13"] {
            for url in [format!("http://{name}/"), format!("http://{name}:80/")] {
                assert_eq!(mesh.client("client").get(&url).status().await, 213, "{url}");
            }
        }
        assert_ne!(
            mesh.client("stranger").get("http://g13/").status().await,
            213,
            "the short name is the namespace's own"
        );
        assert_eq!(mesh.client("stranger").get("http://g13.default/").status().await, 213);
        Ok(())
    });
}

/// G18: a destination that is not there is 503 with flag NC, and harms no other route.
#[test]
fn a_destination_that_is_not_there_is_503() {
    MESH.run(async |mesh| {
        let yaml = rule(
            "g18",
            "{match: [{uri: {prefix: /missing}}], route: [{destination: {host: nobody-g18}}]},
            {match: [{uri: {prefix: /subset}}], route: [{destination: {host: g18, subset: unheard-of}}]},
            {route: [{destination: {host: g18}}]}",
        );
        // Both are findings, and yet in force.
        mesh.try_apply("g18", &format!("{}{yaml}", service("default", "g18", "echo"))).await?;
        for path in ["/missing", "/subset"] {
            assert_eq!(mesh.client("client").get(&format!("http://g18{path}")).status().await, 503, "{path}");
            let lines = mesh.log(|line| line["authority"] == "g18" && line["path"] == path).await?;
            assert_eq!(lines[0]["response_flags"], "NC", "{lines:?}");
        }
        assert_eq!(mesh.client("client").ask(Method::GET, "http://g18/").status().await, 200);
        Ok(())
    });
}
