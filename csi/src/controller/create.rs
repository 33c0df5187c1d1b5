//! CreateVolume: an empty volume, one that begins as a snapshot, or one that begins as a volume.
//!
//! Invariants:
//! - a volume is found by its name before it is made, and again when another controller was faster:
//!   what a killed call has made is found, and nothing is made twice. Requests to the service have
//!   fresh ids, so a name that was deleted and is asked for again is a new volume;
//! - what has the name and is not what was asked for is ALREADY_EXISTS, and stays as it is;
//! - a clone of a volume is cut first and grown then. One that was cut off in between is still of
//!   its source's size and was never granted: it is grown by the next call.

use lunar_metadata_client::{ErrorReason, fresh_request_id, unix_seconds};
use lunar_proto::csi;
use lunar_proto::csi::volume_content_source::{SnapshotSource, Type, VolumeSource};
use lunar_proto::domain::{
    CloneVolume, CreateSnapshots, CreateVolume, Fsfreeze, NewCut, NewMember, Origin, Pool,
    Selector, Snapshot, Volume,
};
use lunar_types::{Epoch, LogicalBlockSize, Name, PoolId, SnapshotId, VolumeId, VolumeSize};

use super::call::Call;
use super::cut::{Ending, decided, not_cut};
use super::grow::at_least;
use super::ids::{find_volume, require, shown, snapshot_of, unless, volume_of};
use super::view;
use crate::capability::volume_uses;
use crate::errors::CsiError;
use crate::naming::name_of;
use crate::parameters::{VolumeParameters, require_no_mutable, require_no_secrets};
use crate::sizes::SizeRange;
use crate::topology;

/// What a volume is to begin as.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Source {
    Snapshot(String),
    Volume(String),
}

/// A volume that is asked for, checked as far as that goes without the service.
struct Wanted {
    name: Name,
    parameters: VolumeParameters,
    range: SizeRange,
    source: Option<Source>,
}

/// What there is to begin with.
enum Base {
    Nothing,
    Snapshot(Snapshot),
    Volume(Volume),
}

fn source_of(source: Option<&csi::VolumeContentSource>) -> Result<Option<Source>, CsiError> {
    let Some(source) = source else { return Ok(None) };
    match &source.r#type {
        None => Err(CsiError::invalid("volume_content_source names neither snapshot nor volume")),
        Some(Type::Snapshot(SnapshotSource { snapshot_id })) => {
            require("volume_content_source.snapshot.snapshot_id", snapshot_id)?;
            Ok(Some(Source::Snapshot(snapshot_id.clone())))
        }
        Some(Type::Volume(VolumeSource { volume_id })) => {
            require("volume_content_source.volume.volume_id", volume_id)?;
            Ok(Some(Source::Volume(volume_id.clone())))
        }
    }
}

impl Wanted {
    fn new(asked: &csi::CreateVolumeRequest) -> Result<Self, CsiError> {
        let name = name_of(&asked.name).map_err(CsiError::invalid)?;
        let uses = volume_uses(&asked.volume_capabilities)?;
        let parameters = VolumeParameters::new(&asked.parameters)?;
        parameters.require_file_system(&uses)?;
        require_no_mutable(&asked.mutable_parameters)?;
        require_no_secrets(&asked.secrets)?;
        let range = SizeRange::new(asked.capacity_range.as_ref())?;
        let source = source_of(asked.volume_content_source.as_ref())?;
        Ok(Self { name, parameters, range, source })
    }

    /// Refuses a base that the class does not fit.
    fn require_base(&self, base: &Base, pool: &Pool) -> Result<(), CsiError> {
        let Some((of, block_size)) = base.place() else {
            let least = pool.logical_block_size;
            return match self.parameters.block_size.filter(|asked| *asked < least) {
                None => Ok(()),
                Some(asked) => Err(CsiError::invalid(format!(
                    "parameter 'blockSize' is {}, and pool '{}' has LUNs with blocks of {}",
                    asked.bytes(),
                    pool.name,
                    least.bytes()
                ))),
            };
        };
        if of != pool.id {
            return Err(CsiError::invalid(format!(
                "volume_content_source is in pool {of}, and parameter 'pool' is '{}': a clone is \
                 in the pool of its source",
                pool.name
            )));
        }
        match self.parameters.block_size.filter(|asked| *asked != block_size) {
            None => Ok(()),
            Some(asked) => Err(CsiError::invalid(format!(
                "parameter 'blockSize' is {}, and volume_content_source has {}: a clone has its \
                 source's",
                asked.bytes(),
                block_size.bytes()
            ))),
        }
    }

