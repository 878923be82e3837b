//! file -> Plan: every fault at once.

pub mod changes;
pub mod choose;
pub mod drill;
pub mod email;
pub mod faults;
pub mod file;
pub mod plan;
pub mod rules;
pub mod survey;
pub mod values;

use std::path::{Path, PathBuf};

pub use faults::{Fault, Faults};
pub use plan::Plan;

use faults::Examined;

/// Where the file is if nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/pgvigil/pgvigil.toml";

/// Where the state is by a file's text, faulty as it may be.
pub fn state_dir(text: &str) -> PathBuf {
    let file: file::File = Examined::new(text).typed();
    file.state_dir.unwrap_or_else(|| PathBuf::from(plan::STATE_DIR))
}

/// Makes the plan of a file's text; `path` is only for the faults.
///
/// # Errors
/// Every fault of the file, in the order of its lines.
pub fn parse(text: &str, path: &Path) -> Result<Plan, Faults> {
    let mut examined = Examined::new(text);
    let file: file::File = examined.typed();
    let plan = plan::plan(&file, &mut examined);
    examined.finish(path)?;
    Ok(plan)
}
