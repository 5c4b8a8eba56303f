//! The command `hammal-host up`: reads the files, builds and loads the component, serves it.

use crate::build::build;
use crate::cli::{Compile, Format, Instances, LimitFlags, Up};
use crate::component;
use crate::component::EngineOptions;
use crate::component::guest::GuestConfig;
use crate::component::instances::InstanceLimits;
use crate::component::stores::Stores;
use crate::config::manifest::Manifest;
use crate::config::route::Route;
use crate::config::runtime_config::{RuntimeConfig, StoreLocation};
use crate::config::variables::Variables;
use crate::egress::allowed_hosts::AllowedHosts;
use crate::limits::upstream::OwnUpstreams;
use crate::limits::{Limits, MIB, Settings};
use crate::metrics;
use crate::outbound::Outbound;
use crate::outbound::connector::Connector;
use crate::outbound::limit::ConnectionLimit;
use crate::outbound::tls::TlsConfigs;
use crate::server::tls::Tls;
use crate::server::{Server, ServerOptions};
use crate::stderr::warn;
use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Settings of the component that list registries, token servers and the blob store: each has a label of its own in
/// the metrics.
const REGISTRY_SETTINGS: [&str; 6] = [
    "blob_store",
    "upstream",
    "host_upstreams",
    "plain_http_upstreams",
    "allowed_upstreams",
    "token_services",
];

/// Serves the application until SIGINT or SIGTERM. Fails if it can't start.
pub fn up(flags: Up) -> Result<()> {
    for flag in flags.without_effect.named() {
        eprintln!("{flag} has no effect in this host");
    }
    let manifest = Manifest::load(&flags.from)?;
    check_component_ids(&flags.component_ids, &manifest.component_id)?;
    // Read before the build, which may take minutes, to report errors at once.
    let config_file = flags
        .runtime_config_file
        .or_else(|| default_runtime_config(&manifest.folder));
    let mut config = RuntimeConfig::load(
        config_file.as_deref(),
        flags.state_dir.as_deref(),
        &manifest.folder,
    )?;
    for key in &config.without_effect {
        eprintln!("{key} in the runtime configuration has no effect in this host");
    }
    let instances = flags.instances;
    config.max_instance_memory = instances.max_instance_memory.or(config.max_instance_memory);
    let tls = match (flags.tls_cert, flags.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::load(certificate, key)?),
        _ => None,
    };
    let declared = &manifest.variables;
    let variables = Variables::resolve(
        declared,
        &flags.variables,
        &config.variables_providers,
        |name| std::env::var(name).ok(),
    )?;
    let limits = limits(&flags.limits, raise_open_file_limit());
    let (mut guest_config, stores) =
        guest_config(&manifest, config, &variables, &limits, flags.quiet)?;
    guest_config
        .environment
        .extend(instances.environment.clone());
    if flags.metrics.is_some() {
        let values = |name: &&str| guest_config.variables.get(*name).map(String::as_str);
        metrics::enable(metrics::hosts_of_settings(
            REGISTRY_SETTINGS.iter().filter_map(values),
        ));
    }
    let settings = Settings::from_variables(&guest_config.variables, flags.quiet);
    if flags.build {
        build(&manifest)?;
    }

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        // Bound before compiling, to report a port in use at once.
        let listener = bind(flags.listen, flags.find_free_port).await?;
        if let Some(address) = flags.metrics {
            let listener = bind(address, false).await.context("--metrics")?;
            eprintln!(
                "Serving metrics on http://{}/metrics",
                listener.local_addr()?
            );
            tokio::spawn(metrics::server::serve(listener));
        }
        set_key_values(&stores, &instances.key_values).await?;
        let instance_limits = instance_limits(&instances);
        let options = ServerOptions {
            tls: tls.clone(),
            http1_max_buf_size: instances.http1_max_buf_size,
        };
        let engine = EngineOptions {
            disable_pooling: instances.disable_pooling,
            disable_cache: instances.disable_cache,
            cache_config: instances.cache,
        };
        let handler = tokio::task::block_in_place(|| {
            component::load(&manifest.source(), guest_config, instance_limits, &engine)
        })?;
        let shutdown = shutdown_signal()?;
        announce(
            flags.format,
            if tls.is_some() { "https" } else { "http" },
            listener.local_addr()?,
            &manifest.component_id,
            &manifest.route,
        );
        if let Some(tls) = tls {
            tokio::spawn(tls.reload_on_change());
        }
        // For systemd, where the unit has `Type=notify`; nothing else listens.
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        let shutdown = async {
            shutdown.await;
            let _ = sd_notify::notify(&[NotifyState::Stopping]);
        };
        Server::new(handler, manifest.route, limits, settings, options)
            .serve(listener, shutdown)
            .await;
        stores.flush().await;
        Ok(())
    });
    // Dropping the runtime would end idle instances, and report each of them as failed.
    std::mem::forget(runtime);
    result
}

