//! Connections to servers as `connectionPool` wants them: how long connecting may take, how long they live, what keeps them alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::join_all;
use integration_tests::mesh::service_on;
use integration_tests::{App, Mesh, Shared, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{entry, no_retries, object, policy};

static MESH: Shared = Shared::new(|| {
    Mesh::builder()
        .service("echo", 1)
        .client("client")
        .client("aging")
        .client("idle")
        .client("port")
        .client("server")
        .client_in("elsewhere", "stranger")
});

/// Longest wait for the end of a connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// An HTTP service outside the mesh, at a port of this machine.
fn entry_at(host: &str, port: u16) -> String {
    object(
        "ServiceEntry",
        "default",
        host,
        &format!(
            "{{hosts: [{host}], ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}], resolution: STATIC, endpoints: [{{address: 127.0.0.1}}]}}"
        ),
    )
}

/// CP2: connecting, TLS included, is given up after the rule's time.
#[test]
fn connecting_is_given_up_after_its_timeout() {
    MESH.run(async |mesh| {
        // It takes connections and never answers the hello.
        let silent = TcpListener::bind("127.0.0.1:0").await?;
        let port = silent.local_addr()?.port();
        let taken = Arc::new(AtomicUsize::new(0));
        let count = taken.clone();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((stream, _)) = silent.accept().await {
                kept.push(stream);
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        for (host, pool) in
            [("default.cp2.example", ""), ("short.cp2.example", ", connectionPool: {tcp: {connectTimeout: 0.3s}}")]
        {
            let rule = policy(host, &format!("tls: {{mode: SIMPLE, insecureSkipVerify: true}}{pool}"));
            mesh.apply(&(entry_at(host, port) + &no_retries(host) + &rule)).await?;
        }
        let client = mesh.client("client");
        let slow = tokio::spawn(client.get("http://default.cp2.example/").status());
        until("the first waits for TLS", async || taken.load(Ordering::SeqCst) == 1).await;
        assert_eq!(client.get("http://short.cp2.example/").status().await, 503);
        assert!(!slow.is_finished(), "what came later was given up first");
        let lines = mesh.log_of("short.cp2.example").await?;
        assert_eq!(lines[0]["response_flags"], "UF", "{lines:?}");
        assert_eq!(slow.await?, 503);
        Ok(())
    });
}

/// Timer and rest in hundredths of a second of the connection to a port, as the kernel tells.
fn timer(remote: u16) -> Result<(String, u64)> {
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let line = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|line| line.len() > 5 && line[2].ends_with(&format!(":{remote:04X}")) && line[3] == "01");
    let line = line.with_context(|| format!("nobody is connected to {remote}"))?;
    let (kind, rest) = line[5].split_once(':').context("timer")?;
    Ok((kind.to_owned(), u64::from_str_radix(rest, 16)?))
}

/// CP3: the kernel is told to probe idle connections, and when.
#[test]
fn connections_are_probed_where_the_rule_says() {
    MESH.run(async |mesh| {
        let (probed, plain) = (App::start("probed", "v1").await?, App::start("plain", "v1").await?);
        let yaml = entry("probed.cp3.example", &[&probed], "")
            + &entry("plain.cp3.example", &[&plain], "")
            + &policy(
                "probed.cp3.example",
                "connectionPool: {tcp: {tcpKeepalive: {time: 3600s, interval: 75s, probes: 3}}}",
            );
        mesh.apply(&yaml).await?;
        for host in ["probed", "plain"] {
            assert_eq!(mesh.client("client").get(&format!("http://{host}.cp3.example/")).status().await, 200);
        }
        // 2 is the timer of keep-alive probes; data that is not acknowledged yet has another.
        until("a probe is due within the hour", async || {
            timer(probed.http.port()).is_ok_and(|(kind, rest)| kind == "02" && (300_000..=360_000).contains(&rest))
        })
        .await;
        until("no probe is due", async || timer(plain.http.port()).is_ok_and(|(kind, _)| kind == "00")).await;
        Ok(())
    });
}

/// A TCP service over `echo` on the one port of a client, and a rule with this pool.
async fn tcp_service(mesh: &Mesh, client: &str, host: &str, traffic: &str) -> Result<()> {
    let port = mesh.client(client).address().port();
    let rule = policy(host, &traffic.replace("${port}", &port.to_string()));
    mesh.apply(&(service_on("default", host, "echo", &[(port, "tcp", "tcp")]) + &rule)).await?;
    let listener = format!(
        "{{egress: [{{port: {{number: ${{port}}, protocol: TCP, name: only}}, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/{host}.default.svc.cluster.local']}}]}}"
    );
    mesh.set_sidecar(client, &listener).await?;
    until("TCP passes", async || mesh.client(client).exchange(b"hi").await.is_ok_and(|text| text.ends_with(": hi")))
        .await;
    Ok(())
}

/// CP4: a connection that is old enough is ended: one of TCP even while it is used, one of HTTP when no request is under way.
#[test]
fn connections_have_a_longest_life() {
    MESH.run(async |mesh| {
        let (short, long) = (App::start("short", "v1").await?, App::start("long", "v1").await?);
        let limit = "connectionPool: {tcp: {maxConnectionDuration: 1s}}";
        let yaml = entry("short.cp4.example", &[&short], "")
            + &policy("short.cp4.example", limit)
            + &entry("long.cp4.example", &[&long], "");
        mesh.apply(&yaml).await?;
        for host in ["short", "long"] {
            assert_eq!(mesh.client("client").get(&format!("http://{host}.cp4.example/")).status().await, 200);
        }
        until("the connection is closed", async || short.open_connections() == 0).await;
        assert_eq!(long.open_connections(), 1);
        tcp_service(mesh, "aging", "cp4", limit).await?;
        let mut stream = TcpStream::connect(mesh.client("aging").address()).await?;
        let used = async {
            let mut buffer = [0; 64];
            while stream.write_all(b"ping").await.is_ok() && stream.read(&mut buffer).await.is_ok_and(|count| count > 0)
            {
            }
        };
        timeout(PATIENCE, used).await.context("a connection in use is not ended")?;
        Ok(())
    });
}

/// CP5, DR4: a TCP connection on which nothing moves is ended after the rule's time, or after that of its port.
#[test]
fn idle_tcp_connections_are_ended() {
    MESH.run(async |mesh| {
        for (client, host, traffic) in [
            ("idle", "cp5", "connectionPool: {tcp: {idleTimeout: 1s}}"),
            (
                "port",
                "cp5-port",
                "portLevelSettings: [{port: {number: ${port}}, connectionPool: {tcp: {idleTimeout: 1s}}}]",
            ),
        ] {
            tcp_service(mesh, client, host, traffic).await?;
            let mut stream = TcpStream::connect(mesh.client(client).address()).await?;
            let ended = timeout(PATIENCE, stream.read(&mut [0; 64])).await;
            assert_eq!(ended.with_context(|| format!("{host}: an idle connection is not ended"))??, 0, "{host}");
        }
        Ok(())
    });
}

/// CP13: a connection of HTTP/2 carries no more requests at a time than allowed; others are made for the rest.
#[test]
fn http_2_connections_carry_as_many_streams_as_allowed() {
    MESH.run(async |mesh| {
        for (host, more, connections) in
            [("one.cp13.example", ", maxConcurrentStreams: 1", 6), ("any.cp13.example", "", 1)]
        {
            let app = App::start("streams", "v1").await?;
            let rule = policy(host, &format!("connectionPool: {{http: {{h2UpgradePolicy: UPGRADE{more}}}}}"));
            mesh.apply(&(entry(host, &[&app], "") + &rule)).await?;
            let ask = mesh.client("client").get(&format!("http://{host}/")).header("x-test-delay", "1500");
            let answers = tokio::spawn(join_all((0..6).map(|_| ask.clone().send())));
            until("all are under way", async || app.most_at_once() == 6).await;
            assert_eq!(app.connections(), connections, "{host}");
            for answer in answers.await? {
                assert_eq!(answer?.field("protocol"), "HTTP/2.0", "{host}");
            }
        }
        Ok(())
    });
}

/// Speaks HTTP/2 as far as its settings, counts the pings that come and answers nothing, until the peer leaves.
async fn mute(listener: TcpListener) -> Result<usize> {
    const PREFACE: usize = 24;
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let (mut stream, _) = listener.accept().await?;
    stream.write_all(&SETTINGS).await?;
    stream.read_exact(&mut [0; PREFACE]).await?;
    let mut pings = 0;
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let mut body = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut body).await?;
        pings += usize::from(head[3] == 6);
    }
    Ok(pings)
}

