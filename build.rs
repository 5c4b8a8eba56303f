//! Gives the component the stack that it needs.

/// Bytes: three times what the end-to-end tests need. A WASIp2 instance answers one request, and then a host clears all the
/// memory that it had: the linker's 1 MiB takes it longer than many a step of the answer.
const STACK: u32 = 64 * 1024;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_FAMILY").is_ok_and(|family| family == "wasm") {
        println!("cargo::rustc-link-arg-cdylib=-zstack-size={STACK}");
    }
}
