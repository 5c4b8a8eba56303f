//! What the targets share: a platform whose every answer is given, so that one input runs one whole
//! story.

use futures_util::future::{self, FutureExt};
use hammal::mirror::Mirror;
use hammal::platform::{TransportError, Platform, ReadBodyError, StoreError, Timeouts, VariableError};
use hammal::response::body::Body;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

pub const MANIFEST: &str = "/v2/library/alpine/manifests/latest";
pub const BLOB: &str = "/v2/library/alpine/blobs/sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const NOW: Duration = Duration::from_secs(1_700_000_000);

type Response = http::Response<Vec<u8>>;

#[derive(Clone)]
pub struct Scripted(Rc<State>);

/// What is given beforehand.
#[derive(Default)]
pub struct World {
    pub answers: Vec<Response>,
    pub variables: Vec<(&'static str, String)>,
    /// What the store has under every key.
    pub stored: Option<Vec<u8>>,
}

struct State {
    answers: RefCell<VecDeque<Response>>,
    variables: Vec<(&'static str, String)>,
    stored: Option<Vec<u8>>,
    asked: RefCell<Vec<http::Request<()>>>,
    log: RefCell<Vec<String>>,
}

impl Scripted {
    pub fn new(
        World {
            answers,
            variables,
            stored,
        }: World,
    ) -> Scripted {
        let answers = RefCell::new(answers.into());
        Scripted(Rc::new(State {
            answers,
            variables,
            stored,
            asked: RefCell::default(),
            log: RefCell::default(),
        }))
    }

    pub fn asked(&self) -> Vec<http::Request<()>> {
        self.0.asked.take()
    }

    pub fn log(&self) -> Vec<String> {
        self.0.log.take()
    }

    /// Answers one request. Nothing here waits, so it is done at once.
    pub fn handle(&self, request: http::Request<()>) -> http::Response<Body<Vec<u8>>> {
        Mirror::new(self.clone())
            .handle(request)
            .now_or_never()
            .expect("nothing waits")
    }
}

impl Platform for Scripted {
    type Body = Vec<u8>;
    type Alarm = ();

    /// An exchange that the script has no answer to fails.
    async fn send(&self, request: http::Request<()>, _: &Timeouts) -> Result<Response, TransportError> {
        self.0.asked.borrow_mut().push(request);
        self.0
            .answers
            .borrow_mut()
            .pop_front()
            .ok_or(TransportError::Connect)
    }

    async fn read(&self, body: Vec<u8>, limit: usize) -> Result<Vec<u8>, ReadBodyError> {
        if body.len() > limit {
            Err(ReadBodyError::TooLarge)
        } else {
            Ok(body)
        }
    }

    async fn load(&self, _: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.stored.clone())
    }

    async fn save(&self, _: &str, _: Vec<u8>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn variable(&self, name: &str) -> Result<Option<String>, VariableError> {
        let set = self.0.variables.iter().find(|(known, _)| *known == name);
        Ok(set.map(|(_, value)| value.clone()))
    }

    fn now(&self) -> Duration {
        NOW
    }

    fn sleep(&self, _: Duration) -> impl Future<Output = ()> {
        future::pending()
    }

    fn alarm(&self) -> ((), impl Future<Output = ()> + 'static) {
        ((), future::pending())
    }

    fn defer(&self, work: impl Future<Output = ()> + 'static) {
        work.now_or_never().expect("nothing waits");
    }

    fn log(&self, line: &str) {
        self.0.log.borrow_mut().push(line.to_owned());
    }
}

pub fn get(path: &str) -> http::Request<()> {
    http::Request::get(format!("http://mirror.example{path}"))
        .body(())
        .expect("a request")
}

pub fn answer(status: u16, headers: &[(&str, &[u8])], body: &[u8]) -> Response {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, http::HeaderValue::from_bytes(value)));
    let mut response = http::Response::builder().status(status);
    for (name, value) in headers {
        // What can't be a header's value never comes from a host.
        if let Ok(value) = value {
            response = response.header(name, value);
        }
    }
    response.body(body.to_vec()).expect("a response")
}

/// A platform where nobody may be asked but public hosts on https; panics where somebody else was.
pub fn assert_public(asked: &[http::Request<()>]) {
    for request in asked {
        let uri = request.uri();
        let host = uri.host().expect("a host");
        assert_eq!(uri.scheme_str(), Some("https"), "{uri}");
        let is_name = matches!(url::Host::parse(host), Ok(url::Host::Domain(_)));
        assert!(is_name && host.contains('.'), "{uri}");
        assert!(
            uri.port_u16().is_none_or(|port| port == 443 || port > 1023),
            "{uri}"
        );
        for private in [".local", ".internal", ".svc", ".localhost", ".lan"] {
            assert!(!host.ends_with(private), "{uri}");
        }
    }
}
