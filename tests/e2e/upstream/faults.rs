//! Upstreams and token servers at fault: never a bare 500, never a crash, never longer than the time-outs say.

use std::time::{Duration, Instant};

use crate::support::client::Answer;
use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use crate::support::mirror::{Mirror, Options};
use test_support::hub::Place;
use test_support::image::digest;
use test_support::server::{Full, Pieces, Reply, Server, nobody};

const MANIFEST: &str = "/v2/team/app/manifests/1.0";

fn blob() -> String {
    format!("/v2/team/app/blobs/{}", digest(b"a layer"))
}

/// A fault is 502 or 504 and UNAVAILABLE; on a blob 404 and BLOB_UNKNOWN, so that dockerd moves on at once.
async fn expect_a_fault(mirror: &Mirror, what: &str, statuses: &[u16]) -> Answer {
    let answer = mirror.get(&blob()).send().await;
    assert_eq!(answer.status, 404, "{what}, a blob: {answer:?}");
    answer.expect_error(404, "BLOB_UNKNOWN");
    let answer = mirror.get(MANIFEST).accept_manifests().send().await;
    let status = answer.status.as_u16();
    assert!(statuses.contains(&status), "{what}: {answer:?}");
    answer.expect_error(status, "UNAVAILABLE")
}

fn patient(upstream: &Server) -> Options {
    let options = Options::default().upstream(upstream.address);
    [
        "connect_timeout",
        "first_byte_timeout",
        "between_bytes_timeout",
        "exchange_timeout",
    ]
    .iter()
    .fold(options, |options, name| options.variable(name, 2))
}

#[tokio::test]
async fn an_upstream_that_nobody_serves_is_a_502() {
    let mirror = Mirror::of(nobody().await).await;
    expect_a_fault(&mirror, "refused", &[502]).await;
    mirror.get("/v2/").send().await.expect(200);
}

#[tokio::test]
async fn an_upstream_whose_name_does_not_exist_is_a_502() {
    let mirror = Options::default()
        .variable("upstream", "no-such-registry.example.com")
        .start()
        .await;
    expect_a_fault(&mirror, "no such name", &[502, 504]).await;
}

