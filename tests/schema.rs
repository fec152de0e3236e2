//! What is checked in is what the .proto files that the livekit-protocol crate ships compile to: the descriptors
//! (`src/record/livekit.fds`) and the gRPC client of the tests.
//!
//! `UPDATE_SCHEMA=1 cargo test --test schema` writes them, after an update of livekit-protocol.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::MetadataCommand;
use prost_types::FileDescriptorSet;
use tempfile::tempdir;

#[test]
fn the_descriptors_are_livekit_protocols() {
    let compiler = compiler();
    // Custom options (`logger.sensitivity`) are kept, which prost's own types would drop.
    check("src/record/livekit.fds", &compiler.encode_file_descriptor_set());
}

#[test]
fn the_client_of_the_tests_is_livekit_protocols() {
    let mut service: FileDescriptorSet = compiler().file_descriptor_set();
    service.file.retain(|file| file.name() == "rpc/analytics.proto");
    let out = tempdir().unwrap();
    tonic_prost_build::configure()
        .build_server(false)
        .emit_rerun_if_changed(false)
        .extern_path(".livekit", "::livekit_protocol")
        .out_dir(out.path())
        .compile_fds(service)
        .unwrap();
    check("tests/support/recorder_client.rs", &fs::read(out.path().join("livekit.rs")).unwrap());
}

/// Compares a checked-in file with what it has to be, or writes it.
fn check(path: &str, made: &[u8]) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(file, made).unwrap();
    } else {
        let found = fs::read(file).unwrap_or_default();
        assert!(found == made, "{path} is out of date: run UPDATE_SCHEMA=1 cargo test --test schema");
    }
}

fn compiler() -> protox::Compiler {
    let mut compiler = protox::Compiler::new([livekit_protocol().join("protocol/protobufs")]).unwrap();
    compiler.include_imports(true).include_source_info(false);
    let files = ["rpc/analytics.proto", "livekit_analytics.proto", "livekit_webhook.proto", "logger/options.proto"];
    compiler.open_files(files).unwrap();
    compiler
}

/// Where cargo unpacked livekit-protocol.
fn livekit_protocol() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let mut command = MetadataCommand::new();
    let metadata = command.manifest_path(manifest).other_options(["--locked".to_owned()]).exec().unwrap();
    let package = metadata.packages.iter().find(|package| package.name.as_str() == "livekit-protocol").unwrap();
    package.manifest_path.parent().unwrap().as_std_path().to_owned()
}
