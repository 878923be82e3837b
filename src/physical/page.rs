//! RESTORE.md of a base backup: how to restore it with stock tools.

use std::fmt::Write;

use crate::catalog::{Manifest, Role};
use crate::wal::name::FOLDER;

/// The page.
pub fn page(manifest: &Manifest) -> String {
    let mut text = String::new();
    let mut line = |line: &str| {
        let _ = writeln!(text, "{line}");
    };
    let Some(physical) = &manifest.physical else { return text };
    line(&format!("# How to restore {}\n", manifest.id));
    line(&format!(
        "A base backup of the cluster {} (PostgreSQL {}), from {} to {}. Log it needs: timeline {}, {} to {}.\n",
        physical.system_identifier,
        manifest.server_version,
        physical.started_at.format("%Y-%m-%d %H:%M:%S UTC"),
        physical.stopped_at.format("%Y-%m-%d %H:%M:%S UTC"),
        physical.timeline,
        physical.start_lsn,
        physical.stop_lsn
    ));
    line("With pgvigil:\n");
    line(&format!("    pgvigil restore {} --latest --target-dir /srv/restored --start\n", manifest.id));
    line("With stock tools, as the user that PostgreSQL runs as, in the folder of this page:\n");
    line("    mkdir -m 0700 /srv/restored");
    let of =
        |oid: &str| manifest.files.iter().find(|file| file.role == Role::Base && file.name.starts_with(oid)).map(|file| file.name.as_str());
    line(&format!("    {} | tar -x -C /srv/restored", unpack(of("base").unwrap_or("base.tar"))));
    for space in &physical.tablespaces {
        let name = format!("{}.tar", space.oid);
        let file = of(&name).unwrap_or(&name);
        line(&format!("    mkdir -m 0700 /srv/restored_{0} && {1} | tar -x -C /srv/restored_{0}", space.oid, unpack(file)));
        line(&format!(
            "    # it lay in {}: write /srv/restored_{} for it into /srv/restored/tablespace_map",
            crate::host::printable(&space.location),
            space.oid
        ));
    }
    line("");
    if physical.with_wal {
        line("The log that it needs is in it. Start PostgreSQL there; it is as it was at the end of the base backup.\n");
        return text;
    }
    line(&format!(
        "The log lies beside it, in ../{FOLDER}/TIMELINE/SEGMENT.zst. Write into /srv/restored/postgresql.auto.conf (one line each):\n"
    ));
    line(&format!(
        "    restore_command = 'f=%f; zstd -dc \"PATH-OF-THE-STORE/{}/{FOLDER}/$(echo $f | cut -c1-8)/$f.zst\" > \"%p\"'",
        manifest.backup
    ));
    line("    recovery_target_time = '2026-01-15 13:30:00+00'     # leave it out to restore all there is");
    line("    recovery_target_action = 'promote'");
    line("    archive_mode = 'off'                                # or it writes into the archive of the live one\n");
    line("    touch /srv/restored/recovery.signal\n");
    line(
        "Start PostgreSQL there. Where a segment is missing PostgreSQL ends the recovery without a word: look at its log for the moment that it reached.",
    );
    text
}

fn unpack(name: &str) -> String {
    match name.rsplit_once('.') {
        Some((_, "gz")) => format!("gunzip -c {name}"),
        Some((_, "zst")) => format!("zstd -dc {name}"),
        _ => format!("cat {name}"),
    }
}
