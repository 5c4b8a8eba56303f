//! The page at `/`: one template, two languages, and this mirror's own address in every example.

use super::file::File;
use super::template::{choose, fill};
use crate::request::external_url::ExternalUrl;
use crate::request::query::Query;
use http::{HeaderMap, header};
use serde_json::{Value, json};
use std::borrow::Cow;

const TEMPLATE: &str = include_str!("page.html");
/// Mirrors of Docker Hub for the speed test.
pub const MIRRORS: &str = include_str!("mirrors.json");

/// The files of `deploy/clients`, which the end-to-end tests pull with.
const DAEMON: &str = include_str!("../../deploy/clients/daemon.json");
const HOSTS: &str = include_str!("../../deploy/clients/hosts.toml");
const REGISTRIES: &str = include_str!("../../deploy/clients/registries.conf");
const BUILDKITD: &str = include_str!("../../deploy/clients/buildkitd.toml");
const K3S: &str = include_str!("../../deploy/clients/registries.yaml");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    English,
    Chinese,
}

impl Language {
    /// Returns the language that the query names (`lang=`), or else the first of a browser's that
    /// the page has.
    fn of_request(headers: &HeaderMap, query: &str) -> Language {
        let named = Query::parse(Some(query)).take("lang").ok().flatten();
        if let Some(language) = named.as_deref().and_then(Language::parse) {
            return language;
        }
        let languages = headers
            .get(header::ACCEPT_LANGUAGE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        // Browsers list their languages in the order of preference.
        let mut languages = languages.split(',');
        languages
            .find_map(Language::parse)
            .unwrap_or(Language::English)
    }

    /// Reads a language tag, with or without a weight.
    fn parse(tag: &str) -> Option<Language> {
        let tag = tag.trim().to_ascii_lowercase();
        match tag.split(['-', ';', '_']).next() {
            Some("zh") => Some(Language::Chinese),
            Some("en") => Some(Language::English),
            _ => None,
        }
    }

    fn texts(self) -> &'static str {
        match self {
            Language::English => include_str!("text.en.json"),
            Language::Chinese => include_str!("text.zh.json"),
        }
    }
}

/// Returns the page in the visitor's language.
pub fn page(
    headers: &HeaderMap,
    external_url: &ExternalUrl,
    query: &str,
    has_accounts: bool,
) -> File {
    let language = Language::of_request(headers, query);
    File {
        content_type: "text/html; charset=utf-8",
        content: render(language, external_url, has_accounts)
            .into_bytes()
            .into(),
        is_gzip: false,
        vary: Some("accept-language, host, x-forwarded-proto"),
    }
}

fn render(language: Language, external_url: &ExternalUrl, has_accounts: bool) -> String {
    // The tests parse both files.
    let texts: Value = serde_json::from_str(language.texts()).unwrap_or_default();
    let (mirror, host) = (external_url.url(), external_url.host());
    let path = external_url.path_prefix();
    let is_closed = !path.is_empty();
    let is_http = mirror.starts_with("http:");
    // Who opened the page by the secret needs no account.
    let needs_login = has_accounts && !is_closed;
    let data = data(&texts, &mirror, &host, path, needs_login);
    let (lang, other) = match language {
        Language::English => ("en", "zh"),
        Language::Chinese => ("zh-CN", "en"),
    };
    let own = |file: &str| with_address(file, &mirror, &host);
    // In another order a part inside another would lose its end.
    let template = choose(TEMPLATE, "http", is_http);
    let template = choose(&template, "closed", is_closed);
    let template = choose(&template, "open", !is_closed);
    let template = choose(&template, "login", needs_login);
    let template = choose(&template, "free", !needs_login);
    fill(&template, |name| {
        Some(match name {
            "lang" => lang.into(),
            "other" => other.into(),
            "mirror" => mirror.as_str().into(),
            "host" => host.as_str().into(),
            "path" => path.into(),
            "version" => env!("CARGO_PKG_VERSION").into(),
            "data" => data.as_str().into(),
            "daemon" => own(DAEMON).into(),
            "hosts" => own(HOSTS).into(),
            "registries" => podman_file(&own(REGISTRIES), &host, is_http).into(),
            "buildkitd" => buildkit_file(&own(BUILDKITD), &host, is_http).into(),
            "k3s" => own(K3S).into(),
            name => {
                let text = texts.get("page")?.get(name.strip_prefix("t.")?)?;
                Cow::Borrowed(text.as_str()?)
            }
        })
    })
}

