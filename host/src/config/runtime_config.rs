//! Reads the runtime configuration file as Spin does. A key that Spin doesn't know is an error: a
//! misspelt `block_networks` must not leave the networks open without notice.

use crate::egress::blocked_networks::BlockedNetworks;
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file of the key-value store `default`, in the state directory.
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
    // For what the component can't do anyway.
    log_dir: Option<toml::Value>,
    sqlite_database: Option<toml::Value>,
    llm_compute: Option<toml::Value>,
    blob_store: Option<toml::Value>,
}

impl File {
    /// Returns the names of the keys in it that Spin knows and that mean nothing here.
    fn without_effect(&self) -> impl Iterator<Item = &'static str> {
        let sockets = self.outbound_networking.max_socket_connections.is_some();
        [
            ("log_dir", self.log_dir.is_some()),
            ("[sqlite_database]", self.sqlite_database.is_some()),
            ("[llm_compute]", self.llm_compute.is_some()),
            ("[blob_store]", self.blob_store.is_some()),
            ("outbound_networking.max_socket_connections", sockets),
        ]
        .into_iter()
        .filter_map(|(key, given)| given.then_some(key))
    }
}

/// `[[variables_provider]]`: a source of variables' values.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum VariablesProvider {
    /// Values in the file itself, by the variables' names.
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
    url: Option<String>,
}

impl KeyValueStore {
    /// Returns where the store `label` keeps its data; relative paths start at `folder`.
    fn location(self, label: &str, folder: &Path) -> Result<StoreLocation> {
        match (self.r#type.as_str(), self.path, self.url) {
            // As in Spin: without a path the store is in memory, even the default one.
            ("spin", None, None) => Ok(StoreLocation::Memory),
            ("spin", Some(path), None) => Ok(StoreLocation::File(folder.join(path))),
            ("redis", None, Some(url)) => Ok(StoreLocation::Redis(StoreUrl(url))),
            ("spin", _, Some(_)) => bail!("key_value_store.{label}: type \"spin\" has no url"),
            ("redis", ..) => bail!("key_value_store.{label}: type \"redis\" needs a url alone"),
            (other, ..) => bail!(
                "key_value_store.{label}: type {other:?} is not supported by this host; \"spin\" \
                 and \"redis\" are"
            ),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutboundNetworking {
    #[serde(default)]
    block_networks: Vec<String>,
    max_total_connections: Option<usize>,
    // Of sockets that the component opens itself, which this host doesn't let it.
    max_socket_connections: Option<usize>,
}

/// `[outbound_http]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutboundHttp {
    // As in Spin, pooling is off if the table lacks this key, and on if there is no table.
    #[serde(default)]
    connection_pooling: bool,
    max_connections: Option<usize>,
    /// The old name of `max_connections`, for one connection more.
    max_concurrent_requests: Option<usize>,
}

/// `[[client_tls]]`: the root certificates to trust for some hosts, and a certificate to show.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientTls {
    /// The components that the table applies to.
    pub component_ids: Vec<String>,
    /// Host names, without a port.
    pub hosts: Vec<String>,
    /// Whether to trust the operating system's root certificates.
    pub ca_use_platform_roots: Option<bool>,
    /// Whether to trust Mozilla's root certificates, which are built in.
    pub ca_use_webpki_roots: Option<bool>,
    /// A PEM file. Absolute, once [`RuntimeConfig::load`] has resolved it.
    pub ca_roots_file: Option<PathBuf>,
    /// A PEM file with the certificate chain that is shown to the hosts. Absolute, as above.
    pub client_cert_file: Option<PathBuf>,
    /// Its key. Absolute, as above.
    pub client_private_key_file: Option<PathBuf>,
}

/// Where a key-value store keeps its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// In memory: the data is lost when the process ends.
    Memory,
    /// In an SQLite file.
    File(PathBuf),
    /// In Redis or Valkey.
    Redis(StoreUrl),
}

/// The URL of a store. It may hold a password, so it is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl(String);

impl StoreUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreUrl(..)")
    }
}

#[cfg(test)]
impl From<String> for StoreUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

/// The runtime configuration, with defaults for all that the file leaves out.
#[derive(Debug)]
pub struct RuntimeConfig {
    /// Key-value stores by label. `default` is always there.
    pub stores: BTreeMap<String, StoreLocation>,
    /// In the order to ask them.
    pub variables_providers: Vec<VariablesProvider>,
    /// Addresses that the component must not connect to.
    pub blocked_networks: BlockedNetworks,
    /// Whether connections to upstreams are reused.
    pub connection_pooling: bool,
    /// The most connections to upstreams at one time.
    pub max_connections: Option<usize>,
    /// Names of keys that are in the file and have no effect.
    pub without_effect: Vec<&'static str>,
    pub client_tls: Vec<ClientTls>,
    /// Bytes of linear memory that one instance of the component may have.
    pub max_instance_memory: Option<usize>,
}

