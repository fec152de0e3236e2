//! Compiles the .proto files that the livekit-protocol crate ships: descriptors for the documents (with LiveKit's own
//! field options) and the `AnalyticsRecorderService` over that crate's message types.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let protos = livekit_protocol_directory()?.join("protocol/protobufs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=Cargo.lock");

    let mut compiler = protox::Compiler::new([&protos])?;
    compiler.include_imports(true).include_source_info(false);
    compiler.open_files([
        "rpc/analytics.proto",
        "livekit_analytics.proto",
        "livekit_webhook.proto",
        "logger/options.proto",
    ])?;
    // encode_file_descriptor_set keeps custom options (`logger.sensitivity`), which prost's own types would drop.
    fs::write(out.join("livekit.fds"), compiler.encode_file_descriptor_set())?;

    // Only the service's own file: the messages are livekit-protocol's.
    let mut service = compiler.file_descriptor_set();
    service.file.retain(|file| file.name() == "rpc/analytics.proto");
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .extern_path(".livekit", "::livekit_protocol")
        .out_dir(&out)
        .compile_fds(service)?;
    Ok(())
}

/// Where cargo unpacked livekit-protocol.
fn livekit_protocol_directory() -> Result<PathBuf, Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let target = format!("--filter-platform={}", env::var("TARGET")?);
    let metadata = |more: &[&str]| {
        let options = ["--locked", &target].iter().chain(more).map(|&option| option.to_owned()).collect::<Vec<_>>();
        cargo_metadata::MetadataCommand::new().manifest_path(&manifest).other_options(options).exec()
    };
    // Metadata wants every package unpacked, those that only tests use too; where cargo has not yet fetched these (a
    // first `cargo run` on a fresh machine), it has to go online once.
    let metadata = metadata(&["--offline"]).or_else(|_| metadata(&[]))?;
    let package = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == "livekit-protocol")
        .ok_or("livekit-protocol is not among the dependencies")?;
    Ok(package.manifest_path.parent().ok_or("livekit-protocol's manifest has no directory")?.as_std_path().to_owned())
}
