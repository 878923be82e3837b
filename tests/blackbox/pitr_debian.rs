//! A Debian host, set up, restored and put back by nothing but what docs/pitr.md says.

use crate::support::repository;
use crate::systemd::Machine;

/// The code of a chapter, block by block, for the PostgreSQL of the machine.
fn blocks(heading: &str) -> Vec<String> {
    let page = std::fs::read_to_string(repository("docs/pitr.md")).unwrap();
    let (_, chapter) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{heading}"));
    let level = heading.split(' ').next().unwrap();
    let chapter = chapter.split(&format!("\n{level} ")).next().unwrap();
    let blocks = chapter.split("```").skip(1).step_by(2).map(|block| block.split_once('\n').unwrap().1);
    blocks.map(|block| block.replace("/postgresql/16/", "/postgresql/15/").replace("@16-main", "@15-main")).collect()
}

/// Minimal systems have no sudo.
const SUDO: &str = "set -e; sudo() { runuser -u \"$2\" -- \"${@:3}\"; }\n";

/// What the database `shop` answers by the line that a restore printed.
#[track_caller]
fn asked(machine: &Machine, told: &str, sql: &str) -> String {
    let runs = told.lines().find_map(|line| line.strip_prefix("runs")).unwrap_or_else(|| panic!("{told}"));
    let runs = runs.replace("dbname=postgres", "dbname=shop");
    machine.ok(&format!("cd / && runuser -u postgres -- {runs} -XAt -c '{sql}'"))
}

const FILE: &str = "timezone = \"UTC\"
[servers.main]
socket = \"/var/run/postgresql\"
user = \"postgres\"
[stores.local]
path = \"/srv/postgres/backups\"
[backups.cluster]
kind = \"physical\"
wal = \"archive_command\"
compression = \"zstd\"";

#[test]
fn from_the_first_segment_to_the_place_of_the_live_one() {
    let machine = Machine::boot();
    machine.install(1, "");
    machine.write("/etc/pgvigil/pgvigil.toml", FILE);
    let [of_push, settings, as_postgres, try_out] = blocks("## archive_command").try_into().unwrap();
    machine.write("/etc/postgresql/pgvigil-wal.toml", &of_push);
    machine.ok("cd /etc/postgresql && chown postgres: pgvigil-wal.toml && chmod 600 pgvigil-wal.toml");
    machine.write("/etc/postgresql/15/main/conf.d/archive.conf", &settings);
    machine.ok(&format!("{SUDO}{as_postgres}"));
    machine.ok("systemctl restart postgresql@15-main");
    let told = machine.ok(&format!("{SUDO}pgvigil run cluster\n{try_out}"));
    assert!(told.contains("last log"), "{told}");
    assert_eq!(machine.ok("stat -c %U /proc/$(systemctl show --value --property=MainPID pgvigil)"), "postgres");

    // A bad day.
    let rows = "select count(*) from t";
    machine.sql("shop", "insert into t values (0)");
    let before = machine.sql("shop", "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')");
    machine.sql("shop", "delete from t");
    let last = machine.sql("shop", "select pg_walfile_name(pg_switch_wal())");
    let archived = |name: &str| format!("[ -e /srv/postgres/backups/cluster/wal/{}/{name} ]", &name[..8]);
    machine.wait("it is archived", &archived(&format!("{last}.zst")));
    let restore = blocks("## Restore")[0].replace("2026-01-15 14:30:00", &before);
    let told = machine.ok(&format!("{SUDO}{restore}"));
    assert_eq!(asked(&machine, &told, rows), "1001", "{told}");

    let [in_place] = blocks("### In the place of the live one").try_into().unwrap();
    machine.ok(&format!("{SUDO}{in_place}"));
    assert_eq!(machine.sql("shop", rows), "1001");
    assert_eq!(machine.sql("postgres", "select pg_is_in_recovery()"), "f");
    assert_eq!(machine.sql("postgres", "show archive_mode"), "on");
    // It goes on in the same archive, on its own timeline.
    machine.sql("shop", "insert into t values (-1)");
    let last = machine.sql("shop", "select pg_walfile_name(pg_switch_wal())");
    assert!(last.starts_with("00000002"), "{last}");
    for name in [format!("{last}.zst"), "00000002.history.zst".to_owned()] {
        machine.wait("it is archived", &archived(&name));
    }
    let status = machine.ok("pgvigil --json wal status");
    assert!(status.contains("\"gaps\": []") || status.contains("\"gaps\":[]"), "{status}");
    let told = machine.ok("pgvigil restore cluster/latest --latest --target-dir /srv/restored/again --start");
    assert_eq!(asked(&machine, &told, rows), "1002", "{told}");
}
