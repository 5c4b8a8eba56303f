//! An object store that speaks S3's protocol: it verifies every signature, the hash of every body
//! and the clock, as the Amazon S3 API reference has it, and can fail.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ring::{digest, hmac};

use crate::server::{ReceivedRequest, Reply, ScriptedBody, Server, any_port};

pub const ACCESS_KEY: &str = "AKIATESTTESTTESTTEST";
pub const SECRET_KEY: &str = "test/secret+key/of/forty/characters/0123";
pub const REGION: &str = "test-region-1";
pub const BUCKET: &str = "bucket";

/// Seconds that the clocks may differ.
const MAX_SKEW: u64 = 15 * 60;

type Script = Box<dyn Fn(&ReceivedRequest) -> Option<Reply> + Send + Sync>;

/// Stops when dropped.
pub struct S3 {
    state: Arc<State>,
    server: Server,
}

#[derive(Default)]
struct State {
    objects: Mutex<BTreeMap<String, Bytes>>,
    received: Mutex<Vec<ReceivedRequest>>,
    script: Mutex<Option<Script>>,
    /// Seconds by which the store's clock is ahead.
    ahead: Mutex<i64>,
    /// How long it takes for a response.
    delay: Mutex<Duration>,
}

impl S3 {
    pub async fn start() -> Self {
        let state = Arc::new(State::default());
        let replies = Arc::clone(&state);
        let at = any_port("127.0.0.4");
        let handler = Arc::new(move |received| {
            let delay = *replies.delay.lock().expect("the delay");
            match replies.reply(received) {
                reply if delay.is_zero() => reply,
                reply => reply.after(delay),
            }
        });
        let server = Server::start(at, None, handler).await;
        Self { state, server }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// The URL under which its objects live, below a prefix.
    pub fn url(&self) -> String {
        format!("http://{}/{BUCKET}/prefix/", self.address())
    }

    /// The names of its objects, without the prefix.
    pub fn objects(&self) -> Vec<String> {
        self.state.objects().keys().cloned().collect()
    }

    pub fn object(&self, name: &str) -> Option<Bytes> {
        self.state.objects().get(name).cloned()
    }

    /// Deletes an object behind the mirror's back.
    pub fn delete(&self, name: &str) {
        self.state.objects().remove(name).expect("an object");
    }

    /// Sets its clock.
    pub fn set_ahead(&self, seconds: i64) {
        *self.state.ahead.lock().expect("the clock") = seconds;
    }

    /// From now on each response takes so long.
    pub fn delay(&self, time: Duration) {
        *self.state.delay.lock().expect("the delay") = time;
    }

    /// Replies by `script` where that returns something.
    pub fn script(
        &self,
        script: impl Fn(&ReceivedRequest) -> Option<Reply> + Send + Sync + 'static,
    ) {
        *self.state.script.lock().expect("the script") = Some(Box::new(script));
    }

    pub fn end_script(&self) {
        *self.state.script.lock().expect("the script") = None;
    }

    pub fn received(&self) -> Vec<ReceivedRequest> {
        self.state.received.lock().expect("requests").clone()
    }

    /// The number of requests with this method.
    pub fn count(&self, method: &str) -> usize {
        let received = self.received();
        received.iter().filter(|one| one.method == method).count()
    }
}

/// Starts a store that has nothing, takes everything and counts its bytes.
pub async fn sink(taken: &Arc<AtomicU64>) -> Server {
    let taken = Arc::clone(taken);
    Server::accept(any_port("127.0.0.1"), move |stream| {
        let taken = Arc::clone(&taken);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let taken = Arc::clone(&taken);
            async move {
                let is_put = request.method() == "PUT";
                let mut body = request.into_body();
                while let Some(Ok(frame)) = body.frame().await {
                    let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                    taken.fetch_add(length, Ordering::SeqCst);
                }
                let response = hyper::Response::builder().status(if is_put { 200 } else { 404 });
                Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).expect("a response"))
            }
        });
        async move {
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await
}

/// Returns the error document that a store answers with.
pub fn error(status: u16, code: &str) -> Reply {
    let document = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    Reply::new(status, &[("content-type", "application/xml")], document)
}

impl State {
    fn objects(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().expect("objects")
    }

    fn reply(&self, received: ReceivedRequest) -> Reply {
        self.received
            .lock()
            .expect("requests")
            .push(received.clone());
        if let Some(script) = &*self.script.lock().expect("the script")
            && let Some(reply) = script(&received)
        {
            return reply;
        }
        if let Err((status, code)) = self.verify(&received) {
            return error(status, code);
        }
        let Some(name) = received
            .path()
            .strip_prefix(&format!("/{BUCKET}/prefix/"))
            .map(str::to_owned)
        else {
            return error(404, "NoSuchBucket");
        };
        match &*received.method {
            "PUT" => {
                self.objects().insert(name, received.body);
                Reply::new(200, &[("etag", "\"etag\"")], "")
            }
            "GET" | "HEAD" => match self.objects().get(&name) {
                None => error(404, "NoSuchKey"),
                Some(object) => serve(&received, object),
            },
            _ => error(405, "MethodNotAllowed"),
        }
    }

