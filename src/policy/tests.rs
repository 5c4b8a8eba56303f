use super::*;

/// The policy of the defaults, with these hosts listed for plain http.
pub fn listing(plain_http: &[&str]) -> Policy {
    let hosts = |text: &[&str]| {
        text.iter()
            .map(|text| HostPattern::parse(text).unwrap())
            .collect()
    };
    Policy {
        defaults: Vec::new(),
        plain_http: plain_http
            .iter()
            .map(|text| Authority::parse(text).unwrap().on(Scheme::Http))
            .collect(),
        own: hosts(&["registry-1.docker.io"]),
        allowed_upstreams: hosts(&["*"]),
        denied_upstreams: Vec::new(),
        token_services: hosts(&["auth.docker.io", "ghcr.io"]),
        allowed_repositories: vec![RepositoryPattern::parse("*").unwrap()],
        denied_repositories: Vec::new(),
        kept_repositories: Vec::new(),
        blob_store: None,
    }
}

fn origin(text: &str) -> Origin {
    match text.split_once("://") {
        Some(("http", rest)) => Authority::parse(rest).unwrap().on(Scheme::Http),
        Some((_, rest)) => Authority::parse(rest).unwrap().on(Scheme::Https),
        None => Authority::parse(text).unwrap().on(Scheme::Https),
    }
}

fn permit(policy: &Policy, text: &str) -> Result<String, Denied> {
    let permitted = policy.permit_registry(&RegistryAddress::parse(text).unwrap());
    permitted.map(|permitted| permitted.as_str().to_owned())
}

#[test]
fn lets_public_registries_pass_on_https_only() {
    let policy = listing(&[]);
    for (asked, answer) in [
        ("ghcr.io", Ok("https://ghcr.io")),
        (
            "https://registry.example.com:8443",
            Ok("https://registry.example.com:8443"),
        ),
        ("http://ghcr.io", Err(Denied::PlainHttp)),
        ("127.0.0.1", Err(Denied::Address)),
        ("https://[::1]:5000", Err(Denied::Address)),
        ("8.8.8.8", Err(Denied::Address)),
        ("2130706433", Err(Denied::Address)),
        ("0x7f.0.0.1", Err(Denied::Address)),
        ("[::ffff:10.0.0.1]", Err(Denied::Address)),
        ("localhost:5000", Err(Denied::PrivateName)),
        ("registry", Err(Denied::PrivateName)),
        ("a.localhost", Err(Denied::PrivateName)),
        ("printer.local", Err(Denied::PrivateName)),
        ("metadata.google.internal", Err(Denied::PrivateName)),
        ("registry.default.svc", Err(Denied::PrivateName)),
        (
            "registry.default.svc.cluster.local",
            Err(Denied::PrivateName),
        ),
        ("service.spin.internal", Err(Denied::PrivateName)),
        ("registry.example.com:22", Err(Denied::Port)),
        ("registry.example.com:80", Err(Denied::Port)),
        ("notlocal.example", Ok("https://notlocal.example")),
    ] {
        assert_eq!(permit(&policy, asked), answer.map(str::to_owned), "{asked}");
    }
}

#[test]
fn what_the_operator_lists_may_be_plain_and_private() {
    let policy = listing(&["127.0.0.1:5000", "registry.lan"]);
    for (asked, answer) in [
        ("127.0.0.1:5000", Ok("http://127.0.0.1:5000")),
        ("http://127.0.0.1:5000", Ok("http://127.0.0.1:5000")),
        ("https://127.0.0.1:5000", Ok("https://127.0.0.1:5000")),
        ("registry.lan", Ok("http://registry.lan")),
        ("registry.lan:80", Ok("http://registry.lan")),
        ("127.0.0.1:5001", Err(Denied::Address)),
        ("http://127.0.0.1:5001", Err(Denied::PlainHttp)),
        ("127.0.0.2:5000", Err(Denied::Address)),
        ("registry.lan:5000", Err(Denied::PrivateName)),
    ] {
        assert_eq!(permit(&policy, asked), answer.map(str::to_owned), "{asked}");
    }
}

