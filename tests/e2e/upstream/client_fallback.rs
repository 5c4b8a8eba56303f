//! What a client sees of each fault of an upstream, and how soon real clients fall back to their
//! next mirror.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::daemons::{Containerd, Dockerd, result};
use crate::support::mirror::{Mirror, Options, repository};
use crate::support::programs::{Programs, is_root};
use test_support::answers::{content, error, split};
use test_support::hub::{Hub, Service};
use test_support::image::{Content, DOCKER, Image, digest};
use test_support::server::{ReceivedRequest, Reply, Server, closed_address};

/// dockerd retries a 5xx on a layer for 50 s.
const BOUND: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Refused,
    Silent,
    Status(u16),
    Denied,
    Tokens,
}

/// A status and a code.
type Told = (u16, &'static str);

/// Each fault, what a client sees for a manifest, and for a blob. The tables of docs/errors.md
/// have these rows.
const TABLE: [(&str, Fault, Told, Told); 8] = [
    (
        "connection refused",
        Fault::Refused,
        (502, "UNAVAILABLE"),
        (404, "BLOB_UNKNOWN"),
    ),
    (
        "no answer in time",
        Fault::Silent,
        (504, "UNAVAILABLE"),
        (404, "BLOB_UNKNOWN"),
    ),
    (
        "status 500",
        Fault::Status(500),
        (502, "UNAVAILABLE"),
        (404, "BLOB_UNKNOWN"),
    ),
    (
        "status 503",
        Fault::Status(503),
        (503, "UNAVAILABLE"),
        (404, "BLOB_UNKNOWN"),
    ),
    (
        "status 429",
        Fault::Status(429),
        (429, "TOOMANYREQUESTS"),
        (429, "TOOMANYREQUESTS"),
    ),
    (
        "status 401 in spite of a new token, or without a Bearer challenge",
        Fault::Denied,
        (403, "DENIED"),
        (403, "DENIED"),
    ),
    (
        "status 404",
        Fault::Status(404),
        (404, "MANIFEST_UNKNOWN"),
        (404, "BLOB_UNKNOWN"),
    ),
    (
        "token server: status 5xx",
        Fault::Tokens,
        (502, "UNAVAILABLE"),
        (404, "BLOB_UNKNOWN"),
    ),
];

impl Fault {
    fn reply(self) -> Reply {
        match self {
            Fault::Refused | Fault::Tokens => Reply::Close,
            Fault::Silent => Reply::Hang,
            Fault::Denied => Reply::new(401, &[("www-authenticate", "Basic realm=\"x\"")], ""),
            Fault::Status(429) => Reply::new(
                429,
                &[("retry-after", "60"), ("content-type", "text/plain")],
                "too many",
            ),
            Fault::Status(status) => Reply::new(status, &[], "as scripted"),
        }
    }
}

#[tokio::test]
async fn each_fault_has_a_status_and_a_code() {
    let blob = digest(b"a layer");
    let tokens = Hub::start().await;
    tokens.script(|service, _| (service == Service::Tokens).then(|| error(500, "UNKNOWN")));
    let (mut servers, mut upstreams) = (Vec::new(), Vec::new());
    let mut options = Options::default()
        .plain_http(tokens.addresses())
        .variable("first_byte_timeout", 1);
    for (_, fault, ..) in TABLE {
        let upstream = match fault {
            Fault::Refused => closed_address().await,
            Fault::Tokens => tokens.address(),
            fault => {
                let server = Server::plain("127.0.0.1", move |_| fault.reply()).await;
                servers.push(server);
                servers.last().expect("a server").address
            }
        };
        options = options.plain_http([upstream]);
        upstreams.push(upstream);
    }
    let mirror = options.start().await;
    let page = std::fs::read_to_string(repository().join("docs/errors.md")).expect("errors.md");
    let tables: Vec<_> = page.split("\n## ").collect();
    let table = |heading: &str| tables.iter().find(|table| table.starts_with(heading));
    let (of_manifests, of_blobs) = (table("Manifests\n"), table("Blobs\n"));
    for ((what, _, manifest, layer), upstream) in TABLE.iter().zip(upstreams) {
        for (rest, (status, code)) in [
            ("manifests/1".to_string(), *manifest),
            (format!("blobs/{blob}"), *layer),
        ] {
            let answer = mirror
                .get(&format!("/v2/team/app/{rest}?upstream={upstream}"))
                .accept_manifests()
                .send()
                .await;
            assert_eq!(answer.status, status, "{what}, {rest}: {answer:?}");
            assert_eq!(
                answer.header("retry-after"),
                (code == "TOOMANYREQUESTS").then_some("60"),
                "{what}"
            );
            answer.expect_error(status, code);
        }
        for (table, (status, code)) in [(of_manifests, manifest), (of_blobs, layer)] {
            let row = format!("\n| {what} | {status} | `{code}` |");
            assert!(
                table.is_some_and(|table| table.contains(&row)),
                "a table of docs/errors.md lacks this row:{row}"
            );
        }
    }
}

/// A mirror whose upstream has one image for each fault, and a second mirror that has all images
/// and no fault.
struct Fixture {
    mirror: Mirror,
    second: Server,
    /// The time of the first request to the second mirror, by image.
    asked: Arc<Mutex<BTreeMap<String, Instant>>>,
    names: Vec<String>,
    files: tempfile::TempDir,
    _hub: Hub,
}

impl Fixture {
    async fn start() -> Self {
        let hub = Hub::start().await;
        let mut faults = HashMap::new();
        let mut contents: HashMap<String, Content> = HashMap::new();
        let mut names = Vec::new();
        for (number, (_, fault, ..)) in TABLE.into_iter().enumerate() {
            for kind in ["manifest", "layer"] {
                // A token for the manifest is one for its layers.
                if kind == "layer" && fault == Fault::Tokens {
                    continue;
                }
                let name = format!("library/{kind}-{number}");
                let image = Image::new(DOCKER, &name);
                hub.push(&name, "latest", &image);
                contents.insert(name.clone(), image.index.clone());
                contents.extend(
                    image
                        .manifests()
                        .chain(image.blobs())
                        .map(|one| (one.digest.clone(), one.clone())),
                );
                faults.insert(name.clone(), fault);
                names.push(name);
            }
        }
        hub.script(move |service, received| match service {
            Service::Registry => {
                let (name, kind, _) = split(received.path())?;
                let fault = *faults.get(name)?;
                (fault != Fault::Tokens && (name.contains("manifest") || kind == "blobs"))
                    .then(|| fault.reply())
            }
            Service::Tokens => {
                let query = received.query();
                let scope = query
                    .iter()
                    .find(|(key, _)| key == "scope")
                    .map(|(_, scope)| scope.as_str());
                let fault = *faults.get(scope?.split(':').nth(1)?)?;
                (fault == Fault::Tokens).then(|| error(500, "UNKNOWN"))
            }
            Service::Cdn => None,
        });
        let asked: Arc<Mutex<BTreeMap<String, Instant>>> = Arc::default();
        let record = Arc::clone(&asked);
        let second = Server::plain("127.0.0.4", move |received: ReceivedRequest| {
            let Some((name, kind, reference)) = split(received.path()) else {
                return Reply::new(200, &[], "{}");
            };
            record
                .lock()
                .expect("times")
                .entry(name.into())
                .or_insert_with(Instant::now);
            let found = contents.get(if reference == "latest" {
                name
            } else {
                reference
            });
            match (found, kind) {
                (None, _) => error(404, "MANIFEST_UNKNOWN"),
                (Some(found), "blobs") => content(&received, found, "application/octet-stream"),
                (Some(found), _) => content(&received, found, found.media_type),
            }
        })
        .await;
        let options = Options::default()
            .upstream(hub.address())
            .plain_http(hub.addresses());
        let mirror = options.variable("first_byte_timeout", 1).start().await;
        let files = tempfile::tempdir().expect("a folder");
        Self {
            mirror,
            second,
            asked,
            names,
            files,
            _hub: hub,
        }
    }

    /// Pulls each image, and expects the first request to the second mirror within [`BOUND`]. A
    /// client that takes layers from the host of the manifest alone has to give up within that
    /// time.
    async fn measure(
        &self,
        client: &str,
        layers: Layers,
        pull: impl AsyncFn(&str) -> Result<String, String>,
    ) {
        let mut slow = Vec::new();
        for name in &self.names {
            let (kind, number) = name
                .trim_start_matches("library/")
                .split_once('-')
                .expect("a name of ours");
            let (what, fault, ..) = TABLE[number.parse::<usize>().expect("a number")];
            // podman waits for the `Retry-After` of the upstream, minutes here.
            if layers == Layers::FromTheManifestsHost && fault == Fault::Status(429) {
                continue;
            }
            let start = Instant::now();
            let pulled = pull(name).await;
            let ended = Instant::now();
            let asked = self.asked.lock().expect("times").get(name).copied();
            let (then, until) = match asked {
                Some(asked) => (asked, "to fall back"),
                None => (ended, "to give up"),
            };
            let took = then - start;
            println!(
                "{client}: {:.2} s {until} after: {what} ({kind})",
                took.as_secs_f64()
            );
            let falls_back = kind == "manifest" || layers == Layers::FromAnyHost;
            assert_eq!(
                (asked.is_some(), pulled.is_ok()),
                (falls_back, falls_back),
                "{client}, {what} ({kind}): {pulled:?}"
            );
            slow.extend((took > BOUND).then(|| format!("{what} ({kind}): {took:?}")));
        }
        assert!(slow.is_empty(), "{client} is slow: {slow:#?}");
    }
}

/// The hosts from which a client takes the layers of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layers {
    FromAnyHost,
    /// podman takes all of an image from one host.
    FromTheManifestsHost,
}

