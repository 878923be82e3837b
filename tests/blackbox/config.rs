//! The configuration file: its faults, its secrets, the keys that wait for a later version, its
//! examples and its schema.

use std::os::unix::fs::PermissionsExt;

use crate::common::{Database, Server, World, password, ran, unique};
use crate::support::{bin_dir, check_lines, repository};

/// A place, a word of the fault, and a word of what would be right.
const FAULTS: [(usize, &str, &str); 20] = [
    (1, "Europe/Viena", "Europe/Vienna"),
    (2, "relative", "from the root"),
    (3, "no run", "1 or more"),
    (4, "shutdown_grace", "90s"),
    (5, "0.0.0.0", "listen_token"),
    (8, "two places", "keep one"),
    (9, "passwrd", "`password`"),
    (10, "sslmode", "require"),
    (13, "via", "container"),
    (15, "backups", "absolute"),
    (16, "percent", "1 to 100"),
    (18, "server", "main"),
    (19, "nosuch", "stores of this file"),
    (20, "expected", "a string"),
    (21, "schedule", "0 2 * * *"),
    (22, "plan", "directory"),
    (23, "lz4", "zstd"),
    (24, "6x", "26h"),
    (25, "dayly", "daily"),
    (27, "relay", "smtp://"),
];

const FAULTY: &str = "\
timezone = \"Europe/Viena\"
state_dir = \"relative\"
max_concurrent_runs = 0
shutdown_grace = \"shutdown_grace\"
listen = \"0.0.0.0:9847\"
[servers.main]
container = \"pg\"
host = \"db\"
passwrd = { env = \"X\" }
sslmode = \"sslmode\"
[servers.other]
socket = \"/tmp\"
via = \"exec\"
[stores.local]
path = \"backups\"
alert_above_percent = 101
[backups.x]
server = \"mian\"
stores = [\"nosuch\"]
database = 5
schedule = \"0 25 * * *\"
format = \"plan\"
compression = \"lz4\"
deadline = \"6x\"
keep = { dayly = 7 }
[email]
relay = \"mail.example.com\"
from = \"a@b\"
to = [\"c@d\"]
";

#[test]
fn every_fault_is_told_in_one_go_with_its_line_and_what_would_be_right() {
    let world = World::new();
    std::fs::write(world.config(), FAULTY).unwrap();
    let file = world.config().display().to_string();
    // Every command that reads the file says the same.
    for args in [&["check"][..], &["check", "--offline"], &["list"], &["run", "x"], &["export", "x", "-o", "-"], &["history"]] {
        let ran = world.pgvigil(args).expect(78);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        for (line, fault, right) in FAULTS {
            let place = format!("{file}:{line}");
            let at = said.find(&format!("{place}:")).or_else(|| said.find(&format!("{place} ")));
            let told: String = said[at.unwrap_or_else(|| panic!("{args:?} tells nothing of line {line}:\n{said}"))..]
                .split(&file)
                .nth(1)
                .unwrap_or_default()
                .to_owned();
            assert!(told.contains(fault) && told.contains(right), "{args:?}, line {line}: {fault} and {right} in\n{told}");
        }
        // As many as there are, and each once.
        assert_eq!(said.matches(&format!("{file}:")).count(), FAULTS.len(), "{args:?}:\n{said}");
    }
    let lines = world.pgvigil(&["--json", "check"]).expect(78).json();
    assert_eq!(lines.as_array().unwrap().len(), FAULTS.len());
    assert!(lines.as_array().unwrap().iter().all(|line| line["ok"] == false && line["level"] == "error"), "{lines:#}");
    let error = world.pgvigil(&["--json", "list"]).expect(78).json();
    assert_eq!(error["error"]["kind"], "config");
}

#[test]
fn a_file_that_is_not_there_or_not_text_ends_78_with_a_hint() {
    let world = World::new();
    for args in [&["check"][..], &["list"], &["run", "x"]] {
        let ran = world.pgvigil(args).expect(78);
        assert!(format!("{}{}", ran.stdout, ran.stderr).contains("pgvigil init"), "{ran:#?}");
    }
    for (bytes, line) in [(&b"timezone = \"UTC\"\nstate_dir = \"\xff\"\n"[..], 2), (b"[servers.main\n", 1), (b"\n\nx = \n", 3)] {
        std::fs::write(world.config(), bytes).unwrap();
        let ran = world.pgvigil(&["list"]).expect(78);
        assert!(ran.stderr.contains(&format!("{}:{line}:", world.config().display())), "{ran:#?}");
    }
    std::fs::remove_file(world.config()).unwrap();
    std::fs::create_dir(world.config()).unwrap();
    world.pgvigil(&["list"]).expect(78);
}

#[test]
fn a_reference_to_nothing_names_what_there_is() {
    let world = World::new();
    let base =
        "[servers.main]\nhost = \"h\"\n[servers.spare]\nhost = \"h\"\n[stores.second]\npath = \"/b\"\n[backups.x]\ndatabase = \"x\"\n";
    for (keys, named) in [
        ("stores = [\"local\"]\n", "main, spare"),
        ("stores = [\"local\"]\nserver = \"nosuch\"\n", "main, spare"),
        ("server = \"main\"\n", "local, second"),
        ("server = \"main\"\nstores = [\"nosuch\"]\n", "local, second"),
        ("server = \"main\"\nstores = [\"local\"]\n[pings.nosuch]\nurl = \"https://hc.example.com\"\n", "backups: x"),
        ("server = \"main\"\nstores = [\"local\"]\ndrill = { on = \"nosuch\" }\n", "main, spare"),
    ] {
        world.configure(&format!("{base}{keys}"));
        let ran = world.pgvigil(&["list"]).expect(78);
        assert!(ran.stderr.contains(named), "{keys}: {ran:#?}");
    }
}

#[test]
fn a_missing_secret_is_a_fault_for_check_and_a_warning_for_the_rest() {
    let database = Database::empty(Server::Pg15);
    let world = World::new();
    for missing in ["{ env = \"PGVIGIL_NOT_SET\" }", "{ file = \"/nonexistent/secret\" }", "{ credential = \"nosuch\" }"] {
        world.configure(&format!(
            "{}[servers.spare]\nhost = \"127.0.0.1\"\npassword = {missing}\n[backups.good]\nserver = \"main\"\ndatabase = \"{}\"\n[backups.bad]\nserver = \"spare\"\ndatabase = \"x\"\n",
            Server::Pg15.section(),
            database.name
        ));
        for args in [&["check"][..], &["check", "--offline"]] {
            let ran = world.pgvigil(args).expect(78);
            assert!(ran.stdout.contains("servers.spare.password"), "{ran:#?}");
        }
        for args in [&["list"][..], &["history"], &["run", "good"]] {
            let ran = world.pgvigil(args).expect(0);
            assert!(ran.stderr.contains("warning") && ran.stderr.contains("servers.spare.password"), "{args:?}: {ran:#?}");
        }
        let ran = world.pgvigil(&["--json", "run", "bad"]).expect(1);
        assert_eq!(ran.json()["error"]["kind"], "secret", "{ran:#?}");
        assert!(ran.json()["error"]["message"].as_str().unwrap().contains("servers.spare.password"), "{ran:#?}");
    }
}

#[test]
fn a_value_from_the_environment_that_is_not_set_is_a_fault_for_check() {
    let world = World::new();
    world.configure("[servers.main]\nhost = \"127.0.0.1\"\n[backups.x]\ndatabase = { env = \"PGVIGIL_NOT_SET\" }\n");
    let ran = world.pgvigil(&["check", "--offline"]).expect(78);
    assert!(ran.stdout.contains("backups.x.database"), "{ran:#?}");
    world.pgvigil(&["list"]).expect(0);
}

#[test]
fn a_secret_comes_from_the_file_the_environment_or_a_credential() {
    let database = Database::empty(Server::Pg15);
    let world = World::new();
    let dir = world.path("credentials");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("pg"), password()).unwrap();
    let file = world.path("password");
    // As `echo` writes it.
    std::fs::write(&file, format!("{}\n", password())).unwrap();
    let section = Server::Pg15.section();
    let literal = toml::Value::String(password()).to_string();
    for given in
        [&format!("{{ file = \"{}\" }}", file.display()), "{ credential = \"pg\" }", "{ env = \"PGVIGIL_TEST_PASSWORD\" }", &literal]
    {
        let section = section.replace("{ env = \"PGVIGIL_TEST_PASSWORD\" }", given);
        world.configure(&format!("{section}[backups.x]\ndatabase = {{ env = \"THE_DATABASE\" }}\nglobals = false\n"));
        let mut command = world.command(&["--json", "run", "x"]);
        let ran = ran(command.env("CREDENTIALS_DIRECTORY", &dir).env("THE_DATABASE", &database.name)).expect(0);
        let id = ran.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(world.manifest(&id)["databases"][0], database.name.as_str(), "{given}");
    }
}

#[test]
fn a_literal_secret_that_others_can_read_is_warned_about_and_shown_nowhere() {
    let secret = "l1teral-s3cret-\u{e9}";
    let role = unique("literal");
    let database = Database::empty(Server::Pg15);
    database.sql(&format!("create role {role} superuser login password '{secret}'"));
    let world = World::new();
    let log =
        "tr '\\0' ' ' < /proc/$$/cmdline >> \"$world/arguments\"; echo >> \"$world/arguments\"; exec \"$real\"/$(basename \"$0\") \"$@\"";
    let bin = bin_dir(&world, 15, &[("psql", log), ("pg_dump", log), ("pg_dumpall", log), ("pg_restore", log)]);
    let section = Server::Pg15.section().replace("{ env = \"PGVIGIL_TEST_PASSWORD\" }", &format!("\"{secret}\""));
    world.configure(&format!(
        "{section}user = \"{role}\"\nbin_dir = \"{}\"\n[backups.x]\ndatabase = \"{}\"\nformat = \"custom\"\n",
        bin.display(),
        database.name
    ));
    let mode = |mode| std::fs::set_permissions(world.config(), PermissionsExt::from_mode(mode)).unwrap();
    mode(0o600);
    let quiet = world.pgvigil(&["check"]).expect(3);
    assert!(!quiet.stdout.contains("chmod"), "{quiet:#?}");
    mode(0o644);
    let warned = world.pgvigil(&["check"]).expect(3);
    assert!(warned.stdout.contains("servers.main.password") && warned.stdout.contains("chmod 0600"), "{warned:#?}");
    let mut said = String::new();
    for args in [
        &["--log-level", "trace", "check"][..],
        &["--log-level", "trace", "--json", "run", "x"],
        &["--log-level", "trace", "list"],
        &["--log-level", "trace", "show", "x/latest"],
        &["--log-level", "trace", "verify", "x/latest"],
        &["--log-level", "trace", "history"],
        &["--log-level", "trace", "cat", "x/latest", "RESTORE.md"],
    ] {
        let ran = world.pgvigil(args);
        said += &format!("{args:?}\n{}{}", ran.stdout, ran.stderr);
    }
    // The password is refused: libpq's own words go into the error.
    database.sql(&format!("alter role {role} password 'another'"));
    let ran = world.pgvigil(&["--log-level", "trace", "--json", "run", "x"]).expect(1);
    said += &format!("{}{}", ran.stdout, ran.stderr);
    said += &std::fs::read_to_string(world.path("arguments")).unwrap();
    database.sql(&format!("drop role {role}"));
    assert!(said.contains("pg_dump") && said.contains("--dbname"), "{said}");
    assert!(!said.contains(secret), "{said}");
}

#[test]
fn a_fault_beside_a_secret_does_not_show_it() {
    let world = World::new();
    for line in [
        "password = 918273645",
        "password = [\"918273645\"]",
        "password = { env = \"X\", file = \"Y\", credential = \"Z\" }\nuser = \"918273645",
        "password = \"918273645",
        "passwrd = \"918273645\"",
        "password = 918273645.5",
        "password = { envv = \"918273645\" }",
    ] {
        world.configure(&format!("[servers.main]\nhost = \"h\"\n{line}\n"));
        let ran = world.pgvigil(&["list"]).expect(78);
        assert!(!ran.stderr.contains("918273645"), "{line}: {ran:#?}");
        let ran = world.pgvigil(&["--json", "check"]).expect(78);
        assert!(!ran.stdout.contains("918273645"), "{line}: {ran:#?}");
    }
}

#[test]
fn a_default_that_is_spelled_out_is_not_refused() {
    let database = Database::empty(Server::Pg15);
    let world = World::new();
    world.configure(&format!(
        "alert_above_percent = 80\ncheck_every = \"5m\"\n{}sslmode = \"prefer\"\nmaintenance_database = \"postgres\"\n[backups.x]\ndatabase = \"{}\"\n{}",
        Server::Pg15.section(),
        database.name,
        "kind = \"dump\"\nevidence = \"rows\"\nformat = \"plain\"\ncontents = \"all\"\nglobals = true\nstall_timeout = \"1h\"\nretries = 2\ncatch_up = true\nwant = \"readable\"\ntables = []\nexclude_tables = []\nschemas = []\n"
    ));
    let id = world.backup("x");
    assert_eq!(world.manifest(&id)["narrow"], false);
    let ran = world.pgvigil(&["--json", "check", "--offline"]).expect(3);
    assert!(!check_lines(&ran).iter().any(|line| line.contains("| error |")), "{ran:#?}");
}

#[test]
fn a_file_with_every_key_is_without_fault() {
    // The values that are defaults included, wherever they stand.
    let text = include_str!("everything.toml");
    if let Err(faults) = pgvigil::config::parse(text, std::path::Path::new("tests/blackbox/everything.toml")) {
        panic!("{faults}");
    }
}

#[test]
fn directory_by_exec_is_a_fault_that_says_what_works() {
    let world = World::new();
    world.configure("[servers.main]\ncontainer = \"pg\"\n[backups.x]\ndatabase = \"x\"\nformat = \"directory\"\n");
    let ran = world.pgvigil(&["run", "x"]).expect(78);
    assert!(ran.stderr.contains(".toml:9:") && ran.stderr.contains("via = \"network\""), "{ran:#?}");
    let ran = world.pgvigil(&["export", "x", "--format", "directory", "--output", "x"]);
    assert_ne!(ran.code, Some(0));
}

#[test]
fn every_example_loads() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(repository("config")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.extension().is_none_or(|end| end != "toml") {
            continue;
        }
        let world = World::new();
        let secrets = world.path("secrets");
        std::fs::create_dir(&secrets).unwrap();
        // Its secrets are those of somebody else's machine.
        let mut text = String::new();
        let mut variables = Vec::new();
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let value = |key: &str| line.split(&format!("{{ {key} = \"")).nth(1).and_then(|rest| rest.split('"').next());
            variables.extend(value("env").map(str::to_owned));
            if let Some(credential) = value("credential") {
                std::fs::write(secrets.join(credential), "x").unwrap();
            }
            match value("file") {
                // One that signs must be a key.
                Some(file) if line.starts_with("signing_key") => {
                    crate::support::stock("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", "signing"], &world.path(""));
                    text += &line.replace(file, world.path("signing").to_str().unwrap());
                }
                Some(file) => text += &line.replace(file, "/dev/null"),
                None => text += line,
            }
            text += "\n";
        }
        std::fs::write(world.config(), text).unwrap();
        let mut command = world.command(&["--json", "check", "--offline"]);
        command.env("CREDENTIALS_DIRECTORY", &secrets).envs(variables.iter().map(|name| (name, "x")));
        let ran = ran(&mut command);
        assert!(matches!(ran.code, Some(0 | 3)), "config/{name}: {ran:#?}");
        names.push(name);
    }
    for name in ["minimal.toml", "container.toml", "host.toml", "full.toml", "s3.toml", "encrypted.toml"] {
        assert!(names.iter().any(|there| there == name), "config/{name} is not there: {names:?}");
    }
}

