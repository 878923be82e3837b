//! What an Engine, or the proxy before it, lets us do beyond what backups need. Only calls that change
//! nothing, or that name what is not there.

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptions, KillContainerOptions, ListImagesOptions, ListNetworksOptions, ListVolumesOptions, RemoveImageOptions,
};

use super::docker::{ANSWER_TIMEOUT, engine, status};
use crate::error::Result;

/// No container and no image is called so.
const NOBODY: &str = "pgvigil-no-such-thing";

/// What is open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Openings {
    /// Containers can be made: as good as root on that machine.
    pub create: bool,
    /// What neither backups nor drills need.
    pub beyond: Vec<&'static str>,
}

/// Tries an Engine.
///
/// # Errors
/// It does not answer.
pub async fn openings(address: Option<&str>) -> Result<Openings> {
    let docker: Docker = engine(address).await?;
    let body = ContainerCreateBody { image: Some(NOBODY.to_owned()), ..ContainerCreateBody::default() };
    let (create, kill, images, volumes, networks, info, remove) = tokio::join!(
        is_open(docker.create_container(None::<CreateContainerOptions>, body)),
        is_open(docker.kill_container(NOBODY, None::<KillContainerOptions>)),
        is_open(docker.list_images(None::<ListImagesOptions>)),
        is_open(docker.list_volumes(None::<ListVolumesOptions>)),
        is_open(docker.list_networks(None::<ListNetworksOptions>)),
        is_open(docker.info()),
        is_open(docker.remove_image(NOBODY, None::<RemoveImageOptions>, None)),
    );
    let beyond = [
        (kill, "kill containers"),
        (images, "list images"),
        (remove, "remove images"),
        (volumes, "list volumes"),
        (networks, "list networks"),
        (info, "look at the machine"),
    ];
    Ok(Openings { create, beyond: beyond.into_iter().filter(|(open, _)| *open).map(|(_, what)| what).collect() })
}

/// Any answer but a refusal: "there is none" comes from the Engine itself.
async fn is_open<T>(call: impl Future<Output = Result<T, bollard::errors::Error>>) -> bool {
    match tokio::time::timeout(ANSWER_TIMEOUT, call).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => status(&error).is_some_and(|status| !matches!(status, 401 | 403 | 405 | 501)),
        Err(_) => false,
    }
}
