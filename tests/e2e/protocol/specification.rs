//! The endpoints for reading of the distribution specification, which lists them as end-1, end-2,
//! …, with every way to select an upstream.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::client::{Request, Response};
use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH};
use crate::support::mirror::{Mirror, Options};
use test_support::hub::{Hub, Service};
use test_support::image::{INDEX, Image, digest};
use test_support::server::{ReceivedRequest, Reply, closed_address};

const NAME: &str = "team/app";
const TAGS: [&str; 5] = ["1", "2", "3", "4", "5"];
/// The host name of the mirror that selects the registry.
const HOST_NAME: &str = "app.mirror.example";

/// How a request selects its upstream.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Selector {
    Query,
    Path,
    Name,
    Namespace,
    HostName,
    Default,
}

const SELECTORS: [Selector; 6] = [
    Selector::Query,
    Selector::Path,
    Selector::Name,
    Selector::Namespace,
    Selector::HostName,
    Selector::Default,
];

/// A registry, and two mirrors: one has it as its default upstream, the default upstream of the
/// other does not exist.
struct Fixture {
    hub: Hub,
    image: Image,
    default: Mirror,
    other: Mirror,
}

impl Fixture {
    async fn start() -> Self {
        let hub = Hub::start().await;
        let image = Image::oci();
        for tag in TAGS {
            hub.push(NAME, tag, &image);
        }
        hub.serve_blobs_directly();
        hub.script(|service, received| {
            (service == Service::Registry && received.path().contains("/referrers/"))
                .then(|| referrers(received))
        });
        let options = Options::default().plain_http(hub.addresses());
        let default = options.clone().upstream(hub.address()).start().await;
        let map = format!("other.mirror.example=quay.io,{HOST_NAME}={}", hub.address());
        let other = options
            .upstream(closed_address().await)
            .variable("host_upstreams", map)
            .start()
            .await;
        Self {
            hub,
            image,
            default,
            other,
        }
    }

    /// Returns `None` where the selector has no form for such a request.
    fn request(&self, selector: Selector, method: &str, rest: &str) -> Option<Request> {
        let host = self.hub.address();
        let and = if rest.contains('?') { '&' } else { '?' };
        let target = match selector {
            Selector::Query => format!("/v2/{rest}{and}upstream={host}"),
            Selector::Path => format!("/{host}/v2/{rest}"),
            Selector::Name if rest.is_empty() || rest.starts_with('?') => return None,
            Selector::Name => format!("/v2/{host}/{rest}"),
            Selector::Namespace => format!("/v2/{rest}{and}ns={host}"),
            Selector::HostName | Selector::Default => format!("/v2/{rest}"),
        };
        Some(self.to(selector, method, &target))
    }

    fn to(&self, selector: Selector, method: &str, target: &str) -> Request {
        let mirror = if selector == Selector::Default {
            &self.default
        } else {
            &self.other
        };
        let request = mirror.request(method, target);
        if selector == Selector::HostName {
            request.host(HOST_NAME)
        } else {
            request
        }
    }
}

/// Five referrers of two types, two on a page, from a registry that filters.
fn referrers(received: &ReceivedRequest) -> Reply {
    let query = received.query();
    let value = |name| {
        query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let of_type = value("artifactType");
    let all = (0..5).map(|number| {
        let artifact = if number % 2 == 0 { "application/x.signature" } else { "application/x.sbom+json" };
        json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(&[number]), "size": 1, "artifactType": artifact })
    });
    let matching: Vec<_> = all
        .filter(|one| of_type.is_none_or(|wanted| one["artifactType"] == wanted))
        .collect();
    let page: usize = value("page").map_or(0, |page| page.parse().expect("a page"));
    let shown: Vec<_> = matching.iter().skip(page * 2).take(2).collect();
    let document = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": shown });
    let mut headers = vec![("content-type", INDEX)];
    let filter = of_type.map(|wanted| {
        url::form_urlencoded::Serializer::new(String::new())
            .append_pair("artifactType", wanted)
            .finish()
            + "&"
    });
    let link = format!(
        "<{}?{}page={}>; rel=\"next\"",
        received.path(),
        filter.unwrap_or_default(),
        page + 1
    );
    if (page + 1) * 2 < matching.len() {
        headers.push(("link", &link));
    }
    if of_type.is_some() {
        headers.push(("oci-filters-applied", "artifactType"));
    }
    Reply::new(200, &headers, document.to_string())
}

