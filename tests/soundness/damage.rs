//! Flips and cuts at random places of every file of a backup, each noticed by a verification.

use std::path::{Path, PathBuf};

use pgvigil::catalog::{Catalog, Rung, Wanted};
use pgvigil::config::Plan;
use pgvigil::job::progress::Progress;
use pgvigil::job::verify::verify;
use pgvigil::store::{Store, catalog_of, local::LocalStore};

use crate::common::{Database, Server, World};
use crate::scale;

/// A row of numbers that a seed makes again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// The files of a backup that must be what they were, largest first; not its proofs.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.file_name().unwrap().to_str().unwrap().starts_with("proof-") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What a verification says of the backup now, in the way of the program.
async fn rung(plan: &Plan, store: &LocalStore, wanted: &Wanted) -> Result<Rung, String> {
    let mut catalog = Catalog::default();
    catalog_of(store, "local", Some(&wanted.backup), &mut catalog).await.unwrap();
    let entry = catalog.find(wanted).map_err(|error| error.message)?;
    let proven = verify(plan, store, &entry.id, &entry.manifest, None, None, &Progress::default()).await.map_err(|error| error.message)?;
    Ok(proven.proof.rung)
}

#[test]
fn every_flip_and_every_cut_is_noticed() {
    let seed = std::env::var("PGVIGIL_TEST_SEED").ok().map_or(20_260_101, |seed| seed.parse().unwrap());
    println!("seed {seed} (PGVIGIL_TEST_SEED)");
    let mut random = Random(seed);
    let database = Database::sample(Server::Pg15);
    let backup = |name: &str, keys: &str| format!("[backups.{name}]\ndatabase = \"{}\"\n{keys}\n", database.name);
    let forms = [
        ("gz", ""),
        ("zst", "compression = \"zstd\""),
        ("none", "compression = \"none\""),
        ("custom", "format = \"custom\""),
        ("dir", "format = \"directory\""),
    ];
    let sections: String = forms.iter().map(|(name, keys)| backup(name, keys)).collect();
    let world = World::with(Server::Pg15, &sections);
    let plan = pgvigil::config::parse(&std::fs::read_to_string(world.config()).unwrap(), &world.config()).unwrap();
    let store = LocalStore::new(world.store(), "test".to_owned());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rounds = scale(100, 1_000);
    let per_form = rounds / forms.len();
    for (name, _) in forms {
        let id = world.backup(name);
        let wanted = Wanted::parse(&id).unwrap();
        let folder = store.folder(&pgvigil::catalog::Id { backup: wanted.backup.clone(), label: wanted.label.unwrap() }).unwrap();
        let paths = files(&folder);
        let proofs = || {
            std::fs::read_dir(&folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("proof-"))
        };
        let first: Vec<PathBuf> = proofs().collect();
        for round in 0..per_form {
            let path = &paths[round % paths.len()];
            let whole = std::fs::read(path).unwrap();
            let mut bytes = whole.clone();
            let at = usize::try_from(random.below(whole.len() as u64)).unwrap();
            let what = if random.below(3) == 0 {
                bytes.truncate(at);
                format!("{} cut at {at} of {}", path.display(), whole.len())
            } else {
                let bit = random.below(8);
                bytes[at] ^= 1 << bit;
                format!("{} bit {bit} of byte {at} of {} flipped", path.display(), whole.len())
            };
            std::fs::write(path, &bytes).unwrap();
            let found = runtime.block_on(rung(&plan, &store, &wanted));
            assert!(!matches!(found, Ok(rung) if rung.is_good()), "not noticed: {what} (seed {seed}, round {round})");
            std::fs::write(path, &whole).unwrap();
            // Each damage is judged by itself, not by the proof of the last one.
            for proof in proofs().filter(|proof| !first.contains(proof)).collect::<Vec<_>>() {
                std::fs::remove_file(proof).unwrap();
            }
        }
        assert_eq!(runtime.block_on(rung(&plan, &store, &wanted)), Ok(Rung::Readable), "{id} mended");
    }
}
