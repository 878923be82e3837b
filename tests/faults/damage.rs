//! Bits flipped and files cut at random places of a backup: every one is noticed.

use std::path::{Path, PathBuf};

use crate::common::Server;
use crate::judge::{Case, files_below};
use crate::tools::{Chance, scale};

/// One change of a file.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Flip { byte: usize, bit: u8 },
    Cut { len: usize },
    Grow,
    Zeros { from: usize, len: usize },
    Remove,
}

fn harm(chance: &mut Chance, len: usize) -> Harm {
    match chance.below(8) {
        0 => Harm::Cut { len: chance.below(len) },
        // Near the end, where a cut loses least.
        1 => Harm::Cut { len: len - 1 - chance.below(len.min(40)) },
        2 => Harm::Zeros { from: chance.below(len), len: 1 + chance.below(4096) },
        3 if chance.below(3) == 0 => Harm::Grow,
        3 if chance.below(2) == 0 => Harm::Remove,
        _ => Harm::Flip { byte: chance.below(len), bit: chance.below(8) as u8 },
    }
}

/// `None`: the file is gone.
fn harmed(bytes: &[u8], harm: Harm) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    match harm {
        Harm::Flip { byte, bit } => bytes[byte] ^= 1 << bit,
        Harm::Cut { len } => bytes.truncate(len),
        Harm::Grow => bytes.push(b'\n'),
        Harm::Zeros { from, len } => bytes.iter_mut().skip(from).take(len).for_each(|byte| *byte = 0),
        Harm::Remove => return None,
    }
    Some(bytes)
}

fn proofs(dir: &Path) -> Vec<PathBuf> {
    files_below(dir).into_iter().filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("proof-")).collect()
}

fn noticed(backup: &str) {
    let mut chance = Chance::new();
    let case = Case::new(Server::Pg15, backup);
    let id = format!("shop/{}", case.labels()[0]);
    let dir = case.world.folder(&id);
    let before = proofs(&dir);
    let files: Vec<PathBuf> = files_below(&dir).into_iter().filter(|path| !before.contains(path)).collect();
    let mut missed = Vec::new();
    for nth in 0..scale(14, 200) {
        // Every file once, then by chance; of the small ones not less than of the dump.
        let path = files.get(nth).unwrap_or_else(|| chance.pick(&files));
        let bytes = std::fs::read(path).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let harm = harm(&mut chance, bytes.len());
        let Some(changed) = Some(harmed(&bytes, harm)).filter(|changed| changed.as_ref() != Some(&bytes)) else { continue };
        match changed {
            Some(changed) => std::fs::write(path, changed).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
        let verified = case.pgvigil(&["--json", "verify", &id]);
        let latest = case.pgvigil(&["--json", "list", "shop"]);
        let listed = latest.stdout.contains("\"readable\"");
        if verified.code != Some(1) || verified.json()["rung"] == "readable" || listed {
            missed.push(format!("{} {harm:?}: listed as readable: {listed}; {verified:?}", path.file_name().unwrap().display()));
        }
        std::fs::write(path, bytes).unwrap();
        for proof in proofs(&dir) {
            if !before.contains(&proof) {
                std::fs::remove_file(proof).unwrap();
            }
        }
        let _ = std::os::unix::fs::symlink(id.split_once('/').unwrap().1, case.folder().join("latest"));
    }
    // And as it was it is sound.
    case.pgvigil(&["verify", &id]).expect(0);
    assert!(missed.is_empty(), "{} missed:\n{}", missed.len(), missed.join("\n"));
}

#[test]
fn of_gzip() {
    noticed("");
}

#[test]
fn of_zstd() {
    noticed("compression = \"zstd\"");
}

#[test]
fn of_plain_text() {
    noticed("compression = \"none\"");
}

#[test]
fn of_an_archive() {
    noticed("format = \"custom\"");
}

#[test]
fn of_a_directory() {
    noticed("format = \"directory\"");
}

/// Before its first proof there is nothing that knows the manifest but the manifest.
#[test]
fn a_manifest_that_is_no_longer_one() {
    let case = Case::small(Server::Pg15, "");
    let id = format!("shop/{}", case.labels()[0]);
    let path = case.world.folder(&id).join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    // A bad one goes when there is a newer good one.
    case.pgvigil(&["pin", &id]).expect(0);
    for changed in [
        String::new(),
        "{}".to_owned(),
        text[..text.len() / 2].to_owned(),
        text.replace("RESTORE.md", "../RESTORE.md"),
        text.replace("RESTORE.md", "/etc/passwd"),
        text.replace(&id, "shop/20200101T000000Z"),
        text.replace("\"format_version\": 1", "\"format_version\": 2"),
        text.replace("\"files\": [", "\"files\": [], \"no_files\": ["),
    ] {
        assert_ne!(changed, text);
        std::fs::write(&path, &changed).unwrap();
        let verified = case.pgvigil(&["--json", "verify", &id]).expect(1);
        assert!(!verified.stdout.contains("\"readable\""), "{changed}: {verified:#?}");
        // The others are still to be had, and it does not stand in the way of the next.
        let list = case.pgvigil(&["list", "shop"]);
        assert!(list.code == Some(3) || list.stdout.contains("bad"), "{changed}: {list:#?}");
        case.run().expect(0);
    }
    std::fs::write(&path, &text).unwrap();
}
