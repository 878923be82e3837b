//! check, run, list, verify: the way of a newcomer, on every way to a server.

use crate::common::{Database, Server, World};

#[test]
fn the_main_job_on_every_way_to_a_server() {
    for server in [Server::Pg15, Server::Pg18, Server::Exec, Server::Network] {
        let database = Database::sample(server);
        let world = World::with(server, &format!("[backups.shop]\ndatabase = \"{}\"\nschedule = \"0 2 * * *\"\n", database.name));
        // Only warnings: nobody hears of a failure, and the schedule comes later.
        world.pgvigil(&["check"]).expect(3);
        let id = world.backup("shop");
        let list = world.pgvigil(&["--json", "list"]).expect(0).json();
        assert_eq!(list[0]["id"], id.as_str(), "{server:?}");
        assert_eq!(list[0]["rung"], "readable", "{server:?}");
        let proof = world.pgvigil(&["--json", "verify", "shop/latest"]).expect(0).json();
        assert_eq!((&proof["id"], &proof["rung"]), (&id.as_str().into(), &"readable".into()), "{server:?}");
    }
}
