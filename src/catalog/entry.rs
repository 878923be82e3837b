//! The catalog: every backup with its rung in every store.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::id::{Id, Wanted};
use super::manifest::{MANIFEST, Manifest};
use super::proof::{Pin, Proof, Rung, document_order};
use crate::error::{Error, Kind, Result};

/// One backup.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub id: Id,
    pub manifest: Manifest,
    /// The stores that hold it, by name, with their proofs, oldest first.
    pub copies: BTreeMap<String, Vec<Proof>>,
    pub pinned: bool,
}

impl Entry {
    /// The rung of the copy in a store, by its newest proof there.
    pub fn rung_in(&self, store: &str) -> Option<Rung> {
        let proofs = self.copies.get(store)?;
        Some(proofs.last().map_or(Rung::Written, |proof| proof.rung))
    }

    /// The highest rung over the stores.
    pub fn rung(&self) -> Rung {
        self.copies.keys().filter_map(|store| self.rung_in(store)).max().unwrap_or(Rung::Bad)
    }
}

/// The documents of one backup's folder in a store: name and content.
pub type Documents = Vec<(String, Bytes)>;

/// All backups, newest first, and the folders whose manifest cannot be read.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    pub entries: Vec<Entry>,
    pub unreadable: Vec<(Id, Error)>,
    /// Stores that gave no answer, by name: what they hold is not in here.
    pub silent: Vec<(String, Error)>,
    /// Where an entry stands, while documents are taken in: there may be a hundred thousand.
    places: HashMap<Id, usize>,
}

impl Catalog {
    /// Takes in one backup's documents from one store.
    pub fn add(&mut self, store: &str, id: &Id, documents: &Documents) {
        let Some((_, manifest)) = documents.iter().find(|(name, _)| name == MANIFEST) else {
            return;
        };
        let manifest = match Manifest::parse(manifest, id) {
            Ok(manifest) => manifest,
            Err(error) => {
                self.unreadable.push((id.clone(), error));
                return;
            }
        };
        let proofs = in_order::<Proof>("proof", documents);
        let pinned = in_order::<Pin>("pin", documents).last().is_some_and(|pin| pin.pinned);
        if self.places.len() != self.entries.len() {
            self.places = self.entries.iter().enumerate().map(|(place, entry)| (entry.id.clone(), place)).collect();
        }
        if let Some(entry) = self.places.get(id).and_then(|place| self.entries.get_mut(*place)) {
            entry.copies.insert(store.to_owned(), proofs);
            entry.pinned |= pinned;
        } else {
            self.places.insert(id.clone(), self.entries.len());
            self.entries.push(Entry { id: id.clone(), manifest, copies: BTreeMap::from([(store.to_owned(), proofs)]), pinned });
        }
    }

    /// Newest first, by the moment that a backup shows.
    pub fn sort(&mut self) {
        self.places.clear();
        self.entries.sort_by(|a, b| (b.manifest.taken_at, &b.id).cmp(&(a.manifest.taken_at, &a.id)));
    }

    /// The backup that is asked for: by its label, or the newest at `readable` or above.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, wanted: &Wanted) -> Result<&Entry> {
        let mut of_backup = self.entries.iter().filter(|entry| entry.id.backup == wanted.backup).peekable();
        if of_backup.peek().is_none() && !self.unreadable.iter().any(|(id, _)| id.backup == wanted.backup) {
            return Err(
                Error::new(Kind::NotFound, format!("there is no backup of {}", wanted.backup)).hint("pgvigil list shows what there is")
            );
        }
        let found = match wanted.label {
            Some(label) => of_backup.find(|entry| entry.id.label == label),
            None => of_backup.find(|entry| entry.rung().is_good()),
        };
        if let Some(found) = found {
            return Ok(found);
        }
        if let Some((_, error)) = self.unreadable.iter().find(|(id, _)| id.backup == wanted.backup && Some(id.label) == wanted.label) {
            return Err(error.clone());
        }
        let none = match wanted.label {
            Some(label) => format!("there is no backup {}/{label}", wanted.backup),
            None => format!("no backup of {} is readable", wanted.backup),
        };
        Err(Error::new(Kind::NotFound, none).hint(format!("pgvigil list {} shows what there is", wanted.backup)))
    }
}

/// The documents of a kind, oldest first. One that cannot be read proves nothing and is left out.
pub fn in_order<T: serde::de::DeserializeOwned>(prefix: &str, documents: &Documents) -> Vec<T> {
    sorted(prefix, documents).into_iter().filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok()).collect()
}

/// The newest document of a kind, with its name.
pub fn newest_document<'a>(prefix: &str, documents: &'a Documents) -> Option<(&'a str, &'a Bytes)> {
    sorted(prefix, documents).pop()
}

fn sorted<'a>(prefix: &str, documents: &'a Documents) -> Vec<(&'a str, &'a Bytes)> {
    let mut found: Vec<_> =
        documents.iter().filter_map(|(name, bytes)| Some((document_order(prefix, name)?, (name.as_str(), bytes)))).collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found.into_iter().map(|(_, document)| document).collect()
}
