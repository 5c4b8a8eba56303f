//! The page in headless Chromium: set-up, looking up an image, keyboard, names for screen readers,
//! both languages, pictures in `target/screenshots`.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::mirrors::{BigImage, Habit, ScriptedMirror};
use crate::support::browser::Browser;
use crate::support::hub_fixture::HubFixture;
use crate::support::mirror::{Options, repository};

const SECRET: &str = "0123456789abcdef0123";

fn picture(name: &str) -> PathBuf {
    let folder = repository().join("target/screenshots");
    folder.join(format!("{name}.png"))
}

/// Expects that the page has written no fault and has asked nobody but the mirror.
pub async fn expect_clean(browser: &Browser, allowed: &[String]) {
    let console = browser.console().await;
    assert!(console.is_empty(), "{console:#?}");
    for url in browser.requests().await {
        let is_allowed = allowed
            .iter()
            .any(|allowed| url.starts_with(allowed.as_str()));
        assert!(is_allowed || url.starts_with("data:"), "{url}");
    }
}

#[tokio::test]
async fn the_page_sets_up_clients_in_both_languages() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let HubFixture { mirror, .. } = HubFixture::start().await;
    let own = format!("http://{}", mirror.address());
    for (language, title) in [("en", "Set up a client"), ("zh", "配置客户端")] {
        for (width, scheme) in [
            (1200, "light"),
            (1200, "dark"),
            (360, "light"),
            (360, "dark"),
        ] {
            browser.show(width, scheme).await;
            browser.open(&format!("{own}/?lang={language}")).await;
            browser
                .wait_for("document.querySelector('#status-list dd')")
                .await;
            browser
                .screenshot(&picture(&format!("{language}-{scheme}-{width}")))
                .await;
            let overflow = "return document.documentElement.scrollWidth - innerWidth";
            assert_eq!(browser.run(overflow).await, json!(0), "{language} {width}");
        }
        let text = "return document.getElementById('setup-title').textContent";
        assert_eq!(browser.run(text).await, json!(title));
        let daemon = "return document.querySelector('.of-docker code:nth-child(1)').closest('article').querySelector('pre code').textContent";
        let daemon = browser.run(daemon).await;
        let daemon: Value = serde_json::from_str(daemon.as_str().expect("text")).expect("JSON");
        assert_eq!(daemon, json!({ "registry-mirrors": [own] }));
        for (client, line) in [
            ("containerd", format!("[host.\"{own}\"]")),
            ("podman", "insecure = true".to_owned()),
            ("buildkit", "http = true".to_owned()),
            ("k3s", format!("- \"{own}\"")),
        ] {
            let select = format!(
                "document.getElementById('{client}').click(); return document.querySelector('.of-{client}').innerText"
            );
            let shown = browser.run(&select).await;
            assert!(
                shown.as_str().expect("text").contains(&line),
                "{client}: {shown}"
            );
        }
        let nothing_left = "return document.body.innerText.includes('{{t.')";
        assert_eq!(browser.run(nothing_left).await, json!(false));
    }
    expect_clean(&browser, &[format!("{own}/")]).await;
    browser.close().await;
}

#[tokio::test]
async fn a_closed_mirrors_page_stays_below_its_secret() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let HubFixture { mirror, .. } =
        HubFixture::with(|options| options.variable("secret", SECRET)).await;
    let own = format!("http://{}/{SECRET}", mirror.address());
    for path in ["", "/"] {
        browser.open(&format!("{own}{path}")).await;
        browser
            .wait_for("document.querySelector('#status-list dd')")
            .await;
    }
    let text = browser.run("return document.body.innerText").await;
    assert!(text.as_str().expect("text").contains(&own), "{text}");
    expect_clean(&browser, &[own.clone() + "/", own]).await;
    browser.close().await;
}

#[tokio::test]
async fn everything_is_reached_by_tab_and_has_a_name() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let HubFixture { mirror, .. } = HubFixture::start().await;
    browser.open(&format!("http://{}/", mirror.address())).await;
    browser
        .wait_for("document.querySelector('#status-list dd')")
        .await;
    // One radio button of a group is in the order of Tab.
    let expected = "const all = document.querySelectorAll('a[href], button:enabled, input, textarea, summary, [tabindex=\"0\"]');
        window.unreached = new Set([...all].filter(part => part.checkVisibility() && (part.type !== 'radio' || part.checked)));
        window.removed = () => { unreached.delete(document.activeElement); return unreached.size };
        return unreached.size";
    let count = browser.run(expected).await.as_u64().expect("a count");
    assert!(count > 20, "{count}");
    for _ in 0..count + 3 {
        browser.press_tab().await;
        browser.run("return removed()").await;
    }
    let left = "return [...unreached].map(part => part.outerHTML)";
    assert_eq!(browser.run(left).await, json!([]));

    let tree = browser
        .devtools("Accessibility.getFullAXTree", json!({}))
        .await;
    let nodes = tree["nodes"].as_array().expect("a tree");
    let (mut named, mut headings) = (0, 0);
    for node in nodes {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        let name = node["name"]["value"].as_str().unwrap_or_default();
        if [
            "button",
            "link",
            "textbox",
            "radio",
            "img",
            "table",
            "heading",
            "navigation",
        ]
        .contains(&role)
            && node["ignored"] != json!(true)
        {
            assert!(!name.trim().is_empty(), "{node}");
            named += 1;
        }
        headings += usize::from(role == "heading");
    }
    assert!(named > 20 && headings > 5, "{named} {headings}");
    browser.close().await;
}

#[tokio::test]
async fn an_image_is_looked_up_and_searched() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let image = BigImage::new();
    let registry = ScriptedMirror::start(&image, Habit::Fast).await;
    let mirror = Options::default()
        .upstream(registry.address())
        .plain_http(registry.addresses());
    let mirror = mirror.start().await;
    let own = mirror.address();
    browser
        .open(&format!("http://{own}/?lang=en&show=library/alpine"))
        .await;
    browser
        .wait_for("document.querySelectorAll('.tags button').length == 2")
        .await;
    let shown = browser
        .run("return document.getElementById('image-result').innerText")
        .await;
    let shown = shown.as_str().expect("text");
    for part in [
        "linux/amd64".to_owned(),
        "8.0 MB".to_owned(),
        format!("docker pull {own}/library/alpine:latest"),
        "podman pull docker.io/library/alpine:latest".to_owned(),
        "sha256:".to_owned(),
    ] {
        assert!(shown.contains(&part), "{part}: {shown}");
    }
    let more = "[...document.querySelectorAll('#image-result > button')].find(button => !button.hidden).click()";
    browser.run(more).await;
    browser
        .wait_for("document.querySelectorAll('.tags button').length == 4")
        .await;

    let search = "document.getElementById('image-name').value = 'minimal linux'; document.getElementById('image-form').requestSubmit()";
    browser.run(search).await;
    browser
        .wait_for("document.querySelector('.found li')")
        .await;
    browser
        .run("document.querySelector('.found button').click()")
        .await;
    browser
        .wait_for("document.querySelector('.tags button')")
        .await;

    let absent = "document.getElementById('image-name').value = 'library/absent:none'; document.getElementById('image-form').requestSubmit()";
    browser.run(absent).await;
    browser
        .wait_for("document.getElementById('image-message').textContent.includes('404')")
        .await;
    browser.close().await;
}
