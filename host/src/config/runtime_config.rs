//! The runtime configuration file, read as Spin reads it. An unknown key aborts the start: a misspelt guard that is
//! silently off is worse than none.

use crate::egress::blocked_networks::BlockedNetworks;
use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The name of the default store's file in the state directory.
const DEFAULT_STORE_FILE: &str = "sqlite_key_value.db";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state_dir: Option<String>,
    max_instance_memory: Option<usize>,
    #[serde(default, alias = "config_provider")]
    variables_provider: Vec<VariablesProvider>,
    #[serde(default)]
    key_value_store: BTreeMap<String, KeyValueStore>,
    #[serde(default)]
    outbound_networking: OutboundNetworking,
    outbound_http: Option<OutboundHttp>,
    #[serde(default)]
    client_tls: Vec<ClientTls>,
}

/// Where values of variables come from besides the command line and `SPIN_VARIABLE_<NAME>`.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum VariablesProvider {
    /// Values written in the file itself.
    Static { values: BTreeMap<String, String> },
    /// Environment variables `<prefix>_<NAME>`.
    Env {
        #[serde(default = "default_prefix")]
        prefix: String,
    },
}

fn default_prefix() -> String {
    "SPIN_VARIABLE".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyValueStore {
    r#type: String,
    path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutboundNetworking {
    #[serde(default)]
    block_networks: Vec<String>,
}

/// `[outbound_http]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutboundHttp {
    // Absent from a table that is there means off; without the table it is on. So it is in Spin.
    #[serde(default)]
    connection_pooling: bool,
}

/// `[[client_tls]]`: which roots for which hosts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientTls {
    pub component_ids: Vec<String>,
    /// Host names without a port.
    pub hosts: Vec<String>,
    pub ca_use_platform_roots: Option<bool>,
    pub ca_use_webpki_roots: Option<bool>,
    /// Relative to the runtime configuration's folder until loaded.
    pub ca_roots_file: Option<PathBuf>,
}

/// Where a key-value store keeps its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    Memory,
    File(PathBuf),
}

/// The runtime configuration, complete: what the file doesn't say has its default.
#[derive(Debug)]
pub struct RuntimeConfig {
    pub stores: BTreeMap<String, StoreLocation>,
    pub providers: Vec<VariablesProvider>,
    pub blocked: BlockedNetworks,
    /// Whether connections to upstreams are kept for the next request.
    pub pooling: bool,
    pub client_tls: Vec<ClientTls>,
    /// Bytes of memory that one instance of the component may have.
    pub max_instance_memory: Option<usize>,
}

impl RuntimeConfig {
    /// Reads `file`, if there is one. `state_dir` is the command line's (empty: keep nothing), `app_folder` the
    /// manifest's.
    pub fn load(file: Option<&Path>, state_dir: Option<&str>, app_folder: &Path) -> Result<Self> {
        let Some(file) = file else {
            return Self::parse("", Path::new(""), state_dir, app_folder);
        };
        let text = std::fs::read_to_string(file).with_context(|| {
            format!(
                "can't read the runtime configuration {}; see --runtime-config-file",
                file.display()
            )
        })?;
        let folder = std::path::absolute(file)?
            .parent()
            .unwrap_or(Path::new("/"))
            .to_owned();
        Self::parse(&text, &folder, state_dir, app_folder)
            .with_context(|| format!("in {}", file.display()))
    }

