//! The manifests that this mirror knows. What a digest names never changes, so its content is kept once it was verified; a
//! tag only points at a digest, and is looked at again upstream once it is older than the operator lets it be.

use crate::cache::status::Hit;
use crate::cache::{Cache, Shape};
use crate::context::Context;
use crate::oci::digest::{Digest, Mismatch};
use crate::oci::name::Name;
use crate::oci::reference::Reference;
use crate::platform::{Platform, ReadBodyError, TransportError};
use crate::policy::Upstream;
use crate::request::accept::Accept;
use crate::request::route::RegistryRequest;
use crate::response::body::Body;
use crate::response::error::Refusal;
use crate::response::{self, CONTENT_DIGEST};
use crate::upstream::exchange::UpstreamError;
use http::header::{ACCEPT, AGE, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::time::Duration;

/// A larger manifest in bytes is refused: registries themselves take no more than 4 MiB.
pub const MAX_MANIFEST: usize = 4 * 1024 * 1024;
/// A larger one is passed on, but not kept.
const MAX_KEPT: usize = 256 * 1024;
/// Keys in the store.
const CONTENTS: Shape = Shape {
    buckets: 256,
    entries: 2,
};
const TAGS: Shape = Shape {
    buckets: 128,
    entries: 8,
};
/// How long content answers without its upstream being asked: it can't be outdated, but it may have become private. It is kept
/// for `max_stale` after that, for when the upstream can't be asked.
const CONTENT_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the store is not told that a tag points where it did.
const WRITE_PAUSE: Duration = Duration::from_secs(60);

/// RFC 9211
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

pub struct Manifests<P: Platform> {
    contents: Cache<P, Content>,
    tags: Cache<P, Pointer>,
}

/// A request for a manifest that could be answered from here.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The upstreams that may answer, and the repository: nothing of one is ever found by a request to another.
    place: String,
    reference: Reference,
    accept: Accept,
}

/// A verified manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    media_type: String,
    text: String,
    /// When the upstream had it last, in seconds since the Unix epoch.
    #[serde(default)]
    seen: u64,
}

/// What a tag pointed at.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pointer {
    digest: Digest,
    media_type: String,
    length: usize,
    /// When the upstream said so, and when the store was told; seconds since the Unix epoch.
    seen: u64,
    written: u64,
}

/// What is known of a wanted manifest.
#[derive(Clone, Debug)]
pub struct Known {
    digest: Digest,
    /// None where it is asked for by its digest.
    pointer: Option<Rc<Pointer>>,
    content: Option<Rc<Content>>,
}

impl<P: Platform> Default for Manifests<P> {
    fn default() -> Self {
        Manifests {
            contents: Cache::new("m", CONTENTS),
            tags: Cache::new("g", TAGS),
        }
    }
}

impl Wanted {
    /// `None` for a request with conditions or a range: those are the upstream's to judge.
    pub fn new(
        upstreams: &[Upstream],
        name: &Name,
        reference: &Reference,
        headers: &HeaderMap,
    ) -> Option<Wanted> {
        if headers.keys().any(|header| header != ACCEPT) {
            return None;
        }
        let mut place = String::with_capacity(128);
        for part in upstreams.iter().map(Upstream::as_str) {
            place.push_str(part);
            place.push('\n');
        }
        place.push_str(name.as_str());
        Some(Wanted {
            place,
            reference: reference.clone(),
            accept: Accept::of(headers),
        })
    }

    fn content_identity(&self, digest: &Digest) -> String {
        [self.place.as_str(), "\n", digest.as_str()].concat()
    }

    /// What is wanted, and what the client takes: by that a tag points at an index, or the manifest of one platform.
    pub fn identity(&self) -> String {
        let accept = Digest::of(self.accept.to_string().as_bytes());
        format!("{}\n{}\n{accept}", self.place, self.reference)
    }
}

impl<P: Platform> Manifests<P> {
    pub async fn find(&self, context: &Context<'_, P>, wanted: &Wanted) -> Option<Known> {
        match &wanted.reference {
            Reference::Digest(digest) => {
                let content = self.content(context, wanted, digest).await?;
                Some(Known {
                    digest: digest.clone(),
                    pointer: None,
                    content: Some(content),
                })
            }
            Reference::Tag(_) => {
                let pointer = self.tags.find(context.store, &wanted.identity()).await?;
                Some(self.pointed_at(context, wanted, pointer).await)
            }
        }
    }

    /// What the upstream has now, if its answer to a `HEAD` says so. Where what a tag pointed at before `is_held`, it is
    /// remembered only once the new content is there too: until then the old may be all that can be answered with.
    pub async fn confirmed(
        &self,
        context: &Context<'_, P>,
        wanted: &Wanted,
        headers: &HeaderMap,
        is_held: bool,
    ) -> Option<Known> {
        let digest = digest(headers)?;
        let known = match &wanted.reference {
            Reference::Digest(asked) if *asked == digest && is_held => {
                self.find(context, wanted).await?
            }
            Reference::Digest(_) => return None,
            Reference::Tag(_) => {
                let media_type = header(headers, CONTENT_TYPE)?.to_owned();
                let pointer = Rc::new(Pointer::new(
                    digest,
                    media_type,
                    length(headers)?,
                    context.platform.now(),
                ));
                let known = self.pointed_at(context, wanted, Rc::clone(&pointer)).await;
                if known.has_content() || !is_held {
                    self.point(context, wanted, pointer);
                }
                known
            }
        };
        self.renew(context, wanted, &known);
        Some(known)
    }

