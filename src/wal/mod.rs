//! What PostgreSQL's log is called, how its timelines fork, and what an archive of it reaches. Pure.

pub mod archive;
pub mod lsn;
pub mod name;
pub mod object;
pub mod page;
pub mod timeline;

pub use archive::{Archive, Gap, Reach};
pub use lsn::Lsn;
pub use name::{Segment, WalName};
pub use timeline::History;
