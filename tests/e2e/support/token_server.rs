//! A token server for `docker-registry`: it issues signed JSON web tokens with the access that they
//! grant.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};

use test_support::server::{ReceivedRequest, Reply, Server};

pub const SERVICE: &str = "registry.docker.io";
pub const ISSUER: &str = "hammal's tests";
/// Seconds.
const LIFETIME: u64 = 300;

pub struct TokenServer {
    signer: Arc<Signer>,
    server: Server,
    received: Arc<Mutex<Vec<ReceivedRequest>>>,
}

struct Signer {
    key: EncodingKey,
    header: Header,
    certificate: String,
}

impl TokenServer {
    pub async fn start() -> Self {
        let signer = Arc::new(Signer::new());
        let received: Arc<Mutex<Vec<ReceivedRequest>>> = Arc::default();
        let (recorded, signs) = (Arc::clone(&received), Arc::clone(&signer));
        let server = Server::plain("127.0.0.2", move |received| {
            recorded.lock().expect("requests").push(received.clone());
            let scopes = received
                .query()
                .into_iter()
                .filter(|(name, _)| name == "scope")
                .map(|(_, scope)| scope);
            // Anonymous users may pull and nothing else.
            let access = scopes
                .filter_map(|scope| access(&scope, &["pull"]))
                .collect::<Vec<_>>();
            let token = signs.sign(&access);
            let body = json!({ "token": token, "access_token": token, "expires_in": LIFETIME });
            Reply::new(
                200,
                &[("content-type", "application/json")],
                body.to_string(),
            )
        })
        .await;
        Self {
            signer,
            server,
            received,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// The certificate that the registry must trust.
    pub fn certificate(&self) -> &str {
        &self.signer.certificate
    }

    pub fn requests(&self) -> usize {
        self.received.lock().expect("requests").len()
    }

    /// Returns a token that may push to `name`.
    pub fn push_token(&self, name: &str) -> String {
        self.signer
            .sign(&[json!({ "type": "repository", "name": name, "actions": ["pull", "push"] })])
    }
}

impl Signer {
    fn new() -> Self {
        let pair = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&pair).expect("a certificate");
        let mut header = Header::new(Algorithm::ES256);
        header.x5c = Some(vec![
            certificate
                .pem()
                .lines()
                .filter(|line| !line.starts_with('-'))
                .collect(),
        ]);
        Self {
            key: EncodingKey::from_ec_der(&pair.serialize_der()),
            header,
            certificate: certificate.pem(),
        }
    }

    fn sign(&self, access: &[Value]) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a date")
            .as_secs();
        let claims = json!({
            "iss": ISSUER, "sub": "", "aud": SERVICE, "jti": "1",
            "iat": now, "nbf": now - 60, "exp": now + LIFETIME, "access": access,
        });
        jsonwebtoken::encode(&self.header, &claims, &self.key).expect("a token")
    }
}

/// Converts a scope such as `repository:library/alpine:pull,push` to a claim with the actions that
/// are `allowed`.
fn access(scope: &str, allowed: &[&str]) -> Option<Value> {
    let (resource, actions) = scope.rsplit_once(':')?;
    let (kind, name) = resource.split_once(':')?;
    let actions = actions
        .split(',')
        .filter(|action| allowed.contains(action))
        .collect::<Vec<_>>();
    Some(json!({ "type": kind, "name": name, "actions": actions }))
}
