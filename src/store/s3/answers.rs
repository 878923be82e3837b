//! What a server answers, and what is made of it: whether to ask again, and in which words a person
//! hears of it.
//!
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>

use std::borrow::Cow;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::error::{Error, Kind, Result};

/// A page of ListObjectsV2.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Page {
    #[serde(default)]
    pub encoding_type: String,
    #[serde(default)]
    pub is_truncated: bool,
    pub next_continuation_token: Option<String>,
    #[serde(default)]
    pub contents: Vec<Object>,
    #[serde(default)]
    pub common_prefixes: Vec<Prefix>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Object {
    pub key: String,
    pub size: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Prefix {
    pub prefix: String,
}

impl Page {
    /// A key as it is: names that XML cannot hold come percent-encoded, with `+` for a space.
    pub fn plain<'a>(&self, key: &'a str) -> Cow<'a, str> {
        if self.encoding_type != "url" {
            return Cow::Borrowed(key);
        }
        Cow::Owned(percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned())
    }
}

/// The answer to CreateMultipartUpload.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Created {
    pub upload_id: String,
}

/// A page of ListMultipartUploads.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Uploads {
    #[serde(default)]
    pub is_truncated: bool,
    pub next_key_marker: Option<String>,
    pub next_upload_id_marker: Option<String>,
    #[serde(default, rename = "Upload")]
    pub begun: Vec<Begun>,
}

/// A multipart upload that is neither completed nor aborted.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Begun {
    pub key: String,
    pub upload_id: String,
}

/// The body of an error.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Told {
    code: String,
    message: String,
    region: Option<String>,
}

/// Reads an answer.
///
/// # Errors
/// It is none of S3.
pub fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Failure> {
    quick_xml::de::from_str(text).map_err(|error| Failure::NoAnswer(format!("what it answers is none of S3: {error}")))
}

/// Why a request came to nothing.
#[derive(Debug, Clone)]
pub enum Failure {
    Refused(Refusal),
    /// No whole answer came; what was asked for may have been done.
    NoAnswer(String),
    /// The connection cannot be made, however often.
    NoTrust(String),
}

#[derive(Debug, Clone, Default)]
pub struct Refusal {
    pub status: u16,
    /// Such as `NoSuchKey`; empty where the answer has no body.
    pub code: String,
    pub message: String,
    /// The region that the bucket is in, where the server tells.
    pub region: Option<String>,
    /// How long the server asks to wait.
    pub pause: Option<Duration>,
}

impl Refusal {
    pub fn new(status: u16, body: &str, region: Option<String>, pause: Option<Duration>) -> Self {
        let told: Told = quick_xml::de::from_str(body).unwrap_or_default();
        Refusal { status, code: told.code, message: told.message, region: region.or(told.region), pause }
    }
}

impl Failure {
    /// The answer that a failure which came after a good status had in its body: that of
    /// CompleteMultipartUpload begins before its end is known.
    pub fn in_body(body: &str) -> Option<Self> {
        body.contains("<Error>").then(|| {
            let at = body.find("<Error>").unwrap_or_default();
            Failure::Refused(Refusal::new(200, &body[at..], None, None))
        })
    }

    fn refusal(&self) -> Option<&Refusal> {
        match self {
            Failure::Refused(refusal) => Some(refusal),
            Failure::NoAnswer(_) | Failure::NoTrust(_) => None,
        }
    }

    /// Whether the same request may succeed a little later.
    pub fn may_pass(&self) -> bool {
        const CODES: [&str; 12] = [
            "SlowDown",
            "ServiceUnavailable",
            "InternalError",
            "RequestTimeout",
            "IncompleteBody",
            "BadDigest",
            "XAmzContentSHA256Mismatch",
            "XAmzContentChecksumMismatch",
            "OperationAborted",
            "ConditionalRequestConflict",
            "TooManyRequests",
            "ThrottlingException",
        ];
        match self {
            Failure::Refused(refusal) => {
                matches!(refusal.status, 408 | 425 | 429 | 500 | 502 | 503 | 504) || CODES.contains(&refusal.code.as_str())
            }
            Failure::NoAnswer(_) => true,
            Failure::NoTrust(_) => false,
        }
    }

