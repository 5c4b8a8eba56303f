//! The command `hammal-host up`: reads the files, builds and loads the component, serves it.

use crate::build::build;
use crate::cli::{Format, LimitFlags, Up};
use crate::component;
use crate::component::guest::GuestConfig;
use crate::component::key_value::Stores;
use crate::config::manifest::Manifest;
use crate::config::route::Route;
use crate::config::runtime_config::{RuntimeConfig, StoreLocation};
use crate::config::variables::Variables;
use crate::egress::allowed_hosts::AllowedHosts;
use crate::limits::upstream::OwnUpstreams;
use crate::limits::{Limits, MIB, Settings};
use crate::outbound::Outbound;
use crate::outbound::connector::Connector;
use crate::outbound::tls::TlsConfigs;
use crate::server::Server;
use crate::stderr::warn;
use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Serves the application until SIGINT or SIGTERM. Fails if it can't start.
pub fn up(flags: Up) -> Result<()> {
    let manifest = Manifest::load(&flags.from)?;
    // Read before the build, which may take minutes, to report errors at once.
    let config_file = flags
        .runtime_config_file
        .or_else(|| default_runtime_config(&manifest.folder));
    let config = RuntimeConfig::load(
        config_file.as_deref(),
        flags.state_dir.as_deref(),
        &manifest.folder,
    )?;
    let declared = &manifest.variables;
    let variables = Variables::resolve(
        declared,
        &flags.variables,
        &config.variables_providers,
        |name| std::env::var(name).ok(),
    )?;
    let limits = limits(&flags.limits, raise_open_file_limit());
    let (guest_config, stores) = guest_config(&manifest, config, &variables, &limits, flags.quiet)?;
    let settings = Settings::from_variables(&guest_config.variables, flags.quiet);
    if flags.build {
        build(&manifest)?;
    }

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        // Bound before compiling, to report a port in use at once.
        let listener = bind(flags.listen).await?;
        let handler =
            tokio::task::block_in_place(|| component::load(&manifest.source(), guest_config))?;
        let shutdown = shutdown_signal()?;
        announce(
            flags.format,
            listener.local_addr()?,
            &manifest.component_id,
            &manifest.route,
        );
        Server::new(handler, manifest.route, limits, settings)
            .serve(listener, shutdown)
            .await;
        stores.flush().await;
        Ok(())
    });
    // Dropping the runtime would end idle instances, and report each of them as failed.
    std::mem::forget(runtime);
    result
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
    let own = OwnUpstreams::from_variables(&component_variables);
    let connector = Connector::new(config.blocked_networks, tls, own);
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

/// Binds the listening socket.
async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow!("{address} is already in use; choose another with --listen, or a free one with --listen 127.0.0.1:0")
        }
        _ => anyhow!("can't listen on {address}: {error}"),
    })
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
fn announce(format: Format, address: SocketAddr, component_id: &str, route: &Route) {
    let base_url = format!("http://{address}");
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
