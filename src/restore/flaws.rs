//! Programs of PostgreSQL that a hostile dump could abuse: worth a warning, never a reason to keep
//! anybody from a restore at night.

use crate::config::file::Format;

/// The first safe version of each major.
struct Flaw {
    program: &'static str,
    cve: &'static str,
    mended: [(u32, u32); 5],
}

const FLAWS: [Flaw; 2] = [
    Flaw { program: "psql", cve: "CVE-2026-18408", mended: [(18, 6), (17, 11), (16, 15), (15, 19), (14, 24)] },
    Flaw { program: "pg_restore", cve: "CVE-2026-116314", mended: [(18, 7), (17, 12), (16, 16), (15, 20), (14, 25)] },
];

/// What to say of the programs of a version, for a backup of a format.
pub fn warnings(version: &str, format: Format) -> Vec<String> {
    let Some((major, minor)) = major_and_minor(version) else { return Vec::new() };
    let met = |flaw: &&Flaw| {
        let used = flaw.program == "psql" || format != Format::Plain;
        let mended = flaw.mended.iter().find(|(of, _)| *of == major).map(|(_, mended)| *mended);
        used && match mended {
            Some(mended) => minor < mended,
            // Nobody mends what is out of support.
            None => major < 14,
        }
    };
    FLAWS
        .iter()
        .filter(met)
        .map(|flaw| {
            format!(
                "{} {version} has {}: a dump made by somebody hostile could run programs; the hash of this one is checked first. Update the client programs when there is time",
                flaw.program, flaw.cve
            )
        })
        .collect()
}

fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    let major = parts.next()?.parse().ok()?;
    // A beta has no minor; it is older than any.
    Some((major, parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_minors_are_told() {
        for (version, format, expected) in [
            ("15.18", Format::Plain, 1),
            ("15.18", Format::Custom, 2),
            ("15.19", Format::Plain, 0),
            ("15.19", Format::Directory, 1),
            ("15.20", Format::Custom, 0),
            ("18.5", Format::Custom, 2),
            ("18.7", Format::Custom, 0),
            ("13.99", Format::Plain, 1),
            ("19.0", Format::Custom, 0),
            ("unknown", Format::Custom, 0),
        ] {
            assert_eq!(warnings(version, format).len(), expected, "{version} {format:?}");
        }
        assert!(warnings("15.18", Format::Plain)[0].starts_with("psql 15.18 has CVE-2026-18408"));
    }
}