    fn verify(&self, received: &ReceivedRequest) -> Result<(), (u16, &'static str)> {
        let query = received.query();
        let parameter = |name: &str| {
            let found = query.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        };
        if let Some(signature) = parameter("X-Amz-Signature") {
            let part =
                |name: &str| parameter(name).ok_or((400, "AuthorizationQueryParametersError"));
            let time = part("X-Amz-Date")?;
            let lifetime: u64 = part("X-Amz-Expires")?
                .parse()
                .map_err(|_| (400, "AuthorizationQueryParametersError"))?;
            let now = self.now();
            if now > seconds(&time) + lifetime || now + MAX_SKEW < seconds(&time) {
                return Err((403, "AccessDenied"));
            }
            let unsigned = received
                .target
                .split_once("&X-Amz-Signature=")
                .map_or("", |(before, _)| before);
            let unsigned = unsigned.split_once('?').map_or("", |(_, query)| query);
            let expected = sign(
                received,
                unsigned,
                &part("X-Amz-SignedHeaders")?,
                "UNSIGNED-PAYLOAD",
                &time,
                &part("X-Amz-Credential")?,
            )?;
            return matches(&expected, &signature);
        }
        let header = |name: &str| received.header(name).ok_or((403, "AccessDenied"));
        let authorization = header("authorization")?
            .strip_prefix("AWS4-HMAC-SHA256 ")
            .ok_or((400, "AuthorizationHeaderMalformed"))?;
        let part = |name: &str| {
            let mut parts = authorization.split(',');
            let found = parts.find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
            found.ok_or((400, "AuthorizationHeaderMalformed"))
        };
        let (time, hash) = (header("x-amz-date")?, header("x-amz-content-sha256")?);
        if self.now().abs_diff(seconds(time)) > MAX_SKEW {
            return Err((403, "RequestTimeTooSkewed"));
        }
        let signed = part("SignedHeaders")?;
        let must_be_signed = received
            .headers
            .keys()
            .filter(|name| name.as_str() == "host" || name.as_str().starts_with("x-amz-"));
        for name in must_be_signed {
            if !signed.split(';').any(|one| one == name.as_str()) {
                return Err((403, "AccessDenied"));
            }
        }
        let expected = sign(received, "", signed, hash, time, part("Credential")?)?;
        matches(&expected, part("Signature")?)?;
        if received.method == "PUT" && received.header("content-length").is_none() {
            return Err((411, "MissingContentLength"));
        }
        if hex(digest::digest(&digest::SHA256, &received.body).as_ref()) != hash {
            return Err((400, "XAmzContentSHA256Mismatch"));
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a time");
        now.as_secs()
            .saturating_add_signed(*self.ahead.lock().expect("the clock"))
    }
}

fn serve(received: &ReceivedRequest, object: &Bytes) -> Reply {
    let length = object.len().to_string();
    let range = received.header("range").map(|range| {
        let (first, last) = range
            .strip_prefix("bytes=")
            .and_then(|range| range.split_once('-'))
            .expect("a range");
        let first: usize = first.parse().expect("a number");
        let last = last.parse().unwrap_or(object.len() - 1);
        (first, last.min(object.len() - 1))
    });
    if received.method == "HEAD" {
        let headers = [("etag", "\"etag\""), ("content-length", &*length)];
        return Reply::streamed(200, &headers, ScriptedBody::default());
    }
    match range {
        Some((first, _)) if first >= object.len() => error(416, "InvalidRange"),
        Some((first, last)) => {
            let content_range = format!("bytes {first}-{last}/{length}");
            let headers = [("etag", "\"etag\""), ("content-range", &*content_range)];
            Reply::new(206, &headers, object.slice(first..=last))
        }
        None => Reply::new(200, &[("etag", "\"etag\"")], object.clone()),
    }
}

fn matches(expected: &str, actual: &str) -> Result<(), (u16, &'static str)> {
    if expected == actual {
        Ok(())
    } else {
        Err((403, "SignatureDoesNotMatch"))
    }
}

fn sign(
    received: &ReceivedRequest,
    query: &str,
    signed: &str,
    payload: &str,
    time: &str,
    credential: &str,
) -> Result<String, (u16, &'static str)> {
    let scope = credential
        .strip_prefix(&format!("{ACCESS_KEY}/"))
        .ok_or((403, "InvalidAccessKeyId"))?;
    let date = &time[..8];
    if scope != format!("{date}/{REGION}/s3/aws4_request") {
        return Err((400, "AuthorizationHeaderMalformed"));
    }
    let mut request = vec![
        received.method.clone(),
        received.path().to_owned(),
        query.to_owned(),
    ];
    for name in signed.split(';') {
        let value = received.header(name).unwrap_or_default();
        request.push(format!("{name}:{value}"));
    }
    request.extend([String::new(), signed.to_owned(), payload.to_owned()]);
    let request = digest::digest(&digest::SHA256, request.join("\n").as_bytes());
    let text = ["AWS4-HMAC-SHA256", time, scope, &hex(request.as_ref())].join("\n");
    let mac = |key: &[u8], part: &str| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        hmac::sign(&key, part.as_bytes()).as_ref().to_vec()
    };
    let key = mac(format!("AWS4{SECRET_KEY}").as_bytes(), date);
    let key = mac(&mac(&mac(&key, REGION), "s3"), "aws4_request");
    Ok(hex(&mac(&key, &text)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a time such as `20130524T000000Z` in seconds since the Unix epoch.
fn seconds(time: &str) -> u64 {
    let number = |from: usize, to: usize| time[from..to].parse::<i64>().expect("a number");
    let (year, month, day) = (number(0, 4), number(4, 6), number(6, 8));
    // Days from the civil calendar, with years that begin in March.
    let shifted = if month > 2 { year } else { year - 1 };
    let month_from_march = (month + 9) % 12;
    let days = 365 * shifted + shifted / 4 - shifted / 100
        + shifted / 400
        + (153 * month_from_march + 2) / 5
        + day
        - 1
        - 719_468;
    let time_of_day = number(9, 11) * 3600 + number(11, 13) * 60 + number(13, 15);
    u64::try_from(days * 86_400 + time_of_day).expect("a time since 1970")
}