/// CP14: HTTP/2 servers are pinged, and left when they do not answer.
#[test]
fn http_2_servers_that_answer_no_ping_are_left() {
    MESH.run(async |mesh| {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let host = "cp14.example";
        let rule = policy(
            host,
            "connectionPool: {http: {h2UpgradePolicy: UPGRADE, http2KeepAlive: {interval: 1s, timeout: 1s}}}",
        );
        mesh.apply(&(entry_at(host, listener.local_addr()?.port()) + &no_retries(host) + &rule)).await?;
        let server = tokio::spawn(mute(listener));
        assert_eq!(mesh.client("client").get(&format!("http://{host}/")).status().await, 503);
        assert!(timeout(PATIENCE, server).await??? > 0, "no ping came");
        Ok(())
    });
}

/// How many of eight requests at a time are served; the others are refused.
async fn served(mesh: &Mesh, app: &App, host: &str, most: u64) -> Result<u64> {
    let ask = mesh.client("stranger").get(&format!("http://{host}/")).header("x-test-delay", "2000");
    let first: Vec<_> = (0..most).map(|_| tokio::spawn(ask.clone().send())).collect();
    until("as many as allowed are under way", async || app.running() == most).await;
    let others = join_all((most..8).map(|_| ask.clone().send())).await;
    let mut good = 0;
    for answer in join_all(first).await.into_iter().map(|answer| answer?).chain(others) {
        let answer = answer?;
        good += u64::from(answer.status == 200);
        assert!(answer.status == 200 || answer.text().contains("overflow"), "{}: {}", answer.status, answer.text());
    }
    Ok(good)
}