    /// Whether its blocks are those that were asked for; a clone's are its source's.
    fn has_block_size(&self, found: LogicalBlockSize) -> bool {
        match (self.parameters.block_size, &self.source) {
            (Some(asked), _) => asked == found,
            (None, None) => found == LogicalBlockSize::default(),
            (None, Some(_)) => true,
        }
    }

    /// Whether it began as what was asked for.
    fn has_source(&self, found: Option<Origin>) -> bool {
        match (&self.source, found) {
            (None, None) => true,
            (Some(Source::Snapshot(asked)), Some(Origin::Snapshot(id))) => *asked == id.to_string(),
            (Some(Source::Volume(asked)), Some(Origin::Volume(id))) => *asked == id.to_string(),
            _ => false,
        }
    }
}

impl Base {
    fn size(&self) -> Option<VolumeSize> {
        match self {
            Self::Nothing => None,
            Self::Snapshot(snapshot) => Some(snapshot.size),
            Self::Volume(volume) => Some(volume.size),
        }
    }

    fn place(&self) -> Option<(PoolId, LogicalBlockSize)> {
        match self {
            Self::Nothing => None,
            Self::Snapshot(snapshot) => Some((snapshot.pool, snapshot.logical_block_size)),
            Self::Volume(volume) => Some((volume.pool, volume.logical_block_size)),
        }
    }
}

/// The pool of a class.
pub(super) async fn pool_of(call: &Call, pool: &Selector<PoolId>) -> Result<Pool, CsiError> {
    let found = unless(ErrorReason::PoolNotFound, call.service().pool(pool).await)?;
    found.ok_or_else(|| CsiError::invalid(format!("parameter 'pool': there is no pool {pool}")))
}

async fn base_of(call: &Call, wanted: &Wanted) -> Result<Base, CsiError> {
    match &wanted.source {
        None => Ok(Base::Nothing),
        Some(Source::Snapshot(id)) => {
            let field = "volume_content_source.snapshot.snapshot_id";
            Ok(Base::Snapshot(snapshot_of(call, field, id).await?))
        }
        Some(Source::Volume(id)) => Ok(Base::Volume(volume_of(call, id).await?)),
    }
}

/// Why a volume that has the name is not the one that was asked for.
fn difference(wanted: &Wanted, pool: &Pool, found: &Volume) -> Option<String> {
    if found.pool != pool.id {
        return Some(format!("it is in pool {}, not in '{}'", found.pool, pool.name));
    }
    if !wanted.has_block_size(found.logical_block_size) {
        return Some(format!("its blocks are of {} B", found.logical_block_size.bytes()));
    }
    if !wanted.has_source(found.origin) {
        return Some(match found.origin {
            None => "it began empty".to_owned(),
            Some(Origin::Snapshot(id)) => format!("it began as snapshot {id}"),
            Some(Origin::Volume(id)) => format!("it began as volume {id}"),
        });
    }
    (!wanted.range.holds(found.size)).then(|| format!("it has {} B", found.size.bytes()))
}

/// Whether a volume is a clone that was cut and not grown any more.
fn is_half_made(wanted: &Wanted, found: &Volume) -> bool {
    matches!(wanted.source, Some(Source::Volume(_)))
        && wanted.has_source(found.origin)
        && found.epoch == Epoch::default()
        && found.publications.is_empty()
        && !wanted.range.holds(found.size)
        && wanted.range.is_within_limit(found.size)
}

/// A clone is there that was not grown: nobody may forget it, so the answer is not final.
fn half_made(error: CsiError) -> CsiError {
    match error.code {
        tonic::Code::Aborted | tonic::Code::Unavailable => error,
        _ => CsiError::unavailable(format!("the clone is cut, and not grown yet: {error}")),
    }
}

/// The volume that has the name, if it is the one that was asked for.
async fn same(
    call: &Call,
    wanted: &Wanted,
    pool: &Pool,
    found: Volume,
) -> Result<Volume, CsiError> {
    let found = match is_half_made(wanted, &found) {
        true => {
            let size = wanted.range.choose(Some(found.size), pool.extent_size)?;
            at_least(call, found, size).await.map_err(half_made)?
        }
        false => found,
    };
    match difference(wanted, pool, &found) {
        None => Ok(found),
        Some(why) => Err(CsiError::exists(format!(
            "volume '{}' is there and is another one than was asked for: {why}",
            wanted.name
        ))),
    }
}

/// The volume that another call has made under the name meanwhile.
async fn made_meanwhile(call: &Call, wanted: &Wanted, pool: &Pool) -> Result<Volume, CsiError> {
    match find_volume(call, &Selector::Name(wanted.name.clone())).await? {
        Some(found) => same(call, wanted, pool, found).await,
        None => Err(CsiError::aborted(format!(
            "volume '{}' was made and deleted meanwhile: ask again",
            wanted.name
        ))),
    }
}

