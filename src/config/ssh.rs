//! `ssh` of a store: a folder of another host.

use super::faults::Examined;
use super::file;
use super::values::Name;

/// Notes what cannot be.
pub fn check(name: &Name, at: &file::Ssh, examined: &mut Examined<'_>) {
    let mut fault = |key: &str, message: String, hint: &str| examined.fault(&["stores", name.as_str(), "ssh", key], message, hint);
    let is_word = |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "@/[]".contains(c));
    let is_address = at.host.parse::<std::net::IpAddr>().is_ok();
    if !is_word(&at.host) || (at.host.contains(':') && !is_address) || at.host.starts_with('-') {
        let hint = "write the name or address alone, such as \"backup.example.com\"; user and port have keys of their own";
        fault("host", format!("bad host {:?}", at.host), hint);
    }
    if let Some(user) = at.user.as_ref().filter(|user| !is_word(user) || user.contains(':')) {
        fault("user", format!("bad user {user:?}"), "write the name of the account on that host, such as \"pgvigil\"");
    }
    if at.path.as_os_str().is_empty() || at.path.starts_with("~") {
        let hint =
            "write it from the root of that host, such as \"/backups/postgres\"; without / in front it begins where the account does";
        fault("path", format!("bad path {:?}", at.path.display().to_string()), hint);
    }
    for (key, path) in [("identity", &at.identity), ("known_hosts", &at.known_hosts)] {
        if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
            fault(
                key,
                format!("{key} {:?} is not absolute", path.display().to_string()),
                "write it from the root, such as \"/etc/pgvigil/id_ed25519\"",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::plan::StoreKind;
    use crate::config::{Plan, parse};

    fn plan(ssh: &str) -> Result<Plan, Vec<String>> {
        let text = format!("[servers.s]\ncontainer = \"pg\"\n[stores.far]\nssh = {{ {ssh} }}\n");
        parse(&text, std::path::Path::new("x")).map_err(|faults| faults.faults.into_iter().map(|fault| fault.message).collect())
    }

    #[test]
    fn a_host_and_a_path_are_enough() {
        for host in ["backup.example.com", "192.0.2.7", "2001:db8::7"] {
            let plan = plan(&format!("host = \"{host}\", path = \"backups/postgres\"")).unwrap();
            let StoreKind::Ssh(place) = &plan.stores["far"].kind else { panic!("{:?}", plan.stores) };
            assert_eq!(place.at.host, host);
        }
    }

    #[test]
    fn what_cannot_be_is_told_in_one_go() {
        let faults =
            plan(r#"host = "me@backup:22", user = "a b", path = "~/backups", identity = "~/.ssh/id", known_hosts = "known_hosts""#);
        let told =
            ["bad host", "bad user", "bad path", "identity \"~/.ssh/id\" is not absolute", "known_hosts \"known_hosts\" is not absolute"];
        let faults = faults.unwrap_err();
        assert_eq!(faults.len(), told.len(), "{faults:?}");
        for told in told {
            assert!(faults.iter().any(|fault| fault.contains(told)), "{told}: {faults:?}");
        }
        for host in ["", "-oProxyCommand=x", "a/b", "backup:22"] {
            assert_eq!(plan(&format!("host = \"{host}\", path = \"/b\"")).unwrap_err().len(), 1, "{host}");
        }
    }
}
