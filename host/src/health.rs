//! The command `hammal-host health`: asks a host that runs on this machine whether it is up, for
//! health checks of containers that have no other client.

use crate::cli::Health;
use anyhow::{Context as _, Result, ensure};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long connecting and the answer may take, each.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Fails if the host does not answer that it is up. Of one that serves https, only the connection
/// is tried: a check has no business with its certificate.
pub fn health(flags: &Health) -> Result<()> {
    let address = reachable(flags.listen);
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("can't connect to {address}"))?;
    if flags.tls_cert.is_some() {
        return Ok(());
    }
    stream.set_read_timeout(Some(TIMEOUT))?;
    // In one write: a server may answer and close before a second one.
    let request = format!(
        "GET /.well-known/spin/health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut status = String::new();
    BufReader::new(stream).read_line(&mut status)?;
    ensure!(status.contains(" 200 "), "{address} answers {status:?}");
    Ok(())
}

/// Returns where a server that listens on `address` can be reached.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn check(answer: &'static str) -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            request
        });
        let result = health(&Health {
            listen: address,
            tls_cert: None,
        });
        let request = server.join().unwrap();
        assert_eq!(request, "GET /.well-known/spin/health HTTP/1.1\r\n");
        result
    }

    #[test]
    fn fails_unless_the_answer_is_200() {
        check("HTTP/1.1 200 OK\r\n\r\n").unwrap();
        assert!(check("HTTP/1.1 503 Service Unavailable\r\n\r\n").is_err());
        assert!(check("").is_err());
        // A port that was free a moment ago.
        let listen = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let nobody = Health {
            listen,
            tls_cert: None,
        };
        assert!(health(&nobody).is_err());
    }

    #[test]
    fn asks_a_server_on_all_addresses_through_loopback() {
        for (listen, expected) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("192.0.2.1:80", "192.0.2.1:80"),
        ] {
            let address = reachable(listen.parse().unwrap());
            assert_eq!(address, expected.parse().unwrap());
        }
    }
}
