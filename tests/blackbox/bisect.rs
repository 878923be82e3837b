//! The last moment at which something held: the very transaction, found by few clusters that are gone again.

use chrono::{DateTime, Utc};

use crate::pitr_site::Site;

const KEYS: &str = "wal = \"archive_command\"\ncompression = \"zstd\"\n";

fn now(site: &Site) -> String {
    site.sql("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US UTC')")
}

/// Some transactions, with log between them.
fn load(site: &Site, from: u32, count: u32) {
    for n in from..from + count {
        site.sql(&format!(
            "insert into t values ({n}); insert into filler select repeat(md5(random()::text), 30) from generate_series(1, 300)"
        ));
    }
}

#[track_caller]
fn nothing_left(site: &Site) {
    let left = crate::support::in_spool(&site.world);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_very_transaction_is_found() {
    for major in [15, 18] {
        let site = Site::with(major, "track_commit_timestamp = on", KEYS);
        site.sql("create table t (n int primary key)");
        site.sql("create table filler (x text)");
        load(&site, 1, 3);
        site.world.backup("cluster");
        load(&site, 10, 4);
        let from = now(&site);
        load(&site, 20, 9);
        site.switch();
        site.sql("create table u ()");
        load(&site, 40, 9);
        site.sql("begin; delete from t; rollback");
        let good: DateTime<Utc> = site
            .sql("select to_char(pg_xact_commit_timestamp(xmin) at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') from t where n = 48")
            .parse()
            .unwrap();
        let bad = site.sql("with x as (delete from t where n = 2 returning 1) select pg_current_xact_id()");
        load(&site, 60, 9);
        // Another base backup: a probe takes the one that is nearest.
        site.world.backup("cluster");
        load(&site, 80, 3);
        let to = now(&site);
        site.sql("drop table t");
        site.switch();
        let args = [
            "--json",
            "bisect",
            "cluster",
            "--database",
            "postgres",
            "--from",
            &from,
            "--check",
            "select exists (select from t where n = 2);",
        ];
        let found = site.pgvigil(&[&args[..], &["--to", &to]].concat()).expect(0).json();
        assert_eq!(found["first_bad"]["xid"].to_string(), bad, "{found}");
        assert_eq!(found["last_good"]["at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap(), good, "{found}");
        assert_eq!(found["good_lsn"], found["last_good"]["lsn"]);
        let (probes, transactions) = (found["probes"].as_array().unwrap().len(), found["transactions"].as_u64().unwrap());
        assert!(probes <= 8 && (32..60).contains(&transactions), "{found}");
        let bases: std::collections::BTreeSet<_> =
            found["probes"].as_array().unwrap().iter().map(|probe| probe["base"].as_str().unwrap()).collect();
        assert_eq!(bases.len(), 2, "{found}");
        nothing_left(&site);
        if major != 15 {
            continue;
        }
        // To the end of the log, where the table itself is gone: that is no error.
        let found = site.pgvigil(&args).expect(0).json();
        assert_eq!(found["first_bad"]["xid"].to_string(), bad, "{found}");
        assert_eq!(found["probes"][1]["missing"], "relation \"t\" does not exist", "{found}");
        // What it says restores the moment before.
        let restore = found["restore"].as_str().unwrap();
        let words: Vec<&str> = restore.split(' ').skip_while(|word| *word != "restore").collect();
        let words: Vec<&str> = words.iter().map(|word| if *word == "TABLE" { "t" } else { word }).collect();
        site.pgvigil(&words).expect(0);
        assert_eq!(site.sql("select count(*) from rescued.t where n in (2, 48)"), "2", "{restore}");
        let shown = site.pgvigil(&args[1..]).expect(0).stdout;
        for words in ["probe 1", "holds", "last good", "first bad", &format!("transaction {bad}, LSN"), "Europe/Vienna", "pgvigil --config"]
        {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        nothing_left(&site);
    }
}

#[test]
fn ends_that_say_nothing_are_told() {
    let site = Site::with(15, "", KEYS);
    site.sql("create table t (n int primary key)");
    site.sql("create table filler (x text)");
    site.world.backup("cluster");
    let from = now(&site);
    load(&site, 1, 3);
    let end = now(&site);
    site.be_idle();
    for (from, to, check, code, words) in [
        (&from, None, "select count(*) > 1 from t", 1, "does not hold at the beginning"),
        (&from, None, "select count(*) > 1 from nosuch", 1, "relation \"nosuch\" does not exist"),
        (&from, None, "select count(*) < 100 from t", 1, "holds at the end"),
        (&from, None, "select null::boolean", 1, "does not hold at the beginning"),
        (&from, None, "select count(*) from t", 2, "the check answers 0, neither true nor false"),
        (&from, None, "select count(*) form t", 1, "the check fails: "),
        (&from, None, "select 1 / count(*) = 1 from t", 1, "division by zero"),
        (&from, Some(&from), "select true", 2, "--to is not behind --from"),
        (&end, None, "select true", 1, "nothing was committed behind"),
    ] {
        let mut args = vec!["--json", "bisect", "cluster", "--database", "postgres", "--from", from, "--check", check];
        args.extend(to.iter().flat_map(|to| ["--to", to.as_str()]));
        let ran = site.pgvigil(&args);
        assert_eq!(ran.code, Some(code), "{check}: {ran:#?}");
        let error = ran.json()["error"].clone();
        assert!(error["message"].as_str().unwrap().contains(words) && error["hint"].is_string(), "{check}: {ran:#?}");
        nothing_left(&site);
    }
    let ran = site.pgvigil(&["bisect", "cluster", "--from", &from, "--check", "select true"]).expect(2);
    assert!(ran.stderr.contains("no database of its own") && ran.stderr.contains("--database"), "{ran:#?}");
    let ran =
        site.pgvigil(&["bisect", "cluster", "--database", "postgres", "--from", "2001-01-01 00:00", "--check", "select true"]).expect(1);
    assert!(ran.stderr.contains("any moment can be restored from"), "{ran:#?}");
}
