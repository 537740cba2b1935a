//! Both protocols: subscribe, acknowledge, refuse, resume, push.

use mesh_proto::xds::discovery::DeltaDiscoveryRequest;
use mesh_proto::xds::{endpoint, unpack};
use tonic::Code;

use crate::support::*;

fn names(response: &mesh_proto::xds::discovery::DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|one| one.name.as_str()).collect()
}

#[tokio::test]
async fn delta_sends_what_is_new_and_removes_what_is_gone() {
    let plane = start(&service("a", "10.0.0.1")).await;
    let mut stream = Delta::open(plaintext(plane.grpc_addr()).await, None, node("default", "")).await.unwrap();
    stream.subscribe(CDS, &[]).await;
    let first = stream.take(CDS).await;
    assert!(names(&first).contains(&cluster("a").as_str()), "{:?}", names(&first));
    assert!(names(&first).contains(&"PassthroughCluster"));
    stream.subscribe(EDS, &[&cluster("a"), "none"]).await;
    let endpoints = stream.take(EDS).await;
    assert_eq!(names(&endpoints), [cluster("a")]);
    assert_eq!(endpoints.removed_resources, ["none"]);

    plane.apply(objects(&service("bb", "10.0.0.2"))).await;
    assert_eq!(names(&stream.take(CDS).await), [cluster("bb")], "what the peer has is not sent again");

    // Endpoints alone: only they are sent, to who asked for them.
    plane.apply(objects(&slice("a", "10.0.0.7"))).await;
    let endpoints = stream.take(EDS).await;
    assert_eq!(names(&endpoints), [cluster("a")]);
    let load: endpoint::ClusterLoadAssignment = unpack(endpoints.resources[0].resource.as_ref().unwrap()).unwrap();
    assert!(format!("{load:?}").contains("10.0.0.7"));

    let gone = objects(&service("bb", "10.0.0.2")).into_iter().filter_map(|change| match change {
        mesh_controlplane::model::Change::Set(object) => {
            Some(mesh_controlplane::model::Change::Remove(object.key.clone()))
        }
        _ => None,
    });
    plane.apply(gone.collect()).await;
    assert_eq!(stream.take(CDS).await.removed_resources, [cluster("bb")]);
    eventually(&plane, "/debug/syncz", |all| all[0]["types"]["CDS"]["status"] == "SYNCED").await;
    plane.shutdown().await;
}

#[tokio::test]
async fn delta_resumes_from_what_the_peer_has() {
    let plane = start(&(service("a", "10.0.0.1") + &service("bb", "10.0.0.2"))).await;
    let channel = plaintext(plane.grpc_addr()).await;
    let mut stream = Delta::open(channel.clone(), None, node("default", "")).await.unwrap();
    stream.subscribe(CDS, &[]).await;
    let first = stream.take(CDS).await;
    drop(stream);
    plane.apply(objects(&service("ccc", "10.0.0.3"))).await;
    let mut known: std::collections::HashMap<String, String> =
        first.resources.iter().map(|one| (one.name.clone(), one.version.clone())).collect();
    known.insert("outbound|80||gone".to_owned(), "1".to_owned());
    let mut stream = Delta::open(channel, None, node("default", "")).await.unwrap();
    stream
        .send(DeltaDiscoveryRequest {
            type_url: CDS.to_owned(),
            initial_resource_versions: known,
            ..Default::default()
        })
        .await;
    let resumed = stream.take(CDS).await;
    assert_eq!(names(&resumed), [cluster("ccc")]);
    let removed = stream.take(CDS).await;
    assert_eq!(removed.removed_resources, ["outbound|80||gone"]);
    plane.shutdown().await;
}

#[tokio::test]
async fn a_refusal_is_shown_and_leaves_the_others() {
    let plane = start(&service("a", "10.0.0.1")).await;
    let mut stream = Delta::open(plaintext(plane.grpc_addr()).await, None, node("default", "")).await.unwrap();
    stream.subscribe(CDS, &[]).await;
    let first = stream.next().await.unwrap();
    stream.answer(&first, Some(&format!("{}: too good", cluster("a")))).await;
    eventually(&plane, "/debug/syncz", |all| all[0]["types"]["CDS"]["status"] == "ERROR").await;
    let nack = json(&plane, "/debug/syncz").await[0]["types"]["CDS"]["nack"].clone();
    assert_eq!(nack["resources"], serde_json::json!([cluster("a")]), "{nack}");
    assert!(nack["error"].as_str().unwrap().contains("too good"));
    let (_, metrics) = page(&plane, "/metrics").await;
    assert!(metrics.contains("pilot_total_xds_rejects 1"), "{metrics}");
    // The others go on, and what was refused is not sent again.
    plane.apply(objects(&service("bb", "10.0.0.2"))).await;
    let next = stream.take(CDS).await;
    assert_eq!(names(&next), [cluster("bb")]);
    eventually(&plane, "/debug/syncz", |all| all[0]["types"]["CDS"]["status"] == "SYNCED").await;
    plane.shutdown().await;
}