#[test]
fn the_operator_closes_upstreams_and_their_realms() {
    let patterns = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| HostPattern::parse(text).unwrap())
            .collect()
    };
    let closed = Policy {
        allowed_upstreams: patterns(&["ghcr.io", "*.example.com", "127.0.0.1:5000"]),
        denied_upstreams: patterns(&["bad.example.com"]),
        ..listing(&["127.0.0.1:5000", "127.0.0.1:5001"])
    };
    for (asked, answer) in [
        ("ghcr.io", Ok("https://ghcr.io")),
        ("a.example.com", Ok("https://a.example.com")),
        ("127.0.0.1:5000", Ok("http://127.0.0.1:5000")),
        ("127.0.0.1:5001", Err(Denied::ClosedUpstream)),
        ("quay.io", Err(Denied::ClosedUpstream)),
        ("ghcr.io:8443", Err(Denied::ClosedUpstream)),
        ("bad.example.com", Err(Denied::ClosedUpstream)),
        ("bad.example.com:8443", Err(Denied::ClosedUpstream)),
    ] {
        assert_eq!(permit(&closed, asked), answer.map(str::to_owned), "{asked}");
    }
    for (realm, upstream, answer) in [
        ("auth.docker.io", "ghcr.io", Ok(())),
        ("gitlab.com", "registry.gitlab.com", Ok(())),
        ("token.example.co.uk", "registry.example.co.uk", Ok(())),
        (
            "token.other.co.uk",
            "registry.example.co.uk",
            Err(Denied::ClosedRealm),
        ),
        ("evil.example", "ghcr.io", Err(Denied::ClosedRealm)),
        (
            "bad.example.com",
            "a.example.com",
            Err(Denied::ClosedUpstream),
        ),
        ("10.0.0.1", "10.0.0.1", Err(Denied::Address)),
        ("http://127.0.0.1:5001", "http://127.0.0.1:5000", Ok(())),
    ] {
        let permitted = closed
            .permit_realm(origin(realm), &origin(upstream))
            .map(drop);
        assert_eq!(permitted, answer, "{realm} for {upstream}");
    }
}

#[test]
fn only_the_operators_own_registries_have_realms_everywhere() {
    let policy = Policy {
        token_services: vec![HostPattern::parse("auth.docker.io").unwrap()],
        ..listing(&["127.0.0.1:5000"])
    };
    for (upstream, realm, answer) in [
        ("registry-1.docker.io", "auth.example", Ok(())),
        ("http://127.0.0.1:5000", "auth.example", Ok(())),
        ("mirror.example", "mirror.example", Ok(())),
        ("registry.gitlab.com", "gitlab.com", Ok(())),
        ("mirror.example", "auth.docker.io", Ok(())),
        ("mirror.example", "auth.example", Err(Denied::ClosedRealm)),
    ] {
        let permitted = policy.permit_realm(origin(realm), &origin(upstream));
        assert_eq!(permitted.map(drop), answer, "{realm} for {upstream}");
    }
}

#[test]
fn only_the_operators_own_registries_lead_to_what_is_listed() {
    let policy = listing(&["127.0.0.1:5000", "127.0.0.1:5001"]);
    for (upstream, to, answer) in [
        ("registry-1.docker.io", "http://127.0.0.1:5000", Ok(())),
        ("http://127.0.0.1:5001", "http://127.0.0.1:5000", Ok(())),
        (
            "evil.example",
            "http://127.0.0.1:5000",
            Err(Denied::Internal),
        ),
        (
            "evil.example",
            "https://127.0.0.1:5000",
            Err(Denied::Internal),
        ),
        (
            "registry-1.docker.io:8443",
            "http://127.0.0.1:5000",
            Err(Denied::Internal),
        ),
        ("evil.example", "https://cdn.example", Ok(())),
    ] {
        assert_eq!(
            policy
                .permit_content_host(origin(to), &origin(upstream))
                .map(drop),
            answer,
            "{upstream} to {to}"
        );
        let of_realm = match answer {
            Ok(()) if upstream == "evil.example" => Err(Denied::ClosedRealm),
            answer => answer,
        };
        assert_eq!(
            policy.permit_realm(origin(to), &origin(upstream)).map(drop),
            of_realm,
            "{upstream} to {to}"
        );
    }
}

