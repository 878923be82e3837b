//! file -> Plan: every fault at once.

pub mod changes;
pub mod channels;
pub mod choose;
pub mod drill;
pub mod email;
pub mod faults;
pub mod file;
pub mod hours;
pub mod labels;
pub mod listen;
pub mod overlay;
pub mod physical;
pub mod plan;
pub mod rules;
mod s3;
pub mod survey;
pub mod telling;
pub mod values;

use std::path::{Path, PathBuf};

pub use faults::{Fault, Faults};
pub use overlay::Overlay;
pub use plan::Plan;

use faults::Examined;
use overlay::Sources;

/// Where the file is if nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/pgvigil/pgvigil.toml";

/// Where the state is by a file's text and what is laid over it, faulty as they may be.
pub fn state_dir(text: &str, overlays: &[Overlay]) -> PathBuf {
    let sources = Sources::new(text, overlays);
    let file: file::File = Examined::new(&sources).typed();
    file.state_dir.unwrap_or_else(|| PathBuf::from(plan::STATE_DIR))
}

/// Makes the plan of a file's text; `path` is only for the faults.
///
/// # Errors
/// Every fault of the file, in the order of its lines.
pub fn parse(text: &str, path: &Path) -> Result<Plan, Faults> {
    parse_all(text, path, &[])
}

/// Makes the plan of a file's text and of what is laid over it.
///
/// # Errors
/// Every fault of them, in the order of the lines.
pub fn parse_all(text: &str, path: &Path, overlays: &[Overlay]) -> Result<Plan, Faults> {
    let sources = Sources::new(text, overlays);
    let mut examined = Examined::new(&sources);
    let file: file::File = examined.typed();
    let plan = plan::plan(&file, &mut examined);
    examined.finish(path)?;
    Ok(plan)
}
