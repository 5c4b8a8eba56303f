//! Outbound exchanges with upstreams on this machine that misbehave in every way that has a code of its own.

use super::*;
use crate::config::runtime_config::ClientTls;
use crate::egress::blocked_networks::BlockedNetworks;
use crate::outbound::tls::TlsConfigs;
use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::StreamBody;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;

fn outbound_with(allowed: &str, blocked: &[&str], client_tls: &[ClientTls]) -> Outbound {
    let blocked: Vec<String> = blocked.iter().map(|entry| (*entry).to_owned()).collect();
    let connector = Connector::new(
        BlockedNetworks::parse(&blocked).unwrap(),
        TlsConfigs::load(client_tls, "hammal").unwrap(),
    );
    Outbound::new(AllowedHosts::parse([allowed]).unwrap(), connector, true)
}

fn outbound() -> Outbound {
    outbound_with("*://*:*", &[], &[])
}

/// Connect, first byte and between bytes, in milliseconds.
fn limits(connect: u64, first_byte: u64, between_bytes: u64) -> Option<RequestOptions> {
    let limit = |milliseconds| Some(Duration::from_millis(milliseconds));
    let (connect_timeout, first_byte_timeout) = (limit(connect), limit(first_byte));
    Some(RequestOptions {
        connect_timeout,
        first_byte_timeout,
        between_bytes_timeout: limit(between_bytes),
    })
}

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

/// Answers every request on every connection with `answer` and then stays silent. Counts connections.
async fn upstream(answer: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
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
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn the_component_sees_the_host_of_a_request_and_cannot_set_one() {
    let mut outbound = outbound();
    assert!(outbound.is_forbidden_header(&header::HOST));
    assert!(outbound.is_forbidden_header(&INCOMING_MARKER));
    assert!(!outbound.is_forbidden_header(&header::HOST));
    assert!(outbound.is_forbidden_header(&header::HOST));
    assert!(!outbound.is_forbidden_header(&header::ACCEPT));
}

#[tokio::test]
async fn each_failure_to_connect_has_the_code_that_spin_gives_it() {
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
async fn connecting_takes_no_longer_than_said() {
    // A listener whose queue is full leaves further clients waiting.
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
        limits(200, 60_000, 60_000),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, Error::ConnectionTimeout), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_upstream_takes_no_longer_than_said_until_and_between_the_bytes() {
    let mut outbound = outbound();
    let (silent, _) = upstream("").await;
    let error = send(
        &mut outbound,
        &format!("http://{silent}/"),
        limits(60_000, 100, 60_000),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, Error::ConnectionReadTimeout), "{error:?}");

    let (halting, _) = upstream("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    let response = send(
        &mut outbound,
        &format!("http://{halting}/"),
        limits(60_000, 60_000, 100),
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
async fn connections_are_reused_unless_pooling_is_off() {
    for (pooling, expected) in [(true, 1), (false, 3)] {
        let (address, connections) =
            upstream("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        let connector = Connector::new(
            BlockedNetworks::default(),
            TlsConfigs::load(&[], "hammal").unwrap(),
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
            // The connection goes back to the pool in a task of its own.
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
async fn an_upstream_that_closes_before_it_answers_is_a_protocol_error() {
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

/// An upstream that is `localhost` and `127.0.0.1`, speaks HTTP/2 and HTTP/1.1, and answers with what `body` makes of a
/// request; to `/never`, nothing ever. It lets `STREAMS` exchanges be on a connection. Returns its port and the trust in it.
async fn https_upstream(
    body: fn(Request<Incoming>) -> String,
) -> (u16, ClientTls, tempfile::TempDir) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(vec![]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::from_params(&authority, &authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])
        .unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("ca.pem");
    std::fs::write(&roots, certificate.pem()).unwrap();
    let client_tls = ClientTls {
        component_ids: vec!["hammal".into()],
        hosts: vec!["localhost".into()],
        ca_use_platform_roots: None,
        ca_use_webpki_roots: None,
        ca_roots_file: Some(roots),
    };

    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let server = rustls::ServerConfig::builder().with_no_client_auth();
    let mut server = server
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service =
                    hyper::service::service_fn(move |request: Request<Incoming>| async move {
                        if request.uri().path() == "/never" {
                            std::future::pending::<()>().await;
                        }
                        Ok::<_, std::convert::Infallible>(Response::new(body(request)))
                    });
                let mut server = Builder::new(TokioExecutor::new());
                server
                    .http2()
                    .max_concurrent_streams(u32::try_from(STREAMS).unwrap());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (port, client_tls, folder)
}

#[tokio::test]
async fn a_private_ca_is_trusted_for_its_hosts_alone_and_http2_is_taken_where_offered() {
    let seen = |request: Request<Incoming>| {
        format!(
            "{:?} {} {:?}",
            request.version(),
            request.uri(),
            request.headers()
        )
    };
    let (port, client_tls, _folder) = https_upstream(seen).await;
    let mut outbound = outbound_with("https://*:*", &[], &[client_tls]);
    let response = send(
        &mut outbound,
        &format!("https://localhost:{port}/v2/?n=1"),
        None,
    )
    .await
    .unwrap();
    let seen = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        seen,
        format!("HTTP/2.0 https://localhost:{port}/v2/?n=1 {{}}")
    );
    let error = send(&mut outbound, &format!("https://127.0.0.1:{port}/"), None)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TlsProtocolError), "{error:?}");
}

#[tokio::test]
async fn a_get_is_whole_before_the_component_says_that_it_has_no_trailers() {
    let (port, client_tls, _folder) = https_upstream(|request| {
        format!("{:?} {}", request.version(), request.body().is_end_stream())
    })
    .await;
    let mut outbound = outbound_with("https://*:*", &[], &[client_tls]);
    let undecided =
        StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Error>>()).boxed_unsync();
    let uri = format!("https://localhost:{port}/");
    let response = send_body(&mut outbound, &uri, undecided, limits(5_000, 5_000, 5_000))
        .await
        .unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "HTTP/2.0 true"
    );
}

#[tokio::test]
async fn downloads_that_nobody_reads_do_not_hold_up_others_of_the_same_upstream() {
    let (port, client_tls, _folder) =
        https_upstream(|_| "a".repeat(3 * STREAM_WINDOW as usize)).await;
    let mut outbound = outbound_with("https://*:*", &[], &[client_tls]);
    let uri = format!("https://localhost:{port}/");
    let mut unread = Vec::new();
    for _ in 0..10 {
        unread.push(send(&mut outbound, &uri, None).await.unwrap());
    }
    let response = send(&mut outbound, &uri, limits(5_000, 5_000, 5_000))
        .await
        .unwrap();
    let read = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(read.len(), 3 * STREAM_WINDOW as usize);
}

#[tokio::test]
async fn what_has_no_place_on_the_shared_connection_has_one_of_its_own() {
    let (port, client_tls, _folder) =
        https_upstream(|request| format!("{:?}", request.version())).await;
    let outbound = outbound_with("https://*:*", &[], &[client_tls]);
    let ask = async |path: &str| {
        let (mut outbound, uri) = (outbound.clone(), format!("https://localhost:{port}{path}"));
        let response = send(&mut outbound, &uri, limits(5_000, 5_000, 5_000))
            .await
            .unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    };
    assert_eq!(ask("/").await, "HTTP/2.0");
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let mut outbound = outbound.clone();
        waiting.spawn(async move {
            send(
                &mut outbound,
                &format!("https://localhost:{port}/never"),
                None,
            )
            .await
        });
    }
    tokio::task::yield_now().await;
    while outbound
        .shared
        .streams
        .lock()
        .unwrap()
        .values()
        .any(|streams| streams.available_permits() > 0)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(ask("/").await, "HTTP/1.1");
    waiting.shutdown().await;
    assert_eq!(ask("/").await, "HTTP/2.0");
}

