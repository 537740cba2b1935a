//! `cargo xtask codegen [--check]`: Rust code of our own protobuf messages, the descriptors of everything that crosses the wire, and
//! the definitions of Istio's kinds for Kubernetes, which an example of `proto` makes from its types.
//!
//! Envoy's `.proto` files are not copied: they lie in the source of the crate `envoy-types`, which cargo knows how to find.
//! The compilers are slow to build, so they are behind the feature `codegen`; without it this command runs itself again with it.

use anyhow::Result;

/// Arguments of `codegen`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Write nothing; fail if a generated file is not what the generator makes.
    #[arg(long)]
    check: bool,
}

/// Generates, or checks.
pub fn run(arguments: &Arguments) -> Result<()> {
    generate(arguments.check)
}

/// Fails if a generated file is stale.
pub fn check() -> Result<()> {
    generate(true)
}

#[cfg(not(feature = "codegen"))]
fn generate(check: bool) -> Result<()> {
    let mut command = vec!["run", "--quiet", "--package", "xtask", "--features", "codegen", "--", "codegen"];
    if check {
        command.push("--check");
    }
    crate::process::run("cargo", &command)
}

#[cfg(feature = "codegen")]
use with_compilers::generate;

#[cfg(feature = "codegen")]
mod with_compilers {
    use std::io::Write;
    use std::path::{Path, PathBuf};

    use anyhow::{Context, Result, bail};
    use prost::Message;

    use crate::process;

    /// Our own messages, in `proto/protos`.
    const OWN: &[&str] = &["istio/v1/auth/ca.proto", "istio/networking/nds/v1/nds.proto", "ferromesh/v1/stats.proto"];

    /// Envoy's messages that bootstraps, resources and dumps may hold; what they import comes with them.
    const ENVOY: &[&str] = &[
        "envoy/config/bootstrap/v3/bootstrap.proto",
        "envoy/config/cluster/v3/cluster.proto",
        "envoy/config/core/v3/config_source.proto",
        "envoy/config/endpoint/v3/endpoint.proto",
        "envoy/config/listener/v3/listener.proto",
        "envoy/config/listener/v3/api_listener.proto",
        "envoy/config/route/v3/route.proto",
        "envoy/config/rbac/v3/rbac.proto",
        "envoy/config/accesslog/v3/accesslog.proto",
        "envoy/config/metrics/v3/stats.proto",
        "envoy/config/overload/v3/overload.proto",
        "envoy/admin/v3/config_dump.proto",
        "envoy/admin/v3/clusters.proto",
        "envoy/admin/v3/listeners.proto",
        "envoy/admin/v3/certs.proto",
        "envoy/admin/v3/server_info.proto",
        "envoy/extensions/access_loggers/file/v3/file.proto",
        "envoy/extensions/access_loggers/stream/v3/stream.proto",
        "envoy/extensions/filters/http/cors/v3/cors.proto",
        "envoy/extensions/filters/http/fault/v3/fault.proto",
        "envoy/extensions/filters/http/grpc_stats/v3/config.proto",
        "envoy/extensions/filters/http/rbac/v3/rbac.proto",
        "envoy/extensions/filters/http/router/v3/router.proto",
        "envoy/extensions/filters/listener/http_inspector/v3/http_inspector.proto",
        "envoy/extensions/filters/listener/original_dst/v3/original_dst.proto",
        "envoy/extensions/filters/listener/proxy_protocol/v3/proxy_protocol.proto",
        "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
        "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
        "envoy/extensions/filters/network/rbac/v3/rbac.proto",
        "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
        "envoy/extensions/load_balancing_policies/least_request/v3/least_request.proto",
        "envoy/extensions/load_balancing_policies/random/v3/random.proto",
        "envoy/extensions/load_balancing_policies/round_robin/v3/round_robin.proto",
        "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
        "envoy/extensions/retry/priority/previous_priorities/v3/previous_priorities_config.proto",
        "envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.proto",
        "envoy/extensions/transport_sockets/tls/v3/tls.proto",
        "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
        "envoy/service/discovery/v3/ads.proto",
        "envoy/service/discovery/v3/discovery.proto",
    ];

