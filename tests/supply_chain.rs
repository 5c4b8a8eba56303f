//! What the builds take from elsewhere: exact versions, from one registry, under licences that fit;
//! and Debian's packages with signatures only.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Licences that may be combined with Apache-2.0 in one program without further conditions than a
/// notice.
const LICENCES: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "BSL-1.0",
];

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn every_build_takes_the_versions_of_the_lock_file() {
    let manifests = [
        "spin.toml",
        "spin.wasip2.toml",
        "benches/forwarder/spin.toml",
        "benches/forwarder/spin.wasip2.toml",
    ];
    let commands = |file: &'static str| {
        let lines: Vec<String> = read(file)
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .map(str::to_owned)
            .collect();
        lines.into_iter().map(move |line| (file, line))
    };
    let mut found = 0;
    for (file, line) in manifests.into_iter().chain([".ci/run"]).flat_map(commands) {
        let builds = ["build", "rustc", "test", "clippy", "run", "bench"]
            .iter()
            .any(|command| line.contains(&format!("cargo {command} ")))
            || line.ends_with("cargo test");
        if builds {
            found += 1;
            assert!(line.contains("--locked"), "{file}: {line}");
        }
    }
    assert!(found >= 8, "{found} commands");
    let alias: toml::Table = read(".cargo/config.toml").parse().expect("TOML");
    let up = alias["alias"]["up"].as_str().expect("a command");
    assert!(up.contains("--locked"), "{up}");
}

#[test]
fn debians_packages_have_to_be_signed_whatever_the_machine_permits() {
    for file in ["scripts/newer-clients.sh", "scripts/wasm-target.sh"] {
        let script = read(file);
        for option in [
            "Acquire::AllowInsecureRepositories=false",
            "Acquire::AllowWeakRepositories=false",
            "Acquire::AllowDowngradeToInsecureRepositories=false",
            "APT::Get::AllowUnauthenticated=false",
        ] {
            assert!(script.contains(option), "{file} leaves out {option}");
        }
        assert!(script.contains("signed-by="), "{file}");
    }
}

#[test]
fn all_crates_come_from_one_registry_with_a_checksum() {
    for file in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let lock: toml::Table = read(file).parse().expect("TOML");
        let mut sources = BTreeSet::new();
        for package in lock["package"].as_array().expect("packages") {
            let Some(source) = package.get("source") else {
                continue;
            };
            let source = source.as_str().expect("a source");
            assert!(
                source.starts_with("registry+https://"),
                "{file}: {package:?}"
            );
            assert!(package.get("checksum").is_some(), "{file}: {package:?}");
            sources.insert(source.to_owned());
        }
        assert_eq!(sources.len(), 1, "{file}: {sources:?}");
    }
}

#[test]
fn every_crate_has_a_licence_that_fits() {
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc");
    let rustc = String::from_utf8(rustc.stdout).expect("text");
    let host = rustc
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("a host");
    // The crates of other platforms, which no build here has downloaded, are left out.
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(["--filter-platform", host])
        .args(["--filter-platform", "wasm32-wasip2"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{output:?}");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 100, "{}", packages.len());
    let permitted = |licence: &str| LICENCES.contains(&licence);
    for package in packages {
        let name = &package["name"];
        let licence = package["license"]
            .as_str()
            .unwrap_or_else(|| panic!("{name} has no licence"));
        assert!(is_permitted(licence, permitted), "{name}: {licence}");
    }
}

/// Whether an SPDX expression can be fulfilled with the permitted licences. `/` is the old notation
/// of `OR`; there is at most one level of parentheses.
fn is_permitted(expression: &str, permitted: impl Fn(&str) -> bool + Copy) -> bool {
    let expression = expression.replace(" / ", "/").replace('/', " OR ");
    if let Some((before, rest)) = expression.split_once('(') {
        let (inner, after) = rest.split_once(')').expect("a closing parenthesis");
        let inner = is_permitted(inner, permitted);
        let name = if inner { "0BSD" } else { "none" };
        return is_permitted(&format!("{before}{name}{after}"), permitted);
    }
    expression.split(" OR ").any(|choice| {
        choice
            .split(" AND ")
            .all(|licence| permitted(licence.trim()))
    })
}

#[test]
fn reads_licence_expressions() {
    let permitted = |licence: &str| LICENCES.contains(&licence);
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT/GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
        ("(AGPL-3.0 OR GPL-3.0) AND MIT", false),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
    ] {
        assert_eq!(
            is_permitted(expression, permitted),
            expected,
            "{expression}"
        );
    }
}