/// Returns what the scripts have to know, as JSON that is safe inside an element `script`.
fn data(texts: &Value, mirror: &str, host: &str, path: &str, needs_login: bool) -> String {
    let mirrors: Value = serde_json::from_str(MIRRORS).unwrap_or_default();
    let data = json!({
        "mirror": mirror,
        "host": host,
        "path": path,
        "closed": !path.is_empty(),
        "login": needs_login,
        "text": texts.get("script"),
        "mirrors": mirrors,
    });
    data.to_string().replace('<', "\\u003c")
}

/// Puts this mirror in the place of the example's.
fn with_address(file: &str, mirror: &str, host: &str) -> String {
    // In one pass: the mirror's own name may hold the example's.
    let template = file
        .trim_end()
        .replace("https://mirror.example", "{{mirror}}")
        .replace("mirror.example", "{{host}}");
    fill(&template, |name| match name {
        "mirror" => Some(mirror.into()),
        "host" => Some(host.into()),
        _ => None,
    })
}

/// podman has to be told of a mirror on plain http.
fn podman_file(file: &str, host: &str, is_http: bool) -> String {
    let mut told = String::new();
    for line in file.lines() {
        if !told.is_empty() {
            told.push('\n');
        }
        told.push_str(line);
        if is_http && line.starts_with("location") && line.contains(host) {
            told.push_str("<span class=\"insecure\">\ninsecure = true</span>");
        }
    }
    told
}

