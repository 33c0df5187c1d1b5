//! Publishing: a pod gets what is staged, at its target path.
//!
//! - What is staged is compared with what fs-core serves; stale or missing, it is staged anew,
//!   because kubelet does not stage again what it believes staged.
//! - A raw block volume that is to be read only is so as a device: a read-only mount keeps nobody
//!   from writing to a device node. So reading and writing publications of one exclude each other.

use tracing::info;

use super::capability::{Form, Sharing};
use super::device::{Device, Served};
use super::stage::{Node, Stage, assert_place};
use super::text::quoted;
use super::worker::Work;
use super::worker::mounts::{FsMount, Writing};
use super::worker::place::PodAccess;
use super::worker::survey::{Mounted, Place, Survey};
use super::worker::tools::Tool;
use crate::errors::CsiError;

/// A volume that a pod is to get.
#[derive(Clone, Debug)]
pub struct Publish {
    /// How it is, or has to be, staged.
    pub stage: Stage,
    /// Where the pod finds it.
    pub target: String,
    /// How the pod gets it.
    pub access: PodAccess,
}

impl Publish {
    fn is_read_only(&self) -> bool {
        let is_staged_so = self.stage.access.writing == Writing::Forbidden
            || self.stage.access.fs_mount().is_some_and(|how| how.options.is_read_only());
        self.access == PodAccess::ReadOnly || is_staged_so
    }
}

impl Node {
    /// Gives a pod a volume; what it has already stays.
    ///
    /// # Errors
    /// It cannot be staged or mounted, or the target has something else.
    pub async fn publish(&self, publish: &Publish) -> Result<(), CsiError> {
        self.assert_target(publish).await?;
        let Served { volume, device } = self.stage(&publish.stage).await?;
        let survey = self.survey(&publish.target, &device).await?;
        if let Place::Mount(mounted) = &survey.place {
            if mounted.device() == device.number {
                return already(publish, mounted, &device);
            }
            self.take_off_stale(&publish.target, mounted, &device).await?;
        }
        let own = [&publish.target, &publish.stage.path].map(|path| self.workers.mount_point(path));
        let other = survey.uses.iter().find(|used| !own.contains(&used.mount.point));
        assert_alone(publish, other)?;
        match &publish.stage.access.form {
            Form::FileSystem(how) => self.publish_fs(publish, how, device).await?,
            Form::Block => self.publish_block(publish, device, other).await?,
        }
        info!(%volume, path = publish.target, "published");
        Ok(())
    }

    /// A target that cannot be mounted on is refused before anything is attached.
    async fn assert_target(&self, publish: &Publish) -> Result<(), CsiError> {
        let work = Work::Survey { path: publish.target.clone(), device: None };
        let place = self.workers.ask::<Survey>(work).await?.place;
        let wrong = match publish.stage.access.form {
            Form::Block => Place::Directory,
            Form::FileSystem(_) => Place::File,
        };
        assert_place("target_path", &publish.target, &place, wrong)
    }

    async fn publish_fs(
        &self,
        publish: &Publish,
        how: &FsMount,
        device: Device,
    ) -> Result<(), CsiError> {
        let work = Work::Publish {
            staged: publish.stage.path.clone(),
            path: publish.target.clone(),
            device,
            how: how.clone(),
            access: publish.access,
        };
        self.workers.ask(work).await
    }

    async fn publish_block(
        &self,
        publish: &Publish,
        device: Device,
        other: Option<&Mounted>,
    ) -> Result<(), CsiError> {
        let wants_read_only = publish.is_read_only();
        if read_only_of(&device)? != wants_read_only {
            if let Some(other) = other {
                let point = quoted(&other.mount.point);
                let message = format!(
                    "{point} has the volume with the other access: a raw block volume is either \
                     read or written on a node"
                );
                return Err(CsiError::precondition(message));
            }
            let tool = if wants_read_only { Tool::SetReadOnly } else { Tool::SetWritable };
            self.succeed(tool, &device).await?;
        }
        self.workers.ask(Work::PublishNode { path: publish.target.clone(), device }).await
    }
}

/// The target has the volume: in the way that was asked for?
fn already(publish: &Publish, mounted: &Mounted, device: &Device) -> Result<(), CsiError> {
    let is_block = publish.stage.access.form == Form::Block;
    let is_read_only = match mounted.node {
        Some(_) => read_only_of(device)?,
        None => mounted.mount.is_read_only(),
    };
    if mounted.node.is_some() == is_block && is_read_only == publish.is_read_only() {
        return Ok(());
    }
    let target = quoted(&publish.target);
    let message = format!(
        "the volume is published at {target} in another way (as {}, {}): unpublish it first",
        if mounted.node.is_some() { "a device" } else { "a file system" },
        if is_read_only { "read only" } else { "writable" }
    );
    Err(CsiError::exists(message))
}

fn read_only_of(device: &Device) -> Result<bool, CsiError> {
    let told = device.number.is_read_only();
    let told = told.map_err(|error| {
        CsiError::internal(format!("cannot ask whether {} is read only: {error}", device.path))
    })?;
    told.ok_or_else(|| CsiError::unavailable(format!("{} is gone: try again", device.path)))
}

/// Refuses a second pod, where one alone was asked for.
fn assert_alone(publish: &Publish, other: Option<&Mounted>) -> Result<(), CsiError> {
    match other {
        Some(other) if publish.stage.access.sharing == Sharing::OnePod => {
            let point = quoted(&other.mount.point);
            let message = format!(
                "the volume is for one pod (SINGLE_NODE_SINGLE_WRITER), and {point} has it"
            );
            Err(CsiError::precondition(message))
        }
        _ => Ok(()),
    }
}
