//! RESTORE.md: how to restore this very backup with stock tools alone, for a reader who has the
//! folder and nothing else. Its `sh` blocks are meant to be run as they stand, in bash.

use std::fmt::Write;

use super::properties;
use crate::catalog::manifest::UNKNOWN;
use crate::catalog::{FileEntry, Manifest, Role};
use crate::config::file::{Contents, Format};
use crate::host::printable;
use crate::pack::codec::Codec;
use crate::pack::seal::inner_name;
use crate::postgres::programs::major;
use crate::postgres::quote::{conninfo, identifier_on_one_line, literal_on_one_line, shell};
use crate::postgres::server::{Database, Reached};

/// What the page is made of.
pub struct Facts<'a> {
    pub manifest: &'a Manifest,
    /// What is known of the databases of the manifest; of an adopted dump nothing is.
    pub databases: &'a [Database],
    pub reached: &'a Reached,
    /// The role that made the backup, or the one that the file names.
    pub user: &'a str,
    /// `None`: the server was not asked.
    pub is_superuser: Option<bool>,
    pub maintenance_database: &'a str,
}

/// The longest name of PostgreSQL, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// Writes the page.
pub fn page(facts: &Facts<'_>) -> String {
    let mut text = String::new();
    head(&mut text, facts);
    missing(&mut text, facts);
    check_files(&mut text, facts);
    reach(&mut text, facts);
    key(&mut text, facts);
    let mut step = 3;
    if globals(&mut text, facts) {
        step += 1;
    }
    for name in &facts.manifest.databases {
        restore(&mut text, facts, name, step);
        step += 1;
    }
    text
}

fn head(text: &mut String, facts: &Facts<'_>) {
    let manifest = facts.manifest;
    let names: Vec<String> = manifest.databases.iter().map(|name| format!("`{}`", inline(name))).collect();
    let format = match manifest.format {
        Format::Plain => "plain SQL",
        Format::Custom => "custom archive of pg_dump",
        Format::Directory => "directory archive of pg_dump",
    };
    let (server, client) = (printable(&manifest.server_version), printable(&manifest.client_version));
    let _ = write!(
        text,
        "# Restore {}\n\nA backup of {} taken at {} from PostgreSQL {server} with pg_dump {client}, as {format}. ",
        manifest.id,
        names.join(", "),
        manifest.taken_at.format("%Y-%m-%d %H:%M:%S UTC"),
    );
    if manifest.server_version == UNKNOWN || manifest.client_version == UNKNOWN {
        text.push_str("Restore it with client programs and into a server of its version or newer. ");
    } else {
        let major = major(&manifest.server_version);
        let _ = write!(text, "Restore it with client programs of version {client} or newer, into a server of version {major} or newer. ");
    }
    text.push_str("Run the blocks below in bash, in this folder, from the top.\n\n");
    adopted(text, manifest);
    if newer_client(manifest) {
        let _ = write!(
            text,
            "**The dump was made by a pg_dump that is newer than its server.** It sets parameters that servers before {} \
            do not know: restoring into such a server stops at `transaction_timeout`. Take that line out then, or restore into {} or newer.\n\n",
            major(&manifest.client_version),
            major(&manifest.client_version),
        );
    }
}

/// Dumps of another tool: what is not known of them.
fn adopted(text: &mut String, manifest: &Manifest) {
    if manifest.adopted_from.is_empty() {
        return;
    }
    let names: Vec<String> = manifest.adopted_from.iter().map(|name| format!("`{}`", inline(name))).collect();
    let _ = write!(
        text,
        "**Adopted.** Another tool made it and named it {}; the time above is that of the name. With which options it was dumped, \
        and whether all of the database is in it, is not known.",
        names.join(", "),
    );
    if manifest.format == Format::Plain {
        text.push_str(
            " If it holds `DROP` statements (`--clean`), the restore below stops at the first thing that is not there: leave out \
            the stop at errors then, and read what is said instead.",
        );
    }
    text.push_str("\n\n");
}

/// Whether the dump's preamble sets `transaction_timeout`, which came with 17, for an older server.
pub fn newer_client(manifest: &Manifest) -> bool {
    // A version that is not known is 0.
    let (client, server) = (major(&manifest.client_version), major(&manifest.server_version));
    client >= 17 && (1..17).contains(&server)
}

/// A name inside of running text.
fn inline(name: &str) -> String {
    printable(name).replace(['`', '\n'], "\u{fffd}")
}

