//! Reads `spin.toml`, manifest version 2: one HTTP trigger and one component in a local file.

use crate::config::route::Route;
use crate::config::variables::{self, Variable};
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A manifest that this host can run, checked.
#[derive(Debug)]
pub struct Manifest {
    /// The manifest's folder, absolute. Relative paths in the manifest start here.
    pub folder: PathBuf,
    /// Application variables by name.
    pub variables: BTreeMap<String, Variable>,
    /// The `<id>` of `[component.<id>]`.
    pub component_id: String,
    pub component: Component,
    /// The route of the HTTP trigger.
    pub route: Route,
}

/// `[component.<id>]`.
#[derive(Debug, Deserialize)]
pub struct Component {
    source: toml::Value,
    /// The component's variables: templates by name.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// Environment variables by name, without templates.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Templates of the patterns that `egress::allowed_hosts` parses.
    #[serde(default)]
    pub allowed_outbound_hosts: Vec<String>,
    /// Labels of the key-value stores that the component may open.
    #[serde(default)]
    pub key_value_stores: Vec<String>,
    pub build: Option<Build>,
    /// All other keys.
    #[serde(flatten)]
    rest: toml::Table,
}

/// Keys of a component that are accepted and have no effect.
const IGNORED_KEYS: [&str; 3] = ["description", "targets", "tool"];

/// `[component.<id>.build]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "keys that are accepted and have no effect")]
pub struct Build {
    command: Commands,
    /// The folder to run the commands in, relative to the manifest's; that one by default.
    pub workdir: Option<PathBuf>,
    #[serde(default)]
    watch: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Commands {
    One(String),
    Several(Vec<String>),
}

impl Build {
    /// The shell commands, in the order to run them.
    pub fn commands(&self) -> &[String] {
        match &self.command {
            Commands::One(command) => std::slice::from_ref(command),
            Commands::Several(commands) => commands,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[allow(dead_code, reason = "checked before anything else is read")]
    spin_manifest_version: u32,
    #[allow(dead_code, reason = "keys that are accepted and have no effect")]
    application: Application,
    #[serde(default)]
    variables: BTreeMap<String, Variable>,
    trigger: BTreeMap<String, Vec<toml::Value>>,
    #[serde(default)]
    component: BTreeMap<String, Component>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "keys that are accepted and have no effect")]
struct Application {
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    authors: Vec<String>,
    targets: Option<toml::Value>,
    trigger: Option<toml::Value>,
    #[serde(default)]
    tool: toml::Table,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpTrigger {
    route: String,
    component: String,
    #[allow(dead_code, reason = "a name for logs, which this host doesn't write")]
    id: Option<String>,
    executor: Option<toml::Value>,
}

impl Manifest {
    /// Reads the manifest `path`, or the `spin.toml` in the folder `path`. Fails if it can't be
    /// read, or as [`Manifest::parse`] does.
    pub fn load(path: &Path) -> Result<Self> {
        let path = if path.is_dir() {
            path.join("spin.toml")
        } else {
            path.to_owned()
        };
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "can't read the manifest {}; go to its folder or name it with --from FILE",
                path.display()
            )
        })?;
        let path = std::path::absolute(&path)?;
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        Self::parse(&text, folder).with_context(|| format!("in {}", path.display()))
    }

    /// Parses a manifest. Fails on unknown keys, and on everything that this host doesn't support.
    pub fn parse(text: &str, folder: PathBuf) -> Result<Self> {
        let version = toml::from_str::<toml::Table>(text)?
            .get("spin_manifest_version")
            .cloned();
        ensure!(
            version == Some(toml::Value::Integer(2)),
            "only `spin_manifest_version = 2` is supported by this host"
        );
        let File {
            trigger,
            component,
            variables,
            ..
        } = toml::from_str(text)?;
        for (name, variable) in &variables {
            variables::check_name(name).with_context(|| format!("variable {name:?}"))?;
            ensure!(
                variable.required != variable.default.is_some(),
                "variable {name:?} needs either `default = \"...\"` or `required = true`"
            );
        }
        let HttpTrigger {
            route,
            component: component_id,
            executor,
            ..
        } = single_http_trigger(trigger)?;
        ensure!(
            executor.is_none(),
            "a trigger's `executor` is not supported by this host"
        );

        let mut components = component;
        let Some(component) = components.remove(&component_id) else {
            bail!(
                "the trigger's component {component_id:?} has no [component.{component_id}] table"
            );
        };
        if let Some(other) = components.keys().next() {
            bail!(
                "only one component is supported by this host; remove [component.{other}], or use `spin up`"
            );
        }
        component.check_supported(&component_id)?;
        Ok(Self {
            folder,
            variables,
            route: Route::parse(&route)?,
            component_id,
            component,
        })
    }

