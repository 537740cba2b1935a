//! `meshctl local`: a mesh around processes that are not ours, from the sample's own files, with configuration that changes while it runs.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method};
use meshctl::http_client::Connection;
use meshctl::local::definition;
use meshctl::local::mesh::{Mesh, MeshOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A process that knows nothing of the mesh: one answer a connection.
async fn process() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello").await;
            });
        }
    });
    address
}

/// The sample, with ports that the system chooses.
fn sample(directory: &Path, application: SocketAddr) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples/two-processes");
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace("\"127.0.0.1:8000\"", &format!("\"{application}\""));
        let text = text.replace("{80: 8080}", "{80: 0}").replace("    outbound: 15101\n", "");
        fs::write(directory.join(path.file_name().unwrap()), text).unwrap();
    }
}

async fn status(address: SocketAddr, method: Method) -> u16 {
    let answer = Connection::new(address).send(method, "web", "/", &HeaderMap::new()).await.unwrap();
    answer.status.as_u16()
}

async fn eventually(address: SocketAddr, expected: u16) {
    let started = Instant::now();
    loop {
        let found = status(address, Method::GET).await;
        if found == expected {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{found} instead of {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Client and gateway reach the process by mutual TLS; what policy.yaml does not allow is refused; a file that is applied is in force at once.
#[tokio::test(flavor = "multi_thread")]
async fn local_mesh_runs_around_own_processes() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config");
    fs::create_dir(&config).unwrap();
    sample(&config, process().await);
    let plan = definition::find(std::slice::from_ref(&config)).unwrap().plan().unwrap();
    let options = MeshOptions {
        config_dirs: vec![config],
        directory: directory.path().to_owned(),
        plan,
        control_plane_ports: None,
        certificate_life: None,
    };
    let mesh = Mesh::start(options).await.unwrap();
    assert_eq!(mesh.error_findings(), Vec::<String>::new());
    let client = mesh.outbound("client").unwrap();
    let gateway = mesh.gateway_address(80).unwrap();
    assert_eq!(status(client, Method::GET).await, 200);
    assert_eq!(status(gateway, Method::GET).await, 200);
    assert_eq!(status(client, Method::DELETE).await, 403);

    let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny-all, namespace: default}\n\
                spec: {action: DENY, rules: [{}]}\n";
    let file = mesh.state().applied_dir.join("deny.yaml");
    fs::write(&file, deny).unwrap();
    eventually(client, 403).await;
    fs::remove_file(&file).unwrap();
    eventually(client, 200).await;
    mesh.stop().await;
}
