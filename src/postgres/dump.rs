//! What `pg_dump` and `pg_dumpall` are told.

use std::path::Path;

use super::quote::conninfo;
use crate::config::file::{Contents, Format};
use crate::config::plan::DumpSpec;
use crate::config::values::Compression;
use crate::error::{Error, Kind, Result};

/// How long a dump waits for a lock, in milliseconds. Without a bound it queues behind a lock, and
/// everything else queues behind the dump.
const LOCK_WAIT_MS: u32 = 60_000;

/// The arguments of `pg_dump` for one database. `folder` is where the directory format goes, and
/// `snapshot` the one that another session exports.
/// Never with --create or --clean: their `\connect` would send a restore into a new database on to
/// the live one. Never with --enable-row-security: it dumps a subset without a word.
///
/// # Errors
/// This pg_dump cannot do it.
pub fn arguments(spec: &DumpSpec, database: &str, client_major: u32, folder: Option<&Path>, snapshot: Option<&str>) -> Result<Vec<String>> {
    let mut args = vec!["--no-password".to_owned(), format!("--lock-wait-timeout={LOCK_WAIT_MS}")];
    args.push(format!(
        "--format={}",
        match spec.format {
            Format::Plain => "plain",
            Format::Custom => "custom",
            Format::Directory => "directory",
        }
    ));
    match spec.contents {
        Contents::All => {}
        Contents::Schema => args.push("--schema-only".to_owned()),
        Contents::Data => args.push("--data-only".to_owned()),
    }
    let patterns = [("table", &spec.tables), ("exclude-table", &spec.exclude_tables), ("schema", &spec.schemas)];
    for (option, list) in patterns {
        args.extend(list.iter().map(|pattern| format!("--{option}={pattern}")));
    }
    if !(spec.tables.is_empty() && spec.schemas.is_empty()) {
        // Else a name that is not there is passed over, with exit status 0.
        args.push("--strict-names".to_owned());
    }
    if spec.format != Format::Plain {
        args.push(compress(spec.compression, client_major)?);
    }
    if let Some(folder) = folder {
        args.push(format!("--jobs={}", spec.jobs));
        args.push(format!("--file={}", folder.display()));
    }
    args.extend(snapshot.map(|snapshot| format!("--snapshot={snapshot}")));
    args.push(format!("--dbname={}", conninfo(database)));
    Ok(args)
}

/// Archives are packed by pg_dump itself.
fn compress(compression: Compression, client_major: u32) -> Result<String> {
    let (codec, level) = match compression {
        Compression::None => return Ok("--compress=0".to_owned()),
        Compression::Gzip(level) => ("gzip", level.unwrap_or(6)),
        Compression::Zstd(level) => ("zstd", level.unwrap_or(3)),
    };
    match (codec, client_major) {
        (codec, 16..) => Ok(format!("--compress={codec}:{level}")),
        ("gzip", _) => Ok(format!("--compress={level}")),
        _ => Err(Error::new(Kind::Postgres, format!("pg_dump {client_major} cannot pack an archive with zstd; that needs 16"))
            .hint("set compression = \"gzip\", or format = \"plain\", or bin_dir to the programs of PostgreSQL 16 or later")),
    }
}

/// The arguments of `pg_dumpall` for roles and tablespaces. A role that may not read passwords
/// still gets the rest.
pub fn globals_arguments(maintenance_database: &str, reads_passwords: bool) -> Vec<String> {
    let mut args = vec!["--no-password".to_owned(), "--globals-only".to_owned()];
    if !reads_passwords {
        args.push("--no-role-passwords".to_owned());
    }
    args.push(format!("--dbname={}", conninfo(maintenance_database)));
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> DumpSpec {
        DumpSpec {
            format: Format::Plain,
            jobs: 2,
            contents: Contents::All,
            tables: Vec::new(),
            exclude_tables: Vec::new(),
            schemas: Vec::new(),
            compression: Compression::Gzip(None),
        }
    }

    #[test]
    fn what_must_never_be_passed_is_not() {
        let spec = DumpSpec { contents: Contents::Data, tables: vec!["\"a b\"".to_owned()], ..spec() };
        let args = arguments(&spec, "host=evil dbname=x", 15, None, None).unwrap();
        for never in ["--create", "--clean", "-C", "-c", "--enable-row-security"] {
            assert!(!args.iter().any(|arg| arg == never), "{args:?}");
        }
        for always in ["--no-password", "--strict-names", "--table=\"a b\"", "--data-only", "--dbname=dbname='host=evil dbname=x'"] {
            assert!(args.iter().any(|arg| arg == always), "{always} in {args:?}");
        }
    }

    #[test]
    fn archives_are_packed_by_pg_dump() {
        for (compression, major, expected) in [
            ("gzip", 15, Ok("--compress=6")),
            ("gzip:1", 16, Ok("--compress=gzip:1")),
            ("zstd", 16, Ok("--compress=zstd:3")),
            ("zstd:9", 15, Err(())),
            ("none", 15, Ok("--compress=0")),
        ] {
            let compression: Compression = compression.parse().unwrap();
            assert_eq!(compress(compression, major).as_deref().map_err(|_| ()), expected, "{compression} of {major}");
        }
    }
}