async fn clone_of_volume(
    call: &Call,
    wanted: &Wanted,
    pool: &Pool,
    source: VolumeId,
    size: VolumeSize,
) -> Result<Volume, CsiError> {
    let cut = NewCut::Clone(wanted.name.clone());
    let create = CreateSnapshots {
        request: fresh_request_id(),
        members: vec![NewMember { volume: Selector::Id(source), cut }],
        created_unix_seconds: unix_seconds(),
        fsfreeze: Fsfreeze::Auto,
        over_watermark: false,
        group: None,
    };
    let set = call.service().create_snapshots(&create).await;
    let Some(set) = unless(ErrorReason::VolumeExists, set)? else {
        return made_meanwhile(call, wanted, pool).await;
    };
    let ending = decided(call, set).await?;
    let found = find_volume(call, &Selector::Name(wanted.name.clone())).await?;
    match (found, ending) {
        (Some(found), Ending::Sealed) => {
            let found = at_least(call, found, size).await.map_err(half_made)?;
            same(call, wanted, pool, found).await
        }
        (Some(found), Ending::Aborted(_)) => same(call, wanted, pool, found).await,
        (None, Ending::Sealed) => made_meanwhile(call, wanted, pool).await,
        (None, Ending::Aborted(abort)) => {
            let what = format!("clone volume {source} as '{}'", wanted.name);
            Err(not_cut(&what, &abort))
        }
    }
}

async fn clone_of_snapshot(
    call: &Call,
    wanted: &Wanted,
    pool: &Pool,
    source: SnapshotId,
    size: VolumeSize,
) -> Result<Volume, CsiError> {
    let (request, snapshot) = (fresh_request_id(), Selector::Id(source));
    let (name, size) = (wanted.name.clone(), Some(size));
    let clone = CloneVolume { request, snapshot, name, size, over_watermark: false };
    let made = call.service().clone_volume(&clone).await;
    match unless(ErrorReason::VolumeExists, made)? {
        Some(made) => Ok(made),
        None => made_meanwhile(call, wanted, pool).await,
    }
}

async fn empty(
    call: &Call,
    wanted: &Wanted,
    pool: &Pool,
    size: VolumeSize,
) -> Result<Volume, CsiError> {
    let create = CreateVolume {
        request: fresh_request_id(),
        name: wanted.name.clone(),
        pool: Selector::Id(pool.id),
        size,
        logical_block_size: wanted.parameters.block_size.unwrap_or_default(),
        over_watermark: false,
    };
    let made = call.service().create_volume(&create).await;
    match unless(ErrorReason::VolumeExists, made)? {
        Some(made) => Ok(made),
        None => made_meanwhile(call, wanted, pool).await,
    }
}

async fn found_or_made(call: &Call, wanted: &Wanted) -> Result<Volume, CsiError> {
    let pool = pool_of(call, &wanted.parameters.pool).await?;
    if let Some(found) = find_volume(call, &Selector::Name(wanted.name.clone())).await? {
        return same(call, wanted, &pool, found).await;
    }
    let base = base_of(call, wanted).await?;
    wanted.require_base(&base, &pool)?;
    let size = wanted.range.choose(base.size(), pool.extent_size)?;
    match &base {
        Base::Nothing => empty(call, wanted, &pool, size).await,
        Base::Snapshot(source) => clone_of_snapshot(call, wanted, &pool, source.id, size).await,
        Base::Volume(source) => clone_of_volume(call, wanted, &pool, source.id, size).await,
    }
}

/// Makes a volume, or gives the one that was made.
pub(super) async fn create_volume(
    call: Call,
    asked: csi::CreateVolumeRequest,
) -> Result<csi::CreateVolumeResponse, CsiError> {
    let wanted = Wanted::new(&asked)?;
    let mut accessible_topology = Vec::new();
    if let Some(requirement) = &asked.accessibility_requirements {
        let cluster = call.service().cluster().await?.id;
        topology::require(requirement, cluster)?;
        accessible_topology.push(topology::of_cluster(cluster));
    }
    let made = found_or_made(&call, &wanted).await.map_err(|error| named(error, &asked.name))?;
    let volume = csi::Volume { accessible_topology, ..view::volume(&made) };
    Ok(csi::CreateVolumeResponse { volume: Some(volume) })
}

/// An error that says for which volume of Kubernetes it is.
fn named(error: CsiError, name: &str) -> CsiError {
    let message = format!("volume {:?}: {}", shown(name), error.message);
    CsiError { message, ..error }
}
