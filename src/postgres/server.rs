//! A server of the plan: how it is reached, what it is, what it holds.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::quote::{conninfo, literal};
use super::{programs, throwaway};
use crate::config::file::Via;
use crate::config::plan::{self, Place};
use crate::error::{Error, Kind, Result};
use crate::host::docker::DockerHost;
use crate::host::local::LocalHost;
use crate::host::secret::{self, Secret};
use crate::host::{self, Call, Exit, Host, Process, Tag};

/// The largest answer to a question of ours, in bytes; a catalog of 100,000 tables is smaller.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A question of ours that is not answered for so long never will be.
const ANSWER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(120);

/// How long libpq tries to connect, in seconds.
const CONNECT_SECS: &str = "15";

/// A server that answers.
#[derive(Clone)]
pub struct Server {
    host: Arc<dyn Host>,
    env: Vec<(String, String)>,
    password: Option<Secret>,
    tag: Tag,
    maintenance_database: String,
    pub facts: Facts,
    /// Version of the `pg_dump` that will be used.
    pub client_version: String,
    pub reached: Reached,
}

/// The way to a server, for RESTORE.md and messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reached {
    Container(String),
    Address(String),
}

/// What a server says of itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Facts {
    pub version: String,
    pub version_num: u32,
    pub user: String,
    pub is_superuser: bool,
    pub reads_passwords: bool,
    pub databases: Vec<Database>,
}

impl Facts {
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }
}

/// A database and the properties that no dump of it holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
pub struct Database {
    pub name: String,
    pub owner: String,
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    /// `c`: libc, `i`: ICU, `b`: builtin.
    pub locale_provider: String,
    pub locale: Option<String>,
    pub collation_version: Option<String>,
    /// `None`: the default privileges.
    pub acl: Option<Vec<String>>,
    /// `ALTER DATABASE ... SET` and `ALTER ROLE ... IN DATABASE ... SET`.
    pub settings: Vec<Setting>,
    pub comment: Option<String>,
    pub tablespace: String,
    /// Of sessions at a time; `None` where it is not known, -1: no limit.
    #[serde(default)]
    pub connection_limit: Option<i64>,
    /// Whoever may make databases may copy it, and nobody can drop it; `None` where it is not known.
    #[serde(default)]
    pub is_template: Option<bool>,
    pub bytes: Option<i64>,
    #[serde(default, skip_serializing)]
    pub allows_connections: bool,
}

impl Database {
    /// Whether `databases = "all"` means it too.
    pub fn is_usable(&self) -> bool {
        self.allows_connections && self.name != "template0" && self.name != "template1"
    }
}

/// A setting that belongs to a database.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
pub struct Setting {
    /// `None`: for every role.
    pub role: Option<String>,
    pub setting: String,
}

/// The password that the official images are given: a variable, or a file inside. Inside the socket asks
/// for none, so there a file that cannot be read is no matter.
async fn own_password(engine: &DockerHost, env: &HashMap<String, String>, via: Via) -> Result<Option<Secret>> {
    if let Some(password) = env.get("POSTGRES_PASSWORD").filter(|password| !password.is_empty()) {
        return Ok(Some(Secret::new(password)));
    }
    let Some(path) = env.get("POSTGRES_PASSWORD_FILE").filter(|_| via == Via::Network) else { return Ok(None) };
    let text = engine.read_file(path).await?;
    Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n']))))
}

impl Server {
    /// Reaches a server, asks what it is and chooses the programs that fit it. Every session of it
    /// carries `tag`.
    ///
    /// # Errors
    /// A secret is missing, the container or the server does not answer, or no program fits.
    pub async fn connect(plan: &plan::Server, tag: Tag) -> Result<Self> {
        Self::connect_inner(plan, tag).await.map_err(|error| error.context(format_args!("server {}", plan.name)))
    }

