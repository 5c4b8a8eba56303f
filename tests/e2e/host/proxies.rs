//! The files of `deploy/proxies/`, with the proxies that are installed, and real clients through
//! them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME, TAG};
use crate::support::mirror::repository;
use crate::support::process::{Process, run};
use crate::support::programs::Programs;
use crate::support::{free_address, wait_for};
use test_support::ca::Ca;
use test_support::image::INDEX;

/// A proxy in front of a mirror, over https on loopback.
struct Proxy {
    fixture: HubFixture,
    address: SocketAddr,
    /// The certificate that clients have to trust.
    root: PathBuf,
    folder: TempDir,
    process: Process,
}

impl Proxy {
    /// Starts `program`, whose command and configuration `configure` makes: it is given the file of
    /// `deploy/proxies/` with the mirror's address in it, a folder, and the address to listen on.
    async fn start(
        program: &str,
        file: &str,
        configure: impl FnOnce(&mut Command, String, &Path, SocketAddr),
    ) -> Option<Self> {
        let programs = Programs::installed(&[program, "curl", "skopeo"])?;
        let fixture = HubFixture::with(|options| {
            let options = options.variable("trusted_proxies", 1);
            options.variable("blob_delivery", "stream")
        })
        .await;
        let folder = tempfile::tempdir().expect("a folder");
        let (ca, root) = (Ca::generate(), folder.path().join("root.pem"));
        let (certificate, key) = ca.certificate(&["127.0.0.1"]);
        std::fs::write(&root, ca.pem()).expect("a file");
        std::fs::write(folder.path().join("cert.pem"), &certificate).expect("a file");
        std::fs::write(folder.path().join("key.pem"), &key).expect("a file");
        let both = folder.path().join("both.pem");
        std::fs::write(both, certificate + &key).expect("a file");
        let text = std::fs::read_to_string(repository().join("deploy/proxies").join(file));
        let mirror = fixture.mirror.address().to_string();
        let text = text.expect("the file").replace("127.0.0.1:3000", &mirror);
        let address = free_address();
        let mut command = programs.command(program);
        configure(&mut command, text, folder.path(), address);
        let process = Process::spawn(&mut command);
        let mut proxy = Self {
            fixture,
            address,
            root,
            folder,
            process,
        };
        let connect = |_: &Process| std::net::TcpStream::connect(address).ok();
        proxy.process.wait_for(program, connect).await;
        Some(proxy)
    }

    /// Returns what curl gets for a path: the head, and the body.
    async fn curl(&self, path: &str, arguments: &[&str]) -> (String, String) {
        let body = self.folder.path().join("body");
        let mut command = tokio::process::Command::new("curl");
        command.args(["-sS", "--max-time", "30", "--dump-header", "-", "--output"]);
        command
            .arg(&body)
            .arg("--cacert")
            .arg(&self.root)
            .args(arguments);
        // curl would accept anything, which the registry answers for no manifest.
        command
            .arg("--header")
            .arg(format!("Accept: {INDEX}, text/html"));
        command.arg(format!("https://{}{path}", self.address));
        let head = run(&mut command).await.to_ascii_lowercase();
        let body = std::fs::read(body).unwrap_or_default();
        (head, String::from_utf8_lossy(&body).into_owned())
    }

    /// Each proxy has to do these.
    async fn check(&self) {
        let image = &self.fixture.image;
        let (head, body) = self
            .curl(MANIFEST_PATH, &["--header", "X-Request-Id: from-client"])
            .await;
        assert!(head.contains(" 200"), "{head}");
        assert_eq!(body.as_bytes(), image.index.bytes);
        assert!(head.contains("\nx-request-id: "), "{head}");
        let etag = format!("\netag: \"{}\"", image.index.digest);
        assert!(head.contains(&etag), "{head}");
        let (_, page) = self.curl("/", &[]).await;
        let url = format!("https://{}", self.address);
        assert!(page.contains(&url), "Host and X-Forwarded-Proto: {page}");

        let folder = self.folder.path().join("pulled");
        let mut skopeo = tokio::process::Command::new("skopeo");
        skopeo
            .args(["--insecure-policy", "copy", "--quiet"])
            .arg(format!("docker://{}/{NAME}:{TAG}", self.address))
            .arg(format!("dir:{}", folder.display()))
            .env("SSL_CERT_FILE", &self.root)
            .env("HOME", self.folder.path());
        run(&mut skopeo).await;
        let manifest = std::fs::read(folder.join("manifest.json")).expect("a manifest");
        let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest");
        assert_eq!(manifest["config"]["digest"], *image.native().config.digest);
    }
}

