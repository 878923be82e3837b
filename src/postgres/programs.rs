//! Which of the PostgreSQL installations of this machine serves a server of some major version.

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// The folders of PostgreSQL's programs found on this machine, with their major versions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Folders by major version, of packages that install side by side.
    pub versioned: Vec<(u32, PathBuf)>,
    /// The major version of the `pg_dump` in PATH.
    pub in_path: Option<u32>,
}

/// Where packages put the programs of one major version: Debian, Red Hat, FreeBSD-like trees.
const PATTERNS: [(&str, &str); 3] = [("/usr/lib/postgresql", "bin"), ("/usr", "bin"), ("/opt/postgresql", "bin")];

/// Looks for them.
pub fn find() -> Found {
    let mut versioned = Vec::new();
    for (dir, bin) in PATTERNS {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let major = name.strip_prefix("pgsql-").unwrap_or(&name).parse::<u32>();
            let bin = entry.path().join(bin);
            if let Ok(major) = major
                && bin.join("pg_dump").exists()
            {
                versioned.push((major, bin));
            }
        }
    }
    versioned.sort();
    Found { versioned, in_path: major_of(Path::new("pg_dump")) }
}

/// The major version that a `pg_dump` says it is.
fn major_of(pg_dump: &Path) -> Option<u32> {
    parse_version(&crate::host::local::output(pg_dump, &["--version"]).ok()?).map(|(major, _)| major)
}

/// The major version and the whole version in "pg_dump (PostgreSQL) 15.18 (Debian ...)".
pub fn parse_version(text: &str) -> Option<(u32, String)> {
    let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((digits.parse().ok()?, version.to_owned()))
}

/// The major version alone; 0 where the text names none.
pub fn major(text: &str) -> u32 {
    parse_version(text).map_or(0, |(major, _)| major)
}

/// Chooses the folder for a server: its own major version, else the next newer one, for pg_dump
/// refuses servers newer than itself. `None`: the programs in PATH.
///
/// # Errors
/// All that is here is older than the server.
pub fn choose(found: &Found, server_major: u32) -> Result<Option<PathBuf>> {
    let exact = found.versioned.iter().find(|(major, _)| *major == server_major);
    if let Some((_, dir)) = exact {
        return Ok(Some(dir.clone()));
    }
    if found.in_path == Some(server_major) {
        return Ok(None);
    }
    let newer = found.versioned.iter().find(|(major, _)| *major > server_major);
    if let Some((_, dir)) = newer {
        return Ok(Some(dir.clone()));
    }
    if found.in_path.is_some_and(|major| major > server_major) {
        return Ok(None);
    }
    let newest = found.versioned.iter().map(|(major, _)| *major).chain(found.in_path).max();
    let here = newest.map_or("there is no pg_dump on this machine".to_owned(), |major| format!("the newest pg_dump here is of {major}"));
    Err(Error::new(Kind::Postgres, format!("the server is PostgreSQL {server_major}, and {here}: an older pg_dump refuses"))
        .hint(format!("install postgresql-client-{server_major}, or set bin_dir to the folder of its programs")))
}

/// Any folder with a `psql`, to ask a server for its version: the newest.
pub fn any(found: &Found) -> Option<PathBuf> {
    found.versioned.last().map(|(_, dir)| dir.clone())
}

/// The folder of the programs that make, run and fill a server of a major version: the own one, else the
/// next newer one; 0 stands for the newest. `given` is looked at beside the usual places.
///
/// # Errors
/// There are none, or only older ones.
pub fn of_server(given: Option<PathBuf>, major: u32) -> Result<PathBuf> {
    let in_path = std::env::var_os("PATH");
    let dirs = in_path.iter().flat_map(std::env::split_paths).filter(|dir| dir.is_absolute());
    let versioned = find().versioned.into_iter().map(|(_, dir)| dir);
    let found: Vec<(u32, PathBuf)> = given.into_iter().chain(versioned).chain(dirs).filter_map(server_in).collect();
    choose_server(&found, major)
}

/// The major version of the `postgres` in a folder.
pub fn major_in(dir: &Path) -> Option<u32> {
    major_of(&dir.join("postgres"))
}

/// Packages of client programs lack the first two, and what a drill runs there it runs with the rest.
const OF_A_SERVER: [&str; 4] = ["initdb", "postgres", "psql", "pg_restore"];

fn server_in(dir: PathBuf) -> Option<(u32, PathBuf)> {
    OF_A_SERVER.iter().all(|program| dir.join(program).exists()).then_some(())?;
    Some((major_of(&dir.join("postgres"))?, dir))
}

fn choose_server(found: &[(u32, PathBuf)], major: u32) -> Result<PathBuf> {
    let fitting = found.iter().filter(|(here, _)| *here >= major);
    let chosen = if major == 0 { fitting.max_by_key(|(here, _)| *here) } else { fitting.min_by_key(|(here, _)| *here) };
    if let Some((_, dir)) = chosen {
        return Ok(dir.clone());
    }
    let newest = found.iter().map(|(here, _)| *here).max();
    let here = newest
        .map_or("this machine has no initdb and postgres".to_owned(), |newest| format!("the newest server here is PostgreSQL {newest}"));
    let package = if major == 0 { "postgresql".to_owned() } else { format!("postgresql-{major}") };
    Err(Error::unverifiable(format_args!("{here}{}", if major == 0 { String::new() } else { format!(", and the source is {major}") }))
        .hint(format!("install {package}, or set bin_dir of the server to a folder with initdb and postgres")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_the_own_major_then_the_next_newer_never_an_older() {
        let found = |majors: &[u32]| majors.iter().map(|major| (*major, PathBuf::from(format!("/pg/{major}")))).collect::<Vec<_>>();
        for (here, source, chosen) in [
            (&[14, 15, 17][..], 15, Some("/pg/15")),
            (&[17, 14, 16], 15, Some("/pg/16")),
            (&[15, 18, 16], 0, Some("/pg/18")),
            (&[14], 15, None),
            (&[], 0, None),
        ] {
            assert_eq!(choose_server(&found(here), source).ok(), chosen.map(PathBuf::from), "{here:?} {source}");
        }
        assert_eq!(
            choose_server(&[], 15).unwrap_err().hint.unwrap(),
            "install postgresql-15, or set bin_dir of the server to a folder with initdb and postgres"
        );
    }

    #[test]
    fn the_own_major_then_the_next_newer_never_an_older() {
        let dir = |major: u32| PathBuf::from(format!("/pg/{major}"));
        let found =
            |versioned: &[u32], in_path| Found { versioned: versioned.iter().map(|major| (*major, dir(*major))).collect(), in_path };
        for (versioned, in_path, server, chosen) in [
            (&[14, 15, 17][..], Some(17), 15, Ok(Some(dir(15)))),
            (&[14, 17], Some(17), 15, Ok(Some(dir(17)))),
            (&[14], Some(15), 15, Ok(None)),
            (&[], Some(18), 15, Ok(None)),
            (&[14], Some(14), 15, Err(())),
            (&[], None, 15, Err(())),
        ] {
            assert_eq!(choose(&found(versioned, in_path), server).map_err(drop), chosen, "{versioned:?} {in_path:?} {server}");
        }
    }

    #[test]
    fn versions() {
        assert_eq!(parse_version("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some((15, "15.18".to_owned())));
        assert_eq!(parse_version("pg_dump (PostgreSQL) 18beta1"), Some((18, "18beta1".to_owned())));
        assert_eq!(parse_version("what"), None);
    }
}