    async fn connect_inner(plan: &plan::Server, tag: Tag) -> Result<Self> {
        let key = |key: &str| format!("servers.{}.{key}", plan.name);
        let password = plan.password.as_ref().map(|given| secret::resolve(&key("password"), given)).transpose()?;
        let user = plan.user.as_ref().map(|given| secret::resolve(&key("user"), given)).transpose()?;
        let mut server = Server::unasked(Arc::new(LocalHost::new(None)), tag, Reached::Address(String::new()));
        server.password = password;
        server.maintenance_database.clone_from(&plan.maintenance_database);
        let user = user.map(|user| user.reveal().to_owned());
        let by_exec = match &plan.place {
            Place::Container { container, docker, via } => {
                let engine = DockerHost::connect(docker.as_deref(), container).await?;
                let inspected = engine.inspect().await?;
                if plan.password_of_container && server.password.is_none() {
                    server.password = own_password(&engine, &inspected.env, *via).await?;
                }
                let default_user = inspected.env.get("POSTGRES_USER").cloned();
                server.set("PGUSER", user.or(default_user).unwrap_or_else(|| "postgres".to_owned()));
                server.reached = Reached::Container(container.clone());
                match via {
                    Via::Exec => {
                        if let Some(port) = plan.port {
                            server.set("PGPORT", port.to_string());
                        }
                        server.host = host::docker::shared(engine);
                        true
                    }
                    Via::Network => {
                        let address = inspected.address.ok_or_else(|| {
                            Error::new(Kind::Docker, format!("container {container:?} has no address in any network"))
                                .hint("connect it to a network of this machine, or set via = \"exec\"")
                        })?;
                        let port = plan.port.map(|port| port.to_string()).or_else(|| inspected.env.get("PGPORT").cloned());
                        server.set("PGHOST", address);
                        server.set("PGPORT", port.unwrap_or_else(|| "5432".to_owned()));
                        false
                    }
                }
            }
            Place::Host(address) => {
                server.address(address.clone(), plan, user);
                false
            }
            Place::Socket(dir) => {
                server.address(dir.display().to_string(), plan, user);
                false
            }
        };
        if by_exec {
            let (facts, version) = tokio::try_join!(server.ask_facts(), server.version_of("pg_dump"))?;
            server.facts = facts;
            server.client_version = version;
        } else {
            server.tls(plan);
            server.choose_programs(plan.bin_dir.clone()).await?;
        }
        server.end_with_the_client();
        Ok(server)
    }

