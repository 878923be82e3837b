//! catalog, now -> what to delete: every copy of a backup in a store gets a verdict with its
//! reasons. A plan first, then its application.

pub mod awaited;
pub mod doubt;
pub mod policy;
pub mod terms;
