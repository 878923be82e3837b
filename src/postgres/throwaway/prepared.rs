//! A cluster that comes from elsewhere, laid where the server of a drill will run: here, or in a container.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::cluster::Here;
use super::inside::{Inside, Unpacking};
use super::{Throwaway, Wanted};
use crate::config::plan;
use crate::error::{Error, Result};

/// It must come to an end by [`Prepared::start`] or [`Prepared::give_up`].
pub enum Prepared {
    Here(Here),
    Inside(Inside),
}

impl Prepared {
    /// A folder of this machine, where the programs of the very major version are.
    ///
    /// # Errors
    /// They are not there, or the folder cannot be made.
    pub async fn here(source: Option<&plan::Server>, wanted: &Wanted<'_>) -> Result<Self> {
        Here::make(source, wanted).await.map(Prepared::Here)
    }

    /// A container of the image that the source's container is of. `its` are the settings of the source.
    ///
    /// # Errors
    /// The source is in no container, or the Engine refuses.
    pub async fn inside(source: &plan::Server, wanted: &Wanted<'_>, its: &BTreeMap<String, String>) -> Result<Self> {
        Inside::make(source, wanted, its).await.map(Prepared::Inside)
    }

    /// The container, where it is one.
    pub fn container(&self) -> Option<&Inside> {
        match self {
            Prepared::Here(_) => None,
            Prepared::Inside(inside) => Some(inside),
        }
    }

    /// The data directory, not there yet.
    pub fn data(&self) -> PathBuf {
        match self {
            Prepared::Here(here) => here.data(),
            Prepared::Inside(inside) => inside.data(),
        }
    }

    /// A folder beside it, not there yet.
    pub fn beside(&self, name: &str) -> PathBuf {
        match self {
            Prepared::Here(here) => here.beside(name),
            Prepared::Inside(inside) => inside.beside(name),
        }
    }

    /// Begins to lay files into a folder, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn lay_into(&self, folder: &Path) -> Result<Laying> {
        match self {
            Prepared::Inside(inside) => inside.unpack_into(folder).await.map(Laying::Inside),
            Prepared::Here(_) => match DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    Err(Error::system(format_args!("cannot make {}", folder.display()), &error))
                }
                _ => Ok(Laying::Here(folder.to_owned())),
            },
        }
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// It cannot be removed.
    pub async fn remove_file(&self, path: &Path) -> Result<()> {
        match self {
            Prepared::Inside(inside) => inside.remove_file(path).await,
            Prepared::Here(_) => match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::system(format_args!("cannot remove {}", path.display()), &error))
                }
                _ => Ok(()),
            },
        }
    }

    /// Removes all of it, and hands the reason on.
    pub async fn give_up(self, error: Error) -> Error {
        match self {
            Prepared::Here(here) => here.give_up(error).await,
            Prepared::Inside(inside) => inside.give_up(error).await,
        }
    }

    /// Starts a server on what was laid there, and waits for the end of its recovery.
    ///
    /// # Errors
    /// It does not come to that, or we are told to stop. Nothing is left then.
    pub async fn start(self, wanted: &Wanted<'_>, its: &BTreeMap<String, String>, cancel: &CancellationToken) -> Result<Throwaway> {
        match self {
            Prepared::Here(here) => here.start(wanted, its, cancel).await,
            Prepared::Inside(inside) => inside.start(wanted, cancel).await,
        }
    }
}

/// Files of ours on their way into a folder.
pub enum Laying {
    Here(PathBuf),
    Inside(Unpacking),
}

impl Laying {
    /// Lays a file, in the place of one that is there.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        match self {
            Laying::Inside(unpacking) => unpacking.file(name, bytes).await,
            Laying::Here(folder) => {
                let path = folder.join(name);
                std::fs::write(&path, bytes).map_err(|error| Error::system(format_args!("cannot write {}", path.display()), &error))
            }
        }
    }

    /// Waits until all are there.
    ///
    /// # Errors
    /// They are not.
    pub async fn finish(self) -> Result<()> {
        match self {
            Laying::Inside(unpacking) => unpacking.finish().await,
            Laying::Here(_) => Ok(()),
        }
    }
}