fn missing(text: &mut String, facts: &Facts<'_>) {
    let manifest = facts.manifest;
    let mut lines = Vec::new();
    match (manifest.contents, manifest.narrow) {
        (Contents::Schema, _) => lines.push("rows: it holds definitions only".to_owned()),
        (Contents::Data, _) => {
            lines.push("definitions: it holds rows only, for tables that exist and are empty".to_owned());
            lines.push("the contents of materialized views: `REFRESH MATERIALIZED VIEW` each of them".to_owned());
        }
        (Contents::All, _) => {}
    }
    let patterns = [("only tables", &manifest.tables), ("not tables", &manifest.exclude_tables), ("only schemas", &manifest.schemas)];
    for (what, list) in patterns {
        if !list.is_empty() {
            let list: Vec<String> = list.iter().map(|pattern| format!("`{}`", inline(pattern))).collect();
            lines.push(format!("the whole database: {what} {}", list.join(", ")));
        }
    }
    if !manifest.tables.is_empty() || !manifest.schemas.is_empty() {
        lines.push("large objects, and what the chosen part needs from elsewhere: schemas, types, functions, extensions".to_owned());
    }
    match manifest.globals {
        None => lines.push("roles and tablespaces: create the owners of the objects before".to_owned()),
        Some(globals) if globals.no_role_passwords => {
            lines.push("the passwords of the roles: the role of the backup may not read them; set new ones".to_owned());
        }
        Some(_) => {}
    }
    lines.push("what changed after it was taken".to_owned());
    lines.push("the server's own configuration: postgresql.conf, pg_hba.conf".to_owned());
    lines.push("the planner's statistics: the last step makes them again".to_owned());
    text.push_str("It does not contain:\n\n");
    for line in lines {
        let _ = writeln!(text, "- {line}");
    }
    text.push('\n');
}

fn check_files(text: &mut String, facts: &Facts<'_>) {
    text.push_str("## 1. Check the files\n\n```sh\nsha256sum --check --strict <<'END'\n");
    for file in facts.manifest.files.iter().filter(|file| file.role != Role::Notes) {
        let _ = writeln!(text, "{}  {}", file.sha256, file.name);
    }
    text.push_str("END\n```\n\n");
}

fn reach(text: &mut String, facts: &Facts<'_>) {
    text.push_str(
        "## 2. Say where to\n\n\
        Change these lines to restore elsewhere. If the server asks for a password, `export PGPASSWORD=...` first.\n\n",
    );
    match facts.is_superuser {
        Some(true) => {}
        Some(false) => {
            let _ = write!(
                text,
                "The backup was made as `{}`, who is no superuser and may not create everything that is in it. Restore as one who may.\n\n",
                inline(facts.user)
            );
        }
        None => text.push_str(
            "They name the server of the file at the time when the dump was adopted; it was not asked. Restore as a superuser, \
            or as one who may create everything that is in the dump.\n\n",
        ),
    }
    let user = shell(restorer(facts));
    text.push_str("```sh\n");
    match facts.reached {
        Reached::Container(container) => {
            let _ = write!(
                text,
                "container={}\nuser={user}\npg() {{ docker exec -i -e PGUSER=\"$user\" -e PGPASSWORD -e PGOPTIONS \"$container\" \"$@\"; }}\n",
                shell(container),
            );
        }
        Reached::Address(address) => {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, "5432"));
            let _ = write!(text, "export PGHOST={} PGPORT={} PGUSER={user}\npg() {{ \"$@\"; }}\n", shell(host), shell(port));
            if host.starts_with('/') {
                text.push_str("# As root, where pg_hba.conf says peer:\n# pg() { ( cd / && runuser -u \"$PGUSER\" -- \"$@\" ); }\n");
            }
        }
    }
    text.push_str("```\n\n");
}

/// Where the private key is, for what is encrypted.
fn key(text: &mut String, facts: &Facts<'_>) {
    let recipients = facts.manifest.recipients();
    if recipients.is_empty() {
        return;
    }
    text.push_str(
        "The files are encrypted with [age](https://age-encryption.org) (in Debian: `apt install age`). The private key of one of these opens them:\n\n",
    );
    for recipient in recipients {
        let _ = writeln!(text, "- `{}`", inline(recipient));
    }
    text.push_str("\nSay where it is: a file of age-keygen, or the private key of OpenSSH.\n\n```sh\nkey=$HOME/key.txt\n```\n\n");
}

/// The role that restores.
fn restorer<'a>(facts: &Facts<'a>) -> &'a str {
    if facts.is_superuser == Some(false) { "postgres" } else { facts.user }
}

/// False if the backup has none.
fn globals(text: &mut String, facts: &Facts<'_>) -> bool {
    let Some(file) = facts.manifest.files.iter().find(|file| file.role == Role::Globals) else {
        return false;
    };
    let _ = write!(
        text,
        "## 3. Create roles and tablespaces\n\n\
        Into a server that has them already, skip this, or expect \"already exists\" for each. \
        Passwords of roles become those of the backup, also that of `{}`.\n\n\
        ```sh\n{} | pg psql -X -w -d {}\n```\n\n",
        inline(restorer(facts)),
        unpack(file),
        shell(&conninfo(facts.maintenance_database)),
    );
    true
}

