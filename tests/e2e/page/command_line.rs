//! `/speed` and `/speedtest.sh` by curl, wget, dash and bash; `docker search`.

use std::process::Command;

use test_support::hub::Service;
use test_support::server::Reply;

use super::mirrors::{BigImage, Habit, NAME, SIZE, ScriptedMirror};
use crate::support::daemons::Dockerd;
use crate::support::hub_fixture::HubFixture;
use crate::support::mirror::{Mirror, Options};
use crate::support::process::{output, run};
use crate::support::programs::{Programs, is_root};

async fn mirror_of(registries: &[&ScriptedMirror]) -> Mirror {
    let addresses = registries.iter().flat_map(|registry| registry.addresses());
    Options::default()
        .upstream(registries[0].address())
        .plain_http(addresses)
        .variable("allowed_upstreams", "*")
        .start()
        .await
}

#[tokio::test]
async fn curl_measures_a_layer_with_one_url() {
    let Some(programs) = Programs::installed(&["curl"]) else {
        return;
    };
    let image = BigImage::new();
    let fast = ScriptedMirror::start(&image, Habit::Fast).await;
    let direct = ScriptedMirror::start(&image, Habit::DoesNotRedirect).await;
    let mirror = mirror_of(&[&fast, &direct]).await;
    for registry in [&fast, &direct] {
        let url = format!(
            "http://{}/speed/{}/{NAME}",
            mirror.address(),
            registry.address()
        );
        // As chsrc calls it.
        let mut curl = programs.command("curl");
        curl.args([
            "-qsL",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{speed_download} %{size_download}",
            "-m8",
            &url,
        ]);
        let measured = run(&mut curl.into()).await;
        let fields: Vec<&str> = measured.split(' ').collect();
        assert_eq!(
            (fields[0], fields[2]),
            ("200", &*SIZE.to_string()),
            "{measured}"
        );
        assert!(
            fields[1].parse::<f64>().expect("a number") > 0.0,
            "{measured}"
        );
    }
    // Warm: the tag by HEAD, and where the layer is.
    fast.requests.lock().expect("requests").clear();
    let path = format!("/speed/{}/{NAME}", fast.address());
    let answer = mirror.get(&path).send().await.expect(307);
    assert_eq!(answer.header("location"), Some(&*fast.layer_url()));
    assert_eq!(
        answer.header("docker-content-digest"),
        Some(&*image.layer.digest)
    );
    let requests = fast.requests.lock().expect("requests").clone();
    assert_eq!(requests.len(), 2, "{requests:?}");
}

#[tokio::test]
async fn the_script_prints_a_table_and_checks_digests() {
    let image = BigImage::new();
    let fast = ScriptedMirror::start(&image, Habit::Fast).await;
    let wrong = ScriptedMirror::start(&image, Habit::SendsWrongBytes).await;
    let direct = ScriptedMirror::start(&image, Habit::DoesNotRedirect).await;
    let mirror = mirror_of(&[&fast, &wrong, &direct]).await;
    let script = mirror.get("/speedtest.sh").send().await.expect(200);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("speedtest.sh");
    std::fs::write(&file, script.text()).expect("the script");
    for shell in ["dash", "bash"] {
        let Some(programs) = Programs::installed(&[shell, "curl"]) else {
            continue;
        };
        let mut command = programs.command(shell);
        command.arg(&file);
        for registry in [&wrong, &direct, &fast] {
            command.arg(registry.address().to_string());
        }
        command.arg("127.0.0.1:1").env("IMAGE", NAME);
        let table = run(&mut command.into()).await;
        let line = |host: String| {
            let line = table.lines().find(|line| line.starts_with(&host));
            line.unwrap_or_else(|| panic!("{shell}: no {host} in:\n{table}"))
                .to_owned()
        };
        assert!(
            line(fast.address().to_string()).contains(" right "),
            "{table}"
        );
        assert!(
            line(wrong.address().to_string()).contains(" WRONG "),
            "{table}"
        );
        let through = line(direct.address().to_string());
        assert!(
            through.contains("right") && through.contains("through this mirror"),
            "{table}"
        );
        assert!(
            line("127.0.0.1:1".to_owned()).contains("status 4"),
            "{table}"
        );
    }
}

#[tokio::test]
async fn docker_search_finds_images() {
    let Some(programs) = Programs::installed(&["docker", "dockerd"]) else {
        return;
    };
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.respond_from(Service::Registry, |received| {
        assert_eq!(received.path(), "/v1/search");
        let found = r#"{"num_results":1,"query":"x","results":[{"name":"nginx","description":"Official build of Nginx.","star_count":20000,"is_official":true}]}"#;
        Reply::new(200, &[("content-type", "application/json")], found)
    });
    let folder = tempfile::tempdir().expect("a folder");
    if !is_root("dockerd") {
        return;
    }
    let config = serde_json::json!({});
    let dockerd = Dockerd::start(&programs, folder.path(), &config, "vfs", Vec::new()).await;
    let term = format!("{}/nginx", mirror.address());
    let found = dockerd
        .docker(&["search", "--no-trunc", &term])
        .await
        .expect("a search");
    assert!(
        found.contains("nginx") && found.contains("20000") && found.contains("[OK]"),
        "{found}"
    );
    dockerd.stop();
}

#[tokio::test]
async fn wget_reads_the_same() {
    let Some(programs) = Programs::installed(&["wget"]) else {
        return;
    };
    let image = BigImage::new();
    let fast = ScriptedMirror::start(&image, Habit::Fast).await;
    let mirror = mirror_of(&[&fast]).await;
    let url = format!(
        "http://{}/speed/{}/{NAME}:latest",
        mirror.address(),
        fast.address()
    );
    let mut wget: Command = programs.command("wget");
    wget.args(["-q", "-O", "-", &url]);
    let output = output(&mut wget.into()).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout.len(), SIZE);
}

#[tokio::test]
async fn dockerd_pulls_with_the_file_that_the_page_shows() {
    let Some(programs) = Programs::installed(&["docker", "dockerd"]) else {
        return;
    };
    if !is_root("dockerd") {
        return;
    }
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let page = mirror.get("/").send().await.expect(200);
    let (_, rest) = page
        .text()
        .split_once("daemon.json</code></p>")
        .expect("the file's name");
    let (_, rest) = rest.split_once("<code>").expect("the file");
    let (file, _) = rest.split_once("</code>").expect("the file's end");
    let config = serde_json::from_str(file).expect("JSON");
    let folder = tempfile::tempdir().expect("a folder");
    let dockerd = Dockerd::start(&programs, folder.path(), &config, "vfs", Vec::new()).await;
    dockerd.docker(&["pull", "alpine"]).await.expect("a pull");
    dockerd.stop();
    let manifests = hub.received(Service::Registry);
    assert!(
        manifests
            .iter()
            .any(|received| received.path().contains("/manifests/"))
    );
}
