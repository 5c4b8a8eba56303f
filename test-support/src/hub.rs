//! A registry that behaves like Docker Hub: challenges, tokens from another host, blobs from a third one
//! that can't stand an `Authorization`. It records what it is asked and follows a script where there is one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::ca::Ca;
use crate::image::{Content, Image};
use crate::registry::State;
pub use crate::registry::{Params, Place};
use crate::server::{Reply, Seen, Server, any_port};

pub struct Hub {
    state: Arc<State>,
    registry: Server,
    tokens: Server,
    cdn: Server,
}

/// Where the three servers of a registry listen, and under which names.
pub struct Addresses<'a> {
    pub listen: [SocketAddr; 3],
    pub names: [&'a str; 3],
}

impl Hub {
    /// Over plain http: the registry on 127.0.0.1, tokens on 127.0.0.2, the CDN on 127.0.0.3.
    pub async fn start() -> Self {
        let listen = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(any_port);
        Self::build(&listen, None, |_, address| format!("http://{address}")).await
    }

    /// Over https, as hosts with names.
    pub async fn start_tls(ca: &Ca, addresses: &Addresses<'_>) -> Self {
        let tls = ca.server(&addresses.names);
        Self::build(&addresses.listen, Some(tls), |place, address| {
            let name = addresses.names[place];
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
        let serve = |place, at| {
            let state = Arc::clone(&state);
            Server::start(
                at,
                tls.clone(),
                Arc::new(move |seen| state.reply(place, seen)),
            )
        };
        let registry = serve(Place::Registry, listen[0]).await;
        let tokens = serve(Place::Tokens, listen[1]).await;
        let cdn = serve(Place::Cdn, listen[2]).await;
        let _ = state.realm.set(format!("{}/token", url(1, tokens.address)));
        let _ = state.cdn.set(url(2, cdn.address));
        Self {
            state,
            registry,
            tokens,
            cdn,
        }
    }

    /// Where the registry listens.
    pub fn address(&self) -> SocketAddr {
        self.registry.address
    }

    pub fn cdn(&self) -> SocketAddr {
        self.cdn.address
    }

    pub fn tokens(&self) -> SocketAddr {
        self.tokens.address
    }

    /// Every address that a mirror has to be allowed to reach over plain http.
    pub fn addresses(&self) -> [SocketAddr; 3] {
        [self.registry.address, self.tokens.address, self.cdn.address]
    }

    /// Everything of `image` under `name`, tagged `tag`.
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

    /// Answers before the registry itself would.
    pub fn script(&self, script: impl Fn(Place, &Seen) -> Option<Reply> + Send + Sync + 'static) {
        *self.state.script.lock().expect("the script") = Some(Box::new(script));
    }

    /// From now on one of the servers takes its time.
    pub fn delay(&self, place: Place, time: Duration) {
        *self.state.delay.lock().expect("the delay") = Some((place, time));
    }

    /// The raw `WWW-Authenticate` lines of each 401.
    pub fn challenge(&self, challenge: impl Fn(&Params) -> Vec<String> + Send + Sync + 'static) {
        *self.state.challenge.lock().expect("the challenge") = Some(Box::new(challenge));
    }

    /// The body of a 200 from the token server, made of a valid token.
    pub fn token_answer(&self, answer: impl Fn(&str) -> String + Send + Sync + 'static) {
        *self.state.token_answer.lock().expect("the answer") = Some(Box::new(answer));
    }

    /// From now on the tokens for `name` have no rights.
    pub fn make_private(&self, name: &str) {
        self.state
            .private
            .lock()
            .expect("private names")
            .insert(name.into());
    }

    /// From now on every token that was given out is refused.
    pub fn revoke_tokens(&self) {
        self.state.valid.lock().expect("tokens").clear();
    }

    /// Blobs come from the registry itself, not by way of the CDN.
    pub fn serve_blobs_directly(&self) {
        *self.state.direct.lock().expect("direct") = true;
    }

    /// The `Location` of a blob.
    pub fn blob_url(&self, digest: &str) -> String {
        self.state.blob_url(digest)
    }

    /// How many connections were made to the registry and the token server.
    pub fn connections(&self) -> usize {
        self.registry.connections() + self.tokens.connections()
    }

    pub fn seen(&self, place: Place) -> Vec<Seen> {
        let seen = self.state.seen.lock().expect("requests");
        seen.iter()
            .filter(|(at, _)| *at == place)
            .map(|(_, seen)| seen.clone())
            .collect()
    }

    /// What arrived, in order: `registry GET /v2/name/manifests/tag`, `tokens GET`, `cdn GET`.
    pub fn lines(&self) -> Vec<String> {
        let line = |(place, seen): &(Place, Seen)| match place {
            Place::Registry => format!("registry {} {}", seen.method, seen.target),
            Place::Tokens => format!("tokens {}", seen.method),
            Place::Cdn => format!("cdn {}", seen.method),
        };
        self.state
            .seen
            .lock()
            .expect("requests")
            .iter()
            .map(line)
            .collect()
    }

    /// The same, and forgets them.
    pub fn take_lines(&self) -> Vec<String> {
        let lines = self.lines();
        self.state.seen.lock().expect("requests").clear();
        lines
    }
}
