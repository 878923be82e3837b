//! The statements that give a restored database the properties that no dump of it holds.

use std::collections::BTreeSet;

use crate::postgres::quote::{identifier, literal};
use crate::postgres::server::{Database, Setting};

/// Settings whose stored value is a list that is quoted already.
/// <https://www.postgresql.org/docs/current/sql-alterdatabase.html>
const QUOTED_LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// `CREATE DATABASE` as the source was, from template0: template1 of another server may hold
/// objects of its own.
pub fn create(database: &Database, name: &str, server_major: u32) -> String {
    let mut sql = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        identifier(name),
        literal(&database.encoding),
        literal(&database.collate),
        literal(&database.ctype)
    );
    let locale = database.locale.as_deref().map(literal);
    let provider = match (database.locale_provider.as_str(), server_major) {
        ("i", 15..) => Some(("icu", "ICU_LOCALE")),
        ("b", 17..) => Some(("builtin", "BUILTIN_LOCALE")),
        ("c", 15..) => Some(("libc", "")),
        _ => None,
    };
    if let Some((provider, option)) = provider {
        sql.push_str(&format!(" LOCALE_PROVIDER {provider}"));
        if let (false, Some(locale)) = (option.is_empty(), locale) {
            sql.push_str(&format!(" {option} {locale}"));
        }
    }
    sql
}

/// `CREATE DATABASE` where nothing of the source is known.
pub fn create_as_usual(name: &str) -> String {
    format!("CREATE DATABASE {} TEMPLATE template0", identifier(name))
}

/// What is set at the end: owner, privileges, settings, comment.
pub fn apply(database: &Database, name: &str) -> Vec<String> {
    let target = identifier(name);
    let mut statements = vec![format!("ALTER DATABASE {target} OWNER TO {}", identifier(&database.owner))];
    if let Some(acl) = &database.acl {
        statements.push(format!("REVOKE ALL ON DATABASE {target} FROM PUBLIC"));
        statements.extend(acl.iter().flat_map(|item| grants(item, &target)));
    }
    statements.extend(database.settings.iter().filter_map(|setting| set(setting, &target)));
    // Below -1 it marks a database as broken.
    if let Some(limit @ 0..) = database.connection_limit {
        statements.push(format!("ALTER DATABASE {target} CONNECTION LIMIT {limit}"));
    }
    if database.is_template == Some(true) {
        statements.push(format!("ALTER DATABASE {target} IS_TEMPLATE true"));
    }
    if let Some(comment) = &database.comment {
        statements.push(format!("COMMENT ON DATABASE {target} IS {}", literal(comment)));
    }
    statements
}

/// Every role that the properties name.
pub fn roles(database: &Database) -> BTreeSet<String> {
    let of_settings = database.settings.iter().filter_map(|setting| setting.role.clone());
    let of_privileges = database.acl.iter().flatten().filter_map(|item| Some(split_role(item)?.0)).filter(|role| !role.is_empty());
    of_settings.chain(of_privileges).chain([database.owner.clone()]).collect()
}

fn set(setting: &Setting, target: &str) -> Option<String> {
    let (name, value) = setting.setting.split_once('=')?;
    let value = if QUOTED_LISTS.contains(&name) { value.to_owned() } else { literal(value) };
    let value = if value.is_empty() { "''".to_owned() } else { value };
    // A name with a dot is of an extension: each part is an identifier of its own.
    let name = name.split('.').map(identifier).collect::<Vec<_>>().join(".");
    Some(match &setting.role {
        None => format!("ALTER DATABASE {target} SET {name} TO {value}"),
        Some(role) => format!("ALTER ROLE {} IN DATABASE {target} SET {name} TO {value}", identifier(role)),
    })
}