#[tokio::test]
async fn nginx_serves_manifests_by_digest_from_its_cache() {
    let configure = |command: &mut Command, text: String, folder: &Path, address: SocketAddr| {
        let path = |name: &str| folder.join(name).display().to_string();
        let text = text
            .replace("/var/cache/nginx/hammal", &path("cache"))
            .replace("listen 443", &format!("listen {address}"))
            .replace("/etc/ssl/mirror.example.pem", &path("cert.pem"))
            .replace("/etc/ssl/mirror.example.key", &path("key.pem"));
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {};\n", path(name)))
            .concat();
        let config = format!(
            "daemon off;\nuser root;\npid {};\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{text}}}\n",
            path("pid")
        );
        std::fs::write(folder.join("nginx.conf"), config).expect("a file");
        command.arg("-p").arg(folder).args(["-c", "nginx.conf"]);
    };
    let Some(proxy) = Proxy::start("nginx", "nginx.conf", configure).await else {
        return;
    };
    proxy.check().await;

    let digest = &proxy.fixture.image.index.digest;
    let by_digest = format!("/v2/{NAME}/manifests/{digest}");
    proxy.curl(&by_digest, &[]).await;
    let before = proxy.fixture.hub.requests().len();
    let reference = format!("reference={digest}");
    let logged = |lines: Vec<String>| {
        let by_digest = lines.iter().filter(|line| line.contains(&reference));
        by_digest.count()
    };
    wait_for("a line of the log", || {
        logged(proxy.fixture.mirror.stderr()) > 0
    })
    .await;
    let lines = logged(proxy.fixture.mirror.stderr());
    for _ in 0..3 {
        let (head, body) = proxy.curl(&by_digest, &[]).await;
        assert!(head.contains("immutable"), "{head}");
        assert_eq!(body.as_bytes(), proxy.fixture.image.index.bytes);
    }
    assert_eq!(proxy.fixture.hub.requests().len(), before);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(
        logged(proxy.fixture.mirror.stderr()),
        lines,
        "asked the mirror"
    );
    // A tag may have moved: the mirror is asked, and asks upstream.
    proxy.curl(MANIFEST_PATH, &[]).await;
    assert!(proxy.fixture.hub.requests().len() > before);
}

#[tokio::test]
async fn haproxy_passes_pulls_on() {
    let configure = |command: &mut Command, text: String, folder: &Path, address: SocketAddr| {
        let both = folder.join("both.pem").display().to_string();
        let text = text
            .replace("bind :443", &format!("bind {address}"))
            .replace("/etc/ssl/mirror.example.pem", &both);
        let file = folder.join("haproxy.cfg");
        std::fs::write(&file, text).expect("a file");
        command.arg("-db").arg("-f").arg(file);
    };
    let Some(proxy) = Proxy::start("haproxy", "haproxy.cfg", configure).await else {
        return;
    };
    proxy.check().await;
    let (head, _) = proxy
        .curl(MANIFEST_PATH, &["--header", "X-Request-Id: from-client"])
        .await;
    assert!(head.contains("\nx-request-id: from-client"), "{head}");
}

#[tokio::test]
async fn caddy_passes_pulls_on() {
    let configure = |command: &mut Command, text: String, folder: &Path, address: SocketAddr| {
        // Its own authority, which it must not install on this machine, and no other port.
        let options = "{\n\tadmin off\n\tskip_install_trust\n\tauto_https disable_redirects\n}\n";
        let certificate = format!(
            "\ttls {} {}\n\treverse_proxy",
            folder.join("cert.pem").display(),
            folder.join("key.pem").display()
        );
        let text = text.replacen("\treverse_proxy", &certificate, 1);
        let file = folder.join("Caddyfile");
        std::fs::write(&file, format!("{options}{text}")).expect("a file");
        command
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(file)
            .env("MIRROR", format!("https://{address}"))
            .env("HOME", folder)
            .env("XDG_DATA_HOME", folder)
            .env("XDG_CONFIG_HOME", folder);
    };
    let Some(proxy) = Proxy::start("caddy", "Caddyfile", configure).await else {
        return;
    };
    proxy.check().await;
}
