//! due -> Run: what composes the stages.

pub mod adopt;
pub mod assess;
pub mod copy;
pub mod digest;
pub mod drill;
pub mod drill_check;
pub mod drill_copy;
pub mod dump;
pub mod evidence;
pub mod fill;
pub mod follow;
pub mod keys;
pub mod make;
pub mod physical;
pub mod progress;
pub mod prune;
pub mod restore;
pub mod run;
pub mod spread;
pub mod stores;
pub mod sweep;
pub mod trial;
pub mod verify;