#[tokio::test]
async fn state_of_the_world_sends_clusters_whole_and_endpoints_by_name() {
    let plane = start(&service("a", "10.0.0.1")).await;
    let mut stream = Sotw::open(plaintext(plane.grpc_addr()).await, node("default", "")).await;
    stream.ask(CDS, &[], None, None).await;
    let clusters = stream.next().await.unwrap();
    stream.ask(CDS, &[], Some(&clusters), None).await;
    stream.ask(EDS, &[&cluster("a")], None, None).await;
    let endpoints = stream.next().await.unwrap();
    assert_eq!((endpoints.type_url.as_str(), endpoints.resources.len()), (EDS, 1));
    stream.ask(EDS, &[&cluster("a")], Some(&endpoints), None).await;
    plane.apply(objects(&service("bb", "10.0.0.2"))).await;
    let more = stream.next().await.unwrap();
    assert_eq!(more.type_url, CDS);
    assert_eq!(more.resources.len(), clusters.resources.len() + 1);
    // Refused: the same bytes are not sent again, and endpoints go on.
    stream.ask(CDS, &[], Some(&more), Some("no")).await;
    plane.apply(objects(&slice("a", "10.0.0.7"))).await;
    let endpoints = stream.next().await.unwrap();
    assert_eq!(endpoints.type_url, EDS, "a changed endpoint, not the refused clusters");
    plane.shutdown().await;
}

#[tokio::test]
async fn a_type_that_is_not_served_is_answered_without_resources() {
    let plane = start("").await;
    let channel = plaintext(plane.grpc_addr()).await;
    let url = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
    let mut stream = Delta::open(channel.clone(), None, node("default", "")).await.unwrap();
    stream.subscribe(url, &["x"]).await;
    let empty = stream.take(url).await;
    assert_eq!((empty.resources.len(), empty.removed_resources), (0, vec!["x".to_owned()]));
    // Neither the acknowledgement nor what only agents send is answered.
    stream.subscribe("type.googleapis.com/istio.v1.HealthInformation", &[]).await;
    stream.subscribe(LDS, &[]).await;
    stream.take(LDS).await;
    let mut stream = Sotw::open(channel, node("default", "")).await;
    stream.ask(url, &["x"], None, None).await;
    let empty = stream.next().await.unwrap();
    stream.ask(url, &["x"], Some(&empty), None).await;
    stream.ask(RDS, &["none"], None, None).await;
    assert_eq!(stream.next().await.unwrap().type_url, RDS);
    plane.shutdown().await;
}

#[tokio::test]
async fn a_wrong_node_is_refused() {
    let plane = start("").await;
    let channel = plaintext(plane.grpc_addr()).await;
    for (id, reason) in [
        ("", "four parts"),
        ("sidecar~10.0.0.1~a.b", "four parts"),
        ("waypoint~10.0.0.1~a.b~c", "neither `sidecar` nor `router`"),
        ("sidecar~nowhere~a.b~c", "IP"),
        ("sidecar~10.0.0.1~a~c", "NAME.NAMESPACE"),
    ] {
        let node = mesh_proto::xds::core::Node { id: id.to_owned(), ..Default::default() };
        let mut stream = Delta::open(channel.clone(), None, node).await.unwrap();
        stream.subscribe(CDS, &[]).await;
        let status = stream.next().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(reason), "{status}");
    }
    let mut stream = Delta::open(channel, None, node("default", "")).await.unwrap();
    let without = DeltaDiscoveryRequest { type_url: CDS.to_owned(), ..Default::default() };
    stream.requests.send(without).await.unwrap();
    assert!(stream.next().await.unwrap_err().message().contains("must hold `node`"));
    plane.shutdown().await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_gets_the_newest_state_and_no_backlog() {
    let many: String = (0..120).map(|n| service(&format!("s{n:03}"), "10.0.0.1")).collect();
    let plane = start(&many).await;
    let mut stream = Delta::open(plaintext(plane.grpc_addr()).await, None, node("default", "")).await.unwrap();
    stream.subscribe(CDS, &[]).await;
    let all: Vec<String> = (0..120).map(|n| cluster(&format!("s{n:03}"))).collect();
    stream.subscribe(EDS, &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // Each round changes every cluster; the peer reads none of it.
    let rounds = 40;
    for round in 0..rounds {
        let rule = format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: r, namespace: istio-system}}, spec: \
             {{host: '*.default.svc.cluster.local', trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {}}}}}}}}}}}",
            round + 1
        );
        plane.apply(objects(&rule)).await;
    }
    let mut responses = 0;
    loop {
        let response = stream.take_any().await;
        responses += 1;
        let bytes: Vec<u8> =
            response.resources.iter().flat_map(|one| one.resource.as_ref().unwrap().value.clone()).collect();
        let last = mesh_controlplane_value(rounds);
        if response.type_url == CDS && bytes.windows(last.len()).any(|window| window == last) {
            break;
        }
    }
    assert!(responses < rounds, "{responses} responses for {rounds} changes");
    plane.shutdown().await;
}

/// `max_connections` of a circuit breaker, as it stands in an encoded cluster: field 2, a wrapped number.
fn mesh_controlplane_value(number: u32) -> Vec<u8> {
    vec![0x12, 0x02, 0x08, u8::try_from(number).unwrap()]
}

#[tokio::test]
async fn streams_end_with_unavailable_when_the_control_plane_stops() {
    let plane = start("").await;
    let mut stream = Delta::open(plaintext(plane.grpc_addr()).await, None, node("default", "")).await.unwrap();
    stream.subscribe(CDS, &[]).await;
    stream.take(CDS).await;
    let started = std::time::Instant::now();
    plane.shutdown().await;
    assert_eq!(stream.next().await.unwrap_err().code(), Code::Unavailable);
    assert!(started.elapsed().as_secs() < 5, "nobody waited for the peer");
}