/// The stock tool that prints a file unpacked.
fn unpack(file: &FileEntry) -> String {
    let name = shell(&file.name);
    if let Some(inner) = inner_name(&file.name) {
        let unpacked = match Codec::of_name(inner) {
            Codec::Gzip(_) => " | gunzip -c",
            Codec::Zstd(_) => " | zstd -dc",
            Codec::None => "",
        };
        return format!("age -d -i \"$key\" {name}{unpacked}");
    }
    match Codec::of_name(&file.name) {
        Codec::Gzip(_) => format!("gunzip -c {name}"),
        Codec::Zstd(_) => format!("zstd -dc {name}"),
        Codec::None => format!("cat {name}"),
    }
}

/// The name that the page restores under: never the live one's.
pub fn restored_name(database: &str) -> String {
    suffixed(database, "_restored")
}

/// A name with a suffix, no longer than names may be.
pub fn suffixed(name: &str, suffix: &str) -> String {
    let mut end = name.len().min(NAME_BYTES_MAX - suffix.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &name[..end])
}

fn restore(text: &mut String, facts: &Facts<'_>, name: &str, step: usize) {
    let manifest = facts.manifest;
    let known = facts.databases.iter().find(|database| database.name == name);
    let target = restored_name(name);
    let _ = write!(text, "## {step}. Restore `{}`\n\n", inline(name));
    let maintenance = shell(&conninfo(facts.maintenance_database));
    let into = shell(&conninfo(&target));
    if manifest.contents == Contents::Data {
        let _ = write!(
            text,
            "The rows go into `{}`, a database that exists and has the tables, empty. Triggers and checks of foreign keys \
            are off while they load, which needs a superuser.\n\n",
            inline(&target)
        );
    } else {
        let create = match known {
            Some(database) => properties::create(database, &target, major(&manifest.server_version)),
            None => properties::create_as_usual(&target),
        };
        let locale = match known {
            Some(_) => "The locale must be known to the target's system.",
            None => {
                "Nobody noted its encoding and locale: those below are the usual ones of the server. Compare with the live one \
                (`\\l` in psql), and add `ENCODING` and `LOCALE` where it differs."
            }
        };
        let _ = write!(
            text,
            "It goes into a new database, `{}`, beside the live one. {locale}\n\n\
            ```sh\npg psql -X -w -v ON_ERROR_STOP=1 -d {maintenance} -c {}\n```\n\n",
            inline(&target),
            shell(&create),
        );
        surroundings(text, manifest, &shell(&conninfo(name)), &into);
    }
    if is_all_but_some(manifest) {
        text.push_str("Errors about what refers to the tables that were left out are to be expected; no others.\n\n");
    }
    let files: Vec<&FileEntry> =
        manifest.files.iter().filter(|file| file.role == Role::Dump && file.database.as_deref() == Some(name)).collect();
    text.push_str("```sh\n");
    if manifest.contents == Contents::Data {
        text.push_str("export PGOPTIONS='-c session_replication_role=replica'\n");
    }
    for line in load(facts, &files, &into) {
        let _ = writeln!(text, "{line}");
    }
    if manifest.contents == Contents::Data {
        text.push_str("unset PGOPTIONS\n");
    }
    text.push_str("```\n\n");
    let _ = write!(text, "Statistics for the planner:\n\n```sh\npg psql -X -w -v ON_ERROR_STOP=1 -d {into} -c ANALYZE\n```\n\n");
    match known {
        Some(database) if manifest.contents != Contents::Data => {
            text.push_str("Owner, privileges, settings and comment of the database itself:\n\n```sh\n");
            for statement in properties::apply(database, &target) {
                let _ = writeln!(text, "pg psql -X -w -v ON_ERROR_STOP=1 -d {maintenance} -c {}", shell(&statement));
            }
            text.push_str("```\n\n");
        }
        Some(_) => {}
        None => text.push_str(
            "Owner, privileges, settings and comment of the database itself are in no dump, and nobody noted them: set them as the live one has them.\n\n",
        ),
    }
    if !manifest.narrow {
        let (live, restored) = (identifier_on_one_line(name), identifier_on_one_line(&target));
        let old = identifier_on_one_line(&suffixed(name, "_old"));
        let _ = write!(
            text,
            "When it is right, let it take the place of the live one, in psql connected to `{}`. The sessions of the live one end:\n\n\
            ```sql\nALTER DATABASE {live} ALLOW_CONNECTIONS false;\n\
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {};\n\
            ALTER DATABASE {live} RENAME TO {old};\nALTER DATABASE {restored} RENAME TO {live};\n```\n\n\
            The former one is {old} then: `ALTER DATABASE {old} ALLOW_CONNECTIONS true` to look into it, `DROP DATABASE {old}` when nobody misses it.\n\n",
            inline(facts.maintenance_database),
            literal_on_one_line(name),
        );
        if known.is_some_and(|database| database.is_template == Some(true)) {
            let _ = write!(text, "It was a template, and no template can be dropped: `ALTER DATABASE {old} IS_TEMPLATE false` before.\n\n");
        }
    }
}

