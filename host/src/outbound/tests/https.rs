//! Tests requests over TLS: private CAs, and the use of one HTTP/2 connection by many requests.

use super::*;
use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::StreamBody;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// An upstream with a certificate for `localhost` and `127.0.0.1`, HTTP/2 with `MAX_STREAMS`
/// streams and HTTP/1.1. It responds with `body` of the request, and never to `/never`. Returns its
/// port, the table that trusts its certificate for `localhost`, and the folder that the table
/// refers to.
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
        client_cert_file: None,
        client_private_key_file: None,
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
                    .max_concurrent_streams(u32::try_from(MAX_STREAMS).unwrap());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (port, client_tls, folder)
}

#[tokio::test]
async fn trusts_a_private_ca_for_its_hosts_only_and_uses_http2() {
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
async fn ends_a_get_before_the_component_ends_its_body() {
    let (port, client_tls, _folder) = https_upstream(|request| {
        format!("{:?} {}", request.version(), request.body().is_end_stream())
    })
    .await;
    let mut outbound = outbound_with("https://*:*", &[], &[client_tls]);
    let unfinished =
        StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Error>>()).boxed_unsync();
    let uri = format!("https://localhost:{port}/");
    let response = send_body(
        &mut outbound,
        &uri,
        unfinished,
        timeouts(5_000, 5_000, 5_000),
    )
    .await
    .unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "HTTP/2.0 true"
    );
}

#[tokio::test]
async fn unread_responses_do_not_block_others_on_the_connection() {
    let (port, client_tls, _folder) =
        https_upstream(|_| "a".repeat(3 * STREAM_WINDOW as usize)).await;
    let mut outbound = outbound_with("https://*:*", &[], &[client_tls]);
    let uri = format!("https://localhost:{port}/");
    let mut unread = Vec::new();
    for _ in 0..10 {
        unread.push(send(&mut outbound, &uri, None).await.unwrap());
    }
    let response = send(&mut outbound, &uri, timeouts(5_000, 5_000, 5_000))
        .await
        .unwrap();
    let read = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(read.len(), 3 * STREAM_WINDOW as usize);
}

#[tokio::test]
async fn uses_http1_beyond_the_limit_of_streams() {
    let (port, client_tls, _folder) =
        https_upstream(|request| format!("{:?}", request.version())).await;
    let outbound = outbound_with("https://*:*", &[], &[client_tls]);
    let get = async |path: &str| {
        let (mut outbound, uri) = (outbound.clone(), format!("https://localhost:{port}{path}"));
        let response = send(&mut outbound, &uri, timeouts(5_000, 5_000, 5_000))
            .await
            .unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    };
    assert_eq!(get("/").await, "HTTP/2.0");
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..MAX_STREAMS {
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
        .free_streams
        .lock()
        .unwrap()
        .values()
        .any(|streams| streams.available_permits() > 0)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(get("/").await, "HTTP/1.1");
    waiting.shutdown().await;
    assert_eq!(get("/").await, "HTTP/2.0");
}

/// Forwards connections to `port`. When notified, it stops forwarding on those that are open.
/// Returns its port, the number of its connections, and what to notify.
async fn forwarder_to(port: u16) -> (u16, Arc<AtomicUsize>, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own_port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(Notify::new());
    let (count, stopped) = (Arc::clone(&connections), Arc::clone(&stop));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let stopped = Arc::clone(&stopped);
            tokio::spawn(async move {
                let mut upstream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => {}
                    () = stopped.notified() => std::future::pending().await,
                }
            });
        }
    });
    (own_port, connections, stop)
}

#[tokio::test]
async fn closes_a_connection_that_answers_no_ping() {
    let (port, client_tls, _folder) = https_upstream(|_| "ok".to_owned()).await;
    let (port, connections, stop) = forwarder_to(port).await;
    let connector = Connector::new(
        BlockedNetworks::default(),
        TlsConfigs::load(&[client_tls], "hammal").unwrap(),
        ConnectionLimit::default(),
        OwnUpstreams::default(),
    );
    let allowed = AllowedHosts::parse(["https://*:*"]).unwrap();
    let mut outbound =
        Outbound::with_keep_alive(allowed, connector, true, Duration::from_millis(100));
    let uri = format!("https://localhost:{port}/");
    send(&mut outbound, &uri, None).await.unwrap();
    stop.notify_waiters();
    let error = send(&mut outbound, &uri, timeouts(5_000, 5_000, 5_000))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::HttpProtocolError), "{error:?}");
    send(&mut outbound, &uri, timeouts(5_000, 5_000, 5_000))
        .await
        .unwrap();
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}
