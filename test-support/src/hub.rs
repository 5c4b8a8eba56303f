//! A registry that behaves like Docker Hub: it sends challenges, its tokens come from a second
//! host, its blobs from a third one that refuses requests with an `Authorization`. It records
//! requests, and follows a script if there is one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::ca::Ca;
use crate::image::{Content, Image};
use crate::registry::{Account, State};
pub use crate::registry::{Params, Service};
use crate::server::{ReceivedRequest, Reply, Server, any_port};

pub struct Hub {
    state: Arc<State>,
    registry: Server,
    tokens: Server,
    cdn: Server,
}

/// Addresses and names of the registry, its token server and its CDN.
pub struct Addresses<'a> {
    pub listen: [SocketAddr; 3],
    pub names: [&'a str; 3],
}

impl Hub {
    /// Over plain HTTP: the registry on 127.0.0.1, the token server on 127.0.0.2, the CDN on
    /// 127.0.0.3.
    pub async fn start() -> Self {
        let listen = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(any_port);
        Self::build(&listen, None, |_, address| format!("http://{address}")).await
    }

    /// Over HTTPS, with names.
    pub async fn start_tls(ca: &Ca, addresses: &Addresses<'_>) -> Self {
        let tls = ca.server(&addresses.names);
        Self::build(&addresses.listen, Some(tls), |service, address| {
            let name = addresses.names[service];
            if address.port() == 443 {
                format!("https://{name}")
            } else {
                format!("https://{name}:{}", address.port())
            }
        })
        .await
    }

    async fn build(
        listen: &[SocketAddr; 3],
        tls: Option<Arc<rustls::ServerConfig>>,
        url: impl Fn(usize, SocketAddr) -> String,
    ) -> Self {
        let state = Arc::new(State::default());
        let serve = |service, at| {
            let state = Arc::clone(&state);
            Server::start(
                at,
                tls.clone(),
                Arc::new(move |received| state.reply(service, received)),
            )
        };
        let registry = serve(Service::Registry, listen[0]).await;
        let tokens = serve(Service::Tokens, listen[1]).await;
        let cdn = serve(Service::Cdn, listen[2]).await;
        let _ = state.realm.set(format!("{}/token", url(1, tokens.address)));
        let _ = state.cdn.set(url(2, cdn.address));
        Self {
            state,
            registry,
            tokens,
            cdn,
        }
    }

    /// The address of the registry itself.
    pub fn address(&self) -> SocketAddr {
        self.registry.address
    }

    pub fn cdn(&self) -> SocketAddr {
        self.cdn.address
    }

    pub fn tokens(&self) -> SocketAddr {
        self.tokens.address
    }

    /// All three addresses: those that `plain_http_upstreams` has to list.
    pub fn addresses(&self) -> [SocketAddr; 3] {
        [self.registry.address, self.tokens.address, self.cdn.address]
    }

    /// Adds all content of `image` to the repository `name`, under the tag `tag`.
    pub fn push(&self, name: &str, tag: &str, image: &Image) {
        let mut repositories = self.state.repositories.lock().expect("repositories");
        let repository = repositories.entry(name.into()).or_default();
        repository
            .tags
            .insert(tag.into(), image.index.digest.clone());
        repository.manifests.extend(
            image
                .manifests()
                .map(|content| (content.digest.clone(), content.clone())),
        );
        repository.blobs.extend(
            image
                .blobs()
                .map(|content| (content.digest.clone(), content.clone())),
        );
    }

    pub fn push_blob(&self, name: &str, content: &Content) {
        let mut repositories = self.state.repositories.lock().expect("repositories");
        let repository = repositories.entry(name.into()).or_default();
        repository
            .blobs
            .insert(content.digest.clone(), content.clone());
    }

    /// Lets `script` answer requests; where it returns `None` the registry answers.
    pub fn script(
        &self,
        script: impl Fn(Service, &ReceivedRequest) -> Option<Reply> + Send + Sync + 'static,
    ) {
        *self.state.script.lock().expect("the script") = Some(Box::new(script));
    }

    /// Lets `reply` answer all requests to one of the servers.
    pub fn respond_from(
        &self,
        service: Service,
        reply: impl Fn(&ReceivedRequest) -> Reply + Send + Sync + 'static,
    ) {
        self.script(move |at, received| (at == service).then(|| reply(received)));
    }