/// DR10, SC4, SC3: a server's sidecar limits what comes in, by its Sidecar's port, else by its Sidecar, else by the service's rule.
#[test]
fn a_servers_sidecar_limits_what_comes_in() {
    MESH.run(async |mesh| {
        let app = App::start("local", "v1").await?;
        let host = "sc4.example";
        let (address, port) = (mesh.workload_address("server").await?, mesh.client("server").address().port());
        // Clients in other namespaces do not see the rule, so that only the server can know of it.
        let limit = |most: u32| format!("{{http: {{http2MaxRequests: {most}}}}}");
        let rule = format!("{{host: {host}, exportTo: ['.'], trafficPolicy: {{connectionPool: {}}}}}", limit(1));
        let yaml = object("ServiceEntry", "default", host, &format!("{{hosts: [{host}], location: MESH_INTERNAL, ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}], resolution: STATIC, workloadSelector: {{labels: {{app: server}}}}}}"))
            + &object("DestinationRule", "default", host, &rule);
        mesh.apply(&yaml).await?;
        for (of_port, of_sidecar, expected) in [(0, 0, 1), (0, 2, 2), (3, 2, 3)] {
            let pool = |name: &str, most: u32| if most > 0 { format!(", {name}: {}", limit(most)) } else { String::new() };
            mesh.set_sidecar("server", &format!("{{ingress: [{{port: {{number: {port}, protocol: HTTP, name: http}}, bind: {address}, captureMode: NONE, defaultEndpoint: '127.0.0.1:{}'{}}}]{}}}", app.http.port(), pool("connectionPool", of_port), pool("inboundConnectionPool", of_sidecar))).await?;
            assert_eq!(served(mesh, &app, host, expected).await?, expected, "{of_port} {of_sidecar}");
        }
        Ok(())
    });
}
