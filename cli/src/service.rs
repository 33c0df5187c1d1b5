//! The metadata service, as the commands need it: whole lists, checked values, readable errors.

use std::time::Duration;

use lunar_proto::domain::{
    AddLuns, Cluster, CreatePool, CreateVolume, DeleteVolume, FsckEvent, FsckFinding, FsckSummary,
    MapPage, NewLun, Node, PageRequest, Pool, PoolStatus, READ_MAP_MAX, ReadMap, Selector, Volume,
};
use lunar_proto::error::FieldError;
use lunar_proto::v1;
use lunar_proto::v1::admin_client::AdminClient;
use lunar_proto::v1::map_client::MapClient;
use lunar_proto::v1::nodes_client::NodesClient;
use lunar_proto::v1::pools_client::PoolsClient;
use lunar_proto::v1::volumes_client::VolumesClient;
use lunar_types::{
    ExtentSize, LayerId, LogicalBlockSize, LogicalExtent, Name, PoolId, RequestId, VolumeId,
    VolumeSize,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::error::{CliError, Exit};

/// For the connection and for each call.
const DEADLINE: Duration = Duration::from_secs(30);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

type Answer<T> = Result<T, CliError>;

/// A connection to the metadata service.
#[derive(Clone, Debug)]
pub struct Service {
    channel: Channel,
}

impl Service {
    /// Connects to the service at `endpoint`.
    pub async fn connect(endpoint: &str) -> Answer<Self> {
        let failed = |error: tonic::transport::Error| unreachable_service(endpoint, &error);
        let to = Endpoint::from_shared(endpoint.to_owned()).map_err(failed)?;
        let to = to.connect_timeout(CONNECT_DEADLINE).timeout(DEADLINE);
        Ok(Self { channel: to.connect().await.map_err(failed)? })
    }

    /// Who the service is.
    pub async fn cluster(&self) -> Answer<Cluster> {
        let mut client = AdminClient::new(self.channel.clone());
        let answer = client.get_cluster(v1::GetClusterRequest {}).await;
        checked("ask the metadata service who it is", answer)
    }

    /// Makes a pool.
    pub async fn create_pool(
        &self,
        name: &Name,
        extent_size: ExtentSize,
        luns: Vec<NewLun>,
    ) -> Answer<Pool> {
        let pool = CreatePool { request: fresh(), name: name.clone(), extent_size, luns };
        let request = v1::CreatePoolRequest::from(pool);
        let answer = self.pools_client().create_pool(request).await;
        checked(&format!("create pool '{name}'"), answer)
    }

    /// Adds LUNs to a pool.
    pub async fn add_luns(&self, pool: &Selector<PoolId>, luns: Vec<NewLun>) -> Answer<Pool> {
        let request = AddLuns { request: fresh(), pool: pool.clone(), luns };
        let answer = self.pools_client().add_luns(v1::AddLunsRequest::from(request)).await;
        checked(&format!("add LUNs to pool {pool}"), answer)
    }

    /// One pool.
    pub async fn pool(&self, pool: &Selector<PoolId>) -> Answer<Pool> {
        let request = v1::GetPoolRequest { pool: Some(pool.clone().into()) };
        checked(&format!("look up pool {pool}"), self.pools_client().get_pool(request).await)
    }

    /// Every pool.
    pub async fn pools(&self) -> Answer<Vec<Pool>> {
        let page = async |page| {
            let request = v1::ListPoolsRequest { page: Some(page) };
            let answer = self.pools_client().list_pools(request).await?.into_inner();
            Ok((answer.pools, answer.next))
        };
        every("list the pools", page).await
    }

    /// How full a pool is.
    pub async fn pool_status(&self, pool: &Selector<PoolId>) -> Answer<PoolStatus> {
        let request = v1::GetPoolStatusRequest { pool: Some(pool.clone().into()) };
        let answer = self.pools_client().get_pool_status(request).await;
        checked(&format!("ask for the status of pool {pool}"), answer)
    }

    /// How full every pool is.
    pub async fn every_pool_status(&self) -> Answer<Vec<PoolStatus>> {
        let mut statuses = Vec::new();
        for pool in self.pools().await? {
            statuses.push(self.pool_status(&Selector::Id(pool.id)).await?);
        }
        Ok(statuses)
    }

    /// Makes a volume.
    pub async fn create_volume(
        &self,
        name: &Name,
        pool: &Selector<PoolId>,
        size: VolumeSize,
        logical_block_size: LogicalBlockSize,
    ) -> Answer<Volume> {
        let (request, pool) = (fresh(), pool.clone());
        let volume = CreateVolume { request, name: name.clone(), pool, size, logical_block_size };
        let request = v1::CreateVolumeRequest::from(volume);
        let answer = self.volumes_client().create_volume(request).await;
        checked(&format!("create volume '{name}'"), answer)
    }

    /// One volume.
    pub async fn volume(&self, volume: &Selector<VolumeId>) -> Answer<Volume> {
        let request = v1::GetVolumeRequest { volume: Some(volume.clone().into()) };
        let answer = self.volumes_client().get_volume(request).await;
        checked(&format!("look up volume {volume}"), answer)
    }

    /// Every volume.
    pub async fn volumes(&self) -> Answer<Vec<Volume>> {
        let page = async |page| {
            let request = v1::ListVolumesRequest { page: Some(page) };
            let answer = self.volumes_client().list_volumes(request).await?.into_inner();
            Ok((answer.volumes, answer.next))
        };
        every("list the volumes", page).await
    }

    /// Starts the deletion of a volume.
    pub async fn delete_volume(&self, volume: &Selector<VolumeId>) -> Answer<Volume> {
        let request = DeleteVolume { request: fresh(), volume: volume.clone() };
        let request = v1::DeleteVolumeRequest::from(request);
        let answer = self.volumes_client().delete_volume(request).await;
        checked(&format!("delete volume {volume}"), answer)
    }

    /// A part of the map of a layer.
    pub async fn read_map(&self, layer: LayerId, from: LogicalExtent) -> Answer<MapPage> {
        let request = v1::ReadMapRequest::from(ReadMap { layer, from, limit: READ_MAP_MAX });
        let mut client = MapClient::new(self.channel.clone());
        checked(&format!("read the map of layer {layer}"), client.read_map(request).await)
    }

    /// Every node.
    pub async fn nodes(&self) -> Answer<Vec<Node>> {
        let page = async |page| {
            let request = v1::ListNodesRequest { page: Some(page) };
            let mut client = NodesClient::new(self.channel.clone());
            let answer = client.list_nodes(request).await?.into_inner();
            Ok((answer.nodes, answer.next))
        };
        every("list the nodes", page).await
    }

    /// Checks the metadata: what was found, and what was looked at.
    pub async fn fsck(&self) -> Answer<(Vec<FsckFinding>, FsckSummary)> {
        const STEP: &str = "check the metadata";
        let told = |status: Status| CliError::of_status(STEP, &status);
        let mut client = AdminClient::new(self.channel.clone());
        let mut events = client.fsck(v1::FsckRequest {}).await.map_err(told)?.into_inner();
        let mut findings = Vec::new();
        while let Some(event) = events.message().await.map_err(told)? {
            match event.try_into().map_err(|error| malformed(STEP, &error))? {
                FsckEvent::Finding(finding) => findings.push(finding),
                FsckEvent::Summary(summary) => return Ok((findings, summary)),
            }
        }
        let message = "the check of the metadata ended without its summary";
        Err(CliError::new(Exit::Failed, "CHECK_CUT_OFF", message)
            .advise("see the log of the metadata service, and run the check again"))
    }

    fn pools_client(&self) -> PoolsClient<Channel> {
        PoolsClient::new(self.channel.clone())
    }

    fn volumes_client(&self) -> VolumesClient<Channel> {
        VolumesClient::new(self.channel.clone())
    }
}

fn fresh() -> RequestId {
    RequestId::from_u128(uuid::Uuid::new_v4().as_u128())
}

fn checked<W, T>(step: &str, answer: Result<Response<W>, Status>) -> Answer<T>
where
    T: TryFrom<W, Error = FieldError>,
{
    let wire = answer.map_err(|status| CliError::of_status(step, &status))?.into_inner();
    T::try_from(wire).map_err(|error| malformed(step, &error))
}

/// Every item of a list, page by page.
async fn every<W, T>(
    step: &str,
    fetch: impl AsyncFn(v1::PageRequest) -> Result<(Vec<W>, Vec<u8>), Status>,
) -> Answer<Vec<T>>
where
    T: TryFrom<W, Error = FieldError>,
{
    let mut page = v1::PageRequest::from(PageRequest::first());
    let mut all = Vec::new();
    loop {
        let answer = fetch(page.clone()).await;
        let (items, next) = answer.map_err(|status| CliError::of_status(step, &status))?;
        for item in items {
            all.push(T::try_from(item).map_err(|error| malformed(step, &error))?);
        }
        if next.is_empty() {
            return Ok(all);
        }
        page.token = next;
    }
}

fn malformed(step: &str, error: &FieldError) -> CliError {
    let message = format!("{step}: the answer of the metadata service cannot be: {error}");
    CliError::new(Exit::Failed, "MALFORMED_ANSWER", message)
        .advise("see that lunar and the metadata service are of the same version")
}

fn unreachable_service(endpoint: &str, error: &tonic::transport::Error) -> CliError {
    let why = innermost(error);
    let message = format!("the metadata service cannot be reached at {endpoint}: {why}");
    CliError::new(Exit::Unavailable, "METADATA_UNREACHABLE", message)
        .advise("see that it runs, or name its endpoint with --metadata or LUNAR_METADATA")
}

/// The error at the bottom: the transport's own words say nothing.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(id: u128) -> v1::Cluster {
        v1::Cluster { cluster_id: uuid::Uuid::from_u128(id).to_string(), ..v1::Cluster::default() }
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_last_page() {
        let fetch = async |page: v1::PageRequest| {
            let (at, next): (u128, &[u8]) = match page.token.as_slice() {
                b"" => (1, b"second"),
                b"second" => (2, b"third"),
                _ => (3, b""),
            };
            Ok((vec![cluster(at)], next.to_vec()))
        };
        let all: Vec<Cluster> = every("list", fetch).await.expect("three pages");
        assert_eq!(all.iter().map(|item| item.id.as_u128()).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_list_that_breaks_off_is_an_error() {
        let fetch = async |page: v1::PageRequest| match page.token.is_empty() {
            true => Ok((vec![cluster(1)], b"second".to_vec())),
            false => Err(Status::unavailable("gone")),
        };
        let error = every::<_, Cluster>("list", fetch).await.expect_err("breaks off");
        assert_eq!((error.exit, error.message.as_str()), (Exit::Unavailable, "list: gone"));
    }

    #[test]
    fn an_answer_that_cannot_be_is_named() {
        let wire = v1::Cluster { cluster_id: "shelf".to_owned(), ..v1::Cluster::default() };
        let error = checked::<_, Cluster>("ask", Ok(Response::new(wire))).expect_err("no UUID");
        assert_eq!((error.exit, error.reason.as_str()), (Exit::Failed, "MALFORMED_ANSWER"));
        assert!(error.message.contains("cluster_id"), "{error}");
    }
}
