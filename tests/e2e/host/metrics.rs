//! `--metrics`: what is counted agrees with what the registry received and the clients got.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::support::client::Request;
use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH};
use crate::support::mirror::{Mirror, is_spin, repository};
use crate::support::programs::Programs;
use crate::support::{free_address, skip};
use test_support::hub::Service;
use test_support::server::Reply;

/// Samples by name and labels.
type Samples = BTreeMap<String, f64>;

async fn start() -> HubFixture {
    HubFixture::with(|options| {
        options
            .variable("blob_delivery", "stream")
            .argument("--metrics")
            .argument("127.0.0.1:0")
    })
    .await
}

fn address(mirror: &Mirror) -> SocketAddr {
    let stderr = mirror.stderr();
    let url = stderr
        .iter()
        .find_map(|line| line.strip_prefix("Serving metrics on http://"));
    let address = url.and_then(|url| url.strip_suffix("/metrics"));
    address.expect("an address").parse().expect("an address")
}

async fn scrape(mirror: &Mirror) -> String {
    let response = Request::new(address(mirror), "GET", "/metrics")
        .send()
        .await;
    let response = response.expect(200);
    let content_type = response.header("content-type").unwrap_or_default();
    assert!(content_type.starts_with("application/openmetrics-text; version=1.0.0"));
    response.text().to_owned()
}

/// Parses the exposition format as far as it is used, and fails on anything else.
fn samples(text: &str) -> Samples {
    assert!(text.ends_with("# EOF\n"), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a sample");
            let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
            (name.to_owned(), value)
        })
        .collect()
}

/// The sum of the samples `name` that have all of `labels`.
fn sum(samples: &Samples, name: &str, labels: &[&str]) -> f64 {
    let is_of = |sample: &str| {
        let rest = sample.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
            && labels.iter().all(|label| sample.contains(label))
    };
    let matching = samples.iter().filter(|(sample, _)| is_of(sample));
    matching.map(|(_, value)| value).sum()
}

#[tokio::test]
async fn the_counts_agree_with_the_registrys_own() {
    if is_spin() {
        return skip("Spin has no --metrics");
    }
    let fixture = start().await;
    let mirror = &fixture.mirror;
    let mut bytes = 0;
    for _ in 0..5 {
        bytes += mirror
            .get_manifest(MANIFEST_PATH)
            .await
            .expect(200)
            .body
            .len();
        bytes += mirror
            .get(&fixture.layer())
            .send()
            .await
            .expect(200)
            .body
            .len();
    }
    let missing = mirror.get_manifest("/v2/library/none/manifests/1").await;
    bytes += missing.expect(404).body.len();
    mirror.log(11).await;

    let samples = samples(&scrape(mirror).await);
    let count = |name: &str, labels: &[&str]| sum(&samples, name, labels);
    let requests = |labels: &[&str]| count("hammal_requests_total", labels);
    assert_eq!(requests(&["endpoint=\"blob\"", "status=\"200\""]), 5.0);
    assert_eq!(requests(&["endpoint=\"manifest\"", "status=\"200\""]), 5.0);
    assert_eq!(requests(&["endpoint=\"manifest\"", "status=\"404\""]), 1.0);
    assert_eq!(requests(&["cache=\"revalidated\""]), 4.0);
    assert_eq!(count("hammal_http_responses_total", &[]), 11.0);
    assert_eq!(
        count("hammal_http_request_duration_seconds_count", &[]),
        11.0
    );
    assert_eq!(count("hammal_http_sent_bytes_total", &[]), bytes as f64);
    assert_eq!(count("hammal_http_requests_in_progress", &[]), 0.0);

    let upstream = format!("upstream=\"{}\"", fixture.hub.address());
    let received = |service| fixture.hub.received(service).len() as f64;
    let responses = |labels: &[&str]| count("hammal_upstream_responses_total", labels);
    assert_eq!(responses(&[&upstream]), received(Service::Registry));
    assert_eq!(responses(&["class=\"token\""]), received(Service::Tokens));
    let total: f64 = [Service::Registry, Service::Tokens, Service::Cdn]
        .map(received)
        .iter()
        .sum();
    assert_eq!(responses(&[]), total);
    assert!(
        count(
            "hammal_store_operation_duration_seconds_count",
            &["store=\"default\""]
        ) > 0.0
    );
    assert_eq!(count("hammal_store_errors_total", &[]), 0.0);
    assert!(count("hammal_instances_created_total", &[]) >= 1.0);
    assert!(count("process_resident_memory_bytes", &[]) > 1e6);
}

#[tokio::test]
async fn failures_of_upstreams_are_counted() {
    if is_spin() {
        return skip("Spin has no --metrics");
    }
    let fixture = start().await;
    let reply = |_: &_| Reply::Close;
    fixture.hub.respond_from(Service::Registry, reply);
    fixture.mirror.get_manifest(MANIFEST_PATH).await;
    fixture.mirror.log(1).await;
    let samples = samples(&scrape(&fixture.mirror).await);
    let labels = ["class=\"manifest\"", "error=\"protocol\""];
    assert!(
        sum(&samples, "hammal_upstream_errors_total", &labels) >= 1.0,
        "{samples:?}"
    );
}

