//! The tables of `docs/errors.md`, row by row.

use super::*;
use crate::platform::TransportError;
use crate::policy::permitted::Denied;
use crate::upstream::error::{ManifestError, RedirectError};
use http::HeaderMap;

const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A row of a table.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    answer: String,
    status: String,
    code: String,
    next_candidate: String,
    cached_copy: String,
}

/// Returns the rows of the table below a heading.
fn rows(heading: &str) -> Vec<Row> {
    let page = include_str!("../../../docs/errors.md");
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let parse = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [answer, status, code, next_candidate, cached_copy] = cells[..] else {
            panic!("five columns: {line}");
        };
        Row {
            answer: answer.to_owned(),
            status: status.to_owned(),
            code: code.trim_matches('`').to_owned(),
            next_candidate: next_candidate.to_owned(),
            cached_copy: cached_copy.to_owned(),
        }
    };
    rows.map(parse).collect()
}

/// Returns the errors that a row speaks of.
fn errors(answer: &str) -> Vec<UpstreamError> {
    use UpstreamError as E;
    let with_code = |status: u16, code| {
        E::from_status(
            StatusCode::from_u16(status).unwrap(),
            code,
            &HeaderMap::new(),
        )
    };
    let status = |code: u16| with_code(code, None);
    let token_status =
        |code: u16| E::Token(TokenError::Status(StatusCode::from_u16(code).unwrap()));
    let blob_host = |code: u16| E::BlobHost(StatusCode::from_u16(code).unwrap());
    if let Some(code) = answer
        .strip_prefix("status ")
        .and_then(|code| code.parse().ok())
    {
        return vec![status(code), with_code(code, Some(ErrorCode::Unknown))];
    }
    if let Some((status, code)) = answer
        .strip_prefix("status ")
        .and_then(|rest| rest.strip_suffix('`')?.split_once(" with the code `"))
    {
        let document = format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#);
        let code = ErrorCode::from_document(document.as_bytes());
        return vec![with_code(status.parse().unwrap(), code)];
    }
    match answer {
        "connection refused" => vec![TransportError::Connect.into()],
        "no answer in time" => vec![TransportError::TimedOut.into()],
        "name does not resolve" => vec![TransportError::Dns.into()],
        "certificate not valid" => vec![TransportError::Tls.into()],
        "address blocked by the host" => vec![TransportError::Forbidden.into()],
        "connection breaks, or not HTTP" => vec![TransportError::Broken.into()],
        "status 401 in spite of a new token, or without a Bearer challenge" => {
            vec![E::Denied, status(401)]
        }
        "another 5xx status" => [502, 505, 507, 599].map(status).into(),
        "status 400, 406, 413, 414, 415, 422 or 431" => {
            [400, 406, 413, 414, 415, 422, 431].map(status).into()
        }
        "another status" => [201, 204, 206, 402, 405, 408, 409, 418, 425]
            .map(status)
            .into(),
        "a redirect without a usable `Location`" => [301, 302, 303, 307, 308].map(status).into(),
        "a redirect to something that is no URL" => vec![RedirectError::Malformed.into()],
        "a redirect to a host that the policy denies" => {
            vec![RedirectError::Forbidden(Denied::Address).into()]
        }
        "a redirect to a path that is no registry's" => vec![RedirectError::NotRegistry.into()],
        "a redirect to where no client may be sent" => vec![RedirectError::ClientTarget.into()],
        "more than 5 redirects" => vec![RedirectError::TooMany(5).into()],
        "headers over 8 KiB together" => vec![E::HeaderTooLong],
        "`HEAD` with a length that is no number" => vec![E::InvalidLength],
        "a web page" => vec![E::NotRegistryContent],
        "a manifest over 4 MiB" => vec![ManifestError::TooLarge(4 << 20).into()],
        "a manifest that breaks off" => vec![ManifestError::Truncated.into()],
        "another manifest than the digest names" => vec![ManifestError::DigestMismatch.into()],
        "status 400 to several ranges at once" => vec![E::SeveralRanges],
        "CDN, streamed: status 4xx" => [400, 403, 404, 429].map(blob_host).into(),
        "CDN, streamed: status 5xx" => [500, 503, 599].map(blob_host).into(),
        "CDN, streamed: no answer" => vec![
            E::BlobHostFailed(TransportError::Connect),
            E::BlobHostFailed(TransportError::TimedOut),
            E::BlobHostFailed(TransportError::Broken),
        ],
        "token server: no answer" => vec![
            E::Token(TokenError::Transport(TransportError::Connect)),
            E::Token(TokenError::Transport(TransportError::Broken)),
        ],
        "token server: no answer in time" => {
            vec![E::Token(TokenError::Transport(TransportError::TimedOut))]
        }
        "token server: status 400, 401, 403 or 405" => vec![
            E::Token(TokenError::Refused),
            E::Token(TokenError::WrongPassword),
        ],
        "token server: status 429" => {
            vec![E::Token(TokenError::TooManyRequests { retry_after: None })]
        }
        "token server: another 4xx status" => [404, 418].map(token_status).into(),
        "token server: status 5xx" => [500, 503].map(token_status).into(),
        "token server: denied by the policy" => {
            vec![E::Token(TokenError::Forbidden(Denied::ClosedRealm))]
        }
        "token server: another registry's, named a second time" => {
            vec![E::Token(TokenError::AskedBefore)]
        }
        "token server: more than 5 redirects, or one without a usable `Location`" => vec![
            E::Token(TokenError::Redirect(RedirectError::Malformed)),
            E::Token(TokenError::Redirect(RedirectError::TooMany(5))),
        ],
        "token server: more than 1 MiB" => vec![E::Token(TokenError::TooLarge(1 << 20))],
        "token server: no token in the answer" => vec![E::Token(TokenError::NoToken)],
        "none: the client's headers are over 8 KiB" => vec![E::RequestHeadersTooLong],
        _ => panic!("no error is known for the row {answer:?}"),
    }
}

