//! The keys of a bucket, held against each other and against what S3 allows: pure.

use super::faults::Examined;
use super::file::{Addressing, S3, Store};
use super::values::Name;

/// Notes what is wrong with a store in a bucket.
pub fn check(name: &Name, store: &Store, at: &S3, examined: &mut Examined<'_>) {
    let section = ["stores", name.as_str()];
    let key = |key| ["stores", name.as_str(), "s3", key];
    for (secret, given) in [("access_key_id", &store.access_key_id), ("secret_access_key", &store.secret_access_key)] {
        if given.is_none() {
            examined.lack(
                &section,
                format!("store {name} has no {secret}"),
                format!("add {secret} = {{ env = \"NAME\" }} or {{ file = \"PATH\" }} to the store; keys of the machine itself are not looked for"),
            );
        }
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !(3..=63).contains(&at.bucket.len()) || !at.bucket.chars().all(is_plain) {
        examined.fault(
            &key("bucket"),
            format!("bad name of a bucket {:?}", at.bucket),
            "write the name alone, without s3:// and without a folder: that is prefix",
        );
    }
    let prefix = at.prefix.as_deref().unwrap_or_default().trim_matches('/');
    if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..") || part.chars().any(char::is_control)) {
        examined.fault(
            &key("prefix"),
            format!("bad prefix {prefix:?}"),
            "write folders with a slash between them, such as \"postgres\" or \"site/postgres\"",
        );
    }
    check_endpoint(at, &key("endpoint"), examined);
    if at.addressing == Some(Addressing::Host)
        && at.bucket.contains('.')
        && !at.endpoint.as_deref().is_some_and(|url| url.starts_with("http://"))
    {
        examined.fault(
            &key("addressing"),
            "with a dot in the name of the bucket no certificate fits its host",
            "set addressing = \"path\"",
        );
    }
    let region = at.region.as_deref().unwrap_or("-");
    if region.is_empty() || !region.chars().all(is_plain) {
        examined.fault(&key("region"), format!("bad region {region:?}"), "write it as the server names it, such as \"eu-central-1\"");
    }
    if let Some(sse) = &at.sse
        && !["AES256", "aws:kms", "aws:kms:dsse"].contains(&sse.as_str())
    {
        examined.fault(&key("sse"), format!("unknown encryption {sse:?}"), "write AES256, aws:kms or aws:kms:dsse");
    }
    if at.sse_kms_key_id.is_some() && !at.sse.as_deref().is_some_and(|sse| sse.starts_with("aws:kms")) {
        examined.fault(
            &key("sse_kms_key_id"),
            "sse_kms_key_id has no effect without sse = \"aws:kms\"",
            "add sse = \"aws:kms\", or remove the key",
        );
    }
    if at.object_lock.is_some_and(|lock| lock.retain.0.as_secs() < 3_600) {
        examined.fault(&key("object_lock"), "retain is shorter than an hour", "write how long nobody may delete a backup, such as \"30d\"");
    }
    if at.ca_file.is_some() && at.endpoint.as_deref().is_some_and(|url| url.starts_with("http://")) {
        examined.fault(&key("ca_file"), "ca_file has no effect with an endpoint of http://", "write https://, or remove the key");
    }
}

