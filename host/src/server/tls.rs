//! Serves TLS with a certificate and a key from PEM files, which are read again when they change.

use crate::stderr::warn;
use anyhow::{Context as _, Result, ensure};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How often the files are looked at. Whatever renews certificates replaces them days before they
/// expire; the files may be links into folders that are swapped, which a watch on them misses.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// How long a client may take for the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Accepts TLS connections. Offers HTTP/2 and HTTP/1.1.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
}

impl Tls {
    /// Reads the certificate chain and the key of `--tls-cert` and `--tls-key`. Fails if either
    /// can't be read, or they don't belong together.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificate = Arc::new(Certificate::load(certificate, key)?);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificate) as _);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificate,
        })
    }

    /// Does the handshake. Fails after [`HANDSHAKE_TIMEOUT`].
    pub async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream)).await?
    }

    /// Reads the files again whenever they change, for as long as it is polled. Files that can't be
    /// used are reported, and the certificate that was read last stays in use.
    pub async fn reload_on_change(self) {
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            self.certificate.reload_if_changed();
        }
    }
}

/// A certificate with its key, and where they come from.
#[derive(Debug)]
struct Certificate {
    files: [PathBuf; 2],
    current: RwLock<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    key: Arc<CertifiedKey>,
    /// Of the files, whether or not they could be used: a faulty file is reported once.
    stamps: [Option<Stamp>; 2],
}

/// What changes when a file is written, or replaced by another.
type Stamp = (u64, u64, i64, i64, u64);

impl Certificate {
    fn load(certificate: PathBuf, key: PathBuf) -> Result<Self> {
        let files = [certificate, key];
        // Before reading: a change while the files are read is seen the next time.
        let stamps = stamps(&files);
        let key = Arc::new(read(&files)?);
        Ok(Self {
            files,
            current: RwLock::new(Loaded { key, stamps }),
        })
    }

    fn reload_if_changed(&self) {
        let stamps = stamps(&self.files);
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if current.stamps == stamps {
            return;
        }
        drop(current);
        let read = read(&self.files);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.stamps = stamps;
        match read {
            Ok(key) => {
                current.key = Arc::new(key);
                warn(&format!(
                    "read the certificate {} again",
                    self.files[0].display()
                ));
            }
            Err(error) => warn(&format!("still using the certificate before: {error:#}")),
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current.key))
    }
}

fn stamps(files: &[PathBuf; 2]) -> [Option<Stamp>; 2] {
    let stamp = |file: &Path| {
        let metadata = file.metadata().ok()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Some((
            metadata.dev(),
            metadata.ino(),
            modified.0,
            modified.1,
            metadata.len(),
        ))
    };
    [stamp(&files[0]), stamp(&files[1])]
}

/// Reads a chain of certificates and the key of its first one.
fn read([certificate, key]: &[PathBuf; 2]) -> Result<CertifiedKey> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("can't read certificates from {}", certificate.display()))?;
    ensure!(
        !chain.is_empty(),
        "there is no certificate in {}",
        certificate.display()
    );
    let der = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("can't read a key from {}", key.display()))?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, der, &provider).with_context(|| {
        format!(
            "the key in {} does not fit the certificate in {}",
            key.display(),
            certificate.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertifiedKey as Generated, generate_simple_self_signed};

    fn generate(folder: &Path, name: &str) -> Vec<u8> {
        let Generated { cert, signing_key } =
            generate_simple_self_signed([name.to_owned()]).unwrap();
        std::fs::write(folder.join("cert.pem"), cert.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), signing_key.serialize_pem()).unwrap();
        cert.der().to_vec()
    }

    fn current(certificate: &Certificate) -> Vec<u8> {
        certificate.current.read().unwrap().key.cert[0].to_vec()
    }

    #[test]
    fn reads_the_files_again_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        let first = generate(folder.path(), "a.lan");
        let certificate = Certificate::load(files[0].clone(), files[1].clone()).unwrap();
        assert_eq!(current(&certificate), first);

        let second = generate(folder.path(), "b.lan");
        certificate.reload_if_changed();
        assert_eq!(current(&certificate), second);

        std::fs::write(&files[1], "no key").unwrap();
        certificate.reload_if_changed();
        std::fs::remove_file(&files[0]).unwrap();
        certificate.reload_if_changed();
        assert_eq!(current(&certificate), second);

        let third = generate(folder.path(), "c.lan");
        certificate.reload_if_changed();
        assert_eq!(current(&certificate), third);
    }

    #[test]
    fn names_the_file_that_is_at_fault() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        let load = || Certificate::load(files[0].clone(), files[1].clone());
        let fault = || format!("{:#}", load().unwrap_err());
        assert!(fault().contains("cert.pem"), "{}", fault());
        generate(folder.path(), "a.lan");
        let key = std::fs::read(&files[1]).unwrap();
        std::fs::write(&files[1], "").unwrap();
        assert!(fault().contains("key.pem"), "{}", fault());
        generate(folder.path(), "a.lan");
        std::fs::write(&files[1], key).unwrap();
        assert!(fault().contains("does not fit"), "{}", fault());
    }
}
