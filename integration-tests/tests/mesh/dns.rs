//! The workload's DNS with a control plane: which names a sidecar answers, in which forms, and when they change.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use integration_tests::{Mesh, Shared, until};
use mesh_proxy::app::{Options, Proxy};
use mesh_proxy::bootstrap::Servers;
use mesh_proxy::bootstrap::agent::Agent;
use mesh_proxy::identity::{Root, Token};
use tokio::net::UdpSocket;

use super::object;

static MESH: Shared = Shared::new(|| Mesh::builder().client("other"));

/// A sidecar of namespace `default` that answers DNS, for a workload of these addresses.
async fn sidecar(mesh: &Mesh, name: &str, addresses: &str) -> Result<Proxy> {
    let plane = mesh.control_plane();
    let life = std::time::Duration::from_secs(600);
    let mut agent = Agent {
        discovery_address: plane.secure_grpc_addr().to_string(),
        root: Root::Pem(plane.root_pem()),
        token: Token::Text(plane.issue_token("default", "default", life)),
        name: name.to_owned(),
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        servers: Servers::default(),
        ..Agent::default()
    };
    agent.metadata.insert("INTERCEPTION_MODE".into(), "NONE".into());
    agent.metadata.insert("INSTANCE_IPS".into(), addresses.into());
    agent.answer_dns(vec![([127, 0, 0, 1], 0).into()], false, "search default.svc.cluster.local\n");
    let proxy = Proxy::start(agent.bootstrap()?, Options { workers: 1 }).await?;
    tokio::time::timeout(std::time::Duration::from_secs(30), proxy.ready()).await.context("not ready")?;
    Ok(proxy)
}

/// `CODE: DATA, …` of a question.
async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Result<String> {
    let mut query = Message::new(1, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(format!("{name}."))?, kind));
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.send_to(&query.to_vec()?, server).await?;
    let mut buffer = vec![0; 4096];
    let length = tokio::time::timeout(std::time::Duration::from_secs(10), socket.recv(&mut buffer)).await??;
    let answer = Message::from_vec(&buffer[..length])?;
    ensure!(answer.answers.iter().all(|record| record.ttl == 30), "{answer}");
    let mut data: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    data.sort();
    let code = match answer.metadata.response_code {
        ResponseCode::NoError => String::new(),
        // Nobody else is there to be asked.
        ResponseCode::ServFail => "unknown".to_owned(),
        code => format!("{code:?} "),
    };
    Ok(code + &data.join(", "))
}

