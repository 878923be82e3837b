//! RESTORE.md of a base backup: how to restore it with stock tools.

use std::fmt::Write;

use crate::catalog::{Manifest, Role};
use crate::pack::seal::inner_name;
use crate::physical::recovery;
use crate::postgres::quote::shell;
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
    if let Some(of) = &physical.incremental_of {
        line(&format!(
            "It holds only what has changed since {of}. With stock tools: unpack each of the chain as below into a folder of its own, with \
             its backup_manifest, the whole one first, and let `pg_combinebackup` of PostgreSQL {} make one of them: \
             `pg_combinebackup --output=/srv/restored WHOLE ... NEWEST`.\n",
            manifest.server_version.split('.').next().unwrap_or_default()
        ));
    }
    let encrypted = !manifest.recipients().is_empty();
    if encrypted {
        line(&format!(
            "The archives are encrypted with [age](https://age-encryption.org) (in Debian: `apt install age`); key.txt below is the private key of one of: {}.\n",
            crate::host::printable(&manifest.recipients().join(", "))
        ));
    }
    line("With stock tools, as the user that PostgreSQL runs as, in the folder of this page:\n");
    line("    mkdir -m 0700 /srv/restored");
    let of =
        |oid: &str| manifest.files.iter().find(|file| file.role == Role::Base && file.name.starts_with(oid)).map(|file| file.name.as_str());
    line(&format!("    {} | tar -x -C /srv/restored", unpack(of("base").unwrap_or("base.tar"))));
    for space in &physical.tablespaces {
        let name = format!("{}.tar", space.oid);
        let file = of(&name).unwrap_or(&name);
        line(&format!("    mkdir -m 0700 /srv/restored_{0} && {1} | tar -x -C /srv/restored_{0}", space.oid, unpack(file)));
        line(&format!("    # the map names {} for it", crate::host::printable(&space.location)));
        line(&format!("    sed -i 's|^{0} .*|{0} /srv/restored_{0}|' /srv/restored/tablespace_map", space.oid));
    }
    line(
        "\nA cluster may keep its settings elsewhere, as Debian's do, in /etc/postgresql: then there is no /srv/restored/postgresql.conf. These begin with what the cluster must not have less of; add what you need of your own, but not data_directory, hba_file, ident_file, external_pid_file and include_dir, which lead to the old one.\n",
    );
    let settings: Vec<String> = recovery::bare_lines(&physical.settings).map(|setting| shell(&setting)).collect();
    let access: Vec<String> = recovery::BARE_HBA.lines().map(shell).collect();
    for (name, lines) in [("postgresql.conf", settings), ("pg_hba.conf", access)] {
        line(&format!("    [ -e /srv/restored/{name} ] || printf '%s\\n' {} > /srv/restored/{name}", lines.join(" ")));
    }
    line("    [ -e /srv/restored/pg_ident.conf ] || touch /srv/restored/pg_ident.conf\n");
    if physical.with_wal {
        line("The log that it needs is in it. Start PostgreSQL there; it is as it was at the end of the base backup.\n");
        return text;
    }
    line(&format!(
        "The log lies beside it, in ../{FOLDER}/TIMELINE/SEGMENT.zst. Write into /srv/restored/postgresql.auto.conf (one line each):\n"
    ));
    if encrypted {
        line("    # a segment has a header of ours in front, and then age; histories are not encrypted");
        line(&format!(
            "    restore_command = 'f=%f; s=\"PATH-OF-THE-STORE/{}/{FOLDER}/$(echo $f | cut -c1-8)/$f.zst\"; test -f \"$s\" || exit 1; case $f in *.history) zstd -dc \"$s\";; *) tail -c +$((9 + $(od -An -tu4 -j4 -N4 \"$s\"))) \"$s\" | age -d -i PATH-OF-THE-KEY/key.txt | zstd -dc;; esac > \"%p\" && test -s \"%p\" || exit 255'",
            manifest.backup
        ));
    } else {
        line(&format!(
            "    restore_command = 'f=%f; s=\"PATH-OF-THE-STORE/{}/{FOLDER}/$(echo $f | cut -c1-8)/$f.zst\"; test -f \"$s\" || exit 1; zstd -dc \"$s\" > \"%p\" || exit 255'",
            manifest.backup
        ));
    }
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
    if let Some(inner) = inner_name(name) {
        let unpack = match inner.rsplit_once('.') {
            Some((_, "gz")) => " | gunzip",
            Some((_, "zst")) => " | zstd -dc",
            _ => "",
        };
        return format!("age -d -i key.txt {name}{unpack}");
    }
    match name.rsplit_once('.') {
        Some((_, "gz")) => format!("gunzip -c {name}"),
        Some((_, "zst")) => format!("zstd -dc {name}"),
        _ => format!("cat {name}"),
    }
}