async fn dockerd_falls_back(programs: &Programs, client: &str) {
    let fixture = Fixture::start().await;
    let mirrors = [fixture.mirror.address(), fixture.second.address]
        .map(|address| format!("http://{address}"));
    let config = serde_json::json!({ "registry-mirrors": mirrors });
    let home = fixture.files.path().to_path_buf();
    let dockerd = Dockerd::start(
        programs,
        &fixture.files.path().join("d"),
        &config,
        "vfs",
        vec![("HOME", home)],
    )
    .await;
    fixture
        .measure(client, Layers::FromAnyHost, async |name| {
            dockerd.docker(&["pull", name]).await
        })
        .await;
    dockerd.stop();
}

async fn containerd_falls_back(programs: &Programs, client: &str) {
    let fixture = Fixture::start().await;
    let dir = fixture.files.path();
    let hosts = [fixture.mirror.address(), fixture.second.address].map(|address| {
        format!("[host.\"http://{address}\"]\ncapabilities = [\"pull\", \"resolve\"]\n")
    });
    std::fs::create_dir_all(dir.join("hosts/docker.io")).expect("a folder");
    let text = format!(
        "server = \"https://registry-1.docker.io\"\n{}",
        hosts.concat()
    );
    std::fs::write(dir.join("hosts/docker.io/hosts.toml"), text).expect("hosts.toml");
    let containerd = Containerd::start(programs, &dir.join("c"), vec![]).await;
    let pull = async |name: &str| {
        containerd
            .pull(&dir.join("hosts"), &format!("docker.io/{name}:latest"))
            .await
    };
    fixture.measure(client, Layers::FromAnyHost, pull).await;
    containerd.stop();
}