/// Writes an outcome as a row.
fn row_of(answer: &str, route: &Route, error: &UpstreamError, is_cached: bool) -> Row {
    let outcome = classify_error(route, error);
    let client_error = outcome.client_error.clone().unwrap();
    assert_eq!(client_error, super::client_error(route, error));
    let cached_copy = match (outcome.allows_stale(), outcome.forgets_copy()) {
        _ if !is_cached => "–",
        (true, false) => "served",
        (false, true) => "dropped",
        (false, false) => "kept",
        (true, true) => panic!("a copy can't be served and dropped"),
    };
    Row {
        answer: answer.to_owned(),
        status: match error {
            UpstreamError::Status(status, _)
                if *status == client_error.status && answer.contains(" or ") =>
            {
                "the same".to_owned()
            }
            _ => client_error.status.as_str().to_owned(),
        },
        code: client_error.code.as_str().to_owned(),
        next_candidate: match outcome.verdict {
            Verdict::Negative => "negative",
            Verdict::TryNext => "yes",
            Verdict::Unavailable => "yes, down",
            Verdict::Final => "no",
        }
        .to_owned(),
        cached_copy: cached_copy.to_owned(),
    }
}

fn route(path: &str) -> Route {
    Route::from_registry_path(&path.parse().unwrap()).unwrap()
}

#[test]
fn every_row_of_the_documented_tables_is_the_outcome() {
    let (manifest, tags) = (route("/v2/a/manifests/latest"), route("/v2/a/tags/list"));
    let blob = route(&format!("/v2/a/blobs/{DIGEST}"));
    let referrers = route(&format!("/v2/a/referrers/{DIGEST}"));
    for (heading, routes, is_cached) in [
        ("Manifests", vec![manifest], true),
        ("Tags", vec![tags], false),
        ("Catalog", vec![Route::Catalog], false),
        ("Blobs", vec![blob], false),
        ("Referrers", vec![referrers], false),
    ] {
        let rows = rows(heading);
        assert!(!rows.is_empty(), "{heading}");
        for row in &rows {
            for error in errors(&row.answer) {
                for route in &routes {
                    let outcome = row_of(&row.answer, route, &error, is_cached);
                    assert_eq!(*row, outcome, "{heading}: {error:?}");
                }
            }
        }
    }
}

