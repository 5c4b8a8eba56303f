//! A connection to an upstream: resolved, judged by its addresses, connected, and TLS where the URL says https.

use crate::egress::blocked_networks::BlockedNetworks;
use crate::outbound::tls::TlsConfigs;
use crate::stderr::warn;
use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::error::Error as StdError;
use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

tokio::task_local! {
    /// How long the request that is being sent waits for a connection. hyper's client has no way to pass it along; a
    /// connection from the pool needs none.
    pub static CONNECT_TIMEOUT: Duration;
}

/// For each of the three time-outs that the component doesn't set, as in Spin.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// How long one address family is tried alone before the other joins (RFC 8305, section 8).
const HAPPY_EYEBALLS: Duration = Duration::from_millis(250);

/// How long each address of a name is waited for, as far as the whole time suffices: a lost packet is sent again after a
/// second.
const LEAST_PER_ADDRESS: Duration = Duration::from_millis(1500);

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The name has no address, or the URL no usable host.
    Unresolved,
    /// All its addresses are in blocked networks.
    Prohibited,
    Refused,
    TimedOut,
    Tls,
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl StdError for ConnectError {}

/// Makes connections for hyper's client.
#[derive(Clone)]
pub struct Connector {
    shared: Arc<Shared>,
    http1_only: bool,
}

struct Shared {
    blocked: BlockedNetworks,
    tls: TlsConfigs,
}

impl Connector {
    pub fn new(blocked: BlockedNetworks, tls: TlsConfigs) -> Self {
        Self {
            shared: Arc::new(Shared { blocked, tls }),
            http1_only: false,
        }
    }

    /// One that offers upstreams no HTTP/2.
    pub fn by_http1(self) -> Self {
        Self {
            http1_only: true,
            ..self
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Upstream>>;
    type Error = ConnectError;
    type Future =
        Pin<Box<dyn Future<Output = Result<TokioIo<Box<dyn Upstream>>, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { shared, http1_only } = self.clone();
        // Read here: the future may finish in a task of its own, for the pool, when another connection came first.
        let limit = CONNECT_TIMEOUT
            .try_with(Clone::clone)
            .unwrap_or(DEFAULT_TIMEOUT);
        Box::pin(async move {
            let connected =
                tokio::time::timeout(limit, shared.connect(&uri, limit, http1_only)).await;
            connected.unwrap_or(Err(ConnectError::TimedOut))
        })
    }
}

impl Shared {
    async fn connect(
        &self,
        uri: &Uri,
        limit: Duration,
        http1_only: bool,
    ) -> Result<TokioIo<Box<dyn Upstream>>, ConnectError> {
        let host = uri.host().ok_or(ConnectError::Unresolved)?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let https = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });

        let addresses = self.resolve(host, port).await?;
        let stream = connect_to_one(addresses, uri, limit).await?;
        if !https {
            return Ok(TokioIo::new(Box::new(stream)));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|_| ConnectError::Unresolved)?;
        let mut config = self.tls.for_host(uri.host().unwrap_or_default());
        if http1_only {
            Arc::make_mut(&mut config).alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| {
                warn(&format!("TLS with {host}:{port} failed: {error}"));
                ConnectError::Tls
            })?;
        Ok(TokioIo::new(Box::new(stream)))
    }

    /// The addresses of `host`, a name or a literal, that may be connected to.
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
        let found = tokio::net::lookup_host((host, port))
            .await
            .map_err(|_| ConnectError::Unresolved)?;
        let (blocked, open): (Vec<_>, Vec<_>) =
            found.partition(|address| self.blocked.blocks(address.ip()));
        match (open.is_empty(), blocked.first()) {
            (false, _) => Ok(open),
            (true, None) => Err(ConnectError::Unresolved),
            (true, Some(address)) => {
                let ip = address.ip();
                warn(&format!(
                    "{host} is at {ip}, which block_networks in the runtime configuration closes"
                ));
                Err(ConnectError::Prohibited)
            }
        }
    }
}

/// Connects to the first address that answers, both families in parallel where one is slow.
async fn connect_to_one(
    addresses: Vec<SocketAddr>,
    uri: &Uri,
    limit: Duration,
) -> Result<TcpStream, ConnectError> {
    let count = addresses.len();
    let mut connector = HttpConnector::new_with_resolver(Resolved(addresses));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    // hyper divides it by the number of addresses; the whole is bounded by who called.
    let addresses = u32::try_from(count).unwrap_or(u32::MAX);
    connector.set_connect_timeout(Some(limit.max(LEAST_PER_ADDRESS.saturating_mul(addresses))));
    connector.set_happy_eyeballs_timeout(Some(HAPPY_EYEBALLS));
    connector
        .call(uri.clone())
        .await
        .map(TokioIo::into_inner)
        .map_err(|error| {
            let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
            while let Some(error) = cause {
                if error
                    .downcast_ref::<io::Error>()
                    .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
                {
                    return ConnectError::TimedOut;
                }
                cause = error.source();
            }
            ConnectError::Refused
        })
}

/// A resolver that only knows the addresses that were already found and judged.
#[derive(Clone)]
struct Resolved(Vec<SocketAddr>);

impl Service<Name> for Resolved {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        ready(Ok(self.0.clone().into_iter()))
    }
}

/// An open connection, plain or TLS.
pub trait Upstream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Whether the upstream chose HTTP/2 when TLS was set up.
    fn is_http2(&self) -> bool;
}

impl Upstream for TcpStream {
    fn is_http2(&self) -> bool {
        false
    }
}

impl Upstream for TlsStream<TcpStream> {
    fn is_http2(&self) -> bool {
        self.get_ref().1.alpn_protocol() == Some(b"h2")
    }
}

impl Connection for Box<dyn Upstream> {
    fn connected(&self) -> Connected {
        if self.is_http2() {
            Connected::new().negotiated_h2()
        } else {
            Connected::new()
        }
    }
}
