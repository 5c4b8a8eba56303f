//! Chooses the TLS configuration of an upstream: the roots of `[[client_tls]]` for the hosts that
//! it lists, the default roots for all others.

use crate::config::runtime_config::ClientTls;
use anyhow::{Context as _, Result, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// TLS configurations by host name.
#[derive(Debug)]
pub struct TlsConfigs {
    default: Arc<ClientConfig>,
    hosts: HashMap<String, Arc<ClientConfig>>,
}

impl TlsConfigs {
    /// Loads the certificates of the tables that apply to `component_id`. If several list a host,
    /// the first one applies. Fails if a certificate can't be read, or a table trusts none.
    pub fn load(tables: &[ClientTls], component_id: &str) -> Result<Self> {
        let mut hosts = HashMap::new();
        for table in tables
            .iter()
            .filter(|table| table.component_ids.iter().any(|id| id == component_id))
        {
            let config = Arc::new(
                load(table)
                    .with_context(|| format!("client_tls for {}", table.hosts.join(", ")))?,
            );
            for host in &table.hosts {
                let authority: http::uri::Authority = host
                    .parse()
                    .with_context(|| format!("client_tls host {host:?}"))?;
                ensure!(
                    authority.port().is_none(),
                    "client_tls host {host:?} must not have a port"
                );
                hosts
                    .entry(host.clone())
                    .or_insert_with(|| Arc::clone(&config));
            }
        }
        let mut roots = webpki_roots();
        add_platform_roots(&mut roots);
        Ok(Self {
            default: Arc::new(client_config(roots, None)?),
            hosts,
        })
    }

    /// The configuration for `host`, written as in the URL, without a port.
    pub fn for_host(&self, host: &str) -> Arc<ClientConfig> {
        Arc::clone(self.hosts.get(host).unwrap_or(&self.default))
    }
}

/// Builds the configuration of one table.
fn load(table: &ClientTls) -> Result<ClientConfig> {
    // As in Spin: keys that are set replace the defaults, and a file alone is trusted alone.
    let (platform, webpki) = match (table.ca_use_platform_roots, table.ca_use_webpki_roots) {
        (None, None) => (table.ca_roots_file.is_none(), false),
        (platform, webpki) => (platform.unwrap_or(false), webpki.unwrap_or(false)),
    };
    let mut roots = if webpki {
        webpki_roots()
    } else {
        RootCertStore::empty()
    };
    if platform {
        add_platform_roots(&mut roots);
    }
    if let Some(file) = &table.ca_roots_file {
        for certificate in certificates(file)? {
            roots
                .add(certificate)
                .with_context(|| format!("certificate in {}", file.display()))?;
        }
    }
    ensure!(
        !roots.is_empty(),
        "no certificates are trusted; set ca_roots_file or ca_use_webpki_roots"
    );
    let identity = match (&table.client_cert_file, &table.client_private_key_file) {
        (Some(certificate), Some(key)) => Some((
            certificates(certificate)?,
            PrivateKeyDer::from_pem_file(key)
                .with_context(|| format!("can't read a key from {}", key.display()))?,
        )),
        _ => None,
    };
    client_config(roots, identity)
}

/// A certificate chain and its key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_config(roots: RootCertStore, identity: Option<Identity>) -> Result<ClientConfig> {
    // Named, so that it doesn't depend on the providers that other crates link in.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots);
    let mut config = match identity {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .context("client_cert_file and client_private_key_file")?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn webpki_roots() -> RootCertStore {
    RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    }
}

/// Adds the operating system's roots, as Spin does: networks that inspect TLS install theirs there.
fn add_platform_roots(roots: &mut RootCertStore) {
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
}

/// Reads the certificates of a PEM file, which must have one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .with_context(|| format!("can't read certificates from {}", file.display()))?;
    ensure!(
        !certificates.is_empty(),
        "there is no certificate in {}",
        file.display()
    );
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(file: Option<&Path>) -> ClientTls {
        ClientTls {
            component_ids: vec!["hammal".into()],
            hosts: vec!["registry.lan".into()],
            ca_use_platform_roots: None,
            ca_use_webpki_roots: None,
            ca_roots_file: file.map(Into::into),
            client_cert_file: None,
            client_private_key_file: None,
        }
    }

    #[test]
    fn only_listed_hosts_have_their_own_roots() {
        let webpki = ClientTls {
            ca_use_webpki_roots: Some(true),
            ..table(None)
        };
        let configs = TlsConfigs::load(&[webpki], "hammal").unwrap();
        assert!(!Arc::ptr_eq(
            &configs.for_host("registry.lan"),
            &configs.for_host("registry.wan")
        ));
        let webpki = ClientTls {
            ca_use_webpki_roots: Some(true),
            ..table(None)
        };
        let configs = TlsConfigs::load(&[webpki], "other").unwrap();
        assert!(Arc::ptr_eq(
            &configs.for_host("registry.lan"),
            &configs.for_host("registry.wan")
        ));
    }

    #[test]
    fn names_an_unreadable_or_empty_file() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        for file in [Path::new("/nowhere/ca.pem"), empty.path()] {
            let error = format!(
                "{:#}",
                TlsConfigs::load(&[table(Some(file))], "hammal").unwrap_err()
            );
            assert!(error.contains(&file.display().to_string()), "{error}");
        }
        let port = ClientTls {
            hosts: vec!["a:1".into()],
            ca_use_webpki_roots: Some(true),
            ..table(None)
        };
        assert!(TlsConfigs::load(&[port], "hammal").is_err());
    }
}