/// Compiles the component into the cache of compiled code. Fails if it can't be compiled.
pub fn compile(flags: Compile) -> Result<()> {
    let manifest = Manifest::load(&flags.from)?;
    let options = EngineOptions {
        cache_config: flags.cache,
        ..EngineOptions::default()
    };
    component::compile(&manifest.source(), &options)
}

/// Returns the `runtime-config.toml` in the manifest's folder, if there is one, and says on stderr
/// that it is used. Unlike with `spin up`, it need not be named: the one that hammal ships closes
/// private networks.
fn default_runtime_config(manifest_folder: &Path) -> Option<PathBuf> {
    let file = manifest_folder.join("runtime-config.toml");
    // A dangling link counts, and fails when it is read: without the file, no network is closed.
    std::fs::symlink_metadata(&file).ok()?;
    eprintln!("Using the runtime configuration {}", file.display());
    Some(file)
}

/// Makes the limits of clients. Half of the `open_files` are for connections of clients, the rest
/// for those to upstreams and for the stores.
fn limits(flags: &LimitFlags, open_files: Option<u64>) -> Limits {
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let total_connections = open_files.map_or(usize::MAX, |files| number(files / 2));
    Limits {
        request_timeout: Duration::from_secs(flags.request_timeout),
        client_memory: flags.client_memory * MIB,
        total_memory: flags.total_memory * MIB,
        client_connections: number(flags.client_connections).min(total_connections / 2),
        total_connections,
    }
}

/// Raises the soft limit of open files to the hard one, and returns that. The soft limit of shells
/// and systemd, 1,024, suffices for some 500 downloads.
fn raise_open_file_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    ) {
        warn(&format!("can't raise the limit of open files: {error}"));
        return limit.current;
    }
    limit.maximum
}

/// Makes the configuration of all instances. Also returns the key-value stores, to be flushed.
fn guest_config(
    manifest: &Manifest,
    config: RuntimeConfig,
    variables: &Variables,
    limits: &Limits,
    quiet: bool,
) -> Result<(GuestConfig, Arc<Stores>)> {
    let component = &manifest.component;
    let mut component_variables = BTreeMap::new();
    for (name, template) in &component.variables {
        crate::config::variables::check_name(name)
            .with_context(|| format!("component variable {name:?}"))?;
        component_variables.insert(
            name.clone(),
            variables
                .expand(template)
                .with_context(|| format!("component variable {name:?}"))?,
        );
    }
    let patterns = component
        .allowed_outbound_hosts
        .iter()
        .map(|pattern| variables.expand(pattern));
    let allowed = AllowedHosts::parse(
        patterns
            .collect::<Result<Vec<_>>>()
            .context("allowed_outbound_hosts")?,
    )?;

    let stores = Arc::new(Stores::new(&component.key_value_stores, &config.stores)?);
    for label in &component.key_value_stores {
        if config.stores.get(label) == Some(&StoreLocation::Memory) {
            eprintln!(
                "The key-value store {label:?} is in memory only; its data is lost when this process ends"
            );
        }
    }
    let tls = TlsConfigs::load(&config.client_tls, &manifest.component_id)?;
    let limit = ConnectionLimit::new(config.max_connections);
    let own = OwnUpstreams::from_variables(&component_variables);
    let blob_store = component_variables
        .get("blob_store")
        .map_or("", |url| url.trim());
    let connector =
        Connector::new(config.blocked_networks, tls, limit, own).with_blob_store(blob_store);
    let guest_config = GuestConfig {
        variables: Arc::new(component_variables),
        stores: Arc::clone(&stores),
        outbound: Outbound::new(allowed, connector, config.connection_pooling),
        environment: component.environment.clone().into_iter().collect(),
        request_timeout: limits.request_timeout,
        max_memory: config.max_instance_memory,
        quiet,
    };
    Ok((guest_config, stores))
}