#[test]
fn the_schema_in_docs_is_the_program_s_own() {
    let world = World::new();
    // It needs no file.
    let ours = world.pgvigil(&["schema"]).expect(0).stdout;
    let schema: serde_json::Value = serde_json::from_str(&ours).unwrap();
    assert_eq!(schema["title"], "pgvigil.toml");
    let path = repository("docs/pgvigil.schema.json");
    let theirs = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(theirs == ours, "{} is out of date; make it anew by\n  cargo run -- schema > docs/pgvigil.schema.json", path.display());
}

/// The examples in TOML of a page. A fence stands at the beginning of a line.
fn examples(page: &str) -> Vec<String> {
    page.split("\n```toml\n").skip(1).map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

/// What is wrong with an example, as a file and as the keys of a section, where it is least.
fn faults_of(world: &World, example: &str) -> Vec<String> {
    let has = |words: &str| example.lines().any(|line| line.starts_with(words));
    let left_out = [
        ("[servers.", "[servers.main]\ncontainer = \"pg\"\n"),
        ("[stores.", "[stores.local]\npath = \"/srv/b\"\n"),
        ("[backups.", "[backups.euem_db]\ndatabase = \"euem\"\n"),
    ];
    let rest = |count: usize| left_out[..count].iter().filter(|(table, _)| !has(table)).map(|(_, section)| *section).collect::<String>();
    let state = if has("state_dir") { "" } else { "state_dir = \"/var/lib/pgvigil\"\n" };
    let heads = ["", "[backups.x]\ndatabase = \"x\"\n", "[backups.x]\n", "[servers.x]\nhost = \"h\"\n", "[stores.x]\n"];
    // A backup is left out where it would not know which of two servers is meant.
    let found = heads.iter().flat_map(|head| [(head, 3), (head, 2)]).map(|(head, count)| {
        std::fs::write(world.config(), format!("{state}{head}{example}\n{}", rest(count))).unwrap();
        let lines = check_lines(&world.pgvigil(&["--json", "check", "--offline"]));
        // What the files hold that it names is another matter.
        lines
            .into_iter()
            .filter(|line| line.contains("| error |") && line.starts_with(world.config().to_str().unwrap()))
            .collect::<Vec<_>>()
    });
    found.min_by_key(Vec::len).unwrap()
}

/// Every example of the docs is a file, or a part of one: with what it leaves out it has no fault.
#[test]
fn every_example_of_the_docs_is_right() {
    let mut pages = vec![repository("README.md")];
    pages.extend(std::fs::read_dir(repository("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let (world, mut seen, mut wrong) = (World::new(), 0, Vec::new());
    for page in pages.into_iter().filter(|page| page.extension().is_some_and(|end| end == "md")) {
        // An ellipsis stands for what nobody can know.
        for example in examples(&std::fs::read_to_string(&page).unwrap()).into_iter().filter(|example| !example.contains("...")) {
            seen += 1;
            let faults = faults_of(&world, &example);
            // One key several times: each line is an example of its own.
            let alone = || example.lines().all(|line| faults_of(&world, line).is_empty());
            if !(faults.is_empty() || faults.iter().any(|fault| fault.contains("duplicate key")) && alone()) {
                wrong.push(format!("{}:\n{example}\n{faults:#?}", page.display()));
            }
        }
    }
    assert!(seen > 20, "{seen}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