impl RuntimeConfig {
    /// Reads `file`, or returns the defaults if it is `None`. `state_dir` is the command line's
    /// (empty keeps the store `default` in memory), `manifest_folder` the manifest's folder. Fails
    /// if the file can't be read, has an unknown key, or sets what this host doesn't support.
    pub fn load(
        file: Option<&Path>,
        state_dir: Option<&str>,
        manifest_folder: &Path,
    ) -> Result<Self> {
        let Some(file) = file else {
            return Self::parse("", Path::new(""), state_dir, manifest_folder);
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
        Self::parse(&text, &folder, state_dir, manifest_folder)
            .with_context(|| format!("in {}", file.display()))
    }

    fn parse(
        text: &str,
        folder: &Path,
        state_dir: Option<&str>,
        manifest_folder: &Path,
    ) -> Result<Self> {
        let file: File = toml::from_str(text)?;
        let without_effect = file.without_effect().collect();
        let outbound_http = file.outbound_http.as_ref();
        let max_connections = [
            file.outbound_networking.max_total_connections,
            outbound_http.and_then(|http| http.max_connections),
            outbound_http.and_then(|http| Some(http.max_concurrent_requests?.saturating_add(1))),
        ]
        .into_iter()
        .flatten()
        .min();
        let state_dir = match state_dir.or(file.state_dir.as_deref()) {
            Some("") => None,
            Some(path) => Some(std::path::absolute(path)?),
            None => Some(manifest_folder.join(".spin")),
        };
        let mut stores = BTreeMap::new();
        for (label, store) in file.key_value_store {
            let location = store.location(&label, folder)?;
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
            ensure!(
                tls.client_cert_file.is_some() == tls.client_private_key_file.is_some(),
                "client_tls: client_cert_file and client_private_key_file need each other"
            );
            for file in [
                &mut tls.ca_roots_file,
                &mut tls.client_cert_file,
                &mut tls.client_private_key_file,
            ] {
                *file = file.take().map(|path| folder.join(path));
            }
        }
        Ok(Self {
            stores,
            variables_providers: file.variables_provider,
            blocked_networks: BlockedNetworks::parse(&file.outbound_networking.block_networks)
                .context("outbound_networking.block_networks")?,
            max_connections,
            without_effect,
            connection_pooling: file
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
    fn has_a_store_file_and_connection_pooling_by_default() {
        let config = parse("").unwrap();
        assert_eq!(
            config.stores["default"],
            StoreLocation::File("/app/.spin/sqlite_key_value.db".into())
        );
        assert!(config.connection_pooling);
        assert!(!config.blocked_networks.blocks("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn prefers_the_state_directory_of_the_command_line() {
        let location = |state_dir: Option<&str>| {
            let text = "state_dir = \"/from/file\"";
            let config =
                RuntimeConfig::parse(text, Path::new("/etc"), state_dir, Path::new("/app"))
                    .unwrap();
            config.stores["default"].clone()
        };
        assert_eq!(
            location(None),
            StoreLocation::File("/from/file/sqlite_key_value.db".into())
        );
        assert_eq!(
            location(Some("/flag")),
            StoreLocation::File("/flag/sqlite_key_value.db".into())
        );
        assert_eq!(location(Some("")), StoreLocation::Memory);
    }

    #[test]
    fn resolves_a_stores_path_from_the_files_folder() {
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
    fn an_outbound_http_table_without_the_key_turns_pooling_off() {
        assert!(!parse("[outbound_http]").unwrap().connection_pooling);
        assert!(
            parse("[outbound_http]\nconnection_pooling = true")
                .unwrap()
                .connection_pooling
        );
    }

    #[test]
    fn reads_blocked_networks() {
        let config =
            parse("[outbound_networking]\nblock_networks = [\"private\", \"1.1.1.0/24\"]").unwrap();
        for blocked in [
            "127.0.0.1",
            "10.0.0.1",
            "::1",
            "::ffff:192.168.0.1",
            "1.1.1.7",
        ] {
            assert!(
                config.blocked_networks.blocks(blocked.parse().unwrap()),
                "{blocked}"
            );
        }
        assert!(!config.blocked_networks.blocks("1.1.2.1".parse().unwrap()));
    }

    #[test]
    fn names_what_is_unknown_or_unsupported() {
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
            ("[key_value_store.default]\ntype = \"redis\"", "url"),
            (
                "[key_value_store.default]\ntype = \"azure_cosmos\"",
                "azure_cosmos",
            ),
            (
                "[key_value_store.default]\ntype = \"redis\"\nurl = \"redis://a\"\npath = \"p\"",
                "url alone",
            ),
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
            (
                "[[client_tls]]\nhosts = [\"a\"]\ncomponent_ids = [\"a\"]\nclient_cert_file = \"c\"",
                "client_private_key_file",
            ),
        ];
        for (text, named) in cases {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn takes_the_lowest_limit_of_connections() {
        for (text, limit) in [
            ("", None),
            ("[outbound_http]\nmax_connections = 0", Some(0)),
            ("[outbound_http]\nmax_concurrent_requests = 0", Some(1)),
            (
                "[outbound_http]\nmax_connections = 9\n[outbound_networking]\nmax_total_connections = 7",
                Some(7),
            ),
        ] {
            assert_eq!(parse(text).unwrap().max_connections, limit, "{text}");
        }
    }

    #[test]
    fn names_the_keys_of_spin_that_have_no_effect() {
        let text = "log_dir = \"logs\"\n[sqlite_database.default]\ntype = \"spin\"\n\
                    [llm_compute]\ntype = \"spin\"\n[outbound_networking]\nmax_socket_connections = 1";
        assert_eq!(
            parse(text).unwrap().without_effect,
            [
                "log_dir",
                "[sqlite_database]",
                "[llm_compute]",
                "outbound_networking.max_socket_connections"
            ]
        );
    }
}
