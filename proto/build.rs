//! Compiles the `.proto` files with protox, a protobuf compiler in Rust: no `protoc` needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["fleet", "blobs", "agents", "values"].map(|f| format!("proto/fleetune/v1/{f}.proto"));
    for file in &files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