/// DN1, AG9: services, pods of headless services and ServiceEntries, in the forms that Kubernetes allows.
#[test]
fn a_sidecar_answers_for_the_names_of_the_mesh() {
    MESH.run(async |mesh| {
        let sidecar = sidecar(mesh, "asks", "127.0.0.1").await?;
        let server = sidecar.dns_addrs()[0];
        let yaml = "
apiVersion: v1
kind: Service
metadata: {name: dn1, namespace: default}
spec: {clusterIP: 10.96.1.1, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: dn1, namespace: bank}
spec: {clusterIP: 10.96.1.2, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: stateful, namespace: default}
spec: {clusterIP: None, selector: {app: stateful}, ports: [{name: tcp, port: 3306}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stateful-0, namespace: default, labels: {app: stateful}}
status: {podIP: 10.1.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: stateful-1, namespace: default, labels: {app: stateful}}
status: {podIP: 10.1.0.2}
"
        .to_owned()
            + &object("ServiceEntry", "default", "dn1-given", "{hosts: [given.dn1.example], addresses: [10.97.0.1], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 127.0.0.1}]}")
            + &object("ServiceEntry", "default", "dn1-wild", "{hosts: ['*.dn1.example'], addresses: [10.97.0.2], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 127.0.0.1}]}");
        mesh.apply_as("dn1", &yaml).await?;
        for (name, kind, expected) in [
            ("dn1", RecordType::A, "10.96.1.1"),
            ("dn1.default", RecordType::A, "10.96.1.1"),
            ("dn1.default.svc", RecordType::A, "10.96.1.1"),
            ("dn1.default.svc.cluster.local", RecordType::A, "10.96.1.1"),
            ("dn1.default.svc.cluster.local", RecordType::AAAA, ""),
            ("dn1.bank", RecordType::A, "10.96.1.2"),
            ("dn1.bank.default.svc.cluster.local", RecordType::A, "10.96.1.2, dn1.bank."),
            ("stateful", RecordType::A, "10.1.0.1, 10.1.0.2"),
            ("stateful-1.stateful", RecordType::A, "10.1.0.2"),
            ("stateful-1.stateful.default.svc.cluster.local", RecordType::A, "10.1.0.2"),
            ("given.dn1.example", RecordType::A, "10.97.0.1"),
            ("given.dn1.example.default.svc.cluster.local", RecordType::A, "10.97.0.1, given.dn1.example."),
            ("any.dn1.example", RecordType::A, "10.97.0.2"),
            ("unknown.example", RecordType::A, "unknown"),
        ] {
            assert_eq!(ask(server, name, kind).await?, expected, "{name} {kind}");
        }
        // A pod that goes takes its name with it; so does a service.
        mesh.apply_as("dn1", &yaml.replace("10.1.0.2", "10.1.0.3").replace("10.96.1.1", "10.96.1.9")).await?;
        until("the answers follow", async || {
            let answers = [ask(server, "stateful", RecordType::A).await, ask(server, "dn1", RecordType::A).await];
            answers.map(Result::unwrap_or_default) == ["10.1.0.1, 10.1.0.3", "10.96.1.9"]
        })
        .await;
        mesh.delete("dn1").await?;
        until("the names are gone", async || ask(server, "dn1", RecordType::A).await.is_ok_and(|text| text == "unknown")).await;
        sidecar.stop().await;
        Ok(())
    });
}

/// SE8: hosts without address get one, the same one again, in the IP versions of the client; the debug page tells it.
#[test]
fn hosts_of_service_entries_without_address_are_given_one() {
    MESH.run(async |mesh| {
        let (four, both) = (sidecar(mesh, "four", "127.0.0.1").await?, sidecar(mesh, "both", "127.0.0.1,::1").await?);
        let entry = |name: &str, more: &str| {
            object("ServiceEntry", "default", name, &format!("{{hosts: [{name}.se8.example], ports: [{{number: 5432, name: tcp, protocol: TCP}}], resolution: DNS}}")).replace("metadata: {", &format!("metadata: {{{more}"))
        };
        mesh.apply_as("se8", &(entry("one", "") + &entry("two", "") + &entry("off", "labels: {networking.istio.io/enable-autoallocate-ip: 'false'}, "))).await?;
        let one = ask(four.dns_addrs()[0], "one.se8.example", RecordType::A).await?;
        let two = ask(four.dns_addrs()[0], "two.se8.example", RecordType::A).await?;
        assert!(one.starts_with("240.240.") && two.starts_with("240.240.") && one != two, "{one} {two}");
        assert_eq!(ask(four.dns_addrs()[0], "one.se8.example", RecordType::AAAA).await?, "");
        assert_eq!(ask(both.dns_addrs()[0], "one.se8.example", RecordType::A).await?, one);
        let six = ask(both.dns_addrs()[0], "one.se8.example", RecordType::AAAA).await?;
        assert!(six.starts_with("2001:2::f0f0:"), "{six}");
        assert_eq!(ask(four.dns_addrs()[0], "off.se8.example", RecordType::A).await?, "unknown");
        let registry = mesh.debug("/debug/registryz").await?;
        let shown = registry.as_array().into_iter().flatten().find(|one| one["hostname"] == "one.se8.example");
        assert_eq!(shown.context("registryz")?["autoAllocatedAddresses"], serde_json::json!([one, six]));
        // It hangs on the name, not on who else is there or was.
        mesh.delete("se8").await?;
        mesh.apply_as("se8", &entry("one", "")).await?;
        assert_eq!(ask(four.dns_addrs()[0], "one.se8.example", RecordType::A).await?, one);
        four.stop().await;
        both.stop().await;
        mesh.delete("se8").await
    });
}
