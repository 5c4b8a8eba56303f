//! Gives the component the stack that it needs, and compresses the files of its page.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::error::Error;
use std::io::Write;
use std::path::Path;

/// Bytes: three times what the end-to-end tests need. A WASIp2 instance answers one request, and then a host clears all the
/// memory that it had: the linker's 1 MiB takes it longer than many a step of the answer.
const STACK: u32 = 128 * 1024;

/// Files of `src/page` that are sent as they are: a third of their size in the component.
const COMPRESSED: [&str; 5] = ["page.css", "page.js", "image.js", "speed.js", "sha256.js"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_FAMILY").is_ok_and(|family| family == "wasm") {
        println!("cargo::rustc-link-arg-cdylib=-zstack-size={STACK}");
    }
    let out = std::env::var("OUT_DIR")?;
    for name in COMPRESSED {
        let file = Path::new("src/page").join(name);
        println!("cargo::rerun-if-changed={}", file.display());
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&std::fs::read(file)?)?;
        let compressed = Path::new(&out).join(format!("{name}.gz"));
        std::fs::write(compressed, encoder.finish()?)?;
    }
    Ok(())
}
