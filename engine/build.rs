//! Compiles the gRPC interface, `proto/`, to Rust, without a compiler of its own on the machine; and keeps its description for
//! the reflection service.

use std::{env, error::Error, fs, path::Path};

const FOLDER: &str = "../proto";
const FILE: &str = "keyloom/v1/keyloom.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={FOLDER}/{FILE}");
    let mut compiler = protox::Compiler::new([FOLDER])?;
    compiler.include_imports(true).include_source_info(true).open_file(FILE)?;
    let out = env::var_os("OUT_DIR").ok_or("cargo says where to write")?;
    fs::write(Path::new(&out).join("keyloom.v1.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::grpc::codec::CountedCodec")
        .btree_map(".")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
