//! A gateway in this process: a [`Proxy`] whose node is a router. Used by the binary, `meshctl` and tests.
//!
//! What tells an edge from a sidecar at run time (client addresses and `x-forwarded-*`, limits towards strangers, unknown paths) is in the
//! listeners that the control plane sends to routers.

use anyhow::Result;
use mesh_proxy::app::{Options, Proxy};
use mesh_proxy::args::Run;
use mesh_proxy::bootstrap::agent::{Agent, Role};
use mesh_proxy::launch;

/// Starts a gateway of what `agent` knows.
pub async fn start(agent: Agent, options: Options) -> Result<Proxy> {
    Proxy::start(Agent { role: Role::Router, ..agent }.bootstrap()?, options).await
}

/// What `mesh-gateway run` does: runs until told to end.
pub async fn run(run: Run) -> Result<()> {
    launch::run(run, Role::Router).await
}
