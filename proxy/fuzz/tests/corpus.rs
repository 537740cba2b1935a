//! Every seed, and every input that once broke something, still holds.

use mesh_fuzz::{Target, seeds};

fn all(target: Target) {
    let seeds = seeds::of(target);
    assert!(!seeds.is_empty(), "{} has no seeds", target.name());
    for seed in seeds {
        println!("{}/{}", target.name(), seed.name);
        target.run(&seed.data);
    }
}

#[test]
fn tls_hellos() {
    all(Target::TlsHello);
}

#[test]
fn proxy_protocol_headers() {
    all(Target::ProxyProtocol);
}

#[test]
fn first_bytes() {
    all(Target::Detection);
}

#[test]
fn paths() {
    all(Target::Normalization);
}

#[test]
fn resources() {
    all(Target::Xds);
}

#[test]
fn requests() {
    all(Target::Request);
}
