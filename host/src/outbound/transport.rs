//! Open connections to upstreams.

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// An open connection, over TCP or TLS.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {
    /// Whether HTTP/2 was negotiated in the TLS handshake.
    fn is_http2(&self) -> bool;
}

impl Transport for TcpStream {
    fn is_http2(&self) -> bool {
        false
    }
}

impl Transport for TlsStream<TcpStream> {
    fn is_http2(&self) -> bool {
        self.get_ref().1.alpn_protocol() == Some(b"h2")
    }
}

impl Connection for Box<dyn Transport> {
    fn connected(&self) -> Connected {
        if self.is_http2() {
            Connected::new().negotiated_h2()
        } else {
            Connected::new()
        }
    }
}
