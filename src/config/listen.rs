//! `listen`: where the listener is, who may ask, and under which names.

use std::net::SocketAddr;

use super::faults::Examined;
use super::file::File;
use super::values::Given;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub address: SocketAddr,
    /// `None`: whoever reaches the address may look, which is loopback then.
    pub token: Option<Given>,
    /// Names that a request may be addressed to, beside the address and localhost.
    pub names: Vec<String>,
}

/// Makes the plan of the listener; its faults are noted.
pub fn plan_listen(file: &File, examined: &mut Examined<'_>) -> Option<Listen> {
    let listen = file.listen.as_ref()?;
    let names = file.listen_names.clone().unwrap_or_default();
    for name in names.iter().filter(|name| !is_host_name(name)) {
        examined.fault(
            &["listen_names"],
            format!("bad name {name:?}"),
            "write the name of a host without port, such as \"backup.example.com\"",
        );
    }
    match listen.parse::<SocketAddr>() {
        Err(_) => {
            examined.fault(&["listen"], format!("bad address {listen:?}"), "write ADDRESS:PORT, such as \"127.0.0.1:9847\"");
            None
        }
        Ok(address) if !address.ip().is_loopback() && file.listen_token.is_none() => {
            examined.fault(
                &["listen"],
                format!("{listen} is not a loopback address, and listen_token is not set"),
                "add listen_token = { file = \"...\" }, or listen on 127.0.0.1",
            );
            None
        }
        Ok(address) => {
            Some(Listen { address, token: file.listen_token.clone(), names: names.iter().map(|name| name.to_ascii_lowercase()).collect() })
        }
    }
}

fn is_host_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 253 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn faults(keys: &str) -> Vec<String> {
        let text = format!("{keys}\n[servers.main]\nhost = \"x\"\n[stores.local]\npath = \"/x\"\n[backups.x]\ndatabase = \"x\"\n");
        match crate::config::parse(&text, Path::new("x")) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.to_string().lines().filter(|line| line.contains("x:1")).map(str::to_owned).collect(),
        }
    }

    #[test]
    fn addresses_and_names() {
        for keys in [
            "listen = \"127.0.0.1:9847\"",
            "listen = \"[::1]:0\"",
            "listen = \"0.0.0.0:9847\"\nlisten_token = \"x\"",
            "listen = \"127.0.0.1:1\"\nlisten_names = [\"Backup.example.com\", \"pg_vigil\"]",
        ] {
            assert_eq!(faults(keys), Vec::<String>::new(), "{keys}");
        }
        for (keys, words) in [
            ("listen = \"localhost:9847\"", "bad address"),
            ("listen = \"127.0.0.1\"", "bad address"),
            ("listen = \"0.0.0.0:9847\"", "not a loopback address"),
            ("listen_names = [\"a b\"] \nlisten = \"127.0.0.1:1\"", "bad name"),
            ("listen_names = [\"a:80\"] \nlisten = \"127.0.0.1:1\"", "bad name"),
        ] {
            let found = faults(keys);
            assert!(found.len() == 1 && found[0].contains(words), "{keys}: {found:?}");
        }
    }
}