#[test]
fn the_operator_closes_repositories() {
    let patterns = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| RepositoryPattern::parse(text).unwrap())
            .collect()
    };
    let policy = Policy {
        allowed_repositories: patterns(&["library/*", "ghcr.io/team/*"]),
        denied_repositories: patterns(&["ghcr.io/team/secret"]),
        defaults: vec![origin("registry-1.docker.io")],
        ..listing(&[])
    };
    for (upstream, name, permitted) in [
        ("registry-1.docker.io", "library/alpine", true),
        ("registry-1.docker.io", "other/alpine", false),
        ("quay.io", "library/alpine", false),
        ("ghcr.io", "team/app", true),
        ("ghcr.io", "team/secret", false),
    ] {
        let answer = policy.permit_repository(&origin(upstream), &Name::parse(name).unwrap());
        assert_eq!(answer.is_ok(), permitted, "{upstream} {name}");
    }
}

#[test]
fn passwords_go_to_the_registrys_own_domain_and_to_named_token_servers() {
    for (token_services, realm, upstream, answer) in [
        ("*", "auth.docker.io", "registry-1.docker.io", Ok(())),
        ("*", "harbor.example.com", "harbor.example.com", Ok(())),
        ("*", "gitlab.com", "registry.gitlab.com", Ok(())),
        ("*", "auth.reg.example.com", "reg.example.com", Ok(())),
        (
            "*",
            "mallory.azurecr.io",
            "alice.azurecr.io",
            Err(Denied::ClosedRealm),
        ),
        (
            "mallory.azurecr.io",
            "mallory.azurecr.io",
            "alice.azurecr.io",
            Ok(()),
        ),
        ("*", "harbor.example.com:8443", "harbor.example.com", Ok(())),
        ("*", "ghcr.io", "lscr.io", Err(Denied::ClosedRealm)),
        ("ghcr.io", "ghcr.io", "lscr.io", Ok(())),
        ("*.example.org", "a.example.org", "example.com", Ok(())),
        (
            "ghcr.io",
            "ghcr.io:8443",
            "lscr.io",
            Err(Denied::ClosedRealm),
        ),
        (
            "*",
            "docker.io.evil.example",
            "registry-1.docker.io",
            Err(Denied::ClosedRealm),
        ),
        (
            "*",
            "evil-docker.io",
            "registry-1.docker.io",
            Err(Denied::ClosedRealm),
        ),
        (
            "*",
            "http://auth.example.com",
            "a.example.com",
            Err(Denied::PlainHttp),
        ),
        (
            "auth.example.com:80",
            "http://auth.example.com",
            "a.example.com",
            Err(Denied::PlainHttp),
        ),
        (
            "*",
            "http://lan.example:5001",
            "http://lan.example:5000",
            Ok(()),
        ),
        (
            "*",
            "http://10.0.0.2:5001",
            "http://10.0.0.1:5000",
            Err(Denied::ClosedRealm),
        ),
        (
            "10.0.0.2:5001",
            "http://10.0.0.2:5001",
            "http://10.0.0.1:5000",
            Ok(()),
        ),
    ] {
        let policy = Policy {
            token_services: vec![HostPattern::parse(token_services).unwrap()],
            ..listing(&[])
        };
        let permitted = policy.permit_credentials(&origin(realm), &origin(upstream));
        assert_eq!(
            permitted, answer,
            "{realm} for {upstream} with {token_services}"
        );
    }
}

#[test]
fn only_what_the_operator_names_is_kept() {
    let patterns = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| RepositoryPattern::parse(text).unwrap())
            .collect()
    };
    for (kept, upstream, name, expected) in [
        (&["*"][..], "registry.lan:5000", "a/b", true),
        (&["*"], "ghcr.io", "a/b", false),
        (&["ghcr.io/a/*"], "ghcr.io", "a/b", true),
        (&["ghcr.io/a/*"], "ghcr.io", "b/a", false),
        (&["ghcr.io/a/*"], "quay.io", "a/b", false),
        (&[], "registry.lan:5000", "a/b", false),
    ] {
        let policy = Policy {
            kept_repositories: patterns(kept),
            ..listing(&["registry.lan:5000"])
        };
        let registry = RegistryAddress::parse(upstream).unwrap();
        let upstream = policy.permit_registry(&registry).unwrap();
        let name = Name::parse(name).unwrap();
        assert_eq!(policy.keeps(&upstream, &name), expected, "{kept:?} {name}");
    }
}