/// A row that a shorter table leaves to the one of manifests: the same, with nothing cached.
#[test]
fn lists_and_referrers_differ_from_manifests_where_their_tables_say_so_only() {
    let tags = route("/v2/a/tags/list");
    let referrers = route(&format!("/v2/a/referrers/{DIGEST}"));
    for (heading, route) in [
        ("Tags", tags),
        ("Catalog", Route::Catalog),
        ("Referrers", referrers),
    ] {
        let own = rows(heading);
        for row in rows("Manifests") {
            let is_general = |error: &UpstreamError| {
                !matches!(error, UpstreamError::Status(status, _)
                    if own.iter().any(|own| own.answer == format!("status {}", status.as_u16())))
            };
            if own.iter().any(|own| own.answer == row.answer) {
                continue;
            }
            for error in errors(&row.answer).into_iter().filter(is_general) {
                let expected = Row {
                    answer: row.answer.clone(),
                    status: row.status.clone(),
                    code: row.code.clone(),
                    next_candidate: row.next_candidate.clone(),
                    cached_copy: "–".to_owned(),
                };
                let outcome = row_of(&row.answer, &route, &error, false);
                assert_eq!(expected, outcome, "{heading}: {error:?}");
            }
        }
    }
}

#[test]
fn an_answer_for_the_client_is_final() {
    let response = UpstreamResponse {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        links: Vec::new(),
        body: (),
        url: crate::registry::origin::HttpUrl::parse("https://registry.example/v2/").unwrap(),
        pins_next_page: false,
        redirect_ends: None,
        proof: None,
    };
    let outcome = classify(&Route::Ping, &Ok(response));
    assert_eq!(
        (outcome.verdict, outcome.client_error),
        (Verdict::Final, None)
    );
}

/// Every status that an upstream can answer with, to a request for every resource, with every code
/// in its document and with none: clients act on the code and the status alike.
#[test]
fn no_answer_makes_up_a_code_on_which_clients_give_up() {
    let blob = route(&format!("/v2/a/blobs/{DIGEST}"));
    let referrers = route(&format!("/v2/a/referrers/{DIGEST}"));
    let others = ["/v2/a/manifests/latest", "/v2/a/tags/list", "/v2/_catalog"].map(route);
    let codes = || {
        crate::oci::error_code::CODES
            .map(Some)
            .into_iter()
            .chain([None])
    };
    for route in [blob, referrers].iter().chain(&others) {
        for status in (200..=599).map(|status| StatusCode::from_u16(status).unwrap()) {
            for code in codes() {
                let error = UpstreamError::from_status(status, code, &HeaderMap::new());
                let told = super::client_error(route, &error);
                let case = format!("{route:?} {status} {code:?}: {told:?}");
                assert!(
                    told.status.is_client_error() || told.status.is_server_error(),
                    "{case}"
                );
                // Only the upstream's own document says that there is no such repository.
                if told.code == ErrorCode::NameUnknown {
                    assert_eq!(code, Some(ErrorCode::NameUnknown), "{case}");
                }
                // dockerd up to 28 asks again for 50 seconds after a 5xx to a blob.
                if route.is_blob() {
                    assert!(told.status.is_client_error(), "{case}");
                }
                // oras and notation look for the referrers' tag after these, and for nothing else.
                if route.is_referrers() && status == StatusCode::NOT_FOUND {
                    let code_is_upstreams = code == Some(ErrorCode::NameUnknown);
                    assert!(
                        told.code == ErrorCode::Unsupported || code_is_upstreams,
                        "{case}"
                    );
                }
                // 401 would make a client log in, and 407 too.
                let asks_to_log_in = matches!(told.status.as_u16(), 401 | 407);
                assert!(!asks_to_log_in, "{case}");
            }
        }
    }
}