fn check_endpoint(at: &S3, key: &[&str], examined: &mut Examined<'_>) {
    let Some(endpoint) = &at.endpoint else { return };
    let hint = "write scheme and host, such as \"https://s3.example.com\" or \"http://127.0.0.1:9000\"";
    let fault = match url::Url::parse(endpoint) {
        Ok(url) if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() => "it is no address of the web",
        Ok(url) if !url.username().is_empty() || url.password().is_some() => "it holds a name or a password",
        Ok(url) if url.query().is_some() || url.fragment().is_some() => "it holds more than scheme, host and path",
        Ok(url) if at.addressing == Some(Addressing::Host) && matches!(url.host(), Some(url::Host::Ipv4(_) | url::Host::Ipv6(_))) => {
            examined.fault(
                key,
                "a bucket cannot stand in front of an address of numbers",
                "write a host name, or set addressing = \"path\"",
            );
            return;
        }
        Ok(url) if at.addressing == Some(Addressing::Host) && url.path() != "/" => "with addressing = \"host\" it cannot hold a path",
        Ok(_) => return,
        Err(_) => "it is no address",
    };
    examined.fault(key, format!("bad endpoint {endpoint:?}: {fault}"), hint);
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    fn faults(s3: &str, rest: &str) -> Vec<String> {
        let text = format!("[servers.main]\ncontainer = \"pg\"\n[stores.far]\ns3 = {{ {s3} }}\n{rest}\n[backups.x]\ndatabase = \"x\"\n");
        match parse(&text, std::path::Path::new("x.toml")) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.faults.into_iter().map(|fault| fault.message).collect(),
        }
    }

    const KEYS: &str = "access_key_id = { env = \"A\" }\nsecret_access_key = { env = \"B\" }";

    #[test]
    fn what_is_right_passes() {
        for s3 in [
            "bucket = \"acme-backups\"",
            "bucket = \"acme.backups\", prefix = \"/a/b c/\", region = \"eu-central-1\"",
            "bucket = \"acme\", endpoint = \"https://s3.example.com\", addressing = \"host\", sse = \"AES256\"",
            "bucket = \"acme\", endpoint = \"http://127.0.0.1:9000/base\", sse = \"aws:kms\", sse_kms_key_id = \"k\"",
            "bucket = \"acme\", object_lock = { mode = \"compliance\", retain = \"30d\" }",
        ] {
            assert_eq!(faults(s3, KEYS), Vec::<String>::new(), "{s3}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (s3, fault) in [
            ("bucket = \"s3://acme\"", "bad name of a bucket"),
            ("bucket = \"ac\"", "bad name of a bucket"),
            ("bucket = \"acme\", prefix = \"a//b\"", "bad prefix"),
            ("bucket = \"acme\", prefix = \"../b\"", "bad prefix"),
            ("bucket = \"acme\", endpoint = \"s3.example.com\"", "bad endpoint"),
            ("bucket = \"acme\", endpoint = \"ftp://s3.example.com\"", "no address of the web"),
            ("bucket = \"acme\", endpoint = \"https://u:p@s3.example.com\"", "a name or a password"),
            ("bucket = \"acme\", endpoint = \"https://s3.example.com/?x\"", "more than scheme"),
            ("bucket = \"acme\", endpoint = \"http://127.0.0.1:1\", addressing = \"host\"", "an address of numbers"),
            ("bucket = \"acme\", endpoint = \"https://h/p\", addressing = \"host\"", "cannot hold a path"),
            ("bucket = \"ac.me\", addressing = \"host\"", "no certificate fits"),
            ("bucket = \"acme\", region = \"\"", "bad region"),
            ("bucket = \"acme\", sse = \"aes\"", "unknown encryption"),
            ("bucket = \"acme\", sse_kms_key_id = \"k\"", "has no effect without sse"),
            ("bucket = \"acme\", object_lock = { mode = \"governance\", retain = \"1m\" }", "shorter than an hour"),
            ("bucket = \"acme\", endpoint = \"http://h\", ca_file = \"/x\"", "ca_file has no effect"),
        ] {
            let found = faults(s3, KEYS);
            assert!(found.len() == 1 && found[0].contains(fault), "{s3}: {found:?}");
        }
    }

    #[test]
    fn both_keys_are_needed() {
        let found = faults("bucket = \"acme\"", "access_key_id = { env = \"A\" }");
        assert_eq!(found, ["store far has no secret_access_key"]);
        assert_eq!(faults("bucket = \"acme\"", "").len(), 2);
    }
}
