//! The same bootstrap given to Envoy and to our proxy, the same requests sent to both, and everything compared that can be seen:
//! the answer, what the backend saw, how often it was tried, and the access log.
//!
//! A case is `cases/AREA/NAME.yaml`; `docs/testing.md` says how to add one. Where we differ on purpose the case says why (`differs`),
//! and what we must answer (`ours`).

#![allow(clippy::unwrap_used)]

mod backend;
mod bootstrap;
mod case;
mod certificates;
mod client;
mod compare;
mod proxy;
mod run;
mod script;
mod wire;

macro_rules! areas {
    ($($test:ident = $area:literal;)*) => {$(
        #[test]
        fn $test() {
            run::area($area);
        }
    )*};
}

areas! {
    differential_routing = "routing";
    differential_headers = "headers";
    differential_rewrite = "rewrite";
    differential_retry = "retry";
    differential_timeout = "timeout";
    differential_cluster = "cluster";
    differential_protocol = "protocol";
    differential_edge = "edge";
    differential_path = "path";
    differential_rbac = "rbac";
    differential_malformed = "malformed";
    differential_limits = "limits";
    differential_grpc = "grpc";
    differential_tcp = "tcp";
}