/// `GRANT`s of one `aclitem`, such as `reader=c*T/owner`; an empty grantee is PUBLIC.
/// <https://www.postgresql.org/docs/current/ddl-priv.html>
fn grants(item: &str, target: &str) -> Vec<String> {
    let Some((grantee, rest)) = split_role(item) else {
        return Vec::new();
    };
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    let letters = rest.split('/').next().unwrap_or_default();
    let to = if grantee.is_empty() { "PUBLIC".to_owned() } else { identifier(&grantee) };
    let mut found = Vec::new();
    let mut chars = letters.chars().peekable();
    while let Some(letter) = chars.next() {
        let option = if chars.next_if_eq(&'*').is_some() { " WITH GRANT OPTION" } else { "" };
        let privilege = match letter {
            'C' => "CREATE",
            'c' => "CONNECT",
            'T' => "TEMPORARY",
            _ => continue,
        };
        found.push(format!("GRANT {privilege} ON DATABASE {target} TO {to}{option}"));
    }
    found
}

/// The role at the front of an `aclitem`, unquoted, and what follows it.
fn split_role(item: &str) -> Option<(String, &str)> {
    if !item.starts_with('"') {
        let end = item.find('=')?;
        return Some((item[..end].to_owned(), &item[end..]));
    }
    let mut role = String::new();
    let mut chars = item.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != '"' {
            role.push(c);
        } else if chars.next_if(|(_, next)| *next == '"').is_some() {
            role.push('"');
        } else {
            return Some((role, &item[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges() {
        for (item, expected) in [
            ("=Tc/postgres", vec!["GRANT TEMPORARY ON DATABASE \"x\" TO PUBLIC", "GRANT CONNECT ON DATABASE \"x\" TO PUBLIC"]),
            ("a=C*/postgres", vec!["GRANT CREATE ON DATABASE \"x\" TO \"a\" WITH GRANT OPTION"]),
            ("\"a=\"\"b\"=c/postgres", vec!["GRANT CONNECT ON DATABASE \"x\" TO \"a=\"\"b\""]),
            ("rubbish", vec![]),
            ("\"rubbish", vec![]),
        ] {
            assert_eq!(grants(item, "\"x\""), expected, "{item}");
        }
    }

    #[test]
    fn what_older_manifests_do_not_hold_is_left_alone() {
        let known = |more: serde_json::Value| {
            let mut value = serde_json::json!({
                "name": "x", "owner": "o", "encoding": "UTF8", "collate": "C", "ctype": "C", "locale_provider": "c", "locale": null,
                "collation_version": null, "acl": null, "settings": [], "comment": null, "tablespace": "pg_default", "bytes": 1,
            });
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            apply(&serde_json::from_value(value).unwrap(), "x")
        };
        let owner = "ALTER DATABASE \"x\" OWNER TO \"o\"";
        for usual in [serde_json::json!({}), serde_json::json!({"connection_limit": -1, "is_template": false})] {
            assert_eq!(known(usual), [owner]);
        }
        assert_eq!(
            known(serde_json::json!({"connection_limit": 0, "is_template": true})),
            [owner, "ALTER DATABASE \"x\" CONNECTION LIMIT 0", "ALTER DATABASE \"x\" IS_TEMPLATE true"]
        );
    }

    #[test]
    fn settings() {
        let set = |role: Option<&str>, setting: &str| {
            set(&Setting { role: role.map(str::to_owned), setting: setting.to_owned() }, "\"x\"").unwrap()
        };
        assert_eq!(set(None, "search_path=\"$user\", public"), "ALTER DATABASE \"x\" SET \"search_path\" TO \"$user\", public");
        assert_eq!(set(None, "work_mem=1'MB"), "ALTER DATABASE \"x\" SET \"work_mem\" TO '1''MB'");
        assert_eq!(set(Some("r"), "my.x=a=b"), "ALTER ROLE \"r\" IN DATABASE \"x\" SET \"my\".\"x\" TO 'a=b'");
        assert_eq!(set(None, "search_path="), "ALTER DATABASE \"x\" SET \"search_path\" TO ''");
    }
}
