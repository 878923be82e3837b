//! A cluster that archives its log, and a world whose stores belong to the user of the server.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::{Ran, World, run};
use crate::support::{Cluster, own, repository, stock};

/// A cluster with its world. The program runs as the user of the server wherever it writes.
pub struct Site {
    pub cluster: Cluster,
    pub world: World,
    pub major: u32,
    /// Where the server lays its log, for a daemon to take it in.
    folder: Option<PathBuf>,
}

/// A line of docs/pitr.md that begins so: what users copy is what is tried.
pub fn documented(beginning: &str) -> String {
    let text = std::fs::read_to_string(repository("docs/pitr.md")).unwrap();
    let line = text.lines().find(|line| line.starts_with(beginning) && !line.contains("wal push"));
    line.unwrap_or_else(|| panic!("docs/pitr.md has no line {beginning:?}")).to_owned()
}

/// What a server needs beside its defaults so that every segment is archived.
fn settings(world: &World, more: &str) -> String {
    format!(
        "wal_level = replica\narchive_mode = on\narchive_command = '\"{}\" --config \"{}\" wal push \"%p\"'\nmax_wal_senders = 10\n{more}\n",
        env!("CARGO_BIN_EXE_pgvigil"),
        world.path("wal.toml").display()
    )
}

impl Site {
    /// With `archive_command`, and keys of the backup `cluster`.
    pub fn archiving(major: u32, keys: &str) -> Self {
        Self::with(major, "", &format!("wal = \"archive_command\"\n{keys}"))
    }

    /// `more` are lines of postgresql.conf, `keys` those of the backup `cluster`.
    pub fn with(major: u32, more: &str, keys: &str) -> Self {
        let world = World::new();
        std::fs::set_permissions(world.path(""), PermissionsExt::from_mode(0o755)).unwrap();
        for dir in [world.path("state"), world.store(), world.path("restored")] {
            std::fs::create_dir(&dir).unwrap();
            own(&dir);
        }
        let cluster = Cluster::start(major, &settings(&world, more), &[]);
        world.configure(&format!(
            "[servers.main]\nsocket = \"{}\"\nport = {}\nbin_dir = \"{}\"\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\n[backups.cluster]\nkind = \"physical\"\n{keys}",
            cluster.host(),
            cluster.port,
            crate::support::programs(major).display()
        ));
        let site = Site { cluster, world, major, folder: None };
        // A file of its own for the user of the server: where the log goes, and no secret.
        std::fs::write(
            site.world.path("wal.toml"),
            format!(
                "[servers.main]\nhost = \"localhost\"\n[stores.local]\npath = \"{}\"\n[backups.cluster]\nkind = \"physical\"\nwal = \"archive_command\"\n",
                site.world.store().display()
            ),
        )
        .unwrap();
        site
    }

    /// With `archive_command` and a folder that the daemon takes the log in from. `more` as in [`Site::with`].
    pub fn by_folder(major: u32, more: &str, keys: &str) -> Self {
        let mut site = Self::with(major, more, &format!("wal = \"archive_command\"\n{keys}"));
        let folder = site.world.path("archive");
        std::fs::create_dir(&folder).unwrap();
        own(&folder);
        let config = std::fs::read_to_string(site.world.config()).unwrap();
        std::fs::write(site.world.config(), format!("{config}wal_folder = \"{}\"\n", folder.display())).unwrap();
        let line = documented("archive_command").replace("/archive", &folder.display().to_string());
        site.sql(&format!("alter system set {line}"));
        site.sql("select pg_reload_conf()");
        crate::support::until("the server archives so", || site.sql("show archive_command").contains("mv "));
        site.folder = Some(folder);
        site
    }

    /// From now on the file leads to another server, in place of the cluster.
    pub fn lead_to(&self, host: &str, port: &str) {
        let file = std::fs::read_to_string(self.world.config()).unwrap();
        let file = file.replace(&self.cluster.host(), host).replace(&format!("port = {}", self.cluster.port), &format!("port = {port}"));
        std::fs::write(self.world.config(), file).unwrap();
    }

