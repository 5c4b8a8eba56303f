//! `/v1/search`: what `docker search mirror.example/nginx` asks for, and the page. The index of the
//! default upstream answers; of its answer goes on what is known here, without repositories that
//! the operator has closed.

use super::Answer;
use crate::oci::error_code::ErrorCode;
use crate::oci::name::Name;
use crate::platform::{Platform, ReadBodyError, TransportError};
use crate::policy::permitted::{Permitted, Upstream};
use crate::registry::docker_hub;
use crate::registry::origin::{Authority, Scheme};
use crate::request::InvalidRequest;
use crate::request::query::Query;
use crate::response::body::Body;
use crate::response::error::RegistryError;
use crate::upstream::client::{self, OutboundRequest};
use crate::upstream::error::UpstreamError;
use crate::upstream::failover::ProxyRequest;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

/// Docker Hub's search is at another name than its registry.
const DOCKER_HUB_INDEX: &str = "index.docker.io";
/// Bytes. A longer answer is refused; 100 results of Docker Hub are about 40 KB.
const MAX_ANSWER: usize = 512 * 1024;
/// Bytes of the words.
const MAX_WORDS: usize = 256;
const MAX_RESULTS: u32 = 100;
const USUAL_RESULTS: u32 = 25;

/// Answers the ping that precedes a search.
pub fn ping<B>(head_only: bool) -> Response<Body<B>> {
    json(br#"{"standalone":true}"#.to_vec(), head_only)
}

/// Answers a search.
pub async fn respond<P: Platform>(proxy: &ProxyRequest<'_, P>) -> Answer<P> {
    let search = Search::parse(&proxy.request.query)?;
    let mut failed = None;
    for upstream in proxy.candidates.iter() {
        match search.ask(proxy, upstream).await {
            Ok(found) => {
                let document = found.to_string().into_bytes();
                return Ok(json(document, proxy.request.head_only));
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(UpstreamError::Status(StatusCode::NOT_FOUND, _)) | None => {
            let message = "the upstream has no search";
            let (status, code) = (StatusCode::NOT_FOUND, ErrorCode::Unsupported);
            Err(RegistryError::new(status, code, message))
        }
        Some(error) => Err(RegistryError::from_upstream(&proxy.request.route, &error)),
    }
}

struct Search {
    words: String,
    results: u32,
}

impl Search {
    fn parse(query: &str) -> Result<Search, RegistryError> {
        let mut query = Query::parse(Some(query));
        let mut take = |parameter| {
            query
                .take(parameter)
                .map_err(|_| InvalidRequest::Repeated(parameter))
        };
        let words = take("q")?.unwrap_or_default().trim().to_owned();
        let results = take("n")?.and_then(|number| number.parse().ok());
        if words.is_empty() || words.len() > MAX_WORDS {
            let message = format!("q= is the words to search for, at most {MAX_WORDS} bytes");
            let (status, code) = (StatusCode::BAD_REQUEST, ErrorCode::Unsupported);
            return Err(RegistryError::new(status, code, message));
        }
        Ok(Search {
            words,
            results: results.unwrap_or(USUAL_RESULTS).clamp(1, MAX_RESULTS),
        })
    }

    async fn ask<P: Platform>(
        &self,
        proxy: &ProxyRequest<'_, P>,
        upstream: &Upstream,
    ) -> Result<Value, UpstreamError> {
        let context = proxy.context;
        let host = index(proxy, upstream)?;
        context.stats.attempts.borrow_mut().push(upstream.clone());
        let words = utf8_percent_encode(&self.words, NON_ALPHANUMERIC);
        let accept = (ACCEPT, HeaderValue::from_static("application/json"));
        let outbound = OutboundRequest {
            host: &host,
            method: Method::GET,
            path_and_query: &format!("/v1/search?q={words}&n={}", self.results),
            headers: &HeaderMap::from_iter([accept]),
            authorization: None,
            counter: &context.stats.upstream_requests,
        };
        let exchange = async {
            let response = client::send(context, outbound).await?;
            if response.status() != StatusCode::OK {
                let (status, headers) = (response.status(), response.headers());
                return Err(UpstreamError::from_status(status, None, headers));
            }
            let read = context.platform.read(response.into_body(), MAX_ANSWER);
            read.await.map_err(|error| match error {
                ReadBodyError::TooLarge => UpstreamError::NotRegistryContent,
                ReadBodyError::Transport(error) => UpstreamError::Transport(error),
            })
        };
        let answer = context.within_exchange_timeout(exchange).await;
        let answer = answer.unwrap_or(Err(TransportError::TimedOut.into()))?;
        let found: Value =
            serde_json::from_slice(&answer).map_err(|_| UpstreamError::NotRegistryContent)?;
        let results = found.get("results").and_then(Value::as_array);
        let results = results.ok_or(UpstreamError::NotRegistryContent)?;
        let permitted = results.iter().filter_map(|repository| {
            let name = repository.get("name")?.as_str()?;
            is_permitted(proxy, upstream, Name::parse(name).ok()?).then(|| known(name, repository))
        });
        let permitted: Vec<Value> = permitted.collect();
        // As Docker reads it.
        Ok(json!({
            "num_results": permitted.len(),
            "query": self.words,
            "results": permitted,
        }))
    }
}

/// Returns what is passed on of a repository that was found.
fn known(name: &str, repository: &Value) -> Value {
    let flag = |key| {
        repository
            .get(key)
            .and_then(Value::as_bool)
            .unwrap_or(false)
    };
    let description = repository.get("description").and_then(Value::as_str);
    json!({
        "name": name,
        "description": description.unwrap_or_default(),
        "star_count": repository.get("star_count").and_then(Value::as_u64).unwrap_or(0),
        "is_official": flag("is_official"),
        "is_automated": flag("is_automated"),
        "is_trusted": flag("is_trusted"),
    })
}

/// Returns the host of an upstream's index, where the policy permits it.
fn index<P: Platform>(
    proxy: &ProxyRequest<'_, P>,
    upstream: &Upstream,
) -> Result<Permitted, UpstreamError> {
    if !upstream.is_docker_hub() {
        return Ok(upstream.permitted().clone());
    }
    let policy = &proxy.context.config.policy;
    let index = Authority::parse(DOCKER_HUB_INDEX).ok();
    index
        .and_then(|index| {
            let index = index.on(Scheme::Https);
            policy.permit_content_host(index, upstream.origin()).ok()
        })
        .ok_or(UpstreamError::Denied)
}

fn is_permitted<P: Platform>(proxy: &ProxyRequest<'_, P>, upstream: &Upstream, name: Name) -> bool {
    let official = upstream
        .is_docker_hub()
        .then(|| docker_hub::official_name(&name));
    let name = official.flatten().unwrap_or(name);
    let policy = &proxy.context.config.policy;
    policy.permit_repository(upstream.origin(), &name).is_ok()
}

fn json<B>(document: Vec<u8>, head_only: bool) -> Response<Body<B>> {
    let mut response = Body::respond(StatusCode::OK, document, head_only);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
