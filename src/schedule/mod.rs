//! Plan, history, now -> what is due.

pub mod coming;
pub mod due;
pub mod slots;
pub mod ticker;