#[tokio::test]
async fn clients_cannot_make_labels() {
    if is_spin() {
        return skip("Spin has no --metrics");
    }
    let fixture = start().await;
    let mirror = &fixture.mirror;
    let before = scrape(mirror).await.lines().count();
    for number in 0..100 {
        let path = format!("/v2/a/b/manifests/{number}?upstream=none-{number}.invalid");
        mirror.get_manifest(&path).await;
        mirror.get(&format!("/x{number}")).send().await;
    }
    mirror.log(200).await;
    let text = scrape(mirror).await;
    assert!(!text.contains("invalid"), "{text}");
    assert!(text.lines().count() < before + 120, "{text}");
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    if is_spin() {
        return skip("Spin has no --metrics");
    }
    let fixture = start().await;
    let address = address(&fixture.mirror);
    Request::new(address, "GET", "/").send().await.expect(404);
    Request::new(address, "POST", "/metrics")
        .send()
        .await
        .expect(405);
    // Clients of the mirror can't read them.
    fixture.mirror.get("/metrics").send().await.expect(404);
}

#[tokio::test]
async fn prometheus_scrapes_the_metrics() {
    if is_spin() {
        return skip("Spin has no --metrics");
    }
    let Some(programs) = Programs::installed(&["prometheus"]) else {
        return;
    };
    let fixture = start().await;
    fixture.mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    fixture.mirror.log(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("prometheus.yml");
    let target = address(&fixture.mirror);
    let text = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: hammal\n  static_configs:\n  - targets: ['{target}']\n"
    );
    std::fs::write(&config, text).expect("a file");
    let listen = free_address();
    let mut command = programs.command("prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.path().join("data").display()
        ))
        .arg(format!("--web.listen-address={listen}"));
    let mut prometheus = crate::support::process::Process::spawn(&mut command);
    prometheus
        .wait_for("prometheus", |process| {
            process.stderr().contains("Server is ready").then_some(())
        })
        .await;
    let query = "/api/v1/query?query=sum(hammal_requests_total)";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let response = Request::new(listen, "GET", query)
            .send()
            .await
            .expect(200)
            .json();
        if response["data"]["result"][0]["value"][1] == "1" {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{response}\n{}",
            prometheus.stderr()
        );
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    prometheus.stop();
}

/// The names of metrics in a text: words that begin as they do, without the parts of a histogram.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c));
    words
        .filter(|word| word.starts_with("hammal_") || word.starts_with("process_"))
        .map(|word| {
            let part = ["_bucket", "_count", "_sum"]
                .iter()
                .find_map(|end| word.strip_suffix(end));
            part.unwrap_or(word).to_owned()
        })
        .collect()
}

fn documented() -> BTreeSet<String> {
    let page = repository().join("docs/monitoring.md");
    names(&std::fs::read_to_string(page).expect("the page"))
}

#[tokio::test]
async fn every_metric_is_documented() {
    if is_spin() {
        return skip("Spin has no --metrics");
    }
    let fixture = start().await;
    fixture.mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    fixture
        .mirror
        .get_manifest("/v2/a/b/manifests/1?upstream=none.invalid")
        .await;
    fixture.mirror.log(2).await;
    let samples = samples(&scrape(&fixture.mirror).await);
    let sampled: String = samples.keys().map(|sample| format!("{sample}\n")).collect();
    let documented = documented();
    let missing: Vec<_> = names(&sampled)
        .into_iter()
        .filter(|name| !documented.contains(name) && !name.starts_with("process_"))
        .collect();
    assert!(missing.is_empty(), "docs/monitoring.md lacks {missing:?}");
}

#[test]
fn alerts_and_dashboard_name_documented_metrics() {
    let documented = documented();
    for file in ["alerts.yml", "alerts.test.yml", "dashboard.json"] {
        let text = std::fs::read_to_string(repository().join("deploy/monitoring").join(file));
        let mut names = names(&text.expect("a file"));
        names.retain(|name| !documented.contains(name) && !name.starts_with("process_"));
        // `hammal_http_requests_queued{…}` and the like are there; a misspelt name is not.
        assert!(names.is_empty(), "{file} names {names:?}");
    }
}

#[test]
fn promtool_accepts_the_alerts() {
    let Some(programs) = Programs::installed(&["promtool"]) else {
        return;
    };
    for arguments in [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts.test.yml"],
    ] {
        let mut command = programs.command("promtool");
        command.current_dir(repository().join("deploy/monitoring"));
        let output = command.args(arguments).output().expect("promtool");
        let text = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&text)
        );
    }
}