/// Fails if `--component-id` names another component than the manifest's only one.
fn check_component_ids(named: &[String], component_id: &str) -> Result<()> {
    match named.iter().find(|named| *named != component_id) {
        Some(other) => Err(anyhow!(
            "--component-id {other}: the manifest's component is {component_id}"
        )),
        None => Ok(()),
    }
}

/// Takes the limits of the flags, or the defaults.
fn instance_limits(flags: &Instances) -> InstanceLimits {
    let default = InstanceLimits::default();
    InstanceLimits {
        max_requests: flags
            .max_instance_reuse_count
            .unwrap_or(default.max_requests),
        max_concurrent_requests: flags
            .max_instance_concurrent_reuse_count
            .unwrap_or(default.max_concurrent_requests),
        idle_timeout: flags.idle_instance_timeout.unwrap_or(default.idle_timeout),
    }
}

/// Writes the values of `--key-value` to the store `default`.
async fn set_key_values(stores: &Stores, pairs: &[(String, String)]) -> Result<()> {
    for (key, value) in pairs {
        let store = stores
            .get("default")
            .context("--key-value: the component has no key-value store \"default\"")?;
        store
            .set(key.clone(), value.clone().into_bytes())
            .await
            .with_context(|| format!("--key-value {key}"))?;
    }
    Ok(())
}

/// Binds the listening socket; with `find_free_port`, to the first port from that of `address` on
/// which is free.
async fn bind(address: SocketAddr, find_free_port: bool) -> Result<TcpListener> {
    let mut tried = address;
    loop {
        match TcpListener::bind(tried).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                match tried.port().checked_add(1) {
                    Some(next) if find_free_port => tried.set_port(next),
                    _ => {
                        return Err(anyhow!(
                            "{tried} is already in use; choose another with --listen, or a free \
                             one with --find-free-port"
                        ));
                    }
                }
            }
            Err(error) => return Err(anyhow!("can't listen on {tried}: {error}")),
        }
    }
}

/// Returns a future that resolves on the first SIGINT or SIGTERM. A second one exits at once.
fn shutdown_signal() -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            std::process::exit(130);
        });
    })
}

/// Prints the address and the route on stdout, as `spin up` does.
fn announce(format: Format, scheme: &str, address: SocketAddr, component_id: &str, route: &Route) {
    let base_url = format!("{scheme}://{address}");
    let wildcard = if route.is_wildcard() {
        " (wildcard)"
    } else {
        ""
    };
    let path = if route.prefix().is_empty() {
        "/"
    } else {
        route.prefix()
    };
    match format {
        Format::Plain => {
            println!(
                "\nServing {base_url}\nAvailable Routes:\n  {component_id}: {base_url}{path}{wildcard}"
            );
        }
        Format::Json => {
            let routes = [
                serde_json::json!({ "id": component_id, "route": path, "wildcard": route.is_wildcard() }),
            ];
            println!(
                "{:#}",
                serde_json::json!({ "base_url": base_url, "routes": routes })
            );
        }
    }
}
