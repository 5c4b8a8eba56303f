//! Requests to the blob store.

use super::fault::{self, Fault, MAX_DOCUMENT};
use super::sigv4::{Signer, Target, sha256_hex};
use crate::config::blob_store::BlobStoreConfig;
use crate::context::Context;
use crate::platform::{self, Payload, Platform, Timeouts, TransportError};
use crate::upstream::client::AGENT;
use crate::upstream::response_headers::content_length;
use crate::upstream::timestamp::Timestamp;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, ETAG, RANGE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use std::time::Duration;

/// A store that does not answer in this time is no help to anybody.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client may follow a URL that it was given. A download that has begun goes on.
const URL_LIFETIME: Duration = Duration::from_secs(20 * 60);

/// Bytes per second. An upload that is slower is given up, in the end.
pub const LEAST_RATE: u64 = 256 * 1024;

const CONTENT_SHA256: &str = "x-amz-content-sha256";
const DATE: &str = "x-amz-date";
const REGION: &str = "x-amz-bucket-region";

/// A blob store, as one request sees it.
pub struct Client<'a, P: Platform> {
    platform: &'a P,
    pub config: &'a BlobStoreConfig,
}

/// Returns how long an upload of so many bytes may take.
pub fn upload_time(length: u64) -> Duration {
    Duration::from_secs(30_u64.saturating_add(length / LEAST_RATE))
}

impl<'a, P: Platform> Client<'a, P> {
    /// Returns the client of the operator's blob store, if there is one.
    pub fn new(context: &Context<'a, P>) -> Option<Client<'a, P>> {
        let (platform, config) = (context.platform, context.config.blob_store.as_ref()?);
        Some(Client { platform, config })
    }

    /// Returns the length of an object, `None` where there is none.
    pub async fn head(&self, object: &str) -> Result<Option<u64>, Fault> {
        let response = self.ask(Method::HEAD, object, None, None).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK if response.headers().contains_key(ETAG) => {
                length_of(&response).map(Some).ok_or(Fault::Nonsense)
            }
            StatusCode::OK => Err(Fault::Nonsense),
            _ => Err(self.fault(response).await),
        }
    }

    /// Asks for an object, or a range of it; `None` where there is none, or not this range.
    pub async fn get(
        &self,
        object: &str,
        range: Option<&HeaderValue>,
        between_bytes: Option<Duration>,
    ) -> Result<Option<Response<P::Body>>, Fault> {
        let response = self.ask(Method::GET, object, range, between_bytes).await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT
                if response.headers().contains_key(ETAG) && length_of(&response).is_some() =>
            {
                Ok(Some(response))
            }
            status if status.is_success() => Err(Fault::Nonsense),
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => Ok(None),
            _ => Err(self.fault(response).await),
        }
    }

    /// Writes an object. The hash of its content is signed, so that the store itself refuses a body
    /// that is not the one that the digest names.
    pub async fn put(
        &self,
        object: &str,
        payload: Payload<P::Body>,
        length: u64,
        sha256: &str,
    ) -> Result<(), Fault> {
        let mut request = self.signed(Method::PUT, object, sha256)?.map(|()| payload);
        let headers = request.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        let limit = upload_time(length);
        let timeouts = Timeouts {
            connect: TIMEOUT,
            // It begins with the request, and the response comes after the whole body.
            first_byte: limit,
            between_bytes: TIMEOUT,
            exchange: limit,
        };
        let sent = self.platform.upload(request, &timeouts);
        let response = platform::within(self.platform, limit, sent).await;
        let response = response
            .unwrap_or(Err(TransportError::TimedOut))
            .map_err(Fault::Transport)?;
        match response.status() {
            status if status.is_success() => Ok(()),
            _ => Err(self.fault(response).await),
        }
    }

    /// Returns a URL by which a client gets an object without a key of its own. It is for `GET`
    /// alone: a signature covers the method.
    pub fn client_url(&self, object: &str) -> String {
        let BlobStoreConfig {
            origin,
            host,
            path,
            public_url,
            ..
        } = self.config;
        if let Some((origin, path)) = public_url {
            return format!("{origin}{path}{object}");
        }
        let path = format!("{path}{object}");
        let signer = self.signer();
        let query = signer.presigned_query("GET", host, &path, URL_LIFETIME);
        format!("{origin}{path}?{query}")
    }

    /// Sends a request without a body, a second time where the connection breaks at once: it may
    /// have been idle for too long.
    async fn ask(
        &self,
        method: Method,
        object: &str,
        range: Option<&HeaderValue>,
        between_bytes: Option<Duration>,
    ) -> Result<Response<P::Body>, Fault> {
        let mut request = self.signed(method, object, &sha256_hex(b""))?;
        if let Some(range) = range {
            request.headers_mut().insert(RANGE, range.clone());
        }
        let timeouts = Timeouts {
            connect: TIMEOUT,
            first_byte: TIMEOUT,
            between_bytes: between_bytes.unwrap_or(TIMEOUT),
            exchange: TIMEOUT,
        };
        let exchange = async {
            match self.platform.send(request.clone(), &timeouts).await {
                Err(TransportError::Broken) => self.platform.send(request, &timeouts).await,
                answer => answer,
            }
        };
        platform::within(self.platform, TIMEOUT, exchange)
            .await
            .unwrap_or(Err(TransportError::TimedOut))
            .map_err(Fault::Transport)
    }

    /// Makes a request. No more headers are signed than have to be: some stores, and proxies before
    /// them, change others.
    fn signed(&self, method: Method, object: &str, sha256: &str) -> Result<Request<()>, Fault> {
        let BlobStoreConfig {
            origin, host, path, ..
        } = self.config;
        let path = format!("{path}{object}");
        let signer = self.signer();
        let time = signer.time.to_string();
        let target = Target {
            method: method.as_str(),
            path: &path,
            query: "",
        };
        let signed = [
            ("host", host.as_str()),
            (CONTENT_SHA256, sha256),
            (DATE, &time),
        ];
        let authorization = signer.authorization(&target, &signed, sha256);
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| Fault::Nonsense);
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(HeaderName::from_static(CONTENT_SHA256), value(sha256)?);
        headers.insert(HeaderName::from_static(DATE), value(&time)?);
        headers.insert(AUTHORIZATION, value(&authorization)?);
        headers.insert(USER_AGENT, AGENT);
        let uri = Uri::builder()
            .scheme(origin.scheme.as_str())
            .authority(host.as_str())
            .path_and_query(path)
            .build();
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri.map_err(|_| Fault::Nonsense)?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    fn signer(&self) -> Signer<'_> {
        Signer {
            credentials: &self.config.credentials,
            region: &self.config.region,
            time: Timestamp::new(self.platform.now()),
        }
    }

    /// Makes the fault of a refusal, with what its document says.
    async fn fault(&self, response: Response<P::Body>) -> Fault {
        let (head, body) = response.into_parts();
        let region = head.headers.get(REGION).and_then(|it| it.to_str().ok());
        let region = region.and_then(fault::word);
        let document = self.platform.read(body, MAX_DOCUMENT);
        let document = platform::within(self.platform, TIMEOUT, document).await;
        let document = document.and_then(Result::ok).unwrap_or_default();
        Fault::Status {
            status: head.status,
            code: fault::code_of(&document),
            region,
        }
    }
}

/// Returns the length of a response's body, where it says one.
pub fn length_of<B>(response: &Response<B>) -> Option<u64> {
    content_length(response.headers()).ok().flatten()
}
