//! file -> Plan: every fault at once.

pub mod choose;
pub mod email;
pub mod faults;
pub mod file;
pub mod plan;
pub mod rules;
pub mod survey;
pub mod values;

use std::path::Path;

pub use faults::{Fault, Faults};
pub use plan::Plan;

use faults::Examined;

/// Where the file is if nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/pgvigil/pgvigil.toml";

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
