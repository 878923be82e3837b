//! Plan, history, now -> what is due.

pub mod coming;
pub mod due;
#[cfg(test)]
mod simulation;
pub mod slots;
pub mod ticker;