    fn parse(
        text: &str,
        folder: &Path,
        state_dir: Option<&str>,
        app_folder: &Path,
    ) -> Result<Self> {
        let file: File = toml::from_str(text)?;
        let state_dir = match state_dir.or(file.state_dir.as_deref()) {
            Some("") => None,
            Some(path) => Some(std::path::absolute(path)?),
            None => Some(app_folder.join(".spin")),
        };
        let mut stores = BTreeMap::new();
        for (label, store) in file.key_value_store {
            ensure!(
                store.r#type == "spin",
                "key_value_store.{label}: type {:?} is not supported by this host; only \"spin\" is",
                store.r#type
            );
            // Without a path Spin keeps such a store in memory, the default one too.
            let location = store.path.map_or(StoreLocation::Memory, |path| {
                StoreLocation::File(folder.join(path))
            });
            stores.insert(label, location);
        }
        stores
            .entry("default".to_owned())
            .or_insert(match state_dir {
                Some(state_dir) => StoreLocation::File(state_dir.join(DEFAULT_STORE_FILE)),
                None => StoreLocation::Memory,
            });
        let mut client_tls = file.client_tls;
        for tls in &mut client_tls {
            ensure!(
                !tls.component_ids.is_empty(),
                "client_tls: component_ids must name a component"
            );
            ensure!(!tls.hosts.is_empty(), "client_tls: hosts must name a host");
            tls.ca_roots_file = tls.ca_roots_file.take().map(|path| folder.join(path));
        }
        Ok(Self {
            stores,
            providers: file.variables_provider,
            blocked: BlockedNetworks::parse(&file.outbound_networking.block_networks)
                .context("outbound_networking.block_networks")?,
            pooling: file
                .outbound_http
                .is_none_or(|http| http.connection_pooling),
            client_tls,
            max_instance_memory: file.max_instance_memory,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RuntimeConfig> {
        RuntimeConfig::parse(text, Path::new("/etc/hammal"), None, Path::new("/app"))
    }

    #[test]
    fn without_a_file_the_store_is_in_the_state_directory_and_connections_are_pooled() {
        let config = parse("").unwrap();
        assert_eq!(
            config.stores["default"],
            StoreLocation::File("/app/.spin/sqlite_key_value.db".into())
        );
        assert!(config.pooling);
        assert!(!config.blocked.blocks("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn the_command_lines_state_directory_beats_the_files() {
        let of = |state_dir: Option<&str>| {
            let text = "state_dir = \"/from/file\"";
            let config =
                RuntimeConfig::parse(text, Path::new("/etc"), state_dir, Path::new("/app"))
                    .unwrap();
            config.stores["default"].clone()
        };
        assert_eq!(
            of(None),
            StoreLocation::File("/from/file/sqlite_key_value.db".into())
        );
        assert_eq!(
            of(Some("/flag")),
            StoreLocation::File("/flag/sqlite_key_value.db".into())
        );
        assert_eq!(of(Some("")), StoreLocation::Memory);
    }

    #[test]
    fn a_stores_path_is_relative_to_the_file_and_without_one_it_is_in_memory() {
        let config = parse(
            "[key_value_store.default]\ntype = \"spin\"\npath = \"kv.db\"\n[key_value_store.other]\ntype = \"spin\"",
        )
        .unwrap();
        assert_eq!(
            config.stores["default"],
            StoreLocation::File("/etc/hammal/kv.db".into())
        );
        assert_eq!(config.stores["other"], StoreLocation::Memory);
    }

    #[test]
    fn an_outbound_http_table_turns_pooling_off_unless_it_says_otherwise() {
        assert!(!parse("[outbound_http]").unwrap().pooling);
        assert!(
            parse("[outbound_http]\nconnection_pooling = true")
                .unwrap()
                .pooling
        );
    }

    #[test]
    fn private_networks_are_blocked_on_demand() {
        let config =
            parse("[outbound_networking]\nblock_networks = [\"private\", \"1.1.1.0/24\"]").unwrap();
        for blocked in [
            "127.0.0.1",
            "10.0.0.1",
            "::1",
            "::ffff:192.168.0.1",
            "1.1.1.7",
        ] {
            assert!(config.blocked.blocks(blocked.parse().unwrap()), "{blocked}");
        }
        assert!(!config.blocked.blocks("1.1.2.1".parse().unwrap()));
    }

    #[test]
    fn what_is_unknown_or_unsupported_is_refused_by_name() {
        let cases = [
            ("nonsense = 1", "nonsense"),
            ("[outbound_htpp]", "outbound_htpp"),
            (
                "[outbound_http]\nconnection_poolin = true",
                "connection_poolin",
            ),
            ("[outbound_networking]\nblock_network = []", "block_network"),
            (
                "[outbound_networking]\nblock_networks = [\"privat\"]",
                "privat",
            ),
            ("[key_value_store.default]\ntype = \"redis\"", "redis"),
            (
                "[key_value_store.default]\ntype = \"spin\"\nurl = \"u\"",
                "url",
            ),
            ("[[variables_provider]]\ntype = \"vault\"", "vault"),
            ("[[client_tls]]\nhosts = [\"a\"]", "component_ids"),
            (
                "[[client_tls]]\nhosts = []\ncomponent_ids = [\"a\"]",
                "hosts",
            ),
            ("[outbound_http]\nmax_connections = 1", "max_connections"),
        ];
        for (text, named) in cases {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
