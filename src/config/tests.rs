//! Values of settings, and what becomes of them.

use super::*;
use proptest::prelude::*;

const ALICE: &str = "alice:0000000000000000000000000000000000000000000000000000000000000000";

fn parse(changes: &[(&str, &'static str)]) -> Result<Config, ConfigError> {
    Config::parse(|name| {
        let change = changes
            .iter()
            .find(|(changed, _)| *changed == name)
            .map(|(_, value)| *value);
        change
            .or_else(|| {
                VARIABLES
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, default)| *default)
            })
            .unwrap()
    })
}

#[test]
fn the_defaults_are_those_of_the_manifest() {
    let config = parse(&[]).unwrap();
    assert!(config.upstreams.is_single() && config.upstreams.first().is_docker_hub());
    let manifest: toml::Table = include_str!("../../spin.toml").parse().unwrap();
    let declared = manifest["variables"].as_table().unwrap();
    assert_eq!(declared.len(), VARIABLES.len());
    for (name, default) in VARIABLES {
        assert_eq!(declared[name]["default"].as_str(), Some(default), "{name}");
        let passed_on = manifest["component"]["hammal"]["variables"][name]
            .as_str()
            .unwrap();
        assert_eq!(passed_on, format!("{{{{ {name} }}}}"));
    }
}

#[test]
fn names_the_variable_that_is_wrong() {
    for (name, value) in [
        ("upstream", ""),
        ("upstream", "a b"),
        ("upstream", "http://registry.example"),
        ("upstream", "127.0.0.1:5000"),
        ("plain_http_upstreams", "http://registry.lan"),
        ("plain_http_upstreams", "registry.lan registry.example"),
        ("allowed_upstreams", "https://ghcr.io"),
        ("denied_upstreams", "*.*"),
        ("token_services", "a b"),
        ("upstream_credentials", "docker.io"),
        ("upstream_credentials", "docker.io=alice:a b"),
        ("upstream_credentials", "registry.lan:5000=alice:secret"),
        ("upstream_credentials", "127.0.0.1=alice:secret"),
        ("credentials_serve", "private"),
        ("credentials_serve", "all"),
        ("allowed_repositories", "Library/*"),
        ("denied_repositories", "ghcr.io/?"),
        ("upstream", ","),
        ("upstream", "ghcr.io, a b"),
        ("host_upstreams", "ghcr.mirror.example"),
        ("host_upstreams", "=ghcr.io"),
        ("host_upstreams", "a b=ghcr.io"),
        ("host_upstreams", "ghcr.mirror.example=https://ghcr.io/path"),
        ("host_upstreams", "ghcr.mirror.example=127.0.0.1:5000"),
        ("store", "redis"),
        ("manifest_cache", "yes"),
        ("tag_ttl", "1h"),
        ("max_stale", "9999999"),
        ("blob_delivery", "auto"),
        ("blob_store", "bucket"),
        ("blob_store", "https://s3.example/bucket/?x"),
        ("blob_store", "https://s3.example/bu cket/"),
        ("blob_store_region", ""),
        ("blob_store_region", "us/east"),
        ("blob_store_public_url", "cdn.example"),
        ("blob_store_repositories", "Library/*"),
        ("blob_store_max_blob", "0"),
        ("blob_store_max_blob", "5368709121"),
        ("blob_store_bytes_per_minute", "1GB"),
        ("secret", "short"),
        ("secret", "with a / and more than 16"),
        ("clients", "alice"),
        ("clients", ALICE.split_at(69).0),
        (
            "clients",
            "alice:0000000000000000000000000000000000000000000000000000000000000000, \
             alice:1111111111111111111111111111111111111111111111111111111111111111",
        ),
        ("client_limit", "many"),
        ("trusted_proxies", "-1"),
        ("page", "yes"),
        ("page", "ftp://mirror.example"),
        ("log_format", "xml"),
        ("server_timing", "yes"),
        ("private_networks", "open"),
        ("connect_timeout", "0"),
        ("first_byte_timeout", "-1"),
        ("between_bytes_timeout", "1.5"),
        ("exchange_timeout", "99999999999999999999"),
    ] {
        assert_eq!(
            parse(&[(name, value)]).map_err(|error| error.variable),
            Err(name),
            "{value}"
        );
    }
}

#[test]
fn nobody_needs_an_account_unless_there_is_one() {
    let closed = |value| parse(&[("clients", value)]).unwrap().access.is_closed();
    assert!(!closed("") && !closed(" , ") && closed(ALICE));
    let config = parse(&[("clients", ALICE)]).unwrap();
    assert_eq!(config.blob_delivery, BlobDelivery::Redirect);
}

