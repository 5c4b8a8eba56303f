//! Connects to upstreams: resolves the host name, drops blocked addresses, connects, and sets up
//! TLS for https.

use crate::egress::blocked_networks::BlockedNetworks;
use crate::limits::upstream::OwnUpstreams;
use crate::outbound::limit::ConnectionLimit;
use crate::outbound::resolver::Resolver;
use crate::outbound::tls::TlsConfigs;
use crate::outbound::transport::Transport;
use crate::stderr::warn;
use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
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
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;
use url::Url;

tokio::task_local! {
    /// The connect time-out of the request that is being sent, in a task-local because hyper's
    /// client can't pass it to the connector.
    pub static CONNECT_TIMEOUT: Duration;
}

/// The value, as in Spin, of each time-out of a request that the component doesn't set: connect,
/// first byte, between bytes.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// How long addresses of the preferred family are tried before those of the other one (RFC 8305,
/// section 8).
const HAPPY_EYEBALLS_DELAY: Duration = Duration::from_millis(250);

/// The shortest time-out for one of several addresses, within the connect time-out: TCP sends a
/// lost SYN again after a second.
const MIN_TIMEOUT_PER_ADDRESS: Duration = Duration::from_millis(1500);

/// Why a connection failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The host name has no address, or the URL has no valid host.
    Unresolved,
    /// All addresses of the host are in blocked networks.
    Prohibited,
    /// No address accepted the connection.
    Refused,
    TimedOut,
    /// The TLS handshake failed.
    Tls,
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unresolved => "the host name can't be resolved",
            Self::Prohibited => "the host's addresses are blocked",
            Self::Refused => "the connection is refused",
            Self::TimedOut => "connecting timed out",
            Self::Tls => "the TLS handshake failed",
        })
    }
}

impl StdError for ConnectError {}

/// Connects to upstreams for hyper's client, over TCP or TLS.
#[derive(Clone)]
pub struct Connector {
    shared: Arc<Shared>,
    http1_only: bool,
}

struct Shared {
    blocked: BlockedNetworks,
    tls: TlsConfigs,
    limit: ConnectionLimit,
    resolver: Resolver,
    /// The host and port that may have blocked addresses.
    blob_store: Option<(String, u16)>,
}

impl Connector {
    /// Never connects to addresses in `blocked`, and keeps to `limit`. A part of the look-ups is
    /// kept for `own` upstreams.
    pub fn new(
        blocked: BlockedNetworks,
        tls: TlsConfigs,
        limit: ConnectionLimit,
        own: OwnUpstreams,
    ) -> Self {
        let resolver = Resolver::new(own);
        Self {
            shared: Arc::new(Shared {
                blocked,
                tls,
                limit,
                resolver,
                blob_store: None,
            }),
            http1_only: false,
        }
    }

    /// The same connector, which connects to the host and port of `url` whatever its addresses are:
    /// the operator's own blob store. The component lets no client and no upstream lead there. Of
    /// text that is no URL, nothing comes.
    pub fn with_blob_store(mut self, url: &str) -> Self {
        let url = Url::parse(url).ok();
        let authority = url.and_then(|url| {
            let host = url.host_str()?.to_owned();
            Some((host, url.port_or_known_default()?))
        });
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.blob_store = authority;
        }
        self
    }

    /// Whether the number of connections is limited.
    pub fn is_limited(&self) -> bool {
        !self.shared.limit.is_unlimited()
    }

    /// The same connector, without offering HTTP/2 in TLS handshakes.
    pub fn http1_only(self) -> Self {
        Self {
            http1_only: true,
            ..self
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Transport>>;
    type Error = ConnectError;
    type Future =
        Pin<Box<dyn Future<Output = Result<TokioIo<Box<dyn Transport>>, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { shared, http1_only } = self.clone();
        // Read outside of the future, which hyper may move to another task.
        let limit = CONNECT_TIMEOUT
            .try_with(Clone::clone)
            .unwrap_or(DEFAULT_TIMEOUT);
        Box::pin(async move {
            let connected = tokio::time::timeout(limit, async {
                let permit = shared.limit.acquire().await;
                let stream = shared.connect(&uri, limit, http1_only).await?;
                Ok(TokioIo::new(ConnectionLimit::count(
                    permit,
                    stream.into_inner(),
                )))
            });
            connected.await.unwrap_or(Err(ConnectError::TimedOut))
        })
    }
}

impl Shared {
    async fn connect(
        &self,
        uri: &Uri,
        limit: Duration,
        http1_only: bool,
    ) -> Result<TokioIo<Box<dyn Transport>>, ConnectError> {
        let host = uri.host().ok_or(ConnectError::Unresolved)?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let https = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });

        let addresses = self.resolve(host, port).await?;
        let stream = connect_to_any(addresses, uri, limit).await?;
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
                warn(&format!(
                    "the TLS handshake with {host}:{port} failed: {error}"
                ));
                ConnectError::Tls
            })?;
        Ok(TokioIo::new(Box::new(stream)))
    }

    /// Whether this is the blob store.
    fn is_blob_store(&self, host: &str, port: u16) -> bool {
        let is_this = |(own, own_port): &(String, u16)| {
            let own = own
                .strip_prefix('[')
                .and_then(|own| own.strip_suffix(']'))
                .unwrap_or(own);
            own.eq_ignore_ascii_case(host) && *own_port == port
        };
        self.blob_store.as_ref().is_some_and(is_this)
    }

    /// Resolves `host`, a name or an IP address. Fails if all its addresses are blocked.
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
        let found = self.resolver.lookup(host).await;
        let found = found.map_err(|_| ConnectError::Unresolved)?;
        let (blocked, allowed): (Vec<_>, Vec<_>) = found
            .into_iter()
            .map(|address| SocketAddr::new(address, port))
            .partition(|address| {
                self.blocked.blocks(address.ip()) && !self.is_blob_store(host, port)
            });
        match (allowed.is_empty(), blocked.first()) {
            (false, _) => Ok(allowed),
            (true, None) => Err(ConnectError::Unresolved),
            (true, Some(address)) => {
                let ip = address.ip();
                warn(&format!(
                    "{host} resolves to {ip}, which block_networks in the runtime configuration blocks"
                ));
                Err(ConnectError::Prohibited)
            }
        }
    }
}

/// Connects to the first address that accepts, with IPv4 and IPv6 in parallel if one is slow.
async fn connect_to_any(
    addresses: Vec<SocketAddr>,
    uri: &Uri,
    limit: Duration,
) -> Result<TcpStream, ConnectError> {
    let count = addresses.len();
    let mut connector = HttpConnector::new_with_resolver(FixedAddresses(addresses));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    // hyper divides this time-out by the number of addresses. The caller limits the total.
    let addresses = u32::try_from(count).unwrap_or(u32::MAX);
    connector.set_connect_timeout(Some(
        limit.max(MIN_TIMEOUT_PER_ADDRESS.saturating_mul(addresses)),
    ));
    connector.set_happy_eyeballs_timeout(Some(HAPPY_EYEBALLS_DELAY));
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

/// A resolver that returns addresses that are resolved and checked already.
#[derive(Clone)]
struct FixedAddresses(Vec<SocketAddr>);

impl Service<Name> for FixedAddresses {
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