/// So has BuildKit.
fn buildkit_file(file: &str, host: &str, is_http: bool) -> String {
    if !is_http {
        return file.to_owned();
    }
    format!("{file}<span class=\"insecure\">\n\n[registry.\"{host}\"]\n  http = true</span>")
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use http::Request;

    pub fn external_url(host: &str, scheme: &str, path_prefix: &str) -> ExternalUrl {
        let request = Request::get("/")
            .header("host", host)
            .header("x-forwarded-proto", scheme);
        ExternalUrl::from_request(&request.body(()).unwrap(), path_prefix)
    }

    fn page_at(scheme: &str, path_prefix: &str) -> String {
        let url = external_url("mirror.test:8443", scheme, path_prefix);
        render(Language::English, &url, false)
    }

    #[test]
    fn shows_the_mirrors_own_address_in_every_file() {
        let page = page_at("https", "");
        for line in [
            "\"registry-mirrors\": [\"https://mirror.test:8443\"]",
            "[host.\"https://mirror.test:8443\"]",
            "location = \"mirror.test:8443/ghcr.io\"",
            "mirrors = [\"mirror.test:8443\"]",
            "- \"https://mirror.test:8443\"",
            "docker pull mirror.test:8443/library/alpine",
            "https://mirror.test:8443/speedtest.sh",
        ] {
            assert!(page.contains(line), "{line}");
        }
        assert!(!page.contains("mirror.example\"") && !page.contains("insecure = true"));
    }

    #[test]
    fn a_mirror_may_have_the_examples_name_in_its_own() {
        let file = with_address(DAEMON, "https://mirror.example.org", "mirror.example.org");
        assert!(file.contains("[\"https://mirror.example.org\"]"), "{file}");
    }

    #[test]
    fn tells_clients_of_plain_http() {
        let page = page_at("http", "");
        assert!(page.contains("\"http://mirror.test:8443\""));
        assert_eq!(page.matches("insecure = true").count(), 2);
        assert!(page.contains("[registry.\"mirror.test:8443\"]\n  http = true"));
    }

    #[test]
    fn a_closed_mirror_shows_what_can_be_used_with_its_secret() {
        let page = page_at("https", "/hidden");
        assert!(page.contains("[\"https://mirror.test:8443/hidden\"]"));
        assert!(page.contains("href=\"/hidden/page/page.css\""));
        for line in ["docker pull mirror.test", "location =", "buildx"] {
            assert!(!page.contains(line), "{line}");
        }
    }

    #[test]
    fn a_mirror_with_accounts_says_how_to_log_in() {
        for (prefix, has_accounts, says) in [
            ("", true, true),
            ("", false, false),
            ("/hidden", true, false),
        ] {
            let url = external_url("mirror.test", "https", prefix);
            let page = render(Language::English, &url, has_accounts);
            assert_eq!(page.contains("<code>docker login mirror.test</code>"), says);
            assert_eq!(page.contains("\"login\":true"), says);
            assert_eq!(page.contains("No login"), !says, "{page}");
        }
    }

    #[test]
    fn nothing_is_left_of_the_template() {
        for language in [Language::English, Language::Chinese] {
            for (scheme, prefix) in [("http", ""), ("https", "/hidden"), ("http", "/hidden")] {
                for has_accounts in [false, true] {
                    let url = external_url("mirror.test", scheme, prefix);
                    let page = render(language, &url, has_accounts);
                    assert!(!page.contains("{{") && !page.contains("<!-- "), "{page}");
                }
            }
        }
    }

    #[test]
    fn both_languages_have_the_same_texts_and_all_of_them() {
        let texts = |language: Language| -> serde_json::Value {
            serde_json::from_str(language.texts()).unwrap()
        };
        let (english, chinese) = (texts(Language::English), texts(Language::Chinese));
        for part in ["page", "script"] {
            let keys = |texts: &serde_json::Value| -> Vec<String> {
                texts[part].as_object().unwrap().keys().cloned().collect()
            };
            assert_eq!(keys(&english), keys(&chinese));
            for key in keys(&english) {
                for texts in [&english, &chinese] {
                    assert!(!texts[part][&key].as_str().unwrap().is_empty(), "{key}");
                }
            }
        }
        for key in english["page"].as_object().unwrap().keys() {
            assert!(
                TEMPLATE.contains(&format!("{{{{t.{key}}}}}")),
                "{key} is not used"
            );
        }
    }

    #[test]
    fn is_in_the_visitors_language() {
        for (accepted, query, language) in [
            ("zh-CN,zh;q=0.9,en;q=0.8", "", Language::Chinese),
            ("en-US,zh;q=0.5", "", Language::English),
            ("ja,zh-TW;q=0.5,en;q=0.4", "", Language::Chinese),
            ("de", "", Language::English),
            ("", "", Language::English),
            ("en", "lang=zh", Language::Chinese),
            ("zh", "image=a&lang=en", Language::English),
            ("zh", "lang=fr", Language::Chinese),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_LANGUAGE, accepted.parse().unwrap());
            assert_eq!(
                Language::of_request(&headers, query),
                language,
                "{accepted} {query}"
            );
        }
    }

    #[test]
    fn every_mirror_of_the_speed_test_is_a_public_registry() {
        use crate::policy::tests::listing;
        use crate::registry::address::RegistryAddress;
        let mirrors: Vec<String> = serde_json::from_str(MIRRORS).unwrap();
        assert!(mirrors.contains(&"docker.io".to_owned()));
        for mirror in &mirrors {
            let address = RegistryAddress::parse(mirror).unwrap();
            assert!(listing(&[]).permit_registry(&address).is_ok(), "{mirror}");
        }
    }
}