    /// Whether it is open if it was done all the same.
    pub fn is_doubtful(&self) -> bool {
        self.may_pass() || self.is_taken()
    }

    /// Something of that name is there.
    pub fn is_taken(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.status == 412 || refusal.code == "PreconditionFailed")
    }

    /// There is nothing of that name in a bucket that is there.
    pub fn is_absent(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.status == 404 && refusal.code != "NoSuchBucket")
    }

    /// The keys are known, and may not do this; or a lock holds the object.
    pub fn is_denied(&self) -> bool {
        self.refusal().is_some_and(|refusal| {
            let locked = refusal.message.contains("WORM") || refusal.code == "ObjectLocked";
            locked || refusal.status == 403 && matches!(refusal.code.as_str(), "AccessDenied" | "")
        })
    }

    /// How long the server asks to wait.
    pub fn pause(&self) -> Option<Duration> {
        self.refusal().and_then(|refusal| refusal.pause)
    }

    /// As a person reads it. `section` is the store's section of the file.
    pub fn error(&self, doing: &str, place: &str, section: &str) -> Error {
        let refusal = match self {
            Failure::NoTrust(why) => {
                return Error::new(Kind::Store, format!("cannot {doing} {place}: {why}")).hint(format!(
                    "the certificate must be valid for the host of endpoint; ca_file in s3 of [{section}] names a private authority"
                ));
            }
            Failure::NoAnswer(why) => {
                return Error::new(Kind::Store, format!("cannot {doing} {place}: {why}"))
                    .hint(format!("look at endpoint of [{section}], and whether it can be reached from here; then run again"));
            }
            Failure::Refused(refusal) => refusal,
        };
        let mut why = format!("it answers {}", refusal.status);
        for part in [&refusal.code, &refusal.message] {
            if !part.is_empty() {
                why.push_str(&format!(" {}", crate::host::printable(part).replace('\n', " ")));
            }
        }
        let error = Error::new(Kind::Store, format!("cannot {doing} {place}: {why}"));
        error.hint(refusal.hint(section, self.may_pass()))
    }
}