#[tokio::test]
async fn dockerd_falls_back_at_once() {
    let Some(programs) = Programs::installed(&["dockerd", "docker"]).filter(|_| is_root("dockerd"))
    else {
        return;
    };
    dockerd_falls_back(&programs, "dockerd").await;
}

#[tokio::test]
async fn dockerd_28_falls_back_at_once() {
    let names = ["dockerd", "docker", "containerd"];
    let Some(programs) = Programs::newer(&names).filter(|_| is_root("dockerd 28")) else {
        return;
    };
    dockerd_falls_back(&programs, "dockerd 28").await;
}

#[tokio::test]
async fn containerd_falls_back_at_once() {
    let Some(programs) =
        Programs::installed(&["containerd", "ctr"]).filter(|_| is_root("containerd"))
    else {
        return;
    };
    containerd_falls_back(&programs, "containerd").await;
}

#[tokio::test]
async fn containerd_2_falls_back_at_once() {
    let Some(programs) =
        Programs::newer(&["containerd", "ctr"]).filter(|_| is_root("containerd 2"))
    else {
        return;
    };
    containerd_falls_back(&programs, "containerd 2").await;
}

#[tokio::test]
async fn podman_falls_back_at_once() {
    let Some(programs) = Programs::installed(&["podman"]).filter(|_| is_root("podman")) else {
        return;
    };
    let fixture = Fixture::start().await;
    let dir = fixture.files.path();
    let mirrors = [fixture.mirror.address(), fixture.second.address]
        .map(|address| format!("[[registry.mirror]]\nlocation = \"{address}\"\ninsecure = true\n"));
    let conf = dir.join("registries.conf");
    let text = format!(
        "[[registry]]\nlocation = \"docker.io\"\n{}",
        mirrors.concat()
    );
    std::fs::write(&conf, text).expect("registries.conf");
    let pull = async |name: &str| {
        let mut command = programs.command("podman");
        command
            .arg("--root")
            .arg(dir.join("root"))
            .arg("--runroot")
            .arg(dir.join("run"));
        command.args([
            "--storage-driver",
            "vfs",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "none",
            "--tmpdir",
        ]);
        command
            .arg(dir)
            .args(["pull", "--quiet"])
            .arg(format!("docker.io/{name}:latest"));
        command
            .env("CONTAINERS_REGISTRIES_CONF", &conf)
            .env("HOME", dir)
            .env("XDG_RUNTIME_DIR", dir);
        result(command).await
    };
    fixture
        .measure("podman", Layers::FromTheManifestsHost, pull)
        .await;
}