    /// A server of our own making: who reaches its socket is its superuser.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn throwaway(host: Arc<dyn Host>, socket_dir: &str, superuser: &str, tag: Tag, reached: Reached) -> Result<Self> {
        let mut server = Server::unasked(host, tag, reached);
        server.set("PGHOST", socket_dir.to_owned());
        server.set("PGPORT", throwaway::PORT.to_owned());
        server.set("PGUSER", superuser.to_owned());
        let (facts, version) = tokio::try_join!(server.ask_facts(), server.version_of("psql"))?;
        server.facts = facts;
        server.client_version = version;
        server.end_with_the_client();
        Ok(server)
    }

    /// A server of which nothing is known yet.
    fn unasked(host: Arc<dyn Host>, tag: Tag, reached: Reached) -> Self {
        Server {
            host,
            env: vec![
                ("PGCONNECT_TIMEOUT".to_owned(), CONNECT_SECS.to_owned()),
                // The role or the database may set one; more is told once its version is known.
                ("PGOPTIONS".to_owned(), "-c statement_timeout=0".to_owned()),
            ],
            password: None,
            tag,
            maintenance_database: "postgres".to_owned(),
            facts: Facts {
                version: String::new(),
                version_num: 0,
                user: String::new(),
                is_superuser: false,
                reads_passwords: false,
                databases: Vec::new(),
            },
            client_version: String::new(),
            reached,
        }
    }

    /// The same server, with programs that run elsewhere.
    #[must_use]
    pub fn with_host(&self, host: Arc<dyn Host>) -> Self {
        Server { host, ..self.clone() }
    }

    fn set(&mut self, name: &str, value: String) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value));
    }

    fn address(&mut self, host: String, plan: &plan::Server, user: Option<String>) {
        let port = plan.port.unwrap_or(5432);
        self.reached = Reached::Address(format!("{host}:{port}"));
        self.set("PGHOST", host);
        self.set("PGPORT", port.to_string());
        self.set("PGUSER", user.unwrap_or_else(|| "postgres".to_owned()));
    }

    fn tls(&mut self, plan: &plan::Server) {
        self.set("PGSSLMODE", plan.sslmode.as_str().to_owned());
        let files = [("PGSSLROOTCERT", &plan.sslrootcert), ("PGSSLCERT", &plan.sslcert), ("PGSSLKEY", &plan.sslkey)];
        for (name, path) in files {
            if let Some(path) = path {
                self.set(name, path.display().to_string());
            }
        }
    }

    /// Asks with any psql, then takes the programs of the server's own major version.
    async fn choose_programs(&mut self, bin_dir: Option<PathBuf>) -> Result<()> {
        let given = bin_dir.is_some();
        let found = if given { programs::Found::default() } else { tokio::task::spawn_blocking(programs::find).await.unwrap_or_default() };
        let first = bin_dir.or_else(|| programs::any(&found));
        self.host = Arc::new(LocalHost::new(first.clone()));
        self.facts = self.ask_facts().await?;
        if !given {
            let chosen = programs::choose(&found, self.facts.major())?;
            self.host = Arc::new(LocalHost::new(chosen));
        }
        self.client_version = self.version_of("pg_dump").await?;
        Ok(())
    }

    /// Since PostgreSQL 14 a backend that waits for a lock can notice that its client is gone.
    /// <https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-CLIENT-CONNECTION-CHECK-INTERVAL>
    fn end_with_the_client(&mut self) {
        let mut options = vec!["-c statement_timeout=0", "-c idle_in_transaction_session_timeout=0"];
        if self.facts.major() >= 14 {
            options.push("-c client_connection_check_interval=5s");
        }
        if self.facts.major() >= 17 {
            options.push("-c transaction_timeout=0");
        }
        // The text of a row must not depend on who reads it: a digest is of that text.
        options.extend([
            "-c TimeZone=UTC",
            "-c DateStyle=ISO",
            "-c IntervalStyle=postgres",
            "-c extra_float_digits=3",
            "-c bytea_output=hex",
        ]);
        // A drill on a named server makes a database there, as whatever role.
        options.push("-c default_transaction_read_only=off");
        let tag = format!("-c pgvigil.tag={}", self.tag.as_str());
        options.push(&tag);
        self.set("PGOPTIONS", options.join(" "));
    }

    /// The name of the database where questions about the whole server are asked.
    pub fn maintenance_database(&self) -> &str {
        &self.maintenance_database
    }

    pub fn tag(&self) -> &Tag {
        &self.tag
    }

    /// A call of a program, connected to this server.
    pub fn call(&self, program: &'static str, args: Vec<String>) -> Call {
        Call { program, args, env: self.env.clone(), password: self.password.clone(), tag: self.tag.clone(), stdin: false, input: None }
    }

    /// The same server, whose sessions begin with a setting.
    #[must_use]
    pub fn with_setting(&self, name: &str, value: &str) -> Self {
        let mut server = self.clone();
        let option = format!("-c {name}={value}");
        match server.env.iter_mut().find(|(variable, _)| variable == "PGOPTIONS") {
            Some((_, options)) => *options = format!("{options} {option}"),
            None => server.set("PGOPTIONS", option),
        }
        server
    }

    pub fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    /// The environment of libpq that reaches this server, without the password.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    async fn version_of(&self, program: &'static str) -> Result<String> {
        let text = self.output(self.call(program, vec!["--version".to_owned()]), None).await?;
        programs::parse_version(&text)
            .map(|(_, version)| version)
            .ok_or_else(|| Error::new(Kind::Postgres, format!("{program} does not say its version: {}", host::printable(&text))))
    }

    /// Refuses a client that is older than the server before anything starts.
    ///
    /// # Errors
    /// It is.
    pub fn check_client(&self) -> Result<()> {
        let client = programs::major(&self.client_version);
        if client >= self.facts.major() {
            return Ok(());
        }
        let server = self.facts.major();
        Err(Error::new(
            Kind::Postgres,
            format!("the server is PostgreSQL {server} and pg_dump is of {}: an older pg_dump refuses", self.client_version),
        )
        .hint(format!("install postgresql-client-{server}, or set bin_dir to the folder of its programs")))
    }

    async fn ask_facts(&self) -> Result<Facts> {
        self.query(&self.maintenance_database, FACTS).await
    }

    /// Asks one question, whose answer is one JSON document.
    ///
    /// # Errors
    /// psql says no, or what came is not the answer.
    pub async fn query<T: serde::de::DeserializeOwned>(&self, database: &str, sql: &str) -> Result<T> {
        let mut call = self.call(
            "psql",
            ["-X", "-w", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &conninfo(database), "-f", "-"].map(str::to_owned).to_vec(),
        );
        call.env.push(("PGCLIENTENCODING".to_owned(), "UTF8".to_owned()));
        call.stdin = true;
        let text = self.output(call, Some(format!("{sql};\n").into_bytes())).await?;
        serde_json::from_str(text.trim()).map_err(|error| {
            let start: String = host::printable(&text).chars().take(200).collect();
            Error::new(Kind::Postgres, format!("psql gave no answer that can be read: {error}: {start}"))
                .hint("is there a pooler or a psqlrc in between?")
        })
    }

    /// Whether it lets this role replicate from here.
    ///
    /// # Errors
    /// It does not.
    pub async fn try_replication(&self) -> Result<()> {
        let args = ["-X", "-w", "-A", "-t", "-q", "-d", "dbname=postgres replication=true", "-c", "IDENTIFY_SYSTEM"];
        self.output(self.call("psql", args.map(str::to_owned).to_vec()), None).await.map(drop)
    }

    /// Runs a program to its end and returns what it printed.
    async fn output(&self, call: Call, stdin: Option<Vec<u8>>) -> Result<String> {
        let program = call.program;
        let mut process = self.host.start(call).await?;
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, Self::converse(program, &mut process, stdin)).await;
        if let Ok(answer) = answered {
            return answer;
        }
        process.running.stop().await?;
        Err(Error::new(Kind::Timeout, format!("{program} got no answer from the server for {} s", ANSWER_TIMEOUT.as_secs()))
            .hint("is the server overloaded, or stopped in the middle?"))
    }

    async fn converse(program: &'static str, process: &mut Process, stdin: Option<Vec<u8>>) -> Result<String> {
        if let (Some(bytes), Some(mut into)) = (stdin, process.stdin.take()) {
            // A program that refuses the connection reads nothing; its exit tells why.
            let _ = into.write_all(&bytes).await;
            let _ = into.shutdown().await;
        }
        let mut answer = Vec::new();
        let read = (&mut process.stdout).take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await;
        let exit = process.running.wait().await?;
        read.map_err(|error| Error::new(Kind::Postgres, format!("lost the answer of {program}: {error}")))?;
        if !exit.is_success() {
            let mut stderr = process.stderr.text();
            if matches!(exit, Exit::Code(126 | 127)) {
                stderr.push_str(&host::words_of_the_engine(&answer).unwrap_or_default());
            }
            return Err(explain(program, exit, &stderr));
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Ends every backend of this run's sessions, and returns how many there were.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn terminate_backends(&self, tag: &Tag) -> Result<usize> {
        let other = Server { tag: Tag::random(), ..self.clone() };
        let sql = format!(
            "select to_json(count(pg_terminate_backend(pid))) from pg_stat_activity where application_name = {} and pid <> pg_backend_pid()",
            literal(tag.as_str())
        );
        other.query(&self.maintenance_database, &sql).await
    }
}