    /// The upstream has it still: it is kept on, once half its time is over.
    fn renew(&self, context: &Context<'_, P>, wanted: &Wanted, known: &Known) {
        let now = context.platform.now();
        let is_due = |content: &&Rc<Content>| content.age(now).saturating_mul(2) >= CONTENT_LIFE;
        if let Some(content) = known.content.as_ref().filter(is_due) {
            let content = Content {
                seen: now.as_secs(),
                ..(**content).clone()
            };
            self.contents.keep(
                context.store,
                &wanted.content_identity(&known.digest),
                content,
                kept(context),
            );
        }
    }

    /// The upstream has it no more, or shows it no more. Some say that of content whose type they don't find in `Accept` as it
    /// is, and what a digest names is kept for everybody.
    pub fn forget(&self, context: &Context<'_, P>, wanted: &Wanted, known: &Known) {
        match (&wanted.reference, &known.content) {
            (Reference::Tag(_), _) => self.tags.forget(context.store, &wanted.identity()),
            (Reference::Digest(digest), Some(content))
                if wanted.accept.names(&content.media_type) =>
            {
                self.contents
                    .forget(context.store, &wanted.content_identity(digest));
            }
            (Reference::Digest(_), _) => {}
        }
    }

    async fn pointed_at(
        &self,
        context: &Context<'_, P>,
        wanted: &Wanted,
        pointer: Rc<Pointer>,
    ) -> Known {
        let content = self.content(context, wanted, &pointer.digest).await;
        Known {
            digest: pointer.digest.clone(),
            pointer: Some(pointer),
            content,
        }
    }

    /// Reads a manifest that an upstream sent, and keeps it if it is what its digest names.
    pub async fn take_in(
        &self,
        context: &Context<'_, P>,
        asked: &RegistryRequest,
        wanted: &Wanted,
        response: Response<Body<P::Body>>,
    ) -> Result<Response<Body<P::Body>>, Refusal> {
        let (mut head, body) = response.into_parts();
        let body = match body {
            Body::Upstream(body) => body,
            Body::Own(_) => return Ok(Response::from_parts(head, body)),
        };
        let refuse = |what: String| Refusal::not_a_registry(&asked.route, what);
        let too_large = || refuse("answered with a manifest of more than 4 MiB".to_owned());
        if length(&head.headers).is_some_and(|length| length > MAX_MANIFEST) {
            return Err(too_large());
        }
        let body = match context
            .in_time(context.platform.read(body, MAX_MANIFEST))
            .await
        {
            Some(Ok(body)) => body,
            Some(Err(ReadBodyError::TooLarge)) => return Err(too_large()),
            Some(Err(ReadBodyError::Broken(_))) => {
                return Err(refuse("broke off within a manifest".to_owned()));
            }
            None => {
                return Err(Refusal::of_failure(
                    UpstreamError::Transport(TransportError::TimedOut),
                    &asked.route,
                ));
            }
        };
        // `reply` has put there what the manifest was asked by, if the upstream did not.
        let named = digest(&head.headers);
        let digest = match &wanted.reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => named,
        };
        match (
            digest.as_ref().map(|digest| (digest, digest.verify(&body))),
            &wanted.reference,
        ) {
            (Some((digest, Ok(()))), _) => {
                self.keep(
                    context,
                    wanted,
                    digest,
                    header(&head.headers, CONTENT_TYPE).unwrap_or_default(),
                    &body,
                );
            }
            // The digest of a signed manifest of schema 1 is that of what is signed: the client takes the signatures off.
            (Some((_, Err(Mismatch::OtherContent))), Reference::Digest(_))
                if !is_signed(&head.headers) =>
            {
                return Err(refuse(
                    "answered with another manifest than its digest names".to_owned(),
                ));
            }
            // What an upstream says of its tag is for the client to judge, and not kept.
            _ => {}
        }
        head.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        head.headers
            .insert(CACHE_STATUS, HeaderValue::from_static("hammal; fwd=miss"));
        Ok(Response::from_parts(head, Body::Own(body)))
    }

    fn keep(
        &self,
        context: &Context<'_, P>,
        wanted: &Wanted,
        digest: &Digest,
        media_type: &str,
        body: &[u8],
    ) {
        let Ok(text) = std::str::from_utf8(body) else {
            return;
        };
        if body.len() > MAX_KEPT {
            return;
        }
        let seen = context.platform.now().as_secs();
        let content = Content {
            media_type: media_type.to_owned(),
            text: text.to_owned(),
            seen,
        };
        self.contents.keep(
            context.store,
            &wanted.content_identity(digest),
            content,
            kept(context),
        );
        if matches!(wanted.reference, Reference::Tag(_)) {
            let pointer = Pointer::new(
                digest.clone(),
                media_type.to_owned(),
                body.len(),
                context.platform.now(),
            );
            self.point(context, wanted, Rc::new(pointer));
        }
    }

    /// The store is told of a change, and now and then that there is none: it would be written to with every pull
    /// otherwise.
    fn point(&self, context: &Context<'_, P>, wanted: &Wanted, pointer: Rc<Pointer>) {
        // For as long as there may be content that it is worth to be looked at again for.
        let life = kept(context).max(context.config.tag_ttl);
        let (identity, now) = (wanted.identity(), context.platform.now());
        match self.tags.remembered(&identity, now) {
            Some(before)
                if before.digest == pointer.digest && before.written_within(now, WRITE_PAUSE) =>
            {
                let pointer = Pointer {
                    written: before.written,
                    ..(*pointer).clone()
                };
                self.tags.remember(&identity, pointer, now, life);
            }
            _ => self.tags.keep(context.store, &identity, pointer, life),
        }
    }

    async fn content(
        &self,
        context: &Context<'_, P>,
        wanted: &Wanted,
        digest: &Digest,
    ) -> Option<Rc<Content>> {
        let identity = wanted.content_identity(digest);
        let content = match self.contents.remembered(&identity, context.platform.now()) {
            Some(content) => content,
            // What is read from the store is not believed.
            None => {
                let is_right = |content: &Content| digest.verify(content.text.as_bytes()).is_ok();
                self.contents
                    .stored_if(context.store, &identity, is_right)
                    .await?
            }
        };
        wanted.accept.takes(&content.media_type).then_some(content)
    }
}

