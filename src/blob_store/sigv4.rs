//! Signatures of S3's protocol: AWS Signature Version 4, in headers and in presigned URLs ("AWS
//! Signature Version 4 for API requests" in the Amazon S3 API reference).

use crate::config::blob_store::Credentials;
use crate::upstream::timestamp::Timestamp;
use hmac::{Hmac, Mac as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::digest::Output;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::time::Duration;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Stands for the hash of the body where it is not signed: a presigned URL is for any.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// The characters that signatures percent-encode: all but the unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Who signs, and when.
#[derive(Clone, Copy, Debug)]
pub struct Signer<'a> {
    pub credentials: &'a Credentials,
    pub region: &'a str,
    pub time: Timestamp,
}

/// What every signature covers besides headers and body.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub method: &'a str,
    /// Begins with `/`, and has no character that has to be percent-encoded.
    pub path: &'a str,
    /// Without the question mark: percent-encoded, ordered by name.
    pub query: &'a str,
}

impl Signer<'_> {
    /// Returns the `Authorization` of a request. `headers` are those that are signed, with `host`
    /// among them: their names in lower case and in order. `payload` is the SHA-256 of the body.
    pub fn authorization(
        &self,
        target: &Target<'_>,
        headers: &[(&str, &str)],
        payload: &str,
    ) -> String {
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        format!(
            "{ALGORITHM} Credential={}/{},SignedHeaders={},Signature={}",
            self.credentials.access_key,
            self.scope(),
            names.join(";"),
            self.signature(target, headers, payload),
        )
    }

    /// Returns the query of a URL by which anybody may send one kind of request for `lifetime`.
    pub fn presigned_query(
        &self,
        method: &str,
        host: &str,
        path: &str,
        lifetime: Duration,
    ) -> String {
        let credential = format!("{}/{}", self.credentials.access_key, self.scope());
        let credential = utf8_percent_encode(&credential, ENCODED);
        let (time, seconds) = (self.time, lifetime.as_secs());
        let mut query = format!(
            "X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={credential}&X-Amz-Date={time}\
             &X-Amz-Expires={seconds}&X-Amz-SignedHeaders=host"
        );
        let target = Target {
            method,
            path,
            query: &query,
        };
        let signature = self.signature(&target, &[("host", host)], UNSIGNED);
        query.push_str("&X-Amz-Signature=");
        query.push_str(&signature);
        query
    }

    fn signature(&self, target: &Target<'_>, headers: &[(&str, &str)], payload: &str) -> String {
        let Target {
            method,
            path,
            query,
        } = target;
        let (mut lines, mut names) = (String::new(), String::new());
        for (name, value) in headers {
            let _ = writeln!(lines, "{name}:{value}");
            if !names.is_empty() {
                names.push(';');
            }
            names.push_str(name);
        }
        let request = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{payload}");
        let (time, scope) = (self.time, self.scope());
        let request = sha256_hex(request.as_bytes());
        let text = format!("{ALGORITHM}\n{time}\n{scope}\n{request}");
        let secret = format!("AWS4{}", self.credentials.secret_key);
        let mut key = hmac(secret.as_bytes(), time.date().as_bytes());
        for part in [self.region, "s3", "aws4_request", &text] {
            key = hmac(&key, part.as_bytes());
        }
        format!("{key:x}")
    }

    fn scope(&self) -> String {
        format!("{}/{}/s3/aws4_request", self.time.date(), self.region)
    }
}

/// Returns the HMAC with SHA-256; a key of any length has one.
fn hmac(key: &[u8], message: &[u8]) -> Output<Sha256> {
    let hmac = Hmac::<Sha256>::new_from_slice(key);
    hmac.map(|hmac| hmac.chain_update(message).finalize().into_bytes())
        .unwrap_or_default()
}

/// Returns the SHA-256 of `content`, in hexadecimal digits.
pub fn sha256_hex(content: &[u8]) -> String {
    format!("{:x}", Sha256::digest(content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2013-05-24T00:00:00Z
    const TIME: Duration = Duration::from_secs(1_369_353_600);
    const HOST: &str = "examplebucket.s3.amazonaws.com";
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    /// The key of the examples of the Amazon S3 API reference.
    fn credentials() -> Credentials {
        Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
        }
    }

    fn signer(credentials: &Credentials) -> Signer<'_> {
        Signer {
            credentials,
            region: "us-east-1",
            time: Timestamp::new(TIME),
        }
    }

    #[test]
    fn headers_are_signed_as_in_amazons_examples() {
        let credentials = credentials();
        let common = [
            ("host", HOST),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", "20130524T000000Z"),
        ];
        let with_range = [common[0], ("range", "bytes=0-9"), common[1], common[2]];
        let put_hash = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
        let put = [
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            common[0],
            ("x-amz-content-sha256", put_hash),
            common[2],
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ];
        for (method, path, query, headers, payload, signature) in [
            (
                "GET",
                "/test.txt",
                "",
                &with_range[..],
                EMPTY,
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                "PUT",
                "/test%24file.text",
                "",
                &put,
                put_hash,
                "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            ),
            (
                "GET",
                "/",
                "lifecycle=",
                &common,
                EMPTY,
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                "GET",
                "/",
                "max-keys=2&prefix=J",
                &common,
                EMPTY,
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ] {
            let target = Target {
                method,
                path,
                query,
            };
            let authorization = signer(&credentials).authorization(&target, headers, payload);
            assert!(
                authorization.starts_with(
                    "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/\
                     aws4_request,SignedHeaders="
                ),
                "{authorization}"
            );
            assert!(authorization.ends_with(signature), "{authorization}");
        }
    }

    #[test]
    fn a_url_is_presigned_as_in_amazons_example() {
        let credentials = credentials();
        let query = signer(&credentials).presigned_query(
            "GET",
            HOST,
            "/test.txt",
            Duration::from_secs(86_400),
        );
        assert_eq!(
            query,
            "X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }

    /// The third and the sixth case of RFC 4231: a key shorter than a block, and a longer one.
    #[test]
    fn codes_are_those_of_the_rfc() {
        for (key, message, code) in [
            (
                vec![0xaa; 20],
                vec![0xdd; 50],
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
            ),
            (
                vec![0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First".to_vec(),
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            assert_eq!(format!("{:x}", hmac(&key, &message)), code);
        }
    }

    proptest! {
        #[test]
        fn no_key_or_time_panics(key in "\\PC{0,200}", seconds in 0..253_402_300_800_u64) {
            let credentials = Credentials { access_key: key.clone(), secret_key: key };
            let signer = Signer { time: Timestamp::new(Duration::from_secs(seconds)), ..signer(&credentials) };
            let query = signer.presigned_query("GET", HOST, "/", Duration::from_secs(1));
            prop_assert!(query.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }
}