#[tokio::test]
async fn an_upstream_that_says_nothing_is_a_504_in_time() {
    let server = Server::plain("127.0.0.1", |_| Reply::Hang).await;
    let mirror = patient(&server).start().await;
    let begun = Instant::now();
    expect_a_fault(&mirror, "silent", &[504]).await;
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_upstream_that_does_not_take_the_connection_is_a_504_in_time() {
    let server = Full::start().await;
    let options = Options::default()
        .upstream(server.address)
        .variable("connect_timeout", 1);
    let mirror = options.start().await;
    let begun = Instant::now();
    expect_a_fault(&mirror, "full", &[502, 504]).await;
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_token_servers_whole_answer_has_a_limit_of_its_own() {
    let HubFixture { mirror, hub, .. } = HubFixture::with(|options| {
        let options = options
            .variable("first_byte_timeout", 600)
            .variable("between_bytes_timeout", 600);
        options.variable("exchange_timeout", 2)
    })
    .await;
    hub.script(|place, _| {
        let drip = (0..1000).fold(Pieces::default(), |body, _| {
            body.data(" ").pause(Duration::from_millis(300))
        });
        (place == Place::Tokens).then(|| Reply::streamed(200, &[], drip))
    });
    let begun = Instant::now();
    let answer = mirror
        .get(&format!("/v2/{NAME}/manifests/latest"))
        .accept_manifests()
        .send()
        .await;
    answer.expect_error(504, "UNAVAILABLE");
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_token_server_that_says_nothing_is_a_504_in_time() {
    let HubFixture { mirror, hub, .. } =
        HubFixture::with(|options| options.variable("first_byte_timeout", 2)).await;
    hub.script(|place, _| (place == Place::Tokens).then_some(Reply::Hang));
    let answer = mirror
        .get(&format!("/v2/{NAME}/manifests/latest"))
        .accept_manifests()
        .send()
        .await;
    let status = answer.status.as_u16();
    assert!(matches!(status, 502 | 504), "{answer:?}");
    answer.expect_error(status, "UNAVAILABLE");
}

#[tokio::test]
async fn an_upstream_that_hangs_up_is_a_502() {
    let server = Server::plain("127.0.0.1", |_| Reply::Close).await;
    expect_a_fault(&patient(&server).start().await, "closed", &[502]).await;
}

#[tokio::test]
async fn what_is_no_http_is_a_502() {
    let cases: [(&str, Vec<u8>); 7] = [
        ("nothing at all", vec![]),
        ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("noise", (0..=255).cycle().take(4096).collect()),
        ("half a head", b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        (
            "a status that is none",
            b"HTTP/1.1 9999 What\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ),
        (
            "two lengths",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy".to_vec(),
        ),
        (
            "a head without end",
            [
                b"HTTP/1.1 200 OK\r\nX: ".to_vec(),
                vec![b'x'; 4 * 1024 * 1024],
            ]
            .concat(),
        ),
    ];
    for (what, bytes) in cases {
        let server = Server::raw(bytes).await;
        expect_a_fault(&patient(&server).start().await, what, &[502, 504]).await;
    }
}

#[tokio::test]
async fn statuses_that_make_no_sense_are_the_upstreams_fault() {
    for status in [500, 502, 503, 504, 418, 204, 300, 301, 303] {
        let server = Server::plain("127.0.0.1", move |_| {
            let headers = [("content-type", "text/html")];
            Reply::streamed(
                status,
                &headers,
                if status == 204 {
                    Pieces::default()
                } else {
                    Pieces::whole("an internal secret")
                },
            )
        })
        .await;
        let answer = expect_a_fault(
            &patient(&server).start().await,
            &status.to_string(),
            &[502, 503, 504],
        )
        .await;
        assert!(
            !answer.text().contains("internal secret"),
            "{status}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_redirect_without_end_is_given_up() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let location = format!("http://{}/v2/{NAME}/manifests/latest", hub.address());
    hub.script(move |place, _| {
        (place == Place::Registry).then(|| Reply::new(307, &[("location", &location)], ""))
    });
    let answer = mirror
        .get(&format!("/v2/{NAME}/manifests/latest"))
        .accept_manifests()
        .send()
        .await;
    answer.expect_error(502, "UNAVAILABLE");
    assert!(hub.lines().len() <= 6, "{} requests", hub.lines().len());
}

#[tokio::test]
async fn a_manifest_redirected_to_a_private_address_is_not_followed() {
    let unwanted = Server::unwanted("127.0.0.1").await;
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    for scheme in ["http", "https"] {
        let location = format!("{scheme}://{}/latest/meta-data/", unwanted.address);
        hub.script(move |place, _| {
            (place == Place::Registry).then(|| Reply::new(307, &[("location", &location)], ""))
        });
        let answer = mirror
            .get(&format!("/v2/{NAME}/manifests/latest"))
            .accept_manifests()
            .send()
            .await;
        assert!(matches!(answer.status.as_u16(), 403 | 502), "{answer:?}");
        assert!(answer.json()["errors"][0]["code"].is_string(), "{answer:?}");
    }
    assert_eq!(unwanted.connections(), 0);
}

#[tokio::test]
async fn one_request_that_fails_takes_no_other_with_it() {
    let HubFixture { mirror, hub, .. } =
        HubFixture::with(|options| options.variable("first_byte_timeout", 3)).await;
    mirror
        .get(&format!("/v2/{NAME}/manifests/latest"))
        .accept_manifests()
        .send()
        .await
        .expect(200);
    hub.script(|place, seen| match (place, &*seen.target) {
        (Place::Registry, "/v2/library/alpine/manifests/hang") => Some(Reply::Hang),
        (Place::Registry, "/v2/library/alpine/manifests/close") => Some(Reply::Close),
        _ => None,
    });
    let ask = |tag: &str| {
        mirror
            .get(&format!("/v2/{NAME}/manifests/{tag}"))
            .accept_manifests()
            .send()
    };
    let (hang, close, one, two) =
        tokio::join!(ask("hang"), ask("close"), ask("latest"), ask("latest"));
    assert_eq!(
        [hang.status, close.status, one.status, two.status],
        [504, 502, 200, 200]
    );
}

#[tokio::test]
async fn an_upstream_that_refuses_is_no_500_with_a_stack_trace() {
    let mirror = Options::default().upstream(nobody().await).start().await;
    let answer = mirror
        .get(MANIFEST_PATH)
        .accept_manifests()
        .send()
        .await
        .expect_error(502, "UNAVAILABLE");
    for word in ["panicked", "backtrace", ".rs:", "wasm", "   at ", "Stack"] {
        assert!(!answer.text().contains(word), "{answer:?}");
    }
}
