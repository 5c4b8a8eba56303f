//! Tests outbound requests with upstreams on loopback that fail or misbehave.

mod https;

use super::*;
use crate::config::runtime_config::ClientTls;
use crate::egress::blocked_networks::BlockedNetworks;
use crate::limits::upstream::OwnUpstreams;
use crate::outbound::limit::ConnectionLimit;
use crate::outbound::tls::TlsConfigs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};

fn outbound_with(allowed: &str, blocked: &[&str], client_tls: &[ClientTls]) -> Outbound {
    let blocked: Vec<String> = blocked.iter().map(|entry| (*entry).to_owned()).collect();
    let connector = Connector::new(
        BlockedNetworks::parse(&blocked).unwrap(),
        TlsConfigs::load(client_tls, "hammal").unwrap(),
        ConnectionLimit::default(),
        OwnUpstreams::default(),
    );
    Outbound::new(AllowedHosts::parse([allowed]).unwrap(), connector, true)
}

fn outbound() -> Outbound {
    outbound_with("*://*:*", &[], &[])
}

/// Time-outs in milliseconds: connect, first byte, between bytes.
fn timeouts(connect: u64, first_byte: u64, between_bytes: u64) -> Option<RequestOptions> {
    let timeout = |milliseconds| Some(Duration::from_millis(milliseconds));
    Some(RequestOptions {
        connect_timeout: timeout(connect),
        first_byte_timeout: timeout(first_byte),
        between_bytes_timeout: timeout(between_bytes),
    })
}

/// Sends a GET without a body.
async fn send(
    outbound: &mut Outbound,
    uri: &str,
    options: Option<RequestOptions>,
) -> Result<Response<WasiBody>, Error> {
    send_body(
        outbound,
        uri,
        Empty::new().map_err(Into::into).boxed_unsync(),
        options,
    )
    .await
}

/// Sends a GET with a `Host` that must not reach the upstream.
async fn send_body(
    outbound: &mut Outbound,
    uri: &str,
    body: WasiBody,
    options: Option<RequestOptions>,
) -> Result<Response<WasiBody>, Error> {
    let request = Request::get(uri)
        .header("host", "not.this")
        .body(body)
        .unwrap();
    let sent = Box::into_pin(outbound.send_request(
        request,
        options,
        Box::new(std::future::ready(Ok(()))),
    ));
    sent.await.map(|(response, _)| response)
}

/// An upstream that sends `response` to each request and leaves the connection open. Returns its
/// address and the number of its connections.
async fn upstream(response: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.unwrap() > 0 {
                    stream.write_all(response.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn forbids_the_host_header_in_outgoing_requests_only() {
    let mut outbound = outbound();
    assert!(outbound.is_forbidden_header(&header::HOST));
    assert!(outbound.is_forbidden_header(&INCOMING_MARKER));
    assert!(!outbound.is_forbidden_header(&header::HOST));
    assert!(outbound.is_forbidden_header(&header::HOST));
    assert!(!outbound.is_forbidden_header(&header::ACCEPT));
}

#[tokio::test]
async fn reports_failures_to_connect_with_spins_error_codes() {
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = closed.local_addr().unwrap();
    let (open, _) = upstream("").await;
    let cases = [
        (outbound(), format!("http://{closed}/"), "ConnectionRefused"),
        (
            outbound(),
            "http://no.such.host.invalid/".to_owned(),
            "DnsError",
        ),
        (
            outbound_with("https://*:*", &[], &[]),
            format!("http://{open}/"),
            "HttpRequestDenied",
        ),
        (
            outbound_with("*://*:*", &["private"], &[]),
            format!("http://{open}/"),
            "DestinationIpProhibited",
        ),
        (
            outbound_with("*://*:*", &["private"], &[]),
            "http://[::ffff:127.0.0.1]:1/".into(),
            "DestinationIpProhibited",
        ),
        (
            outbound_with("*://*:*", &["127.0.0.0/8"], &[]),
            "http://127.1:1/".into(),
            "DestinationIpProhibited",
        ),
    ];
    for (mut outbound, uri, code) in cases {
        let error = send(&mut outbound, &uri, None).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(code), "{uri}: {error:?}");
    }
}

#[tokio::test]
async fn applies_the_connect_timeout() {
    // A listener whose backlog is full ignores further clients.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(tokio::spawn(tokio::net::TcpStream::connect(address)));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let started = std::time::Instant::now();
    let error = send(
        &mut outbound(),
        &format!("http://{address}/"),
        timeouts(200, 60_000, 60_000),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, Error::ConnectionTimeout), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn applies_the_timeouts_for_the_first_byte_and_between_bytes() {
    let mut outbound = outbound();
    let (silent, _) = upstream("").await;
    let error = send(
        &mut outbound,
        &format!("http://{silent}/"),
        timeouts(60_000, 100, 60_000),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, Error::ConnectionReadTimeout), "{error:?}");

    let (halting, _) = upstream("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    let response = send(
        &mut outbound,
        &format!("http://{halting}/"),
        timeouts(60_000, 60_000, 100),
    )
    .await
    .unwrap();
    let mut body = response.into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "half"
    );
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::ConnectionReadTimeout), "{error:?}");
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn reuses_connections_unless_pooling_is_off() {
    for (pooling, expected) in [(true, 1), (false, 3)] {
        let (address, connections) =
            upstream("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        let connector = Connector::new(
            BlockedNetworks::default(),
            TlsConfigs::load(&[], "hammal").unwrap(),
            ConnectionLimit::default(),
            OwnUpstreams::default(),
        );
        let mut outbound = Outbound::new(
            AllowedHosts::parse(["http://*:*"]).unwrap(),
            connector,
            pooling,
        );
        for _ in 0..3 {
            let response = send(&mut outbound, &format!("http://{address}/"), None)
                .await
                .unwrap();
            assert_eq!(
                response.into_body().collect().await.unwrap().to_bytes(),
                "ok"
            );
            // A task of hyper's returns the connection to the pool.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(
            connections.load(Ordering::Relaxed),
            expected,
            "pooling {pooling}"
        );
    }
}

#[tokio::test]
async fn reports_a_connection_closed_without_a_response_as_a_protocol_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let error = send(&mut outbound(), &format!("http://{address}/"), None)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::HttpProtocolError), "{error:?}");
}

#[tokio::test]
async fn opens_no_more_connections_than_the_limit() {
    // The body has no end, so that the connection stays in use.
    let (address, connections) = upstream("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok").await;
    let connector = Connector::new(
        BlockedNetworks::default(),
        TlsConfigs::load(&[], "hammal").unwrap(),
        ConnectionLimit::new(Some(1)),
        OwnUpstreams::default(),
    );
    let mut outbound = Outbound::new(
        AllowedHosts::parse(["http://*:*"]).unwrap(),
        connector,
        false,
    );
    let url = format!("http://{address}/");
    let open = send(&mut outbound, &url, None).await.unwrap();
    let refused = send(&mut outbound, &url, timeouts(50, 5000, 5000)).await;
    assert!(matches!(refused, Err(Error::ConnectionTimeout)));
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    drop(open);
    assert!(send(&mut outbound, &url, None).await.is_ok());
}
