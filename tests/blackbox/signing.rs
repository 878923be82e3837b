//! Backups that say who has made them, and what becomes of those that nobody known has made.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::daemon::{Daemon, alerts, now, once_in, until};
use crate::common::{Database, Server, World};
use crate::support::{check_lines, stock};

/// A key pair of ssh-keygen in the world: the file of the private one, and the line of the public one.
fn key(world: &World, name: &str) -> (PathBuf, String) {
    stock("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name], &world.path(""));
    (world.path(name), std::fs::read_to_string(world.path(&format!("{name}.pub"))).unwrap().trim().to_owned())
}

/// Writes the file with these lines at the top and one backup `x`.
fn configure(world: &World, top: &str, database: &str, keys: &str) {
    world.configure(&format!(
        "{}[backups.x]\ndatabase = \"{database}\"\nglobals = false\ndrill = {{ on = \"local\" }}\n{keys}",
        Server::Pg15.section()
    ));
    let text = std::fs::read_to_string(world.config()).unwrap();
    std::fs::write(world.config(), format!("{top}\n{text}")).unwrap();
}

fn signing(key: &std::path::Path) -> String {
    format!("signing_key = {{ file = \"{}\" }}", key.display())
}

/// A world whose one backup is signed.
fn signed_world(database: &Database, keys: &str) -> World {
    let world = World::new();
    let (private, _) = key(&world, "pgvigil");
    configure(&world, &signing(&private), &database.name, keys);
    world
}

fn entries(world: &World) -> Vec<Value> {
    world.pgvigil(&["--json", "list", "x"]).json().as_array().unwrap().clone()
}

fn entry(world: &World, id: &str) -> Value {
    entries(world).into_iter().find(|entry| entry["id"] == id).unwrap_or_else(|| panic!("{id}"))
}

fn latest(world: &World) -> Option<String> {
    let target = std::fs::read_link(world.store().join("x/latest")).ok()?;
    Some(format!("x/{}", target.display()))
}

/// Follows docs/signing.md: whether stock ssh-keygen takes the signature of a document.
fn checked_by_hand(world: &World, path: &std::path::Path, namespace: &str, public: &str) -> bool {
    std::fs::write(world.path("signers"), format!("pgvigil {public}\n")).unwrap();
    let script = format!(
        r#"set -e
sed 's/^  "signature": ".*"/  "signature": null/' "$1" > signed.json
sed -n 's/^  "signature": "\(.*\)".*/\1/p' "$1" | sed 's/\\n/\n/g' > signature
ssh-keygen -Y verify -f signers -I pgvigil -n {namespace} -s signature < signed.json"#
    );
    let mut bash = Command::new("bash");
    let ran = bash.args(["-c", &script, "bash"]).arg(path).current_dir(world.path("")).stdin(Stdio::null()).output().unwrap();
    ran.status.success()
}

/// A copy of a backup under another label, as a forger writes it: with other words in the manifest, a
/// signature that is gone, and proofs of everything.
fn forge(world: &World, from: &str, label: &str, taken_at: &str) -> String {
    let (source, id) = (world.folder(from), format!("x/{label}"));
    let target = world.folder(&id);
    std::fs::create_dir_all(&target).unwrap();
    let mut manifest = world.manifest(from);
    manifest["id"] = id.clone().into();
    manifest["label"] = label.into();
    manifest["slot"] = taken_at.into();
    manifest["taken_at"] = taken_at.into();
    manifest["signature"] = Value::Null;
    for file in manifest["files"].as_array().unwrap() {
        let name = file["name"].as_str().unwrap();
        if !name.contains('/') {
            std::fs::hard_link(source.join(name), target.join(name)).unwrap();
        }
    }
    std::fs::write(target.join("manifest.json"), serde_json::to_vec_pretty(&manifest).unwrap()).unwrap();
    let proof = json!({"at": taken_at, "rung": "matched", "by": "drill", "bytes": 1, "seconds": 1.0, "of": format!("{id}/proof-{label}.json"), "generator": "forger"});
    std::fs::write(target.join(format!("proof-{label}.json")), serde_json::to_vec_pretty(&proof).unwrap()).unwrap();
    id
}

fn round_trip(keys: &str) {
    let database = Database::sample(Server::Pg15);
    let world = World::new();
    let (private, public) = key(&world, "pgvigil");
    let (secret, recipient) = {
        stock("age-keygen", &["-o", "key.txt"], &world.path(""));
        let public = stock("age-keygen", &["-y", "key.txt"], &world.path(""));
        (world.path("key.txt"), String::from_utf8(public).unwrap().trim().to_owned())
    };
    let keys = keys.replace("KEY", &recipient);
    configure(&world, &signing(&private), &database.name, &keys);
    let id = world.backup("x");
    let manifest = world.folder(&id).join("manifest.json");
    assert!(checked_by_hand(&world, &manifest, "pgvigil-manifest", &public));
    assert!(!checked_by_hand(&world, &manifest, "pgvigil-document", &public));
    let proof = world.names(&id).into_iter().find(|name| name.starts_with("proof-")).unwrap();
    assert!(checked_by_hand(&world, &world.folder(&id).join(&proof), "pgvigil-document", &public));

    assert_eq!((entry(&world, &id)["rung"].as_str(), entry(&world, &id)["signed"].as_str()), (Some("readable"), Some("signed by pgvigil")));
    assert!(world.pgvigil(&["list"]).expect(0).stdout.contains("signed by pgvigil"));
    assert!(world.pgvigil(&["show", "x/latest"]).expect(0).stdout.contains("signed by pgvigil"));
    let identity = ["--identity", secret.to_str().unwrap()];
    let verified = world.pgvigil(&[&["verify", &id][..], &identity].concat()).expect(0);
    assert!(verified.stdout.contains(", signed by pgvigil"), "{verified:#?}");
    world.pgvigil(&[&["verify", &id, "--drill"][..], &identity].concat()).expect(0);
    assert_eq!(entry(&world, &id)["rung"], "matched");
    let target = Database { server: Server::Pg15, name: format!("{}_back", database.name) };
    world.pgvigil(&[&["restore", "x/latest", "--to-database", &target.name][..], &identity].concat()).expect(0);
    assert_eq!(target.sql("select count(*) from orders"), database.sql("select count(*) from orders"));
    // As it lies there, so that a signature can be checked.
    assert_eq!(world.pgvigil(&["cat", &id, "manifest.json"]).expect(0).stdout, std::fs::read_to_string(&manifest).unwrap());

    // Whatever is changed in it, it is bad, and nobody restores it.
    let text = std::fs::read_to_string(&manifest).unwrap();
    for (from, to) in
        [("\"narrow\": false", "\"narrow\": true"), ("\"generator\": \"pgvigil", "\"generator\": \"pgvigi1"), ("\n}\n", "\n }\n")]
    {
        assert!(text.contains(from), "{from}");
        std::fs::write(&manifest, text.replace(from, to)).unwrap();
        assert!(!checked_by_hand(&world, &manifest, "pgvigil-manifest", &public));
        assert_eq!(entry(&world, &id)["rung"], "bad", "{from}");
        let ran = world.pgvigil(&["--json", "verify", &id]).expect(1);
        assert_eq!(ran.json()["rung"], "bad");
        assert!(ran.json()["error"]["message"].as_str().unwrap().contains("signature does not verify"), "{ran:#?}");
        for more in [&[][..], &["--accept-unsigned"]] {
            let ran = world.pgvigil(&[&["restore", &id, "--to-database", "never"][..], more].concat()).expect(1);
            assert!(ran.stderr.contains("signature does not verify"), "{ran:#?}");
        }
        assert_eq!(latest(&world), None);
    }
    std::fs::write(&manifest, &text).unwrap();
    // What a look at the changed one has proven is its newest proof, until somebody looks again.
    assert_eq!(entry(&world, &id)["rung"], "bad");
    world.pgvigil(&["verify", &id]).expect(0);
    assert_eq!(latest(&world), Some(id));
}

#[test]
fn a_plain_backup_is_signed_and_stock_ssh_keygen_checks_it() {
    round_trip("");
}

#[test]
fn an_encrypted_custom_archive_is_signed() {
    round_trip("format = \"custom\"\nencrypt_to = [\"KEY\"]\n");
}

#[test]
fn an_encrypted_directory_archive_is_signed() {
    round_trip("format = \"directory\"\nencrypt_to = [\"KEY\"]\n");
}

#[test]
fn an_encrypted_dump_packed_by_zstd_is_signed() {
    round_trip("compression = \"zstd\"\nencrypt_to = [\"KEY\"]\n");
}

#[test]
fn what_nobody_known_has_signed_counts_for_nothing() {
    let database = Database::sample(Server::Pg15);
    let world = signed_world(&database, "");
    let real = world.backup("x");
    let recently = now() + chrono::TimeDelta::hours(-1);
    let fake = forge(&world, &real, "20991231T010000Z", &recently.format("%Y-%m-%dT%H:%M:%SZ").to_string());
    let listed = entry(&world, &fake);
    assert_eq!((&listed["rung"], &listed["signed"], &listed["tiers"]), (&"written".into(), &"unsigned".into(), &json!([])));
    assert!(world.pgvigil(&["show", &fake]).expect(0).stdout.contains("unsigned"));
    let ran = world.pgvigil(&["--json", "verify", &fake]).expect(3);
    assert_eq!((&ran.json()["rung"], &ran.json()["outcome"]), (&"written".into(), &"problems".into()), "{ran:#?}");
    // Not even after that.
    assert_eq!((entry(&world, &fake)["rung"].as_str(), latest(&world)), (Some("written"), Some(real.clone())));
    let ran = world.pgvigil(&["--json", "verify", &fake, "--drill"]).expect(3);
    assert!(ran.stdout.contains("counts for nothing"), "{ran:#?}");
    assert!(world.pgvigil(&["show", "x/latest"]).expect(0).stdout.contains(&real));
    let status = world.pgvigil(&["--json", "status"]).expect(3).json();
    assert_eq!(status["backups"][0]["last_success_id"], real.as_str());
    assert!(alerts(&status).contains(&"backup/x/unsigned"), "{status:#}");

    let ran = world.pgvigil(&["restore", &fake, "--to-database", "never"]).expect(1);
    assert!(ran.stderr.contains("is unsigned") && ran.stderr.contains("--accept-unsigned"), "{ran:#?}");
    let target = Database { server: Server::Pg15, name: format!("{}_back", database.name) };
    let ran = world.pgvigil(&["restore", &fake, "--to-database", &target.name, "--accept-unsigned"]).expect(0);
    assert!(ran.stderr.contains("is unsigned"), "{ran:#?}");

    // By a key of somebody: known as such, and no more worth until it is trusted.
    let (other, other_public) = key(&world, "other");
    configure(&world, &signing(&other), &database.name, "");
    let foreign = world.backup("x");
    let private = world.path("pgvigil");
    configure(&world, &signing(&private), &database.name, "");
    let listed = entry(&world, &foreign);
    assert_eq!(listed["rung"], "written");
    assert!(listed["signed"].as_str().unwrap().starts_with("signed by an unknown key SHA256:"), "{listed}");
    configure(&world, &format!("{}\ntrusted_signers = [\"{other_public}\"]", signing(&private)), &database.name, "");
    let listed = entry(&world, &foreign);
    assert_eq!((&listed["rung"], &listed["signed"]), (&"readable".into(), &"signed by other".into()));

    // A true one is nothing under another name.
    let moved = world.folder("x/20200101T010000Z");
    assert!(Command::new("cp").arg("-r").arg(world.folder(&real)).arg(&moved).status().unwrap().success());
    let ran = world.pgvigil(&["show", "x/20200101T010000Z"]).expect(1);
    assert!(ran.stderr.contains("it is the manifest of"), "{ran:#?}");
    // And one that says two things says nothing.
    let twice = std::fs::read_to_string(world.folder(&real).join("manifest.json")).unwrap();
    let line = twice.lines().find(|line| line.starts_with("  \"signature\": ")).unwrap();
    std::fs::write(world.folder(&real).join("manifest.json"), twice.replacen("{\n", &format!("{{\n{line}\n"), 1)).unwrap();
    let ran = world.pgvigil(&["verify", &real]).expect(1);
    assert!(ran.stderr.contains("two signatures"), "{ran:#?}");
}

#[test]
fn backups_from_before_are_named_so_and_stay() {
    let database = Database::sample(Server::Pg15);
    let world = World::new();
    let (private, public) = key(&world, "pgvigil");
    configure(&world, "", &database.name, "keep = { last = 1 }\n");
    let old = world.backup("x");
    assert_eq!((entry(&world, &old)["rung"].as_str(), &entry(&world, &old)["signed"]), (Some("readable"), &Value::Null));
    configure(&world, &signing(&private), &database.name, "keep = { last = 1 }\n");
    assert_eq!(entry(&world, &old)["signed"], "unsigned, made before signing began");
    let new = world.backup("x");
    let newest = world.backup("x");
    let listed = entry(&world, &old);
    assert_eq!((&listed["rung"], &listed["signed"]), (&"written".into(), &"unsigned, made before signing began".into()));
    // Retention has deleted what it may, and that only.
    let ids: Vec<Value> = entries(&world).iter().map(|entry| entry["id"].clone()).collect();
    assert_eq!(ids, [newest.clone(), old.clone()], "{new}");
    let answer = world.pgvigil(&["--json", "prune", "x", "--dry-run"]).expect(0).json();
    let kept = answer["kept"].as_array().unwrap().iter().find(|kept| kept["id"] == old.as_str()).unwrap();
    assert_eq!(kept["reasons"], json!(["unsigned"]));
    assert!(!alerts(&world.pgvigil(&["--json", "status"]).json()).contains(&"backup/x/unsigned"));
    // A machine that only knows the signer sees the same, and cannot make any.
    configure(&world, &format!("trusted_signers = [\"{public}\"]"), &database.name, "");
    assert_eq!((entry(&world, &newest)["rung"].as_str(), entry(&world, &old)["rung"].as_str()), (Some("readable"), Some("written")));
}

#[test]
fn fakes_evict_nothing() {
    let database = Database::sample(Server::Pg15);
    let keys = "keep = { last = 2, daily = 2 }\n";
    let world = signed_world(&database, keys);
    let real = [world.backup("x"), world.backup("x")];
    let before = world.pgvigil(&["--json", "prune", "x", "--dry-run"]).expect(0).json();
    let start = chrono::DateTime::parse_from_rfc3339("2026-01-01T01:00:00Z").unwrap();
    for n in 0..400i64 {
        // Older and newer ones, one a day.
        let at = start + chrono::TimeDelta::days(n);
        forge(&world, &real[0], &at.format("%Y%m%dT%H%M%SZ").to_string(), &at.format("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    let after = world.pgvigil(&["--json", "prune", "x"]).expect(0).json();
    assert_eq!(after["deleted"], json!([]));
    let reasons = |answer: &Value, id: &str| {
        let kept = answer["kept"].as_array().unwrap().iter().find(|kept| kept["id"] == id).cloned();
        kept.unwrap_or_else(|| panic!("{id}"))["reasons"].clone()
    };
    for id in &real {
        assert_eq!(reasons(&before, id), reasons(&after, id));
    }
    assert_eq!(after["kept"].as_array().unwrap().len(), 402);
    // A new one takes the place of the oldest real one, as if the fakes were not there.
    let newest = world.backup("x");
    let good: Vec<Value> = entries(&world).iter().filter(|entry| entry["rung"] == "readable").map(|entry| entry["id"].clone()).collect();
    assert!(good.contains(&newest.clone().into()) && good.contains(&real[1].clone().into()), "{good:?}");
    assert_eq!(latest(&world), Some(newest));
}

#[test]
fn a_label_that_somebody_took_keeps_no_slot() {
    let database = Database::sample(Server::Pg15);
    let world = signed_world(&database, "");
    let real = world.backup("x");
    let (slot, schedule) = once_in(10);
    let label = slot.format("%Y%m%dT%H%M%SZ").to_string();
    let fake = forge(&world, &real, &label, &slot.format("%Y-%m-%dT%H:%M:%SZ").to_string());
    let top = signing(&world.path("pgvigil"));
    configure(&world, &top, &database.name, &format!("{schedule}\n"));
    let daemon = Daemon::start(&world);
    let made = until("the slot has a backup", || {
        entries(&world).into_iter().find(|entry| entry["rung"] == "readable" && entry["id"] != real.as_str())
    });
    assert_ne!(made["id"], fake.as_str());
    assert!(daemon.log().contains("somebody else put it there"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn pins_and_proofs_count_where_they_were_signed_for() {
    let database = Database::sample(Server::Pg15);
    let world = signed_world(&database, "keep = { last = 1 }\n");
    let (first, second) = (world.backup("x"), {
        let id = world.backup("x");
        world.pgvigil(&["pin", &id]).expect(0);
        id
    });
    assert!(!world.folder(&first).exists());
    let pinned = |id: &str| entry(&world, id)["pinned"].as_bool().unwrap();
    assert!(pinned(&second));
    // A forged unpin, and one that was signed for another name.
    let folder = world.folder(&second);
    std::fs::write(folder.join("pin-20990101T000000Z.json"), "{\n  \"pinned\": false\n}").unwrap();
    assert!(pinned(&second));
    std::fs::remove_file(folder.join("pin-20990101T000000Z.json")).unwrap();
    let before = world.names(&second);
    world.pgvigil(&["unpin", &second]).expect(0);
    let unpin = world.names(&second).into_iter().find(|name| !before.contains(name)).unwrap();
    assert!(!pinned(&second), "{unpin}");
    let text = std::fs::read(folder.join(&unpin)).unwrap();
    std::fs::remove_file(folder.join(&unpin)).unwrap();
    std::fs::write(folder.join("pin-20990102T000000Z.json"), text).unwrap();
    assert!(pinned(&second));
    // A proof of one backup is none of another.
    let third = world.backup("x");
    world.pgvigil(&["verify", &third, "--drill"]).expect(0);
    let proof = world.names(&third).into_iter().rfind(|name| name.starts_with("proof-")).unwrap();
    std::fs::copy(world.folder(&third).join(&proof), folder.join("proof-20990101T000000Z.json")).unwrap();
    assert_eq!((entry(&world, &third)["rung"].as_str(), entry(&world, &second)["rung"].as_str()), (Some("matched"), Some("readable")));
    // Who cannot sign cannot pin, and is told so.
    let public = std::fs::read_to_string(world.path("pgvigil.pub")).unwrap();
    configure(&world, &format!("trusted_signers = [\"{}\"]", public.trim()), &database.name, "");
    let ran = world.pgvigil(&["pin", &third]).expect(1);
    assert!(ran.stderr.contains("counts for nothing"), "{ran:#?}");
}

#[test]
fn keys_that_are_none_are_told_with_how_to_make_one() {
    let world = World::new();
    let (private, public) = key(&world, "pgvigil");
    stock("ssh-keygen", &["-q", "-t", "rsa", "-N", "", "-f", "rsa"], &world.path(""));
    stock("ssh-keygen", &["-q", "-t", "ed25519", "-N", "secret", "-f", "locked"], &world.path(""));
    for (path, level, words) in [
        (private.clone(), "ok", "signs as pgvigil, SHA256:"),
        (world.path("pgvigil.pub"), "error", "no private key of OpenSSH"),
        (world.path("rsa"), "error", "ssh-ed25519 is needed"),
        (world.path("locked"), "error", "passphrase"),
        (world.path("nosuch"), "error", "cannot read"),
    ] {
        configure(&world, &signing(&path), "x", "");
        let lines = check_lines(&world.pgvigil(&["--json", "check", "--offline"]));
        let told = |line: &&String| line.contains(&format!(" | {level} | ")) && line.contains(words);
        assert!(lines.iter().any(|line| told(&line)), "{words}: {lines:#?}");
        if level == "error" {
            let ran = world.pgvigil(&["run", "x"]).expect(1);
            assert!(ran.stderr.contains(words), "{ran:#?}");
        }
    }
    for (signers, words) in [("[\"...\"]", "bad signer"), ("[]", "names nobody"), ("[\"ssh-rsa AAAA\"]", "bad signer")] {
        configure(&world, &format!("trusted_signers = {signers}"), "x", "");
        let ran = world.pgvigil(&["check", "--offline"]).expect(78);
        assert!(ran.stdout.contains(words) && ran.stdout.contains("pgvigil.toml:1"), "{ran:#?}");
    }
    configure(&world, &format!("trusted_signers = [\"{public}\"]"), "x", "schedule = \"@daily\"\n");
    let lines = check_lines(&world.pgvigil(&["--json", "check", "--offline"]));
    assert!(lines.iter().any(|line| line.contains("signed by nobody")), "{lines:#?}");
}