/// A request, and the response that the specification requires.
struct Row {
    section: &'static str,
    method: &'static str,
    rest: String,
    sends: Vec<(&'static str, String)>,
    status: u16,
    /// The error document has one of them; empty for a success.
    codes: &'static [&'static str],
    headers: Vec<(&'static str, String)>,
    body: Option<Bytes>,
}

fn row(section: &'static str, method: &'static str, rest: impl Into<String>, status: u16) -> Row {
    Row {
        section,
        method,
        rest: rest.into(),
        sends: vec![],
        status,
        codes: &[],
        headers: vec![],
        body: None,
    }
}

impl Row {
    fn codes(self, codes: &'static [&'static str]) -> Row {
        Row { codes, ..self }
    }

    fn sends(mut self, name: &'static str, value: impl Into<String>) -> Row {
        self.sends.push((name, value.into()));
        self
    }

    fn has(mut self, name: &'static str, value: impl Into<String>) -> Row {
        self.headers.push((name, value.into()));
        self
    }

    fn body(self, body: impl Into<Bytes>) -> Row {
        Row {
            body: Some(body.into()),
            ..self
        }
    }

    fn check(&self, selector: Selector, response: Response) {
        let what = format!(
            "{} {} {} by {selector:?}: {response:?}",
            self.section, self.method, self.rest
        );
        assert_eq!(response.status, self.status, "{what}");
        for (name, value) in &self.headers {
            assert_eq!(response.header(name), Some(&**value), "{name}, {what}");
        }
        if let Some(body) = &self.body {
            assert_eq!(&response.body, body, "{what}");
        }
        if self.method == "HEAD" {
            assert!(response.body.is_empty(), "{what}");
        } else if !self.codes.is_empty() {
            assert_eq!(
                response.header("content-type"),
                Some("application/json"),
                "{what}"
            );
            let code = response.json()["errors"][0]["code"]
                .as_str()
                .unwrap_or_default()
                .to_string();
            assert!(self.codes.contains(&&*code), "{what}");
        }
    }
}

