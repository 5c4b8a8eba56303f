//! Public registries under their real names: scripted servers on port 443 of loopback addresses, to
//! which the mirror's own `/etc/hosts` resolves the names.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use super::client::Response;
use super::mirror::{Mirror, Options, can_name_hosts};
use super::skip;
use test_support::ca::Ca;
use test_support::server::{ReceivedRequest, Reply, Server};

type Script = Box<dyn Fn(&ReceivedRequest) -> Reply + Send + Sync>;

/// A host name and its responses.
pub struct Host(&'static str, Script);

impl Host {
    pub fn new(
        name: &'static str,
        script: impl Fn(&ReceivedRequest) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self(name, Box::new(script))
    }
}

pub struct PublicRegistries {
    pub mirror: Mirror,
    requests: Arc<Mutex<Vec<String>>>,
    _servers: Vec<Server>,
}

impl PublicRegistries {
    /// Skips with `None` where names can't be resolved for the mirror alone.
    pub async fn start(hosts: impl IntoIterator<Item = Host>) -> Option<Self> {
        if !can_name_hosts() {
            skip("registries under their real names need root");
            return None;
        }
        let ca = Ca::generate();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut options = Options::default().variable("manifest_cache", "off");
        let (mut servers, mut names) = (Vec::new(), Vec::new());
        for Host(name, script) in hosts {
            let record = Arc::clone(&requests);
            let handler = move |received: ReceivedRequest| {
                let token = received
                    .header("authorization")
                    .map(|value| format!(" {value}"))
                    .unwrap_or_default();
                let line = format!(
                    "{} https://{name}{}{token}",
                    received.method, received.target
                );
                record.lock().expect("requests").push(line);
                script(&received)
            };
            let server =
                Server::start(own_address(), Some(ca.server(&[name])), Arc::new(handler)).await;
            options = options.host(name, server.address.ip());
            servers.push(server);
            names.push(name);
        }
        let mirror = options.trust(&ca, &names).start().await;
        Some(Self {
            mirror,
            requests,
            _servers: servers,
        })
    }

    /// Requests `/v2/REST` of a registry through the mirror, as clients request a manifest or a
    /// blob.
    pub async fn request(&self, method: &str, registry: &str, rest: &str) -> Response {
        let target = format!("/v2/{rest}?upstream={registry}");
        self.mirror
            .request(method, &target)
            .accept_manifests()
            .send()
            .await
    }

    /// Requests since the last call, in order, as `GET https://HOST/PATH Bearer TOKEN`.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().expect("requests"))
    }
}

/// Returns a loopback address that only this process uses, and on which port 443 is free.
fn own_address() -> SocketAddr {
    static LAST: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    loop {
        let last = LAST.fetch_add(1, Ordering::SeqCst);
        let address = SocketAddr::new(Ipv4Addr::new(127, 10 + high % 90, low, last).into(), 443);
        if last != 0 && last != 255 && std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
