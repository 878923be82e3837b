//! folder -> Manifest -> catalog: what backups there are and what is proven of them. The store is
//! the truth; nothing here is kept anywhere else.

pub mod entry;
pub mod evidence;
pub mod foreign;
pub mod id;
pub mod manifest;
pub mod physical;
pub mod proof;
pub mod signed;

pub use entry::{Catalog, Entry, Standing};
pub use evidence::{DatabaseEvidence, Evidence};
pub use id::{Id, Label, Wanted};
pub use manifest::{FileEntry, Manifest, Role};
pub use physical::{PHYSICAL, Physical, Tablespace};
pub use proof::{Compared, DrillFacts, Mismatch, Pin, Proof, Rung};
