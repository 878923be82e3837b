//! The catalog: every backup with its rung in every store.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::id::{Id, Wanted};
use super::manifest::{MANIFEST, Manifest};
use super::proof::{Pin, Proof, Rung, document_order};
use super::signed;
use crate::error::{Error, Kind, Result};
use crate::keys::{Signed, Trust};

/// One backup.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub id: Id,
    /// Of the copy that is trusted most.
    pub manifest: Manifest,
    /// The stores that hold it, by name, with their proofs, oldest first. What is not trusted has none.
    pub copies: BTreeMap<String, Vec<Proof>>,
    /// How its manifest is signed, by store.
    pub signed: BTreeMap<String, Standing>,
    pub pinned: bool,
}

/// What a signature is worth here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub signed: Signed,
    /// Nobody asks for signatures, or somebody known has signed.
    pub counts: bool,
}

impl Entry {
    /// The rung of the copy in a store, by its newest proof there. What does not count has earned none.
    pub fn rung_in(&self, store: &str) -> Option<Rung> {
        let proofs = self.copies.get(store)?;
        Some(match self.signed.get(store) {
            Some(Standing { signed: Signed::Invalid(_), .. }) => Rung::Bad,
            Some(Standing { counts: false, .. }) => Rung::Written,
            _ => proofs.last().map_or(Rung::Written, |proof| proof.rung),
        })
    }

    /// The highest rung over the stores.
    pub fn rung(&self) -> Rung {
        self.copies.keys().filter_map(|store| self.rung_in(store)).max().unwrap_or(Rung::Bad)
    }

    /// Whether the copy in a store counts: for `latest`, for retention, for rungs.
    pub fn counts_in(&self, store: &str) -> bool {
        self.signed.get(store).is_none_or(|standing| standing.counts)
    }

    /// Whether a copy of it counts.
    pub fn counts(&self) -> bool {
        self.signed.is_empty() || self.signed.values().any(|standing| standing.counts)
    }

    /// How it is signed, in the store where that is worth most.
    pub fn signed(&self) -> &Signed {
        let best = self.signed.values().max_by_key(|standing| (standing.counts, !matches!(standing.signed, Signed::Invalid(_))));
        best.map_or(&Signed::Unsigned, |standing| &standing.signed)
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
    trust: Trust,
    /// Where an entry stands, while documents are taken in: there may be a hundred thousand.
    places: HashMap<Id, usize>,
}

impl Catalog {
    /// One in which only what these have signed counts.
    pub fn trusting(trust: Trust) -> Self {
        Catalog { trust, ..Catalog::default() }
    }

    /// Whether signatures are asked for.
    pub fn asks_for_signatures(&self) -> bool {
        self.trust.is_on()
    }

    /// Takes in one backup's documents from one store.
    pub fn add(&mut self, store: &str, id: &Id, documents: &Documents) {
        let Some((_, bytes)) = documents.iter().find(|(name, _)| name == MANIFEST) else {
            return;
        };
        let (manifest, signed) = match Manifest::read(bytes, id, &self.trust) {
            Ok(read) => read,
            Err(error) => {
                self.unreadable.push((id.clone(), error));
                return;
            }
        };
        let counts = self.trust.counts(&signed);
        // Who may write a manifest may write its proofs as well.
        let proofs = if counts { in_order::<Proof>("proof", id, documents, &self.trust) } else { Vec::new() };
        let pinned = counts && in_order::<Pin>("pin", id, documents, &self.trust).last().is_some_and(|pin| pin.pinned);
        let standing = Standing { signed, counts };
        if self.places.len() != self.entries.len() {
            self.places = self.entries.iter().enumerate().map(|(place, entry)| (entry.id.clone(), place)).collect();
        }
        if let Some(entry) = self.places.get(id).and_then(|place| self.entries.get_mut(*place)) {
            if counts && !entry.counts() {
                entry.manifest = manifest;
            }
            entry.copies.insert(store.to_owned(), proofs);
            entry.signed.insert(store.to_owned(), standing);
            entry.pinned |= pinned;
        } else {
            self.places.insert(id.clone(), self.entries.len());
            self.entries.push(Entry {
                id: id.clone(),
                manifest,
                copies: BTreeMap::from([(store.to_owned(), proofs)]),
                signed: BTreeMap::from([(store.to_owned(), standing)]),
                pinned,
            });
        }
    }

    /// Whether a backup does not count and is older than everything that does: it was there before
    /// anybody signed.
    pub fn is_from_before_signing(&self, entry: &Entry) -> bool {
        let of_it = self.entries.iter().filter(|other| other.id.backup == entry.id.backup && other.counts());
        let first = of_it.map(|other| other.id.label).min();
        *entry.signed() == Signed::Unsigned && !entry.counts() && first.is_none_or(|first| entry.id.label < first)
    }

    /// How a backup is signed, in words. `None`: it is not, and nobody asks for it.
    pub fn told(&self, entry: &Entry) -> Option<String> {
        match entry.signed() {
            Signed::Unsigned if entry.counts() => None,
            signed if self.is_from_before_signing(entry) => Some(format!("{signed}, made before signing began")),
            signed => Some(signed.to_string()),
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

/// The documents of a kind that count, oldest first. One that cannot be read proves nothing and is left out.
pub fn in_order<T: serde::de::DeserializeOwned>(prefix: &str, id: &Id, documents: &Documents, trust: &Trust) -> Vec<T> {
    sorted(prefix, documents).into_iter().filter_map(|(name, bytes)| signed::counting(bytes, id, name, trust)).collect()
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
