//! What only the owner of a mesh may do: reach its proxies and its authority, stop its control plane, sign certificates.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use mesh_controlplane::app::ControlPlane;
use mesh_controlplane::ca::Authority;
use mesh_proxy::app::Proxy;
use mesh_proxy::bootstrap::agent::Agent;
use meshctl::http_client;
use meshctl::local::ports::Port;
use meshctl::metrics::Samples;
use rustls_pki_types::CertificateDer;
use serde_json::Value;

use crate::mesh::Mesh;
use crate::peer::Credentials;

impl Mesh {
    /// The control plane. Panics while it is stopped.
    #[track_caller]
    pub fn control_plane(&self) -> &ControlPlane {
        self.local.control_plane().unwrap_or_else(|| panic!("the control plane is stopped"))
    }

    /// A workload's sidecar. Panics if there is none, which is a mistake of the test.
    #[track_caller]
    pub fn sidecar(&self, workload: &str) -> &Proxy {
        self.local.proxy(workload).unwrap_or_else(|| panic!("no proxy is named {workload}"))
    }

    /// Stops the control plane; proxies go on with what they have.
    pub async fn stop_control_plane(&mut self) {
        self.local.stop_control_plane().await;
    }

    /// Starts it anew at the same addresses, with the same authority.
    pub async fn start_control_plane(&mut self) -> Result<()> {
        self.local.start_control_plane().await
    }

    /// With what a control plane like this mesh's is started; the mesh's own must be stopped first.
    pub fn control_plane_settings(&self) -> mesh_controlplane::app::Settings {
        self.local.control_plane_settings()
    }

    /// Puts a new sidecar, which knows nothing, in the place of a workload's; `change` may change its settings.
    pub async fn renew_sidecar(&mut self, workload: &str, change: impl FnOnce(&mut Agent)) -> Result<()> {
        self.local.renew_proxy(workload, change).await
    }

    /// Returns once every proxy has taken what the control plane published last.
    pub async fn is_synced(&self) -> Result<()> {
        let number = self.debug("/debug/push_status").await?["number"].as_u64().context("push_status")?;
        self.is_taken(number).await
    }

    /// The metrics of the control plane.
    pub async fn control_plane_metrics(&self) -> Result<Samples> {
        let answer = http_client::get(self.local.state().monitoring, "localhost", "/metrics").await?;
        Ok(Samples::of(meshctl::metrics::parse(&answer.text())?))
    }

    /// A number on a proxy's `/stats`; 0 if it is not there.
    pub async fn stat(&self, workload: &str, name: &str) -> Result<u64> {
        let all = self.admin(workload, "/stats").await?;
        let value = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(value.map_or(Ok(0), str::parse)?)
    }

    /// Where others reach a workload: 0 HTTP, 1 gRPC, 2 TCP, 3 the server that speaks first. Panics if there is no such port.
    #[track_caller]
    pub fn inbound(&self, workload: &str, index: usize) -> SocketAddr {
        let state = self.local.state();
        let port = state.proxy(workload).ok().and_then(|proxy| proxy.inbound.get(index).copied());
        port.unwrap_or_else(|| panic!("{workload} has no port {index}"))
    }

    /// A certificate of the mesh's own authority for this SPIFFE id, which holds for an hour.
    pub fn credentials(&self, id: &str) -> Result<Credentials> {
        let authority = self.control_plane().authority().load();
        Credentials::issue(&authority, id, SystemTime::now(), Duration::from_secs(3600))
    }

    /// The same, expired.
    pub fn expired_credentials(&self, id: &str) -> Result<Credentials> {
        let before = SystemTime::now().checked_sub(Duration::from_secs(90)).context("the clock is at its begin")?;
        Credentials::issue(&self.control_plane().authority().load(), id, before, Duration::from_secs(60))
    }

    /// The same by an authority that nobody knows.
    pub fn strange_credentials(&self, id: &str) -> Result<Credentials> {
        let stranger = Authority::self_signed("stranger", SystemTime::now())?;
        Credentials::issue(&stranger, id, SystemTime::now(), Duration::from_secs(3600))
    }

    /// The authority that the mesh was started with, as it is kept on disk.
    pub fn kept_authority(&self) -> Result<Authority> {
        Ok(Authority::kept(&self.directory.join("ca"), "kept", SystemTime::now())?)
    }

    /// A root of the same kind: its certificate, and its key in PEM.
    pub fn new_root(&self, name: &str) -> Result<(Vec<CertificateDer<'static>>, String)> {
        let directory = self.directory.join(name);
        let root = Authority::kept(&directory, name, SystemTime::now())?;
        Ok((root.roots().to_vec(), std::fs::read_to_string(directory.join("ca-key.pem"))?))
    }

    /// Lines of the access logs of all proxies, as they stand, for which `wanted` holds.
    pub fn log_lines(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(self.directory.join("access.log"))?;
        Ok(text.lines().filter(|line| wanted(line)).map(str::to_owned).collect())
    }

    /// Writes a file of configuration, whatever it holds, and waits for nothing.
    pub fn write_config(&self, name: &str, text: &str) -> Result<()> {
        self.write(&self.directory.join("config"), name, text)
    }

    /// Removes it.
    pub fn remove_config(&self, name: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.directory.join(format!("config/{name}.yaml")))?)
    }

    /// What the control plane finds wrong in a file of configuration.
    pub async fn findings_of(&self, name: &str) -> Result<Vec<Value>> {
        let all = self.debug("/debug/findings").await?;
        let file = format!("/config/{name}.yaml");
        let of_file = |finding: &&Value| finding["file"].as_str().is_some_and(|path| path.ends_with(&file));
        Ok(all.as_array().into_iter().flatten().filter(of_file).cloned().collect())
    }

    /// Gives a client TCP towards a port of an application: a service `NAME` of namespace `default`, and where the client
    /// connects to it. The port is taken for as long as what is returned lives.
    pub async fn open_tcp(&self, client: &str, name: &str, app: &str, target: &str) -> Result<(Port, SocketAddr)> {
        let port = Port::reserve()?;
        let number = port.number();
        self.apply_as(
            name,
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  selector: {{app: {app}}}\n  \
                 ports: [{{name: tcp, port: {number}, targetPort: {target}}}]\n"
            ),
        )
        .await?;
        let spec = format!(
            "{{egress: [{{port: {{number: ${{port}}, protocol: HTTP_PROXY, name: proxy}}, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*']}}, \
             {{port: {{number: {number}, protocol: TCP, name: tcp}}, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/{name}.default.svc.cluster.local']}}]}}"
        );
        self.set_sidecar(client, &spec).await?;
        Ok((port, SocketAddr::from(([127, 0, 0, 1], number))))
    }
}