fn table(image: &Image) -> Vec<Row> {
    let (index, layer) = (&image.index, &image.native().layers[0]);
    let (unknown, length) = (digest(b"unknown"), layer.bytes.len());
    let mut rows = vec![
        row("end-1", "GET", "", 200).body("{}"),
        row("end-1", "HEAD", "", 200),
        // Pulling blobs.
        row(
            "end-2",
            "GET",
            format!("{NAME}/blobs/{}", layer.digest),
            200,
        )
        .body(layer.bytes.clone()),
        row(
            "end-2",
            "HEAD",
            format!("{NAME}/blobs/{}", layer.digest),
            200,
        ),
        row(
            "end-2",
            "GET",
            format!("{NAME}/blobs/{}", layer.digest),
            206,
        )
        .sends("range", "bytes=10-19")
        .has("content-range", format!("bytes 10-19/{length}"))
        .body(layer.bytes.slice(10..20)),
        row(
            "end-2",
            "GET",
            format!("{NAME}/blobs/{}", layer.digest),
            206,
        )
        .sends("range", format!("bytes={}-", length - 5))
        .has(
            "content-range",
            format!("bytes {}-{}/{length}", length - 5, length - 1),
        )
        .body(layer.bytes.slice(length - 5..)),
        row(
            "end-2",
            "GET",
            format!("{NAME}/blobs/{}", layer.digest),
            416,
        )
        .sends("range", format!("bytes={length}-"))
        .codes(&["RANGE_INVALID"]),
        row("end-2", "GET", format!("{NAME}/blobs/{unknown}"), 404).codes(&["BLOB_UNKNOWN"]),
        row("end-2", "HEAD", format!("{NAME}/blobs/{unknown}"), 404),
        row("end-2", "GET", format!("no/such/name/blobs/{unknown}"), 404)
            .codes(&["NAME_UNKNOWN", "BLOB_UNKNOWN"]),
        row("end-2", "GET", format!("{NAME}/blobs/sha256:short"), 400).codes(&["DIGEST_INVALID"]),
        row("end-2", "GET", format!("UPPER/app/blobs/{unknown}"), 400).codes(&["NAME_INVALID"]),
        // Pulling manifests.
        row("end-3", "GET", format!("{NAME}/manifests/{unknown}"), 404)
            .codes(&["MANIFEST_UNKNOWN"]),
        row("end-3", "HEAD", format!("{NAME}/manifests/{unknown}"), 404),
        row("end-3", "GET", format!("{NAME}/manifests/no-such-tag"), 404)
            .codes(&["MANIFEST_UNKNOWN"]),
        row(
            "end-3",
            "HEAD",
            format!("{NAME}/manifests/no-such-tag"),
            404,
        ),
        row("end-3", "GET", "no/such/name/manifests/1", 404)
            .codes(&["NAME_UNKNOWN", "MANIFEST_UNKNOWN"]),
        row("end-3", "GET", "UPPER/app/manifests/1", 400).codes(&["NAME_INVALID"]),
        row("end-3", "GET", "team//app/manifests/1", 400).codes(&["NAME_INVALID"]),
        row(
            "end-3",
            "GET",
            format!("{NAME}/manifests/sha256:short"),
            400,
        )
        .codes(&["DIGEST_INVALID"]),
        row(
            "end-3",
            "GET",
            format!("{NAME}/manifests/.INVALID_MANIFEST_NAME"),
            404,
        )
        .codes(&["MANIFEST_INVALID"]),
        // Pushing and deleting.
        row("end-4a", "POST", format!("{NAME}/blobs/uploads/"), 405).codes(&["UNSUPPORTED"]),
        row("end-5", "PATCH", format!("{NAME}/blobs/uploads/1"), 405).codes(&["UNSUPPORTED"]),
        row(
            "end-6",
            "PUT",
            format!("{NAME}/blobs/uploads/1?digest={unknown}"),
            405,
        )
        .codes(&["UNSUPPORTED"]),
        row("end-7", "PUT", format!("{NAME}/manifests/1"), 405).codes(&["UNSUPPORTED"]),
        row("end-9", "DELETE", format!("{NAME}/manifests/1"), 405).codes(&["UNSUPPORTED"]),
        row("end-10", "DELETE", format!("{NAME}/blobs/{unknown}"), 405).codes(&["UNSUPPORTED"]),
        // Listing tags.
        row("end-8a", "GET", format!("{NAME}/tags/list"), 200)
            .has("content-type", "application/json")
            .body(json!({ "name": NAME, "tags": TAGS }).to_string()),
        row("end-8a", "GET", "no/such/name/tags/list", 404).codes(&["NAME_UNKNOWN"]),
        row("end-8b", "GET", format!("{NAME}/tags/list?n=2&last=2"), 200)
            .body(json!({ "name": NAME, "tags": ["3", "4"] }).to_string()),
        // Listing referrers.
        row(
            "end-12a",
            "GET",
            format!("{NAME}/referrers/sha256:short"),
            400,
        )
        .codes(&["DIGEST_INVALID"]),
        row(
            "end-12a",
            "GET",
            format!("{NAME}/referrers/{}", index.digest),
            200,
        )
        .has("content-type", INDEX),
        row(
            "end-12b",
            "GET",
            format!(
                "{NAME}/referrers/{}?artifactType=application/x.sbom%2Bjson",
                index.digest
            ),
            200,
        )
        .has("content-type", INDEX)
        .has("oci-filters-applied", "artifactType"),
    ];
    for reference in ["3", &index.digest] {
        let rest = format!("{NAME}/manifests/{reference}");
        let described = |row: Row| {
            let row = row
                .has("content-type", INDEX)
                .has("docker-content-digest", &index.digest);
            row.has("content-length", index.bytes.len().to_string())
        };
        rows.push(described(row("end-3", "HEAD", &rest, 200)));
        rows.push(described(row("end-3", "GET", &rest, 200)).body(index.bytes.clone()));
    }
    for row in rows
        .iter_mut()
        .filter(|row| row.section == "end-2" && row.status == 200)
    {
        row.headers.push(("content-length", length.to_string()));
        row.headers
            .push(("docker-content-digest", layer.digest.clone()));
    }
    rows
}