/// Hands on what goes between clients and `port`; those that are connected when it is told to be silent get nothing more.
/// Counts connections.
async fn path_to(port: u16) -> (u16, Arc<AtomicUsize>, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let silence = Arc::new(Notify::new());
    let (count, silent) = (Arc::clone(&connections), Arc::clone(&silence));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let silent = Arc::clone(&silent);
            tokio::spawn(async move {
                let mut upstream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => {}
                    () = silent.notified() => std::future::pending().await,
                }
            });
        }
    });
    (here, connections, silence)
}

#[tokio::test]
async fn a_connection_whose_path_went_dead_is_given_up() {
    let (port, client_tls, _folder) = https_upstream(|_| "ok".to_owned()).await;
    let (port, connections, silence) = path_to(port).await;
    let connector = Connector::new(
        BlockedNetworks::default(),
        TlsConfigs::load(&[client_tls], "hammal").unwrap(),
    );
    let allowed = AllowedHosts::parse(["https://*:*"]).unwrap();
    let mut outbound = Outbound::with_silence(allowed, connector, true, Duration::from_millis(100));
    let uri = format!("https://localhost:{port}/");
    send(&mut outbound, &uri, None).await.unwrap();
    silence.notify_waiters();
    let held = send(&mut outbound, &uri, limits(5_000, 5_000, 5_000))
        .await
        .unwrap_err();
    assert!(matches!(held, Error::HttpProtocolError), "{held:?}");
    send(&mut outbound, &uri, limits(5_000, 5_000, 5_000))
        .await
        .unwrap();
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}
