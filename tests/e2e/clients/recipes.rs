//! The configuration in `deploy/clients/` is what the tests of real clients use, and what
//! docs/clients.md shows (tests/docs.rs).

use std::collections::BTreeMap;

use crate::support::mirror::repository;

fn recipes() -> BTreeMap<String, String> {
    let dir = repository().join("deploy/clients");
    let files = std::fs::read_dir(&dir)
        .expect("recipes")
        .map(|file| file.expect("a recipe"));
    let recipe = |file: std::fs::DirEntry| {
        let text = std::fs::read_to_string(file.path()).expect("a recipe");
        (file.file_name().into_string().expect("a name"), text)
    };
    files.map(recipe).collect()
}

/// Those whose programs no test runs are held to be well-formed, at least.
#[test]
fn every_recipe_names_the_mirror_once_for_each_registry() {
    for (name, recipe) in recipes() {
        assert!(recipe.contains("mirror.example"), "{name}");
        match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
            "json" => assert!(
                serde_json::from_str::<serde_json::Value>(&recipe).is_ok(),
                "{name}"
            ),
            "toml" | "conf" => assert!(recipe.parse::<toml::Table>().is_ok(), "{name}"),
            "yaml" => assert!(
                recipe.starts_with("mirrors:\n") && !recipe.contains('\t'),
                "{name}"
            ),
            "sh" => assert!(
                recipe.lines().all(|line| line.contains(" mirror.example/")
                    || line.contains("docker://mirror.example/")),
                "{name}"
            ),
            _ => panic!("{name} is no recipe"),
        }
    }
    let buildkitd: toml::Table = recipes()["buildkitd.toml"].parse().expect("buildkitd.toml");
    assert_eq!(
        buildkitd["registry"]["docker.io"]["mirrors"][0].as_str(),
        Some("mirror.example")
    );
}
