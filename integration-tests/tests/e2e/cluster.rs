//! The cluster that a run works on, by the programs that its users have: kubectl and meshctl.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration_tests::Client;
use integration_tests::eventually;
use serde_json::Value;

/// Where the control plane and the gateways are installed.
pub const SYSTEM: &str = "istio-system";
/// Where the application is.
pub const APPS: &str = "default";
/// Longest wait for what nodes do: pulling up pods, draining them.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The last lines that are printed of each program's log.
const LINES: usize = 40;

/// A cluster, and what to call it with. `cargo xtask e2e` fills it in.
#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    kubectl: String,
    meshctl: String,
    /// Registry and tag of the images.
    pub hub: String,
    /// As above.
    pub tag: String,
    /// True if nodes are containers of this machine, whose networks can be looked into.
    pub local: bool,
    root: PathBuf,
}

impl Cluster {
    /// As the environment says.
    ///
    /// # Errors
    /// Names the variable that is missing.
    pub fn from_environment() -> Result<Self> {
        let variable = |name: &str| {
            std::env::var(name).with_context(|| format!("{name} is not set; `cargo xtask e2e` runs this test"))
        };
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        Ok(Self {
            kubeconfig: variable("FERROMESH_E2E_KUBECONFIG")?.into(),
            kubectl: variable("FERROMESH_E2E_KUBECTL")?,
            meshctl: variable("FERROMESH_E2E_MESHCTL")?,
            hub: variable("FERROMESH_E2E_HUB")?,
            tag: variable("FERROMESH_E2E_TAG")?,
            local: variable("FERROMESH_E2E_PROVIDER")? == "kind",
            root: root.parent().context("the workspace")?.to_owned(),
        })
    }

    /// Runs kubectl and returns what it prints.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run(&self.kubectl, arguments, None)
    }

    /// Runs meshctl and returns what it prints.
    pub fn meshctl(&self, arguments: &[&str]) -> Result<String> {
        self.run(&self.meshctl, arguments, None)
    }

    /// Starts a command of meshctl that stays; its output is a pipe.
    pub fn start_meshctl(&self, arguments: &[&str]) -> Result<Child> {
        println!("    $ meshctl {}", arguments.join(" "));
        let mut command = Command::new(&self.meshctl);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig).current_dir(&self.root).stdout(Stdio::piped());
        command.spawn().with_context(|| self.meshctl.clone())
    }

    /// `kubectl apply` of files of the repository.
    pub fn apply_files(&self, files: &[&str]) -> Result<()> {
        let mut arguments = vec!["apply"];
        arguments.extend(files.iter().flat_map(|file| ["-f", file]));
        self.kubectl(&arguments).map(|_| ())
    }

    /// `kubectl apply` of a text.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.run(&self.kubectl, &["apply", "-f", "-"], Some(yaml)).map(|_| ())
    }

    /// `kubectl delete` of a text's objects.
    pub fn delete(&self, yaml: &str) -> Result<()> {
        self.run(&self.kubectl, &["delete", "--ignore-not-found", "-f", "-"], Some(yaml)).map(|_| ())
    }

    /// `kubectl get … -o json`.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.quiet(&self.kubectl, &[&["get", "-o", "json"], arguments].concat(), None)?;
        serde_json::from_str(&text).with_context(|| format!("kubectl get {}", arguments.join(" ")))
    }

    /// The objects of a list.
    pub fn items(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let mut list = self.get(arguments)?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => bail!("kubectl get {} gives no list", arguments.join(" ")),
        }
    }

    /// Waits until a Deployment's pods are the newest and ready.
    pub fn rolled_out(&self, namespace: &str, deployment: &str) -> Result<()> {
        let target = format!("deployment/{deployment}");
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl(&["-n", namespace, "rollout", "status", &target, &limit]).map(|_| ())
    }

    /// Waits until all Deployments of the application are ready.
    pub fn application_is_ready(&self) -> Result<()> {
        for deployment in self.items(&["deployments", "-n", APPS])? {
            self.rolled_out(APPS, deployment["metadata"]["name"].as_str().unwrap_or_default())?;
        }
        Ok(())
    }

    /// Somebody outside who asks the ingress gateway.
    pub async fn visitor(&self) -> Result<Client> {
        self.at_gateway("istio-ingressgateway", "http2").await
    }

    /// Somebody outside at a port of a gateway's Service: at its load balancer, else at a node's port.
    pub async fn at_gateway(&self, service: &str, port: &str) -> Result<Client> {
        eventually(PATIENCE, async || {
            let service = self.get(&["service", service, "-n", SYSTEM])?;
            let ports = service["spec"]["ports"].as_array().context("no ports")?;
            let found = ports.iter().find(|one| one["name"] == port).with_context(|| format!("no port {port}"))?;
            let balancer = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
            let (address, number) = match balancer {
                Some(address) => (address.to_owned(), &found["port"]),
                None => (self.node()?.1, &found["nodePort"]),
            };
            let number = number.as_u64().and_then(|number| u16::try_from(number).ok()).context("no port's number")?;
            anyhow::Ok(Client::new(SocketAddr::new(address.parse()?, number)))
        })
        .await
    }

    /// Name and address of a node.
    pub fn node(&self) -> Result<(String, String)> {
        let nodes = self.items(&["nodes"])?;
        let node = nodes.first().context("no nodes")?;
        let mut addresses = node["status"]["addresses"].as_array().into_iter().flatten();
        let internal = addresses.find(|one| one["type"] == "InternalIP").context("no address")?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
        Ok((text(&node["metadata"]["name"])?, text(&internal["address"])?))
    }

    /// Prints what helps to understand a failure.
    pub fn tell(&self) {
        for arguments in [
            &["get", "pods", "-A", "-o", "wide"][..],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
            &["-n", SYSTEM, "logs", "-l", "app=istiod", "--tail=30", "--prefix"],
            &["-n", SYSTEM, "logs", "-l", "istio=ingressgateway", "--tail=10", "--prefix"],
        ] {
            match self.kubectl(arguments) {
                Ok(said) => {
                    let lines: Vec<&str> = said.lines().collect();
                    println!("{}", lines[lines.len().saturating_sub(LINES)..].join("\n"));
                }
                Err(error) => println!("{error:#}"),
            }
        }
    }

    fn run(&self, program: &str, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let name = program.rsplit('/').next().unwrap_or(program);
        println!("    $ {name} {}", arguments.join(" "));
        self.quiet(program, arguments, input)
    }

    fn quiet(&self, program: &str, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let mut child = Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .current_dir(&self.root)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| program.to_owned())?;
        if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(text.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(
            output.status.success(),
            "{program} {} ended with {}:\n{out}{error}",
            arguments.join(" "),
            output.status
        );
        Ok(out.into_owned())
    }
}