impl Refusal {
    fn hint(&self, section: &str, may_pass: bool) -> String {
        let region = || match &self.region {
            Some(region) => format!("the bucket is in another region: write region = {region:?} into s3 of [{section}]"),
            None => format!("the bucket is in another region, or behind another endpoint: look at region and endpoint of [{section}]"),
        };
        match self.code.as_str() {
            "RequestTimeTooSkewed" | "RequestExpired" => {
                "the clock of this machine is wrong: set it by NTP (timedatectl set-ntp true); then run again".to_owned()
            }
            "SignatureDoesNotMatch" => {
                format!(
                    "the secret does not belong to the key: look at secret_access_key of [{section}], without a space or a quote too many"
                )
            }
            "InvalidAccessKeyId" | "InvalidClientTokenId" => {
                format!("the server does not know the key: look at access_key_id and endpoint of [{section}]")
            }
            "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
                format!("session_token of [{section}] is no longer good: write a new one, which is read with the next run")
            }
            "NoSuchBucket" => format!("there is no such bucket: make it, or look at bucket and endpoint of [{section}]"),
            "InvalidBucketName" => format!("look at bucket of [{section}]: a name, without s3:// and without a folder"),
            "AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect" | "IllegalLocationConstraintException" => region(),
            "KMS.NotFoundException" | "KMS.DisabledException" => format!("look at sse_kms_key_id in s3 of [{section}]"),
            "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull" => {
                "the store is full: nothing that was stored is lost; make room".to_owned()
            }
            _ if (300..400).contains(&self.status) => region(),
            _ if self.status == 403 => {
                "the key may not do this: give it the rights of docs/stores-s3.md, on the bucket and on what is in it".to_owned()
            }
            _ if may_pass => "the server says that this may pass; run again a little later".to_owned(),
            _ => format!("look at s3 of [{section}]; docs/stores-s3.md says what the server must be able to do"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str) -> Failure {
        Failure::Refused(Refusal::new(status, &format!("<Error><Code>{code}</Code><Message>m</Message></Error>"), None, None))
    }

    #[test]
    fn what_may_pass() {
        for (status, code, passes) in [
            (429, "", true),
            (500, "InternalError", true),
            (503, "SlowDown", true),
            (200, "InternalError", true),
            (400, "RequestTimeout", true),
            (409, "ConditionalRequestConflict", true),
            (403, "AccessDenied", false),
            (403, "RequestTimeTooSkewed", false),
            (404, "NoSuchKey", false),
            (404, "NoSuchBucket", false),
            (412, "PreconditionFailed", false),
            (501, "NotImplemented", false),
            (301, "PermanentRedirect", false),
        ] {
            assert_eq!(refused(status, code).may_pass(), passes, "{status} {code}");
        }
        assert!(Failure::NoAnswer("cut".into()).may_pass());
        assert!(!Failure::NoTrust("certificate".into()).may_pass());
    }

    #[test]
    fn a_bucket_that_is_not_there_is_no_absent_object() {
        assert!(refused(404, "NoSuchKey").is_absent());
        assert!(Failure::Refused(Refusal::new(404, "", None, None)).is_absent());
        assert!(!refused(404, "NoSuchBucket").is_absent());
    }

    #[test]
    fn a_wrong_secret_is_no_lock() {
        assert!(refused(403, "AccessDenied").is_denied());
        assert!(!refused(403, "SignatureDoesNotMatch").is_denied());
        assert!(!refused(403, "RequestTimeTooSkewed").is_denied());
    }

    #[test]
    fn hints_name_what_to_change() {
        let hint = |status, code: &str| refused(status, code).error("write", "s3://b/k", "stores.x").hint.unwrap();
        assert!(hint(403, "SignatureDoesNotMatch").contains("secret_access_key of [stores.x]"));
        assert!(hint(403, "InvalidAccessKeyId").contains("access_key_id"));
        assert!(hint(403, "RequestTimeTooSkewed").contains("clock"));
        assert!(hint(404, "NoSuchBucket").contains("bucket"));
        assert!(hint(403, "AccessDenied").contains("docs/stores-s3.md"));
        let moved = Refusal::new(301, "<Error><Code>PermanentRedirect</Code></Error>", Some("eu-west-1".into()), None);
        let error = Failure::Refused(moved).error("list", "s3://b/", "stores.x");
        assert_eq!(error.message, "cannot list s3://b/: it answers 301 PermanentRedirect");
        assert!(error.hint.unwrap().contains("region = \"eu-west-1\""));
    }

    #[test]
    fn an_error_behind_a_good_status_is_one() {
        assert!(Failure::in_body("<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>").is_none());
        let failure = Failure::in_body("<?xml version=\"1.0\"?>\n<Error><Code>InternalError</Code></Error>").unwrap();
        assert!(failure.may_pass());
    }

    #[test]
    fn listed_names_are_decoded() {
        let text = "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>\
            <Contents><Key>a%2520b+c</Key><Size>1</Size></Contents><CommonPrefixes><Prefix>x/</Prefix></CommonPrefixes>\
            <Contents><Key>d</Key><Size>2</Size></Contents></ListBucketResult>";
        let page: Page = read(text).unwrap();
        assert_eq!(page.plain(&page.contents[0].key), "a%20b c");
        assert_eq!((page.contents.len(), page.common_prefixes.len()), (2, 1));
        let empty: Page = read("<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>").unwrap();
        assert!(empty.contents.is_empty());
    }
}