/// The failure of a program with what usually helps.
pub fn explain(program: &str, exit: Exit, stderr: &str) -> Error {
    let error = host::failed(Kind::Postgres, program, exit, stderr);
    let hints = [
        ("password authentication failed", "set password of the server in the file: { env = \"NAME\" } or { file = \"PATH\" }"),
        ("no password supplied", "set password of the server in the file: { env = \"NAME\" } or { file = \"PATH\" }"),
        ("fe_sendauth", "set password of the server in the file: { env = \"NAME\" } or { file = \"PATH\" }"),
        ("no pg_hba.conf entry", "allow this address, user and database in pg_hba.conf of the server"),
        ("Connection refused", "does PostgreSQL run there, and listen on that address and port?"),
        ("Is the server running", "does PostgreSQL run there, and listen on that address and port?"),
        ("could not translate host name", "check host in the file, and the name service of this machine"),
        ("row-level security", "dump as a role with BYPASSRLS or as superuser; a dump under row-level security would silently miss rows"),
        (
            "permission denied for large object",
            "GRANT SELECT ON LARGE OBJECT n TO the role, make it a member of their owner, or dump as superuser",
        ),
        (
            "Peer authentication failed",
            "over a socket the system user must be the role of the same name: let that user own state_dir, or use host with a password",
        ),
        (
            "unsupported startup parameter",
            "a pooler stands in between: connect to PostgreSQL itself, not to PgBouncer or its like; set host and port of the server",
        ),
        ("does not support SSL", "set sslmode = \"prefer\" or \"disable\", or switch ssl on in the server"),
        ("role \"", "check user of the server in the file"),
        (
            "permission denied to create database",
            "let the user of the server make databases (ALTER ROLE ... CREATEDB), or restore as superuser",
        ),
        ("permission denied", "grant the role what it needs: pg_read_all_data (PostgreSQL 14 and later), or dump as superuser"),
        ("server version mismatch", "install the client programs of the server's major version, or set bin_dir"),
        // pg_dump bounds its wait for locks by a statement timeout.
        ("canceling statement due to statement timeout", "another session holds a lock on a table for long; run again when it is done"),
        ("no matching tables were found", "names with capitals or special characters must be quoted in a pattern: '\"Order\"'"),
        ("no matching schemas were found", "names with capitals or special characters must be quoted in a pattern: '\"Order\"'"),
        ("database \"", "check the name of the database; pgvigil check lists what the server has"),
    ];
    if matches!(exit, Exit::Code(126 | 127)) {
        return error.hint(format!("is {program} in the PATH of the container? the official postgres images have it"));
    }
    match hints.iter().find(|(words, _)| stderr.contains(words)) {
        Some((_, hint)) => error.hint(*hint),
        None => error,
    }
}

