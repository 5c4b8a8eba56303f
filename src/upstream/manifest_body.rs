//! Bodies of manifests: read within limits, and asked what they are where the headers don't say it.
//! File servers and buckets send manifests as `text/plain` or `application/octet-stream`.

use super::error::{ManifestError, UpstreamError};
use super::{RawResponse, UpstreamRequest, content_type};
use crate::context::Context;
use crate::platform::{Platform, ReadBodyError, TransportError};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Bytes. A larger manifest is refused; registries themselves take no larger one.
pub const MAX_MANIFEST: usize = 4 * 1024 * 1024;

/// The body of an upstream's response.
#[derive(Debug)]
pub enum UpstreamBody<B> {
    Unread(B),
    /// It was read to find out what it is.
    Read(Vec<u8>),
}

/// Gives a manifest that came under a type that says nothing its own type, which its body tells.
/// Leaves every other response as it is.
pub async fn identify<P: Platform>(
    context: &Context<'_, P>,
    request: &UpstreamRequest<'_>,
    response: RawResponse<P::Body>,
) -> Result<RawResponse<UpstreamBody<P::Body>>, UpstreamError> {
    let RawResponse {
        response,
        url,
        redirected,
        proof,
    } = response;
    let (mut head, body) = response.into_parts();
    let is_unknown = request.route.is_manifest()
        && request.method == Method::GET
        && head.status == StatusCode::OK
        && content_type::is_generic(&head.headers);
    let body = if is_unknown {
        let body = read(context, &head.headers, body).await?;
        let media_type = type_of(&body).ok_or(UpstreamError::NotRegistryContent)?;
        head.headers.insert(CONTENT_TYPE, media_type);
        let length = HeaderValue::from(body.len());
        head.headers.insert(CONTENT_LENGTH, length);
        UpstreamBody::Read(body)
    } else {
        UpstreamBody::Unread(body)
    };
    Ok(RawResponse {
        response: Response::from_parts(head, body),
        url,
        redirected,
        proof,
    })
}

/// Reads the body of a manifest to its end, within the limits of size and time.
pub async fn read<P: Platform>(
    context: &Context<'_, P>,
    headers: &HeaderMap,
    body: P::Body,
) -> Result<Vec<u8>, UpstreamError> {
    let length = headers.get(CONTENT_LENGTH).and_then(|it| it.to_str().ok());
    let length = length.and_then(|length| length.parse::<usize>().ok());
    if length.is_some_and(|length| length > MAX_MANIFEST) {
        return Err(ManifestError::TooLarge(MAX_MANIFEST).into());
    }
    let read = context.platform.read(body, MAX_MANIFEST);
    match context.within_exchange_timeout(read).await {
        Some(Ok(body)) => Ok(body),
        Some(Err(ReadBodyError::TooLarge)) => Err(ManifestError::TooLarge(MAX_MANIFEST).into()),
        Some(Err(ReadBodyError::Transport(_))) => Err(ManifestError::Truncated.into()),
        None => Err(TransportError::TimedOut.into()),
    }
}

/// What tells the kinds of manifests apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    media_type: Option<String>,
    schema_version: Option<u8>,
    manifests: Option<Vec<IgnoredAny>>,
    layers: Option<Vec<IgnoredAny>>,
    fs_layers: Option<Vec<IgnoredAny>>,
    signatures: Option<IgnoredAny>,
}

/// Returns the type of a manifest: its own `mediaType`, or the one of its shape, since the image
/// specification lets manifests go without. `None` where it is no manifest.
fn type_of(body: &[u8]) -> Option<HeaderValue> {
    // Serde would take a list of the fields' values too.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let shape: Shape = serde_json::from_slice(body).ok()?;
    if let Some(own) = &shape.media_type {
        // `application/json` would be no manifest's own type.
        return content_type::of_manifest(own).filter(|own| *own != "application/json");
    }
    let media_type = match (shape.schema_version?, &shape) {
        (
            2,
            Shape {
                manifests: Some(_), ..
            },
        ) => "application/vnd.oci.image.index.v1+json",
        (
            2,
            Shape {
                layers: Some(_), ..
            },
        ) => "application/vnd.oci.image.manifest.v1+json",
        (
            1,
            Shape {
                fs_layers: Some(_),
                signatures: Some(_),
                ..
            },
        ) => "application/vnd.docker.distribution.manifest.v1+prettyjws",
        (
            1,
            Shape {
                fs_layers: Some(_), ..
            },
        ) => "application/vnd.docker.distribution.manifest.v1+json",
        _ => return None,
    };
    Some(HeaderValue::from_static(media_type))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_manifest_says_by_itself_what_it_is() {
        for (body, expected) in [
            (
                r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","layers":[]}"#,
                Some("application/vnd.docker.distribution.manifest.v2+json"),
            ),
            (
                r#"{"schemaVersion":2,"manifests":[{}]}"#,
                Some("application/vnd.oci.image.index.v1+json"),
            ),
            (
                r#"{"schemaVersion":2,"config":{},"layers":[]}"#,
                Some("application/vnd.oci.image.manifest.v1+json"),
            ),
            (
                r#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[]}"#,
                Some("application/vnd.oci.artifact.manifest.v1+json"),
            ),
            (
                r#"{"schemaVersion":1,"fsLayers":[],"signatures":[{}]}"#,
                Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
            ),
            (
                r#"{"schemaVersion":1,"fsLayers":[]}"#,
                Some("application/vnd.docker.distribution.manifest.v1+json"),
            ),
            (r#"{"mediaType":"text/html"}"#, None),
            (
                r#"{"mediaType":"application/json","schemaVersion":2,"layers":[]}"#,
                None,
            ),
            (r#"{"mediaType":"application/vnd.a+json;,text/html"}"#, None),
            (r#"{"schemaVersion":2}"#, None),
            (r#"{"schemaVersion":3,"layers":[]}"#, None),
            (r#"{"schemaVersion":2,"layers":"x"}"#, None),
            (r#"{"token":"secret"}"#, None),
            (r#"[{"schemaVersion":2,"layers":[]}]"#, None),
            ("<!DOCTYPE html><script>alert(1)</script>", None),
            (r#"["application/vnd.a+json",2,[],[],[],1]"#, None),
            ("", None),
        ] {
            assert_eq!(
                type_of(body.as_bytes())
                    .as_ref()
                    .map(|it| it.to_str().unwrap()),
                expected,
                "{body}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(body in "\\PC{0,40}|\\{(\"(mediaType|schemaVersion|layers)\":(1|2|\\[\\]|\"[a-z/+.]{0,9}\"),?){0,3}\\}") {
            let _ = type_of(body.as_bytes());
        }
    }
}