    /// The absolute path of the component's file.
    pub fn source(&self) -> PathBuf {
        self.folder
            .join(self.component.source.as_str().unwrap_or_default())
    }
}

/// Returns the only trigger, which must be an HTTP trigger.
fn single_http_trigger(mut triggers: BTreeMap<String, Vec<toml::Value>>) -> Result<HttpTrigger> {
    let http = triggers.remove("http").unwrap_or_default();
    if let Some(other) = triggers.keys().next() {
        bail!("only http triggers are supported by this host, not [[trigger.{other}]]");
    }
    let Ok([trigger]) = <[toml::Value; 1]>::try_from(http) else {
        bail!("this host needs exactly one [[trigger.http]]");
    };
    if trigger
        .get("component")
        .is_some_and(|component| !component.is_str())
    {
        bail!(
            "a component inside [[trigger.http]] is not supported by this host; use a [component.<id>] table"
        );
    }
    trigger.try_into().context("in [[trigger.http]]")
}

impl Component {
    fn check_supported(&self, id: &str) -> Result<()> {
        if let Some(key) = self
            .rest
            .keys()
            .find(|key| !IGNORED_KEYS.contains(&key.as_str()))
        {
            bail!(
                "component.{id}.{key} is not supported by this host; remove it, or use `spin up`"
            );
        }
        ensure!(
            self.source.is_str(),
            "component.{id}.source must be a local file; remote sources are not supported by this host"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = r#"
        spin_manifest_version = 2
        [application]
        name = "hammal"
        [variables]
        upstream = { default = "registry-1.docker.io" }
        key = { required = true, secret = true }
        [[trigger.http]]
        route = "/..."
        component = "hammal"
        [component.hammal]
        source = "out/hammal.wasm"
        key_value_stores = ["default"]
        allowed_outbound_hosts = ["https://*:*"]
        [component.hammal.variables]
        upstream = "{{ upstream }}"
        [component.hammal.build]
        command = "cargo build"
        watch = ["src/**/*.rs"]
    "#;

    fn parse(text: &str) -> Result<Manifest> {
        Manifest::parse(text, PathBuf::from("/app"))
    }

    #[test]
    fn reads_a_manifest() {
        let manifest = parse(VALID).unwrap();
        assert_eq!(manifest.component_id, "hammal");
        assert_eq!(manifest.source(), Path::new("/app/out/hammal.wasm"));
        assert_eq!(manifest.route, Route::parse("/...").unwrap());
        assert_eq!(manifest.component.key_value_stores, ["default"]);
        assert_eq!(
            manifest.component.build.as_ref().unwrap().commands(),
            ["cargo build"]
        );
        assert!(manifest.variables["key"].required);
    }

    #[test]
    fn names_what_is_not_supported() {
        let cases = [
            (
                "spin_manifest_version = 2",
                "spin_manifest_version = 1",
                "spin_manifest_version = 2",
            ),
            ("name = \"hammal\"", "name = \"hammal\"\nnmae = 1", "nmae"),
            (
                "[[trigger.http]]",
                "[[trigger.redis]]\nchannel = \"a\"\n[[trigger.http]]",
                "trigger.redis",
            ),
            (
                "route = \"/...\"",
                "route = \"/...\"\nexecutor = { type = \"wagi\" }",
                "executor",
            ),
            (
                "component = \"hammal\"",
                "component = \"other\"",
                "[component.other]",
            ),
            (
                "[component.hammal]",
                "[component.other]\nsource = \"a\"\n[component.hammal]",
                "[component.other]",
            ),
            (
                "source = \"out/hammal.wasm\"",
                "source = { url = \"u\", digest = \"d\" }",
                "remote sources",
            ),
            (
                "source = \"out",
                "sqlite_databases = [\"default\"]\nsource = \"out",
                "sqlite_databases",
            ),
            (
                "source = \"out",
                "files = [\"a\"]\nsource = \"out",
                "component.hammal.files",
            ),
            ("source = \"out", "sauce = 1\nsource = \"out", "sauce"),
            (
                "{ default = \"registry-1.docker.io\" }",
                "{}",
                "required = true",
            ),
            (
                "upstream = { default",
                "Up_stream = { default",
                "lower-case",
            ),
        ];
        for (from, to, named) in cases {
            assert!(VALID.contains(from), "{from}");
            let error = format!("{:#}", parse(&VALID.replacen(from, to, 1)).unwrap_err());
            assert!(error.contains(named), "{to}: {error}");
        }
    }

    #[test]
    fn suggests_the_flag_for_a_missing_manifest() {
        let error = format!(
            "{:#}",
            Manifest::load(Path::new("/nowhere/spin.toml")).unwrap_err()
        );
        assert!(error.contains("--from"), "{error}");
    }
}
