//! A drill in a container.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;

use super::*;
use crate::config::plan;

/// The anonymous volumes of a container.
fn volumes(container: &str) -> BTreeSet<String> {
    let format = "{{range .Mounts}}{{if .Name}}{{println .Name}}{{end}}{{end}}";
    docker(&["inspect", "--format", format, container]).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn are_gone(volumes: &BTreeSet<String>) -> bool {
    let left: BTreeSet<String> = docker(&["volume", "ls", "--quiet"]).lines().map(str::to_owned).collect();
    !volumes.is_empty() && volumes.is_disjoint(&left)
}

#[tokio::test]
async fn in_a_container_of_the_same_image() {
    let (plan, place) = (plan(), Place::new());
    let wanted = Wanted { preload: Some("pg_stat_statements"), ..place.wanted() };
    let drill = Throwaway::in_container(&plan.servers["docker"], &wanted).await.unwrap();
    works(&drill.server, "Chief -x").await;
    assert_eq!(drill.database_name("x", 0), "x");
    assert_eq!(ask(&drill.server, "select current_setting('shared_preload_libraries')").await, "pg_stat_statements");
    assert!(drill.log().contains(READY));

    let found = containers(&place.owner);
    assert_eq!(found.len(), 1);
    let inspect = |name: &str, format: &str| docker(&["inspect", "--format", format, name]);
    assert_eq!(inspect(&found[0], "{{.Image}}"), inspect(&var("PGVIGIL_TEST_CONTAINER"), "{{.Image}}"));
    let limits = "{{.HostConfig.NetworkMode}} {{.HostConfig.Memory}} {{.HostConfig.CapDrop}} {{.Config.User}}";
    assert_eq!(inspect(&found[0], limits), format!("none {} [ALL] postgres", settings::MEMORY_BYTES));
    assert!(!inspect(&found[0], "{{json .Config.Env}}").contains("POSTGRES_PASSWORD"));
    // The last of its processes that may gain a right it does not have yet.
    assert_eq!(docker(&["exec", &found[0], "grep", "NoNewPrivs", "/proc/1/status"]).split_whitespace().last(), Some("1"));

    let volumes = volumes(&found[0]);
    drill.remove().await.unwrap();
    assert!(containers(&place.owner).is_empty() && are_gone(&volumes));
}

#[tokio::test]
async fn a_source_that_is_stopped_or_gone() {
    let (mut plan, place) = (plan(), Place::new());
    let stopped = docker(&["create", "--label", "pgvigil.test=1", &var("PGVIGIL_TEST_IMAGE")]);
    let source = plan.servers.get_mut("docker").unwrap();
    source.place = plan::Place::Container { container: stopped.clone(), docker: None, via: crate::config::file::Via::Exec };
    let drill = Throwaway::in_container(source, &place.wanted()).await;
    docker(&["rm", "--force", "--volumes", &stopped]);
    drill.unwrap().remove().await.unwrap();

    let error = Throwaway::in_container(source, &place.wanted()).await.err().unwrap();
    assert_eq!(error.kind, Kind::Unverifiable);
    assert!(error.message.contains(&stopped), "{}", error.message);
    let error = Throwaway::in_container(&plan.servers["named"], &place.wanted()).await.err().unwrap();
    assert!(error.message.contains("is in no container"), "{}", error.message);
}

#[tokio::test]
async fn a_sweep_removes_our_containers_and_no_others() {
    let (plan, place, other) = (plan(), Place::new(), Place::new());
    let ours = Throwaway::in_container(&plan.servers["docker"], &place.wanted()).await.unwrap();
    // What a kill between the making and the start leaves.
    let label = format!("{LABEL}={}", place.owner);
    docker(&["create", "--label", &label, &var("PGVIGIL_TEST_IMAGE")]);
    let others = format!("{LABEL}={}", other.owner);
    let foreign = docker(&["create", "--label", &others, &var("PGVIGIL_TEST_IMAGE")]);
    let volumes: BTreeSet<String> = containers(&place.owner).iter().flat_map(|id| volumes(id)).collect();
    std::mem::forget(ours);
    let swept = sweep(&plan, &place.owner, &place.folder).await;
    let stayed = containers(&other.owner) == [foreign.clone()];
    docker(&["rm", "--force", "--volumes", &foreign]);
    assert_eq!((swept, stayed), (Ok(2), true));
    assert!(containers(&place.owner).is_empty() && are_gone(&volumes));
}

/// A proxy before the Engine that refuses to make containers, as one for backups alone does.
fn refusing_proxy() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = BufReader::new(client.unwrap());
            // One request on a connection.
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && client.read_line(&mut head).unwrap() > 0 {}
            if head.contains("/containers/create") {
                let refusal = "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 9\r\n\r\nForbidden";
                client.get_mut().write_all(refusal.as_bytes()).unwrap();
                continue;
            }
            let mut engine = UnixStream::connect("/var/run/docker.sock").unwrap();
            engine.write_all(head.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).unwrap();
            std::io::copy(&mut engine, client.get_mut()).unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_proxy_that_refuses_to_make_containers() {
    let (mut plan, place) = (plan(), Place::new());
    let source = plan.servers.get_mut("docker").unwrap();
    let via = crate::config::file::Via::Exec;
    source.place = plan::Place::Container { container: var("PGVIGIL_TEST_CONTAINER"), docker: Some(refusing_proxy()), via };
    let error = Throwaway::in_container(source, &place.wanted()).await.err().unwrap();
    assert_eq!(error.kind, Kind::Docker);
    let hint = error.hint.unwrap();
    assert!(hint.contains("drill on = \"local\"") && hint.contains("as good as root"), "{hint}");
}