    pub fn sql(&self, sql: &str) -> String {
        self.cluster.sql(sql)
    }

    /// Ends the segment that is written, and waits until the server has archived it. Where nothing was
    /// written since the last one, that is it.
    pub fn switch(&self) {
        let segment = self.sql("select pg_walfile_name(pg_switch_wal() - 1)");
        // What was archived last may also be the history of a base backup.
        crate::support::until("the segment is archived", || {
            self.archived().iter().any(|name| name[..segment.len()] >= *segment)
                || self.sql("select coalesce(last_archived_wal, '') from pg_stat_archiver") >= segment
        });
        if let Some(folder) = &self.folder {
            crate::support::until("it is taken in", || std::fs::read_dir(folder).unwrap().next().is_none());
        }
    }

    /// Time goes by in which nothing is committed, and the log says so: it ends later than whatever may be on its way.
    pub fn be_idle(&self) {
        let until = self.sql("select clock_timestamp() + '6 s'");
        crate::support::until("time has gone by", || self.sql(&format!("select clock_timestamp() > '{until}'")) == "t");
        self.sql("select pg_logical_emit_message(false, 'test', 'no transaction')");
        self.switch();
    }

    /// The server's clock, as `--at` takes it.
    pub fn now(&self) -> String {
        self.sql("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US UTC')")
    }

    /// From now on the server can archive nothing.
    pub fn archive_nothing(&self) {
        self.sql("alter system set archive_command = 'false'");
        self.sql("select pg_reload_conf()");
        crate::support::until("the server archives no more", || self.sql("show archive_command") == "false");
    }

    /// The server archives again.
    pub fn archive_again(&self) {
        self.sql("alter system reset archive_command");
        self.sql("select pg_reload_conf()");
    }

    pub fn pgvigil(&self, args: &[&str]) -> Ran {
        self.world.pgvigil(args)
    }

    /// Whole segments in the archive, sorted.
    pub fn archived(&self) -> Vec<String> {
        let folder = self.world.store().join("cluster/wal/00000001");
        let mut names: Vec<String> =
            std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.len() == 28 && !name.starts_with('.'));
        names.sort();
        names
    }

    /// The same file, unpacked by a stock tool.
    pub fn unpacked(&self, name: &str) -> Vec<u8> {
        stock("zstd", &["-dc", &format!("cluster/wal/00000001/{name}")], &self.world.store())
    }
}

/// A cluster that was restored and runs; stopped when it is dropped.
pub struct Restored {
    major: u32,
    dir: std::path::PathBuf,
    pub answer: serde_json::Value,
}

impl Site {
    /// Restores `cluster/latest` (or another ID in `args`) and starts it.
    #[track_caller]
    pub fn restore(&self, args: &[&str]) -> Restored {
        let dir = self.world.path("restored").join(crate::common::unique("at"));
        let mut all = vec!["--json", "restore"];
        if !args.first().is_some_and(|arg| arg.starts_with("cluster/")) {
            all.push("cluster/latest");
        }
        all.extend(args);
        let dir_text = dir.display().to_string();
        all.extend(["--target-dir", &dir_text, "--start"]);
        let answer = self.pgvigil(&all).expect(0).json();
        Restored { major: self.major, dir, answer }
    }
}

impl Restored {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.sql_in("postgres", sql)
    }

    #[track_caller]
    pub fn sql_in(&self, database: &str, sql: &str) -> String {
        let connection = format!("{} dbname={database}", self.answer["connection"].as_str().unwrap());
        let mut psql = std::process::Command::new(crate::support::programs(self.major).join("psql"));
        psql.env_remove("PGUSER").env("PGPASSWORD", crate::common::password());
        let output = run(psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &connection, "-c", sql]));
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let program = crate::support::programs(self.major).join("pg_ctl");
        let mut stop = crate::support::postgres_command(program.as_os_str());
        let _ = run(stop.args(["stop", "-s", "-m", "immediate", "-D"]).arg(&self.dir));
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
