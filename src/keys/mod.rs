//! Who may read a backup, and who has written it: the keys of both, parsed. Pure.

pub mod identity;
pub mod recipient;
pub mod signer;

pub use identity::{Identities, opens};
pub use recipient::Recipient;
pub use signer::{Signed, Signer, Trust, Trusted};
