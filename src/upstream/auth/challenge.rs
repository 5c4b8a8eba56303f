//! Challenges: the `WWW-Authenticate` headers of a 401 (RFC 9110, section 11.6.1; distribution's
//! token authentication specification).

use super::scope::Scope;
use crate::registry::origin::HttpUrl;
use crate::upstream::MAX_HEADER;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};
use http_auth::parser::ChallengeParser;

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
    /// several, Basic ones among them. A challenge that can't be parsed is skipped, with the rest
    /// of its header.
    pub fn find(headers: &HeaderMap) -> Option<Challenge> {
        let parsed = |text| ChallengeParser::new(text).map_while(Result::ok);
        let headers = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(text);
        headers
            .flat_map(parsed)
            .find_map(|challenge| Challenge::from_parsed(&challenge))
    }

    fn from_parsed(parsed: &http_auth::ChallengeRef<'_>) -> Option<Challenge> {
        if !parsed.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameter = |name: &str| {
            let found = parsed
                .params
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        let service = parameter("service").filter(|service| !service.is_empty());
        if service
            .as_ref()
            .is_some_and(|service| service.len() > MAX_SERVICE)
        {
            return None;
        }
        Some(Challenge {
            realm: HttpUrl::parse(&parameter("realm")?).ok()?,
            service,
            scopes: Scope::parse_list(&parameter("scope").unwrap_or_default()).ok()?,
        })
    }
}

fn text(header: &HeaderValue) -> Option<&str> {
    header.to_str().ok().filter(|text| text.len() <= MAX_HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;
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
                &[r#"Bearer realm="https://a.io/t" , scope="" , service="""#],
                "https://a.io/t  ",
            ),
        ] {
            assert_eq!(described(headers).as_deref(), Some(expected), "{headers:?}");
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
