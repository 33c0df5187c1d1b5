//! `lunar volume clone`.

use lunar_metadata_client::{ErrorKind, ErrorReason, MetadataClient, fresh_request_id};
use lunar_proto::domain::{
    CloneVolume, CutAs, Fsfreeze, NewCut, NewMember, Selector, SetMember, Volume,
};

use super::Context;
use super::cut::cut;
use crate::args::CloneArgs;
use crate::error::{CliError, Exit};
use crate::views::volume::VolumeView;

const NO_SNAPSHOT: ErrorKind = ErrorKind::Refused(ErrorReason::SnapshotNotFound);

pub(super) async fn run(args: &CloneArgs, context: &Context<'_>) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let volume = match args.of_volume {
        true => of_volume(&service, args).await?,
        false => of_snapshot(&service, args).await?,
    };
    let pool = service.pool(&Selector::Id(volume.pool)).await?;
    context.show(&VolumeView::new(&volume, &pool))
}

async fn of_snapshot(service: &MetadataClient, args: &CloneArgs) -> Result<Volume, CliError> {
    let (request, snapshot) = (fresh_request_id(), args.source.0.clone());
    let (name, size, over_watermark) = (args.name.clone(), args.size, args.over_watermark);
    let clone = CloneVolume { request, snapshot, name, size, over_watermark };
    let cloned = service.clone_volume(&clone).await;
    cloned.map_err(|error| match error.kind() {
        NO_SNAPSHOT => CliError::from(error).advise("a volume is cloned with --of-volume"),
        _ => error.into(),
    })
}

/// A set with one member: the volume is sealed without a name, and the clone stands on that too.
async fn of_volume(service: &MetadataClient, args: &CloneArgs) -> Result<Volume, CliError> {
    let (volume, cut_as) = (args.source.as_volume(), NewCut::Clone(args.name.clone()));
    let members = vec![NewMember { volume, cut: cut_as }];
    let set = cut(service, members, Fsfreeze::Auto, args.over_watermark, None).await?;
    match set.members.first() {
        Some(SetMember { cut: CutAs::Clone { volume, .. }, .. }) => {
            Ok(service.volume(&Selector::Id(*volume)).await?)
        }
        _ => {
            let message = format!("set {} was cut, and says nothing of the clone", set.id);
            Err(CliError::new(Exit::Failed, "MALFORMED_ANSWER", message)
                .advise("see that lunar and the metadata service are of the same version"))
        }
    }
}
