use std::collections::BTreeMap;

use super::*;
use crate::restore::target::{TableThere, Visitor};

/// A backup of the databases `shop` and, if asked for, `other`.
fn manifest(change: impl Fn(&mut serde_json::Value)) -> Manifest {
    let properties = serde_json::json!({
        "name": "shop", "owner": "owner", "encoding": "UTF8", "collate": "C", "ctype": "C", "locale_provider": "c", "locale": null,
        "collation_version": null, "acl": ["reader=c/owner"], "settings": [], "comment": null, "tablespace": "pg_default", "bytes": 1,
    });
    let mut value = serde_json::json!({
        "format_version": 1, "id": "b/20240115T010000Z", "backup": "b", "label": "20240115T010000Z", "slot": "2024-01-15T01:00:00Z",
        "taken_at": "2024-01-15T01:00:00Z", "started_at": "2024-01-15T01:00:00Z", "finished_at": "2024-01-15T01:00:10Z",
        "kind": "dump", "narrow": false, "server": "main", "server_version": "16.1", "client_version": "16.1", "format": "plain",
        "contents": "all", "databases": ["shop"],
        "files": [
            {"name": "shop.sql.gz", "bytes": 100, "raw_bytes": 1000, "sha256": "", "database": "shop", "role": "dump"},
            {"name": "globals.sql.gz", "bytes": 10, "raw_bytes": 20, "sha256": "", "database": null, "role": "globals"},
            {"name": "RESTORE.md", "bytes": 7, "raw_bytes": 7, "sha256": "", "database": null, "role": "notes"},
        ],
        "globals": {"no_role_passwords": false}, "encryption": null, "signature": null, "generator": "x",
        "evidence": {"databases": {"shop": {
            "properties": properties, "rows": {"public.orders": 3, "public.customers": 2}, "roles": ["owner", "writer"],
            "tablespaces": [], "extensions": {"plpgsql": "1.0"}, "partitions": {},
        }}},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn target(change: impl Fn(&mut Target)) -> Target {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let mut target = Target {
        name: "main".into(),
        version: "16.3".into(),
        major: 16,
        is_superuser: true,
        client_version: "16.99".into(),
        ..Target::default()
    };
    target.facts.roles = set(&["postgres", "owner", "writer", "reader"]);
    target.facts.tablespaces = set(&["pg_default", "pg_global"]);
    target.facts.extensions = set(&["plpgsql"]);
    target.facts.databases = set(&["postgres", "template0", "template1"]);
    change(&mut target);
    target
}

/// The database `name` is there.
fn with(name: &str, change: impl Fn(&mut Existing)) -> impl Fn(&mut Target) {
    let name = name.to_owned();
    move |target| {
        let mut existing = Existing { allows_connections: true, ..Existing::default() };
        change(&mut existing);
        target.facts.databases.insert(name.clone());
        target.existing = BTreeMap::from([(name.clone(), existing)]);
    }
}

fn full(existing: &mut Existing) {
    existing.objects = vec!["table public.orders".into()];
    existing.tables = vec![table("orders", true), table("customers", false)];
}

fn used(existing: &mut Existing) {
    existing.sessions = vec![Visitor { user: Some("app".into()), application: Some("web".into()), address: Some("10.0.0.7".into()) }];
}

fn table(name: &str, has_rows: bool) -> TableThere {
    TableThere { schema: "public".into(), name: name.into(), has_rows }
}

fn asked(change: impl Fn(&mut Asked)) -> Asked {
    let mut asked = Asked::default();
    change(&mut asked);
    asked
}

fn plan_of(manifest: &Manifest, asked: &Asked, target: &Target) -> Result<RestorePlan, Error> {
    planned(manifest, asked, target, Rung::Readable, None)
}

fn planned(manifest: &Manifest, asked: &Asked, target: &Target, rung: Rung, drill: Option<Measured>) -> Result<RestorePlan, Error> {
    let globals = Globals::parse(b"CREATE ROLE writer;\n").unwrap();
    plan(&Given {
        id: &manifest.id(),
        manifest,
        store: "local",
        rung,
        asked,
        target,
        drill,
        globals: asked.globals.then_some(&globals),
        now: "2024-01-20T10:11:12Z".parse().unwrap(),
    })
}

/// What becomes of a way to ask, on a target.
#[track_caller]
fn expect(ask: impl Fn(&mut Asked), change: impl Fn(&mut Target), expected: Result<Way, &str>) {
    let (asked, target) = (asked(ask), target(change));
    let plan = plan_of(&manifest(|_| {}), &asked, &target).unwrap();
    match expected {
        Ok(way) => {
            assert_eq!(plan.refusals, [], "{asked:?}");
            assert_eq!(plan.databases[0].way, way, "{asked:?}");
        }
        Err(words) => {
            let error = plan.refused().unwrap_or_else(|| panic!("{asked:?} is not refused"));
            let all = format!("{} {}", error.message, error.hint.unwrap_or_default());
            assert!(error.kind == Kind::Refused && all.contains(words), "{words:?} is not in {all:?}");
        }
    }
}

#[test]
fn a_whole_database_goes_where_nothing_is_lost() {
    let to = |name: &'static str| move |asked: &mut Asked| asked.to_database = Some(name.into());
    let clean = |asked: &mut Asked| asked.clean = true;
    let definitions = |asked: &mut Asked| asked.contents = Some(Contents::Schema);
    expect(|_| {}, |_| {}, Ok(Way::IntoAbsent));
    expect(|_| {}, with("shop", |_| {}), Ok(Way::IntoEmpty));
    expect(|_| {}, with("shop", full), Err("--clean to replace it, --to-database NAME to restore beside it, or --table NAME"));
    expect(|_| {}, with("shop", full), Err("table public.orders"));
    expect(|_| {}, with("shop", used), Err("app with web from 10.0.0.7"));
    expect(|asked| asked.disconnect = true, with("shop", used), Ok(Way::IntoEmpty));
    expect(|_| {}, with("shop", |there| there.allows_connections = false), Err("allows no connections"));
    expect(definitions, |_| {}, Ok(Way::IntoAbsent));
    expect(definitions, with("shop", full), Err("not empty"));
    expect(to("new"), with("shop", full), Ok(Way::IntoAbsent));
    expect(to("new"), with("new", |_| {}), Err("is there already"));
    expect(clean, |_| {}, Ok(Way::IntoAbsent));
    expect(clean, with("shop", full), Ok(Way::Replace));
    expect(clean, with("shop", used), Err("--disconnect"));
    expect(|asked| (asked.clean, asked.in_place) = (true, true), with("shop", full), Ok(Way::InPlace));
    expect(
        |asked| {
            clean(asked);
            to("new")(asked);
        },
        with("new", full),
        Ok(Way::Replace),
    );
}

#[test]
fn a_part_goes_into_what_is_there() {
    let part = |change: fn(&mut Asked)| {
        move |asked: &mut Asked| {
            asked.tables = vec!["orders".into()];
            change(asked);
        }
    };
    let rows = |asked: &mut Asked| asked.contents = Some(Contents::Data);
    expect(part(|_| {}), |_| {}, Err("is not there"));
    expect(part(|_| {}), with("shop", |_| {}), Ok(Way::IntoExisting));
    expect(part(|_| {}), with("shop", used), Ok(Way::IntoExisting));
    expect(part(|_| {}), with("shop", full), Err("--into-schema NAME"));
    expect(part(|asked| asked.into_schema = Some("rescued".into())), with("shop", full), Ok(Way::IntoExisting));
    expect(part(|asked| asked.into_schema = Some("public".into())), with("shop", full), Err("another schema"));
    expect(part(|asked| asked.to_database = Some("new".into())), with("shop", full), Ok(Way::IntoAbsent));
    expect(part(|asked| asked.to_database = Some("new".into())), with("new", |_| {}), Ok(Way::IntoExisting));
    expect(part(rows_of_orders), with("shop", full), Err("rows in public.orders"));
    expect(rows, with("shop", full), Err("rows in public.orders"));
    expect(rows, with("shop", |there| there.tables = vec![table("orders", false), table("customers", false)]), Ok(Way::IntoExisting));
    expect(rows, with("shop", |there| there.tables = vec![table("orders", false)]), Err("no table public.customers"));
    expect(rows, |_| {}, Err("is not there"));
    expect(|asked| asked.tables = vec!["nosuch".into()], with("shop", |_| {}), Err("no table nosuch"));
    expect(|asked| asked.schemas = vec!["nosuch".into()], with("shop", |_| {}), Err("in a schema \"nosuch\""));
}

fn rows_of_orders(asked: &mut Asked) {
    asked.contents = Some(Contents::Data);
}

#[test]
fn what_the_target_lacks_is_named_before_anything_starts() {
    let without = |role: &'static str| move |target: &mut Target| assert!(target.facts.roles.remove(role));
    for role in ["owner", "writer", "reader"] {
        expect(|_| {}, without(role), Err(&format!("lacks the roles \"{role}\"")));
    }
    expect(|asked| asked.globals = true, without("writer"), Ok(Way::IntoAbsent));
    expect(|asked| asked.globals = true, without("owner"), Err("lacks the roles \"owner\""));
    expect(|_| {}, |target| target.facts.extensions.clear(), Err("cannot make the extensions \"plpgsql\""));
    expect(|_| {}, |target| (target.major, target.version) = (15, "15.3".into()), Err("an older major"));
    expect(|_| {}, |target| target.major = 18, Ok(Way::IntoAbsent));
    let on_tablespace = manifest(|value| value["evidence"]["databases"]["shop"]["tablespaces"] = serde_json::json!(["pg_default", "fast"]));
    let plan = plan_of(&on_tablespace, &Asked::default(), &target(|_| {})).unwrap();
    assert!(plan.refused().unwrap().message.contains("lacks the tablespaces \"fast\""));
    let all = plan_of(&on_tablespace, &Asked::default(), &target(|target| target.facts = super::super::target::Surroundings::default()));
    assert_eq!(all.unwrap().refusals.len(), 3, "all of it in one go");
}

#[test]
fn the_backup_itself_may_be_the_reason() {
    let bad = planned(&manifest(|_| {}), &Asked::default(), &target(|_| {}), Rung::Bad, None).unwrap();
    assert!(bad.refused().unwrap().message.contains("is bad in store local"));
    let definitions = manifest(|value| value["contents"] = "schema".into());
    let plan = plan_of(&definitions, &asked(rows_of_orders), &target(with("shop", |_| {}))).unwrap();
    assert!(plan.refused().unwrap().message.contains("definitions only"));
    let no_globals = manifest(|value| value["globals"] = serde_json::Value::Null);
    let plan = plan_of(&no_globals, &asked(|asked| asked.globals = true), &target(|_| {})).unwrap();
    assert!(plan.refused().unwrap().message.contains("no globals"));
    let rows = manifest(|value| (value["contents"], value["narrow"]) = ("data".into(), true.into()));
    let plan = plan_of(&rows, &Asked::default(), &target(with("shop", |_| {}))).unwrap();
    assert_eq!(plan.databases[0].way, Way::IntoExisting, "rows alone go into tables that are there");
    let narrow = manifest(|value| (value["tables"], value["narrow"]) = (serde_json::json!(["orders"]), true.into()));
    let plan = plan_of(&narrow, &Asked::default(), &target(|_| {})).unwrap();
    assert!(plan.refusals.is_empty() && plan.warnings.iter().any(|warning| warning.contains("only tables orders")), "{plan:#?}");
}

#[test]
fn one_of_several_databases() {
    let several = manifest(|value| value["databases"] = serde_json::json!(["shop", "other"]));
    let of = |asked: &Asked| databases(asked, &several).map_err(|error| error.kind);
    let pair = |name: &str, to: &str| (name.to_owned(), to.to_owned());
    let only = |name: &'static str| asked(move |asked| asked.databases = vec![name.into()]);
    assert_eq!(of(&Asked::default()), Ok(vec![pair("shop", "shop"), pair("other", "other")]));
    assert_eq!(of(&only("other")), Ok(vec![pair("other", "other")]));
    assert_eq!(of(&only("nosuch")), Err(Kind::NotFound));
    assert_eq!(of(&asked(|asked| asked.to_database = Some("x".into()))), Err(Kind::Usage));
    assert_eq!(of(&asked(|asked| asked.tables = vec!["x".into()])), Err(Kind::Usage));
    assert_eq!(of(&Asked { to_database: Some("x".into()), ..only("other") }), Ok(vec![pair("other", "x")]));
}

#[test]
fn names_are_short_enough_and_free() {
    let long = "ü".repeat(31);
    let named = manifest(|value| {
        value["databases"] = serde_json::json!([long]);
        value["evidence"] = serde_json::Value::Null;
    });
    let first = plan_of(&named, &asked(|asked| asked.clean = true), &target(with(&long, full))).unwrap();
    let database = &first.databases[0];
    let (temporary, aside) = (database.temporary.clone().unwrap(), database.aside.clone().unwrap());
    assert!(temporary.len() <= 63 && aside.len() <= 63 && temporary.starts_with("üü"), "{temporary}");
    assert!(temporary.ends_with("_restoring_20240120T101112Z") && aside.ends_with("_before_20240120T101112Z"));
    let taken = target(|target| {
        with(&long, full)(target);
        target.facts.databases.insert(temporary.clone());
    });
    let second = plan_of(&named, &asked(|asked| asked.clean = true), &taken).unwrap();
    assert!(second.databases[0].temporary.as_deref().unwrap().ends_with("_2"));
    assert!(first.warnings.iter().any(|warning| warning.contains("nobody noted the properties")));
}

#[test]
fn how_long_it_takes() {
    let drill = Measured { at: "2024-01-14T00:00:00Z".parse().unwrap(), seconds: 40.0, raw_bytes: 2000 };
    let measured = planned(&manifest(|_| {}), &Asked::default(), &target(|_| {}), Rung::Matched, Some(drill)).unwrap();
    assert_eq!((measured.expected_seconds, measured.bytes, measured.raw_bytes), (Some(20.0), 100, 1000));
    let unknown = plan_of(&manifest(|_| {}), &Asked::default(), &target(|_| {})).unwrap();
    assert!(
        unknown.expected_seconds.is_none() && unknown.expected.starts_with("no drill yet: unknown; by the 9.8 s"),
        "{}",
        unknown.expected
    );
    let with_globals = plan_of(&manifest(|_| {}), &asked(|asked| asked.globals = true), &target(|_| {})).unwrap();
    assert_eq!(with_globals.files, ["shop.sql.gz", "globals.sql.gz"]);
}
