//! TLS for an upstream: a certificate for 127.0.0.1, and who signed it.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;

/// What an upstream serves with.
pub struct Identity {
    pub server: Arc<ServerConfig>,
    /// The certificate that clients have to trust, in PEM.
    pub root: String,
}

impl Identity {
    /// HTTP/2 for who offers it, as Docker Hub does.
    pub fn generate() -> Self {
        let mut authority = CertificateParams::new(Vec::new()).expect("a certificate");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("a certificate");
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let server = server.with_safe_default_protocol_versions().expect("versions of TLS").with_no_client_auth();
        let mut server = server.with_single_cert(vec![leaf.der().clone()], key).expect("a certificate with its key");
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { server: Arc::new(server), root: issuer.pem() }
    }
}