#[tokio::test]
async fn every_endpoint_works_with_every_selector() {
    let fixture = Fixture::start().await;
    for row in table(&fixture.image) {
        for selector in SELECTORS {
            let Some(request) = fixture.request(selector, row.method, &row.rest) else {
                continue;
            };
            let request = row
                .sends
                .iter()
                .fold(request.accept_manifests(), |request, (name, value)| {
                    request.header(name, value)
                });
            row.check(selector, request.send().await);
        }
    }
}

/// Follows `Link` from page to page, on the same mirror, by the same host name.
async fn pages(fixture: &Fixture, selector: Selector, rest: &str, list: &str) -> Vec<Vec<Value>> {
    let mut request = fixture
        .request(selector, "GET", rest)
        .expect("a form of the request");
    let mut pages = Vec::new();
    loop {
        let response = request.send().await.expect(200);
        pages.push(response.json()[list].as_array().expect("a list").clone());
        assert!(pages.len() < 10, "endless: {pages:?}");
        let Some(link) = response.header("link") else {
            return pages;
        };
        let target = link
            .strip_prefix('<')
            .and_then(|link| link.strip_suffix(">; rel=\"next\""))
            .expect("a next page");
        assert!(
            target.starts_with('/'),
            "{selector:?} links elsewhere: {link}"
        );
        request = fixture.to(selector, "GET", target);
    }
}

#[tokio::test]
async fn every_list_pages_to_its_end_with_every_selector() {
    let fixture = Fixture::start().await;
    let referrers = format!("{NAME}/referrers/{}", fixture.image.index.digest);
    for (section, rest, list, sizes) in [
        (
            "end-8b",
            format!("{NAME}/tags/list?n=2"),
            "tags",
            &[2, 2, 1][..],
        ),
        (
            "end-8b",
            format!("{NAME}/tags/list?n=2&last=1"),
            "tags",
            &[2, 2],
        ),
        ("end-8b", format!("{NAME}/tags/list?n=9"), "tags", &[5]),
        ("end-12a", referrers.clone(), "manifests", &[2, 2, 1]),
        (
            "end-12b",
            format!("{referrers}?artifactType=application/x.signature"),
            "manifests",
            &[2, 1],
        ),
        (
            "end-12b",
            format!("{referrers}?artifactType=application/x.sbom%2Bjson"),
            "manifests",
            &[2],
        ),
    ] {
        for selector in SELECTORS {
            let pages = pages(&fixture, selector, &rest, list).await;
            let found: Vec<_> = pages.iter().map(Vec::len).collect();
            assert_eq!(found, sizes, "{section} {rest} by {selector:?}: {pages:?}");
            let mut received = pages.concat();
            received.dedup();
            assert_eq!(
                received.len(),
                sizes.iter().sum::<usize>(),
                "{section} {rest} by {selector:?}: an entry twice"
            );
            if rest.contains("artifactType") {
                let one = received[0]["artifactType"].clone();
                assert!(
                    received.iter().all(|entry| entry["artifactType"] == one),
                    "the filter was lost: {received:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn answers_tell_where_their_time_went_if_the_operator_says_so() {
    let fixture = HubFixture::with(|options| options.variable("server_timing", "on")).await;
    for target in [MANIFEST_PATH, "/v2/", "/v2/a", "/"] {
        let response = fixture.mirror.get_manifest(target).await;
        let header = response.header("server-timing").expect("a header");
        let times = header.split(", ").map(|metric| {
            let (name, time) = metric.split_once(";dur=").expect("a metric");
            (name, time.parse::<f64>().expect("milliseconds"))
        });
        let times: Vec<_> = times.collect();
        let names: Vec<_> = times.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["token", "upstream", "store", "total"], "{header}");
        let total = times.last().expect("a total").1;
        assert!(times.iter().all(|(_, time)| *time <= total), "{header}");
        let is_asked = target == MANIFEST_PATH;
        assert_eq!(times[0].1 > 0.0, is_asked, "{header}");
        assert_eq!(times[1].1 > 0.0, is_asked, "{header}");
    }
}
