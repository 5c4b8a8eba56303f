//! `--tls-cert` and `--tls-key`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::client::Request;
use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH};
use crate::support::mirror::is_spin;
use crate::support::{skip, wait_for};
use test_support::ca::Ca;
use test_support::image::INDEX;

fn write_certificate(ca: &Ca, folder: &Path) {
    let (certificate, key) = ca.certificate(&["127.0.0.1"]);
    std::fs::write(folder.join("cert.pem"), certificate).expect("the certificate");
    std::fs::write(folder.join("key.pem"), key).expect("the key");
}

async fn start(folder: &Path) -> HubFixture {
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    HubFixture::with(|options| {
        options
            .argument("--tls-cert")
            .argument(certificate)
            .argument("--tls-key")
            .argument(key)
    })
    .await
}

async fn connect(ca: &Ca, address: SocketAddr, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut config = Arc::unwrap_or_clone(ca.client());
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(address).await.expect("a connection");
    let name = "127.0.0.1".try_into().expect("a name");
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .expect("a handshake")
}

fn certificate(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let certificates = stream.get_ref().1.peer_certificates();
    certificates.expect("certificates")[0].clone().into_owned()
}

#[tokio::test]
async fn serves_https_with_http_1_and_http_2() {
    let (ca, folder) = (Ca::generate(), tempfile::tempdir().expect("a folder"));
    write_certificate(&ca, folder.path());
    let fixture = start(folder.path()).await;
    let address = fixture.mirror.address();

    let over_http_1 = Request::new(address, "GET", MANIFEST_PATH)
        .tls(&ca, "127.0.0.1")
        .accept_manifests()
        .send()
        .await
        .expect(200);
    assert_eq!(over_http_1.body, fixture.image.index.bytes);

    let stream = connect(&ca, address, b"h2").await;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        assert!(is_spin(), "the embedded host offers HTTP/2");
        return;
    }
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("a connection");
    tokio::spawn(connection);
    let request = hyper::Request::get(format!("https://{address}{MANIFEST_PATH}"))
        .header("accept", INDEX)
        .body(Empty::<Bytes>::new())
        .expect("a request");
    let response = sender.send_request(request).await.expect("a response");
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), fixture.image.index.bytes);

    let page = Request::new(address, "GET", "/")
        .tls(&ca, "127.0.0.1")
        .header("accept", "text/html")
        .send()
        .await
        .expect(200);
    if !is_spin() {
        let url = "https://127.0.0.1";
        assert!(page.text().contains(url), "{}", page.text());
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_served_without_a_restart() {
    if is_spin() {
        return skip("Spin reads the certificate once");
    }
    let (ca, folder) = (Ca::generate(), tempfile::tempdir().expect("a folder"));
    write_certificate(&ca, folder.path());
    let fixture = start(folder.path()).await;
    let address = fixture.mirror.address();
    let open = connect(&ca, address, b"http/1.1").await;
    let first = certificate(&open);

    write_certificate(&ca, folder.path());
    wait_for("the new certificate", || {
        fixture
            .mirror
            .stderr()
            .iter()
            .any(|line| line.contains("again"))
    })
    .await;
    let second = certificate(&connect(&ca, address, b"http/1.1").await);
    assert_ne!(first, second);

    // A renewal that went wrong leaves the mirror as it is.
    std::fs::write(folder.path().join("key.pem"), "nonsense").expect("a file");
    wait_for("a warning", || {
        let lines = fixture.mirror.stderr();
        lines.iter().any(|line| line.contains("still using"))
    })
    .await;
    let third = certificate(&connect(&ca, address, b"http/1.1").await);
    assert_eq!(second, third);
}

#[tokio::test]
async fn plain_http_to_the_https_port_does_no_harm() {
    let (ca, folder) = (Ca::generate(), tempfile::tempdir().expect("a folder"));
    write_certificate(&ca, folder.path());
    let fixture = start(folder.path()).await;
    let address = fixture.mirror.address();
    let plain = Request::new(address, "GET", MANIFEST_PATH).try_send().await;
    plain.expect_err("no HTTP response");
    let response = Request::new(address, "GET", "/v2/").tls(&ca, "127.0.0.1");
    response.send().await.expect(200);
}
