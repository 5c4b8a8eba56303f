//! Challenges: the `WWW-Authenticate` headers of a 401 (RFC 9110, section 11.6.1; distribution's
//! token authentication specification).

use super::grammar::{self, RawChallenge};
use super::scope::Scope;
use crate::registry::origin::HttpUrl;
use crate::upstream::MAX_HEADER;
use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// Bytes. A challenge with a longer service name is not usable.
const MAX_SERVICE: usize = 256;

/// A Bearer challenge: the token server, and the scopes to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    pub realm: HttpUrl,
    pub service: Option<String>,
    pub scopes: Vec<Scope>,
}

impl Challenge {
    /// Returns the first usable Bearer challenge. A response may have several, in one header or in
    /// several, Basic ones among them. What is malformed in a header is skipped, with the rest of
    /// it.
    pub fn find(headers: &HeaderMap) -> Option<Challenge> {
        raw_challenges(headers).find_map(|challenge| Challenge::from_raw(&challenge))
    }

    fn from_raw(raw: &RawChallenge) -> Option<Challenge> {
        if !raw.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let service = raw.parameter("service").filter(|text| !text.is_empty());
        if service.is_some_and(|service| service.len() > MAX_SERVICE) {
            return None;
        }
        Some(Challenge {
            realm: HttpUrl::parse(raw.parameter("realm")?).ok()?,
            service: service.map(str::to_owned),
            scopes: Scope::parse_list(raw.parameter("scope").unwrap_or_default()).ok()?,
        })
    }
}

/// Whether a registry asks for a user and a password itself (Nexus, Artifactory).
pub fn offers_basic(headers: &HeaderMap) -> bool {
    raw_challenges(headers).any(|challenge| challenge.scheme.eq_ignore_ascii_case("basic"))
}

fn raw_challenges(headers: &HeaderMap) -> impl Iterator<Item = RawChallenge> {
    let headers = headers.get_all(WWW_AUTHENTICATE).iter();
    headers
        .filter(|header| header.len() <= MAX_HEADER)
        .flat_map(|header| grammar::parse(header.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn find(headers: &[&str]) -> Option<Challenge> {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(WWW_AUTHENTICATE, HeaderValue::from_str(header).unwrap());
        }
        Challenge::find(&map)
    }

    fn described(headers: &[&str]) -> Option<String> {
        let challenge = find(headers)?;
        let scopes: Vec<_> = challenge.scopes.iter().map(Scope::as_str).collect();
        Some(format!(
            "{} {} {}",
            challenge.realm,
            challenge.service.unwrap_or_default(),
            scopes.join(" ")
        ))
    }

    #[test]
    fn reads_the_challenges_of_real_registries() {
        for (headers, expected) in [
            (
                &[
                    r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#,
                ][..],
                "https://auth.docker.io/token registry.docker.io repository:library/alpine:pull",
            ),
            (
                &[
                    r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull",error="invalid_token""#,
                ],
                "https://auth.docker.io/token registry.docker.io repository:a/b:pull",
            ),
            (
                &[r#"Basic realm="x, y", Bearer realm="https://a.io/t",service="s""#],
                "https://a.io/t s ",
            ),
            (
                &[r#"Basic realm="x""#, r#"Bearer realm="https://a.io/t""#],
                "https://a.io/t  ",
            ),
            (
                &["Bearer ,,= \"", r#"Bearer realm="https://a.io/t""#],
                "https://a.io/t  ",
            ),
            (
                &[
                    r#"bearer REALM="https://a.io/t",SERVICE="s",Scope="repository:a:pull,push repository:b:pull""#,
                ],
                "https://a.io/t s repository:a:pull repository:b:pull",
            ),
            (
                &[r#"Bearer realm="https://a.io/t?account=x=y&z",service="a \"quoted\" one""#],
                r#"https://a.io/t?account=x=y&z a "quoted" one "#,
            ),
            (
                &[
                    r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#,
                ],
                "https://public.ecr.aws/token/ public.ecr.aws aws",
            ),
            (
                &[
                    r#"Bearer realm="https://nvcr.io/proxy_auth",scope="repository:nvidia/cuda:pull,push""#,
                ],
                "https://nvcr.io/proxy_auth  repository:nvidia/cuda:pull",
            ),
            (
                &[
                    r#"Bearer realm="https://gcr.io/v2/token",service="gcr.io",scope="repository:p/i:*""#,
                ],
                "https://gcr.io/v2/token gcr.io repository:p/i:pull",
            ),
            (
                &[r#"Bearer  realm="https://a.io/t",  service="s""#],
                "https://a.io/t s ",
            ),
            (
                &[r#"Bearer realm="https://token_service.a.io./t",service="s""#],
                "https://token_service.a.io/t s ",
            ),
            (
                &[r#"Bearer realm="https://a.io/t" , scope="" , service="""#],
                "https://a.io/t  ",
            ),
        ] {
            assert_eq!(described(headers).as_deref(), Some(expected), "{headers:?}");
        }
    }

    #[test]
    fn finds_a_basic_challenge_among_others() {
        for (header, offers) in [
            (r#"Basic realm="Sonatype Nexus Repository Manager""#, true),
            (r#"Bearer realm="https://a.io/t", BASIC realm="x""#, true),
            (
                r#"Bearer realm="https://a.io/t",service="Basic realm=x""#,
                false,
            ),
            ("", false),
        ] {
            let map = HeaderMap::from_iter([(WWW_AUTHENTICATE, header.parse().unwrap())]);
            assert_eq!(offers_basic(&map), offers, "{header}");
        }
    }

    #[test]
    fn skips_what_is_no_usable_bearer_challenge() {
        let long = format!(r#"Bearer realm="https://a.io/{}""#, "x".repeat(MAX_HEADER));
        let service = format!(
            r#"Bearer realm="https://a.io/",service="{}""#,
            "s".repeat(MAX_SERVICE + 1)
        );
        for header in [
            "",
            "Bearer",
            r#"Basic realm="https://a.io/t""#,
            r#"Bearer service="s""#,
            r#"Bearer realm="""#,
            r#"Bearer realm="token""#,
            r#"Bearer realm="ftp://a.io/t""#,
            r#"Bearer realm="https://user@a.io/t""#,
            r#"Bearer realm="https://a.io/t"#,
            r#"Bearer realm="https://a.io/t",scope="a\"b""#,
            &long,
            &service,
        ] {
            assert_eq!(find(&[header]), None, "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(header in "(Bearer |Basic )?(realm=\"https://[a-z.]{1,9}/?\"|[a-z]{1,7}=\"?[ -~]{0,20}\"?|,| ){0,6}") {
            find(&[&header]);
        }
    }
}