/// Everything but some tables: what refers to those cannot be made.
fn is_all_but_some(manifest: &Manifest) -> bool {
    !manifest.exclude_tables.is_empty() && manifest.tables.is_empty() && manifest.schemas.is_empty()
}

/// Chosen tables and schemas refer to types, functions and tables elsewhere: their definitions come
/// from the live database.
fn surroundings(text: &mut String, manifest: &Manifest, live: &str, into: &str) {
    if manifest.tables.is_empty() && manifest.schemas.is_empty() {
        return;
    }
    let chosen: Vec<String> = manifest
        .tables
        .iter()
        .map(|pattern| shell(&format!("--exclude-table={pattern}")))
        .chain(manifest.schemas.iter().map(|pattern| shell(&format!("--exclude-schema={pattern}"))))
        .collect();
    let _ = write!(
        text,
        "The backup is a part of the database. What that part needs from elsewhere (types, functions, tables that its foreign keys point to) \
        is taken from the live database, without rows (if that is gone: restore the newest whole backup first, and give its name below). Errors here are of what points back at the part. \
        Below, \"already exists\" of a schema or a sequence is harmless, and a foreign key to a table without its rows fails; \
        no other errors are to be expected.\n\n\
        ```sh\npg pg_dump --no-password --schema-only {} -d {live} | pg psql -X -w -q -d {into} || true\n```\n\n",
        chosen.join(" "),
    );
}

/// The lines that load a dump.
fn load(facts: &Facts<'_>, files: &[&FileEntry], into: &str) -> Vec<String> {
    let Some(first) = files.first() else {
        return Vec::new();
    };
    let name = shell(&first.name);
    // A part may refer to what is not there; all of it must go in without one error.
    let part = is_all_but_some(facts.manifest) || !facts.manifest.tables.is_empty() || !facts.manifest.schemas.is_empty();
    let (stop, exit, mend) = if part { ("", "", " || true") } else { (" -v ON_ERROR_STOP=1", " --exit-on-error", "") };
    let in_container = matches!(facts.reached, Reached::Container(_));
    // Another user behind pg() cannot open the file; what it is given it can read.
    let by_stdin = in_container || matches!(facts.reached, Reached::Address(address) if address.starts_with('/'));
    let is_encrypted = inner_name(&first.name).is_some();
    match facts.manifest.format {
        // Without pipefail a damaged file would look like a shorter dump.
        Format::Plain => vec![format!("( set -o pipefail; {} | pg psql -X -w -q{stop} -d {into} )", unpack(first))],
        Format::Custom if is_encrypted => {
            vec![format!("( set -o pipefail; age -d -i \"$key\" {name} | pg pg_restore --no-password{exit} -d {into} ){mend}")]
        }
        Format::Custom if by_stdin => vec![format!("pg pg_restore --no-password{exit} -d {into} < {name}{mend}")],
        Format::Custom => vec![format!("pg pg_restore --no-password{exit} --jobs=2 -d {into} {name}{mend}")],
        Format::Directory => {
            let folder = first.name.split('/').next().unwrap_or_default();
            let mut lines = Vec::new();
            let quoted = if is_encrypted {
                // Private: what is in it was encrypted.
                lines.push("plain=$(mktemp -d)".to_owned());
                lines.push(format!(
                    "for file in {}/*.age; do age -d -i \"$key\" -o \"$plain/$(basename \"$file\" .age)\" \"$file\"; done",
                    shell(folder)
                ));
                "\"$plain\"".to_owned()
            } else {
                shell(folder)
            };
            if in_container {
                let inside = shell(&format!("/tmp/{folder}"));
                lines.push(format!("docker cp {quoted} \"$container\":{inside}"));
                lines.push(format!("pg pg_restore --no-password{exit} --jobs=2 -d {into} {inside}{mend}"));
                lines.push(format!("pg rm -r {inside}"));
            } else {
                lines.push(format!("pg pg_restore --no-password{exit} --jobs=2 -d {into} {quoted}{mend}"));
            }
            if is_encrypted {
                lines.push(format!("rm -r {quoted}"));
            }
            lines
        }
    }
}
