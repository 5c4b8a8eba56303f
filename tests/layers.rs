//! The layers of `src/`: a file of a lower layer does not name a higher one.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `src/`, the highest layer first: CONTRIBUTING.md draws them.
const LAYERS: [&[&str]; 15] = [
    &["spin", "tests"],
    &["mirror"],
    &["access_log", "page", "probe", "manifest", "blob_redirect"],
    &["blob_store"],
    &["response"],
    &["upstream"],
    &["context"],
    &["config"],
    &["access"],
    &["policy"],
    &["cache"],
    &["request"],
    &["registry", "oci"],
    &["platform"],
    // The crate's root names its modules, and nothing is in it that they could name.
    &["lib"],
];

#[test]
fn no_file_names_a_higher_layer() {
    let mut faults = Vec::new();
    for file in source_files(Path::new("src")) {
        let text = fs::read_to_string(&file).expect("a source file");
        let own = module_of(&file);
        // The tests of a file may use whatever shows what it does.
        let code = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        for named in named_modules(code) {
            if own != "lib" && own != "tests" && layer_of(&named) < layer_of(&own) {
                faults.push(format!("{} ({own}) names crate::{named}", file.display()));
            }
        }
    }
    assert!(
        faults.is_empty(),
        "these name a higher layer:\n{}",
        faults.join("\n")
    );
}

#[test]
fn contributing_draws_these_layers() {
    let page = fs::read_to_string("CONTRIBUTING.md").expect("CONTRIBUTING.md");
    let modules = LAYERS
        .iter()
        .flat_map(|layer| layer.iter())
        .filter(|name| **name != "lib");
    let missing: Vec<_> = modules.filter(|name| !page.contains(**name)).collect();
    assert!(
        missing.is_empty(),
        "CONTRIBUTING.md does not name {missing:?}"
    );
}

fn layer_of(module: &str) -> usize {
    let layer = LAYERS.iter().position(|layer| layer.contains(&module));
    layer.unwrap_or_else(|| panic!("tests/layers.rs does not say which layer {module} is in"))
}

/// Returns the module of `src/` that a file is in: its folder there, or its own name.
fn module_of(file: &Path) -> String {
    let inside = file.strip_prefix("src").expect("a file of src");
    let first = inside.iter().next().expect("a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Returns the modules that are named as `crate::module`, outside comments.
fn named_modules(code: &str) -> Vec<String> {
    let is_comment = |line: &&str| line.trim_start().starts_with("//");
    let lines = code.lines().filter(|line| !is_comment(line));
    let paths = lines.flat_map(|line| line.split("crate::").skip(1));
    let first = |path: &str| {
        let end = path.find(|character: char| !character.is_alphanumeric() && character != '_');
        path[..end.unwrap_or(path.len())].to_owned()
    };
    let modules = paths.map(first).inspect(|module| {
        assert!(
            !module.is_empty(),
            "an import of several modules at once hides their layers"
        );
    });
    modules.collect()
}

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
