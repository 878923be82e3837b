//! Backups changed by hand, so that the manifest still fits its files: as a dump that was wrong when
//! it was written, which only a drill can tell.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{World, run};

/// The packed bytes of a file, or the other way.
fn gzip(args: &[&str], file: &Path) -> Vec<u8> {
    let output = run(Command::new("gzip").args(args).arg(file));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The one dump of a backup.
pub fn dump_of(world: &World, id: &str) -> PathBuf {
    let manifest = world.manifest(id);
    let dump = manifest["files"].as_array().unwrap().iter().find(|file| file["role"] == "dump").unwrap();
    world.folder(id).join(dump["name"].as_str().unwrap())
}

/// Changes the manifest, and takes the proofs away: they are of another.
pub fn change_manifest(world: &World, id: &str, change: impl FnOnce(&mut Value)) {
    let mut manifest = world.manifest(id);
    change(&mut manifest);
    std::fs::write(world.folder(id).join("manifest.json"), manifest.to_string()).unwrap();
    for entry in std::fs::read_dir(world.folder(id)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().unwrap().starts_with("proof-") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// Puts other bytes in the place of the dump.
pub fn put(world: &World, id: &str, bytes: &[u8], raw_bytes: u64) {
    let path = dump_of(world, id);
    std::fs::write(&path, bytes).unwrap();
    let output = run(Command::new("sha256sum").arg(&path));
    let hash = String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned();
    change_manifest(world, id, |manifest| {
        let file = manifest["files"].as_array_mut().unwrap().iter_mut().find(|file| file["role"] == "dump").unwrap();
        file["bytes"] = bytes.len().into();
        file["raw_bytes"] = raw_bytes.into();
        file["sha256"] = hash.into();
    });
}

/// Changes the text of a plain dump that is packed with gzip.
pub fn change_dump(world: &World, id: &str, change: impl FnOnce(String) -> String) {
    let sql = String::from_utf8(gzip(&["-dc"], &dump_of(world, id))).unwrap();
    let changed = change(sql.clone());
    assert!(changed != sql, "nothing was changed in {sql}");
    let plain = world.path("forged.sql");
    std::fs::write(&plain, &changed).unwrap();
    put(world, id, &gzip(&["-nc"], &plain), changed.len() as u64);
}

/// The text with one place changed, which must be there once.
#[track_caller]
pub fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from:?} in {text}");
    text.replacen(from, to, 1)
}

/// The text without the statement that begins so, up to the first line that ends with a semicolon.
#[track_caller]
pub fn without(text: &str, beginning: &str) -> String {
    assert_eq!(text.matches(beginning).count(), 1, "{beginning:?} in {text}");
    let from = text.find(beginning).unwrap();
    let to = from + text[from..].find(";\n").unwrap() + 2;
    format!("{}{}", &text[..from], &text[to..])
}