/// The digest of what an upstream answers with, if it says one.
pub fn digest(headers: &HeaderMap) -> Option<Digest> {
    Digest::parse(header(headers, CONTENT_DIGEST)?).ok()
}

/// How long content is kept.
fn kept<P: Platform>(context: &Context<'_, P>) -> Duration {
    CONTENT_LIFE.saturating_add(context.config.max_stale)
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a manifest has its signatures in it (Docker's schema 1).
fn is_signed(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|media_type| response::essence(media_type).ends_with("+prettyjws"))
}

fn length(headers: &HeaderMap) -> Option<usize> {
    header(headers, CONTENT_LENGTH)?.parse().ok()
}

impl Content {
    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_secs(self.seen))
    }
}

impl Pointer {
    fn new(digest: Digest, media_type: String, length: usize, now: Duration) -> Pointer {
        Pointer {
            digest,
            media_type,
            length,
            seen: now.as_secs(),
            written: now.as_secs(),
        }
    }

    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_secs(self.seen))
    }

    fn written_within(&self, now: Duration, pause: Duration) -> bool {
        now.saturating_sub(Duration::from_secs(self.written)) < pause
    }
}

impl Known {
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Whether it can be answered with; of a tag that was only asked for by `HEAD` there is no more than its digest.
    pub fn has_content(&self) -> bool {
        self.content.is_some()
    }

    /// Whether it may answer without asking upstream.
    pub fn is_fresh<P: Platform>(&self, context: &Context<'_, P>) -> bool {
        let now = context.platform.now();
        match (&self.pointer, &self.content) {
            (Some(pointer), _) => pointer.age(now) < context.config.tag_ttl,
            (None, content) => content
                .as_ref()
                .is_some_and(|content| content.age(now) < CONTENT_LIFE),
        }
    }

    /// Whether it may answer where the upstream can't be asked; what a digest names always may.
    pub fn may_be_stale<P: Platform>(&self, context: &Context<'_, P>) -> bool {
        self.pointer
            .as_ref()
            .is_none_or(|pointer| pointer.age(context.platform.now()) < context.config.max_stale)
    }

    /// `None` where the content is missing, or what came from the store is no header.
    pub fn respond<P: Platform>(
        &self,
        context: &Context<'_, P>,
        head_only: bool,
        hit: Hit,
    ) -> Option<Response<Body<P::Body>>> {
        let (media_type, length, text) = match (&self.content, &self.pointer) {
            (Some(content), _) => (
                &content.media_type,
                content.text.len(),
                content.text.as_str(),
            ),
            (None, Some(pointer)) if head_only => (&pointer.media_type, pointer.length, ""),
            _ => return None,
        };
        let mut response = Body::respond(StatusCode::OK, text.into(), head_only);
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(media_type).ok()?);
        headers.insert(
            CONTENT_DIGEST,
            HeaderValue::from_str(self.digest.as_str()).ok()?,
        );
        headers.insert(CACHE_STATUS, HeaderValue::from_static(hit.cache_status()));
        if let Some(pointer) = &self.pointer {
            headers.insert(
                AGE,
                HeaderValue::from(pointer.age(context.platform.now()).as_secs()),
            );
        }
        context.cost.cache.set(Some(hit));
        Some(response)
    }
}
