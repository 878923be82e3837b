//! A drill on a named server.

use super::*;
use crate::config::values::Given;

#[tokio::test]
async fn on_a_named_server() {
    let (plan, place) = (plan(), Place::new());
    let named = &plan.servers["named"];
    let drill = Throwaway::on_server(named, &place.wanted()).await.unwrap();
    let server = drill.server.clone();
    let make =
        async |name: &str| server.query::<bool>("postgres", &format!("create database \"{name}\"; select to_json(true)")).await.unwrap();
    let exists = async |name: &str| ask(&server, &format!("select count(*) from pg_database where datname = '{name}'")).await == "1";
    let (first, second) = (drill.database_name("x", 0), drill.database_name("y", 11));
    let similar = [format!("{first}x"), format!("pgvigil_drill_{}_x", place.owner), format!("x{second}")];
    for name in similar.iter().chain([&first, &second]) {
        make(name).await;
    }
    // A session that is still in there.
    let in_there = server.clone();
    let (busy, name) = (Tag::random(), second.clone());
    let session = Server::connect(named, busy.clone()).await.unwrap();
    let asleep = tokio::spawn(async move { session.query::<bool>(&name, "select to_json(pg_sleep(1000) is null)").await });
    while ask(&in_there, &format!("select count(*) from pg_stat_activity where application_name = '{}'", busy.as_str())).await != "1" {}

    std::mem::forget(drill);
    assert_eq!(sweep(&plan, &place.owner, &place.folder).await, Ok(2));
    assert!(asleep.await.unwrap().is_err());
    assert!(!exists(&first).await && !exists(&second).await && place.is_empty());

    let drill = Throwaway::on_server(named, &place.wanted()).await.unwrap();
    make(&first).await;
    assert!(!place.is_empty());
    drill.remove().await.unwrap();
    assert!(!exists(&first).await && place.is_empty());
    for name in &similar {
        assert!(exists(name).await, "{name}");
        assert!(server.query::<bool>("postgres", &format!("drop database \"{name}\"; select to_json(true)")).await.unwrap());
    }
}

#[tokio::test]
async fn a_named_server_that_will_not_do() {
    let (mut plan, place) = (plan(), Place::new());
    let error = Throwaway::on_server(&plan.servers["named"], &Wanted { major: 16, ..place.wanted() }).await.err().unwrap();
    assert_eq!(error.kind, Kind::Unverifiable);

    let all = Server::connect(&plan.servers["named"], Tag::random()).await.unwrap();
    let role = format!("drill_{}", place.owner);
    let made = format!("create role {role} login password 'x'; select to_json(true)");
    assert!(all.query::<bool>("postgres", &made).await.unwrap());
    let named = plan.servers.get_mut("named").unwrap();
    named.user = Some(Given::Literal(role.clone()));
    named.password = Some(Given::Literal("x".to_owned()));
    let refused = Throwaway::on_server(named, &place.wanted()).await.err();
    assert!(all.query::<bool>("postgres", &format!("drop role {role}; select to_json(true)")).await.unwrap());
    let error = refused.unwrap();
    assert_eq!((error.kind, error.hint), (Kind::Unverifiable, Some(format!("ALTER ROLE \"{role}\" CREATEDB"))));
    assert!(!place.folder.exists());
}
