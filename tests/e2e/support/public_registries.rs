//! Public registries under their real names: servers of ours, https on port 443 of addresses that the mirror's own
//! `/etc/hosts` gives them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use super::client::Answer;
use super::mirror::{Mirror, Options, can_name_hosts};
use super::skip;
use test_support::ca::Ca;
use test_support::server::{Reply, Seen, Server};

type Script = Box<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// A host and what it answers.
pub struct Host(&'static str, Script);

impl Host {
    pub fn new(
        name: &'static str,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self(name, Box::new(script))
    }
}

pub struct PublicRegistries {
    pub mirror: Mirror,
    asked: Arc<Mutex<Vec<String>>>,
    _servers: Vec<Server>,
}

impl PublicRegistries {
    /// `None`, and says so, where a mirror can't be given names and port 443.
    pub async fn start(hosts: impl IntoIterator<Item = Host>) -> Option<Self> {
        if !can_name_hosts() {
            skip("registries under their real names need root");
            return None;
        }
        let ca = Ca::new();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut options = Options::default().variable("manifest_cache", "off");
        let (mut servers, mut names) = (Vec::new(), Vec::new());
        for Host(name, script) in hosts {
            let asked = Arc::clone(&asked);
            let handler = move |seen: Seen| {
                let token = seen
                    .header("authorization")
                    .map(|value| format!(" {value}"))
                    .unwrap_or_default();
                let line = format!("{} https://{name}{}{token}", seen.method, seen.target);
                asked.lock().expect("requests").push(line);
                script(&seen)
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
            asked,
            _servers: servers,
        })
    }

    /// Asks for `/v2/REST` of a registry, as clients do for a manifest or a blob.
    pub async fn ask(&self, method: &str, registry: &str, rest: &str) -> Answer {
        let target = format!("/v2/{rest}?upstream={registry}");
        self.mirror
            .request(method, &target)
            .accept_manifests()
            .send()
            .await
    }

    /// What arrived since the last time, in order: `GET https://HOST/PATH Bearer TOKEN`.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("requests"))
    }
}

/// An address of this process's own on which port 443 is free.
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