    pub(super) fn generate(check: bool) -> Result<()> {
        let own = process::root().join("proto/protos");
        let envoy = envoy_protos()?;
        let includes = [
            own,
            envoy.join("data-plane-api"),
            envoy.join("googleapis"),
            envoy.join("protoc-gen-validate"),
            envoy.join("xds"),
            envoy.join("opentelemetry-proto"),
            envoy.join("client_model"),
            envoy.join("cel-spec/proto"),
        ];
        let mut files = Files::new();
        let descriptors = protox::compile(OWN, &includes)?;
        let folder = scratch()?;
        let mut with_names = tonic_prost_build::Config::new();
        with_names.enable_type_names().type_name_domain(["."], "type.googleapis.com");
        tonic_prost_build::configure()
            .out_dir(&folder)
            .compile_well_known_types(true)
            .extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf")
            .compile_fds_with_config(descriptors, with_names)?;
        take(&folder, &mut files)?;
        files.retain(|(name, _)| !name.starts_with("google."));
        let mut all = protox::Compiler::new(&includes)?;
        all.include_imports(true).include_source_info(false);
        all.open_files(OWN.iter().chain(ENVOY))?;
        files.push(("descriptors.binpb.gz".into(), compress(&all.file_descriptor_set().encode_to_vec())?));
        write("proto/src/generated", &files, check)?;
        write("deploy/crds", &definitions()?, check)
    }

    /// Names and contents.
    type Files = Vec<(String, Vec<u8>)>;

    /// CustomResourceDefinitions of Istio's kinds. Run from the root for all members, so that dependencies are built as for tests.
    fn definitions() -> Result<Files> {
        let folder = scratch()?;
        let path = folder.to_string_lossy().into_owned();
        process::run(
            "cargo",
            &["run", "--quiet", "--example", "crds", "--features", "mesh-proto/schema", "--", &path],
        )?;
        let mut files = Files::new();
        take(&folder, &mut files)?;
        Ok(files)
    }

    /// A new folder.
    fn scratch() -> Result<PathBuf> {
        let folder = std::env::temp_dir().join(format!("ferromesh-codegen-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Reads the files of a folder, and removes it.
    fn take(folder: &Path, files: &mut Files) -> Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            files.push((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?));
        }
        std::fs::remove_dir_all(folder)?;
        Ok(())
    }

    /// The folder of `.proto` files in the source of `envoy-types`.
    fn envoy_protos() -> Result<PathBuf> {
        let metadata = process::output("cargo", &["metadata", "--format-version", "1", "--offline"])
            .or_else(|_| process::output("cargo", &["metadata", "--format-version", "1"]))?;
        let marker = "/envoy-types-";
        let manifest = metadata
            .split('"')
            .find(|text| text.contains(marker) && text.ends_with("Cargo.toml"))
            .context("the crate envoy-types is not among the dependencies")?;
        Ok(Path::new(manifest).parent().context("a manifest has a folder")?.join("proto"))
    }

    /// The same bytes for the same input: no time stamp, no file name.
    fn compress(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut encoder = flate2::GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes)?;
        Ok(encoder.finish()?)
    }

    /// Makes a folder of the project hold these files, or fails if it does not.
    fn write(place: &str, files: &Files, check: bool) -> Result<()> {
        let folder = process::root().join(place);
        let mut stale = Vec::new();
        for (name, bytes) in files {
            let path = folder.join(name);
            if std::fs::read(&path).ok().as_ref() == Some(bytes) {
                continue;
            }
            if check {
                stale.push(name.clone());
            } else {
                std::fs::create_dir_all(&folder)?;
                std::fs::write(&path, bytes)?;
                println!("wrote {place}/{name}");
            }
        }
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if files.iter().all(|(other, _)| *other != name) {
                if check {
                    stale.push(name);
                } else {
                    std::fs::remove_file(folder.join(&name))?;
                    println!("removed {place}/{name}");
                }
            }
        }
        if !stale.is_empty() {
            bail!("{place} is not what the generator makes ({}); run `cargo xtask codegen`", stale.join(", "));
        }
        println!("codegen: {} files up to date in {place}", files.len());
        Ok(())
    }
}