    /// From now on one of the servers responds with a delay.
    pub fn delay(&self, service: Service, time: Duration) {
        *self.state.delay.lock().expect("the delay") = Some((service, time));
    }

    /// Sets the `WWW-Authenticate` lines of each 401.
    pub fn challenge(&self, challenge: impl Fn(&Params) -> Vec<String> + Send + Sync + 'static) {
        *self.state.challenge.lock().expect("the challenge") = Some(Box::new(challenge));
    }

    /// Sets the body of the token server's 200, given a valid token.
    pub fn token_body(&self, response: impl Fn(&str) -> String + Send + Sync + 'static) {
        *self.state.token_body.lock().expect("the response") = Some(Box::new(response));
    }

    /// From now on anonymous tokens for `name` grant nothing.
    pub fn make_private(&self, name: &str) {
        self.state
            .private
            .lock()
            .expect("private names")
            .insert(name.into());
    }

    /// Adds a user who may pull from these private repositories too.
    pub fn add_account(&self, user: &'static str, password: &str, may_pull: &[&str]) {
        let account = Account {
            user,
            authorization: basic(user, password),
            may_pull: may_pull.iter().map(|name| name.to_string()).collect(),
        };
        self.state.accounts.lock().expect("accounts").push(account);
    }

    /// From now on no account is known.
    pub fn remove_accounts(&self) {
        self.state.accounts.lock().expect("accounts").clear();
    }

    /// From now on the registry asks for the passwords of private repositories itself, and serves
    /// the others without a challenge.
    pub fn ask_for_passwords(&self) {
        *self.state.asks_for_passwords.lock().expect("the challenge") = true;
    }

    /// Makes every token that was issued so far invalid.
    pub fn revoke_tokens(&self) {
        self.state.valid.lock().expect("tokens").clear();
    }

    /// From now on the registry serves blobs itself, without a redirect to the CDN.
    pub fn serve_blobs_directly(&self) {
        *self.state.direct.lock().expect("direct") = true;
    }

    /// From now on redirects to the CDN are good for this long from now.
    pub fn sign_blob_urls_for(&self, life: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let end = now.expect("a time after 1970") + life;
        *self.state.blob_urls_end.lock().expect("the end") = Some(end.as_secs());
    }

    /// The `Location` of the redirect for a blob.
    pub fn blob_url(&self, digest: &str) -> String {
        self.state.blob_url(digest)
    }

    /// The number of connections to the registry and the token server.
    pub fn connections(&self) -> usize {
        self.registry.connections() + self.tokens.connections()
    }

    pub fn received(&self, service: Service) -> Vec<ReceivedRequest> {
        let received = self.state.received.lock().expect("requests");
        received
            .iter()
            .filter(|(at, _)| *at == service)
            .map(|(_, received)| received.clone())
            .collect()
    }

    /// All requests, in order, as `registry GET /v2/name/manifests/tag`, `tokens GET`, `cdn GET`.
    pub fn requests(&self) -> Vec<String> {
        let line = |(service, received): &(Service, ReceivedRequest)| match service {
            Service::Registry => format!("registry {} {}", received.method, received.target),
            Service::Tokens => format!("tokens {}", received.method),
            Service::Cdn => format!("cdn {}", received.method),
        };
        self.state
            .received
            .lock()
            .expect("requests")
            .iter()
            .map(line)
            .collect()
    }

    /// The same, and clears the record.
    pub fn take_requests(&self) -> Vec<String> {
        let lines = self.requests();
        self.state.received.lock().expect("requests").clear();
        lines
    }
}

/// The `Authorization` header of a user: RFC 7617.
pub fn basic(user: &str, password: &str) -> String {
    let bits = format!("{user}:{password}")
        .bytes()
        .flat_map(|byte| (0..8).rev().map(move |bit| usize::from(byte >> bit & 1)))
        .collect::<Vec<_>>();
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |six: &[usize]| {
        let value = (0..6).fold(0, |value, bit| value << 1 | six.get(bit).unwrap_or(&0));
        char::from(alphabet[value])
    };
    let mut text = bits.chunks(6).map(digit).collect::<String>();
    while text.len() % 4 != 0 {
        text.push('=');
    }
    format!("Basic {text}")
}