/// What a server says of itself and of its databases. The catalog of databases got its locale
/// columns one by one; as JSON, a column that is not there yet is null.
const FACTS: &str = "select json_build_object(
    'version', current_setting('server_version'),
    'version_num', current_setting('server_version_num')::int,
    'user', current_user,
    'is_superuser', current_setting('is_superuser') = 'on',
    'reads_passwords', has_table_privilege('pg_catalog.pg_authid', 'select'),
    'databases', (select coalesce(json_agg(json_build_object(
        'name', d.datname,
        'owner', pg_get_userbyid(d.datdba),
        'encoding', pg_encoding_to_char(d.encoding),
        'collate', d.datcollate,
        'ctype', d.datctype,
        'locale_provider', coalesce(to_jsonb(d)->>'datlocprovider', 'c'),
        'locale', coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale'),
        'collation_version', to_jsonb(d)->>'datcollversion',
        'acl', d.datacl::text[],
        'settings', (select coalesce(json_agg(json_build_object('role', case s.setrole when 0 then null else pg_get_userbyid(s.setrole) end, 'setting', c) order by s.setrole, c), '[]')
            from pg_db_role_setting s, unnest(s.setconfig) c where s.setdatabase = d.oid),
        'comment', shobj_description(d.oid, 'pg_database'),
        'tablespace', (select spcname from pg_tablespace t where t.oid = d.dattablespace),
        'connection_limit', d.datconnlimit,
        'is_template', d.datistemplate,
        'bytes', case when d.datallowconn and has_database_privilege(d.oid, 'connect') then pg_database_size(d.oid) end,
        'allows_connections', d.datallowconn
    ) order by d.datname), '[]') from pg_database d)
)";