#[test]
fn own_host_names_stand_for_upstreams() {
    let map = "ghcr.mirror.example=ghcr.io, hub.mirror.example:8080 = docker.io,";
    let config = parse(&[("host_upstreams", map), ("allowed_upstreams", "")]).unwrap();
    for (own, registry) in [
        ("ghcr.mirror.example", Some("https://ghcr.io")),
        ("GHCR.mirror.example:3000", Some("https://ghcr.io")),
        (
            "hub.mirror.example:8080",
            Some("https://registry-1.docker.io"),
        ),
        ("hub.mirror.example", None),
        ("mirror.example", None),
    ] {
        let found = config.upstream_for_host(&Authority::parse(own).unwrap());
        assert_eq!(
            found
                .map(|upstream| upstream.origin().to_string())
                .as_deref(),
            registry,
            "{own}"
        );
    }
}

#[test]
fn a_plain_http_upstream_needs_to_be_listed() {
    let listed = ("plain_http_upstreams", " 127.0.0.1:5000 , registry.lan:80,");
    for upstream in [
        "127.0.0.1:5000",
        "http://127.0.0.1:5000",
        "http://registry.lan",
    ] {
        let config = parse(&[listed, ("upstream", upstream)]).unwrap();
        assert!(
            config
                .upstreams
                .first()
                .origin()
                .to_string()
                .starts_with("http://")
        );
    }
}

#[test]
fn accounts_serve_all_only_where_the_mirror_is_closed() {
    let account = ("upstream_credentials", "docker.io=alice:secret");
    let serves = |changes: &[_]| parse(changes).map(|config| config.accounts.serves);
    assert_eq!(serves(&[account]), Ok(Serves::Public));
    let all = ("credentials_serve", "all");
    assert!(serves(&[account, all]).is_err());
    for closed in [("secret", "0123456789abcdef"), ("clients", ALICE)] {
        assert_eq!(serves(&[account, all, closed]), Ok(Serves::All));
    }
}

#[test]
fn accounts_are_of_registries_that_may_be_asked() {
    let account = ("upstream_credentials", "ghcr.io=alice:secret");
    for (variable, value, is_asked) in [
        ("allowed_upstreams", "ghcr.io", true),
        ("allowed_upstreams", "quay.io", false),
        ("denied_upstreams", "ghcr.io", false),
    ] {
        let parsed = parse(&[account, (variable, value)]);
        assert_eq!(parsed.is_ok(), is_asked, "{variable}={value}");
    }
}

#[test]
fn no_password_is_printed_with_the_settings() {
    let config = parse(&[("upstream_credentials", "docker.io=alice:hunter2")]).unwrap();
    let error = parse(&[("upstream_credentials", "docker.io=alice:hunter2 ")]).map(drop);
    let wrong = parse(&[("upstream_credentials", "docker.io=alice-hunter2")]).unwrap_err();
    let printed = format!("{config:?} {error:?} {wrong:?} {wrong}");
    assert!(
        !printed.contains("hunter2") && !printed.contains("alice"),
        "{printed}"
    );
}

const BUCKET: [(&str, &str); 3] = [
    ("blob_store", "http://s3.lan:9000/bucket/a"),
    ("blob_store_access_key", "access"),
    ("blob_store_secret_key", "wJalr/XUt+nFEMI"),
];

#[test]
fn a_blob_store_has_a_key_that_nothing_prints() {
    let config = parse(&BUCKET).unwrap();
    let store = config.blob_store.as_ref().unwrap();
    assert_eq!((&*store.host, &*store.path), ("s3.lan:9000", "/bucket/a/"));
    let printed = format!("{config:?}");
    assert!(!printed.contains("wJalr") && !printed.contains("\"access\""));
    for missing in ["blob_store_access_key", "blob_store_secret_key"] {
        let without: Vec<_> = BUCKET
            .into_iter()
            .filter(|(name, _)| *name != missing)
            .collect();
        let error = parse(&without).unwrap_err();
        assert_eq!(error.variable, missing);
        assert!(!error.to_string().contains("wJalr"));
    }
    assert_eq!(parse(&[]).unwrap().blob_store, None);
}

proptest! {
    #[test]
    fn no_value_panics(value in "\\PC{0,40}") {
        for (name, _) in VARIABLES {
            let _ = Config::parse(|asked| if asked == name { &value } else { "" });
        }
    }
}
